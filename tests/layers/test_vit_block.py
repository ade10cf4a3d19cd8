import jax.numpy as jnp
import numpy as np
from flax import nnx

from rae_jax.layers.linear import normal_linear
from rae_jax.layers.mlp import SwiGLU
from rae_jax.layers.patch_embedding import PatchEmbedding
from rae_jax.layers.vit_block import LayerScale, ViTBlock, ViTStyle, layer_norm
from rae_jax.ops.patches import patchify
from tests.models.compiled import example, filled, run


def block():
    return filled(lambda: ViTBlock(8, 2, 12, epsilon=1e-6, dtype=jnp.float32, rngs=nnx.Rngs(0)))


def test_block_is_two_pre_norm_residuals():
    layer, tokens = block(), example((2, 5, 8))
    middle = tokens + run(layer.attention, run(layer.norm_1, tokens))
    expected = middle + run(layer.mlp, run(layer.norm_2, middle))
    np.testing.assert_allclose(run(layer, tokens), expected, rtol=0, atol=1e-5)


def test_style_scales_both_branches_and_gates_the_second():
    style = ViTStyle(use_swiglu=True, layer_scale=0.5, linear=normal_linear)
    layer = filled(
        lambda: ViTBlock(8, 2, 12, epsilon=1e-6, style=style, dtype=jnp.float32, rngs=nnx.Rngs(0))
    )
    assert isinstance(layer.mlp, SwiGLU)
    tokens = example((2, 5, 8))
    gains = np.asarray(layer.scale_1.gain[...]), np.asarray(layer.scale_2.gain[...])
    assert not np.allclose(*gains)
    branch = np.asarray(run(layer.attention, run(layer.norm_1, tokens)))
    middle = tokens + gains[0] * branch
    branch = np.asarray(run(layer.mlp, run(layer.norm_2, middle)))
    expected = middle + gains[1] * branch
    np.testing.assert_allclose(run(layer, tokens), expected, rtol=0, atol=1e-5)
    initial = LayerScale(3, 0.5)
    np.testing.assert_array_equal(initial.gain[...], np.full(3, 0.5, np.float32))


def test_layer_norm_keeps_small_deviations_about_a_large_mean():
    tokens = 1000 + example((2, 64)) / 16
    normed = np.asarray(
        run(filled(lambda: layer_norm(64, 1e-12, affine=False, rngs=nnx.Rngs(0))), tokens)
    )
    exact = np.asarray(tokens, np.float64)
    exact = (exact - exact.mean(-1, keepdims=True)) / exact.std(-1, keepdims=True)
    # The deviations are 1/16 and float32 resolves 6e-5 at 1000.
    np.testing.assert_allclose(normed, exact, rtol=0, atol=1e-3)


def test_layer_norm_is_float32_for_low_precision_tokens():
    norm = layer_norm(8, 1e-12, affine=False, rngs=nnx.Rngs(0))
    assert norm(jnp.ones((2, 8), jnp.bfloat16)).dtype == jnp.float32
    assert not nnx.to_flat_state(nnx.state(norm))


def test_patch_embedding_is_a_linear_map_of_patches():
    layer = filled(lambda: PatchEmbedding(2, 3, 8, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    images = example((2, 4, 6, 3))
    tokens = run(layer, images)
    kernel = layer.projection.kernel[...].reshape(2, 2, 3, 8)
    corner = np.einsum("brcx,rcxd->bd", np.asarray(images[:, 2:4, 4:6]), np.asarray(kernel))
    expected = corner + np.asarray(layer.projection.bias[...])
    np.testing.assert_allclose(tokens[:, 5], expected, rtol=0, atol=1e-5)
    assert tokens.shape == patchify(images, 2).shape[:2] + (8,)
