"""Movable pages of a zone: who owns them, where they are reached, how compaction moves and reclaim takes them.

The allocator's blocks become pages on reclaim's lists (:mod:`vckernels.pages`), each mapped in the region of
:mod:`vclab.userpages` at the address that its owner's number says. Whatever moves or takes them logs it; here the log
is applied to the page tables, and what CPUs must forget is kept until :meth:`MovablePages.take_forgotten`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vckernels import buddy as buddy_kernels
from vckernels import compaction as compaction_kernels
from vckernels import freeing, workingset
from vckernels import pages as page_kernels
from vckernels.buddy import ALLOCATED, ORDERS, Migratetype
from vckernels.causes import Cause
from vckernels.compactcontrol import Compaction, RunField, new_compaction
from vckernels.compaction import CompactPriority, CompactResult
from vckernels.movelog import EVICTED, STALE, Moves, new_moves
from vckernels.pages import ACTIVE, ANONYMOUS, ANONYMOUS_FRAMES, DIRTY, Lru, Pages, new_pages
from vckernels.workingset import Reclaim, ReclaimField, new_reclaim
from vclab.errors import ConfigurationError, InvalidFree, OutOfMemory
from vclab.mapping import PageTables
from vclab.memory import Zone
from vclab.reclaimrules import PAUSED, ReclaimRules
from vclab.state import copied
from vclab.userpages import Leaves, UserRegion

LOG_ENTRIES = 4096
"""Moves after which compaction pauses so that page tables follow."""


class PageMix(NamedTuple):
    """What movable pages are, as shares of them, 0 to 1; drawn for each on its own."""

    anonymous: float = 0.6
    """Estimate: 1.04 M of 1.76 M pages that were not free on a recorded machine at work."""
    active: float = 0.5
    """Estimate: reclaim keeps the two lists about even where memory is not short of either."""
    dirty: float = 0.2
    """Estimate: what is dirty of a machine's cache (vm.dirty_ratio); anonymous pages always are."""
    pinned: float = 0.0
    """What somebody holds on to, a device or the kernel, so that it can be neither moved nor reclaimed: no page."""


def _freed_by(zone: Zone, pages: Pages) -> Pages:
    """Return the pages of a zone, to be freed through what its CPUs keep."""
    if not len(zone.per_cpu):
        return pages
    return pages._replace(limits=zone.limits(), per_cpu=zone.per_cpu, cpu=zone.cpu)


class MovablePages:
    """The movable pages of one zone.

    Parameters
    ----------
    zone : Zone
        Mutated. Its allocator has reclaim's lists.
    region : UserRegion
        Where pages are mapped; mutated.
    rules : ReclaimRules
        How pages are reclaimed.
    swap : int
        Frames that swap can hold; with 0 anonymous pages are never reclaimed.
    """

    def __init__(self, zone: Zone, region: UserRegion, rules: ReclaimRules, swap: int = 0) -> None:
        self.zone = zone
        self.region = region
        self.rules = rules
        self.pages: Pages = _freed_by(zone, new_pages(zone.frames, rules.split_lists))
        self.compaction: Compaction = new_compaction(zone.frames)
        self.moves: Moves = new_moves(LOG_ENTRIES)
        self.reclaim_state: Reclaim = new_reclaim(0, swap)
        self._forgotten: list[Leaves] = []
        self.reached = False
        """Whether CPUs may have noted anything in the leaves of pages: programs have accessed addresses of theirs."""
        self._pinned = np.zeros(zone.frames, np.bool_)
        """Frames at which blocks begin that somebody holds on to; checked when blocks become pages."""
        self._frees = -1
        """Blocks freed in the zone when reclaim ended last; -1 if the zone has become another since."""

    @property
    def limits(self) -> npt.NDArray[np.int64]:
        """The zone's watermarks and what goes with them, int64[LIMITS] (:class:`vckernels.watermark.Limit`)."""
        return self.zone.limits()

    # Pages

    def adopt(self, frames: npt.NDArray[np.int64], order: int, flags: int | npt.NDArray[np.uint8]) -> bool:
        """Make allocated blocks of one order movable pages; return whether there was memory for page tables.

        Parameters
        ----------
        frames : int64[n]
            First frames, as the machine numbers them.
        order : int
        flags : int or uint8[n]
            Any of :data:`vckernels.pages.PAGE_FLAGS`, alike for all or for each.

        Raises
        ------
        ConfigurationError
            If a block is not of this zone; or if it is not allocated, or is a page already: the blocks before it are
            pages then.
        """
        local = frames - self.zone.first_frame
        if not ((local >= 0) & (local < self.zone.frames)).all():
            raise ConfigurationError(
                f"one of the frames is not of zone {self.zone.name}; movable pages are in one zone"
            )
        owners = self.region.map(frames, order)
        if owners is None:
            return False
        self._remember(self.region.used)
        each = np.broadcast_to(np.asarray(flags, np.uint8), frames.shape)
        added = page_kernels.add_pages(self.zone.buddy, self.pages, local, owners, np.ascontiguousarray(each))
        self._pinned[local[:added]] = False
        if added < len(frames):
            orders = np.full(len(frames) - added, order, np.int8)
            self.region.reclaimed(owners[added:], orders)
            raise ConfigurationError(f"frame {int(frames[added])} starts no allocated block that is not yet a page")
        return True

    def _remember(self, owners: int) -> None:
        """Make room for what reclaim remembers of as many owners' pages."""
        shadows = self.reclaim_state.shadows
        if owners > len(shadows):
            room = np.zeros(max(owners, 2 * len(shadows)), np.int32)
            room[: len(shadows)] = shadows
            self.reclaim_state = self.reclaim_state._replace(shadows=room)

    def adopt_all(self, but: npt.NDArray[np.bool_], mix: PageMix, rng: np.random.Generator) -> int:
        """Make every block that was allocated as movable a page; return how many frames they have.

        Pages come to reclaim's lists in random order, as those of many programs do. Where programs have single frames
        only, larger blocks become as many pages. What is drawn as pinned stays so for all later calls, until its block
        is given back; who is handed the same frame as movable before the next call is taken for the one who pinned it.

        Parameters
        ----------
        but : bool[frames]
            Blocks that begin at these frames, counted from the zone's first, are left alone.
        mix : PageMix
        rng : Generator
            Advanced.

        Raises
        ------
        OutOfMemory
            If there is no memory for page tables.
        """
        state = self.zone.buddy.state
        wanted = (state >= ALLOCATED) & ((state - ALLOCATED) >> 4 == Migratetype.MOVABLE) & ~but
        wanted &= self.pages.flags & page_kernels.ON_LRU == 0
        self._pinned &= wanted
        # These pages would have been on the lists all along; new pages alone make no kernel try again.
        self._frees = -1
        wanted &= ~self._pinned
        frames = np.flatnonzero(wanted)
        orders = state[frames] & 15
        if not self.rules.large_pages:
            frames, orders = self._split(frames, orders)
        total = 0
        for order in range(ORDERS):
            chosen = rng.permutation(frames[orders == order])
            if mix.pinned:
                pinned = rng.random(len(chosen)) < mix.pinned
                self._pinned[chosen[pinned]] = True
                chosen = chosen[~pinned]
            shares = (mix.anonymous, mix.active, mix.dirty)
            anonymous, active, dirty = (rng.random(len(chosen)) < share for share in shares)
            flags = anonymous * ANONYMOUS + active * ACTIVE + (dirty | anonymous) * DIRTY
            if not self.adopt(chosen + self.zone.first_frame, order, flags.astype(np.uint8)):
                raise OutOfMemory("no frame is free for the page tables of movable pages; age to more free memory")
            total += len(chosen) << order
        return total

    def _split(
        self, frames: npt.NDArray[np.int64], orders: npt.NDArray[np.int8]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int8]]:
        """Make single frames of allocated blocks; return them, ascending, and their orders."""
        sizes = np.int64(1) << orders.astype(np.int64)
        singles = np.repeat(frames - np.cumsum(sizes) + sizes, sizes) + np.arange(sizes.sum())
        none = np.zeros(len(singles), np.int8)
        buddy_kernels.adopt(self.zone.buddy, singles, none, np.full(len(singles), Migratetype.MOVABLE, np.int8))
        return singles, none

    def release(self, frames: npt.NDArray[np.int64]) -> None:
        """Free pages by their first frames, and what maps them.

        Raises
        ------
        InvalidFree
            If a frame starts no movable page; nothing is freed then.
        """
        local = frames - self.zone.first_frame
        inside = (local >= 0) & (local < self.zone.frames)
        if not inside.all() or not (self.pages.flags[local] & page_kernels.ON_LRU).all():
            raise InvalidFree("one of the frames starts no movable page")
        orders = (self.zone.buddy.state[local] & 15).astype(np.int8)
        self._forgotten.append(self.region.reclaimed(self.pages.owner[local].astype(np.int64), orders))
        if freeing.release_pages(self.zone.buddy, self.pages, local) < len(local):
            raise InvalidFree("one of the frames was named twice")

    def end(self, owners: npt.NDArray[np.int64]) -> int:
        """Give back all that owners have, in memory and in swap; return how many pages were in memory.

        Who of them comes back later comes for the first time. A page of several frames goes with its first owner.
        """
        frames = self.frames()
        frames = frames[np.isin(self.pages.owner[frames - self.zone.first_frame], owners)]
        self.release(frames)
        workingset.forget_all(self.reclaim_state, owners)
        return len(frames)

    def frames(self) -> npt.NDArray[np.int64]:
        """Return the first frame of every movable page, as the machine numbers them, ascending, int64[n]."""
        return np.flatnonzero(self.pages.flags & page_kernels.ON_LRU) + self.zone.first_frame

    @property
    def captured(self) -> int:
        """First frame of the block that the last direct run captured for its request, -1 if none; it is allocated."""
        frame = int(self.compaction.run[RunField.CAPTURED])
        return frame + self.zone.first_frame if frame >= 0 else -1

    def take_forgotten(self) -> list[Leaves]:
        """Return what CPUs must forget since the last time, one entry for each round of invalidations."""
        forgotten, self._forgotten = self._forgotten, []
        return forgotten

    # Compaction

    def compact(
        self,
        order: int,
        migratetype: int,
        priority: CompactPriority,
        flags: int,
        highest_zone: int,
        files: bool = True,
    ) -> CompactResult:
        """Compact for a request (``try_to_compact_pages``); other parameters as ``begin_direct`` takes them."""
        buddy, pages, limits, compaction = self.zone.buddy, self.pages, self.limits, self.compaction
        begun = compaction_kernels.begin_direct(
            buddy, pages, limits, compaction, order, migratetype, priority, files, highest_zone, flags
        )
        result = self._run(begun)
        return CompactResult(compaction_kernels.end_direct(compaction, order, priority, result))

    def compact_in_background(self, order: int, flags: int, highest_zone: int) -> CompactResult:
        """Do kcompactd's work for an order that somebody wanted."""
        begun = compaction_kernels.begin_background(
            self.zone.buddy, self.pages, self.limits, self.compaction, order, highest_zone, flags
        )
        result = self._run(begun)
        compaction_kernels.end_background(self.zone.buddy, self.pages, self.compaction, order, result)
        return CompactResult(result)

    def compact_all(self, proactiveness: int = 0) -> CompactResult:
        """Compact the whole zone: proactively until its score is low enough, or with 0 as far as can be."""
        compaction_kernels.begin_whole_zone(self.zone.buddy, self.pages, self.compaction, proactiveness)
        return CompactResult(self._run(int(CompactResult.CONTINUE)))

    def _run(self, result: int) -> int:
        """Advance a run that was begun until it is finished, page tables following."""
        while result == CompactResult.CONTINUE:
            result = compaction_kernels.advance(self.zone.buddy, self.pages, self.limits, self.compaction, self.moves)
            self._apply_moves()
        return result

    def _apply_moves(self) -> None:
        """Let page tables follow the log, in its order: a page may have moved before it was evicted."""
        used = int(self.moves.used[0])
        if not used:
            return
        owners, orders, new = self.moves.owners[:used].astype(np.int64), self.moves.orders[:used], self.moves.new[:used]
        if self.reached and (stale := new == STALE).any():
            # Only reclaim says so, which moves nothing: when is all one.
            self._forgotten.append(self.region.stale(owners[stale], orders[stale]))
            owners, orders, new = owners[~stale], orders[~stale], new[~stale]
        gone = new == EVICTED
        ends = [*(np.flatnonzero(gone[1:] != gone[:-1]) + 1).tolist(), len(gone)]
        start = 0
        for end in ends if len(gone) else []:
            part = slice(start, end)
            if gone[start]:
                leaves = self.region.reclaimed(owners[part], orders[part])
            else:
                leaves = self.region.moved(owners[part], orders[part], new[part] + self.zone.first_frame)
            self._forgotten.append(leaves)
            start = end
        self.moves.used[0] = 0

    # Reclaim

    def reclaim(self, order: int, highest_zone: int) -> int:
        """Reclaim for a request that waits for it; return 0 if there was no progress."""
        self.rules.begin_direct(self.zone.buddy, self.limits, self.reclaim_state, order, highest_zone)
        return self._run_reclaim()

    def balance(self, order: int, highest_zone: int) -> None:
        """Do kswapd's work for an order that somebody wanted."""
        self.rules.begin_kswapd(self.zone.buddy, self.limits, self.reclaim_state, order, highest_zone)
        self._run_reclaim()

    def _run_reclaim(self) -> int:
        if self.zone.buddy.counters[Cause.FREE] != self._frees:
            # A zone that was given up is not any more once a block comes to its free lists (2.6.24: free_pages_bulk).
            self.reclaim_state.fields[[ReclaimField.SCANNED_IN_VAIN, ReclaimField.UNRECLAIMABLE]] = 0
        zone, entries = self.zone, self.region.entries(self.reached)
        answer = PAUSED
        while answer == PAUSED:
            state = self.reclaim_state
            answer = int(self.rules.advance(zone.buddy, self.pages, self.limits, state, entries, self.moves))
            self._apply_moves()
        self._frees = int(self.zone.buddy.counters[Cause.FREE])
        return answer

    @property
    def reclaimed_frames(self) -> int:
        """Frames that the last run of reclaim freed."""
        return int(self.reclaim_state.fields[ReclaimField.RECLAIMED])

    @property
    def reclaimable_frames(self) -> int:
        """Frames that reclaim could take at best (``zone_reclaimable_pages``)."""
        lengths = self.pages.lengths
        frames = int(lengths[Lru.INACTIVE_ANONYMOUS : Lru.UNEVICTABLE].sum())
        if self.reclaim_state.fields[ReclaimField.SWAP_FREE] > 0:
            return frames
        if not self.rules.split_lists:
            return frames - int(lengths[ANONYMOUS_FRAMES])
        return frames - int(lengths[Lru.INACTIVE_ANONYMOUS] + lengths[Lru.ACTIVE_ANONYMOUS])

    def copy(self, zone: Zone, tables: PageTables) -> MovablePages:
        """Return the same pages in copies of the zone and the tables."""
        twin = MovablePages(zone, self.region.copy(tables), self.rules)
        twin.pages, twin.compaction = _freed_by(zone, copied(self.pages)), copied(self.compaction)
        twin.reclaim_state = copied(self.reclaim_state)
        twin._forgotten, twin._frees = list(self._forgotten), self._frees
        twin._pinned, twin.reached = self._pinned.copy(), self.reached
        return twin
