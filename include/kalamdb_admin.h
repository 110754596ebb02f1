/* For hosts that operate a KalamDB (the server is one): upkeep, state, metrics. Same rules as kalamdb.h. */
#ifndef KALAMDB_ADMIN_H
#define KALAMDB_ADMIN_H

#include "kalamdb.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Consolidates one user, or everybody (ptr NULL), whatever the thresholds, and purges what was deleted from
 * every file and log. Does not block; `done` as in kalamdb_exec_async, from an engine thread, with a NULL
 * result. */
void kalamdb_consolidate(struct kalamdb *db, struct kalamdb_str user_id, kalamdb_done *done, void *arg);

/* Ends consolidation until the database is opened again: requests that run or wait answer UNAVAILABLE within
 * moments. For a host whose time to shut down is up; kalamdb_close does it too. */
void kalamdb_stop_consolidation(struct kalamdb *db);

/* Proves the counts of references to files against the rows of both tiers, repairs what differs, and sets
 * aside files that nobody names. Does not block; `done` from an engine thread. */
struct kalamdb_sweep_counts {
    uint64_t users, blobs, refs;            /* looked at */
    uint64_t refs_repaired, blobs_repaired; /* counts that were wrong */
    uint64_t blobs_missing;                 /* rows name a file that is not there */
    uint64_t files_set_aside, uploads_removed;
};
void kalamdb_sweep(struct kalamdb *db,
    void (*done)(void *arg, const struct kalamdb_sweep_counts *counts, const struct kalamdb_error *error),
    void *arg);

/* Holds all that is stored against all else that says the same: checksums of the hot tier, of Parquet and of
 * content files; heads, counters and indexes against rows; references against rows and files; members of
 * groups against what they have. Changes nothing. One user, or everybody (ptr NULL). Blocks for as long as
 * reading everything takes. `found` is told each damage, with whose it is (ptr NULL: nobody's) and the file
 * or table. OK however much is found; NOT_FOUND: no such user. */
struct kalamdb_verified {
    uint64_t users, groups, messages, files, contents; /* looked at */
    uint64_t findings;
};
kalamdb_code kalamdb_verify(struct kalamdb *db, struct kalamdb_str user_id,
    void (*found)(void *arg, struct kalamdb_str user_id, const char *text), void *arg,
    struct kalamdb_verified *ret, struct kalamdb_error *error);

/* ---- content ---- */

/* A file that a row names, for whoever holds such a row (a user: one of their own rows; a service or admin:
 * any). It is the caller's until kalamdb_content_close, and stays good when the file is deleted meanwhile.
 * NOT_FOUND: no such file, or no row of the caller's. `ref` is compared raw. Quick: a few look-ups in memory.
 */
struct kalamdb_content_file;
struct kalamdb_content {
    struct kalamdb_content_file *file;
    int fd; /* of a file that is not sealed, for whoever reads it without kalamdb_content_read; else -1 */
    uint64_t size;         /* of the content, as all that follows */
    char content_type[96]; /* "text/plain; charset=utf-8", "image/png" … */
    char sha256[65];       /* hex: a strong ETag */
};
kalamdb_code kalamdb_content_open(struct kalamdb *db, struct kalamdb_caller caller, struct kalamdb_str ref,
    struct kalamdb_content *ret, struct kalamdb_error *error);
/* Up to n bytes from `at` on, sealed or not; fewer at the end only. What it gives is what was stored: a
 * damaged block is an error. May wait for the disk; any thread, one at a time. */
kalamdb_code kalamdb_content_read(
    struct kalamdb_content *c, uint64_t at, void *p, size_t n, size_t *ret_n, struct kalamdb_error *error);
void kalamdb_content_close(struct kalamdb_content *c);

/* Storing media: begin, write each piece as it comes, finish with the message. One thread at a time; begin
 * and write do not wait for anything but the page cache. `owner` is whose tables get the message (ptr NULL:
 * the caller's; another's with role user is FORBIDDEN). */
struct kalamdb_upload;
kalamdb_code kalamdb_upload_begin(struct kalamdb *db, struct kalamdb_caller caller, struct kalamdb_str owner,
    struct kalamdb_upload **ret, struct kalamdb_error *error);
/* What a message without conversation_type would be refused for at the end can be told before the file comes:
 * FORBIDDEN in a group that the owner never was in. Quick, and no promise: the message decides. */
kalamdb_code kalamdb_upload_check(
    struct kalamdb_upload *u, struct kalamdb_str conversation_id, struct kalamdb_error *error);
/* TOO_LARGE above max_media_bytes or the owner's max_user_media_bytes; UNAVAILABLE when the disk is full.
 * After an error only abort is allowed. */
kalamdb_code kalamdb_upload_write(
    struct kalamdb_upload *u, const void *bytes, size_t n, struct kalamdb_error *error);
uint64_t kalamdb_upload_bytes(const struct kalamdb_upload *u);

struct kalamdb_upload_message {
    struct kalamdb_str conversation_id;
    struct kalamdb_str conversation_type; /* ptr NULL: not given */
    struct kalamdb_str from;              /* ptr NULL: the caller */
    struct kalamdb_str content;           /* the caption; ptr NULL: '' */
    struct kalamdb_str metadata;          /* a JSON object, which gains "media"; ptr NULL: none */
    struct kalamdb_str client_msg_id;     /* ptr NULL: none */
    enum kalamdb_durability durability;
};
struct kalamdb_uploaded {
    int64_t msg_id;
    bool inserted; /* false: a retry by client_msg_id; what was uploaded now is gone, the rest describes the
                      first one */
    struct kalamdb_str content_ref; /* lives until `done` returns */
    uint64_t size;
    char content_type[96], sha256[65];
    uint32_t width, height; /* of images whose header tells; else 0 */
};
/* Never blocks; takes u, whatever comes. `done` is called exactly once, from an engine thread or before this
 * returns, with NULL and the error when it failed; the message's strings are copied. */
void kalamdb_upload_finish(struct kalamdb_upload *u, const struct kalamdb_upload_message *message,
    void (*done)(void *arg, const struct kalamdb_uploaded *uploaded, const struct kalamdb_error *error),
    void *arg);
/* Instead of finish: nothing remains. NULL allowed. */
void kalamdb_upload_abort(struct kalamdb_upload *u);

/* ---- a user's own data (docs/your-data.md)
 * --------------------------------------------------------------------------------------------------- */

/* One user's data as a tar, as of one moment, however long the reading takes. One thread at a time. */
struct kalamdb_export;
/* `user_id` ptr NULL: the caller's own; another's asks for role service. NOT_FOUND, FORBIDDEN, UNAVAILABLE.
 */
kalamdb_code kalamdb_export_open(struct kalamdb *db, const struct kalamdb_caller *caller,
    struct kalamdb_str user_id, struct kalamdb_export **ret, struct kalamdb_error *error);
/* The next bytes; blocks. *ret_n 0: that was all. After an error the tar has no end. */
kalamdb_code kalamdb_export_read(
    struct kalamdb_export *x, void *p, size_t n, size_t *ret_n, struct kalamdb_error *error);
/* The same without blocking: `ready` is called once, from an engine thread (or, when the database is closing,
 * before this returns), with some bytes, none at the end; they live until the next call for x, and `ready`
 * may make it. */
typedef void kalamdb_export_ready(void *arg, const char *ptr, size_t len, const struct kalamdb_error *error);
void kalamdb_export_next(struct kalamdb_export *x, kalamdb_export_ready *ready, void *arg);
/* Any thread: the step under way reports TIMEOUT soon, and so does every later one. */
void kalamdb_export_cancel(struct kalamdb_export *x);
/* Not between kalamdb_export_next and its `ready`; inside that is fine. Before kalamdb_close. */
void kalamdb_export_close(struct kalamdb_export *x);

/* Brings such a tar back as one user's own rows, under the same id or another; asks for role service. Begin,
 * write what comes, finish: all of it is verified before anything is written. CONFLICT: another import for
 * the user is under way. */
struct kalamdb_import;
struct kalamdb_import_counts { /* of the archive; what was there already was left as it is */
    uint64_t messages, conversations, files;
};
kalamdb_code kalamdb_import_begin(struct kalamdb *db, const struct kalamdb_caller *caller,
    struct kalamdb_str user_id, struct kalamdb_import **ret, struct kalamdb_error *error);
/* Into a file; blocks as a write to one does. TOO_LARGE above max_import_bytes, UNAVAILABLE without space;
 * then only abort is left. */
kalamdb_code kalamdb_import_write(
    struct kalamdb_import *im, const void *bytes, size_t n, struct kalamdb_error *error);
/* That was all; does not block. `done` comes once, from a thread of the library (or before this returns):
 * INVALID_REQUEST names what is wrong with the archive. The import is gone then. */
void kalamdb_import_finish(struct kalamdb_import *im,
    void (*done)(void *arg, const struct kalamdb_import_counts *counts, const struct kalamdb_error *error),
    void *arg);
/* Between finish and the return of `done`, any thread: it ends soon, with TIMEOUT. */
void kalamdb_import_cancel(struct kalamdb_import *im);
/* Instead of finish. */
void kalamdb_import_abort(struct kalamdb_import *im);

/* False: query workers run without their cage, as options.worker_uncaged asks. */
bool kalamdb_workers_caged(struct kalamdb *db);

/* OK, or UNAVAILABLE with the reason while writes are refused. */
kalamdb_code kalamdb_writable(struct kalamdb *db, struct kalamdb_error *error);

/* What an erasure was, as its receipt says it: rows of `messages`, Parquet and content files, bytes of both
 * tiers. */
struct kalamdb_erasure {
    struct kalamdb_str user_id;
    int64_t erased_at_us;
    uint64_t messages, files, bytes;
    bool backups_covered; /* nothing of them can be read in a backup: their key, which is in none, is
                             destroyed, also in every copy of the key ring that a backup made */
};
/* Erases a user: from one commit on nobody is that user and their tokens are void; then their rows, files and
 * memberships go, what they sent to groups is changed as options.erase_sent says, and the bytes are driven
 * out of every file and log. `done` comes from an engine thread when all that is finished; the erasure lives
 * until it returns. Without anybody waiting, and after a crash, the work goes on by itself. Of a user who was
 * erased and did not come back: the same answer again. NOT_FOUND: never was one. */
typedef void kalamdb_erased(
    void *arg, const struct kalamdb_erasure *erasure, const struct kalamdb_error *error);
void kalamdb_erase(struct kalamdb *db, struct kalamdb_str user_id, kalamdb_erased *done, void *arg);
/* Calls `erased` on an engine thread each time a user has just been erased: whose connections are to be
 * closed. NULL ends it; none is running when this returns. Not from inside of it. */
void kalamdb_on_erased(struct kalamdb *db, void (*erased)(void *arg, struct kalamdb_str user_id), void *arg);
/* Is a token of this user void, issued then (INT64_MIN: it does not say), because the user was erased? */
bool kalamdb_token_void(struct kalamdb *db, struct kalamdb_str user_id, int64_t issued_s);
/* Changes whenever the answer for some token may have, of this and of kalamdb_token_revoked. */
uint64_t kalamdb_erasures(struct kalamdb *db);

/* Tokens that are void before they end: the one with this jti, or all of a user's that were issued in the
 * second revoked_s or before (or do not say when). Kept until expires_s. */
struct kalamdb_revocation {
    bool by_user;
    struct kalamdb_str id; /* user id or jti, 1 to 255 bytes */
    int64_t expires_s, revoked_s;
};
/* In effect and durable when `done` is called without an error, from an engine thread or before this returns.
 * TOO_LARGE: there are too many that have not ended. */
typedef void kalamdb_revoked(void *arg, const struct kalamdb_error *error);
void kalamdb_revoke(struct kalamdb *db, const struct kalamdb_revocation *r, kalamdb_revoked *done, void *arg);
/* jti ptr NULL: none. issued_s INT64_MIN: it does not say. */
bool kalamdb_token_revoked(
    struct kalamdb *db, struct kalamdb_str user_id, struct kalamdb_str jti, int64_t issued_s);
/* Calls fn, which must not call the database, for each, until it says false. */
void kalamdb_revocations(
    struct kalamdb *db, bool (*fn)(void *arg, const struct kalamdb_revocation *r), void *arg);

/* Calls fn, on the thread that gave the statement and before it runs, for each user other than the caller
 * whose tables a statement names, and for statements that change members. To be set before the first
 * statement. */
struct kalamdb_access {
    struct kalamdb_caller caller;
    struct kalamdb_str user_id;
    struct kalamdb_str conversation_id; /* ptr NULL: the statement does not say plainly */
    bool write, members;
};
void kalamdb_on_access(
    struct kalamdb *db, void (*fn)(void *arg, const struct kalamdb_access *access), void *arg);

/* One generation of a backup: Parquet and content files, those of them that had to be copied, bytes of the
 * hot tier's part, and how many older generations went. */
struct kalamdb_backup {
    uint32_t generation, removed;
    uint64_t files, bytes, files_copied, bytes_copied, hot_bytes;
    uint64_t key_files; /* of the ring, copied or as they were; 0: no encryption */
    char keys[4096];    /* the folder that they are in; "": no encryption */
    bool master_key_copied;
};
/* What master_key_copied means, for people. */
#define KALAMDB_MASTER_KEY_COPIED                                                                            \
    "the master key lies with the keys: whoever has both folders reads everything; set master_key_file to "  \
    "keep the key elsewhere"
/* Backs up everything into `dir` (made when absent), incrementally, while the database is in use; with keep >
 * 0, older generations than the newest `keep` are removed. `done` comes from a thread of the engine. Error
 * messages are for operators and name paths. INVALID_REQUEST: not to be used for that; CONFLICT: another
 * backup writes there. Keys are in no backup: under encryption the key ring as it is afterwards replaces
 * what is in the directory `keys` (NULL: "DIR.keys", beside `dir`), which must be elsewhere; a master key
 * that was made by kalamdb_open, and no other, is copied there, too. */
typedef void kalamdb_backed_up(
    void *arg, const struct kalamdb_backup *backup, const struct kalamdb_error *error);
void kalamdb_backup(
    struct kalamdb *db, const char *dir, int keep, const char *keys, kalamdb_backed_up *done, void *arg);
/* Makes the data directory `data`, empty or absent, out of a generation (0: the newest), checking every
 * checksum. One that was cut short is recognised: kalamdb_open refuses it. An encrypted one needs the copy of
 * the key ring in `keys` (NULL: "DIR.keys"): the newest, for users erased since the backup are erased in it.
 * INVALID_REQUEST where there is none. */
kalamdb_code kalamdb_restore(const char *dir, uint32_t generation, const char *data, const char *keys,
    struct kalamdb_backup *ret, struct kalamdb_error *error);
/* The generations in `dir`, oldest first. */
kalamdb_code kalamdb_backups(const char *dir,
    void (*fn)(void *arg, uint32_t generation, int64_t created_us, uint64_t files, uint64_t bytes), void *arg,
    struct kalamdb_error *error);

/* Wraps all keys under another master key while the database is in use: the one in the file `path`, or, NULL,
 * a new one in place of the directory's own (INVALID_REQUEST where the master key is configured). On OK it is
 * in force and the old one opens nothing; where `path` was given, the next kalamdb_open has to be given that
 * key. CONFLICT: keys are being rotated or copied. Does not block; `done` from a thread of the engine. Error
 * messages are for operators and name paths. */
struct kalamdb_key_rotation {
    uint64_t keys, segments; /* wrapped anew, files of the ring written */
    uint64_t damaged;        /* keys that were unreadable before, and are as they were */
    bool own;                /* the new key is in the data directory */
};
typedef void kalamdb_keys_rotated(
    void *arg, const struct kalamdb_key_rotation *rotation, const struct kalamdb_error *error);
void kalamdb_rotate_master_key(struct kalamdb *db, const char *path, kalamdb_keys_rotated *done, void *arg);
struct kalamdb_keys {
    bool encryption;  /* all else is 0 without it */
    bool beside_data; /* the master key is the data directory's own */
    bool rotating;
    uint64_t segments, segments_done; /* of the rotation under way */
    uint32_t rotations;               /* of the master key, since the ring was made */
    int64_t rotated_us;               /* the last one; 0: never */
    uint8_t check[8];                 /* tells master keys apart, and nothing of them */
};
void kalamdb_keys(struct kalamdb *db, struct kalamdb_keys *ret);

/* Calls `sample` for each metric: OpenMetrics name without unit suffix rules applied (already complete), kind
 * "gauge", "counter" or "histogram", help text, label text such as state="busy" or "", value. A histogram
 * comes as one call per bucket with label le="…" (cumulative, seconds), then with suffix names _sum and
 * _count. */
struct kalamdb_metric {
    const char *name, *kind, *help, *labels, *suffix; /* suffix: "", "_total", "_bucket", "_sum", "_count" */
    double value;
};
void kalamdb_metrics(
    struct kalamdb *db, void (*sample)(void *arg, const struct kalamdb_metric *m), void *arg);

#ifdef __cplusplus
}
#endif
#endif
