"""Memory that was freed stays with the process, for the next step to use."""

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt, as malloc.h numbers them."""


def keep_freed_memory() -> bool:
    """Has glibc keep what is freed, up to 2 GiB; for a process of our own, as it starts.

    XLA asks for a program's temporaries anew at every call on a CPU: 58 MB for a step of a
    ResNet-18 of width 16 and 32 pictures of 32x32. glibc returns blocks of that size to the system
    at once, which hands out zeroed pages the next time, one fault each: 14,241 a step, a tenth to
    a third of its time on a virtual machine of ours. A block above 64 MiB that another thread than
    the first asks for is returned all the same; one heap for all threads (M_ARENA_MAX) would keep
    it, but DualNet's step then takes 76 seconds to compile in place of 57.

    Returns:
      whether it does now. Not where the environment sets the allocator up (``MALLOC_...``,
      ``GLIBC_TUNABLES``), and not with another C library.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    try:
        libc = ctypes.CDLL(None)
        mallopt, _ = libc.mallopt, libc.gnu_get_libc_version  # others number them otherwise
    except (AttributeError, OSError, TypeError):  # TypeError: Windows
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
