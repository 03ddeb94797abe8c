"""The schema of a CPU preset: TLBs, paging-structure caches, data caches, latencies, and what overlaps."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vclab.presets.sourced import Amount, Count, Model, Name, Preset, Quantity, Sourced, Switch, WholeNumber
from vclab.units import PAGE_SHIFT

#: Bytes of a cache line.
LINE_BYTES = 64

PageSizes = Annotated[tuple[Literal["4K", "2M", "1G"], ...], Field(min_length=1)]
DirectoryEntries = Annotated[tuple[Literal["PDE", "PDPTE", "PML4E", "PML5E"], ...], Field(min_length=1)]

_CACHE_NAMES = ("first-level", "second-level", "third-level")


class Clock(Model):
    """The clock that turns cycles into nanoseconds."""

    gigahertz: Sourced[Quantity]


class Paging(Model):
    """Address widths, page-table levels and page sizes. ``virtual_bits`` is that of the most levels."""

    physical_bits: Sourced[Annotated[int, Field(strict=True, ge=32, le=52)]]
    virtual_bits: Sourced[Count]
    levels: Sourced[Annotated[tuple[Literal[4, 5], ...], Field(min_length=1)]]
    page_sizes: Sourced[PageSizes]

    @model_validator(mode="after")
    def _levels_match_width(self) -> Self:
        if self.virtual_bits.value != PAGE_SHIFT + 9 * max(self.levels.value):
            raise ValueError("the most levels and virtual_bits must agree: 4 and 48, or 5 and 57")
        return self


class _Array(Model):
    name: Name
    entries: Sourced[Count]
    ways: Sourced[Count]

    @model_validator(mode="after")
    def _ways_divide_entries(self) -> Self:
        if self.entries.value % self.ways.value:
            raise ValueError(f"{self.ways.value} ways do not divide {self.entries.value} entries")
        return self

    @property
    def sets(self) -> int:
        """Number of sets: entries divided by ways."""
        return self.entries.value // self.ways.value


class TlbStructure(_Array):
    """One array of TLB entries for data loads; fully associative means as many ways as entries.

    A page size that several structures of one level hold is spread over their sets as over one array: set
    index = page number mod the sum of their sets, counted through the structures in file order. With
    ``hash_shift`` it is (page number ^ (page number >> hash_shift)) mod sets. ``holds_directories`` is for a
    second-level array that also holds page-directory entries that name a table, as on AMD Zen.
    """

    level: Literal[1, 2]
    page_sizes: Sourced[PageSizes]
    hash_shift: Sourced[Count] | None = None
    holds_directories: Sourced[Switch] | None = None

    @model_validator(mode="after")
    def _directories_on_the_second_level(self) -> Self:
        if self.level == 1 and self.has_directories:
            raise ValueError("only a second-level tlb structure can hold directories")
        return self

    @property
    def has_directories(self) -> bool:
        """Whether page-directory entries compete with pages for the entries of this array."""
        return self.holds_directories is not None and self.holds_directories.value


class WalkCache(_Array):
    """One paging-structure cache and the entries of which directories it holds; set = tag mod sets."""

    holds: Sourced[DirectoryEntries]


class Walk(Model):
    """Page walks: how paging-structure caches are tagged, and cycles of a walk beyond the loads of its words.

    ``virtual`` tags are the address bits that lead to an entry, ``physical`` ones the place of the entry itself.
    """

    tag: Sourced[Literal["virtual", "physical"]]
    start: Sourced[Amount]


class DataCache(Model):
    """One data cache level with lines of 64 bytes; ``latency`` is cycles from load to use.

    ``miss``: a line comes in when it is missed. ``victim``: a line comes in when the level above evicts it.
    Set index = line mod sets; with ``hash_bits`` it is XORed, from bit ``hash_shift`` of it on, with that many of the
    bits just above the index.
    """

    name: Literal["first-level", "second-level", "third-level"]
    nbytes: Sourced[Count]
    ways: Sourced[Count]
    latency: Sourced[Quantity]
    fill: Sourced[Literal["miss", "victim"]]
    hash_bits: Sourced[Count] | None = None
    hash_shift: Sourced[WholeNumber] | None = None

    @model_validator(mode="after")
    def _whole_sets(self) -> Self:
        if self.nbytes.value % (LINE_BYTES * self.ways.value):
            raise ValueError(
                f"{self.ways.value} ways of {LINE_BYTES}-byte lines do not divide {self.nbytes.value} bytes"
            )
        if self.hash_bits is not None:
            if self.sets & (self.sets - 1):
                raise ValueError(f"hash_bits needs a power of two of sets, not {self.sets}")
            shift = self.hash_shift.value if self.hash_shift else 0
            if 1 << self.hash_bits.value + shift > self.sets:
                raise ValueError(
                    f"{self.hash_bits.value} hash bits from bit {shift} on exceed the index of {self.sets} sets"
                )
        return self

    @property
    def sets(self) -> int:
        """Number of sets: bytes divided by 64 and by ways; not always a power of two."""
        return self.nbytes.value // LINE_BYTES // self.ways.value


class Memory(Model):
    """Cycles from load to use of a line that no cache holds."""

    latency: Sourced[Quantity]


class Latency(Model):
    """Cycles beside those of the caches.

    ``second_level_tlb_hit`` is what a first-level miss that hits the second level adds, ``first_level_fill_conflict``
    what a load adds that hits the first-level TLB and misses the first-level cache in the set of the miss just
    before it, ``accessed_dirty_update`` the locked update of a page-table entry. What a flush costs is in the Linux
    preset.
    """

    second_level_tlb_hit: Sourced[Quantity]
    first_level_fill_conflict: Sourced[Amount]
    accessed_dirty_update: Sourced[Amount]


class Overlap(Model):
    """What bounds overlapped accesses: page walkers, loads per cycle, outstanding first-level data misses."""

    walkers: Sourced[Count]
    loads_per_cycle: Sourced[Count]
    miss_parallelism: Sourced[Count]


class Prefetch(Model):
    """Lines that the stream prefetcher fetches ahead inside a 4K page (0: none), and if it goes on to the next page.

    ``adjacent_line`` is the neighbour of a missed line that comes with it: of its ``pair``, aligned to 128 bytes, or
    the next or previous one by ``history``.
    """

    stream_lines: Sourced[WholeNumber]
    adjacent_line: Sourced[Literal["none", "pair", "history"]]
    next_page: Sourced[Switch]


class Isolation(Model):
    """Whether the CPU is affected by Meltdown, so needs page-table isolation, and whether it has PCIDs."""

    meltdown: Sourced[Switch]
    pcid: Sourced[Switch]


class CpuPreset(Preset):
    """A CPU: ``year`` is the one in which the part that ``title`` names was released."""

    year: Count
    vendor: Literal["AMD", "Intel"]
    clock: Clock
    paging: Paging
    tlb: tuple[TlbStructure, ...]
    walk_cache: tuple[WalkCache, ...]
    walk: Walk
    data_cache: Annotated[tuple[DataCache, ...], Field(min_length=2, max_length=3)]
    memory: Memory
    latency: Latency
    overlap: Overlap
    prefetch: Prefetch
    isolation: Isolation

    @model_validator(mode="after")
    def _tlb_serves_pages(self) -> Self:
        every = {size for array in self.tlb for size in array.page_sizes.value}
        first = {size for array in self.tlb if array.level == 1 for size in array.page_sizes.value}
        if not first == every == set(self.paging.page_sizes.value):
            raise ValueError("the first-level tlb, the whole tlb and paging must have the same page sizes")
        if len({array.name for array in self.tlb}) < len(self.tlb):
            raise ValueError("two tlb structures have one name")
        for array in self.tlb:
            others = [other for other in self.tlb if other.level == array.level and other is not array]
            shared = any(set(array.page_sizes.value) & set(other.page_sizes.value) for other in others)
            if array.hash_shift is not None and shared:
                raise ValueError(f"tlb structure {array.name} shares a page size, so it cannot have a hash_shift")
        if sum(array.has_directories for array in self.tlb) > 1:
            raise ValueError("two tlb structures hold directories")
        return self

    @model_validator(mode="after")
    def _walk_caches_hold_each_level_once(self) -> Self:
        if len({array.name for array in self.walk_cache}) < len(self.walk_cache):
            raise ValueError("two walk caches have one name")
        held = [entry for array in self.walk_cache for entry in array.holds.value]
        held += ["PDE" for array in self.tlb if array.has_directories]
        wanted = ["PDE", "PDPTE", "PML4E"] + ["PML5E"] * ("PML5E" in held and 5 in self.paging.levels.value)
        if sorted(held) != sorted(wanted):
            raise ValueError(
                "PDE, PDPTE and PML4E must each be held once by walk caches and second-level tlb, "
                f"PML5E at most once and only with 5 levels; held are {', '.join(sorted(held)) or 'none'}"
            )
        directories = any(array.has_directories for array in self.tlb)
        if self.walk.tag.value == "physical" and (directories or len(self.walk_cache) > 1):
            raise ValueError("a physically tagged walk cache is one array for all directories")
        return self

    @model_validator(mode="after")
    def _caches_grow_slower(self) -> Self:
        names = tuple(cache.name for cache in self.data_cache)
        if names != _CACHE_NAMES[: len(names)]:
            raise ValueError(f"the data caches must be {', '.join(_CACHE_NAMES[: len(names)])}, not {', '.join(names)}")
        if self.data_cache[0].fill.value != "miss":
            raise ValueError("the first-level data cache must be filled on a miss")
        latencies = [cache.latency.value for cache in self.data_cache] + [self.memory.latency.value]
        if any(lower >= higher for lower, higher in pairwise(latencies)):
            listed = ", ".join(f"{latency:g}" for latency in latencies)
            raise ValueError(f"latencies must rise from the first-level cache to memory, not {listed}")
        return self
