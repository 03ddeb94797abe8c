"""Whole machines of every release in which everything happens in any order: no frame is lost, none is found twice."""

from __future__ import annotations

import contextlib
import random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import vclab
from tests.vclab.test_movable import MOVABLE, check
from vckernels.buddy import ALLOCATED, Migratetype
from vckernels.compaction import CompactPriority, CompactResult
from vckernels.watermark import Limit, ZoneIndex
from vclab import GFP_ATOMIC, GFP_KERNEL, CompoundPage, OutOfMemory, presets
from vclab.allocator import FullMemory
from vclab.gfp import Gfp
from vclab.movable import MovablePages, PageMix
from vclab.usage import Use

CPUS = 3
FLAGS = [
    GFP_KERNEL,
    GFP_KERNEL | Gfp.NORETRY,
    GFP_KERNEL | Gfp.RETRY_MAYFAIL,
    GFP_KERNEL | Gfp.MOVABLE,
    GFP_KERNEL | Gfp.RECLAIMABLE,
    GFP_KERNEL | Gfp.DMA,
    GFP_ATOMIC,
    GFP_ATOMIC | Gfp.VFALLBACK,
    GFP_KERNEL | Gfp.VFALLBACK,
]


class EverythingAtOnce(RuleBasedStateMachine):
    """Requests of all kinds on three CPUs, compaction, reclaim, programs, drains: audited after each."""

    linux = "6.18"
    memory_size = "48MiB"

    @initialize(
        policy=st.sampled_from(
            [
                "physical",
                "late-fallback",
                "early-fallback",
                "min-order",
                "always-virtual",
                "vmalloc",
                "huge-vmalloc",
            ]
        ),
        seed=st.integers(0, 1 << 16),
        swap=st.sampled_from(["0", "8MiB"]),
    )
    def boot(self, policy: str, seed: int, swap: str) -> None:
        """Boot a machine and fill most of it with pages of programs, until every request is near the low watermark."""
        self.rng = random.Random(seed)
        self.system = vclab.System(
            "k8", self.linux, self.memory_size, CPUS, policy, levels=4, seed=seed, allocator="full"
        )
        assert isinstance(self.system.memory, FullMemory)
        self.memory = self.system.memory
        self.pages: list[CompoundPage] = []
        self.blocks: list[tuple[int, int]] = []
        self.boulders: list[tuple[int, int]] = []
        taken = []
        limits = [zone.limits() for zone in self.memory.zones]
        enough = 0
        for zone, marks in zip(self.memory.zones, limits, strict=True):
            least = int(marks[[Limit.LOW, Limit.RESERVE_NORMAL]].sum()) + 2048
            if zone.name == "DMA32" and zone is not self.memory.zone:
                # Large, and nearly full of what stays: whoever may not have normal frames finds little.
                while zone.free_frames > least:
                    self.boulders.append((zone.allocate(10, Migratetype.UNMOVABLE), 10))
                enough += zone.free_frames
            else:
                enough += int(marks[[Limit.HIGH, Limit.RESERVE_NORMAL, Limit.BOOST_MOST]].sum())
        while self.memory.free_frames > enough:
            self.memory.cpu = self.rng.randrange(CPUS)
            order = self.rng.choice((0, 0, 0, 0, 2, 4))
            frame = self.memory.allocate(order, MOVABLE)
            if frame < 0:
                break
            taken.append((frame, order))
        for frame, order in self.rng.sample(taken, len(taken) // 30):
            self.memory.cpu = self.rng.randrange(CPUS)
            self.memory.free(frame, order)
        # A larger zone would have a reserve for atomic requests.
        limits[-1][Limit.HIGHATOMIC_MOST] = 512 * (self.linux == "6.18")
        self.system.populate(PageMix(anonymous=0.5, active=0.3, dirty=0.2), swap)

    @property
    def movable(self) -> MovablePages:
        """The machine's movable pages."""
        assert self.system.movable is not None
        return self.system.movable

    @rule(order=st.integers(0, 10), flags=st.sampled_from(FLAGS), cpu=st.integers(0, CPUS - 1))
    def ask_for_a_page(self, order: int, flags: Gfp, cpu: int) -> None:
        """Let the policy serve a request."""
        self.memory.cpu = cpu
        with contextlib.suppress(OutOfMemory):
            self.pages.append(self.system.alloc_pages(order, flags))

    @rule(
        order=st.sampled_from([0, 0, 0, 1, 2, 3, 5, 9]),
        flags=st.sampled_from(FLAGS),
        count=st.sampled_from([1, 2, 70, 300, 1200]),
        cpu=st.integers(0, CPUS - 1),
    )
    def take_blocks(self, order: int, flags: Gfp, count: int, cpu: int) -> None:
        """Take several blocks at once, or none."""
        self.memory.cpu = cpu
        frames = self.memory.allocate_all(order, flags, max(1, count >> order))
        if frames is not None:
            assert len(np.unique(frames)) == len(frames)
            self.blocks += [(int(frame), order) for frame in frames]

    @precondition(lambda self: self.pages)
    @rule(cpu=st.integers(0, CPUS - 1), share=st.sampled_from([0.1, 0.5, 1.0]))
    def free_pages(self, cpu: int, share: float) -> None:
        """Give some pages back, on any CPU."""
        self.memory.cpu = cpu
        for page in self.rng.sample(self.pages, max(1, int(share * len(self.pages)))):
            self.system.free_pages(page)
            self.pages.remove(page)

    @precondition(lambda self: self.blocks)
    @rule(cpu=st.integers(0, CPUS - 1), share=st.sampled_from([0.05, 0.5, 1.0]))
    def free_blocks(self, cpu: int, share: float) -> None:
        """Give some blocks back, on any CPU."""
        self.memory.cpu = cpu
        self.rng.shuffle(self.blocks)
        for _ in range(max(1, int(share * len(self.blocks)))):
            self.memory.free(*self.blocks.pop())

    @rule(count=st.sampled_from([5, 200]), write=st.booleans(), cpu=st.integers(0, CPUS - 1))
    def use(self, count: int, write: bool, cpu: int) -> None:
        """Let programs use pages; some come back."""
        self.memory.cpu = cpu
        numbers = self.rng.choices(range(self.movable.region.used), k=count)
        use = self.system.use_pages(np.array(numbers), write)
        assert sum(use) == count

    @staticmethod
    def answers(
        system: vclab.System, order: int, flags: Gfp, cpu: int, numbers: npt.NDArray[np.int64]
    ) -> tuple[list[int], list[int], Use, int, list[int]]:
        """Return what becomes of a machine that is asked for a page, uses some, reclaims others; and all it counts."""
        system.memory.cpu = cpu
        before = set(system.compound.pages)
        with contextlib.suppress(OutOfMemory):
            system.alloc_pages(order, flags)
        pages = [page for address, page in system.compound.pages.items() if address not in before]
        use = system.use_pages(numbers)
        assert system.movable is not None
        reclaimed = system.movable.reclaim(0, int(ZoneIndex.NORMAL))
        frames = [int(frame) for page in pages for frame in page.frames]
        return [page.address for page in pages], frames, use, reclaimed, system.ledger.counts.tolist()

    @rule(order=st.integers(0, 10), flags=st.sampled_from(FLAGS), cpu=st.integers(0, CPUS - 1))
    def copy(self, order: int, flags: Gfp, cpu: int) -> None:
        """Go on with a copy; it answers as the original does, and neither hears of the other."""
        original, twin = self.system, self.system.copy()
        numbers = np.array(self.rng.choices(range(self.movable.region.used), k=20))
        addresses = [page.address for page in self.pages]
        answers = self.answers(twin, order, flags, cpu, numbers)
        assert answers == self.answers(original, order, flags, cpu, numbers)
        for one, other in zip(twin.memory.zones, original.memory.zones, strict=True):
            for name, values in one.buddy._asdict().items():
                np.testing.assert_array_equal(values, getattr(other.buddy, name), name)
            np.testing.assert_array_equal(one.limits(), other.limits())
        assert isinstance(twin.memory, FullMemory)
        self.system, self.memory = twin, twin.memory
        self.pages = [twin.compound.pages[address] for address in addresses + answers[0]]

    @rule(count=st.sampled_from([1, 50]))
    def programs_end(self, count: int) -> None:
        """Give programs' pages back, and what reclaim keeps of them."""
        owners = self.rng.choices(range(self.movable.region.used), k=count)
        local = self.movable.frames() - self.movable.zone.first_frame
        there = int(np.isin(self.movable.pages.owner[local], owners).sum())
        assert self.system.end_pages(owners) == there
        assert self.system.end_pages(owners) == 0
        use = self.system.use_pages(owners)
        # Others hold part of a large page still.
        assert use.refaults == use.unserved == 0

    @rule(count=st.sampled_from([1, 40]), order=st.sampled_from([0, 0, 3]), cpu=st.integers(0, CPUS - 1))
    def programs_grow(self, count: int, order: int, cpu: int) -> None:
        """Let programs have what was asked for as movable."""
        self.memory.cpu = cpu
        mine = np.zeros(self.memory.zone.frames, np.bool_)
        held = np.array([frame for frame, _ in self.blocks], np.int64) - self.memory.zone.first_frame
        mine[held[held >= 0]] = True
        for _ in range(count):
            if self.memory.allocate(order, MOVABLE) < 0:
                break
        with contextlib.suppress(OutOfMemory):
            self.movable.adopt_all(mine | self.system._owned(), PageMix(), np.random.default_rng(0))

    @rule(cpu=st.integers(-1, CPUS - 1))
    def drain(self, cpu: int) -> None:
        """Empty all CPUs' lists."""
        del cpu
        self.memory.drain()
        assert not self.memory.per_cpu_frames.any()

    @rule(force=st.booleans(), kind=st.sampled_from([Migratetype.UNMOVABLE, Migratetype.MOVABLE]))
    def release_reserve(self, force: bool, kind: Migratetype) -> None:
        """Give a reserved pageblock back; 2.6.24's reserve is no such thing."""
        if self.movable.rules.compacts:
            self.memory.release_reserve(int(kind), force)

    @precondition(lambda self: self.movable.rules.compacts)
    @rule(proactiveness=st.sampled_from([0, 20, 90]))
    def compact(self, proactiveness: int) -> None:
        """Compact the zone."""
        self.system.compact(proactiveness)

    @precondition(lambda self: self.movable.rules.compacts)
    @rule(
        order=st.integers(1, 10),
        kind=st.sampled_from([Migratetype.UNMOVABLE, Migratetype.MOVABLE, Migratetype.RECLAIMABLE]),
        priority=st.sampled_from(list(CompactPriority)),
    )
    def compact_for(self, order: int, kind: Migratetype, priority: CompactPriority) -> None:
        """Compact for a request; what it captures is held."""
        result = self.movable.compact(order, int(kind), priority, 0, int(ZoneIndex.NORMAL))
        if result is not CompactResult.DEFERRED and self.movable.captured >= 0:
            self.blocks.append((self.movable.captured, order))

    @rule(order=st.sampled_from([0, 0, 2, 4, 9]), kswapd=st.booleans())
    def reclaim(self, order: int, kswapd: bool) -> None:
        """Let a request, or kswapd, reclaim."""
        if kswapd:
            self.movable.balance(order, int(ZoneIndex.NORMAL))
        else:
            self.movable.reclaim(order, int(ZoneIndex.NORMAL))

    @invariant()
    def nothing_is_lost(self) -> None:
        """Audit the machine and the blocks that are held here."""
        if not hasattr(self, "system"):
            return
        self.system.audit()
        for zone in self.memory.zones:
            inside = [block for block in self.blocks if zone.first_frame <= block[0] < zone.first_frame + zone.frames]
            frames = np.array([frame - zone.first_frame for frame, _ in inside], np.int64)
            state = zone.buddy.state[frames]
            assert (state >= ALLOCATED).all()
            assert (state & 15).tolist() == [order for _, order in inside]

    def teardown(self) -> None:
        """Check that every page is reached, and that all that was taken can be given back."""
        if not hasattr(self, "system"):
            return
        check(self.system)
        for block in self.blocks + self.boulders:
            self.memory.free(*block)
        for page in self.pages:
            self.system.free_pages(page)
        self.movable.release(self.movable.frames())
        self.memory.drain()
        self.system.audit()


@pytest.mark.parametrize("linux", presets.linux_names())
@pytest.mark.parametrize(("memory", "examples"), [("48MiB", 6), ("4128MiB", 2)], ids=["no normal zone", "normal zone"])
def test_whatever_happens_in_whatever_order_nothing_is_lost(linux: str, memory: str, examples: int) -> None:
    machine = type(f"Under{linux}", (EverythingAtOnce,), {"linux": linux, "memory_size": memory})
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=40))
