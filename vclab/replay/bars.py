"""Which thresholds a recording is held against: told by what it contains, never by which one it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vckernels.buddy import ORDERS
from vclab.fragmentation import unusable_free_index
from vclab.recordings import CompactionStep, Operation, Recording

#: Blocks below this order are small: half of the free frames in them make memory fragmented.
SMALL_ORDER = 4
FRAGMENTED_SHARE = 0.5
#: So many claims below a pageblock are needed to judge them alone.
FEWEST_CLAIMS = 60


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
    claims, claims_empty, walks : float or None
        Fallbacks, those of them where the model's own lists are empty too, and walks of compaction: at least.
    claims_apart : float or None
        Fallbacks where the model's own lists are empty too: below a pageblock, and the orders of the others.
    """

    why: str
    frames: int | None = None
    all_removals: float | None = None
    known: float | None = None
    order: float | None = None
    without_tail_rule: float | None = None
    claims: float | None = None
    claims_empty: float | None = None
    claims_apart: float | None = None
    walks: float | None = None


def turnover(recording: Recording) -> float:
    """Return how many frames were handed out for each that was free as the recording began."""
    stream, free = recording.stream, recording.free_before
    removed = stream.operation == Operation.REMOVE
    alone = stream.operation == Operation.CLAIM
    alone[1:] &= ~(removed[:-1] & (stream.frame[1:] == stream.frame[:-1]))
    frames = (1 << stream.order[removed | alone].astype(np.int64)).sum()
    return float(frames / max(1, (1 << free.orders.astype(np.int64)).sum()))


def bars_of(recording: Recording) -> Bars:
    """Return the thresholds for a recording.

    - Calm memory is followed exactly.
    - Where it was fragmented as the recording began, or compaction worked, most of what is split lies on lists whose
      first order nobody knows, the tail rule decides about most frames, and frames that were freed without an event as
      the recording ended may be missing.
    - What the tail rule decides shows once the lists have been turned over: when as many frames were handed out as
      were free at first.
    - Where compaction used its fast search the blocks that it took are named by no event: nothing that depends on the
      lists is judged.
    """
    steps = np.zeros(0, np.uint8)
    if recording.compaction is not None:
        steps = recording.compaction.step[recording.compaction.taken > 0]
    if (steps == CompactionStep.ISOLATE_FREE_FAST).any():
        return Bars("fast searches of compaction name no block", claims_apart=1.0)
    counts = np.bincount(recording.free_before.orders, minlength=ORDERS)
    small = unusable_free_index(counts, SMALL_ORDER)
    turned = turnover(recording)
    fragmented = small >= FRAGMENTED_SHARE
    compacted = bool((steps == CompactionStep.ISOLATE_FREE).any())
    said = f"{small:.0%} of the free frames in blocks below order {SMALL_ORDER} at the start, "
    said += f"{turned:.1f} frames handed out for each of them, {'some' if compacted else 'none'} isolated by compaction"
    tail_bar = 0.70 if fragmented else 0.97
    calm = not fragmented and not compacted
    return Bars(
        said,
        frames=16 if compacted else 0,
        all_removals=0.965 if calm else 0.87,
        known=0.998 if calm else 0.985,
        order=0.999 if calm else 0.993,
        without_tail_rule=tail_bar if turned >= 1 else None,
        claims=None if calm else 0.92,
        claims_empty=1.0,
        walks=1.0,
    )
