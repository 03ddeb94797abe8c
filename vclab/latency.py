"""The curve by which CPUs are measured: cycles of a dependent load, by how much memory a pointer chase goes through."""

from __future__ import annotations

import numpy as np

from vclab import streams
from vclab.errors import ConfigurationError
from vclab.ledger import AccessCost
from vclab.mapping import leaf_frames
from vclab.system import System, check_paging
from vclab.units import PAGE_BYTES, parse_bytes

#: Accesses of the steady phase, at least; whole laps.
STEADY = 100_000
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

    One random cycle through one element in every ``stride`` bytes. Page frames are placed at random.

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
    return chase_cost(cpu, footprint, stride, page_size, offsets, seed).cycles_per_access


def chase_cost(cpu: str, footprint: str | int, stride: int, page_size: str, offsets: str, seed: int) -> AccessCost:
    """Return what the steady laps of :func:`chase` cost, by cause; parameters as there."""
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
    chosen = rng.choice(system.memory.frames // size, pages, replace=False).astype(np.int64) * size
    if system.page_tables.map(ADDRESS, chosen, level) is None:
        raise ConfigurationError(f"there is no memory for the page tables of {footprint}; lower the footprint")
    elements = nbytes // stride
    laps = -(-STEADY // elements)
    visits = streams.chase(nbytes, elements, seed, stride)
    if offsets == "same":
        visits = visits // stride * stride
    bases = ADDRESS + np.arange(pages, dtype=np.uint64) * np.uint64(size * PAGE_BYTES)
    system.access_at(bases, size * PAGE_BYTES, np.resize(visits, 2 * elements))
    return system.access_at(bases, size * PAGE_BYTES, np.resize(visits, laps * elements))
