"""Control structures in whole frames: sizes as Linux's, frames shared, taken and given back."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from vclab.memory import Memory, Migratetype, Zone
from vclab.structures import KMALLOC_SIZES, SmallObjects, block_order, kmalloc_size

PAGE = 4096


@pytest.fixture
def memory() -> Memory:
    """4 MiB from frame 2048 on."""
    return Memory([Zone("Normal", 2048, 1024)])


@pytest.mark.parametrize(
    ("nbytes", "size"),
    [
        (1, 8),
        (8, 8),
        (9, 16),
        (64, 64),
        (65, 96),
        (96, 96),
        (97, 128),
        (129, 192),
        (193, 256),
        (2048, 2048),
        (2049, 4096),
        (4096, 4096),
        (4097, 8192),
        (8192, 8192),
        (8193, 16384),
        (4 << 20, 4 << 20),
    ],
)
def test_kmalloc_rounds_up_to_its_sizes(nbytes: int, size: int) -> None:
    assert kmalloc_size(nbytes) == size


@pytest.mark.parametrize(("nbytes", "order"), [(1, 0), (4096, 0), (4097, 1), (8192, 1), (8193, 2), (4 << 20, 10)])
def test_blocks_are_the_smallest_that_hold_it(nbytes: int, order: int) -> None:
    assert block_order(nbytes) == order


@pytest.mark.parametrize("size", [*KMALLOC_SIZES, 72])
def test_objects_of_a_size_share_frames_and_never_overlap(memory: Memory, size: int) -> None:
    """As many as fit in a frame; the first one of a frame takes it, the last one gives it back."""
    objects = SmallObjects(memory)
    fit = PAGE // size
    count = 2 * fit + 1
    got = [objects.allocate(size) for _ in range(count)]
    taken = [one[1] for one in got if one is not None]
    addresses = sorted(one[0] for one in got if one is not None)
    assert len(addresses) == count
    assert [number for number, new in enumerate(taken) if new] == [0, fit, 2 * fit]
    assert objects.frames_held == sum(taken) == 3
    for before, after in pairwise(addresses):
        assert after - before >= size
    for address in addresses:
        assert address // PAGE == (address + size - 1) // PAGE
    assert sorted(objects.frames().tolist()) == sorted({address // PAGE for address in addresses})
    free = memory.zone.free_frames
    for address in addresses:
        objects.free(address, size)
    assert objects.frames_held == len(objects.frames()) == 0
    assert memory.zone.free_frames == free + 3 == 1024


@pytest.mark.parametrize(("size", "frames"), [(2049, 1), (4096, 1), (8192, 2), (1 << 16, 16)])
def test_what_is_larger_than_half_a_page_has_a_block_of_its_own(memory: Memory, size: int, frames: int) -> None:
    objects = SmallObjects(memory)
    first, second = objects.allocate(size), objects.allocate(size)
    assert first is not None
    assert second is not None
    assert (first[1], second[1]) == (frames, frames)
    assert abs(second[0] - first[0]) >= size
    assert first[0] % (frames * PAGE) == 0
    assert objects.frames_held == 2 * frames
    assert memory.zone.free_frames == 1024 - 2 * frames
    objects.free(first[0], size)
    assert objects.frames_held == frames
    objects.free(second[0], size)
    assert memory.zone.free_frames == 1024


def test_frames_are_unmovable_ones(memory: Memory) -> None:
    objects = SmallObjects(memory)
    got = objects.allocate(64)
    assert got is not None
    assert memory.zone.buddy.state[(got[0] >> 12) - 2048] == 32 + 16 * Migratetype.UNMOVABLE


@pytest.mark.parametrize("size", [64, 4096, 1 << 14])
def test_without_memory_nothing_is_taken(memory: Memory, size: int) -> None:
    """Objects still fit into frames that are held already."""
    objects = SmallObjects(memory)
    kept = objects.allocate(64)
    assert kept is not None
    memory.zone.allocate_all(0, Migratetype.MOVABLE, memory.zone.free_frames)
    got = objects.allocate(size)
    if size == 64:
        assert got == (kept[0] + 64, 0)
    else:
        assert got is None
    assert objects.frames_held == 1
    assert SmallObjects(memory).allocate(64) is None


def test_a_full_frame_is_used_again_once_something_in_it_is_free(memory: Memory) -> None:
    objects = SmallObjects(memory)
    addresses = [one[0] for _ in range(4) if (one := objects.allocate(1024)) is not None]
    objects.free(addresses[2], 1024)
    assert objects.allocate(1024) == (addresses[2], 0)
    assert objects.frames_held == 1


def test_a_random_history_and_its_copy(memory: Memory) -> None:
    """Live objects never overlap; a copy goes its own way over its own memory."""
    rng = random.Random(2)
    objects = SmallObjects(memory)
    live: dict[int, int] = {}
    for step in range(2000):
        if live and rng.random() < 0.48:
            address = rng.choice(list(live))
            objects.free(address, live.pop(address))
        else:
            size = rng.choice((8, 64, 72, 96, 512, 1024, 2048, 4096, 8192))
            got = objects.allocate(size)
            assert got is not None
            assert got[0] not in live
            live[got[0]] = size
        if step == 1000:
            twin_memory = memory.copy()
            twin = objects.copy(twin_memory)
            twin_live = dict(live)
    ends = [(address, address + size) for address, size in sorted(live.items())]
    assert all(after[0] >= before[1] for before, after in pairwise(ends))
    assert memory.zone.free_frames == 1024 - objects.frames_held
    for address, size in twin_live.items():
        twin.free(address, size)
    assert twin.frames_held == 0
    assert twin_memory.zone.free_blocks.tolist() == [0] * 10 + [1]
    for address, size in live.items():
        objects.free(address, size)
    assert memory.zone.free_blocks.tolist() == [0] * 10 + [1]


def test_single_pages_are_taken_together_or_not_at_all(memory: Memory) -> None:
    objects = SmallObjects(memory)
    pages = objects.allocate_pages(5)
    assert pages is not None
    assert len(set(pages)) == 5
    assert all(page % PAGE == 0 for page in pages)
    assert objects.frames_held == 5
    assert sorted(objects.frames().tolist()) == sorted(page // PAGE for page in pages)
    assert objects.allocate_pages(1020) is None
    assert objects.frames_held == 5
    for page in pages:
        objects.free(page, PAGE)
    assert objects.frames_held == len(objects.frames()) == 0
    assert memory.zone.free_frames == 1024
