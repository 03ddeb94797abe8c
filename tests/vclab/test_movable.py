"""Movable pages of a machine: compaction moves them, and whoever reaches them by address notices nothing."""

from __future__ import annotations

import numpy as np
import pytest

import vclab
from vckernels.buddy import ISOLATED, Migratetype
from vckernels.causes import Cause
from vckernels.compaction import CompactPriority, CompactResult
from vckernels.pages import ON_LRU, audit_pages
from vckernels.watermark import ZoneIndex
from vclab import ConfigurationError, InvalidFree
from vclab.gfp import GFP_KERNEL, Gfp
from vclab.movable import MovablePages, PageMix

MOVABLE = GFP_KERNEL | Gfp.MOVABLE


def scattered(memory: str = "64MiB", seed: int = 1, cpus: int = 1) -> vclab.System:
    """Return a machine of which a random half is movable pages, of one frame and of four."""
    system = vclab.System(memory=memory, levels=4, seed=seed, cpus=cpus)
    rng = np.random.default_rng(seed)
    taken: list[tuple[int, int]] = []
    while system.memory.zone.free_frames > 600:
        order = 2 * int(rng.random() < 0.2)
        taken.append((system.memory.allocate(order, MOVABLE), order))
    for index in rng.permutation(len(taken))[: len(taken) // 2]:
        system.memory.free(*taken[index])
    system.populate()
    return system


def reached(system: vclab.System) -> dict[int, int]:
    """Return the frame at the address of each movable page, by its owner's number."""
    movable = system.movable
    assert movable is not None
    local = movable.frames() - movable.zone.first_frame
    owners = movable.pages.owner[local].astype(np.int64)
    addresses = [movable.region.address(int(owner)) for owner in owners]
    return dict(zip(owners.tolist(), (system.page_tables.translate(addresses) >> 12).tolist(), strict=True))


def check(system: vclab.System) -> None:
    movable = system.movable
    assert movable is not None
    local = movable.frames() - movable.zone.first_frame
    at = reached(system)
    assert [at[int(owner)] for owner in movable.pages.owner[local]] == movable.frames().tolist()
    assert not (movable.zone.buddy.state == ISOLATED).any()
    assert audit_pages(movable.zone.buddy, movable.pages) == 0
    assert movable.zone.audit() == 0


def test_all_pages_are_reached_before_and_after_they_move() -> None:
    system = scattered()
    check(system)
    before = reached(system)
    assert system.unusable_free_index(9) > 0.9
    assert system.compact() == "complete"
    check(system)
    after = reached(system)
    # Pages of four frames for which there was no such block moved as four pages of one.
    assert before.keys() <= after.keys()
    moved = sum(before[owner] != after[owner] for owner in before)
    assert moved > len(before) // 4
    assert system.unusable_free_index(9) < 0.2
    counters = system.ledger.counts
    assert counters[Cause.PAGE_MIGRATED] >= moved
    assert counters[Cause.MIGRATION_BATCH] > 0


def test_no_cpu_goes_on_to_where_a_page_was() -> None:
    system = scattered(cpus=2)
    movable = system.movable
    assert movable is not None
    before = reached(system)
    owners = list(before)
    addresses = np.array([movable.region.address(owner) for owner in owners[:32]], np.uint64)
    for cpu in (0, 1):
        system.access_at(addresses, 4096, np.arange(32) * 4096, cpu=cpu)
        # As they are now, all are in the TLB.
        assert system.access_at(addresses, 4096, np.arange(32) * 4096, cpu=cpu).walks == 0
    interrupts = system.ledger.counts[Cause.INTERRUPT]
    system.compact()
    batches = system.ledger.counts[Cause.MIGRATION_BATCH]
    assert batches > 1
    assert system.ledger.counts[Cause.INTERRUPT] - interrupts == batches
    assert any(reached(system)[owner] != before[owner] for owner in owners[:32])
    for cpu in (0, 1):
        assert system.access_at(addresses, 4096, np.arange(32) * 4096, cpu=cpu).walks == 32


def test_a_direct_run_captures_its_block() -> None:
    system = scattered()
    movable = system.movable
    assert movable is not None
    result = movable.compact(7, Migratetype.UNMOVABLE, CompactPriority.SYNC_LIGHT, 0, ZoneIndex.NORMAL)
    assert result == CompactResult.SUCCESS
    captured = movable.captured
    free = system.memory.zone.free_blocks
    assert captured >= 0 or free[7:].sum() > 0
    if captured >= 0:
        system.memory.free(captured, 7)
    check(system)


def test_a_proactive_run_ends_once_enough_is_done() -> None:
    system = scattered()
    assert system.compact(proactiveness=20) == "success"
    assert 0.5 < system.unusable_free_index(9) <= 0.8
    check(system)
    with pytest.raises(ConfigurationError, match="0 to 100"):
        system.compact(101)


def test_pages_are_given_back_with_their_mappings() -> None:
    system = scattered()
    movable = system.movable
    assert movable is not None
    frames = movable.frames()
    owners = movable.pages.owner[frames].astype(np.int64)
    free = system.memory.zone.free_frames
    some = np.arange(0, len(frames), 3)
    size = int((1 << (movable.zone.buddy.state[frames[some]] & 15).astype(np.int64)).sum())
    movable.release(frames[some])
    assert system.memory.zone.free_frames == free + size
    assert (system.page_tables.translate([movable.region.address(int(o)) for o in owners[some]]) == -1).all()
    check(system)
    with pytest.raises(InvalidFree, match="no movable page"):
        movable.release(frames[some][:1])
    with pytest.raises(ConfigurationError, match="starts no allocated block"):
        movable.adopt(frames[some][:1], 0, 0)
    check(system)


def test_a_machine_without_movable_pages_says_so() -> None:
    with pytest.raises(ConfigurationError, match="populate"):
        vclab.System(memory="16MiB", levels=4).compact()


def test_kernel_pages_and_pages_of_the_system_stay_where_they_are() -> None:
    system = scattered()
    page = system.alloc_pages(1, MOVABLE | Gfp.VFALLBACK)
    assert system.populate() == 0
    tables = system.page_tables.frames().tolist()
    translated = int(system.page_tables.translate([page.address])[0])
    system.compact()
    assert system.page_tables.frames().tolist() == tables
    assert int(system.page_tables.translate([page.address])[0]) == translated
    system.free_pages(page)
    check(system)


def test_kinds_are_drawn_by_their_shares() -> None:
    system = vclab.System(memory="64MiB", levels=4)
    for _ in range(8000):
        system.memory.allocate(0, MOVABLE)
    assert system.populate(PageMix(anonymous=0.25, active=0.5, dirty=0.0)) == 8000
    movable = system.movable
    assert isinstance(movable, MovablePages)
    flags = movable.pages.flags[movable.pages.flags & ON_LRU != 0]
    assert 0.22 < np.mean(flags & 1) < 0.28
    assert 0.47 < np.mean(flags & 2 != 0) < 0.53
    assert np.mean(flags & 16 != 0) == np.mean(flags & 1)


@pytest.mark.parametrize("linux", ["6.18", "2.6.24"])
@pytest.mark.parametrize("copied", [False, True])
def test_what_is_pinned_stays_pinned_until_it_is_given_back(linux: str, copied: bool) -> None:
    system = vclab.System(linux=linux, memory="64MiB", levels=4)
    blocks = [(system.memory.allocate(order, MOVABLE), order) for order in [0, 2] * 1000]
    adopted = system.populate(PageMix(pinned=0.25))
    assert 0.7 < adopted / 5000 < 0.8
    system = system.copy() if copied else system
    movable = system.movable
    assert movable is not None
    before = movable.frames()
    # Nothing was allocated since: whoever held on to a page still does.
    assert system.populate(PageMix()) == 0
    assert movable.frames().tolist() == before.tolist()
    pinned = [(frame, order) for frame, order in blocks if frame not in set(before.tolist())]
    if linux == "6.18":
        assert sum(1 << order for _, order in pinned) == 5000 - adopted
        for frame, order in pinned:
            system.memory.free(frame, order)
        assert not movable._pinned[system.memory.allocate(9, MOVABLE)]
        assert system.populate(PageMix()) == 512


def test_a_copy_is_compacted_alone() -> None:
    system = scattered()
    before = reached(system)
    twin = system.copy()
    twin.compact()
    assert reached(system) == before
    assert reached(twin) != before
    check(system)
    check(twin)


def test_what_cpus_have_to_forget_yet_the_cpus_of_a_copy_have_to_too() -> None:
    system = scattered(cpus=2)
    movable = system.movable
    assert movable is not None
    movable.compact_all()
    batches = int(system.ledger.counts[Cause.MIGRATION_BATCH])
    assert batches > 1
    for machine in (system.copy(), system):
        before = machine.ledger.counts[Cause.INTERRUPT]
        machine.alloc_pages(0, GFP_KERNEL)
        assert machine.ledger.counts[Cause.INTERRUPT] - before == batches
