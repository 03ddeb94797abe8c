"""Machines short of memory: whatever happens in what order, every frame is in one state and every page is reached."""

from __future__ import annotations

import contextlib
import random

import numpy as np
import pytest

import vclab
from tests.vclab.test_movable import MOVABLE, check, reached
from vckernels.buddy import HOLE
from vckernels.causes import Cause
from vclab import GFP_ATOMIC, GFP_KERNEL, GFP_VFALLBACK, CompoundPage, ConfigurationError, OutOfMemory, presets
from vclab.gfp import Gfp
from vclab.movable import PageMix


def crowded(rng: random.Random, linux: str = "6.18") -> vclab.System:
    """Return a machine mostly full of pages of one to sixteen frames, some of its frames free here and there."""
    policy = rng.choice(["physical", "late-fallback", "early-fallback", "always-virtual"])
    cpus = rng.choice([1, 2])
    system = vclab.System("k8", linux, "64MiB", levels=4, policy=policy, seed=rng.randrange(99), cpus=cpus)
    taken = []
    while system.memory.zone.free_frames > 1500:
        order = rng.choice((0, 0, 0, 2, 4))
        taken.append((system.memory.allocate(order, MOVABLE), order))
    for frame, order in rng.sample(taken, len(taken) // rng.choice([8, 20])):
        system.memory.free(frame, order)
    system.populate(PageMix(anonymous=0.5, active=0.3, dirty=0.2), swap=rng.choice(["0", "8MiB"]))
    return system


def account(system: vclab.System, live: list[CompoundPage]) -> None:
    """Let every frame be found once: free, a page's, a table's, or a compound page's."""
    check(system)
    system.audit()
    zone = system.memory.zone
    movable = system.movable
    assert movable is not None
    owners = np.zeros(zone.frames, np.int64)
    blocks, orders = zone.blocks()
    local = movable.frames() - zone.first_frame
    pages = zip(local.tolist(), (zone.buddy.state[local] & 15).tolist(), strict=True)
    free = zip((blocks - zone.first_frame).tolist(), orders.tolist(), strict=True)
    for frame, order in [*free, *pages]:
        owners[frame : frame + (1 << order)] += 1
    for page in live:
        owners[page.frames - zone.first_frame] += 1
    owners[system.page_tables.frames() - zone.first_frame] += 1
    assert owners.max() <= 1
    # What is left is the kernel's: slabs of small objects, and blocks that nobody here holds.
    state = zone.buddy.state
    for frame in np.flatnonzero((owners == 0) & (state != HOLE) & (state >= 0)).tolist():
        assert state[frame] >= 32
    for page in live:
        every = page.address + 4096 * np.arange(len(page.frames), dtype=np.uint64)
        assert (system.page_tables.translate(every) >> 12).tolist() == page.frames.tolist()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("linux", presets.linux_names())
def test_every_frame_is_in_one_state_and_every_page_is_reached(linux: str, seed: int) -> None:
    rng = random.Random(seed)
    system = crowded(rng, linux)
    live: list[CompoundPage] = []
    flags = [GFP_KERNEL, GFP_KERNEL | Gfp.NORETRY, GFP_KERNEL | Gfp.RETRY_MAYFAIL, GFP_ATOMIC, GFP_KERNEL | Gfp.MOVABLE]
    for step in range(60):
        what = rng.random()
        movable = system.movable
        assert movable is not None
        if what < 0.6:
            chosen = rng.choice(flags) | rng.choice([Gfp.NONE, Gfp.VFALLBACK])
            with contextlib.suppress(OutOfMemory):
                live.append(system.alloc_pages(rng.choice((0, 1, 3, 5, 7, 8, 9)), chosen))
        elif what < 0.68 and live:
            system.free_pages(live.pop(rng.randrange(len(live))))
        elif what < 0.85:
            numbers = np.array(rng.sample(range(movable.region.used), 200))
            use = system.use_pages(numbers, write=rng.random() < 0.3)
            assert use.resident + use.refaults + use.unserved + use.gone == 200
        elif what < 0.93:
            with contextlib.suppress(ConfigurationError) if linux != "6.18" else contextlib.nullcontext():
                system.compact(rng.choice([0, 20, 90]))
        else:
            held = movable.frames()
            movable.release(held[rng.sample(range(len(held)), min(10, len(held)))])
        if step % 10 == 0:
            account(system, live)
    for page in live:
        system.free_pages(page)
    account(system, [])
    counts = system.ledger.counts
    assert counts[Cause.KSWAPD_RUN] > 0
    assert counts[Cause.PAGE_RECLAIMED] > 0
    assert reached(system)


def test_a_copy_goes_its_own_way() -> None:
    system = crowded(random.Random(9))
    twin = system.copy()
    before = reached(system)
    with contextlib.suppress(OutOfMemory):
        for _ in range(20):
            twin.alloc_pages(5, GFP_KERNEL | GFP_VFALLBACK)
    twin.compact()
    assert reached(system) == before
    check(system)
    check(twin)
