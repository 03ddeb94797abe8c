"""Replay a recording and say how well the model's allocator foresees the real one: tests T1 to T7.

What can be asked depends on what happened. A recording that begins with half of its free memory in small blocks is
held against the thresholds that such memory allows, and so is one in which compaction took free blocks, which the
kernel does not trace one by one.
"""

from __future__ import annotations

from vclab.recorded import kernel_stream
from vclab.recordings import Recording
from vclab.replay.following import check_following
from vclab.replay.freerunning import check_free_running
from vclab.replay.kernelfiles import check_indices, check_limits
from vclab.replay.lists import check_lists
from vclab.replay.rates import Check

__all__ = ["Check", "check", "left_out"]

_NEEDS = {
    "T1": "free blocks of the end (post_snapshot.npz)",
    "T4": "indices with the buddyinfo beside them (*extfrag_index.txt, *unusable_index.txt; in folders)",
    "T5": "zoneinfo (*zoneinfo.txt; in folders)",
    "T6 known": "rows of the API level (api_head.npz)",
    "walks": "events of compaction (aux_events.npz)",
}


def check(recording: Recording) -> list[Check]:
    """Replay a recording in every way there is; return every rate beside its threshold."""
    stream = kernel_stream(recording)
    return [
        *check_following(recording, stream),
        *check_indices(recording.path),
        *check_limits(recording.path),
        *check_lists(recording, stream),
        *check_free_running(recording, stream),
    ]


def left_out(checks: list[Check]) -> list[str]:
    """Return, a line each, which tests could not be run on a recording, and for want of what."""
    names = {check.name for check in checks}
    return [f"{name} not run: no {wanted}" for name, wanted in _NEEDS.items() if name not in names]
