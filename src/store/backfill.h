/* History copies: who joins a group whose history is shared gets the earlier messages copied from another
 * member's tables, in the background, in chunks. A pending copy is a record of the catalog that says how far
 * it came; each chunk moves it in the commit that writes the chunk's rows, so that neither a crash nor a
 * repetition copies a message twice or leaves one out.
 *
 *   joining: record (until = the group's newest message) ──► chunks, ascending by msg_id ──► record gone
 *
 * What is above `until` comes by the fan-out. A chunk is taken from a snapshot of a member, the source; the
 * commit sees to it that the source's rows still stand as read, so an edit meanwhile is not lost.
 *
 * Threading and ownership as in store.h. */
#ifndef KALAMDB_STORE_BACKFILL_H
#define KALAMDB_STORE_BACKFILL_H

#include "store/group.h"

struct backfill {
    uint64_t group_no, user_no; /* who gets the copies */
    int64_t until;              /* msg_id: the last to copy */
    int64_t cursor;             /* everything up to here is settled */
    uint64_t copied, total;     /* total: as far as known */
};

/* Inside the op that makes m a present member of g: notes the copy, marks everything up to here as read, and
 * shows the progress in m's metadata. Nothing to do where the history is not shared or the group is empty. *c
 * is the member's conversation. The caller puts *m and *c. */
enum err txn_backfill_begin(struct txn *txn, const struct group *g, struct member *m, struct conversation *c,
    struct errctx *ec) CHECKED;

/* The pending copy behind (group_no, user_no); NOT_FOUND: none. Not on the committer. */
enum err store_backfill_next(
    struct store *s, uint64_t group_no, uint64_t user_no, struct backfill *ret, struct errctx *ec) CHECKED;
/* The present member with the most messages in that conversation, by its number, and the conversation's id,
 * in the arena. NOT_FOUND: nobody else is there. */
enum err store_backfill_source(struct store *s, const struct backfill *b, struct arena *arena,
    uint64_t *ret_source_no, struct str *ret_conversation_id, struct errctx *ec) CHECKED;

/* One chunk. */
struct backfill_chunk {
    struct backfill b; /* as read; out: as stored */
    uint64_t source_no, source_seq, source_epoch;
    size_t nrows;
    struct value (*rows)[MSG_NCOLUMNS]; /* ascending, as the source has them */
    bool last;                          /* nothing is left up to `until` */
    uint64_t total;                     /* 0: not known */
    /* Ids of these rows that stand in files of the target, ascending, as of target_epoch. */
    uint64_t target_epoch;
    size_t nthere;
    const int64_t *there;
    /* Messages that may be growing (store_stream_notes, looked up after the source was read): those that are
     * become open rows of the target, too. */
    size_t nopen;
    const int64_t *open;
    bool over; /* out: the record is gone */
};
/* RETRY: source or target have changed: take the chunk again. */
enum err txn_backfill_chunk(struct txn *txn, struct backfill_chunk *chunk, struct errctx *ec) CHECKED;

#endif
