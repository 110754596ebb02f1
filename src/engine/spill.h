/* Large text on its way into a file: content of large_content_bytes or more is written to a blob before the
 * commit, and the row gets its first bytes and a content_ref.
 *
 *   rows of the statement ─spill_append/_add─► files placed ─apply: spills_put─► records ─commit─► kept
 *                                                  └──────── failed, or never submitted ─► unlinked
 *
 * Threading: whoever has the statement; spill_* block, spills_* do not but for unlink after a failure. */
#ifndef KALAMDB_ENGINE_SPILL_H
#define KALAMDB_ENGINE_SPILL_H

#include "engine/query.h"

struct spill {
    struct blob_file *file;
    size_t row; /* of the statement */
    int64_t file_id;
    bool group;
    bool used;  /* by the last apply */
    bool media; /* counts against the owner's quota */
    uint64_t quota_max;
    struct str owner, conversation_id;
};
struct spills {
    size_t n, cap;
    struct spill *items; /* heap */
    bool misplaced;      /* with ERR_RETRY: a conversation turned out to be of the other type */
};

bool spill_is_large(const struct kalamdb *db, struct value content);
/* Writes one text and places it: for rows that other parts of the engine make. The caller puts the record
 * with txn_blob_put(txn, blob_file_ref(f), blob_file_info(f), 0, ec) in its apply, sets content to the first
 * blob_preview() bytes and content_ref, and keeps or discards the file. `id` names the file. */
enum err spill_text(struct kalamdb *db, struct str text, bool group, struct str owner,
    struct str conversation_id, int64_t id, struct blob_file **ret, struct errctx *ec) CHECKED;

/* INSERT: is there anything to write out? Then all rows get their ids now, in their order, and large ones
 * their file. */
bool spill_append_wanted(const struct kalamdb *db, const struct chat_append *a);
enum err spill_append(struct kalamdb_query *q, struct chat_append *a, struct spills *s) CHECKED;
/* The same for the one row of an upload: a finished file. It is the spills' where s->n is 1 afterwards. */
enum err spill_file(struct kalamdb_query *q, struct chat_append *a, struct spills *s, struct blob_file *file,
    uint64_t quota_max) CHECKED;
/* In apply, before and after chat_append_apply. ERR_RETRY with `misplaced`. */
enum err spills_put(struct spills *s, struct txn *txn, struct errctx *ec) CHECKED;
enum err spills_check_append(
    struct spills *s, const struct chat_append *a, struct txn *txn, struct errctx *ec) CHECKED;
/* After that ERR_RETRY, before the next commit: moves the files. */
enum err spill_move(struct kalamdb_query *q, struct chat_append *a, struct spills *s) CHECKED;

/* UPDATE: rows whose content is large, as read, with the new content in it. UNSUPPORTED and TOO_LARGE as the
 * contract says. */
enum err spill_update(struct kalamdb_query *q, size_t nrows, struct chat_row *rows, struct spills *s) CHECKED;

/* The commit's outcome is known (never ERR_RETRY). */
void spills_settle(struct spills *s, enum err outcome);
/* Unlinks what was not settled; frees; s can be used again. */
void spills_release(struct spills *s);

#endif
