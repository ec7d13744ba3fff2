"""Memory that a training run frees is kept for its next step."""

from __future__ import annotations

import ctypes
import sys

import pytest

from hierax.memory import freed_memory_kept

GLIBC = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")


def faults_of_a_block() -> int:
    """Pages that the system had to give for a block of 64 MB."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    library = ctypes.CDLL(None)
    library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    block = library.malloc(ctypes.c_size_t(1 << 26))
    ctypes.memset(block, 1, 1 << 26)
    library.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not GLIBC, reason="the C library is not glibc")
def test_a_block_that_was_freed_is_used_again_and_given_back_at_the_end() -> None:
    assert faults_of_a_block() > 1000
    with freed_memory_kept():
        faults_of_a_block()
        assert faults_of_a_block() < 1000
    assert faults_of_a_block() > 1000


def test_it_changes_nothing_where_there_is_no_such_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    with freed_memory_kept():
        pass
