"""The slow path: what is done for a request depends on its flags and order, as in Linux 6.18."""

from __future__ import annotations

import numpy as np
import pytest

import vclab
from tests.vclab.test_movable import MOVABLE, check, scattered
from vckernels.buddy import Migratetype
from vckernels.causes import Cause
from vckernels.compactcontrol import ZoneField
from vckernels.pages import ANONYMOUS
from vckernels.slowpath import SlowAction
from vckernels.watermark import Limit
from vclab import GFP_ATOMIC, GFP_KERNEL, GFP_VFALLBACK, OutOfMemory, presets
from vclab.gfp import Gfp, structure_flags, table_flags
from vclab.movable import PageMix
from vclab.slowpath import CompactingSlowPath, Effort


def without_large_blocks() -> vclab.System:
    """Return a scattered machine with no free block of order 8 or more, half of it free."""
    system = scattered()
    zone = system.memory.zone
    for order in (10, 9, 8):
        for _ in range(int(zone.free_blocks[order])):
            zone.allocate(order, Migratetype.MOVABLE)
    assert zone.free_blocks[8:].sum() == 0
    return system


def effort_of(system: vclab.System) -> Effort:
    assert system.last_effort is not None
    return system.last_effort


def test_a_request_that_may_reclaim_compacts_until_it_is_served() -> None:
    system = without_large_blocks()
    page = system.alloc_pages(8, GFP_KERNEL | Gfp.RETRY_MAYFAIL)
    assert len(page.run_lengths) == 1
    effort = effort_of(system)
    # Asynchronously at first, and then with what waits.
    assert 1 <= effort.compactions <= 2
    assert effort.woke_kswapd
    assert effort.end in (SlowAction.SERVED, SlowAction.SERVED_BY_COMPACTION)
    assert system.ledger.counts[Cause.PAGE_MIGRATED] > 0
    system.free_pages(page)
    check(system)


def test_an_atomic_request_fails_and_the_background_helps_the_next() -> None:
    physical = without_large_blocks().copy("physical")
    with pytest.raises(OutOfMemory):
        physical.alloc_pages(8, GFP_ATOMIC)
    effort = effort_of(physical)
    assert (effort.compactions, effort.reclaims) == (0, 0)
    assert effort.end is SlowAction.FAILED
    # kcompactd has run since.
    assert physical.ledger.counts[Cause.PAGE_MIGRATED] > 0
    assert not physical.alloc_pages(8, GFP_ATOMIC).is_virtual
    check(physical)


@pytest.mark.parametrize("linux", presets.linux_names())
@pytest.mark.parametrize("order", [3, 10])
def test_an_atomic_fallback_waits_for_no_structure_and_no_table_either(linux: str, order: int) -> None:
    system = vclab.System(linux=linux, memory="64MiB", levels=4, policy="always-virtual")
    zone = system.memory.zone
    while zone.free_frames > 3000:
        zone.allocate(0, Migratetype.MOVABLE)
    system.populate(PageMix(anonymous=0.0, dirty=0.0))
    limits, most = zone.limits(), 40 + 2 * (1 << order)
    # As much as an atomic request may take for all that it needs, and less than any that waits would leave.
    limits[Limit.MIN], limits[Limit.LOW], limits[Limit.HIGH] = most + (most >> 1), 4 * most, 5 * most
    zone.allocate_all(0, Migratetype.UNMOVABLE, zone.free_frames - most - (most >> 2))
    waiting = system.copy()
    page = system.alloc_pages(order, GFP_ATOMIC | Gfp.VFALLBACK)
    assert page.is_virtual
    assert page.marginal_frames > 2
    assert system.ledger.counts[Cause.DIRECT_RECLAIM] == 0
    assert waiting.alloc_pages(order, GFP_VFALLBACK).is_virtual
    assert waiting.ledger.counts[Cause.DIRECT_RECLAIM] > 0


@pytest.mark.parametrize(
    ("wanted", "structures", "tables"),
    [
        (GFP_VFALLBACK, GFP_KERNEL, GFP_KERNEL),
        (GFP_KERNEL | Gfp.ZERO | Gfp.MOVABLE | Gfp.NORETRY, GFP_KERNEL | Gfp.NORETRY, GFP_KERNEL),
        (GFP_KERNEL & ~Gfp.FS, GFP_KERNEL & ~Gfp.FS, GFP_KERNEL & ~Gfp.FS),
        (GFP_KERNEL & ~(Gfp.FS | Gfp.IO), GFP_KERNEL & ~(Gfp.FS | Gfp.IO), GFP_KERNEL & ~(Gfp.FS | Gfp.IO)),
        (GFP_ATOMIC | Gfp.VFALLBACK, GFP_ATOMIC, GFP_ATOMIC),
        (Gfp.KSWAPD_RECLAIM | Gfp.NOMEMALLOC, Gfp.KSWAPD_RECLAIM | Gfp.NOMEMALLOC, Gfp.KSWAPD_RECLAIM | Gfp.NOMEMALLOC),
    ],
)
def test_structures_follow_their_request_and_tables_what_it_forbids(wanted: Gfp, structures: Gfp, tables: Gfp) -> None:
    assert structure_flags(wanted) == structures
    assert table_flags(wanted) == tables


def test_early_fallback_moves_nothing_itself_and_late_fallback_does() -> None:
    aged = without_large_blocks()
    early, late = aged.copy("early-fallback"), aged.copy("late-fallback")
    assert early.alloc_pages(8, GFP_KERNEL | GFP_VFALLBACK).is_virtual
    assert not late.alloc_pages(8, GFP_KERNEL | GFP_VFALLBACK).is_virtual
    assert effort_of(late).compactions >= 1
    for system in (early, late):
        check(system)


def test_kswapd_and_kcompactd_run_after_a_fallback_and_help_the_next_request() -> None:
    """The block that they make is not broken into the frames of the page whose first try woke them."""
    system = without_large_blocks().copy("early-fallback")
    assert system.alloc_pages(8, GFP_KERNEL | GFP_VFALLBACK).is_virtual
    assert system.pressure is not None
    assert system.pressure.background[Cause.PAGE_MIGRATED] > 0
    assert system.memory.zone.free_blocks[8:].sum() > 0
    assert not system.alloc_pages(8, GFP_KERNEL | GFP_VFALLBACK).is_virtual
    check(system)


def test_without_retry_a_costly_request_gives_up_where_compaction_is_put_off() -> None:
    system = without_large_blocks()
    movable = system.movable
    assert movable is not None
    slow = CompactingSlowPath(movable, system.memory)
    movable.compaction.zone[ZoneField.DEFER_SHIFT] = 6
    movable.compaction.zone[ZoneField.ORDER_FAILED] = 5
    frame, effort = slow.allocate(8, GFP_KERNEL | Gfp.NORETRY)
    assert (frame, effort.compactions, effort.end) == (-1, 0, SlowAction.FAILED)
    assert effort.reclaims == 0
    assert movable.zone.buddy.counters[Cause.COMPACT_DEFERRED] > 0
    check(system)


def test_a_costly_request_fails_after_one_round_and_a_small_one_would_kill() -> None:
    system = vclab.System(memory="16MiB", levels=4)
    while system.memory.zone.free_frames > 400:
        system.memory.allocate(0, GFP_KERNEL)
    system.populate()
    movable = system.movable
    assert movable is not None
    # Nothing is movable, so that nothing can be done.
    slow = CompactingSlowPath(movable, system.memory)
    movable.limits[[Limit.MIN, Limit.LOW, Limit.HIGH]] = 500
    would_kill = {
        (0, GFP_KERNEL): True,
        (2, GFP_KERNEL): True,
        (2, GFP_KERNEL | Gfp.VFALLBACK): False,
        (2, GFP_KERNEL | Gfp.NORETRY): False,
        (2, GFP_KERNEL | Gfp.RETRY_MAYFAIL): False,
        (6, GFP_KERNEL): False,
        (6, GFP_KERNEL | Gfp.RETRY_MAYFAIL): False,
        (11, GFP_KERNEL): False,
    }
    for (order, flags), expected in would_kill.items():
        frame, effort = slow.allocate(order, flags)
        assert (frame, effort.end, effort.would_kill) == (-1, SlowAction.FAILED, expected)


def test_watermarks_are_kept_and_reserves_used_by_those_that_may() -> None:
    system = scattered()
    movable = system.movable
    assert movable is not None
    low, least = int(movable.limits[Limit.LOW]), int(movable.limits[Limit.MIN])
    taken = 0
    while system.memory.zone.free_frames > low:
        assert system.memory.allocate(0, MOVABLE) >= 0
        taken += 1
    assert taken
    while system.memory.allocate(0, MOVABLE) >= 0:
        pass
    assert system.memory.zone.free_frames == least
    assert effort_of(system).would_kill
    while system.memory.allocate(0, GFP_ATOMIC) >= 0:
        pass
    # Half for who is of high priority, and another quarter of the rest for who cannot wait.
    assert system.memory.zone.free_frames == least - least // 2 - (least - least // 2) // 4
    check(system)


def test_pages_asked_for_together_unwind_where_the_watermark_stands() -> None:
    system = scattered()
    movable = system.movable
    assert movable is not None
    free = system.memory.zone.free_frames
    reclaimable = movable.reclaimable_frames
    assert system.memory.allocate_all(0, MOVABLE, free + reclaimable) is None
    # What was reclaimed for them is free now.
    assert free < system.memory.zone.free_frames <= free + reclaimable
    some = system.memory.allocate_all(0, MOVABLE, free - int(movable.limits[Limit.MIN]))
    assert some is not None
    assert len(np.unique(some)) == len(some)
    check(system)


def test_reclaim_takes_pages_of_files_and_their_mappings() -> None:
    system = vclab.System(memory="64MiB", levels=4)
    zone = system.memory.zone
    while zone.free_frames > 2000:
        system.memory.allocate(0, MOVABLE)
    total = system.populate(PageMix(anonymous=0.5, active=0.4, dirty=0.2))
    movable = system.movable
    assert movable is not None
    held = set(movable.frames().tolist())
    taken = []
    for _ in range(3000):
        frame = system.memory.allocate(0, GFP_KERNEL)
        assert frame >= 0
        taken.append(frame)
    counts = system.ledger.counts
    assert counts[Cause.KSWAPD_RUN] > 0
    assert counts[Cause.PAGE_RECLAIMED] >= 2000
    assert zone.free_frames > movable.limits[Limit.MIN]
    flags = movable.pages.flags[movable.frames()]
    # Without swap no anonymous page is among those taken.
    assert 0.48 * total < (flags & ANONYMOUS != 0).sum() < 0.52 * total
    assert len(set(movable.frames().tolist()) - held) == 0
    check(system)


def test_with_swap_anonymous_pages_are_taken_too() -> None:
    system = vclab.System(memory="64MiB", levels=4)
    while system.memory.zone.free_frames > 2000:
        system.memory.allocate(0, MOVABLE)
    total = system.populate(PageMix(anonymous=1.0, active=0.4, dirty=0.0), swap="16MiB")
    movable = system.movable
    assert movable is not None
    served = 0
    while system.memory.allocate(0, GFP_KERNEL) >= 0:
        served += 1
    assert served >= 4096
    assert len(movable.frames()) == total - 4096
    assert effort_of(system).would_kill
    check(system)
