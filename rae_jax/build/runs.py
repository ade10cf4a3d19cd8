"""Models and settings out of the work folders of runs."""

from typing import Any

from rae_jax.checkpointing.experiment import checkpoint_folder, read_experiment
from rae_jax.checkpointing.partial_restore import restore_entries
from rae_jax.typing import Tree

STAGE1, STAGE2 = "stage1", "stage2"
"""Kinds of runs that models are loaded from, as noted in their work folders."""


def restore_model(
    workdir: str, params: Tree, buffers: Tree, *, weights: str = "ema"
) -> tuple[int, Tree, Tree]:
    """Step, parameters and buffers of a run's newest sound checkpoint, given their shapes."""
    entry = {"ema": "ema", "raw": "params"}[weights]
    step, restored = restore_entries(
        checkpoint_folder(workdir), {entry: params, "buffers": buffers}
    )
    return step, restored[entry], restored["buffers"]


def require_kind(workdir: str, kind: str) -> dict[str, Any]:
    """Settings of the run in `workdir`, which must be of `kind`.

    Raises:
        FileNotFoundError: No run there.
        ValueError: A run of another kind.
    """
    found, config = read_experiment(workdir)
    if found != kind:
        raise ValueError(f"{workdir} must hold a run of {kind}, it holds one of {found}")
    return config
