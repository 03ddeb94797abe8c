"""Replay a recording and say how well the model's allocator foresees the real one: tests T1, T2, T3, T6 and T7."""

from __future__ import annotations

import numpy as np

from vckernels import buddy as buddy_kernels
from vckernels.replay import Count
from vclab.recorded import kernel_stream
from vclab.recordings import Recording
from vclab.replay.following import differing_frames, follow, run_free
from vclab.replay.lists import check_lists
from vclab.replay.rates import Check, rate

__all__ = ["Check", "check", "differing_frames", "follow", "run_free"]


def check(recording: Recording) -> list[Check]:
    """Run T1, T2, T3, T7 and the free-running replay on a recording; return every rate beside its threshold."""
    stream = kernel_stream(recording)
    buddy, counts = follow(recording, stream, ascending=False, merge_likely_to_tail=True)
    _, opposite = follow(recording, stream, ascending=True, merge_likely_to_tail=True)
    _, ablated = follow(recording, stream, ascending=False, merge_likely_to_tail=False)
    free_buddy, free_counts = run_free(recording, stream, ascending=False)
    known = rate(counts, Count.KNOWN_RIGHT, Count.KNOWN)
    all_rate = rate(counts, Count.FRAME_RIGHT, Count.REMOVALS)
    opposite_rate = rate(opposite, Count.FRAME_RIGHT, Count.REMOVALS)
    unlearned = counts[Count.REMOVALS] - counts[Count.LEARNED]
    without = (counts[Count.FRAME_RIGHT] - counts[Count.LEARNED_RIGHT]) / max(1, unlearned)
    checks = []
    if recording.free_after is not None:
        checks.append(
            Check(
                "T1",
                "frames in which the final free lists differ from the recorded ones",
                differing_frames(recording, buddy, recording.free_after),
                0,
                at_most=True,
                detail=f"of {recording.frames:,}; {counts[Count.RESYNCHRONISATIONS]:,} recorded choices fed back, "
                f"{counts[Count.REMOVALS_SKIPPED]:,} removals skipped, {counts[Count.FREES_SKIPPED]:,} frees skipped",
            )
        )
    checks += [
        Check(
            "T2 all",
            "next frame foreseen, of all removals",
            all_rate,
            0.965,
            detail=f"n {counts[Count.REMOVALS]:,}; without the {counts[Count.LEARNED]:,} learned ones {without:.4%}; "
            f"lists assumed highest frame first at the start, lowest first gives {opposite_rate:.4%}; "
            f"{counts[Count.AFTER_CLAIM]:,} removals after a claim below a pageblock counted apart",
        ),
        Check(
            "T2 known",
            "next frame foreseen, of removals from blocks that the trace put on their list",
            known,
            0.998,
            detail=f"n {counts[Count.KNOWN]:,}",
        ),
        Check(
            "T2 learned",
            "next frame foreseen, of removals from first blocks whose pageblock's type a later event told",
            rate(counts, Count.LEARNED_RIGHT, Count.LEARNED),
            detail=f"n {counts[Count.LEARNED]:,}; not judged",
        ),
        Check(
            "claims",
            "frame foreseen, of claims of a pageblock or more",
            rate(counts, Count.CLAIMS_RIGHT, Count.CLAIMS),
            detail=f"n {counts[Count.CLAIMS]:,}; not judged: they depend on the unknown first order of the lists",
        ),
        Check(
            "T3",
            "order of the block that is split foreseen",
            rate(counts, Count.ORDER_RIGHT, Count.REMOVALS),
            0.999,
            detail=f"n {counts[Count.REMOVALS]:,}",
        ),
        Check(
            "T7",
            "T2 known with the tail rule switched off",
            rate(ablated, Count.KNOWN_RIGHT, Count.KNOWN),
            0.970,
            at_most=True,
            detail="the rule is right only if it matters",
        ),
    ]
    if recording.free_after is not None:
        real = np.bincount(recording.free_after.orders, minlength=buddy_kernels.ORDERS)
        model = free_buddy.free_blocks.sum(axis=1)
        checks.append(
            Check(
                "free running",
                "distance of the final buddyinfo, over its blocks, when the model picks every block",
                float(np.abs(real - model).sum() / max(1, real.sum())),
                0.05,
                at_most=True,
                detail=f"model {model.tolist()}, real {real.tolist()}; "
                f"{free_counts[Count.REMOVALS_SKIPPED]:,} removals of frames already taken skipped, "
                f"{free_counts[Count.FREES_SPLIT]:,} frees of frames that lie apart in the model, "
                f"{free_counts[Count.FAILED]:,} requests failed; pageblock types learned from the events",
            )
        )
    return checks + check_lists(recording, stream)
