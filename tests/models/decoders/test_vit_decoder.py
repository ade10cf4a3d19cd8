import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rae_jax.configuration.defaults import DECODERS
from rae_jax.layers.functional import Buffer, split
from rae_jax.models.decoders.vit_decoder import DecoderConfig, ViTDecoder
from rae_jax.ops.images import resize_bilinear
from rae_jax.ops.patches import patchify, unpatchify
from rae_jax.ops.positions import sincos_2d
from rae_jax.weights.convert import load
from rae_jax.weights.tables.vit_decoder import VIT_DECODER
from tests.comparison import load_case, nhwc_to_nchw
from tests.golden import recipe
from tests.models.compiled import example, filled, run

TINY = DecoderConfig(
    hidden_size=16,
    depth=2,
    num_heads=2,
    intermediate_size=24,
    latent_channels=12,
    grid=(3, 5),
    patch_size=4,
)


def decoder_of(sizes, part, entries):
    side = part["image_size"] // part["patch_size"]
    config = DecoderConfig(
        hidden_size=sizes["decoder_hidden_size"],
        depth=sizes["decoder_num_hidden_layers"],
        num_heads=sizes["decoder_num_attention_heads"],
        intermediate_size=sizes["decoder_intermediate_size"],
        latent_channels=part["hidden_size"],
        grid=(side, side),
        patch_size=part["patch_size"],
        layer_norm_eps=sizes["layer_norm_eps"],
    )
    decoder = filled(lambda: ViTDecoder(config, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    return load(VIT_DECODER, constructed(config) | entries, decoder)


def constructed(config):
    """The table that the decoder makes itself if its file has none."""
    width = config.hidden_size
    table = np.concatenate([np.zeros((1, width), np.float32), sincos_2d(width, *config.grid)])
    return {"decoder_pos_embed": table[None]}


def features_of(case, name, *, skip=0):
    tokens = case.input(name)[:, skip:]
    side = int(tokens.shape[1] ** 0.5)
    return jnp.asarray(tokens.reshape(tokens.shape[0], side, side, -1))


def tiny(*, dtype=jnp.float32, **changes):
    return filled(lambda: ViTDecoder(TINY, dtype=dtype, **changes, rngs=nnx.Rngs(0)))


@pytest.fixture(scope="module")
def upstream():
    case = load_case("decoder_tiny")
    entries = case.entries("decoder_entries")
    decoder = decoder_of(case.config["decoder_config.json"], case.config["decoder"], entries)
    return case, decoder


@pytest.mark.parametrize("count", [16, 36, 9])
def test_pixels_match_upstream(upstream, count):
    case, decoder = upstream
    pixels = run(decoder, features_of(case, f"latent_{count}"))
    case.assert_close(f"logits_{count}", patchify(pixels, 8))


@pytest.mark.parametrize("name", ["cls_16", "cls_36", "cls_interpolate_36"])
def test_pixels_without_the_encoders_class_token_match_upstream(upstream, name):
    case, decoder = upstream
    features = features_of(case, f"latent_cls_{name[-2:]}", skip=1)
    case.assert_close(f"logits_{name}", patchify(decoder(features), 8))


def test_images_match_upstream(upstream):
    case, decoder = upstream
    pixels = run(decoder, features_of(case, "latent_16"))
    case.assert_close("image", nhwc_to_nchw(pixels))
    case.assert_close("image_wide", nhwc_to_nchw(unpatchify(patchify(pixels, 8), (2, 8), 8)))


def test_hidden_states_match_upstream(upstream):
    case, decoder = upstream
    case.assert_close(
        "hidden_states", run(decoder, features_of(case, "latent_16"), method="hidden_states")
    )


@pytest.mark.parametrize("count", [36, 9])
def test_resized_tokens_match_upstream(upstream, count):
    case, decoder = upstream
    embedded = decoder.embedding(features_of(case, f"latent_{count}"))
    resized = resize_bilinear(embedded, 4, 4).reshape(2, 16, 48)
    case.assert_close(f"resized_latent_{count}", resized)
    first = decoder._embed(features_of(case, f"latent_{count}"))
    case.assert_close(f"resized_latent_{count}", (first - decoder.position_table[...][None])[:, 1:])


def test_loaded_positions_match_upstream():
    case = load_case("decoder_tiny")
    entries = case.entries("decoder_entries")
    entries["decoder_pos_embed"] = recipe.weight("decoder_pos_embed", (1, 17, 48))
    decoder = decoder_of(case.config["decoder_config.json"], case.config["decoder"], entries)
    pixels = run(decoder, features_of(case, "latent_16"))
    case.assert_close("logits_loaded_pos", patchify(pixels, 8))


@pytest.mark.slow
def test_full_size_matches_upstream():
    case = load_case("decoder_vitxl_full")
    sizes = case.config["decoder_config.json"]
    decoder = decoder_of(sizes, case.config["decoder"], case.entries())
    preset = dataclasses.asdict(DECODERS["vit_xl"])
    assert {name: getattr(decoder.config, name) for name in preset} == preset
    image = nhwc_to_nchw(run(decoder, features_of(case, "latent")))
    logits = np.asarray(patchify(jnp.asarray(np.moveaxis(image, 1, -1)), 16))
    case.assert_close("logits", logits[:, ::4, ::4])
    case.assert_close("image", image[:, :, ::4, ::4])
    for name, values in (("logits", logits), ("image", image)):
        moments = [values.mean(), values.std(), np.abs(values).mean()]
        case.assert_close(f"stats_{name}", moments)


def test_grids_and_images_need_not_be_square():
    pixels = run(tiny(), example((2, 3, 5, 12)))
    assert pixels.shape == (2, 12, 20, 3)
    resized = run(tiny(), example((2, 5, 3, 12)))
    assert resized.shape == (2, 12, 20, 3)


def test_parameters_are_trainable_and_positions_are_not():
    definition, parameters, buffers = split(tiny(), nnx.Param, Buffer)
    assert list(buffers) == ["position_table"]
    features = example((1, 3, 5, 12))

    def loss(parameters):
        return jnp.mean(definition.merge(parameters, buffers)(features) ** 2)

    gradients = jax.jit(jax.grad(loss))(parameters)
    assert gradients["prediction"]["kernel"].shape == (16, 48)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradients))


@functools.cache
def plainly_run():
    return run(tiny(), example((1, 3, 5, 12)))


@pytest.mark.parametrize("changes", [{"unroll": 2}, {"remat": "full"}, {"remat": "dots"}])
def test_ways_to_run_the_blocks_agree(changes):
    pixels = run(tiny(**changes), example((1, 3, 5, 12)))
    np.testing.assert_allclose(pixels, plainly_run(), rtol=0, atol=1e-5)


def test_bfloat16_stays_close_and_gives_float32_pixels():
    features = example((1, 5, 5, 12))
    pixels = run(tiny(dtype=jnp.bfloat16), features)
    assert pixels.dtype == jnp.float32
    np.testing.assert_allclose(pixels, run(tiny(), features), rtol=0, atol=0.05)


@pytest.mark.long
def test_initial_parameters_follow_the_published_code():
    decoder = ViTDecoder(TINY, dtype=jnp.float32, rngs=nnx.Rngs(0))
    assert not np.any(decoder.class_token[...])
    table = constructed(TINY)["decoder_pos_embed"][0]
    np.testing.assert_array_equal(decoder.position_table[...], table)
    for name, fan_in in (("up", 16), ("down", 24)):
        layer = getattr(decoder.blocks.mlp, name)
        for values in (layer.kernel[...], layer.bias[...]):
            largest = float(jnp.abs(values).max()) * fan_in**0.5
            assert 0.8 < largest <= 1, name


def test_channels_must_match():
    with pytest.raises(ValueError, match="takes 12 channels, got 13"):
        tiny()(jnp.zeros((1, 3, 5, 13)))


@pytest.mark.parametrize("name", DECODERS)
def test_every_named_size_makes_a_decoder(name):
    sizes = dataclasses.asdict(DECODERS[name])
    config = DecoderConfig(**sizes, latent_channels=768, grid=(16, 16))
    features = jax.ShapeDtypeStruct((2, 16, 16, 768), "float32")
    shape = jax.eval_shape(
        lambda features: ViTDecoder(config, dtype=jnp.float32, rngs=nnx.Rngs(0))(features), features
    )
    assert shape.shape == (2, 256, 256, 3)


def test_places_may_be_counted_to_a_fixed_extent():
    counted = DecoderConfig(**dataclasses.asdict(DECODERS["vit_s"]), latent_channels=8, grid=(4, 4))
    scaled = dataclasses.replace(counted, position_extent=16.0)
    # The table of 16 cells, every fourth row and column of it.
    full = sincos_2d(384, 16, 16).reshape(16, 16, -1)[::4, ::4].reshape(16, -1)
    np.testing.assert_array_equal(scaled.positions()[1:], full)
    assert not np.allclose(counted.positions(), scaled.positions())
