/* What erase.c and erased.c share with the store that embeds the set. */
#ifndef KALAMDB_STORE_ERASE_INT_H
#define KALAMDB_STORE_ERASE_INT_H

#include "store/internal.h"

/* At most `max` pairs from *from on, below `end`, into `out` as lstr pairs; *from moves behind the last. */
enum err erase_read_pairs(struct store *s, struct key *from, const struct key *end, int max, struct buf *out,
    int *ret_n, struct errctx *ec) CHECKED;

/* The memberships of a user as they stand outside of the committer, for the op that ends them. */
struct erase_places {
    size_t n, cap;
    uint32_t *conv_nos;
};
enum err erase_places_read(
    struct store *s, uint64_t user_no, struct erase_places *ret, struct errctx *ec) CHECKED;
/* Ends them all: leaves, and takes the user out of every list of members. */
enum err erase_places_leave(struct txn *txn, uint64_t user_no, struct str user_id,
    const struct erase_places *places, erase_leave_fn *leave, struct errctx *ec) CHECKED;

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
