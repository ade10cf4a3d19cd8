"""One training run from its work folder to its last checkpoint; both stages go through here."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh

from rae_jax import build
from rae_jax.build.meshes import frozen_shardings, require_divisible, require_heads
from rae_jax.checkpointing.claim import claimed, require_free
from rae_jax.checkpointing.experiment import (
    checkpoint_folder,
    open_workdir,
    require_experiment,
)
from rae_jax.checkpointing.fingerprint import fingerprints
from rae_jax.checkpointing.manager import CheckpointManager
from rae_jax.configuration.schema import (
    PretrainingConfig,
    Stage1Config,
    Stage2Config,
    as_dict,
)
from rae_jax.configuration.section import summary
from rae_jax.data.sources.base import Source
from rae_jax.files import AnyPath, any_path
from rae_jax.monitoring.operations import count_operations
from rae_jax.monitoring.writers import Writer, make_writers
from rae_jax.sharding.memory import report
from rae_jax.sharding.mesh import make_mesh, on_host
from rae_jax.sharding.processes import is_main_process, place
from rae_jax.sharding.rules import require_cut, tree_shardings
from rae_jax.training import loop
from rae_jax.training.evaluation import Evaluation
from rae_jax.training.hooks import (
    Every,
    Hook,
    LogMetrics,
    SaveCheckpoint,
    ShowProgress,
    StopIfAllSkipped,
    StopOnNonFinite,
)
from rae_jax.training.state import TrainState
from rae_jax.typing import PyTree, Tree

TrainingConfig = Stage1Config | Stage2Config | PretrainingConfig

MAY_CHANGE = (
    *("duration", "loop", "evaluation", "mesh", "unroll", "remat"),
    *("data.path", "data.num_threads", "data.num_workers", "data.max_unreadable"),
)
"""Settings that leave the steps of a run as they were, so that a restart may change them."""

_RESULTS = ("checkpoints/*",)
_CAME_LATER = {"skipped": 0}
"""Entries that the state of an older version may lack."""

_REPORTED = ("params", "buffers", "ema", "optimizer_state", "discriminator")

Preview = Callable[[int, TrainState, Tree, Sequence[Writer]], None]
"""(finished steps, state, frozen arrays on the mesh, where the pictures go)."""


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """What a stage computes, which needs no data and no more than shapes of frozen arrays.

    Attributes:
        initial_state: See `Job`.
        step: See `Job`; an object that holds the parts of the stage.
        frozen: See `Job`.
    """

    initial_state: Callable[[], TrainState]
    step: Any
    frozen: Tree


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """What one stage brings to a run.

    Attributes:
        kind: Name of the stage, noted in the work folder.
        config: Settings of the run.
        source: Training images.
        initial_state: Makes the state before the first step; jitted, so that every array is born
            in its sharding.
        step: Pure `(state, frozen, batch) -> (state, metrics)`.
        frozen: Arrays that the step reads and never changes, such as the encoder's.
        preview: Draws pictures of the state.
        evaluation: Scores the state every so often.
        initial_weights: Loads `params` and `buffers` that take the place of those of the initial
            state, the moving average too.
        phases: What is on in the step after so many finished ones. Where given, `step` has a
            method `in_phases(state, frozen, batch, phases)` that leaves out the rest, which is
            for counting its operations.
        encoded_by: Fingerprints of the frozen arrays that made the source, where the step does
            without them.
    """

    kind: str
    config: TrainingConfig
    source: Source
    initial_state: Callable[[], TrainState]
    step: Callable[[TrainState, Tree, Mapping[str, Any]], tuple[TrainState, dict[str, Any]]]
    frozen: Tree
    preview: Preview | None = None
    evaluation: Evaluation | None = None
    initial_weights: Callable[[], tuple[Tree, Tree]] | None = None
    phases: Callable[[int], Any] | None = None
    encoded_by: Mapping[str, str] = dataclasses.field(default_factory=dict)


C = TypeVar("C", bound=TrainingConfig)


def train(kind: str, make_job: Callable[[C], Job], config: C, workdir: str | AnyPath) -> AnyPath:
    """Makes the job of `config` and executes it.

    A folder that may not be written, that another process is at work in, or that holds another
    run, is refused before.
    """
    require_free(workdir)
    require_experiment(workdir, kind, as_dict(config), MAY_CHANGE, _RESULTS, _defaults(config))
    run_mesh(config)  # Before models are loaded, which takes time.
    with on_host():
        job = make_job(config)
    return execute(job, workdir)


def execute(job: Job, workdir: str | AnyPath) -> AnyPath:
    """Trains `job` in `workdir`, or goes on where an earlier call was interrupted.

    Args:
        job: The stage's part.
        workdir: Folder of the run; gets `config.json`, `checkpoints/`, `metrics.jsonl` and what
            the configured writers make.

    Returns:
        The folder.

    Raises:
        Interrupted: A signal ended the run; the state is saved.
        OSError: Something cannot be written, as on a full disk; what is saved stays.
        ValueError: The folder holds another experiment, another process is at work in it, or
            settings do not fit together.
    """
    config = job.config
    mesh = run_mesh(config)
    shapes = jax.eval_shape(job.initial_state)
    require_cut(shapes, mesh.shape)
    weights = None
    if job.initial_weights is not None and not any(any_path(workdir).glob(_RESULTS[0])):
        # Before the folder is made, as what is to be loaded may be missing.
        with on_host():
            weights = job.initial_weights()
    with claimed(workdir):
        return _go_through(job, workdir, mesh, shapes, weights)


def _go_through(
    job: Job,
    workdir: str | AnyPath,
    mesh: Mesh,
    shapes: Any,
    weights: tuple[Tree, Tree] | None,
) -> AnyPath:
    config = job.config
    folder = open_workdir(
        workdir, job.kind, as_dict(config), MAY_CHANGE, _RESULTS, _defaults(config)
    )
    to_steps = build.durations(len(job.source), config.global_batch_size)
    num_steps = to_steps(config.duration)
    shardings = tree_shardings(shapes, mesh)
    frozen_at = frozen_shardings(job.frozen, mesh, config.mesh)
    kept = config.loop.keep_every
    keep_every = _interval(to_steps, kept) if kept else None
    with CheckpointManager(
        checkpoint_folder(folder), keep_last=config.loop.keep_checkpoints, keep_every=keep_every
    ) as manager:
        made_with = {**job.encoded_by, **fingerprints(job.frozen)}
        inputs = {"frozen": made_with, "num_records": len(job.source)}
        state, start_step = _start(job, manager, shapes, shardings, inputs, weights)
        if start_step >= num_steps:
            logging.info(
                "%s is finished: %d steps are done, duration asks for %d",
                folder,
                start_step,
                num_steps,
            )
            return folder
        _log_start(job, state, (start_step, num_steps), mesh.size)
        logging.info("%s", memory_report(shapes, shardings, job.frozen, frozen_at))
        frozen = place(job.frozen, frozen_at)
        writers = make_writers(config.loop.writers, folder, resume_step=start_step)
        progress = ShowProgress(start_step, num_steps)
        metadata = {"kind": job.kind, **inputs}
        batches = build.batches(
            job.source,
            config.data,
            seed=config.seed,
            global_batch_size=config.global_batch_size,
            start_step=start_step,
        )
        batches, operations = _counted(job, shapes, batches)
        hooks = [
            *_hooks(job, frozen, writers, to_steps, mesh, operations),
            # Last but one: what a step wrote besides is there when its checkpoint is.
            SaveCheckpoint(_interval(to_steps, config.loop.checkpoint_every), manager, metadata),
            progress,
        ]
        try:
            loop.run(
                guarded(job.step, config),
                state,
                batches,
                frozen=frozen,
                start_step=start_step,
                num_steps=num_steps,
                hooks=hooks,
                mesh=mesh,
            )
        finally:
            # After an error too, or its message would stand on the line of the bar.
            progress.close()
            for writer in writers:
                writer.close()
    return folder


def _interval(to_steps: Callable[[str], int], duration: str) -> int:
    return max(to_steps(duration), 1)


def _defaults(config: TrainingConfig) -> dict[str, Any]:
    return as_dict(type(config)())


def run_mesh(config: TrainingConfig) -> Mesh:
    """All devices as the configuration lays them out.

    Raises:
        ValueError: Batch or attention heads do not divide over them.
    """
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    accumulation = getattr(config, "gradient_accumulation", 1)
    require_divisible(config.global_batch_size, mesh, accumulation)
    require_heads(config, mesh)
    return mesh


def _start(
    job: Job,
    manager: CheckpointManager,
    shapes: Any,
    shardings: Any,
    inputs: Mapping[str, Any],
    weights: tuple[Tree, Tree] | None,
) -> tuple[Any, int]:
    abstract = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )
    restored = manager.restore_latest(abstract, _CAME_LATER)
    if restored is not None:
        changed = [name for name in inputs if restored.metadata[name] != inputs[name]]
        if changed:
            what = {
                "frozen": "the frozen models (encoder, decoder or latent statistics)",
                "num_records": "the number of images",
            }
            raise ValueError(
                f"{manager.directory} was trained with other inputs: "
                f"{' and '.join(what[name] for name in changed)} changed since step "
                f"{restored.step}; put them back, or use another --workdir"
            )
        logging.info("going on after step %d", restored.step)
        return restored.state, restored.step
    state = jax.jit(job.initial_state, out_shardings=shardings)()
    return state if weights is None else _with_weights(state, weights, shardings), 0


def _with_weights(state: Any, weights: tuple[Tree, Tree], shardings: Any) -> Any:
    """The state with other parameters and buffers, which the moving average begins with too."""
    params, buffers = weights
    entries = {"params": params, "buffers": buffers, "ema": params}
    placed = {
        name: jax.tree.map(
            lambda new, old, sharding: place(np.asarray(new, old.dtype), sharding),
            entries[name],
            getattr(state, name),
            getattr(shardings, name),
        )
        for name in entries
    }
    return dataclasses.replace(state, **placed)


def guarded(step: Callable[..., Any], config: TrainingConfig) -> Callable[..., Any]:
    """`step` with what the configuration has it do about losses that are not finite."""
    return skip_non_finite(step) if config.loop.non_finite == "skip" else step


def skip_non_finite(step: Callable[..., Any]) -> Callable[..., Any]:
    """`step`, which changes nothing but counts if a metric of it is NaN or infinite."""

    def guarded(state: Any, *arguments: Any) -> tuple[Any, dict[str, Any]]:
        after, metrics = step(state, *arguments)
        sound = jnp.all(jnp.stack([jnp.isfinite(value) for value in metrics.values()]))
        kept = dataclasses.replace(state, step=after.step, skipped=state.skipped + 1)
        after = jax.tree.map(lambda new, old: jnp.where(sound, new, old), after, kept)
        return after, {**metrics, "skipped_steps": after.skipped}

    return guarded


def _log_start(job: Job, state: TrainState, span: tuple[int, int], num_devices: int) -> None:
    if not is_main_process():
        return
    for line in summary(job.config):
        logging.info("%s", line)
    logging.info(
        "%s: %s parameters to train, %s frozen",
        job.kind,
        f"{_size(state.params):,}",
        f"{_size(job.frozen):,}",
    )
    batch, records = job.config.global_batch_size, len(job.source)
    logging.info(
        "%d images per step on %d device(s); steps %d to %d, %.2f epochs of %d images",
        batch,
        num_devices,
        span[0] + 1,
        span[1],
        (span[1] - span[0]) * batch / records,
        records,
    )


def memory_report(state: Any, shardings: Any, frozen: Tree, frozen_at: PyTree) -> str:
    """One line on what each part of a state, and the frozen arrays, take on a device."""
    trees = {
        name: (getattr(state, name), getattr(shardings, name))
        for name in _REPORTED
        if hasattr(state, name)
    }
    return report({**trees, "frozen": (frozen, frozen_at)})


def _size(tree: Tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _records(job: Job, step: int) -> list[int]:
    """Numbers of this process's records in the batch of a step."""
    config = job.config
    batches = build.batches(
        job.source,
        config.data,
        seed=config.seed,
        global_batch_size=config.global_batch_size,
        start_step=step - 1,
    )
    return next(batches)["index"].tolist()


def _counted(
    job: Job, state: Any, batches: Iterator[Mapping[str, Any]]
) -> tuple[Iterator[Mapping[str, Any]], Callable[[int], float]]:
    """The batches, and the operations of the step that follows so many finished ones."""
    first = next(batches)
    whole = {
        name: jax.ShapeDtypeStruct((job.config.global_batch_size, *leaf.shape[1:]), leaf.dtype)
        for name, leaf in first.items()
    }

    @functools.cache
    def count(phases: Hashable) -> float:
        step: Any = job.step
        if phases is not None:
            step = functools.partial(step.in_phases, phases=phases)
        return count_operations(step, state, job.frozen, whole)

    def operations(step: int) -> float:
        return count(None if job.phases is None else job.phases(step))

    return itertools.chain([first], batches), operations


def _hooks(
    job: Job,
    frozen: Tree,
    writers: Sequence[Writer],
    to_steps: Callable[[str], int],
    mesh: Mesh,
    operations: Callable[[int], float],
) -> list[Hook]:
    settings = job.config.loop
    log_every, save_every, preview_every, keep_every = (
        _interval(to_steps, text)
        for text in (
            *(settings.log_every, settings.checkpoint_every, settings.preview_every),
            settings.keep_every or settings.checkpoint_every,
        )
    )
    log = LogMetrics(log_every, writers, job.config.global_batch_size, operations)
    if settings.non_finite == "skip":
        hooks: list[Hook] = [StopIfAllSkipped(log_every), log]
    else:
        # First, so that a state that went wrong is neither drawn nor saved.
        batch_of = functools.partial(_records, job)
        hooks = [StopOnNonFinite((log_every, save_every, keep_every), batch_of), log]
    if job.preview is not None:
        draw = functools.partial(_preview, job.preview, frozen, writers)
        hooks.append(Every(preview_every, draw))
    if job.evaluation is not None:
        evaluate = functools.partial(_evaluate, job.evaluation, frozen, writers, mesh)
        hooks.append(Every(max(to_steps(job.evaluation.every), 1), evaluate))
    return hooks


def _preview(
    draw: Preview, frozen: Tree, writers: Sequence[Writer], step: int, state: TrainState
) -> None:
    draw(step, state, frozen, writers)


def _evaluate(
    evaluation: Evaluation,
    frozen: Tree,
    writers: Sequence[Writer],
    mesh: Mesh,
    step: int,
    state: TrainState,
) -> None:
    scores = evaluation(state, frozen, mesh)
    for writer in writers:
        writer.scalars(step, {f"evaluation/{name}": value for name, value in scores.items()})
    shown = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
    logging.info("evaluation after step %d: %s", step, shown)
