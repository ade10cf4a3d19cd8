"""What must divide over a mesh is checked by itself, with what to change."""

import dataclasses

import numpy as np
import pytest
from jax.sharding import PartitionSpec

from rae_jax.build import meshes
from rae_jax.build.meshes import frozen_shardings, require_divisible, require_heads
from rae_jax.configuration.schema import (
    LightningDiTConfig,
    MeshConfig,
    Stage1Config,
    Stage2Config,
)
from rae_jax.sharding.mesh import make_mesh


def test_rows_divide_over_the_mesh_and_the_parts_of_a_batch():
    require_divisible(16, make_mesh(2, 4, 1), accumulation=2)
    require_divisible(4, make_mesh(2, 2, 2))
    with pytest.raises(ValueError, match=r"mesh.data x mesh.fsdp = 8, got 12; .* above is 16$"):
        require_divisible(12, make_mesh(2, 4, 1))
    match = r"mesh.data x mesh.fsdp x gradient_accumulation = 24, got 16; .* above is 24$"
    with pytest.raises(ValueError, match=match):
        require_divisible(16, make_mesh(2, 4, 1), accumulation=3)


@pytest.mark.parametrize("processes, sizes", [(2, (1, 1, 8)), (4, (2, 1, 4)), (8, (2, 2, 2))])
def test_processes_that_share_rows_are_refused(monkeypatch, processes, sizes):
    mesh = make_mesh(*sizes)
    require_divisible(8, mesh)

    @dataclasses.dataclass(frozen=True)
    class Device:
        number: int

        @property
        def process_index(self):
            return self.number * processes // 8

    class Placed:
        """The same shardings over so many processes."""

        def devices_indices_map(self, shape):
            placed = batch_sharding(mesh).devices_indices_map(shape)
            return {Device(number): index for number, index in enumerate(placed.values())}

    batch_sharding = meshes.batch_sharding
    monkeypatch.setattr(meshes, "batch_sharding", lambda _: Placed())
    match = rf"each of the {processes} processes .* mesh.tensor={sizes[2]} spreads a row"
    with pytest.raises(ValueError, match=match):
        require_divisible(8, mesh)


@pytest.mark.parametrize(
    "config, message",
    [
        (Stage1Config(), None),
        (Stage2Config(), None),
        (
            Stage2Config(denoiser=LightningDiTConfig(num_heads=12, hidden_size=1152)),
            "mesh.tensor must divide denoiser.num_heads = 12, got 8; set mesh.tensor=4",
        ),
    ],
)
def test_attention_heads_are_not_cut(config, message):
    mesh = make_mesh(1, 1, 8)
    if message is None:
        require_heads(config, mesh)
    else:
        with pytest.raises(ValueError, match=message):
            require_heads(config, mesh)


def test_frozen_arrays_are_cut_or_whole():
    mesh, tree = make_mesh(1, 8, 1), {"kernel": np.zeros((256, 128), np.float32)}
    cut = frozen_shardings(tree, mesh, MeshConfig())
    assert cut["kernel"].spec == PartitionSpec("fsdp")
    whole = frozen_shardings(tree, mesh, MeshConfig(frozen="whole"))
    assert whole["kernel"].spec == PartitionSpec()
