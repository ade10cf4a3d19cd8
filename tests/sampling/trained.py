"""Stage-2 runs with weights for which labels matter, as they do after long training."""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rae_jax import build
from rae_jax.checkpointing.experiment import checkpoint_folder, read_experiment
from rae_jax.checkpointing.manager import CheckpointManager
from rae_jax.checkpointing.partial_restore import read_metadata
from rae_jax.configuration.schema import SamplingConfig, Stage2Config, parse
from rae_jax.layers.functional import Buffer, split
from tests import pipeline
from tests.golden import recipe


def drawn(tree, seed: str):
    """Weights that depend on their paths alone, of unit gain."""

    def leaf(path, shape):
        gain = shape.shape[-2] ** -0.5 if shape.ndim > 1 else 1.0
        values = recipe.uniform(f"{seed}{jax.tree_util.keystr(path)}", shape.shape)
        return jnp.asarray(np.float32(gain) * values)

    return jax.tree_util.tree_map_with_path(leaf, tree)


def stage2_run(
    runs: pathlib.Path,
    folder: pathlib.Path,
    *,
    step: int = 1,
    sizes: dict[str, int] | None = None,
    frozen: dict[str, str] | None = None,
    **changes: Any,
) -> str:
    """Saves a run like that of `runs` with other weights, and gives its folder.

    Args:
        runs: Folder of tiny runs.
        folder: Of the new run.
        step: Of its checkpoint.
        sizes: What differs in its denoiser.
        frozen: What differs in its fingerprints.
        changes: What differs in other sections.
    """
    _, config = read_experiment(runs / "stage2")
    config["denoiser"] |= sizes or {}
    for section, values in changes.items():
        config[section] = {**config[section], **values} if isinstance(values, dict) else values
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"kind": build.STAGE2, "config": config}))
    stage2 = parse(Stage2Config, config)
    fresh = build.denoiser(
        stage2.denoiser,
        (3, 3, 64),
        build.Compute(),
        has_null_label=stage2.label_dropout > 0,
        rngs=nnx.Rngs(0),
    )
    _, params, buffers = split(fresh, nnx.Param, Buffer)
    state = {
        "ema": drawn(params, f"ema{step}"),
        "params": drawn(params, f"raw{step}"),
        "buffers": buffers,
    }
    metadata = read_metadata(checkpoint_folder(runs / "stage2"))
    metadata["frozen"] |= frozen or {}
    with CheckpointManager(checkpoint_folder(folder)) as manager:
        manager.save(step, state, metadata)
    return str(folder)


def sampling(trained: str, **changes: Any) -> SamplingConfig:
    """The tiny sampling config on the run in the folder `trained`."""
    return pipeline.sampling(pathlib.Path(), **{"checkpoint": trained, **changes})
