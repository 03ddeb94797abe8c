"""Which thresholds a recording is held against: told by what it contains, never by which one it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vckernels.buddy import ORDERS
from vclab.fragmentation import unusable_free_index
from vclab.recordings import CompactionStep, Recording

#: Blocks below this order are small: half of the free frames in them make memory fragmented.
SMALL_ORDER = 4
FRAGMENTED_SHARE = 0.5


@dataclass(frozen=True)
class Bars:
    """Thresholds of the replay of a zone; None: not judged.

    Attributes
    ----------
    why : str
        What decided.
    frames : int or None
        T1, at most so many frames free in one and not in the other.
    all_removals, known, order : float or None
        T2 and T3, at least.
    without_tail_rule : float or None
        T7, at most.
    claims : float or None
        Fallbacks, at least.
    """

    why: str
    frames: int | None
    all_removals: float | None
    known: float | None
    order: float | None
    without_tail_rule: float | None
    claims: float | None


def bars_of(recording: Recording) -> Bars:
    """Return the thresholds for a recording.

    - Calm memory is followed exactly.
    - Where it was fragmented as the recording began, or compaction worked, most of what is split lies on lists whose
      first order nobody knows, the tail rule decides about most frames, and frames that were freed without an event as
      the recording ended may be missing.
    - Where compaction used its fast search the blocks that it took are named by no event: nothing that depends on the
      lists is judged.
    """
    steps = np.zeros(0, np.uint8)
    if recording.compaction is not None:
        steps = recording.compaction.step[recording.compaction.taken > 0]
    if (steps == CompactionStep.ISOLATE_FREE_FAST).any():
        return Bars("fast searches of compaction name no block", None, None, None, None, None, None)
    counts = np.bincount(recording.free_before.orders, minlength=ORDERS)
    small = unusable_free_index(counts, SMALL_ORDER)
    fragmented = small >= FRAGMENTED_SHARE
    compacted = bool((steps == CompactionStep.ISOLATE_FREE).any())
    said = f"{small:.0%} of the free frames in blocks below order {SMALL_ORDER} at the start"
    said += ", compaction took free blocks" if compacted else ", no compaction took free blocks"
    if fragmented or compacted:
        return Bars(said, 16 if compacted else 0, 0.87, 0.985, 0.993, 0.70 if fragmented else 0.97, 0.92)
    return Bars(said, 0, 0.965, 0.998, 0.999, 0.97, None)
