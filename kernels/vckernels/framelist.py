"""Circular doubly linked lists of frames: a frame is on one list at most, so all lists share one pair of links.

Each list has a sentinel, an index above all frames. What a frame's links mean is told by its state: free blocks, pages
on per-CPU lists and pages on reclaim's lists all use them, as the kernel does with ``lru`` in a struct page.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vckernels.jit import kernel, unsigned


@kernel(inline=True)
def push_head(following: npt.NDArray[np.int32], preceding: npt.NDArray[np.int32], sentinel: int, frame: int) -> None:
    """Put a frame that is on no list at the head of one. Mutates both arrays of links."""
    first = np.int64(following[unsigned(sentinel)])
    following[unsigned(frame)] = first
    preceding[unsigned(frame)] = sentinel
    preceding[unsigned(first)] = frame
    following[unsigned(sentinel)] = frame


@kernel(inline=True)
def push_tail(following: npt.NDArray[np.int32], preceding: npt.NDArray[np.int32], sentinel: int, frame: int) -> None:
    """Put a frame that is on no list at the tail of one. Mutates both arrays of links."""
    last = np.int64(preceding[unsigned(sentinel)])
    preceding[unsigned(frame)] = last
    following[unsigned(frame)] = sentinel
    following[unsigned(last)] = frame
    preceding[unsigned(sentinel)] = frame


@kernel(inline=True)
def unlink(following: npt.NDArray[np.int32], preceding: npt.NDArray[np.int32], frame: int) -> None:
    """Take a frame off the list it is on. Mutates both arrays of links."""
    before = np.int64(preceding[unsigned(frame)])
    after = np.int64(following[unsigned(frame)])
    following[unsigned(before)] = after
    preceding[unsigned(after)] = before
