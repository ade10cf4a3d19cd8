"""DiffAug against the RAE release, and its own randomness."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rae_jax.ops.augment import apply_augmentation, augment
from tests.comparison import load_case, nchw_to_nhwc, nhwc_to_nchw
from tests.golden import recipe


@pytest.fixture(scope="module")
def case():
    return load_case("diffaug")


applied = jax.jit(apply_augmentation, static_argnames=("probability", "cutout"))


def inputs(case, size, pick=None):
    images = jnp.asarray(nchw_to_nhwc(case.input(f"images_{size}")))
    choices = case.input(f"pick_{pick}" if pick else f"rand3_{size}")
    return images, jnp.asarray(choices), jnp.asarray(case.input(f"rand7_{size}"))[..., 0, 0]


def modes(case):
    return case.config["modes"].items()


def test_every_mode_matches_upstream(case):
    for name, settings in modes(case):
        pick, cutout, size = name.split("_")
        numbers = inputs(case, size, None if pick == "all" else pick)
        images = applied(*numbers, probability=settings["prob"], cutout=settings["cutout"])
        case.assert_close(name, nhwc_to_nchw(images))
    # Upstream switches the cutout off by a negative probability.
    images, _, draws = inputs(case, "32x32")
    images = applied(images, jnp.zeros(3), draws, probability=1.0)
    case.assert_close("negative_prob_32x32", nhwc_to_nchw(images))


@pytest.mark.parametrize("size", ["32x32", "20x36"])
def test_gradient_matches_upstream(case, size):
    images, choices, draws = inputs(case, size)
    weight = jnp.asarray(nchw_to_nhwc(case.input(f"weight_{size}")))

    def weighted(images):
        result = apply_augmentation(images, choices, draws, probability=1.0, cutout=0.2)
        return jnp.sum(result * weight)

    slope = jax.jit(jax.grad(weighted))(images)
    case.assert_close(f"grad_all_cutout0.2_{size}", nhwc_to_nchw(slope))


def test_zeros_and_untouched_images_would_fail(case):
    for name, _ in modes(case):
        size = name.split("_")[-1]
        tolerance = case.statement["outputs"][name]["tolerance"]
        assert np.abs(case.output(name)).max() > 1000 * tolerance
        if not name.startswith("none"):
            difference = np.abs(case.output(name) - case.input(f"images_{size}"))
            assert difference.max() > 1000 * tolerance


SIDE = 16
IMAGES = jnp.asarray(recipe.uniform("augmented", (6, SIDE, SIDE, 3)))
drawn = jax.jit(augment, static_argnames=("probability", "cutout"))


def test_the_same_key_gives_the_same_and_each_image_its_own():
    same = jnp.broadcast_to(IMAGES[:1], IMAGES.shape)
    first = drawn(same, jax.random.key(0), probability=1.0, cutout=0.25)
    np.testing.assert_array_equal(
        first, drawn(same, jax.random.key(0), probability=1.0, cutout=0.25)
    )
    assert np.any(first != drawn(same, jax.random.key(1), probability=1.0, cutout=0.25))
    for one in range(len(first)):
        for other in range(one):
            assert np.any(first[one] != first[other])


def test_an_image_does_not_depend_on_the_batch():
    whole = drawn(IMAGES, jax.random.key(3), probability=1.0, cutout=0.25)
    part = drawn(IMAGES[:2], jax.random.key(3), probability=1.0, cutout=0.25)
    np.testing.assert_allclose(whole[:2], part, rtol=0, atol=1e-6)


def test_probability_is_that_of_each_of_the_three():
    """A flat image: translation brings zeros in, colour changes the level, cutout blanks."""
    flat = jnp.ones((1, SIDE, SIDE, 3))
    keys = jax.random.split(jax.random.key(0), 400)

    def classified(key):
        image = augment(flat, key, probability=0.3, cutout=0.25)[0]
        level = jnp.max(jnp.abs(image))
        blanks = jnp.sum(image[..., 0] == 0)
        return level != 1, blanks > 0

    coloured, blanked = jax.jit(jax.vmap(classified))(keys)
    assert 0.2 < float(coloured.mean()) < 0.4
    # 1 - 0.7 * 0.7, less the translations by nothing.
    assert 0.38 < float(blanked.mean()) < 0.6
    assert 0 < int((coloured & ~blanked).sum())
    assert 0 < int((~coloured & blanked).sum())


def test_probability_zero_changes_nothing():
    np.testing.assert_array_equal(augment(IMAGES, jax.random.key(0), probability=0.0), IMAGES)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"probability": 1.5}, r"probability must be in \[0, 1\], got 1.5"),
        ({"probability": -0.5}, r"probability must be in \[0, 1\], got -0.5"),
        ({"probability": 1.0, "cutout": 2.0}, r"cutout must be in \[0, 1\], got 2.0"),
    ],
)
def test_shares_are_shares(settings, message):
    with pytest.raises(ValueError, match=message):
        augment(IMAGES, jax.random.key(0), **settings)
