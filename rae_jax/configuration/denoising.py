"""Sections of the denoiser and its sampling; see `schema`."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from rae_jax.configuration.section import Section

_SIZES = ("hidden_size", "depth", "num_heads")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenoiserConfig(Section):
    """Latent diffusion transformer: keys of all kinds.

    Attributes:
        kind: "dit_dh" has the keys of `DiTDHConfig`, "lightning_dit" those of `LightningDiTConfig`.
        mlp_ratio: Inner width of feed-forward layers over their width; SwiGLU has two thirds of it.
        patch_size: Side of the square of latents that becomes one token.
        num_classes: Labels.
        use_qk_norm: Normalise queries and keys.
        use_swiglu: SwiGLU, else an MLP with tanh-GELU.
        use_rope: Rotary positions.
        use_rms_norm: RMSNorm with gain, else LayerNorm without affine part.
        use_shift: Blocks modulate with shift and scale, else with scale alone.
    """

    positive = ("mlp_ratio", "patch_size", "num_classes")

    kind: Literal["dit_dh", "lightning_dit"] = "dit_dh"
    mlp_ratio: float = 4.0
    patch_size: int = 1
    num_classes: int = 1000
    use_qk_norm: bool = False
    use_swiglu: bool = True
    use_rope: bool = True
    use_rms_norm: bool = True
    use_shift: bool = True

    def __post_init__(self) -> None:
        """See base."""
        super().__post_init__()
        fits = type(self) is _DENOISERS[self.kind]
        self.require(
            "kind", fits, f"be that of {type(self).__name__}; it says which keys there are"
        )

    def of_kind(self, values: Mapping[str, Any]) -> Section:
        """See base."""
        kind = _DENOISERS.get(str(values.get("kind", self.kind)), type(self))
        return self if kind is type(self) else kind()


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiTDHConfig(DenoiserConfig):
    """DiTDH: a backbone, and a wide and shallow head that draws.

    Attributes:
        backbone_hidden_size: Width of the backbone.
        backbone_depth: Blocks of the backbone.
        backbone_num_heads: Attention heads of the backbone.
        head_hidden_size: Width of the head.
        head_depth: Blocks of the head.
        head_num_heads: Attention heads of the head.
        use_position_embedding: Add fixed sine-cosine positions to the backbone's tokens.
    """

    positive = (
        *DenoiserConfig.positive,
        *(f"backbone_{size}" for size in _SIZES),
        *(f"head_{size}" for size in _SIZES),
    )

    backbone_hidden_size: int = 1152
    backbone_depth: int = 28
    backbone_num_heads: int = 16
    head_hidden_size: int = 2048
    head_depth: int = 2
    head_num_heads: int = 16
    use_position_embedding: bool = True

    def __post_init__(self) -> None:
        """See base."""
        super().__post_init__()
        for part in ("backbone", "head"):
            self.require_multiple(f"{part}_hidden_size", f"{part}_num_heads")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LightningDiTConfig(DenoiserConfig):
    """LightningDiT: one trunk of blocks.

    Attributes:
        hidden_size: Width of the tokens.
        depth: Blocks.
        num_heads: Attention heads.
        has_sigma: Predict twice the channels and drop the second half, as some published files do.
    """

    positive = (*DenoiserConfig.positive, *_SIZES)

    kind: Literal["dit_dh", "lightning_dit"] = "lightning_dit"
    hidden_size: int = 1152
    depth: int = 28
    num_heads: int = 16
    has_sigma: bool = False

    def __post_init__(self) -> None:
        """See base."""
        super().__post_init__()
        self.require_multiple("hidden_size", "num_heads")


_DENOISERS: dict[str, type[DenoiserConfig]] = {
    "dit_dh": DiTDHConfig,
    "lightning_dit": LightningDiTConfig,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransportConfig(Section):
    """Flow matching: path, what the denoiser predicts, distribution of times.

    Attributes:
        path: Interpolation between clean latents and noise.
        prediction: What the denoiser returns.
        loss_weight: Weighting of the loss of noise, score and clean predictions.
        time_distribution: Of t before the time shift.
        logit_mean: Mean of logit(t), for "logit_normal".
        logit_std: Standard deviation of logit(t), for "logit_normal".
        time_shift_base: Times are shifted by sqrt(latent size / time_shift_base).
    """

    positive = ("logit_std", "time_shift_base")

    path: Literal["linear", "gvp", "vp"] = "linear"
    prediction: Literal["velocity", "noise", "score", "clean"] = "velocity"
    loss_weight: Literal["none", "velocity", "likelihood"] = "none"
    time_distribution: Literal["logit_normal", "uniform"] = "logit_normal"
    logit_mean: float = 0.0
    logit_std: float = 1.0
    time_shift_base: int = 4096

    def __post_init__(self) -> None:
        """See base."""
        super().__post_init__()
        if self.prediction == "velocity":
            advice = "for prediction 'velocity', whose loss has no weights"
            self.require_defaults(("loss_weight",), advice)
        if self.prediction == "clean":
            defined = self.loss_weight != "likelihood"
            self.require("loss_weight", defined, "be 'none' or 'velocity' for prediction 'clean'")
        if self.time_distribution != "logit_normal":
            advice = f"for time_distribution {self.time_distribution!r}, which has no such value"
            self.require_defaults(("logit_mean", "logit_std"), advice)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerConfig(Section):
    """Integration from noise to latents.

    Attributes:
        mode: "ode": along the flow. "sde": with fresh noise in every step.
        method: Integrator; "sde" has "euler" and "heun". "dopri5" chooses its own steps.
        num_steps: Points of the time grid, so there is one step fewer.
        final_step: Of "ode". "grid" ends at the grid's last point, a little above t = 0 as the
            published models do; "zero" ends at t = 0.
        rtol: Relative error per step of "dopri5".
        atol: Absolute error per step of "dopri5".
        diffusion_form: Of "sde": how much noise comes and goes, see `diffusion.sde.Diffusion`.
        diffusion_norm: Its scale.
        last_step: Of "sde": from the grid's end to 0 without noise, see `diffusion.sde.Process`.
        last_step_size: Where the grid of "sde" ends, before the shift, for the last step to begin.
        backbone_every: Steps that share one state of a DiTDH's backbone (DDT, arXiv 2504.05741).
        backbone_steps: Numbers of the steps that compute the state, in place of every so many.
    """

    positive = ("rtol", "atol", "backbone_every")

    mode: Literal["ode", "sde"] = "ode"
    method: Literal["euler", "midpoint", "heun", "heun3", "rk4", "dopri5"] = "euler"
    num_steps: int = 50
    final_step: Literal["grid", "zero"] = "grid"
    rtol: float = 1e-3
    atol: float = 1e-6
    diffusion_form: Literal[
        "constant", "sbdm", "sigma", "linear", "decreasing", "increasing_decreasing"
    ] = "sigma"
    diffusion_norm: float = 1.0
    last_step: Literal["none", "mean", "tweedie", "euler"] = "mean"
    last_step_size: float = 0.04
    backbone_every: int = 1
    backbone_steps: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """See base."""
        super().__post_init__()
        self.require("num_steps", self.num_steps >= 2, "be at least 2")
        if self.mode == "sde":
            known = self.method in ("euler", "heun")
            self.require("method", known, "be 'euler' or 'heun' for mode 'sde'")
            self.require_defaults(("final_step",), "for mode 'sde'; set last_step")
            inside = 0 < self.last_step_size < 1
            self.require("last_step_size", inside, "be above 0 and below 1")
            if self.last_step == "none":
                self.require_defaults(("last_step_size",), "for last_step 'none'")
        else:
            names = ("diffusion_form", "diffusion_norm", "last_step", "last_step_size")
            self.require_defaults(names, "for mode 'ode'; set mode too")
        if self.method == "dopri5":
            self.require_defaults(("num_steps",), "for method 'dopri5'; set rtol and atol")
        else:
            advice = f"for method {self.method!r}; only 'dopri5' reads it"
            self.require_defaults(("rtol", "atol"), advice)
        self._require_backbone_steps()

    def _require_backbone_steps(self) -> None:
        if (self.mode, self.method) != ("ode", "euler"):
            advice = "but for mode 'ode' and method 'euler'"
            self.require_defaults(("backbone_every", "backbone_steps"), advice)
        if self.backbone_steps:
            steps, last = self.backbone_steps, self.num_steps - 2
            rising = list(steps) == sorted({*steps, 0}) and steps[-1] <= last
            self.require("backbone_steps", rising, f"rise from 0 to at most the last step, {last}")
            self.require_defaults(("backbone_every",), "where backbone_steps are set")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuidanceConfig(Section):
    """Guidance: away from what a worse prediction says.

    Attributes:
        method: "classifier_free": away from the denoiser's prediction without a label.
            "autoguidance": away from the prediction of a weaker denoiser.
        scale: 1 is no guidance.
        interval: Closed range of t in which guidance acts.
        checkpoint: Work folder of the stage-2 run of the weaker denoiser, for "autoguidance".
        weights: Which of its weights, averaged or last.
    """

    not_negative = ("scale",)

    method: Literal["none", "classifier_free", "autoguidance"] = "none"
    scale: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    checkpoint: str = ""
    weights: Literal["ema", "raw"] = "ema"

    def __post_init__(self) -> None:
        """See base."""
        super().__post_init__()
        low, high = self.interval
        self.require("interval", 0 <= low <= high <= 1, "be (low, high) with 0 <= low <= high <= 1")
        if self.method == "none":
            self.require_defaults(("scale", "interval"), "for method 'none'; set method too")
        if self.method != "autoguidance":
            advice = f"for method {self.method!r}; only 'autoguidance' reads it"
            self.require_defaults(("checkpoint", "weights"), advice)
        else:
            self.require("checkpoint", bool(self.checkpoint), "name a stage-2 run")
