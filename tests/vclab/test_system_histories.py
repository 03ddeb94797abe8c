"""Any sequence of calls on a small machine: after each one every page is where the allocator put it."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import vclab
from tests.vclab.machines import (
    check_memory,
    check_page,
    everything,
    free_blocks,
    free_frames,
    merged,
    observable,
)
from vclab import GFP_KERNEL, GFP_VFALLBACK, CompoundPage, Gfp, OutOfMemory, System

#: CPU, levels and direct map page size that go together.
PAGINGS = [
    ("zen3", 4, "4K"),
    ("zen3", 4, "2M"),
    ("zen3", 4, "1G"),
    ("ice-lake", 4, "2M"),
    ("ice-lake", 5, "4K"),
    ("ice-lake", 5, "2M"),
    ("ice-lake", 5, "1G"),
    ("k8", 4, "4K"),
    ("k8", 4, "2M"),
]
FLAGS = [GFP_KERNEL, GFP_KERNEL | GFP_VFALLBACK, GFP_VFALLBACK | Gfp.MOVABLE, Gfp.RECLAIMABLE]


class Histories(RuleBasedStateMachine):
    """Requests, frees, streams, copies, ranges of others' frames, and memory running out in between."""

    @initialize(
        paging=st.sampled_from(PAGINGS),
        mebibytes=st.sampled_from([4, 16, 24, 64, 256]),
        policy=st.sampled_from(["physical", "early-fallback", "always-virtual", "vmalloc", "huge-vmalloc"]),
        cpus=st.integers(1, 2),
        flag_all=st.booleans(),
    )
    def boot(self, paging: tuple[str, int, str], mebibytes: int, policy: str, cpus: int, flag_all: bool) -> None:
        cpu, levels, direct_map = paging
        self.system = System(
            cpu=cpu,
            memory=f"{mebibytes}MiB",
            cpus=cpus,
            policy=policy,
            levels=levels,
            direct_map=direct_map,
            flag_all=flag_all,
        )
        self.boot_frames = free_frames(self.system)
        assert free_blocks(self.system) == merged(self.boot_frames)
        self.frames: dict[int, list[int]] = {}
        self.ranges: dict[int, list[int]] = {}
        self.rng = np.random.default_rng(1)

    @property
    def live(self) -> list[CompoundPage]:
        return [self.system.virt_to_page(address) for address in self.frames]

    @rule(order=st.integers(0, 14) | st.integers(8, 10) | st.integers(0, 4), flags=st.sampled_from(FLAGS))
    def alloc(self, order: int, flags: int) -> None:
        system = self.system
        policy = system.compound.policy.name
        flagged = system.compound.flag_all or bool(flags & Gfp.VFALLBACK)
        may_fall_back = policy == "early-fallback" and flagged and order > 0
        always_virtual = policy in ("vmalloc", "huge-vmalloc") or (policy == "always-virtual" and flagged and order > 0)
        fits = system.buddyinfo()[0, order:].any()
        whole = order >= 9 and policy == "huge-vmalloc"
        before = observable(system)
        try:
            page = system.alloc_pages(order, flags)
        except OutOfMemory:
            assert observable(system) == before
            assert always_virtual or not fits
            return
        assert page.is_virtual == (always_virtual or (may_fall_back and not fits))
        assert page.address not in self.frames
        assert page.mapping_level == 0 or page.mapping_level == 1 or whole
        if page.mapping_level == 2:
            assert page.address % (2 << 20) == 0
            assert (page.frames.reshape(-1, 512) == page.frames[::512, None] // 512 * 512 + np.arange(512)).all()
        self.frames[page.address] = page.frames.tolist()

    @precondition(lambda self: self.frames)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        page = data.draw(st.sampled_from(self.live))
        self.system.free_pages(page)
        del self.frames[page.address]
        if page.is_virtual:
            assert (self.system.page_tables.translate([page.address, page.address + page.nbytes - 1]) == -1).all()

    @precondition(lambda self: self.frames)
    @rule(data=st.data())
    def free_many(self, data: st.DataObject) -> None:
        step = data.draw(st.integers(1, 3))
        for page in self.live[::step]:
            self.system.free_pages(page)
            del self.frames[page.address]

    @rule(order=st.sampled_from([0, 0, 1, 3, 6, 9]), keep=st.integers(0, 40))
    def fill(self, order: int, keep: int) -> None:
        """Take nearly all blocks of an order, as single physical pages where the policy lets us."""
        flags = GFP_KERNEL
        zone = self.system.memory.zone
        while len(self.frames) < 400 and zone.free_frames >> order > keep:
            try:
                page = self.system.alloc_pages(order, flags)
            except OutOfMemory:
                return
            self.frames[page.address] = page.frames.tolist()

    @precondition(lambda self: self.frames)
    @rule(data=st.data(), count=st.integers(0, 300), write=st.booleans())
    def access(self, data: st.DataObject, count: int, write: bool) -> None:
        page = data.draw(st.sampled_from(self.live))
        cpu = data.draw(st.integers(0, len(self.system.mmus) - 1))
        before = self.system.ledger.counts
        words = self.system.page_tables.words()
        cost = self.system.access(page, vclab.streams.uniform(page.nbytes, count, seed=count), write, cpu)
        assert cost.accesses == count
        assert cost.tlb_hits.sum() + cost.walks == count
        assert sum(cost.by_cause.values()) == cost.cycles
        assert cost.counts.tolist() == (self.system.ledger.counts - before).tolist()
        assert cost.walk_references <= self.system.page_tables.levels * cost.walks
        # Linux maps kernel memory accessed and dirty, so no access writes to a table.
        np.testing.assert_array_equal(self.system.page_tables.words(), words)

    @precondition(lambda self: self.frames)
    @rule(data=st.data())
    def vmap(self, data: st.DataObject) -> None:
        page = data.draw(st.sampled_from(self.live))
        frames = page.frames[::-1][:64].tolist()
        try:
            address = self.system.vmap(frames)
        except vclab.ConfigurationError:
            assert self.system.memory.zone.free_frames < 4
            return
        self.ranges[address] = frames

    @precondition(lambda self: self.ranges)
    @rule(data=st.data())
    def vunmap(self, data: st.DataObject) -> None:
        address = data.draw(st.sampled_from(list(self.ranges)))
        self.system.vunmap(address)
        del self.ranges[address]
        assert self.system.page_tables.translate([address])[0] == -1

    @rule(cpu=st.integers(0, 1))
    def flush(self, cpu: int) -> None:
        self.system.mmus[cpu % len(self.system.mmus)].flush()

    @rule(order=st.integers(0, 9), go_on_with_the_copy=st.booleans())
    def copy(self, order: int, go_on_with_the_copy: bool) -> None:
        twin = self.system.copy()
        before = everything(self.system)
        assert everything(twin) == before
        one, other = (self.system, twin) if go_on_with_the_copy else (twin, self.system)
        for page in one.pages[::2]:
            one.access(page, [0, page.nbytes - 1], write=True)
            one.free_pages(page)
        with suppress(OutOfMemory):
            one.alloc_pages(order, GFP_VFALLBACK)
        assert everything(other) == before
        self.system = other

    @invariant()
    def every_byte_is_where_it_belongs(self) -> None:
        pages = self.live
        assert self.system.pages == pages
        for page in pages[:: 1 + len(pages) // 20]:
            check_page(self.system, page, self.frames[page.address], self.rng)
        for address, frames in self.ranges.items():
            addresses = [address + (number << 12) + 7 for number in range(len(frames) + 1)]
            expected = [(frame << 12) + 7 for frame in frames] + [-1]
            assert self.system.page_tables.translate(np.array(addresses, np.uint64)).tolist() == expected
        check_memory(self.system, mapped=len(self.ranges))

    def teardown(self) -> None:
        if not hasattr(self, "system"):
            return
        system = self.system
        for address in self.ranges:
            system.vunmap(address)
        for page in self.live:
            system.free_pages(page)
        assert system.pages == []
        assert system.vmalloc_area.ranges == 0
        assert system.compound.objects.frames_held == len(system.compound.objects.frames()) == 0
        retained = system.page_tables.frames()[system.boot_tables :]
        assert len(retained) == system.vmalloc_area.retained_tables
        assert self.boot_frames[retained].all()
        expected = self.boot_frames.copy()
        expected[retained] = False
        # Every frame but retained tables' is free again, in the largest blocks there can be.
        assert free_blocks(system) == merged(expected)


Histories.TestCase.settings = settings(max_examples=50, stateful_step_count=25)
TestHistories = Histories.TestCase
