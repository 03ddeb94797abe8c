"""Programs go on using their pages: what is used stays, what was taken comes back, at a price that is told apart."""

from __future__ import annotations

import numpy as np
import pytest

import vclab
from tests.vclab.test_movable import MOVABLE, check, reached
from vckernels import entry
from vckernels.causes import Cause
from vckernels.pages import ACCESSED, ACTIVE, ANONYMOUS, DIRTY, REFERENCED, Lru, read_lru
from vckernels.pagetable import leaf_word
from vckernels.shrink import shrink_inactive
from vckernels.watermark import ZoneIndex
from vckernels.workingset import ReclaimField
from vclab import ConfigurationError
from vclab.gfp import GFP_KERNEL
from vclab.movable import PageMix


def crowded(swap: str = "0", anonymous: float = 0.0, free: int = 1500) -> vclab.System:
    """Return a machine whose memory is pages of one frame nearly up to the last."""
    system = vclab.System(memory="64MiB", levels=4)
    while system.memory.zone.free_frames > free:
        system.memory.allocate(0, MOVABLE)
    system.populate(PageMix(anonymous=anonymous, active=0.3, dirty=0.0), swap=swap)
    return system


def pages_of(system: vclab.System) -> np.ndarray:
    """Return the numbers of all pages."""
    assert system.movable is not None
    return np.arange(system.movable.region.used)


def test_pages_in_memory_are_found_there_and_marked() -> None:
    system = crowded()
    owners = pages_of(system)
    use = system.use_pages(owners[:100])
    assert (use.resident, use.refaults, use.unserved, use.gone) == (100, 0, 0, 0)
    movable = system.movable
    assert movable is not None
    used = [frame for owner, frame in reached(system).items() if owner < 100]
    assert (movable.pages.flags[np.array(used) - movable.zone.first_frame] & 8 != 0).all()
    assert system.ledger.counts[Cause.REFAULT] == 0


@pytest.mark.parametrize(("swap", "anonymous"), [("0", 0.0), ("32MiB", 1.0)])
def test_what_was_taken_comes_back_where_it_was(swap: str, anonymous: float) -> None:
    system = crowded(swap, anonymous)
    movable = system.movable
    assert movable is not None
    before = reached(system)
    for _ in range(3000):
        assert system.memory.allocate(0, GFP_KERNEL) >= 0
    gone = sorted(set(before) - set(reached(system)))
    assert len(gone) > 1000
    # The latest evictions are within what the active list would have made room for.
    shadows = movable.reclaim_state.shadows
    latest = sorted(gone, key=lambda owner: int(shadows[owner]))[-20:]
    use = system.use_pages(np.array([*latest, *latest]))
    assert (use.refaults, use.unserved, use.gone) == (20, 0, 0)
    at = reached(system)
    flags = movable.pages.flags[np.array([at[owner] for owner in latest]) - movable.zone.first_frame]
    assert (flags & ACTIVE != 0).all()
    assert (flags & ANONYMOUS != 0).all() == (anonymous > 0)
    counts = system.ledger.counts
    assert counts[Cause.REFAULT] == counts[Cause.WORKINGSET_REFAULT] == 20
    assert system.ledger.device_ns["refault"] == 20 * system.linux.devices.refault_ns.value
    check(system)


def test_a_working_set_larger_than_memory_thrashes_and_one_that_fits_does_not() -> None:
    """Uses in turn: of all pages there were every one that is missing takes another's place; of half of them none."""
    shares = {}
    for part in (0.5, 1.0):
        system = crowded()
        owners = pages_of(system)
        wanted = owners[: int(part * len(owners))]
        for _ in range(3000):
            assert system.memory.allocate(0, GFP_KERNEL) >= 0
            if _ % 100 == 0:
                system.use_pages(wanted)
        before = int(system.ledger.counts[Cause.REFAULT])
        for _ in range(3):
            system.use_pages(wanted)
        shares[part] = int(system.ledger.counts[Cause.REFAULT]) - before
        check(system)
    assert shares[0.5] == 0
    assert shares[1.0] > 1000


def test_numbers_without_a_page_and_machines_without_pages() -> None:
    system = crowded()
    movable = system.movable
    assert movable is not None
    movable.release(np.array([reached(system)[5]]))
    assert system.use_pages([5]) == (0, 0, 0, 1)
    for wrong in (-1, movable.region.used):
        with pytest.raises(ConfigurationError, match="no such pages"):
            system.use_pages([wrong])
    with pytest.raises(ConfigurationError, match="populate"):
        vclab.System(memory="16MiB", levels=4).use_pages([0])


def oldest(system: vclab.System, count: int) -> np.ndarray:
    """Return the owners of the oldest inactive pages of files, oldest first."""
    movable = system.movable
    assert movable is not None
    frames = np.empty(movable.zone.frames, np.int64)
    listed = int(read_lru(movable.zone.buddy, Lru.INACTIVE_FILE, frames))
    return movable.pages.owner[frames[:listed][::-1][:count]].astype(np.int64)


def resident(system: vclab.System, owners: np.ndarray) -> np.ndarray:
    """Return which owners' pages are in memory."""
    movable = system.movable
    assert movable is not None
    return system.page_tables.translate([movable.region.address(int(owner)) for owner in owners]) >= 0


def reach(system: vclab.System, owners: np.ndarray, write: bool = False) -> None:
    """Let a program read or write a word of each page, through its CPU's MMU."""
    movable = system.movable
    assert movable is not None
    bases = np.array([movable.region.address(int(owner)) for owner in owners], np.uint64)
    system.access_at(bases, 4096, np.arange(len(owners)) * 4096, write)


def cached(linux: str = "6.18", anonymous: float = 0.0, swap: str = "0", cpus: int = 1) -> vclab.System:
    """Return a machine full of inactive pages, clean ones where they are of files."""
    system = vclab.System(memory="64MiB", levels=4, linux=linux, cpus=cpus)
    for _ in range(14_000):
        system.memory.zone.allocate(0, 1)
    system.populate(PageMix(anonymous=anonymous, active=0.0, dirty=0.0), swap=swap)
    return system


@pytest.mark.parametrize("copied", [False, True])
def test_what_a_cpu_notes_in_an_entry_spares_its_page_once(copied: bool) -> None:
    system = cached()
    owners = oldest(system, 32)
    reach(system, owners[::2])
    system = system.copy() if copied else system
    movable = system.movable
    assert movable is not None
    assert movable.reclaim(0, int(ZoneIndex.NORMAL)) >= 32
    assert resident(system, owners).tolist() == [True, False] * 16
    # Looked at once: what nobody has used since goes when its turn comes again, at the list's end.
    local = movable.frames() - movable.zone.first_frame
    rest = np.isin(movable.pages.owner[local], owners)
    assert (movable.pages.flags[local[rest]] & (ACCESSED | REFERENCED) == REFERENCED).all()
    movable.release(movable.frames()[~rest])
    while movable.frames().size:
        assert movable.reclaim(0, int(ZoneIndex.NORMAL)) > 0
    assert not resident(system, owners).any()


@pytest.mark.parametrize("write", [False, True])
def test_what_a_cpu_has_written_is_written_back_before_it_goes(write: bool) -> None:
    system = cached()
    owners = oldest(system, 32)
    movable = system.movable
    assert movable is not None
    frames = movable.frames()
    movable.release(frames[~np.isin(movable.pages.owner[frames - movable.zone.first_frame], owners)])
    reach(system, owners, write)
    for _ in range(5):
        movable.reclaim(0, int(ZoneIndex.NORMAL))
    assert not resident(system, owners).any()
    assert system.ledger.counts[Cause.WRITE_BACK] == 32 * write


def noted(system: vclab.System, owners: np.ndarray, bit: np.uint64 = entry.ACCESSED) -> np.ndarray:
    """Return of which owners' pages the entry has a bit."""
    movable = system.movable
    assert movable is not None
    tables = system.page_tables.state
    places = [leaf_word(tables, np.uint64(movable.region.address(int(owner)))) for owner in owners]
    return np.array([tables.words[place] & bit != 0 for place in places])


def flags_of(system: vclab.System, owners: np.ndarray) -> np.ndarray:
    """Return the flags of owners' pages."""
    movable = system.movable
    assert movable is not None
    at = reached(system)
    return movable.pages.flags[np.array([at[int(owner)] for owner in owners]) - movable.zone.first_frame]


def test_only_what_reclaim_looks_at_loses_its_accessed_bit_and_only_what_it_unmaps_its_dirty_bit() -> None:
    system = cached()
    movable = system.movable
    assert movable is not None
    every = oldest(system, 14_000)
    first, last = every[:100], every[-100:]
    for owners in (first, last):
        reach(system, owners, write=True)
    before = int(system.ledger.counts[Cause.RECLAIM_SCANNED])
    assert movable.reclaim(0, int(ZoneIndex.NORMAL)) >= 32
    assert 100 < int(system.ledger.counts[Cause.RECLAIM_SCANNED]) - before < 10_000
    assert not noted(system, first).any()
    assert noted(system, last).all()
    # Those that were looked at are spared, so they are not unmapped.
    assert noted(system, every[[*range(100), *range(-100, 0)]], entry.DIRTY).all()
    assert (flags_of(system, first) & (ACCESSED | REFERENCED | DIRTY) == REFERENCED).all()
    assert (flags_of(system, last) & (ACCESSED | REFERENCED | DIRTY) == 0).all()


def forgotten(system: vclab.System) -> set[int]:
    """Return the addresses that CPUs are to forget, and let them forget those."""
    assert system.pressure is not None and system.movable is not None
    addresses = {address for leaves in system.movable.take_forgotten() for address in leaves.addresses.tolist()}
    for mmu in system.mmus if addresses else []:
        mmu.flush_local()
    return addresses


def test_a_cleared_accessed_bit_lets_no_cpu_forget_so_that_a_hit_does_not_set_it_again() -> None:
    system = cached()
    movable = system.movable
    assert movable is not None
    owners = oldest(system, 32)
    reach(system, owners)
    assert movable.reclaim(0, int(ZoneIndex.NORMAL)) >= 32
    assert not noted(system, owners).any()
    walks = int(system.ledger.counts[Cause.WALK])
    reach(system, owners)
    assert system.ledger.counts[Cause.WALK] == walks
    assert not noted(system, owners).any()
    # Pages that went meanwhile are flushed, these are not; only without their translations a walk notes them.
    gone = forgotten(system)
    assert len(gone) >= 32
    assert not gone & {movable.region.address(int(owner)) for owner in owners}
    reach(system, owners)
    assert noted(system, owners).all()


def test_in_2_6_24_cpus_forget_a_page_whose_accessed_bit_is_cleared() -> None:
    system = cached("2.6.24", anonymous=1.0, swap="64MiB")
    movable = system.movable
    assert movable is not None
    owners = oldest(system, 32)
    reach(system, owners)
    assert movable.reclaim(0, int(ZoneIndex.NORMAL)) == 1
    assert not noted(system, owners).any()
    assert (flags_of(system, owners) & ACTIVE != 0).all()
    assert {movable.region.address(int(owner)) for owner in owners} <= forgotten(system)
    reach(system, owners)
    assert noted(system, owners).all()


@pytest.mark.parametrize(
    ("linux", "anonymous", "swap"), [("6.18", 0.0, "0"), ("6.18", 1.0, "64MiB"), ("2.6.24", 1.0, "64MiB")]
)
def test_cpus_are_interrupted_as_often_as_the_release_lets_them_forget(linux: str, anonymous: float, swap: str) -> None:
    """Today for up to 32 pages at once, but before each page that is written to swap; then for each page."""
    system = cached(linux, anonymous, swap, cpus=2)
    assert system.pressure is not None and system.movable is not None
    system.pressure.forget()
    before = system.ledger.counts
    system.movable.reclaim(0, int(ZoneIndex.NORMAL))
    system.movable.reclaim(0, int(ZoneIndex.NORMAL))
    system.pressure.forget()
    counts = system.ledger.counts - before
    batches = int(counts[Cause.UNMAP_BATCH])
    assert counts[Cause.INTERRUPT] == batches
    flushes, single = (int(counts[cause]) for cause in (Cause.TLB_FLUSH, Cause.TLB_INVALIDATION))
    assert (flushes, single) == ((0, 2 * batches) if linux == "2.6.24" else (2 * batches, 0))
    scanned = int(counts[Cause.RECLAIM_SCANNED])
    if not anonymous:
        assert counts[Cause.PAGE_RECLAIMED] == scanned
        assert -(-scanned // 32) <= batches < scanned // 4
    else:
        assert batches >= counts[Cause.SWAP_OUT] > 1


def test_whoever_has_written_forgets_when_a_page_is_unmapped_so_that_the_next_write_is_noted_too() -> None:
    system = cached()
    movable = system.movable
    assert movable is not None
    owners = oldest(system, 32)
    frames = movable.frames()
    movable.release(frames[~np.isin(movable.pages.owner[frames - movable.zone.first_frame], owners)])
    forgotten(system)
    state = movable.zone.buddy, movable.pages, movable.reclaim_state, movable.region.entries(True), movable.moves
    for written in (32, 64):
        reach(system, owners, write=True)
        assert noted(system, owners, entry.DIRTY).all()
        # Spared once for having been accessed, then unmapped and written; what is clean goes only after that.
        for _ in range(2):
            assert shrink_inactive(*state, int(Lru.INACTIVE_FILE), 32) == 0
            movable._apply_moves()
        assert not noted(system, owners, entry.DIRTY).any()
        assert system.ledger.counts[Cause.WRITE_BACK] == written
        assert forgotten(system) == {movable.region.address(int(owner)) for owner in owners}


def test_who_ends_gives_memory_and_swap_back() -> None:
    system = vclab.System(memory="64MiB", levels=4)
    for _ in range(14_000):
        system.memory.zone.allocate(0, 1)
    system.populate(PageMix(anonymous=1.0, active=0.0), swap="16MiB")
    movable = system.movable
    assert movable is not None
    fields = movable.reclaim_state.fields
    every = np.sort(movable.pages.owner[movable.frames() - movable.zone.first_frame])
    for _ in range(20):
        movable.reclaim(0, int(ZoneIndex.NORMAL))
    gone = every[~resident(system, every)]
    assert fields[ReclaimField.SWAP_FREE] == 4096 - len(gone) < 4096
    free = system.memory.zone.free_frames
    some = np.concatenate([gone[:100], every[resident(system, every)][:50], gone[:3]])
    assert system.end_pages(some) == 50
    assert fields[ReclaimField.SWAP_FREE] == 4096 - len(gone) + 100
    assert system.memory.zone.free_frames == free + 50
    assert system.use_pages(some) == (3, 0, 0, 150)
    assert system.end_pages(every) == 14_000 - len(gone) - 50
    assert fields[ReclaimField.SWAP_FREE] == 4096
    assert not movable.reclaim_state.shadows.any()
    with pytest.raises(ConfigurationError, match="numbered 0 to"):
        system.end_pages([movable.region.used])
    system.audit()
