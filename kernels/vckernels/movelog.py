"""The log of pages that moved or were evicted, by which their owners' mappings and what CPUs know of them follow."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vckernels.buddy import Buddy
from vckernels.jit import kernel, unsigned
from vckernels.pages import Pages

EVICTED = -1
"""New frame of a page that is in memory no more."""
STALE = -2
"""New frame of a page that stays where it is, but whose translation all CPUs must forget."""


class Moves(NamedTuple):
    """What became of pages, in order: a page may move more than once, and be evicted then.

    Attributes
    ----------
    old, new : int64[n]
        First frames before and after; ``EVICTED`` after if the page was reclaimed, or ``STALE``.
    owners : int32[n]
        Owner's id of the first frame.
    orders : int8[n]
        Log2 of the page's frames.
    used : int64[1]
        Entries written so far; who applies them sets it back to 0.
    """

    old: npt.NDArray[np.int64]
    new: npt.NDArray[np.int64]
    owners: npt.NDArray[np.int32]
    orders: npt.NDArray[np.int8]
    used: npt.NDArray[np.int64]


def new_moves(entries: int = 1 << 16) -> Moves:
    """Return an empty log for as many entries, at least 1024: two batches of compaction."""
    room = max(entries, 1024)
    return Moves(
        old=np.zeros(room, np.int64),
        new=np.zeros(room, np.int64),
        owners=np.zeros(room, np.int32),
        orders=np.zeros(room, np.int8),
        used=np.zeros(1, np.int64),
    )


@kernel(inline=True)
def has_room(moves: Moves, entries: int) -> bool:
    """Return whether the log has room for as many entries more."""
    return moves.used[0] + entries <= len(moves.old)


@kernel(inline=True)
def log_move(buddy: Buddy, pages: Pages, moves: Moves, old: int, new: int) -> None:
    """Write what becomes of the page that begins at ``old``, before it happens."""
    entry = unsigned(moves.used[0])
    moves.old[entry] = old
    moves.new[entry] = new
    moves.owners[entry] = pages.owner[unsigned(old)]
    moves.orders[entry] = np.int64(buddy.state[unsigned(old)]) & 15
    moves.used[0] += 1
