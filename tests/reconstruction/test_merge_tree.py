import itertools

import numpy as np
import pytest

from rae_jax.reconstruction.merge_tree import MergeTree


class Bracketed(str):
    """Shows which values met in a merge."""

    def merge(self, other):
        return Bracketed(f"({self} {other})")


def tree_of(numbers):
    tree = MergeTree()
    for number in numbers:
        tree.add(Bracketed(number), number)
    return tree


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, "0"), (2, "(0 1)"), (3, "((0 1) 2)"), (5, "(((0 1) (2 3)) 4)")],
)
def test_the_tree_depends_on_the_number_of_parts_alone(count, expected):
    for order in itertools.permutations(range(count)):
        assert tree_of(order).merged() == expected


def test_trees_of_several_processes_join_into_the_same():
    generator = np.random.default_rng(0)
    for _ in range(20):
        first, second, third = np.array_split(generator.permutation(23), 3)
        joined = tree_of(first.tolist())
        for other in (tree_of(second.tolist()), tree_of(third.tolist())):
            for (level, index), node in other.nodes.items():
                joined.add(node, index, level)
        assert joined.merged() == tree_of(range(23)).merged()


def test_consecutive_parts_leave_few_nodes():
    tree = MergeTree()
    for number in range(1000):
        tree.add(Bracketed(""), number)
        assert len(tree.nodes) == (number + 1).bit_count()


def test_nothing_cannot_be_merged():
    with pytest.raises(ValueError, match="nothing was added"):
        MergeTree().merged()
