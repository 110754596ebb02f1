/* How often, and how many at once, per user and per address. Sans-I/O, shared by all loops: any thread.
 *
 * A rate is a token bucket written as one time (GCRA: the moment at which the bucket will be full again), so
 * an entry is 16 bytes and expires by itself. The table's size is fixed; memory is taken as it is touched.
 * Four entries share a cache line; a new key takes an expired one, or the one that is nearest to being full,
 * whose owner then begins afresh: with more keys than entries somebody may get a little more, nobody less. */
#ifndef KALAMDB_NET_LIMIT_H
#define KALAMDB_NET_LIMIT_H

#include "base/str.h"

#define LIMIT_KEY_BYTES 16

struct limit_rate;
/* `entries` is rounded up to a power of two. NULL: out of memory. */
struct limit_rate *limit_rate_new(double per_s, uint32_t burst, size_t entries);
void limit_rate_free(struct limit_rate *l); /* NULL allowed */
/* Takes one. 0: taken; else nothing was, and in so many milliseconds there will be one. */
uint64_t limit_rate_take(struct limit_rate *l, const uint8_t key[LIMIT_KEY_BYTES], uint64_t now_us);

struct limit_count;
struct limit_count *limit_count_new(uint32_t max); /* NULL: out of memory */
void limit_count_free(struct limit_count *l);      /* NULL allowed */
/* False: as many are in already. One that came in must leave. */
bool limit_count_enter(struct limit_count *l, const uint8_t key[LIMIT_KEY_BYTES]);
void limit_count_leave(struct limit_count *l, const uint8_t key[LIMIT_KEY_BYTES]);

struct sockaddr;
/* The address, IPv4 as ::ffff:a.b.c.d; of IPv6 the first 64 bits, which is what one customer has. Zeros:
 * unknown. */
void limit_address_key(const struct sockaddr *address, uint8_t ret[LIMIT_KEY_BYTES]);

#endif
