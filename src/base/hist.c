#include "base/hist.h"

/* Bucket i holds (bound(i-1), bound(i)]; bounds grow by quarter powers of two: 1, 2, 3, 4, 5, 6, 7, 8, 10,
 * 12, … */
static int bucket_of(uint64_t us)
{
    if (us <= 4)
        return us == 0 ? 0 : (int)us - 1;
    int top = 63 - __builtin_clzll(us - 1);
    int quarter = (int)((us - 1) >> (top - 2)) & 3;
    int i = 4 + (top - 2) * 4 + quarter;
    return i < HIST_BUCKETS ? i : HIST_BUCKETS - 1;
}

uint64_t hist_bound_us(int i)
{
    if (i >= HIST_BUCKETS - 1)
        return UINT64_MAX;
    if (i < 4)
        return (uint64_t)i + 1;
    int top = (i - 4) / 4 + 2, quarter = (i - 4) % 4;
    return (uint64_t)(4 + quarter + 1) << (top - 2);
}

void hist_add(struct hist *h, uint64_t us)
{
    /* Relaxed: counters are read for reporting only, order between them does not matter. */
    atomic_fetch_add_explicit(&h->count[bucket_of(us)], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->sum_us, us, memory_order_relaxed);
}

uint64_t hist_quantile_us(const struct hist *h, double q)
{
    uint64_t total = 0, seen = 0;
    for (int i = 0; i < HIST_BUCKETS; i++)
        total += atomic_load_explicit(&h->count[i], memory_order_relaxed);
    if (total == 0)
        return 0;
    uint64_t rank = (uint64_t)(q * (double)(total - 1)) + 1;
    for (int i = 0; i < HIST_BUCKETS; i++) {
        seen += atomic_load_explicit(&h->count[i], memory_order_relaxed);
        if (seen >= rank)
            return hist_bound_us(i);
    }
    return hist_bound_us(HIST_BUCKETS - 1);
}
