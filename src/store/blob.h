/* Blobs: files that rows name in `content_ref`. Large text of a message (msg-<id>.bin) and media
 * (media-<id>.<ext>), in the folder of an ai conversation's owner or in shared/conversations/<conversation>/;
 * the ref is that path relative to the data directory.
 *
 *   temporary in .kalamdb/uploads ──finish──► fsynced ──place──► under its name, fsynced
 *                                                                   │ commit: row + refs + blob record
 *                                                                   ▼
 *                                          named by rows ──last ref goes──► buried (purge.h) ──► unlinked
 *
 * Under encryption the file is sealed with a random key of its own from its first byte on. That key stands
 * beside the SPACE_REFS entry of each user who holds a row that names the file (SPACE_REF_KEYS), sealed with
 * that user's key, and nowhere else: who holds no such row cannot read it, and nobody can when the last one
 * went. Refs and counts stand apart from it, since what is left of a user whose key was destroyed has to be
 * cleared away without it. A new holder takes the key from the file being stored in the same op
 * (txn_blob_put), or from a holder whose row is copied (txn_refs_from).
 *
 * How many rows name a blob is counted in the same batch as the rows: per user in SPACE_REFS, in total in the
 * record in CATALOG_BLOBS. A crash between place and commit leaves a file without a record, which the sweep
 * at open sets aside.
 *
 * Threading: struct blob_file one thread at a time, its functions may block but for blob_file_write of small
 * pieces; txn_* on the committer inside apply(). */
#ifndef KALAMDB_STORE_BLOB_H
#define KALAMDB_STORE_BLOB_H

#include "base/buf.h"
#include "base/err.h"

struct store;
struct snapshot;
struct txn;

#define SHARED_DIR "shared/conversations" /* files of groups, a folder for each */
#define BLOB_REF_BYTES_MAX 512
#define BLOB_PREVIEW_BYTES 1024

/* What is recorded of a blob. */
struct blob {
    uint64_t refs;        /* rows of all users that name it */
    uint64_t bytes;       /* of the file */
    uint64_t uploader_no; /* whose quota it counts against; 0: nobody's */
    char sha256[65];      /* hex; of the plain bytes */
    char content_type[96];
    /* Under encryption a record keeps the digest masked, for it would tell who knows a text that somebody has
     * it: until blob_reveal(), `masked` is set and sha256 is nobody's. */
    bool masked;
    const uint8_t *key; /* BLOB_KEY_BYTES of a file being stored, borrowed; NULL: not sealed, or read back */
};
#define BLOB_KEY_BYTES 32
/* With the file's key. */
void blob_reveal(struct blob *b, const uint8_t key[BLOB_KEY_BYTES]);

/* ---- in a transaction ---------------------------------------------------------------------------------- */

/* Makes the record of a placed file, without refs: rows inserted or updated in the same op give it these.
 * With uploader_no and quota_max > 0 the bytes count against that user: TOO_LARGE where they pass quota_max.
 */
enum err txn_blob_put(struct txn *txn, struct str content_ref, const struct blob *b, uint64_t quota_max,
    struct errctx *ec) CHECKED;
/* The record of a file that no row came to name goes again; the file is buried. */
enum err txn_blob_drop(struct txn *txn, struct str content_ref, struct errctx *ec) CHECKED;
/* From here to the end of the op, files that a user comes to hold and that are not stored in it have the key
 * that `source_no` holds. */
void txn_refs_from(struct txn *txn, uint64_t source_no);
enum err txn_blob(struct txn *txn, struct str content_ref, struct blob *ret, struct errctx *ec) CHECKED;
/* One row of the user more (+1) or less (-1) that names the ref. With the last one the record and the quota's
 * bytes go, and the file is buried once the group is durable. txn_message_insert, _update and _delete call it
 * for rows whose content_ref is set. */
enum err txn_ref(
    struct txn *txn, uint64_t user_no, struct str content_ref, int delta, struct errctx *ec) CHECKED;
/* The same for n users at once (a group message): the record is changed once. */
enum err txn_ref_users(struct txn *txn, size_t n, const uint64_t *user_nos, struct str content_ref, int delta,
    struct errctx *ec) CHECKED;
/* All of a user's rows let go of their refs (erasure: the rows themselves are deleted by the caller). At most
 * `max` refs; *ret_more says that some remain. */
enum err txn_refs_drop(
    struct txn *txn, uint64_t user_no, size_t max, bool *ret_more, struct errctx *ec) CHECKED;

/* ---- reading ------------------------------------------------------------------------------------------- */

/* Does a row of the snapshot's user name the ref? */
enum err snapshot_holds(struct snapshot *snap, struct str content_ref, bool *ret, struct errctx *ec) CHECKED;
/* The file's key, in the snapshot's arena, where a row of its user names the ref: NULL where it is not
 * sealed. NOT_FOUND: no such row. */
enum err snapshot_blob_key(
    struct snapshot *snap, struct str content_ref, const uint8_t **ret, struct errctx *ec) CHECKED;
/* The same by any user who holds it, for services: the owner of the folder that the ref names, or one of
 * those who are or were in the group. NOT_FOUND: nobody has it. */
enum err snapshot_blob_key_any(
    struct snapshot *snap, struct str content_ref, const uint8_t **ret, struct errctx *ec) CHECKED;
/* The record at the snapshot; NOT_FOUND. */
enum err snapshot_blob(
    struct snapshot *snap, struct str content_ref, struct blob *ret, struct errctx *ec) CHECKED;
/* Every ref that rows of the user name, with how many; an error of fn ends it. */
enum err snapshot_each_ref(struct snapshot *snap,
    enum err (*fn)(void *arg, struct str content_ref, uint32_t rows, struct errctx *ec), void *arg,
    struct errctx *ec) CHECKED;
/* Bytes of media that count against the user. */
enum err snapshot_quota(struct snapshot *snap, uint64_t *ret_bytes, struct errctx *ec) CHECKED;
/* The file of a ref that a record or a row named (never of one that a client sent), with the key that
 * snapshot_blob_key gave (NULL: it is not sealed). While the snapshot is open, what it names is there; once
 * opened it stays readable. NOT_FOUND, IO, CORRUPT. One thread at a time. */
struct blob_reader;
enum err store_blob_open(struct store *s, struct str content_ref, const uint8_t *key,
    struct blob_reader **ret, struct errctx *ec) CHECKED;
/* Bytes of content. */
uint64_t blob_reader_size(const struct blob_reader *r);
/* Of a file that is not sealed, to be read by whoever knows better; -1: it is. The reader's. */
int blob_reader_fd(const struct blob_reader *r);
/* Up to n bytes from `at` on, fewer at the end only: what it gives was checked. IO, CORRUPT. */
enum err blob_reader_pread(
    struct blob_reader *r, void *p, size_t n, uint64_t at, size_t *ret_n, struct errctx *ec) CHECKED;
/* NULL allowed. */
void blob_reader_close(struct blob_reader *r);
/* Text lives in msg-…, media in media-…: is the ref one of media? Then `content` is the whole caption. */
bool blob_ref_is_media(struct str content_ref);
/* Length of the preview of a text. */
size_t blob_preview(struct str text);

/* ---- writing files ------------------------------------------------------------------------------------- */

/* Snowflakes for rows that are to name files, ascending, by one op that does nothing else. Blocks; any thread
 * but the committer. */
enum err store_reserve_ids(struct store *s, size_t n, int64_t *ret, struct errctx *ec) CHECKED;

struct blob_file;
/* A temporary in .kalamdb/uploads. UNAVAILABLE below the disk reserve. */
enum err blob_file_new(struct store *s, struct blob_file **ret, struct errctx *ec) CHECKED;
enum err blob_file_write(struct blob_file *f, struct str bytes, struct errctx *ec) CHECKED;
uint64_t blob_file_bytes(const struct blob_file *f);
/* All bytes are there: fsync, SHA-256, and for media type and dimensions by the first bytes (else text). */
enum err blob_file_finish(struct blob_file *f, bool media, struct errctx *ec) CHECKED;
/* After finish. refs and uploader_no are 0. */
const struct blob *blob_file_info(const struct blob_file *f);
bool blob_file_dimensions(const struct blob_file *f, uint32_t *ret_width, uint32_t *ret_height);
/* After finish: under its name, durable. `group`: in the shared folder of conversation `id`; else in the
 * folder of user `id`. Placed again, it moves. */
enum err blob_file_place(
    struct blob_file *f, bool group, struct str id, int64_t msg_id, struct errctx *ec) CHECKED;
/* The content_ref; lives as long as f. */
struct str blob_file_ref(const struct blob_file *f);
/* Each of these frees f (NULL allowed). A durable row names it: */
void blob_file_keep(struct blob_file *f);
/* Nothing names it: unlinked. */
void blob_file_discard(struct blob_file *f);
/* Nobody knows (OUTCOME_UNKNOWN): the sweep decides later. */
void blob_file_leave(struct blob_file *f);

/* ---- the whole store at one moment: view.c ---------------------------------------------------------------
 */

/* One RocksDB snapshot and one pin for all users: what was deleted since stays readable, files included. */
struct store_view;
enum err store_view_open(struct store *s, struct store_view **ret, struct errctx *ec) CHECKED;
/* After all its snapshots are closed. */
void store_view_close(struct store_view *v);
/* As snapshot_open. */
enum err snapshot_open_in(
    struct store_view *v, struct str user_id, struct snapshot **ret, struct errctx *ec) CHECKED;
/* By number; also of a group's partition (which has no head: exists is false then). */
enum err snapshot_open_in_no(
    struct store_view *v, uint64_t user_no, struct snapshot **ret, struct errctx *ec) CHECKED;
enum err view_each_user(struct store_view *v,
    enum err (*fn)(void *arg, uint64_t user_no, struct str user_id, struct errctx *ec), void *arg,
    struct errctx *ec) CHECKED;
/* As snapshot_blob. */
enum err view_blob(struct store_view *v, struct str content_ref, struct blob *ret, struct errctx *ec) CHECKED;
enum err view_each_blob(struct store_view *v,
    enum err (*fn)(void *arg, struct str content_ref, const struct blob *b, struct errctx *ec), void *arg,
    struct errctx *ec) CHECKED;

/* ---- the sweeper: sweep.c --------------------------------------------------------------------------------
 */

struct sweep_counts {
    uint64_t users, blobs, refs; /* looked at */
    uint64_t refs_repaired;      /* counts of users that rows contradicted */
    uint64_t blobs_repaired;     /* totals that users' counts contradicted */
    uint64_t blobs_missing;      /* named by rows, but the file is not there */
    uint64_t files_set_aside;    /* named by nobody, moved to .kalamdb/orphans */
    uint64_t uploads_removed;    /* temporaries that nobody works on */
};
/* Proves the counts against each other and, with `rows`, against the rows of both tiers, under one view;
 * repairs what differs; sets aside files that nobody names. Blocks; any thread but the committer. */
enum err store_sweep(struct store *s, bool rows, struct sweep_counts *ret, struct errctx *ec) CHECKED;

#endif
