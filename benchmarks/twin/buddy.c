/* Twin of vckernels/buddy.py and of claim.run_trace. */
#include "twin.h"

static inline void insert_between(const struct buddy b, int32_t before, int32_t after, int64_t frame, int64_t order,
                                  int64_t migratetype)
{
    b.prev[frame] = before;
    b.next[frame] = after;
    b.next[before] = (int32_t)frame;
    b.prev[after] = (int32_t)frame;
    b.state[frame] = (int8_t)order;
    b.free_blocks[order * TYPES + migratetype]++;
}

static inline void insert_head(const struct buddy b, int64_t frame, int64_t order, int64_t migratetype)
{
    int32_t sentinel = (int32_t)(b.frames + order * TYPES + migratetype);
    insert_between(b, sentinel, b.next[sentinel], frame, order, migratetype);
}

static inline void insert_tail(const struct buddy b, int64_t frame, int64_t order, int64_t migratetype)
{
    int32_t sentinel = (int32_t)(b.frames + order * TYPES + migratetype);
    insert_between(b, b.prev[sentinel], sentinel, frame, order, migratetype);
}

static inline void take_off(const struct buddy b, int64_t frame, int64_t order)
{
    int32_t before = b.prev[frame], after = b.next[frame];

    b.next[before] = after;
    b.prev[after] = before;
    b.state[frame] = INSIDE;
    b.free_blocks[order * TYPES + b.pageblock[frame >> PAGEBLOCK_ORDER]]--;
}

static inline bool is_free(const struct buddy b, int64_t frame, int64_t order)
{
    return frame + (1L << order) <= b.frames && b.state[frame] == order;
}

static inline void merge_and_insert(const struct buddy b, int64_t frame, int64_t order)
{
    int64_t migratetype = b.pageblock[frame >> PAGEBLOCK_ORDER];
    int64_t merges = 0;

    while (order < MAX_ORDER) {
        int64_t other = frame ^ (1L << order);

        if (!is_free(b, other, order))
            break;
        if (order >= PAGEBLOCK_ORDER) {
            int64_t other_type = b.pageblock[other >> PAGEBLOCK_ORDER];

            if (other_type != migratetype &&
                (migratetype >= MIGRATETYPE_HIGHATOMIC || other_type >= MIGRATETYPE_HIGHATOMIC))
                break;
        }
        take_off(b, other, order);
        if (order >= PAGEBLOCK_ORDER)
            b.pageblock[other >> PAGEBLOCK_ORDER] = (int8_t)migratetype;
        b.state[frame] = INSIDE;
        frame &= other;
        order++;
        merges++;
    }
    b.counters[CAUSE_MERGE] += merges;

    int64_t parent_buddy = (frame & ~(1L << order)) ^ (1L << (order + 1));
    if (b.options[0] && order < MAX_ORDER - 1 && is_free(b, parent_buddy, order + 1))
        insert_tail(b, frame, order, migratetype);
    else
        insert_head(b, frame, order, migratetype);
}

static inline void give_back(const struct buddy b, int64_t frame, int64_t order)
{
    if (frame < 0 || frame >= b.frames || order < 0 || order > MAX_ORDER)
        return;
    if (b.state[frame] < ALLOCATED || (b.state[frame] & 15) != order)
        return;
    b.counters[CAUSE_FREE]++;
    if (order <= PAGEBLOCK_ORDER) {
        merge_and_insert(b, frame, order);
        return;
    }
    b.state[frame] = INSIDE;
    for (int64_t part = frame; part < frame + (1L << order); part += PAGEBLOCK_FRAMES)
        merge_and_insert(b, part, PAGEBLOCK_ORDER);
}

static inline int64_t take_smallest(const struct buddy b, int64_t order, int64_t migratetype)
{
    for (int64_t high = order; high < ORDERS; high++) {
        int64_t frame = b.next[b.frames + high * TYPES + migratetype];

        if (frame >= b.frames)
            continue;
        take_off(b, frame, high);
        for (int64_t half = high - 1; half >= order; half--)
            insert_head(b, frame + (1L << half), half, migratetype);
        b.counters[CAUSE_SPLIT] += high - order;
        b.state[frame] = (int8_t)(ALLOCATED + 16 * migratetype + order);
        b.counters[CAUSE_ALLOCATION]++;
        return frame;
    }
    return -1;
}

/*
 * Whether another migratetype's lists could serve a request, looked for as claim() and steal() look.
 * Claiming itself has no twin: traces for it must not come here with anything to claim.
 */
static bool has_fallback(const struct buddy b, int64_t order, int64_t migratetype)
{
    static const int64_t fallbacks[3][2] = {
        {MIGRATETYPE_RECLAIMABLE, MIGRATETYPE_MOVABLE},
        {MIGRATETYPE_RECLAIMABLE, MIGRATETYPE_UNMOVABLE},
        {MIGRATETYPE_UNMOVABLE, MIGRATETYPE_MOVABLE},
    };

    for (int64_t high = MAX_ORDER; high >= order; high--) {
        if (high < PAGEBLOCK_ORDER / 2 && migratetype == MIGRATETYPE_MOVABLE)
            break;
        for (int i = 0; i < 2; i++)
            if (b.free_blocks[high * TYPES + fallbacks[migratetype][i]] > 0)
                return true;
    }
    for (int64_t high = order; high < ORDERS; high++)
        for (int i = 0; i < 2; i++)
            if (b.free_blocks[high * TYPES + fallbacks[migratetype][i]] > 0)
                return true;
    return false;
}

/* Returns how many requests were served, or -1 where one would have had to claim or steal. */
int64_t twin_run_trace(const struct buddy *zone, const int64_t *requests, const int8_t *migratetypes, int64_t count,
                       int64_t *slots, int8_t *slot_orders)
{
    /* A copy, so that stores through char pointers cannot be thought to change the pointers. */
    const struct buddy b = *zone;
    int64_t served = 0;

    for (int64_t i = 0; i < count; i++) {
        int64_t request = requests[i];

        if (request >= 0) {
            int64_t slot = request >> 4, order = request & 15;
            int64_t frame = take_smallest(b, order, migratetypes[i]);

            if (frame < 0) {
                if (has_fallback(b, order, migratetypes[i]))
                    return -1;
                b.counters[CAUSE_ALLOCATION_FAILURE]++;
            }
            slots[slot] = frame;
            slot_orders[slot] = (int8_t)order;
            served += frame >= 0;
        } else {
            int64_t slot = ~request;

            if (slots[slot] >= 0) {
                give_back(b, slots[slot], slot_orders[slot]);
                slots[slot] = -1;
                served++;
            }
        }
    }
    return served;
}
