"""Recorded events of every kind followed, and left to the model."""

import numpy as np

from vckernels import buddy, replay, replayfollow, replayfree, replayisolation, replaylists

kinds = np.arange(12, dtype=np.uint8)
none = np.zeros(12, np.uint8)
frames = none.astype(np.int64)
stream = replay.Stream(kinds, none, none.astype(np.int8), none, frames, none.astype(np.uint16))
lists = replaylists.new_lists(1024, 1, np.zeros(2, np.int8))
replaylists.follow_lists(stream, lists, np.zeros(replaylists.LIST_COUNTS, np.int64))
zone = buddy.new_buddy(1024)
counts = np.zeros(replay.COUNTS, np.int64)
replay.learn_types(stream, np.zeros(2, np.int8))
following = replayfollow.new_following(np.ones(1024, np.int8), np.zeros(1024, np.int8), 1)
events = replayisolation.CompactionEvents(frames, kinds, none, frames, frames + 512, frames, frames)
replayfollow.follow(zone, stream, events, following, counts)
replayfree.run_free(zone, stream, np.ones(1024, np.int8), np.arange(1024, dtype=np.int32), counts)
