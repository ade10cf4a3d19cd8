"""Fills modules from published entries and writes them back, strictly, by weight tables."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rae_jax.layers.functional import abstract
from rae_jax.weights.readers import Header, header
from rae_jax.weights.table import Rule, WeightTable

M = TypeVar("M", bound=nnx.Module)

Tensors = Mapping[str, np.ndarray]

Place = Callable[[str, Any], jax.sharding.Sharding | None]
"""(dotted path, leaf) -> sharding of the array that fills it; None for the default device."""


class WeightError(ValueError):
    """A file and a model do not fit together; the message lists every mismatch."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One entry of a file, and where it goes.

    Attributes:
        source: Key of the entry; "" for a leaf that keeps its constructed value.
        header: Shape and dtype of the entry.
        target: Leaf of the module, with the layer in brackets; "" for an entry that is not used.
        shape: Shape of the leaf, of one layer.
        dtype: Dtype of the leaf.
        transform: Name of the change of layout.
    """

    source: str
    header: Header | None
    target: str
    shape: tuple[int, ...]
    dtype: str
    transform: str


@dataclasses.dataclass(frozen=True)
class Report:
    """How a file and a module fit together.

    Attributes:
        rows: Every entry of the file, and every leaf of the module.
        problems: Every mismatch that shapes and dtypes tell.
    """

    rows: tuple[Row, ...]
    problems: tuple[str, ...]

    def require(self) -> None:
        """Raises WeightError with all problems, if there are any."""
        require_none(self.problems)


def require_none(problems: Iterable[str]) -> None:
    """Raises WeightError with all problems, if there are any."""
    problems = sorted(problems)
    if problems:
        listing = "\n  ".join(problems)
        raise WeightError(f"{len(problems)} mismatches between file and model:\n  {listing}")


def _leaves(module: nnx.Module) -> dict[str, nnx.Variable]:
    flat = nnx.to_flat_state(nnx.state(module))
    return {".".join(map(str, path)): variable for path, variable in flat}


def _layer_keys(rule: Rule, layer: int | None) -> tuple[str, ...]:
    index = "" if layer is None else str(rule.first_layer + layer)
    return tuple(source.replace("{i}", index) for source in rule.sources)


def _layers(rule: Rule, variable: nnx.Variable) -> Iterable[int | None]:
    return range(variable.shape[0]) if rule.stacked else (None,)


def _layer_shape(rule: Rule, variable: nnx.Variable) -> tuple[int, ...]:
    return tuple(variable.shape[1:] if rule.stacked else variable.shape)


def _published_shapes(rule: Rule, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Shapes of the entries that one layer of `shape` is exported as."""
    # Of one byte an element, which layouts that need a copy then cost at most.
    blank = np.broadcast_to(np.False_, shape)
    return [entry.shape for entry in rule.transform.inverse(blank, len(rule.sources))]


class _Comparison:
    """Collects rows and problems of one table, file and module."""

    def __init__(self, table: WeightTable, tensors: Tensors, leaves: dict[str, nnx.Variable]):
        self.table, self.tensors, self.leaves = table, tensors, leaves
        self.rows: list[Row] = []
        self.problems: list[str] = []
        self.used: set[str] = set()

    def report(self) -> Report:
        """All rows of the table, then what they leave over on both sides."""
        targets = {rule.target for rule in self.table.rules}
        self.problems += [f"no row fills {path}" for path in self.leaves if path not in targets]
        for rule in self.table.rules:
            variable = self.leaves.get(rule.target)
            if variable is None:
                self.problems.append(f"the model has no {rule.target} (row {rule.source})")
            elif absent(self.table, rule, self.tensors):
                shape = tuple(variable.shape)
                self.rows.append(
                    Row("", None, rule.target, shape, variable.dtype.name, "constructed")
                )
            else:
                self.add_rule(rule, variable)
        for key in self.tensors:
            if key in self.used:
                continue
            found = header(self.tensors, key)
            if self.table.ignores(key):
                self.rows.append(Row(key, found, "", (), "", "not used"))
            else:
                self.problems.append(f"surplus entry {key} {found.shape}")
        return Report(tuple(self.rows), tuple(self.problems))

    def add_rule(self, rule: Rule, variable: nnx.Variable) -> None:
        """Rows of one rule, and what is wrong with its entries."""
        shape = _layer_shape(rule, variable)
        wanted = _published_shapes(rule, shape)
        for layer in _layers(rule, variable):
            target = rule.target if layer is None else f"{rule.target}[{layer}]"
            for key, published in zip(_layer_keys(rule, layer), wanted, strict=True):
                self.used.add(key)
                if key not in self.tensors:
                    self.problems.append(f"missing entry {key} {published} (for {target})")
                    continue
                found = header(self.tensors, key)
                name, dtype = rule.transform.name, variable.dtype.name
                self.rows.append(Row(key, found, target, shape, dtype, name))
                if found.shape != published:
                    self.problems.append(
                        f"entry {key} has shape {found.shape}, the model wants {published} "
                        f"(for {target} of shape {shape})"
                    )
                if not _fits(found.dtype, variable.dtype):
                    self.problems.append(
                        f"entry {key} has dtype {found.dtype.name}, the model wants "
                        f"{variable.dtype.name} (for {target})"
                    )


def _fits(found: np.dtype, wanted: np.dtype) -> bool:
    kinds = (jnp.floating, jnp.integer, jnp.bool_)
    return any(jnp.issubdtype(found, kind) and jnp.issubdtype(wanted, kind) for kind in kinds)


def absent(table: WeightTable, rule: Rule, tensors: Tensors) -> bool:
    """Whether the file has none of the entries of an optional row."""
    keys = _layer_keys(rule, 0 if rule.stacked else None)
    return rule.target in table.optional_target and not any(key in tensors for key in keys)


def report(table: WeightTable, tensors: Tensors, module: nnx.Module) -> Report:
    """Every entry of a file with the leaf it goes to, and every mismatch; reads only headers."""
    return _Comparison(table, tensors, _leaves(module)).report()


def load(table: WeightTable, tensors: Tensors, module: M, *, place: Place | None = None) -> M:
    """Fills every leaf of `module` from `tensors`, in place, and returns the module.

    Names, shapes and dtypes are compared before the first entry is read. Then one leaf at a time
    is read, so that besides the model no more than a leaf or two are in memory.

    Args:
        table: Rows of the model's published file.
        tensors: Entries by key; any floating dtype, cast to each leaf's own.
        module: Concrete or abstract (`nnx.eval_shape`) module.
        place: Where each array goes; unless given, to the default device.

    Raises:
        WeightError: Lists every missing, surplus or misshapen entry, every one with NaN or Inf or
            of another kind of dtype, and every leaf of the module that no row fills. The module
            is then unchanged.
    """
    leaves = _leaves(module)
    compared = _Comparison(table, tensors, leaves).report()
    if compared.problems:
        require_none([*compared.problems, *non_finite(compared, tensors)])
    values: dict[str, jax.Array] = {}
    broken: list[str] = []
    for rule in table.rules:
        if absent(table, rule, tensors):
            continue
        variable = leaves[rule.target]
        # Named nowhere else, so that it is gone before the next leaf is read.
        values[rule.target] = _placed(
            _read_leaf(rule, tensors, variable, broken),
            place(rule.target, variable) if place is not None else None,
        )
        if broken:
            # What follows only looks for more of them.
            values.clear()
    require_none(broken)
    for target, value in values.items():
        leaves[target].set_value(value)
    return module


def _read_leaf(
    rule: Rule, tensors: Tensors, variable: nnx.Variable, broken: list[str]
) -> np.ndarray:
    """The leaf's value; what `non_finite` says of its entries is appended to `broken`."""
    dtype = np.dtype(variable.dtype)
    value = np.empty(variable.shape, dtype)
    for layer in _layers(rule, variable):
        keys = _layer_keys(rule, layer)
        arrays = [_cast(tensors[key], dtype) for key in keys]
        broken += [_broken(k, a) for k, a in zip(keys, arrays, strict=True) if not _is_finite(a)]
        part = rule.transform.forward(arrays)
        # Not in one line: an index of () would take a scalar out of its array.
        if layer is None:
            value[...] = part
        else:
            value[layer] = part
    return value


def _cast(array: Any, dtype: np.dtype) -> np.ndarray:
    # A number too large for the dtype becomes Inf, and is then told by the entry's name.
    with np.errstate(over="ignore"):
        return np.asarray(array).astype(dtype, copy=False)


def _is_finite(array: np.ndarray) -> bool:
    return bool(np.isfinite(array).all())


def _broken(key: str, array: np.ndarray) -> str:
    return f"entry {key} holds NaN or Inf (as {array.dtype.name})"


def non_finite(compared: Report, tensors: Tensors) -> list[str]:
    """A line for every used entry that holds NaN or Inf; reads all of them."""
    lines = []
    for row in compared.rows:
        if row.source and row.target:
            array = _cast(tensors[row.source], np.dtype(row.dtype))
            lines += [] if _is_finite(array) else [_broken(row.source, array)]
    return lines


def _placed(value: np.ndarray, sharding: jax.sharding.Sharding | None) -> jax.Array:
    if sharding is None:
        # The array may stand on the memory of `value`, which is nobody else's.
        array = jax.device_put(value)
    else:
        array = jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])
    # Or the leaves of which copies are under way would pile up.
    return array.block_until_ready()


def create(
    table: WeightTable, tensors: Tensors, make: Callable[[], M], *, place: Place | None = None
) -> M:
    """The module that `make` builds, filled from `tensors` by `load`.

    Leaves that the file may leave out and does are computed as `make` does; the others are never
    allocated but to be filled.

    Args:
        table: See `load`.
        tensors: See `load`.
        make: Builds the module with fresh parameters.
        place: See `load`.

    Raises:
        WeightError: See `load`.
    """
    module = load(table, tensors, abstract(make), place=place)
    kept = {rule.target for rule in table.rules if absent(table, rule, tensors)}
    if kept:
        # Compiled, so that the parameters, which nothing reads, are not drawn.
        chosen = jax.jit(
            lambda: {p: v.get_value() for p, v in _leaves(make()).items() if p in kept}
        )
        leaves = _leaves(module)
        for path, value in chosen().items():
            sharding = place(path, leaves[path]) if place is not None else None
            leaves[path].set_value(_placed(np.array(value), sharding))
    return module


def entry_shapes(table: WeightTable, module: nnx.Module) -> dict[str, tuple[int, ...]]:
    """Shape of every entry that `export` writes; the module may be abstract."""
    leaves, shapes = _leaves(module), {}
    for rule in table.rules:
        variable = leaves[rule.target]
        published = _published_shapes(rule, _layer_shape(rule, variable))
        for layer in _layers(rule, variable):
            shapes.update(zip(_layer_keys(rule, layer), published, strict=True))
    return shapes


def export(table: WeightTable, module: nnx.Module) -> dict[str, np.ndarray]:
    """Entries of the published file, from the leaves of `module`: the inverse of `load`.

    Entries that `load` ignores are not written.
    """
    return dict(exported(table, module))


def exported(table: WeightTable, module: nnx.Module) -> Iterator[tuple[str, np.ndarray]]:
    """The entries of `export` one after the other, none of which is kept."""
    leaves = _leaves(module)
    for rule in table.rules:
        parameter = np.asarray(leaves[rule.target].get_value())
        for layer in _layers(rule, leaves[rule.target]):
            value = parameter if layer is None else parameter[layer]
            keys = _layer_keys(rule, layer)
            for key, entry in zip(keys, rule.transform.inverse(value, len(keys)), strict=True):
                yield key, np.asarray(entry, order="C")


def differences(written: Iterable[tuple[str, np.ndarray]], read: Tensors) -> list[str]:
    """Entries of `written` that are not bit for bit those that were read.

    Entries of another floating dtype are compared in the dtype that is written, which holds all
    values of the smaller ones.
    """
    different = []
    for key, array in written:
        if key not in read:
            different.append(f"{key} is not in the file")
            continue
        original = _cast(read[key], array.dtype)
        same = original.shape == array.shape and original.tobytes() == array.tobytes()
        if not same:
            different.append(f"{key} differs")
    return different
