"""LPIPS and its VGG16 against the RAE release's and the package lpips."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rae_jax.layers.functional import abstract, split
from rae_jax.models.auxiliary.lpips import LPIPS
from rae_jax.models.auxiliary.vgg import VGG16, Convolution
from rae_jax.ops.images import resize_bilinear, to_float, to_signed
from rae_jax.weights import convert
from rae_jax.weights.tables.lpips import LPIPS_TABLE
from rae_jax.weights.tables.vgg import VGG16_TABLE
from tests.comparison import load_case, nchw_to_nhwc, nhwc_to_nchw
from tests.models.compiled import filled


def empty():
    return abstract(lambda: LPIPS(VGG16(dtype=jnp.float32, rngs=nnx.Rngs(0))))


class Published:
    """A case and its network; each program compiled once."""

    def __init__(self, name, entries):
        self.case, self.entries = load_case(name), entries(load_case(name))
        self.definition, self.weights = split(convert.load(LPIPS_TABLE, self.entries, empty()))
        self.maps = jax.jit(lambda weights, *pair: self.definition.merge(weights).maps(*pair))

    def image(self, name):
        return jnp.asarray(nchw_to_nhwc(self.case.input(name)))

    def layers(self, images, others, weights=None):
        """[layers, B], and their sum."""
        maps = self.maps(self.weights if weights is None else weights, images, others)
        means = np.stack([np.mean(layer, axis=(1, 2)) for layer in maps])
        return means, means.sum(axis=0)


@pytest.fixture(scope="module")
def upstream():
    return Published(
        "lpips", lambda case: case.entries("vgg_entries") | case.entries("lin_entries")
    )


@pytest.fixture(scope="module")
def package():
    return Published("lpips_vgg", lambda case: case.entries())


def both(published, first, second):
    return published.image(first), published.image(second)


def distances(published, images, others):
    return published.layers(images, others)[1].reshape(-1, 1, 1, 1)


@pytest.fixture(scope="module")
def differentiated(upstream):
    """Mean distance and its gradient by the second image, as training takes it."""

    def mean(weights, images, others):
        distance = upstream.definition.merge(weights)(images, others)
        return distance.mean(), distance

    compiled = jax.jit(jax.value_and_grad(mean, argnums=2, has_aux=True))
    return lambda *pair: compiled(upstream.weights, *pair)


def test_distance_matches_upstream(upstream, differentiated):
    case = upstream.case
    pair = both(upstream, "input_square", "target_square")
    (mean, distance), gradient = differentiated(*pair)
    for name in ("per_image", "eval_utils"):
        case.assert_close(name, distance.reshape(-1, 1, 1, 1))
    case.assert_close("mean", mean)
    case.assert_close("sum", distance.sum())
    assert_gradient(case, "grad_target", gradient)


def test_every_layer_matches_upstream_where_all_count(upstream):
    case = upstream.case
    layers, total = upstream.layers(*both(upstream, "input_strong", "target_strong"))
    for index, layer in enumerate(layers):
        case.assert_close(f"strong_layer_{index}", layer)
    case.assert_close("strong", total.reshape(-1, 1, 1, 1))


@pytest.mark.slow
def test_gradient_matches_upstream_where_all_layers_count(upstream, differentiated):
    _, gradient = differentiated(*both(upstream, "input_strong", "target_strong"))
    assert_gradient(upstream.case, "grad_strong_target", gradient)


def assert_gradient(case, name, gradient):
    found = nhwc_to_nchw(gradient)[:, :, ::2, ::2]
    case.assert_close(name, found)
    relative = np.linalg.norm(found - case.output(name)) / np.linalg.norm(case.output(name))
    assert relative < case.statement["outputs"][name]["relative_l2_tolerance"]


def test_close_equal_and_stored_images(upstream):
    case, images = upstream.case, upstream.image("input_square")
    case.assert_close("close", distances(upstream, images, images + upstream.image("noise")))
    case.assert_close("identical", distances(upstream, images, images))
    stored = (jnp.asarray(nchw_to_nhwc(case.input(f"bytes_{name}"))) for name in "ab")
    first, second = (to_signed(to_float(x)) for x in stored)
    case.assert_close("calculate_lpips", distances(upstream, first, second).mean())


@pytest.mark.slow
def test_odd_sizes_match_upstream(upstream):
    upstream.case.assert_close(
        "odd", distances(upstream, *both(upstream, "input_odd", "target_odd"))
    )


@pytest.mark.parametrize("size", ["64x64", pytest.param("48x80", marks=pytest.mark.slow)])
def test_distance_matches_the_package(package, size):
    case = package.case
    pair = both(package, f"first_{size}", f"second_{size}")
    published = {"weights": {index: jnp.asarray(case.output(f"lin{index}")) for index in range(5)}}
    for suffix, weights in (("", package.weights | published), ("_recipe_lin", package.weights)):
        layers, total = package.layers(*pair, weights)
        case.assert_close(f"{size}.distance{suffix}", total)
        for index, layer in enumerate(layers):
            case.assert_close(f"{size}.layer{index}{suffix}", layer)
        maps = package.maps(weights, *pair)
        height, width = pair[0].shape[1:3]
        spatial = sum(resize_bilinear(m[:1, ..., None], height, width) for m in maps)
        case.assert_close(f"{size}.spatial{suffix}", nhwc_to_nchw(spatial)[:, :, ::5, ::5])


def test_every_entry_goes_in_and_comes_out(upstream):
    module = upstream.definition.merge(upstream.weights)
    back = convert.export(LPIPS_TABLE, module)
    assert back.keys() == upstream.entries.keys()
    assert all(np.array_equal(back[key], upstream.entries[key]) for key in back)
    network = convert.export(VGG16_TABLE, module.network)
    assert network.keys() == upstream.case.statement["vgg_entries"].keys()


def test_zeros_would_fail(upstream, package):
    for case in (upstream.case, package.case):
        for name, output in case.statement["outputs"].items():
            if name != "identical":
                assert np.abs(case.output(name)).max() > 20 * output["tolerance"], name


def tiny(dtype=jnp.float32):
    return LPIPS(VGG16(widths=(4, 4, 6, 6, 8), dtype=dtype, rngs=nnx.Rngs(0)))


@pytest.fixture(scope="module")
def small():
    """Distance and gradient of a small network, and its weights."""
    definition, weights = split(filled(tiny))

    def mean(weights, images, others):
        return definition.merge(weights)(images, others).mean()

    return jax.jit(jax.value_and_grad(mean, argnums=2)), jax.tree.map(jnp.abs, weights)


PICTURES = jnp.linspace(-1, 1, 2 * 16 * 16 * 3).reshape(2, 16, 16, 3)


def test_no_activations_give_a_gradient_of_zero_not_nan(small):
    distance, weights = small
    value, gradient = distance(jax.tree.map(jnp.zeros_like, weights), PICTURES, PICTURES[::-1])
    assert float(value) == 0
    assert not np.any(gradient)


def test_distance_is_positive_and_symmetric(small):
    distance, weights = small
    value, gradient = distance(weights, PICTURES, PICTURES[:, ::-1])
    assert float(value) > 1e-4
    assert np.any(gradient)
    back, _ = distance(weights, PICTURES[:, ::-1], PICTURES)
    assert float(back) == pytest.approx(float(value), rel=1e-5)


def test_fresh_kernels_keep_the_scale_of_activations():
    kernel = Convolution(16, 64, dtype=jnp.float32, rngs=nnx.Rngs(0)).kernel[...]
    assert float(jnp.std(kernel)) == pytest.approx((2 / (9 * 16)) ** 0.5, rel=0.05)


def test_bfloat16_stays_near_float32(small):
    _, weights = small
    definitions = [split(abstract(lambda t=t: tiny(t)))[0] for t in (jnp.float32, jnp.bfloat16)]
    answers = [
        jax.jit(lambda w, *pair, d=definition: d.merge(w)(*pair))(weights, PICTURES, PICTURES[::-1])
        for definition in definitions
    ]
    assert answers[1].dtype == jnp.float32
    np.testing.assert_allclose(answers[1], answers[0], rtol=0.05)
    assert np.any(answers[1] != answers[0])
