"""A kernel zone and the plain one side by side: every call goes to both, and they are compared to the last block."""

from __future__ import annotations

import random

import numpy as np

from tests.oracles.buddy import NORMAL, PlainBuddy
from tests.oracles.buddy_2007 import PlainBuddy2623, PlainBuddy2624
from vckernels import buddy as kernels
from vckernels import claim
from vckernels.buddy import INSIDE, MAX_ORDER, ORDERS, PAGEBLOCK_FRAMES, TYPES, Buddy
from vckernels.causes import Cause, Status
from vckernels.rules import new_options, options_2_6_23, options_2_6_24

EVENTS = (
    Cause.ALLOCATION,
    Cause.ALLOCATION_FAILURE,
    Cause.FREE,
    Cause.SPLIT,
    Cause.MERGE,
    Cause.CLAIM_BLOCK,
    Cause.CLAIM_PAGEBLOCK,
    Cause.CLAIM_REFUSED,
    Cause.CLAIM_MOVED_FRAMES,
    Cause.STEAL,
    Cause.RESERVE_BLOCK,
)
#: Options of each release, and the plain zone that goes by its rules.
RELEASES = {
    "6.18": (new_options, PlainBuddy),
    "2.6.24": (options_2_6_24, PlainBuddy2624),
    "2.6.23": (options_2_6_23, PlainBuddy2623),
}


def read_list(zone: Buddy, order: int, migratetype: int) -> list[int]:
    """Return the first frames of one free list, head first."""
    blocks = np.empty(zone.free_blocks[order, migratetype], np.int64)
    kernels.read_list(zone, order, migratetype, blocks)
    return [int(block) for block in blocks]


def whole_blocks(frames: int, holes: range = range(0)) -> list[tuple[int, int]]:
    """Return (first frame, order) of the largest aligned blocks that tile a zone, from its start, without holes."""
    blocks = []
    at = 0
    while at < frames:
        if at in holes:
            at = holes.stop
            continue
        end = holes.start if at < holes.start else frames
        order = next(o for o in range(MAX_ORDER, -1, -1) if at % (1 << o) == 0 and at + (1 << o) <= end)
        blocks.append((at, order))
        at += 1 << order
    return blocks


class Pair:
    """One zone twice; :meth:`check` compares them."""

    def __init__(
        self,
        frames: int,
        types: dict[int, int] | None = None,
        tail_rule: bool = True,
        holes: range = range(0),
        boot_to_tail: bool = True,
        release: str = "6.18",
        lists: int = 0,
    ) -> None:
        options, plain = RELEASES[release]
        kind = kernels.Migratetype.UNMOVABLE if release == "2.6.23" else kernels.Migratetype.MOVABLE
        if release == "6.18":
            self.kernel = kernels.new_buddy(frames, kind, tail_rule, lists)
        else:
            self.kernel = kernels.new_buddy(frames, kind, lists=lists, options=options())
        self.plain = plain(frames, int(kind), tail_rule)
        for block, kind in (types or {}).items():
            self.kernel.pageblock[block] = self.plain.types[block] = kind
        blocks = whole_blocks(frames, holes)
        firsts = np.array([frame for frame, _ in blocks], np.int64)
        orders = np.array([order for _, order in blocks], np.int8)
        assert kernels.free_at_boot(self.kernel, firsts, orders, boot_to_tail) == Status.OK
        for frame, order in blocks:
            # A block of two pageblocks of different types could not have come about; the first one's type counts.
            for part in range(frame, frame + (1 << order), PAGEBLOCK_FRAMES):
                kind = self.plain.type_of(frame)
                self.kernel.pageblock[part // PAGEBLOCK_FRAMES] = self.plain.types[part // PAGEBLOCK_FRAMES] = kind
            self.plain.insert(frame, order, self.plain.type_of(frame), tail=boot_to_tail)
        self.counters_at_boot = self.kernel.counters.copy()

    @property
    def live(self) -> list[int]:
        """First frames of allocated blocks, in the order of their allocation."""
        return list(self.plain.allocated)

    def allocate(self, order: int, migratetype: int, flags: int = 0, mode: int = NORMAL) -> tuple[int, int]:
        """Serve one request in both; return (frame or -1, mode)."""
        # Numba takes long to find the type of an enumeration's member, and this is called very often.
        got = claim.allocate(self.kernel, order, int(migratetype), flags, mode)
        assert tuple(got) == self.plain.allocate(order, migratetype, bool(flags & claim.NOFRAGMENT), mode)
        return int(got[0]), int(got[1])

    def take(self, order: int, migratetype: int) -> int:
        """Serve one plain request, which must succeed."""
        frame, _ = self.allocate(order, migratetype)
        assert frame >= 0
        return frame

    def allocate_all(self, order: int, migratetype: int, count: int) -> list[int] | None:
        """Take several blocks or none, in both."""
        frames = np.full(count, -7, np.int64)
        status = claim.allocate_all(self.kernel, order, migratetype, frames)
        expected = self.plain.allocate_all(order, migratetype, count)
        if expected is None:
            assert status == Status.NO_MEMORY
            return None
        assert status == Status.OK
        assert frames.tolist() == expected
        return expected

    def allocate_many(self, orders: list[int], migratetypes: list[int]) -> list[int]:
        """Serve requests each on its own; those without sense get -1."""
        frames = np.full(len(orders), -7, np.int64)
        served = claim.allocate_many(self.kernel, np.array(orders, np.int8), np.array(migratetypes, np.int8), frames)
        expected = [
            self.plain.allocate(order, kind)[0] if 0 <= order <= MAX_ORDER and 0 <= kind <= 2 else -1
            for order, kind in zip(orders, migratetypes, strict=True)
        ]
        assert frames.tolist() == expected
        assert served == sum(frame >= 0 for frame in expected)
        return expected

    def free(self, frames: list[int], orders: list[int]) -> list[str]:
        """Free blocks in both, right or wrong; return the names of the statuses."""
        statuses = np.full(len(frames), 99, np.int8)
        if len(frames) == 1:
            statuses[0] = claim.free_one(self.kernel, frames[0], orders[0])
            freed = int(statuses[0] == Status.OK)
        else:
            freed = claim.free_many(self.kernel, np.array(frames, np.int64), np.array(orders, np.int8), statuses)
        expected = [self.plain.give_back(frame, order) for frame, order in zip(frames, orders, strict=True)]
        assert [Status(status).name for status in statuses.tolist()] == expected
        assert freed == expected.count("OK")
        return expected

    def free_live(self, frame: int) -> None:
        """Free an allocated block."""
        assert self.free([frame], [self.plain.allocated[frame][0]]) == ["OK"]

    def take_at(self, frame: int, order: int, migratetype: int) -> str:
        """Allocate one named block in both; return the status' name."""
        status = Status(kernels.take_at(self.kernel, frame, order, int(migratetype))).name
        assert status == self.plain.take_at(frame, order, migratetype)
        return status

    def retype(self, block: int, migratetype: int) -> int:
        """Move a pageblock's free blocks to another type, as isolation and claiming do."""
        moved = claim.move_free_blocks(self.kernel, block * PAGEBLOCK_FRAMES, migratetype)
        assert moved == self.plain.retype(block, migratetype)
        return int(moved)

    def blocks(self, order: int, migratetype: int) -> list[int]:
        """Return one free list, head first, the same in both."""
        blocks = read_list(self.kernel, order, migratetype)
        assert blocks == list(self.plain.lists[order, migratetype])
        return blocks

    def types(self) -> list[int]:
        """Return the type of each pageblock, the same in both."""
        assert self.kernel.pageblock.tolist() == self.plain.types
        return self.plain.types

    def events(self, cause: Cause) -> int:
        """Return how often something happened since boot, the same in both."""
        count = int(self.kernel.counters[cause] - self.counters_at_boot[cause])
        assert count == self.plain.events[cause.name]
        return count

    def check(self) -> None:
        """Compare all free lists in order, types, allocated blocks and counters; audit the kernel's zone."""
        lengths = np.array([[len(self.plain.lists[o, t]) for t in range(TYPES)] for o in range(ORDERS)])
        np.testing.assert_array_equal(self.kernel.free_blocks, lengths)
        for order, migratetype in np.argwhere(lengths).tolist():
            self.blocks(order, migratetype)
        self.types()
        for (order, kind), frames in self.plain.lists.items():
            assert all(kernels.list_type(self.kernel, frame) == kind for frame in frames), order
        # First frames of blocks: a free block's order, or 32 + 16 * migratetype + order.
        states = np.full(len(self.kernel.state), INSIDE)
        states[list(self.plain.free)] = list(self.plain.free.values())
        states[self.live] = [32 + 16 * kind + order for order, kind in self.plain.allocated.values()]
        firsts = self.kernel.state >= 0
        np.testing.assert_array_equal(np.where(firsts, self.kernel.state, INSIDE), states)
        for cause in EVENTS:
            self.events(cause)
        assert claim.audit(self.kernel, np.zeros((ORDERS, TYPES), np.int64)) == 0
        assert kernels.free_frames(self.kernel) == sum(1 << order for order in self.plain.free.values())


def random_step(pair: Pair, rng: random.Random, fullness: float = 0.5) -> None:
    """Do one random thing to both zones: allocate more often than free while less than ``fullness`` is used."""
    free = sum(1 << order for order in pair.plain.free.values())
    used = 1 - free / pair.plain.frames
    if pair.live and rng.random() < (0.35 if used < fullness else 0.65):
        pair.free_live(rng.choice(pair.live))
        return
    order = min(int(rng.expovariate(0.7)), MAX_ORDER)
    flags = claim.NOFRAGMENT if rng.random() < 0.05 else 0
    pair.allocate(order, rng.choice((0, 0, 1, 1, 1, 2)), flags, rng.choice((0, 0, 0, 0, 1, 2)))
