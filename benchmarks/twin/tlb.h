/* Twin of vckernels/tlb.py: a hash finds the entry, a list per set keeps the order of use. */
#ifndef TWIN_TLB_H
#define TWIN_TLB_H

#include "twin.h"

/* One level's share of the geometry for one page size, in the order of the enum Field. */
struct fields {
    int64_t first_set, sets, mask, first_bucket, bucket_shift, hash_shift;
};

_Static_assert(FIELD_FIRST_SET == 0 && FIELD_SETS == 1 && FIELD_MASK == 2 && FIELD_FIRST_BUCKET == 3 &&
                   FIELD_BUCKET_SHIFT == 4 && FIELD_HASH_SHIFT == 5 && FIELDS == 6,
               "struct fields follows the enum Field");

INLINE const struct fields *fields_of(const struct tlb *t, int64_t level, int64_t size)
{
    return (const struct fields *)t->geometry + level * SIZES + size;
}

INLINE int64_t bucket_of(const struct fields *f, int64_t key)
{
    return f->first_bucket + (int64_t)((uint64_t)key * 0x9E3779B97F4A7C15u >> f->bucket_shift);
}

INLINE int64_t sentinel_of(const struct tlb *t, const struct fields *f, int64_t page)
{
    int64_t number = page ^ page >> f->hash_shift;

    return t->entries + f->first_set + (f->mask >= 0 ? number & f->mask : number % f->sets);
}

INLINE void make_newest(const struct tlb *t, int64_t sentinel, int64_t entry)
{
    int32_t newer = t->newer[entry];

    if (newer == sentinel)
        return;

    int32_t older = t->older[entry];
    t->older[newer] = older;
    t->newer[older] = newer;

    int32_t first = t->older[sentinel];
    t->older[entry] = first;
    t->newer[first] = (int32_t)entry;
    t->older[sentinel] = (int32_t)entry;
    t->newer[entry] = (int32_t)sentinel;
}

/* The entry that holds a page, or EMPTY. */
INLINE int64_t find(const struct tlb *t, int64_t level, int64_t page, int64_t size)
{
    const struct fields *f = fields_of(t, level, size);
    int64_t key = page << 2 | size, entry;

    if (f->sets == 0)
        return EMPTY;
    for (entry = t->buckets[bucket_of(f, key)]; entry != EMPTY && t->keys[entry] != key; entry = t->chain[entry])
        ;
    return entry;
}

INLINE int64_t lookup(const struct tlb *t, int64_t level, int64_t page, int64_t size)
{
    int64_t entry = find(t, level, page, size);

    if (entry != EMPTY)
        make_newest(t, sentinel_of(t, fields_of(t, level, size), page), entry);
    return entry;
}

INLINE void unlink_from_bucket(const struct tlb *t, int64_t bucket, int64_t entry)
{
    int64_t at = t->buckets[bucket];

    if (at == entry) {
        t->buckets[bucket] = t->chain[entry];
        return;
    }
    while (t->chain[at] != entry)
        at = t->chain[at];
    t->chain[at] = t->chain[entry];
}

INLINE void fill(const struct tlb *t, int64_t level, int64_t page, int64_t size, int64_t value)
{
    const struct fields *f = fields_of(t, level, size);

    if (f->sets == 0)
        return;

    int64_t sentinel = sentinel_of(t, f, page);
    int64_t entry = t->newer[sentinel];
    int64_t old = t->keys[entry];
    if (old != EMPTY)
        unlink_from_bucket(t, bucket_of(f, old), entry);

    int64_t key = page << 2 | size;
    int64_t bucket = bucket_of(f, key);
    t->keys[entry] = key;
    t->values[entry] = value;
    t->chain[entry] = t->buckets[bucket];
    t->buckets[bucket] = (int32_t)entry;
    make_newest(t, sentinel, entry);
}

#endif
