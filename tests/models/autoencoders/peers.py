"""Speed, memory and rounding of whole autoencoders beside diffusers, at published size.

python -m tests.models.autoencoders.peers NAME [SIDE]

NAME is a key of `PEERS`. Both get the weights that diffusers starts from; they take turns, and the
medians are told. Prints a row of the table of docs/autoencoders.md.
"""

import dataclasses
import importlib
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rae_jax.layers.functional import split
from rae_jax.models.autoencoders.dc_config import RELEASED, DCConfig
from rae_jax.models.autoencoders.kl_config import RELEASED as KL_RELEASED
from rae_jax.models.autoencoders.kl_config import KLConfig
from rae_jax.models.compute import Compute
from rae_jax.ops.images import to_signed
from rae_jax.weights import autoencoder_kl
from rae_jax.weights.autoencoder_dc import from_tensors
from rae_jax.weights.autoencoders import Loading
from tests.comparison import nchw_to_nhwc
from tests.golden import recipe

REPEATS = 5


@dataclasses.dataclass(frozen=True)
class Peer:
    """An autoencoder of diffusers and ours.

    Attributes:
        class_name: In diffusers.
        config: Its options.
        load: (options, entries, how to load) -> our module, with `features` and `decode_features`
            for latents that are not scaled.
    """

    class_name: str
    config: Mapping[str, Any]
    load: Callable[[Mapping[str, Any], Mapping[str, np.ndarray], Loading], Any]


PEERS: Mapping[str, Peer] = {
    name: Peer(
        "AutoencoderDC",
        config.write(),
        lambda options, tensors, loading: from_tensors(DCConfig.read(options), tensors, loading),
    )
    for name, config in RELEASED.items()
} | {
    name: Peer(
        "AutoencoderKL",
        config.write(),
        lambda options, tensors, loading: autoencoder_kl.from_tensors(
            KLConfig.read(options), tensors, loading
        ),
    )
    for name, config in KL_RELEASED.items()
}


class _Theirs:
    def __init__(self, peer: Peer):
        self.torch = importlib.import_module("torch")
        diffusers = importlib.import_module("diffusers")
        self.torch.manual_seed(0)
        self.module = getattr(diffusers, peer.class_name).from_config(dict(peer.config)).eval()

    def tensors(self) -> dict[str, np.ndarray]:
        return {key: value.numpy() for key, value in self.module.state_dict().items()}

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        with self.torch.inference_mode():
            encoded = self.module.encode(self.torch.from_numpy(pixels))
            latents = encoded.latent_dist.mode() if "latent_dist" in encoded else encoded.latent
            return latents.numpy()

    def decode(self, latents: np.ndarray) -> np.ndarray:
        with self.torch.inference_mode():
            return self.module.decode(self.torch.from_numpy(latents)).sample.numpy()


class _Ours:
    """Both methods compiled for one size; `memory` is what each needs besides weights, in bytes."""

    def __init__(self, peer: Peer, tensors: Mapping[str, np.ndarray], dtype: str, *shapes: Any):
        definition, self.weights = split(
            peer.load(peer.config, tensors, Loading(Compute(dtype=dtype)))
        )
        methods = (
            lambda weights, images: definition.merge(weights).features(images),
            lambda weights, z: to_signed(definition.merge(weights).decode_features(z)),
        )
        compiled = [
            jax.jit(method).lower(self.weights, jax.ShapeDtypeStruct(shape, jnp.float32)).compile()
            for method, shape in zip(methods, shapes, strict=True)
        ]
        self._encode, self._decode = compiled
        self.memory = [part.memory_analysis().temp_size_in_bytes for part in compiled]

    def encode(self, images: np.ndarray) -> np.ndarray:
        return np.asarray(self._encode(self.weights, images))

    def decode(self, latents: np.ndarray) -> np.ndarray:
        return np.asarray(self._decode(self.weights, latents))


def _seconds(function: Callable[[np.ndarray], np.ndarray], values: np.ndarray) -> float:
    start = time.perf_counter()
    function(values)
    return time.perf_counter() - start


def _drift(found: np.ndarray, exact: np.ndarray) -> float:
    """Root mean square of the difference, relative to that of the exact values."""
    return float(np.sqrt(np.square(found - exact).mean() / np.square(exact).mean()))


def main(name: str, side: int = 256) -> None:
    """Prints the figures of one autoencoder."""
    peer = PEERS[name]
    theirs = _Theirs(peer)
    tensors = theirs.tensors()
    pixels = 2 * recipe.images("peers", (1, 3, side, side)) - 1
    images = (nchw_to_nhwc(pixels) + 1) / 2
    their_latents = theirs.encode(pixels)
    latents = nchw_to_nhwc(their_latents)
    ours = _Ours(peer, tensors, "float32", images.shape, latents.shape)
    differences = (
        np.abs(ours.encode(images) - latents).max(),
        np.abs(ours.decode(latents) - nchw_to_nhwc(theirs.decode(their_latents))).max(),
    )
    calls = {
        "encode": ((theirs.encode, pixels), (ours.encode, images)),
        "decode": ((theirs.decode, their_latents), (ours.decode, latents)),
    }
    for index, (method, pair) in enumerate(calls.items()):
        times: tuple[list[float], list[float]] = [], []
        for _ in range(REPEATS):
            for kept, (function, values) in zip(times, pair, strict=True):
                kept.append(_seconds(function, values))
        their_time, our_time = map(statistics.median, times)
        print(
            f"{name} {method} at {side} px: diffusers {their_time:.2f} s, ours {our_time:.2f} s, "
            f"{their_time / our_time:.2f} times as fast; {ours.memory[index] / 2**20:.0f} MiB "
            f"besides weights; largest difference {differences[index]:.1e}",
            flush=True,
        )
    exact = ours.encode(images), ours.decode(latents)
    del ours
    half = _Ours(peer, tensors, "bfloat16", images.shape, latents.shape)
    print(
        f"{name} bfloat16: latents off by {_drift(half.encode(images), exact[0]):.1e}, "
        f"images by {_drift(half.decode(latents), exact[1]):.1e} (relative root mean square)"
    )


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
