"""What peers compute is what ours computes: the same weights give the same answers."""

import importlib
import pathlib

import numpy as np
import pytest

from rae_jax.benchmarking import parts, sides
from rae_jax.benchmarking.benchmark import Request

pytestmark = [pytest.mark.torch, pytest.mark.slow]

# float32; measured: 1.4e-5 at the most, where the latents are up to 2.1.
TOLERANCE = 3e-5


def here(module, part, path=""):
    settings = Request(parts=(part,), preset="tiny", peer_path=path).settings(part)
    return sides.Here(module, settings)


def peer(name):
    return importlib.import_module(f"tests.benchmarking.peers.{name}")


@pytest.fixture(scope="module")
def ours():
    """Answers, each computed once."""
    found = {}

    def answer(part):
        if part not in found:
            found[part] = np.asarray(here(parts, part).first())
        return found[part]

    return answer


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("transformers", "encode"),
        ("diffusers", "encode"),
        ("diffusers", "decode"),
        ("torch_fidelity", "evaluate"),
    ],
)
def test_installed_peers_answer_the_same(ours, name, part):
    theirs = np.asarray(here(peer(name), part).first())
    np.testing.assert_allclose(theirs, ours(part), rtol=0, atol=TOLERANCE)


def test_a_peer_trains():
    side = here(peer("pytorch"), "train-stage1")
    assert side.first() is None
    assert side.run() > 0


CHECKOUT = pathlib.Path("runs/RAE")
"""`git clone https://github.com/bytetriper/RAE runs/RAE`, if there is one."""


@pytest.mark.skipif(not CHECKOUT.exists(), reason=f"no checkout of bytetriper/RAE at {CHECKOUT}")
@pytest.mark.parametrize("part", ["decode", "denoise"])
def test_the_release_answers_the_same(ours, part):
    theirs = np.asarray(here(peer("rae"), part, str(CHECKOUT.absolute())).first())
    np.testing.assert_allclose(theirs, ours(part), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("path", ["", "absent"])
def test_a_missing_checkout_is_told(path):
    with pytest.raises(ValueError, match="checkout of bytetriper/RAE"):
        here(peer("rae"), "denoise", path)
