"""How fragmented free memory is: Linux's indices, in its own integer arithmetic.

All take the free blocks of one zone by order, as a line of /proc/buddyinfo gives them.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vclab.errors import ConfigurationError
from vclab.files import replacing


def _sums(free_blocks: npt.ArrayLike, order: int) -> tuple[int, int, int]:
    """Return free frames, free blocks, and how many blocks of the order the free blocks hold.

    Linux ``mm/vmstat.c``: ``fill_contig_page_info``.
    """
    blocks = [int(count) for count in np.asarray(free_blocks)]
    if not 0 <= order < len(blocks):
        raise ConfigurationError(f"order {order} does not exist; orders are 0 to {len(blocks) - 1}")
    frames = sum(count << high for high, count in enumerate(blocks))
    suitable = sum(count << high - order for high, count in enumerate(blocks[order:], start=order))
    return frames, sum(blocks), suitable


def fragmentation_thousandths(free_blocks: npt.ArrayLike, order: int) -> int:
    """Return why a request fails in thousandths: towards 0 lack of memory, towards 1000 fragmentation.

    Parameters
    ----------
    free_blocks : array_like
        Free blocks by order, [orders].
    order : int
        The request.

    Returns
    -------
    int
        -1000 if the request would not fail. The formula gives -500 where all that is free is one block of the order
        below.

    Notes
    -----
    Linux ``mm/vmstat.c``: ``__fragmentation_index``.
    """
    frames, blocks, suitable = _sums(free_blocks, order)
    if blocks == 0:
        return 0
    if suitable:
        return -1000
    return 1000 - (1000 + frames * 1000 // (1 << order)) // blocks


def unusable_thousandths(free_blocks: npt.ArrayLike, order: int) -> int:
    """Return the share of free frames in blocks too small for a request, in thousandths; 1000 if nothing is free.

    Notes
    -----
    Gorman and Whitcroft, OLS 2006; Linux ``mm/vmstat.c``: ``unusable_free_index``.
    """
    frames, _, suitable = _sums(free_blocks, order)
    return 1000 if frames == 0 else (frames - (suitable << order)) * 1000 // frames


def extfrag_for_order(free_blocks: npt.ArrayLike, order: int) -> int:
    """Return the share of free frames in blocks too small for a request, in percent; 0 if nothing is free.

    Proactive compaction goes by it, at order 9.

    Notes
    -----
    Linux ``mm/vmstat.c``: ``extfrag_for_order``.
    """
    frames, _, suitable = _sums(free_blocks, order)
    return 0 if frames == 0 else (frames - (suitable << order)) * 100 // frames


def fragmentation_index(free_blocks: npt.ArrayLike, order: int) -> float:
    """Return why a request of this order fails: 0 for lack of memory, 1 for fragmentation, -1 if it would not.

    See :func:`fragmentation_thousandths`; Linux prints it in ``extfrag_index``.
    """
    return fragmentation_thousandths(free_blocks, order) / 1000


def unusable_free_index(free_blocks: npt.ArrayLike, order: int) -> float:
    """Return the share of free frames that lie in blocks too small for a request, 0 to 1; 1 if nothing is free.

    See :func:`unusable_thousandths`; Linux prints it in ``unusable_index``.
    """
    return unusable_thousandths(free_blocks, order) / 1000


def write_histograms(path: str | os.PathLike[str], free_frames: npt.NDArray[np.uint16]) -> None:
    """Write free frames of each 2 MiB as LLFree's benchmarks do: little-endian 16-bit numbers, nothing else.

    Parameters
    ----------
    path : path
        Replaced whole.
    free_frames : uint16[n] or uint16[moments, n]
        0 to 512 each.

    Raises
    ------
    OutputError
        If the place cannot be written.
    """
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(free_frames.astype("<u2").tobytes())
