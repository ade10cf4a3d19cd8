"""Merging numbered parts so that rounding does not depend on who computed which of them."""

import functools
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable


@runtime_checkable
class Mergeable(Protocol):
    """What a tree can hold."""

    def merge(self, other: Any) -> Any:
        """This and what comes after it, as one."""
        ...


T = TypeVar("T", bound=Mergeable)


class MergeTree(Generic[T]):
    """Parts number 0, 1, 2, ... merged along one binary tree, in whatever order they come.

    Two neighbours become their parent as soon as both are there, so which values meet in a merge
    depends on the number of parts alone. As many consecutive parts as there are leave no more
    nodes than a binary number has digits.

    Attributes:
        nodes: (level, index) -> the parts index * 2^level to (index + 1) * 2^level - 1 merged,
            for all that wait for their neighbour.
    """

    def __init__(self) -> None:
        self.nodes: dict[tuple[int, int], T] = {}

    def add(self, node: T, index: int, level: int = 0) -> None:
        """Takes in a part, or a node of another tree over the same parts; each once."""
        while (level, index ^ 1) in self.nodes:
            neighbour = self.nodes.pop((level, index ^ 1))
            node = neighbour.merge(node) if index & 1 else node.merge(neighbour)
            level, index = level + 1, index >> 1
        self.nodes[level, index] = node

    def merged(self) -> T:
        """All parts as one.

        Raises:
            ValueError: There are none.
        """
        if not self.nodes:
            raise ValueError("nothing was added, so there is nothing to merge")
        places = sorted(self.nodes, key=lambda place: place[1] << place[0])
        nodes = [self.nodes[place] for place in places]
        return functools.reduce(lambda before, after: before.merge(after), nodes)
