"""How much of each of reclaim's lists one pass scans, and the pass itself.

The share of anonymous and file pages follows swappiness and what each kind cost lately; lists are scanned in turns of
32 frames. Rules: Linux 6.18, ``mm/vmscan.c``: ``prepare_scan_control``, ``get_scan_count``, ``shrink_lruvec``,
``shrink_list``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vckernels.buddy import Buddy, free_frames
from vckernels.jit import kernel, unsigned
from vckernels.movelog import Moves, has_room
from vckernels.pages import Lru, Pages
from vckernels.referenced import Entries
from vckernels.shrink import age_anonymous, inactive_is_low, is_file, shrink_active, shrink_inactive
from vckernels.watermark import Limit
from vckernels.workingset import FIRST_PRIORITY, SWAP_CLUSTER, Reclaim, ReclaimField


@kernel
def prepare(buddy: Buddy, pages: Pages, limits: npt.NDArray[np.int64], reclaim: Reclaim) -> None:
    """Decide which lists a pass may touch. Mutates the run's fields. Rule: ``prepare_scan_control``."""
    fields = reclaim.fields
    priority = fields[ReclaimField.PRIORITY]
    if fields[ReclaimField.FORCE_DEACTIVATE]:
        fields[ReclaimField.DEACTIVATE_ANONYMOUS] = 1
        fields[ReclaimField.DEACTIVATE_FILE] = 1
    else:
        new_set = fields[ReclaimField.ACTIVATED_ANONYMOUS] != fields[ReclaimField.SEEN_ANONYMOUS]
        low = inactive_is_low(pages, np.int64(Lru.INACTIVE_ANONYMOUS))
        fields[ReclaimField.DEACTIVATE_ANONYMOUS] = new_set or low
        new_set = fields[ReclaimField.ACTIVATED_FILE] != fields[ReclaimField.SEEN_FILE]
        fields[ReclaimField.DEACTIVATE_FILE] = new_set or inactive_is_low(pages, np.int64(Lru.INACTIVE_FILE))
    plenty = pages.lengths[Lru.INACTIVE_FILE] >> priority > 0 and fields[ReclaimField.DEACTIVATE_FILE] == 0
    fields[ReclaimField.CACHE_TRIM] = plenty and fields[ReclaimField.NO_CACHE_TRIM] == 0
    cache = pages.lengths[Lru.INACTIVE_FILE] + pages.lengths[Lru.ACTIVE_FILE]
    tiny = cache + free_frames(buddy) <= limits[Limit.HIGH] + limits[Limit.BOOST]
    anonymous = pages.lengths[Lru.INACTIVE_ANONYMOUS] >> priority > 0
    fields[ReclaimField.FILE_TINY] = tiny and anonymous and fields[ReclaimField.DEACTIVATE_ANONYMOUS] == 0


@kernel
def count_scans(pages: Pages, reclaim: Reclaim) -> None:
    """Set how many frames of each list a pass scans. Mutates ``left`` and ``targets``. Rule: ``get_scan_count``."""
    fields = reclaim.fields
    swappiness = fields[ReclaimField.SWAPPINESS]
    total = fields[ReclaimField.ANONYMOUS_COST] + fields[ReclaimField.FILE_COST]
    anonymous_cost = total + fields[ReclaimField.ANONYMOUS_COST]
    file_cost = total + fields[ReclaimField.FILE_COST]
    total = anonymous_cost + file_cost
    anonymous_part = swappiness * (total + 1) // (anonymous_cost + 1)
    file_part = (200 - swappiness) * (total + 1) // (file_cost + 1)
    parts = anonymous_part + file_part
    equal = False
    if fields[ReclaimField.MAY_SWAP] == 0 or fields[ReclaimField.SWAP_FREE] <= 0:
        anonymous_part, file_part, parts = 0, 1, 1
    elif fields[ReclaimField.PRIORITY] == 0 and swappiness > 0:
        equal = True
    elif fields[ReclaimField.FILE_TINY]:
        anonymous_part, file_part, parts = 1, 0, 1
    elif fields[ReclaimField.CACHE_TRIM]:
        anonymous_part, file_part, parts = 0, 1, 1
    for chosen in range(Lru.UNEVICTABLE):
        frames = pages.lengths[unsigned(chosen)] >> fields[ReclaimField.PRIORITY]
        if not equal:
            frames = frames * (file_part if is_file(chosen) else anonymous_part) // parts
        reclaim.left[unsigned(chosen)] = frames
        reclaim.targets[unsigned(chosen)] = frames


@kernel
def _balance_lists(reclaim: Reclaim) -> bool:
    """Once enough is reclaimed, end with the kind of which less is left and scan as large a part of the other.

    Return whether one kind has nothing left, which ends the pass. Mutates ``left``. Rule: middle of ``shrink_lruvec``.
    """
    left = reclaim.left
    targets = reclaim.targets
    anonymous = left[Lru.INACTIVE_ANONYMOUS] + left[Lru.ACTIVE_ANONYMOUS]
    file = left[Lru.INACTIVE_FILE] + left[Lru.ACTIVE_FILE]
    if anonymous == 0 or file == 0:
        return True
    ended = Lru.INACTIVE_FILE + 0
    other = Lru.INACTIVE_ANONYMOUS + 0
    few = file
    if file > anonymous:
        ended, other = other, ended
        few = anonymous
    percent = few * 100 // (targets[unsigned(ended)] + targets[unsigned(ended + 1)] + 1)
    for i in range(2):
        left[unsigned(ended + i)] = 0
        scanned = targets[unsigned(other + i)] - left[unsigned(other + i)]
        part = targets[unsigned(other + i)] * (100 - percent) // 100
        left[unsigned(other + i)] = part - min(part, scanned)
    return False


@kernel
def scan_lists(buddy: Buddy, pages: Pages, reclaim: Reclaim, entries: Entries, moves: Moves) -> bool:
    """Go on with a pass over the lists; return whether it is finished, or else the log is full.

    Rule: ``shrink_lruvec``. A request's own first pass scans all that was planned; others end soon after enough is
    reclaimed.

    Parameters
    ----------
    buddy, pages, reclaim : Buddy, Pages, Reclaim
        Mutated.
    entries : Entries
        Mutated: bits of the pages that are looked at.
    moves : Moves
        Written.
    """
    fields = reclaim.fields
    left = reclaim.left
    whole = fields[ReclaimField.KSWAPD] == 0 and fields[ReclaimField.PRIORITY] == FIRST_PRIORITY
    while True:
        chosen = fields[ReclaimField.NEXT_LIST]
        if chosen == 0:
            inactive = left[Lru.INACTIVE_ANONYMOUS] + left[Lru.INACTIVE_FILE]
            if inactive + left[Lru.ACTIVE_FILE] == 0:
                break
        if not has_room(moves, SWAP_CLUSTER):
            return False
        if left[unsigned(chosen)] > 0:
            frames = min(left[unsigned(chosen)], SWAP_CLUSTER)
            left[unsigned(chosen)] -= frames
            if chosen & 1 == 0:
                shrink_inactive(buddy, pages, reclaim, entries, moves, chosen, frames)
            elif fields[unsigned(ReclaimField.DEACTIVATE_ANONYMOUS + (chosen >> 1))]:
                shrink_active(buddy, pages, reclaim, entries, chosen, frames)
            else:
                fields[ReclaimField.SKIPPED_DEACTIVATE] = 1
        fields[ReclaimField.NEXT_LIST] = (chosen + 1) % Lru.UNEVICTABLE
        if fields[ReclaimField.NEXT_LIST] == 0:
            enough = fields[ReclaimField.RECLAIMED] - fields[ReclaimField.PASS_BEGAN] >= fields[ReclaimField.TO_RECLAIM]
            if enough and not whole and _balance_lists(reclaim):
                break
    fields[ReclaimField.NEXT_LIST] = 0
    age_anonymous(buddy, pages, reclaim, entries)
    return True
