"""Settings of the whole test run: eight simulated CPU devices and strict array semantics."""

import atexit
import importlib.util
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.object_store import ObjectStore

os.environ["JAX_PLATFORMS"] = "cpu"  # Also for the processes that tests start.

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Most of the time goes into compilation, and runs of the same model repeat it. Name a folder
    # in this variable to keep what is compiled from one test run to the next.
    _cache = tempfile.mkdtemp(prefix="rae_jax_tests.")
    atexit.register(shutil.rmtree, _cache, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

import filelock
import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def bucket() -> Iterator["ObjectStore"]:
    """A server with an empty bucket `gs://test`; each test keeps to a folder of its own."""
    if importlib.util.find_spec("gcsfs") is None:
        pytest.skip("gcsfs, of the extra `test`, is not installed")
    from tests.object_store import ObjectStore

    with ObjectStore("test").served() as store, pytest.MonkeyPatch.context() as patch:
        for name, value in store.environment.items():
            patch.setenv(name, value)
        yield store


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Folder of a finished `stage1`, `statistics` and `stage2`, all tiny; not to be changed."""
    from tests import pipeline

    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # Which all processes of a test run share.
    folder, complete = base / "runs", base / "runs.complete"
    with filelock.FileLock(base / "runs.lock"):
        if not complete.exists():
            pipeline.train_all(folder)
            complete.touch()
    return folder
