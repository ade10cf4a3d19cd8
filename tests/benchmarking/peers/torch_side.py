"""What the peers that compute with PyTorch share."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from rae_jax.benchmarking import filling
from rae_jax.benchmarking.presets import Settings
from rae_jax.benchmarking.sides import Prepared

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@contextlib.contextmanager
def uninitialized() -> Iterator[None]:
    """Modules made inside leave out what takes longest: the numbers that are then replaced."""
    names = [name for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")]
    kept = {name: getattr(nn.init, name) for name in names}
    for name in names:
        setattr(nn.init, name, lambda tensor, *_, **__: tensor)
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(nn.init, name, function)


def filled(
    module: nn.Module,
    *,
    renamed: Callable[[str], str] = str,
    buffers: Mapping[str, np.ndarray] | None = None,
) -> Any:
    """The module on its device, its entries as all sides make them.

    Args:
        module: To fill in place.
        renamed: Name of an entry here to that of the file it is published in.
        buffers: Entries with given values.
    """
    given = buffers or {}
    for name, tensor in module.state_dict().items():
        if name in given:
            value = given[name]
        elif not tensor.is_floating_point() or name.endswith(("freqs_cos", "freqs_sin")):
            continue
        else:
            value = filling.weight(renamed(name), tuple(tensor.shape))
        tensor.copy_(torch.from_numpy(np.asarray(value, np.float32)).reshape(tensor.shape))
    return module.to(DEVICE)


def nchw(array: np.ndarray) -> torch.Tensor:
    """An NHWC array as PyTorch has images."""
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2))).to(DEVICE)


def nhwc(tensor: torch.Tensor) -> np.ndarray:
    """The other way round."""
    return tensor.float().cpu().numpy().transpose(0, 2, 3, 1)


def autocast(settings: Settings) -> Any:
    """Lets PyTorch compute in the dtype, as the RAE release does."""
    dtype = getattr(torch, settings.dtype)
    return torch.autocast(DEVICE, dtype, enabled=dtype != torch.float32)


def compiled(function: Any, settings: Settings) -> Any:
    """The function, compiled if that is asked for."""
    return torch.compile(function) if settings.compiled else function


def prepared(
    settings: Settings,
    run: Callable[[], Any],
    answer: Callable[[Any], np.ndarray] | None = None,
    *,
    trains: bool = False,
) -> Prepared:
    """A part whose answer `run` computes."""
    torch.set_num_threads(settings.threads)

    def whole() -> Any:
        with contextlib.nullcontext() if trains else torch.inference_mode():
            result = run()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return result

    peak = torch.cuda.max_memory_allocated if DEVICE == "cuda" else None
    return Prepared(whole, answer, peak=peak)
