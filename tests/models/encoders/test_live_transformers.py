"""Encoders against the transformers library itself, on sizes drawn at random, in and out."""

import json
import pathlib
import tempfile

import hypothesis
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from rae_jax.weights.pretrained import load_encoder, save_encoder
from tests.comparison import nchw_to_nhwc
from tests.golden import recipe
from tests.models.compiled import run

# Warnings are the library's, which raises some only when Python compiles it for the first time.
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

few = hypothesis.settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)

MODELS = {
    "dinov2": ("Dinov2Config", "Dinov2Model"),
    "registers": ("Dinov2WithRegistersConfig", "Dinov2WithRegistersModel"),
    "siglip2": ("SiglipVisionConfig", "SiglipVisionModel"),
    "mae": ("ViTMAEConfig", "ViTMAEModel"),
}


@st.composite
def sizes(draw, family):
    """Settings of a small model, and pixels that it takes."""
    patch, heads = draw(st.sampled_from([2, 7, 8])), draw(st.integers(1, 3))
    # SigLIP2's so400m is made for a side that its patch does not divide.
    rest = draw(st.integers(0, patch - 1)) if family == "siglip2" else 0
    settings = {
        "hidden_size": heads * draw(st.sampled_from([4, 12])),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "num_attention_heads": heads,
        "patch_size": patch,
        "image_size": patch * draw(st.integers(1, 5)) + rest,
    }
    if family in ("dinov2", "registers"):
        settings |= {
            "mlp_ratio": draw(st.integers(1, 4)),
            "use_swiglu_ffn": draw(st.booleans()),
            "layerscale_value": draw(st.sampled_from([1.0, 0.1])),
        }
    else:
        settings["intermediate_size"] = draw(st.sampled_from([8, 20]))
    if family == "registers":
        settings["num_register_tokens"] = draw(st.integers(1, 5))
    if family == "mae":
        settings["mask_ratio"] = 0.0
    grid = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    return settings, (patch * grid[0], patch * grid[1])


def made(family, settings):
    """A model of the library whose every entry, zero and one alike, holds recipe values."""
    import torch
    import transformers

    config, model = (getattr(transformers, name) for name in MODELS[family])
    module = model(config(**settings)).eval()
    # MAE's table is a constant of its size.
    entries = {
        key: recipe.weight(key, tuple(tensor.shape))
        for key, tensor in module.state_dict().items()
        if family != "mae" or "position" not in key
    }
    for key in ("layernorm", "post_layernorm"):
        if f"{key}.weight" in entries:
            entries[f"{key}.weight"][:], entries[f"{key}.bias"][:] = 1, 0
    tensors = {key: torch.from_numpy(value) for key, value in entries.items()}
    module.load_state_dict(tensors, strict=False)
    return module


def features_of(family, module, pixels):
    """What the library gives: patches after a final norm of gain one and bias zero."""
    import torch

    options = {"interpolate_pos_encoding": True} if family in ("siglip2", "mae") else {}
    if family == "mae":
        patches = pixels.shape[2] * pixels.shape[3] // module.config.patch_size**2
        options["noise"] = torch.arange(patches).float()[None].expand(len(pixels), -1)
    with torch.no_grad():
        tokens = module(torch.from_numpy(pixels), **options).last_hidden_state
    special = {"dinov2": 1, "siglip2": 0, "mae": 1}
    dropped = special.get(family, 1 + getattr(module.config, "num_register_tokens", 0))
    return tokens[:, dropped:].numpy()


def features(encoder, pixels):
    grid = np.asarray(run(encoder, jnp.asarray(nchw_to_nhwc(pixels))))
    return grid.reshape(len(grid), -1, grid.shape[-1])


def preprocessing_of(folder):
    means = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.5]}
    (folder / "preprocessor_config.json").write_text(json.dumps(means))


@pytest.mark.parametrize("family", MODELS)
def test_folders_go_in_and_out(family):
    import transformers

    @few
    @hypothesis.given(sizes(family))
    def check(drawn):
        settings, (height, width) = drawn
        pixels = recipe.uniform("pixels", (2, 3, height, width))
        module = made(family, settings)
        expected = features_of(family, module, pixels)
        with tempfile.TemporaryDirectory() as folder:
            theirs, ours = pathlib.Path(folder) / "theirs", pathlib.Path(folder) / "ours"
            module.save_pretrained(theirs)
            preprocessing_of(theirs)
            encoder, preprocessing = load_encoder(str(theirs), dtype=jnp.float32)
            np.testing.assert_allclose(features(encoder, pixels), expected, rtol=0, atol=2e-5)
            save_encoder(ours, encoder, preprocessing)
            # Nothing is missing and nothing left over: the library would make it up.
            again, report = getattr(transformers, MODELS[family][1]).from_pretrained(
                ours, output_loading_info=True
            )
        assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys")), report
        if family == "mae":
            again.config.mask_ratio = 0.0
        np.testing.assert_array_equal(features_of(family, again.eval(), pixels), expected)

    check()


def test_towers_of_both_kinds_of_siglip_files(tmp_path):
    """A file of both towers, as google/siglip2-base-patch16-256 is one, with few settings."""
    import transformers

    vision = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"intermediate_size": 32, "image_size": 48}
    text = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 8}
    text |= {"intermediate_size": 32, "max_position_embeddings": 4}
    config = transformers.SiglipConfig(text_config=text, vision_config=vision)
    module = transformers.SiglipModel(config).eval()
    module.save_pretrained(tmp_path)
    preprocessing_of(tmp_path)
    encoder, _ = load_encoder(str(tmp_path), dtype=jnp.float32)
    pixels = recipe.uniform("pixels", (1, 3, 48, 48))
    expected = features_of("siglip2", module.vision_model, pixels)
    np.testing.assert_allclose(features(encoder, pixels), expected, rtol=0, atol=2e-5)
