"""Reclaim of one zone in plain Python: lists are deques, a run is a loop.

Rules: Linux 6.18, ``mm/vmscan.c`` and ``mm/workingset.c``, with writes that are done at once, no executable pages and
nobody else at work.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isqrt

from tests.oracles.compactrun import PlainRun
from tests.oracles.pages import PlainPage

KINDS = ("anonymous", "file")
SCAN_ORDER = ("inactive anonymous", "active anonymous", "inactive file", "active file")
CLOCK = 1 << 28


@dataclass
class PlainEntry:
    """What CPUs have noted in the page-table entry of one frame's owner."""

    accessed: bool = False
    dirty: bool = False


@dataclass
class PlainReclaim:
    """Reclaim of a plain zone with pages; compaction's model knows the zone's watermarks and how to judge.

    Attributes
    ----------
    shadows : dict of int to (int, bool, bool)
        By owner's id: the clock at its eviction, whether the page belonged to the working set, and to no file.
    entries : dict of int to PlainEntry, or None
        By owner's id, where pages are mapped.
    """

    zone_run: PlainRun
    swap_total: int = 0
    swappiness: int = 60
    cost: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    clock: int = 0
    activated: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    seen: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    kswapd_failures: int = 0
    shadows: dict[int, tuple[int, bool, bool]] = field(default_factory=dict)
    entries: dict[int, PlainEntry] | None = None

    def __post_init__(self) -> None:
        self.pages = self.zone_run.pages
        self.events = self.pages.events
        self.limits = self.zone_run.limits
        self.log = self.zone_run.log
        self.swap_free = self.swap_total

    # The working set

    def note(self, kind: str, written: int, rotated: int) -> None:
        """Add a cost."""
        self.cost[kind] += 32 * written + rotated
        if sum(self.cost.values()) > sum(self.pages.length(name) for name in SCAN_ORDER) // 4:
            self.cost = {name: cost // 2 for name, cost in self.cost.items()}

    def refault(self, page: PlainPage) -> None:
        """Change a page of one frame that is needed again, or for the first time."""
        if page.owner not in self.shadows:
            return
        when, workingset, page.anonymous = self.shadows.pop(page.owner)
        page.dirty = page.dirty or page.anonymous
        kind = "anonymous" if page.anonymous else "file"
        self.events["REFAULT"] += 1
        self.swap_free += page.anonymous
        if not self.pages.split_lists:
            return
        room = self.pages.length("active file")
        if page.anonymous:
            room += self.pages.length("inactive file")
        if self.swap_free > 0:
            room += self.pages.length("active anonymous")
            if not page.anonymous:
                room += self.pages.length("inactive anonymous")
        if (self.clock - when) % CLOCK > room:
            return
        page.active = True
        self.clock += 1
        self.activated[kind] += 1
        self.events["WORKINGSET_REFAULT"] += 1
        if workingset:
            page.workingset = True
            self.note(kind, 1, 0)

    # Entries

    def entries_of(self, frame: int) -> list[PlainEntry]:
        """Return the entries of a page, where it has any."""
        entries, owner = self.entries or {}, self.pages.pages[frame].owner
        return [entries[number] for number in range(owner, owner + self.pages.size(frame)) if number in entries]

    def look(self, frame: int) -> bool:
        """Return whether CPUs have noted an access to a page, and forget it."""
        accessed = [entry for entry in self.entries_of(frame) if entry.accessed]
        for entry in accessed:
            entry.accessed = False
        return bool(accessed)

    def unmap(self, frame: int) -> None:
        """Let a page have what CPUs have noted of writes."""
        for entry in self.entries_of(frame):
            self.pages.pages[frame].dirty |= entry.dirty
            entry.dirty = False

    def make_stale(self, frame: int) -> None:
        """Let CPUs forget a page."""
        self.log.append((frame, -2, self.pages.pages[frame].owner, self.pages.size(frame).bit_length() - 1))

    # Lists

    def take_oldest(self, name: str, frames: int) -> tuple[list[int], int]:
        """Take pages off a list's end."""
        taken: list[int] = []
        size = 0
        while size < frames and self.pages.lists[name]:
            frame = self.pages.lists[name][-1]
            size += self.pages.size(frame)
            self.pages.hold(frame)
            taken.append(frame)
        self.events["RECLAIM_SCANNED"] += size
        return taken, size

    def deactivate(self, kind: str, frames: int = 32) -> None:
        """Make old active pages inactive."""
        taken, size = self.take_oldest(f"active {kind}", frames)
        for frame in taken:
            self.look(frame)
            page = self.pages.pages[frame]
            page.accessed = page.active = False
            page.workingset = True
            self.pages.put(frame)
        self.events["PAGE_DEACTIVATION"] += size

    def is_low(self, kind: str) -> bool:
        """Return whether the inactive list of a kind is short."""
        inactive, active = self.pages.length(f"inactive {kind}"), self.pages.length(f"active {kind}")
        return inactive * max(1, isqrt(10 * ((inactive + active) >> 18))) < active

    def detach(self, frame: int) -> None:
        """Let a page be nobody's."""
        page = self.pages.pages[frame]
        size = self.pages.size(frame)
        for i in range(size):
            self.shadows[page.owner + i] = self.clock % CLOCK, page.workingset, page.anonymous
            if self.entries is not None:
                del self.entries[page.owner + i]
        self.clock += size
        if page.anonymous:
            self.swap_free -= size
        self.log.append((frame, -1, page.owner, size.bit_length() - 1))
        self.events["PAGE_RECLAIMED"] += size

    def shrink_inactive(self, kind: str, frames: int) -> None:
        """Scan the end of an inactive list."""
        taken, size = self.take_oldest(f"inactive {kind}", frames)
        freed = written = 0
        waiting = False
        for frame in taken:
            page = self.pages.pages[frame]
            pages = self.pages.size(frame)
            was_used, was_marked = self.look(frame) or page.accessed, page.referenced
            page.accessed, page.referenced = False, was_used
            if was_used:
                page.active = page.active or was_marked
            elif page.locked or (page.anonymous and self.swap_free < pages):
                page.active = True
            else:
                self.unmap(frame)
                waiting = True
                if not page.dirty:
                    self.detach(frame)
                    assert self.pages.release(frame) == "OK"
                    freed += pages
                    continue
                if self.entries is not None:
                    self.make_stale(frame)
                if self.may_write or not page.anonymous:
                    page.dirty = False
                    self.pages.put(frame, tail=True)
                    self.events["SWAP_OUT" if page.anonymous else "WRITE_BACK"] += pages
                    if page.anonymous:
                        written += pages
                        self.events["UNMAP_BATCH"] += 1
                        waiting = False
                    continue
            self.pages.put(frame)
            if page.active:
                self.events["PAGE_ACTIVATION"] += pages
                self.clock += pages
        self.events["UNMAP_BATCH"] += waiting
        self.note(kind, written, size - freed)
        self.reclaimed += freed
        self.scanned += size

    # A pass

    def free_count(self) -> int:
        """Return the free frames."""
        return self.zone_run.free_count

    def plan(self) -> dict[str, int]:
        """Return how many frames of each list to scan."""
        pages = self.pages
        self.may_shrink = {
            kind: self.forced or self.activated[kind] != self.seen[kind] or self.is_low(kind) for kind in KINDS
        }
        plenty = pages.length("inactive file") >> self.priority > 0 and not self.may_shrink["file"]
        self.trim = plenty and not self.no_trim
        cache = pages.length("inactive file") + pages.length("active file") + self.free_count()
        tiny = cache <= self.limits.high + self.limits.boost
        tiny = tiny and not self.may_shrink["anonymous"] and pages.length("inactive anonymous") >> self.priority > 0
        total = sum(self.cost.values())
        dear = {kind: total + self.cost[kind] for kind in KINDS}
        total = sum(dear.values())
        share = {
            "anonymous": self.swappiness * (total + 1) // (dear["anonymous"] + 1),
            "file": (200 - self.swappiness) * (total + 1) // (dear["file"] + 1),
        }
        whole = {name: pages.length(name) >> self.priority for name in SCAN_ORDER}
        if not self.may_swap or self.swap_free <= 0:
            share = {"anonymous": 0, "file": 1}
        elif self.priority == 0 and self.swappiness:
            return whole
        elif tiny:
            share = {"anonymous": 1, "file": 0}
        elif self.trim:
            share = {"anonymous": 0, "file": 1}
        return {name: frames * share[name.split()[1]] // sum(share.values()) for name, frames in whole.items()}

    def one_pass(self) -> int:
        """Scan all lists as planned; return the frames reclaimed."""
        left = self.plan()
        planned = dict(left)
        before = self.reclaimed
        everything = not self.is_kswapd and self.priority == 12
        while any(left[name] for name in SCAN_ORDER if name != "active anonymous"):
            for name in SCAN_ORDER:
                frames = min(32, left[name])
                if not frames:
                    continue
                left[name] -= frames
                activity, kind = name.split()
                if activity == "inactive":
                    self.shrink_inactive(kind, frames)
                elif self.may_shrink[kind]:
                    self.deactivate(kind, frames)
                else:
                    self.skipped = True
            if self.reclaimed - before < self.wanted or everything:
                continue
            of = {kind: left[f"inactive {kind}"] + left[f"active {kind}"] for kind in KINDS}
            if not all(of.values()):
                break
            ends, other = ("anonymous", "file") if of["file"] > of["anonymous"] else ("file", "anonymous")
            goal = planned[f"inactive {ends}"] + planned[f"active {ends}"] + 1
            percent = 100 - of[ends] * 100 // goal
            for activity in ("inactive", "active"):
                left[f"{activity} {ends}"] = 0
                name = f"{activity} {other}"
                left[name] = max(0, planned[name] * percent // 100 - (planned[name] - left[name]))
        if self.swap_total and self.is_low("anonymous"):
            self.deactivate("anonymous")
        return self.reclaimed - before

    def would_serve(self, order: int, mark: int) -> bool:
        """Return whether an order can be served while a mark is kept."""
        lists = self.zone_run.zone.lists
        large = order == 0 or any(lists[high, kind] for high in range(order, 11) for kind in range(3))
        return large and self.zone_run.keeps(mark + (1 << order) - 1)

    def suits_compaction(self, order: int) -> bool:
        """Return whether compaction is worth a try, whether or not the request could be served."""
        limits = self.limits
        if not self.zone_run.keeps((limits.low if order > 3 else limits.min) + limits.boost + (2 << order)):
            return False
        return order <= 3 or not 0 <= self.zone_run.index(order) <= 500

    def passes(self) -> None:
        """Scan the lists at one priority, several times if compaction needs it."""
        start = self.reclaimed
        while True:
            gained = self.one_pass()
            if gained:
                self.kswapd_failures = 0
            order = self.order
            if order == 0 or not gained or not (order > 3 or self.priority < 10):
                break
            if self.would_serve(order, self.limits.min + self.limits.boost) or self.suits_compaction(order):
                break
            inactive = self.pages.length("inactive file")
            if self.swap_free > 0:
                inactive += self.pages.length("inactive anonymous")
            if inactive <= 2 << order:
                break
        if self.reclaimed == start and self.trim:
            self.trim_failed = True

    def begin(self, order: int, is_kswapd: bool) -> None:
        """Set a run's fields."""
        self.order, self.is_kswapd, self.priority, self.wanted = order, is_kswapd, 12, 32
        self.reclaimed = self.scanned = 0
        self.may_swap = self.may_write = True
        self.forced = self.skipped = self.no_trim = self.trim = self.trim_failed = False

    def direct(self, order: int) -> int:
        """Reclaim for a request."""
        self.events["DIRECT_RECLAIM"] += 1
        self.begin(order, False)
        ready = False
        for forced in (False, True):
            self.forced = forced
            if forced:
                self.skipped = False
            for self.priority in range(12, -1, -1):
                mark = self.limits.high + self.limits.boost + (2 << order)
                if order > 3:
                    ready = self.would_serve(order, self.limits.min + self.limits.boost) or (
                        self.suits_compaction(order) and self.zone_run.keeps(mark)
                    )
                if not ready:
                    self.passes()
                if ready or self.reclaimed >= 32:
                    break
            if self.reclaimed or ready or not self.skipped:
                break
        self.seen = dict(self.activated)
        return max(self.reclaimed, int(ready))

    def kswapd(self, order: int) -> int:
        """Run kswapd; return the order that it balanced for."""
        self.events["KSWAPD_RUN"] += 1
        self.begin(order, True)
        if self.zone_run.cpus is not None:
            self.zone_run.cpus.limits["reclaim_active"] = 1
        boost = boost_left = self.limits.boost
        while True:
            self.scanned, before = 0, self.reclaimed
            balanced = self.would_serve(self.order, self.limits.high + self.limits.boost)
            if not balanced and boost_left:
                boost_left, self.priority = 0, 12
            if balanced and not boost_left:
                break
            self.may_swap = self.may_write = not boost_left
            if self.swap_total and self.is_low("anonymous"):
                self.deactivate("anonymous")
            self.wanted = max(32, self.limits.high + self.limits.boost)
            self.passes()
            if self.order and self.reclaimed >= 2 << self.order:
                self.order = 0
            harder = self.scanned < self.wanted and not (boost_left and self.priority == 10)
            gained = self.reclaimed - before
            boost_left = max(0, boost_left - gained)
            if boost_left and not gained:
                self.kswapd_failures += not self.reclaimed
                break
            self.priority -= harder or not gained
            if self.priority >= 1:
                continue
            if not self.reclaimed and not self.no_trim and self.trim_failed:
                self.no_trim, self.priority = True, 12
                continue
            self.kswapd_failures += not self.reclaimed
            break
        self.seen = dict(self.activated)
        self.limits.boost -= min(self.limits.boost, boost)
        if self.zone_run.cpus is not None:
            self.zone_run.cpus.limits["reclaim_active"] = 0
        return self.order
