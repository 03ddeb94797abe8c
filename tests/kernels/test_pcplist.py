"""Per-CPU lists of both generations by hand: sizes, order, and when what goes back."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.zonelists import NO_PAGES, Machine, ZonePair, one_zone
from vckernels import audit, pcplist
from vckernels.buddy import ORDERS, PER_CPU, TYPES, Buddy, Migratetype
from vckernels.causes import Cause
from vckernels.watermark import Limit
from vckernels.zone import PerCpu, Zone, per_cpu_sentinel

UNMOVABLE, MOVABLE, RECLAIMABLE, HIGHATOMIC, ISOLATE = Migratetype


def own(zone: ZonePair, column: PerCpu, cpu: int = 0) -> int:
    """Return one of a CPU's numbers."""
    return int(zone.kernel.per_cpu[cpu, column])


def many(machine: Machine, count: int, order: int = 0, kind: int = MOVABLE, cpu: int = 0) -> list[int]:
    """Return so many new blocks."""
    return [machine.get(order, kind, cpu=cpu) for _ in range(count)]


def test_lists_are_fourteen() -> None:
    numbers = [pcplist.list_number.py_func(order, kind) for order in (0, 1, 2, 3) for kind in (0, 1, 2)]
    assert numbers == list(range(12))
    assert [pcplist.list_number.py_func(9, kind) for kind in (0, 1, 2)] == [12, 13, 12]
    assert [pcplist.list_order.py_func(number) for number in range(14)] == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3 + [
        9
    ] * 2
    assert [order for order in range(11) if pcplist.has_lists.py_func(order)] == [0, 1, 2, 3, 9]


def test_a_refill_comes_in_address_order_and_doubles_each_time() -> None:
    """7, 14, 28 ... frames, up to 32 batches, as long as nothing is freed."""
    machine, zone = one_zone(8192, batch=7, high_min=28, high_max=4000)
    refills = []
    for frame in range(700):
        before = own(zone, PerCpu.COUNT)
        assert machine.get(0, MOVABLE) == frame
        if own(zone, PerCpu.COUNT) >= before:
            refills.append(own(zone, PerCpu.COUNT) + 1)
    assert refills == [7, 14, 28, 56, 112, 224, 224, 224]
    machine.put(3, 0)
    assert own(zone, PerCpu.ALLOC_FACTOR) == 2
    assert zone.blocks(0, 0, MOVABLE)[0] == 3
    assert machine.get(0, MOVABLE) == 3
    machine.check()


@pytest.mark.parametrize(("order", "blocks"), [(1, 15), (2, 7), (3, 3), (9, 2)])
def test_a_refill_of_higher_orders_is_the_batch_in_frames_but_two_blocks_at_least(order: int, blocks: int) -> None:
    machine, zone = one_zone(8192, batch=31, high_min=100, high_max=4000)
    machine.get(order, UNMOVABLE)
    assert len(zone.blocks(0, order, UNMOVABLE)) == blocks - 1
    assert own(zone, PerCpu.COUNT) == (blocks - 1) << order
    machine.check()


def test_where_a_cpu_may_hold_nothing_blocks_come_and_go_one_by_one() -> None:
    machine, zone = one_zone(batch=7, high_min=0, high_max=0)
    frames = many(machine, 5)
    assert own(zone, PerCpu.COUNT) == 0
    assert zone.events(Cause.PER_CPU_REFILL) == 5
    machine.put(frames[0], 0)
    assert own(zone, PerCpu.COUNT) == 0
    machine.check()


def test_frames_freed_beyond_the_limit_go_back_oldest_first() -> None:
    """Of the list just used; as many as were freed in a row, a batch being left."""
    machine, zone = one_zone(batch=7, high_min=40, high_max=40)
    frames = many(machine, 120)
    machine.drain(0)
    for frame in frames[:39]:
        machine.put(frame, 0)
    assert own(zone, PerCpu.COUNT) == 39
    machine.put(frames[39], 0)
    # 40 freed in a row are more than the limit less a batch, 33.
    assert zone.blocks(0, 0, MOVABLE) == frames[39:32:-1]
    assert zone.events(Cause.PER_CPU_DRAIN) == 2
    machine.check()


def test_lists_are_drained_in_turn_each_from_its_tail() -> None:
    machine, zone = one_zone(batch=4, high_min=200, high_max=200)
    freed = {}
    for order, blocks in ((3, 2), (1, 6), (0, 10)):
        freed[order] = many(machine, blocks, order, RECLAIMABLE)
    machine.drain(0)
    for order, frames in freed.items():
        for frame in frames:
            machine.put(frame, order)
    assert own(zone, PerCpu.COUNT) == 16 + 12 + 10
    # From order 1 on: its 12 frames, then one block of order 3 is more than enough.
    assert zone.drain_from(0, 15, 5) == 20
    assert zone.blocks(0, 1, RECLAIMABLE) == []
    assert zone.blocks(0, 3, RECLAIMABLE) == freed[3][1:]
    # And round again, to the list before.
    assert zone.drain_from(0, 9, 9) == 9
    assert zone.blocks(0, 0, RECLAIMABLE) == freed[0][:0:-1][:9]
    machine.check()


def test_blocks_of_orders_1_to_3_freed_in_a_row_go_back_early() -> None:
    """As single frames never do: once a batch and half of the low limit are freed so, and two came in a row."""
    machine, zone = one_zone(8192, batch=8, high_min=64, high_max=1000)
    frames = many(machine, 100, 1)
    machine.drain(0)
    freed = 0
    drains = zone.events(Cause.PER_CPU_DRAIN)
    while zone.events(Cause.PER_CPU_DRAIN) == drains:
        machine.put(frames[freed], 1)
        freed += 1
    # The free counted 40 frames before this one: 8 + 64 / 2.
    assert freed == 21
    assert own(zone, PerCpu.COUNT) == 0
    assert own(zone, PerCpu.HIGH) == 64
    machine.check()


def test_the_limit_grows_with_use_and_shrinks_when_frames_are_short() -> None:
    machine, zone = one_zone(16384, batch=8, high_min=32, high_max=500)
    frames = many(machine, 600)
    assert own(zone, PerCpu.HIGH) == 500
    zone.set_limit("below_high", 1)
    for frame in frames[:300]:
        machine.put(frame, 0)
    assert own(zone, PerCpu.HIGH) < 500
    # The zone has plenty again: the next batch that goes back says so.
    assert zone.kernel.limits[Limit.BELOW_HIGH] == 0
    high = own(zone, PerCpu.HIGH)
    zone.set_limit("reclaim_active", 1)
    for frame in frames[300:400]:
        machine.put(frame, 0)
    assert own(zone, PerCpu.HIGH) < high
    assert own(zone, PerCpu.COUNT) < 32
    machine.check()


def test_a_second_without_use_lets_an_eighth_go() -> None:
    machine, zone = one_zone(8192, batch=2, high_min=16, high_max=800)
    many(machine, 700)
    for frame, order in machine.live[:650]:
        machine.put(frame, order)
    high, count = own(zone, PerCpu.HIGH), own(zone, PerCpu.COUNT)
    assert high > count > 600
    zone.decay(0)
    assert own(zone, PerCpu.HIGH) == max(count - 64, high - high // 8)
    for _ in range(60):
        zone.decay(0)
    assert own(zone, PerCpu.HIGH) == own(zone, PerCpu.COUNT) == 16
    machine.check()


def test_frames_of_other_cpus_lists_are_out_of_reach() -> None:
    machine, zone = one_zone(cpus=2, batch=4)
    frame = machine.get(0, MOVABLE, cpu=1)
    machine.put(frame, 0, cpu=0)
    assert zone.blocks(0, 0, MOVABLE) == [frame]
    assert machine.get(0, MOVABLE, cpu=1) != frame
    assert machine.get(0, MOVABLE, cpu=0) == frame
    machine.check()


def test_isolated_pageblocks_are_freed_past_the_lists() -> None:
    machine, zone = one_zone(batch=4)
    frame = machine.get(0, MOVABLE)
    machine.drain(0)
    zone.pair.retype(frame >> 9, ISOLATE)
    machine.put(frame, 0)
    assert own(zone, PerCpu.COUNT) == 0
    machine.check()


# 2007


def test_in_2_6_24_all_types_share_the_hot_list() -> None:
    machine, zone = one_zone(4096, "2.6.24", batch=4)
    assert many(machine, 2) == [0, 1]
    # No unmovable frame is there: a batch of them comes before the others, in address order.
    first = machine.get(0, UNMOVABLE)
    assert zone.read(0, 0) == [first + 1, first + 2, first + 3, 2, 3]
    assert machine.get(0, MOVABLE) == 2
    # A freed frame has its pageblock's type, whatever it was used for.
    machine.put(first, 0)
    assert machine.get(0, MOVABLE) == 3
    machine.check()


def test_in_2_6_24_six_batches_are_too_many() -> None:
    machine, zone = one_zone(4096, "2.6.24", batch=4)
    frames = many(machine, 40)
    for frame in frames[:23]:
        machine.put(frame, 0)
    assert own(zone, PerCpu.COUNT) == 23
    machine.put(frames[23], 0)
    assert zone.read(0, 0) == frames[23:3:-1]
    # The cold list holds less, and gives half a batch back.
    for frame in frames[24:32]:
        machine.put(frame, 0, cold=True)
    assert own(zone, PerCpu.COLD_COUNT) == 6
    assert machine.get(0, MOVABLE, {"COLD"}) == frames[31]
    assert machine.drain(0) == 25
    machine.check()


def test_in_2_6_24_the_wrong_type_is_better_than_none() -> None:
    """A list that cannot be filled gives what it has."""
    machine, zone = one_zone(1024, "2.6.24", batch=4)
    while zone.plain.free > 4:
        assert machine.get(0, MOVABLE, {"NO_WATERMARKS"}, "min") >= 0
    zone.drain(0)
    while zone.plain.free:
        machine.get(0, MOVABLE, {"NO_WATERMARKS"}, "min")
    left = zone.read(0, 0)
    for expected in left:
        assert machine.get(0, UNMOVABLE, {"NO_WATERMARKS"}, "min") == expected
    assert machine.get(0, UNMOVABLE, {"NO_WATERMARKS"}, "min") == -1
    machine.check()


def test_in_2007_blocks_of_higher_orders_pass_the_lists() -> None:
    for release in ("2.6.24", "2.6.23"):
        machine, zone = one_zone(4096, release)
        frame = machine.get(1, UNMOVABLE)
        machine.put(frame, 1)
        assert zone.events(Cause.PER_CPU_ALLOCATION) == zone.events(Cause.PER_CPU_FREE) == 0
        machine.check()


# The audit


def test_the_audit_finds_each_kind_of_damage() -> None:
    machine, zone = one_zone(batch=4, highatomic_most=512)
    machine.put(machine.get(0, MOVABLE), 0)
    machine.get(3, UNMOVABLE)
    zone.reserve(machine.get(0, RECLAIMABLE))
    machine.check()
    listed = zone.blocks(0, 0, MOVABLE)
    sentinel = per_cpu_sentinel(zone.kernel.buddy, 0, 1)

    def answer(array: str, place: object, value: int) -> int:
        buddy = Buddy(*(one.copy() for one in zone.kernel.buddy))
        damaged = Zone(buddy, zone.kernel.limits.copy(), zone.kernel.per_cpu.copy())
        target = getattr(damaged if array in ("limits", "per_cpu") else buddy, array)
        target[place] = value
        return int(audit.audit_zone(damaged, NO_PAGES, np.zeros((ORDERS, TYPES), np.int64)))

    assert answer("state", listed[0], int(zone.kernel.buddy.state[listed[0]])) == 0
    assert answer("per_cpu", (0, PerCpu.COUNT), 99) == audit.WRONG_PER_CPU
    assert answer("state", listed[0], PER_CPU) == audit.WRONG_PER_CPU
    assert answer("state", listed[0], 32) == audit.WRONG_PER_CPU
    assert answer("next", sentinel, listed[1]) == audit.WRONG_PER_CPU
    assert answer("prev", sentinel, listed[0]) == audit.WRONG_PER_CPU
    # A frame that says it is listed and is not.
    used = next(frame for frame, (order, _) in zone.pair.plain.allocated.items() if order == 0)
    assert answer("state", used, PER_CPU) == audit.WRONG_PER_CPU
    assert answer("state", used, PER_CPU - 4) in (1, 2)
    assert answer("limits", Limit.HIGHATOMIC_RESERVED, 0) == audit.WRONG_RESERVE
