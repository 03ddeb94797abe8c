"""Page tables: 512-word tables in frames of the machine, walked as an x86-64 CPU walks them.

Row ``i`` of ``words`` is the table that lies in frame ``frames[i]``; row 0 is the root. Words hold physical
addresses and nothing else: a walk goes from a word's frame to its row as hardware goes to memory. Frames for
new tables are taken from the allocator by the caller, who learns from :func:`survey` how many it takes.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vckernels import entry
from vckernels.causes import COUNTERS, Cause, Status
from vckernels.entry import Fault
from vckernels.jit import kernel, unsigned

ENTRIES = 512


class Control(IntEnum):
    """Index into the int64 array of what a CPU's control registers and CPUID say."""

    LEVELS = 0
    """4, or 5 with CR4.LA57."""
    TABLES = 1
    """Tables in use, root included."""
    FIRST_FRAME = 2
    """Number of the machine's first frame, which ``row_of`` starts at."""
    PHYSICAL_BITS = 3
    GIGABYTE_PAGES = 4
    NO_EXECUTE = 5
    """EFER.NXE."""
    WRITE_PROTECT = 6
    """CR0.WP: read-only pages bind the supervisor too."""
    SMEP = 7
    SMAP = 8


class PageTables(NamedTuple):
    """A tree of tables.

    Attributes
    ----------
    words : uint64[capacity, 512]
    frames : int64[capacity]
        Frame of each table.
    row_of : int32[machine frames]
        Row of the table in a frame, -1 where there is none.
    control : int64[len(Control)]
    counters : int64[COUNTERS]
    """

    words: npt.NDArray[np.uint64]
    frames: npt.NDArray[np.int64]
    row_of: npt.NDArray[np.int32]
    control: npt.NDArray[np.int64]
    counters: npt.NDArray[np.int64]


def new_page_tables(
    root_frame: int,
    first_frame: int,
    machine_frames: int,
    levels: int,
    physical_bits: int,
    gigabyte_pages: bool,
    capacity: int = 64,
) -> PageTables:
    """Return an empty tree with its root table; NX and CR0.WP are on, SMEP and SMAP off."""
    control = np.zeros(len(Control), np.int64)
    control[Control.LEVELS] = levels
    control[Control.TABLES] = 1
    control[Control.FIRST_FRAME] = first_frame
    control[Control.PHYSICAL_BITS] = physical_bits
    control[Control.GIGABYTE_PAGES] = gigabyte_pages
    control[Control.NO_EXECUTE] = 1
    control[Control.WRITE_PROTECT] = 1
    tables = PageTables(
        words=np.zeros((capacity, ENTRIES), np.uint64),
        frames=np.full(capacity, -1, np.int64),
        row_of=np.full(machine_frames, -1, np.int32),
        control=control,
        counters=np.zeros(COUNTERS, np.int64),
    )
    tables.frames[0] = root_frame
    tables.row_of[root_frame - first_frame] = 0
    return tables


def grown(tables: PageTables, capacity: int) -> PageTables:
    """Return the same tree with room for more tables; the arrays it shares with the old one stay shared."""
    words = np.zeros((capacity, ENTRIES), np.uint64)
    words[: len(tables.words)] = tables.words
    frames = np.full(capacity, -1, np.int64)
    frames[: len(tables.frames)] = tables.frames
    return tables._replace(words=words, frames=frames)


@kernel(inline=True)
def row_at(tables: PageTables, frame: int) -> int:
    """Return the row of the table in a frame, or -1 if no table lies there."""
    index = frame - tables.control[Control.FIRST_FRAME]
    if index < 0 or index >= len(tables.row_of):
        return -1
    return np.int64(tables.row_of[unsigned(index)])


@kernel(inline=True)
def is_canonical(address: np.uint64, levels: int) -> bool:
    """Return whether the bits above the translated ones all equal the topmost translated one."""
    top = np.int64(address) >> (9 * levels + 11)
    return top == 0 or top == -1


WRITABLE = 1
ACCESSIBLE = 2
EXECUTABLE = 4
ALL_PERMISSIONS = WRITABLE | ACCESSIBLE | EXECUTABLE
"""What a walk may do so far: writable and accessible to the user if all words say so, executable if none forbids it."""


@kernel(inline=True)
def word_fault(tables: PageTables, word: np.uint64, level: int) -> int:
    """Return the fault of a walk that loads a word at a level: not present, reserved bit or none."""
    control = tables.control
    if word & entry.PRESENT == entry.ZERO:
        return np.int64(Fault.NOT_PRESENT)
    reserved = entry.reserved_bits(
        word,
        level,
        control[Control.PHYSICAL_BITS],
        control[Control.GIGABYTE_PAGES] != 0,
        control[Control.NO_EXECUTE] != 0,
    )
    return np.int64(Fault.RESERVED_BIT if reserved != entry.ZERO else Fault.NONE)


@kernel(inline=True)
def narrowed(permissions: int, word: np.uint64, no_execute: bool) -> int:
    """Return what of some permissions is left after one more word."""
    if word & entry.WRITABLE == entry.ZERO:
        permissions &= ~WRITABLE
    if word & entry.USER == entry.ZERO:
        permissions &= ~ACCESSIBLE
    if no_execute and word & entry.NO_EXECUTE != entry.ZERO:
        permissions &= ~EXECUTABLE
    return permissions


@kernel(inline=True)
def permission_fault(tables: PageTables, permissions: int, write: bool, user: bool, fetch: bool) -> int:
    """Return the fault of an access to a page that a walk reached with some permissions."""
    control = tables.control
    accessible = permissions & ACCESSIBLE != 0
    fault = np.int64(Fault.NONE)
    if user and not accessible:
        fault = np.int64(Fault.USER)
    elif fetch and permissions & EXECUTABLE == 0:
        fault = np.int64(Fault.FETCH)
    elif fetch and not user and accessible and control[Control.SMEP]:
        fault = np.int64(Fault.SUPERVISOR_FETCH)
    elif not fetch and not user and accessible and control[Control.SMAP]:
        fault = np.int64(Fault.SUPERVISOR_ACCESS)
    elif write and permissions & WRITABLE == 0 and (user or control[Control.WRITE_PROTECT]):
        fault = np.int64(Fault.WRITE)
    return fault


@kernel(inline=True)
def used(word: np.uint64, write: bool) -> np.uint64:
    """Return a leaf word as an access leaves it: accessed, and dirty after a store."""
    word |= entry.ACCESSED
    if write:
        word |= entry.DIRTY
    return word


@kernel(inline=True)
def page_frame(leaf: np.uint64, address: np.uint64, level: int) -> int:
    """Return the 4 KiB frame of an address inside the page that a leaf maps."""
    below = (np.uint64(1) << entry.level_shift(level)) - np.uint64(1)
    return entry.leaf_frame(leaf, level) + np.int64((address & below) >> entry.PAGE_SHIFT)


@kernel(inline=True)
def walk(
    tables: PageTables, address: np.uint64, write: bool, user: bool, fetch: bool, update: bool
) -> tuple[int, int, int, int]:
    """Translate one address as the hardware does.

    Parameters
    ----------
    tables : PageTables
        With ``update``, accessed bits are set on the way and, after all checks, the leaf's accessed and, on a
        write, dirty bit.
    address : uint64
    write, user, fetch : bool
        The access. A fetch is no write.
    update : bool
        Set accessed and dirty bits.

    Returns
    -------
    frame : int
        4 KiB frame of the address, -1 on a fault.
    level : int
        Level of the leaf, or of the word that faulted.
    references : int
        Words loaded.
    fault : int
        A :class:`~vckernels.entry.Fault`.
    """
    control = tables.control
    levels = control[Control.LEVELS]
    if not is_canonical(address, levels):
        return -1, 0, 0, np.int64(Fault.NON_CANONICAL)
    permissions = np.int64(ALL_PERMISSIONS)
    row = 0
    references = 0
    level = levels
    while True:
        index = entry.table_index(address, level)
        word = tables.words[unsigned(row), unsigned(index)]
        references += 1
        fault = word_fault(tables, word, level)
        if fault != Fault.NONE:
            return -1, level, references, fault
        permissions = narrowed(permissions, word, control[Control.NO_EXECUTE] != 0)
        if entry.is_leaf(word, level):
            break
        if update and word & entry.ACCESSED == entry.ZERO:
            tables.words[unsigned(row), unsigned(index)] = word | entry.ACCESSED
        row = row_at(tables, entry.frame_of(word))
        if row < 0:
            # The word names a frame that holds no table; memory that nobody wrote reads as not present.
            return -1, level - 1, references + 1, np.int64(Fault.NOT_PRESENT)
        level -= 1
    fault = permission_fault(tables, permissions, write, user, fetch)
    if fault != Fault.NONE:
        return -1, level, references, fault
    if update:
        wanted = used(word, write)
        if wanted != word:
            tables.words[unsigned(row), unsigned(index)] = wanted
    return page_frame(word, address, level), level, references, fault


@kernel
def walk_many(
    tables: PageTables,
    addresses: npt.NDArray[np.uint64],
    write: bool,
    user: bool,
    fetch: bool,
    update: bool,
    frames: npt.NDArray[np.int64],
    levels: npt.NDArray[np.int8],
    faults: npt.NDArray[np.int8],
) -> int:
    """Walk for each address; write frames (-1 on a fault), leaf levels and faults; return the words loaded."""
    total = 0
    for i in range(len(addresses)):
        frame, level, references, fault = walk(tables, addresses[i], write, user, fetch, update)
        frames[i] = frame
        levels[i] = level
        faults[i] = fault
        total += references
    return total


@kernel
def translate_many(tables: PageTables, addresses: npt.NDArray[np.uint64], physical: npt.NDArray[np.int64]) -> None:
    """Write the physical address of each virtual one, -1 where none is mapped. Sets no accessed bits."""
    for i in range(len(addresses)):
        frame, _, _, _ = walk(tables, addresses[i], False, False, False, False)
        physical[i] = -1
        if frame >= 0:
            physical[i] = (frame << 12) | np.int64(addresses[i] & np.uint64(4095))


@kernel(inline=True)
def _descend(tables: PageTables, address: np.uint64, level: int) -> tuple[int, int]:
    """Return (row, level) of the lowest existing table on the way to an address, not below ``level``.

    The row is -1 where a larger leaf is in the way.
    """
    row = 0
    at = tables.control[Control.LEVELS]
    while at > level:
        word = tables.words[row, entry.table_index(address, at)]
        if word & entry.PRESENT == entry.ZERO:
            return row, at
        if entry.is_leaf(word, at):
            return -1, at
        row = row_at(tables, entry.frame_of(word))
        at -= 1
    return row, at


@kernel(inline=True)
def leaf_word(tables: PageTables, address: np.uint64) -> tuple[int, int]:
    """Return row and index of the word that maps an address by a 4 KiB leaf, or (-1, 0) where none does."""
    row, at = _descend(tables, address, 1)
    if row < 0 or at != 1:
        return np.int64(-1), np.int64(0)
    index = entry.table_index(address, 1)
    if tables.words[row, index] & entry.PRESENT == entry.ZERO:
        return np.int64(-1), np.int64(0)
    return row, index


@kernel(inline=True)
def _is_range(tables: PageTables, address: np.uint64, count: int, level: int) -> bool:
    """Return whether leaves of a level from an address on are aligned and lie in one half of the address space."""
    levels = tables.control[Control.LEVELS]
    shift = entry.level_shift(level)
    # No more leaves than one half holds, so that the last address cannot wrap round.
    most = np.int64(1) << (9 * (levels - level + 1) - 1)
    if address & ((np.uint64(1) << shift) - np.uint64(1)) != entry.ZERO or count < 1 or count > most:
        return False
    last = address + (np.uint64(count - 1) << shift)
    return last >= address and is_canonical(address, levels) and is_canonical(last, levels)


@kernel(inline=True)
def _tables_without_leaf(tables: PageTables, row: int, level: int) -> int:
    """Return how many tables a table of level 1 or 2 is with those below it, or -1 if a leaf is among them."""
    found = 1
    for i in range(ENTRIES):
        word = tables.words[row, i]
        if word & entry.PRESENT == entry.ZERO:
            continue
        below = -1 if entry.is_leaf(word, level) else row_at(tables, entry.frame_of(word))
        if below < 0:
            return -1
        for j in range(ENTRIES):
            if tables.words[below, j] & entry.PRESENT != entry.ZERO:
                return -1
        found += 1
    return found


@kernel(inline=True)
def _empty_tables_at(tables: PageTables, word: np.uint64, level: int) -> int:
    """Return how many empty tables a word of a level's table stands for, or -1 if a leaf is present there."""
    if word & entry.PRESENT == entry.ZERO:
        return 0
    if entry.is_leaf(word, level):
        return -1
    row = row_at(tables, entry.frame_of(word))
    return _tables_without_leaf(tables, row, level - 1) if row >= 0 else -1


@kernel
def survey(tables: PageTables, address: np.uint64, count: int, level: int) -> int:
    """Return how many tables mapping a range would add, or minus a status if it cannot be mapped.

    Empty tables in the place of leaves are no obstacle and not in the answer: :func:`survey_empty_tables` counts them,
    :func:`remove_empty_tables` takes them away before the range is mapped.

    Parameters
    ----------
    tables : PageTables
        Read.
    address : uint64
        First address, a multiple of the leaf's size.
    count : int
        Leaves.
    level : int
        Level of the leaves.
    """
    if not _is_range(tables, address, count, level):
        return -np.int64(Status.OUT_OF_RANGE)
    shift = entry.level_shift(level)
    missing = 0
    done = 0
    # Tables below a missing one are counted once each, when the range first enters the region they cover.
    while done < count:
        here = address + (np.uint64(done) << shift)
        index = entry.table_index(here, level)
        part = min(count - done, ENTRIES - index)
        row, at = _descend(tables, here, level)
        if row < 0:
            return -np.int64(Status.ALREADY_MAPPED)
        if at == level:
            for i in range(index, index + part):
                if _empty_tables_at(tables, tables.words[row, i], level) < 0:
                    return -np.int64(Status.ALREADY_MAPPED)
        else:
            for below in range(level, at):
                start = (here >> entry.level_shift(below + 1)) << entry.level_shift(below + 1)
                if done == 0 or start == here:
                    missing += 1
        done += part
    return missing


@kernel
def survey_empty_tables(tables: PageTables, address: np.uint64, count: int, level: int) -> int:
    """Return how many empty tables stand where the leaves of a range that :func:`survey` found free would go."""
    shift = entry.level_shift(level)
    found = 0
    done = 0
    while done < count:
        here = address + (np.uint64(done) << shift)
        index = entry.table_index(here, level)
        part = min(count - done, ENTRIES - index)
        row, at = _descend(tables, here, level)
        if at == level:
            for i in range(index, index + part):
                found += _empty_tables_at(tables, tables.words[row, i], level)
        done += part
    return found


@kernel(inline=True)
def _drop_row(tables: PageTables, row: int) -> None:
    """Forget a table other than the root; the last row takes its place, since words name frames and not rows."""
    last = tables.control[Control.TABLES] - 1
    first_frame = tables.control[Control.FIRST_FRAME]
    tables.row_of[tables.frames[row] - first_frame] = -1
    if row != last:
        for i in range(ENTRIES):
            tables.words[row, i] = tables.words[last, i]
        tables.frames[row] = tables.frames[last]
        tables.row_of[tables.frames[row] - first_frame] = row
    tables.frames[last] = -1
    tables.control[Control.TABLES] = last


@kernel
def remove_empty_tables(
    tables: PageTables, address: np.uint64, count: int, level: int, frames: npt.NDArray[np.int64]
) -> int:
    """Take empty tables out of the places of a range's leaves; return how many words were cleared.

    Linux does so before it writes a larger leaf, and flushes all CPUs' cached words (``arch/x86/mm/pgtable.c``:
    ``pmd_free_pte_page``, ``pud_free_pmd_page``). Rows move: whatever kept a row or a word must forget it.

    Parameters
    ----------
    tables : PageTables
        Mutated: a word is cleared for each table; the tables in use stay dense.
    address : uint64
    count, level : int
        A range that :func:`survey` found free.
    frames : int64[k]
        Written: frames of the tables, lower ones before those that named them; as many as :func:`survey_empty_tables`
        said. They are the caller's to free.
    """
    shift = entry.level_shift(level)
    removed = 0
    for i in range(count):
        here = address + (np.uint64(i) << shift)
        row, at = _descend(tables, here, level)
        if at != level:
            continue
        index = entry.table_index(here, level)
        word = tables.words[row, index]
        if word & entry.PRESENT == entry.ZERO:
            continue
        frame = entry.frame_of(word)
        for j in range(ENTRIES):
            # Looked up anew each time: dropping a row may have moved this table.
            table = row_at(tables, frame)
            below = tables.words[table, j]
            if below & entry.PRESENT != entry.ZERO:
                tables.words[table, j] = entry.ZERO
                frames[removed] = entry.frame_of(below)
                removed += 1
                _drop_row(tables, row_at(tables, entry.frame_of(below)))
        row, _ = _descend(tables, here, level)
        tables.words[row, index] = entry.ZERO
        frames[removed] = frame
        removed += 1
        _drop_row(tables, row_at(tables, frame))
    tables.counters[Cause.ENTRY_WRITE] += removed
    return removed


@kernel
def remove_newest_tables(
    tables: PageTables, address: np.uint64, count: int, level: int, keep: int, frames: npt.NDArray[np.int64]
) -> None:
    """Undo what mapping a range did to the tree: take out the tables of all rows from ``keep`` on.

    Parameters
    ----------
    tables : PageTables
        Mutated. Nothing was added or removed since the range was mapped, and its leaves are cleared.
    address : uint64
    count, level : int
        The range.
    keep : int
        Tables before the range was mapped.
    frames : int64[tables - keep]
        Written: frames of the tables, the caller's to free.
    """
    shift = entry.level_shift(level)
    done = 0
    while done < count:
        here = address + (np.uint64(done) << shift)
        row = 0
        at = tables.control[Control.LEVELS]
        # Down to the last table that stays: only its word for a new one is left behind.
        while at > level:
            index = entry.table_index(here, at)
            word = tables.words[row, index]
            if word & entry.PRESENT == entry.ZERO:
                break
            below = row_at(tables, entry.frame_of(word))
            if below >= keep:
                tables.words[row, index] = entry.ZERO
                tables.counters[Cause.ENTRY_WRITE] += 1
                break
            row = below
            at -= 1
        done += min(count - done, ENTRIES - entry.table_index(here, level))
    for number in range(tables.control[Control.TABLES] - 1, keep - 1, -1):
        frames[number - keep] = tables.frames[number]
        _drop_row(tables, number)


@kernel
def map_range(
    tables: PageTables,
    address: np.uint64,
    first_frames: npt.NDArray[np.int64],
    level: int,
    flags: np.uint64,
    table_flags: np.uint64,
    new_frames: npt.NDArray[np.int64],
) -> int:
    """Write leaves for a range that :func:`survey` found free; return how many entries were written.

    Empty tables in the place of leaves were removed (:func:`remove_empty_tables`).

    Parameters
    ----------
    tables : PageTables
        Mutated; its capacity must hold the new tables.
    address : uint64
        First address.
    first_frames : int64[n]
        First 4 KiB frame of each leaf, in address order.
    level : int
        Level of the leaves: 1, 2 or 3.
    flags : uint64
        Leaf flags in the format of a 4K leaf.
    table_flags : uint64
        Flags of words that name new tables.
    new_frames : int64[k]
        Frames for new tables, as many as :func:`survey` said; their content is cleared.
    """
    shift = entry.level_shift(level)
    used = 0
    written = 0
    done = 0
    while done < len(first_frames):
        here = address + (np.uint64(done) << shift)
        row, at = _descend(tables, here, level)
        while at > level:
            fresh = tables.control[Control.TABLES]
            frame = new_frames[used]
            used += 1
            tables.control[Control.TABLES] = fresh + 1
            tables.words[fresh, :] = entry.ZERO
            tables.frames[fresh] = frame
            tables.row_of[frame - tables.control[Control.FIRST_FRAME]] = fresh
            tables.words[row, entry.table_index(here, at)] = (np.uint64(frame) << entry.PAGE_SHIFT) | table_flags
            written += 1
            row = fresh
            at -= 1
        index = entry.table_index(here, level)
        part = min(len(first_frames) - done, ENTRIES - index)
        for i in range(part):
            tables.words[row, index + i] = entry.leaf(first_frames[done + i], level, flags)
        written += part
        done += part
    tables.counters[Cause.TABLE_PAGE] += used
    tables.counters[Cause.ENTRY_WRITE] += written
    return written


@kernel
def unmap_range(tables: PageTables, address: np.uint64, count: int, level: int, frames: npt.NDArray[np.int64]) -> int:
    """Clear the leaves of a range, keeping its tables; return a status.

    Parameters
    ----------
    tables : PageTables
        Mutated, unless some leaf of that level is missing.
    address : uint64
    count : int
        Leaves.
    level : int
        Their level.
    frames : int64[count]
        Written: first frame of each leaf.
    """
    if not _is_range(tables, address, count, level):
        return np.int64(Status.OUT_OF_RANGE)
    shift = entry.level_shift(level)
    for i in range(count):
        here = address + (np.uint64(i) << shift)
        row, at = _descend(tables, here, level)
        if row < 0 or at != level:
            return np.int64(Status.NOT_MAPPED)
        word = tables.words[row, entry.table_index(here, level)]
        if word & entry.PRESENT == entry.ZERO or not entry.is_leaf(word, level):
            return np.int64(Status.NOT_MAPPED)
        frames[i] = entry.leaf_frame(word, level)
    for i in range(count):
        here = address + (np.uint64(i) << shift)
        row, _ = _descend(tables, here, level)
        tables.words[row, entry.table_index(here, level)] = entry.ZERO
    tables.counters[Cause.ENTRY_WRITE] += count
    return np.int64(Status.OK)
