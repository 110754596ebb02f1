/* A store in a temporary folder, an os whose clock and free space the test sets, and commits in one call. */
#ifndef KALAMDB_TESTS_STORE_FIXTURE_H
#define KALAMDB_TESTS_STORE_FIXTURE_H

#include "store/store.h"
#include <pthread.h>

struct fixture {
    char dir[64];
    struct os os;
    _Atomic int64_t realtime_us; /* 0: the real clock */
    _Atomic int64_t clock_us;    /* added to the monotonic clock */
    _Atomic int64_t free_bytes;  /* -1: the real number */
    struct store_config cfg;
    struct store *store;
    bool encrypted; /* KALAMDB_TEST_ENCRYPTION=on: cfg.vault is the fixture's, opened with the store */
};

/* An empty folder and a store in it; fails the test on error. */
void fixture_open(struct fixture *f);
/* Closes and opens again. */
void fixture_reopen(struct fixture *f);
/* Closes, removes the folder. */
void fixture_close(struct fixture *f);
void fixture_remove_dir(const char *dir);

/* Commits fn's work and waits. */
typedef enum err commit_fn(struct txn *txn, void *arg, struct errctx *ec);
enum err commit(struct store *s, commit_fn *fn, void *arg, enum durability durability, struct errctx *ec);

/* A commit that is only submitted; wait ends it and gives the result. */
struct pending_commit {
    struct commit_op op;
    commit_fn *fn;
    void *arg;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool finished;
    enum err err;
    struct errctx ec;
};
void commit_start(
    struct store *s, struct pending_commit *p, commit_fn *fn, void *arg, enum durability durability);
enum err commit_end(struct pending_commit *p);

/* One message; created user and conversation as needed. */
struct message {
    const char *user, *conversation, *content, *client_id;
    int64_t id;   /* 0: the engine's; set on return */
    uint64_t seq; /* set on return */
    bool existed; /* set: the client id was known */
};
commit_fn insert_message;
enum err insert(struct store *s, struct message *m, struct errctx *ec);

/* Reads the row under a snapshot of its own, then updates or deletes it. */
enum err update_message(
    struct store *s, const char *user, int64_t id, const char *content, struct errctx *ec);
enum err delete_message(struct store *s, const char *user, int64_t id, struct errctx *ec);

/* Runs fn on the committer when all is durable and published, and waits. */
enum err barrier(struct store *s, const char *user, void (*fn)(void *arg), void *arg);

#endif
