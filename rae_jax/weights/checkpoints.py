"""Finds the weights in a file of `torch.save`: alone, or in a training checkpoint."""

import collections
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from rae_jax.weights.errors import WeightFileError

Tensors = Mapping[str, np.ndarray]

EMA, RAW = "ema", "raw"
"""The averaged weights, and those that the optimiser changes."""

_NAMES = {
    EMA: ("ema", "ema_model", "model_ema", "ema_state_dict", "ema_params"),
    RAW: ("model", "state_dict", "model_state_dict", "module", "params", "weights"),
}
_WRAPPER, _COMPILED = "module.", "_orig_mod."
_LISTED = 12


def select(content: Any, which: str = EMA) -> Tensors:
    """One set of weights of what a file holds, its entries called as in the bare model.

    Args:
        content: As `read_torch` gives it: entries by key, or a training checkpoint such as
            `{"model": ..., "ema": ..., "opt": ...}`, in any nesting. What DataParallel
            ("module.") and compilation ("_orig_mod.") put into keys is taken out.
        which: "ema" or "raw", the same where there is only one set; or the dotted path of any
            dictionary of tensors in it.

    Raises:
        WeightFileError: There is no such set; the message lists what there is.
    """
    found = weight_sets(content)
    if which in found:
        return found[which]
    if which in (EMA, RAW) and not _is_nested(content):
        return found[RAW]
    paths = dict(_tensor_dictionaries(content))
    if which in paths:
        return _unwrapped(paths[which])
    raise WeightFileError(f"it holds no weights {which!r}; {_described(content)}")


def weight_sets(content: Any) -> dict[str, Tensors]:
    """The sets of weights of what a file holds, by "ema" and "raw"; see `select`.

    Raises:
        WeightFileError: There is none, or several of one name; the message lists what there is.
    """
    found: dict[str, list[Tensors]] = {EMA: [], RAW: []}
    for path, tensors in _tensor_dictionaries(content):
        names = path.split(".") if path else []
        if any(name not in (*_NAMES[EMA], *_NAMES[RAW]) for name in names):
            continue
        averaged = any(name in _NAMES[EMA] for name in names)
        found[EMA if averaged else RAW].append(tensors)
    if not any(found.values()):
        raise WeightFileError(f"it holds no weights of a model; {_described(content)}")
    for which, sets in found.items():
        if len(sets) > 1:
            raise WeightFileError(f"it holds several weights {which!r}; {_described(content)}")
    return {which: _unwrapped(sets[0]) for which, sets in found.items() if sets}


def flat(content: Any) -> Tensors:
    """The content itself, if it is nothing but tensors by key.

    Raises:
        WeightFileError: It is not; the message lists what there is.
    """
    if not _is_nested(content):
        return content
    raise WeightFileError(f"it must hold tensors by key and nothing else; {_described(content)}")


def _is_nested(content: Any) -> bool:
    return not (
        isinstance(content, Mapping)
        and content
        and all(isinstance(key, str) for key in content)
        and all(isinstance(value, np.ndarray) for value in content.values())
    )


def _tensor_dictionaries(content: Any, path: str = "") -> Iterator[tuple[str, Tensors]]:
    if not _is_nested(content):
        yield path, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _tensor_dictionaries(value, f"{path}.{key}" if path else str(key))


def _described(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"it holds a {type(content).__name__}"
    parts = [f"{path or 'all'} ({len(t)} tensors)" for path, t in _tensor_dictionaries(content)]
    parts += [str(key) for key, value in content.items() if not isinstance(value, Mapping)]
    listed = ", ".join(parts[:_LISTED]) or "nothing"
    more = len(parts) - _LISTED
    return f"there are: {listed}" + (f" and {more} more" if more > 0 else "")


def _unwrapped(tensors: Tensors) -> Tensors:
    """The entries without what wrappers of the model have put into their names."""
    names = {key: key.replace(_COMPILED, "") for key in tensors}
    while all(name.startswith(_WRAPPER) for name in names.values()):
        names = {key: name.removeprefix(_WRAPPER) for key, name in names.items()}
    twice = [name for name, count in collections.Counter(names.values()).items() if count > 1]
    if twice:
        raise WeightFileError(
            f"without {_WRAPPER} and {_COMPILED} several of its entries are called {twice}"
        )
    return {name: tensors[key] for key, name in names.items()}
