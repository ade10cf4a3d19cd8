"""Guided predictions and whole sampling runs of tiny denoisers against upstream."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rae_jax.diffusion.guidance import autoguidance, classifier_free, unguided
from rae_jax.diffusion.ode import integrate
from rae_jax.diffusion.time_grids import time_grid
from rae_jax.layers.functional import split
from tests.comparison import load_case, nchw_to_nhwc, nhwc_to_nchw
from tests.models.denoisers.published import loaded_dit_dh


def velocity_of(definition, weights):
    return lambda latents, t, labels: definition.merge(weights)(latents, t, labels).prediction


class Pair:
    """A denoiser and its guide from one golden case."""

    def __init__(self, name):
        self.case = load_case(name)
        main, guide = (
            loaded_dit_dh(self.case),
            loaded_dit_dh(self.case, self.case.statement["guide"]),
        )
        self.null_label = main.null_label
        self.main, self.main_weights = split(main)
        self.guide, self.guide_weights = split(guide)

    def jit(self, function):
        """Compiles `function(main, guide, *inputs)`, with the weights as arguments."""

        def with_weights(main_weights, guide_weights, *inputs):
            main = velocity_of(self.main, main_weights)
            return function(main, velocity_of(self.guide, guide_weights), *inputs)

        compiled = jax.jit(with_weights)
        return lambda *inputs: compiled(self.main_weights, self.guide_weights, *inputs)


@pytest.fixture(scope="module")
def guided():
    return Pair("ditdh_cfg_autoguidance")


def calls(method):
    statement = load_case("ditdh_cfg_autoguidance").statement
    return [call for call in statement["calls"] if call["method"] == method]


def inputs_of(case, call):
    latents, t, labels = (case.input(call["args"][name]) for name in "xty")
    return jnp.asarray(nchw_to_nhwc(latents)), t, jnp.asarray(labels, jnp.int32)


@pytest.mark.parametrize("call", calls("forward_with_cfg"), ids=lambda call: call["output"])
def test_classifier_free_guidance_matches_upstream(guided, call):
    latents, t, labels = inputs_of(guided.case, call)
    settings = call["kwargs"]
    interval = tuple(settings.get("cfg_interval", (0.0, 1.0)))

    @guided.jit
    def evaluate(main, guide, latents, t, labels):
        scale, null = settings["cfg_scale"], guided.null_label
        drift = classifier_free(main, labels, null, scale=scale, interval=interval)
        return drift(latents, t)

    # Upstream's second half repeats the first with null labels; times differ within the batch.
    items = range(5)
    half = [evaluate(latents[n : n + 1], t[n], labels[n : n + 1]) for n in items]
    guided.case.assert_close(call["output"], nhwc_to_nchw(jnp.concatenate(half + half)))


@pytest.mark.parametrize("call", calls("forward_with_autoguidance"), ids=lambda c: c["output"])
def test_autoguidance_matches_upstream(guided, call):
    latents, t, labels = inputs_of(guided.case, call)
    settings = call["kwargs"]
    interval = tuple(settings.get("cfg_interval", (0.0, 1.0)))

    @guided.jit
    def evaluate(main, guide, latents, t, labels):
        scale = settings["cfg_scale"]
        return autoguidance(main, guide, labels, scale=scale, interval=interval)(latents, t)

    items = [evaluate(latents[n : n + 1], t[n], labels[n : n + 1]) for n in range(10)]
    guided.case.assert_close(call["output"], nhwc_to_nchw(jnp.concatenate(items)))


def test_unguided_predictions_match_upstream(guided):
    (call,) = calls("forward")
    latents, t, labels = inputs_of(guided.case, call)
    evaluate = guided.jit(lambda main, guide, *inputs: main(*inputs))
    guided.case.assert_close("plain", nhwc_to_nchw(evaluate(latents, jnp.asarray(t), labels)))


@pytest.fixture(scope="module")
def sampling():
    return Pair("ditdh_sampling_tiny")


RUNS = load_case("ditdh_sampling_tiny").statement["calls"]


def grid_of(case):
    return time_grid(
        case.statement["sampler"]["num_steps"], case.statement["transport"]["time_dist_shift"]
    )


def test_sampling_grid_matches_upstream(sampling):
    sampling.case.assert_close("grid", grid_of(sampling.case))


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run["output"])
def test_sampling_matches_upstream(sampling, run):
    case, settings = sampling.case, run["kwargs"]

    @sampling.jit
    def sample(main, guide, noise, labels):
        drift = unguided(main, labels)
        if settings:
            guidance = {"scale": settings["cfg_scale"], "interval": tuple(settings["cfg_interval"])}
            if run["method"] == "forward_with_cfg":
                drift = classifier_free(main, labels, sampling.null_label, **guidance)
            else:
                drift = autoguidance(main, guide, labels, **guidance)
        return integrate(drift, noise, grid_of(case), keep_states=True)

    noise = jnp.asarray(nchw_to_nhwc(case.input("noise")))
    states = np.asarray(sample(noise, jnp.asarray(case.input("y"), jnp.int32)))
    case.assert_close(run["output"], nhwc_to_nchw(states[case.statement["kept_indices"]]))
