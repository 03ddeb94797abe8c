"""Replay a recording and say how well the model's allocator foresees the real one: tests T1, T2, T3, T6 and T7.

What can be asked depends on what happened. A recording that begins with half of its free memory in small blocks is
held against the thresholds that such memory allows, and so is one in which compaction took free blocks, which the
kernel does not trace one by one.
"""

from __future__ import annotations

from vclab.recorded import kernel_stream
from vclab.recordings import Recording
from vclab.replay.following import check_following
from vclab.replay.freerunning import check_free_running
from vclab.replay.lists import check_lists
from vclab.replay.rates import Check

__all__ = ["Check", "check"]


def check(recording: Recording) -> list[Check]:
    """Replay a recording in every way there is; return every rate beside its threshold."""
    stream = kernel_stream(recording)
    return [
        *check_following(recording, stream),
        *check_lists(recording, stream),
        *check_free_running(recording, stream),
    ]
