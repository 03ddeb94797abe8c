"""T1, T2, T3 and T7: a recording's zone followed one step ahead."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vckernels import replayfollow
from vckernels.buddy import Buddy
from vckernels.replay import COUNTS, Count, Stream
from vckernels.replayisolation import CompactionEvents
from vclab.memory import Zone
from vclab.recorded import snapshot_buddy, span
from vclab.recordings import BlockMap, Recording
from vclab.replay.bars import FEWEST_CLAIMS, Bars, bars_of
from vclab.replay.rates import Check, rate, share


def compaction_events(recording: Recording) -> CompactionEvents:
    """Return what compaction did as the kernels take it, frames counted from the zone's first; nothing if unknown."""
    known = recording.compaction
    if known is None:
        none, few = np.zeros(0, np.int64), np.zeros(0, np.uint8)
        return CompactionEvents(none, few, few, none, none, none, none)
    first = recording.first_frame
    return CompactionEvents(
        known.row, known.step, known.cpu, known.start - first, known.end - first, known.scanned, known.taken
    )


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
    # What the flags call one block is a compound page; nothing else in use is told apart.
    compound = np.zeros(span(recording), np.int8)
    compound[recording.allocated.frames - recording.first_frame] = recording.allocated.orders
    events = compaction_events(recording)
    cpus = int(max(stream.cpu.max(initial=0), events.cpu.max(initial=0))) + 1
    counts = np.zeros(COUNTS, np.int64)
    replayfollow.follow(buddy, stream, events, replayfollow.new_following(known, compound, cpus), counts)
    return buddy, {count: int(counts[count]) for count in Count}


def picture(recording: Recording, blocks: BlockMap) -> npt.NDArray[np.int8]:
    """Return each frame's free block, int8[frames]: -1 where nothing is free, else its order, 16 more at its first."""
    frames = np.full(span(recording), -1, np.int8)
    starts = blocks.frames - recording.first_frame
    sizes = 1 << blocks.orders.astype(np.int64)
    inside = np.repeat(starts - np.concatenate([[0], np.cumsum(sizes)[:-1]]), sizes) + np.arange(sizes.sum())
    frames[inside] = np.repeat(blocks.orders, sizes)
    # A block's first frame is marked, so that two halves differ from the whole.
    frames[starts] += 16
    return frames


def model_picture(recording: Recording, buddy: Buddy) -> npt.NDArray[np.int8]:
    """Return the same of a model's zone."""
    zone = Zone(recording.zone_name, recording.first_frame, span(recording), buddy)
    return picture(recording, BlockMap(*zone.blocks()))


def check_following(recording: Recording, stream: Stream) -> list[Check]:
    """Run T1, T2, T3 and T7, and judge fallbacks and compaction's walks."""
    bars = bars_of(recording)
    buddy, counts = follow(recording, stream, ascending=False, merge_likely_to_tail=True)
    _, opposite = follow(recording, stream, ascending=True, merge_likely_to_tail=True)
    _, ablated = follow(recording, stream, ascending=False, merge_likely_to_tail=False)
    return [
        *_check_map(recording, buddy, counts, bars),
        *_check_removals(counts, opposite, bars),
        share(
            "T7",
            "T2 known with the tail rule switched off",
            ablated,
            Count.KNOWN_RIGHT,
            Count.KNOWN,
            bars.without_tail_rule,
            at_most=True,
            detail=f"the rule is right only if it matters: {_missed(ablated):,} missed without it, {_missed(counts):,} "
            "with it; judged where at least one frame was handed out for each free one",
        ),
        *_check_fallbacks(counts, bars),
        *_check_walks(counts, bars),
    ]


def _missed(counts: dict[Count, int]) -> int:
    return counts[Count.KNOWN] - counts[Count.KNOWN_RIGHT]


def _check_map(recording: Recording, buddy: Buddy, counts: dict[Count, int], bars: Bars) -> list[Check]:
    if recording.free_after is None:
        return []
    model, real = model_picture(recording, buddy), picture(recording, recording.free_after)
    only_model = int(np.count_nonzero((model >= 0) & (real < 0)))
    only_real = int(np.count_nonzero((model < 0) & (real >= 0)))
    differing = int(np.count_nonzero(model != real))
    return [
        Check(
            "T1",
            "frames at the end that are free in the model or the recording alone",
            only_model + only_real,
            bars.frames,
            at_most=True,
            detail=f"{only_model} in the model, {only_real} in the recording, of {np.count_nonzero(real >= 0):,} free; "
            f"{differing} frames lie in blocks that differ; {counts[Count.WALKED_FRAMES]:,} frames isolated without an "
            f"event; resynchronised: {counts[Count.RESYNCHRONISATIONS]:,} recorded choices carried out, "
            f"{counts[Count.REMOVALS_SKIPPED]:,} removals of frames freed without an event, "
            f"{counts[Count.FREES_AGAIN]:,} frees of frames taken without one, {counts[Count.SET_ASIDE]:,} blocks "
            f"moved off lists that an event proves empty, {counts[Count.RETYPED]:,} types corrected, "
            f"{counts[Count.FREES_TO_COMPACTION]:,} frees to compaction",
            unit="frames",
        )
    ]


def _check_removals(counts: dict[Count, int], opposite: dict[Count, int], bars: Bars) -> list[Check]:
    unlearned = counts[Count.REMOVALS] - counts[Count.LEARNED]
    without = (counts[Count.FRAME_RIGHT] - counts[Count.LEARNED_RIGHT]) / max(1, unlearned)
    # A bar can be met only where blocks in unknown places leave room for it.
    room = bars.all_removals is not None and (
        counts[Count.REMOVALS] - counts[Count.KNOWN] <= (1 - bars.all_removals) * counts[Count.REMOVALS]
    )
    opposite_rate = rate(opposite, Count.FRAME_RIGHT, Count.REMOVALS)
    return [
        share(
            "T2 all",
            "next frame foreseen, of all removals",
            counts,
            Count.FRAME_RIGHT,
            Count.REMOVALS,
            bars.all_removals if room else None,
            detail=f"{counts[Count.REMOVALS] - counts[Count.KNOWN]:,} from blocks in unknown places, judged where the "
            f"bar leaves room for those; {bars.why}; without the {counts[Count.LEARNED]:,} learned ones "
            f"{without:.4%}; lists assumed highest frame first at the start, lowest first gives {opposite_rate:.4%}; "
            f"{counts[Count.AFTER_CLAIM]:,} removals after a claim below a pageblock counted apart",
        ),
        share(
            "T2 known",
            "next frame foreseen, of removals from blocks that the trace put on their list",
            counts,
            Count.KNOWN_RIGHT,
            Count.KNOWN,
            bars.known,
        ),
        share(
            "T2 learned",
            "next frame foreseen, of removals from first blocks whose pageblock's type a later event told",
            counts,
            Count.LEARNED_RIGHT,
            Count.LEARNED,
            None,
            detail="not judged",
        ),
        share(
            "T3",
            "order of the block that is split foreseen",
            counts,
            Count.ORDER_RIGHT,
            Count.REMOVALS,
            bars.order,
        ),
    ]


def _check_fallbacks(counts: dict[Count, int], bars: Bars) -> list[Check]:
    # Fewer than so many are too few for the bar: one wrong would miss it.
    enough = bars.claims is not None and (1 - bars.claims) * counts[Count.CLAIMS] >= 1
    small = counts[Count.CLAIMS_EMPTY_SMALL] >= FEWEST_CLAIMS
    return [
        share(
            "claims all",
            "kind, order and migratetype of fallbacks foreseen",
            counts,
            Count.CLAIMS_RIGHT,
            Count.CLAIMS,
            bars.claims if enough else None,
            detail=f"the very block {counts[Count.CLAIMS_FRAME_RIGHT]:,} times; "
            f"{counts[Count.CAPTURES]:,} captures apart",
        ),
        share(
            "claims",
            "kind, order and migratetype of fallbacks foreseen, where the model's own lists are empty too",
            counts,
            Count.CLAIMS_EMPTY_RIGHT,
            Count.CLAIMS_EMPTY,
            bars.claims_empty,
        ),
        share(
            "claims small",
            "of these, blocks smaller than a pageblock",
            counts,
            Count.CLAIMS_EMPTY_SMALL_RIGHT,
            Count.CLAIMS_EMPTY_SMALL,
            bars.claims_apart if small else None,
        ),
        share(
            "claims large",
            "of these, a pageblock or more: kind and order foreseen",
            counts,
            Count.CLAIMS_EMPTY_LARGE_ORDER,
            Count.CLAIMS_EMPTY_LARGE,
            bars.claims_apart,
        ),
    ]


def _check_walks(counts: dict[Count, int], bars: Bars) -> list[Check]:
    walks = counts[Count.WALKS] + counts[Count.WALKS_IDLE]
    if not walks:
        return []
    return [
        share(
            "walks",
            "walks of compaction's free scanner that take and look at as many frames as recorded",
            counts,
            Count.WALKS_RIGHT,
            Count.WALKS,
            bars.walks,
            detail=f"{counts[Count.WALKS_STRIDING]:,} of them with a stride above 1; "
            f"{counts[Count.FAST_ISOLATED]:,} frames taken by fast searches",
        ),
        share(
            "walks idle",
            "walks that took nothing that take nothing and look at as many frames as recorded",
            counts,
            Count.WALKS_IDLE_RIGHT,
            Count.WALKS_IDLE,
            bars.walks,
        ),
    ]
