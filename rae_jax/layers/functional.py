"""Modules as pure functions: split once into a static definition and plain trees of arrays.

Training and sampling jit functions of plain trees, because dispatching nested dictionaries is
several times cheaper than dispatching module objects, and because checkpoint names stay clean.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import jax
from flax import nnx

from rae_jax.typing import Tree

M = TypeVar("M", bound=nnx.Module)


class Buffer(nnx.Variable):
    """A constant that belongs to a model and its files, such as a position table; never trained."""


class Frozen(nnx.Variable):
    """A parameter of a frozen encoder: outside optimiser, gradient, EMA and training checkpoint."""


def freeze(module: M) -> M:
    """Turns every Variable of `module` into `Frozen`, in place, and returns the module."""
    for _, node in nnx.iter_graph(module):
        if not isinstance(node, nnx.Module):
            continue
        for name, value in list(vars(node).items()):
            if isinstance(value, nnx.Variable) and not isinstance(value, Frozen):
                setattr(node, name, Frozen(value.get_value()))
    return module


@dataclasses.dataclass(frozen=True, eq=False)
class Definition(Generic[M]):
    """The static half of a module; `merge` adds the arrays and gives the module back.

    Attributes:
        name: Class of the module.
        graphdef: Its structure.
        templates: Shapes of its arrays, one tree per filter of the split.
    """

    # Errors of jit print the function that they concern: the rest would fill screens.
    name: str
    graphdef: nnx.GraphDef[M] = dataclasses.field(repr=False)
    templates: tuple[nnx.State, ...] = dataclasses.field(repr=False)

    def merge(self, *trees: Tree) -> M:
        """Module holding the leaves of `trees`, given in the order that `split` returned them."""
        if len(trees) != len(self.templates):
            raise ValueError(f"expected {len(self.templates)} trees as split, got {len(trees)}")
        states = []
        for template, tree in zip(self.templates, trees, strict=True):
            state = jax.tree.map(lambda leaf: leaf, template)
            nnx.replace_by_pure_dict(state, dict(tree))
            states.append(state)
        return nnx.merge(self.graphdef, *states)


def split(module: nnx.Module, *filters: Any) -> tuple[Any, ...]:
    """Splits a module into `(definition, *trees)`, one plain tree per filter.

    Without filters everything goes into one tree. Leaves that no filter takes are an error of
    `nnx.split`.
    """
    graphdef, *states = nnx.split(module, *(filters or (...,)))
    templates = tuple(
        jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
        for state in states
    )
    return Definition(type(module).__name__, graphdef, templates), *(
        nnx.to_pure_dict(state) for state in states
    )


def abstract(make: Callable[[], M]) -> M:
    """The module that `make` builds, with shapes in place of arrays: nothing is allocated."""
    return nnx.eval_shape(make)
