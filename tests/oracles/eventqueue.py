"""CPUs with locks, lines and interrupts on a heap of moments, in plain Python; written from no kernel.

Rules: a CPU repeats its program; an empty one is idle. Of all that can happen next the earliest happens, and at one
moment the lowest CPU's. Work, lines (one user at a time, as long as the way from the last one), locks (the longest
spinning CPU that is not in a handler gets it, and its word comes over as line number lock), requests to all others
(sent after the cycles of sending, each arriving after the next delay of a list; the sender waits for all answers),
interrupts off and on. A request is taken at once by who works, spins, waits or is idle with interrupts on; by who is
fetching a line or sending, after that. A step that ends at the moment of the arrival ends first. One handler runs at
a time.
"""

from __future__ import annotations

import heapq
from collections import Counter

FOREVER = float("inf")


class PlainCpu:
    """One CPU."""

    def __init__(self, number: int, program: list[tuple[str, int]]) -> None:
        self.number = number
        self.program = program
        self.at = 0
        self.doing = "idle"
        self.ends: float = FOREVER
        self.left: float = 0.0
        self.came = 0
        self.missing: int | None = None
        self.off = False
        self.handler: list[tuple[str, int]] = []
        self.asker: int | None = None
        self.inbox: dict[int, int] = {}
        self.rounds = 0
        self.last_round = 0
        self.spent: Counter[str] = Counter()
        self.since = 0
        self.version = 0


class PlainQueue:
    """All of them, and what they share."""

    def __init__(
        self,
        programs: list[list[tuple[str, int]]],
        handlers: tuple[list[tuple[str, int]], list[tuple[str, int]]],
        line_cycles: list[tuple[int, int, int]],
        sockets: list[int],
        delays: list[int],
    ) -> None:
        self.handlers = handlers
        self.line_cycles = line_cycles
        self.sockets = sockets
        self.delays = delays
        self.line_user: dict[int, int] = {}
        self.line_until: Counter[int] = Counter()
        self.holder: dict[int, int] = {}
        self.sent = 0
        self.comers = 0
        self.now = 0
        self.heap: list[tuple[float, int, int]] = []
        self.cpus = [PlainCpu(number, program) for number, program in enumerate(programs)]
        for cpu in self.cpus:
            if cpu.program:
                self.start(cpu)
            self.plan(cpu)

    def plan(self, cpu: PlainCpu) -> None:
        """Put a CPU's next moment on the heap; what was there for it no longer counts."""
        cpu.version += 1
        when = cpu.ends
        if cpu.asker is None and not cpu.off and cpu.inbox and cpu.doing in ("work", "spin", "wait", "idle"):
            when = min(when, max(self.now, min(cpu.inbox.values())))
        if when < FOREVER:
            heapq.heappush(self.heap, (when, cpu.number, cpu.version))

    def account(self, cpu: PlainCpu) -> None:
        """Book the time since the last booking."""
        cpu.spent["handler" if cpu.asker is not None else cpu.doing] += self.now - cpu.since
        cpu.since = self.now

    def fetch(self, cpu: PlainCpu, line: int) -> int:
        """Return when a CPU is done with a line."""
        last = self.line_user.get(line)
        near, same, far = self.line_cycles[line]
        if last is None:
            cost = far
        elif last == cpu.number:
            cost = near
        else:
            cost = same if self.sockets[last] == self.sockets[cpu.number] else far
        self.line_user[line] = cpu.number
        self.line_until[line] = max(self.now, self.line_until[line]) + cost
        return self.line_until[line]

    def acquire(self, cpu: PlainCpu, lock: int) -> None:
        """Give a free lock to a CPU."""
        self.holder[lock] = cpu.number
        cpu.doing = "line"
        cpu.ends = self.fetch(cpu, lock)

    def start(self, cpu: PlainCpu) -> None:
        """Begin the current step."""
        what, number = cpu.program[cpu.at]
        cpu.doing, cpu.ends = "work" if what == "WORK" else "other", self.now
        if what == "WORK":
            cpu.ends += number
        elif what == "TOUCH":
            cpu.doing, cpu.ends = "line", self.fetch(cpu, number)
        elif what == "LOCK" and number not in self.holder:
            self.acquire(cpu, number)
        elif what == "LOCK":
            cpu.doing, cpu.ends, cpu.came = "spin", FOREVER, self.comers
            self.comers += 1
        elif what == "UNLOCK":
            del self.holder[number]
            able = [
                other
                for other in self.cpus
                if other.doing == "spin" and other.asker is None and other.program[other.at][1] == number
            ]
            if able:
                lucky = min(able, key=lambda other: other.came)
                self.account(lucky)
                self.acquire(lucky, number)
                self.plan(lucky)
        elif what == "INTERRUPT" and len(self.cpus) > 1:
            cpu.doing, cpu.ends = "send", self.now + number
        elif what == "INTERRUPTS_OFF":
            cpu.off = True
        elif what == "INTERRUPTS_ON":
            cpu.off = False

    def step_over(self, cpu: PlainCpu) -> None:
        """End the current step."""
        if cpu.doing == "send":
            cpu.doing, cpu.ends, cpu.missing = "wait", FOREVER, len(self.cpus) - 1
            for other in self.cpus:
                if other is not cpu:
                    other.inbox[cpu.number] = self.now + self.delays[self.sent % len(self.delays)]
                    self.sent += 1
                    self.plan(other)
            return
        cpu.at += 1
        if cpu.at == len(cpu.program):
            cpu.at, cpu.rounds, cpu.last_round = 0, cpu.rounds + 1, self.now
        self.start(cpu)

    def handle(self, cpu: PlainCpu) -> None:
        """Begin the first step that is left of a handler, or return from it."""
        assert cpu.asker is not None
        if cpu.handler:
            what, number = cpu.handler[0]
            cpu.ends = self.now
            if what == "WORK":
                cpu.ends += number
            elif what == "TOUCH":
                cpu.ends = self.fetch(cpu, number)
            else:
                asker = self.cpus[cpu.asker]
                assert asker.missing is not None
                asker.missing -= 1
                if asker.missing == 0 and asker.asker is None:
                    self.answered(asker)
                    self.plan(asker)
            return
        cpu.asker, cpu.ends = None, FOREVER
        if cpu.doing == "work":
            cpu.ends = self.now + cpu.left
        elif cpu.doing == "spin" and cpu.program[cpu.at][1] not in self.holder:
            self.acquire(cpu, cpu.program[cpu.at][1])
        elif cpu.doing == "wait" and cpu.missing == 0:
            self.answered(cpu)

    def answered(self, cpu: PlainCpu) -> None:
        """Let a CPU that has all answers go on."""
        self.account(cpu)
        cpu.doing, cpu.ends = "other", self.now

    def run(self, until: int) -> None:
        """Do all that happens up to a moment."""
        while self.heap and self.heap[0][0] <= until:
            when, number, version = heapq.heappop(self.heap)
            cpu = self.cpus[number]
            if version != cpu.version:
                continue
            self.now = int(when)
            self.account(cpu)
            if cpu.asker is not None:
                cpu.handler = cpu.handler[1:]
                self.handle(cpu)
            elif cpu.ends == self.now:
                self.step_over(cpu)
            else:
                cpu.asker = min(cpu.inbox, key=lambda sender: (cpu.inbox[sender], sender))
                del cpu.inbox[cpu.asker]
                cpu.left = cpu.ends - self.now
                cpu.handler = list(self.handlers[cpu.doing == "idle"])
                self.handle(cpu)
            self.plan(cpu)
        self.now = until
        for cpu in self.cpus:
            self.account(cpu)
