"""Control structures in whole frames: what a page array or an area descriptor takes from the allocator.

Structures of one size share frames, as many as fit, and a frame goes back when its last one is freed. Sizes are
kmalloc's or a cache's own. What is larger than half a page gets a block of its own. There are no per-CPU lists
and no slabs above one page here.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vclab.gfp import GFP_KERNEL
from vclab.memory import Memory
from vclab.units import PAGE_BYTES, PAGE_SHIFT

#: Sizes that kmalloc rounds up to below half a page (Linux ``mm/slab_common.c``).
KMALLOC_SIZES = (8, 16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048)


def kmalloc_size(nbytes: int) -> int:
    """Return the bytes that a kmalloc of ``nbytes`` takes."""
    for size in KMALLOC_SIZES:
        if nbytes <= size:
            return size
    return PAGE_BYTES << block_order(nbytes)


def block_order(nbytes: int) -> int:
    """Return the order of the smallest block that holds ``nbytes``."""
    return max(0, (nbytes - 1).bit_length() - PAGE_SHIFT)


class SmallObjects:
    """Objects of a few sizes packed into frames.

    Parameters
    ----------
    memory : Memory
        Where frames come from: unmovable, like the kernel's own structures.
    """

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.frames_held = 0
        self._partial: dict[int, dict[int, list[int]]] = {}
        self._full: dict[int, int] = {}
        self._blocks: set[int] = set()

    def allocate(self, size: int, flags: int = GFP_KERNEL) -> tuple[int, int] | None:
        """Return the physical address of ``size`` bytes and the frames newly taken; None if memory is short.

        ``flags`` say what may be done for those frames.
        """
        if size > PAGE_BYTES // 2:
            order = block_order(size)
            frame = self.memory.allocate(order, flags)
            if frame < 0:
                return None
            self.frames_held += 1 << order
            self._blocks.add(frame)
            return frame << PAGE_SHIFT, 1 << order
        partial = self._partial.setdefault(size, {})
        taken = 0
        if not partial:
            frame = self.memory.allocate(0, flags)
            if frame < 0:
                return None
            partial[frame] = list(range(PAGE_BYTES // size - 1, -1, -1))
            self.frames_held += 1
            taken = 1
        frame, spare = next(reversed(partial.items()))
        index = spare.pop()
        if not spare:
            self._full[frame] = size
            del partial[frame]
        return (frame << PAGE_SHIFT) + index * size, taken

    def allocate_pages(self, count: int, flags: int = GFP_KERNEL) -> list[int] | None:
        """Return the physical addresses of ``count`` single pages, each freed as one of 4096 bytes; None if short."""
        frames = self.memory.allocate_all(0, flags, count)
        if frames is None:
            return None
        self.frames_held += count
        self._blocks.update(frames.tolist())
        return [frame << PAGE_SHIFT for frame in frames.tolist()]

    def free(self, address: int, size: int) -> None:
        """Give an object back."""
        frame = address >> PAGE_SHIFT
        if size > PAGE_BYTES // 2:
            order = block_order(size)
            self.memory.free(frame, order)
            self._blocks.remove(frame)
            self.frames_held -= 1 << order
            return
        partial = self._partial[size]
        if frame in self._full:
            del self._full[frame]
            partial[frame] = []
        partial[frame].append((address % PAGE_BYTES) // size)
        if len(partial[frame]) == PAGE_BYTES // size:
            del partial[frame]
            self.memory.free(frame, 0)
            self.frames_held -= 1

    def frames(self) -> npt.NDArray[np.int64]:
        """Return the first frame of every block held, int64[n]."""
        shared = [frame for frames in self._partial.values() for frame in frames]
        return np.array([*shared, *self._full, *self._blocks], np.int64)

    def copy(self, memory: Memory) -> SmallObjects:
        """Return the same objects for a copy of the memory that they lie in."""
        twin = SmallObjects(memory)
        twin.frames_held = self.frames_held
        twin._full = dict(self._full)
        twin._blocks = set(self._blocks)
        twin._partial = {
            size: {frame: list(spare) for frame, spare in frames.items()} for size, frames in self._partial.items()
        }
        return twin
