"""A zone that is reclaimed, kernel and plain, compared to the last shadow."""

from __future__ import annotations

import random

import numpy as np

from tests.kernels.compactedzones import CompactedPair
from tests.kernels.pagedzones import word_of
from tests.oracles.compaction import PlainLimits
from tests.oracles.pages import PlainPage
from tests.oracles.reclaim import PlainEntry, PlainReclaim
from vckernels import entry, pagetable, reclaim, workingset
from vckernels.movelog import EVICTED
from vckernels.referenced import Entries, no_entries
from vckernels.watermark import Limit, ZoneIndex
from vckernels.workingset import ReclaimField

OWNERS = 1 << 14
START = 1 << 44
UNUSED = int(entry.USER_LEAF & ~(entry.ACCESSED | entry.DIRTY))


class MappedOwners:
    """A region of real page tables in which each owner of a page has a word, 0 for who has no page."""

    def __init__(self) -> None:
        tables = pagetable.new_page_tables(1, 0, 1 << 10, 4, 46, True)
        needed = int(pagetable.survey(tables, np.uint64(START), OWNERS, 1))
        upper = entry.KERNEL_TABLE | entry.USER
        frames = np.zeros(OWNERS, np.int64)
        pagetable.map_range(tables, np.uint64(START), frames, 1, np.uint64(UNUSED), upper, np.arange(2, 2 + needed))
        places = [pagetable.leaf_word(tables, np.uint64(START + (page << 12))) for page in range(0, OWNERS, 512)]
        assert all(index == 0 for _, index in places)
        self.rows = np.array([row for row, _ in places])
        self.entries = Entries(tables, np.uint64(START), True)
        tables.words[self.rows] = entry.ZERO

    def write(self, owner: int, size: int, word: int) -> None:
        """Write the words of consecutive owners."""
        each = np.arange(owner, owner + size)
        self.entries.tables.words[self.rows[each // 512], each % 512] = word

    def access(self, owners: list[int], write: bool) -> None:
        """Let a CPU walk to owners' pages, for loads or stores."""
        count = len(owners)
        addresses = np.uint64(START) + (np.array(owners, np.uint64) << np.uint64(12))
        frames, levels, faults = np.zeros(count, np.int64), np.zeros(count, np.int8), np.zeros(count, np.int8)
        pagetable.walk_many(self.entries.tables, addresses, write, True, False, True, frames, levels, faults)
        assert not faults.any()

    def words(self) -> np.ndarray:
        """Return all owners' words."""
        return self.entries.tables.words[self.rows].ravel()


class ReclaimedPair(CompactedPair):
    """One zone with pages, compaction and reclaim, twice. Owners' ids are below ``OWNERS``."""

    def __init__(
        self,
        frames: int,
        types: dict[int, int] | None = None,
        limits: PlainLimits | None = None,
        swap: int = 0,
        swappiness: int = 60,
        split_lists: bool = True,
        cpus: int = 0,
        mapped: bool = False,
    ) -> None:
        super().__init__(frames, types, limits, split_lists, cpus)
        self.mapped = MappedOwners() if mapped else None
        self.entries = no_entries() if self.mapped is None else self.mapped.entries
        self.reclaim = workingset.new_reclaim(OWNERS, swap, swappiness)
        self.plain_reclaim = PlainReclaim(self.plain_compaction, swap, swappiness)
        self._map_plainly()
        self.free_owners = set(range(OWNERS))

    def _map_plainly(self) -> None:
        """Let the plain model have entries too."""
        self.plain_reclaim.entries = None if self.mapped is None else {}

    def fault(self, order: int, page: PlainPage) -> int:
        """Let an owner have a page: a refault if it had one before that was reclaimed. Return the frame or -1."""
        frame = self.allocate(order, 1)
        if frame < 0:
            return -1
        if order == 0:
            flags = workingset.refault(self.buddy, self.pages, self.reclaim, page.owner, word_of(page))
            self.plain_reclaim.refault(page)
            assert flags == word_of(page)
        self.add(frame, page)
        if self.mapped is not None:
            assert self.plain_reclaim.entries is not None
            self.mapped.write(page.owner, 1 << order, UNUSED)
            self.plain_reclaim.entries.update((page.owner + i, PlainEntry()) for i in range(1 << order))
        return frame

    def access(self, owners: list[int], write: bool) -> None:
        """Let a CPU note accesses to owners' pages in their entries, where pages are mapped."""
        entries = self.plain_reclaim.entries
        if self.mapped is not None and entries is not None:
            self.mapped.access(owners, write)
            for owner in owners:
                entries[owner].accessed = True
                entries[owner].dirty |= write

    def empty_log(self) -> None:
        """Take what was logged."""
        used = int(self.moves.used[0])
        columns = (self.moves.old, self.moves.new, self.moves.owners, self.moves.orders)
        latest = list(zip(*(column[:used].tolist() for column in columns), strict=True))
        self.log += latest
        for _, new, owner, order in latest:
            if self.mapped is not None and new == EVICTED:
                self.mapped.write(owner, 1 << order, 0)
        self.moves.used[0] = 0

    def advance_reclaim(self) -> int:
        """Advance the kernel's run to its end."""
        while True:
            state = (self.buddy, self.pages, self.limits, self.reclaim, self.entries, self.moves)
            answer = reclaim.advance_reclaim(*state)
            self.empty_log()
            if answer != reclaim.PAUSED:
                return int(answer)

    def reclaim_direct(self, order: int) -> int:
        """Reclaim for a request in both; return the frames."""
        reclaim.begin_reclaim(self.buddy, self.reclaim, order, ZoneIndex.NORMAL)
        frames = self.advance_reclaim()
        assert frames == self.plain_reclaim.direct(order)
        return frames

    def kswapd(self, order: int) -> int:
        """Run kswapd in both; return the order it balanced for."""
        reclaim.begin_kswapd(self.buddy, self.limits, self.reclaim, order, ZoneIndex.NORMAL)
        balanced = self.advance_reclaim()
        assert balanced == self.plain_reclaim.kswapd(order)
        return balanced

    def check_reclaim(self) -> None:
        """Compare what reclaim remembers, and the zone."""
        plain = self.plain_reclaim
        assert self.log == plain.log
        fields = self.reclaim.fields
        expected = {
            ReclaimField.ANONYMOUS_COST: plain.cost["anonymous"],
            ReclaimField.FILE_COST: plain.cost["file"],
            ReclaimField.CLOCK: plain.clock,
            ReclaimField.ACTIVATED_ANONYMOUS: plain.activated["anonymous"],
            ReclaimField.ACTIVATED_FILE: plain.activated["file"],
            ReclaimField.SEEN_ANONYMOUS: plain.seen["anonymous"],
            ReclaimField.SEEN_FILE: plain.seen["file"],
            ReclaimField.SWAP_FREE: plain.swap_free,
            ReclaimField.KSWAPD_FAILURES: plain.kswapd_failures,
        }
        assert {name: int(fields[name]) for name in expected} == expected
        shadows = {owner: int(self.reclaim.shadows[owner]) for owner in np.flatnonzero(self.reclaim.shadows).tolist()}
        assert shadows == {
            owner: 1 + 4 * when + 2 * anonymous + kept for owner, (when, kept, anonymous) in plain.shadows.items()
        }
        assert self.limits[Limit.BOOST] == plain.limits.boost
        if self.mapped is not None:
            words, entries = self.mapped.words(), plain.entries or {}
            assert np.flatnonzero(words).tolist() == sorted(entries)
            for name, bit in (("accessed", entry.ACCESSED), ("dirty", entry.DIRTY)):
                noted = sorted(owner for owner, bits in entries.items() if getattr(bits, name))
                assert np.flatnonzero(words & bit).tolist() == noted
        self.check()


def used_page(rng: random.Random, owner: int) -> PlainPage:
    """Return a page as it is after some time: of a random kind, used or not, anonymous ones dirty mostly."""
    anonymous = rng.random() < 0.5
    return PlainPage(
        owner=owner,
        anonymous=anonymous,
        active=rng.random() < 0.4,
        referenced=rng.random() < 0.2,
        accessed=rng.random() < 0.3,
        dirty=rng.random() < (0.8 if anonymous else 0.2),
        locked=rng.random() < 0.02,
        workingset=rng.random() < 0.1,
    )
