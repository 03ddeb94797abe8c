"""asv: how fast the kernels are.

Each benchmark runs once on fresh state, which ``setup`` makes before every call (asv_runner 0.3.2), after having
called the kernel on a little of the same, so that neither compiling nor loading machine code is timed. A call takes
a few milliseconds at least; a shorter one would time its surroundings.
"""

from __future__ import annotations

import numpy as np

from benchmarks import common, counts
from vckernels import claim, pagetable
from vckernels import entry as entries
from vckernels import mmu as mmu_kernels
from vckernels import tlb as tlb_kernels

COUNT = 1_000_000


class Timed:
    """What asv is told about every benchmark here."""

    number = 1
    rounds = 2
    repeat = (3, 10, 2.0)
    warmup_time = 0.05


class Buddy(Timed):
    """Allocations and frees by trace."""

    param_names = ("trace",)
    params = (common.TRACES,)

    def setup(self, kind: str) -> None:
        self.trace = common.trace(kind, COUNT)
        few = slice(0, 100)
        claim.run_trace(
            *self.trace.start()[:1],
            self.trace.requests[few].copy(),
            self.trace.migratetypes[few].copy(),
            *self.trace.start()[1:],
        )
        self.state = self.trace.start()

    def time_run_trace(self, *_: object) -> None:
        buddy, slots, slot_orders = self.state
        claim.run_trace(buddy, self.trace.requests, self.trace.migratetypes, slots, slot_orders)

    def peakmem_run_trace(self, *_: object) -> None:
        self.time_run_trace()


class Tlb(Timed):
    """Two TLB levels without page tables."""

    param_names = ("geometry", "stream")
    params = (tuple(common.GEOMETRIES), tuple(common.STREAMS))

    def setup(self, geometry: str, stream: str) -> None:
        self.pages = common.offsets(stream, COUNT) >> 12
        self.misses = np.zeros(2, np.int64)
        tlb_kernels.count_misses(common.tlb(geometry), self.pages[:100].copy(), self.misses)
        self.tlb = common.tlb(geometry)

    def time_count_misses(self, *_: object) -> None:
        tlb_kernels.count_misses(self.tlb, self.pages, self.misses)

    def peakmem_count_misses(self, *_: object) -> None:
        tlb_kernels.count_misses(self.tlb, self.pages, self.misses)


class DataCache(Timed):
    """Data caches without translation."""

    param_names = ("processor", "stream")
    params = (tuple(common.PROCESSORS), tuple(common.STREAMS))

    def setup(self, processor: str, stream: str) -> None:
        self.lines = common.offsets(stream, COUNT) >> 6
        self.served = np.zeros(4, np.int64)
        common.run_lines(common.data_cache(processor), self.lines[:100].copy(), self.served)
        self.cache = common.data_cache(processor)

    def time_load_line(self, *_: object) -> None:
        common.run_lines(self.cache, self.lines, self.served)

    def peakmem_load_line(self, *_: object) -> None:
        common.run_lines(self.cache, self.lines, self.served)


class WalkCache(Timed):
    """Paging-structure caches without page tables."""

    param_names = ("processor", "stream")
    params = (tuple(counts.LOWEST_WORDS), tuple(common.STREAMS))

    def setup(self, processor: str, stream: str) -> None:
        self.pages = common.offsets(stream, COUNT) >> 12
        self.hits = np.zeros(6, np.int64)
        self.lowest = counts.LOWEST_WORDS[processor]
        common.run_words(common.walk_cache(processor), self.pages[:100].copy(), self.lowest, self.hits)
        self.cache = common.walk_cache(processor)

    def time_find_keep(self, *_: object) -> None:
        common.run_words(self.cache, self.pages, self.lowest, self.hits)

    def peakmem_find_keep(self, *_: object) -> None:
        common.run_words(self.cache, self.pages, self.lowest, self.hits)


class Access(Timed):
    """The fused loop: address, TLBs, walks, data caches. With 2M leaves hardly any access walks."""

    param_names = ("scenario",)
    params = (tuple(common.ACCESSES),)

    def setup(self, name: str) -> None:
        mmu, tables, target, offsets, write, beside = common.ACCESSES[name].start(COUNT)
        mmu_kernels.access(mmu, tables, target, offsets[:100].copy(), write, beside)
        self.arguments = common.ACCESSES[name].start(COUNT)

    def time_access(self, _: str) -> None:
        mmu_kernels.access(*self.arguments)

    def peakmem_access(self, _: str) -> None:
        mmu_kernels.access(*self.arguments)


class PageTables(Timed):
    """Mapping, translating and unmapping 4 GiB of 4K pages: 1,048,576 leaves in 2,048 tables."""

    nbytes = 4096 * common.MIB
    pages = nbytes >> 12

    def setup(self) -> None:
        self.base = np.uint64(common.BASE)
        # The odd factor scatters the frames.
        self.leaves = np.arange(self.pages, dtype=np.int64) * 0x9E3779B1 % self.pages
        self.new_frames = self.pages + 1 + np.arange(4096, dtype=np.int64)
        self.empty = pagetable.new_page_tables(self.pages, 0, 2 * self.pages, 4, 48, True, capacity=4096)
        self.full = common.copied(self.empty)
        self.frames = np.empty(self.pages, np.int64)
        self.addresses = self.base + common.below(self.nbytes, self.pages, seed=1).astype(np.uint64)
        few = common.copied(self.empty)
        self._map(few, self.leaves[:8].copy())
        pagetable.unmap_range(few, self.base, 8, 1, self.frames)
        pagetable.translate_many(few, self.addresses[:8].copy(), self.frames)
        self._map(self.full, self.leaves)

    def _map(self, tables: pagetable.PageTables, leaves: np.ndarray) -> None:
        pagetable.survey(tables, self.base, len(leaves), 1)
        pagetable.map_range(tables, self.base, leaves, 1, entries.KERNEL_LEAF, entries.KERNEL_TABLE, self.new_frames)

    def time_map(self) -> None:
        self._map(self.empty, self.leaves)

    def peakmem_map(self) -> None:
        self._map(self.empty, self.leaves)

    def time_translate(self) -> None:
        pagetable.translate_many(self.full, self.addresses, self.frames)

    def time_unmap(self) -> None:
        pagetable.unmap_range(self.full, self.base, self.pages, 1, self.frames)


class Areas(Timed):
    """Reserving and releasing ranges of a vmalloc area that holds some 2,000 of them."""

    def setup(self) -> None:
        self.requests = common.area_requests(COUNT)
        self.starts = np.full(common.AREA_SLOTS, -1, np.int64)
        common.run_areas(common.new_areas(), self.requests[:100].copy(), self.starts.copy())
        self.areas = common.new_areas()

    def time_reserve_release(self) -> None:
        common.run_areas(self.areas, self.requests, self.starts)

    def peakmem_reserve_release(self) -> None:
        common.run_areas(self.areas, self.requests, self.starts)


class AlignedAreas(Timed):
    """The same with every eighth range at a multiple of 2 MiB, a quarter of the requests."""

    def setup(self) -> None:
        self.requests = common.area_requests(COUNT // 4)
        self.starts = np.full(common.AREA_SLOTS, -1, np.int64)
        common.run_aligned_areas(common.new_large_areas(), self.requests[:100].copy(), self.starts.copy())
        self.areas = common.new_large_areas()

    def time_reserve_release(self) -> None:
        common.run_aligned_areas(self.areas, self.requests, self.starts)

    def peakmem_reserve_release(self) -> None:
        common.run_aligned_areas(self.areas, self.requests, self.starts)


class HugeMappings(Timed):
    """512 MiB of 4K pages that make room for 2M pages, with their empty tables, and those for 4K pages again."""

    def setup(self) -> None:
        common.remap(common.new_remapping(2 * common.MIB))
        self.state = common.new_remapping(512 * common.MIB)

    def time_remap(self) -> None:
        common.remap(self.state)

    def peakmem_remap(self) -> None:
        common.remap(self.state)


class Streams(Timed):
    """Offsets over 1 GiB, with all that is made first: orders, alias tables, chain lengths."""

    param_names = ("stream",)
    params = (tuple(counts.STREAMS),)

    def setup(self, name: str) -> None:
        counts.STREAMS[name](100)

    def time_make(self, name: str) -> None:
        counts.STREAMS[name](10 * COUNT)

    def peakmem_make(self, name: str) -> None:
        counts.STREAMS[name](10 * COUNT)
