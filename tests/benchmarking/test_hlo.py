import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from rae_jax.benchmarking.hlo import Module
from rae_jax.sharding.mesh import batch_sharding, make_mesh

LAYERS, WIDTH = 5, 16


def test_exchanges_in_a_scan_count_as_often_as_it_runs():
    mesh = make_mesh(fsdp=4, devices=jax.devices()[:4])
    cut = jax.sharding.NamedSharding(mesh, PartitionSpec(None, "fsdp"))

    def run(kernels, rows):
        def layer(rows, kernel):
            rows = jax.lax.with_sharding_constraint(jnp.tanh(rows @ kernel), batch_sharding(mesh))
            return rows, None

        return jax.lax.scan(layer, rows, kernels)[0].sum()

    kernels = jax.ShapeDtypeStruct((LAYERS, WIDTH, WIDTH), jnp.float32, sharding=cut)
    rows = jax.ShapeDtypeStruct((8, WIDTH), jnp.float32, sharding=batch_sharding(mesh))
    work = Module(jax.jit(run).lower(kernels, rows).compile().as_text()).work
    count, sent = work.of_kind("all-gather")
    # Each device sends its quarter of a kernel to three others.
    assert (count, sent) == (LAYERS, LAYERS * 3 * WIDTH * WIDTH * 4 / 4)
    assert work.of_kind("all-reduce") == (1, 2 * 4 * 3 / 4)
    assert work.on_all_links(4) == sent + 6
    # A quarter of the devices span half of the torus.
    assert work.on_all_links(16) == 2 * (sent + 6)


HEAD = """HloModule step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}
"""

LOOP = """
%piece.1 (p: bf16[64,8]) -> bf16[64,128] {
  %p = bf16[64,8]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %gather.1 = bf16[64,128]{1,0} all-gather(%p), channel_id=7, \
replica_groups=mesh['axis_0'=1,'axis_1'=16,'axis_2'=16], device_ids=([16,16]T(1,0)) {'axis_1'}, \
dimensions={1}
}

%piece.2 (p: bf16[64,8]) -> bf16[64,128] {
  %p.2 = bf16[64,8]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %gather.2 = bf16[64,128]{1,0:S(1)} all-gather(%p.2), channel_id=7, \
replica_groups=mesh['axis_0'=1,'axis_1'=16,'axis_2'=16], device_ids=([16,16]T(1,0)) {'axis_1'}, \
dimensions={1}
}

%all-reduce-scatter.3 (g: bf16[64,128]) -> bf16[64,8] {
  %g = bf16[64,128]{1,0} parameter(0)
  %reduced = bf16[64,128]{1,0} all-reduce(%g), replica_groups=[16,16]<=[256], to_apply=%add
  ROOT %own = bf16[64,8]{1,0} slice(%reduced), slice={[0:64], [0:8]}
}

%layer_slice (all: bf16[28,64,8], at: s32[]) -> bf16[64,8] {
  %all = bf16[28,64,8]{2,1,0} parameter(0)
  %at = s32[] parameter(1)
  %one = bf16[1,64,8]{2,1,0} dynamic-slice(%all, %at), dynamic_slice_sizes={1,64,8}
  ROOT %flat = bf16[64,8]{1,0} bitcast(%one)
}

%body (carry: (s32[], bf16[28,64,8])) -> (s32[], bf16[28,64,8]) {
  %carry = (s32[]{:S(6)}, bf16[28,64,8]{2,1,0}) parameter(0)
  %i = s32[]{:S(6)} get-tuple-element(%carry), index=0
  %layers = bf16[28,64,8]{2,1,0} get-tuple-element(%carry), index=1
  %layer = bf16[64,8]{1,0:S(1)} fusion(%layers, %i), kind=kLoop, calls=%layer_slice, \
backend_config={"window_config":{"estimated_cycles":"100"}}
  %start = bf16[64,128]{1,0:S(1)} fusion(%layer), kind=kCustom, calls=%piece.1
  %whole = bf16[64,128]{1,0:S(1)} fusion(%layer), kind=kCustom, calls=%piece.2
  %scattered = bf16[64,8]{1,0:S(1)} fusion(%whole), kind=kCustom, calls=%all-reduce-scatter.3
  ROOT %next = (s32[], bf16[28,64,8]) tuple(%i, %layers)
}

%condition (carry.2: (s32[], bf16[28,64,8])) -> pred[] {
  %carry.2 = (s32[]{:S(6)}, bf16[28,64,8]{2,1,0}) parameter(0)
  %bound = s32[]{:T(128)} constant(28)
  %i.2 = s32[]{:S(6)} get-tuple-element(%carry.2), index=0
  ROOT %less = pred[] compare(%i.2, %bound), direction=LT
}

ENTRY %main (layers.2: bf16[28,64,8]) -> (s32[], bf16[28,64,8]) {
  %layers.2 = bf16[28,64,8]{2,1,0} parameter(0)
  %zero = s32[] constant(0)
  %first = (s32[], bf16[28,64,8]) tuple(%zero, %layers.2)
  ROOT %loop = (s32[], bf16[28,64,8]) while(%first), condition=%condition, body=%body
}
"""


@pytest.fixture(scope="module")
def tpu():
    """In the form that the compiler for TPUs gives."""
    return Module(HEAD + LOOP).work


def test_the_pieces_of_one_exchange_count_once(tpu):
    part = 64 * 8 * 2
    assert tpu.of_kind("all-gather") == (28, 28 * 15 * part)
    assert tpu.of_kind("all-reduce") == (0, 0)


def test_a_sum_of_which_each_keeps_a_part_is_no_whole_sum(tpu):
    assert tpu.of_kind("reduce-scatter") == (28, 28 * 64 * 128 * 2 * 15 / 16)


def test_memory_on_the_chip_and_layers_that_are_not_read_are_no_traffic(tpu):
    assert tpu.traffic == 28 * 64 * 8 * 2
    assert tpu.cycles == 28 * 100


def test_of_branches_the_costlier_counts():
    def run(which, x):
        return jax.lax.cond(which, lambda x: x @ x @ x, lambda x: x, x)

    whole = Module(jax.jit(lambda x: x @ x @ x).lower(jnp.ones((64, 64))).compile().as_text()).work
    either = Module(jax.jit(run).lower(True, jnp.ones((64, 64))).compile().as_text()).work
    assert either.traffic >= whole.traffic > 0
