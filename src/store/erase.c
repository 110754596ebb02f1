#include "store/erase.h"
#include "store/cold.h"
#include "store/cold_input.h"
#include "store/committer.h"
#include "store/erase_int.h"
#include "store/orphans.h"
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

enum { RECORD_FORMAT = 1, CHUNK_KEYS = 500, CHUNK_REFS = 100, BEGIN_ATTEMPTS = 100, SCAN_KEYS = 256 };
#define CHUNK_BYTES ((size_t)1 << 20)
#define PLACES_BYTES_MAX ((size_t)64 << 20)

void store_erase_set_hook(struct store *s, const struct erase_hook *hook)
{
    s->erase_hook = hook != NULL ? *hook : (struct erase_hook){0};
}

enum err erase_step_done(struct store *s, enum erase_step at, struct errctx *ec)
{
    if (s->erase_hook.step != NULL && !s->erase_hook.step(s->erase_hook.arg, at))
        return err_set(ec, ERR_UNAVAILABLE, "the server is shutting down");
    return cold_stopping(s, ec);
}

/* ---- the record --------------------------------------------------------------------------------------- */

static void record_put(struct txn *txn, const struct erasure *e)
{
    struct buf b = BUF_INIT(0);
    struct key k = key_named(CATALOG_USER_NO, CATALOG_ERASED, e->user_id);
    buf_u8(&b, RECORD_FORMAT);
    buf_u8(&b, e->finished);
    buf_zigzag(&b, e->erased_at_us);
    buf_varint(&b, e->user_no);
    buf_varint(&b, e->messages);
    buf_varint(&b, e->files);
    buf_varint(&b, e->bytes);
    buf_u8(&b, e->sent);
    if (b.failed)
        txn->overlay.failed = true; /* fails the op */
    else
        txn_put(txn, &k, buf_view(&b));
    buf_release(&b);
}

static enum err record_decode(struct str bytes, struct erasure *ret, struct errctx *ec)
{
    struct reader r = reader_of(bytes);
    struct erasure e = {.user_id = ret->user_id};
    bool known = read_u8(&r) == RECORD_FORMAT;
    e.finished = read_u8(&r) != 0;
    e.erased_at_us = read_zigzag(&r);
    e.user_no = read_varint(&r);
    e.messages = read_varint(&r);
    e.files = read_varint(&r);
    e.bytes = read_varint(&r);
    e.sent = read_u8(&r);
    if (!known || r.bad || reader_left(&r) != 0 || e.erased_at_us <= 0 || e.user_no == 0)
        return err_internal(ec, ERR_CORRUPT, "the record of an erasure is damaged");
    *ret = e;
    return ERR_OK;
}

/* With ret->user_id set. NOT_FOUND: never erased. */
static enum err record_get(struct txn *txn, struct erasure *ret, struct errctx *ec)
{
    struct str value;
    struct key k = key_named(CATALOG_USER_NO, CATALOG_ERASED, ret->user_id);
    enum err err = txn_get(txn, &k, &value, ec);
    return err == ERR_OK ? record_decode(value, ret, ec) : err;
}

/* ---- scans outside of the committer ------------------------------------------------------------------- */

typedef enum err pair_fn(void *arg, struct str key, struct str value, struct errctx *ec);

enum err erase_read_pairs(struct store *s, struct key *from, const struct key *end, int max, struct buf *out,
    int *ret_n, struct errctx *ec)
{
    struct buf scratch = BUF_INIT(0);
    struct errctx why;
    int n = 0;
    buf_clear(out);
    pthread_rwlock_rdlock(&s->db_lock);
    if (s->db == NULL) {
        pthread_rwlock_unlock(&s->db_lock);
        return err_set(ec, ERR_UNAVAILABLE, "the storage is being recovered");
    }
    rocksdb_readoptions_t *options = rocksdb_readoptions_create();
    rocksdb_readoptions_set_total_order_seek(options, 1); /* over all spaces of a partition */
    rocksdb_readoptions_set_iterate_upper_bound(options, end->bytes, end->len);
    rocksdb_iterator_t *it = rocksdb_create_iterator(s->db, options);
    for (rocksdb_iter_seek(it, from->bytes, from->len);
         n < max && out->len < CHUNK_BYTES && rocksdb_iter_valid(it); rocksdb_iter_next(it), n++) {
        size_t klen, vlen;
        const char *key = rocksdb_iter_key(it, &klen), *value = rocksdb_iter_value(it, &vlen);
        struct str opened;
        enum err u = store_unseal(s, str_n(key, klen), str_n(value, vlen), &scratch, &opened, &why);
        /* Keys are enough to delete what cannot be read any more; its bytes are counted. */
        if (u != ERR_OK)
            opened = u == ERR_UNAVAILABLE ? str_n(value, vlen) : STR("");
        buf_lstr(out, str_n(key, klen));
        buf_lstr(out, opened);
        if (klen < sizeof from->bytes) {
            memcpy(from->bytes, key, klen);
            from->bytes[klen] = '\0';
            from->len = klen + 1;
        }
    }
    char *message = NULL;
    rocksdb_iter_get_error(it, &message);
    rocksdb_iter_destroy(it);
    rocksdb_readoptions_destroy(options);
    pthread_rwlock_unlock(&s->db_lock);
    buf_release(&scratch);
    enum err err = store_rocks_err(ec, message, "erase: scan");
    if (err == ERR_OK && out->failed)
        err = err_internal(ec, ERR_NO_MEMORY, "erase: out of memory");
    *ret_n = n;
    return err;
}

static enum err each_record(struct store *s, pair_fn *fn, void *arg, struct errctx *ec)
{
    struct key from = key_prefix(CATALOG_USER_NO, CATALOG_ERASED), end = key_after(&from);
    struct buf found = BUF_INIT(0);
    enum err err = ERR_OK;
    for (int n = 1; err == ERR_OK && n > 0;) {
        err = erase_read_pairs(s, &from, &end, SCAN_KEYS, &found, &n, ec);
        struct reader r = reader_of(buf_view(&found));
        for (int i = 0; err == ERR_OK && i < n; i++) {
            struct str key = read_lstr(&r), value = read_lstr(&r);
            err = fn(arg, str_n(key.ptr + KEY_PREFIX_BYTES, key.len - KEY_PREFIX_BYTES), value, ec);
        }
    }
    buf_release(&found);
    return err;
}

static enum err load_record(void *arg, struct str user_id, struct str value, struct errctx *ec)
{
    struct store *s = arg;
    struct erasure e = {.user_id = user_id};
    enum err err = record_decode(value, &e, ec);
    return err == ERR_OK ? erased_set(&s->erased, user_id, e.erased_at_us, ec) : err;
}

enum err erased_load(struct store *s, struct errctx *ec)
{
    return each_record(s, load_record, s, ec);
}

struct unfinished {
    enum err (*fn)(void *arg, const struct erasure *e, struct errctx *ec);
    void *arg;
};

static enum err unfinished_record(void *arg, struct str user_id, struct str value, struct errctx *ec)
{
    const struct unfinished *u = arg;
    struct erasure e = {.user_id = user_id};
    enum err err = record_decode(value, &e, ec);
    return err == ERR_OK && !e.finished ? u->fn(u->arg, &e, ec) : err;
}

enum err store_erase_unfinished(struct store *s,
    enum err (*fn)(void *arg, const struct erasure *e, struct errctx *ec), void *arg, struct errctx *ec)
{
    struct unfinished u = {fn, arg};
    return each_record(s, unfinished_record, &u, ec);
}

/* ---- begin -------------------------------------------------------------------------------------------- */

struct begin_op {
    struct commit_op op;
    struct store *store;
    struct erasure e;
    bool begun;       /* else: found */
    bool readable;    /* their values can be opened: not in a backup from before an erasure */
    uint64_t user_no; /* whose memberships were read, and how many conversations there were then */
    uint32_t next_conv_no;
    struct erase_places places;
    uint64_t rows, bytes, files; /* of the cold tier that goes */
    erase_leave_fn *leave;
};

/* A user that wrote nothing since: subscribing is enough to be one, and no reason to erase again. */
static bool is_shell(const struct head *h)
{
    return h->seq == 0 && h->next_conv_no == 1;
}

static enum err note_work(struct begin_op *o, struct txn *txn, uint64_t user_no, struct errctx *ec)
{
    struct manifest *m = NULL;
    enum err err = o->readable ? txn_manifest(txn, user_no, &m, ec) : ERR_OK;
    if (err != ERR_OK)
        return err;
    o->files = m != NULL ? m->nfiles : 0;
    o->rows = m != NULL ? manifest_rows(m) : 0;
    o->bytes = m != NULL ? manifest_bytes(m) : 0;
    err = erase_work_put(txn, user_no, m, &o->places, ec);
    manifest_unref(m);
    return err;
}

static enum err apply_begin(struct commit_op *op, struct txn *txn, struct errctx *ec)
{
    struct begin_op *o = (struct begin_op *)op;
    struct erasure before = {.user_id = o->e.user_id};
    struct head *head = NULL;
    uint64_t user_no = 0;
    enum err err = record_get(txn, &before, ec);
    if (err != ERR_OK && err != ERR_NOT_FOUND)
        return err;
    bool known = err == ERR_OK;
    err = txn_user(txn, o->e.user_id, false, &user_no, ec);
    if (err == ERR_OK)
        err = txn_head(txn, user_no, &head, ec);
    if (err != ERR_OK && (err != ERR_NOT_FOUND || !known))
        return err;
    o->begun = !known || (before.finished && err == ERR_OK && !is_shell(head));
    if (!o->begun) {
        o->e = before;
        return ERR_OK;
    }
    if (user_no != o->user_no || head->next_conv_no != o->next_conv_no)
        return ERR_RETRY; /* a membership may have come since */
    err = erase_places_leave(txn, user_no, o->e.user_id, &o->places, o->leave, ec);
    if (err != ERR_OK)
        return err;
    o->e.user_no = user_no;
    o->e.erased_at_us = txn_now_us(txn);
    o->e.messages = (uint64_t)(head->total_messages > 0 ? head->total_messages : 0);
    err = note_work(o, txn, user_no, ec);
    if (err != ERR_OK)
        return err;
    struct key k = key_named(CATALOG_USER_NO, CATALOG_USERS, o->e.user_id);
    txn_delete(txn, &k);
    head->user_id_len = 0; /* the committer does not find it by its id, and lets nobody write to it */
    record_put(txn, &o->e);
    return erased_set(&o->store->erased, o->e.user_id, o->e.erased_at_us, ec);
}

/* What the set says when the commit did not come about, as far as one can know. */
static void take_back(struct store *s, struct str user_id)
{
    struct key k = key_named(CATALOG_USER_NO, CATALOG_ERASED, user_id);
    struct erasure e = {.user_id = user_id};
    struct errctx ec;
    char *message = NULL, *value = NULL;
    size_t len = 0;
    pthread_rwlock_rdlock(&s->db_lock);
    bool read = s->db != NULL;
    if (read)
        value = rocksdb_get(s->db, s->read_latest, k.bytes, k.len, &len, &message);
    pthread_rwlock_unlock(&s->db_lock);
    if (read && message == NULL) {
        bool erased = value != NULL && record_decode(str_n(value, len), &e, &ec) == ERR_OK;
        (void)!erased_set(&s->erased, user_id, erased ? e.erased_at_us : 0, &ec);
    }
    rocksdb_free(value);
    rocksdb_free(message);
}

/* The metrics' share of the cold tier, which a restart counts anew. */
static void uncount(struct store *s, const struct begin_op *o)
{
    atomic_fetch_sub(&s->rows_cold, o->rows);
    atomic_fetch_sub(&s->bytes_cold, o->bytes);
    atomic_fetch_sub(&s->files_cold, o->files);
}

/* The user as one commit found them, with their memberships. */
static enum err look(struct begin_op *o, struct errctx *ec)
{
    struct store *s = o->store;
    struct snapshot *snap = NULL;
    struct buf value = BUF_INIT(0);
    struct head head;
    struct key k = key_named(CATALOG_USER_NO, CATALOG_USERS, o->e.user_id);
    o->user_no = 0;
    o->places.n = 0;
    /* Not what the snapshot says of them: one whose key is gone is nobody to it. */
    enum err err = erase_read_value(s, &k, &value, ec);
    if (err == ERR_OK && value.len == 8)
        o->user_no = get_be64(value.ptr);
    k = key_prefix(o->user_no, SPACE_HEAD);
    if (err == ERR_OK)
        err = erase_read_value(s, &k, &value, ec);
    if (err == ERR_OK && head_decode(buf_view(&value), &head) != ERR_OK)
        err = err_internal(ec, ERR_CORRUPT, "a user's head is damaged");
    if (err == ERR_OK) {
        o->next_conv_no = head.next_conv_no;
        err = snapshot_open(s, o->e.user_id, &snap, ec);
    }
    if (err == ERR_OK) {
        o->readable = snapshot_exists(snap);
        err = erase_places_read(snap, o->user_no, &o->places, ec);
    }
    snapshot_close(snap);
    buf_release(&value);
    if (err == ERR_NOT_FOUND) { /* no such user, which the commit answers; or gone between the reads */
        errctx_clear(ec);
        o->user_no = 0;
        err = ERR_OK;
    }
    return err;
}

enum err store_erase_begin(struct store *s, struct str user_id, uint8_t sent, erase_leave_fn *leave,
    struct erasure *ret, struct errctx *ec)
{
    struct begin_op o = {.store = s, .e = {.user_id = user_id, .sent = sent}, .leave = leave};
    arena_init(&o.places.arena, PLACES_BYTES_MAX);
    if (user_id.len == 0 || user_id.len > USER_ID_BYTES_MAX)
        return err_set(ec, ERR_NOT_FOUND, "no such user");
    enum err err = ERR_RETRY;
    for (int i = 0; err == ERR_RETRY && i < BEGIN_ATTEMPTS; i++) {
        o.op = (struct commit_op){.apply = apply_begin, .durability = DURABILITY_SYNC};
        err = look(&o, ec);
        if (err == ERR_OK)
            err = store_commit_wait(s, &o.op, ec);
    }
    erase_places_release(&o.places);
    if (err != ERR_OK && err != ERR_NOT_FOUND)
        take_back(s, user_id);
    if (err == ERR_OK && o.begun) {
        uncount(s, &o);
        err = erase_step_done(s, ERASE_BEGUN, ec);
    }
    if (err == ERR_OK) {
        o.e.begun = o.begun;
        *ret = o.e;
    }
    return err;
}

/* ---- the partition ------------------------------------------------------------------------------------ */

/* Everything of the partition, as a range of keys. */
static void partition(uint64_t user_no, struct key *ret_from, struct key *ret_end)
{
    *ret_from = (struct key){.len = 8};
    put_be64(ret_from->bytes, user_no);
    *ret_end = (struct key){.len = 8};
    put_be64(ret_end->bytes, user_no + 1);
}

/* What names the rest goes last. */
static bool goes_last(struct str key)
{
    uint32_t space = key.len >= KEY_PREFIX_BYTES ? get_be32(key.ptr + 8) : 0;
    return key.len == KEY_PREFIX_BYTES && (space == SPACE_HEAD || space == SPACE_ERASED_WORK);
}

struct chunk_op {
    struct commit_op op;
    struct erasure *e;
    struct str pairs; /* as erase_read_pairs leaves them */
    int n;
};

static enum err apply_chunk(struct commit_op *op, struct txn *txn, struct errctx *ec)
{
    struct chunk_op *o = (struct chunk_op *)op;
    struct erasure e = {.user_id = o->e->user_id};
    struct reader r = reader_of(o->pairs);
    enum err err = record_get(txn, &e, ec);
    for (int i = 0; err == ERR_OK && i < o->n; i++) {
        struct str key = read_lstr(&r), value = read_lstr(&r);
        if (goes_last(key))
            continue;
        struct key k = {.len = key.len};
        memcpy(k.bytes, key.ptr, key.len);
        txn_delete(txn, &k);
        txn->catalog.rows_hot -= get_be32(key.ptr + 8) == SPACE_MESSAGES;
        e.bytes += key.len + value.len;
    }
    if (err != ERR_OK)
        return err;
    record_put(txn, &e);
    e.begun = o->e->begun;
    *o->e = e;
    return ERR_OK;
}

/* Refs of rows that go. A file that nobody else refers to goes with its last one. */
static enum err apply_refs(struct commit_op *op, struct txn *txn, struct errctx *ec)
{
    struct chunk_op *o = (struct chunk_op *)op;
    struct erasure e = {.user_id = o->e->user_id};
    struct reader r = reader_of(o->pairs);
    enum err err = record_get(txn, &e, ec);
    for (int i = 0; err == ERR_OK && i < o->n; i++) {
        struct str key = read_lstr(&r), value = read_lstr(&r), ref;
        struct blob b = {0};
        uint32_t rows;
        if (ref_entry_get(value, &rows, &ref) != ERR_OK)
            return err_internal(ec, ERR_CORRUPT, "a count of references is damaged");
        err = txn_blob(txn, ref, &b, ec);
        if (err == ERR_OK && b.refs <= rows) {
            e.files++;
            e.bytes += b.bytes;
        }
        if (err == ERR_OK || err == ERR_NOT_FOUND)
            err = txn_ref_repair(txn, o->e->user_no, ref, -(int64_t)rows, -(int64_t)rows, ec);
        e.bytes += key.len + value.len;
    }
    if (err != ERR_OK)
        return err;
    record_put(txn, &e);
    e.begun = o->e->begun;
    *o->e = e;
    return ERR_OK;
}

/* In chunks: `apply` deletes what it is given. */
static enum err erase_range(struct store *s, struct erasure *e, struct key from, struct key end, int max,
    enum err (*apply)(struct commit_op *op, struct txn *txn, struct errctx *ec), struct errctx *ec)
{
    struct buf found = BUF_INIT(0);
    enum err err = ERR_OK;
    for (int n = 1; err == ERR_OK && n > 0;) {
        err = erase_read_pairs(s, &from, &end, max, &found, &n, ec);
        struct chunk_op o = {
            .op = {.apply = apply, .durability = DURABILITY_SYNC}, .e = e, .pairs = buf_view(&found), .n = n};
        if (err == ERR_OK && n > 0)
            err = store_commit_wait(s, &o.op, ec);
        if (err == ERR_OK)
            err = erase_step_done(s, ERASE_CHUNK, ec);
    }
    buf_release(&found);
    return err;
}

/* ---- files -------------------------------------------------------------------------------------------- */

struct burying {
    struct store *s;
    struct str user_id;
};

static enum err bury(void *arg, struct str name, struct errctx *ec)
{
    const struct burying *b = arg;
    struct buf path = BUF_INIT(0);
    cold_path(&path, b->s, b->user_id, name);
    enum err err = path.failed ? err_internal(ec, ERR_NO_MEMORY, "erase: out of memory") : ERR_OK;
    if (err == ERR_OK)
        pins_bury(&b->s->pins, path.ptr);
    buf_release(&path);
    return err;
}

/* Unlinked as soon as no snapshot reads them; where a crash comes before that, the next open sets them aside
 * (nobody names them) and the finish removes them from there. */
static enum err erase_files(struct store *s, const struct erasure *e, struct errctx *ec)
{
    struct burying b = {s, e->user_id};
    struct erase_work work;
    enum err err = erase_work_read(s, e->user_no, &work, ec);
    if (err == ERR_OK) {
        err = erase_work_each_name(&work, bury, &b, ec);
        erase_work_release(&work);
    } else if (err == ERR_NOT_FOUND) { /* done before */
        err = ERR_OK;
    }
    return err == ERR_OK ? erase_step_done(s, ERASE_FILES, ec) : err;
}

struct last_op {
    struct commit_op op;
    struct erasure *e;
};

static enum err apply_last(struct commit_op *op, struct txn *txn, struct errctx *ec)
{
    struct last_op *o = (struct last_op *)op;
    struct erasure e = {.user_id = o->e->user_id};
    struct erase_work work;
    struct str value;
    struct key head = key_prefix(o->e->user_no, SPACE_HEAD), k = key_prefix(o->e->user_no, SPACE_ERASED_WORK);
    enum err err = record_get(txn, &e, ec);
    if (err == ERR_OK)
        err = txn_get(txn, &head, &value, ec);
    if (err == ERR_NOT_FOUND) /* done before */
        return ERR_OK;
    if (err == ERR_OK)
        err = txn_get(txn, &k, &value, ec);
    if (err == ERR_OK)
        err = erase_work_decode(value, &work, ec);
    if (err != ERR_OK)
        return err;
    e.files += work.files;
    e.bytes += work.bytes;
    erase_work_release(&work);
    txn_delete(txn, &head);
    txn_delete(txn, &k);
    record_put(txn, &e);
    e.begun = o->e->begun;
    *o->e = e;
    return ERR_OK;
}

static enum err erase_partition(struct store *s, struct erasure *e, struct errctx *ec)
{
    struct last_op last = {.op = {.apply = apply_last, .durability = DURABILITY_SYNC}, .e = e};
    struct key from = key_prefix(e->user_no, SPACE_REFS), end = key_after(&from);
    enum err err = erase_range(s, e, from, end, CHUNK_REFS, apply_refs, ec);
    partition(e->user_no, &from, &end);
    if (err == ERR_OK)
        err = erase_range(s, e, from, end, CHUNK_KEYS, apply_chunk, ec);
    if (err == ERR_OK)
        err = erase_files(s, e, ec);
    if (err == ERR_OK)
        err = store_commit_wait(s, &last.op, ec);
    return err == ERR_OK ? erase_step_done(s, ERASE_ROWS, ec) : err;
}

enum err store_erase_rows(struct store *s, struct erasure *e, struct errctx *ec)
{
    /* A consolidation that began before the erasure may still be writing a file. */
    pthread_mutex_lock(&s->consolidator->work);
    enum err err = cold_stopping(s, ec);
    if (err == ERR_OK)
        err = erase_partition(s, e, ec);
    pthread_mutex_unlock(&s->consolidator->work);
    return err;
}

/* ---- finish ------------------------------------------------------------------------------------------- */

static enum err apply_finish(struct commit_op *op, struct txn *txn, struct errctx *ec)
{
    struct last_op *o = (struct last_op *)op;
    struct erasure e = {.user_id = o->e->user_id};
    enum err err = record_get(txn, &e, ec);
    if (err != ERR_OK)
        return err;
    e.finished = true;
    record_put(txn, &e);
    e.begun = o->e->begun;
    *o->e = e;
    return ERR_OK;
}

/* The folder, unless somebody of that id lives in it again. */
static void remove_folder(struct store *s, struct str user_id)
{
    struct buf path = BUF_INIT(0);
    cold_path(&path, s, user_id, STR_NULL);
    if (!path.failed)
        (void)rmdir(path.ptr); /* stays while anything is in it */
    buf_release(&path);
}

enum err store_erase_settle(struct store *s, const uint64_t *users, size_t nusers, struct errctx *ec)
{
    enum err err = ERR_OK;
    for (size_t i = 0; err == ERR_OK && i < nusers; i++) {
        pthread_mutex_lock(&s->consolidator->work);
        err = cold_stopping(s, ec);
        if (err == ERR_OK)
            err = consolidate_now(s, users[i], ec);
        pthread_mutex_unlock(&s->consolidator->work);
    }
    return err == ERR_OK ? erase_step_done(s, ERASE_SETTLED, ec) : err;
}

enum err store_erase_finish(struct store *s, struct erasure *e, struct errctx *ec)
{
    struct last_op last = {.op = {.apply = apply_finish, .durability = DURABILITY_SYNC}, .e = e};
    enum err err = purge_run(s, ec); /* unlocked: others' consolidations go on while an export is read */
    if (err != ERR_OK)
        return err;
    pthread_mutex_lock(&s->consolidator->work);
    /* Everybody's: what a crash left of a holder's table may show what was sent there. */
    err = orphans_purge(s, STR_NULL, ec);
    if (err == ERR_OK)
        remove_folder(s, e->user_id); /* nobody reads a file of it any more */
    pthread_mutex_unlock(&s->consolidator->work);
    if (err == ERR_OK)
        err = erase_step_done(s, ERASE_PURGED, ec);
    return err == ERR_OK ? store_commit_wait(s, &last.op, ec) : err;
}
