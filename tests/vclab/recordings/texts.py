"""Samples of the kernel's texts, as Linux prints them."""

from __future__ import annotations

BUDDYINFO = """\
Node 0, zone      DMA      0      0      0      0      0      0      0      0      1      1      3 
Node 0, zone   Normal 1234567  11605   3700   1147   2333   4834   4257   2383    711      0   1367 
Node 1, zone   Normal  18144  11605   3700   1147   2333   4834   4257   2383    711      0   1367 
"""  # noqa: W291

PAGETYPEINFO = """\
Page block order: 9
Pages per block:  512

Free pages count per migrate type at order       0      1      2      3      4      5      6      7      8      9     10 
Node    0, zone    DMA32, type    Unmovable      8     10      8     10     10     11      5      8      6      0      0 
Node    0, zone    DMA32, type      Movable      2      3      0      2      3      2      1      4      4      7     13 
Node    0, zone   Normal, type    Unmovable  27815   5260     31      7      0      2      1      4      0      0      0 
Node    0, zone   Normal, type      Movable >100000 >100000  45274   2778     80     62    887     16      0      0      0 

Number of blocks type     Unmovable      Movable 
Node 0, zone    DMA32            7         1504 
Node 0, zone   Normal         1220         9099 
"""  # noqa: E501, W291

MIXED = """\

Number of mixed blocks    Unmovable      Movable 
Node 0, zone    DMA32            1            2 
Node 0, zone   Normal            0           15 
"""  # noqa: W291

ZONEINFO = """\
Node 0, zone    DMA32
  per-node stats
      nr_inactive_anon 276417
      nr_mapped    38200
  pages free     772808
        boost    0
        min      2626
        low      3398
        high     4170
        promo    4942
        spanned  1044480
        present  782336
        managed  772808
        cma      0
        protection: (0, 0, 16384, 16384, 16384)
      nr_free_pages 772808
      nr_mlock     0
      numa_hit     18446744073709551615
  pagesets
    cpu: 0
              count:    0
              high:     1699
              batch:    63
              high_min: 1699
              high_max: 48300
  vm stats threshold: 24
    cpu: 1
              count:    0
              high:     0
              batch:    63
              high_min: 1699
              high_max: 48300
  vm stats threshold: 24
  node_unreclaimable:  0
  start_pfn:           4096
Node 0, zone  Movable
  pages free     0
        boost    0
        min      32
        low      32
        high     32
        promo    32
        spanned  0
        present  0
        managed  0
        cma      0
        protection: (0, 0, 0, 0, 0)
"""

OLD_ZONEINFO = """\
Node 0, zone      DMA
  pages free     2577
        min      16
        low      20
        high     24
        scanned  0 (a: 13 i: 0)
        spanned  4096
        present  3998
    nr_free_pages 2577
    nr_bounce    0
        protection: (0, 1989, 1989, 1989)
  pagesets
    cpu: 0 pcp: 0
              count: 7
              high:  18
              batch: 3
    cpu: 0 pcp: 1
              count: 0
              high:  6
              batch: 1
  vm stats threshold: 6
  all_unreclaimable: 0
  prev_priority:     12
  start_pfn:         0
"""

VMALLOCINFO = """\
0x0000000000b1f0b2-0x00000000c8683577   20480 irq_init_percpu_irqstack+0xed/0x120 vmap
0x00000000c8683577-0x00000000823792ab    8192 acpi_os_map_iomem+0x1bc/0x1e0 phys=0x00000000000a0000 ioremap
0x0000000089c064d7-0x0000000063444083   20480 kernel_clone+0xb8/0x400 pages=4 vmalloc N0=4
0x0000000082b63439-0x0000000055a74a56 33558528 nvme_probe+0x31b/0x500 [nvme] pages=8192 vmalloc vpages N0=8000 N1=192
0x000000004846c5b8-0x00000000729a4980 2097152 pcpu_get_vm_areas+0x0/0x1050 vmalloc
0x000000007e6fd5e2-0x00000000909bb7bc   20480 unpurged vm_area
0xffffc90000000000-0xffffc90000005000   20480 vm_map_ram
"""

TEXTS = {
    "buddyinfo": BUDDYINFO,
    "pagetypeinfo": PAGETYPEINFO,
    "zoneinfo": ZONEINFO,
    "vmallocinfo": VMALLOCINFO,
}

INDEX = """\
Node 0, zone      DMA -1.000 -1.000 -1.000 -1.000 -1.000 -1.000 -1.000 -1.000 -1.000 -1.000  0.-500 
Node 0, zone   Normal -1.000 -1.000 -1.000 -1.000 -1.000 -1.000 -1.000 -1.000 -1.000  0.998  1.000 
"""  # noqa: W291

SLABINFO = """\
slabinfo - version: 2.1
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables <limit> <batchcount> <sharedfactor> : slabdata <active_slabs> <num_slabs> <sharedavail>
AF_VSOCK              36     40   1280   12    4 : tunables    0    0    0 : slabdata      3      4      0
jbd2_1k(9:user)        0      0   2112   15    8 : tunables    1    2    3 : slabdata      0      0      5 : globalstat 1 2
"""  # noqa: E501

VMSTAT = "nr_free_pages 3193260\ncompact_stall 0\nnr_unstable 18446744073709551615\n"

#: One line of each event, as Linux 6.18 prints them.
DETAILS = {
    "mm_page_alloc": "page=00000000c621b780 pfn=0x12e55a order=3 migratetype=1 gfp_flags=GFP_HIGHUSER|__GFP_ZERO",
    "mm_page_free": "page=00000000c621b780 pfn=0x1496d9 order=0",
    "mm_page_free_batched": "page=00000000c621b780 pfn=0x1496d9 order=0",
    "mm_page_alloc_zone_locked": "page=00000000c621b780 pfn=0x1496d9 order=1 migratetype=2 percpu_refill=1",
    "mm_page_pcpu_drain": "page=00000000c621b780 pfn=0x1496d9 order=0 migratetype=0",
    "mm_page_alloc_extfrag": "page=00000000c621b780 pfn=0x149600 alloc_order=3 fallback_order=9 pageblock_order=9 "
    "alloc_migratetype=0 fallback_migratetype=1 fragmenting=0 change_ownership=1",
    "kmalloc": "call_site=load_elf_phdrs+0x4f/0xb0 ptr=00000000067f5745 bytes_req=728 bytes_alloc=1024 "
    "gfp_flags=GFP_KERNEL node=-1 accounted=false",
    "kfree": "call_site=skb_release_data+0x16b/0x1d0 ptr=00000000696d4b3c",
    "kmem_cache_alloc": "call_site=f+0x4f/0xb0 ptr=00000000067f5745 name=bio-184 bytes_req=184 bytes_alloc=192 "
    "gfp_flags=GFP_NOFS|__GFP_ZERO node=0 accounted=true",
    "kmem_cache_free": "call_site=blk_update_request+0xe0/0x3b0 ptr=00000000067f5745 name=bio-184",
    "mm_compaction_begin": "zone_start=0x100000 migrate_pfn=0x100200 free_pfn=0x63fe00 zone_end=0x640000, mode=async",
    "mm_compaction_end": "zone_start=0x100000 migrate_pfn=0x100200 free_pfn=0x63fe00 zone_end=0x640000, mode=sync "
    "status=no_suitable_page",
    "mm_compaction_isolate_migratepages": "range=(0x1045e0 ~ 0x104600) nr_scanned=32 nr_taken=30",
    "mm_compaction_isolate_freepages": "range=(0x63fe00 ~ 0x640000) nr_scanned=512 nr_taken=77",
    "mm_compaction_fast_isolate_freepages": "range=(0x63fe00 ~ 0x63fe20) nr_scanned=1 nr_taken=32",
    "mm_compaction_migratepages": "nr_migrated=30 nr_failed=2",
    "mm_compaction_try_to_compact_pages": "order=9 gfp_mask=GFP_TRANSHUGE_LIGHT|__GFP_DIRECT_RECLAIM priority=1",
    "mm_compaction_suitable": "node=0 zone=Normal   order=9 ret=continue",
    "mm_compaction_finished": "node=0 zone=DMA32    order=-1 ret=partial_skipped",
    "mm_compaction_deferred": "node=0 zone=Normal   order=9 order_failed=9 consider=3 limit=64",
    "mm_compaction_defer_compaction": "node=0 zone=Normal   order=9 order_failed=9 consider=0 limit=2",
    "mm_compaction_defer_reset": "node=0 zone=Normal   order=9 order_failed=10 consider=0 limit=1",
    "mm_compaction_kcompactd_wake": "nid=0 order=9 classzone_idx=Normal  ",
    "mm_compaction_wakeup_kcompactd": "nid=0 order=9 classzone_idx=Normal  ",
    "mm_compaction_kcompactd_sleep": "nid=0",
    "alloc_vmap_area": "va_start: 18446683600571105280 size=20480 align=16384 vstart=0xffffc90000000000 "
    "vend=0xffffe8ffffffffff failed=0",
    "free_vmap_area_noflush": "va_start=0xffffc90000010000 nr_lazy=105 nr_lazy_max=16384",
    "purge_vmap_area_lazy": "start=0xffffc90000010000 end=0xffffc90000090000 num_purged=22",
}
SYSTEM = {name: "compaction" if "compaction" in name else "vmalloc" if "vmap" in name else "kmem" for name in DETAILS}

TRACE_HEADING = """\
# tracer: nop
#
# entries-in-buffer/entries-written: 16570/56440   #P:2
#
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
"""


def as_trace(name: str, details: str, time: str = "5904.081796", cpu: int = 1) -> str:
    return f"     kworker/1:0-9676    [{cpu:03}] d..2.  {time}: {name}: {details}\n"


def as_perf(name: str, details: str, time: str = "5904.081796123", cpu: int = 1) -> str:
    return f"             cc1 11539 [{cpu:03}]  {time}: {SYSTEM.get(name, 'x'):>16}:{name}: {details}\n"
