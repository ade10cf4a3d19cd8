"""Denoisers, transport and samplers from their configuration."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rae_jax import build
from rae_jax.checkpointing.experiment import checkpoint_folder
from rae_jax.checkpointing.manager import CheckpointManager
from rae_jax.configuration import defaults, schema
from rae_jax.configuration.schema import (
    DiTDHConfig,
    GuidanceConfig,
    LightningDiTConfig,
    SamplerConfig,
    SamplingConfig,
    Stage2Config,
    TransportConfig,
    as_dict,
)
from rae_jax.diffusion.flow import Flow
from rae_jax.diffusion.guidance import Guidance
from rae_jax.diffusion.paths import PATHS
from rae_jax.diffusion.sde import Diffusion, Process
from rae_jax.layers.functional import abstract
from rae_jax.models.denoisers.dit_dh import DiTDH
from rae_jax.models.denoisers.lightning_dit import LightningDiT

SHAPE = (4, 6, 8)
STYLE = {
    "mlp_ratio": 2.0,
    "use_qk_norm": True,
    "use_swiglu": False,
    "use_rms_norm": False,
    "use_shift": False,
}
COMMON = {**STYLE, "patch_size": 2, "num_classes": 3, "use_rope": False}


def built(config, **changes):
    changes = {"has_null_label": True, **changes}
    compute = build.Compute("bfloat16", 2, "dots")
    return abstract(lambda: build.denoiser(config, SHAPE, compute, rngs=nnx.Rngs(0), **changes))


def test_every_key_of_a_dit_dh_arrives():
    config = DiTDHConfig(
        **COMMON,
        backbone_hidden_size=24,
        backbone_depth=3,
        backbone_num_heads=2,
        head_hidden_size=16,
        head_depth=2,
        head_num_heads=4,
        use_position_embedding=False,
    )
    model = built(config, has_null_label=False)
    assert isinstance(model, DiTDH) and model.position_table is None
    found = dataclasses.asdict(model.config)
    assert found.pop("style") == STYLE
    assert (found.pop("latent_shape"), found.pop("has_null_label")) == (SHAPE, False)
    kept = {name: value for name, value in as_dict(config).items() if name not in STYLE}
    assert found == {name: value for name, value in kept.items() if name != "kind"}
    assert (model.unroll, model.remat, model.dtype) == (2, "dots", jnp.dtype("bfloat16"))


def test_every_key_of_a_lightning_dit_arrives():
    config = LightningDiTConfig(**COMMON, hidden_size=24, depth=3, num_heads=2, has_sigma=True)
    model = built(config)
    assert isinstance(model, LightningDiT) and model.null_label == 3
    found = dataclasses.asdict(model.config)
    assert found.pop("style") == STYLE
    assert (found.pop("latent_shape"), found.pop("has_null_label")) == (SHAPE, True)
    kept = {name: value for name, value in as_dict(config).items() if name not in STYLE}
    assert found == {name: value for name, value in kept.items() if name != "kind"}
    assert model.output.linear.kernel.shape == (24, 2 * 2 * 2 * 8)


@pytest.mark.parametrize("name", defaults.DENOISERS)
def test_published_sizes_can_be_built(name):
    model = abstract(
        lambda: build.denoiser(
            defaults.DENOISERS[name],
            (16, 16, 768),
            build.Compute(),
            has_null_label=True,
            rngs=nnx.Rngs(0),
        )
    )
    assert model.null_label == 1000 and model.latent_shape == (16, 16, 768)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prediction", ["velocity", "noise", "score", "clean"])
def test_every_transport_arrives_with_the_shift_of_the_latents(path, prediction):
    weight = {"velocity": "none", "clean": "velocity"}.get(prediction, "likelihood")
    config = TransportConfig(
        path=path, prediction=prediction, loss_weight=weight, logit_mean=0.5, logit_std=0.7
    )
    transport = build.flow_matching(config, (16, 16, 768))
    assert (transport.path, transport.prediction) == (PATHS[path], prediction)
    assert transport.weight == weight
    times = transport.times
    assert (times.kind, times.logit_mean, times.logit_std) == ("logit_normal", 0.5, 0.7)
    assert times.shift == pytest.approx(np.sqrt(48))
    config = TransportConfig(time_distribution="uniform", time_shift_base=100)
    times = build.flow_matching(config, (10, 10, 4)).times
    assert (times.kind, times.shift) == ("uniform", 2.0)


def sampler(guidance=GuidanceConfig(), transport=TransportConfig(), **values):  # noqa: B008
    transport = build.flow_matching(transport, (16, 16, 768))
    return build.sampler(transport, (16, 16, 768), SamplerConfig(**values), guidance)


def test_the_published_sampler_is_the_default():
    made = sampler()
    assert made.integrator == Flow() and made.guidance == Guidance() and made.backbone_steps == ()
    assert len(made.times) == 50 and made.times[0] == 1
    assert made.times[-1] == pytest.approx(0.00688728503882885, rel=1e-4)


def test_every_key_of_the_sampler_arrives():
    assert sampler(method="rk4").integrator == Flow(method="rk4")
    assert sampler(final_step="zero").times[-1] == 0
    adaptive = sampler(method="dopri5", rtol=1e-4, atol=1e-5)
    assert adaptive.integrator == Flow(method="dopri5", rtol=1e-4, atol=1e-5)
    stochastic = sampler(
        mode="sde",
        method="heun",
        diffusion_form="linear",
        diffusion_norm=0.5,
        last_step="tweedie",
        last_step_size=0.1,
        num_steps=7,
    )
    linear = PATHS["linear"]
    expected = Process(linear, "velocity", Diffusion("linear", 0.5), "heun", "tweedie")
    assert stochastic.integrator == expected
    shift = np.sqrt(48)
    assert stochastic.times[-1] == pytest.approx(shift * 0.1 / (1 + (shift - 1) * 0.1))
    assert sampler(mode="sde", last_step="none").times[-1] == 0
    assert sampler(num_steps=8, backbone_every=3).backbone_steps == (0, 3, 6)
    assert sampler(backbone_steps=(0, 7)).backbone_steps == (0, 7)
    guidance = GuidanceConfig(method="classifier_free", scale=1.5, interval=(0.1, 0.9))
    assert sampler(guidance).guidance == Guidance("classifier_free", 1.5, (0.1, 0.9))


def test_what_is_undefined_is_told_when_it_is_built():
    with pytest.raises(ValueError, match="'sbdm' .* is negative or infinite on LinearPath"):
        sampler(mode="sde", diffusion_form="sbdm")
    with pytest.raises(ValueError, match="a clean prediction has no velocity at t = 0"):
        sampler(transport=TransportConfig(prediction="clean"), method="heun", final_step="zero")


def run_folder(folder, config, frozen=None):
    """A stage-2 run of which only the notes are there."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"kind": "stage2", "config": as_dict(config)}))
    with CheckpointManager(checkpoint_folder(folder)) as manager:
        manager.save(0, {"params": {"a": jnp.zeros(1)}}, {"frozen": frozen or {"encoder": "e"}})
    return str(folder)


def require(checkpoint, stage2, guidance=GuidanceConfig(), **sampler):  # noqa: B008
    sampler = SamplerConfig(**sampler)
    config = SamplingConfig(checkpoint=checkpoint, guidance=guidance, sampler=sampler)
    build.require_sampling(config, stage2)


@pytest.mark.parametrize(
    ("changes", "frozen", "message"),
    [
        ({"transport": TransportConfig(path="gvp")}, None, "must have the transport.path"),
        (
            {"transport": TransportConfig(prediction="noise")},
            None,
            "must have the transport.prediction of the denoiser .*, velocity, got noise",
        ),
        ({"denoiser": DiTDHConfig(num_classes=7)}, None, "denoiser.num_classes .*, 1000, got 7"),
        ({}, {"encoder": "another"}, "must have the encoder of the denoiser .*, e, got another"),
        (
            {"denoiser": LightningDiTConfig()},
            None,
            "must be a dit_dh for steps to share backbone states, it is a lightning_dit",
        ),
    ],
)
def test_guides_must_fit(tmp_path, changes, frozen, message):
    stage2 = Stage2Config()
    ours = run_folder(tmp_path / "ours", stage2)
    guides = run_folder(tmp_path / "guide", dataclasses.replace(stage2, **changes), frozen)
    guidance = GuidanceConfig(method="autoguidance", scale=1.5, checkpoint=guides)
    with pytest.raises(ValueError, match=message):
        require(ours, stage2, guidance, backbone_every=2)


def test_guides_may_be_of_another_kind(tmp_path):
    stage2 = Stage2Config()
    ours = run_folder(tmp_path / "ours", stage2)
    other = dataclasses.replace(stage2, denoiser=LightningDiTConfig(), label_dropout=0.0)
    guides = run_folder(tmp_path / "guide", other)
    require(ours, stage2, GuidanceConfig(method="autoguidance", scale=1.5, checkpoint=guides))
    missing = GuidanceConfig(method="autoguidance", scale=1.5, checkpoint=str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match="no folder"):
        require(ours, stage2, missing)


def test_denoisers_must_have_what_sampling_asks_of_them():
    trunk = schema.Stage2Config(denoiser=LightningDiTConfig())
    with pytest.raises(ValueError, match="is a lightning_dit, which has no backbone"):
        require("runs/a", trunk, backbone_steps=(0, 3))
    undropped = schema.Stage2Config(label_dropout=0.0)
    free = GuidanceConfig(method="classifier_free", scale=1.5)
    with pytest.raises(ValueError, match="runs/a was trained without label dropout and has no"):
        require("runs/a", undropped, free)
