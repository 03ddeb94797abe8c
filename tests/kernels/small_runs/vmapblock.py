"""Small mappings from a CPU's block."""

from vckernels import lazyareas, vmap, vmapblock

areas = vmap.new_areas(1 << 14, 20)
lazy = lazyareas.new_lazy_areas(20, 1 << 12)
blocks = vmapblock.new_blocks(20, 2)
for _ in range(20):
    vmapblock.give(areas, lazy, blocks, vmapblock.take(areas, lazy, blocks, 50, 1), 50)
vmapblock.retire_unused(areas, lazy, blocks, True)
