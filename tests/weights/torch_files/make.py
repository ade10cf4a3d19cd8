"""Writes the files beside it; needs PyTorch (they were written by torch 2.13.0, CPU).

python tests/weights/torch_files/make.py

The tests compare what is read with values that they compute
themselves, not with what PyTorch reads.
"""

import argparse
import collections
import pathlib
import tarfile

import numpy as np
import torch

FOLDER = pathlib.Path(__file__).parent
BASE = torch.arange(24, dtype=torch.float32)


def dtypes():
    """Six numbers in every element type that there are arrays of."""
    names = (
        *("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8"),
        *("uint8", "uint16", "uint32", "uint64", "complex64", "complex128"),
        *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    )
    values = {name: torch.tensor([1, 2, 4, 8, 16, 32]).to(getattr(torch, name)) for name in names}
    return values | {"bool": torch.tensor([True, False, True, True, False, False])}


def layouts():
    """Views of one storage, and tensors without elements or axes."""
    grid = BASE.reshape(4, 6)
    return {
        "whole": grid,
        "transposed": grid.T,
        "strided": grid[1::2, ::3],
        "offset": BASE[5:9],
        "scalar": BASE[7],
        "repeated": BASE[:3].reshape(3, 1).expand(3, 2),
        "empty": torch.zeros(0, 3),
        "no_rows": grid[:0],
        "channels_last": torch.arange(16.0)
        .reshape(1, 2, 2, 4)
        .to(memory_format=torch.channels_last),
        "parameter": torch.nn.Parameter(BASE[:2].clone()),
    }


def training():
    """What training in parallel with a compiled model leaves behind, optimiser included."""
    model = torch.nn.Linear(2, 3)
    with torch.no_grad():
        model.weight.copy_(BASE[:6].reshape(3, 2))
        model.bias.copy_(BASE[6:9])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(torch.ones(1, 2)).sum().backward()
    weights = {
        f"module._orig_mod.{key}": value.clone() for key, value in model.state_dict().items()
    }
    optimizer.step()
    state = model.state_dict()
    for key, value in weights.items():
        state[key.removeprefix("module._orig_mod.")].copy_(value)
    return {
        "model": weights,
        "ema": collections.OrderedDict((key, value + 1) for key, value in state.items()),
        "opt": optimizer.state_dict(),
        "epoch": 3,
        "betas": (0.9, 0.95),
        "note": None,
        "size": torch.Size([2, 3]),
    }


def main():
    torch.save(dtypes(), FOLDER / "dtypes.pt")
    torch.save(layouts(), FOLDER / "layouts.pt")
    torch.save(training(), FOLDER / "training.pt")
    torch.save(torch.nn.Linear(2, 3).state_dict(), FOLDER / "metadata.pt")
    torch.save({"a": BASE[:2]}, FOLDER / "protocol_4.pt", pickle_protocol=4)
    torch.serialization.set_crc32_options(False)
    torch.save({"a": BASE[:2]}, FOLDER / "no_checksums.pt")
    torch.serialization.set_crc32_options(True)
    torch.save({"a": BASE[:2]}, FOLDER / "legacy.pt", _use_new_zipfile_serialization=False)
    with tarfile.open(FOLDER / "legacy_tar.pt", "w") as archive:
        archive.add(FOLDER / "legacy.pt", "storages")
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), str(FOLDER / "script.pt"))
    refused = {
        "namespace": argparse.Namespace(lr=1e-3),
        "numpy": np.float32(1),
        "device": torch.device("cpu"),
        "dtype": torch.float32,
        "set": {1, 2},
        "bytes": b"abc",
        "meta": torch.zeros(2, device="meta"),
        "sparse": torch.eye(2).to_sparse(),
        "conjugate": torch.zeros(2, dtype=torch.complex64).conj(),
        "complex32": torch.zeros(2, dtype=torch.complex32),
        "quantized": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        "storage": torch.zeros(2).untyped_storage(),
        "module": torch.nn.Linear(1, 1),
    }
    for name, value in refused.items():
        torch.save({"a": BASE[:2], "b": value}, FOLDER / f"refused_{name}.pt")


if __name__ == "__main__":
    main()
