/* What auth.c and ticket.c share. */
#ifndef KALAMDB_AUTH_AUTH_INT_H
#define KALAMDB_AUTH_AUTH_INT_H

#include "auth/jwt.h"
#include <pthread.h>
#include <stdatomic.h>

/* What a key file was when it was last read, well or not. */
struct key_file {
    char *path; /* NULL: not configured */
    uint64_t dev, ino, size;
    int64_t mtime_ns, ctime_ns;
};

/* The part that changes, behind `const struct auth`. */
struct live_keys {
    pthread_rwlock_t lock; /* leaf: keys */
    struct key_set *keys;
    _Atomic uint64_t generation;
    pthread_mutex_t reading;  /* one refresh at a time: files */
    struct key_file files[2]; /* jwt_public_key_file, jwks_file */
};

struct auth {
    char *secret; /* NULL: only public keys */
    size_t secret_len;
    uint8_t ticket_key[32];
    char *issuer, *audience;
    int64_t leeway_s;
    const struct os *os;
    struct key_warning warn;
    struct live_keys *live;
};

#endif
