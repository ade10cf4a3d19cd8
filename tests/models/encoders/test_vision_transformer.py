"""What holds of every encoder, whatever its family."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rae_jax.layers.functional import Frozen, split
from rae_jax.models.encoders.base import Encoder
from rae_jax.models.encoders.dinov2 import DINOv2Config
from rae_jax.models.encoders.mae import MAEConfig
from rae_jax.models.encoders.siglip2 import SigLIP2Config
from rae_jax.weights.pretrained import encoder_from_config
from tests.models.compiled import example, filled, large_constants, run
from tests.models.encoders.published import Published

CASES = {
    "dinov2": ("encoder_dinov2_reg_tiny", "encoder_config.json", "encoder_entries"),
    "swiglu": ("encoder_dinov2_reg_tiny", "swiglu_encoder_config.json", "swiglu_encoder_entries"),
    "siglip2": ("encoder_siglip2_tiny", "encoder_config.json", "entries"),
    "mae": ("encoder_mae_tiny", "encoder_config.json", "entries"),
}
NATIVE = {"dinov2": "70x70", "swiglu": "56x56", "siglip2": "64x64", "mae": "64x64"}
TINY = {
    "dinov2": DINOv2Config(hidden_size=16, depth=3, num_heads=2, patch_size=4, image_size=16),
    "siglip2": SigLIP2Config(
        hidden_size=16, depth=3, num_heads=2, intermediate_size=24, patch_size=4, image_size=16
    ),
    "mae": MAEConfig(
        hidden_size=16, depth=3, num_heads=2, intermediate_size=24, patch_size=4, image_size=16
    ),
}
PREFIX = {"dinov2": 5, "siglip2": 0, "mae": 1}


def tiny(family, *, dtype=jnp.float32, **changes):
    config = TINY[family]
    return filled(lambda: encoder_from_config(config, dtype=dtype, **changes))


@pytest.fixture(scope="module", params=CASES)
def published(request):
    encoder = Published(*CASES[request.param])
    encoder.family = request.param
    return encoder


def answer(published):
    name = "swiglu_tokens" if published.family == "swiglu" else "tokens"
    return f"{name}_{NATIVE[published.family]}", f"pixels_{NATIVE[published.family]}"


def test_every_parameter_decides_the_features(published):
    """No golden case passes with zeros, neither everywhere nor in a single parameter."""
    output, pixels = answer(published)
    published.case.assert_close(output, published.features(pixels))
    leaves, structure = jax.tree.flatten(published.weights)
    for broken in [range(len(leaves)), *([index] for index in range(len(leaves)))]:
        zeroed = [
            jnp.zeros_like(leaf) if index in broken else leaf for index, leaf in enumerate(leaves)
        ]
        features = published.features(pixels, jax.tree.unflatten(structure, zeroed))
        with pytest.raises(AssertionError, match="Not equal to tolerance"):
            published.case.assert_close(output, features)


def test_bfloat16_drift(published):
    """Distance to upstream's float32 of features of unit variance: 0.5 to 0.8 per cent."""
    output, pixels = answer(published)
    low = Published(*CASES[published.family], dtype=jnp.bfloat16)
    features = low.features(pixels)
    assert features.dtype == jnp.float32
    error = np.asarray(features) - published.case.output(output)
    assert 0 < np.sqrt(np.mean(error**2)) < 0.012


def test_weights_are_no_constants_of_the_compiled_function(published):
    definition, weights = published.definition, published.weights
    assert all(
        isinstance(leaf, Frozen) for _, leaf in nnx.to_flat_state(nnx.state(published.encoder))
    )
    pixels = jnp.zeros((1, published.encoder.patch_size, published.encoder.patch_size, 3))

    def as_argument(weights, pixels):
        return definition.merge(weights).hidden_states(pixels)

    # Resampling positions takes a matrix of the table's side.
    assert not large_constants(as_argument, weights, pixels, limit=8)
    assert large_constants(lambda pixels: as_argument(weights, pixels), pixels, limit=8)


@pytest.mark.parametrize("layers", [(2, 0, -1, 2), (-3,), (1, 2)])
def test_chosen_layers_are_those_of_all(published, layers):
    name = answer(published)[1]
    everything = np.asarray(published.hidden_states(name))
    assert len(everything) == published.encoder.depth + 1
    chosen = published.hidden_states(name, layers)
    np.testing.assert_allclose(chosen, everything[list(layers)], rtol=0, atol=1e-5)


def test_blocks_after_the_last_layer_wanted_do_not_run():
    encoder = tiny("siglip2")
    kernel = encoder.blocks.mlp.up.kernel
    kernel.set_value(kernel[...].at[2].set(jnp.nan))
    pixels = example((1, 16, 16, 3))
    states = run(encoder, pixels, method="hidden_states")
    assert np.isfinite(states[:3]).all() and np.isnan(states[3]).all()
    definition, weights = split(encoder)
    first = jax.jit(lambda weights, pixels: definition.merge(weights).hidden_states(pixels, [1, 2]))
    np.testing.assert_allclose(first(weights, pixels), states[1:3], rtol=0, atol=1e-6)
    loops = str(jax.make_jaxpr(first)(weights, pixels)).count("length=2")
    assert loops, "two of three blocks should run"


@pytest.mark.parametrize("layers", [[], [4], [0, -5]])
def test_layers_that_are_not_there_are_refused(layers):
    with pytest.raises(ValueError, match=r"layers must be some of 0 to 3 or -4 to -1, got \["):
        tiny("siglip2").hidden_states(jnp.zeros((1, 16, 16, 3)), layers)


@pytest.mark.parametrize("changes", [{"unroll": 2}, {"remat": "full"}, {"remat": "dots"}])
def test_ways_to_run_the_blocks_agree(changes):
    pixels = example((1, 16, 16, 3))
    plain, changed = tiny("dinov2"), tiny("dinov2", **changes)
    for method in ("__call__", "hidden_states"):
        expected = run(plain, pixels, method=method)
        np.testing.assert_allclose(run(changed, pixels, method=method), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", TINY)
def test_encoders_say_what_they_are(family):
    encoder = tiny(family)
    assert isinstance(encoder, Encoder)
    assert (encoder.patch_size, encoder.hidden_size, encoder.depth) == (4, 16, 3)
    assert encoder.num_prefix_tokens == PREFIX[family]
    assert split(encoder)[0].graphdef == split(tiny(family))[0].graphdef
    with pytest.raises(ValueError, match="height 18 is not a multiple of patch_size 4"):
        encoder(jnp.zeros((1, 18, 16, 3)))


SMALL, BASE, LARGE = (384, 12, 6), (768, 12, 12), (1024, 24, 16)


def _dinov2(sizes, **changes):
    width, depth, heads = sizes
    return DINOv2Config(hidden_size=width, depth=depth, num_heads=heads, **changes)


def _others(family, sizes, inner, patch, side):
    width, depth, heads = sizes
    return family(
        hidden_size=width,
        depth=depth,
        num_heads=heads,
        intermediate_size=inner,
        patch_size=patch,
        image_size=side,
    )


@pytest.mark.parametrize(
    "config, parameters",
    [
        (_dinov2(SMALL), 22_056_960),
        (_dinov2(BASE, num_registers=None), 86_578_176),
        (_dinov2(BASE), 86_581_248),
        (_dinov2(LARGE), 304_369_664),
        (_dinov2((1536, 40, 24), use_swiglu=True), 1_136_482_304),
        (_others(SigLIP2Config, BASE, 3072, 16, 256), 85_841_664),
        (_others(SigLIP2Config, LARGE, 4096, 16, 256), 303_358_976),
        (_others(SigLIP2Config, (1152, 27, 16), 4304, 14, 384), 412_984_944),
        (_others(SigLIP2Config, (1536, 40, 16), 6144, 16, 256), 1_134_835_200),
        (_others(MAEConfig, BASE, 3072, 16, 224), 85_797_120),
        (_others(MAEConfig, LARGE, 4096, 16, 224), 303_299_584),
        (_others(MAEConfig, (1280, 32, 16), 5120, 14, 224), 630_762_240),
    ],
)
def test_published_sizes(config, parameters):
    """Counts are those of transformers' modules less final norm, mask token and pooling head."""
    encoder = encoder_from_config(config, dtype=jnp.bfloat16)
    leaves = jax.tree.leaves(nnx.state(encoder))
    assert sum(leaf.size for leaf in leaves) == parameters
    definition, weights = split(encoder)
    side = 2 * config.patch_size
    features = jax.eval_shape(
        lambda weights, pixels: definition.merge(weights)(pixels),
        weights,
        jax.ShapeDtypeStruct((1, side, 3 * config.patch_size, 3), jnp.float32),
    )
    assert features.shape == (1, 2, 3, config.hidden_size) and features.dtype == jnp.float32
