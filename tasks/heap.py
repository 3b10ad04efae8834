"""How the C library treats memory that is given back to it."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LARGEST = 2**30  # bytes


def keep_freed_memory() -> bool:
    """Have glibc keep freed blocks for the next allocation, also large ones, which it would return to the kernel.

    A training step on the CPU frees and asks for the same tensors again and again; with every page fresh from the
    kernel each time, it spends more on page faults than on convolutions. A process then holds its peak until it ends.

    Returns:
        Whether this C library takes the request; another one is left as it is.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST) and mallopt(M_TRIM_THRESHOLD, LARGEST))
