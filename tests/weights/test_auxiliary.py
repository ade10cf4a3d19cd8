"""The published files of LPIPS and of the discriminator, by path."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rae_jax.layers.functional import Frozen, abstract
from rae_jax.models.auxiliary.dino_discriminator import (
    DINO,
    DINO_SIZES,
    DINOConfig,
    DINODiscriminator,
    HeadConfig,
)
from rae_jax.weights import auxiliary, convert
from rae_jax.weights.errors import WeightFileError
from rae_jax.weights.tables.dino_discriminator import dino_table, heads_table
from rae_jax.weights.tables.lpips import LPIPS_TABLE
from rae_jax.weights.torch_files import write_torch
from rae_jax.weights.writers import write_tensors
from tests.comparison import load_case
from tests.golden import recipe

SIZES = DINOConfig(hidden_size=32, depth=2, num_heads=2, patch_size=8, image_size=32, mlp_ratio=2.0)
HEADS = HeadConfig(key_depths=(1,), kernel_size=3)


def is_frozen(module):
    leaves = [variable for _, variable in nnx.to_flat_state(nnx.state(module))]
    return leaves and all(isinstance(variable, Frozen) for variable in leaves)


@pytest.fixture(scope="module")
def lpips_entries():
    case = load_case("lpips")
    return case.entries("vgg_entries"), case.entries("lin_entries")


@pytest.fixture(scope="module")
def lpips_folder(tmp_path_factory, lpips_entries):
    """Both files under their published names, with the classifier that torchvision has."""
    folder, (network, weights) = tmp_path_factory.mktemp("lpips"), lpips_entries
    classifier = {"classifier.0.weight": np.zeros((2, 3), np.float32)}
    write_torch(folder / auxiliary.VGG16_FILE, network | classifier)
    write_torch(folder / auxiliary.LPIPS_FILE, weights)
    return folder


def test_lpips_is_read_from_a_folder_or_from_files(lpips_folder, lpips_entries, tmp_path):
    network, weights = lpips_entries
    other = tmp_path / "lin.safetensors"
    write_tensors(other, weights)
    for paths in ((lpips_folder,), (str(lpips_folder / auxiliary.VGG16_FILE), other)):
        model = auxiliary.load_lpips(*paths, dtype=jnp.bfloat16)
        assert is_frozen(model)
        written = convert.export(LPIPS_TABLE, model)
        assert written.keys() == network.keys() | weights.keys()
        for entries in lpips_entries:
            assert all(np.array_equal(written[key], entries[key]) for key in entries)
    assert model.network.blocks[0][0].dtype == jnp.bfloat16


def test_missing_files_of_lpips_are_named_with_their_publisher(lpips_folder, tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        auxiliary.load_lpips(tmp_path, dtype="float32")
    assert str(tmp_path / "vgg16-397923af.pth") in str(error.value)
    assert "https://download.pytorch.org/models/vgg16-397923af.pth" in str(error.value)
    network = lpips_folder / auxiliary.VGG16_FILE
    with pytest.raises(
        FileNotFoundError, match="PerceptualSimilarity.*pip download lpips"
    ) as error:
        auxiliary.load_lpips(network, tmp_path / "vgg.pth", dtype="float32")
    assert "It is read as it is; safetensors with the same entries" in str(error.value)


def test_other_files_are_not_lpips(lpips_folder):
    network = lpips_folder / auxiliary.VGG16_FILE
    with pytest.raises(convert.WeightError, match=r"are not vgg16-397923af.pth and vgg.pth: 5 "):
        auxiliary.load_lpips(network, network, dtype="float32")


def entries_of(table, module):
    """Weights of the recipe for every entry of a table."""
    return recipe.state_dict(convert.entry_shapes(table, module))


@pytest.fixture(scope="module")
def dino_entries():
    dino = abstract(lambda: DINO(SIZES, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    norm = {"norm.weight": np.ones(32, np.float32), "norm.bias": np.zeros(32, np.float32)}
    return entries_of(dino_table(SIZES.patch_size), dino) | norm


def test_the_backbone_has_the_sizes_of_its_file(tmp_path, dino_entries):
    path = tmp_path / "dino.pth"
    write_torch(path, dino_entries)
    dino = auxiliary.load_discriminator_backbone(path, num_heads=2, dtype="float32", remat="full")
    assert dino.config == SIZES
    assert dino.remat == "full"
    assert is_frozen(dino)
    written = convert.export(dino_table(SIZES.patch_size), dino)
    assert written.keys() == {key for key in dino_entries if not key.startswith("norm.")}
    assert all(np.array_equal(written[key], dino_entries[key]) for key in written)


@pytest.mark.parametrize("name", DINO_SIZES)
def test_published_sizes_are_told_by_the_file(name):
    sizes = DINO_SIZES[name]
    dino = abstract(lambda: DINO(sizes, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    shapes = convert.entry_shapes(dino_table(sizes.patch_size), dino)
    tensors = {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}
    assert auxiliary.dino_sizes(tensors) == sizes
    if name != "B_16":
        stated = load_case(f"discriminator_{name}").statement["dino_entries"]
        assert {key: list(shape) for key, shape in shapes.items()} == {
            key: shape for key, shape in stated.items() if not key.startswith("norm.")
        }


def test_a_missing_backbone_is_named_with_its_publisher(tmp_path):
    path = tmp_path / "nothing.pth"
    with pytest.raises(FileNotFoundError) as error:
        auxiliary.load_discriminator_backbone(path, dtype="float32")
    assert str(path) in str(error.value)
    assert "dino_vit_small_patch8_224.pth" in str(error.value)
    assert "hf download nyu-visionx/RAE-collections discs/" in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"head.weight": np.zeros((2, 32), np.float32)},
            "is no DINO such as .* surplus entry head",
        ),
        ({"pos_embed": np.zeros((1, 18, 32), np.float32)}, "one position for each patch"),
        ({"pos_embed": np.zeros((17, 32), np.float32)}, "one position for each patch"),
        ({"pos_embed": None}, "missing entry pos_embed of a DINO"),
        ({"blocks.1.mlp.fc2.bias": None}, "missing entry blocks.1.mlp.fc2.bias"),
    ],
)
def test_other_backbones_are_refused(tmp_path, dino_entries, change, message):
    path = tmp_path / "dino.pth"
    content = {key: value for key, value in (dino_entries | change).items() if value is not None}
    write_torch(path, content)
    with pytest.raises(convert.WeightError, match=re.compile(message, re.DOTALL)):
        auxiliary.load_discriminator_backbone(path, num_heads=2, dtype="float32")


def discriminator(heads=HEADS):
    def make():
        backbone = DINO(SIZES, dtype=jnp.float32, rngs=nnx.Rngs(0))
        return DINODiscriminator(backbone, heads, dtype=jnp.float32, rngs=nnx.Rngs(1))

    return abstract(make)


def test_heads_are_read_from_a_training_checkpoint_or_alone(tmp_path):
    table = heads_table(HEADS)
    entries = entries_of(table, discriminator().heads)
    assert {key.rsplit(".", 1)[1] for key in entries} >= {"weight_orig", "weight_u", "weight_v"}
    other = {"decoder.weight": np.zeros(3, np.float32)}
    contents = {
        "ep-0000016.pt": {"step": 5, "model": other, "ema": other, "disc": entries},
        "heads.pt": entries,
        "wrapped.pt": {
            "model": other,
            "disc": {f"module.{key}": value for key, value in entries.items()},
        },
    }
    for name, content in contents.items():
        write_torch(tmp_path / name, content)
        made = discriminator()
        auxiliary.load_discriminator_heads(tmp_path / name, made)
        written = convert.export(table, made.heads)
        assert written.keys() == entries.keys()
        assert all(np.array_equal(written[key], entries[key]) for key in entries)


def test_heads_of_another_shape_and_other_checkpoints_are_refused(tmp_path):
    path = tmp_path / "heads.pt"
    write_torch(path, entries_of(heads_table(HEADS), discriminator().heads))
    wider = HeadConfig(key_depths=(1,), kernel_size=5)
    with pytest.raises(convert.WeightError, match=r"heads.pt: 4 mismatches"):
        auxiliary.load_discriminator_heads(path, discriminator(wider))
    write_torch(path, {"epoch": 3, "opt": {"lr": 0.1}})
    with pytest.raises(WeightFileError, match=r"heads.pt: it holds no weights"):
        auxiliary.load_discriminator_heads(path, discriminator())
