/* What the ring's files share. */
#ifndef KALAMDB_VAULT_RING_INT_H
#define KALAMDB_VAULT_RING_INT_H

#include "vault/crypt.h"
#include "vault/ring.h"
#include <pthread.h>

#define RING_NEXT_HEADER "ring.next" /* the header that a rotation will put in force */
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

/* A segment while its keys are wrapped anew: how many there are, and whether it changed since. */
struct rotated {
    uint64_t segment;
    uint64_t keys, damaged;
    bool dirty;
};

struct ring {
    char *dir;
    const struct os *os;
    uint8_t *master; /* secret */
    bool locked;
    uint8_t id[VAULT_RING_ID_BYTES];
    uint32_t wrapping; /* see ring_rotate.c; with the master key under `lock` once the ring is open */
    struct ring_history history;
    size_t nruns; /* fixed after open; the last one is this opening's */
    struct ring_run *runs;
    /* In this order: */
    pthread_mutex_t whole;   /* a rotation, or a copy, from begin to end */
    pthread_mutex_t copying; /* one at a time writes to copies */
    pthread_mutex_t segment; /* a segment is being wrapped anew; and every destruction */
    pthread_mutex_t lock;    /* all below; leaf */
    struct {
        uint64_t segment;
        int fd; /* -1: none */
    } fds[RING_FDS];
    struct pending_key *pending; /* secret */
    size_t npending, cap_pending;
    uint64_t pending_max; /* no pending key has a higher number */
    struct ring *next;    /* the ring as a rotation is making it; NULL: none is under way */
    struct rotated *rotated;
    size_t nrotated, cap_rotated, rotated_done;
    bool two; /* segments of `other`, a wrapping not in force, may lie there, too */
    uint32_t other;
    bool stuck; /* nobody knows which master key is in force on disk: nothing is written any more */
};

bool ring_slot_is_zero(const uint8_t *slot);
bool ring_slot_valid(const struct ring *r, uint64_t owner, const uint8_t *slot);
void ring_slot_checksum(
    const struct ring *r, uint64_t owner, const uint8_t *slot, uint8_t ret[CHECKSUM_BYTES]);
/* NULL: out of memory. */
char *ring_segment_path(const struct ring *r, uint64_t segment, const char *suffix);
/* A descriptor that stays the ring's; lock held. NOT_FOUND: there is no such file, and it was not to be made.
 */
enum err ring_segment_fd(struct ring *r, uint64_t segment, bool make, int *ret, struct errctx *ec) CHECKED;
/* Is it the name of a segment's file? */
bool ring_segment_name(const char *name, uint64_t *ret_segment, uint32_t *ret_wrapping);

/* The header of the ring as it stands, at <dir>/<name>. */
enum err ring_write_header(struct ring *r, const char *name, struct errctx *ec) CHECKED;
/* A number of the master key, which tells nothing of it. */
void ring_key_check(const struct ring *r, uint8_t ret[VAULT_CHECK_BYTES]);

/* For a rotation that may be under way; lock held. The segment has changed. */
enum err ring_rotation_touch(struct ring *r, uint64_t segment, struct errctx *ec) CHECKED;
/* The destroyed slot goes into the segment of the other wrapping, where there is one, durable on return;
 * `segment` is held, too. */
enum err ring_rotation_destroy(
    struct ring *r, uint64_t owner, const uint8_t slot[RING_SLOT_BYTES], struct errctx *ec) CHECKED;
/* Overwrites and removes the segments of all wrappings but `keep`, and what a rotation prepared. */
enum err ring_remove_wrappings(
    const struct os *os, const char *dir, uint32_t keep, struct errctx *ec) CHECKED;

enum err ring_io_error(struct errctx *ec, const char *what, const char *name, int errnum);
/* Bytes read, less at the end of the file; or -errno. */
int64_t ring_read_at(int fd, void *p, size_t n, uint64_t at);
/* 0 or -errno. */
int ring_write_at(int fd, const void *p, size_t n, uint64_t at);
int ring_sync(const struct ring *r, int fd);
/* The blocks of a file that is gone are not wiped by its going: zeroes all of it, synced. 0 or -errno. */
int ring_zero_file(const struct os *os, int fd);
int ring_zero_and_remove(const struct os *os, const char *path); /* absent: 0 */

/* What stands where a key was. */
void ring_slot_destroyed(const struct ring *r, uint64_t owner, uint8_t ret[RING_SLOT_BYTES]);

/* A key under one that is derived from the master key, ring, partition, generation and salt. */
void ring_wrap(const struct ring *r, const uint8_t *master, uint64_t owner, uint32_t generation,
    const uint8_t *salt, const uint8_t key[VAULT_KEY_BYTES], uint8_t ret[WRAPPED_BYTES]);
bool ring_unwrap(const struct ring *r, const uint8_t *master, uint64_t owner, uint32_t generation,
    const uint8_t *salt, const uint8_t wrapped[WRAPPED_BYTES], uint8_t ret[VAULT_KEY_BYTES]) CHECKED;

#endif
