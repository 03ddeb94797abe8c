"""Watermarks, and what stands between a request and the zone's free lists."""

import numpy as np

from vckernels import audit, buddy, claim, highatomic, pages, pcplist, rules, watermark, zone, zonelist
from vckernels.watermark import Limit, ZoneIndex

memory = buddy.new_buddy(1024)
buddy.free_at_boot(memory, np.zeros(1, np.int64), np.full(1, 10, np.int8), True)
limits = watermark.new_limits(min=8, low=10, high=12, boost_most=512)
watermark.zone_watermark_ok(memory, limits, 1, 8, ZoneIndex.NORMAL, 0, 1024)
watermark.zone_watermark_fast(memory, limits, 0, ZoneIndex.NORMAL, 0, 1024)
watermark.zone_watermark_ok_2_6_24(memory, limits, 1, 8, ZoneIndex.NORMAL, 0, 1024)
watermark.boost_watermark(limits, 1)
for options in (rules.options_2_6_24(), rules.options_2_6_23()):
    old = buddy.new_buddy(1024, options=options)
    buddy.free_at_boot(old, np.zeros(1, np.int64), np.full(1, 10, np.int8), True)
    claim.allocate_one(old, 0, 0)
for options in (rules.new_options(), rules.options_2_6_24()):
    machine = zonelist.Zonelist(*(zone.new_zone(size, limits, options=options) for size in (0, 0, 1024)))
    machine.normal.limits[Limit.MANAGED] = 1024
    buddy.free_at_boot(machine.normal.buddy, np.zeros(1, np.int64), np.full(1, 10, np.int8), True)
    highatomic.keep_reserve(machine.normal)
    requests = np.concatenate([zonelist.allocation_requests([0, 1], [0, 4]), zonelist.free_requests([0, 1])])
    zonelist.run_requests(machine, requests, np.full(2, -1, np.int64), 0)
    frame = zonelist.get_page(machine, 0, 0, 0, ZoneIndex.NORMAL, 0)
    zonelist.order_at(machine, frame)
    highatomic.reserve_pageblock(machine.normal, frame, 0)
    highatomic.release_pageblock(machine.normal, 0, True)
    zonelist.put_page(machine, 0, frame, 0, False)
    pcplist.decay_high(machine.normal, 0)
    zonelist.drain_cpu(machine, 0)
    lengths = np.zeros((buddy.ORDERS, buddy.TYPES), np.int64)
    audit.audit_zone(machine.normal, pages.new_pages(0), lengths)
