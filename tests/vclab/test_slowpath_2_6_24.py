"""The slow path of the RFC's days on whole machines: lumpy reclaim and kswapd, fallback by order, no compaction."""

from __future__ import annotations

import numpy as np
import pytest

import vclab
from tests.vclab.test_movable import MOVABLE, check, reached
from vckernels.buddy import Migratetype
from vckernels.causes import Cause
from vckernels.pages import ACTIVE, ANONYMOUS, lock_page
from vckernels.slowpath import SlowAction
from vckernels.watermark import Limit
from vclab import GFP_ATOMIC, GFP_KERNEL, GFP_VFALLBACK, ConfigurationError, OutOfMemory, presets, watermarks_2_6
from vclab.gfp import Gfp
from vclab.movable import PageMix
from vclab.slowpath import Effort
from vclab.slowpath_2_6_24 import LumpySlowPath

OLD = ("2.6.23", "2.6.24")


def machine(linux: str = "2.6.24", policy: str = "late-fallback", locked: float = 0.0, **mix: float) -> vclab.System:
    """Return a machine full of pages of one frame; a share of them is locked into memory, one here and one there."""
    system = vclab.System(cpu="k8", linux=linux, memory="64MiB", levels=4, policy=policy)
    rng = np.random.default_rng(1)
    zone = system.memory.zone
    while zone.free_frames > 300:
        system.memory.allocate(0, MOVABLE)
    shares = {"anonymous": 0.5, "active": 0.3, "dirty": 0.2} | mix
    system.populate(PageMix(**shares), swap="64MiB")
    movable = system.movable
    assert movable is not None
    for frame in movable.frames()[rng.random(len(movable.frames())) < locked].tolist():
        lock_page(zone.buddy, movable.pages, frame, True)
    return system


def effort_of(system: vclab.System) -> Effort:
    assert system.last_effort is not None
    return system.last_effort


def slow_path_of(system: vclab.System) -> LumpySlowPath:
    assert system.movable is not None
    return LumpySlowPath(system.movable, system.memory)


def shorten(system: vclab.System) -> None:
    """Raise the watermarks above all that is free."""
    assert system.movable is not None
    free = system.memory.zone.free_frames
    system.movable.limits[[Limit.MIN, Limit.LOW, Limit.HIGH]] = free + 10, free + 20, free + 30


@pytest.mark.parametrize("linux", OLD)
def test_pages_of_one_frame_on_two_lists_by_the_releases_watermarks(linux: str) -> None:
    system = vclab.System(cpu="k8", linux=linux, memory="64MiB", levels=4)
    frames = [system.memory.allocate(order, MOVABLE) for order in (0, 3, 9)]
    pinned = system.memory.allocate(4, GFP_KERNEL)
    assert system.populate(PageMix(anonymous=0.5, active=0.0, dirty=0.0)) == 1 + 8 + 512
    movable = system.movable
    assert movable is not None
    assert len(movable.frames()) == 1 + 8 + 512
    assert movable.pages.lengths[:2].sum() == 0
    anonymous = int((movable.pages.flags[movable.frames()] & ANONYMOUS != 0).sum())
    assert movable.reclaimable_frames == 521 - anonymous
    old = watermarks_2_6.zone_limits({"Normal": 16384})[0]
    assert movable.limits[[Limit.MIN, Limit.LOW, Limit.HIGH]].tolist() == list(old.marks)
    # Each frame is a page of its own now.
    movable.release(np.array([frames[1] + 5]))
    system.memory.free(pinned, 4)
    check(system)
    system.audit()


@pytest.mark.parametrize("linux", OLD)
def test_there_is_no_compaction(linux: str) -> None:
    system = machine(linux)
    with pytest.raises(ConfigurationError, match=f"linux {linux} has no compaction"):
        system.compact()
    for order in (2, 5, 8):
        system.alloc_pages(order, GFP_VFALLBACK)
    assert system.ledger.counts[Cause.PAGE_MIGRATED] == 0
    assert effort_of(system).compactions == 0


@pytest.mark.parametrize("linux", OLD)
@pytest.mark.parametrize("order", [2, 5])
def test_lumpy_reclaim_makes_the_block_where_nothing_is_pinned(linux: str, order: int) -> None:
    system = machine(linux)
    shorten(system)
    before = reached(system)
    counts = system.ledger.counts
    page = system.alloc_pages(order, GFP_VFALLBACK)
    assert not page.is_virtual
    effort = effort_of(system)
    assert effort.woke_kswapd
    assert effort.reclaims >= 1
    assert effort.reclaimed_frames >= 1 << order
    counts = system.ledger.counts - counts
    assert counts[Cause.DIRECT_RECLAIM] == effort.reclaims
    assert counts[Cause.KSWAPD_RUN] == 1
    # What was taken is mapped nowhere, all else as before.
    after = reached(system)
    assert counts[Cause.PAGE_RECLAIMED] == len(before) - len(after) > 0
    assert after.items() <= before.items()
    assert system.movable is not None
    gone = [system.movable.region.address(owner) for owner in before.keys() - after.keys()]
    assert (system.page_tables.translate(gone) == -1).all()
    check(system)
    system.audit()


@pytest.mark.parametrize("linux", OLD)
def test_above_order_3_one_round_is_enough_and_below_the_kernel_tries_on(linux: str) -> None:
    """A locked page in every eight or so: no block of order 6 comes together, one of order 2 does in the end."""
    system = machine(linux, locked=0.12)
    while system.memory.zone.free_blocks[2:].sum():
        system.memory.zone.allocate(2, Migratetype.UNMOVABLE)
    shorten(system)
    small = system.copy()
    large = system.alloc_pages(6, GFP_VFALLBACK)
    assert large.is_virtual
    # One round for the block; its frames come from what that has freed.
    assert system.ledger.counts[Cause.DIRECT_RECLAIM] == 1
    assert system.ledger.counts[Cause.SLOW_PATH_RETRY] == 0
    assert not small.alloc_pages(2, GFP_VFALLBACK).is_virtual
    for one in (system, small):
        check(one)
        one.audit()


def test_small_requests_fall_back_before_anybody_is_killed_and_large_ones_fail_without() -> None:
    system = machine(anonymous=1.0)
    movable = system.movable
    assert movable is not None
    # Nothing can leave memory.
    movable.reclaim_state.fields[8:10] = 0
    shorten(system)
    slow = slow_path_of(system)
    for order, flags, killed in (
        (0, GFP_KERNEL, True),
        (2, GFP_KERNEL, True),
        (2, GFP_VFALLBACK, False),
        (2, GFP_KERNEL | Gfp.NORETRY, False),
        (6, GFP_KERNEL, False),
        (6, GFP_VFALLBACK, False),
        (11, GFP_KERNEL, False),
    ):
        frame, effort = slow.allocate(order, flags)
        assert (frame, effort.end, effort.would_kill) == (-1, SlowAction.FAILED, killed)
    assert system.ledger.counts[Cause.CONGESTION_WAIT] > 0
    assert system.ledger.counts[Cause.ALLOCATION_FAILURE] == 6
    # Its frames come from the free lists, which are as short: all is given back.
    free, tables = system.memory.zone.free_frames, system.page_tables.count
    for order in (2, 6):
        with pytest.raises(OutOfMemory):
            system.alloc_pages(order, GFP_VFALLBACK)
    assert system.memory.zone.free_frames == free
    assert system.page_tables.count == tables
    check(system)
    system.audit()


def test_an_atomic_request_falls_back_at_once_and_may_dip() -> None:
    others = machine(policy="vmalloc", locked=0.5)
    # Tables and structures of the area, for which its callers may wait, have room left by a page before.
    others.alloc_pages(3, GFP_VFALLBACK)
    system = others.copy("late-fallback")
    while system.memory.zone.free_blocks[3:].sum():
        system.memory.zone.allocate(3, Migratetype.UNMOVABLE)
    movable = system.movable
    assert movable is not None
    free = system.memory.zone.free_frames
    movable.limits[[Limit.MIN, Limit.LOW, Limit.HIGH]] = free, free + 10, free + 20
    before = system.ledger.counts
    page = system.alloc_pages(3, GFP_ATOMIC | Gfp.VFALLBACK)
    # Members are below the min watermark, where a request that can wait is not let.
    assert page.is_virtual
    took = system.ledger.counts - before
    assert took[Cause.DIRECT_RECLAIM] == 0
    assert took[Cause.KSWAPD_RUN] >= 1
    check(system)
    system.audit()


def test_members_of_a_request_that_waits_dip_into_nothing() -> None:
    system = machine()
    movable = system.movable
    assert movable is not None
    free = system.memory.zone.free_frames
    movable.limits[[Limit.MIN, Limit.LOW, Limit.HIGH]] = free - 3, free - 3, free - 3
    slow = slow_path_of(system)
    waits = GFP_KERNEL & ~(Gfp.DIRECT_RECLAIM | Gfp.KSWAPD_RECLAIM) | Gfp.NOMEMALLOC
    served = [slow.allocate(0, waits)[0] for _ in range(6)]
    assert [frame >= 0 for frame in served] == [True] * 3 + [False] * 3
    frame, effort = slow.allocate(0, GFP_ATOMIC & ~Gfp.KSWAPD_RECLAIM)
    assert frame >= 0
    assert not effort.woke_kswapd
    assert system.ledger.counts[Cause.PAGE_RECLAIMED] == 0


def test_v3_makes_one_try_that_reclaims_and_does_not_retry() -> None:
    assert presets.linux("2.6.24").early_fallback.value == "v3"
    system = machine(policy="early-fallback", locked=0.3)
    while system.memory.zone.free_blocks[3:].sum():
        system.memory.zone.allocate(3, Migratetype.UNMOVABLE)
    shorten(system)
    page = system.alloc_pages(6, GFP_VFALLBACK)
    assert page.is_virtual
    counts = system.ledger.counts
    # One round for the block; frames behind the virtual page are requests like any other.
    assert counts[Cause.DIRECT_RECLAIM] >= 1
    assert counts[Cause.OOM_KILL] == 0
    check(system)


def test_watermarks_are_halved_order_by_order() -> None:
    """Enough is free, but in single frames: the old check refuses what today's would serve from the one block."""
    system = machine()
    zone, movable = system.memory.zone, system.movable
    assert movable is not None
    while zone.free_blocks[4:].sum():
        zone.allocate(4, Migratetype.UNMOVABLE)
    frames = movable.frames()
    start = next(int(at) for at in range(0, 16384, 32) if np.isin(np.arange(at, at + 32), frames).all())
    movable.release(np.arange(start, start + 32))
    even = frames[(frames % 2 == 0) & np.isin(frames + 1, frames)]
    movable.release(even[(even < start) | (even >= start + 32)][:200])
    assert zone.free_blocks[5] >= 1
    movable.limits[[Limit.MIN, Limit.LOW, Limit.HIGH]] = zone.free_frames // 2
    assert system.memory.take(0, GFP_KERNEL, 0) >= 0
    assert system.memory.take(5, GFP_KERNEL, 0) == -1


@pytest.mark.parametrize("linux", OLD)
def test_what_was_taken_comes_back_and_is_counted(linux: str) -> None:
    system = machine(linux, dirty=0.0)
    before = reached(system)
    for _ in range(2000):
        assert system.memory.allocate(0, GFP_KERNEL) >= 0
    gone = sorted(set(before) - set(reached(system)))
    assert len(gone) > 1000
    use = system.use_pages(np.array(gone[:50]))
    assert (use.refaults, use.unserved, use.gone) == (50, 0, 0)
    counts = system.ledger.counts
    assert counts[Cause.REFAULT] == 50
    # Kernels of then knew nothing of a working set.
    assert counts[Cause.WORKINGSET_REFAULT] == 0
    assert set(gone[:50]) <= set(reached(system))
    check(system)
    system.audit()


def test_a_file_used_twice_by_system_calls_becomes_active_and_a_mapped_page_does_not() -> None:
    system = machine(anonymous=0.5, active=0.0, dirty=0.0)
    movable = system.movable
    assert movable is not None
    at = reached(system)
    flags = {owner: int(movable.pages.flags[frame]) for owner, frame in at.items()}
    files = [owner for owner in at if not flags[owner] & ANONYMOUS][:20]
    mapped = [owner for owner in at if flags[owner] & ANONYMOUS][:20]
    for _ in range(2):
        system.use_pages(np.array(files + mapped))
    assert all(movable.pages.flags[at[owner]] & ACTIVE for owner in files)
    assert not any(movable.pages.flags[at[owner]] & ACTIVE for owner in mapped)
    check(system)


def test_a_machine_of_then_thrashes_until_it_would_kill() -> None:
    system = machine("2.6.23", policy="physical", dirty=0.0)
    movable = system.movable
    assert movable is not None
    served = 0
    while system.memory.allocate(0, GFP_KERNEL) >= 0:
        served += 1
    assert effort_of(system).would_kill
    assert served > 12_000
    assert system.memory.zone.free_frames <= movable.limits[Limit.MIN] + 1
    assert movable.pages.lengths.sum() == 0
    system.audit()


def test_a_zone_that_was_given_up_is_tried_again_once_something_is_freed_in_it() -> None:
    """New pages on the lists make no difference, as they make none in the kernel."""
    system = machine(locked=1.0, anonymous=0.0, dirty=0.0)
    movable = system.movable
    assert movable is not None
    spare = np.array([system.memory.zone.allocate(0, Migratetype.MOVABLE) for _ in range(3)])
    shorten(system)
    lists = int(movable.pages.lengths.sum())

    def scanned() -> int:
        before = system.ledger.counts[Cause.RECLAIM_SCANNED]
        movable.balance(0, 0)
        return int(system.ledger.counts[Cause.RECLAIM_SCANNED] - before)

    assert scanned() >= 6 * lists
    assert scanned() < lists
    movable.adopt(spare[:2], 0, 0)
    lock_page(movable.zone.buddy, movable.pages, int(spare[0]), True)
    lock_page(movable.zone.buddy, movable.pages, int(spare[1]), True)
    assert scanned() < lists
    system.memory.free(spare[2], 0)
    assert scanned() >= 6 * lists
