/* Storage of users' rows: hot rows in RocksDB, old rows in Parquet, one manifest, one committer.
 *
 * Threading: store_submit(), store_barrier() and everything about snapshots may be called from any thread
 * (one snapshot or iterator: one thread at a time). commit_op.apply, .done, barriers and the listener run on
 * the committer thread and must not block. Ownership: bytes given by a snapshot live until snapshot_close, by
 * an iterator until its next step, by a txn until apply returns; commit events are reference-counted.
 *
 * What a row of `messages` is, by state (derived, never stored; W and files are the user's manifest):
 *   fresh    ins_seq > W                                  only hot
 *   tail     ins_seq <= W, seq <= as-of seq of its file   hot copy of a cold row
 *   overlay  ins_seq <= W, seq >  as-of seq of its file   newer than the cold row (updated, or tombstone)
 * The hot row wins by msg_id; scans skip tail rows and exclude overlay ids from the files. */
#ifndef KALAMDB_STORE_STORE_H
#define KALAMDB_STORE_STORE_H

#include "analytic/analytic.h"
#include "base/arena.h"
#include "base/hist.h"
#include "os/os.h"
#include "row/row.h"
#include "store/blob.h"
#include "vault/vault.h"

enum durability { DURABILITY_DEFAULT, DURABILITY_SYNC, DURABILITY_ASYNC };

struct store_config {
    const char *data_dir;
    const struct os *os;
    bool encryption; /* what the directory is made with, and must have been made with; a vault says so too */
    struct vault
        *vault; /* the caller's, open for as long as the store; NULL: there is none, nothing is sealed */
    int *
        lock_fd; /* of store_lock, the store's from store_open on (-1 then); NULL: it takes the lock itself */
    struct analytic *analytic; /* writes and reads Parquet for consolidation */
    enum durability durability;
    int async_window_ms;
    uint64_t disk_reserve_bytes;
    int consolidate_rows, consolidate_min_rows;
    int64_t consolidate_interval_ms; /* <= 0: no background consolidation at all */
    int hot_tail_rows;
    int64_t tombstone_retention_s;
    size_t block_cache_bytes, write_buffer_bytes;
    uint64_t cold_cache_bytes; /* of Parquet files kept in memory for workers; 0: none */
};

struct store;
struct snapshot;
struct txn;

/* Makes the directory when absent, and holds it against other processes until the descriptor is closed: for
 * whoever touches what lies in it (the key ring) before the store is open. CONFLICT: another process has it;
 * INVALID_REQUEST: half restored; IO. */
enum err store_lock(const char *data_dir, const struct os *os, int *ret_fd, struct errctx *ec) CHECKED;
/* Takes the lock file, sets aside files nobody names, finishes interrupted releases, reads heads lazily.
 * Errors: CONFLICT (another process holds the directory), INVALID_REQUEST (newer format; user folders beside
 * an empty catalog), IO, CORRUPT — all with a message an operator can act on in ec->message. */
enum err store_open(const struct store_config *cfg, struct store **ret, struct errctx *ec) CHECKED;
/* Drains the queue, syncs, stops consolidation, closes. */
void store_close(struct store *s);

/* ---- reading
 * ------------------------------------------------------------------------------------------------ */

/* A consistent view of one user: RocksDB snapshot, manifest, pinned files. An unknown user gives an empty
 * one. */
enum err snapshot_open(struct store *s, struct str user_id, struct snapshot **ret, struct errctx *ec) CHECKED;
void snapshot_close(struct snapshot *snap);
bool snapshot_exists(const struct snapshot *snap);
uint64_t snapshot_seq(const struct snapshot *snap);    /* the user's last _seq; 0 when new */
struct str snapshot_feed(const struct snapshot *snap); /* "" for an unknown user: see store_barrier */
int64_t snapshot_total_messages(const struct snapshot *snap);
/* Everything with _seq above this is in the hot tier: a replay from there never touches a file. */
uint64_t snapshot_cold_max_seq(const struct snapshot *snap);
/* Deletions up to this _seq have been forgotten (older than tombstone_retention); 0: none. */
uint64_t snapshot_forgotten_seq(const struct snapshot *snap);
/* Changes whenever rows move between tiers or files (not by overlays). */
uint64_t snapshot_cold_epoch(const struct snapshot *snap);
bool snapshot_has_cold(const struct snapshot *snap);

/* All rows with msg_id >= floor are hot: of one conversation, or of the user. 0: everything is hot.
 * INT64_MAX: nothing can be said. */
int64_t snapshot_conversation_floor(struct snapshot *snap, struct str conversation_id);
int64_t snapshot_user_floor(const struct snapshot *snap);

/* Conversation row (schema_conversations). NOT_FOUND when absent. Values live until snapshot_close. */
enum err snapshot_conversation(
    struct snapshot *snap, struct str conversation_id, struct value *ret_values, struct errctx *ec) CHECKED;
/* Hot message by id, tombstones included. NOT_FOUND: not hot (cold perhaps). Values live until
 * snapshot_close. */
enum err snapshot_message(struct snapshot *snap, int64_t msg_id, struct row_meta *ret_meta,
    struct value *ret_values, struct errctx *ec) CHECKED;
/* Position for lastMsgId: ins_seq of the message, or of the newest message with a smaller id; 0 when none.
 * Looks in the hot tier only; sets *ret_cold when the answer must come from files. */
enum err snapshot_arrival(
    struct snapshot *snap, int64_t msg_id, uint64_t *ret_ins_seq, bool *ret_cold, struct errctx *ec) CHECKED;

enum scan_order {
    SCAN_BY_CONVERSATION, /* hot messages of one conversation by msg_id */
    SCAN_BY_ID,           /* hot messages of the user by msg_id */
    SCAN_BY_SEQ,          /* hot messages and tombstones by _seq, ascending only */
    SCAN_TABLE            /* rows of another table (conversations, conversation_users), key order */
};
struct scan_spec {
    enum scan_order order;
    bool descending;
    bool tombstones;            /* yield them too (SCAN_BY_SEQ) */
    struct str conversation_id; /* SCAN_BY_CONVERSATION; with SCAN_BY_SEQ and SCAN_TABLE a filter, when ptr is
                                   set: the scan visits no other conversation's rows */
    int64_t id_min, id_max;     /* inclusive; 0 and INT64_MAX: open */
    uint64_t seq_min, seq_max;
    const struct schema *table; /* SCAN_TABLE */
};
struct hot_iter;
enum err hot_iter_open(
    struct snapshot *snap, const struct scan_spec *spec, struct hot_iter **ret, struct errctx *ec) CHECKED;
/* ERR_OK with a row, ERR_NOT_FOUND at the end, else the error (never an early end). *ret_row is the envelope.
 * Rows of every state are yielded, fresh, tail and overlay alike. */
enum err hot_iter_next(struct hot_iter *it, struct str *ret_row, struct errctx *ec) CHECKED;
void hot_iter_close(struct hot_iter *it);

/* What the statement says about the rows it wants; wide open = no restriction. Only ever prunes: the
 * statement's own filter still decides. */
struct scan_bounds {
    int64_t id_min, id_max;
    int64_t ts_min, ts_max;
    int64_t seq_min, seq_max;
    struct str conversation_id; /* ptr NULL: any */
};
#define SCAN_BOUNDS_OPEN ((struct scan_bounds){0, INT64_MAX, INT64_MIN, INT64_MAX, 0, INT64_MAX, STR_NULL})

/* Both tiers as one input for the workers: hot rows copied into a memfd, pruned files by descriptor. Files
 * stay pinned and descriptors open until snapshot_close. */
enum err snapshot_input(struct snapshot *snap, const struct schema *table, const struct scan_bounds *bounds,
    bool with_tombstones, struct analytic_input *ret, struct errctx *ec) CHECKED;
/* Gives back what all inputs so far hold: for long reads, input by input. */
void snapshot_input_done(struct snapshot *snap);
/* Cuts the user's messages into runs of ids of about so many rows and bytes: the last id of each, ascending,
 * the last one INT64_MAX. The caller frees. */
enum err snapshot_split(struct snapshot *snap, uint64_t rows_max, uint64_t bytes_max, int64_t **ret_ids,
    size_t *ret_n, struct errctx *ec) CHECKED;

/* ---- writing
 * ------------------------------------------------------------------------------------------------ */

/* One atomic commit over any number of users. apply() runs on the committer inside the shared batch: an error
 * other than OK undoes this op alone. done() gets apply's error, or OK once durable (sync) or handed to the
 * OS (async), or OUTCOME_UNKNOWN / UNAVAILABLE. The op is the caller's again when done() is entered. */
struct commit_op {
    enum err (*apply)(struct commit_op *op, struct txn *txn, struct errctx *ec);
    void (*done)(struct commit_op *op, enum err err, const struct errctx *ec);
    enum durability durability;
    /* On whose word, by a token issued then (INT64_MIN: it does not say when): UNAUTHENTICATED once that user
     * was erased after it. 0: by nobody's. The bytes live as long as the op. */
    struct str author;
    int64_t author_issued_s;
    struct commit_op *next; /* private from here */
    enum err result;
    struct errctx *failure;
    int64_t queued_us;
};
void store_submit(struct store *s, struct commit_op *op);

/* fn runs on the committer when all that was committed before is durable and published; a snapshot opened
 * inside shows exactly that. With `user_id` set the user is created first if new (so that it has a feed). On
 * a failed store fn gets the error. */
struct barrier_op {
    void (*fn)(struct barrier_op *op, enum err err);
    struct str user_id;
    struct barrier_op *next; /* private */
    struct commit_op create;
};
void store_barrier(struct store *s, struct barrier_op *op);

struct arena *txn_arena(struct txn *txn);
int64_t txn_now_us(const struct txn *txn);
/* The user's number; created (with a fresh feed) when `create`, else NOT_FOUND. */
enum err txn_user(
    struct txn *txn, struct str user_id, bool create, uint64_t *ret_user_no, struct errctx *ec) CHECKED;
/* Is that still a user's partition? NOT_FOUND: the user is erased, and nothing may be written there. */
enum err txn_partition(struct txn *txn, uint64_t user_no, struct errctx *ec) CHECKED;
/* Begins a new history of the user: another feed name, so that those who follow the old one drop what they
 * hold. */
enum err txn_feed_renew(struct txn *txn, uint64_t user_no, struct errctx *ec) CHECKED;
uint64_t txn_cold_epoch(struct txn *txn, uint64_t user_no);
int64_t txn_total_messages(struct txn *txn, uint64_t user_no);

/* A conversation of one user, read for change. Values borrow from the txn's arena. */
struct conversation {
    uint64_t user_no;
    uint32_t conv_no; /* stable for (user, conversation id), also after DELETE and re-creation */
    bool exists;
    int64_t hot_floor;
    uint64_t group_no; /* the group that it is, or last was, a copy of; 0: none, an ai conversation */
    bool present;      /* the user is a present member of that group */
    struct value values[CONV_NCOLUMNS];
};
/* Always OK for an absent one (exists = false, conv_no reserved on first put). */
enum err txn_conversation(struct txn *txn, uint64_t user_no, struct str conversation_id,
    struct conversation *ret, struct errctx *ec) CHECKED;
/* Writes the row (creating it). `announce` publishes a conversation event: after title, members or markers
 * changed. */
enum err txn_conversation_put(
    struct txn *txn, struct conversation *c, bool announce, struct errctx *ec) CHECKED;
enum err txn_conversation_delete(struct txn *txn, struct conversation *c, struct errctx *ec) CHECKED;

/* Snowflake: strictly increasing over all users, restarts and clock steps. */
int64_t txn_next_msg_id(struct txn *txn);
/* Highest id given so far: a supplied id must be below (contract 2). */
int64_t txn_last_msg_id(struct txn *txn);
/* Is the id taken in this user's table, in either tier? Cold: by files' id ranges only, *ret_unsure set where
 * a file's range covers the id (the caller then looks it up through a worker before it submits again with
 * id_known_free). */
enum err txn_msg_id_taken(struct txn *txn, uint64_t user_no, int64_t msg_id, bool *ret_taken,
    bool *ret_unsure, struct errctx *ec) CHECKED;

/* Row + id index + _seq index + head + the conversation's counters, in one go. values[MSG_ID] etc. are set by
 * the caller except MSG_SEQ / MSG_INS_SEQ, which are assigned. *c is updated and put. */
enum err txn_message_insert(
    struct txn *txn, struct conversation *c, struct value *values, struct errctx *ec) CHECKED;
/* Replaces or deletes a row that the caller read at `expected_seq` under a snapshot with `cold_epoch`:
 * ERR_RETRY when it has changed since, or moved between tiers in a way that cannot be told apart. `values` =
 * all columns of the row as read, with the changes; `ref_read` its content_ref as read (ptr NULL: none),
 * which counts where the row is not hot. Counters and refs follow. */
enum err txn_message_update(struct txn *txn, struct conversation *c, struct value *values,
    uint64_t expected_seq, uint64_t ins_seq, uint64_t cold_epoch, struct str ref_read,
    struct errctx *ec) CHECKED;
enum err txn_message_delete(struct txn *txn, struct conversation *c, const struct value *values,
    uint64_t expected_seq, uint64_t ins_seq, uint64_t cold_epoch, struct errctx *ec) CHECKED;
/* After deletions: recomputes first/last_msg_id from the hot rows and the cold candidates (0: none), which
 * the caller found under `cold_epoch` (ignored when the user has no files). ERR_RETRY when they are stale.
 * Puts *c. */
enum err txn_conversation_bounds(struct txn *txn, struct conversation *c, int64_t cold_first,
    int64_t cold_last, uint64_t cold_epoch, struct errctx *ec) CHECKED;

/* All rows of the conversation with msg_id >= *ret are hot; 0: all there are. */
enum err txn_conversation_hot_from(
    struct txn *txn, const struct conversation *c, int64_t *ret, struct errctx *ec) CHECKED;
/* Smallest and largest hot id of the conversation, this group's own changes included; 0: none. */
enum err txn_hot_bounds(struct txn *t, const struct conversation *c, int64_t *ret_first, int64_t *ret_last,
    struct errctx *ec) CHECKED;

/* Messages of others above a marker, counted in both tiers of a snapshot. */
struct unread_count {
    int64_t unread;
    uint64_t seq, cold_epoch; /* of the snapshot */
};
/* Moves the owner's read marker in *c (NULL: none) and settles the unread counter: by itself where the marker
 * is at or above the last message, else by `counted` (NULL: not counted yet) and what came since. ERR_RETRY
 * with *ret_count: count again. Puts nothing. */
enum err txn_conversation_mark(struct txn *txn, struct conversation *c, struct value marker,
    const struct unread_count *counted, bool *ret_count, struct errctx *ec) CHECKED;

/* Idempotency keys, kept idempotency_retention (31 days). NOT_FOUND when unused. */
enum err txn_client_id_find(struct txn *txn, uint64_t user_no, uint32_t conv_no, struct str from,
    struct str client_id, int64_t *ret_msg_id, struct errctx *ec) CHECKED;
enum err txn_client_id_put(struct txn *txn, uint64_t user_no, uint32_t conv_no, struct str from,
    struct str client_id, int64_t msg_id, struct errctx *ec) CHECKED;

/* Members of a conversation: one list, keyed by member id. For an `ai` conversation it is the owner alone,
 * written with the conversation. Values: schema_conversation_users. */
enum err txn_member(struct txn *txn, const struct conversation *c, struct str member,
    struct value *ret_values, struct errctx *ec) CHECKED;
enum err txn_member_put(
    struct txn *txn, const struct conversation *c, const struct value *values, struct errctx *ec) CHECKED;
enum err txn_members_delete(struct txn *txn, const struct conversation *c, struct errctx *ec) CHECKED;

/* ---- publication
 * -------------------------------------------------------------------------------------------- */

enum change_op {
    CHANGE_INSERT,
    CHANGE_UPDATE,
    CHANGE_DELETE,
    CHANGE_CONVERSATION, /* from here on without a number */
    CHANGE_APPEND,       /* text of an open message: stream.h */
    CHANGE_SIGNAL        /* never stored: live's own */
};
struct change {
    enum change_op op;
    uint64_t seq, ins_seq; /* 0 where there is no number */
    uint32_t conv_no;
    struct str conversation_id;
    struct str row; /* envelope: messages, or the conversations row; CHANGE_APPEND: a stream_delta */
};
/* All changes of one user in one durable group, in _seq order. Reference-counted; starts with the store's
 * reference, which it drops after the listener returned. */
struct commit_event {
    _Atomic int refs;
    uint64_t user_no;
    size_t nchanges;
    struct change *changes;
    struct arena arena;
};
void commit_event_ref(struct commit_event *ev);
void commit_event_unref(struct commit_event *ev);
struct store_listener {
    /* Does anybody follow this user? Asked on the committer before an event is built. */
    bool (*wanted)(void *arg, uint64_t user_no);
    void (*committed)(void *arg, struct commit_event *ev);
    /* The store was reopened after a failure: what is in memory about heads is void. */
    void (*reset)(void *arg);
    void *arg;
};
void store_set_listener(struct store *s, const struct store_listener *l);
/* The number of a snapshot's user; 0 when unknown. */
uint64_t snapshot_user_no(const struct snapshot *snap);
struct str snapshot_user_id(const struct snapshot *snap); /* "" when unknown; until snapshot_close */

/* ---- upkeep
 * ------------------------------------------------------------------------------------------------- */

/* Consolidates one user, or all (user_id.ptr NULL), whatever the thresholds; rewrites files with overlays;
 * purges deleted bytes from files, SSTs and WAL. Blocks; any thread but the committer. */
enum err store_consolidate(struct store *s, struct str user_id, struct errctx *ec) CHECKED;
/* Ends consolidation for good, running and waiting requests with UNAVAILABLE, within moments: the first step
 * of a shutdown. Any thread but the committer; reading and writing go on. */
void store_stop_consolidation(struct store *s);
/* UNAVAILABLE while writes are stopped (failed disk, reserve, closing), with the reason. */
enum err store_writable(struct store *s, struct errctx *ec) CHECKED;

struct store_stats {
    uint64_t commits, batches, rows_inserted, rows_updated, rows_deleted, bytes_hot, rows_hot, rows_cold,
        bytes_cold, files_cold, users, queue_depth, consolidations, consolidate_failures, reopens;
    int64_t free_bytes;
    bool writable;
    uint64_t cold_cache_bytes, cold_cache_hits, cold_cache_misses; /* of Parquet files opened for workers */
};
void store_stats(struct store *s, struct store_stats *ret);
/* Durable commit latency from submit to done, and fsync alone; µs. */
const struct hist *store_commit_hist(struct store *s);
const struct hist *store_sync_hist(struct store *s);

/* Folder name of a user or conversation id (contract 1). */
void store_folder_name(struct buf *b, struct str id);

#endif
