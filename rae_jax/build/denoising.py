"""Denoisers, what they are trained on and how they are sampled, from their configuration."""

import dataclasses
from typing import Any

from flax import nnx

from rae_jax.build.runs import STAGE2, require_kind, restore_model
from rae_jax.checkpointing.experiment import checkpoint_folder
from rae_jax.checkpointing.partial_restore import read_metadata
from rae_jax.configuration import schema
from rae_jax.diffusion.flow import Flow
from rae_jax.diffusion.guidance import Guidance
from rae_jax.diffusion.losses import FlowMatching
from rae_jax.diffusion.paths import PATHS
from rae_jax.diffusion.sampler import Sampler
from rae_jax.diffusion.sde import Diffusion, Process, sde_interval
from rae_jax.diffusion.time_grids import sampling_interval, time_grid
from rae_jax.diffusion.time_sampling import TimeDistribution, time_shift
from rae_jax.layers.adaln_block import BlockStyle
from rae_jax.layers.functional import Buffer, Definition, abstract, split
from rae_jax.models.compute import Compute
from rae_jax.models.denoisers.base import TransformerDenoiser
from rae_jax.models.denoisers.dit_dh import DiTDH, DiTDHConfig
from rae_jax.models.denoisers.lightning_dit import LightningDiT, LightningDiTConfig
from rae_jax.typing import Tree


def flow_matching(
    config: schema.TransportConfig, latent_shape: tuple[int, int, int]
) -> FlowMatching:
    """What the denoiser is trained on; the time shift follows from the shape of the latents."""
    times = TimeDistribution(
        config.time_distribution,
        logit_mean=config.logit_mean,
        logit_std=config.logit_std,
        shift=time_shift(latent_shape, config.time_shift_base),
    )
    return FlowMatching(PATHS[config.path], config.prediction, times, config.loss_weight)


def sampler(
    transport: FlowMatching,
    latent_shape: tuple[int, int, int],
    config: schema.SamplerConfig,
    guidance: schema.GuidanceConfig,
) -> Sampler:
    """The configured integration and guidance, on the time grid that fits the transport.

    Raises:
        ValueError: The integration is undefined for the path or prediction of the transport.
    """
    path, prediction = transport.path, transport.prediction
    if config.mode == "sde":
        diffusion = Diffusion(config.diffusion_form, config.diffusion_norm)
        integrator = Process(path, prediction, diffusion, config.method, config.last_step)
        last = 0.0 if config.last_step == "none" else config.last_step_size
        interval = sde_interval(path, prediction, last)
    else:
        integrator = Flow(path, prediction, config.method, config.rtol, config.atol)
        interval = sampling_interval(path, prediction)
    grid = time_grid(
        config.num_steps,
        shift=transport.times.shift,
        interval=interval,
        final_step=config.final_step,
    )
    backbone_steps = config.backbone_steps
    if config.backbone_every > 1:
        backbone_steps = tuple(range(0, config.num_steps - 1, config.backbone_every))
    return Sampler(
        latent_shape,
        tuple(float(t) for t in grid),
        integrator,
        Guidance(guidance.method, guidance.scale, guidance.interval),
        backbone_steps,
    )


def denoiser(
    config: schema.DenoiserConfig,
    latent_shape: tuple[int, int, int],
    compute: Compute,
    *,
    has_null_label: bool,
    rngs: nnx.Rngs,
) -> TransformerDenoiser:
    """A denoiser of the configured kind and size with fresh parameters.

    Args:
        config: Sizes.
        latent_shape: (h, w, C) of the latents.
        compute: How to compute.
        has_null_label: Whether training drops labels; without, guidance by the null label would
            ask a row that was never trained.
        rngs: Source of the initial parameters.

    Raises:
        ValueError: The patch size does not divide the latents, or the heads not the widths.
    """
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    style = {field.name: values.pop(field.name) for field in dataclasses.fields(BlockStyle)}
    module, sizes = _DENOISERS[values.pop("kind")]
    made = sizes(
        latent_shape=latent_shape,
        has_null_label=has_null_label,
        style=BlockStyle(**style),
        **values,
    )
    return module(made, **compute.arguments, rngs=rngs)


_DENOISERS: dict[str, tuple[type[Any], type[Any]]] = {
    "dit_dh": (DiTDH, DiTDHConfig),
    "lightning_dit": (LightningDiT, LightningDiTConfig),
}


def denoiser_shapes(
    config: schema.Stage2Config, latent_shape: tuple[int, int, int]
) -> tuple[Definition[TransformerDenoiser], Tree, Tree]:
    """Structure of the denoiser of a stage-2 run, and shapes of its parameters and buffers."""
    empty = abstract(
        lambda: denoiser(
            config.denoiser,
            latent_shape,
            Compute.of(config),
            has_null_label=config.label_dropout > 0,
            rngs=nnx.Rngs(0),
        )
    )
    definition, params, buffers = split(empty, nnx.Param, Buffer)
    return definition, params, buffers


def restored_denoiser(
    workdir: str,
    config: schema.Stage2Config,
    latent_shape: tuple[int, int, int],
    *,
    weights: str = "ema",
) -> tuple[int, Definition[Any], tuple[Tree, Tree]]:
    """The denoiser of a stage-2 run from its newest sound checkpoint.

    Args:
        workdir: Work folder of the run.
        config: Settings of the run.
        latent_shape: (h, w, C) of the latents.
        weights: "ema" or "raw".

    Returns:
        Step of the checkpoint, structure of the denoiser, its parameters and buffers.

    Raises:
        FileNotFoundError: No checkpoint there.
        ValueError: All are damaged.
    """
    definition, params, buffers = denoiser_shapes(config, latent_shape)
    step, *trees = restore_model(workdir, params, buffers, weights=weights)
    return step, definition, (trees[0], trees[1])


def require_sampling(config: schema.SamplingConfig, stage2: schema.Stage2Config) -> None:
    """Checks what the denoiser of a run can do, before anything large is loaded.

    Args:
        config: What is asked of it.
        stage2: Settings of the run in its `checkpoint`.

    Raises:
        FileNotFoundError: The guide's run is missing.
        ValueError: The integration is undefined for the run's path or prediction, guidance or
            shared backbone states ask for what the denoiser does not have, or the guide is of
            other latents, classes or predictions.
    """
    # Latents of any shape will do: where a process is defined does not depend on the time shift.
    unshifted = (1, 1, stage2.transport.time_shift_base)
    sampler(flow_matching(stage2.transport, unshifted), unshifted, config.sampler, config.guidance)
    shared = config.sampler.backbone_every > 1 or config.sampler.backbone_steps
    if shared and stage2.denoiser.kind != "dit_dh":
        raise ValueError(
            f"the denoiser in {config.checkpoint} is a {stage2.denoiser.kind}, which has no "
            "backbone whose state steps could share; leave sampler.backbone_every at 1 and "
            "sampler.backbone_steps empty"
        )
    _require_guide(config.guidance, config.checkpoint, stage2, bool(shared))


def _require_guide(
    config: schema.GuidanceConfig, checkpoint: str, stage2: schema.Stage2Config, shared: bool
) -> None:
    if config.method == "classifier_free" and not stage2.label_dropout:
        raise ValueError(
            f"the denoiser in {checkpoint} was trained without label dropout and has no null "
            "label; set guidance.method to 'none' or 'autoguidance'"
        )
    if config.method != "autoguidance":
        return
    guide = schema.parse(schema.Stage2Config, require_kind(config.checkpoint, STAGE2))
    if shared and guide.denoiser.kind != "dit_dh":
        raise ValueError(
            f"the guide in {config.checkpoint} must be a dit_dh for steps to share backbone "
            f"states, it is a {guide.denoiser.kind}; name another run in guidance.checkpoint"
        )
    folders = config.checkpoint, checkpoint
    frozen = [read_metadata(checkpoint_folder(folder)).get("frozen", {}) for folder in folders]
    for name, guides, ours in (
        ("transport.path", guide.transport.path, stage2.transport.path),
        ("transport.prediction", guide.transport.prediction, stage2.transport.prediction),
        ("denoiser.num_classes", guide.denoiser.num_classes, stage2.denoiser.num_classes),
        *((part, *(noted.get(part) for noted in frozen)) for part in ("encoder", "normalization")),
    ):
        if guides != ours:
            raise ValueError(
                f"the guide in {config.checkpoint} must have the {name} of the denoiser in "
                f"{checkpoint}, {ours}, got {guides}; name another run in guidance.checkpoint"
            )


def restored_guide(
    config: schema.GuidanceConfig, latent_shape: tuple[int, int, int]
) -> tuple[int, Definition[Any], tuple[Tree, Tree]]:
    """The weaker denoiser of autoguidance, which `require_sampling` has checked.

    Returns:
        As `restored_denoiser`.
    """
    guide = schema.parse(schema.Stage2Config, require_kind(config.checkpoint, STAGE2))
    return restored_denoiser(config.checkpoint, guide, latent_shape, weights=config.weights)
