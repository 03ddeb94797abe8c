"""Ranges that are freed lazily, pooled, purged and searched for one by one."""

import numpy as np

from vckernels import areawalk, lazyareas, vmap

for walks in (False, True):
    areas = vmap.new_areas(1000, 20)
    lazy = lazyareas.new_lazy_areas(20, 0, nodes=2, walks=walks)
    for _ in range(3):
        for start in [lazyareas.reserve(areas, lazy, 4, 1, 0) for _ in range(5)]:
            lazyareas.retire(areas, lazy, start)
        lazyareas.bounds(areas, lazy, np.empty(2, np.int64))
        lazyareas.purge(areas, lazy, False)
    areawalk.find(areas, 3)

areas = vmap.new_areas(1000, 20)
vmap.release(areas, vmap.reserve(areas, 4))
