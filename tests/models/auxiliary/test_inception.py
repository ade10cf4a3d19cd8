import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rae_jax.layers.functional import abstract, split
from rae_jax.models.auxiliary.inception import Inception, resize_tensorflow_1
from rae_jax.weights import convert
from rae_jax.weights.tables.inception import inception_table
from tests.comparison import load_case, nchw_to_nhwc, nhwc_to_nchw
from tests.evaluation.extractors import inception_entries, rounded_pictures

OUTPUTS = {
    "64": "pool_1",
    "192": "pool_2",
    "768": "mixed_6e",
    "2048": "pool_3",
    "logits": "logits",
    "logits_unbiased": "unbiased_logits",
    "spatial": "spatial",
}


@pytest.fixture(scope="module")
def case():
    return load_case("inception_fid")


@pytest.fixture(scope="module")
def network(case):
    module = convert.load(inception_table(), inception_entries(case), abstract(Inception))
    definition, weights = split(module)
    compiled = jax.jit(lambda weights, images: definition.merge(weights)(images))
    return module, lambda images: compiled(weights, images)


@pytest.mark.parametrize("side", [64, 256, 299])
def test_features_match_torch_fidelity(case, network, side):
    name = f"images_{side}x{side}"
    features = network[1](jnp.asarray(rounded_pictures(case, name)))
    for ours, theirs in ((OUTPUTS[key], f"{name}.{key}") for key in OUTPUTS):
        case.assert_close(theirs, getattr(features, ours))


@pytest.mark.parametrize("name", ["grow", "shrink"])
def test_resize_matches_tensorflow_1(case, name):
    images = jnp.asarray(nchw_to_nhwc(case.input(name)))
    size = tuple(case.statement["resize_to"][name])
    case.assert_close(f"{name}.resized", nhwc_to_nchw(resize_tensorflow_1(images, size)))


@pytest.mark.parametrize("side", [64, 256, 299])
def test_resized_images_match_torch_fidelity(case, side):
    name = f"images_{side}x{side}"
    images = jnp.asarray(rounded_pictures(case, name)).astype(jnp.float32)
    resized = nhwc_to_nchw(resize_tensorflow_1(images, (299, 299)))
    case.assert_close(f"{name}.resized", resized[:1, :, ::23, ::23])


def test_every_entry_goes_in_and_comes_out(case, network):
    tensors = inception_entries(case)
    back = convert.export(inception_table(), network[0])
    assert back.keys() == tensors.keys()
    assert all(np.array_equal(back[key], tensors[key]) for key in tensors)


def test_zeros_would_fail(case):
    leaves = nnx.to_flat_state(nnx.state(abstract(Inception)))
    assert len(leaves) == len(case.entries())
    for key in OUTPUTS:
        name = f"images_299x299.{key}"
        tolerance = case.statement["outputs"][name]["tolerance"]
        assert np.abs(case.output(name)).max() > 100 * tolerance
