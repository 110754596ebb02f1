/* Records and counts of blobs.
 *
 * Record of CATALOG_BLOBS: u8 format (1; 2: the digest is masked) | varint refs, bytes, uploader_no | 32
 * bytes SHA-256 | lstr content type | lstr content_ref. Value of SPACE_REFS: u32 rows | content_ref. Keys of
 * files are in blob_key.c. */
#include "store/committer.h"
#include <stdio.h>
#include <stdlib.h>

enum { BLOB_FORMAT = 1, BLOB_FORMAT_MASKED = 2 };

static int nibble(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

void blob_record_encode(struct buf *b, struct str content_ref, const struct blob *blob)
{
    buf_u8(b, blob->masked ? BLOB_FORMAT_MASKED : BLOB_FORMAT);
    buf_varint(b, blob->refs);
    buf_varint(b, blob->bytes);
    buf_varint(b, blob->uploader_no);
    for (size_t i = 0; i < 64; i += 2)
        buf_u8(b, (uint8_t)(nibble(blob->sha256[i]) << 4 | nibble(blob->sha256[i + 1])));
    buf_lstr(b, str_c(blob->content_type));
    buf_lstr(b, content_ref);
}

enum err blob_record_decode(struct str bytes, struct str *ret_ref, struct blob *ret)
{
    struct reader r = reader_of(bytes);
    struct blob blob = {0};
    uint8_t format = read_u8(&r);
    if (format != BLOB_FORMAT && format != BLOB_FORMAT_MASKED)
        return ERR_CORRUPT;
    blob.masked = format == BLOB_FORMAT_MASKED;
    blob.refs = read_varint(&r);
    blob.bytes = read_varint(&r);
    blob.uploader_no = read_varint(&r);
    struct str hash = read_bytes(&r, 32), type = read_lstr(&r), ref = read_lstr(&r);
    if (r.bad || reader_left(&r) != 0 || type.len >= sizeof blob.content_type || ref.len == 0 ||
        ref.len > BLOB_REF_BYTES_MAX)
        return ERR_CORRUPT;
    for (size_t i = 0; i < 32; i++)
        snprintf(blob.sha256 + 2 * i, 3, "%02x", (unsigned char)hash.ptr[i]);
    memcpy(blob.content_type, type.ptr, type.len);
    *ret_ref = ref;
    *ret = blob;
    return ERR_OK;
}

/* The record of this very ref; the key is a hash. */
static enum err decode_of(struct str value, struct str content_ref, struct blob *ret, struct errctx *ec)
{
    struct str ref;
    struct blob blob;
    if (blob_record_decode(value, &ref, &blob) != ERR_OK || !str_eq(ref, content_ref))
        return err_internal(ec, ERR_CORRUPT, "the record of a file is damaged");
    *ret = blob;
    return ERR_OK;
}

enum err ref_entry_get(struct str value, uint32_t *ret_rows, struct str *ret_ref)
{
    if (value.len <= 4 || value.len > 4 + BLOB_REF_BYTES_MAX)
        return ERR_CORRUPT;
    *ret_rows = get_be32(value.ptr);
    *ret_ref = str_n(value.ptr + 4, value.len - 4);
    return ERR_OK;
}

bool blob_ref_is_media(struct str content_ref)
{
    size_t slash = content_ref.len;
    while (slash > 0 && content_ref.ptr[slash - 1] != '/')
        slash--;
    return str_starts_with(str_n(content_ref.ptr + slash, content_ref.len - slash), STR("media-"));
}

size_t blob_preview(struct str text)
{
    return text.len <= BLOB_PREVIEW_BYTES ? text.len : utf8_cut(text, BLOB_PREVIEW_BYTES);
}

/* ---- in a transaction ---------------------------------------------------------------------------------- */

static enum err put_record(
    struct txn *t, const struct key *k, struct str ref, const struct blob *b, struct errctx *ec)
{
    buf_clear(&t->scratch);
    blob_record_encode(&t->scratch, ref, b);
    if (t->scratch.failed)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    txn_put(t, k, buf_view(&t->scratch));
    return ERR_OK;
}

enum err txn_blob(struct txn *txn, struct str content_ref, struct blob *ret, struct errctx *ec)
{
    struct key k = key_ref(CATALOG_USER_NO, CATALOG_BLOBS, content_ref);
    struct str value;
    enum err e = txn_get(txn, &k, &value, ec);
    if (e != ERR_OK)
        return e == ERR_NOT_FOUND ? err_set(ec, e, "no such file") : e;
    return decode_of(value, content_ref, ret, ec);
}

/* Bytes counted against a user; those of an erased one are gone with their partition. */
static enum err quota_get(struct txn *t, uint64_t user_no, uint64_t *ret, struct errctx *ec)
{
    struct key k = key_prefix(user_no, SPACE_QUOTA);
    struct str value;
    enum err e = txn_get(t, &k, &value, ec);
    if (e == ERR_OK && value.len != 8)
        return err_internal(ec, ERR_CORRUPT, "a quota is damaged");
    if (e == ERR_OK)
        *ret = get_be64(value.ptr);
    return e;
}

static void quota_put(struct txn *t, uint64_t user_no, uint64_t bytes)
{
    struct key k = key_prefix(user_no, SPACE_QUOTA);
    char value[8];
    put_be64(value, bytes);
    if (bytes == 0)
        txn_delete(t, &k);
    else
        txn_put(t, &k, str_n(value, sizeof value));
}

enum err txn_blob_put(
    struct txn *txn, struct str content_ref, const struct blob *b, uint64_t quota_max, struct errctx *ec)
{
    struct key k = key_ref(CATALOG_USER_NO, CATALOG_BLOBS, content_ref);
    struct str value;
    if (content_ref.len == 0 || content_ref.len > BLOB_REF_BYTES_MAX)
        return err_internal(ec, ERR_INTERNAL, "a content_ref of %zu bytes", content_ref.len);
    enum err e = txn_get(txn, &k, &value, ec);
    if (e == ERR_OK)
        return err_internal(ec, ERR_INTERNAL, "a file is recorded twice");
    if (e != ERR_NOT_FOUND)
        return e;
    errctx_clear(ec);
    if (b->uploader_no != 0) {
        uint64_t used = 0;
        e = quota_get(txn, b->uploader_no, &used, ec);
        if (e != ERR_OK && e != ERR_NOT_FOUND)
            return e;
        errctx_clear(ec);
        if (quota_max > 0 && (used > quota_max || b->bytes > quota_max - used)) {
            e = err_set(ec, ERR_TOO_LARGE, "this would pass the user's quota for media");
            err_detail(ec, "%llu of max_user_media_bytes (%llu) are used, and the file has %llu bytes.",
                (unsigned long long)used, (unsigned long long)quota_max, (unsigned long long)b->bytes);
            return e;
        }
        quota_put(txn, b->uploader_no, used + b->bytes);
    }
    struct blob record = *b;
    record.refs = 0;
    if (b->key != NULL && !b->masked) {
        blob_mask(&record, b->key);
        e = blob_keys_offer(&txn->blob_keys, content_ref, b->key, ec);
        if (e != ERR_OK)
            return e;
    }
    return put_record(txn, &k, content_ref, &record, ec);
}

/* Remembers what is to be buried when the group is durable. */
static enum err bury_later(struct txn *t, struct str content_ref, struct errctx *ec)
{
    buf_lstr(&t->buried, content_ref);
    return t->buried.failed ? err_set(ec, ERR_NO_MEMORY, "out of memory") : ERR_OK;
}

/* A row may name a ref without a record only after damage: counting goes on without it, the sweep reports. */
static enum err count_total(struct txn *t, struct str ref, int64_t delta, struct errctx *ec)
{
    struct key k = key_ref(CATALOG_USER_NO, CATALOG_BLOBS, ref);
    struct blob b;
    enum err e = txn_blob(t, ref, &b, ec);
    if (e == ERR_NOT_FOUND) {
        errctx_clear(ec);
        return ERR_OK;
    }
    if (e != ERR_OK)
        return e;
    if (delta >= 0 || b.refs > (uint64_t)-delta) {
        b.refs += (uint64_t)delta;
        return put_record(t, &k, ref, &b, ec);
    }
    txn_delete(t, &k);
    uint64_t used;
    if (b.uploader_no != 0 && (e = quota_get(t, b.uploader_no, &used, ec)) == ERR_OK)
        quota_put(t, b.uploader_no, used > b.bytes ? used - b.bytes : 0);
    if (e != ERR_OK && e != ERR_NOT_FOUND)
        return e;
    errctx_clear(ec);
    return bury_later(t, ref, ec);
}

static enum err count_user(struct txn *t, uint64_t user_no, struct str ref, int64_t delta, struct errctx *ec)
{
    struct key k = key_ref(user_no, SPACE_REFS, ref);
    struct str value, stored;
    uint32_t rows = 0;
    enum err e = txn_get(t, &k, &value, ec);
    if (e == ERR_OK && (ref_entry_get(value, &rows, &stored) != ERR_OK || !str_eq(stored, ref)))
        return err_internal(ec, ERR_CORRUPT, "a count of references is damaged");
    if (e != ERR_OK && e != ERR_NOT_FOUND)
        return e;
    errctx_clear(ec);
    int64_t now = (int64_t)rows + delta;
    if (now <= 0) {
        txn_delete(t, &k);
        txn_blob_key_drop(t, user_no, ref);
        return ERR_OK;
    }
    if (e == ERR_NOT_FOUND) {
        e = txn_blob_key_take(t, user_no, ref, ec);
        if (e != ERR_OK)
            return e;
    }
    char entry[4 + BLOB_REF_BYTES_MAX];
    put_be32(entry, (uint32_t)now);
    memcpy(entry + 4, ref.ptr, ref.len);
    txn_put(t, &k, str_n(entry, 4 + ref.len));
    return ERR_OK;
}

enum err txn_blob_drop(struct txn *txn, struct str content_ref, struct errctx *ec)
{
    return count_total(txn, content_ref, -1, ec);
}

enum err txn_ref_users(
    struct txn *txn, size_t n, const uint64_t *user_nos, struct str content_ref, int delta, struct errctx *ec)
{
    if (content_ref.len == 0 || content_ref.len > BLOB_REF_BYTES_MAX)
        return err_internal(ec, ERR_CORRUPT, "a content_ref of %zu bytes", content_ref.len);
    enum err e = ERR_OK;
    for (size_t i = 0; e == ERR_OK && i < n; i++)
        e = count_user(txn, user_nos[i], content_ref, delta, ec);
    return e == ERR_OK && n > 0 ? count_total(txn, content_ref, (int64_t)n * delta, ec) : e;
}

enum err txn_ref(struct txn *txn, uint64_t user_no, struct str content_ref, int delta, struct errctx *ec)
{
    return txn_ref_users(txn, 1, &user_no, content_ref, delta, ec);
}

enum err txn_ref_repair(struct txn *txn, uint64_t user_no, struct str content_ref, int64_t user_delta,
    int64_t total_delta, struct errctx *ec)
{
    enum err e = user_delta != 0 ? count_user(txn, user_no, content_ref, user_delta, ec) : ERR_OK;
    return e == ERR_OK && total_delta != 0 ? count_total(txn, content_ref, total_delta, ec) : e;
}

enum err txn_quota_repair(struct txn *txn, uint64_t user_no, int64_t delta, struct errctx *ec)
{
    uint64_t used = 0;
    enum err e = quota_get(txn, user_no, &used, ec);
    if (e != ERR_OK && e != ERR_NOT_FOUND)
        return e;
    errctx_clear(ec);
    quota_put(txn, user_no, delta < 0 && used < (uint64_t)-delta ? 0 : used + (uint64_t)delta);
    return ERR_OK;
}

enum err txn_refs_drop(struct txn *txn, uint64_t user_no, size_t max, bool *ret_more, struct errctx *ec)
{
    struct key from = key_prefix(user_no, SPACE_REFS);
    struct buf found = BUF_INIT(0), opened = BUF_INIT(0);
    enum err unsealed = ERR_OK;
    size_t n = 0;
    rocksdb_readoptions_t *options = rocksdb_readoptions_create();
    rocksdb_readoptions_set_total_order_seek(options, 1);
    rocksdb_iterator_t *it = rocksdb_create_iterator(txn->store->db, options);
    for (rocksdb_iter_seek(it, from.bytes, from.len); n <= max && rocksdb_iter_valid(it);
         rocksdb_iter_next(it)) {
        struct str key, value;
        key.ptr = rocksdb_iter_key(it, &key.len);
        value.ptr = rocksdb_iter_value(it, &value.len);
        if (!str_starts_with(key, key_view(&from)))
            break;
        /* What this group has changed counts as it is now; what it has added is the next call's. */
        const struct overlay_entry *o = overlay_find(&txn->overlay, key);
        if (o != NULL && o->state == OVERLAY_DELETE)
            continue;
        if (o != NULL && o->state == OVERLAY_PUT)
            value = o->value;
        else if ((unsealed = store_unseal(txn->store, key, value, &opened, &value, ec)) != ERR_OK)
            break;
        buf_lstr(&found, value);
        n++;
    }
    buf_release(&opened);
    char *message = NULL;
    rocksdb_iter_get_error(it, &message);
    rocksdb_iter_destroy(it);
    rocksdb_readoptions_destroy(options);
    enum err e = store_rocks_err(ec, message, "scan");
    if (e == ERR_OK)
        e = unsealed;
    if (e == ERR_OK && found.failed)
        e = err_set(ec, ERR_NO_MEMORY, "out of memory");
    struct reader r = reader_of(buf_view(&found));
    for (size_t i = 0; e == ERR_OK && i < n && i < max; i++) {
        struct str ref;
        uint32_t rows;
        e = ref_entry_get(read_lstr(&r), &rows, &ref);
        if (e != ERR_OK)
            e = err_internal(ec, e, "a count of references is damaged");
        else
            e = txn_ref_repair(txn, user_no, ref, -(int64_t)rows, -(int64_t)rows, ec);
    }
    buf_release(&found);
    if (e == ERR_OK)
        *ret_more = n > max;
    return e;
}

/* On the committer, when what was buried in a group is durable. */
void txn_bury(struct txn *t)
{
    struct store *s = t->store;
    struct buf path = BUF_INIT(8192), paths = BUF_INIT(0);
    struct reader r = reader_of(buf_view(&t->buried));
    while (reader_left(&r) > 0) {
        store_blob_path(s, read_lstr(&r), &path);
        if (!path.failed)
            buf_lstr(&paths, buf_view(&path));
    }
    if (!paths.failed) /* else they are orphans, which the sweep finds */
        pins_bury_all(&s->pins, buf_view(&paths));
    buf_release(&path);
    buf_release(&paths);
    buf_clear(&t->buried);
}

/* ---- reading ------------------------------------------------------------------------------------------- */

void store_blob_path(const struct store *s, struct str content_ref, struct buf *ret)
{
    buf_clear(ret);
    buf_str(ret, str_c(s->cfg.data_dir));
    buf_u8(ret, '/');
    buf_str(ret, content_ref);
    buf_u8(ret, 0);
}

enum err snapshot_holds(struct snapshot *snap, struct str content_ref, bool *ret, struct errctx *ec)
{
    struct str value, stored;
    uint32_t rows = 0;
    *ret = false;
    if (snap->user_no == 0 || content_ref.len == 0 || content_ref.len > BLOB_REF_BYTES_MAX)
        return ERR_OK;
    struct key k = key_ref(snap->user_no, SPACE_REFS, content_ref);
    enum err e = snapshot_get(snap, &k, &value, ec);
    if (e == ERR_NOT_FOUND) {
        errctx_clear(ec);
        return ERR_OK;
    }
    if (e == ERR_OK && ref_entry_get(value, &rows, &stored) != ERR_OK)
        return err_internal(ec, ERR_CORRUPT, "a count of references is damaged");
    if (e == ERR_OK)
        *ret = rows > 0 && str_eq(stored, content_ref);
    return e;
}

enum err snapshot_blob(struct snapshot *snap, struct str content_ref, struct blob *ret, struct errctx *ec)
{
    struct str value;
    if (content_ref.len == 0 || content_ref.len > BLOB_REF_BYTES_MAX)
        return err_set(ec, ERR_NOT_FOUND, "no such file");
    struct key k = key_ref(CATALOG_USER_NO, CATALOG_BLOBS, content_ref);
    enum err e = snapshot_get(snap, &k, &value, ec);
    if (e != ERR_OK)
        return e == ERR_NOT_FOUND ? err_set(ec, e, "no such file") : e;
    return decode_of(value, content_ref, ret, ec);
}

enum err snapshot_quota(struct snapshot *snap, uint64_t *ret_bytes, struct errctx *ec)
{
    struct key k = key_prefix(snap->user_no, SPACE_QUOTA);
    struct str value;
    enum err e = snap->user_no != 0 ? snapshot_get(snap, &k, &value, ec) : ERR_NOT_FOUND;
    if (e == ERR_OK && value.len != 8)
        return err_internal(ec, ERR_CORRUPT, "a quota is damaged");
    if (e == ERR_OK)
        *ret_bytes = get_be64(value.ptr);
    if (e != ERR_NOT_FOUND)
        return e;
    errctx_clear(ec);
    *ret_bytes = 0;
    return ERR_OK;
}

struct each_ref {
    enum err (*fn)(void *arg, struct str content_ref, uint32_t rows, struct errctx *ec);
    void *arg;
};

static enum err each_ref(void *arg, struct str key, struct str value, struct errctx *ec)
{
    const struct each_ref *r = arg;
    struct str ref;
    uint32_t rows;
    (void)key;
    if (ref_entry_get(value, &rows, &ref) != ERR_OK)
        return err_internal(ec, ERR_CORRUPT, "a count of references is damaged");
    return r->fn(r->arg, ref, rows, ec);
}

enum err snapshot_each_ref(struct snapshot *snap,
    enum err (*fn)(void *arg, struct str content_ref, uint32_t rows, struct errctx *ec), void *arg,
    struct errctx *ec)
{
    struct key prefix = key_prefix(snap->user_no, SPACE_REFS);
    return snap->user_no != 0 ? snapshot_scan(snap, &prefix, each_ref, &(struct each_ref){fn, arg}, ec)
                              : ERR_OK;
}
