"""A machine small in everything: it allocates, maps, accesses, ages and fails."""

import contextlib

import numpy as np

import vclab
from vckernels import buddy, claim, entry, pagetable, vmap
from vclab import GFP_KERNEL, Background, MmuOptions, streams

for policy in ("vmalloc", "physical"):
    system = vclab.System(memory="64MiB", policy=policy, unmap="range")
    page = system.alloc_pages(3, GFP_KERNEL)
    system.access(page, vclab.streams.uniform(page.nbytes, 100), write=True)
    array = np.array([system.direct_map.address(0)], np.uint64)
    system.access_at(np.array([page.address], np.uint64), page.nbytes, [0, 1], arrays=array, array_nbytes=page.nbytes)
    system.virt_to_page(page.address)
    tables = system.page_tables
    tables.translate([page.address])
    answers = [np.empty(1, kind) for kind in (np.int64, np.int8, np.int8)]
    pagetable.walk_many(tables.state, np.array([page.address], np.uint64), False, False, False, False, *answers)
    system.memory.zone.audit(), system.memory.zone.blocks(), system.memory.free_share
    system.free_pages(page)
    system.mmu.flush()
    system.mmu.flush_local()
    system.mmu.empty_caches()
    system.mmu.leave_cleared(page.frames)
    # A small page's tables make way for a large leaf, and are taken back.
    tables.map(1 << 30, np.zeros(1, np.int64), 1)
    tables.unmap(1 << 30, 1)
    tables.map(1 << 30, np.zeros(1, np.int64), 2)
    change = tables.map(1 << 40, np.zeros(1, np.int64), 1)
    tables.undo(1 << 40, 1, 1, change.added)
    zone = system.memory.zone
    ranges = np.empty(64, np.int64)
    vmap.list_ranges(system.vmalloc_area.areas, ranges, ranges)
    buddy.describe_frames(zone.buddy, np.empty(zone.frames, np.uint8))
    buddy.adopt(buddy.new_buddy(64), np.zeros(1, np.int64), np.zeros(1, np.int8), np.zeros(1, np.int8))
    claim.allocate_many(zone.buddy, np.zeros(1, np.int8), np.zeros(1, np.int8), ranges)
    slots = -np.ones(1, np.int64)
    claim.run_trace(zone.buddy, np.zeros(1, np.int64), np.zeros(1, np.int8), slots, np.zeros(1, np.int8))
entry.error_code(1, False, False, False, True, True)
work = Background(pages=16, entry_cycles=1000.0)
system = vclab.System(memory="64MiB", background=work, mmu=MmuOptions(data_caches="colour-neutral"))
page = system.alloc_pages(3, GFP_KERNEL)
for offsets in (
    streams.sequential(page.nbytes, 99),
    streams.strided(page.nbytes, 99, 64),
    streams.chase(page.nbytes, 99),
    streams.zipf(page.nbytes, 99),
    streams.hash_table(page.nbytes, 99),
):
    system.access(page, offsets)
system.unusable_free_index(9)
with contextlib.suppress(vclab.FragmentationNotReached):
    system.fragment(9, 0.5)
vclab.tlb_misses([1, 2], [vclab.TlbLevel(4, 4)])
