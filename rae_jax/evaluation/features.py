"""Networks that judge images by their features."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from rae_jax import build
from rae_jax.configuration.schema import AutoencoderConfig, EncoderConfig, ExtractorConfig
from rae_jax.evaluation.rows import RowFunction
from rae_jax.files import local_path
from rae_jax.layers.functional import abstract, split
from rae_jax.models.auxiliary.inception import Inception
from rae_jax.ops.images import to_float
from rae_jax.typing import Array, Float, Tree, UInt8
from rae_jax.weights import convert, readers
from rae_jax.weights.tables.inception import inception_table

PUBLISHED_FILE = "pt_inception-2015-12-05-6726825d.pth"
INCEPTION = "Inception 2015-12-05"
"""Beginning of the label of every extractor whose distances may be called FID."""

_SHA256 = "6726825d"
_WHERE = (
    "it is published at https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    f"{PUBLISHED_FILE} (the same file is weights-inception-2015-12-05-6726825d.pth of "
    "https://github.com/toshas/torch-fidelity/releases); set --config.extractor.weights to it, it "
    "is read as it is. For lightweight scores that are not FID set --config.extractor.kind=encoder "
    "with --config.extractor.weights=, --config.extractor.encoder.path=builtin:digits_mae and "
    "--config.extractor.encoder.input_size=48, or another encoder"
)
_LAYERS = {64: "pool_1", 192: "pool_2", 768: "mixed_6e", 2048: "pool_3"}

Function = Callable[[Tree, UInt8[Array, "B H W 3"]], dict[str, Array]]
"""Pure `(arrays, images) -> {"features": [B, D]}`, perhaps with "spatial" and "logits"."""


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """Features of a set of images, float32, in their order.

    Attributes:
        pooled: [N, D], what distances are taken of.
        spatial: [N, D2], those of sFID; None if the network has none.
        logits: [N, K], those of the Inception Score; None if the network has none.
    """

    pooled: Float[np.ndarray, "N D"]
    spatial: Float[np.ndarray, "N _"] | None = None
    logits: Float[np.ndarray, "N _"] | None = None

    def __len__(self) -> int:
        return len(self.pooled)


class Extractor:
    """Features of images of any one size, the same whatever the number of devices.

    Attributes:
        label: Names the network in every result.
        notes: What a reader of scores must know of the network.
        is_inception: Whether distances of these features are called FID.
        chunk: Images at a time over the devices of this process.
    """

    def __init__(
        self,
        label: str,
        function: Function,
        arrays: Tree,
        *,
        rows: int = 32,
        devices: list[Any] | None = None,
        notes: tuple[str, ...] = (),
    ):
        """Places the network on the devices.

        Args:
            label: Names the network.
            function: Features of a batch.
            arrays: First argument of `function`.
            rows: Images at a time per device.
            devices: Those of this process unless given.
            notes: What a reader of scores must know of the network.
        """
        self.label, self.notes = label, notes
        self.is_inception = label.startswith(INCEPTION)
        self._function = RowFunction(function, arrays, rows=rows, devices=devices)
        self.chunk = self._function.chunk

    def __call__(self, images: UInt8[np.ndarray, "N H W 3"]) -> Features:
        """Features of any number of images, at least one."""
        rows = self._function(images)
        return Features(rows["features"], rows.get("spatial"), rows.get("logits"))


def make_extractor(config: ExtractorConfig, *, devices: list[Any] | None = None) -> Extractor:
    """The configured network.

    Raises:
        FileNotFoundError: Its weights are missing.
        ValueError: They are not set, or not this network's.
    """
    if config.kind == "inception":
        return inception(config.weights, layer=config.layer, rows=config.rows, devices=devices)
    return encoder(config.encoder, rows=config.rows, devices=devices)


def inception(
    weights: str | pathlib.Path,
    *,
    layer: int = 2048,
    rows: int = 32,
    devices: list[Any] | None = None,
) -> Extractor:
    """The Inception of FID with the published weights.

    Args:
        weights: The published file, or one with its entries in another format.
        layer: Width of the features: 2048 for FID; 64, 192 and 768 are those of earlier layers.
        rows: Images at a time per device.
        devices: Those of this process unless given.

    Raises:
        FileNotFoundError: No such file.
        ValueError: No file is named, or it is not that of this network.
    """
    if not str(weights):
        raise ValueError(f"the weights of Inception, {PUBLISHED_FILE}, are not set: {_WHERE}")
    path = local_path(weights, "weights")
    if not path.is_file():
        raise FileNotFoundError(
            f"no file {path}, which must be {PUBLISHED_FILE}, the weights of Inception: {_WHERE}"
        )
    try:
        module = convert.load(inception_table(), readers.read_tensors(path), abstract(Inception))
    except convert.WeightError as error:
        raise convert.WeightError(f"{path} is not {PUBLISHED_FILE}: {error}") from None
    definition, arrays = split(module)

    def function(arrays: Tree, images: UInt8[Array, "B H W 3"]) -> dict[str, Array]:
        features = definition.merge(arrays)(images)
        return {
            "features": getattr(features, _LAYERS[layer]),
            "spatial": features.spatial,
            "logits": features.unbiased_logits,
        }

    notes = ()
    if not _sha256(path).startswith(_SHA256):
        notes = (
            f"{path.name} is not bit for bit the published {PUBLISHED_FILE}: scores compare with "
            "others only if it holds the same weights",
        )
    label = INCEPTION if layer == 2048 else f"{INCEPTION}, {layer} features"
    return Extractor(label, function, arrays, rows=rows, devices=devices, notes=notes)


def encoder(
    config: EncoderConfig, *, rows: int = 32, devices: list[Any] | None = None
) -> Extractor:
    """The mean token of a frozen encoder: light, and good for comparing runs, but no FID.

    Args:
        config: Folder, hub name or "builtin:digits_mae", and the side images are resized to.
        rows: Images at a time per device.
        devices: Those of this process unless given.

    Raises:
        FileNotFoundError: The folder is missing.
        ValueError: It does not hold an encoder.
    """
    settings = AutoencoderConfig(encoder=config)
    loaded = build.encoder(settings, build.Compute())
    definition, arrays = split(build.autoencoder(settings, loaded, None))

    def function(arrays: Tree, images: UInt8[Array, "B H W 3"]) -> dict[str, Array]:
        tokens = definition.merge(arrays).features(to_float(images))
        return {"features": tokens.mean(axis=(1, 2))}

    fingerprint = build.encoder_fingerprint(loaded)[:8]
    label = f"mean token of {config.path} at {config.input_size} pixels ({fingerprint}), not FID"
    return Extractor(label, function, arrays, rows=rows, devices=devices)


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
