"""What kernels count, and how they answer."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """Answer of a kernel. Anything but ``OK`` means that nothing was handed out, given back or mapped."""

    OK = 0
    NO_MEMORY = 1
    """No free block could serve the request."""
    NOT_ALLOCATED = 2
    """The frame is not the first of an allocated block: a double free, or a frame inside a block."""
    WRONG_ORDER = 3
    """The block is allocated with another order."""
    OUT_OF_RANGE = 4
    """The frame, order, migratetype or address lies outside what exists."""
    NOT_FREE = 5
    """The frames asked for are not inside one free block."""
    ALREADY_MAPPED = 6
    """Part of the range is mapped."""
    NOT_MAPPED = 7
    """Part of the range is not mapped."""
    NO_SPACE = 8
    """No address range is large enough."""
    NO_CAPACITY = 9
    """The arrays are full; the owner grows them and asks again."""
    ON_LIST = 10
    """The page is on one of reclaim's lists."""
    NOT_ON_LIST = 11
    """The page is on none of reclaim's lists."""


class Cause(IntEnum):
    """Index of an event in the one int64 array of counters."""

    ALLOCATION = 0
    """Blocks taken from the free lists."""
    ALLOCATION_FAILURE = 1
    """Requests that found no block."""
    FREE = 2
    """Blocks given back."""
    SPLIT = 3
    """Halvings of a block."""
    MERGE = 4
    """Unions of two buddies."""
    CLAIM_BLOCK = 5
    """Fallback blocks of a pageblock or more that changed their migratetype whole."""
    CLAIM_PAGEBLOCK = 6
    """Pageblocks retyped because a smaller fallback block was taken from them."""
    CLAIM_REFUSED = 7
    """Pageblocks left alone because too few of their frames were free or alike."""
    CLAIM_MOVED_FRAMES = 8
    """Free frames moved to the lists of a new migratetype by a claim."""
    STEAL = 9
    """Fallback blocks taken without changing the pageblock's migratetype."""
    TABLE_PAGE = 10
    """Page-table pages put into the tree."""
    ENTRY_WRITE = 11
    """Page-table words written by map and unmap."""
    AREA_RESERVE = 12
    """Address ranges reserved in the vmalloc area."""
    AREA_STEP = 13
    """Tree nodes, or members of a list, visited while searching the vmalloc area."""
    AREA_RELEASE = 14
    """Address ranges given back."""
    DATA_ACCESS = 15
    """Accesses of the stream."""
    PAGE_ARRAY_ACCESS = 16
    """Loads of a page array that had to precede a data access."""
    FIRST_LEVEL_TLB_HIT = 17
    SECOND_LEVEL_TLB_HIT = 18
    WALK = 19
    """Page walks."""
    WALK_REFERENCE = 20
    """Page-table words that walks loaded."""
    TLB_FAULT = 21
    """Accesses whose address no table maps."""
    WALK_CACHE_HIT = 22
    """Walks that a paging-structure cache let begin below the root; with physical tags, words that it held."""
    ACCESSED_UPDATE = 23
    """Accessed bits that walks set."""
    DIRTY_UPDATE = 24
    """Dirty bits that stores set, by a walk or after a TLB hit on a clean entry."""
    DATA_LEVEL_1 = 25
    """Data accesses by the cache level that served them, memory last; then page-array loads and walk references."""
    DATA_LEVEL_2 = 26
    DATA_LEVEL_3 = 27
    DATA_MEMORY = 28
    ARRAY_LEVEL_1 = 29
    ARRAY_LEVEL_2 = 30
    ARRAY_LEVEL_3 = 31
    ARRAY_MEMORY = 32
    WALK_LEVEL_1 = 33
    WALK_LEVEL_2 = 34
    WALK_LEVEL_3 = 35
    WALK_MEMORY = 36
    FILL_CONFLICT = 37
    """First-level data misses in the set that the miss just before is filling, without a TLB miss to hide behind."""
    PREFETCH_LINE = 38
    """Lines that the stream prefetcher brought into the second level."""
    PREFETCH_WALK = 39
    """Walks of the next-page prefetcher."""
    PREFETCH_REFERENCE = 40
    """Page-table words that those walks loaded."""
    TLB_INVALIDATION = 41
    """Pages invalidated one by one (INVLPG)."""
    TLB_FLUSH = 42
    """Flushes of all entries, or of all that are not global."""
    STRUCT_PAGE = 43
    """``struct page`` descriptors prepared as parts of a compound page."""
    PAGE_CLEARED = 44
    """4 KiB pages zeroed."""
    PAGE_COPIED = 45
    """4 KiB pages copied."""
    BACKGROUND_ACCESS = 46
    """Accesses of other work between those of the stream."""
    KERNEL_ENTRY = 47
    """Entries into the kernel between accesses of the stream."""
    FLUSH_CALL = 48
    """Requests to flush a range of kernel addresses page by page."""
    INTERRUPT = 49
    """Rounds of interrupts that made all other CPUs flush."""
    PAGE_ACTIVATION = 50
    """Frames whose page went from an inactive to an active list."""
    PAGE_DEACTIVATION = 51
    """Frames whose page went from an active to an inactive list."""
    PAGE_SPLIT = 52
    """Pages of several frames that were made into pages of one."""
    RESERVE_BLOCK = 53
    """Blocks taken from the reserve because no other type had one (``MIGRATE_RESERVE``)."""
    PER_CPU_ALLOCATION = 54
    """Blocks handed out from a per-CPU list."""
    PER_CPU_FREE = 55
    """Blocks put on a per-CPU list."""
    PER_CPU_REFILL = 56
    """Times that a per-CPU list was filled from the free lists."""
    PER_CPU_DRAIN = 57
    """Times that blocks of per-CPU lists went back to the free lists."""
    WATERMARK_MISS = 58
    """Zones passed over because a request would not have kept their watermark."""
    HIGHATOMIC_RESERVE = 59
    """Pageblocks reserved for atomic requests of high orders."""
    HIGHATOMIC_RELEASE = 60
    """Pageblocks given back from that reserve."""
    FREE_SCANNED = 61
    """Frames and list entries that compaction's free scanner looked at."""
    ISOLATED_FREE = 62
    """Free frames that it took as targets."""
    COMPACT_DEFERRED = 63
    """Times that compaction was put off because it had failed before."""
    MIGRATE_SCANNED = 64
    """Frames and list entries that compaction's migrate scanner looked at."""
    ISOLATED_SOURCE = 65
    """Frames of pages that it took off reclaim's lists."""
    PAGE_MIGRATED = 66
    """Frames of pages that compaction moved."""
    MIGRATION_BATCH = 67
    """Batches of moved pages, for each of which other CPUs flush once."""
    MIGRATION_FAILURE = 68
    """Frames of pages that were put back because there was nowhere to move them."""
    CAPTURE = 69
    """Blocks that a compacting request took over in the moment when they became free."""
    AREA_POOL_HIT = 70
    """Address ranges that came ready from a pool, without a search."""
    AREA_LAZY_FREE = 71
    """Address ranges that were freed but wait for a flush before they are given back."""
    AREA_PURGE = 72
    """Purges, each of which gives back all ranges that wait."""
    BROADCAST = 73
    """Instructions that make all CPUs of the machine invalidate pages, or everything (INVLPGB)."""
    BROADCAST_WAIT = 74
    """Waits until all CPUs have done so (TLBSYNC)."""
    DIRECT_RECLAIM = 75
    """Times that a request reclaimed memory itself."""
    KSWAPD_RUN = 76
    """Runs of kswapd."""
    RECLAIM_SCANNED = 77
    """Frames that reclaim took off its lists to look at, active or inactive."""
    PAGE_RECLAIMED = 78
    """Frames of pages that reclaim freed."""
    WRITE_BACK = 79
    """Frames of dirty file pages that were written."""
    SWAP_OUT = 80
    """Frames of anonymous pages that were written to swap."""
    REFAULT = 81
    """Frames that were needed again after they had been reclaimed."""
    WORKINGSET_REFAULT = 82
    """Those of them that more memory would have kept: active from the start."""
    CONGESTION_WAIT = 83
    """Times that reclaim of 2.6.24 would have waited for devices, a tenth of a second at most."""
    SLOW_PATH = 84
    """Requests that the low watermark kept from being served at once."""
    SLOW_PATH_RETRY = 85
    """Rounds of reclaim and compaction after which such a request considered another one."""
    COMPACT_STALL = 86
    """Direct compactions that were not skipped for want of memory, those put off counted with them."""
    COMPACT_SUCCESS = 87
    """Those after which the request was served."""
    COMPACT_FAIL = 88
    """Those after which it was not."""
    OOM_KILL = 89
    """Processes killed for want of memory."""
    BLOCK_TAKE = 90
    """Small mappings that got their addresses from a CPU's block."""
    BLOCK_GIVE = 91
    """Such mappings that were given back."""
    BLOCK_NEW = 92
    """Blocks made for them."""
    BLOCK_STEP = 93
    """Blocks passed over because they had too few pages left."""
    UNMAP_BATCH = 94
    """Times that CPUs had to forget what reclaim had unmapped or looked at: pages together, or each on its own."""


COUNTERS = len(Cause)
