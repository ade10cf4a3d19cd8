"""Work folders of models that were not trained here, and the models of work folders."""

import math
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flax import nnx

from rae_jax import build
from rae_jax.checkpointing.experiment import checkpoint_folder, open_workdir
from rae_jax.checkpointing.manager import CheckpointManager
from rae_jax.checkpointing.partial_restore import read_leaves, restore_entries
from rae_jax.configuration.schema import Stage1Config, Stage2Config, as_dict, parse
from rae_jax.files import AnyPath, new_folder
from rae_jax.layers.functional import Buffer, abstract, split
from rae_jax.porting.models import STAGES, Model, of_kind
from rae_jax.typing import Tree

WEIGHTS = {"ema": "ema", "raw": "params"}
"""Sets of weights, and the entries of a checkpoint that hold them."""

BUFFER_GB = 1
"""Gigabytes on their way to or from disk: porting must fit where little more than a model does."""


def write(
    workdir: str | AnyPath,
    model: Model,
    weights: Iterable[tuple[str, nnx.Module]],
    metadata: Mapping[str, Any],
    check: Callable[[pathlib.Path], None],
) -> None:
    """Writes a work folder with a checkpoint of step 0; it is there only when it is complete.

    Args:
        workdir: A new folder.
        model: What is in it.
        weights: The filled modules for "ema" and "raw", in this order, which are not kept longer
            than they must be; either stands for both. Buffers are those of the first.
        metadata: Noted with the checkpoint.
        check: Called with the complete folder before it gets its name; what it raises undoes all.

    Raises:
        FileExistsError: There is something at `workdir`.
    """
    with new_folder(workdir) as folder:
        open_workdir(folder, STAGES[model.kind], as_dict(model.config))
        with CheckpointManager(checkpoint_folder(folder), buffer_gb=BUFFER_GB) as manager:
            manager.save(0, _state(model, weights), metadata)
        check(folder)


def _state(model: Model, weights: Iterable[tuple[str, nnx.Module]]) -> dict[str, Tree]:
    trees: dict[str, Tree] = {}
    for which, module in weights:
        _, params, buffers = split(module, nnx.Param, Buffer)
        trees[WEIGHTS[which]] = model.entry(params)
        trees.setdefault("buffers", model.entry(buffers))
    only = next(iter(trees.values()))
    return {name: trees.get(name, only) for name in ("params", "ema", "buffers")}


def describe(workdir: str | AnyPath, kind: str) -> Model:
    """The model of a run, whose sizes its settings and its newest checkpoint tell.

    Raises:
        FileNotFoundError: No run or no checkpoint there.
        ValueError: The run is of another kind of model.
    """
    noted = build.require_kind(str(workdir), STAGES[kind])
    config = parse(Stage1Config if STAGES[kind] == build.STAGE1 else Stage2Config, noted)
    if isinstance(config, Stage2Config) and config.denoiser.kind != kind:
        raise ValueError(
            f"the denoiser in {workdir} is a {config.denoiser.kind}, but --kind={kind}"
        )
    leaves = read_leaves(checkpoint_folder(workdir))
    return of_kind(kind, config, _latent_shape(config, {**leaves["params"], **leaves["buffers"]}))


def _latent_shape(
    config: Stage1Config | Stage2Config, leaves: Mapping[str, str]
) -> tuple[int, int, int]:
    def shape(path: str) -> list[int]:
        return [int(size) for size in re.findall(r"\d+", leaves[path].partition("[")[2])]

    if isinstance(config, Stage1Config):
        channels = shape("decoder.embedding.kernel")[0]
        side = math.isqrt(shape("decoder.position_table")[0] - 1)
        return side, side, channels
    patch = config.denoiser.patch_size
    embedding = "head_embedding" if config.denoiser.kind == "dit_dh" else "embedding"
    channels = shape(f"{embedding}.projection.kernel")[0] // patch**2
    # Without a table of positions no array depends on the grid.
    tokens = shape("position_table")[0] if "position_table" in leaves else 1
    side = math.isqrt(tokens) * patch
    return side, side, channels


def read(workdir: str | AnyPath, model: Model, which: str) -> nnx.Module:
    """The module with one set of weights, "ema" or "raw", of the newest sound checkpoint."""
    definition, params, buffers = split(abstract(model.make), nnx.Param, Buffer)
    wanted = {WEIGHTS[which]: model.entry(params), "buffers": model.entry(buffers)}
    _, trees = restore_entries(checkpoint_folder(workdir), wanted, buffer_gb=BUFFER_GB)
    return definition.merge(*(model.arrays(trees[name]) for name in wanted))
