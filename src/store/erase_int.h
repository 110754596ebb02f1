/* What erase.c and erased.c share with the store that embeds the set. */
#ifndef KALAMDB_STORE_ERASE_INT_H
#define KALAMDB_STORE_ERASE_INT_H

#include "store/internal.h"

/* At most `max` pairs from *from on, below `end`, into `out` as lstr pairs; *from moves behind the last. */
enum err erase_read_pairs(struct store *s, struct key *from, const struct key *end, int max, struct buf *out,
    int *ret_n, struct errctx *ec) CHECKED;

/* One value as it stands, of a space that is not sealed. NOT_FOUND. */
enum err erase_read_value(struct store *s, const struct key *k, struct buf *ret, struct errctx *ec) CHECKED;

/* The memberships of a user as they stand outside of the committer, for the op that ends them. */
struct erase_place {
    uint32_t conv_no;
    struct str conversation_id; /* empty: of a group that is gone, and a user whose key is */
};
struct erase_places {
    size_t n, cap;
    struct erase_place *items; /* ascending */
    struct arena arena;        /* the ids */
};
/* `snap` is of the user, or of nobody where their values cannot be opened any more. Release in any case. */
enum err erase_places_read(
    struct snapshot *snap, uint64_t user_no, struct erase_places *ret, struct errctx *ec) CHECKED;
void erase_places_release(struct erase_places *p);
/* Ends them all: leaves, and takes the user out of every list of members. */
enum err erase_places_leave(struct txn *txn, uint64_t user_no, struct str user_id,
    const struct erase_places *places, erase_leave_fn *leave, struct errctx *ec) CHECKED;

/* What is to be done about a user who is erased, noted in the very commit: the partition's values cannot be
 * opened after it, and clearing away needs no value but this, which is not sealed. */
struct erase_work {
    uint64_t files, rows, bytes; /* of the manifest */
    struct buf bytes_read;       /* the value */
    size_t names_at, nnames, places_at, nplaces;
};
/* `m` may be NULL. */
enum err erase_work_put(struct txn *txn, uint64_t user_no, const struct manifest *m,
    const struct erase_places *places, struct errctx *ec) CHECKED;
/* Any thread but the committer. NOT_FOUND: the last of it is done. Release after OK. */
enum err erase_work_read(
    struct store *s, uint64_t user_no, struct erase_work *ret, struct errctx *ec) CHECKED;
enum err erase_work_decode(struct str value, struct erase_work *ret, struct errctx *ec) CHECKED;
/* Names of Parquet files; conversations that the user was a member of. */
enum err erase_work_each_name(const struct erase_work *w,
    enum err (*fn)(void *arg, struct str name, struct errctx *ec), void *arg, struct errctx *ec) CHECKED;
enum err erase_work_each_place(const struct erase_work *w,
    enum err (*fn)(void *arg, uint32_t conv_no, struct str conversation_id, struct errctx *ec), void *arg,
    struct errctx *ec) CHECKED;
void erase_work_release(struct erase_work *w);

/* erase.c: the hook, and whether the server stops. */
enum err erase_step_done(struct store *s, enum erase_step at, struct errctx *ec) CHECKED;

/* Threads: any. */
void erased_init(struct erased *set);
void erased_release(struct erased *set);
/* at_us 0: not erased (any more). */
enum err erased_set(struct erased *set, struct str id, int64_t at_us, struct errctx *ec) CHECKED;
/* 0: not erased. */
int64_t erased_at(struct erased *set, struct str id);
/* Fills the set from the catalog, before the first commit. */
enum err erased_load(struct store *s, struct errctx *ec) CHECKED;

#endif
