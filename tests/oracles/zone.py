"""What stands between requests and a zone's free lists, in plain Python, written from the rules and from no kernel.

Linux 6.18 ``mm/page_alloc.c`` (per-CPU lists, reserved pageblocks, watermarks with their boost, the zonelist), and
beside it 2.6.23 and 2.6.24.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field

from tests.oracles import watermark
from tests.oracles.buddy import HIGHATOMIC, ISOLATE, MOVABLE, NORMAL, PAGEBLOCK, UNMOVABLE, PlainBuddy

ONE_PAGEBLOCK = 512
LONGEST = 5
MARKS = ("min", "low", "high")


def clamp(value: int, low: int, high: int) -> int:
    """Return a value within bounds, the upper one winning where they cross (Linux ``clamp``)."""
    if value >= high:
        return high
    return max(value, low)


@dataclass
class Cpu:
    """One CPU's lists of one zone; today by order and type, in 2007 a hot (0) and a cold one (1)."""

    high: int
    lists: list[deque[int]] = field(default_factory=lambda: [deque() for _ in range(14)])
    count: int = 0
    cold_count: int = 0
    alloc_factor: int = 0
    free_count: int = 0
    previous_was_high_order: bool = False


def list_number(order: int, kind: int) -> int:
    """Return where blocks of an order and type lie."""
    return 12 + (kind == MOVABLE) if order == PAGEBLOCK else 3 * order + kind


class PlainZone:
    """A zone.

    Parameters
    ----------
    buddy : PlainBuddy
    limits : dict of str to int
        As :func:`vckernels.watermark.new_limits` takes them. Mutated.
    cpus : int
    rule : str
        "none", "many" or "two": which lists CPUs have.

    Attributes
    ----------
    held : dict of int to (int, int)
        Order and type of blocks on per-CPU lists.
    capture : callable
        Asked of every block about to be free, by first frame and order, whether somebody has taken it.
    """

    def __init__(self, buddy: PlainBuddy, limits: dict[str, int], cpus: int, rule: str) -> None:
        self.buddy = buddy
        self.limits = Counter(limits)
        self.cpus = [Cpu(self.limits["high_min"]) for _ in range(cpus)]
        self.rule = rule
        self.held: dict[int, tuple[int, int]] = {}
        self.capture: Callable[[int, int], bool] = lambda frame, order: False

    @property
    def events(self) -> Counter[str]:
        """Everything counted, the free lists' own events too."""
        return self.buddy.events

    @property
    def free(self) -> int:
        """Frames on free lists."""
        return sum(1 << order for order in self.buddy.free.values())

    def lengths(self) -> list[list[int]]:
        """Return the lengths of the free lists by order and type."""
        return [[len(self.buddy.lists[order, kind]) for kind in range(5)] for order in range(11)]

    # Taking from the free lists

    def from_lists(self, order: int, kind: int, no_fragment: bool, mode: int) -> tuple[int, int]:
        """Take a block as the zone would; a failure is not counted, each try to claim a pageblock boosts."""
        before = self.events["CLAIM_PAGEBLOCK"] + self.events["CLAIM_REFUSED"]
        failures = self.events["ALLOCATION_FAILURE"]
        frame, mode = self.buddy.allocate(order, kind, no_fragment, mode)
        self.events["ALLOCATION_FAILURE"] = failures
        tries = self.events["CLAIM_PAGEBLOCK"] + self.events["CLAIM_REFUSED"] - before
        if tries and self.limits["boost_most"]:
            self.limits["boost"] = watermark.boosted(self.limits["boost"], self.limits["boost_most"], tries)
            self.limits["boosted"] = 1
        return frame, mode

    def past_lists(self, order: int, kind: int, flags: Set[str]) -> int:
        """Serve a request without per-CPU lists."""
        frame: int | None = None
        if "HIGHATOMIC" in flags:
            frame = self.buddy.smallest(order, HIGHATOMIC)
        if frame is None:
            got, _ = self.from_lists(order, kind, "NOFRAGMENT" in flags, NORMAL)
            frame = got if got >= 0 else None
            if frame is None and flags & {"OOM", "NON_BLOCK"}:
                frame = self.buddy.smallest(order, HIGHATOMIC)
        if frame is None:
            return -1
        self.buddy.allocated[frame] = order, kind
        return frame

    # Today's per-CPU lists

    def refill_size(self, cpu: Cpu, order: int) -> int:
        """Return how many blocks a refill asks for."""
        batch, low, top = (self.limits[name] for name in ("batch", "high_min", "high_max"))
        cpu.high = clamp(cpu.high, low, top)
        if cpu.high < batch:
            return 1
        size = batch if order else batch << cpu.alloc_factor
        if low != top and not self.limits["below_high"]:
            cpu.high = min(cpu.high + size, top)
        if order == 0:
            room = max(cpu.high - cpu.count - batch, batch)
            if size <= room:
                cpu.alloc_factor = min(cpu.alloc_factor + 1, LONGEST)
            size = min(size, room)
        return size if size <= 1 else max(size >> order, 2)

    def pop(self, cpu: Cpu, order: int, kind: int, flags: Set[str]) -> int:
        """Take from a CPU's list, filling it first if need be."""
        cpu.free_count //= 2
        chosen = cpu.lists[list_number(order, kind)]
        if not chosen:
            mode = NORMAL
            for _ in range(self.refill_size(cpu, order)):
                frame, mode = self.from_lists(order, kind, "NOFRAGMENT" in flags, mode)
                if frame < 0:
                    break
                del self.buddy.allocated[frame]
                self.held[frame] = order, kind
                chosen.append(frame)
                cpu.count += 1 << order
            self.events["PER_CPU_REFILL"] += 1
            if not chosen:
                return -1
        return self.hand_out(cpu, chosen.popleft(), order, kind)

    def hand_out(self, cpu: Cpu, frame: int, order: int, kind: int, cold: bool = False) -> int:
        """Give a block that was just taken off a list to whoever asked."""
        del self.held[frame]
        self.buddy.allocated[frame] = order, kind
        if cold:
            cpu.cold_count -= 1
        else:
            cpu.count -= 1 << order
        self.events["PER_CPU_ALLOCATION"] += 1
        return frame

    def return_block(self, frame: int) -> int:
        """Put a block of a per-CPU list on the free lists; return its frames."""
        order, _ = self.held.pop(frame)
        if not self.capture(frame, order):
            self.buddy.merge(frame, order)
        self.events["FREE"] += 1
        return 1 << order

    def drain(self, cpu: Cpu, frames: int, number: int) -> int:
        """Give frames back, list by list from ``number`` on, tails first."""
        left = min(frames, cpu.count)
        self.events["PER_CPU_DRAIN"] += left > 0
        given = 0
        while given < left:
            while given < left and cpu.lists[number]:
                given += self.return_block(cpu.lists[number].pop())
            number = (number + 1) % 14
        cpu.count -= given
        return given

    def drain_all(self, cpu: Cpu) -> int:
        """Give everything back."""
        if self.rule == "two":
            return self.drain_two(cpu, 0, cpu.count) + self.drain_two(cpu, 1, cpu.cold_count)
        given = 0
        while cpu.count > 0:
            given += self.drain(cpu, self.limits["batch"] << LONGEST, 0)
        return given

    def decay(self, cpu: Cpu) -> int:
        """Let a CPU hold less as time goes by."""
        least = self.limits["high_min"]
        if cpu.high > least:
            cpu.high = max(cpu.count - (self.limits["batch"] << LONGEST), cpu.high - cpu.high // 8, least)
        return self.drain(cpu, cpu.count - cpu.high, 0) if cpu.count > cpu.high else 0

    def allowed(self, cpu: Cpu, free_high: bool) -> int:
        """Return what a CPU may hold after a free."""
        batch, low, top = (self.limits[name] for name in ("batch", "high_min", "high_max"))
        high = cpu.high = clamp(cpu.high, low, top)
        if not high:
            return 0
        if free_high:
            cpu.high = max(high - (batch << LONGEST), low)
            return 0
        shrunk = max(high - max(cpu.free_count, batch), low)
        if self.limits["reclaim_active"]:
            cpu.high = shrunk
            return min(4 * batch, shrunk)
        if low == top:
            return high
        if self.limits["below_high"]:
            cpu.high = shrunk
            return max(cpu.count, low)
        if cpu.count >= high and high < cpu.free_count + batch:
            cpu.high = clamp(cpu.free_count + batch, low, top)
        return high

    def push(self, cpu: Cpu, frame: int, order: int, kind: int) -> None:
        """Put a freed block on a CPU's list, and give back what is too much."""
        batch = self.limits["batch"]
        number = list_number(order, kind)
        cpu.lists[number].appendleft(frame)
        self.held[frame] = order, kind
        self.events["PER_CPU_FREE"] += 1
        cpu.alloc_factor //= 2
        cpu.count += 1 << order
        free_high = False
        if 1 <= order <= 3:
            gather = self.limits["free_high_batch"] and cpu.count < batch
            many = cpu.free_count >= batch + self.limits["high_min"] // 2
            free_high = many and cpu.previous_was_high_order and not gather
        cpu.previous_was_high_order = 1 <= order <= 3
        if cpu.free_count < batch << LONGEST:
            cpu.free_count += 1 << order
        high = self.allowed(cpu, free_high)
        if cpu.count < high:
            return
        if free_high:
            size = min(cpu.count, batch << LONGEST)
        elif high < batch:
            size = 1
        else:
            size = clamp(cpu.free_count, batch, high - batch)
        self.drain(cpu, size, number)
        if self.limits["below_high"]:
            reserve, mark = self.limits["reserve_movable"], self.limits["high"] + self.limits["boost"]
            if watermark.ok(self.lengths(), reserve, bool(self.limits["highatomic_reserved"]), 0, mark, set()):
                self.limits["below_high"] = 0

    # The lists of 2007

    def pop_two(self, cpu: Cpu, kind: int, cold: bool) -> int:
        """Take a single frame of the right type, or any after a refill brought none."""
        chosen = cpu.lists[cold]
        right = [frame for frame in chosen if self.held[frame][1] == kind]
        if not right:
            self.refill_two(cpu, kind, cold)
            right = list(chosen)
        if not right:
            return -1
        chosen.remove(right[0])
        return self.hand_out(cpu, right[0], 0, kind, cold)

    def refill_two(self, cpu: Cpu, kind: int, cold: bool) -> None:
        """Bring a batch, in the order in which it comes, before what is there."""
        came: list[int] = []
        for _ in range(max(self.limits["batch"] // 2, 1) if cold else max(self.limits["batch"], 1)):
            frame, _ = self.from_lists(0, kind, False, NORMAL)
            if frame < 0:
                break
            del self.buddy.allocated[frame]
            self.held[frame] = 0, kind
            came.append(frame)
        cpu.lists[cold].extendleft(reversed(came))
        if cold:
            cpu.cold_count += len(came)
        else:
            cpu.count += len(came)
        self.events["PER_CPU_REFILL"] += 1

    def drain_two(self, cpu: Cpu, number: int, frames: int) -> int:
        """Give the tail of one of two lists back."""
        given = 0
        while given < frames and cpu.lists[number]:
            given += self.return_block(cpu.lists[number].pop())
        if number:
            cpu.cold_count -= given
        else:
            cpu.count -= given
        self.events["PER_CPU_DRAIN"] += given > 0
        return given

    def push_two(self, cpu: Cpu, frame: int, cold: bool) -> None:
        """Put a freed frame first; at the limit a batch goes back."""
        cpu.lists[cold].appendleft(frame)
        self.held[frame] = 0, self.buddy.type_of(frame)
        self.events["PER_CPU_FREE"] += 1
        batch = self.limits["batch"]
        if cold:
            cpu.cold_count += 1
            if cpu.cold_count >= self.limits["high_min"]:
                self.drain_two(cpu, 1, max(batch // 2, 1))
        else:
            cpu.count += 1
            if cpu.count >= self.limits["high_max"]:
                self.drain_two(cpu, 0, max(batch, 1))

    # Freeing

    def give_back(self, cpu: Cpu, frame: int, order: int, cold: bool) -> str:
        """Free a block; return the name of a status."""
        right = frame in self.buddy.allocated and self.buddy.allocated[frame][0] == order
        kind = self.buddy.type_of(frame) if right else ISOLATE
        if self.rule == "many" and right and (order <= 3 or order == PAGEBLOCK) and kind != ISOLATE:
            del self.buddy.allocated[frame]
            self.push(cpu, frame, order, MOVABLE if kind == HIGHATOMIC else kind)
            return "OK"
        if self.rule == "two" and right and order == 0:
            del self.buddy.allocated[frame]
            self.push_two(cpu, frame, cold)
            return "OK"
        if right:
            block = self.buddy.allocated.pop(frame)
            if self.capture(frame, order):
                self.events["FREE"] += 1
                return "OK"
            self.buddy.allocated[frame] = block
        return self.buddy.give_back(frame, order)

    # Reserves

    def set_types(self, first: int, frames: int, kind: int) -> None:
        """Give pageblocks another type."""
        for block in range(first >> PAGEBLOCK, (first + frames) >> PAGEBLOCK):
            self.buddy.types[block] = kind

    def reserve(self, frame: int, order: int) -> bool:
        """Reserve the pageblocks around an allocated block, if that may be."""
        block = frame >> PAGEBLOCK
        full = self.limits["highatomic_reserved"] >= self.limits["highatomic_most"]
        cut = (block + 1) * ONE_PAGEBLOCK > self.buddy.frames
        if full or cut or self.buddy.types[block] in (HIGHATOMIC, ISOLATE):
            return False
        size = max(ONE_PAGEBLOCK, 1 << order)
        if order < PAGEBLOCK:
            self.buddy.retype(block, HIGHATOMIC)
        else:
            self.set_types(frame, size, HIGHATOMIC)
        self.limits["highatomic_reserved"] += size
        self.events["HIGHATOMIC_RESERVE"] += size // ONE_PAGEBLOCK
        return True

    def release(self, kind: int, force: bool) -> bool:
        """Give a reserved pageblock back, the one with the smallest free block."""
        if not force and self.limits["highatomic_reserved"] <= ONE_PAGEBLOCK:
            return False
        order = next((k for k in range(11) if self.buddy.lists[k, HIGHATOMIC]), None)
        if order is None:
            return False
        frame = self.buddy.lists[order, HIGHATOMIC][0]
        size = max(ONE_PAGEBLOCK, 1 << order)
        self.limits["highatomic_reserved"] = max(self.limits["highatomic_reserved"] - size, 0)
        self.events["HIGHATOMIC_RELEASE"] += size // ONE_PAGEBLOCK
        if order < PAGEBLOCK:
            self.buddy.retype(frame >> PAGEBLOCK, kind)
        else:
            self.buddy.unlink(frame)
            self.set_types(frame, size, kind)
            self.buddy.insert(frame, order, kind, tail=True)
        return True

    def keep_reserve(self) -> int:
        """Keep pageblocks for the min watermark, as 2.6.24 does."""
        wanted = -(-self.limits["min"] // ONE_PAGEBLOCK)
        kept = 0
        for block, kind in enumerate(list(self.buddy.types)):
            if kind not in (MOVABLE, HIGHATOMIC):
                continue
            now = HIGHATOMIC if kept < wanted else MOVABLE
            kept += now == HIGHATOMIC
            if now != kind:
                self.buddy.types[block] = now
                self.to_heads(block, now)
        return kept

    def to_heads(self, block: int, kind: int) -> None:
        """Move a whole pageblock's free blocks to other lists' heads."""
        if (block + 1) * ONE_PAGEBLOCK > self.buddy.frames:
            return
        for frame in range(block * ONE_PAGEBLOCK, (block + 1) * ONE_PAGEBLOCK):
            if frame in self.buddy.free:
                self.buddy.insert(frame, self.buddy.unlink(frame), kind)

    # One zone's part of a request

    def keeps_watermark(self, order: int, highest: str, mark: str, flags: Set[str], modern: bool) -> bool:
        """Return whether a request may be served here."""
        reserve, boost = self.limits[f"reserve_{highest}"], self.limits["boost"]
        reserved = bool(self.limits["highatomic_reserved"])
        if not modern:
            lengths = self.lengths()
            return "NO_WATERMARKS" in flags or watermark.ok_2_6_24(
                lengths, reserve, order, self.limits[mark] + boost, flags
            )
        marks = {name: self.limits[name] for name in MARKS}
        if not self.limits["below_high"]:
            if watermark.fast(self.lengths(), marks, boost, reserve, reserved, order, "high", flags, mark):
                return True
            self.limits["below_high"] = 1
        if watermark.fast(self.lengths(), marks, boost, reserve, reserved, order, mark, flags, mark):
            return True
        return "NO_WATERMARKS" in flags

    def take(self, cpu: int, order: int, kind: int, highest: str, mark: str, flags: Set[str], modern: bool) -> int:
        """Serve a request if that keeps the zone's watermark; return the frame or -1."""
        if not self.keeps_watermark(order, highest, mark, flags, modern):
            self.events["WATERMARK_MISS"] += 1
            return -1
        if not modern:
            if order == 0 and self.rule == "two":
                return self.pop_two(self.cpus[cpu], kind, "COLD" in flags)
            return self.past_lists(order, kind, set())
        frame = -1
        if self.rule == "many" and (order <= 3 or order == PAGEBLOCK):
            frame = self.pop(self.cpus[cpu], order, kind, flags)
        if frame < 0:
            frame = self.past_lists(order, kind, flags)
        if frame >= 0 and "HIGHATOMIC" in flags:
            self.reserve(frame, order)
        return frame


class PlainZonelist:
    """Zones from DMA up to normal, each None where the machine has none, with their first frames."""

    def __init__(self, zones: Sequence[PlainZone | None], starts: Sequence[int], release: str) -> None:
        self.zones = zones
        self.starts = starts
        self.release = release

    def get(self, cpu: int, order: int, kind: int, highest: str, mark: str, flags: Set[str]) -> int:
        """Serve a request without a slow path; return the machine's frame or -1."""
        asked, kind = kind, UNMOVABLE if self.release == "2.6.23" else kind
        top = ("dma", "dma32", "normal", "movable").index(highest)
        order_of_zones = [number for number in (2, 1, 0) if number <= top and self.zones[number] is not None]
        modern = self.release == "6.18"
        tries = [set(flags)]
        if modern and order_of_zones[:1] == [2]:
            tries.insert(0, set(flags) | {"NOFRAGMENT"})
        for now in tries:
            for number in order_of_zones:
                zone = self.zones[number]
                assert zone is not None
                frame = zone.take(cpu, order, kind, highest, mark, now, modern)
                if frame >= 0:
                    zone.buddy.allocated[frame] = order, asked
                    return frame + self.starts[number]
        return -1

    def put(self, cpu: int, frame: int, order: int, cold: bool = False) -> str:
        """Free a block by the machine's frame; return the name of a status."""
        for number in (2, 1, 0):
            zone = self.zones[number]
            if zone is not None and frame >= self.starts[number]:
                return zone.give_back(zone.cpus[cpu], frame - self.starts[number], order, cold)
        return "OUT_OF_RANGE"
