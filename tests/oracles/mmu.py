"""One CPU's MMU with its caches in plain Python: TLBs, paging-structure caches, data caches and prefetchers.

Written from the rules and from no kernel, over its own copy of the page-table words (``{frame: [512 words]}``,
as in :mod:`tests.oracles.pagetable`). The rules of the TLBs are in :mod:`tests.oracles.tlb`; the others:

- A line is a physical address over 64. Cache levels keep exact LRU and nothing is invalidated from below. A level
  that fills on a miss takes each line that misses in it; a victim level gives up a line it holds, and takes what the
  level above evicts, if that evicts anything. What no level below takes is dropped.
- A walk begins below the lowest word that a paging-structure cache holds. With tags of physical word addresses it goes
  from the root, and words that the cache holds are not loaded. Words that name a table enter the cache when loaded.
- A store that hits an entry not known to be dirty loads the leaf again and sets it dirty.
- The stream prefetcher follows first-level misses of data accesses within a frame; two steps of one line in the same
  direction bring lines ahead into the second level, and at the frame's end the next page's translation.
- Before that, an adjacent-line prefetcher brings one neighbour of the missed line into the second level: the other line
  of 128 aligned bytes; or, by history, the line after or else before it, whichever this frame has missed at since it
  took its place in the history, where a frame gives way to the next one with the same low bits.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tests.oracles import pagetable
from tests.oracles.pagetable import ACCESSED, DIRTY, LARGE, PRESENT, WRITABLE, Memory, Rules
from tests.oracles.tlb import DIRECTORY, PlainSet, PlainTlb, shift

STREAMS = 32
HISTORY = 1024
LINES = 64
"""Lines of a 4 KiB frame."""
PAGE_BITS = (1 << 52) - 1
FRAME_BITS = (1 << 40) - 1
PHYSICAL, COLOUR_NEUTRAL, FIRST_LEVEL = "physical", "colour-neutral", "first-level"
"""Which lines data accesses load: those of their frames, of the stream's own space, or none."""

NO_NEIGHBOUR, PAIR, BY_HISTORY = "none", "pair", "history"
"""Which neighbour of a missed line is fetched."""


class PlainStructure(NamedTuple):
    """One array of the paging-structure caches and the levels of the words it holds (2: PDE ... 5: PML5E)."""

    sets: int
    ways: int
    entry_levels: tuple[int, ...]


class PlainLevel(NamedTuple):
    """One level of data cache."""

    sets: int
    ways: int
    hash_bits: int = 0
    victim: bool = False
    hash_shift: int = 0


class Entry:
    """A translation: first frame of the page, offset bits in units of frames, and whether it is known to be dirty."""

    __slots__ = ("dirty", "first", "within")

    def __init__(self, first: int, page_level: int, dirty: bool) -> None:
        self.first = first
        self.within = (1 << 9 * (page_level - 1)) - 1
        self.dirty = dirty

    def frame(self, page: int) -> int:
        """Return the frame of a 4K page number in this page."""
        return self.first + (page & self.within)


class PlainCaches:
    """Data caches; lines of a set from the least to the most recently used."""

    def __init__(self, levels: Sequence[PlainLevel]) -> None:
        self.levels = levels
        self.sets: list[defaultdict[int, OrderedDict[int, None]]] = [defaultdict(OrderedDict) for _ in levels]

    def index(self, number: int, line: int) -> int:
        """Return the set of a line in a level (counted from 0)."""
        level = self.levels[number]
        above, index = divmod(line, level.sets)
        return index ^ above % (1 << level.hash_bits) << level.hash_shift

    def insert(self, number: int, line: int) -> int | None:
        """Make a line the most recently used of its set; return the line that had to go."""
        lines = self.sets[number][self.index(number, line)]
        if line in lines:
            lines.move_to_end(line)
            return None
        evicted = lines.popitem(last=False)[0] if len(lines) == self.levels[number].ways else None
        lines[line] = None
        return evicted

    def load(self, line: int, first: int = 0) -> int:
        """Bring a line into a level from those below; return which level held it (their number: memory)."""
        evicted: int | None = None
        for number in range(first, len(self.levels)):
            lines = self.sets[number][self.index(number, line)]
            held = line in lines
            if number > first and self.levels[number].victim:
                if held:
                    del lines[line]
                evicted = None if evicted is None else self.insert(number, evicted)
            else:
                evicted = self.insert(number, line)
            if held:
                self.spill(number + 1, evicted)
                return number
        return len(self.levels)

    def spill(self, number: int, line: int | None) -> None:
        """Hand an evicted line down as far as victim levels take it."""
        while line is not None and number < len(self.levels) and self.levels[number].victim:
            line = self.insert(number, line)
            number += 1


class Background:
    """Other work on the CPU: one load after every ``gap`` accesses of a stream, its own offsets in turn."""

    def __init__(self, bases: Sequence[int], piece: int, offsets: Sequence[int], gap: int) -> None:
        self.bases = bases
        self.piece = piece
        self.offsets = offsets
        self.gap = gap
        self.since = 0
        self.position = 0
        self.events: Counter[str] = Counter()


class Stream:
    """One slot of the stream prefetcher."""

    def __init__(self, frame: int, last: int) -> None:
        self.frame = frame
        self.last = last
        self.direction = 0


class CompleteMmu:
    """One CPU over a copy of the page tables.

    Attributes
    ----------
    memory : dict
        Words of all tables by frame; accessed and dirty bits are set in it.
    events : Counter of str
        By the name of their cause.
    mode, free_translation, stream_lines, next_page, adjacent, neutral_base
        Settings.
    """

    def __init__(
        self,
        tlb: PlainTlb,
        structures: Sequence[PlainStructure],
        physical_tags: bool,
        levels: Sequence[PlainLevel],
        rules: Rules,
        root: int = 0,
    ) -> None:
        self.tlb = tlb
        self.physical_tags = physical_tags
        self.structures: dict[int, list[PlainSet]] = {}
        for structure in structures:
            sets = [PlainSet(structure.ways) for _ in range(structure.sets)]
            self.structures.update((level, sets) for level in structure.entry_levels)
        self.directories = tlb.levels > 1 and bool(tlb.homes[1][DIRECTORY])
        self.caches = PlainCaches(levels)
        self.rules = rules
        self.root = root
        self.memory: Memory = {}
        self.known_frames: dict[tuple[int, bool], int | None] = {}
        self.events: Counter[str] = Counter()
        self.mode = PHYSICAL
        self.free_translation = False
        self.stream_lines = 0
        self.next_page = False
        self.adjacent = NO_NEIGHBOUR
        self.neutral_base = 0
        self.streams: dict[int, Stream] = {}
        self.history: dict[int, tuple[int, set[int]]] = {}
        self.missed_set: int | None = None
        self.must_be_zero = {
            (level, large): sum(1 << number for number in pagetable.must_be_zero(large << LARGE, level, rules))
            for level in range(1, 6)
            for large in (0, 1)
        }
        self.names = {
            kind: [f"{kind}_LEVEL_{number}" for number in range(1, len(levels) + 1)] + [f"{kind}_MEMORY"]
            for kind in ("DATA", "ARRAY", "WALK")
        }

    # TLB

    def held(self, level: int, page: int) -> tuple[PlainSet, tuple[int, int]] | None:
        """Return where a TLB level (counted from 0) holds a 4K page number, whatever its page's size."""
        for page_level in (1, 2, 3):
            number = page >> 9 * (page_level - 1)
            home = self.tlb.home(level, number, page_level)
            if home is not None and (number, page_level) in home.entries:
                return home, (number, page_level)
        return None

    def fill(self, levels: int, page: int, page_level: int, entry: Entry) -> None:
        """Put an entry into the first levels."""
        number = page >> 9 * (page_level - 1)
        for level in range(levels):
            home = self.tlb.home(level, number, page_level)
            if home is not None:
                home.add((number, page_level), Entry(entry.first, page_level, entry.dirty))

    def translate(self, page: int, write: bool) -> tuple[int | None, bool]:
        """Return the frame of a 4K page number (None on a fault) and whether the first level hit."""
        for level in range(self.tlb.levels):
            found = self.held(level, page)
            if found is None:
                continue
            home, key = found
            home.touch(key)
            self.events[("FIRST_LEVEL_TLB_HIT", "SECOND_LEVEL_TLB_HIT")[level]] += 1
            entry: Entry = home.entries[key]
            self.fill(level, page, key[1], entry)
            if write and not entry.dirty:
                self.make_dirty(page)
            return entry.frame(page), level == 0
        self.events["WALK"] += 1
        walked = self.walk(page, write)
        if walked is None:
            self.events["TLB_FAULT"] += 1
            return None, False
        entry, page_level = walked
        self.fill(self.tlb.levels, page, page_level, entry)
        return entry.frame(page), False

    def make_dirty(self, page: int) -> None:
        """Load a leaf again and set it dirty, in memory and in all TLB levels."""
        frame, index = pagetable.walk(self.memory, self.root, page << 12, self.rules).path[-1]
        self.events["DIRTY_UPDATE"] += 1
        self.reference(frame, index, prefetch=False)
        self.memory[frame][index] |= 1 << DIRTY | 1 << ACCESSED
        for level in range(self.tlb.levels):
            found = self.held(level, page)
            if found is not None:
                found[0].entries[found[1]].dirty = True

    # Walks

    def structure(self, level: int, tag: int) -> PlainSet | None:
        """Return the set in which the entry of a word may lie; None if none is kept for its level."""
        if level == 2 and self.directories:
            return self.tlb.home(1, tag, DIRECTORY)
        sets = self.structures.get(level)
        return sets[tag % len(sets)] if sets else None

    @staticmethod
    def structure_key(level: int, tag: int) -> tuple[int, int]:
        """Return the key of a paging-structure entry, which no page's key in the same set equals."""
        return tag, DIRECTORY + level

    def cached_table(self, level: int, tag: int) -> int | None:
        """Return the frame of the table that a cached word names, making it the most recently used."""
        home = self.structure(level, tag)
        key = self.structure_key(level, tag)
        if home is None or not home.touch(key):
            return None
        self.events["WALK_CACHE_HIT"] += 1
        frame: int = home.entries[key]
        return frame

    def reference(self, frame: int, index: int, prefetch: bool) -> None:
        """Load a page-table word through the data caches."""
        served = self.caches.load(frame << 6 | index >> 3)
        if prefetch:
            self.events["PREFETCH_REFERENCE"] += 1
        else:
            self.events["WALK_REFERENCE"] += 1
            self.events[self.names["WALK"][served]] += 1

    def is_canonical(self, page: int) -> bool:
        """Return whether a page number's upper bits are all like the topmost translated one."""
        upper = page >> (9 * self.rules.levels - 1)
        return upper in (0, PAGE_BITS >> (9 * self.rules.levels - 1))

    def walk(self, page: int, write: bool, prefetch: bool = False) -> tuple[Entry, int] | None:
        """Return the entry of a page and its leaf level, or None on a fault."""
        if not self.is_canonical(page):
            return None
        address = page << 12
        level = self.rules.levels
        frame = self.root
        if not self.physical_tags:
            for entry_level in range(2, self.rules.levels + 1):
                table = self.cached_table(entry_level, address >> shift(entry_level))
                if table is not None:
                    level = entry_level - 1
                    frame = table
                    break
        while True:
            index = address >> shift(level) & 511
            tag = frame << 9 | index if self.physical_tags else address >> shift(level)
            if self.physical_tags and level > 1:
                table = self.cached_table(level, tag)
                if table is not None:
                    frame = table
                    level -= 1
                    continue
            self.reference(frame, index, prefetch)
            words = self.memory.get(frame)
            word = 0 if words is None else words[index]
            if words is None or not word >> PRESENT & 1 or word & self.must_be_zero[level, word >> LARGE & 1]:
                return None
            if level == 1 or (level <= 3 and word >> LARGE & 1):
                break
            if not word >> ACCESSED & 1:
                self.events["ACCESSED_UPDATE"] += 1
                words[index] = word | 1 << ACCESSED
            frame = word >> 12 & FRAME_BITS
            home = self.structure(level, tag)
            if home is not None:
                home.add(self.structure_key(level, tag), frame)
            level -= 1
        if write and not word >> WRITABLE & 1:
            return None
        if not word >> ACCESSED & 1:
            self.events["ACCESSED_UPDATE"] += 1
            word |= 1 << ACCESSED
        if write and not word >> DIRTY & 1:
            self.events["DIRTY_UPDATE"] += 1
            word |= 1 << DIRTY
        words[index] = word
        size = 1 << 9 * (level - 1)
        return Entry((word >> 12 & FRAME_BITS) // size * size, level, bool(word >> DIRTY & 1)), level

    # Data

    def load_data(self, line: int, page: int, first_level_hit: bool) -> None:
        """Load a data access's line, and train the prefetchers by a miss."""
        served = self.caches.load(line)
        self.events[self.names["DATA"][served]] += 1
        if served == 0:
            self.missed_set = None
            return
        index = self.caches.index(0, line)
        if first_level_hit and index == self.missed_set:
            self.events["FILL_CONFLICT"] += 1
        self.missed_set = index
        if self.adjacent != NO_NEIGHBOUR:
            self.fetch_neighbour(line)
        if self.stream_lines or self.next_page:
            self.train(line, page)

    def fetch_neighbour(self, line: int) -> None:
        """Bring a neighbour of a missed line into the second level, if there is one to bring."""
        if self.adjacent == PAIR:
            wanted = [line + 1 if line % 2 == 0 else line - 1]
        else:
            frame, here = divmod(line, LINES)
            place, seen = self.history.get(frame % HISTORY, (frame, set()))
            if place != frame:
                seen = set()
            wanted = [frame * LINES + near for near in (here + 1, here - 1) if near in seen]
            self.history[frame % HISTORY] = frame, seen | {here}
        if wanted:
            self.events["PREFETCH_LINE"] += self.caches.load(wanted[0], first=1) > 1

    def train(self, line: int, page: int) -> None:
        """Follow a first-level miss."""
        frame, here = divmod(line, LINES)
        stream = self.streams.get(frame % STREAMS)
        if stream is None or stream.frame != frame:
            self.streams[frame % STREAMS] = Stream(frame, here)
            return
        step = here - stream.last
        if step not in (1, -1):
            step = 0
        elif step == stream.direction:
            for ahead in range(1, self.stream_lines + 1):
                if 0 <= here + ahead * step < LINES:
                    served = self.caches.load(line + ahead * step, first=1)
                    self.events["PREFETCH_LINE"] += served > 1
            if self.next_page and not self.free_translation and not 0 <= here + step < LINES:
                self.prefetch_translation(page + step & PAGE_BITS)
        stream.last = here
        stream.direction = step

    def prefetch_translation(self, page: int) -> None:
        """Bring a page's translation into the TLBs if they lack it; the walk is in vain if it is not mapped."""
        if any(self.held(level, page) for level in range(self.tlb.levels)):
            return
        self.events["PREFETCH_WALK"] += 1
        walked = self.walk(page, write=False, prefetch=True)
        if walked is not None:
            self.fill(self.tlb.levels, page, walked[1], walked[0])

    # Accesses

    def frame_of(self, page: int, write: bool) -> int | None:
        """Return a page's frame by reading memory, with no effect on anything; known until the words change."""
        key = page, write
        if key not in self.known_frames:
            self.known_frames[key] = pagetable.walk(self.memory, self.root, page << 12, self.rules, write=write).frame
        return self.known_frames[key]

    def load_beside(self, other: Background) -> None:
        """Do one load of other work, counted apart, always by its physical address and never a conflict."""
        offset = other.offsets[other.position]
        other.position = (other.position + 1) % len(other.offsets)
        address = other.bases[offset // other.piece] + offset % other.piece
        page = address >> 12
        self.events["BACKGROUND_ACCESS"] += 1
        own = self.events, self.missed_set
        self.events, self.missed_set = other.events, None
        self.events["DATA_ACCESS"] += 1
        frame = self.frame_of(page, write=False) if self.free_translation else self.translate(page, write=False)[0]
        if frame is not None:
            self.load_data(frame << 6 | address >> 6 & 63, page, first_level_hit=False)
        self.events, self.missed_set = own

    def access(
        self,
        bases: Sequence[int],
        piece: int,
        offsets: Iterable[int],
        write: bool = False,
        arrays: Sequence[int] = (),
        array_piece: int = 0,
        beside: Background | None = None,
    ) -> None:
        """Access offsets of equal pieces; with page arrays each access is preceded by the load of its page's word."""
        events = self.events
        for offset in offsets:
            if beside is not None:
                if beside.since == beside.gap:
                    beside.since = 0
                    self.load_beside(beside)
                beside.since += 1
            if arrays:
                events["PAGE_ARRAY_ACCESS"] += 1
                word = arrays[offset // array_piece] + offset % array_piece // 4096 * 8
                at = word >> 12
                frame = self.frame_of(at, write=False) if self.free_translation else self.translate(at, write=False)[0]
                if frame is not None:
                    events[self.names["ARRAY"][self.caches.load(frame << 6 | word >> 6 & 63)]] += 1
            events["DATA_ACCESS"] += 1
            address = bases[offset // piece] + offset % piece
            page = address >> 12
            if self.free_translation:
                frame, first_level_hit = self.frame_of(page, write), True
            else:
                frame, first_level_hit = self.translate(page, write)
            if frame is None:
                continue
            if self.mode == FIRST_LEVEL:
                events["DATA_LEVEL_1"] += 1
                self.missed_set = None
                continue
            line = frame << 6 | address >> 6 & 63
            if self.mode == COLOUR_NEUTRAL:
                line = self.neutral_base + (offset >> 6)
            self.load_data(line, page, first_level_hit)

    # What the owner does

    def set_memory(self, memory: Memory) -> None:
        """Take a copy of all tables."""
        self.memory = memory
        self.known_frames.clear()

    def flush(self) -> None:
        """Empty the TLBs and the paging-structure caches."""
        self.tlb.flush()
        self.drop_structures()

    def drop_structures(self) -> None:
        """Empty the paging-structure caches, with the directory entries that a TLB holds."""
        for sets in self.structures.values():
            for one in sets:
                one.entries.clear()
        if self.directories:
            for one in self.tlb.homes[1][DIRECTORY]:
                for key in [key for key in one.entries if key[1] > DIRECTORY]:
                    del one.entries[key]

    def invalidate(self, address: int, count: int, page_level: int) -> int:
        """Drop pages of a size and all paging-structure entries, as INVLPG for each; return how many pages went."""
        first = address >> shift(page_level)
        dropped = sum(self.tlb.invalidate(first + number, page_level) for number in range(count))
        if count:
            self.drop_structures()
        return dropped
