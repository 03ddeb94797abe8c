"""Zones, per-CPU lists and reserves together with reclaim and compaction, under every release."""

from __future__ import annotations

import contextlib
import functools

import numpy as np
import pytest

import vclab
from tests.vclab.test_movable import MOVABLE, check, reached
from vckernels.buddy import Migratetype
from vckernels.causes import Cause
from vckernels.slowpath import SlowAction
from vckernels.watermark import Limit
from vclab import GFP_ATOMIC, GFP_KERNEL, GFP_VFALLBACK, OutOfMemory, presets
from vclab.allocator import FullMemory
from vclab.gfp import Gfp
from vclab.movable import MovablePages, PageMix
from vclab.slowpath import Effort

RELEASES = presets.linux_names()


def crowded(linux: str = "6.18", policy: str = "physical", cpus: int = 2) -> vclab.System:
    """Return a machine with two zones: nearly all of the higher one is single pages of files; the lower one is free."""
    return _crowded_once(linux, policy, cpus).copy()


@functools.cache
def _crowded_once(linux: str, policy: str, cpus: int) -> vclab.System:
    system = vclab.System("k8", linux, "64MiB", cpus, policy, levels=4, allocator="full")
    zone = system.memory.zone
    rng = np.random.default_rng(2)
    taken = []
    while zone.free_frames > 1.5 * zone.limits()[Limit.HIGH] + 600:
        taken.append(system.memory.allocate(0, MOVABLE))
    for frame in rng.permutation(taken)[: len(taken) // 20].tolist():
        system.memory.free(frame, 0)
    system.populate(PageMix(anonymous=0.0, active=0.3, dirty=0.1))
    return system


def parts(system: vclab.System) -> tuple[FullMemory, MovablePages]:
    assert isinstance(system.memory, FullMemory)
    assert system.movable is not None
    return system.memory, system.movable


def effort_of(system: vclab.System) -> Effort:
    assert system.last_effort is not None
    return system.last_effort


@pytest.mark.parametrize("linux", RELEASES)
def test_more_is_to_be_had_than_is_free_and_reserves_are_kept(linux: str) -> None:
    system = crowded(linux)
    memory, movable = parts(system)
    free = memory.free_frames + int(memory.per_cpu_frames.sum())
    pages = len(movable.frames())
    taken = 0
    for cpu in range(2):
        memory.cpu = cpu
        while memory.allocate(0, GFP_KERNEL) >= 0:
            taken += 1
    effort = effort_of(system)
    assert effort.would_kill
    assert effort.end is SlowAction.FAILED
    assert taken > free
    assert len(movable.frames()) == pages - system.ledger.counts[Cause.PAGE_RECLAIMED]
    assert len(movable.frames()) < pages // 10
    # One look at the watermark serves a whole batch for a CPU's list.
    memory.drain()
    for zone in memory.zones:
        reserve = int(zone.limits()[Limit.RESERVE_NORMAL])
        assert zone.free_frames >= zone.limits()[Limit.MIN] + reserve
    # Who cannot wait may dip below.
    assert memory.allocate(0, GFP_ATOMIC) >= 0
    check(system)
    system.audit()


@pytest.mark.parametrize("linux", RELEASES)
def test_a_request_for_the_lowest_zone_gains_nothing_by_reclaim_of_the_highest(linux: str) -> None:
    system = crowded(linux)
    memory, movable = parts(system)
    pages = len(movable.frames())
    dma = GFP_KERNEL | Gfp.DMA
    frames = []
    while (frame := memory.allocate(0, dma)) >= 0:
        frames.append(frame)
    assert max(frames) < 4096
    assert len(movable.frames()) == pages
    assert effort_of(system).reclaims >= 1
    assert effort_of(system).reclaimed_frames == 0
    # Others are served from the highest one, reclaimed for them.
    assert memory.allocate_all(0, GFP_KERNEL, memory.zone.free_frames) is not None
    assert len(movable.frames()) < pages
    system.audit()


@pytest.mark.parametrize("linux", RELEASES)
def test_what_comes_back_lies_in_the_zone_with_movable_pages(linux: str) -> None:
    system = crowded(linux)
    memory, movable = parts(system)
    before = reached(system)
    assert memory.allocate_all(0, GFP_KERNEL, memory.free_frames) is not None
    gone = sorted(set(before) - set(reached(system)))[:300]
    assert len(gone) > 100
    use = system.use_pages(np.array(gone))
    assert use.refaults == len(gone)
    at = reached(system)
    assert min(at[owner] for owner in gone if owner in at) >= movable.zone.first_frame
    check(system)
    system.audit()


def test_a_high_order_is_compacted_for_where_zones_have_none() -> None:
    system = crowded(policy="late-fallback")
    memory, movable = parts(system)
    for zone in memory.zones:
        while zone.free_blocks[7:].sum():
            order = int(np.flatnonzero(zone.free_blocks)[-1])
            zone.allocate(order, Migratetype.UNMOVABLE)
    drains = system.ledger.counts[Cause.PER_CPU_DRAIN]
    page = system.alloc_pages(7, GFP_VFALLBACK | Gfp.RETRY_MAYFAIL)
    assert not page.is_virtual
    assert page.frames[0] >= movable.zone.first_frame
    effort = effort_of(system)
    assert effort.compactions + effort.reclaims >= 1
    counts = system.ledger.counts
    assert counts[Cause.PAGE_MIGRATED] + counts[Cause.PAGE_RECLAIMED] > 0
    assert counts[Cause.PER_CPU_DRAIN] >= drains
    system.free_pages(page)
    check(system)
    system.audit()


@pytest.mark.parametrize("linux", RELEASES)
def test_frames_on_lists_of_other_cpus_are_given_back_where_reclaim_finds_nothing(linux: str) -> None:
    """Reclaim makes progress and finds nothing: the neighbours of what it freed lie on another CPU's lists.

    kswapd is on a third one, and may leave frames there.
    """
    system = crowded(linux, cpus=3)
    memory, movable = parts(system)
    memory.cpu = 1
    held = memory.allocate_all(0, GFP_KERNEL, 40)
    assert held is not None
    memory.free(held, 0)
    assert memory.per_cpu_frames[:, 1].sum() > 0
    memory.cpu = 0
    for zone in memory.zones:
        while zone.free_blocks[2:].sum():
            zone.allocate(int(np.flatnonzero(zone.free_blocks)[-1]), Migratetype.UNMOVABLE)
    limits = movable.limits
    limits[[Limit.MIN, Limit.LOW, Limit.HIGH]] = memory.zone.free_frames + np.array([500, 600, 700])
    with contextlib.suppress(OutOfMemory):
        system.alloc_pages(9, GFP_KERNEL)
    assert effort_of(system).reclaimed_frames > 0
    assert memory.per_cpu_frames[:, 1].sum() == 0
    system.audit()


@pytest.mark.parametrize("linux", RELEASES)
def test_a_copy_is_under_pressure_alone(linux: str) -> None:
    system = crowded(linux)
    twin = system.copy()
    before = reached(system)
    memory, _ = parts(twin)
    assert memory.allocate_all(0, GFP_KERNEL, memory.free_frames) is not None
    assert twin.ledger.counts[Cause.PAGE_RECLAIMED] > 0
    assert reached(system) == before
    assert system.memory.zone.limits() is not twin.memory.zone.limits()
    for one in (system, twin):
        check(one)
        one.audit()


def test_a_claim_boosts_the_watermarks_and_kswapd_sees_to_it() -> None:
    for allocator in ("full", "free-lists"):
        system = vclab.System(memory="64MiB", levels=4, allocator=allocator)
        zone = system.memory.zone
        while zone.free_frames > 4000:
            system.memory.allocate(0, MOVABLE)
        for frame in range(int(zone.free_blocks[9:].sum())):
            del frame
            zone.allocate(9, Migratetype.MOVABLE)
        system.populate(PageMix(anonymous=0.0, active=0.3, dirty=0.0))
        movable = system.movable
        assert movable is not None
        movable.release(movable.frames()[:3000:2])
        runs = system.ledger.counts[Cause.KSWAPD_RUN]
        claims = system.ledger.counts[[Cause.CLAIM_PAGEBLOCK, Cause.CLAIM_REFUSED]].sum()
        flags = GFP_KERNEL | Gfp.RECLAIMABLE
        while system.ledger.counts[[Cause.CLAIM_PAGEBLOCK, Cause.CLAIM_REFUSED]].sum() == claims:
            assert system.memory.allocate(0, flags) >= 0
        assert effort_of(system).woke_kswapd
        assert system.ledger.counts[Cause.KSWAPD_RUN] == runs + 1
        # What it was boosted by is gone once kswapd has reclaimed.
        assert movable.limits[Limit.BOOST] == movable.limits[Limit.BOOSTED] == 0
        system.audit()


@pytest.mark.parametrize("linux", RELEASES)
def test_kswapd_stays_on_a_cpu_that_is_idle_and_leaves_there_what_it_frees(linux: str) -> None:
    system = crowded(linux)
    memory, _ = parts(system)
    pressure = system.pressure
    assert pressure is not None

    def ask_until_kswapd_runs(cpu: int) -> None:
        memory.drain()
        memory.cpu = cpu
        runs = int(pressure.background[Cause.KSWAPD_RUN])
        while pressure.background[Cause.KSWAPD_RUN] == runs:
            assert memory.allocate(0, MOVABLE) >= 0
        assert memory.cpu == cpu

    # As it was at boot, then where it was, then away from who asks.
    for asking, working in ((0, 1), (0, 1), (1, 0), (0, 1)):
        ask_until_kswapd_runs(asking)
        assert pressure.background_cpu == working
        assert memory.per_cpu_frames[-1, working] > 0
    twin = system.copy()
    assert twin.pressure is not None
    assert twin.pressure.background_cpu == 1
    system.audit()
