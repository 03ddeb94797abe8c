/* Twin of vckernels/tlb.py: a hash finds the entry, a list per set keeps the order of use. */
#ifndef TWIN_TLB_H
#define TWIN_TLB_H

#include "twin.h"

/* One level's share of the geometry for one page size, in the order of the enum Field. */
struct fields {
    int64_t first_set, sets, mask, first_bucket, bucket_shift;
};

_Static_assert(FIELD_FIRST_SET == 0 && FIELD_SETS == 1 && FIELD_MASK == 2 && FIELD_FIRST_BUCKET == 3 &&
                   FIELD_BUCKET_SHIFT == 4 && FIELDS == 5,
               "struct fields follows the enum Field");

static inline const struct fields *fields_of(const struct tlb t, int64_t level, int64_t size)
{
    return (const struct fields *)t.geometry + level * SIZES + size;
}

static inline int64_t bucket_of(const struct fields *f, int64_t key)
{
    return f->first_bucket + (int64_t)((uint64_t)key * 0x9E3779B97F4A7C15u >> f->bucket_shift);
}

static inline int64_t sentinel_of(const struct tlb t, const struct fields *f, int64_t page)
{
    return t.entries + f->first_set + (f->mask >= 0 ? page & f->mask : page % f->sets);
}

static inline void make_newest(const struct tlb t, int64_t sentinel, int64_t entry)
{
    int32_t newer = t.newer[entry];

    if (newer == sentinel)
        return;

    int32_t older = t.older[entry];
    t.older[newer] = older;
    t.newer[older] = newer;

    int32_t first = t.older[sentinel];
    t.older[entry] = first;
    t.newer[first] = (int32_t)entry;
    t.older[sentinel] = (int32_t)entry;
    t.newer[entry] = (int32_t)sentinel;
}

static inline bool lookup(const struct tlb t, int64_t level, int64_t page, int64_t size)
{
    const struct fields *f = fields_of(t, level, size);
    int64_t key = page << 2 | size;

    if (f->sets == 0)
        return false;
    for (int64_t entry = t.buckets[bucket_of(f, key)]; entry != EMPTY; entry = t.chain[entry])
        if (t.keys[entry] == key) {
            make_newest(t, sentinel_of(t, f, page), entry);
            return true;
        }
    return false;
}

static inline void unlink_from_bucket(const struct tlb t, int64_t bucket, int64_t entry)
{
    int64_t at = t.buckets[bucket];

    if (at == entry) {
        t.buckets[bucket] = t.chain[entry];
        return;
    }
    while (t.chain[at] != entry)
        at = t.chain[at];
    t.chain[at] = t.chain[entry];
}

static inline void fill(const struct tlb t, int64_t level, int64_t page, int64_t size)
{
    const struct fields *f = fields_of(t, level, size);

    if (f->sets == 0)
        return;

    int64_t sentinel = sentinel_of(t, f, page);
    int64_t entry = t.newer[sentinel];
    int64_t old = t.keys[entry];
    if (old != EMPTY)
        unlink_from_bucket(t, bucket_of(f, old), entry);

    int64_t key = page << 2 | size;
    int64_t bucket = bucket_of(f, key);
    t.keys[entry] = key;
    t.chain[entry] = t.buckets[bucket];
    t.buckets[bucket] = (int32_t)entry;
    make_newest(t, sentinel, entry);
}

#endif
