"""Page tables: mapping, surveying, unmapping and walking, against sets of leaves and the plain walk."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.oracles import pagetable as plain
from vckernels import entry, pagetable
from vckernels.causes import Cause, Status
from vckernels.entry import Fault
from vckernels.pagetable import Control, PageTables

SPACE = 1 << 64
FIRST_FRAME = 0x80
MACHINE_FRAMES = 4096
WORD_BITS = (1 << 64) - 1
SWITCHES = ("no_execute", "write_protect", "smep", "smap")


def leaf_bytes(level: int) -> int:
    return 4096 << 9 * (level - 1)


def canonical(address: int, levels: int) -> bool:
    half = 1 << (12 + 9 * levels - 1)
    return address < half or SPACE - half <= address < SPACE


def new_tables(levels: int = 4, capacity: int = 8, physical_bits: int = 46, gigabyte: bool = True) -> PageTables:
    root = FIRST_FRAME + 5
    return pagetable.new_page_tables(
        root, FIRST_FRAME, MACHINE_FRAMES, levels, physical_bits, gigabyte, capacity=capacity
    )


def memory_of(tables: PageTables) -> plain.Memory:
    rows = int(tables.control[Control.TABLES])
    return {int(tables.frames[row]): tables.words[row].tolist() for row in range(rows)}


def snapshot(tables: PageTables) -> list[bytes]:
    return [array.tobytes() for array in tables]


def rules_of(tables: PageTables) -> plain.Rules:
    control = tables.control
    switches = {name: bool(control[Control[name.upper()]]) for name in SWITCHES}
    gigabyte = bool(control[Control.GIGABYTE_PAGES])
    return plain.Rules(int(control[Control.LEVELS]), int(control[Control.PHYSICAL_BITS]), gigabyte, **switches)


def map_leaves(
    tables: PageTables,
    address: int,
    frames: list[int],
    level: int = 1,
    flags: np.uint64 = entry.KERNEL_LEAF,
    table_flags: np.uint64 = entry.KERNEL_TABLE,
) -> PageTables:
    """Survey, grow if need be, and map; new tables come from the lowest frames of some that hold none."""
    missing = pagetable.survey(tables, np.uint64(address), len(frames), level)
    assert missing >= 0
    used = int(tables.control[Control.TABLES])
    if used + missing > len(tables.words):
        tables = pagetable.grown(tables, used + missing)
    candidates = np.arange(10, MACHINE_FRAMES, 3)
    fresh = FIRST_FRAME + candidates[tables.row_of[candidates] < 0][:missing]
    written = pagetable.map_range(
        tables, np.uint64(address), np.array(frames, np.int64), level, flags, table_flags, fresh
    )
    assert written == len(frames) + missing
    assert tables.control[Control.TABLES] == used + missing
    assert tables.frames[used : used + missing].tolist() == fresh.tolist()
    return tables


def translate(tables: PageTables, addresses: list[int]) -> list[int]:
    physical = np.full(len(addresses), -7, np.int64)
    pagetable.translate_many(tables, np.array(addresses, np.uint64), physical)
    return physical.tolist()


class TableMachine(RuleBasedStateMachine):
    """Leaves by address and tables by the region they cover, beside the real tables."""

    @initialize(
        levels=st.sampled_from([4, 5]),
        physical_bits=st.sampled_from([40, 46, 52]),
        gigabyte=st.sampled_from([True, True, False]),
        seed=st.integers(0, 1000),
    )
    def start(self, levels: int, physical_bits: int, gigabyte: bool, seed: int) -> None:
        self.levels = levels
        self.physical_bits = physical_bits
        self.tables = new_tables(levels, 3, physical_bits, gigabyte)
        self.leaves: dict[int, tuple[int, int]] = {}
        self.regions: list[tuple[int, int, int]] = []
        self.regions_of_tables: set[tuple[int, int]] = {(levels, 0)}
        self.added = self.removed = 0
        self.rng = np.random.default_rng(seed)
        half = 1 << (12 + 9 * levels - 1)
        self.bases = [0, half - (1 << 30), SPACE - half, SPACE - (1 << 30), 0x12_3456_7800_0000]

    def place(self, data: st.DataObject, level: int) -> int:
        """Return an address near where tables and halves of the space begin and end."""
        base = data.draw(st.sampled_from(self.bases))
        steps = [data.draw(st.sampled_from(choices)) for choices in ((0, 1, 510), (0, 1, 511), (0, 2, 511))]
        address = base + sum(step * leaf_bytes(i) for step, i in zip(steps, (3, 2, 1), strict=True))
        if data.draw(st.integers(0, 9)) > 0:
            address -= address % leaf_bytes(level)
        return address % SPACE

    def expected_survey(
        self, address: int, count: int, level: int
    ) -> tuple[int, set[tuple[int, int]], set[tuple[int, int]]]:
        """Return what survey should answer, the tables that mapping adds, and the empty ones that it removes."""
        size = leaf_bytes(level)
        targets = range(address, address + count * size, size)
        if address % size or count < 1 or not all(canonical(target, self.levels) for target in targets):
            return -Status.OUT_OF_RANGE, set(), set()
        needed: set[tuple[int, int]] = set()
        for target in targets:
            covering = [(target - target % leaf_bytes(above), above) for above in (1, 2, 3) if above >= level]
            if any(self.leaves.get(at, (0, 0))[0] == above for at, above in covering):
                return -Status.ALREADY_MAPPED, set(), set()
            needed |= {(at, target // leaf_bytes(at + 1)) for at in range(level, self.levels)}
        if any(address <= at < address + count * size for at in self.leaves):
            return -Status.ALREADY_MAPPED, set(), set()
        empty = {
            (at, region)
            for at, region in self.regions_of_tables
            if at < level and address <= region * leaf_bytes(at + 1) < address + count * size
        }
        needed -= self.regions_of_tables
        return len(needed), needed, empty

    @rule(
        data=st.data(),
        level=st.sampled_from([1, 1, 2, 3]),
        count=st.sampled_from([0, 1, 2, 3, 300, 513, 1100]),
        flags=st.integers(0, WORD_BITS),
        table_flags=st.integers(0, WORD_BITS),
    )
    def map(self, data: st.DataObject, level: int, count: int, flags: int, table_flags: int) -> None:
        count = min(count, (0, 1100, 513, 3)[level])
        address = self.place(data, level)
        before = snapshot(self.tables)
        answer, needed, empty = self.expected_survey(address, count, level)
        assert pagetable.survey(self.tables, np.uint64(address), count, level) == answer
        assert snapshot(self.tables) == before
        if answer < 0:
            return
        assert pagetable.survey_empty_tables(self.tables, np.uint64(address), count, level) == len(empty)
        assert snapshot(self.tables) == before
        self.remove_empty(address, count, level, len(empty))
        self.regions_of_tables -= empty
        unit = leaf_bytes(level) // 4096
        frames = (self.rng.integers(0, (1 << (self.physical_bits - 12)) // unit, count) * unit).tolist()
        leaf_flags = np.uint64(flags & (0x1FE | 1 << 63) | 1)
        flags_above = np.uint64(table_flags & (1 << 63 | 0x2E) | 0x7)
        self.tables = map_leaves(self.tables, address, frames, level, leaf_flags, flags_above)
        size = leaf_bytes(level)
        self.leaves |= {address + i * size: (level, frame) for i, frame in enumerate(frames)}
        self.regions_of_tables |= needed
        self.added += len(needed)
        self.regions.append((address, count, level))

    def remove_empty(self, address: int, count: int, level: int, expected: int) -> None:
        """Remove the empty tables in a range; the same frames less theirs hold the same words less those for them."""
        memory = memory_of(self.tables)
        frames = np.full(expected, -1, np.int64)
        written = int(self.tables.counters[Cause.ENTRY_WRITE])
        assert pagetable.remove_empty_tables(self.tables, np.uint64(address), count, level, frames) == expected
        assert int(self.tables.counters[Cause.ENTRY_WRITE]) - written == expected
        self.removed += expected
        gone = set(frames.tolist())
        assert len(gone) == expected
        after = memory_of(self.tables)
        assert after.keys() == memory.keys() - gone
        changed = [(frame, i) for frame in after for i in range(512) if after[frame] != memory[frame]]
        for frame, i in changed:
            word, now = memory[frame][i], after[frame][i]
            assert now == word or (now == 0 and word >> 12 & (1 << 40) - 1 in gone and word & 1)

    @rule(data=st.data(), part=st.booleans())
    def unmap(self, data: st.DataObject, part: bool) -> None:
        if not self.regions:
            return
        address, count, level = data.draw(st.sampled_from(self.regions))
        if part:
            skipped = data.draw(st.integers(0, count - 1))
            address += skipped * leaf_bytes(level)
            count -= skipped
        self.unmap_and_compare(address, count, level)

    @rule(data=st.data(), level=st.sampled_from([1, 2, 3]), count=st.integers(1, 3))
    def unmap_anything(self, data: st.DataObject, level: int, count: int) -> None:
        address = self.place(data, level)
        self.unmap_and_compare(address - address % leaf_bytes(level), count, level)

    def unmap_and_compare(self, address: int, count: int, level: int) -> None:
        targets = [(address + i * leaf_bytes(level)) % SPACE for i in range(count)]
        frames = np.full(count, -1, np.int64)
        before = snapshot(self.tables)
        status = pagetable.unmap_range(self.tables, np.uint64(address), count, level, frames)
        if any(self.leaves.get(target, (0, 0))[0] != level for target in targets):
            assert status in (Status.NOT_MAPPED, Status.OUT_OF_RANGE)
            assert snapshot(self.tables) == before
            return
        assert status == Status.OK
        assert frames.tolist() == [self.leaves.pop(target)[1] for target in targets]

    @rule(more=st.integers(0, 5))
    def grow(self, more: int) -> None:
        before = memory_of(self.tables)
        self.tables = pagetable.grown(self.tables, len(self.tables.words) + more)
        assert memory_of(self.tables) == before

    @rule(data=st.data(), switches=st.tuples(*[st.booleans()] * 4), kind=st.sampled_from("rwx"), user=st.booleans())
    def access(self, data: st.DataObject, switches: tuple[bool, ...], kind: str, user: bool) -> None:
        """Walk, setting accessed and dirty bits, under any control bits."""
        for name, value in zip(SWITCHES, switches, strict=True):
            self.tables.control[Control[name.upper()]] = value
        memory, rules = memory_of(self.tables), rules_of(self.tables)
        root = int(self.tables.frames[0])
        targets = [self.place(data, 1) ^ data.draw(st.sampled_from([0, 0, 0, 1 << 62])) for _ in range(3)]
        targets += [data.draw(st.sampled_from(sorted(self.leaves))) + 4095] if self.leaves else []
        for target in targets:
            flags = {"write": kind == "w", "user": user, "fetch": kind == "x", "update": True}
            expected = plain.walk(memory, root, target, rules, **flags)
            frame, level, references, fault = pagetable.walk(self.tables, np.uint64(target), **flags)
            assert frame == (-1 if expected.frame is None else expected.frame)
            assert level == expected.level
            assert references == len(expected.path)
            assert Fault(fault).name in (expected.faults or {"NONE"})
        assert memory_of(self.tables) == memory
        for name, value in zip(SWITCHES, (True, True, False, False), strict=True):
            self.tables.control[Control[name.upper()]] = value

    @invariant()
    def translations(self) -> None:
        if not self.tables.control[Control.GIGABYTE_PAGES]:
            return
        sample = sorted(self.leaves)[:: max(1, len(self.leaves) // 40)]
        inside = [leaf_bytes(self.leaves[at][0]) // 5 * 3 // 8 * 8 for at in sample]
        expected = [self.leaves[at][1] * 4096 + extra for at, extra in zip(sample, inside, strict=True)]
        before = snapshot(self.tables)
        assert translate(self.tables, [at + extra for at, extra in zip(sample, inside, strict=True)]) == expected
        outside = [base for base in self.bases if not any(self.covers(at, base) for at in self.leaves)]
        assert translate(self.tables, outside) == [-1] * len(outside)
        assert snapshot(self.tables) == before

    def covers(self, leaf: int, address: int) -> bool:
        return leaf <= address < leaf + leaf_bytes(self.leaves[leaf][0])

    @invariant()
    def tables_are_kept_and_found(self) -> None:
        count = int(self.tables.control[Control.TABLES])
        assert count == len(self.regions_of_tables)
        assert [pagetable.row_at(self.tables, int(self.tables.frames[row])) for row in range(count)] == [*range(count)]
        assert np.count_nonzero(self.tables.row_of >= 0) == count
        assert self.tables.counters[Cause.TABLE_PAGE] == self.added == count - 1 + self.removed
        assert (self.tables.frames[count:] == -1).all()


TableMachine.TestCase.settings = settings(
    deadline=None,
    max_examples=60,
    stateful_step_count=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestTableMachine = TableMachine.TestCase


@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize("level", [1, 2, 3])
def test_a_walk_loads_one_word_for_each_level(levels: int, level: int) -> None:
    address = 0xFFFF_8880_0000_0000
    tables = map_leaves(new_tables(levels), address, [1 << 20], level)
    inside = leaf_bytes(level) - 4096
    answer = pagetable.walk(tables, np.uint64(address + inside), False, False, False, False)
    assert answer == ((1 << 20) + inside // 4096, level, levels - level + 1, Fault.NONE)
    outside = pagetable.walk(tables, np.uint64(0x1000), False, False, False, False)
    assert outside == (-1, levels, 1, Fault.NOT_PRESENT)


@pytest.mark.parametrize("level", [2, 3])
def test_the_attribute_bit_moves_in_large_leaves(level: int) -> None:
    address, frame = 1 << 40, 3 << 18
    flags = entry.PRESENT | entry.WRITABLE | entry.PAT
    tables = map_leaves(new_tables(), address, [frame], level, flags)
    memory = memory_of(tables)
    path = plain.walk(memory, int(tables.frames[0]), address, rules_of(tables)).path
    table, index = path[-1]
    assert memory[table][index] == frame << 12 | 1 << 12 | 1 << 7 | 0b11
    assert translate(tables, [address + 0x1238]) == [(frame << 12) + 0x1238]
    frames = np.empty(1, np.int64)
    assert pagetable.unmap_range(tables, np.uint64(address), 1, level, frames) == Status.OK
    assert frames.tolist() == [frame]


def test_words_written_are_counted() -> None:
    tables = map_leaves(new_tables(capacity=16), 511 * 4096, list(range(600)))
    assert tables.counters[Cause.TABLE_PAGE] == 5
    assert tables.counters[Cause.ENTRY_WRITE] == 600 + 5
    frames = np.empty(600, np.int64)
    assert pagetable.unmap_range(tables, np.uint64(511 * 4096), 600, 1, frames) == Status.OK
    assert frames.tolist() == list(range(600))
    assert tables.counters[Cause.ENTRY_WRITE] == 600 + 5 + 600


def test_reused_table_frames_start_empty() -> None:
    """A spare row that holds old words is cleared when it becomes a table."""
    tables = new_tables(capacity=8)
    tables.words[1:] = entry.leaf(77, 1, entry.KERNEL_LEAF)
    tables = map_leaves(tables, 0, [9])
    assert np.count_nonzero(tables.words[:4]) == 4
    assert translate(tables, [0, 4096, 1 << 21, 1 << 30, 1 << 39]) == [9 << 12, -1, -1, -1, -1]


def test_unmapping_keeps_tables_and_mapping_uses_them_again() -> None:
    tables = map_leaves(new_tables(), 1 << 21, [1, 2, 3])
    frames = np.empty(3, np.int64)
    assert pagetable.unmap_range(tables, np.uint64(1 << 21), 3, 1, frames) == Status.OK
    assert tables.control[Control.TABLES] == 4
    assert pagetable.survey(tables, np.uint64(1 << 21), 512, 1) == 0
    # The empty table makes way for a 2M leaf, or with the one above it for a 1G leaf.
    assert pagetable.survey(tables, np.uint64(1 << 21), 1, 2) == 0
    assert pagetable.survey_empty_tables(tables, np.uint64(1 << 21), 1, 2) == 1
    assert pagetable.survey(tables, np.uint64(0), 1, 3) == 0
    assert pagetable.survey_empty_tables(tables, np.uint64(0), 1, 3) == 2


def test_a_table_with_a_leaf_does_not_make_way() -> None:
    tables = map_leaves(new_tables(), 1 << 21, [1, 2, 3])
    frames = np.empty(2, np.int64)
    assert pagetable.unmap_range(tables, np.uint64(1 << 21), 2, 1, frames) == Status.OK
    before = snapshot(tables)
    assert pagetable.survey(tables, np.uint64(1 << 21), 1, 2) == -Status.ALREADY_MAPPED
    assert pagetable.survey(tables, np.uint64(0), 2, 2) == -Status.ALREADY_MAPPED
    assert pagetable.survey(tables, np.uint64(0), 1, 3) == -Status.ALREADY_MAPPED
    assert snapshot(tables) == before
    assert pagetable.unmap_range(tables, np.uint64(1 << 21 | 2 << 12), 1, 1, frames) == Status.OK
    assert pagetable.survey(tables, np.uint64(1 << 21), 1, 2) == 0


@pytest.mark.parametrize("level", [2, 3])
def test_rows_stay_dense_when_empty_tables_go(level: int) -> None:
    """Tables of lower rows go, the last rows take their places, and what they map is found as before."""
    tables = new_tables(capacity=16)
    gone, kept = (0, 1 << 21, 5 << 21), (1 << 30, 1 << 39)
    for address in gone:
        tables = map_leaves(tables, address, [7, 8])
    for address in kept:
        tables = map_leaves(tables, address, [9])
    frames = np.empty(2, np.int64)
    for address in gone:
        assert pagetable.unmap_range(tables, np.uint64(address), 2, 1, frames) == Status.OK
    count = int(tables.control[Control.TABLES])
    leaves = 6 if level == 2 else 1
    missing = pagetable.survey(tables, np.uint64(0), leaves, level)
    assert missing == 0
    empty = pagetable.survey_empty_tables(tables, np.uint64(0), leaves, level)
    assert empty == (3 if level == 2 else 4)
    old = np.full(empty, -1, np.int64)
    written = int(tables.counters[Cause.ENTRY_WRITE])
    assert pagetable.remove_empty_tables(tables, np.uint64(0), leaves, level, old) == empty
    assert int(tables.counters[Cause.ENTRY_WRITE]) == written + empty
    assert tables.control[Control.TABLES] == count - empty
    assert [pagetable.row_at(tables, frame) for frame in old.tolist()] == [-1] * empty
    rows = [pagetable.row_at(tables, frame) for frame in tables.frames[: count - empty].tolist()]
    assert rows == list(range(count - empty))
    assert pagetable.survey_empty_tables(tables, np.uint64(0), leaves, level) == 0
    tables = map_leaves(tables, 0, [i << 18 for i in range(leaves)], level)
    assert translate(tables, [0, *kept, kept[0] + 4096]) == [0, 9 << 12, 9 << 12, -1]


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("first", [0, 511 * 4096, (1 << 30) - 4096, (1 << 39) - 8192, (1 << 46)])
def test_undoing_a_mapping_leaves_the_tree_as_it_was(first: int, level: int) -> None:
    tables = map_leaves(new_tables(capacity=32), 4096, [5])
    tables = map_leaves(tables, 3 << 39, [6])
    address = first + leaf_bytes(level) - 1 & -leaf_bytes(level) or leaf_bytes(level)
    memory, row_of = memory_of(tables), tables.row_of.copy()
    keep = int(tables.control[Control.TABLES])
    leaves = [512 * i for i in range(1030)]
    tables = map_leaves(tables, address + 8192 * (level == 1), leaves, level)
    address += 8192 * (level == 1)
    added = [int(frame) for frame in tables.frames[keep : int(tables.control[Control.TABLES])]]
    frames = np.empty(len(leaves), np.int64)
    assert pagetable.unmap_range(tables, np.uint64(address), len(leaves), level, frames) == Status.OK
    back = np.full(len(added), -1, np.int64)
    pagetable.remove_newest_tables(tables, np.uint64(address), len(leaves), level, keep, back)
    assert back.tolist() == added
    assert memory_of(tables) == memory
    assert tables.row_of.tolist() == row_of.tolist()
    assert (tables.frames[keep:] == -1).all()


def test_a_partly_mapped_range_is_left_alone() -> None:
    tables = map_leaves(new_tables(), 4096, [7])
    before = snapshot(tables)
    assert pagetable.survey(tables, np.uint64(0), 4, 1) == -Status.ALREADY_MAPPED
    frames = np.empty(2, np.int64)
    assert pagetable.unmap_range(tables, np.uint64(4096), 2, 1, frames) == Status.NOT_MAPPED
    assert pagetable.unmap_range(tables, np.uint64(0), 1, 2, frames) == Status.NOT_MAPPED
    assert snapshot(tables) == before


@pytest.mark.parametrize("levels", [4, 5])
def test_ranges_that_do_not_exist(levels: int) -> None:
    tables = new_tables(levels)
    before = snapshot(tables)
    half = 1 << (12 + 9 * levels - 1)
    impossible = [
        (1, 1, 1),
        (4096, 1, 2),
        (0, 0, 1),
        (0, -1, 1),
        (half, 1, 1),
        (half - 4096, 2, 1),
        (SPACE - half - 4096, 2, 1),
        (SPACE - 4096, 2, 1),
        (0, half // 4096 + 1, 1),
        (0, 1 << 52, 1),
        (half - 4096, (SPACE - 2 * half) // 4096 + 2, 1),
        (0, (1 << 52) + 1, 1),
        (0, 1 << 62, 3),
    ]
    for address, count, level in impossible:
        assert pagetable.survey(tables, np.uint64(address), count, level) == -Status.OUT_OF_RANGE
    assert snapshot(tables) == before
    assert pagetable.survey(tables, np.uint64(half - 4096), 1, 1) == levels - 1
    assert pagetable.survey(tables, np.uint64(SPACE - 4096), 1, 1) == levels - 1


def test_grown_shares_the_small_arrays_and_keeps_the_tables() -> None:
    tables = map_leaves(new_tables(capacity=4), 0, [11])
    more = pagetable.grown(tables, 9)
    assert more.words.shape == (9, 512)
    assert memory_of(more) == memory_of(tables)
    assert more.frames.tolist() == [*tables.frames.tolist(), *[-1] * 5]
    assert more.row_of is tables.row_of
    assert more.control is tables.control
    assert more.counters is tables.counters


@pytest.mark.parametrize("frame", [-1, 0, FIRST_FRAME - 1, FIRST_FRAME, FIRST_FRAME + MACHINE_FRAMES, 1 << 39])
def test_no_table_in_a_frame(frame: int) -> None:
    assert pagetable.row_at(new_tables(), frame) == -1


def test_a_word_that_names_no_table_reads_as_not_present() -> None:
    tables = new_tables()
    tables.words[0, 0] = np.uint64((FIRST_FRAME + MACHINE_FRAMES) << 12) | entry.KERNEL_TABLE
    assert pagetable.walk(tables, np.uint64(0), False, False, False, False) == (-1, 3, 2, Fault.NOT_PRESENT)
    assert plain.walk(memory_of(tables), FIRST_FRAME + 5, 0, rules_of(tables)).level == 3


def test_walk_many_answers_as_walk_does() -> None:
    tables = map_leaves(new_tables(capacity=16), 0, list(range(100, 700)), flags=entry.PRESENT)
    tables = map_leaves(tables, 1 << 30, [1 << 18], 3, flags=entry.PRESENT | entry.USER | entry.WRITABLE)
    rng = np.random.default_rng(5)
    addresses = rng.integers(0, 3 << 30, 500, dtype=np.uint64)
    addresses[::7] = rng.integers(0, SPACE, len(addresses[::7]), dtype=np.uint64)
    addresses[::3] &= np.uint64(0x3F_FFFF)
    for access in ((False, False, False), (True, False, False), (False, True, False), (False, False, True)):
        frames: npt.NDArray[np.int64] = np.empty(500, np.int64)
        levels, faults = np.empty((2, 500), np.int8)
        total = pagetable.walk_many(tables, addresses, *access, False, frames, levels, faults)
        single = [pagetable.walk(tables, address, *access, False) for address in addresses]
        assert list(zip(frames, levels, faults, strict=True)) == [(f, at, why) for f, at, _, why in single]
        assert total == sum(references for _, _, references, _ in single)


def test_unmapping_an_address_that_does_not_exist_changes_nothing() -> None:
    tables = pagetable.new_page_tables(0, 0, 64, 4, 40, True)
    frames = np.array([50], np.int64)
    start = np.uint64(0x1000)
    assert pagetable.survey(tables, start, 1, 1) == 3
    pagetable.map_range(tables, start, frames, 1, entry.KERNEL_LEAF, entry.KERNEL_TABLE, np.array([1, 2, 3]))
    before = snapshot(tables)
    for address, count in ((0x1008, 1), (0x1000 | 1 << 60, 1), (0x1000, 0), (0x1000, 1 << 60)):
        status = pagetable.unmap_range(tables, np.uint64(address), count, 1, frames)
        assert status == Status.OUT_OF_RANGE
    assert snapshot(tables) == before
    assert pagetable.unmap_range(tables, start, 1, 1, frames) == Status.OK
