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

/* For what runs once or more an access; gcc would rather call what is large and inlined twice. */
#define INLINE static inline __attribute__((always_inline))

struct buddy {
    int32_t *next, *prev;
    int8_t *state, *pageblock;
    int64_t *free_blocks, *counters, *options;
    int64_t frames;
};

struct tlb {
    int64_t *keys, *values;
    int32_t *buckets, *chain, *newer, *older;
    int64_t *geometry;
    int64_t entries, levels;
};

struct page_tables {
    uint64_t *words;
    int64_t *frames;
    int32_t *row_of;
    int64_t *control;
    int64_t machine_frames;
};

/* One level of the data caches; Python hands these numbers over by value. */
struct rings {
    int64_t first_tag, first_set, sets, ways, shift, hash_mask, hash_shift, victim;
};

struct data_cache {
    int32_t *tags;
    uint8_t *heads;
    int64_t levels;
    struct rings rings[3];
};

struct mmu {
    struct tlb tlb, words; /* words: the paging-structure caches */
    int64_t *physical;
    struct data_cache cache;
    int64_t *slots, *history_frames;
    uint64_t *history_lines;
    int64_t *regions, *control, *counters, *queue;
};

struct target {
    uint64_t *bases;
    int64_t shift;
    uint64_t *arrays;
    int64_t arrays_length, array_shift;
};

struct beside {
    struct target target;
    int64_t *offsets;
    int64_t offsets_length, gap;
    int64_t *state, *counters;
};

int64_t twin_run_trace(const struct buddy *zone, const int64_t *requests, const int8_t *migratetypes, int64_t count,
                       int64_t *slots, int8_t *slot_orders);
int64_t twin_count_misses(const struct tlb *tlb, const int64_t *pages, int64_t count, int64_t *misses);
int64_t twin_run_lines(const struct data_cache *cache, const int64_t *lines, int64_t count, int64_t *served);
int64_t twin_access(const struct mmu *mmu, const struct page_tables *tables, const struct target *target,
                    const int64_t *offsets, int64_t count, bool write, const struct beside *beside);

#endif
