"""Every published model on meshes of pods, by its shapes and the rules alone."""

import math
import pathlib
import re
import runpy

import jax
import pytest
from flax import nnx

from rae_jax import build
from rae_jax.build import shapes
from rae_jax.configuration import schema
from rae_jax.layers.functional import abstract, split
from rae_jax.models.compute import Compute
from rae_jax.sharding.memory import memory
from rae_jax.sharding.mesh import AXES
from rae_jax.sharding.rules import require_cut, tree_shardings
from rae_jax.typing import Tree

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
STAGES = {"stage1": schema.Stage1Config, "stage2": schema.Stage2Config}
FILES = sorted(path for stage in STAGES for path in (CONFIGS / stage).glob("*.py"))
XL = "stage2/dit_dh_xl_dinov2_base"
MESHES = {
    8: [(1, 8, 1), (1, 4, 2)],
    16: [(16, 1, 1), (2, 8, 1)],
    64: [(1, 64, 1), (4, 8, 2)],
    256: [(2, 128, 1), (16, 16, 1)],
}
LATENTS = {
    "stabilityai/sd-vae-ft-mse": (32, 32, 4),
    "mit-han-lab/dc-ae-f32c32-in-1.0-diffusers": (16, 16, 32),
}


def parse(path: pathlib.Path) -> schema.Stage1Config | schema.Stage2Config:
    config = runpy.run_path(str(path))["get_config"]()
    return schema.parse(STAGES[path.parent.name], config)


def params_of(path: pathlib.Path) -> Tree:
    """Shapes of what the config trains."""
    config = parse(path)
    if isinstance(config, schema.Stage2Config):
        latent_shape = LATENTS.get(config.autoencoder.pretrained, (16, 16, 768))
        return {"params": build.denoiser_shapes(config, latent_shape)[1]}
    encoder = shapes.encoder(config.autoencoder, Compute())
    decoder = abstract(
        lambda: build.decoder(config.autoencoder, encoder, Compute(), rngs=nnx.Rngs(0))
    )
    return {"params": split(decoder, nnx.Param, ...)[1]}


def distinct(paths: list[pathlib.Path]) -> list[pathlib.Path]:
    """One config of each model that is trained; of others only latents or images are other ones."""
    found = {}
    for path in paths:
        config = parse(path)
        stage2 = isinstance(config, schema.Stage2Config)
        found.setdefault(config.denoiser if stage2 else config.autoencoder.decoder, path)
    return list(found.values())


@pytest.mark.parametrize("path", distinct(FILES), ids=lambda path: path.stem)
def test_published_models_are_cut_by_meshes_of_pods(path):
    params, batch_size = params_of(path), parse(path).global_batch_size
    for devices, meshes in MESHES.items():
        for sizes in meshes:
            assert math.prod(sizes) == devices
            mesh = jax.sharding.AbstractMesh(sizes, AXES)
            data, fsdp, tensor = sizes
            require_cut(params, mesh.shape)
            taken = memory(params, tree_shardings(params, mesh))
            # Into so many parts, but for what is small, and along `tensor` some layers only.
            share = taken.per_device / taken.total
            assert 1 / (fsdp * tensor) <= share < 1.02 / fsdp + 1e-3
            assert batch_size % (data * fsdp) == 0
    # What is refused comes with a mesh of as many devices that is taken.
    for sizes in ((1, 256, 1), (1, 64, 4), (1, 12, 1)):
        try:
            require_cut(params, dict(zip(AXES, sizes, strict=True)))
        except ValueError as error:
            advised = {axis: int(n) for axis, n in re.findall(r"mesh\.(\w+)=(\d+)", str(error))}
            assert math.prod(advised.values()) == math.prod(sizes)
            require_cut(params, advised)


def test_256_parts_are_too_many_for_a_width_of_1152():
    params = params_of(CONFIGS / f"{XL}.py")
    with pytest.raises(ValueError, match=r"256 divides none .*qkv.kernel \[28, 1152, 3456\]"):
        require_cut(params, {"data": 1, "fsdp": 256, "tensor": 1})
