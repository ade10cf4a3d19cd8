"""What becomes of memory of the host that is freed."""

import ctypes
import importlib.util
import os
import sys

# Numbers of <malloc.h> in the C library of GNU.
_TRIM_THRESHOLD, _TOP_PAD, _MAX_MMAPS = -1, -2, -4
_NEVER = -1
_HEAP = 1 << 26  # Bytes of the heaps of threads other than the main one.

_ASYNC = "JAX_CPU_ENABLE_ASYNC_DISPATCH"


def keep_freed_memory() -> bool:
    """Has this process keep what it frees, where processors do the computing.

    XLA takes the intermediate arrays of a program anew in every call and gives them back at its
    end, and products do so with the blocks that they rearrange. The C library returns blocks of
    that size to the system, which hands them out again page by page, zeroed: 650,000 pages, and a
    tenth of the time, in a step of DiTDH-S; 450,000 pages, and half of the time, in a product of
    two matrices of side 3072. Here all come from heaps that do not shrink. Only that of the main
    thread holds large arrays, so JAX is told to run programs in the thread that calls them.

    To be called before JAX looks for devices. Does nothing on other systems, beside accelerators,
    and where the environment says how to allocate (`MALLOC_...`, or `glibc.malloc` in
    `GLIBC_TUNABLES`).

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
    if "jax" in sys.modules:
        sys.modules["jax"].config.update(_ASYNC.lower(), False)
    else:
        os.environ[_ASYNC] = "false"
    # A thread's empty heap is given up if what is left has room for the padding.
    options = ((_MAX_MMAPS, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _HEAP))
    return all(allocator.mallopt(option, value) for option, value in options)


def _on_processors() -> bool:
    """Whether JAX will find nothing else, told without starting it."""
    platforms = os.environ.get("JAX_PLATFORMS")
    if platforms:
        return platforms == "cpu"
    return not any(importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu"))
