"""Requests for which nothing helps, of both times."""

import numpy as np

from vckernels import slowpath, slowpath_2_6_24
from vckernels.causes import COUNTERS

counters = np.zeros(COUNTERS, np.int64)
for order in (0, 2, 9):
    slow = slowpath.new_slow(3)
    action = slowpath.begin_slow(slow, counters, order, 0, 0x4CC0, False)
    while action < slowpath.SlowAction.SERVED:
        action = slowpath.next_step(slow, counters, 1 if action == slowpath.SlowAction.RECLAIM else 0)
    action = slowpath_2_6_24.begin_slow_2_6_24(slow, counters, order, 0x4CC0, False)
    while action < slowpath.SlowAction.SERVED:
        action = slowpath_2_6_24.next_step_2_6_24(slow, counters, 0)
