/* Twin of vckernels/pagetable.walk, tlb.count_misses, prefetch.train and mmu.access. */
#include "cache.h"
#include "tlb.h"

#define PRESENT (1ull << 0)
#define WRITABLE (1ull << 1)
#define USER (1ull << 2)
#define ACCESSED (1ull << 5)
#define DIRTY (1ull << 6)
#define LARGE (1ull << 7)
#define PAT_LARGE (1ull << 12)
#define GLOBAL (1ull << 8)
#define NO_EXECUTE (1ull << 63)
#define ADDRESS_BITS 0x000FFFFFFFFFF000ull
#define PAGE_BITS ((1L << 52) - 1) /* a page number is the upper 52 bits of an address, without sign */

struct translation {
    int64_t frame, level, references, fault;
};

INLINE int level_shift(int64_t level)
{
    return (int)(12 + 9 * (level - 1));
}

INLINE bool is_leaf(uint64_t word, int64_t level)
{
    return level == 1 || (level <= 3 && word & LARGE);
}

/*
 * What the control array says, read once a call: a store to a table might change it as far as the compiler knows, and a
 * walk would read it again at each level.
 */
struct rules {
    int64_t levels, first_frame;
    uint64_t reserved, reserved_third, reserved_upper;
    bool no_execute, write_protect, smep, smap;
};

INLINE struct rules rules_of(const struct page_tables p)
{
    const int64_t *control = p.control;
    struct rules r = {
        .levels = control[CONTROL_LEVELS],
        .first_frame = control[CONTROL_FIRST_FRAME],
        .reserved = ADDRESS_BITS & ~((1ull << control[CONTROL_PHYSICAL_BITS]) - 1),
        .no_execute = control[CONTROL_NO_EXECUTE],
        .write_protect = control[CONTROL_WRITE_PROTECT],
        .smep = control[CONTROL_SMEP],
        .smap = control[CONTROL_SMAP],
    };

    if (!r.no_execute)
        r.reserved |= NO_EXECUTE;
    r.reserved_third = r.reserved | (control[CONTROL_GIGABYTE_PAGES] ? 0 : LARGE);
    r.reserved_upper = r.reserved | LARGE;
    return r;
}

INLINE uint64_t reserved_bits(const struct rules r, uint64_t word, int64_t level)
{
    uint64_t mask = level >= 4 ? r.reserved_upper : level == 3 ? r.reserved_third : r.reserved;

    if ((level == 2 || level == 3) && word & LARGE)
        mask |= ((1ull << level_shift(level)) - 1) & ADDRESS_BITS & ~PAT_LARGE;
    return word & mask;
}

INLINE int64_t frame_of(uint64_t word)
{
    return (int64_t)((word & ADDRESS_BITS) >> 12);
}

/* The row of the table in a frame, or -1 where none lies. */
INLINE int64_t row_at(const struct page_tables p, const struct rules r, int64_t frame)
{
    int64_t place = frame - r.first_frame;

    return place < 0 || place >= p.machine_frames ? -1 : p.row_of[place];
}

static struct translation walk(const struct page_tables p, const struct rules r, uint64_t address, bool write,
                               bool user, bool fetch, bool update)
{
    const int64_t top = (int64_t)address >> (9 * r.levels + 11);
    uint64_t every = WRITABLE | USER, any = 0; /* bits that all words have, that one has */
    int64_t row = 0, references = 0, level = r.levels, index;
    uint64_t word;

    if (top != 0 && top != -1)
        return (struct translation){-1, 0, 0, FAULT_NON_CANONICAL};
    for (;;) {
        index = address >> level_shift(level) & 511;
        word = p.words[row * ENTRIES + index];
        references++;
        if (!(word & PRESENT))
            return (struct translation){-1, level, references, FAULT_NOT_PRESENT};
        if (reserved_bits(r, word, level))
            return (struct translation){-1, level, references, FAULT_RESERVED_BIT};
        every &= word;
        any |= word;
        if (is_leaf(word, level))
            break;
        if (update && !(word & ACCESSED))
            p.words[row * ENTRIES + index] = word | ACCESSED;

        row = row_at(p, r, frame_of(word));
        if (row < 0)
            return (struct translation){-1, level - 1, references + 1, FAULT_NOT_PRESENT};
        level--;
    }

    int64_t fault = FAULT_NONE;
    if (user && !(every & USER))
        fault = FAULT_USER;
    else if (fetch && r.no_execute && any & NO_EXECUTE)
        fault = FAULT_FETCH;
    else if (fetch && !user && every & USER && r.smep)
        fault = FAULT_SUPERVISOR_FETCH;
    else if (!fetch && !user && every & USER && r.smap)
        fault = FAULT_SUPERVISOR_ACCESS;
    else if (write && !(every & WRITABLE) && (user || r.write_protect))
        fault = FAULT_WRITE;
    if (fault != FAULT_NONE)
        return (struct translation){-1, level, references, fault};

    if (update) {
        uint64_t wanted = word | ACCESSED | (write ? DIRTY : 0);

        if (wanted != word)
            p.words[row * ENTRIES + index] = wanted;
    }

    uint64_t below = (1ull << level_shift(level)) - 1;
    int64_t frame = frame_of(word) & ~((1L << (9 * (level - 1))) - 1);
    return (struct translation){frame + (int64_t)((address & below) >> 12), level, references, FAULT_NONE};
}

int64_t twin_count_misses(const struct tlb *tlb, const int64_t *pages, int64_t count, int64_t *misses)
{
    const struct tlb t = *tlb;
    int64_t last = -1;

    for (int64_t i = 0; i < count; i++) {
        int64_t page = pages[i], missed = 0;

        if (page == last)
            continue;
        last = page;
        while (missed < t.levels && lookup(&t, missed, page, 0) == EMPTY)
            misses[missed++]++;
        for (int64_t level = 0; level < missed; level++)
            fill(&t, level, page, 0, 0);
    }
    return 0;
}

int64_t twin_run_lines(const struct data_cache *cache, const int64_t *lines, int64_t count, int64_t *served)
{
    const struct data_cache c = *cache;

    for (int64_t i = 0; i < count; i++)
        served[load_line(&c, lines[i], 0)]++;
    return 0;
}

/* Page size as the tables say: 0 to 2, or UNMAPPED. What was found is kept by 2 MiB region. */
INLINE int64_t page_size(const struct mmu *m, const struct page_tables p, const struct rules r, int64_t page)
{
    int64_t region = page >> REGION_PAGES_SHIFT;
    int64_t *slot = &m->regions[region & (REGIONS - 1)];

    if (*slot >> 2 == region)
        return *slot & 3;

    struct translation found = walk(p, r, (uint64_t)page << 12, false, false, false, false);
    if (found.fault)
        return UNMAPPED;
    *slot = region << 2 | (found.level - 1);
    return found.level - 1;
}

/* Lets a line wait for the data caches. */
INLINE void queue(const struct mmu *m, int64_t line, int64_t kind)
{
    m->queue[++m->queue[0]] = line << KIND_BITS | kind;
}

INLINE int64_t narrowed(int64_t permissions, uint64_t word, bool no_execute)
{
    if (!(word & WRITABLE))
        permissions &= ~PERMISSION_WRITABLE;
    if (!(word & USER))
        permissions &= ~PERMISSION_ACCESSIBLE;
    if (no_execute && word & NO_EXECUTE)
        permissions &= ~PERMISSION_EXECUTABLE;
    return permissions;
}

/* A data access by the supervisor. */
INLINE bool forbidden(const struct rules r, int64_t permissions, bool write)
{
    return (permissions & PERMISSION_ACCESSIBLE && r.smap) ||
           (write && !(permissions & PERMISSION_WRITABLE) && r.write_protect);
}

/* Walks as the hardware does, from where the paging-structure caches let it; returns the TLB value, -1 on a fault. */
INLINE int64_t hardware_walk(const struct mmu *m, const struct page_tables p, const struct rules r, int64_t page,
                             bool write, bool prefetch)
{
    const uint64_t address = (uint64_t)page << 12;
    const bool directories = m->tlb.levels > 1 && fields_of(&m->tlb, 1, DIRECTORY)->sets;
    const bool physical = *m->physical;
    int64_t level = r.levels, permissions = ALL_PERMISSIONS, frame = p.frames[0], row = 0;
    uint64_t word, *at;

    for (int64_t held = LOWEST; !physical && held <= r.levels; held++) {
        const struct tlb *t = held == LOWEST && directories ? &m->tlb : &m->words;
        int64_t entry = t == &m->tlb ? lookup(t, 1, page >> 9, DIRECTORY)
                                     : lookup(t, 0, page >> (9 * (held - 1)), held - LOWEST);

        if (entry != EMPTY) {
            m->counters[CAUSE_WALK_CACHE_HIT]++;
            frame = t->values[entry] >> PERMISSION_BITS;
            row = row_at(p, r, frame);
            permissions = t->values[entry] & ALL_PERMISSIONS;
            level = held - 1;
            break;
        }
    }
    for (;; level--) {
        int64_t index = address >> level_shift(level) & 511, tag = frame << 9 | index;

        if (physical && level >= LOWEST) {
            int64_t entry = lookup(&m->words, 0, tag, 0);

            if (entry != EMPTY) {
                m->counters[CAUSE_WALK_CACHE_HIT]++;
                frame = m->words.values[entry] >> PERMISSION_BITS;
                row = row_at(p, r, frame);
                permissions &= m->words.values[entry];
                continue;
            }
        }
        at = &p.words[row * ENTRIES + index];
        word = row >= 0 ? *at : 0;
        if (prefetch) {
            m->counters[CAUSE_PREFETCH_REFERENCE]++;
            queue(m, tag >> 3, KIND_PREFETCH_WALK);
        } else {
            m->counters[CAUSE_WALK_REFERENCE]++;
            queue(m, tag >> 3, KIND_WALK);
        }
        if (!(word & PRESENT) || reserved_bits(r, word, level))
            return -1;
        permissions = narrowed(permissions, word, r.no_execute);
        if (is_leaf(word, level))
            break;
        if (!(word & ACCESSED)) {
            *at = word | ACCESSED;
            m->counters[CAUSE_ACCESSED_UPDATE]++;
        }
        frame = frame_of(word);
        row = row_at(p, r, frame);
        if (physical)
            fill(&m->words, 0, tag, 0, frame << PERMISSION_BITS | narrowed(ALL_PERMISSIONS, word, r.no_execute));
        else if (level == LOWEST && directories)
            fill(&m->tlb, 1, page >> 9, DIRECTORY, frame << PERMISSION_BITS | permissions);
        else
            fill(&m->words, 0, page >> (9 * (level - 1)), level - LOWEST, frame << PERMISSION_BITS | permissions);
    }
    if (forbidden(r, permissions, write))
        return -1;

    uint64_t wanted = word | ACCESSED | (write ? DIRTY : 0);
    if (wanted != word) {
        *at = wanted;
        m->counters[CAUSE_ACCESSED_UPDATE] += !(word & ACCESSED);
        m->counters[CAUSE_DIRTY_UPDATE] += write && !(word & DIRTY);
    }

    int64_t value = (frame_of(wanted) & ~((1L << (9 * (level - 1))) - 1)) << FRAME_SHIFT;
    return value | (wanted & DIRTY ? VALUE_DIRTY : 0) | (wanted & GLOBAL ? VALUE_GLOBAL : 0);
}

/* Sets the dirty bit of a page whose TLB entry a store has hit; returns whether the store is allowed. */
static bool set_dirty(const struct mmu *m, const struct page_tables p, const struct rules r, int64_t page, int64_t size)
{
    int64_t row = 0, permissions = ALL_PERMISSIONS, index;
    uint64_t *at;

    for (int64_t level = r.levels;; level--) {
        index = (uint64_t)page << 12 >> level_shift(level) & 511;
        at = &p.words[row * ENTRIES + index];
        permissions = narrowed(permissions, *at, false);
        if (level == size + 1)
            break;
        row = row_at(p, r, frame_of(*at));
    }
    m->counters[CAUSE_WALK_REFERENCE]++;
    queue(m, (p.frames[row] << 9 | index) >> 3, KIND_WALK);
    if (forbidden(r, permissions, true))
        return false;
    *at |= ACCESSED | DIRTY;
    m->counters[CAUSE_DIRTY_UPDATE]++;
    for (int64_t level = 0; level < m->tlb.levels; level++) {
        int64_t entry = find(&m->tlb, level, page >> (9 * size), size);

        if (entry != EMPTY)
            m->tlb.values[entry] |= VALUE_DIRTY;
    }
    return true;
}

struct translated {
    int64_t frame, missed; /* frame -1 on a fault; TLB levels that missed */
    bool reusable;         /* the first level now holds the page, known dirty if this was a store */
};

INLINE struct translated translate(const struct mmu *m, const struct page_tables p, const struct rules r, int64_t page,
                                   bool write)
{
    if (m->control[MMU_FREE_TRANSLATION])
        return (struct translated){walk(p, r, (uint64_t)page << 12, write, false, false, false).frame, 0, false};

    const struct tlb *t = &m->tlb;
    int64_t size = page_size(m, p, r, page), number = page >> (9 * size), value, entry = EMPTY;
    /* No level holds what is not mapped; the walk finds that out. */
    int64_t missed = size == UNMAPPED ? t->levels : 0;

    while (missed < t->levels && (entry = lookup(t, missed, number, size)) == EMPTY)
        missed++;
    if (missed == t->levels) {
        m->counters[CAUSE_WALK]++;
        value = hardware_walk(m, p, r, page, write, false);
        if (value < 0) {
            m->counters[CAUSE_TLB_FAULT]++;
            return (struct translated){-1, missed, false};
        }
    } else {
        m->counters[CAUSE_FIRST_LEVEL_TLB_HIT + missed]++;
        value = t->values[entry];
        if (write && !(value & VALUE_DIRTY)) {
            if (!set_dirty(m, p, r, page, size)) {
                m->counters[CAUSE_TLB_FAULT]++;
                return (struct translated){-1, missed, false};
            }
            value |= VALUE_DIRTY;
        }
    }
    for (int64_t level = 0; level < missed; level++)
        fill(t, level, number, size, value);
    return (struct translated){(value >> FRAME_SHIFT) + (page & ((1L << (9 * size)) - 1)), missed,
                               fields_of(t, 0, size)->sets != 0};
}

/* Notes a first-level miss; returns the direction of the stream that it goes on with, 0 if none. */
INLINE int64_t train(const struct mmu *m, int64_t line)
{
    int64_t *slot = &m->slots[(line >> 6 & (STREAMS - 1)) * SLOTS], within = line & 63;
    int64_t step = within - slot[SLOT_LINE], known = slot[SLOT_DIRECTION];
    bool follows = slot[SLOT_FRAME] == line >> 6 && (step == 1 || step == -1);

    slot[SLOT_FRAME] = line >> 6;
    slot[SLOT_LINE] = within;
    slot[SLOT_DIRECTION] = follows ? step : 0;
    return follows && step == known ? step : 0;
}

/* Fetches a neighbour of a line that was missed; returns whether it was not in the second level. */
INLINE bool fetch_neighbour(const struct mmu *m, int64_t line)
{
    if (m->control[MMU_ADJACENT] == ADJACENT_PAIR)
        return load_line(&m->cache, line ^ 1, 1) != 1;

    int64_t frame = line >> 6, place = frame & (HISTORY - 1);
    uint64_t bit = 1ull << (line & 63), lines = m->history_frames[place] == frame ? m->history_lines[place] : 0;

    m->history_frames[place] = frame;
    m->history_lines[place] = lines | bit;
    if (lines & bit << 1)
        return load_line(&m->cache, line + 1, 1) != 1;
    return lines & bit >> 1 && load_line(&m->cache, line - 1, 1) != 1;
}

/* Fetches the lines that a stream will need, inside its page; returns how many came. */
static int64_t fetch_ahead(const struct mmu *m, int64_t line, int64_t direction)
{
    int64_t came = 0;

    for (int64_t ahead = 1; ahead <= m->control[MMU_STREAM_LINES]; ahead++) {
        int64_t wanted = (line & 63) + direction * ahead;

        if (wanted < 0 || wanted > 63)
            break;
        came += load_line(&m->cache, line + direction * ahead, 1) != 1;
    }
    return came;
}

/*
 * Loads what waits, counting for the stream or for what is beside it; returns the direction in which the last one, if
 * data, takes a stream out of its page, or 0.
 */
static int64_t drain(const struct mmu *mmu, int64_t *stream, int64_t *beside)
{
    /* Copied, since the compiler cannot know that what is written is not the description of the caches. */
    const struct mmu copy = *mmu, *m = &copy;
    const int64_t waiting = m->queue[0];
    const bool trains = m->control[MMU_STREAM_LINES] || m->control[MMU_NEXT_PAGE];
    const bool adjacent = m->control[MMU_ADJACENT] != ADJACENT_NONE;
    int64_t last_miss = m->control[MMU_LAST_MISS_SET], leaving = 0;

    for (int64_t at = 1; at <= waiting; at++) {
        glance(&m->cache, m->queue[at + AHEAD] >> KIND_BITS);

        int64_t line = m->queue[at] >> KIND_BITS, kind = m->queue[at] & (BESIDE - 1);
        bool others = m->queue[at] & BESIDE;
        int64_t *counters = others ? beside : stream;
        int64_t served = load_line(&m->cache, line, 0);
        int64_t column = served < m->cache.levels ? served : MOST_LEVELS;
        if (kind == KIND_WALK) {
            counters[CAUSE_WALK_LEVEL_1 + column]++;
            continue;
        }
        if (kind == KIND_ARRAY) {
            counters[CAUSE_ARRAY_LEVEL_1 + column]++;
            continue;
        }
        if (kind == KIND_PREFETCH_WALK)
            continue;
        counters[CAUSE_DATA_LEVEL_1 + column]++;
        leaving = 0;
        if (!others) {
            /* Whether it follows a miss in the same set is not asked of other work. */
            int64_t set = served == 0 ? NO_SET : locate(&m->cache.rings[0], line).set;

            counters[CAUSE_FILL_CONFLICT] += kind == KIND_DATA && served != 0 && set == last_miss;
            last_miss = set;
        }
        if (served == 0)
            continue;
        if (adjacent)
            counters[CAUSE_PREFETCH_LINE] += fetch_neighbour(m, line);
        if (trains) {
            int64_t direction = train(m, line), next = (line & 63) + direction;

            if (direction)
                counters[CAUSE_PREFETCH_LINE] += fetch_ahead(m, line, direction);
            if (next < 0 || next > 63)
                leaving = direction;
        }
    }
    m->queue[0] = 0;
    m->control[MMU_LAST_MISS_SET] = last_miss;
    return leaving;
}

/* Loads what waits and lets the next-page prefetcher follow, for whom m counts; returns whether it walked. */
static bool finish(const struct mmu *m, const struct page_tables p, const struct rules r, int64_t page,
                   int64_t *stream, int64_t *beside)
{
    int64_t direction = drain(m, stream, beside);

    if (!direction || !m->control[MMU_NEXT_PAGE] || m->control[MMU_FREE_TRANSLATION])
        return false;
    page = (page + direction) & PAGE_BITS;

    int64_t size = page_size(m, p, r, page), number = page >> (9 * size);
    for (int64_t level = 0; size != UNMAPPED && level < m->tlb.levels; level++)
        if (find(&m->tlb, level, number, size) != EMPTY)
            return false;
    m->counters[CAUSE_PREFETCH_WALK]++;

    int64_t value = hardware_walk(m, p, r, page, false, true);
    for (int64_t level = 0; value >= 0 && level < m->tlb.levels; level++)
        fill(&m->tlb, level, number, size, value);
    drain(m, stream, beside);
    return true;
}

INLINE int64_t address_of(const struct target *o, int64_t offset)
{
    return (int64_t)o->bases[offset >> o->shift] + (offset & ((1L << o->shift) - 1));
}

/* Whether what waits must be loaded now: the queue is full, or a stream may be leaving its page. */
INLINE bool is_due(const struct mmu *m, int64_t address)
{
    return m->queue[0] >= QUEUE || (m->control[MMU_NEXT_PAGE] && (((address >> 6) + 1) & 63) <= 1);
}

/* One access of other work. */
static void access_beside(const struct mmu *mmu, const struct page_tables p, const struct rules r,
                          const struct beside *b)
{
    struct mmu other = *mmu;
    int64_t address = address_of(&b->target, b->offsets[b->state[1]]), page = address >> 12 & PAGE_BITS;
    int64_t first = mmu->queue[0] + 1;

    other.counters = b->counters;
    b->state[1] = b->state[1] < b->offsets_length - 1 ? b->state[1] + 1 : 0;

    struct translated found = translate(&other, p, r, page, false);
    if (found.frame >= 0)
        queue(mmu, found.frame << 6 | (address >> 6 & 63), KIND_DATA);
    for (int64_t at = first; at <= mmu->queue[0]; at++)
        mmu->queue[at] |= BESIDE;
    b->counters[CAUSE_DATA_ACCESS]++;
    mmu->counters[CAUSE_BACKGROUND_ACCESS]++;
    if (is_due(mmu, address))
        finish(&other, p, r, page, mmu->counters, b->counters);
}

int64_t twin_access(const struct mmu *mmu, const struct page_tables *tables, const struct target *target,
                    const int64_t *offsets, int64_t count, bool write, const struct beside *beside)
{
    const struct mmu mm = *mmu, *m = &mm;
    const struct page_tables p = *tables;
    const struct rules r = rules_of(*tables);
    const struct target o = *target;
    const struct beside b = *beside;
    const int64_t mode = m->control[MMU_DATA_MODE], neutral = m->control[MMU_NEUTRAL_BASE];
    const int64_t array_within = (1L << o.array_shift) - 1;
    const bool open_coded = o.arrays_length > 0;
    int64_t last = -1, frame = -1, repeated = 0;

    for (int64_t i = 0; i < count; i++) {
        if (b.gap > 0) {
            if (b.state[0] == b.gap) {
                b.state[0] = 0;
                access_beside(m, p, r, &b);
                last = -1;
            }
            b.state[0]++;
        }

        int64_t offset = offsets[i];
        if (open_coded) {
            int64_t place = (int64_t)o.arrays[offset >> o.array_shift] + (offset & array_within) / 4096 * 8;
            struct translated found = translate(m, p, r, place >> 12 & PAGE_BITS, false);

            if (found.frame >= 0)
                queue(m, found.frame << 6 | (place >> 6 & 63), KIND_ARRAY);
            last = -1;
        }

        int64_t address = address_of(&o, offset), page = address >> 12 & PAGE_BITS, kind = KIND_DATA;

        if (page == last) {
            repeated++;
        } else {
            struct translated found = translate(m, p, r, page, write);

            frame = found.frame;
            kind = found.missed ? KIND_DATA_AFTER_MISS : KIND_DATA;
            last = found.reusable ? page : -1;
        }
        if (frame >= 0) {
            if (mode == MODE_FIRST_LEVEL) {
                m->counters[CAUSE_DATA_LEVEL_1]++;
                m->control[MMU_LAST_MISS_SET] = NO_SET;
            } else if (mode == MODE_PHYSICAL) {
                queue(m, frame << 6 | (address >> 6 & 63), kind);
            } else {
                queue(m, neutral + (offset >> 6), kind);
            }
        }
        if (is_due(m, address) && finish(m, p, r, page, m->counters, b.counters))
            last = -1;
    }
    drain(m, m->counters, b.counters);
    m->counters[CAUSE_FIRST_LEVEL_TLB_HIT] += repeated;
    m->counters[CAUSE_DATA_ACCESS] += count;
    if (open_coded)
        m->counters[CAUSE_PAGE_ARRAY_ACCESS] += count;
    return 0;
}
