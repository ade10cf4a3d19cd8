"""Data sets of TensorFlow Datasets, written and read without TensorFlow."""

import io
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from rae_jax.data import pipeline
from rae_jax.data.decoding import UnreadableImageError
from rae_jax.data.sources.tensorflow_datasets import TensorFlowDataset
from tests.data import photos


class TinyPhotos(tfds.core.GeneratorBasedBuilder):
    """Ten photographs and, under "damaged", one that is none."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        columns = {
            "picture": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "kind": tfds.features.ClassLabel(names=["cat", "dog", "cow"]),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(columns),
            supervised_keys=("picture", "kind"),
        )

    def _split_generators(self, dl_manager):
        whole, cut = self._generate_examples(10), self._generate_examples(1, cut=200)
        return {"train": whole, "damaged": cut}

    def _generate_examples(self, count, cut=None):
        for number in range(count):
            data = photos.encoded(photos.photo(number, 20 + number, 30), "png")[:cut]
            yield str(number), {"picture": io.BytesIO(data), "kind": number % 3}


class Sentences(tfds.core.GeneratorBasedBuilder):
    """No images."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict({"image": np.int64, "label": np.int64})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield "0", {"image": 1, "label": 2}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    for builder in (TinyPhotos, Sentences):
        builder(data_dir=str(folder), file_format="array_record").download_and_prepare()
    return folder


def test_images_are_those_that_were_stored(prepared):
    source = TensorFlowDataset(prepared / "tiny_photos/1.0.0", "train")
    assert (len(source), source.classes) == (10, ("cat", "dog", "cow"))
    originals = {
        20 + number: (photos.photo(number, 20 + number, 30), number % 3) for number in range(10)
    }
    for index in range(10):
        record = source[index]
        image, label = originals.pop(record["image"].shape[1])
        np.testing.assert_array_equal(record["image"], np.asarray(image))
        assert (record["label"], record["index"]) == (label, index)
        assert (record["label"].dtype, record["index"].dtype) == (np.int32, np.int64)
    assert originals == {}
    assert repr(source) == "TensorFlowDataset(tiny_photos/1.0.0, 'train', 10 images)"
    assert "tensorflow" not in sys.modules


def test_parts_of_a_split(prepared):
    source = TensorFlowDataset(prepared / "tiny_photos/1.0.0", "train[20%:50%]")
    whole = TensorFlowDataset(prepared / "tiny_photos/1.0.0", "train")
    assert len(source) == 3
    for index in range(3):
        np.testing.assert_array_equal(source[index]["image"], whole[2 + index]["image"])


def test_batches(prepared):
    source = TensorFlowDataset(prepared / "tiny_photos/1.0.0", "train")
    batch = next(pipeline.batches(pickle.loads(pickle.dumps(source)), seed=0, global_batch_size=1))
    index = int(batch["index"][0])
    np.testing.assert_array_equal(batch["images"][0], source[index]["image"])


def test_a_data_set_by_name_in_a_process_without_tensorflow(prepared):
    program = (
        "import sys; from rae_jax.data.sources.tensorflow_datasets import TensorFlowDataset;"
        "source = TensorFlowDataset('tiny_photos', 'train');"
        "print(source, source[4]['image'].shape, 'tensorflow' in sys.modules)"
    )
    environment = {"TFDS_DATA_DIR": str(prepared), "PATH": "", "PYTHONPATH": ":".join(sys.path)}
    process = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert process.stdout.startswith("TensorFlowDataset(tiny_photos/1.0.0, 'train', 10 images) (30")
    assert process.stdout.endswith("False\n")


def test_a_damaged_image_is_named(prepared):
    source = TensorFlowDataset(prepared / "tiny_photos/1.0.0", "damaged")
    message = "cannot read image 0 of tiny_photos/1.0.0, 'damaged': "
    with pytest.raises(UnreadableImageError, match=message):
        source[0]


def test_what_cannot_be_read(prepared, tmp_path):
    with pytest.raises(ValueError, match=r"TensorFlow data set is not set; set data\.path"):
        TensorFlowDataset("", "train")
    with pytest.raises(FileNotFoundError, match=r"no dataset_info\.json in .*name the folder of a"):
        TensorFlowDataset(prepared, "train")
    with pytest.raises(FileNotFoundError, match="no folder and no TensorFlow data set 'nowhere'"):
        TensorFlowDataset("nowhere", "train")
    with pytest.raises(ValueError, match=r"has no split 'test'; set data.split to one of .*train"):
        TensorFlowDataset(prepared / "tiny_photos/1.0.0", "test")
    with pytest.raises(ValueError, match="must have a column 'image' of type Image, it has image,"):
        TensorFlowDataset(prepared / "sentences/1.0.0", "train")
    with pytest.raises(FileNotFoundError, match="'mnist' is not prepared in .*; prepare it with"):
        TensorFlowDataset("mnist", "train")


def test_another_file_format_is_refused(prepared, tmp_path):
    folder = tmp_path / "1.0.0"
    folder.mkdir()
    for file in (prepared / "tiny_photos/1.0.0").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps({**info, "fileFormat": "tfrecord"}))
    with pytest.raises(ValueError, match="is not prepared as ArrayRecord, which random access"):
        TensorFlowDataset(folder, "train")
