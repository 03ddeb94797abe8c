"""The walk kernel against QEMU's MMU: random trees, random damage, random accesses.

Run ``python -m tests.campaigns.pagetable_unicorn --share 1.0 --seed 1``: 250,000 accesses for each of 4 and
5 levels. Trees are built by the kernels, then words are damaged one by one; each access goes through the
kernel, through Unicorn on the same bytes and through the plain walk of :mod:`tests.oracles.pagetable`.
Compared are the vector, CR2, the error code, the word loaded, fetched or stored, and after each batch every
table word. One difference is allowed and counted: QEMU sets the accessed bit of a 1G leaf before it refuses
the access.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tests.oracles import pagetable as plain
from tests.oracles.unicorn_mmu import NO_MEMORY, PHYSICAL_BITS, Answer, UnicornMmu, fetched_number, token
from vckernels import entry, pagetable
from vckernels.entry import Fault
from vckernels.pagetable import Control, PageTables

ACCESSES_PER_LEVEL = 250_000
BATCHES_PER_TREE = 5
BATCH = 250
SPACE = 1 << 64
ACCESS_BITS = 1 << 5 | 1 << 6
SIZES = {1: "4K", 2: "2M", 3: "1G"}
KINDS = ("read", "write", "fetch")

# The machine: tables lie in the first 16 MiB, 4K and 2M leaves point into low memory, 1G leaves (and some 2M
# ones) far up, where only windows of memory exist. "Marked" memory holds tokens, other memory zeros.
FIRST_FRAME = 0x100
MACHINE_FRAMES = 0x4000 - FIRST_FRAME
LOW_MEMORY = (0, 64 << 20)
SMALL_TARGETS = range(0x1000, 0x1800)
GIGABYTES = (4, 5, 37, 700, 1022)
WINDOW = 1 << 18
WINDOWS = tuple((at << 30) + (megabytes << 20) for at in GIGABYTES for megabytes in (0, 2, 334, 1022))
MARKED = (
    (SMALL_TARGETS.start << 12, len(SMALL_TARGETS) << 12),
    *((at << 20, 2 << 20) for at in (32, 40, 46, 62)),
    *((first, WINDOW) for first in WINDOWS),
)
MEMORY = (LOW_MEMORY, *((first, WINDOW) for first in WINDOWS))

DEFAULTS = {"write_protect": True, "no_execute": True, "smep": False, "smap": False}
CONTROLS: tuple[dict[str, bool], ...] = (
    *({},) * 6,
    {"smep": True, "smap": True},
    {"smep": True},
    {"smap": True},
    {"write_protect": False},
    {"no_execute": False},
    {"no_execute": False, "smep": True},
    {"write_protect": False, "smap": True},
)


class Region(NamedTuple):
    """A mapped range: its address, the level of its leaves and their first frames."""

    address: int
    level: int
    frames: npt.NDArray[np.int64]

    def leaf(self, number: int) -> tuple[int, int]:
        """Return the virtual and the physical address of one leaf."""
        size = 1 << (12 + 9 * (self.level - 1))
        return (self.address + number * size) % SPACE, int(self.frames[number]) << 12


@dataclass
class Tally:
    """What a campaign met.

    Attributes
    ----------
    levels : int
    accesses : int
    counts : Counter
        Accesses of each category.
    disagreements : list of str
        One line each.
    seconds : float
        Processor time.
    """

    levels: int
    accesses: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    disagreements: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Access(NamedTuple):
    """One access, what the plain walk expects of it and what Unicorn answered."""

    address: int
    kind: str
    user: bool
    expected: plain.Walk
    answer: Answer
    right_word: bool


def campaign(levels: int, share: float, seed: int) -> Tally:
    """Compare on ``share`` of the full number of accesses, at least one tree's worth."""
    tally = Tally(levels)
    began = time.process_time()
    trees = max(1, round(share * ACCESSES_PER_LEVEL / (BATCH * BATCHES_PER_TREE)))
    for number in range(trees):
        Tree(np.random.default_rng([seed, levels, number]), levels, tally, number).run()
        if number % 10 == 9:
            gc.collect()  # an emulator and its hooks hold each other
    tally.seconds = time.process_time() - began
    return tally


class Tree:
    """One tree of tables, its copy in Unicorn, and the accesses to both."""

    def __init__(self, rng: np.random.Generator, levels: int, tally: Tally, number: int) -> None:
        self.rng = rng
        self.levels = levels
        self.tally = tally
        self.number = number
        tables, self.regions = build(rng, levels)
        self.rows = int(tables.control[Control.TABLES])
        self.frames = tables.frames[: self.rows]
        # No spare rows: an index that runs off the end then meets a real table.
        self.tables = tables._replace(words=tables.words[: self.rows].copy(), frames=self.frames.copy())
        self.root = int(self.frames[0])
        self.pristine = self.tables.words.copy()
        self.mmu = UnicornMmu(self.frames, self.pristine, self.root << 12, levels, MEMORY)
        for first, nbytes in MARKED:
            self.mmu.fill(first, nbytes)
        self.damaged: list[int] = []

    def run(self) -> None:
        """Do all batches, on tables damaged anew and under control bits that take turns."""
        for number in range(BATCHES_PER_TREE):
            if number % 2 == 0:
                self.tables.words[:] = self.pristine
                self.damaged.clear()
            for _ in range(4):
                self.damage()
            turn = (self.number * BATCHES_PER_TREE + number) % len(CONTROLS)
            switches = DEFAULTS | CONTROLS[turn]
            for control, value in switches.items():
                self.tables.control[Control[control.upper()]] = value
            self.mmu.control(**switches)
            rules = plain.Rules(self.levels, PHYSICAL_BITS, True, **switches)
            self.batch(f"tree {self.number} batch {number}", rules)

    def batch(self, name: str, rules: plain.Rules) -> None:
        """Do one batch of accesses and compare everything."""
        memory = self.memory()
        self.mmu.set_tables(self.tables.words)
        done: list[Access] = []
        while len(done) < BATCH:
            access = self.access(memory, rules)
            if access is not None:
                done.append(access)
        for access in done:
            self.walk(memory, rules, access.address, access.kind, access.user, update=True)
        for problem in [*self.compare_accesses(done, rules), *self.compare_words(done, memory)]:
            self.tally.disagreements.append(f"{self.levels} levels, {name}, {rules}: {problem}")
        self.tally.accesses += len(done)

    def memory(self) -> plain.Memory:
        """Return a copy of the tables for the plain walk."""
        rows = self.tables.words.tolist()
        return {int(frame): row for frame, row in zip(self.frames, rows, strict=True)}

    def access(self, memory: plain.Memory, rules: plain.Rules) -> Access | None:
        """Do one random access in Unicorn; None if its path meets the emulator's own word."""
        address = self.address()
        kind = KINDS[self.rng.choice(3, p=(0.4, 0.35, 0.25))]
        user = bool(self.rng.random() < 0.5)
        expected, word = self.expect(memory, rules, address, kind, user)
        if word is not None and (expected.frame in memory or (kind == "fetch" and word == 0)):
            # Tables must not be stored to, and they and zeros are no code: read them instead.
            kind = "read"
            expected, word = self.expect(memory, rules, address, kind, user)
        own = (self.root, self.mmu.slot)
        physical = -1 if expected.frame is None else expected.frame << 12 | address & 4095
        if own in expected.path or physical == self.root << 12 | 8 * self.mmu.slot:
            return None
        if kind == "read":
            answer = self.mmu.load(address, user)
            hidden = ACCESS_BITS if expected.frame in memory else 0
            right = answer.value is None or (word is not None and answer.value | hidden == word | hidden)
        elif kind == "fetch":
            answer = self.mmu.fetch(address, user)
            right = answer.value is None or answer.value == fetched_number(physical)
        else:
            value = int(self.rng.integers(SPACE, dtype=np.uint64))
            answer = self.mmu.store(address, value, user)
            right = word is None or answer.vector is not None or self.mmu.read(physical) == value
            if word is not None and answer.vector is None:
                self.mmu.write(physical, word)
        return Access(address, kind, user, expected, answer, right)

    def walk(
        self, memory: plain.Memory, rules: plain.Rules, address: int, kind: str, user: bool, update: bool
    ) -> plain.Walk:
        """Walk by the rules."""
        write, fetch = kind == "write", kind == "fetch"
        return plain.walk(memory, self.root, address, rules, write=write, user=user, fetch=fetch, update=update)

    def expect(
        self, memory: plain.Memory, rules: plain.Rules, address: int, kind: str, user: bool
    ) -> tuple[plain.Walk, int | None]:
        """Return the plain walk of an access, and the word it reaches or None."""
        found = self.walk(memory, rules, address, kind, user, update=False)
        if found.frame is None:
            return found, None
        if found.frame in memory:
            return found, memory[found.frame][(address & 4095) >> 3]
        if self.marked(found.frame):
            return found, token(found.frame << 12 | address & 4095)
        backed = any(first >> 12 <= found.frame < (first + nbytes) >> 12 for first, nbytes in MEMORY)
        return found, 0 if backed else None

    def marked(self, frame: int) -> bool:
        """Return whether a frame holds tokens."""
        return any(first >> 12 <= frame < (first + nbytes) >> 12 for first, nbytes in MARKED)

    def compare_accesses(self, done: list[Access], rules: plain.Rules) -> Iterator[str]:
        """Walk with the kernel, in one call for each kind of access; yield what differs."""
        for kind in KINDS:
            for user in (False, True):
                chosen = [access for access in done if access.kind == kind and access.user == user]
                addresses = np.array([access.address for access in chosen], np.uint64)
                frames = np.empty(len(chosen), np.int64)
                leaf_levels, faults = np.empty((2, len(chosen)), np.int8)
                write, fetch = kind == "write", kind == "fetch"
                references = pagetable.walk_many(
                    self.tables, addresses, write, user, fetch, True, frames, leaf_levels, faults
                )
                if references != sum(len(access.expected.path) for access in chosen):
                    yield f"{references} references for {kind}, user {user}"
                for access, frame, level, number in zip(chosen, frames, leaf_levels, faults, strict=True):
                    fault = Fault(int(number))
                    code = entry.error_code(int(fault), write, user, fetch, rules.no_execute, rules.smep)
                    problems = disagreements(access, int(frame), int(level), fault, code, rules)
                    self.count(access, int(level), fault, rules)
                    if problems:
                        yield f"{kind} {access.address:#x} user {user}: {problems} ({access.answer})"

    def compare_words(self, done: list[Access], memory: plain.Memory) -> Iterator[str]:
        """Hold all table words after a batch against each other; yield what differs."""
        ours = self.tables.words
        plain_words = np.array([memory[int(frame)] for frame in self.frames], np.uint64)
        for row, index in np.argwhere(ours != plain_words):
            yield f"word {row},{index} is {ours[row, index]:#x}, by the rules {plain_words[row, index]:#x}"
        theirs = self.mmu.tables()
        refused = {access.expected.path[-1] for access in done if refused_gigabyte(access)}
        for row, index in np.argwhere(ours != theirs):
            if theirs[row, index] == ours[row, index] | entry.ACCESSED and (self.frames[row], index) in refused:
                self.tally.counts["accessed bit on a refused 1G leaf"] += 1
            else:
                yield f"word {row},{index} is {ours[row, index]:#x}, in Unicorn {theirs[row, index]:#x}"

    def count(self, access: Access, level: int, fault: Fault, rules: plain.Rules) -> None:
        """Count an access in each category it belongs to."""
        mode = "user" if access.user else "supervisor"
        if fault == Fault.NONE:
            outcome = f"mapped {SIZES[level]}"
            if access.answer.vector == NO_MEMORY:
                self.tally.counts["mapped, but no memory there"] += 1
            elif access.expected.frame in self.frames:
                self.tally.counts["mapped, a table"] += 1
        else:
            outcome = f"fault {fault.name}"
            self.tally.counts["error codes compared"] += access.answer.error_code is not None
        if fault == Fault.RESERVED_BIT:
            self.tally.counts[f"fault RESERVED_BIT at level {level}"] += 1
        self.tally.counts.update((outcome, mode, access.kind, f"{mode} {access.kind} {outcome}"))
        for name, usual in DEFAULTS.items():
            self.tally.counts[f"not the default {name}"] += getattr(rules, name) != usual

    def pick_leaf(self) -> tuple[Region, int]:
        """Return a random leaf: its region and its number in it."""
        region = self.regions[int(self.rng.integers(len(self.regions)))]
        return region, int(self.rng.integers(len(region.frames)))

    def address(self) -> int:
        """Return a random address, a multiple of 8."""
        rng = self.rng
        choice = rng.random()
        region, number = self.pick_leaf()
        virtual, physical = region.leaf(number)
        size = 1 << (12 + 9 * (region.level - 1))
        inside = virtual + int(rng.integers(size))
        if choice < 0.55:
            address = self.backed(virtual, physical, size)
        elif choice < 0.69 and self.damaged:
            virtual = self.damaged[int(rng.integers(len(self.damaged)))]
            address = virtual + int(rng.integers(4096 if rng.random() < 0.7 else 1 << 21))
        elif choice < 0.76:
            beyond = int(rng.integers(1, 8)) * (size if rng.random() < 0.5 else 4096)
            end = region.address + len(region.frames) * size
            address = region.address - beyond if rng.random() < 0.5 else end + beyond
        elif choice < 0.86:
            below = 12 + 9 * int(rng.integers(1, self.levels))
            address = (inside >> below << below) + int(rng.integers(1 << below))
        elif choice < 0.89:
            address = sign_extended(int(rng.integers(1 << 62)), self.levels)
        elif choice < 0.96:
            address = inside ^ 1 << int(rng.integers(12 + 9 * self.levels - 1, 64))
        elif choice < 0.98:
            address = int(rng.integers(SPACE, dtype=np.uint64))
        else:
            address = inside
        return address % SPACE & ~7

    def backed(self, virtual: int, physical: int, size: int) -> int:
        """Return an address in a leaf whose target is marked memory, if any of it is."""
        shared = [
            (max(first, physical), min(first + nbytes, physical + size))
            for first, nbytes in MARKED
            if first < physical + size and physical < first + nbytes
        ]
        if not shared:
            return virtual
        first, end = shared[int(self.rng.integers(len(shared)))]
        return virtual + int(self.rng.integers(first, end)) - physical

    def damage(self) -> None:
        """Change one word on the path to a random leaf."""
        rng = self.rng
        region, number = self.pick_leaf()
        virtual, _ = region.leaf(number)
        memory = self.memory()
        path = plain.walk(memory, self.root, virtual, plain.Rules(self.levels, PHYSICAL_BITS)).path
        depth = max(0, len(path) - int(rng.geometric(0.5)))
        frame, index = path[depth]
        if frame not in memory:
            return
        row = pagetable.row_at(self.tables, frame)
        self.tables.words[row, index] = damaged(rng, memory[frame][index], self.levels - depth, self.frames)
        self.damaged.append(virtual)


def disagreements(access: Access, frame: int, level: int, fault: Fault, code: int, rules: plain.Rules) -> str:
    """Return what differs between the kernel's answer for one access and the two others."""
    expected, answer = access.expected, access.answer
    write, fetch = access.kind == "write", access.kind == "fetch"
    plain_code = plain.error_code(expected.faults, rules, write=write, user=access.user, fetch=fetch)
    vector = {Fault.NONE: None, Fault.NON_CANONICAL: 13}.get(fault, 14)
    unicorn_vector = None if answer.vector == NO_MEMORY else answer.vector
    found = {
        "vector": vector != unicorn_vector,
        "CR2": vector == 14 and answer.cr2 != access.address,
        "error code": fault != Fault.NONE and answer.error_code not in (code, None),
        "word": not access.right_word,
        "frame by the rules": (frame if frame >= 0 else None) != expected.frame,
        "level by the rules": level != expected.level,
        "fault by the rules": (fault.name not in expected.faults) if expected.faults else fault != Fault.NONE,
        "error code by the rules": code != plain_code,
    }
    return ", ".join(name for name, differs in found.items() if differs)


def refused_gigabyte(access: Access) -> bool:
    """Return whether an access ended in a fault at a word of level 3 that was present."""
    expected = access.expected
    return expected.frame is None and expected.level == 3 and expected.faults != {"NOT_PRESENT"}


def sign_extended(address: int, levels: int) -> int:
    """Return the canonical address with the same lower bits."""
    width = 12 + 9 * levels
    address &= (1 << width) - 1
    return address | (SPACE - (1 << width)) if address >> (width - 1) else address


def damaged(rng: np.random.Generator, word: int, level: int, table_frames: npt.NDArray[np.int64]) -> int:
    """Return a word with one thing changed in it."""
    choice = rng.random()
    large, address = 1 << 7, 0xFF_FFFF_FFFF << 12
    if level >= 4 and rng.random() < 0.3:
        return (word | large) & ~(address if choice < 0.7 else 0)
    if choice < 0.12:
        return word & ~1
    if choice < 0.34:
        return word ^ 1 << int(rng.choice((1, 2, 63)))
    if choice < 0.46:
        first = PHYSICAL_BITS - 1  # the last bit that is still allowed, and the first that is not
        return word | 1 << int(rng.choice([first, first + 1, int(rng.integers(PHYSICAL_BITS, 52))]))
    if choice < 0.58 and level in (2, 3):
        return word | large | 1 << int(rng.integers(13, 12 + 9 * (level - 1)))
    if choice < 0.64:
        return word ^ large
    if choice < 0.68:
        return (word | large) & ~address
    if choice < 0.80:
        return word ^ 1 << int(rng.integers(64))
    if choice < 0.86:
        return word ^ 1 << int(rng.choice((3, 4, 5, 6, 8, 9, 10, 11, 52, 58, 59, 62)))
    if choice < 0.93:
        return word & ~address | int(rng.choice(table_frames)) << 12 | 1
    if choice < 0.98:
        return word & ~address | int(rng.choice(SMALL_TARGETS)) << 12
    return int(rng.integers(SPACE, dtype=np.uint64))


def build(rng: np.random.Generator, levels: int) -> tuple[PageTables, list[Region]]:
    """Return a tree with random regions of all three leaf sizes and all kinds of flags."""
    candidates = np.arange(FIRST_FRAME, 0x1000)
    free = rng.permutation(candidates[candidates & 0x1FE != 0])
    tables = pagetable.new_page_tables(
        int(free[0]), FIRST_FRAME, MACHINE_FRAMES, levels, PHYSICAL_BITS, True, capacity=128
    )
    taken = 1
    regions: list[Region] = []
    edge = 1 << (12 + 9 * levels - 1)
    bases = [edge - (1 << 34), SPACE - edge, SPACE - (1 << 36)]
    bases += [sign_extended(int(rng.integers(1 << 62)), levels) for _ in range(3)]
    while len(regions) < 16:
        level = 1 + len(regions) % 3
        size = 1 << (12 + 9 * (level - 1))
        base = bases[int(rng.integers(len(bases)))]
        address = (base + int(rng.integers(1 << (9 * level + 16)))) // size * size % SPACE
        count = int(rng.integers(1, (0, 700, 20, 4)[level]))
        missing = pagetable.survey(tables, np.uint64(address), count, level)
        if missing < 0:
            continue
        new_frames = free[taken : taken + missing]
        taken += missing
        frames = leaf_targets(rng, level, count)
        flags, table_flags = random_flags(rng)
        pagetable.map_range(tables, np.uint64(address), frames, level, flags, table_flags, new_frames)
        regions.append(Region(address, level, frames))
    return tables, regions


def leaf_targets(rng: np.random.Generator, level: int, count: int) -> npt.NDArray[np.int64]:
    """Return frames for leaves to point at, each with some marked memory behind it."""
    if level == 1:
        pages = [*SMALL_TARGETS, *(first >> 12 for first in WINDOWS)]
    elif level == 2:
        pages = [first >> 12 for first, _ in MARKED if first % (1 << 21) == 0]
    else:
        pages = [at << 18 for at in GIGABYTES]
    return rng.choice(np.array(pages, np.int64), count)


def random_flags(rng: np.random.Generator) -> tuple[np.uint64, np.uint64]:
    """Return flags of leaves and of the tables above them."""
    leaf_odds = {1: 0.7, 2: 0.65, 3: 0.2, 4: 0.2, 5: 0.4, 6: 0.4, 7: 0.3, 8: 0.3, 63: 0.3}
    table_odds = {1: 0.93, 2: 0.93, 5: 0.5, 63: 0.04}
    leaf, table = (
        1 | sum(1 << number for number, odds in chances.items() if rng.random() < odds)
        for chances in (leaf_odds, table_odds)
    )
    return np.uint64(leaf), np.uint64(table)


def main(arguments: list[str] | None = None) -> int:
    """Run the campaign for 4 and 5 levels, print the tallies, return 1 if anything disagreed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    failed = False
    for levels in (4, 5):
        tally = campaign(levels, options.share, options.seed)
        failed |= bool(tally.disagreements)
        print(
            f"{levels} levels: {tally.accesses} accesses, {len(tally.disagreements)} disagreements, "
            f"{tally.seconds:.1f} s of processor time"
        )
        for category, count in sorted(tally.counts.items()):
            print(f"    {category:50s}{count:9d}")
        for line in tally.disagreements[:20]:
            print("   ", line)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
