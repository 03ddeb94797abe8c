"""A model of a Linux machine: memory, page tables, the kernel's mappings and its CPUs' MMUs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt

from vckernels.causes import Cause
from vckernels.mmu import Target
from vclab import audit, presets
from vclab.ageing import Ageing, Goal, learn
from vclab.allocator import only_limits
from vclab.background import Background, BackgroundState, place_background
from vclab.boot import DEFAULT_RECORDING, boot_machine, check_paging
from vclab.compound import CompoundAllocator, CompoundPage
from vclab.errors import ConfigurationError
from vclab.fragmentation import extfrag_for_order, fragmentation_index, unusable_free_index
from vclab.gfp import GFP_KERNEL, Gfp
from vclab.kerneltexts import kernel_text
from vclab.ledger import AccessCost, Ledger, no_counts, price_access
from vclab.mapping import DirectMap, PageTables
from vclab.mmu import Mmu, MmuOptions
from vclab.movable import MovablePages, PageMix
from vclab.policies import find_policy
from vclab.presets import LinuxPreset
from vclab.pressure import Pressure
from vclab.reclaimrules import RECLAIM_RULES
from vclab.shootdown import check_mechanism, flush_all, flush_kernel_range
from vclab.slowpath import Effort
from vclab.units import PAGE_BYTES, PAGE_SHIFT, format_bytes, parse_bytes
from vclab.usage import Use, check_numbers, use_pages
from vclab.userpages import UserRegion
from vclab.vmalloc_area import VmallocArea, find_unmapping
from vclab.vmemmap import Vmemmap, frames_with_vmemmap

#: Tells the random numbers that break the direct map from others of the same seed.
SPLIT_STREAM = 0x5711
#: And those that tell what movable pages are.
POPULATION_STREAM = 0x9A6E


class System:
    """One machine.

    Parameters
    ----------
    cpu : str
        Preset of the CPU: MMU geometry and latencies.
    linux : str or LinuxPreset
        Preset of the kernel's rules and sizes.
    memory : str or int
        Size, a multiple of 4 MiB: memory starts empty after boot. Or ``"recorded"``: a recorded machine.
    cpus : int
        CPUs, each with an MMU of its own over the same page tables.
    policy : str
        What happens when a large page is asked for; see :data:`vclab.policies.POLICIES`.
    levels : int, optional
        Page-table levels; without it, as many as the CPU has.
    direct_map : str
        Page size of the direct map: "4K", "2M" or "1G".
    seed : int
        Of everything random: same seed, same numbers.
    flag_all : bool
        Treat every request as if it carried ``GFP_VFALLBACK``.
    recording : str
        The recording that ``memory="recorded"`` starts from: a shipped name or a path.
    mmu : MmuOptions, optional
        What of the MMUs is modelled; without it, everything.
    isolation : bool, optional
        Page-table isolation: kernel pages are not global. Without it, as the kernel decides for this CPU.
    background : Background, optional
        Other work that shares each CPU with the streams.
    direct_map_split : float
        Share of the direct map's large pages, 0 to 1, that are broken into pages of the next smaller size, chosen at
        random: what ``set_memory`` does to a kernel's map over time.
    unmap : str, optional
        When CPUs forget what was unmapped, and its addresses are used again; see
        :data:`vclab.vmalloc_area.UNMAPPINGS`. "range": at each free; "lazy": as 6.18; "2.6.28"; "eager": as 2.6.24.
        Without it, as the rule set does it.
    flush : str
        "ipi": other CPUs are interrupted and flush by themselves; "invlpgb": the flush is broadcast in hardware.
    allocator : str
        What requests for frames meet; see :data:`vclab.allocator.ALLOCATORS`. "free-lists": one zone, all of whose
        frames are to be had; "full": zones with watermarks and per-CPU lists.

    Raises
    ------
    ConfigurationError
        If a preset, policy or size does not exist, or the CPU lacks the levels or page size.
    """

    def __init__(
        self,
        cpu: str = "zen3",
        linux: str | LinuxPreset = "6.18",
        memory: str | int = "2GiB",
        cpus: int = 1,
        policy: str = "early-fallback",
        levels: int | None = None,
        direct_map: str = "2M",
        seed: int = 0,
        flag_all: bool = False,
        recording: str = DEFAULT_RECORDING,
        mmu: MmuOptions | None = None,
        isolation: bool | None = None,
        background: Background | None = None,
        direct_map_split: float = 0.0,
        unmap: str | None = None,
        flush: str = "ipi",
        allocator: str = "free-lists",
    ) -> None:
        self.cpu = presets.cpu(cpu)
        self.linux = presets.linux(linux) if isinstance(linux, str) else linux
        chosen = find_policy(policy, self.linux.early_fallback.value)
        levels, level = check_paging(cpu, levels, direct_map, self.linux)
        paging = self.cpu.paging
        if seed < 0:
            raise ConfigurationError(f"seed {seed} does not exist; use 0 or more")
        if cpus < 1:
            raise ConfigurationError(f"a machine with {cpus} CPUs does not exist; use 1 or more")
        check_mechanism(flush, self.cpu)
        self.flush = flush
        self.allocator = allocator
        self.layout = next(space for space in self.linux.address_space if space.levels == levels)
        self.seed = seed
        self.direct_map_size = direct_map
        self.memory = boot_machine(memory, recording, self.linux, cpus, allocator)
        if isolation is None:
            isolation = self.linux.page_table_isolation.value and self.cpu.isolation.meltdown.value
        self.isolation = isolation
        self.page_tables = PageTables(
            self.memory, levels, paging.physical_bits.value, "1G" in paging.page_sizes.value, not isolation
        )
        self.direct_map = DirectMap(
            self.page_tables, self.layout, level, direct_map_split, np.random.default_rng([seed, SPLIT_STREAM])
        )
        self.vmalloc_area = VmallocArea(
            self.page_tables,
            self.layout,
            self.linux.guard_pages.value,
            find_unmapping(unmap or self.linux.unmap.value),
            cpus,
        )
        self.compound = CompoundAllocator(
            self.memory, self.page_tables, self.direct_map, self.vmalloc_area, self.linux, chosen, flag_all
        )
        frames = frames_with_vmemmap(self.memory)
        self.mmus = [Mmu(self.cpu, frames, mmu) for _ in range(cpus)]
        self.boot_tables = self.page_tables.count
        self._vmemmap: Vmemmap | None = None
        self.operations = no_counts()
        self.pressure: Pressure | None = None
        self.background: BackgroundState | None = None
        self.background_frames = np.empty(0, np.int64)
        if background is not None:
            self.set_background(background)

    # Pages

    def alloc_pages(self, order: int, flags: int, min_order: int = 0) -> CompoundPage:
        """Return 2**order pages at consecutive addresses, physical or virtual as the policy decides.

        Under ``min-order`` it may be a smaller page, of ``min_order``; other policies take no notice of it.
        With ``GFP_ZERO`` they are cleared, on the first CPU, which leaves their last lines in its caches.

        Raises
        ------
        OutOfMemory
            If the policy cannot serve the request; nothing is changed then.
        """
        removed = self.page_tables.removed
        try:
            with nullcontext() if self.pressure is None else self.pressure.until_answered():
                page = self.compound.allocate(order, flags, min_order)
        finally:
            self._forget_purged()
        self.operations[Cause.STRUCT_PAGE] += len(page.frames)
        if int(flags) & Gfp.ZERO:
            self.operations[Cause.PAGE_CLEARED] += len(page.frames)
            self.mmu.leave_cleared(page.frames)
        if self.page_tables.removed != removed:
            # An empty table made way for a larger leaf; upper-level words that named it may be cached.
            for mmu in self.mmus:
                mmu.flush()
        return page

    def free_pages(self, page: CompoundPage) -> None:
        """Give a page back, with all that was made for it; CPUs forget its translations as the regime has it.

        Raises
        ------
        InvalidFree
            If the page was freed already or belongs to another system.
        """
        self.compound.free(page)
        for address, leaves, level in page.mappings:
            self._forget(address, leaves, level)

    def _forget(self, address: int, leaves: int, level: int) -> None:
        """Let every CPU forget a range that was unmapped, as the regime does it; a lazy one does at a purge only."""
        unmapping = self.vmalloc_area.unmapping
        if unmapping.flushes_all:
            flush_all(self.mmus, self.operations, self.flush)
        elif not unmapping.is_lazy:
            self._flush_range(address, leaves, level)
        self._forget_purged()

    def _forget_purged(self) -> None:
        """Let every CPU forget what the vmalloc area has purged."""
        while self.vmalloc_area.purged:
            address, pages = self.vmalloc_area.purged.pop(0)
            self._flush_range(address, pages, 1)

    def purge_vmalloc_area(self) -> None:
        """Flush all ranges that were freed lazily, and give their addresses back.

        Blocks for small mappings go with them once nothing in them is in use (``vm_unmap_aliases`` also flushes what
        was given back of the others).
        """
        self.vmalloc_area.purge()
        self._forget_purged()

    def _flush_range(self, address: int, leaves: int, level: int) -> None:
        ceiling = self.linux.tlb_single_page_flush_ceiling.value
        flush_kernel_range(self.mmus, self.operations, self.flush, address, leaves, level, ceiling)

    @property
    def pages(self) -> list[CompoundPage]:
        """All live compound pages."""
        return list(self.compound.pages.values())

    def page_address(self, page: CompoundPage) -> int:
        """Return the virtual address of a page of either kind."""
        return page.address

    def virt_to_page(self, address: int) -> CompoundPage:
        """Return the page that holds a virtual address of either kind.

        Raises
        ------
        ConfigurationError
            If no live page does.
        """
        page = self.compound.page_at(address)
        if page is None:
            raise ConfigurationError(f"no live page holds address {address:#x}; pass an address inside one")
        return page

    def vmalloc_to_page(self, address: int) -> CompoundPage:
        """Return the page that holds an address, checked against a walk of the page tables.

        Works for both kinds, since the direct map is made of tables too. Other mappings of a page's frames (the direct
        map of a virtual page's, or what :meth:`vmap` made) are not its addresses.

        Raises
        ------
        ConfigurationError
            If the address is not mapped or no live page holds it.
        """
        page = self.compound.page_at(address)
        physical = -1 if page is None else int(self.page_tables.translate([address])[0])
        if page is None or physical < 0 or physical >> PAGE_SHIFT not in page.frames:
            raise ConfigurationError(f"no live page holds address {address:#x}; pass an address inside one")
        return page

    def vmalloc_address(self, page: CompoundPage) -> int | None:
        """Return a virtual page's address in the vmalloc area, None for a physical page."""
        return page.address if page.is_virtual else None

    def vmap(self, frames: npt.ArrayLike) -> int:
        """Map any frames one after another in the vmalloc area and return the address (``vmap``).

        Raises
        ------
        ConfigurationError
            If a frame does not exist, there is no address range, or no memory for tables.
        """
        mapped = self.vmalloc_area.map(self._existing(frames))
        self._forget_purged()
        if mapped is None:
            raise ConfigurationError(f"no room to map {np.size(frames)} frames; unmap something first")
        return mapped[0]

    def vunmap(self, address: int) -> None:
        """Take back what :meth:`vmap` mapped; the frames stay as they are.

        Raises
        ------
        ConfigurationError
            If no such range starts at the address, or it is that of a live page.
        """
        if self.compound.owns(address):
            raise ConfigurationError(f"the range at {address:#x} was not made by vmap; use free_pages on its page")
        frames = self.vmalloc_area.unmap(address)
        self._forget(address, len(frames), 1)

    def vm_map_ram(self, frames: npt.ArrayLike, cpu: int = 0) -> int:
        """Map up to 64 frames one after another in a block of a CPU's own and return the address, without any lock.

        Raises
        ------
        ConfigurationError
            If a frame or the CPU does not exist, the regime of unmapping is not lazy, or memory or addresses are short.
        """
        if not 0 <= cpu < len(self.mmus):
            raise ConfigurationError(f"CPU {cpu} does not exist; there are 0 to {len(self.mmus) - 1}")
        mapped = self.vmalloc_area.map_in_block(self._existing(frames), cpu)
        self._forget_purged()
        if mapped is None:
            raise ConfigurationError(f"no room to map {np.size(frames)} frames; unmap something first")
        return mapped[0]

    def vm_unmap_ram(self, address: int, count: int) -> None:
        """Take back what :meth:`vm_map_ram` mapped. CPUs forget it when its whole block is purged.

        Raises
        ------
        ConfigurationError
            If no so many pages are mapped there in a block.
        """
        self.vmalloc_area.unmap_in_block(address, count)
        self._forget_purged()

    def _existing(self, frames: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Return frame numbers, int64[n], all of which the machine has."""
        first = self.memory.first_frame
        wanted = np.ascontiguousarray(frames, np.int64).ravel()
        if len(wanted) and (int(wanted.min()) < first or int(wanted.max()) >= first + self.memory.frames):
            raise ConfigurationError(
                f"cannot map frames outside the machine; its frames are {first} to {first + self.memory.frames - 1}"
            )
        return wanted

    @property
    def vmemmap(self) -> Vmemmap:
        """The array of all struct pages; mapped when it is first asked for, so that only who needs it pays for tables.

        Raises
        ------
        OutOfMemory
            If there is no memory for its page tables.
        """
        if self._vmemmap is None:
            self._vmemmap = Vmemmap.mapped(self.page_tables, self.layout)
            self.boot_tables += self._vmemmap.tables
        return self._vmemmap

    # Other work

    def set_background(self, background: Background) -> None:
        """Let other work share the CPUs with the streams from now on; its pages are taken for good.

        It is one piece of work, which goes on with whichever CPU a stream runs on.

        Raises
        ------
        ConfigurationError
            If there is no memory for it.
        """
        rng = np.random.default_rng([self.seed, background.pages])
        self.background = place_background(
            background, self.memory, self.page_tables, self.direct_map, self.vmalloc_area, rng
        )
        # What ran before has ended, but its pages stay where they are.
        self.background_frames = np.concatenate([self.background_frames, self.background.frames])

    # Accesses

    @property
    def mmu(self) -> Mmu:
        """MMU of the first CPU."""
        return self.mmus[0]

    def access(
        self,
        page: CompoundPage | Sequence[CompoundPage],
        offsets: npt.ArrayLike | Iterable[npt.ArrayLike],
        write: bool = False,
        cpu: int = 0,
    ) -> AccessCost:
        """Access offsets of a page, or of several pages of one order laid end to end.

        Parameters
        ----------
        page : CompoundPage or sequence of them
        offsets : int64[n], or an iterable of such arrays
            Byte offsets.
        write : bool
            Stores rather than loads.
        cpu : int
            Which CPU; its MMU goes on from the state that it is in.

        Returns
        -------
        AccessCost
            What these accesses cost.

        Raises
        ------
        ConfigurationError
            If an offset lies outside, or a page was freed.
        """
        several = [page] if isinstance(page, CompoundPage) else list(page)
        if not several:
            raise ConfigurationError("there is no page to access; pass at least one")
        for one in several:
            if self.compound.pages.get(one.address) is not one:
                raise ConfigurationError(f"cannot access {one!r}: it is not a live page of this system")
        if len({one.order for one in several}) != 1:
            raise ConfigurationError("pages of several orders cannot be laid end to end; access them one by one")
        bases = np.array([one.address for one in several], np.uint64)
        return self.access_at(bases, several[0].nbytes, offsets, write, cpu)

    def access_at(
        self,
        bases: npt.NDArray[np.uint64],
        nbytes: int,
        offsets: npt.ArrayLike | Iterable[npt.ArrayLike],
        write: bool = False,
        cpu: int = 0,
        arrays: npt.NDArray[np.uint64] | None = None,
        array_nbytes: int = 0,
    ) -> AccessCost:
        """Access offsets of equal pieces that lie at given addresses.

        Parameters
        ----------
        bases : uint64[n]
            Address of each piece.
        nbytes : int
            Size of a piece, a power of two.
        offsets, write, cpu
            As in :meth:`access`.
        arrays : uint64[m], optional
            Open-coded pages: addresses of page arrays. Each access is preceded by the load of its page's word.
        array_nbytes : int
            Bytes that one page array describes, a power of two.

        Raises
        ------
        ConfigurationError
            If a size is no power of two, the arrays describe less than the pieces hold, an offset lies outside, or
            there is no such CPU.
        """
        size = len(bases) * nbytes
        if not 0 <= cpu < len(self.mmus):
            raise ConfigurationError(f"CPU {cpu} does not exist; there are 0 to {len(self.mmus) - 1}")
        described = size if arrays is None else len(arrays) * array_nbytes
        if nbytes.bit_count() != 1 or described < size or (arrays is not None and array_nbytes.bit_count() != 1):
            raise ConfigurationError(
                f"cannot access {len(bases)} pieces of {nbytes} bytes with page arrays for {described}; "
                "sizes are powers of two, and arrays describe all that is accessed"
            )
        mmu = self.mmus[cpu]
        target = Target(
            np.ascontiguousarray(bases, np.uint64),
            nbytes.bit_length() - 1,
            np.ascontiguousarray([] if arrays is None else arrays, np.uint64),
            max(array_nbytes, 1).bit_length() - 1,
        )
        before = mmu.counters.copy()
        if self.pressure is not None:
            # The lower half is programs'.
            self.pressure.movable.reached |= bool((target.bases >> np.uint64(63) == 0).any())
        for chosen in _batches(offsets):
            if len(chosen) and (int(chosen.min()) < 0 or int(chosen.max()) >= size):
                raise ConfigurationError(f"an offset lies outside what is accessed; offsets are 0 to {size - 1}")
            self._run(mmu, target, chosen, write)
        return AccessCost(mmu.counters - before, self.cpu, mmu.levels)

    def _run(self, mmu: Mmu, target: Target, offsets: npt.NDArray[np.int64], write: bool) -> None:
        """Run offsets through an MMU, with the other work and the kernel entries that fall between them."""
        work = self.background
        if work is None or not work.background.entry_cycles:
            mmu.access(self.page_tables.state, target, offsets, write, None if work is None else work.beside)
            return
        period = work.background.entry_cycles
        done = 0
        each = 10.0
        while done < len(offsets):
            # As many accesses as should take the cycles that are left, by what the last ones cost.
            part = offsets[done : done + max(1, int((period - work.since_entry) / each))]
            before = mmu.counters.copy()
            mmu.access(self.page_tables.state, target, part, write, work.beside)
            done += len(part)
            cycles = float(price_access(mmu.counters - before, self.cpu).sum())
            each = max(cycles / len(part), 1.0)
            work.since_entry += cycles
            while work.since_entry >= period:
                work.since_entry -= period
                self._enter_kernel(mmu, work)

    def _enter_kernel(self, mmu: Mmu, work: BackgroundState) -> None:
        """Let the CPU have been elsewhere: in a program, and on its way back through the kernel's entry."""
        mmu.counters[Cause.KERNEL_ENTRY] += 1
        if work.background.switches or (self.isolation and not self.cpu.isolation.pcid.value):
            # Another address space, or, with isolation and without PCIDs, the kernel's own for every entry.
            mmu.flush_local()
        if len(work.beside.offsets):
            mmu.access_beside(self.page_tables.state, work.beside, work.background.entry_accesses)

    # Fragmentation

    def fragment(
        self, order: int, unusable: float, free: float = 0.30, source: str = DEFAULT_RECORDING, tail: str = "hour"
    ) -> dict[str, float]:
        """Age memory until its free frames are as unusable for an order, and as many, as asked.

        Parameters
        ----------
        order : int
            The order whose unusable free index is meant.
        unusable : float
            Goal of that index, 0 to 1.
        free : float
            Goal of the free share of managed frames, 0 to 1.
        source : str
            Recording whose mix and lifetimes are used: a shipped name or a path.
        tail : str
            How long what outlived the recording lives: "never" dies, or spread up to an "hour" or a "day".

        Returns
        -------
        dict
            Simulated seconds, arrivals, deaths and failed arrivals.

        Raises
        ------
        FragmentationNotReached
            If index and free share were never both within 0.01.
        """
        if not 0 <= order <= 10 or not 0 <= unusable <= 1 or not 0 < free < 1:
            raise ConfigurationError(
                f"cannot fragment for order {order}, unusable {unusable}, free {free}; "
                "the order is 0 to 10, unusable 0 to 1, free between 0 and 1"
            )
        zone = self.memory.zone
        ageing = Ageing(zone, learn(source), np.random.default_rng([self.seed, order]), tail)
        ageing.settle(keep=self._owned())
        ageing.reach(Goal(order, unusable, free, zone.managed))
        return ageing.summary

    def age(self, operations: int, source: str = DEFAULT_RECORDING, tail: str = "hour") -> dict[str, float]:
        """Age memory by at least so many allocations and frees, between 30 % and 70 % free.

        Parameters
        ----------
        operations : int
            Arrivals and deaths of blocks.
        source, tail : str
            As in :meth:`fragment`.

        Returns
        -------
        dict
            Simulated seconds, arrivals, deaths and failed arrivals.

        Raises
        ------
        ConfigurationError
            If the time that is simulated ends before: a small machine has few allocations in an hour.
        """
        if operations < 0:
            raise ConfigurationError(f"cannot age by {operations} operations; use 0 or more")
        ageing = Ageing(self.memory.zone, learn(source), np.random.default_rng([self.seed, 0]), tail)
        ageing.settle(keep=self._owned())
        ageing.pass_operations(operations)
        return ageing.summary

    # Movable pages

    def populate(self, mix: PageMix | None = None, swap: str | int = 0) -> int:
        """Make all blocks that ageing allocated as movable the pages of programs and files; return their frames.

        From then on compaction may move them, and reclaim take them: each is mapped at a user address that stays, and
        is on one of reclaim's lists. Requests keep the zone's watermarks from then on, and what their flags allow is
        done for them where free memory does not serve (:mod:`vclab.slowpath`); :attr:`last_effort` tells what the last
        one took. Called again, it adds what was allocated since. Of several zones the highest alone has movable pages,
        those that come back included.

        Parameters
        ----------
        mix : PageMix, optional
            Shares of anonymous, active and dirty pages, and of those that are pinned, which are none.
        swap : str or int
            Size of the swap; without one anonymous pages are never reclaimed. Only the first call's counts.

        Raises
        ------
        OutOfMemory
            If there is no memory for their page tables.
        """
        movable = self.movable
        if movable is None:
            zone = self.memory.zone
            frames = parse_bytes(swap, "swap") >> PAGE_SHIFT
            self.memory.keep_watermarks(only_limits(self.linux, zone.managed, len(self.mmus)))
            rules = RECLAIM_RULES[self.linux.allocator.slow_path.value]
            movable = MovablePages(zone, UserRegion(self.page_tables), rules, frames)
        rng = np.random.default_rng([self.seed, POPULATION_STREAM])
        try:
            return movable.adopt_all(self._owned(), PageMix() if mix is None else mix, rng)
        finally:
            if self.pressure is None:
                # Only now: before there are pages nothing can be reclaimed for their tables.
                self.pressure = Pressure(movable, self.memory, self.mmus, self.operations)

    @property
    def movable(self) -> MovablePages | None:
        """The movable pages, None before :meth:`populate`."""
        return None if self.pressure is None else self.pressure.movable

    @property
    def last_effort(self) -> Effort | None:
        """What the last request for frames took; None before :meth:`populate`, or before the first request after."""
        return None if self.pressure is None else self.pressure.last_effort

    def _under_pressure(self) -> Pressure:
        if self.pressure is None:
            raise ConfigurationError("this machine has no movable pages; call populate() after ageing it")
        return self.pressure

    def compact(self, proactiveness: int = 0) -> str:
        """Compact memory and return how that ended (:class:`vckernels.compaction.CompactResult`), in lower case.

        Pages that move keep their addresses; page tables follow, and every CPU forgets its user translations once for
        each batch of moves.

        Parameters
        ----------
        proactiveness : int
            0: all that can be done, as writing to ``/proc/sys/vm/compact_memory`` does. 1 to 100: only as much as
            ``vm.compaction_proactiveness`` asks for.

        Raises
        ------
        ConfigurationError
            If the machine has no movable pages: :meth:`populate` comes first. Or if the release compacts nothing.
        """
        if not 0 <= proactiveness <= 100:
            raise ConfigurationError(f"proactiveness {proactiveness} does not exist; it is 0 to 100")
        if not RECLAIM_RULES[self.linux.allocator.slow_path.value].compacts:
            raise ConfigurationError(f"linux {self.linux.name} has no compaction, only lumpy reclaim; use linux '6.18'")
        return self._under_pressure().compact(proactiveness).name.lower().replace("_", " ")

    def use_pages(self, owners: npt.ArrayLike, write: bool = False) -> Use:
        """Let programs use movable pages; those that reclaim took come back, at their addresses, for a price.

        What a use is to reclaim: the page is spared when it is looked at next. What it costs the CPU that reads or
        writes is another matter (:meth:`access_at`).

        Parameters
        ----------
        owners : int64[n]
            Numbers of pages, 0 to ``movable.region.used - 1``, in the order of use.
        write : bool
            Stores rather than loads.

        Raises
        ------
        ConfigurationError
            If the machine has no movable pages, or a number was never given.
        """
        pressure = self._under_pressure()
        wanted = np.atleast_1d(np.asarray(owners, np.int64))
        return use_pages(pressure.movable, wanted, write, lambda: pressure.serve(0, GFP_KERNEL | Gfp.MOVABLE, True))

    def end_pages(self, owners: npt.ArrayLike) -> int:
        """Let programs end that have pages, or files be deleted; return how many of the pages were in memory.

        Those are freed, as the CPU at work frees them; places in swap are given up, and reclaim forgets what it took.

        Parameters
        ----------
        owners : int64[n]
            Numbers of pages, as :meth:`use_pages` takes them.

        Raises
        ------
        ConfigurationError
            If the machine has no movable pages, or a number was never given.
        """
        movable = self._under_pressure().movable
        ended = np.unique(np.asarray(owners, np.int64))
        check_numbers(movable, ended)
        return movable.end(ended)

    def _owned(self) -> npt.NDArray[np.bool_]:
        """Return which frames of the zone start a block that this system itself holds."""
        zone = self.memory.zone
        held = [self.page_tables.frames(), self.compound.objects.frames()]
        held += [page.frames for page in self.pages]
        held.append(self.background_frames)
        if self.pressure is not None:
            held.append(self.pressure.movable.frames())
        owned = np.zeros(zone.frames, np.bool_)
        local = np.concatenate(held) - zone.first_frame
        owned[local[local >= 0]] = True
        return owned

    def audit(self) -> None:
        """Check that each frame is in exactly one state, and that lists, counts and owners agree with that.

        Raises
        ------
        ConservationError
            If not: the model is at fault.
        """
        blocks = [("page tables", self.page_tables.frames(), 0)]
        for page in self.pages:
            if not page.is_virtual:
                blocks.append((f"page at {page.address:#x}", page.frames[:1], page.order))
            elif page.mapping_level == 1:
                blocks.append((f"page at {page.address:#x}", page.frames, 0))
        movable = None if self.movable is None else (self.movable.zone, self.movable.pages)
        audit.check(self.memory, movable, blocks)

    def buddyinfo(self) -> npt.NDArray[np.int64]:
        """Return free blocks by zone and order, int64[zones, 11]."""
        return self.memory.buddyinfo()

    def procfs(self, name: str) -> str:
        """Return what a kernel would say of this machine, in its own format.

        Parameters
        ----------
        name : str
            ``buddyinfo``, ``pagetypeinfo``, ``zoneinfo`` or ``vmallocinfo``, or debugfs's ``extfrag_index`` or
            ``unusable_index``. 2.6.24 has the first three, 2.6.23 no ``pagetypeinfo``.

        Raises
        ------
        ConfigurationError
            If the release has no such text.
        """
        parts = self.memory, self.page_tables, self.vmalloc_area, self.compound, self.movable
        return kernel_text(name, self.linux, *parts, len(self.mmus))

    def fragmentation_index(self, order: int) -> float:
        """Return why a request of an order fails (0 lack of memory, 1 fragmentation), -1 if it would not."""
        return fragmentation_index(self.memory.zone.free_blocks, order)

    def unusable_free_index(self, order: int) -> float:
        """Return the share of free frames in blocks too small for an order, 0 to 1."""
        return unusable_free_index(self.memory.zone.free_blocks, order)

    def extfrag_for_order(self, order: int) -> int:
        """Return the share of free frames in blocks too small for an order in percent, 0 if nothing is free."""
        return extfrag_for_order(self.memory.zone.free_blocks, order)

    def free_histogram(self) -> npt.NDArray[np.uint16]:
        """Return the free frames of each 2 MiB of all zones, in order of address, uint16[n], 0 to 512 each."""
        return np.concatenate([zone.free_histogram() for zone in self.memory.zones])

    @property
    def ledger(self) -> Ledger:
        """Every event so far, by cause."""
        counts = self.operations + self.memory.counters
        counts += self.page_tables.state.counters + self.vmalloc_area.areas.counters
        for mmu in self.mmus:
            counts += mmu.counters
        return Ledger(counts, self.cpu, self.linux)

    def copy(self, policy: str | None = None) -> System:
        """Return an independent machine in the same state, to ask what if; under another policy if named."""
        twin = object.__new__(System)
        twin.__dict__.update(self.__dict__)
        twin.memory = self.memory.copy()
        twin.page_tables = self.page_tables.copy(twin.memory)
        twin.vmalloc_area = self.vmalloc_area.copy(twin.page_tables)
        chosen = self.compound.policy if policy is None else find_policy(policy, self.linux.early_fallback.value)
        twin.compound = self.compound.copy(twin.memory, twin.page_tables, twin.vmalloc_area, chosen)
        twin.mmus = [mmu.copy() for mmu in self.mmus]
        twin.operations = self.operations.copy()
        if self.pressure is not None:
            movable = self.pressure.movable.copy(twin.memory.zone, twin.page_tables)
            twin.pressure = self.pressure.copy(movable, twin.memory, twin.mmus, twin.operations)
        twin.background = None if self.background is None else self.background.copy()
        return twin

    def __repr__(self) -> str:
        return (
            f"<System {self.cpu.name}, Linux {self.linux.name}, {format_bytes(self.memory.frames * PAGE_BYTES)}, "
            f"{self.compound.policy.name}, {self.memory.free_share:.0%} free>"
        )

    def _repr_html_(self) -> str:
        rows = {
            "CPU": self.cpu.title,
            "kernel": self.linux.title,
            "memory": f"{format_bytes(self.memory.frames * PAGE_BYTES)}, {self.memory.free_share:.1%} free",
            "policy": f"{self.compound.policy.name}: {self.compound.policy.summary}",
            "page tables": f"{self.page_tables.levels} levels, {self.page_tables.count} tables, "
            f"direct map in {self.direct_map_size} pages",
            "unusable free index": f"{self.unusable_free_index(9):.3f} at order 9",
            "live pages": f"{len(self.pages)}, {sum(page.is_virtual for page in self.pages)} of them virtual",
        }
        cells = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in rows.items())
        return f"<table><caption>vclab system</caption>{cells}</table>"


def _batches(offsets: Any) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the arrays of an iterable of arrays, or the one array that was given."""
    one = isinstance(offsets, np.ndarray) or np.isscalar(offsets)
    if isinstance(offsets, Sequence) and (not offsets or np.isscalar(offsets[0])):
        one = True
    for batch in [offsets] if one else offsets:
        numbers = np.asarray(batch)
        if numbers.size and numbers.dtype.kind not in "iu":
            raise ConfigurationError(f"offsets of type {numbers.dtype} are no byte offsets; pass whole numbers")
        yield np.ascontiguousarray(numbers, np.int64).ravel()
