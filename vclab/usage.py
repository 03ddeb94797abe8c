"""What programs do with their pages while the kernel has its own troubles: they use them, and need them again."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vckernels import usage, workingset
from vckernels.pages import ACCESSED, ANONYMOUS, DIRTY, REFERENCED, add_page
from vclab.errors import ConfigurationError
from vclab.movable import MovablePages
from vclab.units import PAGE_SHIFT
from vclab.userpages import UNUSED_LEAF


class Use(NamedTuple):
    """How a use of pages went.

    Attributes
    ----------
    resident : int
        Uses that found their page in memory.
    refaults : int
        Pages that reclaim had taken and that were brought back.
    unserved : int
        Pages that could not be brought back for want of memory.
    gone : int
        Numbers that no page has, or no more.
    """

    resident: int
    refaults: int
    unserved: int
    gone: int


def check_numbers(movable: MovablePages, owners: npt.NDArray[np.int64]) -> None:
    """Refuse numbers of pages, int64[n], that were never given.

    Raises
    ------
    ConfigurationError
        If there is such a number.
    """
    used = movable.region.used
    if len(owners) and not 0 <= int(owners.min()) <= int(owners.max()) < used:
        raise ConfigurationError(f"there are no such pages; they are numbered 0 to {used - 1}")


def use_pages(movable: MovablePages, owners: npt.NDArray[np.int64], write: bool, take_frame: Callable[[], int]) -> Use:
    """Use the pages with some numbers, in order; what is missing comes back, at its address.

    Parameters
    ----------
    movable : MovablePages
        Mutated.
    owners : int64[n]
        Numbers of pages.
    write : bool
        Stores rather than loads.
    take_frame : callable
        Returns a frame for a page that comes back, or -1; it may reclaim others for that.

    Raises
    ------
    ConfigurationError
        If a number was never given.
    """
    check_numbers(movable, owners)
    region = movable.region
    physical = region.tables.translate([region.address(int(owner)) for owner in owners])
    frames = np.where(physical < 0, -1, (physical >> PAGE_SHIFT) - movable.zone.first_frame)
    resident = int(usage.use_frames(movable.zone.buddy, movable.pages, frames, write))
    missing = list(dict.fromkeys(owners[frames < 0].tolist()))
    evicted = [owner for owner in missing if movable.reclaim_state.shadows[owner]]
    refaults = sum(_bring_back(movable, owner, write, take_frame) for owner in evicted)
    again = int(np.count_nonzero(frames < 0)) - len(missing)
    return Use(resident + again, refaults, len(evicted) - refaults, len(missing) - len(evicted))


def _bring_back(movable: MovablePages, owner: int, write: bool, take_frame: Callable[[], int]) -> bool:
    """Let one page be in memory again, mapped where it was (``do_swap_page``, ``filemap_fault``)."""
    frame = take_frame()
    if frame < 0:
        return False
    zone = movable.zone
    marks = ACCESSED | DIRTY if write else ACCESSED
    flags = workingset.refault(zone.buddy, movable.pages, movable.reclaim_state, owner, marks)
    if not movable.rules.split_lists and not flags & ANONYMOUS:
        # A system call has read or written it.
        flags = flags & ~ACCESSED | REFERENCED
    # The table that named the page before is still there, so that this takes no memory.
    movable.region.tables.map(movable.region.address(owner), np.array([frame], np.int64), 1, UNUSED_LEAF)
    add_page(zone.buddy, movable.pages, frame - zone.first_frame, owner, flags)
    return True
