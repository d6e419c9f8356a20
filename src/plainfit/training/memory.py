"""Keep the buffers of a step in the process, instead of asking the system for them in every step.

glibc gives large blocks back to the system when they are freed, and the kernel has to clear the
pages anew each time: hundreds of page faults a step, which can double its time. The bits are the
same either way. docs/decisions/0011-fast.md has the figures, and why `fit` does this by default.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

# Parameters of mallopt(3), with their numbers from <malloc.h>.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
MIB = 2**20
KEPT = {M_MMAP_THRESHOLD: 1024 * MIB, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 16 * MIB}
# The largest values that glibc sets by itself (DEFAULT_MMAP_THRESHOLD_MAX, and twice that), as it
# does once a program has freed a block of that size; and its default padding.
USUAL = {M_MMAP_THRESHOLD: 32 * MIB, M_TRIM_THRESHOLD: 64 * MIB, M_TOP_PAD: 128 * 1024}


@contextmanager
def kept_memory(keep: bool = True) -> Iterator[None]:
    """Let the process keep what it frees, until the block ends; then give it back.

    The setting is the whole process's. Where the C library is not glibc (macOS, Windows, Alpine),
    nothing happens. After the block, glibc has the thresholds that its own rule ends at.
    """
    glibc = find_glibc() if keep else None
    if glibc is None:
        yield
        return
    for parameter, value in KEPT.items():
        glibc.mallopt(parameter, value)
    try:
        yield
    finally:
        for parameter, value in USUAL.items():
            glibc.mallopt(parameter, value)
        glibc.malloc_trim(0)


def find_glibc() -> ctypes.CDLL | None:
    """Return the C library of this process, if it is glibc."""
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows has no such library
        return None
    return library if hasattr(library, "gnu_get_libc_version") else None
