import subprocess
import sys
from collections.abc import Mapping

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")

_PROGRAM = """
import resource
from rae_jax.host_memory import keep_freed_memory

kept = keep_freed_memory()

import jax
import jax.numpy as jnp

# Intermediate values of 36 MiB.
run = jax.jit(lambda values: (jnp.sin(values) @ values).sum())
values = jnp.ones((3072, 3072))


def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    run(values).block_until_ready()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


print(kept, min(pages() for _ in range(6)))
"""


def _run(environment: Mapping[str, str]) -> tuple[bool, int]:
    process = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env={"PATH": "", "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    kept, pages = process.stdout.split()
    return kept == "True", int(pages)


def test_a_program_that_runs_again_asks_for_no_pages_again():
    kept, pages = _run({})
    assert kept
    assert pages < 1000


def test_without_it_they_are_asked_for_every_time():
    kept, pages = _run({"MALLOC_CHECK_": "0"})
    assert not kept
    assert pages > 9000


@pytest.mark.parametrize(
    "environment",
    [
        {"MALLOC_ARENA_MAX": "4"},
        {"GLIBC_TUNABLES": "glibc.malloc.arena_max=4"},
        {"JAX_PLATFORMS": "cuda,cpu"},
    ],
    ids=["variable", "tunable", "accelerator"],
)
def test_what_the_environment_says_stands(environment: Mapping[str, str]):
    program = "from rae_jax.host_memory import keep_freed_memory; print(keep_freed_memory())"
    process = subprocess.run(
        [sys.executable, "-c", program],
        env={"PATH": "", "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout.split() == ["False"]
