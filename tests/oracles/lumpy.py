"""Reclaim of Linux 2.6.24 in plain Python: two lists, lumps of frames. Rules: ``mm/vmscan.c`` of that release."""

from __future__ import annotations

from dataclasses import dataclass

from tests.oracles.reclaim import PlainReclaim

OLD, USED = "inactive file", "active file"


@dataclass
class PlainLumpy(PlainReclaim):
    """Reclaim of a plain zone whose pages all are on the two lists of file pages."""

    managed: int = 1
    planned_active: int = 0
    planned_inactive: int = 0
    previous_priority: int = 12
    in_vain: int = 0
    unreclaimable: bool = False

    def anonymous_frames(self) -> int:
        """Return the anonymous pages on lists."""
        listed = [self.pages.pages[frame] for name in (OLD, USED) for frame in self.pages.lists[name]]
        return sum(page.anonymous for page in listed)

    def keeps(self, mark: int) -> bool:
        """Return whether the run's order keeps a mark, by the rule of 2.6.24."""
        left = self.free_count() - (1 << self.order) + 1
        if left <= mark:
            return False
        for order in range(self.order):
            left -= self.zone_run.blocks_of(order) << order
            mark >>= 1
            if left <= mark:
                return False
        return True

    def take_lumps(self, name: str, both: bool) -> list[int]:
        """Take 32 pages or more off a list's end, with neighbours."""
        taken: list[int] = []
        while len(taken) < self.goal and self.pages.lists[name]:
            frame = self.pages.lists[name][-1]
            self.pages.hold(frame)
            taken.append(frame)
            if self.order == 0:
                continue
            size = 1 << self.order
            for other in range(frame // size * size, frame // size * size + size):
                page = self.pages.pages.get(other)
                if page is not None and page.listed and (both or page.active == (name == USED)):
                    self.pages.hold(other)
                    taken.append(other)
        self.events["RECLAIM_SCANNED"] += len(taken)
        self.in_vain += len(taken)
        return taken

    def used(self, frame: int) -> bool:
        """Return whether a page was used, and forget it; so do CPUs, since x86 flushed then."""
        page = self.pages.pages[frame]
        was = page.accessed or page.referenced
        noted = self.look(frame)
        if noted:
            self.make_stale(frame)
        if page.anonymous and (noted or page.accessed):
            self.events["UNMAP_BATCH"] += 1
        page.accessed = page.referenced = False
        return was or noted

    def free_some(self, held: list[int]) -> list[int]:
        """Free what can be; return what is left."""
        left = []
        vector: list[int] = []
        spares = self.order <= 3
        before, self.written = self.written, set()
        for frame in held:
            page = self.pages.pages[frame]
            self.scanned += 2 if page.anonymous else 1
            was_used = self.used(frame)
            if page.locked or (page.anonymous and (self.swap_free < 1 or (spares and was_used))):
                page.active = True
                self.events["PAGE_ACTIVATION"] += 1
            else:
                self.unmap(frame)
                if page.anonymous and frame not in before:
                    self.events["UNMAP_BATCH"] += 1
                if not page.dirty:
                    self.detach(frame)
                    vector.append(frame)
                    if len(vector) == 14:
                        self.free_vector(vector)
                    continue
                if not (spares and was_used):
                    page.dirty = False
                    self.events["SWAP_OUT" if page.anonymous else "WRITE_BACK"] += 1
                    self.written.add(frame)
            left.append(frame)
        self.free_vector(vector)
        return left

    def free_vector(self, frames: list[int]) -> None:
        """Free pages from the last to the first, until there are none."""
        while frames:
            assert self.pages.release(frames.pop(), True) == "OK"

    def make_inactive(self, held: list[int]) -> None:
        """Clear the active flag."""
        for frame in held:
            self.events["PAGE_DEACTIVATION"] += self.pages.pages[frame].active
            self.pages.pages[frame].active = False

    def scan_inactive(self) -> None:
        """Scan the inactive list's end."""
        costly = self.order > 3
        self.written: set[int] = set()
        self.goal = 32
        frees = self.pages.zone.events["FREE"]
        held = self.take_lumps(OLD, costly)
        count = len(held)
        self.make_inactive(held)
        left = self.free_some(held)
        if left and costly and not self.is_kswapd:
            self.events["CONGESTION_WAIT"] += 1
            self.make_inactive(left)
            left = self.free_some(left)
        for frame in left:
            self.pages.put(frame, tail=frame in self.written)
        if self.pages.zone.events["FREE"] > frees:
            self.in_vain, self.unreclaimable = 0, False
        self.reclaimed += count - len(left)

    def scan_active(self, frames: int) -> None:
        """Scan the active list's end."""
        active, inactive = self.pages.length(USED), self.pages.length(OLD)
        mapped = self.anonymous_frames() * 100 // self.managed
        tendency = mapped // 2 + (100 >> min(self.previous_priority, self.priority)) + self.swappiness
        tendency += active // (inactive + 1) * (self.swappiness + 1) // 100 * mapped // 100
        mapped_too = self.in_vain >= 3 * (active + inactive) or tendency >= 100
        self.goal = frames
        for frame in self.take_lumps(USED, False):
            page = self.pages.pages[frame]
            if not (page.anonymous and (not mapped_too or not self.swap_total or self.used(frame))):
                page.active = False
                self.events["PAGE_DEACTIVATION"] += 1
            self.pages.put(frame)

    def shrink_zone(self) -> None:
        """Scan both lists as far as has come together."""
        self.previous_priority = min(self.previous_priority, self.priority)
        self.planned_active += (self.pages.length(USED) >> self.priority) + 1
        self.planned_inactive += (self.pages.length(OLD) >> self.priority) + 1
        active = inactive = 0
        if self.planned_active >= 32:
            active, self.planned_active = self.planned_active, 0
        if self.planned_inactive >= 32:
            inactive, self.planned_inactive = self.planned_inactive, 0
        while active or inactive:
            if active:
                frames = min(active, 32)
                active -= frames
                self.scan_active(frames)
            if inactive:
                inactive -= min(inactive, 32)
                self.scan_inactive()

    def direct(self, order: int) -> int:
        """Reclaim for a request; return 1 if there was progress."""
        self.events["DIRECT_RECLAIM"] += 1
        self.begin(order, False)
        progress = False
        for self.priority in range(12, -1, -1):
            self.scanned = 0
            progress = self.priority == 12 or not self.unreclaimable
            if progress:
                self.shrink_zone()
            if self.reclaimed >= 32:
                self.previous_priority = self.priority
                return 1
            if self.scanned and self.priority < 10:
                self.events["CONGESTION_WAIT"] += 1
        self.previous_priority = 0
        return int(progress)

    def kswapd(self, order: int) -> int:
        """Run kswapd; return the frames it freed."""
        self.events["KSWAPD_RUN"] += 1
        self.begin(order, True)
        while True:
            total, before, reached = 0, self.reclaimed, 12
            for self.priority in range(12, -1, -1):
                if (self.unreclaimable and self.priority != 12) or self.keeps(self.limits.high):
                    self.previous_priority = reached
                    return self.reclaimed
                reached = self.priority
                self.scanned = 0
                if not self.keeps(8 * self.limits.high):
                    self.shrink_zone()
                total += self.scanned
                if self.in_vain >= 6 * (self.pages.length(USED) + self.pages.length(OLD)):
                    self.unreclaimable = True
                if total and self.priority < 10:
                    self.events["CONGESTION_WAIT"] += 1
                if self.reclaimed - before >= 32:
                    break
            self.previous_priority = reached
