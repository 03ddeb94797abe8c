/* Twin of vckernels/datacache.py: each set is a ring of tags in order of use. */
#ifndef TWIN_CACHE_H
#define TWIN_CACHE_H

#include "twin.h"

#ifdef __AVX2__
#include <immintrin.h>
#endif

struct place {
    int64_t set;
    int32_t tag;
};

INLINE struct place locate(const struct rings *r, int64_t line)
{
    if (r->shift >= 0) {
        int64_t tag = line >> r->shift;

        return (struct place){(line ^ ((tag & r->hash_mask) << r->hash_shift)) & (r->sets - 1), (int32_t)tag};
    }

    int64_t tag = line / r->sets;
    return (struct place){line - tag * r->sets, (int32_t)tag};
}

#ifdef __AVX2__
INLINE unsigned same_of_eight(const int32_t *tags, __m256i wanted)
{
    __m256i here = _mm256_loadu_si256((const __m256i *)tags);

    return (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(here, wanted)));
}
#endif

/* The way that holds a tag, or ways. */
INLINE int64_t search(const int32_t *set, int64_t ways, int32_t tag)
{
    int64_t way = 0;

#ifdef __AVX2__
    const __m256i wanted = _mm256_set1_epi32(tag);

    for (; way + 8 <= ways; way += 8) {
        unsigned same = same_of_eight(set + way, wanted);

        if (same)
            return way + __builtin_ctz(same);
    }
    if (way == ways)
        return ways;
    if (ways > 8) {
        /* The rest with some of those before, which do not hold it. */
        unsigned same = same_of_eight(set + ways - 8, wanted);

        return same ? ways - 8 + __builtin_ctz(same) : ways;
    }
#endif
    while (way < ways && set[way] != tag)
        way++;
    return way;
}

/* Puts a tag in the place of the set's oldest; returns the line that leaves, or NO_LINE. */
INLINE int64_t bring_in(const struct data_cache *c, const struct rings *r, struct place at)
{
    uint8_t *head = &c->heads[r->first_set + at.set];

    *head = *head ? *head - 1 : (uint8_t)(r->ways - 1);

    int32_t *slot = &c->tags[r->first_tag + at.set * r->ways + *head];
    int64_t oldest = *slot;
    *slot = at.tag;
    return oldest == NO_LINE ? NO_LINE : oldest * r->sets + (at.set ^ ((oldest & r->hash_mask) << r->hash_shift));
}

/* Looks a line up in a level that its misses fill; returns whether it was there, and in evicted what it drove out. */
INLINE bool enter(const struct data_cache *c, const struct rings *r, int64_t line, int64_t *evicted)
{
    struct place at = locate(r, line);
    int32_t *set = &c->tags[r->first_tag + at.set * r->ways];
    int64_t way = search(set, r->ways, at.tag);

    *evicted = NO_LINE;
    if (way == r->ways) {
        *evicted = bring_in(c, r, at);
        return false;
    }

    int64_t head = c->heads[r->first_set + at.set];
    while (way != head) {
        int64_t newer = way ? way - 1 : r->ways - 1;

        set[way] = set[newer];
        way = newer;
    }
    set[head] = at.tag;
    return true;
}

/* Takes a line out of a victim cache; returns whether it was there. */
INLINE bool leave(const struct data_cache *c, const struct rings *r, int64_t line)
{
    struct place at = locate(r, line);
    int32_t *set = &c->tags[r->first_tag + at.set * r->ways];
    int64_t way = search(set, r->ways, at.tag);

    if (way == r->ways)
        return false;

    uint8_t *number = &c->heads[r->first_set + at.set];
    int64_t head = *number, newer = way >= head ? way - head : way - head + r->ways;
    if (2 * newer < r->ways) {
        /* Fewer are newer: they step on, and the head with them; its old place becomes the oldest. */
        while (way != head) {
            int64_t previous = way ? way - 1 : r->ways - 1;

            set[way] = set[previous];
            way = previous;
        }
        *number = head < r->ways - 1 ? (uint8_t)(head + 1) : 0;
    } else {
        int64_t oldest = head ? head - 1 : r->ways - 1;

        while (way != oldest) {
            int64_t older = way < r->ways - 1 ? way + 1 : 0;

            set[way] = set[older];
            way = older;
        }
    }
    set[way] = NO_LINE;
    return true;
}

/* Puts in what the level above evicted, which may be there only if it was fetched ahead; returns what that evicts. */
INLINE int64_t receive(const struct data_cache *c, const struct rings *r, int64_t line, bool may_hold)
{
    int64_t evicted;

    if (!may_hold)
        return bring_in(c, r, locate(r, line));
    enter(c, r, line, &evicted);
    return evicted;
}

/* Brings the set that a line has in the last level near. */
INLINE void glance(const struct data_cache *c, int64_t line)
{
    const struct rings *r = &c->rings[c->levels > 2 ? 2 : 1];

    __builtin_prefetch(&c->tags[r->first_tag + locate(r, line).set * r->ways], 1);
}

/* Loads a line from a level on; returns the level that held it, or the number of levels for memory. */
INLINE int64_t load_line(const struct data_cache *c, int64_t line, int64_t start)
{
    const struct rings *second = &c->rings[1], *third = &c->rings[2];
    int64_t evicted = NO_LINE, served = c->levels;

    if (start == 0 && enter(c, &c->rings[0], line, &evicted))
        return 0;
    if (c->levels > 1) {
        if (start == 1 || !second->victim) {
            if (enter(c, second, line, &evicted))
                return 1;
        } else {
            if (leave(c, second, line))
                served = 1;
            if (evicted != NO_LINE)
                evicted = receive(c, second, evicted, true);
        }
    }
    if (c->levels > 2) {
        if (third->victim) {
            if (served != 1 && leave(c, third, line))
                served = 2;
            if (evicted != NO_LINE)
                receive(c, third, evicted, second->victim);
        } else if (served != 1 && enter(c, third, line, &evicted)) {
            served = 2;
        }
    }
    return served;
}

#endif
