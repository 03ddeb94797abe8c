"""A zone that is reclaimed, kernel and plain, compared to the last shadow."""

from __future__ import annotations

import random

import numpy as np

from tests.kernels.compactedzones import CompactedPair
from tests.kernels.pagedzones import word_of
from tests.oracles.compaction import PlainLimits
from tests.oracles.pages import PlainPage
from tests.oracles.reclaim import PlainReclaim
from vckernels import reclaim, workingset
from vckernels.watermark import Limit, ZoneIndex
from vckernels.workingset import ReclaimField

OWNERS = 1 << 14


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
    ) -> None:
        super().__init__(frames, types, limits, split_lists, cpus)
        self.reclaim = workingset.new_reclaim(OWNERS, swap, swappiness)
        self.plain_reclaim = PlainReclaim(self.plain_compaction, swap, swappiness)
        self.free_owners = set(range(OWNERS))

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
        return frame

    def empty_log(self) -> None:
        """Take what was logged."""
        used = int(self.moves.used[0])
        columns = (self.moves.old, self.moves.new, self.moves.owners, self.moves.orders)
        self.log += list(zip(*(column[:used].tolist() for column in columns), strict=True))
        self.moves.used[0] = 0

    def advance_reclaim(self) -> int:
        """Advance the kernel's run to its end."""
        while True:
            state = (self.buddy, self.pages, self.limits, self.reclaim, self.moves)
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
