"""Sections of denoisers, transport, sampler and guidance."""

import dataclasses

import pytest

from rae_jax.configuration import defaults, schema
from rae_jax.configuration.schema import (
    DiTDHConfig,
    GuidanceConfig,
    LightningDiTConfig,
    SamplerConfig,
    Stage2Config,
    TransportConfig,
)

TRUNK = {"kind": "lightning_dit", "hidden_size": 768, "depth": 12, "num_heads": 12}


def error_of(values, cls=Stage2Config):
    with pytest.raises(schema.ConfigError) as caught:
        schema.parse(cls, values)
    return str(caught.value)


def test_each_kind_of_denoiser_has_its_own_keys():
    config = schema.parse(Stage2Config, {"denoiser": TRUNK})
    assert config.denoiser == LightningDiTConfig(hidden_size=768, depth=12, num_heads=12)
    assert schema.parse(Stage2Config, schema.as_dict(config)) == config
    config = schema.parse(Stage2Config, {"denoiser": {"backbone_depth": 3}})
    assert config.denoiser == DiTDHConfig(backbone_depth=3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {**TRUNK, "head_depth": 2},
            "unknown key 'denoiser.head_depth' in LightningDiTConfig: did you mean 'depth'?",
        ),
        (
            {"has_sigma": True},
            "unknown key 'denoiser.has_sigma' in DiTDHConfig: did you mean ",
        ),
        (
            {"kind": "dit"},
            "denoiser.kind must be one of ('dit_dh', 'lightning_dit'), got 'dit'",
        ),
        (
            {**TRUNK, "num_heads": 7},
            "denoiser.hidden_size must be a multiple of num_heads, 7, got 768",
        ),
        ({**TRUNK, "depth": 0}, "denoiser.depth must be above 0, got 0"),
        ({"head_num_heads": 3}, "denoiser.head_hidden_size must be a multiple of head_num_heads"),
    ],
)
def test_keys_and_sizes_of_denoisers(values, message):
    assert error_of({"denoiser": values}).startswith(message)


def test_a_kind_cannot_have_the_keys_of_another():
    with pytest.raises(schema.ConfigError, match="kind must be that of DiTDHConfig"):
        dataclasses.replace(DiTDHConfig(), kind="lightning_dit")


def test_published_sizes_have_their_kind():
    assert defaults.denoiser("lightning_dit_xl").kind == "lightning_dit"
    assert defaults.denoiser("dit_dh_s").kind == "dit_dh"
    with pytest.raises(schema.ConfigError, match="unknown denoiser 'dit_xl': did you mean"):
        defaults.denoiser("dit_xl")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss_weight": "velocity"}, "loss_weight must be 'none' for prediction 'velocity'"),
        (
            {"prediction": "clean", "loss_weight": "likelihood"},
            "loss_weight must be 'none' or 'velocity' for prediction 'clean'",
        ),
        (
            {"time_distribution": "uniform", "logit_mean": 0.5},
            "logit_mean must be 0.0 for time_distribution 'uniform'",
        ),
        ({"logit_std": 0.0}, "logit_std must be above 0"),
    ],
)
def test_impossible_transport(values, message):
    assert error_of(values, TransportConfig).startswith(message)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rtol": 1e-4}, "rtol must be 0.001 for method 'euler'; only 'dopri5' reads it"),
        ({"method": "dopri5", "num_steps": 9}, "num_steps must be 50 for method 'dopri5'"),
        ({"method": "dopri5", "atol": 0.0}, "atol must be above 0"),
        ({"mode": "sde", "method": "rk4"}, "method must be 'euler' or 'heun' for mode 'sde'"),
        ({"mode": "sde", "final_step": "zero"}, "final_step must be 'grid' for mode 'sde'"),
        ({"mode": "sde", "last_step_size": 0.0}, "last_step_size must be above 0 and below 1"),
        (
            {"mode": "sde", "last_step": "none", "last_step_size": 0.1},
            "last_step_size must be 0.04 for last_step 'none'",
        ),
        ({"diffusion_form": "linear"}, "diffusion_form must be 'sigma' for mode 'ode'"),
        ({"last_step": "none"}, "last_step must be 'mean' for mode 'ode'"),
        ({"backbone_every": 0}, "backbone_every must be above 0"),
        ({"method": "heun", "backbone_every": 2}, "backbone_every must be 1 but for mode 'ode'"),
        ({"mode": "sde", "backbone_steps": (0, 2)}, "backbone_steps must be () but for mode 'ode'"),
        (
            {"backbone_steps": (1, 2)},
            "backbone_steps must rise from 0 to at most the last step",
        ),
        ({"backbone_steps": (0, 49)}, "backbone_steps must rise from 0"),
        ({"backbone_steps": (0, 2), "backbone_every": 2}, "backbone_every must be 1 where"),
    ],
)
def test_impossible_samplers(values, message):
    assert error_of(values, SamplerConfig).startswith(message)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"interval": (0.1, 0.9)}, "interval must be (0.0, 1.0) for method 'none'"),
        ({"method": "autoguidance", "scale": 1.5}, "checkpoint must name a stage-2 run"),
        (
            {"method": "classifier_free", "checkpoint": "runs/small"},
            "checkpoint must be '' for method 'classifier_free'; only 'autoguidance' reads it",
        ),
        ({"weights": "raw"}, "weights must be 'ema' for method 'none'"),
        ({"method": "classifier_free", "interval": (0.9, 0.1)}, "interval must be (low, high)"),
        ({"method": "classifier_free", "scale": -1.0}, "scale must be at least 0"),
    ],
)
def test_impossible_guidance(values, message):
    assert error_of(values, GuidanceConfig).startswith(message)
