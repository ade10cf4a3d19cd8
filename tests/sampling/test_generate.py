"""The n-th image is a function of the seed and n, however the work is spread over devices."""

import jax
import numpy as np
import pytest

from rae_jax.configuration.schema import GuidanceConfig
from rae_jax.sampling.restore import noise_key, restore
from rae_jax.sharding.mesh import batch_sharding, make_mesh
from rae_jax.sharding.processes import place
from rae_jax.sharding.rules import tree_shardings
from tests.sampling.trained import sampling, stage2_run

COUNT = 16
INDEX = np.arange(COUNT, dtype=np.int32)
LABELS = INDEX % 10


@pytest.fixture(scope="module")
def restored(runs, tmp_path_factory):
    folder = stage2_run(runs, tmp_path_factory.mktemp("stage2"))
    guidance = GuidanceConfig(method="classifier_free", scale=2.0, interval=(0.2, 0.9))
    return restore(sampling(folder, guidance=guidance))


def latents_and_images(restored):
    def both(weights, frozen, key, index, labels):
        latents = restored.generator.latents(weights, key, index, labels)
        return latents, restored.generator(weights, frozen, key, index, labels)

    return both


def on_mesh(restored, mesh, batch_size):
    """All samples in batches over the devices of a mesh."""
    arguments = restored.weights, restored.frozen
    arguments = place(arguments, tree_shardings(arguments, mesh, min_size=1))
    function = jax.jit(latents_and_images(restored), out_shardings=batch_sharding(mesh))
    parts = []
    with jax.set_mesh(mesh):
        for start in range(0, COUNT, batch_size):
            rows = slice(start, start + batch_size)
            batch = place((INDEX[rows], LABELS[rows]), batch_sharding(mesh))
            parts.append(jax.device_get(function(*arguments, noise_key(0), *batch)))
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def by_pmap(restored, num_devices, **options):
    """All samples, each device its part of them."""
    function = jax.pmap(
        latents_and_images(restored),
        in_axes=(None, None, None, 0, 0),
        devices=jax.devices()[:num_devices],
        **options,
    )
    index, labels = INDEX.reshape(num_devices, -1), LABELS.reshape(num_devices, -1)
    outputs = function(restored.weights, restored.frozen, noise_key(0), index, labels)
    return [np.asarray(output).reshape(COUNT, *output.shape[2:]) for output in outputs]


@pytest.fixture(scope="module")
def expected(restored):
    """On one device, two samples at a time."""
    latents, images = on_mesh(restored, make_mesh(devices=jax.devices()[:1]), 2)
    assert len({image.tobytes() for image in images}) == COUNT
    return latents, images


def assert_same_bits(outputs, expected):
    for output, wanted in zip(outputs, expected, strict=True):
        np.testing.assert_array_equal(output, wanted)


def assert_close(outputs, expected):
    (latents, images), (expected_latents, expected_images) = outputs, expected
    # Measured: 7e-6 of the largest.
    scale = np.abs(expected_latents).max()
    np.testing.assert_allclose(latents, expected_latents, rtol=0, atol=1e-5 * scale)
    difference = np.abs(images.astype(int) - expected_images)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize(
    "num_devices",
    [pytest.param(2, marks=pytest.mark.long), 4, pytest.param(8, marks=pytest.mark.long)],
)
def test_as_many_samples_on_each_of_more_devices_are_the_same_bits(restored, expected, num_devices):
    mesh = make_mesh(devices=jax.devices()[:num_devices])
    assert_same_bits(on_mesh(restored, mesh, 2 * num_devices), expected)


def test_pmap_gives_the_same_bits(restored, expected):
    # The models look for mesh axes of this name, which they must not take it for.
    assert_same_bits(by_pmap(restored, 8, axis_name="data"), expected)


@pytest.mark.long
@pytest.mark.parametrize(
    "run",
    [
        lambda restored: on_mesh(restored, make_mesh(), 8),
        lambda restored: on_mesh(restored, make_mesh(data=2, fsdp=2, tensor=2), 8),
        pytest.param(
            lambda restored: on_mesh(restored, make_mesh(data=1, fsdp=8), 8), marks=pytest.mark.slow
        ),
        pytest.param(
            lambda restored: on_mesh(restored, make_mesh(data=2, fsdp=4), 8), marks=pytest.mark.slow
        ),
        lambda restored: by_pmap(restored, 1),
    ],
    ids=["one a device", "cut three ways", "cut in 8", "cut in 4", "all on one device"],
)
def test_another_number_of_samples_per_device_rounds_otherwise(restored, expected, run):
    assert_close(run(restored), expected)
