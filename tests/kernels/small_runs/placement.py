"""Single frames placed under each rule."""

import numpy as np

from vckernels import buddy, placement

for rule in placement.Placement:
    zone = buddy.new_buddy(64)
    buddy.free_at_boot(zone, np.zeros(1, np.int64), np.full(1, 6, np.int8), True)
    placed = placement.new_placed_zone(zone)
    held = np.empty(32, np.int32)
    placement.get_frames(placed, rule, held)
    placement.replace_frames(placed, rule, held, 4, np.random.default_rng(1))
