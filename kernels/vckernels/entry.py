"""Words of x86-64 page tables, bit by bit.

Layout: Intel SDM volume 3A, chapter 4 (tables 4-14 to 4-20); names as in Linux ``pgtable_types.h``. Words and
addresses are uint64 and meet typed constants only, since Numba turns uint64 with a plain integer into int64.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from vckernels.jit import kernel

PRESENT = np.uint64(1 << 0)
WRITABLE = np.uint64(1 << 1)
USER = np.uint64(1 << 2)
WRITE_THROUGH = np.uint64(1 << 3)
CACHE_DISABLE = np.uint64(1 << 4)
ACCESSED = np.uint64(1 << 5)
DIRTY = np.uint64(1 << 6)
PAT = np.uint64(1 << 7)
"""Page attribute table bit of a 4K leaf; in larger leaves this place is ``LARGE``."""
LARGE = np.uint64(1 << 7)
"""Page size bit: a leaf above the lowest level."""
GLOBAL = np.uint64(1 << 8)
PAT_LARGE = np.uint64(1 << 12)
"""Page attribute table bit of a 2M or 1G leaf."""
NO_EXECUTE = np.uint64(1 << 63)

KERNEL_LEAF = PRESENT | WRITABLE | ACCESSED | DIRTY | GLOBAL | NO_EXECUTE
"""Kernel data: Linux ``PAGE_KERNEL`` on a CPU without page-table isolation."""
USER_LEAF = PRESENT | WRITABLE | USER | ACCESSED | DIRTY | NO_EXECUTE
"""Flags of a 4K leaf that maps a program's data, written before."""
KERNEL_TABLE = PRESENT | WRITABLE | ACCESSED | DIRTY
"""Linux ``_KERNPG_TABLE``; hardware ignores the dirty bit of a word that names a table."""

ZERO = np.uint64(0)
ADDRESS_BITS = np.uint64(0x000F_FFFF_FFFF_F000)
PAGE_SHIFT = np.uint64(12)
INDEX_MASK = np.uint64(511)


class Fault(IntEnum):
    """Why a walk found no translation."""

    NONE = 0
    NOT_PRESENT = 1
    RESERVED_BIT = 2
    WRITE = 3
    USER = 4
    FETCH = 5
    SUPERVISOR_FETCH = 6
    """Fetch by the supervisor from a user page under SMEP."""
    SUPERVISOR_ACCESS = 7
    """Data access by the supervisor to a user page under SMAP."""
    NON_CANONICAL = 8
    """The upper address bits are no sign extension: a general-protection fault, no walk."""


@kernel(inline=True)
def level_shift(level: int) -> np.uint64:
    """Return how many address bits lie below a table of this level: 12, 21, 30, 39, 48."""
    return np.uint64(12 + 9 * (level - 1))


@kernel(inline=True)
def table_index(address: np.uint64, level: int) -> int:
    """Return which word of a table of this level an address selects."""
    return np.int64((address >> level_shift(level)) & INDEX_MASK)


@kernel(inline=True)
def frame_of(word: np.uint64) -> int:
    """Return the 4 KiB frame number in a word (for large leaves, with ``PAT_LARGE`` still in it)."""
    return np.int64((word & ADDRESS_BITS) >> PAGE_SHIFT)


@kernel(inline=True)
def leaf(frame: int, level: int, flags: np.uint64) -> np.uint64:
    """Return the leaf word that maps a frame.

    Parameters
    ----------
    frame : int
        First 4 KiB frame; a multiple of the leaf's size.
    level : int
        1 for 4K, 2 for 2M, 3 for 1G.
    flags : uint64
        In the format of a 4K leaf. Above level 1 the PAT bit moves from 7 to 12 and bit 7 says large.
    """
    word = (np.uint64(frame) << PAGE_SHIFT) | flags
    if level > 1:
        if flags & PAT:
            word |= PAT_LARGE
        word |= LARGE
    return word


@kernel(inline=True)
def leaf_frame(word: np.uint64, level: int) -> int:
    """Return the first frame that a leaf of this level maps."""
    frame = frame_of(word)
    return frame & ~((1 << (9 * (level - 1))) - 1)


@kernel(inline=True)
def reserved_bits(word: np.uint64, level: int, physical_bits: int, gigabyte_pages: bool, no_execute: bool) -> np.uint64:
    """Return the bits of a present word that must be zero and are not.

    Parameters
    ----------
    word : uint64
    level : int
        Level of the table the word is in.
    physical_bits : int
        MAXPHYADDR.
    gigabyte_pages : bool
        Whether the CPU has 1G pages; without them bit 7 of a pointer-table word is reserved.
    no_execute : bool
        EFER.NXE; without it bit 63 is reserved.
    """
    mask = ADDRESS_BITS & ~((np.uint64(1) << np.uint64(physical_bits)) - np.uint64(1))
    if not no_execute:
        mask |= NO_EXECUTE
    if level >= 4 or (level == 3 and not gigabyte_pages):
        mask |= LARGE
    elif level > 1 and word & LARGE:
        page_bits = (np.uint64(1) << level_shift(level)) - np.uint64(1)
        mask |= page_bits & ADDRESS_BITS & ~PAT_LARGE
    return word & mask


@kernel(inline=True)
def is_leaf(word: np.uint64, level: int) -> bool:
    """Return whether a word at this level maps a page rather than a table."""
    return level == 1 or (level <= 3 and (word & LARGE) != ZERO)


@kernel
def error_code(fault: int, write: bool, user: bool, fetch: bool, no_execute: bool, smep: bool) -> int:
    """Return the page-fault error code a CPU pushes for a fault (0 for ``NONE`` and ``NON_CANONICAL``).

    Bit 0: protection or reserved bit, 1: write, 2: user, 3: reserved bit, 4: fetch (with NXE or SMEP only).
    """
    if fault == Fault.NONE or fault == Fault.NON_CANONICAL:
        return 0
    code = 2 * write + 4 * user
    if fault != Fault.NOT_PRESENT:
        code += 1
    if fault == Fault.RESERVED_BIT:
        code += 8
    if fetch and (no_execute or smep):
        code += 16
    return code
