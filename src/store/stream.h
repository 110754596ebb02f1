/* Open messages: replies that grow while they are read (contract, section 3).
 *
 *   envelope  ROW_OPEN, home H, content = the text that stood there when the message was opened
 *   chunks    H | STREAMS | msg_id | offset → the text from that byte on, one per flush, without holes
 *   record    CATALOG_STREAMS | msg_id → who writes it and where; kept on for a while after it was closed
 *
 * The text so far is the content followed by the chunks, at whatever snapshot one reads. A group's message
 * has its chunks once, in the group's partition; an ai conversation's in its owner's. Chunks do not change
 * the row's number: opening and closing do. Whatever comes out of a snapshot (iterators, point reads,
 * hand-overs to workers) has the text so far in `content` already, and keeps its flag.
 *
 * An open row stays hot: consolidation passes it by and lets the watermark go on, so that one slow reply
 * holds up nobody; once closed it is consolidated as any changed row.
 *
 * Threading and ownership as in store.h. */
#ifndef KALAMDB_STORE_STREAM_H
#define KALAMDB_STORE_STREAM_H

#include "row/delta.h"
#include "store/store.h"

enum stream_state { STREAM_OPEN = 1, STREAM_INTERRUPTED = 2, STREAM_ENDED = 3 };
/* Kept after the last change, for retries and for going on. */
#define STREAM_ENDED_KEPT_US (INT64_C(24) * 3600 * 1000000)
#define STREAM_INTERRUPTED_KEPT_US (INT64_C(31) * 24 * 3600 * 1000000)

struct stream_record {
    enum stream_state state;
    bool group;
    uint64_t home;       /* the partition of the chunks: a user's, or the group's */
    uint64_t copies;     /* STREAM_OPEN: open rows that are left */
    uint64_t bytes;      /* length of the text when it was closed */
    int64_t changed_us;  /* when it came into this state */
    struct str owner;    /* the user in whose name of a conversation it was begun */
    struct str producer; /* the user id of the caller that began it */
    struct str conversation_id;
};

/* A stream that may be open. */
struct stream_note {
    int64_t msg_id;
    uint64_t home;
    bool group;
    int64_t forgotten_us; /* the store's own */
};

enum err stream_record_decode(struct str bytes, struct stream_record *ret) CHECKED;
/* NOT_FOUND. Borrows from the txn's arena. */
enum err txn_stream(struct txn *txn, int64_t msg_id, struct stream_record *ret, struct errctx *ec) CHECKED;
enum err txn_stream_put(
    struct txn *txn, int64_t msg_id, const struct stream_record *r, struct errctx *ec) CHECKED;

/* Rows that this operation writes from here on become open rows, of `home` or, where that is 0, of the
 * partition that they are inserted for (the user's, or the group's). Without it they are closed ones, and an
 * open row can only be changed after txn_stream_closing. */
void txn_stream_opening(struct txn *txn, uint64_t home);
void txn_stream_closing(struct txn *txn);
/* What became open by that: how many rows, and their home; 0, 0: none. */
uint64_t txn_stream_opened(const struct txn *txn, uint64_t *ret_home);

/* Text that follows `offset` bytes: one chunk, and an announcement for each user who has a copy. */
void txn_stream_chunk(struct txn *txn, uint64_t home, const struct stream_delta *d);
/* Does the user have an open copy, and does somebody follow them? */
bool txn_stream_reaches(struct txn *txn, uint64_t user_no, int64_t msg_id);
enum err txn_stream_announce(
    struct txn *txn, uint64_t user_no, const struct stream_delta *d, struct errctx *ec) CHECKED;
/* `base` followed by the chunks, this group's own included; in the txn's arena. CORRUPT when there is a hole.
 */
enum err txn_stream_text(struct txn *txn, uint64_t home, int64_t msg_id, struct str base, struct str *ret,
    struct errctx *ec) CHECKED;
/* Removes all chunks. */
enum err txn_stream_clear(struct txn *txn, uint64_t home, int64_t msg_id, struct errctx *ec) CHECKED;
/* The user's own copy as it stands, content as in the envelope. NOT_FOUND: not hot. */
enum err txn_stream_copy(struct txn *txn, uint64_t user_no, int64_t msg_id, struct row_meta *ret_meta,
    struct value *ret_values, struct errctx *ec) CHECKED;

/* One open copy less; with the last one the stream is gone. */
enum err txn_stream_lose(struct txn *txn, int64_t msg_id, struct errctx *ec) CHECKED;
/* The record goes: nobody may write or go on with the message. Its rows stay as they are. */
void txn_stream_drop(struct txn *txn, int64_t msg_id);
/* Some stream ended without its producer: those that are written look whether it was theirs. */
void txn_stream_lost(struct txn *txn);
/* store_stream_notes in the txn's arena. */
enum err txn_stream_notes(
    struct txn *txn, uint64_t user_no, struct stream_note **ret, size_t *ret_n, struct errctx *ec) CHECKED;

/* The streams that may be open, for those who look for open rows: a superset. txn_stream_put notes those that
 * it opens, before the rows can be seen; whoever closed one durably, or failed to open it, forgets it. Any
 * thread. */
enum err store_stream_note(struct store *s, struct stream_note note) CHECKED;
void store_stream_forget(struct store *s, int64_t msg_id);
/* Copies at most `max` of those that user_no may have a copy of; how many there are. */
size_t store_stream_notes(struct store *s, uint64_t user_no, struct stream_note *ret, size_t max);
/* Grows whenever the last copy of an open message was deleted (or may have been). */
uint64_t store_streams_lost(const struct store *s);
/* Calls fn for every record. Without a lock held. */
enum err store_each_stream(struct store *s,
    bool (*fn)(void *arg, int64_t msg_id, const struct stream_record *r), void *arg,
    struct errctx *ec) CHECKED;

#endif
