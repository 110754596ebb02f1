/* Snapshots. One is a RocksDB snapshot, the user's head and manifest read at it, and a pin on the files of
 * the tier.
 *
 * When a failed database is closed under open snapshots, they become stale: what they hold of RocksDB is
 * taken away under the write lock, and every later call answers UNAVAILABLE. Hence each call read-locks and
 * asks, and nothing that points into RocksDB is handed out: bytes are copied into the snapshot's arena. */
#include "store/internal.h"
#include <stdlib.h>

#define SNAPSHOT_ARENA_BYTES_MAX ((size_t)1 << 30)

static enum err unavailable(struct errctx *ec)
{
    return err_set(ec, ERR_UNAVAILABLE, "the storage is being recovered");
}

/* ---- decoded manifests -------------------------------------------------------------------------------- */

struct manifest *manifest_cache_get(struct store *s, uint64_t user_no, uint64_t epoch)
{
    struct manifest_slot *slot = &s->manifests.slots[user_no % MANIFEST_SLOTS];
    struct manifest *m = NULL;
    pthread_mutex_lock(&s->manifests.lock);
    if (slot->manifest != NULL && slot->user_no == user_no && slot->manifest->epoch == epoch)
        m = manifest_ref(slot->manifest);
    pthread_mutex_unlock(&s->manifests.lock);
    return m;
}

void manifest_cache_put(struct store *s, uint64_t user_no, struct manifest *m)
{
    struct manifest_slot *slot = &s->manifests.slots[user_no % MANIFEST_SLOTS];
    struct manifest *old = m;
    pthread_mutex_lock(&s->manifests.lock);
    /* A reader of an old snapshot must not push out a newer one of the same user. */
    if (slot->manifest == NULL || slot->user_no != user_no || slot->manifest->epoch <= m->epoch) {
        old = slot->manifest;
        slot->user_no = user_no;
        slot->manifest = manifest_ref(m);
    } else {
        old = NULL;
    }
    pthread_mutex_unlock(&s->manifests.lock);
    manifest_unref(old);
}

void manifest_cache_forget(struct store *s, uint64_t user_no)
{
    struct manifest_slot *slot = &s->manifests.slots[user_no % MANIFEST_SLOTS];
    pthread_mutex_lock(&s->manifests.lock);
    if (slot->manifest != NULL && slot->user_no == user_no) {
        manifest_unref(slot->manifest);
        slot->manifest = NULL;
    }
    pthread_mutex_unlock(&s->manifests.lock);
}

void manifest_cache_clear(struct store *s)
{
    pthread_mutex_lock(&s->manifests.lock);
    for (size_t i = 0; i < MANIFEST_SLOTS; i++) {
        manifest_unref(s->manifests.slots[i].manifest);
        s->manifests.slots[i].manifest = NULL;
    }
    pthread_mutex_unlock(&s->manifests.lock);
}

/* ---- open and close ----------------------------------------------------------------------------------- */

/* db_lock is held from here … */
static enum err get_locked(struct snapshot *snap, const struct key *key, struct str *ret, struct errctx *ec)
{
    char *message = NULL;
    rocksdb_pinnableslice_t *slice =
        rocksdb_get_pinned(snap->store->db, snap->options, key->bytes, key->len, &message);
    enum err e = store_rocks_err(ec, message, "read");
    if (e != ERR_OK || slice == NULL)
        return e != ERR_OK ? e : ERR_NOT_FOUND;
    size_t len;
    const char *value = rocksdb_pinnableslice_value(slice, &len);
    e = store_unseal_copy(snap->store, key_view(key), str_n(value, len), &snap->arena, ret, ec);
    rocksdb_pinnableslice_destroy(slice);
    return e;
}

static enum err read_manifest(struct snapshot *snap, struct errctx *ec)
{
    if (snap->head.cold_epoch == 0)
        return ERR_OK;
    snap->manifest = manifest_cache_get(snap->store, snap->user_no, snap->head.cold_epoch);
    if (snap->manifest != NULL)
        return ERR_OK;
    struct key k = key_prefix(snap->user_no, SPACE_MANIFEST);
    struct str value;
    enum err e = get_locked(snap, &k, &value, ec);
    if (e == ERR_OK)
        e = manifest_decode(value, &snap->manifest, ec);
    if (e != ERR_OK)
        return e == ERR_NOT_FOUND ? err_internal(ec, ERR_CORRUPT, "a manifest is missing") : e;
    if (snap->manifest->epoch != snap->head.cold_epoch)
        return err_internal(ec, ERR_CORRUPT, "head and manifest disagree");
    manifest_cache_put(snap->store, snap->user_no, snap->manifest);
    return ERR_OK;
}

/* After a restore every feed has another name. */
static void tag_feed(struct head *h, const struct store *s)
{
    struct {
        char tag[FEED_TAG_BYTES], feed[FEED_BYTES_MAX];
    } mix = {{0}, {0}};
    uint8_t digest[32];
    memcpy(mix.tag, s->feed_tag, sizeof mix.tag);
    memcpy(mix.feed, h->feed, h->feed_len);
    sha256(str_n((const char *)&mix, sizeof mix), digest);
    for (size_t i = 0; i < h->feed_len; i++)
        h->feed[i] = "0123456789abcdef"[digest[i] & 15];
}

static enum err read_head(struct snapshot *snap, struct errctx *ec)
{
    struct store *s = snap->store;
    if (atomic_load(&s->search_lost) && vault_key_destroyed(s->vault, snap->user_no)) {
        snap->user_no = 0;
        return ERR_NOT_FOUND;
    }
    struct key k = key_prefix(snap->user_no, SPACE_HEAD);
    struct str value;
    enum err e = get_locked(snap, &k, &value, ec);
    if (e != ERR_OK)
        return e;
    if (head_decode(value, &snap->head) != ERR_OK)
        return err_internal(
            ec, ERR_CORRUPT, "head of user %llu is damaged", (unsigned long long)snap->user_no);
    if (snap->store->has_feed_tag)
        tag_feed(&snap->head, snap->store);
    snap->exists = true;
    return read_manifest(snap, ec);
}

static enum err read_user(struct snapshot *snap, struct str user_id, struct errctx *ec)
{
    struct str value;
    if (user_id.len == 0 || user_id.len > USER_ID_BYTES_MAX)
        return ERR_NOT_FOUND;
    struct key k = key_named(CATALOG_USER_NO, CATALOG_USERS, user_id);
    enum err e = get_locked(snap, &k, &value, ec);
    if (e != ERR_OK)
        return e;
    if (value.len != 8)
        return err_internal(ec, ERR_CORRUPT, "a user's number is damaged");
    snap->user_no = get_be64(value.ptr);
    return read_head(snap, ec);
}

/* `within`: borrows its moment. */
static void enter(struct snapshot *snap, const struct snapshot *within)
{
    struct store *s = snap->store;
    snap->generation = s->generation;
    snap->borrowed = within != NULL;
    snap->rocks = within != NULL ? within->rocks : rocksdb_create_snapshot(s->db);
    snap->options = rocksdb_readoptions_create();
    rocksdb_readoptions_set_snapshot(snap->options, snap->rocks);
    pthread_mutex_lock(&s->snaps.lock);
    snap->next = s->snaps.first;
    if (snap->next != NULL)
        snap->next->prev = snap;
    s->snaps.first = snap;
    pthread_mutex_unlock(&s->snaps.lock);
}

/* … to here. */

static enum err open_with(struct store *s, const struct snapshot *within, struct str user_id,
    uint64_t user_no, struct snapshot **ret, struct errctx *ec)
{
    struct snapshot *snap = calloc(1, sizeof *snap);
    if (snap == NULL)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    snap->store = s;
    arena_init(&snap->arena, SNAPSHOT_ARENA_BYTES_MAX);
    pin_enter(&s->pins, &snap->pin); /* before the snapshot: a file buried in between must find the pin */
    pthread_rwlock_rdlock(&s->db_lock);
    enum err e = ERR_OK;
    if (s->db == NULL || (within != NULL && within->rocks == NULL)) {
        e = unavailable(ec);
    } else {
        enter(snap, within);
        snap->user_no = user_no;
        e = user_no != 0 ? read_head(snap, ec) : read_user(snap, user_id, ec);
    }
    pthread_rwlock_unlock(&s->db_lock);
    if (e == ERR_OK && within == NULL)
        e = snapshot_take_notes(snap, ec);
    snap->notes_unknown = within != NULL;
    if (e == ERR_NOT_FOUND && (user_no == 0 || within != NULL)) {
        snap->user_no = user_no; /* a group's partition has no head */
        e = ERR_OK;
    }
    if (e != ERR_OK) {
        snapshot_close(snap);
        return e == ERR_NOT_FOUND ? err_set(ec, e, "no such user") : e;
    }
    *ret = snap;
    return ERR_OK;
}

enum err snapshot_open(struct store *s, struct str user_id, struct snapshot **ret, struct errctx *ec)
{
    return open_with(s, NULL, user_id, 0, ret, ec);
}

enum err snapshot_open_at(const struct snapshot *within, struct str user_id, uint64_t user_no,
    struct snapshot **ret, struct errctx *ec)
{
    return open_with(within->store, within, user_id, user_no, ret, ec);
}

enum err snapshot_open_no(struct store *s, uint64_t user_no, struct snapshot **ret, struct errctx *ec)
{
    enum err e = open_with(s, NULL, STR_NULL, user_no, ret, ec);
    if (e == ERR_OK && (*ret)->head.user_id_len == 0) { /* erased, on its way out */
        snapshot_close(*ret);
        *ret = NULL;
        e = err_set(ec, ERR_NOT_FOUND, "no such user");
    }
    return e;
}

void snapshot_close(struct snapshot *snap)
{
    if (snap == NULL)
        return;
    struct store *s = snap->store;
    cold_snapshot_release(snap);
    while (snap->iters != NULL)
        hot_iter_close(snap->iters);
    pthread_rwlock_rdlock(&s->db_lock);
    if (snap->rocks != NULL) {
        if (!snap->borrowed)
            rocksdb_release_snapshot(s->db, snap->rocks);
        rocksdb_readoptions_destroy(snap->options);
    }
    if (snap->generation != 0) { /* entered */
        pthread_mutex_lock(&s->snaps.lock);
        if (snap->prev != NULL)
            snap->prev->next = snap->next;
        else
            s->snaps.first = snap->next;
        if (snap->next != NULL)
            snap->next->prev = snap->prev;
        pthread_mutex_unlock(&s->snaps.lock);
    }
    pthread_rwlock_unlock(&s->db_lock);
    pin_leave(&s->pins, &snap->pin);
    manifest_unref(snap->manifest);
    arena_release(&snap->arena);
    free(snap->notes);
    free(snap);
}

void snapshots_make_stale(struct store *s)
{
    pthread_mutex_lock(&s->snaps.lock);
    for (struct snapshot *snap = s->snaps.first; snap != NULL; snap = snap->next) {
        if (snap->rocks == NULL)
            continue;
        hot_iter_make_stale(snap->iters);
        if (!snap->borrowed)
            rocksdb_release_snapshot(s->db, snap->rocks);
        rocksdb_readoptions_destroy(snap->options);
        snap->rocks = NULL;
        snap->options = NULL;
    }
    pthread_mutex_unlock(&s->snaps.lock);
}

/* ---- what is known at open ---------------------------------------------------------------------------- */

bool snapshot_exists(const struct snapshot *snap)
{
    return snap->exists;
}

uint64_t snapshot_user_no(const struct snapshot *snap)
{
    return snap->user_no;
}

struct str snapshot_user_id(const struct snapshot *snap)
{
    return head_user_id(&snap->head);
}

uint64_t snapshot_seq(const struct snapshot *snap)
{
    return snap->head.seq;
}

struct str snapshot_feed(const struct snapshot *snap)
{
    return head_feed(&snap->head);
}

int64_t snapshot_total_messages(const struct snapshot *snap)
{
    return snap->head.total_messages;
}

uint64_t snapshot_cold_max_seq(const struct snapshot *snap)
{
    return snap->manifest != NULL ? snap->manifest->cold_max_seq : 0;
}

uint64_t snapshot_forgotten_seq(const struct snapshot *snap)
{
    return snap->head.forgotten_seq;
}

uint64_t snapshot_cold_epoch(const struct snapshot *snap)
{
    return snap->head.cold_epoch;
}

bool snapshot_has_cold(const struct snapshot *snap)
{
    return snap->manifest != NULL && snap->manifest->nfiles > 0;
}

int64_t snapshot_user_floor(const struct snapshot *snap)
{
    return snap->manifest != NULL ? snap->manifest->user_floor : 0;
}

/* ---- point reads -------------------------------------------------------------------------------------- */

enum err snapshot_get(struct snapshot *snap, const struct key *key, struct str *ret, struct errctx *ec)
{
    pthread_rwlock_rdlock(&snap->store->db_lock);
    enum err e = snap->rocks == NULL ? unavailable(ec) : get_locked(snap, key, ret, ec);
    pthread_rwlock_unlock(&snap->store->db_lock);
    return e;
}

enum err snapshot_conversation_record(
    struct snapshot *snap, struct str conversation_id, struct conversation_record *ret, struct errctx *ec)
{
    struct str value;
    if (!snap->exists || conversation_id.len == 0 || conversation_id.len > 255)
        return err_set(ec, ERR_NOT_FOUND, "no such conversation");
    struct key k = key_named(snap->user_no, SPACE_CONVERSATIONS, conversation_id);
    enum err e = snapshot_get(snap, &k, &value, ec);
    if (e != ERR_OK)
        return e == ERR_NOT_FOUND ? err_set(ec, e, "no such conversation") : e;
    if (conversation_record_get(value, ret) != ERR_OK)
        return err_internal(ec, ERR_CORRUPT, "a conversation row is damaged");
    return ERR_OK;
}

int64_t snapshot_conversation_floor(struct snapshot *snap, struct str conversation_id)
{
    struct conversation_record record;
    struct errctx ec;
    if (!snapshot_has_cold(snap))
        return 0;
    enum err e = snapshot_conversation_record(snap, conversation_id, &record, &ec);
    if (e == ERR_NOT_FOUND)
        return 0; /* never had a row */
    if (e != ERR_OK)
        return INT64_MAX;
    int64_t user_floor = snapshot_user_floor(snap);
    return record.hot_floor < user_floor ? record.hot_floor : user_floor;
}

enum err snapshot_conversation_live(struct snapshot *snap, struct str conversation_id,
    struct conversation_record *ret, struct value *ret_values, struct errctx *ec)
{
    struct conversation_record record;
    struct row_meta meta;
    struct value values[CONV_NCOLUMNS];
    enum err e = snapshot_conversation_record(snap, conversation_id, &record, ec);
    if (e != ERR_OK)
        return e;
    if (row_decode(record.row, &schema_conversations, &meta, values) != ERR_OK)
        return err_internal(ec, ERR_CORRUPT, "a conversation row is damaged");
    if ((meta.flags & ROW_TOMBSTONE) != 0)
        return err_set(ec, ERR_NOT_FOUND, "no such conversation");
    *ret = record;
    memcpy(ret_values, values, sizeof values);
    return ERR_OK;
}

enum err snapshot_conversation(
    struct snapshot *snap, struct str conversation_id, struct value *ret_values, struct errctx *ec)
{
    struct conversation_record record;
    return snapshot_conversation_live(snap, conversation_id, &record, ret_values, ec);
}

/* With the text so far, in the snapshot's arena. */
static enum err resolve_open(struct snapshot *snap, struct str row, struct str *ret, struct errctx *ec)
{
    struct buf b = BUF_INIT(0);
    pthread_rwlock_rdlock(&snap->store->db_lock);
    enum err e = snap->rocks == NULL ? unavailable(ec) : stream_resolve(snap, row, &b, ec);
    pthread_rwlock_unlock(&snap->store->db_lock);
    struct str copy = e == ERR_OK ? arena_str(&snap->arena, buf_view(&b)) : STR_NULL;
    buf_release(&b);
    if (e == ERR_OK && copy.ptr == NULL)
        e = err_set(ec, ERR_NO_MEMORY, "out of memory");
    if (e == ERR_OK)
        *ret = copy;
    return e;
}

/* The envelope of a hot message or tombstone. */
static enum err message_row(struct snapshot *snap, int64_t msg_id, struct str *ret, struct errctx *ec)
{
    struct key k = key_id(snap->user_no, SPACE_IDS, msg_id);
    struct str value;
    if (!snap->exists)
        return ERR_NOT_FOUND;
    enum err e = snapshot_get(snap, &k, &value, ec);
    if (e == ERR_NOT_FOUND) {
        k = key_id(snap->user_no, SPACE_TOMBSTONES, msg_id);
        return snapshot_get(snap, &k, ret, ec);
    }
    if (e != ERR_OK)
        return e;
    if (value.len != 4)
        return err_internal(ec, ERR_CORRUPT, "an id entry is damaged");
    k = key_message(snap->user_no, get_be32(value.ptr), msg_id);
    e = snapshot_get(snap, &k, ret, ec);
    if (e == ERR_OK && row_is_open(*ret))
        return resolve_open(snap, *ret, ret, ec);
    return e == ERR_NOT_FOUND ? err_internal(ec, ERR_CORRUPT, "an id entry has no row") : e;
}

enum err snapshot_message(struct snapshot *snap, int64_t msg_id, struct row_meta *ret_meta,
    struct value *ret_values, struct errctx *ec)
{
    struct str row;
    enum err e = message_row(snap, msg_id, &row, ec);
    if (e != ERR_OK)
        return e == ERR_NOT_FOUND ? err_set(ec, e, "no such message") : e;
    if (row_decode(row, &schema_messages, ret_meta, ret_values) != ERR_OK)
        return err_internal(ec, ERR_CORRUPT, "a message row is damaged");
    return ERR_OK;
}

enum err snapshot_arrival(
    struct snapshot *snap, int64_t msg_id, uint64_t *ret_ins_seq, bool *ret_cold, struct errctx *ec)
{
    struct str row;
    struct row_meta meta;
    enum err e = message_row(snap, msg_id, &row, ec);
    if (e == ERR_NOT_FOUND) {
        /* The newest hot id below; it is the newest of all unless a file may hold one in between. */
        struct scan_spec spec = {.order = SCAN_BY_ID, .descending = true, .id_max = msg_id};
        struct hot_iter *it;
        int64_t found = 0;
        e = hot_iter_open(snap, &spec, &it, ec);
        if (e != ERR_OK)
            return e;
        e = hot_iter_next(it, &row, ec);
        struct value values[MSG_NCOLUMNS];
        if (e == ERR_OK) {
            e = row_decode(row, &schema_messages, &meta, values);
            found = e == ERR_OK ? values[MSG_ID].i : 0;
        }
        hot_iter_close(it);
        if (e != ERR_OK && e != ERR_NOT_FOUND)
            return e == ERR_CORRUPT ? err_internal(ec, e, "a message row is damaged") : e;
        *ret_cold = snapshot_has_cold(snap) && (e != ERR_OK || found < snapshot_user_floor(snap));
        *ret_ins_seq = e == ERR_OK ? meta.ins_seq : 0;
        return ERR_OK;
    }
    if (e != ERR_OK)
        return e;
    if (row_decode_meta(row, &meta) != ERR_OK)
        return err_internal(ec, ERR_CORRUPT, "a message row is damaged");
    *ret_cold = false;
    *ret_ins_seq = meta.ins_seq;
    return ERR_OK;
}

/* ---- all users ---------------------------------------------------------------------------------------- */

enum err store_each_user(struct store *s, bool (*fn)(void *arg, uint64_t user_no, struct str user_id),
    void *arg, struct errctx *ec)
{
    enum { CHUNK = 256 };
    struct key from = key_prefix(CATALOG_USER_NO, CATALOG_USERS), after = key_after(&from);
    struct buf found = BUF_INIT(0);
    enum err e = ERR_OK;
    bool more = true;
    /* In chunks, so that fn runs without the lock and may open snapshots. */
    while (more && e == ERR_OK) {
        int n = 0;
        buf_clear(&found);
        pthread_rwlock_rdlock(&s->db_lock);
        if (s->db == NULL) {
            e = unavailable(ec);
        } else {
            rocksdb_readoptions_t *options = rocksdb_readoptions_create();
            rocksdb_readoptions_set_iterate_upper_bound(options, after.bytes, after.len);
            rocksdb_iterator_t *it = rocksdb_create_iterator(s->db, options);
            for (rocksdb_iter_seek(it, from.bytes, from.len); n < CHUNK && rocksdb_iter_valid(it);
                 rocksdb_iter_next(it), n++) {
                size_t klen, vlen;
                const char *key = rocksdb_iter_key(it, &klen), *value = rocksdb_iter_value(it, &vlen);
                buf_lstr(&found, str_n(key, klen));
                buf_be64(&found, vlen == 8 ? get_be64(value) : 0);
            }
            char *message = NULL;
            rocksdb_iter_get_error(it, &message);
            rocksdb_iter_destroy(it);
            rocksdb_readoptions_destroy(options);
            e = store_rocks_err(ec, message, "scan users");
        }
        pthread_rwlock_unlock(&s->db_lock);
        if (e == ERR_OK && found.failed)
            e = err_set(ec, ERR_NO_MEMORY, "out of memory");
        more = n == CHUNK;
        struct reader r = reader_of(buf_view(&found));
        while (e == ERR_OK && reader_left(&r) > 0) {
            struct str key = read_lstr(&r);
            uint64_t user_no = read_be64(&r);
            struct str id = str_n(key.ptr + KEY_PREFIX_BYTES, key.len - KEY_PREFIX_BYTES);
            from = key_named(CATALOG_USER_NO, CATALOG_USERS, id);
            if (user_no != 0 && !fn(arg, user_no, id)) {
                more = false;
                break;
            }
        }
        if (from.len < sizeof from.bytes)
            from.bytes[from.len++] = '\0'; /* the next chunk begins behind the last key */
    }
    buf_release(&found);
    return e;
}
