import platform
import subprocess
import sys
from collections.abc import Mapping

import pytest

needs_glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are"
)

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


def _printed(program: str, environment: Mapping[str, str]) -> list[str]:
    process = subprocess.run(
        [sys.executable, "-c", program],
        env={"PATH": "", "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return process.stdout.split()


@needs_glibc
def test_a_program_that_runs_again_asks_for_no_pages_again():
    kept, pages = _printed(_PROGRAM, {})
    assert kept == "True"
    assert int(pages) < 1000


@needs_glibc
def test_without_it_they_are_asked_for_every_time():
    kept, pages = _printed(_PROGRAM, {"MALLOC_CHECK_": "0"})
    assert kept == "False"
    assert int(pages) > 9000


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
    assert _printed(program, environment) == ["False"]
