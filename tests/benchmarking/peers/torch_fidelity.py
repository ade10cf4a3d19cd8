"""The Inception of torch-fidelity."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import torch

from rae_jax.benchmarking import filling
from rae_jax.benchmarking.presets import Settings
from rae_jax.benchmarking.sides import Prepared
from tests.benchmarking.peers import torch_side
from tests.evaluation.peers import fidelity

VERSION = f"torch-fidelity {fidelity().__version__}, torch {torch.__version__}"


def _evaluate(settings: Settings) -> Prepared:
    network = _network()
    pixels = filling.images(settings.batch_size, settings.sizes.image_size)
    images = torch_side.nchw(np.rint(255 * pixels.clip(0, 1)).astype(np.uint8))
    extract = torch_side.compiled(network, settings)

    def run() -> torch.Tensor:
        return extract(images)[0]

    return torch_side.prepared(settings, run, lambda features: features.float().cpu().numpy())


def _network() -> Any:
    """With the features that all scores need."""
    names = ["2048", "logits_unbiased"]
    kind = fidelity().FeatureExtractorInceptionV3
    # Its weights are made up afterwards, so that no file is loaded.
    with mock.patch.object(kind, "load_state_dict"), mock.patch("torch.load"):
        network = kind("inception-v3-compat", names, "none")
    return torch_side.filled(network)


PARTS: dict[str, Callable[[Settings], Prepared]] = {"evaluate": _evaluate}
