"""What becomes of memory of the host that is freed."""

import ctypes
import importlib.util
import os
import sys

# Numbers of <malloc.h> in the C library of GNU.
_TRIM_THRESHOLD, _MAX_MMAPS, _MAX_ARENAS = -1, -4, -8
_NEVER = -1


def keep_freed_memory() -> bool:
    """Has this process keep what it frees, where processors do the computing.

    XLA takes the intermediate arrays of a program anew in every call and gives them back at its
    end. The C library returns blocks of that size to the system, which hands them out again page
    by page, zeroed: 650,000 pages, and a tenth of the time, in a step of DiTDH-S. Here all of them
    come from one heap that does not shrink.

    To be called before JAX makes its threads, each of which could begin a heap of its own. Does
    nothing on other systems, beside accelerators, and where the environment says how to allocate
    (`MALLOC_...`, or `glibc.malloc` in `GLIBC_TUNABLES`).

    Returns:
        Whether it is so now.
    """
    chosen = any(name.startswith("MALLOC_") for name in os.environ)
    chosen = chosen or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if chosen or not sys.platform.startswith("linux") or not _on_processors():
        return False
    allocator = ctypes.CDLL(None)
    if not hasattr(allocator, "mallopt"):
        return False
    return all(
        allocator.mallopt(option, value)
        for option, value in ((_MAX_ARENAS, 1), (_MAX_MMAPS, 0), (_TRIM_THRESHOLD, _NEVER))
    )


def _on_processors() -> bool:
    """Whether JAX will find nothing else, told without starting it."""
    platforms = os.environ.get("JAX_PLATFORMS")
    if platforms:
        return platforms == "cpu"
    return not any(importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu"))
