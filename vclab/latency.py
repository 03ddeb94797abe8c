"""The curve by which CPUs are measured: cycles of a dependent load, by how much memory a pointer chase goes through."""

from __future__ import annotations

import numpy as np

from vclab import streams
from vclab.boot import check_paging
from vclab.errors import ConfigurationError
from vclab.ledger import AccessCost
from vclab.mapping import leaf_frames
from vclab.system import System
from vclab.units import PAGE_BYTES, parse_bytes

#: Accesses of the steady phase, at least; whole laps.
STEADY = 100_000
#: Random placements of the frames, of which the median is given: neither the luckiest nor an unlucky one.
PLACEMENTS = 25
ADDRESS = 0xFFFF_E000_0000_0000
"""Where the memory that is chased through is mapped: nothing of the kernel lies there."""


def chase(
    cpu: str = "zen3",
    footprint: str | int = "8MiB",
    stride: int = 4096,
    page_size: str = "4K",
    offsets: str = "same",
    seed: int = 0,
) -> float:
    """Return the mean cycles of a dependent load in a pointer chase, in the steady state.

    One random cycle through one element in every ``stride`` bytes. Page frames are placed at random, 25 times; the
    answer is the median, since a placement may be lucky or not with the sets of the data caches.

    Parameters
    ----------
    cpu : str
        A CPU preset.
    footprint : str or int
        Bytes that are chased through.
    stride : int
        Bytes from element to element.
    page_size : str
        "4K", "2M" or "1G": the pages that the memory is mapped with.
    offsets : str
        "same": every element begins its stride. "shuffled": each lies at a random line of its stride, so that
        translation is exercised without conflicts in the data caches.
    seed : int
        Of the cycle, the lines and the frames.

    Raises
    ------
    ConfigurationError
        If a setting does not exist.

    Examples
    --------
    >>> chase("zen3", "128KiB", offsets="shuffled")
    4.0
    """
    costs = chase_costs(cpu, footprint, stride, page_size, offsets, seed)
    return float(np.median([cost.cycles_per_access for cost in costs]))


def chase_costs(
    cpu: str, footprint: str | int, stride: int, page_size: str, offsets: str, seed: int, placements: int = PLACEMENTS
) -> list[AccessCost]:
    """Return what the steady laps of :func:`chase` cost, by cause, for each placement of the frames."""
    nbytes = parse_bytes(footprint, "footprint")
    if offsets not in ("same", "shuffled"):
        raise ConfigurationError(f"offsets {offsets!r} do not exist; there are same and shuffled")
    if stride < 1 or nbytes < stride:
        raise ConfigurationError(
            f"a chase in steps of {stride} bytes through {nbytes} has no element; lower the stride"
        )
    _, level = check_paging(cpu, None, page_size)
    size = leaf_frames(level)
    pages = -(-nbytes // (size * PAGE_BYTES))
    # Four times as much memory as is used, so that which frames it gets is left to chance.
    frames = 1 << max(4 * pages * size, 1 << 14).bit_length()
    system = System(cpu=cpu, memory=frames * PAGE_BYTES, levels=4, direct_map="2M", seed=seed)
    rng = np.random.default_rng([seed, pages])
    elements = nbytes // stride
    laps = -(-STEADY // elements)
    bases = ADDRESS + np.arange(pages, dtype=np.uint64) * np.uint64(size * PAGE_BYTES)
    costs = []
    # A lap longer than the steady phase averages over many sets by itself.
    for placement in range(placements if elements <= STEADY else min(placements, 3)):
        chosen = rng.choice(system.memory.frames // size, pages, replace=False).astype(np.int64) * size
        if placement:
            system.page_tables.unmap(ADDRESS, pages, level)
        if system.page_tables.map(ADDRESS, chosen, level) is None:
            raise ConfigurationError(f"there is no memory for the page tables of {footprint}; lower the footprint")
        system.mmu.flush()
        system.mmu.empty_caches()
        visits = streams.chase(nbytes, elements, seed + placement, stride)
        if offsets == "same":
            visits = visits // stride * stride
        system.access_at(bases, size * PAGE_BYTES, np.resize(visits, 2 * elements))
        costs.append(system.access_at(bases, size * PAGE_BYTES, np.resize(visits, laps * elements)))
    return costs
