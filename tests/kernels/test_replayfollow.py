"""A recorded zone followed: the kernel beside the plain one, and traces of the model, in which all is foreseen."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.test_replaylists import as_stream
from tests.kernels.zones import read_list
from tests.oracles.replayfollow import PlainFollowing, Row, Step
from vckernels import buddy as kernels
from vckernels import claim
from vckernels.buddy import INSIDE, ISOLATED, ORDERS, TYPES, Buddy
from vckernels.causes import Status
from vckernels.replay import COUNTS, UNKNOWN_TYPE, Count, learn_types
from vckernels.replayfollow import Following, follow, new_following
from vckernels.replayisolation import CompactionEvents

FRAMES = 4 * 1024
PAGEBLOCKS = FRAMES // 512
CPUS = 2
FREE, REMOVE, DRAIN, FALLBACK = 1, 3, 4, 5
BEGIN, END, USED, WALK, FAST, MIGRATED = 6, 7, 8, 9, 10, 11
Blocks = list[tuple[int, int]]


def as_events(steps: list[Step]) -> CompactionEvents:
    kinds = (np.int64, np.uint8, np.uint8, np.int64, np.int64, np.int64, np.int64)
    return CompactionEvents(*(np.array([step[at] for step in steps], kind) for at, kind in enumerate(kinds)))


def kernel_zone(blocks: Blocks, types: list[int], tail: bool = True) -> Buddy:
    zone = kernels.new_buddy(FRAMES, merge_likely_to_tail=tail)
    zone.state[:] = INSIDE
    zone.pageblock[:] = types
    frames = np.array([frame for frame, _ in blocks], np.int64)
    orders = np.array([order for _, order in blocks], np.int8)
    assert kernels.free_at_boot(zone, frames, orders, False) == Status.OK
    return zone


def run(
    rows: list[Row],
    steps: list[Step],
    blocks: Blocks,
    types: list[int] | None = None,
    compound: dict[int, int] | None = None,
    tail: bool = True,
) -> tuple[dict[str, int], Buddy]:
    """Follow with both, compare all, and return the counts that are not 0 and the kernel's zone."""
    types = types or [1] * PAGEBLOCKS
    plain = PlainFollowing(FRAMES, blocks, types, compound or {}, tail)
    plain.follow(rows, steps)
    zone = kernel_zone(blocks, types, tail)
    known = np.ones(FRAMES, np.int8)
    known[[frame for frame, _ in blocks]] = 0
    compounds = np.zeros(FRAMES, np.int8)
    for frame, order in (compound or {}).items():
        compounds[frame] = order
    counts = np.zeros(COUNTS, np.int64)
    following = new_following(known, compounds, CPUS)
    follow(zone, as_stream(rows), as_events(steps), following, counts)
    found = {count.name: int(counts[count]) for count in Count if counts[count]}
    assert found == {name: count for name, count in plain.seen.items() if count}
    compare(zone, following, plain)
    return found, zone


def compare(zone: Buddy, following: Following, plain: PlainFollowing) -> None:
    assert zone.pageblock.tolist() == plain.types
    for order in range(ORDERS):
        for kind in range(TYPES):
            assert read_list(zone, order, kind) == list(plain.lists[order, kind]), (order, kind)
    assert {int(f): int(zone.state[f]) for f in np.flatnonzero(zone.state >= 0)} == plain.free
    assert set(np.flatnonzero(zone.state == ISOLATED).tolist()) == plain.isolated
    heads = np.array(sorted(plain.free), np.int64)
    assert set(heads[following.first_known[heads] == 0].tolist()) == plain.unknown
    used = np.flatnonzero(zone.state < 0)
    assert {int(f): int(following.compound[f]) for f in used if following.compound[f]} == {
        frame: order for frame, order in plain.compound.items() if zone.state[frame] < 0
    }
    # Blocks as first snapped may lie beside each other unmerged; nothing else may be wrong.
    assert claim_audit(zone) in (0, 5)


def claim_audit(zone: Buddy) -> int:
    whole = zone.state.copy()
    for frame in np.flatnonzero(whole >= 0):
        whole[frame + 1 : frame + (1 << int(whole[frame]))] = INSIDE
    free = np.zeros(FRAMES, bool)
    for frame in np.flatnonzero(whole >= 0):
        free[frame : frame + (1 << int(whole[frame]))] = True
    checked = zone._replace(state=np.where(free, whole, kernels.HOLE).astype(np.int8))
    return int(claim.audit(checked, np.zeros((ORDERS, TYPES), np.int64)))


def snapshot_of(rng: random.Random) -> tuple[Blocks, list[int], dict[int, int]]:
    """Return free blocks in any order of their lists, pageblocks' types, and compound pages between the blocks."""
    types = [rng.choice((0, 1, 1, 1, 2, 3)) for _ in range(PAGEBLOCKS)]
    blocks, compound = [], {}
    at = 0
    while at < FRAMES:
        order = rng.choice([o for o in (0, 0, 1, 2, 4, 7, 8, 9, 10) if at % (1 << o) == 0])
        if rng.random() < 0.6 and (order < 10 or types[at // 512] == types[at // 512 + 1]):
            blocks.append((at, order))
        elif order and rng.random() < 0.5:
            compound[at] = order
        at += 1 << order
    rng.shuffle(blocks)
    return blocks, types, compound


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Row], list[Step]]:
    """Events without regard to each other: a replay has to stand whatever it is given."""
    rows: list[Row] = []
    steps: list[Step] = []
    places = st.integers(0, FRAMES - 1)
    for _ in range(draw(st.integers(0, 60))):
        order = draw(st.sampled_from((0, 0, 0, 1, 2, 4, 8, 9, 10)))
        kind, cpu = draw(st.integers(0, 2)), draw(st.integers(0, CPUS - 1))
        frame = draw(places) & -(1 << order)
        what = draw(st.sampled_from((FREE, FREE, DRAIN, REMOVE, REMOVE, REMOVE, FALLBACK, "claim", "step", "step")))
        if what == "step":
            start = draw(places)
            length = draw(st.integers(0, min(600, FRAMES - start)))
            step = draw(st.sampled_from((BEGIN, END, USED, WALK, WALK, WALK, FAST, MIGRATED)))
            scanned, taken = draw(st.integers(0, length)), draw(st.integers(0, 3))
            steps.append((len(rows), step, cpu, start, start + length, scanned, taken))
            continue
        if what in (FALLBACK, "claim"):
            extra = draw(st.integers(0, 10)) | draw(st.integers(0, 2)) << 4 | draw(st.integers(0, 1)) << 8
            if what == "claim":
                rows.append((REMOVE, order, kind, cpu, frame, 1))
            rows.append((FALLBACK, order, kind, cpu, frame, extra))
        else:
            rows.append((what, order, kind, cpu, frame, 0))
    return rows, steps


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32), histories(), st.booleans())
def test_kernel_and_plain_zone_agree(seed: int, history: tuple[list[Row], list[Step]], tail: bool) -> None:
    run(*history, *snapshot_of(random.Random(seed)), tail)


# Traces of the model itself: nothing is unknown, so everything is foreseen


class Traced(PlainFollowing):
    """A plain zone that writes down what it does, as the kernel would."""

    def __init__(self, blocks: Blocks, types: list[int], compound: dict[int, int], rng: random.Random) -> None:
        super().__init__(FRAMES, blocks, types, compound, True)
        self.rng = rng
        self.rows: list[Row] = []
        self.steps: list[Step] = []
        self.held: list[tuple[int, int]] = []

    def request(self, order: int, kind: int) -> None:
        """Serve a request, tracing a removal, a claim or a steal."""
        service, high, other = self.plan(order, kind)
        if service == "nothing":
            return
        if service == "steal":
            frame = self.steal(order, kind)
        else:
            frame, _ = self.allocate(order, kind)
        assert frame is not None and frame >= 0
        del self.allocated[frame]
        if service == "own" or (service == "claim" and high < 9):
            self.rows.append((REMOVE, order, kind, 0, frame, 1))
        if service != "own":
            self.rows.append((FALLBACK, order, kind, 0, frame, high | other << 4 | (service == "claim") << 8))
        self.held.append((frame, order))

    def claim_pageblock(self, block: int, kind: int, other: int) -> bool:
        """Claim in any case: what is used is nobody's here, so that nothing can be counted."""
        assert kind != other
        self.retype(block, kind)
        return True

    def release(self) -> None:
        """Free something held."""
        frame, order = self.held.pop(self.rng.randrange(len(self.held)))
        self.rows.append((FREE if 4 <= order <= 8 else DRAIN, order, self.type_of(frame), 1, frame, 0))
        step = 1 << min(order, 9)
        for part in range(frame, frame + (1 << order), step):
            self.merge(part, min(order, 9))

    def compaction_walk(self) -> None:
        """Walk a pageblock until enough is taken, then give it all back, unused."""
        block = self.rng.randrange(PAGEBLOCKS)
        start, stop = 512 * block, 512 * (block + 1)
        stride = self.rng.choice((1, 1, 2, 8, 32))
        at, scanned, taken, wanted = start, 0, [], self.rng.randrange(1, 80)
        while at < stop and sum(1 << order for _, order in taken) < wanted:
            size = 1
            if at in self.free:
                taken.append((at, self.free[at]))
                size = 1 << self.free[at]
                self.isolate(at)
            elif at + (1 << self.compound.get(at, 0)) <= stop:
                size = 1 << self.compound.get(at, 0)
            scanned += size
            at += size - 1 + stride
        if taken and sum(1 << order for _, order in taken) >= wanted:
            at -= stride - 1
        end = min(at, stop)
        frames = sum(1 << order for _, order in taken)
        self.steps.append((len(self.rows), USED, 1, 0, 0, 0, 0))
        self.steps.append((len(self.rows), WALK, 1, start, end, scanned, frames))
        self.steps.append((len(self.rows), MIGRATED, 1, 0, 0, 0, 0))
        self.held += taken
        self.isolated.clear()
        self.steps.append((len(self.rows), END, 1, 0, FRAMES, 0, 0))


def test_traces_of_the_model_are_foreseen_whole() -> None:
    found = sum((Counter(follow_own_trace(seed)) for seed in range(30)), Counter())
    assert found["CLAIMS"] > 60 and found["REMOVALS"] > 10_000 and found["WALKS"] > 300
    assert found["AFTER_CLAIM"] > 20 and found["WALKS_STRIDING"] > 100


def follow_own_trace(seed: int) -> dict[str, int]:
    rng = random.Random(seed)
    types = [rng.choice((0, 1, 1, 1, 2)) for _ in range(PAGEBLOCKS)]
    blocks = [(512 * block, 9) for block in range(PAGEBLOCKS) if rng.random() < 0.8]
    # Two free buddies would be one block.
    blocks = [(frame, 9) for frame, _ in blocks if frame % 1024 == 0 or (frame - 512, 9) not in blocks]
    compound = {512 * b: 9 for b in range(PAGEBLOCKS) if (512 * b, 9) not in blocks and rng.random() < 0.5}
    traced = Traced(blocks, types, compound, rng)
    for _ in range(900):
        chance = rng.random()
        if chance < 0.03:
            traced.compaction_walk()
        elif chance < 0.55 or not traced.held:
            traced.request(min(int(rng.expovariate(0.8)), 9), rng.choice((0, 1, 1, 2)))
        else:
            traced.release()
    found, zone = run(traced.rows, traced.steps, blocks, types, compound)
    for part, whole in (
        ("FRAME_RIGHT", "REMOVALS"), ("ORDER_RIGHT", "REMOVALS"), ("KNOWN_RIGHT", "KNOWN"),
        ("CLAIMS_RIGHT", "CLAIMS"), ("CLAIMS_FRAME_RIGHT", "CLAIMS"), ("AFTER_CLAIM_RIGHT", "AFTER_CLAIM"),
        ("WALKS_RIGHT", "WALKS"), ("WALKS_IDLE_RIGHT", "WALKS_IDLE"),
    ):  # fmt: skip
        assert found.get(part, 0) == found.get(whole, 0), part
    assert not {"RESYNCHRONISATIONS", "REMOVALS_SKIPPED", "FREES_AGAIN"} & found.keys()
    for order in range(ORDERS):
        for kind in range(TYPES):
            assert read_list(zone, order, kind) == list(traced.lists[order, kind])
    return found


# The rules one by one


def test_a_free_of_free_frames_puts_them_where_a_free_does() -> None:
    """They were taken without an event: the model still has them as first snapped, inside a larger block."""
    found, zone = run([(DRAIN, 0, 1, 0, 3, 0)], [], [(0, 2), (8, 0)])
    assert found == {"FREES": 1, "FREES_AGAIN": 1}
    assert read_list(zone, 2, 1) == [0]
    found, zone = run([(DRAIN, 0, 1, 0, 8, 0), (REMOVE, 0, 1, 0, 8, 1)], [], [(8, 0), (20, 0), (30, 0)])
    assert found["KNOWN_RIGHT"] == 1


def test_a_removal_of_frames_in_part_free_takes_that_part() -> None:
    found, zone = run([(REMOVE, 2, 1, 0, 0, 1)], [], [(1, 0), (2, 1)])
    assert found == {"REMOVALS_SKIPPED": 1} and not zone.free_blocks.any()


def test_a_block_is_captured_as_its_last_frame_is_freed() -> None:
    parts = [(512 + (1 << order), order) for order in range(9)]
    rows: list[Row] = [(FALLBACK, 9, 1, 1, 512, 9 | 2 << 4), (DRAIN, 0, 2, 1, 512, 0), (DRAIN, 0, 1, 1, 0, 0)]
    found, zone = run(rows, [], parts, types=[1, 2, *[1] * (PAGEBLOCKS - 2)])
    assert found == {"FREES": 2, "CAPTURES": 1}
    assert zone.free_blocks.sum() == 1 and read_list(zone, 0, 1) == [0]


def test_targets_that_go_back_to_compaction_stay_isolated_until_it_ends() -> None:
    steps: list[Step] = [(0, USED, 1, 0, 0, 0, 0), (0, WALK, 1, 0, 512, 512, 32), (1, MIGRATED, 1, 0, 0, 0, 0)]
    back = (FREE, 4, -1, 1, 16, 0)
    found, _ = run([back], steps, [(0, 4), (16, 4)])
    assert found == {"FREES_TO_COMPACTION": 1, "WALKS": 1, "WALKS_RIGHT": 1, "WALKED_FRAMES": 32}
    found, zone = run([back, back], [*steps, (1, END, 1, 0, FRAMES, 0, 0)], [(0, 4), (16, 4)])
    assert found["FREES"] == 1 and read_list(zone, 4, 1) == [16]
    assert not (zone.state == ISOLATED).any()


def test_half_a_pageblock_makes_the_whole_movable() -> None:
    blocks = [(512, 8), (512 + 256, 2), (512 + 300, 1)]
    found, zone = run([], [(0, WALK, 0, 512, 768, 256, 256)], blocks, types=[0] * PAGEBLOCKS)
    assert found["WALKS_RIGHT"] == 1 and zone.pageblock.tolist() == [0, 1, *[0] * (PAGEBLOCKS - 2)]
    assert (read_list(zone, 2, 1), read_list(zone, 1, 1)) == ([768], [812])


def test_the_stride_is_told_by_what_was_looked_at() -> None:
    blocks = [(32, 0), (33, 0), (64, 3), (130, 0)]
    for stride, scanned, taken in ((32, 16 + 6, 9), (16, 32 + 6, 9), (2, 255 + 4, 10)):
        found, _ = run([], [(0, WALK, 0, 0, 512, scanned, taken)], blocks)
        assert ("WALKS_RIGHT" in found) == (found.get("WALKED_FRAMES") == taken), stride
    # A compound page is passed over whole and counted, so that the walk goes on at odd frames.
    found, zone = run([], [(0, WALK, 0, 0, 512, 258, 1)], [(124, 0), (127, 0)], compound={8: 2})
    assert found["WALKS_RIGHT"] == 1 and read_list(zone, 0, 1) == [124]


def test_a_list_that_an_event_proves_empty_is_cleared() -> None:
    """A pageblock that no event has named a type for was taken for movable; splitting past its block tells better."""
    blocks = [(0, 0), (512, 4), (1024, 9), (1536, 0)]
    split: Row = (REMOVE, 0, 1, 0, 512, 1)
    found, zone = run([split], [], blocks)
    assert found["SET_ASIDE"] == 2 and found["RESYNCHRONISATIONS"] == 1
    assert zone.pageblock[:4].tolist() == [4, 1, 1, 4] and read_list(zone, 0, 4) == [1536, 0]
    # The pageblock's type is told later: the block is back, in a place that nobody knows.
    found, zone = run([split, (DRAIN, 0, 0, 0, 3, 0), (REMOVE, 0, 0, 0, 0, 1)], [], blocks)
    assert found["RETYPED"] == 1 and found["LEARNED"] == 1 and zone.pageblock[0] == 0
    # One whose type an event has named is on its list in the model's view, and stays.
    found, zone = run([(DRAIN, 0, 1, 0, 3, 0), (DRAIN, 0, 1, 0, 1539, 0), split], [], blocks)
    assert "SET_ASIDE" not in found


def test_a_fallback_proves_the_lists_before_it_empty() -> None:
    """Own lists, those of higher orders, and at its order those of types that come before."""
    types = [0, 0, 2, 2, 1, 1, 1, 1]
    blocks = [(0, 10), (1024, 9), (2048, 10), (3072, 10)]
    claim_movable: Row = (FALLBACK, 0, 2, 0, 2048, 10 | 1 << 4 | 1 << 8)
    found, zone = run([claim_movable], [], blocks, types)
    # Reclaimable requests look at unmovable blocks before movable ones: page reporting had made those movable.
    assert found["CLAIMS"] == 1 and found["SET_ASIDE"] == 2 and "CLAIMS_RIGHT" not in found
    assert zone.pageblock.tolist() == [1, 1, 1, 2, 2, 2, 1, 1]
    steal: Row = (FALLBACK, 0, 0, 0, 2048, 3 | 1 << 4)
    found, zone = run([steal], [], [(0, 1), (512, 2), (2048, 3)], [0, 2, 0, 0, 1, 1, 1, 1])
    assert found["SET_ASIDE"] == 2 and zone.pageblock[:5].tolist() == [4, 4, 0, 0, 1]


def test_a_stolen_blocks_rest_stays_on_the_list_that_the_event_names() -> None:
    _, zone = run([(FALLBACK, 0, 0, 0, 2048, 3 | 2 << 4)], [], [(2048, 3)])
    assert zone.pageblock[4] == 2 and read_list(zone, 2, 2) == [2052]


def test_types_are_learned_from_the_first_event_that_tells() -> None:
    rows: list[Row] = [
        (FREE, 0, -1, 0, 0, 0), (DRAIN, 0, 2, 0, 1, 0), (REMOVE, 0, 0, 0, 2, 1),  # pageblock 0
        (REMOVE, 0, 0, 0, 512, 1), (FALLBACK, 0, 0, 0, 512, 8 | 1 << 4 | 1 << 8),  # 1: claimed, it was movable
        (FALLBACK, 9, 0, 0, 1024, 9 | 2 << 4 | 1 << 8),  # 2: claimed whole
    ]  # fmt: skip
    types = np.empty(PAGEBLOCKS, np.int8)
    learn_types(as_stream(rows), types)
    assert types.tolist() == [2, 1, 2, *[UNKNOWN_TYPE] * (PAGEBLOCKS - 3)]
