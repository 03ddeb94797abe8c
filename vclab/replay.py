"""Replay a recording and say how well the model's allocator foresees the real one: tests T1, T2, T3 and T7."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vckernels import buddy as buddy_kernels
from vckernels import replay as kernels
from vckernels.buddy import Buddy
from vckernels.replay import Count, Stream
from vclab.memory import Zone
from vclab.recorded import kernel_stream, snapshot_buddy, span
from vclab.recordings import BlockMap, Recording


@dataclass(frozen=True)
class Check:
    """One rate and the threshold that it is held against.

    Attributes
    ----------
    name, what : str
    rate : float
    threshold : float or None
        None: reported, not judged.
    at_most : bool
        The rate must not exceed the threshold, else it must reach it.
    detail : str
    """

    name: str
    what: str
    rate: float
    threshold: float | None = None
    at_most: bool = False
    detail: str = ""

    @property
    def passed(self) -> bool:
        """Whether the rate is on the right side."""
        if self.threshold is None:
            return True
        return self.rate <= self.threshold if self.at_most else self.rate >= self.threshold


def follow(
    recording: Recording, stream: Stream, ascending: bool, merge_likely_to_tail: bool
) -> tuple[Buddy, dict[Count, int]]:
    """Follow a recording one step ahead; return the final allocator and what was counted.

    Parameters
    ----------
    recording : Recording
    stream : Stream
        Its events.
    ascending : bool
        Assumed first order of the free lists, which a snapshot does not show: lowest frame first, else highest.
    merge_likely_to_tail : bool
        The tail placement rule, for ablation.
    """
    buddy = snapshot_buddy(recording, stream, ascending, merge_likely_to_tail)
    known = np.ones(span(recording), np.int8)
    known[recording.free_before.frames - recording.first_frame] = 0
    counts = np.zeros(kernels.COUNTS, np.int64)
    kernels.follow(buddy, stream, known, counts)
    return buddy, {count: int(counts[count]) for count in Count}


def run_free(recording: Recording, stream: Stream, ascending: bool) -> tuple[Buddy, dict[Count, int]]:
    """Let the model choose every block of a recording's requests; return the final allocator and counts."""
    buddy = snapshot_buddy(recording, stream, ascending)
    taken = np.ones(span(recording), np.int8)
    free = recording.free_before
    for frame, order in zip((free.frames - recording.first_frame).tolist(), free.orders.tolist(), strict=True):
        taken[frame : frame + (1 << order)] = 0
    counts = np.zeros(kernels.COUNTS, np.int64)
    kernels.run_free(buddy, stream, taken, np.arange(span(recording), dtype=np.int32), counts)
    return buddy, {count: int(counts[count]) for count in Count}


def differing_frames(recording: Recording, buddy: Buddy, real: BlockMap) -> int:
    """Return in how many frames the model's free lists, block by block, differ from a block map."""
    zone = Zone(recording.zone_name, recording.first_frame, span(recording), buddy)
    frames, orders = zone.blocks()
    pictures = np.full((2, span(recording)), -1, np.int8)
    for picture, first, order in zip(pictures, (frames, real.frames), (orders, real.orders), strict=True):
        starts = first - recording.first_frame
        sizes = 1 << order.astype(np.int64)
        inside = np.repeat(starts - np.concatenate([[0], np.cumsum(sizes)[:-1]]), sizes) + np.arange(sizes.sum())
        picture[inside] = np.repeat(order, sizes)
        # A block's first frame is marked, so that two halves differ from the whole.
        picture[starts] += 16
    return int(np.count_nonzero(pictures[0] != pictures[1]))


def _rate(counts: dict[Count, int], part: Count, whole: Count) -> float:
    return counts[part] / counts[whole] if counts[whole] else 1.0


def check(recording: Recording) -> list[Check]:
    """Run T1, T2, T3, T7 and the free-running replay on a recording; return every rate beside its threshold."""
    stream = kernel_stream(recording)
    buddy, counts = follow(recording, stream, ascending=False, merge_likely_to_tail=True)
    _, opposite = follow(recording, stream, ascending=True, merge_likely_to_tail=True)
    _, ablated = follow(recording, stream, ascending=False, merge_likely_to_tail=False)
    free_buddy, free_counts = run_free(recording, stream, ascending=False)
    known = _rate(counts, Count.KNOWN_RIGHT, Count.KNOWN)
    all_rate = _rate(counts, Count.FRAME_RIGHT, Count.REMOVALS)
    opposite_rate = _rate(opposite, Count.FRAME_RIGHT, Count.REMOVALS)
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
            _rate(counts, Count.LEARNED_RIGHT, Count.LEARNED),
            detail=f"n {counts[Count.LEARNED]:,}; not judged",
        ),
        Check(
            "claims",
            "frame foreseen, of claims of a pageblock or more",
            _rate(counts, Count.CLAIMS_RIGHT, Count.CLAIMS),
            detail=f"n {counts[Count.CLAIMS]:,}; not judged: they depend on the unknown first order of the lists",
        ),
        Check(
            "T3",
            "order of the block that is split foreseen",
            _rate(counts, Count.ORDER_RIGHT, Count.REMOVALS),
            0.999,
            detail=f"n {counts[Count.REMOVALS]:,}",
        ),
        Check(
            "T7",
            "T2 known with the tail rule switched off",
            _rate(ablated, Count.KNOWN_RIGHT, Count.KNOWN),
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
    return checks
