/* Latency histogram with atomic counters: power-of-two buckets split in four, 1 µs to 64 s. Any thread may
 * add. */
#ifndef KALAMDB_BASE_HIST_H
#define KALAMDB_BASE_HIST_H

#include <stdatomic.h>
#include <stdint.h>

#define HIST_BUCKETS 108
struct hist {
    _Atomic uint64_t count[HIST_BUCKETS];
    _Atomic uint64_t sum_us;
};
void hist_add(struct hist *h, uint64_t us);
/* Upper bound in µs of bucket i (inclusive); UINT64_MAX for the last. */
uint64_t hist_bound_us(int i);
/* q in 0..1; 0 when empty. */
uint64_t hist_quantile_us(const struct hist *h, double q);

#endif
