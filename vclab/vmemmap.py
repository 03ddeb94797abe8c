"""The array of all ``struct page`` descriptors, mapped virtually (Linux: ``CONFIG_SPARSEMEM_VMEMMAP``).

Its memory is the kernel's from boot on, so it lies outside what the allocator manages: in the frames just above the
machine's last one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vclab.errors import OutOfMemory
from vclab.mapping import PageTables, leaf_frames
from vclab.memory import Memory
from vclab.presets import AddressSpace
from vclab.units import PAGE_SHIFT

#: ``struct page`` is one cache line (``include/linux/mm_types.h``).
STRUCT_PAGE_SHIFT = 6
_LEAF_LEVEL = 2
_LEAF = leaf_frames(_LEAF_LEVEL)
#: Frames that the descriptors in one leaf describe: 128 MiB.
_DESCRIBED = (_LEAF << PAGE_SHIFT) >> STRUCT_PAGE_SHIFT


def _leaves(memory: Memory) -> tuple[int, int]:
    """Return number of the first leaf that is mapped, and how many are: enough for every frame of the machine."""
    first = memory.first_frame // _DESCRIBED
    return first, -(-(memory.first_frame + memory.frames) // _DESCRIBED) - first


def frames_with_vmemmap(memory: Memory) -> int:
    """Return the number of frames from physical address 0 to the end of the descriptors' own."""
    end = memory.first_frame + memory.frames
    return -(-end // _LEAF) * _LEAF + _leaves(memory)[1] * _LEAF


@dataclass(frozen=True)
class Vmemmap:
    """Where the descriptors are; no state, so copies of a system share it.

    Attributes
    ----------
    start : int
        Virtual address of the descriptor of frame 0, which need not exist.
    tables : int
        Page tables that mapping it took.
    """

    start: int
    tables: int

    @classmethod
    def mapped(cls, tables: PageTables, layout: AddressSpace) -> Vmemmap:
        """Map the descriptors of all frames of a machine, in 2M pages.

        Parameters
        ----------
        tables : PageTables
            Mutated; its memory gives frames for new tables.
        layout : AddressSpace
            Where the descriptors are mapped.

        Raises
        ------
        OutOfMemory
            If there is no memory for tables.
        """
        start = layout.vmemmap_start.value
        first, count = _leaves(tables.memory)
        own = frames_with_vmemmap(tables.memory) - _LEAF * np.arange(count, 0, -1, dtype=np.int64)
        change = tables.map(start + (first * _LEAF << PAGE_SHIFT), own, _LEAF_LEVEL)
        if change is None:
            raise OutOfMemory("no frame is free for the page tables of struct pages; give the machine more memory")
        return cls(start, change.added)

    def addresses(self, frames: npt.ArrayLike) -> npt.NDArray[np.uint64]:
        """Return the virtual address of each frame's descriptor, uint64[n]."""
        return np.uint64(self.start) + (np.asarray(frames, np.uint64) << np.uint64(STRUCT_PAGE_SHIFT))
