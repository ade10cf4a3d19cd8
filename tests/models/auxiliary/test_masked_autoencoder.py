import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rae_jax.layers.functional import Buffer, split
from rae_jax.models.auxiliary.masked_autoencoder import MaskedAutoencoder
from rae_jax.models.encoders.mae import MAEConfig, MAEEncoder
from rae_jax.ops.patches import patchify
from tests.models.compiled import example, filled

ENCODER = MAEConfig(
    hidden_size=16, depth=1, num_heads=2, intermediate_size=24, patch_size=4, image_size=16
)
PATCHES, KEY = 16, jax.random.key(3)


def tiny(mask_ratio=0.75):
    rngs = nnx.Rngs(0)
    return MaskedAutoencoder(
        MAEEncoder(ENCODER, dtype=jnp.float32, rngs=rngs),
        decoder_hidden_size=16,
        decoder_depth=1,
        decoder_num_heads=2,
        mask_ratio=mask_ratio,
        dtype=jnp.float32,
        rngs=rngs,
    )


@pytest.fixture(scope="module")
def model():
    return filled(tiny)


@pytest.fixture(scope="module")
def loss(model):
    """Loss and its gradients by parameters and pixels."""
    definition, params, buffers = split(model, nnx.Param, Buffer)

    def function(params, pixels):
        return definition.merge(params, buffers).loss(pixels, KEY)

    compiled = jax.jit(jax.value_and_grad(function, argnums=(0, 1)))
    return lambda pixels: compiled(params, pixels)


def hidden_patches(count):
    """The patches that the key hides, [count, patches]."""
    order = np.argsort(np.asarray(jax.random.uniform(KEY, (count, PATCHES))), axis=1)
    is_hidden = np.ones((count, PATCHES), bool)
    for row, places in enumerate(order):
        is_hidden[row, places[:4]] = False
    return is_hidden


def test_only_hidden_patches_count(loss):
    """Along hidden pixels the loss is a parabola of known curvature and slope in the pixels."""
    pixels = example((2, 16, 16, 3))
    value, (_, slopes) = loss(pixels)
    is_hidden = hidden_patches(2)
    patches, slopes = (np.asarray(patchify(x, 4), np.float64) for x in (pixels, slopes))
    count = is_hidden.sum() * patches.shape[-1]
    # The encoder never sees hidden pixels, so their slope is 2 (pixel - prediction) / count.
    errors = slopes[is_hidden] * count / 2
    assert float(value) == pytest.approx(np.square(errors).mean(), rel=1e-5)
    assert is_hidden.sum(axis=1).tolist() == [12, 12]


@pytest.mark.long
def test_hidden_pixels_change_no_prediction_and_visible_ones_do(loss):
    pixels, is_hidden = example((1, 16, 16, 3)), hidden_patches(1)
    row, column = divmod(int(np.flatnonzero(is_hidden[0])[0]), 4)
    corner = (0, slice(4 * row, 4 * row + 4), slice(4 * column, 4 * column + 4))
    value, (_, slopes) = loss(pixels)
    # With nothing else between pixel and loss than a square, the parabola is exact.
    step, count = 3.0, 12 * 48
    moved, _ = loss(pixels.at[corner].add(step))
    expected = float(value) + step * float(slopes[corner].sum()) + 48 * step**2 / count
    assert float(moved) == pytest.approx(expected, rel=1e-5)
    seen = np.abs(np.asarray(patchify(slopes, 4)))[~is_hidden]
    assert np.all(seen.max(axis=-1) > 0)


def test_every_parameter_learns(loss):
    _, (gradients, _) = loss(example((2, 16, 16, 3)))
    still = [
        jax.tree_util.keystr(path, simple=True, separator=".")
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)
        if not np.any(np.asarray(leaf))
    ]
    assert still == []
    assert {"encoder", "mask_token", "blocks", "prediction"} <= set(gradients)


def test_each_image_hides_other_patches_and_each_key_too(model):
    definition, weights = split(model)
    loss = jax.jit(lambda key, pixels: definition.merge(weights).loss(pixels, key))
    pixels = example((2, 16, 16, 3))
    assert float(loss(KEY, pixels)) != float(loss(jax.random.key(4), pixels))
    assert np.any(hidden_patches(2)[0] != hidden_patches(2)[1])


@pytest.mark.parametrize("ratio, visible", [(0.5, 8), (0.75, 4), (0.9, 2)])
def test_mask_ratio_is_the_share_of_hidden_patches(ratio, visible):
    assert filled(lambda: tiny(ratio)).num_visible == visible


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.99, 1.0])
def test_a_ratio_that_leaves_nothing_to_see_or_to_predict_is_refused(ratio):
    with pytest.raises(ValueError, match=f"hide some, got {ratio}"):
        tiny(ratio)
