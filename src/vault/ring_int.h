/* What the ring's files share. */
#ifndef KALAMDB_VAULT_RING_INT_H
#define KALAMDB_VAULT_RING_INT_H

#include "vault/crypt.h"
#include "vault/ring.h"
#include <pthread.h>

enum {
    RING_FDS = 64, /* segments kept open */
    CHECKSUM_BYTES = 8,
    SALT_BYTES = 16,
    SEGMENT_BYTES = RING_SEGMENT_SLOTS * RING_SLOT_BYTES,
    /* in a slot */
    AT_STATE = 4,
    AT_SALT = 8,
    AT_KEY = AT_SALT + SALT_BYTES,
    AT_CHECKSUM = RING_SLOT_BYTES - CHECKSUM_BYTES
};

enum slot_state { SLOT_NONE, SLOT_KEY, SLOT_DESTROYED };

struct pending_key {
    uint64_t owner;
    uint8_t key[VAULT_KEY_BYTES];
};

struct ring_run {
    bool valid;
    uint8_t id[RING_RUN_BYTES];
};

struct ring {
    char *dir;
    const struct os *os;
    uint8_t *master; /* secret */
    bool locked;
    uint8_t id[VAULT_RING_ID_BYTES];
    size_t nruns; /* fixed after open; the last one is this opening's */
    struct ring_run *runs;
    pthread_mutex_t copying; /* one at a time writes to copies; before lock */
    pthread_mutex_t lock;    /* all below; leaf */
    struct {
        uint64_t segment;
        int fd; /* -1: none */
    } fds[RING_FDS];
    struct pending_key *pending; /* secret */
    size_t npending, cap_pending;
    uint64_t pending_max; /* no pending key has a higher number */
};

enum err ring_io_error(struct errctx *ec, const char *what, const char *name, int errnum);
/* Bytes read, less at the end of the file; or -errno. */
int64_t ring_read_at(int fd, void *p, size_t n, uint64_t at);
/* 0 or -errno. */
int ring_write_at(int fd, const void *p, size_t n, uint64_t at);
int ring_sync(const struct ring *r, int fd);

/* What stands where a key was. */
void ring_slot_destroyed(const struct ring *r, uint64_t owner, uint8_t ret[RING_SLOT_BYTES]);

/* A key under one that is derived from the master key, ring, partition, generation and salt. */
void ring_wrap(const struct ring *r, uint64_t owner, uint32_t generation, const uint8_t *salt,
    const uint8_t key[VAULT_KEY_BYTES], uint8_t ret[WRAPPED_BYTES]);
bool ring_unwrap(const struct ring *r, uint64_t owner, uint32_t generation, const uint8_t *salt,
    const uint8_t wrapped[WRAPPED_BYTES], uint8_t ret[VAULT_KEY_BYTES]) CHECKED;

#endif
