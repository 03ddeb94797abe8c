"""A recording's zone left to the model's own choices."""

from __future__ import annotations

import numpy as np

from vckernels import replayfree
from vckernels.buddy import ORDERS, Buddy
from vckernels.replay import COUNTS, Count, Stream
from vclab.recorded import snapshot_buddy, span
from vclab.recordings import CompactionStep, Recording
from vclab.replay.rates import Check

#: Largest distance from the real buddyinfo that counts as near.
NEAR = 0.05
_TAKING = (CompactionStep.ISOLATE_FREE, CompactionStep.ISOLATE_FREE_FAST)


def run_free(recording: Recording, stream: Stream, ascending: bool) -> tuple[Buddy, dict[Count, int]]:
    """Let the model choose every block of a recording's requests; return the final allocator and counts."""
    buddy = snapshot_buddy(recording, stream, ascending)
    taken = np.ones(span(recording), np.int8)
    free = recording.free_before
    for frame, order in zip((free.frames - recording.first_frame).tolist(), free.orders.tolist(), strict=True):
        taken[frame : frame + (1 << order)] = 0
    counts = np.zeros(COUNTS, np.int64)
    replayfree.run_free(buddy, stream, taken, np.arange(span(recording), dtype=np.int32), counts)
    return buddy, {count: int(counts[count]) for count in Count}


def check_free_running(recording: Recording, stream: Stream) -> list[Check]:
    """Run a recording's requests freely and compare the buddyinfo at the end.

    Judged where no compaction took free blocks: those are no requests, and the model runs without.
    """
    if recording.free_after is None:
        return []
    buddy, counts = run_free(recording, stream, ascending=False)
    compaction = recording.compaction
    compacted = compaction is not None and bool(((compaction.taken > 0) & np.isin(compaction.step, _TAKING)).any())
    real = np.bincount(recording.free_after.orders, minlength=ORDERS)
    model = buddy.free_blocks.sum(axis=1)
    return [
        Check(
            "free running",
            "distance of the final buddyinfo, over its blocks, when the model picks every block",
            float(np.abs(real - model).sum() / max(1, real.sum())),
            None if compacted else NEAR,
            at_most=True,
            detail=f"model {model.tolist()}, real {real.tolist()}; "
            f"{counts[Count.REMOVALS_SKIPPED]:,} removals of frames already taken skipped, "
            f"{counts[Count.FREES_SPLIT]:,} frees of frames that lie apart in the model, "
            f"{counts[Count.FAILED]:,} requests failed; pageblock types learned from the events"
            + ("; not judged: compaction is left out" if compacted else ""),
        )
    ]
