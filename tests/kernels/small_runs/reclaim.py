"""Pages on reclaim's lists, in a zone of 64 frames."""

import numpy as np

from vckernels import (
    buddy,
    claim,
    compactcontrol,
    compaction,
    freeing,
    freescan,
    lumpy,
    migratescan,
    movelog,
    pages,
    reclaim,
    referenced,
    usage,
    watermark,
    workingset,
)

zone = buddy.new_buddy(64, lists=pages.LRU_LISTS)
buddy.free_at_boot(zone, np.zeros(1, np.int64), np.full(1, 6, np.int8), True)
data = pages.new_pages(64)
frames = np.empty(64, np.int64)
frame = claim.allocate_one(zone, 2, 1)
pages.add_page(zone, data, frame, 0, 0)
pages.mark_used(zone, data, frame)
pages.activate_page(zone, data, frame)
pages.deactivate_page(zone, data, frame)
pages.lock_page(zone, data, frame, True)
pages.touch_pages(data, np.array([frame]), True)
pages.read_lru(zone, 0, frames)
pages.audit_pages(zone, data)
freeing.release_page(zone, data, frame, False)
pages.split_held_page(zone, data, claim.allocate_one(zone, 1, 1))

limits = watermark.new_limits()
state = compactcontrol.new_compaction(64)
state.run[compactcontrol.RunField.ORDER] = 3
state.run[compactcontrol.RunField.MIGRATE_HELD] = 1
freescan.take_target(zone, limits, state, 0)
compactcontrol.release_held(zone, data, state)
compactcontrol.clear_hints(zone, data, state)

state.run[compactcontrol.RunField.FREE_AT] = 64
migratescan.isolate_migrate(zone, data, state)
migratescan.isolate_sources(zone, data, state, 0, 64)
migratescan.put_sources_back(zone, data, state)

moves = movelog.new_moves()
compaction.begin_direct(zone, data, limits, state, 4, 1, 1, True, 2, 0)
compaction.advance(zone, data, limits, state, moves)
compaction.end_direct(state, 4, 1, 4)
compaction.begin_background(zone, data, limits, state, 4, 2, 0)
compaction.end_background(zone, data, state, 4, 5)
compaction.begin_whole_zone(zone, data, state, 20)
compaction.wants_proactive(zone, 20, 64, False)

past = workingset.new_reclaim(64)
nowhere = referenced.no_entries()
frame = claim.allocate_one(zone, 0, 1)
pages.add_page(zone, data, frame, 0, workingset.refault(zone, data, past, 0, 0))
reclaim.begin_reclaim(zone, past, 0, 2)
reclaim.advance_reclaim(zone, data, limits, past, nowhere, moves)
reclaim.begin_kswapd(zone, limits, past, 0, 2)
reclaim.advance_reclaim(zone, data, limits, past, nowhere, moves)
workingset.forget(past, 0)
workingset.forget_all(past, np.zeros(1, np.int64))
usage.use_frames(zone, data, np.array([-1, 0]), True)

for kswapd in (False, True):
    lumpy.begin_lumpy(zone, past, 0, 2, kswapd)
    lumpy.advance_lumpy(zone, data, limits, past, nowhere, moves)
one = np.array([claim.allocate_one(zone, 0, 1)])
pages.add_pages(zone, data, one, np.zeros(1, np.int64), np.zeros(1, np.uint8))
freeing.release_pages(zone, data, one)
