/* The committer: one thread that turns queued operations into groups, each one atomic write with one fsync.
 *
 *   queue → apply() of each op into one batch (a failed op is undone by itself) → write, fsync → done() of
 * each → publication to the listener → barriers
 *
 * In async mode the write is not fsynced; acknowledgement follows the write, the fsync comes within
 * async_window_ms, and publication waits for it. Everything below belongs to the committer thread, but for
 * the queue. */
#ifndef KALAMDB_STORE_COMMITTER_H
#define KALAMDB_STORE_COMMITTER_H

#include "store/ids.h"
#include "store/internal.h"
#include "store/overlay.h"

/* ---- users known to the committer: heads.c ------------------------------------------------------------ */

#define HEADS_MAX 32768 /* cached between groups (15 MB); beyond that the cache starts over */
#define HEADS_BUCKETS 16384

struct head_entry {
    struct head_entry *next_by_id, *next_by_no, *next_dirty;
    uint64_t user_no;
    bool dirty;          /* differs from the database */
    uint64_t touched_op; /* the op that already has an undo record of this head */
    struct head head;
    char user_id[];
};

struct head_undo {
    struct head_entry *entry;
    bool created; /* by this op: forget it */
    struct head head;
};

struct heads {
    struct head_entry **by_id, **by_no;
    struct head_entry *dirty;
    size_t count;
    uint64_t op; /* current op: begins at 1 */
    struct head_undo *undo;
    size_t nundo, cap_undo;
};

enum err heads_init(struct heads *h) CHECKED;
void heads_release(struct heads *h);
void heads_clear(struct heads *h);
struct head_entry *heads_by_id(struct heads *h, struct str user_id);
struct head_entry *heads_by_no(struct heads *h, uint64_t user_no);
/* NULL: out of memory. */
struct head_entry *heads_add(struct heads *h, uint64_t user_no, const struct head *head, bool created);
/* Before the first change by an op: remembers the head as it was. */
enum err heads_touch(struct heads *h, struct head_entry *e) CHECKED;
void heads_begin_op(struct heads *h);
void heads_undo_op(struct heads *h);
/* The group is written: nothing is dirty any more. */
void heads_written(struct heads *h);

/* ---- changes that wait for durability: publish.c ------------------------------------------------------ */

struct pending_change {
    uint64_t user_no;
    size_t order;
    struct change change;
};
struct pending {
    struct pending_change *items;
    size_t count, cap;
    struct arena arena;
};
#define PENDING_BYTES_MAX ((size_t)256 << 20) /* an op that would pass it fails */
#define PENDING_BYTES_SYNC ((size_t)16 << 20) /* async mode syncs early */

/* Bytes of the change are copied. */
enum err pending_add(struct pending *p, uint64_t user_no, const struct change *c) CHECKED;
void pending_clear(struct pending *p);
/* One event per user to the listener, then clears. An event that finds no memory is dropped and the listener
 * is reset: followers go back to storage. */
void pending_publish(struct pending *p, const struct store_listener *l);

/* ---- the transaction ---------------------------------------------------------------------------------- */

/* Record CATALOG_STATE. */
struct catalog_state {
    struct ids ids;
    uint64_t next_user_no;
    int64_t rows_hot; /* live rows in MESSAGES */
    uint64_t groups;  /* of the numbers given, how many went to groups */
};
static inline uint64_t catalog_users(const struct catalog_state *c)
{
    return c->next_user_no - 1 - c->groups;
}
void catalog_encode(struct buf *b, const struct catalog_state *c);
enum err catalog_decode(struct str bytes, struct catalog_state *ret) CHECKED;

/* Overlay entries of one kind that the commit group wrote, by number; one may be there twice. */
struct put_notes {
    size_t *at;
    size_t n, cap;
};

/* Present members of groups, by number of the group: txn_group.c. */
#define GROUP_LISTS_BUCKETS 1024
#define GROUP_LISTS_MEMBERS_MAX ((size_t)1 << 20) /* beyond that the cache starts over */
struct group_lists {
    struct group_list *buckets[GROUP_LISTS_BUCKETS];
    size_t members;
    bool full;
};
void group_lists_clear(struct group_lists *l);

/* ---- committed records by key: records.c -------------------------------------------------------------- */

#define RECORDS_BYTES_MAX ((size_t)32 << 20) /* beyond that the cache starts over, between groups */
#define RECORD_BYTES_MAX ((size_t)64 << 10)  /* larger values are not kept */
struct records {
    struct record **buckets;
    size_t bytes;
};
/* Is a key of the kind that is kept? */
bool records_take(struct str key);
/* The value, until the commit group is written. False: not known. */
bool records_get(const struct records *r, struct str key, struct str *ret);
/* What a read found in the database. Not for a key that is there: its value may be borrowed. */
void records_put(struct records *r, struct str key, struct str value);
/* The group is in the database. */
void records_written(struct records *r, const struct overlay *o);
void records_clear(struct records *r);
void records_release(struct records *r);

/* Keys of files that rows of the current op may come to name: blob_key.c. */
struct blob_keys {
    struct blob_key_offer *items;
    size_t n, cap;
    uint64_t source_no; /* txn_refs_from; 0: nobody */
};
enum err blob_keys_offer(struct blob_keys *k, struct str content_ref, const uint8_t key[BLOB_KEY_BYTES],
    struct errctx *ec) CHECKED;
/* The user comes to hold the ref: puts its key for them, where it has one and somebody at hand knows it. */
enum err txn_blob_key_take(
    struct txn *t, uint64_t user_no, struct str content_ref, struct errctx *ec) CHECKED;
/* The user holds it no more. */
void txn_blob_key_drop(struct txn *t, uint64_t user_no, struct str content_ref);
/* Puts the mask on the digest. */
void blob_mask(struct blob *b, const uint8_t key[BLOB_KEY_BYTES]);
/* Wipes. */
void blob_keys_clear(struct blob_keys *k);
void blob_keys_release(struct blob_keys *k);

struct txn {
    struct store *store;
    struct committer *committer;
    struct overlay overlay;
    struct put_notes puts;        /* message rows */
    struct put_notes member_puts; /* members of groups */
    struct group_lists group_lists;
    struct records records;
    bool members_changed; /* since the last written commit group: lists read now must not be cached */
    struct heads heads;
    struct catalog_state catalog, catalog_saved, catalog_written;
    struct pending pending;
    size_t pending_saved;
    struct buf buried; /* content_refs without rows, to be buried when durable */
    size_t buried_saved;
    struct arena arena; /* of the current op */
    struct buf scratch, columns;
    struct errctx unsealable; /* of the current op: why a value it put has no key; ERR_OK: all have */
    uint64_t ready_owner;     /* of the current op: the partition whose key was asked for last */
    int64_t now_us;
    struct blob_keys blob_keys;          /* of the current op */
    bool stream_opening, stream_closing; /* of the current op: stream.h */
    uint64_t stream_home, opened, opened_home;
    bool refuse_writes; /* only barriers run: creating a user is UNAVAILABLE */
    uint64_t inserted, updated, deleted, inserted_saved, updated_saved, deleted_saved;
};
#define TXN_ARENA_BYTES_MAX ((size_t)512 << 20)

/* txn.c, for committer.c. */
void txn_begin_op(struct txn *t);
void txn_undo_op(struct txn *t);
/* Heads and catalog into the batch. */
void txn_finish_group(struct txn *t);
/* What every writing function needs: the entry of the user, touched. */
enum err txn_entry(struct txn *t, uint64_t user_no, struct head_entry **ret, struct errctx *ec) CHECKED;
/* blob.c: buries what lost its last row; the group is durable. */
void txn_bury(struct txn *t);
/* Before a message row is encoded: makes it an open one where the op asks for that. */
void txn_stream_mark(struct txn *t, uint64_t partition, struct row_meta *meta);
/* An event, if anybody listens. */
enum err txn_announce(struct txn *t, uint64_t user_no, const struct change *c, struct errctx *ec) CHECKED;
/* Does the message count as unread in this conversation of `self`? txn_messages.c */
bool conversation_unread(const struct conversation *c, const struct value *values, struct str self);
/* Is somebody there to take events of this user? */
bool txn_followed(struct txn *t, uint64_t user_no);
/* Remembers the entry that was just put under k. */
enum err txn_note_put(struct txn *t, struct put_notes *notes, const struct key *k, struct errctx *ec) CHECKED;
/* txn_conversation without group_no and present. */
enum err txn_conversation_read(struct txn *txn, uint64_t user_no, struct str conversation_id,
    struct conversation *ret, struct errctx *ec) CHECKED;
/* What all copies of a row have in common: its columns, encoded; stays until the next call. */
enum err txn_message_columns(
    struct txn *txn, const struct value *values, struct str *ret, struct errctx *ec) CHECKED;
/* txn_message_insert of a row whose columns are encoded; its content_ref is the caller's to count. The
 * numbers it got are in *ret. */
enum err txn_message_copy(struct txn *txn, struct conversation *c, const struct value *values,
    struct str columns, struct row_meta *ret, struct errctx *ec) CHECKED;
void txn_put_conversation_record(struct txn *t, uint64_t user_no, struct str conversation_id,
    uint32_t conv_no, int64_t hot_floor, bool deleted, const struct value *values);

/* ---- the thread --------------------------------------------------------------------------------------- */

#define GROUP_OPS_MAX 1024
#define GROUP_BYTES_MAX ((size_t)8 << 20)
#define PUTS_KEEP 16384
#define RECOVER_INTERVAL_US 200000

struct committer {
    struct store *store;
    pthread_t thread;
    struct {
        pthread_mutex_t lock;
        pthread_cond_t wake;
        struct commit_op *first, **last;
        bool waiting, stop, stopped;
    } queue;
    _Atomic uint64_t queued;
    struct txn txn;
    rocksdb_writebatch_t *batch;
    struct buf sealed; /* one value on its way into the batch */
    rocksdb_writeoptions_t *write_sync, *write_async;
    bool unsynced;   /* something is written but not yet fsynced */
    uint64_t synced; /* sequence number up to which the log is: wal_check.h; 0: not known */
    int64_t unsynced_since_us, recover_after_us;
    pthread_mutex_t listener_lock; /* held while the listener or consolidator_note is called */
    struct store_listener listener;
    bool notes;           /* the consolidator is there to be told */
    struct errctx reason; /* of a failure */
};

enum err committer_start(struct store *s, struct errctx *ec) CHECKED;
/* Drains, syncs, joins, frees. */
void committer_stop(struct store *s);

void committer_notes(struct store *s, bool on);

/* recover.c: state read from the database after open and reopen. */
enum err committer_load(struct committer *c, struct errctx *ec) CHECKED;
/* One attempt to bring a failed store back; ERR_OK when it runs again. */
enum err committer_recover(struct committer *c, struct errctx *ec) CHECKED;

#endif
