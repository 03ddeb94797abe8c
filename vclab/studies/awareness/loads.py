"""The loads by which code finds a struct page or an address, in the order in which each waits for the one before.

What is loaded where follows the RFC and its second version (linux-mm, 2007-10-03): ``virt_to_head_page`` and
``vmalloc_to_page`` walk the tables by software through the direct map; a tail names its head (``first_page``); a
virtual page is marked in its flags and keeps its address in ``private``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vckernels import entry
from vclab.system import System
from vclab.units import PAGE_SHIFT

Addresses = npt.NDArray[np.uint64]

#: Bytes from the start of a struct page (Linux 6.12, ``include/linux/mm_types.h``, 64-bit): one line holds them all.
FLAGS, HEAD, PRIVATE = 0, 8, 40
WORD_BYTES = 8
#: Stands for no load; no address of the kernel.
NONE = np.uint64(0)


def _word_addresses(system: System, frames: npt.NDArray[np.int64], index: npt.NDArray[np.int64]) -> Addresses:
    """Return the direct-map addresses of words of page tables that lie in some frames, uint64[n]."""
    at = (frames << PAGE_SHIFT) + index * WORD_BYTES
    return np.uint64(system.direct_map.start) + at.astype(np.uint64)


def software_walk(system: System, addresses: Addresses) -> tuple[Addresses, npt.NDArray[np.int64]]:
    """Return what ``vmalloc_to_page`` loads for each address, and the frame that it finds.

    Parameters
    ----------
    system : System
        Read.
    addresses : uint64[n]
        Mapped by 4K leaves.

    Returns
    -------
    loads : uint64[n, levels]
        Addresses of the words of the tables, from the top.
    frames : int64[n]
    """
    state = system.page_tables.state
    rows = np.zeros(len(addresses), np.int64)
    frames = np.empty(len(addresses), np.int64)
    loads = []
    for level in range(system.page_tables.levels, 0, -1):
        index = ((addresses >> np.uint64(PAGE_SHIFT + 9 * (level - 1))) & entry.INDEX_MASK).astype(np.int64)
        loads.append(_word_addresses(system, state.frames[rows], index))
        frames = ((state.words[rows, index] & entry.ADDRESS_BITS) >> entry.PAGE_SHIFT).astype(np.int64)
        if level > 1:
            rows = state.row_of[frames - system.memory.first_frame].astype(np.int64)
    return np.stack(loads, axis=1), frames


def scan(system: System, frame: int) -> Addresses:
    """Return what ``vmalloc_address`` of V2 loads: every word of the vmalloc area's tables up to the one of a frame.

    Parameters
    ----------
    system : System
        Read.
    frame : int
        Mapped by a 4K leaf in the vmalloc area.

    Returns
    -------
    ndarray
        uint64[n], direct-map addresses of words in the order of the addresses that they map.
    """
    area, levels = system.vmalloc_area, system.page_tables.levels
    top = PAGE_SHIFT + 9 * (levels - 1)
    first = area.start >> top & 511
    count = -(-(area.pages << PAGE_SHIFT) >> top)
    parts: list[Addresses] = []
    _scan_table(system, 0, levels, range(first, first + count), frame, parts)
    return np.concatenate(parts)


def _scan_table(system: System, row: int, level: int, entries: range, frame: int, parts: list[Addresses]) -> bool:
    """Append the loads of one table and those below it; return whether the frame was found."""
    state = system.page_tables.state
    words = state.words[row, entries.start : entries.stop]
    index = np.arange(entries.start, entries.stop)
    addresses = _word_addresses(system, np.full(len(index), state.frames[row]), index)
    frames = ((words & entry.ADDRESS_BITS) >> entry.PAGE_SHIFT).astype(np.int64)
    present = (words & entry.PRESENT) != entry.ZERO
    if level == 1:
        found = np.flatnonzero(present & (frames == frame))
        parts.append(addresses[: found[0] + 1] if len(found) else addresses)
        return bool(len(found))
    done = 0
    for at in np.flatnonzero(present).tolist():
        parts.append(addresses[done : at + 1])
        done = at + 1
        below = int(state.row_of[frames[at] - system.memory.first_frame])
        if below >= 0 and _scan_table(system, below, level - 1, range(512), frame, parts):
            return True
    parts.append(addresses[done:])
    return False


def struct_page(system: System, frames: npt.NDArray[np.int64], heads: npt.NDArray[np.int64]) -> Addresses:
    """Return the loads from a frame's struct page to its head's: of a head one word, of a tail the head's flags too.

    Parameters
    ----------
    system : System
        Its struct pages are mapped if they were not.
    frames, heads : int64[n]
        The frame of each page, and that of its compound page's head.

    Returns
    -------
    ndarray
        uint64[n, 2]; ``NONE`` where a head needs no second load.
    """
    own = system.vmemmap.addresses(frames) + np.uint64(HEAD)
    head = system.vmemmap.addresses(heads) + np.uint64(FLAGS)
    return np.stack([own, np.where(frames == heads, NONE, head)], axis=1)
