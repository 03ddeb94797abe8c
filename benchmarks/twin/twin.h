/*
 * The C twin of vckernels: the same algorithms over the same arrays, as fast as plain C makes them.
 *
 * The structs hold pointers to the arrays of the NamedTuples of the same name; twin/__init__.py fills them.
 * Names of fields, causes and orders come from names.h, which is written from the Python enums at build time,
 * so that the two sides cannot count into different places.
 */
#ifndef TWIN_H
#define TWIN_H

#include <stdbool.h>
#include <stdint.h>

#include "names.h"

struct buddy {
    int32_t *next, *prev;
    int8_t *state, *pageblock;
    int64_t *free_blocks, *counters, *options;
    int64_t frames;
};

struct tlb {
    int64_t *keys;
    int32_t *buckets, *chain, *newer, *older;
    int64_t *geometry;
    int64_t entries, levels;
};

struct page_tables {
    uint64_t *words;
    int32_t *row_of;
    int64_t *control;
    int64_t machine_frames;
};

struct mmu {
    int64_t *regions, *counters;
};

struct target {
    uint64_t *bases;
    int64_t shift;
    uint64_t *arrays;
    int64_t arrays_length, array_shift;
};

int64_t twin_run_trace(const struct buddy *zone, const int64_t *requests, const int8_t *migratetypes, int64_t count,
                       int64_t *slots, int8_t *slot_orders);
int64_t twin_count_misses(const struct tlb *tlb, const int64_t *pages, int64_t count, int64_t *misses);
int64_t twin_access(const struct mmu *mmu, const struct tlb *tlb, const struct page_tables *tables,
                    const struct target *target, const int64_t *offsets, int64_t count, bool write);

#endif
