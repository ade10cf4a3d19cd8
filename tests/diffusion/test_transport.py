"""Paths, predictions, training times and losses against the published transport."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rae_jax.diffusion import predictions
from rae_jax.diffusion.losses import FlowMatching
from rae_jax.diffusion.paths import PATHS, spread
from rae_jax.diffusion.time_sampling import TimeDistribution, training_interval
from tests.comparison import load_case, nchw_to_nhwc, nhwc_to_nchw
from tests.diffusion.closed_forms import FORMS

DISTRIBUTIONS = {
    "uniform": ("uniform", 1.0),
    "logit-normal_0_1": ("logit_normal", 6.928203230275509),
}


class Transport:
    """A golden case with its arrays in our layout."""

    def __init__(self, name):
        self.case, self.path = load_case(f"transport_{name}"), PATHS[name]
        self.noise, self.clean, self.value = (
            jnp.asarray(nchw_to_nhwc(self.case.input(key))) for key in ("x0", "x1", "v")
        )
        self.t, self.draws = (jnp.asarray(self.case.input(key)) for key in ("t", "draws"))
        self.noisy = self.path.noisy_latents(self.clean, self.noise, self.t)

    def network(self, latents, t):
        return FORMS[self.case.config["model"]](latents, spread(t, latents))

    def times(self, distribution, prediction):
        ends = training_interval(self.path, prediction)
        return TimeDistribution(*DISTRIBUTIONS[distribution]).quantile(self.draws, ends)

    def assert_close(self, name, value):
        self.case.assert_close(name, nhwc_to_nchw(value) if np.ndim(value) == 4 else value)


@pytest.fixture(scope="module", params=PATHS)
def transport(request):
    return Transport(request.param)


def test_coefficients_match_upstream(transport):
    path, t = transport.path, transport.t
    for name, value in {
        "alpha": path.alpha(t),
        "sigma": path.sigma(t),
        "d_alpha": path.alpha_derivative(t),
        "d_sigma": path.sigma_derivative(t),
        "d_alpha_over_alpha": path.alpha_log_derivative(t),
    }.items():
        transport.assert_close(name, value)


def test_points_and_velocities_match_upstream(transport):
    transport.assert_close("xt", transport.noisy)
    velocity = transport.path.velocity(transport.clean, transport.noise, transport.t)
    transport.assert_close("ut", velocity)


def test_score_drift_matches_upstream(transport):
    of_latents, of_score = transport.path.score_drift(transport.t)
    transport.assert_close("drift_mean", -spread(of_latents, transport.noisy) * transport.noisy)
    transport.assert_close("drift_var", of_score)


@pytest.mark.parametrize("name", ["score_from_velocity", "noise_from_velocity"])
def test_conversions_of_velocity_match_upstream(transport, name):
    convert = getattr(predictions, name)
    value = convert(transport.value, transport.noisy, transport.path, transport.t)
    transport.assert_close(name, value)


def test_velocity_from_score_matches_upstream(transport):
    value = predictions.velocity_from_score(
        transport.value, transport.noisy, transport.path, transport.t
    )
    transport.assert_close("velocity_from_score", value)


@pytest.mark.parametrize("prediction", ["velocity", "noise", "score"])
def test_drift_and_score_of_each_prediction_match_upstream(transport, prediction):
    value = transport.network(transport.noisy, transport.t)
    rest = (prediction, transport.noisy, transport.path, transport.t)
    transport.assert_close(f"ode_drift.{prediction}", predictions.to_velocity(value, *rest))
    transport.assert_close(f"score.{prediction}", predictions.to_score(value, *rest))


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("prediction", ["velocity", "noise", "score"])
def test_training_times_match_upstream(transport, distribution, prediction):
    times = transport.times(distribution, prediction)
    transport.assert_close(f"training_t.{distribution}.{prediction}", times)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("prediction", ["velocity", "noise", "score"])
@pytest.mark.parametrize("weight", ["None", "velocity", "likelihood"])
def test_losses_match_upstream(transport, distribution, prediction, weight):
    matching = FlowMatching(transport.path, prediction, weight=weight.lower())
    t = transport.times(distribution, prediction)
    loss = matching.loss_at(transport.network, transport.clean, transport.noise, t)
    transport.assert_close(f"loss.{distribution}.{prediction}.{weight}", loss)


def test_training_intervals_match_upstream(transport):
    for record in transport.case.statement["records"]["check_interval"]:
        if record["use"] == "training":
            ends = training_interval(transport.path, record["prediction"], record["given_eps"])
            np.testing.assert_allclose(ends, record["t0_t1"], rtol=0, atol=1e-12)


def test_derivatives_are_those_of_the_coefficients(transport):
    path = transport.path
    for value, derivative in (
        (path.alpha, path.alpha_derivative),
        (path.sigma, path.sigma_derivative),
    ):
        expected = jax.vmap(jax.grad(value))(transport.t)
        np.testing.assert_allclose(derivative(transport.t), expected, rtol=2e-5, atol=1e-6)


def test_paths_lead_from_clean_latents_to_noise(transport):
    ends = jnp.array([0.0, 1.0])
    tolerance = 8e-3 if transport.case.name == "transport_vp" else 1e-7
    np.testing.assert_allclose(transport.path.alpha(ends), [1, 0], rtol=0, atol=tolerance)
    np.testing.assert_allclose(transport.path.sigma(ends), [0, 1], rtol=0, atol=tolerance)


@pytest.mark.parametrize("prediction", ["velocity", "noise", "score", "clean"])
def test_true_predictions_give_the_true_velocity(transport, prediction):
    path, t = transport.path, transport.t
    truth = path.velocity(transport.clean, transport.noise, t)
    value = {
        "velocity": truth,
        "noise": transport.noise,
        "score": -transport.noise / spread(path.sigma(t), truth),
        "clean": transport.clean,
    }[prediction]
    velocity = predictions.to_velocity(value, prediction, transport.noisy, path, t)
    # The published factors of the VP path belong to another path, see its docstring.
    true = transport.case.name != "transport_vp" or prediction in ("velocity", "clean")
    assert np.allclose(velocity, truth, rtol=0, atol=2e-4) == true


@pytest.mark.parametrize("prediction", ["velocity", "noise", "score", "clean"])
def test_true_predictions_give_the_true_score_and_clean_latents(transport, prediction):
    path, t = transport.path, transport.t
    velocity = path.velocity(transport.clean, transport.noise, t)
    truth = -transport.noise / spread(path.sigma(t), velocity)
    value = {
        "velocity": velocity,
        "noise": transport.noise,
        "score": truth,
        "clean": transport.clean,
    }[prediction]
    score = predictions.to_score(value, prediction, transport.noisy, path, t)
    # In units of the noise, as scores grow without bound towards t = 0.
    scaled = spread(path.sigma(t), score) * score
    np.testing.assert_allclose(scaled, -transport.noise, rtol=0, atol=3e-5)  # measured: 7.4e-6
    clean = predictions.clean_from_velocity(velocity, transport.noisy, path, t)
    np.testing.assert_allclose(clean, transport.clean, rtol=0, atol=1e-5)


@pytest.mark.parametrize("prediction", ["noise", "score", "clean"])
def test_velocity_weight_is_the_error_of_the_implied_velocity(prediction):
    transport = Transport("linear")
    wrong = FlowMatching(prediction=prediction, weight="velocity")
    loss = wrong.loss_at(transport.network, transport.clean, transport.noise, transport.t)
    value = transport.network(transport.noisy, transport.t)
    velocity = predictions.to_velocity(
        value, prediction, transport.noisy, transport.path, transport.t
    )
    error = velocity - transport.path.velocity(transport.clean, transport.noise, transport.t)
    np.testing.assert_allclose(loss, jnp.mean(error**2, axis=(1, 2, 3)), rtol=1e-4)


def test_one_time_for_all_equals_one_per_sample(transport):
    t = jnp.float32(0.3)
    for name in ("noisy_latents", "velocity"):
        function = getattr(transport.path, name)
        np.testing.assert_array_equal(
            function(transport.clean, transport.noise, t),
            function(transport.clean, transport.noise, jnp.full((6,), t)),
        )


def test_noise_and_score_predictions_have_a_velocity_where_there_is_no_noise():
    value = Transport("linear").noise
    for path in (PATHS["linear"], PATHS["gvp"]):
        for prediction in ("noise", "score"):
            velocity = predictions.to_velocity(value, prediction, value, path, jnp.float32(0))
            assert np.all(np.isfinite(velocity))


def test_velocities_have_noise_and_clean_latents_at_both_ends(transport):
    for t in (0.0, 1.0):
        for convert in (predictions.noise_from_velocity, predictions.clean_from_velocity):
            value = convert(transport.value, transport.clean, transport.path, jnp.float32(t))
            assert np.all(np.isfinite(value))


def test_unknown_predictions_are_refused():
    transport = Transport("linear")
    for convert in (predictions.to_velocity, predictions.to_score):
        with pytest.raises(ValueError, match="prediction must be one of .* got 'v'"):
            convert(transport.value, "v", transport.noisy, transport.path, transport.t)
