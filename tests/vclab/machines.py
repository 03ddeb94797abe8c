"""What a whole machine must look like at any moment, whoever did what to it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.oracles import pagetable as plain
from vckernels.buddy import MAX_ORDER
from vclab import CompoundPage, System
from vclab.units import PAGE_BYTES, PAGE_SHIFT

Blocks = set[tuple[int, int]]


def free_blocks(system: System) -> Blocks:
    """Return (first frame, order) of every free block."""
    frames, orders = system.memory.zone.blocks()
    return set(zip(frames.tolist(), orders.tolist(), strict=True))


def merged(free: npt.NDArray[np.bool_]) -> Blocks:
    """Return the largest aligned blocks that some free frames make up: what is left when all has merged."""
    blocks: Blocks = set()
    whole = free.copy()
    for order in range(MAX_ORDER):
        pairs = whole.reshape(-1, 2)
        both = pairs.all(axis=1)
        lonely = (pairs & ~both[:, None]).reshape(-1)
        blocks |= {(int(number) << order, order) for number in np.flatnonzero(lonely)}
        whole = both
    return blocks | {(int(number) << MAX_ORDER, MAX_ORDER) for number in np.flatnonzero(whole)}


def free_frames(system: System) -> npt.NDArray[np.bool_]:
    """Return which frames of the zone lie in free blocks."""
    free = np.zeros(system.memory.frames, np.bool_)
    for frame, order in free_blocks(system):
        part = free[frame : frame + (1 << order)]
        assert not part.any()
        part[:] = True
    return free


def held_frames(system: System, pages: Iterable[CompoundPage]) -> npt.NDArray[np.int64]:
    """Return every frame that pages, page tables and control structures hold."""
    objects = system.compound.objects.frames()
    return np.concatenate([system.page_tables.frames(), objects, *(page.frames for page in pages)])


def sampled_addresses(page: CompoundPage, rng: np.random.Generator) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return addresses of a page and the physical ones they stand for: all page starts, last bytes, random bytes."""
    starts = np.arange(len(page.frames)) * PAGE_BYTES
    offsets = np.concatenate([starts, starts + PAGE_BYTES - 1, rng.integers(0, page.nbytes, 20)])
    physical = (page.frames[offsets >> PAGE_SHIFT] << PAGE_SHIFT) + (offsets & (PAGE_BYTES - 1))
    return np.uint64(page.address) + offsets.astype(np.uint64), physical


def check_page(system: System, page: CompoundPage, frames: list[int], rng: np.random.Generator) -> None:
    """Check that a page is where the allocator put it, whichever way one asks."""
    assert page.frames.tolist() == frames
    addresses, physical = sampled_addresses(page, rng)
    np.testing.assert_array_equal(system.page_tables.translate(addresses), physical)
    assert (addresses[: len(frames)] % PAGE_BYTES == 0).all()
    inside = int(rng.integers(page.nbytes))
    for address in (page.address, page.address + inside, page.address + page.nbytes - 1):
        assert system.virt_to_page(address) is page
        assert system.vmalloc_to_page(address) is page
    assert system.page_address(page) == page.address
    assert system.vmalloc_address(page) == (page.address if page.is_virtual else None)
    assert (page.address in system.vmalloc_area) == page.is_virtual
    if not page.is_virtual:
        assert frames == list(range(frames[0], frames[0] + (1 << page.order)))
        assert frames[0] % (1 << page.order) == 0
        assert page.overhead_bytes == 0


def check_memory(system: System, mapped: int = 0) -> None:
    """Check that every frame is free or held by exactly one thing, and that free buddies have merged.

    ``mapped`` is the number of ranges that vmap made.
    """
    assert system.memory.zone.audit() == 0
    free = free_frames(system)
    held = held_frames(system, system.pages)
    assert len(np.unique(held)) == len(held)
    assert not free[held - system.memory.first_frame].any()
    virtual = [page for page in system.pages if page.is_virtual]
    small_objects = system.compound.objects
    larger = small_objects.frames_held - len(small_objects.frames())
    assert free.sum() + len(held) + larger == system.memory.frames
    assert system.vmalloc_area.ranges == sum(len(page.mappings) for page in virtual) + mapped
    assert system.page_tables.count == system.boot_tables + system.vmalloc_area.retained_tables


def observable(system: System) -> dict[str, Any]:
    """Return what a failed allocation must leave as it was."""
    return {
        "buddyinfo": system.buddyinfo().tolist(),
        "tables": system.page_tables.count,
        "words": system.page_tables.words().tobytes(),
        "ranges": system.vmalloc_area.ranges,
        "retained": system.vmalloc_area.retained_tables,
        "objects": system.compound.objects.frames_held,
        "pages": [(page.address, page.freed) for page in system.pages],
    }


def everything(system: System) -> dict[str, Any]:
    """Return the whole state of a machine, counters included, for comparing it with itself later."""
    states: dict[str, Any] = {
        "buddy": system.memory.zone.buddy,
        "tables": system.page_tables.state,
        "areas": system.vmalloc_area.areas,
    }
    for number, mmu in enumerate(system.mmus):
        states |= {f"mmu {number}": (mmu.state.regions, mmu.state.counters), f"tlb {number}": mmu.state.tlb}
    arrays = {name: [np.asarray(array).tobytes() for array in state] for name, state in states.items()}
    objects = system.compound.objects
    return arrays | observable(system) | {"spare": repr(objects._partial), "full": repr(objects._full)}


def walked(system: System, addresses: npt.ArrayLike) -> list[int]:
    """Return physical addresses found by the plain walk over the machine's table words, -1 where there is none."""
    tables = system.page_tables
    memory = dict(zip(tables.frames().tolist(), tables.words().tolist(), strict=True))
    paging = system.cpu.paging
    rules = plain.Rules(
        levels=tables.levels,
        physical_bits=paging.physical_bits.value,
        gigabyte_pages="1G" in paging.page_sizes.value,
    )
    answers = []
    for address in np.asarray(addresses, np.uint64).tolist():
        walk = plain.walk(memory, tables.root >> PAGE_SHIFT, address, rules)
        answers.append(-1 if walk.frame is None else (walk.frame << PAGE_SHIFT) + address % PAGE_BYTES)
    return answers
