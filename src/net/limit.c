#include "net/limit.h"
#include <netinet/in.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/random.h>

#define WAYS 4
#define LOCKS 64
#define BUCKETS 16384

struct rate_entry {
    uint64_t tag;     /* 0: free */
    uint64_t full_us; /* when the bucket is full again */
};
struct limit_rate {
    pthread_mutex_t locks[LOCKS];
    uint64_t seeds[2];
    uint64_t interval_us, tolerance_us; /* one token; the burst without its first */
    size_t sets;
    struct rate_entry *entries;
};

struct count_entry {
    struct count_entry *next;
    uint8_t key[LIMIT_KEY_BYTES];
    uint32_t n;
};
struct limit_count {
    pthread_mutex_t lock;
    uint64_t seeds[2];
    uint32_t max;
    struct count_entry *buckets[BUCKETS];
};

/* Seeded: nobody outside can choose keys that meet in one place. */
static uint64_t hash(const uint64_t seeds[2], const uint8_t key[LIMIT_KEY_BYTES])
{
    uint64_t a, b;
    memcpy(&a, key, 8);
    memcpy(&b, key + 8, 8);
    unsigned __int128 m = (unsigned __int128)(a ^ seeds[0]) * (b ^ seeds[1] ^ 0x9E3779B97F4A7C15u);
    uint64_t h = (uint64_t)m ^ (uint64_t)(m >> 64) ^ a;
    m = (unsigned __int128)(h ^ seeds[1]) * 0xA0761D6478BD642Fu;
    return (uint64_t)m ^ (uint64_t)(m >> 64);
}

static bool seed(uint64_t seeds[2])
{
    return getrandom(seeds, 2 * sizeof *seeds, 0) == (ssize_t)(2 * sizeof *seeds);
}

struct limit_rate *limit_rate_new(double per_s, uint32_t burst, size_t entries)
{
    struct limit_rate *l = calloc(1, sizeof *l);
    size_t sets = LOCKS;
    while (sets * WAYS < entries)
        sets *= 2;
    if (l == NULL || (l->entries = calloc(sets * WAYS, sizeof *l->entries)) == NULL || !seed(l->seeds)) {
        limit_rate_free(l);
        return NULL;
    }
    for (int i = 0; i < LOCKS; i++)
        pthread_mutex_init(&l->locks[i], NULL);
    l->sets = sets;
    l->interval_us = (uint64_t)(1e6 / per_s);
    l->tolerance_us = (burst > 0 ? burst - 1 : 0) * l->interval_us;
    return l;
}

void limit_rate_free(struct limit_rate *l)
{
    if (l != NULL)
        free(l->entries);
    free(l);
}

/* The key's entry, or the one that it may have. */
static struct rate_entry *find(struct rate_entry *set, uint64_t tag, uint64_t now_us)
{
    struct rate_entry *best = &set[0];
    for (int i = 0; i < WAYS; i++) {
        if (set[i].tag == tag)
            return &set[i];
        if (set[i].full_us < best->full_us)
            best = &set[i];
    }
    *best = (struct rate_entry){.tag = tag, .full_us = now_us};
    return best;
}

uint64_t limit_rate_take(struct limit_rate *l, const uint8_t key[LIMIT_KEY_BYTES], uint64_t now_us)
{
    uint64_t h = hash(l->seeds, key), wait = 0;
    size_t set = h & (l->sets - 1);
    pthread_mutex_t *lock = &l->locks[set % LOCKS];
    pthread_mutex_lock(lock);
    struct rate_entry *e = find(&l->entries[set * WAYS], h | 1, now_us);
    uint64_t full = e->full_us > now_us ? e->full_us : now_us;
    if (full - now_us > l->tolerance_us)
        wait = full - now_us - l->tolerance_us;
    else
        e->full_us = full + l->interval_us;
    pthread_mutex_unlock(lock);
    return (wait + 999) / 1000;
}

struct limit_count *limit_count_new(uint32_t max)
{
    struct limit_count *l = calloc(1, sizeof *l);
    if (l == NULL || !seed(l->seeds)) {
        free(l);
        return NULL;
    }
    pthread_mutex_init(&l->lock, NULL);
    l->max = max;
    return l;
}

void limit_count_free(struct limit_count *l)
{
    for (size_t i = 0; l != NULL && i < BUCKETS; i++) {
        for (struct count_entry *e = l->buckets[i], *next; e != NULL; e = next) {
            next = e->next;
            free(e);
        }
    }
    free(l);
}

static struct count_entry **place(struct limit_count *l, const uint8_t key[LIMIT_KEY_BYTES])
{
    struct count_entry **link = &l->buckets[hash(l->seeds, key) % BUCKETS];
    while (*link != NULL && memcmp((*link)->key, key, LIMIT_KEY_BYTES) != 0)
        link = &(*link)->next;
    return link;
}

bool limit_count_enter(struct limit_count *l, const uint8_t key[LIMIT_KEY_BYTES])
{
    pthread_mutex_lock(&l->lock);
    struct count_entry **link = place(l, key);
    if (*link == NULL && (*link = calloc(1, sizeof **link)) != NULL)
        memcpy((*link)->key, key, LIMIT_KEY_BYTES);
    bool in = *link != NULL && (*link)->n < l->max;
    if (in)
        (*link)->n++;
    pthread_mutex_unlock(&l->lock);
    return in;
}

void limit_count_leave(struct limit_count *l, const uint8_t key[LIMIT_KEY_BYTES])
{
    pthread_mutex_lock(&l->lock);
    struct count_entry **link = place(l, key), *e = *link;
    if (e != NULL && --e->n == 0) {
        *link = e->next;
        free(e);
    }
    pthread_mutex_unlock(&l->lock);
}

void limit_address_key(const struct sockaddr *address, uint8_t ret[LIMIT_KEY_BYTES])
{
    memset(ret, 0, LIMIT_KEY_BYTES);
    if (address->sa_family == AF_INET) {
        ret[10] = ret[11] = 0xFF;
        memcpy(ret + 12, &((const struct sockaddr_in *)(const void *)address)->sin_addr, 4);
    } else if (address->sa_family == AF_INET6) {
        const struct in6_addr *v6 = &((const struct sockaddr_in6 *)(const void *)address)->sin6_addr;
        memcpy(ret, v6, IN6_IS_ADDR_V4MAPPED(v6) ? 16 : 8);
    }
}
