"""Other work beside a stream: where its pages lie, what it does to the TLB, and what a kernel entry forgets."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest

import vclab
from tests.vclab.machines import everything, free_frames, observable
from vckernels import entry
from vckernels.causes import Cause
from vclab import GFP_KERNEL, Background, CompoundPage, ConfigurationError, System
from vclab.background import STACK_PAGES, USER_START, BackgroundState
from vclab.ledger import AccessCost
from vclab.mapping import PageTables
from vclab.units import PAGE_BYTES, PAGE_SHIFT

SHARES = {"kernel": 0.5, "stacks": 0.1, "user": 0.4}


def words_of(tables: PageTables, address: int) -> list[int]:
    """Return the words that lead to an address, from the root to the leaf."""
    memory = dict(zip(tables.frames().tolist(), tables.words().tolist(), strict=True))
    frame = tables.root >> PAGE_SHIFT
    words = []
    for level in range(tables.levels, 0, -1):
        word = memory[frame][address >> (3 + 9 * level) & 511]
        words.append(word)
        if level == 1 or word >> 7 & 1:
            break
        frame = word >> PAGE_SHIFT & (1 << 40) - 1
    return words


def is_set(word: int, flag: np.uint64) -> bool:
    """Return whether a word has a flag."""
    return bool(word & int(flag))


def work_of(system: System) -> BackgroundState:
    """Return the other work of a system that has some."""
    assert system.background is not None
    return system.background


def touched(system: System, pages: CompoundPage | list[CompoundPage], laps: int = 1) -> AccessCost:
    """Load one word of every 4 KiB page in turn."""
    nbytes = sum(page.nbytes for page in (pages if isinstance(pages, list) else [pages]))
    return system.access(pages, np.tile(np.arange(0, nbytes, PAGE_BYTES), laps))


# The settings


@pytest.mark.parametrize(
    "settings",
    [
        {"pages": -1},
        {"gap": -1},
        {"entry_cycles": -1.0},
        {"entry_accesses": -1},
        {"kernel": 0.6},
        {"kernel": -0.1, "stacks": 0.1, "user": 1.0},
        {"kernel": 0.0, "stacks": 0.0, "user": 0.0},
        {"user": float("nan")},
    ],
)
def test_work_that_does_not_exist_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="other work"):
        Background(**settings)  # type: ignore[arg-type]


def test_shares_need_not_add_up_to_the_last_bit() -> None:
    assert Background(kernel=0.7, stacks=0.1, user=0.2).kernel == 0.7
    with pytest.raises(dataclasses.FrozenInstanceError):
        Background().pages = 3  # type: ignore[misc]


def test_too_much_of_it_is_refused_and_takes_nothing() -> None:
    system = System(memory="16MiB")
    before = observable(system)
    with pytest.raises(ConfigurationError, match="not free"):
        system.set_background(Background(pages=5000))
    assert observable(system) == before
    assert system.background is None


# Where it lies


@pytest.mark.parametrize("isolation", [False, True])
@pytest.mark.parametrize(("cpu", "levels"), [("zen3", 4), ("ice-lake", 5)])
def test_its_pages_are_the_allocators_and_are_mapped(cpu: str, levels: int, isolation: bool) -> None:
    """100 pages: 40 of a program, two whole stacks of the 10 that are their share, the others of the kernel."""
    system = System(cpu=cpu, levels=levels, memory="64MiB", isolation=isolation)
    free = system.memory.zone.free_frames
    tables, ranges = system.page_tables.count, system.vmalloc_area.ranges
    system.set_background(Background(pages=100, **SHARES))
    work = work_of(system)
    assert len(np.unique(work.frames)) == 100
    assert not free_frames(system)[work.frames - system.memory.first_frame].any()
    assert system.memory.zone.audit() == 0
    assert system.memory.zone.free_frames == free - 100 - (system.page_tables.count - tables)
    bases = work.beside.target.bases
    assert system.page_tables.translate(bases).tolist() == (work.frames << PAGE_SHIFT).tolist()
    kernel, stacks, user = (part.tolist() for part in np.split(bases, [52, 60]))
    assert kernel == [system.direct_map.address(int(frame)) for frame in work.frames[:52]]
    assert system.vmalloc_area.ranges == ranges + 2
    for stack in (stacks[:STACK_PAGES], stacks[STACK_PAGES:]):
        assert all(address in system.vmalloc_area for address in stack)
        assert np.diff(stack).tolist() == [PAGE_BYTES] * 3
        # A guard page follows it.
        assert system.page_tables.translate([stack[-1] + PAGE_BYTES]).tolist() == [-1]
    assert user == [USER_START + number * PAGE_BYTES for number in range(40)]
    for address in kernel + stacks:
        *upper, leaf = words_of(system.page_tables, address)
        assert not is_set(leaf, entry.USER)
        assert is_set(leaf, entry.GLOBAL) == (not isolation)
    assert len(words_of(system.page_tables, kernel[0])) == levels - 1
    assert len(words_of(system.page_tables, stacks[0])) == levels
    for address in user:
        *upper, leaf = words_of(system.page_tables, address)
        assert len(upper) == levels - 1
        assert all(is_set(word, entry.USER) for word in [*upper, leaf])
        assert not is_set(leaf, entry.GLOBAL)
        assert is_set(leaf, entry.NO_EXECUTE)


@pytest.mark.parametrize("share", SHARES)
def test_it_may_be_of_one_kind_only(share: str) -> None:
    system = System(memory="64MiB", background=Background(pages=64, **(dict.fromkeys(SHARES, 0.0) | {share: 1.0})))
    work = work_of(system)
    starts = {
        "kernel": system.direct_map.address(int(work.frames[0])),
        "stacks": system.vmalloc_area.start,
        "user": USER_START,
    }
    assert work.beside.target.bases[0] == starts[share]
    assert len(work.beside.target.bases) == 64


def test_each_round_visits_every_page_once() -> None:
    work = work_of(System(memory="64MiB", background=Background(pages=200, **SHARES)))
    offsets = work.beside.offsets
    assert sorted((offsets // PAGE_BYTES).tolist()) == list(range(200))
    assert (offsets % 64 == 0).all()
    assert len(set((offsets % PAGE_BYTES).tolist())) > 30
    # The same for a seed, another order for another.
    again = [work_of(System(memory="64MiB", seed=seed, background=Background(pages=200))) for seed in (0, 1)]
    assert again[0].beside.offsets.tolist() == offsets.tolist()
    assert again[1].beside.offsets.tolist() != offsets.tolist()


def test_ageing_leaves_it_where_it_is() -> None:
    system = System(memory="64MiB", background=Background(pages=100, **SHARES), seed=2)
    frames = work_of(system).frames.tolist()
    system.fragment(7, 0.9)
    assert system.memory.zone.audit() == 0
    assert not free_frames(system)[work_of(system).frames - system.memory.first_frame].any()
    translated = system.page_tables.translate(work_of(system).beside.target.bases)
    assert (translated >> PAGE_SHIFT).tolist() == frames


def test_further_work_takes_pages_of_its_own() -> None:
    system = System(memory="64MiB", background=Background(pages=40, **SHARES))
    first = work_of(system)
    system.set_background(Background(pages=40, **SHARES))
    second = work_of(system)
    assert not set(first.frames.tolist()) & set(second.frames.tolist())
    assert not set(first.beside.target.bases.tolist()) & set(second.beside.target.bases.tolist())
    for work in (first, second):
        assert (system.page_tables.translate(work.beside.target.bases) >> PAGE_SHIFT).tolist() == work.frames.tolist()


def test_ageing_leaves_earlier_work_where_it_is_too() -> None:
    """Its pages were taken for good."""
    system = System(memory="64MiB", seed=2)
    frames = []
    for _ in range(2):
        system.set_background(Background(pages=100, **SHARES))
        frames += work_of(system).frames.tolist()
    system.fragment(5, 0.5)
    assert not free_frames(system)[np.array(frames) - system.memory.first_frame].any()


# What it does to a stream


@pytest.mark.parametrize(("order", "count", "level"), [(6, 1, 0), (8, 7, 1)], ids=["first level", "second level"])
def test_a_stream_that_fills_the_tlb_alone_misses_beside_other_work(order: int, count: int, level: int) -> None:
    """64 pages fill the first level of Zen 3, 1792 most of the second; as many of other work drive them out."""
    costs = []
    for share in (0, 1, 2):
        work = Background(pages=share * count << order, kernel=0.0, stacks=0.0, user=1.0) if share else None
        system = System(memory="128MiB", policy="vmalloc", background=work)
        pages = [system.alloc_pages(order, GFP_KERNEL) for _ in range(count)]
        touched(system, pages, laps=3)
        costs.append(touched(system, pages, laps=5))
    alone, beside, more = costs
    assert alone.accesses == beside.accesses == more.accesses == 5 * count << order
    assert more.cycles >= beside.cycles
    for cost in (alone, beside):
        assert cost.tlb_hits.sum() + cost.walks == cost.accesses
    assert alone.tlb_hits[: level + 1].sum() == alone.accesses
    assert beside.tlb_hits[: level + 1].sum() < 0.5 * beside.accesses
    assert beside.cycles > alone.cycles
    assert alone.counts[Cause.BACKGROUND_ACCESS] == 0
    assert beside.counts[Cause.BACKGROUND_ACCESS] == beside.accesses


@pytest.mark.parametrize("gap", [1, 3, 7])
def test_one_of_its_accesses_follows_every_few_of_the_stream(gap: int) -> None:
    """Over calls of any length; what it does is counted with it and not with the stream."""
    system = System(memory="64MiB", policy="vmalloc", background=Background(pages=50, gap=gap, **SHARES))
    page = system.alloc_pages(4, GFP_KERNEL)
    done = 0
    for count in (1, 2, 3, 50, 0, 500):
        system.access(page, vclab.streams.uniform(page.nbytes, count, seed=count))
        done += count
    counts, others = system.ledger.counts, work_of(system).beside.counters
    # The last one of a round follows with the next access of the stream.
    assert counts[Cause.BACKGROUND_ACCESS] == others[Cause.DATA_ACCESS] == (done - 1) // gap
    assert counts[Cause.DATA_ACCESS] == done
    answers = [Cause.FIRST_LEVEL_TLB_HIT, Cause.SECOND_LEVEL_TLB_HIT, Cause.WALK]
    assert counts[answers].sum() == done
    assert others[answers].sum() == (done - 1) // gap
    assert others[Cause.DATA_LEVEL_1 : Cause.DATA_MEMORY + 1].sum() == (done - 1) // gap
    assert others[Cause.WALK] > 0
    assert others[Cause.TLB_FAULT] == 0


def test_no_pages_and_no_entries_are_no_work() -> None:
    offsets = vclab.streams.uniform(16 * PAGE_BYTES, 2000, seed=1)
    costs = []
    for work in (None, Background(pages=0)):
        system = System(memory="64MiB", policy="vmalloc", background=work)
        costs.append(system.access(system.alloc_pages(4, GFP_KERNEL), offsets))
    assert costs[0].counts.tolist() == costs[1].counts.tolist()


# Kernel entries


@pytest.mark.parametrize("period", [500.0, 5000.0, 50_000.0])
@pytest.mark.parametrize("pages", [0, 300])
def test_kernel_entries_come_every_so_many_cycles(period: float, pages: int) -> None:
    work = Background(pages=pages, gap=0, entry_cycles=period, entry_accesses=10, **SHARES)
    system = System(memory="64MiB", policy="vmalloc", background=work)
    page = system.alloc_pages(9, GFP_KERNEL)
    offsets = vclab.streams.uniform(page.nbytes, 30_000, seed=1)
    cycles = 0.0
    entries = accesses = 0
    for part in np.array_split(offsets, 3):
        cost = system.access(page, part)
        cycles += cost.cycles
        entries += int(cost.counts[Cause.KERNEL_ENTRY])
        accesses += int(cost.counts[Cause.BACKGROUND_ACCESS])
        # What is over is kept for the next entry.
        assert entries * period + work_of(system).since_entry == pytest.approx(cycles)
    # An access that takes longer than a period, as a cold one may, puts the next entry off.
    assert entries == pytest.approx(cycles / period, abs=2)
    assert accesses == (10 * entries if pages else 0)


def test_without_a_period_there_are_no_entries() -> None:
    system = System(memory="64MiB", policy="vmalloc", background=Background(pages=10))
    cost = touched(system, system.alloc_pages(6, GFP_KERNEL), laps=10)
    assert cost.counts[Cause.KERNEL_ENTRY] == cost.counts[Cause.TLB_FLUSH] == 0


def entered(cpu: str, isolation: bool, switches: bool, user: bool) -> tuple[AccessCost, int]:
    """Return what 16 pages of the kernel or a program cost in the steady state, and how many pages there are.

    Kernel entries come without accesses of their own.
    """
    work = Background(pages=16, kernel=0.0, stacks=0.0, user=1.0, gap=0, entry_cycles=4000.0, entry_accesses=0)
    work = dataclasses.replace(work, switches=switches)
    system = System(cpu=cpu, memory="64MiB", policy="vmalloc", isolation=isolation, background=work)
    page = system.alloc_pages(4, GFP_KERNEL)
    base = USER_START if user else page.address
    bases = base + np.arange(16, dtype=np.uint64) * np.uint64(PAGE_BYTES)
    offsets = np.tile(np.arange(16) * PAGE_BYTES, 400)
    system.access_at(bases, PAGE_BYTES, offsets[:160])
    cost = system.access_at(bases, PAGE_BYTES, offsets)
    assert cost.counts[Cause.KERNEL_ENTRY] >= 5
    return cost, int(cost.counts[Cause.KERNEL_ENTRY])


@pytest.mark.parametrize("cpu", ["zen3", "skylake-sp", "core2"])
@pytest.mark.parametrize("isolation", [False, True])
@pytest.mark.parametrize("switches", [False, True])
@pytest.mark.parametrize("user", [False, True])
def test_what_a_kernel_entry_forgets(cpu: str, isolation: bool, switches: bool, user: bool) -> None:
    """With another address space all that is not global: a program's pages, and the kernel's under isolation.

    Where the kernel is isolated and there are no PCIDs, so it is even without another address space.
    """
    cost, entries = entered(cpu, isolation, switches, user)
    changes = switches or (isolation and not vclab.presets.cpu(cpu).isolation.pcid.value)
    assert cost.counts[Cause.TLB_FLUSH] == (entries if changes else 0)
    if changes and (user or isolation):
        # Each time all 16 pages are walked for; the last entry may come after the last access to some.
        assert 16 * (entries - 1) <= cost.walks <= 16 * (entries + 1)
    else:
        assert cost.walks == 0


def test_core_2_has_no_pcids_and_the_others_have() -> None:
    """The cases above are those of both kinds."""
    assert not vclab.presets.cpu("core2").isolation.pcid.value
    assert vclab.presets.cpu("zen3").isolation.pcid.value
    assert vclab.presets.cpu("skylake-sp").isolation.pcid.value


@pytest.mark.parametrize("policy", ["vmalloc", "physical"])
@pytest.mark.parametrize("isolation", [False, True])
def test_a_local_flush_keeps_global_pages(isolation: bool, policy: str) -> None:
    system = System(memory="64MiB", policy=policy, isolation=isolation)
    page = system.alloc_pages(4, GFP_KERNEL)
    walks = touched(system, page).walks
    assert walks == (16 if policy == "vmalloc" else 1)
    assert touched(system, page).walks == 0
    system.mmu.flush_local()
    again = touched(system, page)
    assert again.walks == (walks if isolation else 0)
    if isolation:
        # The paging-structure caches are forgotten too.
        assert again.walk_references == walks - 1 + (4 if policy == "vmalloc" else 3)
    system.mmu.flush()
    assert touched(system, page).walks == walks


# Isolation


def leaf_is_global(system: System) -> set[bool]:
    """Return whether leaves of the direct map and the vmalloc area are global."""
    page = system.alloc_pages(2, GFP_KERNEL)
    addresses = [page.address, system.direct_map.address(int(page.frames[0])), system.direct_map.start]
    return {is_set(words_of(system.page_tables, address)[-1], entry.GLOBAL) for address in addresses}


@pytest.mark.parametrize(("cpu", "isolated"), [("skylake-sp", True), ("zen3", False)])
def test_isolation_is_as_the_kernel_decides(cpu: str, isolated: bool) -> None:
    """Linux 6.18 isolates CPUs that Meltdown affects."""
    for policy in ("vmalloc", "physical"):
        system = System(cpu=cpu, linux="6.18", memory="16MiB", policy=policy)
        assert system.isolation == isolated
        assert leaf_is_global(system) == {not isolated}
        for wanted in (False, True):
            forced = System(cpu=cpu, memory="16MiB", policy=policy, isolation=wanted)
            assert leaf_is_global(forced) == {not wanted}


@pytest.mark.parametrize("cpu", vclab.presets.cpu_names())
def test_isolation_needs_both_the_kernels_and_the_cpus_part(cpu: str) -> None:
    affected = vclab.presets.cpu(cpu).isolation.meltdown.value
    assert System(cpu=cpu, memory="16MiB").isolation == affected
    linux = vclab.presets.linux("6.18")
    off = linux.page_table_isolation.model_copy(update={"value": False})
    without = linux.model_copy(update={"page_table_isolation": off})
    assert not System(cpu=cpu, memory="16MiB", linux=without).isolation


# Copies


def state_of(work: BackgroundState) -> tuple[list[int], list[int], float]:
    """Return where other work is, and what it has counted."""
    return work.beside.state.tolist(), work.beside.counters.tolist(), work.since_entry


def test_copies_are_independent() -> None:
    """Work in a copy goes on from the same point, and leaves the original's where it was."""
    work = Background(pages=90, gap=2, entry_cycles=3000.0, switches=True, **SHARES)
    system = System(memory="64MiB", policy="vmalloc", background=work)
    page = system.alloc_pages(6, GFP_KERNEL)
    touched(system, page, laps=7)
    twin = system.copy()
    assert state_of(work_of(twin)) == state_of(work_of(system))
    first = touched(twin, twin.virt_to_page(page.address), laps=9)
    for one, other, mine in ((twin, system, twin.virt_to_page(page.address)), (system, twin, page)):
        before = state_of(work_of(other)), everything(other)
        second = touched(one, mine, laps=9)
        assert (state_of(work_of(other)), everything(other)) == before
    # The original, after its nine laps, is where the copy was after its first nine.
    assert second.counts.tolist() == first.counts.tolist()
    placed: npt.NDArray[np.uint64] = work_of(twin).beside.target.bases
    assert (twin.page_tables.translate(placed) >> PAGE_SHIFT).tolist() == work_of(twin).frames.tolist()
