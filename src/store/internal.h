/* What the files of this folder share: the store itself, its locks, and the parts of a txn, of a snapshot and
 * of the cold tier that outsiders do not see.
 *
 * Threads and locks, in the order in which they may be taken:
 *   db_lock (rwlock)   read-held around every call into RocksDB outside the committer; write-held only while
 * a failed database is closed and opened again. Never nested, never held while blocking on the committer.
 *   snaps.lock         the list of open snapshots; leaf.
 *   manifests.lock     the cache of decoded manifests; leaf.
 *   queue.lock         the commit queue; leaf.
 * The committer alone writes `db`, so it calls RocksDB without db_lock: nobody else replaces the handle.
 * Committer-only state is in committer.h. */
#ifndef KALAMDB_STORE_INTERNAL_H
#define KALAMDB_STORE_INTERNAL_H

#include "store/cold_cache.h"
#include "store/consolidate.h"
#include "store/erase.h"
#include "store/group.h"
#include "store/keys.h"
#include "store/manifest.h"
#include "store/purge.h"
#include "store/revoked.h"
#include "store/store.h"
#include "store/stream.h"
#include <pthread.h>
#include <rocksdb/c.h>
#include <stdatomic.h>

#define STORE_FORMAT_VERSION 3 /* 2: groups; 3: sealed values; what is older stands unchanged in it */
#define USER_ID_BYTES_MAX 255
#define FEED_BYTES_MAX 32
#define FEED_TAG_BYTES 16 /* CATALOG_FEED_TAG, set by a restore */
/* The private folder below the data directory; the cold half keeps its orphans there too. */
#define PRIVATE_DIR ".kalamdb"

/* Above every level there is: RocksDB's information log stays empty. It must: Debian's build has assertions,
 * and the log's writer fails one when it is used again after a failed write. What matters comes back as an
 * error. */
#define LOG_LEVEL_NONE 5

/* ---- head: one record per user, head.c ---------------------------------------------------------------- */

struct head {
    uint64_t seq;           /* the user's last _seq */
    int64_t total_messages; /* live, both tiers */
    uint32_t next_conv_no;  /* the next one to give */
    uint64_t cold_epoch;    /* of the manifest record; 0: there is none */
    uint64_t forgotten_seq; /* see snapshot_forgotten_seq */
    uint64_t fresh_rows;    /* live rows that are in no file: what consolidation counts */
    uint64_t fresh_bytes;   /* their envelopes */
    int64_t fresh_since_us; /* arrival of the first of them; 0: none */
    uint64_t overlays;      /* updates and deletions of cold rows since the manifest was last written */
    uint64_t tombstones;    /* kept */
    int64_t active_us;      /* last change */
    uint8_t feed_len, user_id_len;
    char feed[FEED_BYTES_MAX];
    const char *user_id; /* borrowed: from the record decoded, or the committer's entry */
};
static inline struct str head_user_id(const struct head *h)
{
    return str_n(h->user_id, h->user_id_len);
}
static inline struct str head_feed(const struct head *h)
{
    return str_n(h->feed, h->feed_len);
}
void head_encode(struct buf *b, const struct head *h);
enum err head_decode(struct str bytes, struct head *ret) CHECKED;

/* Value of CONVERSATIONS. A deleted conversation stays as a tombstone envelope: its number and floor live on.
 */
struct conversation_record {
    uint32_t conv_no;
    int64_t hot_floor;
    struct str row;
};
#define CONVERSATION_RECORD_PREFIX 12
enum err conversation_record_get(struct str value, struct conversation_record *ret) CHECKED;

/* ---- records of groups, group.c ----------------------------------------------------------------------- */

#define MEMBER_ENTRY_PREFIX 17
void group_encode(struct buf *b, const struct group *g);
/* Values borrow from the bytes, as with the next two. */
enum err group_decode(struct str value, uint64_t group_no, struct group *ret) CHECKED;
void member_entry_encode(struct buf *b, const struct member *m);
enum err member_entry_decode(struct str value, struct member *ret) CHECKED;
/* Without the row's columns. */
enum err member_entry_head(
    struct str value, uint64_t *ret_user_no, bool *ret_present, struct str *ret_row) CHECKED;
enum err membership_get(struct str value, uint64_t *ret_group_no, bool *ret_present) CHECKED;
/* `before`: the value so far, or STR_NULL. */
void membership_encode(struct buf *b, uint64_t group_no, bool present, struct str before);
/* By the decoded row of a conversation. */
bool conversation_is_group(const struct value *values);

/* ---- the store ---------------------------------------------------------------------------------------- */

struct committer;

/* Users that were erased: erased.c. */
struct erased_entry;
struct erased {
    pthread_rwlock_t lock; /* leaf */
    struct erased_entry **buckets;
    size_t nbuckets, count;
    _Atomic uint64_t changes; /* starts at 1 */
};

/* Tokens that were revoked: revoked.c. */
struct revoked_entry;
struct revoked {
    pthread_rwlock_t lock; /* leaf */
    struct revoked_entry **buckets;
    size_t nbuckets;
    _Atomic size_t count; /* changed under the lock */
};
void revoked_init(struct revoked *set);
void revoked_release(struct revoked *set);
/* Fills the set from the catalog, before the first commit. */
enum err revoked_load(struct store *s, struct errctx *ec) CHECKED;

struct manifest_slot {
    uint64_t user_no;
    struct manifest *manifest;
};
#define MANIFEST_SLOTS 1024 /* direct-mapped by user_no */

struct store {
    struct store_config cfg; /* data_dir is our own copy */
    const struct os *os;
    struct vault *vault; /* NULL: values are stored as they are */
    char *hot_dir;       /* <data>/.kalamdb/hot */
    int lock_fd;

    pthread_rwlock_t db_lock;
    rocksdb_t *db;       /* NULL while a reopen failed */
    uint64_t generation; /* +1 per reopen: snapshots of an older one are stale */
    rocksdb_options_t *options;
    rocksdb_cache_t *block_cache;
    rocksdb_readoptions_t *read_latest; /* point reads without a snapshot */
    rocksdb_compactionfilter_t *expiry; /* drops expired client ids */
    _Atomic int64_t expiry_before_us;

    struct {
        pthread_mutex_t lock;
        struct snapshot *first;
    } snaps;
    struct pins pins;
    struct cold_cache *cold_cache;
    uint64_t
        cold_bytes_max; /* of files handed to one statement, each reading of one counted; tests change it */
    struct {
        pthread_mutex_t lock;
        struct blob_file *first; /* being written, or placed and not yet committed */
        atomic_int making;       /* folders that are not yet durable */
    } files;
    struct {
        pthread_mutex_t lock;
        struct manifest_slot slots[MANIFEST_SLOTS];
    } manifests;

    struct {
        pthread_mutex_t lock; /* leaf */
        struct stream_note *items;
        _Atomic size_t count; /* changed under the lock */
        size_t cap;
    } notes; /* streams that may be open: stream.h */
    _Atomic uint64_t streams_lost;
    char feed_tag[FEED_TAG_BYTES]; /* mixed into feeds' names; read at open */
    bool has_feed_tag;

    _Atomic bool search_lost; /* restored: users whose key was destroyed are nobody (erase_key.c) */
    struct erased erased;
    struct revoked revoked;
    struct erase_hook erase_hook; /* zero: none */
    struct purge_hook purge_hook;

    struct committer *committer;
    struct consolidator *consolidator; /* set by consolidator_open before it starts its thread */

    /* What store_writable says; written by the committer and by reserve checks. */
    _Atomic bool failed, closing, below_reserve;
    _Atomic int64_t free_bytes, reserve_checked_us;

    _Atomic uint64_t commits, batches, rows_inserted, rows_updated, rows_deleted, rows_hot, users, reopens;
    _Atomic uint64_t rows_cold, bytes_cold, files_cold; /* the last line: kept by the cold half */
    struct hist commit_hist, sync_hist;
};

/* Are files and values sealed here? Fixed when the directory is made. */
static inline bool store_encrypts(const struct store *s)
{
    return s->vault != NULL;
}

/* For operators in store_writable, stats. Free space is measured at most this often. */
#define RESERVE_CHECK_US 1000000

/* format.c: what the catalog says of the directory, against the configuration. */
enum err store_check_format(struct store *s, struct errctx *ec) CHECKED;
/* open.c */
enum err store_open_db(struct store *s, struct errctx *ec) CHECKED;
void store_close_db(struct store *s);
/* Free space against the reserve, measured at most once a second. Any thread. */
void store_check_reserve(struct store *s);
/* A RocksDB message as an error; frees it. NULL gives OK. */
enum err store_rocks_err(struct errctx *ec, char *message, const char *what) CHECKED;

/* ---- sealed values, seal.c ------------------------------------------------------------------------------
 */

/* What a value out of the database says: itself where it is not sealed, else in `scratch`, which is cleared
 * before. CORRUPT, naming partition and table; UNAVAILABLE: the partition's key was destroyed. */
enum err store_unseal(struct store *s, struct str key, struct str value, struct buf *scratch, struct str *ret,
    struct errctx *ec) CHECKED;
/* The same, always as a copy in the arena. */
enum err store_unseal_copy(struct store *s, struct str key, struct str value, struct arena *arena,
    struct str *ret, struct errctx *ec) CHECKED;
/* For the batch. NOT_FOUND: the partition's key was destroyed. */
enum err store_seal(struct store *s, struct str key, struct str value, struct buf *scratch, struct str *ret,
    struct errctx *ec) CHECKED;

/* ---- reading, for both halves ------------------------------------------------------------------------- */

struct snapshot {
    struct store *store;
    struct snapshot *prev, *next; /* snaps.lock */
    uint64_t generation;
    const rocksdb_snapshot_t *rocks; /* NULL once stale */
    bool borrowed;                   /* `rocks` is a view's, which closes later */
    rocksdb_readoptions_t *options;  /* reads at `rocks`; NULL once stale */
    struct hot_iter *iters;
    struct pin pin;
    bool exists;
    uint64_t user_no;
    struct head head;
    struct manifest *manifest; /* NULL: no cold tier */
    struct arena arena;
    struct stream_note *notes; /* what may be open in it: stream.h */
    size_t nnotes;
    bool notes_unknown;
    uint64_t input_bytes; /* hot rows copied by snapshot_input, all inputs together; to ROW_SINK_BYTES_MAX */
    uint64_t cold_bytes;  /* of files opened by snapshot_input, together; to COLD_BYTES_MAX */
    void *cold; /* descriptors and memory of snapshot_input: cold_input.c; freed by cold_snapshot_release */
};

/* One value at the snapshot, copied into the snapshot's arena. NOT_FOUND, UNAVAILABLE (stale), IO. */
enum err snapshot_get(
    struct snapshot *snap, const struct key *key, struct str *ret, struct errctx *ec) CHECKED;
/* The record of a conversation (also of a deleted one), borrowed from the snapshot's arena. */
enum err snapshot_conversation_record(struct snapshot *snap, struct str conversation_id,
    struct conversation_record *ret, struct errctx *ec) CHECKED;
/* The record with its row decoded, of one that is not deleted. NOT_FOUND. */
enum err snapshot_conversation_live(struct snapshot *snap, struct str conversation_id,
    struct conversation_record *ret, struct value *ret_values, struct errctx *ec) CHECKED;
/* The moment of another snapshot, which stays open for longer; by id, or by number when that is not 0. */
enum err snapshot_open_at(const struct snapshot *within, struct str user_id, uint64_t user_no,
    struct snapshot **ret, struct errctx *ec) CHECKED;
/* view.c: every key with the prefix, in order; fn runs without a lock, its bytes live until it returns. An
 * error of fn ends the scan. */
typedef enum err scan_fn(void *arg, struct str key, struct str value, struct errctx *ec);
enum err snapshot_scan(
    struct snapshot *snap, const struct key *prefix, scan_fn *fn, void *arg, struct errctx *ec) CHECKED;
/* What the user's conversation is a copy of. NOT_FOUND: of nothing. */
enum err snapshot_membership(struct snapshot *snap, uint32_t conv_no, uint64_t *ret_group_no,
    bool *ret_present, struct errctx *ec) CHECKED;
/* snapshot.c, for recovery: takes away what open snapshots hold of the database (db_lock write-held). */
void snapshots_make_stale(struct store *s);
/* The cache of decoded manifests. get: with a reference, NULL when not there. put takes a reference of its
 * own. Only committed records may be put. */
struct manifest *manifest_cache_get(struct store *s, uint64_t user_no, uint64_t epoch);
void manifest_cache_put(struct store *s, uint64_t user_no, struct manifest *m);
void manifest_cache_clear(struct store *s);
void manifest_cache_forget(struct store *s, uint64_t user_no);
/* erase_key.c: was this directory restored, and not yet searched for users whose key is gone? */
bool erase_lost_pending(const struct store *s);
/* iter.c: gives back what the iterator holds of the database; it is stale from then on. */
void hot_iter_make_stale(struct hot_iter *it);
/* Of the row that hot_iter_next gave last: its conversation's number. Not for SCAN_TABLE. */
uint32_t hot_iter_conv_no(const struct hot_iter *it);
/* stream_read.c: an open row's envelope with the text so far as of the snapshot, appended to `ret`. db_lock
 * is read-held and the snapshot is not stale. */
enum err stream_resolve(struct snapshot *snap, struct str row, struct buf *ret, struct errctx *ec) CHECKED;
/* stream_read.c: right after the snapshot was taken. */
enum err snapshot_take_notes(struct snapshot *snap, struct errctx *ec) CHECKED;
/* stream.c: may the record be dropped by now? */
bool stream_record_expired(struct str value, int64_t now_us);
static inline bool row_is_open(struct str row)
{
    return row.len > 1 && ((unsigned char)row.ptr[1] & ROW_OPEN) != 0;
}
/* Calls fn for every user of the catalog until it says false. Without a lock held; users that come meanwhile
 * may be missed. */
enum err store_each_user(struct store *s, bool (*fn)(void *arg, uint64_t user_no, struct str user_id),
    void *arg, struct errctx *ec) CHECKED;

/* ---- writing, for both halves ------------------------------------------------------------------------- */

/* Inside apply(). Bytes are copied into the batch; results borrow from the txn's arena. txn_get: NOT_FOUND,
 * IO. */
struct store *txn_store(struct txn *txn);
enum err txn_get(struct txn *txn, const struct key *key, struct str *ret, struct errctx *ec) CHECKED;
void txn_put(struct txn *txn, const struct key *key, struct str value);
/* Has everything put so far had room? TOO_LARGE, NO_MEMORY; loops over many users ask early. */
enum err txn_room(const struct txn *txn, struct errctx *ec) CHECKED;
void txn_delete(struct txn *txn, const struct key *key);
/* The user's head, for reading or changing: changes are stored with the group and undone with the op.
 * NOT_FOUND. */
enum err txn_head(struct txn *txn, uint64_t user_no, struct head **ret, struct errctx *ec) CHECKED;
/* The user's manifest as of now, with a reference for the caller; NULL: no cold tier. */
enum err txn_manifest(struct txn *txn, uint64_t user_no, struct manifest **ret, struct errctx *ec) CHECKED;
/* Replaces the manifest and gives head.cold_epoch m->epoch, which must be the old cold_epoch + 1 (else
 * ERR_RETRY). */
enum err txn_manifest_put(
    struct txn *txn, uint64_t user_no, const struct manifest *m, struct errctx *ec) CHECKED;
/* Sets hot_floor of a conversation's record, deleted ones included. Absent: nothing to do. */
enum err txn_conversation_floor(struct txn *txn, uint64_t user_no, struct str conversation_id,
    int64_t hot_floor, struct errctx *ec) CHECKED;
/* Physically removes the hot copy (row, id and seq entries) if it still is at `seq`; *ret_done says whether.
 * The caller has made sure that the cold tier shows the row. No change number, no event. */
enum err txn_row_release(struct txn *txn, uint64_t user_no, uint32_t conv_no, int64_t msg_id, uint64_t seq,
    bool *ret_done, struct errctx *ec) CHECKED;
/* Physically removes a tombstone if it still is at `seq`. The caller raises head.forgotten_seq. */
enum err txn_tombstone_release(struct txn *txn, uint64_t user_no, int64_t msg_id, uint64_t seq,
    bool *ret_done, struct errctx *ec) CHECKED;
/* Submits and waits for durability (SYNC, unless the op says ASYNC). Not on the committer. */
enum err store_commit_wait(struct store *s, struct commit_op *op, struct errctx *ec) CHECKED;

/* ---- blobs: blob.c ------------------------------------------------------------------------------------- */

void blob_record_encode(struct buf *b, struct str content_ref, const struct blob *blob);
enum err blob_record_decode(struct str bytes, struct str *ret_ref, struct blob *ret) CHECKED;
/* Value of SPACE_REFS. */
enum err ref_entry_get(struct str value, uint32_t *ret_rows, struct str *ret_ref) CHECKED;
/* NUL-terminated. */
void store_blob_path(const struct store *s, struct str content_ref, struct buf *ret);
/* blob_file.c: is somebody at work on the file of that name (of the uploads folder, or a content_ref)? */
bool blob_file_in_flight(struct store *s, struct str name);
/* What finish would say of a file that is there already: bytes, SHA-256, content type. */
enum err blob_describe(struct blob_reader *r, bool media, struct blob *ret, struct errctx *ec) CHECKED;
/* Under the data directory; its name begins PRIVATE_DIR. */
#define UPLOADS_DIR PRIVATE_DIR "/uploads"
/* sweep.c: all that was committed before is durable, and files that lost their last row in it are buried. Not
 * on the committer. */
enum err store_barrier_wait(struct store *s, struct errctx *ec) CHECKED;
/* What the sweeper found to be wrong. */
enum err txn_ref_repair(struct txn *txn, uint64_t user_no, struct str content_ref, int64_t user_delta,
    int64_t total_delta, struct errctx *ec) CHECKED;
enum err txn_quota_repair(struct txn *txn, uint64_t user_no, int64_t delta, struct errctx *ec) CHECKED;

/* ---- what the hot half asks of the cold half ---------------------------------------------------------- */

/* Besides what consolidate.h, orphans.h and purge.h declare (orphans_open before the first commit,
 * consolidator_open once commits run, consolidator_note after each durable group, consolidator_close while
 * commits still run): snapshot_close, while the snapshot's pins still hold. */
void cold_snapshot_release(struct snapshot *snap);

#endif
