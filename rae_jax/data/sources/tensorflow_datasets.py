"""Data sets that TensorFlow Datasets has prepared as ArrayRecord, read without TensorFlow."""

import operator
import os
from collections.abc import Mapping
from typing import Any, SupportsIndex

from rae_jax.data.decoding import decode
from rae_jax.data.sources.base import Record, record
from rae_jax.files import local_path


class TensorFlowDataset:
    """Images and labels of one split of a prepared data set.

    The columns are those that the data set names for supervised training, else `image` and
    `label`. The encoded images are taken as they are stored and decoded by PIL.

    Args:
        path: Folder of a prepared version, which holds `dataset_info.json`; or the name of a data
            set, such as "imagenet2012" or "imagenet2012:5.1.0", prepared in the folder that the
            environment variable TFDS_DATA_DIR names.
        split: Such as "train" or "train[:90%]".

    Attributes:
        classes: Names of the classes.

    Raises:
        FileNotFoundError: It is not there, or not prepared.
        ValueError: No path is given, the split does not exist, it has no images and labels, or it
            was prepared in another format than ArrayRecord.
    """

    def __init__(self, path: str | os.PathLike[str], split: str):
        if not os.fspath(path):
            raise ValueError("the TensorFlow data set is not set; set data.path")
        # Imported here because it takes a second, and other sources do without.
        import tensorflow_datasets as tfds

        builder = _builder(tfds, os.fspath(path))
        self._name = f"{builder.info.full_name}, {split!r}"
        self._image, self._label = _columns(tfds, builder)
        self.classes = tuple(builder.info.features[self._label].names)
        raw = {self._image: tfds.decode.SkipDecoding()}
        try:
            self._records = builder.as_data_source(split=split, decoders=raw)
        except NotImplementedError:
            raise ValueError(
                f"{path} is not prepared as ArrayRecord, which random access needs; prepare it "
                "with `tfds.builder(NAME, file_format='array_record').download_and_prepare()`"
            ) from None
        except (ValueError, KeyError) as error:
            legal = ", ".join(builder.info.splits)
            raise ValueError(
                f"{path} has no split {split!r}; set data.split to one of {legal}, or to a part of "
                "one such as 'train[:90%]'"
            ) from error

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: SupportsIndex) -> Record:
        index = operator.index(index)
        content: Mapping[str, Any] = self._records[index]
        pixels = decode(content[self._image], self.path(index))
        return record(pixels, content[self._label], index)

    def path(self, index: int) -> str:
        """Which record of which split record `index` is."""
        return f"{index} of {self._name}"

    def __repr__(self) -> str:
        return f"TensorFlowDataset({self._name}, {len(self)} images)"


def _builder(tfds: Any, path: str) -> Any:
    folder = local_path(path, "data.path")
    if folder.is_dir():
        if not (folder / "dataset_info.json").exists():
            raise FileNotFoundError(
                f"no dataset_info.json in {path}; name the folder of a version, such as "
                "tensorflow_datasets/imagenet2012/5.1.0"
            )
        return tfds.builder_from_directory(path)
    try:
        builder = tfds.builder(path, try_gcs=False)
    except (ValueError, tfds.core.registered.DatasetNotFoundError) as error:
        raise FileNotFoundError(f"no folder and no TensorFlow data set {path!r}") from error
    if not builder.info.splits:
        raise FileNotFoundError(
            f"TensorFlow data set {path!r} is not prepared in {builder.data_dir}; prepare it with "
            f"`tfds.builder({path!r}, file_format='array_record').download_and_prepare()`"
        )
    return builder


def _columns(tfds: Any, builder: Any) -> tuple[str, str]:
    """Names of the columns of images and labels."""
    features, named = builder.info.features, builder.info.supervised_keys
    image, label = named if named and len(named) == 2 else ("image", "label")
    kinds = tfds.features.Image, tfds.features.ClassLabel
    for column, kind in zip((image, label), kinds, strict=True):
        if not isinstance(column, str) or not isinstance(dict(features).get(column), kind):
            raise ValueError(
                f"{builder.info.full_name} must have a column {column!r} of type {kind.__name__}, "
                f"it has {', '.join(sorted(features))}"
            )
    return image, label
