"""Free frames of each 2 MiB counted."""

import numpy as np

from vckernels import buddy, histogram

zone = buddy.new_buddy(64)
buddy.free_at_boot(zone, np.zeros(1, np.int64), np.full(1, 6, np.int8), True)
histogram.count_free_frames(zone, np.empty(1, np.uint16))
