"""A page of one event."""

import numpy as np

from vckernels import ringbuffer

page = np.zeros((1, 1024), np.uint32)
page[0, 2] = 12
page[0, 4] = 2
ringbuffer.read_pages(
    page,
    0,
    np.ones(ringbuffer.EVENT_NUMBERS, np.uint8),
    ringbuffer.new_events(1024),
    np.zeros(ringbuffer.PAGE_COUNTS, np.int64),
    0,
    np.zeros(1, np.int64),
)
