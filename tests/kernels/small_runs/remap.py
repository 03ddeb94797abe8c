"""A page that moves, and one that is reclaimed."""

import numpy as np

from vckernels import entry, pages, pagetable, referenced, remap

tables = pagetable.new_page_tables(0, 0, 64, 4, 46, True)
start = np.uint64(1 << 44)
pagetable.map_range(
    tables, start, np.arange(10, 12), 1, entry.USER_LEAF, entry.KERNEL_TABLE | entry.USER, np.arange(1, 4)
)
owners, orders = np.zeros(1, np.int64), np.ones(1, np.int8)
remap.follow_moves(tables, start, owners, orders, np.full(1, 20))
remap.clear_leaves(tables, start, owners, orders)

pagetable.map_range(
    tables, start, np.arange(10, 12), 1, entry.USER_LEAF, entry.KERNEL_TABLE | entry.USER, np.empty(0, np.int64)
)
entries = referenced.Entries(tables, start, True)
data = pages.new_pages(2)
referenced.take_accessed(entries, data, 0, 2)
referenced.take_dirty(entries, data, 0, 2)
