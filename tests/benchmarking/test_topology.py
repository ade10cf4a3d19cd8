import dataclasses
import importlib.util

import jax
import jax.numpy as jnp
import pytest

from rae_jax.benchmarking import fitting, programs
from rae_jax.benchmarking.topology import CHIPS, Compiled, compile_for, text, topology
from rae_jax.configuration.schema import GuidanceConfig, MeshConfig, Stage2Config
from tests import pipeline

NOWHERE = pipeline.CONFIGS / "nowhere"
MESH = MeshConfig(data=-1, fsdp=2)
SIDE = 512
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)


def compiled(config, *, where) -> Compiled:
    return compile_for(programs.training(config, where.devices), where)


def product(where, *, fsdp: int) -> programs.Program:
    """A product of two square matrices whose rows are cut."""
    mesh = programs.make_mesh(fsdp=fsdp, devices=where.devices)
    cut = programs.batch_sharding(mesh)
    rows = jax.ShapeDtypeStruct((SIDE, SIDE), jnp.bfloat16, sharding=cut)
    kinds = {"batch": [rows, rows]}
    return programs.Program("product", mesh, jax.jit(lambda a, b: a @ b), (rows, rows), kinds, SIDE)


def test_a_program_is_compiled_for_simulated_devices():
    where = topology("cpu:8")
    found = compile_for(product(where, fsdp=2), where)
    assert found.fits
    assert found.operations == 2 * SIDE**3 / 8
    assert found.memory["batch"] == 2 * SIDE * SIDE * 2 / 8
    row = found.row
    assert (row["mesh"], row["images"], row["all-gather_count"]) == ("4x2x1", SIDE, 1)
    # Of a processor no rates are published.
    assert "limit" not in row
    assert "fits into unknown memory" in text(found)


@pytest.mark.slow
def test_a_step_is_compiled_without_runs_or_weights():
    where = topology("cpu:8")
    config = pipeline.stage2(NOWHERE, mesh=MESH)
    found = compiled(config, where=where)
    assert found.fits
    state, frozen, batch = found.program.arguments
    assert batch["images"].shape == (8, 48, 48, 3)
    assert found.memory["ema"] <= found.memory["parameters"]
    whole = sum(leaf.size * 4 for leaf in jax.tree.leaves(state.params))
    assert (
        whole / 2
        <= found.memory["parameters"]
        <= whole + 4 * sum(leaf.size for leaf in jax.tree.leaves(state.buffers))
    )
    row = found.row
    assert row["mesh"] == "4x2x1"
    assert row["images"] == 8
    assert row["total_gib"] > 0
    assert row["all-gather_count"] > 0
    assert found.operations * 8 == found.program.operations() > 0


@pytest.mark.slow
def test_stage1_and_sampling_are_compiled_too():
    where = topology("cpu:8")
    first = compiled(pipeline.stage1(mesh=MESH), where=where)
    assert first.program.name == "stage1"
    guidance = GuidanceConfig(method="autoguidance", scale=1.5, checkpoint="guide")
    config = pipeline.sampling(NOWHERE, guidance=guidance, mesh=MESH)
    stage2 = pipeline.stage2(NOWHERE)
    found = compile_for(programs.sampling(config, stage2, stage2, where.devices), where)
    assert found.program.images == 8
    assert found.memory["parameters"] > 0


@pytest.mark.slow
def test_cached_latents_take_the_place_of_images():
    where = topology("cpu:8")
    data = dataclasses.replace(
        pipeline.stage2(NOWHERE).data, source="cached_latents", path="nowhere", split="train"
    )
    found = programs.training(pipeline.stage2(NOWHERE, data=data), where.devices)
    batch = found.arguments[2]
    assert "images" not in batch
    assert batch["latents"].shape == (8, 3, 3, 64)
    assert batch["latents"].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("v9:2x2", "v5e, v5p, v6e, tpu7x"),
        ("v5e", "KIND:SIDExSIDE"),
        ("v5p:4x4", "'v5p:4x4x4'"),
        ("cpu:9999", "has 8 simulated devices"),
    ],
)
def test_wrong_topologies_are_refused(name, says):
    with pytest.raises(ValueError, match=says):
        topology(name)


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    with pytest.raises(ValueError, match="needs libtpu"):
        topology("v5e:2x2")


def test_meshes_that_cut_badly_are_refused():
    where = topology("cpu:8")
    with pytest.raises(ValueError, match=r"mesh\.fsdp"):
        config = pipeline.stage2(NOWHERE, mesh=MeshConfig(data=1, fsdp=8), global_batch_size=12)
        programs.training(config, where.devices)


def test_changes_come_in_the_order_of_their_cost_until_one_fits(monkeypatch):
    tried = []
    where = dataclasses.replace(topology("cpu:8"), name="v5e:2x4", chip=CHIPS["v5e"])
    any_program = product(where, fsdp=2)

    def build(config):
        tried.append(config)
        return any_program

    def compile_of(program, where):
        fits = tried[-1].gradient_accumulation == 2
        return Compiled(program, where, fits, 0.0, "", {}, 1.0, None)

    monkeypatch.setattr(fitting, "compile_for", compile_of)
    config = Stage2Config(global_batch_size=64)
    found = list(fitting.fitting(config, build, where, tries=9))
    mesh = {"mesh.data": 1, "mesh.fsdp": 8}
    assert [overrides for overrides, _ in found] == [
        mesh,
        mesh | {"remat": "dots"},
        mesh | {"remat": "full"},
        mesh | {"remat": "full", "gradient_accumulation": 2},
    ]
    assert [one.fits for _, one in found] == [False, False, False, True]
    assert tried[0].mesh == MeshConfig(data=1, fsdp=8)
    assert len(list(fitting.fitting(config, build, where, tries=2))) == 2


@needs_libtpu
@pytest.mark.slow
def test_a_program_is_compiled_for_a_slice_that_is_not_there():
    where = topology("v5e:2x2")
    assert len(where.devices) == 4
    found = compile_for(product(where, fsdp=2), where)
    assert found.operations == 2 * SIDE**3 / 4
    assert found.memory["batch"] == 2 * SIDE * SIDE * 2 / 4
    assert found.row["all-gather_count"] == 1
    assert found.times.keys() == {"compute", "memory", "interconnect"}
    assert "limited by" in text(found)


@needs_libtpu
@pytest.mark.slow
def test_mesh_axes_may_be_parts_of_the_sides_of_a_torus():
    devices = topology("v6e:8x8").devices
    assert programs.make_mesh(data=4, fsdp=16, devices=devices).shape["fsdp"] == 16


@needs_libtpu
@pytest.mark.slow
def test_too_little_memory_is_an_answer():
    where = topology("v5e:1x1")
    mesh = programs.make_mesh(devices=where.devices)
    side = 60_000
    rows = jax.ShapeDtypeStruct((side, side), jnp.float32, sharding=programs.replicated(mesh))
    made = programs.Program("sum", mesh, jax.jit(lambda a: a @ a), (rows,), {"batch": rows}, 1)
    found = compile_for(made, where)
    assert not found.fits
    assert "does not fit into 16 GiB" in text(found)


@needs_libtpu
@pytest.mark.slow
def test_a_slice_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="there is no slice"):
        topology("v5e:3x7")
