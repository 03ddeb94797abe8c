/* Twin of vckernels/pagetable.walk, tlb.count_misses and mmu.access. */
#include "tlb.h"

#define PRESENT (1ull << 0)
#define WRITABLE (1ull << 1)
#define USER (1ull << 2)
#define ACCESSED (1ull << 5)
#define DIRTY (1ull << 6)
#define LARGE (1ull << 7)
#define PAT_LARGE (1ull << 12)
#define NO_EXECUTE (1ull << 63)
#define ADDRESS_BITS 0x000FFFFFFFFFF000ull
#define PAGE_BITS ((1L << 52) - 1) /* a page number is the upper 52 bits of an address, without sign */

struct translation {
    int64_t frame, level, references, fault;
};

static inline int level_shift(int64_t level)
{
    return (int)(12 + 9 * (level - 1));
}

static inline bool is_leaf(uint64_t word, int64_t level)
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

static inline struct rules rules_of(const struct page_tables p)
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

static inline uint64_t reserved_bits(const struct rules r, uint64_t word, int64_t level)
{
    uint64_t mask = level >= 4 ? r.reserved_upper : level == 3 ? r.reserved_third : r.reserved;

    if ((level == 2 || level == 3) && word & LARGE)
        mask |= ((1ull << level_shift(level)) - 1) & ADDRESS_BITS & ~PAT_LARGE;
    return word & mask;
}

static inline struct translation walk(const struct page_tables p, const struct rules r, uint64_t address, bool write,
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

        int64_t place = (int64_t)((word & ADDRESS_BITS) >> 12) - r.first_frame;
        row = place < 0 || place >= p.machine_frames ? -1 : p.row_of[place];
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
    int64_t frame = (int64_t)((word & ADDRESS_BITS) >> 12) & ~((1L << (9 * (level - 1))) - 1);
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
        while (missed < t.levels && !lookup(t, missed, page, 0))
            misses[missed++]++;
        for (int64_t level = 0; level < missed; level++)
            fill(t, level, page, 0);
    }
    return 0;
}

/* Page size as the tables say: 0 to 2, or UNMAPPED. What was found is kept by 2 MiB region. */
static inline int64_t page_size(const struct mmu m, const struct page_tables p, const struct rules r, int64_t page)
{
    int64_t region = page >> REGION_PAGES_SHIFT;
    int64_t *slot = &m.regions[region & (REGIONS - 1)];

    if (*slot >> 2 == region)
        return *slot & 3;

    struct translation found = walk(p, r, (uint64_t)page << 12, false, false, false, false);
    if (found.fault)
        return UNMAPPED;
    *slot = region << 2 | (found.level - 1);
    return found.level - 1;
}

/* Translates one access to a page and counts how; returns whether the first level now holds the page. */
static inline bool touch(const struct mmu m, const struct tlb t, const struct page_tables p, const struct rules r,
                         int64_t page, bool write)
{
    int64_t size = page_size(m, p, r, page), number = page >> (9 * size);
    /* No level holds what is not mapped; the walk finds that out. */
    int64_t missed = size == UNMAPPED ? t.levels : 0;

    while (missed < t.levels && !lookup(t, missed, number, size))
        missed++;
    if (missed == t.levels) {
        struct translation found = walk(p, r, (uint64_t)page << 12, write, false, false, true);

        m.counters[CAUSE_WALK]++;
        m.counters[CAUSE_WALK_REFERENCE] += found.references;
        if (found.fault) {
            m.counters[CAUSE_TLB_FAULT]++;
            return false;
        }
    } else {
        m.counters[CAUSE_FIRST_LEVEL_TLB_HIT + missed]++;
    }
    for (int64_t level = 0; level < missed; level++)
        fill(t, level, number, size);
    return fields_of(t, 0, size)->sets != 0;
}

int64_t twin_access(const struct mmu *mmu, const struct tlb *tlb, const struct page_tables *tables,
                    const struct target *target, const int64_t *offsets, int64_t count, bool write)
{
    const struct mmu m = *mmu;
    const struct tlb t = *tlb;
    const struct page_tables p = *tables;
    const struct rules r = rules_of(*tables);
    const struct target o = *target;
    const int64_t within = (1L << o.shift) - 1, array_within = (1L << o.array_shift) - 1;
    const bool open_coded = o.arrays_length > 0;
    int64_t last = -1, repeated = 0;

    for (int64_t i = 0; i < count; i++) {
        int64_t offset = offsets[i];

        if (open_coded) {
            int64_t place = (int64_t)o.arrays[offset >> o.array_shift] + (offset & array_within) / 4096 * 8;

            touch(m, t, p, r, place >> 12 & PAGE_BITS, false);
            last = -1;
        }

        int64_t page = ((int64_t)o.bases[offset >> o.shift] + (offset & within)) >> 12 & PAGE_BITS;
        if (page == last) {
            repeated++;
            continue;
        }
        last = touch(m, t, p, r, page, write) ? page : -1;
    }
    m.counters[CAUSE_FIRST_LEVEL_TLB_HIT] += repeated;
    m.counters[CAUSE_DATA_ACCESS] += count;
    if (open_coded)
        m.counters[CAUSE_PAGE_ARRAY_ACCESS] += count;
    return 0;
}
