"""The scores of torch-fidelity and torchmetrics beside ours, and the speed of both.

python -m tests.evaluation.peers [NUMBER OF IMAGES] [SIDE]

prints the table of docs/evaluation.md. The weights of Inception are made up by a recipe, in a file
of the published layout that both read: what is compared is the computation.
"""

import contextlib
import importlib.metadata
import os
import pathlib
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from rae_jax.data.sources.digits import Digits
from rae_jax.evaluation.features import Extractor, inception
from rae_jax.evaluation.frechet import frechet_distance
from rae_jax.evaluation.generation import score
from rae_jax.evaluation.images import ImageSet
from rae_jax.evaluation.inception_score import inception_score
from rae_jax.evaluation.kernel_distance import kernel_distance
from rae_jax.evaluation.reconstruction import PairCollector, make_measures
from rae_jax.evaluation.references import SetStatistics, compute
from rae_jax.weights import torch_files
from tests.comparison import load_case
from tests.evaluation.extractors import inception_entries

SUBSETS, SUBSET_SIZE = 5, 20

Row = tuple[str, str, float, float]
"""(score, peer, ours, the peer's)."""


@contextlib.contextmanager
def _torchvision() -> Iterator[None]:
    """Lets torch-fidelity be imported without torchvision.

    It takes data sets and other networks from there, of which nothing is used here, and builds of
    torchvision for PyTorch without CUDA are not on every package index.
    """
    try:
        import torchvision  # noqa: F401  # pyright: ignore[reportMissingImports]

        yield
        return
    except (ImportError, RuntimeError):
        pass
    names = ("datasets", "transforms", "transforms.functional")
    modules = {
        name: types.ModuleType(name)
        for name in ("torchvision", *(f"torchvision.{n}" for n in names))
    }
    for name, module in modules.items():
        if "." in name:
            parent, _, child = name.rpartition(".")
            setattr(modules[parent], child, module)
    for name in ("CIFAR10", "CIFAR100", "STL10"):
        setattr(modules["torchvision.datasets"], name, type(name, (), {}))
    modules["torchvision.transforms"].Compose = list
    sys.modules |= modules
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


def fidelity() -> Any:
    """The package torch-fidelity."""
    with _torchvision():
        import torch_fidelity

    return torch_fidelity


def pictures(count: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Coloured digits, uint8 [count, side, side, 3]: as they are, and others that are damaged."""
    real, others = (_digits(start, count, side) for start in (0, count))
    kinds = np.arange(count)[:, None, None, None] % 4
    noise = np.random.default_rng(0).integers(-25, 25, real.shape) * (kinds > 0)
    turned = np.where(kinds == 3, np.rot90(others, axes=(1, 2)), others)
    return real, (turned + noise).clip(0, 255).astype(np.uint8)


def _digits(start: int, count: int, side: int) -> np.ndarray:
    source = Digits("train", image_size=side)
    tints = np.random.default_rng(1).uniform(0.4, 1, (len(source), 3))
    numbers = np.arange(start, start + count) % len(source)
    return np.stack([(source[n]["image"] * tints[n]).astype(np.uint8) for n in numbers])


def image_set(images: np.ndarray) -> ImageSet:
    """Images in memory as a set."""
    return ImageSet("pictures", len(images), images.shape[1:3], lambda index: images[index])


def write_weights(folder: str | os.PathLike[str]) -> pathlib.Path:
    """The recipe's Inception as a file of the published layout."""
    path = pathlib.Path(folder) / "inception.pth"
    torch_files.write_torch(path, inception_entries(load_case("inception_fid")))
    return path


def _tensors(images: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


class _Set:
    """What torch-fidelity reads images from."""

    @staticmethod
    def of(images: np.ndarray) -> Any:
        import torch

        class Set(torch.utils.data.Dataset):
            def __len__(self) -> int:
                return len(images)

            def __getitem__(self, index: int) -> Any:
                return _tensors(images[index : index + 1])[0]

        return Set()


def statistics(extract: Extractor, *sets: np.ndarray) -> list[SetStatistics]:
    """Our statistics of some sets of images."""
    return [compute(image_set(images), extract, keep=True) for images in sets]


def fidelity_rows(
    weights: pathlib.Path,
    extract: Extractor,
    sets: Sequence[SetStatistics],
    samples: np.ndarray,
    real: np.ndarray,
) -> list[Row]:
    """Whole evaluations of the same arrays, from images to scores."""
    ours = score(
        *sets,
        extract,
        metrics=("fid", "inception_score", "precision_recall", "kid"),
        subsets=SUBSETS,
        subset_size=SUBSET_SIZE,
    ).scores
    theirs = fidelity().calculate_metrics(
        input1=_Set.of(samples),
        input2=_Set.of(real),
        **{"fid": True, "isc": True, "kid": True, "prc": True, "cuda": False, "verbose": False},
        feature_extractor_weights_path=str(weights),
        kid_subsets=SUBSETS,
        kid_subset_size=SUBSET_SIZE,
        feature_extractor="inception-v3-compat",
        feature_layer_prc="2048",
        batch_size=16,
        cache=False,
        save_cpu_ram=True,  # Or it would fork, which this process with threads must not.
    )
    names = {
        "fid": "frechet_inception_distance",
        "inception_score": "inception_score_mean",
        "inception_score_std": "inception_score_std",
        "kid": "kernel_inception_distance_mean",
        "kid_std": "kernel_inception_distance_std",
        "precision": "precision",
        "recall": "recall",
    }
    rows = [(name, "torch-fidelity", ours[name], theirs[key]) for name, key in names.items()]
    # It takes the differences of KID in float32, where the last digits of kernels near 1 are lost.
    network = fidelity_network(weights)
    features = [torch_features(network, images, 16).double() for images in (samples, real)]
    exact = fidelity().metric_kid.kid_features_to_metric(
        *features, kid_subsets=SUBSETS, kid_subset_size=SUBSET_SIZE, verbose=False
    )
    for name in ("kid", "kid_std"):
        rows.append((f"{name} in float64", "torch-fidelity", ours[name], exact[names[name]]))
    return rows


def fidelity_network(weights: pathlib.Path) -> Any:
    """The Inception of torch-fidelity with the weights of a file."""
    network = fidelity().FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], str(weights)
    )
    return network.eval()


def torch_features(network: Any, images: np.ndarray, batch_size: int) -> Any:
    """Features of images, batch by batch."""
    import torch

    with torch.inference_mode():
        starts = range(0, len(images), batch_size)
        return torch.cat([network(_tensors(images[i : i + batch_size]))[0] for i in starts])


def metrics_rows(
    samples: SetStatistics, real: SetStatistics, pair: tuple[np.ndarray, np.ndarray]
) -> list[Row]:
    """torchmetrics on the same features and the same pairs of images."""
    import torch
    from torchmetrics.functional.image import (
        peak_signal_noise_ratio,
        structural_similarity_index_measure,
    )
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.inception import InceptionScore
    from torchmetrics.image.kid import KernelInceptionDistance

    class Given(torch.nn.Module):
        """Features in place of images, so that the scores alone are compared."""

        num_features = samples.features.pooled.shape[1]

        def forward(self, features: Any) -> Any:
            return features

    first, second = (torch.from_numpy(s.features.pooled).double() for s in (samples, real))
    frechet = FrechetInceptionDistance(feature=Given()).set_dtype(torch.float64)
    # One subset that is the whole set, because torchmetrics draws them in another way.
    kernel = KernelInceptionDistance(feature=Given(), subsets=1, subset_size=len(first))
    for metric in (frechet, kernel):
        metric.update(first, real=False)
        metric.update(second, real=True)
    inception = InceptionScore(feature=Given(), splits=1)
    inception.update(torch.from_numpy(samples.features.logits).double())
    originals, made = (_tensors(images).double() / 255 for images in pair)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # About the deviation over a single split.
        theirs = {
            "fid": frechet.compute(),
            "kid": kernel.compute()[0],
            "inception_score": inception.compute()[0],
            "psnr": peak_signal_noise_ratio(
                made, originals, data_range=1.0, dim=(1, 2, 3), reduction="elementwise_mean"
            ),
            # One by one: in float64 it takes 300 MB for each pair of 256 pixels.
            "ssim": np.mean(
                [
                    float(structural_similarity_index_measure(*images, data_range=1.0))
                    for images in zip(made[:, None], originals[:, None], strict=True)
                ]
            ),
        }
    collector = PairCollector(make_measures(("psnr", "ssim")))
    collector.add(np.arange(len(pair[0])), *pair)
    ours = {
        "fid": frechet_distance(samples.moments, real.moments),
        "kid": kernel_distance(
            samples.features.pooled, real.features.pooled, subsets=1, subset_size=len(first)
        )[0],
        "inception_score": inception_score(samples.features.logits, splits=1)[0],
        **collector.result("pictures").scores,
    }
    return [(name, "torchmetrics", ours[name], float(theirs[name])) for name in theirs]


def relative_difference(ours: float, theirs: float) -> float:
    """|ours - theirs| over the larger of both; 0 for equal ones."""
    return abs(ours - theirs) / max(abs(ours), abs(theirs)) if ours != theirs else 0.0


def speed(weights: pathlib.Path, extract: Extractor, images: np.ndarray) -> dict[str, float]:
    """Images per second of both networks, from arrays in memory to features in memory."""
    network = fidelity_network(weights)
    jobs = {
        "rae_jax": lambda: extract(images),
        "torch-fidelity": lambda: torch_features(network, images, extract.chunk),
    }
    seconds = {name: [] for name in jobs}
    for job in jobs.values():
        job()
    # In turns, so that what else the machine does falls on both.
    for _ in range(4):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            seconds[name].append(time.perf_counter() - start)
    return {name: len(images) / min(times) for name, times in seconds.items()}


def main(count: int = 256, side: int = 64) -> None:
    """Prints the table and the speeds."""
    with tempfile.TemporaryDirectory() as folder:
        weights = write_weights(folder)
        extract = inception(weights, devices=jax.devices()[:1])
        real, samples = pictures(count, side)
        rates = speed(weights, extract, real[:64])
        sets = statistics(extract, samples, real)
        rows = fidelity_rows(weights, extract, sets, samples, real)
        rows += metrics_rows(sets[0], sets[1], (real, samples))
    versions = {
        name: importlib.metadata.version(name) for name in ("torch-fidelity", "torchmetrics")
    }
    print("| score | peer | ours | theirs | relative difference |\n| --- | --- | --- | --- | --- |")
    for name, peer, ours, theirs in rows:
        difference = relative_difference(ours, theirs)
        print(
            f"| {name} | {peer} {versions[peer]} | {ours:.8g} | {theirs:.8g} | {difference:.1e} |"
        )
    for name, rate in rates.items():
        print(f"{name}: {rate:.3g} images/s")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
