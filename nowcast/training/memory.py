"""How the C library hands out memory."""

import ctypes

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt, as malloc.h numbers them."""


def keep_freed_memory() -> bool:
    """Tell glibc to keep what this process frees, and to use it again.

    Large tensors otherwise go back to the system, which clears every page before it hands them out again:
    half of the time of a training step on a CPU.

    Returns:
        Whether it does; a C library without mallopt does not.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, TypeError):
        return False
    return bool(mallopt(MMAP_MAX, 0)) and bool(mallopt(TRIM_THRESHOLD, 2**31 - 1))
