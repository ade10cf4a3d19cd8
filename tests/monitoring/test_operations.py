import jax
import jax.numpy as jnp
import pytest

from rae_jax.monitoring import operations
from rae_jax.monitoring.operations import count_operations, utilization
from rae_jax.ops.flash_attention import flash_attention
from rae_jax.sharding.constrain import on_own_heads
from rae_jax.sharding.mesh import make_mesh

A, B = jnp.zeros((3, 5)), jnp.zeros((5, 7))
PRODUCT = 2 * 3 * 5 * 7


def test_products_count_two_per_multiply_add():
    assert count_operations(jnp.matmul, A, B) == PRODUCT
    assert count_operations(lambda a, b: jnp.einsum("nij,njk->nik", a, b), A[None], B[None]) == (
        PRODUCT
    )
    # Only shapes are looked at.
    shapes = jax.ShapeDtypeStruct(A.shape, A.dtype), jax.ShapeDtypeStruct(B.shape, B.dtype)
    assert count_operations(jax.jit(jnp.matmul), *shapes) == PRODUCT


def test_a_gradient_counts_twice_its_function():
    loss = lambda a, b: ((a @ b) ** 2).sum()  # noqa: E731
    assert count_operations(jax.grad(loss, argnums=(0, 1)), A, B) == 3 * PRODUCT


def test_convolutions_count_the_kernel_at_every_place():
    images, kernel = jnp.zeros((2, 8, 8, 6)), jnp.zeros((3, 3, 2, 12))

    def convolve(images, kernel):
        return jax.lax.conv_general_dilated(
            images,
            kernel,
            (2, 2),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=3,
        )

    assert count_operations(convolve, images, kernel) == 2 * (2 * 4 * 4 * 12) * (3 * 3 * 2)


def test_loops_count_their_length_and_branches_the_dearer_one():
    square = jnp.zeros((4, 4))

    def chain(a):
        return jax.lax.scan(lambda carry, _: (carry @ carry, None), a, None, length=10)[0]

    assert count_operations(chain, square) == 10 * 2 * 4**3

    def either(flag, a):
        return jax.lax.cond(flag, lambda a: a @ a @ a, lambda a: a @ a, a)

    assert count_operations(either, True, square) == 2 * 2 * 4**3


def test_what_no_result_needs_and_what_is_for_other_platforms_does_not_count():
    square = jnp.zeros((4, 4))

    def one_gradient(a):
        return jax.grad(lambda a, b: (a @ b).sum(), argnums=(0, 1))(a, a)[0]

    # The product itself goes into no gradient either.
    assert count_operations(one_gradient, square) == 2 * 4**3

    def either(a):
        return jax.lax.platform_dependent(a, cpu=lambda a: a @ a, default=lambda a: a @ a @ a)

    assert count_operations(either, square, platform="cpu") == 2 * 4**3
    assert count_operations(either, square, platform="tpu") == 2 * 2 * 4**3
    # On either side of the branch of the platform.
    assert count_operations(jax.grad(lambda a: either(a).sum()), square, platform="cpu") == (
        2 * 2 * 4**3
    )


def test_utilization_is_a_share_of_the_peak_of_all_devices(monkeypatch):
    rate = 5e12 * jax.device_count()
    assert utilization(rate) == pytest.approx({"teraflops_per_device": 5.0})
    monkeypatch.setattr(operations, "_PEAKS", {jax.devices()[0].device_kind: 2e13})
    assert utilization(rate)["flop_utilization"] == pytest.approx(0.25)


def test_fused_attention_counts_the_products_inside(monkeypatch):
    from jax._src.cudnn import fused_attention_stablehlo as fused

    # Tracing asks for a card, which compiling alone would need.
    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(fused, "check_compute_capability", lambda capability: True)
    monkeypatch.setattr(fused, "is_cuda_compute_capability_equal", lambda capability: False)
    query, key = jnp.zeros((2, 64, 4, 32), jnp.bfloat16), jnp.zeros((2, 128, 4, 32), jnp.bfloat16)

    def attend(query, key):
        return jax.nn.dot_product_attention(query, key, key, implementation="cudnn")

    one = 2 * (2 * 4) * 64 * 128 * 32
    assert count_operations(attend, query, key) == 2 * one
    gradient = jax.grad(lambda *inputs: attend(*inputs).astype(jnp.float32).sum(), argnums=(0, 1))
    assert count_operations(gradient, query, key) == 7 * one


def test_kernels_count_all_their_blocks_on_all_devices():
    query = jax.ShapeDtypeStruct((8, 1024, 2, 64), jnp.bfloat16)
    one = 2 * (8 * 2) * 1024 * 1024 * 64

    def operations(mesh):
        with jax.set_mesh(mesh):
            kernel = on_own_heads(flash_attention, batch=8, heads=2)
            assert kernel is not None
            return count_operations(kernel, query, query, query, platform="tpu")

    assert operations(make_mesh(2, 2, 2)) == operations(make_mesh(8)) == 2 * one
    assert count_operations(flash_attention, query, query, query, platform="tpu") == 2 * one
