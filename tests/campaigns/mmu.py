"""The complete MMU against the plain one: TLBs, paging-structure caches, data caches, prefetchers, to the last count.

Run ``python -m tests.campaigns.mmu --share 1.0 --seed 1``: 9 geometries built like real CPUs and 8 random ones, a
million accesses each, in batches of different habits over scattered 4K frames, 2M and 1G pages, clean and dirty, with
holes. Modes, stores, page arrays and prefetchers change between batches, as do mappings.
"""

from __future__ import annotations

import random
import sys
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tests.campaigns.command import command
from tests.campaigns.tlb import GIB, KERNEL_START, SHARING, random_sets_and_ways
from tests.kernels.machines import MOST_FRAMES_SHIFT, PIECE, CompleteMachine, Geometry, Neighbour
from tests.oracles.mmu import BY_HISTORY, NO_NEIGHBOUR, PAIR, PlainLevel, PlainStructure
from tests.oracles.tlb import PlainArray
from vckernels import entry

ACCESSES = 1_000_000
RANDOM_GEOMETRIES = 8
BATCHES = 24
LINE = 64
ARRAY_PIECES = 64
"""Pieces that one page array describes."""
KERNEL_START_5 = 0xFF11_0000_0000_0000
CLEAN_LEAF = entry.KERNEL_LEAF & ~entry.ACCESSED & ~entry.DIRTY
READ_ONLY_LEAF = entry.KERNEL_LEAF & ~entry.WRITABLE
UNUSED_TABLE = entry.KERNEL_TABLE & ~entry.ACCESSED
EACH_LEVEL = (PlainStructure(1, 32, (2,)), PlainStructure(1, 4, (3,)), PlainStructure(1, 4, (4,)))
EVERY_SIZE = (1, 2, 3)

#: Built like the CPUs they are named after; what matters here is that all mechanisms and their mixtures occur.
GEOMETRIES = {
    "zen3": Geometry(
        [PlainArray(1, 1, 64, EVERY_SIZE), PlainArray(2, 128, 16, (1, 2), 0, True), PlainArray(2, 1, 64, (3,))],
        [PlainStructure(1, 32, (3, 4))],
        levels=[PlainLevel(64, 8), PlainLevel(1024, 8), PlainLevel(32768, 16, 0, True)],
    ),
    "skylake-sp": Geometry(
        [
            PlainArray(1, 16, 4, (1,)),
            PlainArray(1, 8, 4, (2,)),
            PlainArray(1, 1, 4, (3,)),
            PlainArray(2, 128, 12, (1, 2), 7),
            PlainArray(2, 4, 4, (3,)),
        ],
        EACH_LEVEL,
        levels=[PlainLevel(64, 8), PlainLevel(1024, 16), PlainLevel(28 * 2048, 11, 0, True)],
    ),
    "skylake": Geometry(
        [
            PlainArray(1, 16, 4, (1,)),
            PlainArray(1, 8, 4, (2,)),
            PlainArray(1, 1, 4, (3,)),
            PlainArray(2, 128, 12, (1, 2), 7),
            PlainArray(2, 4, 4, (3,)),
        ],
        EACH_LEVEL,
        levels=[PlainLevel(64, 8), PlainLevel(1024, 4), PlainLevel(8192, 16, 13)],
    ),
    "ice-lake": Geometry(
        [
            PlainArray(1, 16, 4, (1,)),
            PlainArray(1, 8, 4, (2,)),
            PlainArray(1, 1, 8, (3,)),
            PlainArray(2, 128, 8, (1, 2)),
            PlainArray(2, 128, 8, (1, 3)),
        ],
        [*EACH_LEVEL, PlainStructure(1, 1, (5,))],
        levels=[PlainLevel(64, 12), PlainLevel(1024, 20), PlainLevel(24 * 2048, 12, 0, True)],
        table_levels=5,
    ),
    "k8": Geometry(
        [PlainArray(1, 1, 32, (1,)), PlainArray(1, 1, 8, (2,)), PlainArray(2, 128, 4, (1,))],
        [PlainStructure(1, 24, (2, 3, 4))],
        physical_tags=True,
        levels=[PlainLevel(512, 2), PlainLevel(512, 16, 0, True)],
    ),
    "k10": Geometry(
        [PlainArray(1, 1, 48, EVERY_SIZE), PlainArray(2, 128, 4, (1,)), PlainArray(2, 64, 2, (2,))],
        [PlainStructure(1, 24, (2, 3, 4))],
        physical_tags=True,
        levels=[PlainLevel(512, 2), PlainLevel(512, 16, 0, True), PlainLevel(2048, 48, 0, True)],
    ),
    "core2": Geometry(
        [
            PlainArray(1, 4, 4, (1,)),
            PlainArray(1, 4, 4, (2,)),
            PlainArray(2, 64, 4, (1,)),
            PlainArray(2, 8, 4, (2,)),
        ],
        [PlainStructure(8, 4, (2,))],
        levels=[PlainLevel(64, 8), PlainLevel(4096, 16)],
    ),
    "golden-cove": Geometry(
        [
            PlainArray(1, 16, 6, (1,)),
            PlainArray(1, 8, 4, (2,)),
            PlainArray(1, 1, 16, (3,)),
            PlainArray(2, 128, 8, (1, 2)),
            PlainArray(2, 128, 8, (1, 3)),
        ],
        [*EACH_LEVEL, PlainStructure(1, 2, (5,))],
        levels=[PlainLevel(64, 12), PlainLevel(2048, 16), PlainLevel(40960, 12, 0)],
        table_levels=5,
    ),
    "one TLB level, no paging-structure cache": Geometry(
        [PlainArray(1, 16, 4, (1, 2))], levels=[PlainLevel(64, 8), PlainLevel(100, 7, 0, True), PlainLevel(1000, 9)]
    ),
}


class Result(NamedTuple):
    """One geometry: what it was, and both models' counts."""

    name: str
    accesses: int
    counts: dict[str, int]
    expected: dict[str, int]
    same_words: bool

    @property
    def agrees(self) -> bool:
        """Whether all counts and all page-table words are equal."""
        return self.counts == self.expected and self.same_words

    def __str__(self) -> str:
        counts = ", ".join(
            f"{name.lower().replace('_', ' ')} {count:,}" for name, count in self.counts.items() if count
        )
        different = [
            f"{name} {self.counts[name]:,} instead of {count:,}"
            for name, count in self.expected.items()
            if count != self.counts[name]
        ]
        if not self.same_words:
            different.append("page-table words")
        verdict = "DIFFERENT: " + ", ".join(different) if different else "equal"
        return f"{self.name}: {self.accesses:,} accesses: {counts}: {verdict}"


def describe(geometry: Geometry) -> str:
    """Return a geometry in words."""
    sizes = {1: "4K", 2: "2M", 3: "1G"}
    arrays = [
        f"L{array.level} {array.sets}x{array.ways} {'+'.join(sizes[size] for size in array.page_levels)}"
        + "+PDE" * array.directories
        + f" hash {array.hash_shift}" * (array.hash_shift > 0)
        for array in geometry.arrays
    ]
    structures = [
        f"{structure.sets}x{structure.ways} of levels {'+'.join(map(str, structure.entry_levels))}"
        for structure in geometry.structures
    ]
    levels = [
        f"{level.sets}x{level.ways}" + f" hash {level.hash_bits}" * (level.hash_bits > 0) + " victim" * level.victim
        for level in geometry.levels
    ]
    tags = "physical" if geometry.physical_tags else "virtual"
    return (
        f"{geometry.table_levels} levels; TLB {', '.join(arrays)}; {tags} structure caches "
        f"{', '.join(structures) or 'none'}; caches {', '.join(levels)}"
    )


def random_geometry(rng: random.Random, scale: int = 16) -> Geometry:
    """Return a CPU of any mixture of mechanisms, its TLBs and caches at most so many times the smallest."""
    table_levels = rng.choice((4, 5))
    arrays = [PlainArray(1, *random_sets_and_ways(rng, 4 * scale), sizes) for sizes in rng.choice(SHARING)]
    physical_tags = rng.random() < 0.25
    directories = not physical_tags and rng.random() < 0.4
    if directories or rng.random() < 0.85:
        hash_shift = rng.choice((0, 0, 1, 3, 7))
        sharing = rng.choice(SHARING)
        holder = rng.randrange(len(sharing)) if directories else None
        arrays += [
            PlainArray(2, *random_sets_and_ways(rng, 32 * scale), sizes, hash_shift, number == holder)
            for number, sizes in enumerate(sharing)
        ]
    levels_held = [level for level in range(2 + directories, table_levels + 1) if physical_tags or rng.random() < 0.8]
    if physical_tags or rng.random() < 0.3:
        groups = [tuple(levels_held)] if levels_held else []
    else:
        groups = [(level,) for level in levels_held]
    structures = [PlainStructure(*random_sets_and_ways(rng, 2 * scale), group) for group in groups]
    return Geometry(arrays, structures, physical_tags, random_levels(rng, scale), table_levels)


def random_levels(rng: random.Random, scale: int) -> list[PlainLevel]:
    """Return two or three levels of data cache."""
    levels: list[PlainLevel] = []
    for number in range(rng.choice((2, 3))):
        hash_bits = rng.choice((0, 0, 1, 2, 3, 4))
        most = scale << 2 * number
        # One number of sets that is no power of two, so that neutral lines do not start beyond what a tag can say.
        power = hash_bits or rng.random() < 0.5 or any(level.sets & level.sets - 1 for level in levels)
        sets = 1 << rng.randint(hash_bits, max(hash_bits, most.bit_length() - 1)) if power else rng.randint(1, most)
        hash_shift = rng.randint(0, sets.bit_length() - 1 - hash_bits) if hash_bits else 0
        levels.append(PlainLevel(sets, rng.randint(1, 8), hash_bits, number > 0 and rng.random() < 0.5, hash_shift))
    return levels


class Range(NamedTuple):
    """Pages of one size that are mapped together."""

    address: int
    page_level: int
    pages: int


def mapped_machine(
    geometry: Geometry, rng: random.Random, pages: int
) -> tuple[CompleteMachine, list[int], list[Range]]:
    """Return a machine with pages of all sizes, the addresses of pieces of them, and its ranges.

    Most 4K pages lie in two dense ranges, others one to a page table, over three directories.
    """
    machine = CompleteMachine(geometry, rng.getrandbits(32))
    start = KERNEL_START if geometry.table_levels == 4 else KERNEL_START_5
    ranges = [Range(start, 1, pages), Range(start + 2 * GIB + (5 << 12), 1, pages // 2)]
    ranges += [Range(start + 4 * GIB + number * (24 << 21) + (number % 512 << 12), 1, 1) for number in range(60)]
    ranges += [Range(start + 8 * GIB, 2, 48), Range(start + 16 * GIB, 3, 3)]
    if geometry.table_levels == 5:
        ranges += [Range(start + (number << 48), 1 + number % 2, 2) for number in range(1, 4)]
    numpy_rng = np.random.default_rng(rng.getrandbits(32))
    bases = []
    for number, (address, page_level, count) in enumerate(ranges):
        size = 1 << 9 * (page_level - 1)
        frames = numpy_rng.integers(0, (1 << MOST_FRAMES_SHIFT) // size, count) * size
        flags = READ_ONLY_LEAF if number % 10 == 4 else (CLEAN_LEAF, entry.KERNEL_LEAF)[number % 2]
        machine.map(
            address,
            page_level,
            frames,
            leaf_flags=flags,
            table_flags=(UNUSED_TABLE, entry.KERNEL_TABLE)[number % 3 > 0],
        )
        # Three pieces of each 2M page and forty of each 1G page are used.
        places = {1: (0,), 2: (0, 3, 511), 3: tuple(piece * 6_553 for piece in range(40))}[page_level]
        bases += [address + (page * size + piece) * PIECE for page in range(count) for piece in places]
    # A hole below each size of table, and the first address with its upper bits cut off.
    bases += [start + (3 << 12) + hole for hole in (3 * GIB, GIB, 40 * GIB, 600 * GIB)]
    bases.append(start & (1 << 60) - 1)
    return machine, bases, ranges


def random_offsets(rng: random.Random, pieces: int, count: int) -> npt.NDArray[np.int64]:
    """Return offsets in so many pieces in stretches of different habits: uniform, Zipf, sequential, chase, bursts."""
    numpy_rng = np.random.default_rng(rng.getrandbits(64))
    total = pieces * PIECE
    parts: list[npt.NDArray[np.int64]] = []
    length = 0
    while length < count:
        size = rng.randint(1, max(2, count // 3))
        span = PIECE * rng.randint(1, pieces)
        position = np.arange(size)
        habit = rng.randrange(5)
        if habit == 0:
            part = numpy_rng.integers(0, span, size)
        elif habit == 1:
            within = numpy_rng.integers(0, PIECE, size)
            part = numpy_rng.zipf(rng.uniform(1.1, 2.0), size) % pieces * PIECE + within
        elif habit == 2:
            part = position * rng.choice((8, LINE, LINE, -LINE, 2 * LINE, PIECE, PIECE + LINE))
        elif habit == 3:
            stride = rng.choice((LINE, 5 * LINE, PIECE, PIECE + LINE))
            part = np.resize(numpy_rng.permutation(min(span // stride + 1, 20_000)), size) * stride
        else:
            run = rng.randint(2, 200)
            part = np.repeat(numpy_rng.integers(0, span, size // run + 1), run)
            part += np.arange(len(part)) % run * rng.choice((8, LINE, -LINE))
        parts.append((part + rng.randrange(total)) % total)
        length += len(parts[-1])
    return np.concatenate(parts)[:count].astype(np.int64)


def change_settings(rng: random.Random, machine: CompleteMachine, batch: int) -> None:
    """Set another mode; every third batch all is plain and physical."""
    if batch % 3 == 0:
        machine.set("physical")
        return
    machine.set(
        ("physical", "colour-neutral", "physical", "first-level")[batch // 3 % 4],
        free_translation=batch % 8 == 7,
        stream_lines=rng.choice((0, 1, 2, 4, 20, 64)),
        next_page=rng.random() < 0.5,
        adjacent=rng.choice((NO_NEIGHBOUR, PAIR, BY_HISTORY)),
    )


def change_mappings(rng: random.Random, machine: CompleteMachine, ranges: list[Range], batch: int) -> None:
    """Invalidate pages, flush, or map some pages anew elsewhere."""
    one = rng.choice(ranges)
    change = batch % 4
    if change == 1:
        machine.invalidate(one.address, one.page_level, rng.randint(1, one.pages))
    elif change == 2:
        count = rng.randint(1, one.pages)
        machine.unmap(one.address, one.page_level, count)
        size = 1 << 9 * (one.page_level - 1)
        frames = [rng.randrange((1 << MOST_FRAMES_SHIFT) // size) * size for _ in range(count)]
        machine.map(one.address, one.page_level, frames, leaf_flags=rng.choice((CLEAN_LEAF, entry.KERNEL_LEAF)))
    elif change == 3 and rng.random() < 0.3:
        machine.flush()


def run_geometry(name: str, rng: random.Random, geometry: Geometry, count: int) -> Result:
    """Count one geometry's events by both models, in batches that keep their state."""
    machine, bases, ranges = mapped_machine(geometry, rng, pages=4000)
    arrays = [base + ARRAY_PIECES * 8 * (number % 8) for number, base in enumerate(bases[:: ARRAY_PIECES // 2])]
    for number, offsets in enumerate(np.array_split(random_offsets(rng, len(bases), count), BATCHES)):
        change_settings(rng, machine, number)
        open_coded = number % 5 == 4
        others = Neighbour(bases, random_offsets(rng, len(bases), 2000).tolist(), rng.randint(1, 9))
        machine.access(
            offsets,
            write=number % 4 in (1, 2),
            bases=bases,
            arrays=arrays if open_coded else (),
            array_piece=ARRAY_PIECES * PIECE,
            beside=others if number % 7 == 6 else None,
        )
        others.check()
        change_mappings(rng, machine, ranges, number)
    same_words = machine.kernel_memory() == machine.plain.memory
    return Result(f"{name} ({describe(geometry)})", count, machine.counts(), machine.expected(), same_words)


def geometries(seed: int) -> list[tuple[str, Geometry]]:
    """Return all geometries of a seed by name."""
    randoms = [
        (f"random {number}", random_geometry(random.Random(seed * 1000 + number)))
        for number in range(RANDOM_GEOMETRIES)
    ]
    return [*GEOMETRIES.items(), *randoms]


def run(share: float, seed: int) -> list[Result]:
    """Run all geometries with a share of the accesses."""
    count = max(1000, int(ACCESSES * share))
    return [
        run_geometry(name, random.Random(seed * 1000 + 500 + number), geometry, count)
        for number, (name, geometry) in enumerate(geometries(seed))
    ]


if __name__ == "__main__":
    sys.exit(command(run, __doc__))
