"""The commands of docs/porting.md for the published models, on recipe weights of their layout."""

import json
import re
import shlex

import numpy as np
import pytest

from rae_jax.weights.torch_files import write_torch
from rae_jax.weights.writers import write_json, write_tensors
from tests.comparison import load_case
from tests.golden import recipe
from tests.project import ROOT, Project, succeeded
from tests.test_documentation import blocks, commands

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

SIDE, WIDTH = 16, 768
"""Of the latents."""

MEASURE = """
import json, pathlib, re, threading, time

import jax.numpy as jnp
from flax import nnx

from rae_jax.layers.functional import abstract
from rae_jax.models.decoders.vit_decoder import DecoderConfig, ViTDecoder
from rae_jax.configuration.defaults import DECODERS
from rae_jax.weights import convert
from rae_jax.weights.readers import read_tensors
from rae_jax.weights.tables.vit_decoder import VIT_DECODER


def memory():
    text = pathlib.Path("/proc/self/status").read_text()
    return [int(n) * 1024 for n in re.findall(r"^Rss(?:Anon|File):\\s+(\\d+) kB", text, re.M)]


sizes = vars(DECODERS["vit_xl"])
config = DecoderConfig(**sizes, latent_channels=768, grid=(16, 16))
module = abstract(lambda: ViTDecoder(config, dtype=jnp.float32, rngs=nnx.Rngs(0)))
jnp.zeros(1).block_until_ready()
start, peaks, done = memory(), [0, 0], False


def watch():
    while not done:
        for index, value in enumerate(memory()):
            peaks[index] = max(peaks[index], value)
        time.sleep(0.002)


thread = threading.Thread(target=watch)
thread.start()
begun = time.monotonic()
tensors = read_tensors(FILE)
convert.load(VIT_DECODER, tensors, module)
seconds = time.monotonic() - begun
done = True
thread.join()
own, mapped = (peak - first for peak, first in zip(peaks, start))
print(json.dumps({"own": own, "mapped": mapped, "seconds": seconds}))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Published files of every kind, with recipe weights, in `downloads`."""
    project = Project(tmp_path_factory.mktemp("full"))
    downloads = project / "downloads"
    decoder = load_case("decoder_vitxl_full").entries()
    decoder["decoder_pos_embed"] = recipe.weight("decoder_pos_embed", (1, 1 + SIDE**2, 1152))
    write_torch(downloads / "model.pt", decoder)
    write_tensors(downloads / "model.safetensors", decoder)
    case = load_case("encoder_base_full")
    encoder = downloads / "encoder"
    write_json(encoder / "config.json", case.config["encoder_config.json"])
    colours = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    write_json(encoder / "preprocessor_config.json", colours)
    write_tensors(encoder / "model.safetensors", case.entries())
    shape = (WIDTH, SIDE, SIDE)
    variance = 1 + np.abs(recipe.uniform("var", shape))
    write_torch(downloads / "stat.pt", {"mean": recipe.uniform("mean", shape), "var": variance})
    statement = load_case("ditdh_s_full").statement
    shapes = {k: v for k, v in statement["entries"].items() if "rope" not in k}
    weights = recipe.state_dict(shapes)
    averaged = recipe.state_dict(shapes, "ema.")
    # Not trained, so that averages are but rounded.
    averaged |= {key: weights[key] * np.float32(1 + 1e-7) for key in ("t_embedder.W", "pos_embed")}
    content = {
        "model": {f"module.{k}": v for k, v in weights.items()},
        "ema": averaged,
        "epoch": 80,
    }
    write_torch(downloads / "stage2_model.pt", content)
    return project


def documented(kind):
    """The command of the document that converts a published file of this kind."""
    lines = [
        line
        for language, block in blocks(ROOT / "docs" / "porting.md")
        for line in (commands(block) if not language else ())
    ]
    (command,) = [line for line in lines if f"convert_weights.py --kind={kind} " in line]
    command = re.sub(r"downloads/\S*/", "downloads/", command)
    command = command.replace("facebook/dinov2-with-registers-base", "downloads/encoder")
    return shlex.split(command.replace("dit_dh_xl", "dit_dh_s"))[1:]


def test_published_files_are_converted_as_documented(project):
    for kind in ("decoder", "statistics", "dit_dh"):
        told = succeeded(project.run(*documented(kind))).stdout
        assert "verified bit for bit" in told
    noted = json.loads((project / "runs/dit_dh_s_dinov2_base/config.json").read_text())["config"]
    assert noted["data"]["image_size"] == 256
    assert noted["denoiser"]["num_classes"] == 1000
    assert noted["autoencoder"]["encoder"]["input_size"] == 224
    sample = (
        *("tools/sample.py", "--config=configs/sampling/imagenet256.py", "--workdir=runs/samples"),
        *("--config.checkpoint=runs/dit_dh_s_dinov2_base", "--config.num_images=2"),
        *("--config.batch_size=2", "--config.sampler.num_steps=3", "--config.labels=random"),
    )
    succeeded(project.run(*sample))
    with np.load(project / "runs/samples/samples.npz") as samples:
        assert samples["arr_0"].shape == (2, 256, 256, 3)
        assert samples["arr_0"].std() > 1
    again = ("--kind=decoder", "--source=runs/vit_xl_dinov2_base", "--output=files/model.pt")
    succeeded(project.run("tools/export_weights.py", *again, "--verify"))
    assert (project / "files/model.pt").read_bytes() != b""


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_reading_needs_the_memory_of_the_model_and_of_one_leaf_more(project, name):
    path = project / "downloads" / name
    size = path.stat().st_size
    code = MEASURE.replace("FILE", repr(str(path)))
    figures = json.loads(succeeded(project.run("-c", code)).stdout)
    print(name, size, figures)
    assert size > 1.5e9
    # The model, as large as the file, and some leaves of 28 layers.
    assert figures["own"] < 1.5 * size
    # Pages of the file count too, though they are the system's to take back.
    assert figures["own"] + figures["mapped"] < 2.5 * size
