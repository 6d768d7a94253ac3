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
    a third of its time on a virtual machine of ours. Only the heap of the first thread is kept
    whole, see ``compute_on_calling_thread``; one heap for all threads (M_ARENA_MAX) would be, too,
    but then DualNet's step took 76 seconds to compile in place of 57.

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


def compute_on_calling_thread() -> None:
    """Has a CPU run programs where they are called, not on threads that JAX keeps for it.

    For a process of our own, before JAX looks for devices: the first thread then asks for their
    temporaries, whose memory is kept. A step of a ResNet-18 of width 64 with 64 pictures of 32x32
    has 5,000 page faults in place of 132,000 and takes 1.07 seconds in place of 1.23, of width 16
    with 42 pictures 72 milliseconds in place of 93 (records/, computed_where_called). Programs of
    several devices are not touched. Not for one process of several: where another is killed it
    then ends by SIGABRT, not by an error.
    """
    import jax

    jax.config.update("jax_cpu_enable_async_dispatch", False)
