"""The schema of a Linux preset: the rules of a release and what its operations cost."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field

from vclab.errors import ConfigurationError
from vclab.presets.sourced import Cost, Count, Labelled, Model, Name, Preset, Switch, Text, WholeNumber

Address = Annotated[int, BeforeValidator(lambda text: int(str(text), 16)), Field(ge=1 << 63, lt=1 << 64)]
Migratetype = Literal["unmovable", "movable", "reclaimable"]


class Fallbacks(Model):
    """For each migratetype, the others to take from when its own free lists are empty, in order."""

    unmovable: Labelled[tuple[Migratetype, ...]]
    movable: Labelled[tuple[Migratetype, ...]]
    reclaimable: Labelled[tuple[Migratetype, ...]]


class AllocatorRules(Model):
    """What differs between releases of the page allocator; :mod:`vckernels.rules` has the meaning of each.

    ``migratetypes``: those that have free lists, in the release's own order; none: one list an order.
    ``fallback``: what serves a request whose own lists are empty. ``watermark_check``: "block" if one block of a
    request's size must be free, "halving" if as much as half of the mark, at each order. ``per_cpu_lists``:
    "many-orders" for lists of orders 0 to 3 and 9 by type, "hot-and-cold" for two of single frames.
    ``watermark_scale_factor``, ``watermark_boost_factor``: ten-thousandths of a zone, and of its high watermark;
    0 where there is no such thing. ``slow_path``: what is done for a request that free memory cannot serve,
    "compaction" beside reclaim, or "lumpy-reclaim" alone. ``lowmem_reserve_ratio``: of DMA, DMA32 and Normal: one frame
    in so many of those above.
    """

    migratetypes: Labelled[tuple[Literal["unmovable", "movable", "reclaimable", "highatomic", "reserve"], ...]]
    fallback: Labelled[Literal["claim-or-steal", "move-largest", "nothing"]]
    merge_likely_to_tail: Labelled[Switch]
    lists_follow_pageblocks: Labelled[Switch]
    watermark_check: Labelled[Literal["block", "halving"]]
    per_cpu_lists: Labelled[Literal["many-orders", "hot-and-cold"]]
    slow_path: Labelled[Literal["compaction", "lumpy-reclaim"]]
    watermark_scale_factor: Labelled[WholeNumber]
    watermark_boost_factor: Labelled[WholeNumber]
    lowmem_reserve_ratio: Labelled[tuple[Count, Count, Count]]


class AddressSpace(Model):
    """Where the kernel's ranges lie without KASLR; addresses are hexadecimal strings in the file.

    ``vmemmap``: all ``struct page`` descriptors, one after another by frame number.
    """

    name: Name
    levels: Literal[4, 5]
    direct_map_start: Labelled[Address]
    vmalloc_start: Labelled[Address]
    vmalloc_bytes: Labelled[Count]
    vmemmap_start: Labelled[Address]


class Structures(Model):
    """Sizes of what describes a vmalloc area in another release; 0 bytes: it has no such structure."""

    name: Text
    vm_struct_allocated_bytes: Labelled[Count]
    vmap_area_bytes: Labelled[WholeNumber]
    page_array_kmalloc: Labelled[Switch]


class Costs(Model):
    """Prices of operations, in nanoseconds or cycles as the field's name says.

    ``allocation``, ``free``: one block, to or from free lists; ``per_cpu_allocation``, ``per_cpu_free``: from or to a
    CPU's list; ``split``, ``merge``: one halving, one union.
    ``area_search_step``: one step of a search for address space. ``area_reserve``, ``area_release``: the
    structures of one vmalloc area and its place in the trees. ``entry_write``: one page-table word.
    ``table_page``: one table, beyond its allocation and zeroing. ``zero_page``, ``copy_page``: 4 KiB.
    ``struct_page``: one struct page of a compound page. ``flush_call``, ``flush_page``, ``flush_full``: the
    fixed part of a range flush, each page of it, and a flush of everything. ``interrupt``: one round trip to
    the other CPUs per flush. ``migrate_page``: moving one 4 KiB page, copy included. ``area_pool``: an area that is
    ready in a pool, structures included. ``area_lazy``: letting an area wait, beside its release. ``broadcast``: one
    instruction that makes all CPUs invalidate; ``broadcast_wait``: until they have. ``compact_scan``, ``reclaim_scan``:
    looking at one frame; ``reclaim_page``: freeing one 4 KiB page that was in use. ``block_part``: taking a small
    mapping's addresses from a CPU's block, or giving them back.
    """

    allocation_ns: Cost
    free_ns: Cost
    per_cpu_allocation_ns: Cost
    per_cpu_free_ns: Cost
    split_ns: Cost
    merge_ns: Cost
    area_search_step_ns: Cost
    area_reserve_ns: Cost
    area_release_ns: Cost
    entry_write_ns: Cost
    table_page_ns: Cost
    zero_page_ns: Cost
    copy_page_ns: Cost
    struct_page_ns: Cost
    flush_call_cycles: Cost
    flush_page_cycles: Cost
    flush_full_cycles: Cost
    interrupt_ns: Cost
    migrate_page_ns: Cost
    area_pool_ns: Cost
    area_lazy_ns: Cost
    broadcast_ns: Cost
    broadcast_wait_ns: Cost
    compact_scan_ns: Cost
    reclaim_scan_ns: Cost
    reclaim_page_ns: Cost
    block_part_ns: Cost


class Devices(Model):
    """How long devices take, in nanoseconds: no work of any CPU, so counted apart from costs.

    ``refault``: reading 4 KiB that reclaim had dropped; ``write_back``: writing 4 KiB that it wants to drop, several
    at a time; ``congestion_wait``: one wait of 2.6.24's reclaim for devices to catch up.
    """

    refault_ns: Cost
    write_back_ns: Cost
    congestion_wait_ns: Cost


class LinuxPreset(Preset):
    """A Linux rule set; each number's label names the release it was read from.

    ``page_array_kmalloc``: whether an area's array of pages is allocated physically contiguous even where it is
    longer than a page. ``tlb_single_page_flush_ceiling``: pages of kernel memory that are flushed one by one at most;
    0: every flush is of everything. ``page_table_isolation`` takes effect on CPUs whose ``isolation.meltdown`` is true.
    ``early_fallback``: which variant of that policy is the release's own. ``unmap``: when its CPUs forget what was
    unmapped in the vmalloc area (:data:`vclab.vmalloc_area.UNMAPPINGS`).
    ``structures``: sizes of other releases, to compare them under these rules.
    """

    page_block_order: Labelled[Count]
    max_page_order: Labelled[Count]
    costly_order: Labelled[Count]
    early_fallback: Labelled[Literal["v3", "6.12", "6.18"]]
    unmap: Labelled[Literal["eager", "2.6.28", "lazy"]]
    vm_struct_bytes: Labelled[Count]
    vm_struct_allocated_bytes: Labelled[Count]
    vmap_area_bytes: Labelled[WholeNumber]
    page_array_entry_bytes: Labelled[Count]
    page_array_kmalloc: Labelled[Switch]
    table_entry_bytes: Labelled[Count]
    guard_pages: Labelled[Count]
    tlb_single_page_flush_ceiling: Labelled[WholeNumber]
    page_table_isolation: Labelled[Switch]
    fallbacks: Fallbacks
    allocator: AllocatorRules
    costs: Costs
    devices: Devices
    address_space: tuple[AddressSpace, ...]
    structures: tuple[Structures, ...] = ()

    def with_structures(self, release: str) -> Self:
        """Return the same rules with the sizes of structures that a release has; its own for its own name.

        Raises
        ------
        ConfigurationError
            If the preset lists no such release.
        """
        if release == self.name:
            return self
        for sizes in self.structures:
            if sizes.name == release:
                fields = {field: getattr(sizes, field) for field in Structures.model_fields if field != "name"}
                return self.model_copy(update=fields)
        known = ", ".join([self.name, *(sizes.name for sizes in self.structures)])
        raise ConfigurationError(f"linux preset {self.name} has no structures of {release!r}; it has {known}")
