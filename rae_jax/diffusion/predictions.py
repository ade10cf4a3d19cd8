"""What a denoiser may predict, and how one prediction becomes another.

With noisy = alpha * clean + sigma * noise, all four say the same: velocity (its derivative by t),
noise, clean, and score = -noise / sigma. Conversions are affine, so guidance may act before or
after them.
"""

from typing import Literal, get_args

from rae_jax.diffusion.paths import Path, Times, spread
from rae_jax.typing import Array, Float

Prediction = Literal["velocity", "noise", "score", "clean"]


def require_prediction(name: str) -> None:
    """Raises ValueError unless `name` is a known prediction."""
    if name not in get_args(Prediction):
        raise ValueError(f"prediction must be one of {get_args(Prediction)}, got {name!r}")


def score_from_noise(
    noise: Float[Array, "B h w C"], path: Path, t: Times
) -> Float[Array, "B h w C"]:
    """Score of the noisy latents; infinite at t = 0."""
    return -noise / spread(path.sigma(t), noise)


def velocity_from_noise(
    noise: Float[Array, "B h w C"], noisy_latents: Float[Array, "B h w C"], path: Path, t: Times
) -> Float[Array, "B h w C"]:
    """Velocity, by the path's `noise_drift`; infinite at t = 1."""
    of_latents, of_noise = path.noise_drift(t)
    return spread(of_latents, noise) * noisy_latents + spread(of_noise, noise) * noise


def velocity_from_score(
    score: Float[Array, "B h w C"], noisy_latents: Float[Array, "B h w C"], path: Path, t: Times
) -> Float[Array, "B h w C"]:
    """Velocity, by the path's `score_drift`; infinite at t = 1."""
    of_latents, of_score = path.score_drift(t)
    return spread(of_latents, score) * noisy_latents + spread(of_score, score) * score


def velocity_from_clean(
    clean_latents: Float[Array, "B h w C"],
    noisy_latents: Float[Array, "B h w C"],
    path: Path,
    t: Times,
) -> Float[Array, "B h w C"]:
    """Velocity of the path that leads from `clean_latents` through `noisy_latents`.

    On the linear path (noisy - clean) / t; infinite at t = 0.
    """
    sigma, rate = path.sigma(t), path.sigma_derivative(t)
    factor = path.alpha_derivative(t) * sigma - rate * path.alpha(t)
    scaled = spread(rate, noisy_latents) * noisy_latents
    return (scaled + spread(factor, noisy_latents) * clean_latents) / spread(sigma, noisy_latents)


def noise_from_velocity(
    velocity: Float[Array, "B h w C"], noisy_latents: Float[Array, "B h w C"], path: Path, t: Times
) -> Float[Array, "B h w C"]:
    """Noise; finite at both ends of the path."""
    of_velocity, of_latents = path.noise_factors(t)
    return spread(of_velocity, velocity) * velocity + spread(of_latents, velocity) * noisy_latents


def clean_from_velocity(
    velocity: Float[Array, "B h w C"], noisy_latents: Float[Array, "B h w C"], path: Path, t: Times
) -> Float[Array, "B h w C"]:
    """Clean latents; finite at both ends of the path."""
    of_velocity, of_latents = path.clean_factors(t)
    return spread(of_velocity, velocity) * velocity + spread(of_latents, velocity) * noisy_latents


def score_from_velocity(
    velocity: Float[Array, "B h w C"], noisy_latents: Float[Array, "B h w C"], path: Path, t: Times
) -> Float[Array, "B h w C"]:
    """Score; infinite at t = 0."""
    return score_from_noise(noise_from_velocity(velocity, noisy_latents, path, t), path, t)


def to_velocity(
    value: Float[Array, "B h w C"],
    prediction: str,
    noisy_latents: Float[Array, "B h w C"],
    path: Path,
    t: Times,
) -> Float[Array, "B h w C"]:
    """Velocity that `value`, a prediction of the given kind, stands for.

    Args:
        value: What the denoiser returned.
        prediction: "velocity", "noise", "score" or "clean".
        noisy_latents: What the denoiser saw.
        path: The path.
        t: The time, one for all samples or one per sample.

    Raises:
        ValueError: Unknown prediction.
    """
    require_prediction(prediction)
    if prediction == "noise":
        return velocity_from_noise(value, noisy_latents, path, t)
    if prediction == "score":
        return velocity_from_score(value, noisy_latents, path, t)
    if prediction == "clean":
        return velocity_from_clean(value, noisy_latents, path, t)
    return value


def to_score(
    value: Float[Array, "B h w C"],
    prediction: str,
    noisy_latents: Float[Array, "B h w C"],
    path: Path,
    t: Times,
) -> Float[Array, "B h w C"]:
    """Score that `value` stands for; arguments and errors as those of `to_velocity`."""
    require_prediction(prediction)
    if prediction == "noise":
        return score_from_noise(value, path, t)
    if prediction == "score":
        return value
    if prediction == "clean":
        rest = noisy_latents - spread(path.alpha(t), value) * value
        return -rest / spread(path.sigma(t) ** 2, value)
    return score_from_velocity(value, noisy_latents, path, t)
