"""The TLB kernels against plain LRU: random geometries, long streams, equal to the last count.

Run ``python -m tests.campaigns.tlb --share 1.0 --seed 1``: 24 geometries of one page size and 8 with several, a
million accesses each. The former go through ``count_misses``; the latter through the fused loop over page tables
that hold 4K, 2M and 1G pages, with pages unmapped, remapped and flushed on the way.
"""

from __future__ import annotations

import random
import sys
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tests.campaigns.command import command
from tests.kernels.machines import PIECE, Machine, new_plain_tlb, new_tlb
from tests.oracles.tlb import PlainArray
from vckernels import tlb

ACCESSES = 1_000_000
GEOMETRIES = 24
MIXED_GEOMETRIES = 8
BATCHES = 20
SETS = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32, 48, 64, 96, 100, 127, 128, 192, 256)
WAYS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16)
#: Which page sizes (leaf levels) the arrays of one level hold: each its own, all shared, and one size in two arrays.
SHARING = (
    ((1,), (2,), (3,)),
    ((1, 2, 3),),
    ((1, 2), (3,)),
    ((1,), (2, 3)),
    ((1, 2), (1, 3)),
    ((1, 2, 3), (1,)),
    ((1,), (1, 2), (2, 3)),
    ((2,), (1, 2, 3), (1, 3)),
)
KERNEL_START = 0xFFFF_8880_0000_0000
GIB = 1 << 30


class Result(NamedTuple):
    """One geometry: what it was, and both models' counts."""

    name: str
    accesses: int
    counts: dict[str, int]
    expected: dict[str, int]

    @property
    def agrees(self) -> bool:
        """Whether all counts are equal."""
        return self.counts == self.expected

    def __str__(self) -> str:
        counts = ", ".join(
            f"{name.lower().replace('_', ' ')} {count:,}" for name, count in self.counts.items() if count
        )
        verdict = "equal" if self.agrees else f"DIFFERENT, expected {self.expected}"
        return f"{self.name}: {self.accesses:,} accesses: {counts}: {verdict}"


def describe(arrays: list[PlainArray]) -> str:
    """Return a geometry in words: level, sets x ways, page sizes."""
    sizes = {1: "4K", 2: "2M", 3: "1G"}
    return "; ".join(
        f"L{array.level} {array.sets}x{array.ways} {'+'.join(sizes[size] for size in array.page_levels)}"
        for array in arrays
    )


def random_sets_and_ways(rng: random.Random, entries: int) -> tuple[int, int]:
    """Return sets and ways, one time in three fully associative, at most so many entries."""
    if rng.random() < 1 / 3:
        return 1, rng.randint(1, min(entries, 2048))
    while True:
        sets, ways = rng.choice(SETS), rng.choice(WAYS)
        if sets * ways <= entries:
            return sets, ways


def random_geometry(rng: random.Random) -> list[PlainArray]:
    """Return one to three levels of 4K entries: up to 128, 1024 and 8192."""
    levels = range(1, rng.randint(1, 3) + 1)
    return [PlainArray(level, *random_sets_and_ways(rng, 16 * 8**level), (1,)) for level in levels]


def random_mixed_geometry(rng: random.Random) -> list[PlainArray]:
    """Return one or two levels of arrays for all page sizes; the second level may lack some."""
    first = [PlainArray(1, *random_sets_and_ways(rng, 64), sizes) for sizes in rng.choice(SHARING)]
    if rng.random() < 0.2:
        return first
    second = [PlainArray(2, *random_sets_and_ways(rng, 1024), sizes) for sizes in rng.choice(SHARING)]
    if rng.random() < 0.3:
        second = [array._replace(page_levels=tuple(set(array.page_levels) - {3})) for array in second]
    return first + [array for array in second if array.page_levels]


def random_numbers(rng: random.Random, below: int, count: int) -> npt.NDArray[np.int64]:
    """Return numbers below a bound in stretches of different habits: uniform, Zipf, strides, cycles, bursts."""
    numpy_rng = np.random.default_rng(rng.getrandbits(64))
    parts: list[npt.NDArray[np.int64]] = []
    length = 0
    while length < count:
        size = rng.randint(1, max(2, count // 10))
        span = rng.randint(1, below)
        position = np.arange(size)
        habit = rng.randrange(5)
        if habit == 0:
            part = numpy_rng.integers(0, span, size)
        elif habit == 1:
            part = numpy_rng.zipf(rng.uniform(1.1, 2.0), size) * rng.choice((1, 7, 64)) % span
        elif habit == 2:
            part = position * rng.choice((1, 2, 3, 16, 64, 100)) % span
        elif habit == 3:
            part = np.resize(numpy_rng.permutation(min(span, 5000)), size)
        else:
            part = np.repeat(numpy_rng.integers(0, span, size // 4 + 1), 4)
        parts.append((part + rng.randrange(below)) % below)
        length += len(parts[-1])
    return np.concatenate(parts)[:count].astype(np.int64)


def run_geometry(arrays: list[PlainArray], pages: npt.NDArray[np.int64]) -> Result:
    """Count one geometry's misses by both models, the kernel's in batches that keep its state."""
    kernel = new_tlb(arrays)
    levels = kernel.geometry.shape[0]
    misses = np.zeros(levels, np.int64)
    for batch in np.array_split(pages, BATCHES):
        tlb.count_misses(kernel, batch, misses)
    expected = new_plain_tlb(arrays).misses(pages.tolist())
    names = [f"L{level} misses" for level in range(1, levels + 1)]
    return Result(
        describe(arrays),
        len(pages),
        dict(zip(names, misses.tolist(), strict=True)),
        dict(zip(names, expected, strict=True)),
    )


def mixed_machine(arrays: list[PlainArray]) -> Machine:
    """Return a machine with 3000 4K pages in two places, 48 2M pages and 3 1G pages."""
    machine = Machine(arrays)
    machine.map(KERNEL_START, 1, 2000)
    machine.map(KERNEL_START + GIB + (5 << 12), 1, 1000)
    machine.map(KERNEL_START + 2 * GIB, 2, 48, pieces=False)
    machine.map(KERNEL_START + 16 * GIB, 3, 3, pieces=False)
    # Three pieces of each 2M page and forty of each 1G page are used.
    machine.bases += [
        KERNEL_START + 2 * GIB + (page << 21) + piece * PIECE for page in range(48) for piece in (0, 3, 511)
    ]
    machine.bases += [
        KERNEL_START + 16 * GIB + (page << 30) + piece * 6_553 * PIECE for page in range(3) for piece in range(40)
    ]
    return machine


def run_mixed_geometry(rng: random.Random, arrays: list[PlainArray], count: int) -> Result:
    """Access pages of three sizes through the fused loop, with invalidations between batches."""
    machine = mixed_machine(arrays)
    pieces = random_numbers(rng, len(machine.bases), count)
    for number, batch in enumerate(np.array_split(pieces, BATCHES)):
        machine.access(batch * PIECE + rng.randrange(PIECE), write=number % 3 == 1)
        change = number % 5
        if change == 1:
            machine.invalidate(KERNEL_START + (rng.randrange(1900) << 12), 1, 100)
        elif change == 2:
            machine.invalidate(KERNEL_START + 2 * GIB, 2, rng.randint(1, 48))
        elif change == 3:
            machine.invalidate(KERNEL_START + 16 * GIB, 3, 2)
        elif change == 4 and rng.random() < 0.3:
            machine.flush()
    return Result(describe(arrays), count, machine.counts(), machine.expected())


def run(share: float, seed: int) -> list[Result]:
    """Run all geometries with a share of the accesses."""
    count = max(1000, int(ACCESSES * share))
    results = []
    for number in range(GEOMETRIES):
        rng = random.Random(seed * 1000 + number)
        arrays = random_geometry(rng)
        entries = max(array.sets * array.ways for array in arrays)
        pages = random_numbers(rng, rng.choice((entries + entries // 4 + 1, 2 * entries, 20 * entries, 1 << 30)), count)
        results.append(run_geometry(arrays, pages))
    for number in range(MIXED_GEOMETRIES):
        rng = random.Random(seed * 1000 + 500 + number)
        results.append(run_mixed_geometry(rng, random_mixed_geometry(rng), count))
    return results


if __name__ == "__main__":
    sys.exit(command(run, __doc__))
