/* Streamed replies: messages that grow while they are read (contract, section 3; store/stream.h has the
 * storage).
 *
 *             begin                      end
 *   (nothing) ─────→ OPEN ─────────────────────→ ENDED
 *                    │  ↑                          ↑
 *     producer gone, │  │ append at the end of     │ end
 *     crash          ↓  │ the text                 │
 *                  INTERRUPTED ────────────────────┘
 *
 * Opening, interrupting, going on and ending change the row, with a number each; text in between does not. As
 * chat.h for the rest: *_check on any thread, *_apply on the committer. */
#ifndef KALAMDB_CHAT_STREAM_H
#define KALAMDB_CHAT_STREAM_H

#include "chat/chat.h"
#include "store/stream.h"

/* A JSON object or NULL. INVALID_REQUEST. */
enum err chat_stream_metadata_check(struct value metadata, struct errctx *ec) CHECKED;

struct chat_stream_begin {
    /* One message, as in chat_append; its content and its metadata's "stream" are set here. */
    struct chat_append append;
    struct str producer; /* the caller's user id */
    /* Out: of the stream, also where it was begun before. */
    bool known; /* false: the message that a retry found is no stream */
    struct stream_record record;
};
/* As chat_append_check, and INVALID_REQUEST for metadata that is no object. */
enum err chat_stream_begin_check(struct chat_stream_begin *b, const struct chat_limits *limits,
    struct arena *arena, struct errctx *ec) CHECKED;
/* As chat_append_apply. */
enum err chat_stream_begin_apply(struct chat_stream_begin *b, struct txn *txn, struct errctx *ec) CHECKED;

/* One flush of one stream. */
struct chat_stream_text {
    uint64_t home;
    bool group;
    struct stream_delta delta;
};
/* NOT_FOUND, with nothing written: the owner of that partition is erased. */
enum err chat_stream_append(const struct chat_stream_text *t, struct txn *txn, struct errctx *ec) CHECKED;

/* End, or interruption. */
struct chat_stream_close {
    int64_t msg_id;
    bool interrupt;
    bool has_text;
    struct str text;          /* all of it; without has_text as stored */
    struct value metadata;    /* merged into the row's; NULL: nothing */
    struct value content_ref; /* the text is in that file, and `text` is its preview */
    uint64_t bytes;           /* of the whole text, with content_ref */
    /* Out. */
    struct stream_record record; /* as it is now; its strings are the txn's */
};
/* NOT_FOUND: no such stream, or all its copies were deleted. One that is not open stays as it is: see
 * record.state. */
enum err chat_stream_close_apply(struct chat_stream_close *c, struct txn *txn, struct errctx *ec) CHECKED;

/* Values of an interrupted message as it is opened again. CONFLICT where its text can no longer be gone on
 * with. */
enum err chat_stream_reopen_row(struct value *values, struct arena *arena, struct errctx *ec) CHECKED;
/* Around the update of its rows, in one apply. NOT_FOUND, CONFLICT: not interrupted any more. */
enum err chat_stream_reopen_begin(struct txn *txn, int64_t msg_id, struct errctx *ec) CHECKED;
enum err chat_stream_reopen_end(struct txn *txn, int64_t msg_id, struct errctx *ec) CHECKED;

/* Erasure of whoever wrote the message, or of its owner (whose partition was user_no): copies that others
 * have keep what was there, nothing tells whose it was any more. */
enum err chat_stream_erase(struct txn *txn, uint64_t user_no, int64_t msg_id, struct errctx *ec) CHECKED;

/* A user leaves a group: their copies of what is open there stay as they are, for good; what is written in
 * their name is interrupted for all. */
enum err chat_stream_leave(struct txn *txn, uint64_t user_no, uint64_t group_no, struct errctx *ec) CHECKED;

#endif
