"""Fills modules from published entries and writes them back, strictly, by weight tables."""

from collections.abc import Mapping
from typing import TypeVar

import jax.numpy as jnp
import numpy as np
from flax import nnx

from rae_jax.weights.table import Rule, WeightTable

M = TypeVar("M", bound=nnx.Module)


class WeightError(ValueError):
    """A file and a model do not fit together; the message lists every mismatch."""


def _leaves(module: nnx.Module) -> dict[str, nnx.Variable]:
    flat = nnx.to_flat_state(nnx.state(module))
    return {".".join(map(str, path)): variable for path, variable in flat}


def _layer_keys(rule: Rule, layer: int | None) -> tuple[str, ...]:
    index = "" if layer is None else str(rule.first_layer + layer)
    return tuple(source.replace("{i}", index) for source in rule.sources)


class _Import:
    """One import under way: collects problems, so that they are reported together."""

    def __init__(self, table: WeightTable, tensors: Mapping[str, np.ndarray]):
        self.table = table
        self.tensors = tensors
        self.used: set[str] = set()
        self.problems: list[str] = []

    def entry(self, rule: Rule, layer: int | None) -> np.ndarray | None:
        keys = _layer_keys(rule, layer)
        self.used.update(keys)
        missing = [key for key in keys if key not in self.tensors]
        if missing:
            self.problems += [f"missing entry {key} (for {rule.target})" for key in missing]
            return None
        arrays = [np.asarray(self.tensors[key]) for key in keys]
        broken = [
            key
            for key, array in zip(keys, arrays, strict=True)
            if not np.isfinite(array.astype(np.float32)).all()
        ]
        if broken:
            self.problems += [f"entry {key} holds NaN or Inf" for key in broken]
            return None
        try:
            return rule.transform.forward(arrays)
        except (ValueError, IndexError) as error:
            shapes = {k: a.shape for k, a in zip(keys, arrays, strict=True)}
            self.problems.append(f"{rule.transform.name} of {shapes} failed: {error}")
            return None

    def value(self, rule: Rule, variable: nnx.Variable) -> np.ndarray | None:
        if not rule.stacked:
            return self.entry(rule, None)
        entries = [self.entry(rule, layer) for layer in range(variable.shape[0])]
        present = [entry for entry in entries if entry is not None]
        if len(present) != len(entries):
            return None
        if len({entry.shape for entry in present}) > 1:
            self.problems.append(f"layers of {rule.target} differ in shape")
            return None
        return np.stack(present)

    def absent(self, rule: Rule) -> bool:
        """Whether an optional row has none of its entries in the file."""
        keys = _layer_keys(rule, 0 if rule.stacked else None)
        return rule.target in self.table.optional_target and not any(
            key in self.tensors for key in keys
        )


def load(table: WeightTable, tensors: Mapping[str, np.ndarray], module: M) -> M:
    """Fills every leaf of `module` from `tensors`, in place, and returns the module.

    Args:
        table: Rows of the model's published file.
        tensors: Entries by key; any floating dtype, cast to each leaf's own.
        module: Concrete or abstract (`nnx.eval_shape`) module.

    Raises:
        WeightError: Lists every missing, surplus, misshapen, NaN or Inf entry, and every leaf of
            the module that no row fills. The module is then unchanged.
    """
    leaves, work, values = _leaves(module), _Import(table, tensors), {}
    targets = {rule.target for rule in table.rules}
    work.problems += [f"no row fills {path}" for path in leaves if path not in targets]
    for rule in table.rules:
        if rule.target not in leaves:
            work.problems.append(f"the model has no {rule.target} (row {rule.source})")
            continue
        if work.absent(rule):
            continue
        variable = leaves[rule.target]
        value = work.value(rule, variable)
        if value is None:
            continue
        if value.shape != variable.shape:
            work.problems.append(
                f"{rule.target} has shape {tuple(variable.shape)}, the file gives {value.shape}"
            )
            continue
        values[rule.target] = value
    surplus = [key for key in tensors if key not in work.used and not table.ignores(key)]
    work.problems += [f"surplus entry {key} {np.shape(tensors[key])}" for key in surplus]
    if work.problems:
        listing = "\n  ".join(sorted(work.problems))
        raise WeightError(f"{len(work.problems)} mismatches between file and model:\n  {listing}")
    for target, value in values.items():
        leaves[target].set_value(jnp.asarray(value, leaves[target].dtype))
    return module


def export(table: WeightTable, module: nnx.Module) -> dict[str, np.ndarray]:
    """Entries of the published file, from the leaves of `module`: the inverse of `load`.

    Entries that `load` ignores are not written.
    """
    leaves, tensors = _leaves(module), {}
    for rule in table.rules:
        parameter = np.asarray(leaves[rule.target].get_value())
        layers = range(parameter.shape[0]) if rule.stacked else (None,)
        for layer in layers:
            value = parameter if layer is None else parameter[layer]
            keys = _layer_keys(rule, layer)
            entries = rule.transform.inverse(value, len(keys))
            tensors.update(zip(keys, map(np.ascontiguousarray, entries), strict=True))
    return tensors
