/* A user's messages kept twice: in a store with workers, and in a plain array. Every check reads both tiers
 * as a statement would (snapshot_input, a worker) and compares all columns with the array. */
#ifndef KALAMDB_TESTS_STORE_COLD_FIXTURE_H
#define KALAMDB_TESTS_STORE_COLD_FIXTURE_H

#include "fixture.h"
#include "store/consolidate.h"
#include "store/internal.h"

struct model_row {
    int64_t id, ts;
    char conv[16];
    char content[80];
    uint64_t seq, ins_seq;
    bool live;
};

struct cold {
    struct fixture f;
    const char *user;
    struct model_row *rows;
    size_t nrows, cap;
};

/* `tail`: hot_tail_rows. The store has no background consolidation. */
void cold_open(struct cold *c, const char *user, int tail);
void cold_close(struct cold *c);
/* Closes and opens again. */
void cold_reopen(struct cold *c);

/* One commit of n rows "content-<i>" over `nconv` conversations c0, c1 … */
void cold_insert(struct cold *c, size_t n, int nconv);
/* One row with this id (0: the engine's) and content. Gives its index. */
size_t cold_add(struct cold *c, int64_t id, const char *conv, const char *content);
/* Row i of the array, wherever it sits in the store. */
void cold_update(struct cold *c, size_t i, const char *content);
void cold_delete(struct cold *c, size_t i);
void cold_consolidate(struct cold *c);

/* All rows, by all columns. */
void cold_check(struct cold *c);
/* The rows within bounds, after the filter that a statement would apply besides. */
void cold_check_bounds(struct cold *c, const struct scan_bounds *bounds);
/* Files that a statement with these bounds would read. */
int cold_files(struct cold *c, const struct scan_bounds *bounds);

/* Values of the user's head and manifest, now. */
struct head cold_head(struct cold *c);
struct manifest *cold_manifest(struct cold *c); /* unref it; NULL: none */
bool cold_is_hot(struct cold *c, size_t i);
/* Does any file below the data directory contain the text? */
bool cold_grep(const struct cold *c, const char *text);
/* Path below the data directory exists. */
bool cold_exists(const struct cold *c, const char *path);

#define OK(call)                                                                                             \
    do {                                                                                                     \
        enum err e_ = (call);                                                                                \
        if (e_ != ERR_OK)                                                                                    \
            fail_msg("%s: %s: %s (%s)", #call, err_wire(e_), ec.message, ec.internal);                       \
    } while (0)

#endif
