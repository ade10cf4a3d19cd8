"""Scores for generated digits: real ones are small enough to be judged by classical statistics.

No network of this package has a say in these scores. Images are reduced to the 8x8 grey levels
that the real digits come in; a support vector machine trained on the real training digits reads
them, and a principal component space of the same digits holds the distances.
"""

import dataclasses

import numpy as np
from sklearn.decomposition import PCA
from sklearn.svm import SVC

from rae_jax.evaluation.frechet import Moments, frechet_distance
from rae_jax.typing import Float, Int, UInt8

_SIDE = 8
_COMPONENTS = 32
_RESAMPLES = 50

Images = UInt8[np.ndarray, "N H W 3"]
Labels = Int[np.ndarray, " N"]


def grey_levels(images: UInt8[np.ndarray, "N H W 3"]) -> Float[np.ndarray, "N D"]:
    """Mean brightness in [0, 1] of the 8x8 fields of each image, flattened.

    Raises:
        ValueError: The sides are not multiples of 8.
    """
    count, height, width, _ = images.shape
    if height % _SIDE or width % _SIDE:
        raise ValueError(f"image sides must be multiples of {_SIDE}, got {height}x{width}")
    fields = images.reshape(count, _SIDE, height // _SIDE, _SIDE, width // _SIDE, 3)
    return (fields.mean(axis=(2, 4, 5), dtype=np.float64) / 255).reshape(count, _SIDE**2)


@dataclasses.dataclass(frozen=True)
class GenerationScores:
    """What the judge says of one set of samples.

    Attributes:
        num_samples: How many were judged.
        recognised: Share of samples that the classifier reads as their label.
        recognised_by_class: The same for each class.
        frechet_samples_test: Fréchet distance between samples and real test digits.
        frechet_train_test: The same between real training and test digits.
        frechet_noise: What sampling alone adds: mean distance to the test digits of as many
            training digits, drawn with replacement, minus `frechet_train_test`.
        frechet_ratio: frechet_samples_test / (frechet_train_test + frechet_noise).
        spread: Mean over classes of the samples' standard deviation within the class, divided by
            the same for real training digits.
        copies: Share of samples that lie closer to a training digit than 99 % of test digits do:
            near copies of training images. 0.01 is what real test digits score.
    """

    num_samples: int
    recognised: float
    recognised_by_class: tuple[float, ...]
    frechet_samples_test: float
    frechet_train_test: float
    frechet_noise: float
    frechet_ratio: float
    spread: float
    copies: float


class DigitJudge:
    """Scores generated digits against the real ones.

    Attributes:
        classifier_accuracy: Share of real test digits that the classifier reads right.
    """

    def __init__(
        self,
        train_images: Images,
        train_labels: Labels,
        test_images: UInt8[np.ndarray, "M H W 3"],
        test_labels: Int[np.ndarray, " M"],
    ):
        """Fits classifier and principal components to the training digits alone."""
        pixels, test_pixels = grey_levels(train_images), grey_levels(test_images)
        self._classifier = SVC(C=10.0).fit(pixels, train_labels)
        self._components = PCA(_COMPONENTS, random_state=0).fit(pixels)
        self._train = self._components.transform(pixels)
        self._test = self._components.transform(test_pixels)
        self._train_labels = train_labels
        self.classifier_accuracy = float(self._classifier.score(test_pixels, test_labels))

    def score(self, images: Images, labels: Labels) -> GenerationScores:
        """Scores of samples with their labels.

        Raises:
            ValueError: A class occurs less than twice, so it has no spread.
        """
        few = [int(c) for c in np.unique(self._train_labels) if (labels == c).sum() < 2]
        if few:
            raise ValueError(f"every class needs two samples at least; too few of classes {few}")
        pixels = grey_levels(images)
        read = self._classifier.predict(pixels) == labels
        features = self._components.transform(pixels)
        test = Moments.of(self._test)
        between = frechet_distance(Moments.of(self._train), test)
        noise = self._resampled_distance(len(images), test) - between
        distance = frechet_distance(Moments.of(features), test)
        classes = np.unique(self._train_labels)
        return GenerationScores(
            num_samples=len(images),
            recognised=float(read.mean()),
            recognised_by_class=tuple(float(read[labels == c].mean()) for c in classes),
            frechet_samples_test=distance,
            frechet_train_test=between,
            frechet_noise=noise,
            frechet_ratio=distance / (between + noise),
            spread=_spread(features, labels) / _spread(self._train, self._train_labels),
            copies=self._copies(features),
        )

    def _resampled_distance(self, count: int, test: Moments) -> float:
        """Mean distance to the test digits of `count` training digits drawn with replacement."""
        rng = np.random.default_rng(0)
        draws = (rng.integers(len(self._train), size=count) for _ in range(_RESAMPLES))
        return float(
            np.mean([frechet_distance(Moments.of(self._train[draw]), test) for draw in draws])
        )

    def _copies(self, features: np.ndarray) -> float:
        usual = np.quantile(self._distances(self._test), 0.01)
        return float((self._distances(features) < usual).mean())

    def _distances(self, features: np.ndarray) -> np.ndarray:
        """Distance of each row to the nearest training digit."""
        return np.sqrt(
            np.maximum(
                np.square(features).sum(1)[:, None]
                - 2 * features @ self._train.T
                + np.square(self._train).sum(1)[None],
                0,
            ).min(axis=1)
        )


def _spread(features: np.ndarray, labels: np.ndarray) -> float:
    """Mean over classes of the root of the total variance within the class."""
    return float(
        np.mean([np.sqrt(features[labels == c].var(axis=0).sum()) for c in np.unique(labels)])
    )
