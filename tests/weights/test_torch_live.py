"""Files of torch.save against PyTorch itself, in both directions."""

import hypothesis
import ml_dtypes
import numpy as np
import pytest
from hypothesis import strategies as st

from rae_jax.weights.torch_files import read_torch, require_checksums, write_torch

pytestmark = pytest.mark.torch

DTYPES = (
    *("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8"),
    *("uint16", "uint32", "uint64", "bool", "complex64", "complex128"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
)

many = hypothesis.settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)


@st.composite
def layouts(draw):
    """Size, stride, offset and storage length of a tensor, whose elements may overlap."""
    size = draw(st.lists(st.integers(0, 4), max_size=4))
    stride = [draw(st.integers(0, 7)) for _ in size]
    offset = draw(st.integers(0, 5))
    last = sum((n - 1) * s for n, s in zip(size, stride, strict=True)) if 0 not in size else 0
    return size, stride, offset, offset + last + 1 + draw(st.integers(0, 3))


def to_bytes(tensor):
    """A tensor's elements in order, whatever NumPy knows of their type."""
    import torch

    contiguous = tensor.detach().clone(memory_format=torch.contiguous_format)
    return bytes(contiguous.untyped_storage())


@many
@hypothesis.given(layouts(), st.sampled_from(DTYPES), st.booleans())
def test_views_of_every_layout(tmp_path_factory, layout, dtype, parameter):
    import torch

    size, stride, offset, length = layout
    kind = getattr(torch, dtype)
    # Any bits: not a number, infinite and denormal ones too. Of a bool, only two are legal.
    bits = np.random.default_rng(length).integers(0, 256, length * kind.itemsize, dtype=np.uint8)
    storage = torch.from_numpy(bits if dtype != "bool" else bits % 2).view(kind)
    tensor = storage.as_strided(size, stride, offset)
    if parameter and tensor.is_floating_point() and "float8" not in dtype:
        tensor = torch.nn.Parameter(tensor)
    path = tmp_path_factory.mktemp("torch") / "model.pt"
    torch.save({"model": {"a": tensor, "storage": storage}}, path)
    read = read_torch(path)["model"]
    assert read["a"].shape == tuple(size)
    assert read["a"].dtype == np.dtype(getattr(ml_dtypes, dtype, dtype))
    assert read["a"].tobytes() == to_bytes(tensor)
    assert read["storage"].tobytes() == to_bytes(storage)
    require_checksums(path)
    write_torch(path, {"model": read, "epoch": 3})
    for mapped in (False, True):
        back = torch.load(path, weights_only=True, mmap=mapped)
        assert back["epoch"] == 3
        assert back["model"]["a"].dtype == kind
        assert back["model"]["a"].shape == tensor.shape
        assert to_bytes(back["model"]["a"]) == to_bytes(tensor)


def test_a_module_that_is_written_loads(tmp_path):
    import torch

    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    torch.save(module.state_dict(), tmp_path / "theirs.pt")
    tensors = read_torch(tmp_path / "theirs.pt")
    write_torch(tmp_path / "ours.pt", {"model": tensors, "ema": tensors})
    again = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    again.load_state_dict(torch.load(tmp_path / "ours.pt", weights_only=True)["ema"])
    for key, value in module.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)


def test_training_checkpoints_with_everything_that_optimisers_keep(tmp_path):
    import torch

    module = torch.nn.Linear(3, 4)
    optimizer = torch.optim.AdamW(module.parameters(), fused=False)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    schedule.step()
    content = {
        "model": module.state_dict(),
        "opt": optimizer.state_dict(),
        "scheduler": schedule.state_dict(),
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
        "step": 1,
    }
    torch.save(content, tmp_path / "checkpoint.pt")
    read = read_torch(tmp_path / "checkpoint.pt")
    assert read["scheduler"] == content["scheduler"]
    assert read["scaler"] == content["scaler"]
    moment = optimizer.state_dict()["state"][0]["exp_avg"]
    np.testing.assert_array_equal(read["opt"]["state"][0]["exp_avg"], moment.numpy())


@pytest.mark.slow
def test_records_of_more_than_four_gigabytes(tmp_path):
    torch = pytest.importorskip("torch")

    large = np.zeros(2**30 + 2**20, np.float32)
    large[[0, -1]] = 1, 2
    write_torch(tmp_path / "model.pt", {"large": large, "small": np.ones(3, np.float32)})
    back = torch.load(tmp_path / "model.pt", weights_only=True, mmap=True)
    assert (back["large"][0], back["large"][-1], back["small"].sum()) == (1, 2, 3)
    torch.save({"large": torch.from_numpy(large), "small": torch.ones(3)}, tmp_path / "model.pt")
    del back
    read = read_torch(tmp_path / "model.pt")
    assert (read["large"][0], read["large"][-1], read["small"].sum()) == (1, 2, 3)


def test_files_in_the_format_before_1_6(tmp_path):
    import torch

    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    base = torch.arange(24.0).reshape(2, 3, 4)
    content = {
        "model": module.state_dict(),
        "views": [base, base.transpose(0, 2), base[1, 1:], torch.nn.Parameter(base)],
        "others": [torch.zeros(0), torch.tensor(3), torch.ones(2, dtype=torch.bfloat16)],
        "step": 7,
    }
    path = tmp_path / "old.pth"
    torch.save(content, path, _use_new_zipfile_serialization=False)
    read = read_torch(path)
    require_checksums(path)
    assert read["step"] == 7 and list(read["model"]) == list(content["model"])
    for part in ("views", "others"):
        for ours, theirs in zip(read[part], content[part], strict=True):
            assert ours.shape == tuple(theirs.shape) and ours.tobytes() == to_bytes(theirs)
    for name, tensor in content["model"].items():
        assert read["model"][name].tobytes() == to_bytes(tensor)
    assert np.shares_memory(read["views"][0], read["views"][2])
