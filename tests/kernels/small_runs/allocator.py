"""Watermarks, and what stands between a request and the zone's free lists."""

import numpy as np

from vckernels import buddy, claim, rules, watermark
from vckernels.watermark import ZoneIndex

zone = buddy.new_buddy(1024)
buddy.free_at_boot(zone, np.zeros(1, np.int64), np.full(1, 10, np.int8), True)
limits = watermark.new_limits(min=8, low=10, high=12, boost_most=512)
watermark.zone_watermark_ok(zone, limits, 1, 8, ZoneIndex.NORMAL, 0, 1024)
watermark.zone_watermark_fast(zone, limits, 0, ZoneIndex.NORMAL, 0, 1024)
watermark.zone_watermark_ok_2_6_24(zone, limits, 1, 8, ZoneIndex.NORMAL, 0, 1024)
watermark.boost_watermark(limits, 1)
watermark.wmark_frames(limits, 0)
for options in (rules.options_2_6_24(), rules.options_2_6_23()):
    old = buddy.new_buddy(1024, options=options)
    buddy.free_at_boot(old, np.zeros(1, np.int64), np.full(1, 10, np.int8), True)
    buddy.list_type(old, 0)
    claim.allocate_one(old, 0, 0)
