"""The C twin of the kernels: built on demand, called through ctypes with the kernels' own arrays.

The functions here take what the kernels of the same name take, mutate the same arrays and return the same numbers, so
that one can stand for the other in a comparison.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from enum import IntEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vckernels import buddy as buddy_kernels
from vckernels import datacache as datacache_kernels
from vckernels import linequeue, pagewalk
from vckernels import mmu as mmu_kernels
from vckernels import pagetable as pagetable_kernels
from vckernels import prefetch as prefetch_kernels
from vckernels import tlb as tlb_kernels
from vckernels.buddy import Buddy, Migratetype
from vckernels.causes import Cause
from vckernels.datacache import DataCache, Rings
from vckernels.entry import Fault
from vckernels.linequeue import Kind
from vckernels.mmu import Beside, DataMode, Mmu, Target
from vckernels.pagetable import Control, PageTables
from vckernels.prefetch import Adjacent, Slot
from vckernels.tlb import Field, Tlb
from vckernels.walkcache import LOWEST

SOURCES = Path(__file__).parent
BUILD = SOURCES / "build"
# Without AVX-512, which these scalar loops have no use for: gcc 12 makes them up to 30 % slower with it (measured).
FLAGS = (
    *("-std=c17", "-O3", "-march=native", "-mno-avx512f"),
    *("-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"),
)

_ENUMS: dict[str, type[IntEnum]] = {
    "ADJACENT": Adjacent,
    "CAUSE": Cause,
    "CONTROL": Control,
    "FAULT": Fault,
    "FIELD": Field,
    "KIND": Kind,
    "MIGRATETYPE": Migratetype,
    "MMU": mmu_kernels.Control,
    "MODE": DataMode,
    "SLOT": Slot,
}
_CONSTANTS = {
    "ALLOCATED": buddy_kernels.ALLOCATED,
    "AHEAD": linequeue.AHEAD,
    "ALL_PERMISSIONS": pagetable_kernels.ALL_PERMISSIONS,
    "BESIDE": linequeue.BESIDE,
    "DIRECTORY": tlb_kernels.DIRECTORY,
    "EMPTY": tlb_kernels.EMPTY,
    "ENTRIES": pagetable_kernels.ENTRIES,
    "FIELDS": len(Field),
    "FRAME_SHIFT": tlb_kernels.FRAME_SHIFT,
    "HISTORY": prefetch_kernels.HISTORY,
    "INSIDE": buddy_kernels.INSIDE,
    "KIND_BITS": linequeue.KIND_BITS,
    "LOWEST": LOWEST,
    "MAX_ORDER": buddy_kernels.MAX_ORDER,
    "MOST_LEVELS": datacache_kernels.MOST_LEVELS,
    "NO_LINE": datacache_kernels.NO_LINE,
    "NO_SET": mmu_kernels.NO_SET,
    "ORDERS": buddy_kernels.ORDERS,
    "PAGEBLOCK_FRAMES": buddy_kernels.PAGEBLOCK_FRAMES,
    "PAGEBLOCK_ORDER": buddy_kernels.PAGEBLOCK_ORDER,
    "PERMISSION_ACCESSIBLE": pagetable_kernels.ACCESSIBLE,
    "PERMISSION_BITS": pagewalk.PERMISSION_BITS,
    "PERMISSION_EXECUTABLE": pagetable_kernels.EXECUTABLE,
    "PERMISSION_WRITABLE": pagetable_kernels.WRITABLE,
    "QUEUE": linequeue.QUEUE,
    "REGIONS": mmu_kernels.REGIONS,
    "REGION_PAGES_SHIFT": mmu_kernels.REGION_PAGES_SHIFT,
    "SIZES": tlb_kernels.SIZES,
    "SLOTS": len(Slot),
    "STREAMS": prefetch_kernels.STREAMS,
    "TYPES": buddy_kernels.TYPES,
    "UNMAPPED": mmu_kernels.UNMAPPED,
    "VALUE_DIRTY": tlb_kernels.DIRTY,
    "VALUE_GLOBAL": tlb_kernels.GLOBAL,
}

_POINTER = ctypes.c_void_p
_INTEGER = ctypes.c_int64


class _Buddy(ctypes.Structure):
    _fields_ = (
        ("next", _POINTER),
        ("prev", _POINTER),
        ("state", _POINTER),
        ("pageblock", _POINTER),
        ("free_blocks", _POINTER),
        ("counters", _POINTER),
        ("options", _POINTER),
        ("frames", _INTEGER),
    )


class _Tlb(ctypes.Structure):
    _fields_ = (
        ("keys", _POINTER),
        ("values", _POINTER),
        ("buckets", _POINTER),
        ("chain", _POINTER),
        ("newer", _POINTER),
        ("older", _POINTER),
        ("geometry", _POINTER),
        ("entries", _INTEGER),
        ("levels", _INTEGER),
    )


class _PageTables(ctypes.Structure):
    _fields_ = (
        ("words", _POINTER),
        ("frames", _POINTER),
        ("row_of", _POINTER),
        ("control", _POINTER),
        ("machine_frames", _INTEGER),
    )


class _Rings(ctypes.Structure):
    _fields_ = tuple((field, _INTEGER) for field in Rings._fields)


class _DataCache(ctypes.Structure):
    _fields_ = (
        ("tags", _POINTER),
        ("heads", _POINTER),
        ("levels", _INTEGER),
        ("rings", _Rings * datacache_kernels.MOST_LEVELS),
    )


class _Mmu(ctypes.Structure):
    _fields_ = (
        ("tlb", _Tlb),
        ("words", _Tlb),
        ("physical", _POINTER),
        ("cache", _DataCache),
        ("slots", _POINTER),
        ("history_frames", _POINTER),
        ("history_lines", _POINTER),
        ("regions", _POINTER),
        ("control", _POINTER),
        ("counters", _POINTER),
        ("queue", _POINTER),
    )


class _Target(ctypes.Structure):
    _fields_ = (
        ("bases", _POINTER),
        ("shift", _INTEGER),
        ("arrays", _POINTER),
        ("arrays_length", _INTEGER),
        ("array_shift", _INTEGER),
    )


class _Beside(ctypes.Structure):
    _fields_ = (
        ("target", _Target),
        ("offsets", _POINTER),
        ("offsets_length", _INTEGER),
        ("gap", _INTEGER),
        ("state", _POINTER),
        ("counters", _POINTER),
    )


class TwinError(RuntimeError):
    """The twin cannot be built here, or cannot do what it was asked."""


def compiler() -> str | None:
    """Return the C compiler to use (``$CC``, else gcc), or None where there is none."""
    return shutil.which(os.environ.get("CC", "gcc"))


def _names() -> str:
    lines = [f"#define {name} ({int(value)})" for name, value in _CONSTANTS.items()]
    lines += [f"#define {prefix}_{member.name} ({int(member)})" for prefix, enum in _ENUMS.items() for member in enum]
    return "\n".join(lines) + "\n"


@functools.cache
def library() -> ctypes.CDLL:
    """Build the twin, unless this very build exists, and return it.

    Raises
    ------
    TwinError
        If there is no C compiler or it refuses.
    """
    cc = compiler()
    if cc is None:
        raise TwinError("no C compiler found; install gcc, or name one in CC")
    names = _names()
    version = subprocess.run([cc, "--version"], capture_output=True, text=True, check=True).stdout
    # What -march=native means decides the code too.
    target = subprocess.run([cc, "-march=native", "-Q", "--help=target"], capture_output=True, text=True).stdout
    digest = hashlib.sha256("\0".join((names, version, target, *FLAGS)).encode())
    sources = sorted(SOURCES.glob("*.[ch]"))
    for source in sources:
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    built = BUILD / f"twin-{digest.hexdigest()[:16]}.so"
    if not built.exists():
        BUILD.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=BUILD) as folder:
            fresh = Path(folder)
            (fresh / "names.h").write_text(names)
            command = [cc, *FLAGS, "-I", str(fresh), "-o", str(fresh / "twin.so")]
            command += [str(source) for source in sources if source.suffix == ".c"]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise TwinError(f"the C twin does not compile:\n{done.stderr}")
            # Renamed into place, so that a process building at the same time never loads half a file.
            (fresh / "twin.so").replace(built)
    twin = ctypes.CDLL(str(built))
    for function, arguments in (
        (twin.twin_run_trace, (_POINTER, _POINTER, _POINTER, _INTEGER, _POINTER, _POINTER)),
        (twin.twin_count_misses, (_POINTER, _POINTER, _INTEGER, _POINTER)),
        (twin.twin_run_lines, (_POINTER, _POINTER, _INTEGER, _POINTER)),
        (twin.twin_access, (_POINTER, _POINTER, _POINTER, _POINTER, _INTEGER, ctypes.c_bool, _POINTER)),
    ):
        function.argtypes = arguments
        function.restype = _INTEGER
    return twin


def _pointer(array: npt.NDArray[np.generic], dtype: type[np.generic]) -> int:
    if array.dtype != dtype or not array.flags.c_contiguous or not array.flags.writeable:
        raise TwinError(f"the twin needs a writable C-contiguous array of {dtype.__name__}, not of {array.dtype}")
    return array.ctypes.data


def _buddy(state: Buddy) -> _Buddy:
    return _Buddy(
        _pointer(state.next, np.int32),
        _pointer(state.prev, np.int32),
        _pointer(state.state, np.int8),
        _pointer(state.pageblock, np.int8),
        _pointer(state.free_blocks, np.int64),
        _pointer(state.counters, np.int64),
        _pointer(state.options, np.int64),
        len(state.state),
    )


def _tlb(state: Tlb) -> _Tlb:
    return _Tlb(
        _pointer(state.keys, np.int64),
        _pointer(state.values, np.int64),
        _pointer(state.buckets, np.int32),
        _pointer(state.chain, np.int32),
        _pointer(state.newer, np.int32),
        _pointer(state.older, np.int32),
        _pointer(state.geometry, np.int64),
        len(state.keys),
        len(state.geometry),
    )


def _data_cache(state: DataCache) -> _DataCache:
    rings = (_Rings(*level) for level in (state.first, state.second, state.third))
    return _DataCache(
        _pointer(state.tags, np.int32),
        _pointer(state.heads, np.uint8),
        state.levels,
        (_Rings * datacache_kernels.MOST_LEVELS)(*rings),
    )


def _target(target: Target) -> _Target:
    return _Target(
        _pointer(target.bases, np.uint64),
        target.shift,
        _pointer(target.arrays, np.uint64),
        len(target.arrays),
        target.array_shift,
    )


def run_trace(
    buddy: Buddy,
    requests: npt.NDArray[np.int64],
    migratetypes: npt.NDArray[np.int8],
    slots: npt.NDArray[np.int64],
    slot_orders: npt.NDArray[np.int8],
) -> int:
    """Do as :func:`vckernels.claim.run_trace`, for traces that never claim or steal.

    Raises
    ------
    TwinError
        If a request could have been served from another migratetype; the state is then half changed.
    """
    served = library().twin_run_trace(
        ctypes.byref(_buddy(buddy)),
        _pointer(requests, np.int64),
        _pointer(migratetypes, np.int8),
        len(requests),
        _pointer(slots, np.int64),
        _pointer(slot_orders, np.int8),
    )
    if served < 0:
        raise TwinError("a request had to fall back to another migratetype, which has no twin; use one migratetype")
    return int(served)


def count_misses(tlb: Tlb, pages: npt.NDArray[np.int64], misses: npt.NDArray[np.int64]) -> None:
    """Do as :func:`vckernels.tlb.count_misses`."""
    library().twin_count_misses(
        ctypes.byref(_tlb(tlb)), _pointer(pages, np.int64), len(pages), _pointer(misses, np.int64)
    )


def run_lines(cache: DataCache, lines: npt.NDArray[np.int64], served: npt.NDArray[np.int64]) -> None:
    """Do as :func:`benchmarks.common.run_lines`."""
    library().twin_run_lines(
        ctypes.byref(_data_cache(cache)), _pointer(lines, np.int64), len(lines), _pointer(served, np.int64)
    )


def access(
    mmu: Mmu, tables: PageTables, target: Target, offsets: npt.NDArray[np.int64], write: bool, beside: Beside
) -> None:
    """Do as :func:`vckernels.mmu.access`."""
    library().twin_access(
        ctypes.byref(
            _Mmu(
                _tlb(mmu.tlb),
                _tlb(mmu.walk_cache.entries),
                _pointer(mmu.walk_cache.physical, np.int64),
                _data_cache(mmu.data_cache),
                _pointer(mmu.streams.slots, np.int64),
                _pointer(mmu.history.frames, np.int64),
                _pointer(mmu.history.lines, np.uint64),
                _pointer(mmu.regions, np.int64),
                _pointer(mmu.control, np.int64),
                _pointer(mmu.counters, np.int64),
                _pointer(mmu.queue, np.int64),
            )
        ),
        ctypes.byref(
            _PageTables(
                _pointer(tables.words, np.uint64),
                _pointer(tables.frames, np.int64),
                _pointer(tables.row_of, np.int32),
                _pointer(tables.control, np.int64),
                len(tables.row_of),
            )
        ),
        ctypes.byref(_target(target)),
        _pointer(offsets, np.int64),
        len(offsets),
        write,
        ctypes.byref(
            _Beside(
                _target(beside.target),
                _pointer(beside.offsets, np.int64),
                len(beside.offsets),
                beside.gap,
                _pointer(beside.state, np.int64),
                _pointer(beside.counters, np.int64),
            )
        ),
    )
