"""Recorded events of every kind followed."""

import numpy as np

from vckernels import replaylists
from vckernels.replay import Stream

kinds = np.arange(12, dtype=np.uint8)
none = np.zeros(12, np.uint8)
stream = Stream(kinds, none, none.astype(np.int8), none, none.astype(np.int64), none.astype(np.uint16))
lists = replaylists.new_lists(1024, 1, np.zeros(2, np.int8))
replaylists.follow_lists(stream, lists, np.zeros(replaylists.LIST_COUNTS, np.int64))
