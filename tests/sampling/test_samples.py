import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rae_jax import build
from rae_jax.checkpointing.experiment import checkpoint_folder
from rae_jax.checkpointing.manager import CheckpointManager
from rae_jax.configuration.schema import GuidanceConfig
from rae_jax.data.sources.image_folder import read_image
from rae_jax.sampling import samples
from rae_jax.sampling.samples import class_labels, make_samples
from rae_jax.sharding.mesh import make_mesh
from tests import pipeline
from tests.golden import recipe

GUIDED = GuidanceConfig(method="classifier_free", scale=3.0)


def test_equal_labels_take_the_classes_in_turn():
    labels = class_labels("equal", 7, 3, seed=0)
    assert labels.dtype == np.int32
    assert labels.tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_listed_labels_are_repeated():
    assert class_labels("3, 1,4", 5, 10, seed=0).tolist() == [3, 1, 4, 3, 1]


def test_random_labels_depend_on_seed_and_place_alone():
    labels = class_labels("random", 300, 10, seed=4)
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels[:20], class_labels("random", 20, 10, seed=4))
    assert np.any(labels != class_labels("random", 300, 10, seed=5))
    # A multinomial with 30 expected in each class.
    assert np.all(abs(np.bincount(labels, minlength=10) - 30) < 20)


def test_labels_that_the_model_does_not_have_are_refused():
    with pytest.raises(ValueError, match=r"below the model's 10 classes, got \[10, 12\]"):
        class_labels("3,10,12", 5, 10, seed=0)


def drawn(tree, seed):
    """Weights that depend on their paths alone, of unit gain."""

    def leaf(path, shape):
        gain = shape.shape[-2] ** -0.5 if shape.ndim > 1 else 1.0
        values = recipe.uniform(f"{seed}{jax.tree_util.keystr(path)}", shape.shape)
        return jnp.asarray(np.float32(gain) * values)

    return jax.tree_util.tree_map_with_path(leaf, tree)


@pytest.fixture(scope="module")
def trained(runs, tmp_path_factory):
    """The stage-2 run with weights for which labels matter, as they do after long training."""
    folder = tmp_path_factory.mktemp("stage2")
    shutil.copy(runs / "stage2" / "config.json", folder)
    _, _, (ema, buffers) = build.restored_denoiser(
        str(runs / "stage2"), pipeline.stage2(runs), (3, 3, 64)
    )
    state = {"ema": drawn(ema, "ema"), "params": drawn(ema, "raw"), "buffers": buffers}
    with CheckpointManager(checkpoint_folder(folder)) as manager:
        manager.save(1, state, {})
    return folder


def sampling(trained, **changes):
    return pipeline.sampling(trained, **{"checkpoint": str(trained), **changes})


@pytest.fixture(scope="module")
def made(trained, tmp_path_factory):
    """The samples of the tiny config: 20 in batches of 8 on 8 devices."""
    folder = tmp_path_factory.mktemp("samples")
    make_samples(sampling(trained), folder)
    return folder


def arrays(folder):
    with np.load(folder / "samples.npz") as file:
        return file["arr_0"], file["arr_1"]


def test_a_set_is_one_file_and_a_picture(made):
    images, labels = arrays(made)
    assert images.shape == (20, 48, 48, 3)
    assert images.dtype == np.uint8
    assert labels.tolist() == 2 * list(range(10))
    assert len({image.tobytes() for image in images}) == 20
    assert sorted(path.name for path in made.iterdir()) == [
        "config.json",
        "samples.npz",
        "samples.png",
    ]
    # Two samples of each class in a row, in lines of two pixels.
    picture = read_image(made / "samples.png")
    assert picture.shape == (10 * 50 + 2, 2 * 50 + 2, 3)
    np.testing.assert_array_equal(picture[52:100, 52:100], images[11])


@pytest.mark.parametrize("batch_size, num_devices", [(32, 8), (3, 1)])
def test_samples_depend_on_neither_batch_nor_devices(
    trained, made, tmp_path, monkeypatch, batch_size, num_devices
):
    def mesh(*sizes):
        return make_mesh(*sizes, devices=jax.devices()[:num_devices])

    monkeypatch.setattr(samples, "make_mesh", mesh)
    make_samples(sampling(trained, batch_size=batch_size), tmp_path)
    difference = np.abs(arrays(tmp_path)[0].astype(int) - arrays(made)[0])
    # Other shapes are other programs, whose rounding may tip a pixel to the next level.
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


def test_more_samples_begin_with_the_same(trained, made, tmp_path):
    config = sampling(trained, num_images=9, labels="0,1,2,3,4,5,6,7,8,9", save_png=True)
    make_samples(config, tmp_path)
    np.testing.assert_array_equal(arrays(tmp_path)[0], arrays(made)[0][:9])
    pngs = sorted((tmp_path / "png").iterdir())
    assert [path.name for path in pngs] == [f"{index:06d}.png" for index in range(9)]
    np.testing.assert_array_equal(read_image(pngs[8]), arrays(made)[0][8])


@pytest.mark.parametrize(
    "changes",
    [
        {"guidance": GUIDED},
        {"guidance": dataclasses.replace(GUIDED, scale=1.5)},
        {"seed": 1},
        {"weights": "raw"},
        {"labels": "1,2,3"},
    ],
    ids=["guided", "weakly guided", "seed", "raw weights", "labels"],
)
def test_settings_change_the_images(trained, made, tmp_path, changes):
    make_samples(sampling(trained, num_images=8, **changes), tmp_path)
    difference = np.abs(arrays(tmp_path)[0].astype(int) - arrays(made)[0][:8])
    assert np.all(difference.max(axis=(1, 2, 3)) > 0)


def test_guidance_of_scale_1_changes_nothing(trained, made, tmp_path):
    guidance = dataclasses.replace(GUIDED, scale=1.0)
    make_samples(sampling(trained, num_images=8, guidance=guidance), tmp_path)
    np.testing.assert_array_equal(arrays(tmp_path)[0], arrays(made)[0][:8])


class Interrupted(Exception):
    pass


def test_an_interrupted_set_goes_on_with_the_batches_that_are_missing(
    trained, made, tmp_path, monkeypatch
):
    config, calls, generate = sampling(trained), [], samples._Restored.__call__

    def counted(self, index, labels):
        if len(calls) == 2:
            raise Interrupted
        calls.append(index.tolist())
        return generate(self, index, labels)

    monkeypatch.setattr(samples._Restored, "__call__", counted)
    with pytest.raises(Interrupted):
        make_samples(config, tmp_path)
    assert sorted(path.name for path in (tmp_path / "batches").iterdir()) == [
        "00000000-00000008.npz",
        "00000008-00000016.npz",
    ]
    calls.clear()
    make_samples(config, tmp_path)
    assert calls == [[16, 17, 18, 19, 16, 17, 18, 19]]
    for resumed, unbroken in zip(arrays(tmp_path), arrays(made), strict=True):
        np.testing.assert_array_equal(resumed, unbroken)
    assert not (tmp_path / "batches").exists()


def test_a_finished_set_is_left_alone_and_another_refused(trained, made, monkeypatch):
    monkeypatch.setattr(samples, "_Restored", None)
    before = (made / "samples.npz").read_bytes()
    assert make_samples(sampling(trained), made) == made / "samples.npz"
    assert (made / "samples.npz").read_bytes() == before
    make_samples(sampling(trained, save_png=True), made)
    with np.load(made / "samples.npz") as arrays:
        pictures = [read_image(made / "png" / f"{n:06d}.png") for n in range(20)]
        np.testing.assert_array_equal(pictures, arrays["arr_0"])
    with pytest.raises(ValueError, match="seed: 0 there, 3 now"):
        make_samples(sampling(trained, seed=3), made)


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"checkpoint": ""}, ValueError, "set --config.checkpoint to the work folder"),
        ({"checkpoint": "{runs}/none"}, FileNotFoundError, "no folder .*none"),
        ({"checkpoint": "{runs}/stage1"}, ValueError, "must hold a run of stage2, it holds"),
        ({"labels": "7,10"}, ValueError, r"below the model's 10 classes, got \[10\]"),
    ],
)
def test_wrong_settings_are_refused_before_the_folder_is_made(
    runs, trained, tmp_path, changes, error, message
):
    changes = {name: value.format(runs=runs) for name, value in changes.items()}
    with pytest.raises(error, match=message):
        make_samples(sampling(trained, **changes), tmp_path / "new")
    assert not (tmp_path / "new").exists()
