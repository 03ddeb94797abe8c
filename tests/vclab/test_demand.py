"""Demand on crowded machines: how they become so, that policies meet the same, and whose work is whose."""

from __future__ import annotations

import numpy as np
import pytest

import vclab
from vckernels.allocflags import AllocFlag
from vckernels.buddy import Migratetype
from vckernels.causes import COUNTERS, Cause
from vckernels.watermark import Limit
from vclab import presets
from vclab.errors import ConfigurationError
from vclab.gfp import GFP_KERNEL, Gfp
from vclab.ledger import price_devices, price_operations
from vclab.studies.demand import (
    ANSWERS,
    EVENTS,
    WAYS,
    Demand,
    Served,
    _read,
    all_counts,
    cpu_ns,
    crowd,
    device_ns,
    fill,
    kept,
    serve,
)

LINUX, CPU = presets.linux("6.18"), presets.cpu("zen3")


def machine(unusable: float, marks: float = 1.1, seed: int = 3, linux: str = "6.18") -> vclab.System:
    system = vclab.System(linux=linux, memory="512MiB", levels=4, seed=seed)
    crowd(system, 9, unusable, marks)
    return system


@pytest.fixture(scope="module")
def fragmented() -> vclab.System:
    return machine(0.97)


@pytest.mark.parametrize("linux", ["6.18", "2.6.23"])
def test_a_crowded_machine_is_as_asked(fragmented: vclab.System, linux: str) -> None:
    again = machine(0.97, linux=linux)
    crowded = fragmented if linux == "6.18" else machine(0.97, linux=linux)
    movable = crowded.movable
    assert movable is not None
    assert crowded.memory.zone.free_frames == round(1.1 * movable.limits[Limit.HIGH])
    # 0.57 where filling misses the lists on which the release has its free blocks.
    assert crowded.unusable_free_index(9) > 0.9
    crowded.audit()
    np.testing.assert_array_equal(again.memory.zone.buddy.state, crowded.memory.zone.buddy.state)
    with pytest.raises(ConfigurationError, match="times the high watermark"):
        crowd(vclab.System(memory="512MiB", levels=4), marks=0.9)


def test_without_crowd_there_is_no_demand() -> None:
    with pytest.raises(ConfigurationError, match="crowd"):
        serve(vclab.System(memory="64MiB", levels=4), WAYS["physical"], Demand(3))


@pytest.mark.parametrize("name", ["late-fallback, insist", "early-fallback", "vmalloc"])
def test_own_work_background_and_programs_are_all_there_is(fragmented: vclab.System, name: str) -> None:
    before = fragmented.ledger.counts
    served = serve(fragmented, WAYS[name], Demand(6, 40, reads=64))
    assert served.answered().sum() == 40
    assert served.own.shape == served.background.shape == (40, COUNTERS)
    assert (served.own >= 0).all()
    assert (served.background >= 0).all()
    # kswapd and kcompactd work in the background only, requests for themselves only.
    assert (served.own[:, Cause.KSWAPD_RUN] == 0).all()
    assert (served.background[:, Cause.DIRECT_RECLAIM] == 0).all()
    assert (served.background[:, Cause.COMPACT_STALL] == 0).all()
    assert served.programs[Cause.KSWAPD_RUN] + served.background[:, Cause.KSWAPD_RUN].sum() > 0
    np.testing.assert_array_equal(fragmented.ledger.counts, before)
    virtual = served.answered()[ANSWERS.index("virtual")]
    assert served.own[:, Cause.AREA_RESERVE].sum() == virtual == served.frees[Cause.AREA_RELEASE]
    assert served.free_frames >= fragmented.memory.low_watermark - 64


def test_same_seed_same_numbers(fragmented: vclab.System) -> None:
    one, two = (serve(fragmented, WAYS["early-fallback"], Demand(7, 20, reads=32, seed=5)) for _ in range(2))
    for name in ("answers", "own", "background", "frees", "programs"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_frees_are_told_apart_by_request_and_lazy_ones_are_finished() -> None:
    system = vclab.System(memory="512MiB", levels=4, seed=3, unmap="lazy")
    crowd(system, 9, 0.97)
    served = serve(system, WAYS["early-fallback"], Demand(7, 30))
    virtual = served.answers == ANSWERS.index("virtual")
    assert 0 < virtual.sum() < 30
    np.testing.assert_array_equal(served.freed[:, Cause.AREA_LAZY_FREE], virtual)
    # A virtual page is 128 frames, and its structures now and then the last in theirs.
    np.testing.assert_array_equal(served.freed[~virtual, Cause.FREE], 1)
    assert (served.freed[virtual, Cause.FREE] >= 128).all()
    assert served.frees[Cause.AREA_RELEASE] >= virtual.sum() > served.freed[:, Cause.AREA_RELEASE].sum()


@pytest.mark.parametrize("order", [5, 7, 9])
def test_kswapd_frees_twice_the_block_that_is_not_to_be_had(fragmented: vclab.System, order: int) -> None:
    """Then single frames are enough for it (``kswapd_shrink_node``), and there are enough; kcompactd does the rest."""
    system = fragmented.copy(policy="physical")
    zone, movable, pressure = system.memory.zone, system.movable, system.pressure
    assert movable is not None
    assert pressure is not None
    while zone.free_blocks[order:].sum():
        zone.allocate(order, Migratetype.UNMOVABLE)
    assert zone.free_frames > movable.limits[Limit.HIGH]
    with pytest.raises(vclab.OutOfMemory):
        system.alloc_pages(order, GFP_KERNEL & ~Gfp.DIRECT_RECLAIM)
    reclaimed = pressure.background[Cause.PAGE_RECLAIMED]
    assert pressure.background[Cause.KSWAPD_RUN] == 1
    # The last priority's scan may go beyond what was missing.
    assert 2 << order <= reclaimed < 5 << order
    assert pressure.background[Cause.PAGE_MIGRATED] > 0


def test_a_batch_of_single_frames_boosts_watermarks_once(fragmented: vclab.System) -> None:
    """A CPU takes it from other types' pageblocks at once, and claims none of them for what its list still holds."""
    system = fragmented.copy()
    zone, movable = system.memory.zone, system.movable
    assert movable is not None
    while zone.buddy.free_blocks[:, Migratetype.UNMOVABLE].sum():
        zone.allocate(0, Migratetype.UNMOVABLE)
    boosts = []
    for _ in range(int(movable.limits[Limit.BATCH]) + 1):
        assert system.memory.take(0, GFP_KERNEL, AllocFlag.WMARK_MIN) >= 0
        boosts.append(int(movable.limits[Limit.BOOST]))
    assert 0 < boosts[0] == boosts[-2] < boosts[-1]


def test_everything_with_a_price_is_kept() -> None:
    one_each = np.eye(COUNTERS, dtype=np.int64)
    priced = price_operations(one_each, LINUX, CPU).sum(-1) + price_devices(one_each, LINUX).sum(-1)
    assert {Cause(cause) for cause in np.flatnonzero(priced)} <= set(EVENTS)
    counts = np.arange(2 * COUNTERS).reshape(2, COUNTERS)
    np.testing.assert_array_equal(kept(all_counts(kept(counts))), kept(counts))
    np.testing.assert_allclose(cpu_ns(kept(counts), LINUX, CPU), price_operations(counts, LINUX, CPU))
    np.testing.assert_allclose(device_ns(kept(counts), LINUX), price_devices(counts, LINUX))


def cost(served: Served) -> float:
    """Return the CPU time that requests and the frees of their pages took themselves, ns."""
    return float(cpu_ns(kept(served.own.sum(axis=0) + served.frees), LINUX, CPU).sum())


@pytest.mark.parametrize("order", [5, 6, 7, 8])
def test_insisting_is_dear_on_fragmented_memory_and_the_same_on_whole(fragmented: vclab.System, order: int) -> None:
    """The crossover that XFS found in 2022 (commit 8dc9384b7d75), by the model's own mechanisms."""
    demand = Demand(order, min(60, 6000 >> order), reads=64)
    fast, insist = (serve(fragmented, WAYS[way], demand) for way in ("early-fallback", "late-fallback, insist"))
    assert cost(insist) >= 2 * cost(fast)
    whole = machine(0.1, marks=3.0)
    demand = Demand(order, min(60, 4000 >> order))
    fast, insist = (serve(whole, WAYS[way], demand) for way in ("early-fallback", "late-fallback, insist"))
    assert cost(insist) == pytest.approx(cost(fast), rel=0.01)


@pytest.mark.parametrize("linux", ["6.18", "2.6.24"])
def test_files_are_read_into_the_zone_whose_pages_move_where_there_are_others(linux: str) -> None:
    system = vclab.System("k8", linux, "64MiB", 2, levels=4, allocator="full")
    fill(system, 5, 1.1)
    movable = system.movable
    assert movable is not None
    lower = system.memory.zones[0].free_frames
    assert lower > 1000
    before = movable.region.used
    _read(system, 2000)
    assert movable.region.used == before + 2000
    # Page tables may lie anywhere, a frame for 512 pages; pages may not.
    assert system.memory.zones[0].free_frames >= lower - 10
    assert system.ledger.counts[Cause.PAGE_RECLAIMED] > 0
    system.audit()
    served = serve(system, WAYS["vmalloc"], Demand(5, 20, reads=64))
    assert served.answered().tolist() == [0, 0, 20, 0]
    outside = np.array([system.memory.zones[0].first_frame + 5])
    with pytest.raises(ConfigurationError, match="not of zone"):
        movable.adopt(outside, 0, 0)
    assert movable.region.used == before + 2000
