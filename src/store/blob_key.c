/* Keys of sealed files, and what is kept under them.
 *
 * Value of SPACE_REF_KEYS: u8 format (1) | 32 bytes. The store seals it, as all values of that space, with
 * the key of the user whose partition it is in, bound to the whole RocksDB key: so a file's name, its holder
 * and its key belong together, and a file that is put in another's place does not open.
 *
 * The digest in a file's record is masked with SHA-256(label | file key): that key is random, used for one
 * file and the mask for one digest, so that the record alone tells nothing about the content. */
#include "store/committer.h"
#include <stdio.h>
#include <stdlib.h>

enum { KEY_FORMAT = 1 };
#define KEY_VALUE_BYTES (1 + BLOB_KEY_BYTES)

struct blob_key_offer {
    char ref_hash[16];
    uint8_t key[BLOB_KEY_BYTES];
};

/* ---- the digest ---------------------------------------------------------------------------------------- */

static int nibble(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : 0;
}

/* On, or off again. */
static void mask(struct blob *b, const uint8_t key[BLOB_KEY_BYTES])
{
    static const char label[] = "kalamdb digest of a sealed file";
    char in[sizeof label + BLOB_KEY_BYTES];
    uint8_t pad[32], digest[32];
    memcpy(in, label, sizeof label);
    memcpy(in + sizeof label, key, BLOB_KEY_BYTES);
    sha256(str_n(in, sizeof in), pad);
    explicit_bzero(in, sizeof in);
    for (size_t i = 0; i < sizeof digest; i++)
        digest[i] = (uint8_t)((nibble(b->sha256[2 * i]) << 4 | nibble(b->sha256[2 * i + 1])) ^ pad[i]);
    for (size_t i = 0; i < sizeof digest; i++)
        snprintf(b->sha256 + 2 * i, 3, "%02x", digest[i]);
}

void blob_mask(struct blob *b, const uint8_t key[BLOB_KEY_BYTES])
{
    if (!b->masked)
        mask(b, key);
    b->masked = true;
}

void blob_reveal(struct blob *b, const uint8_t key[BLOB_KEY_BYTES])
{
    if (b->masked)
        mask(b, key);
    b->masked = false;
}

/* ---- values -------------------------------------------------------------------------------------------- */

static void put_key(struct txn *t, uint64_t user_no, struct str ref, const uint8_t key[BLOB_KEY_BYTES])
{
    struct key k = key_ref(user_no, SPACE_REF_KEYS, ref);
    char value[KEY_VALUE_BYTES] = {KEY_FORMAT};
    memcpy(value + 1, key, BLOB_KEY_BYTES);
    txn_put(t, &k, str_n(value, sizeof value));
    explicit_bzero(value, sizeof value);
}

static enum err decode(struct str value, const uint8_t **ret, struct errctx *ec)
{
    if (value.len != KEY_VALUE_BYTES || value.ptr[0] != KEY_FORMAT)
        return err_internal(ec, ERR_CORRUPT, "the key of a file is damaged");
    *ret = (const uint8_t *)value.ptr + 1;
    return ERR_OK;
}

/* ---- in a transaction ---------------------------------------------------------------------------------- */

static void hash_of(struct str ref, char ret[16])
{
    struct key k = key_ref(CATALOG_USER_NO, CATALOG_BLOBS, ref);
    memcpy(ret, k.bytes + KEY_PREFIX_BYTES, 16);
}

enum err blob_keys_offer(
    struct blob_keys *k, struct str content_ref, const uint8_t key[BLOB_KEY_BYTES], struct errctx *ec)
{
    if (k->n == k->cap) {
        size_t cap = k->cap == 0 ? 8 : k->cap * 2;
        struct blob_key_offer *p =
            calloc(cap, sizeof *p); /* not realloc: what it leaves behind is not wiped */
        if (p == NULL)
            return err_set(ec, ERR_NO_MEMORY, "out of memory");
        if (k->n > 0)
            memcpy(p, k->items, k->n * sizeof *p);
        if (k->items != NULL)
            explicit_bzero(k->items, k->cap * sizeof *k->items);
        free(k->items);
        k->items = p;
        k->cap = cap;
    }
    hash_of(content_ref, k->items[k->n].ref_hash);
    memcpy(k->items[k->n++].key, key, BLOB_KEY_BYTES);
    return ERR_OK;
}

void blob_keys_clear(struct blob_keys *k)
{
    if (k->n > 0)
        explicit_bzero(k->items, k->n * sizeof *k->items);
    k->n = 0;
    k->source_no = 0;
}

void blob_keys_release(struct blob_keys *k)
{
    blob_keys_clear(k);
    free(k->items);
    *k = (struct blob_keys){0};
}

void txn_refs_from(struct txn *txn, uint64_t source_no)
{
    txn->blob_keys.source_no = source_no;
}

enum err txn_blob_key_take(struct txn *t, uint64_t user_no, struct str content_ref, struct errctx *ec)
{
    const struct blob_keys *offers = &t->blob_keys;
    const uint8_t *key = NULL;
    struct str value;
    char hash[16];
    hash_of(content_ref, hash);
    for (size_t i = 0; i < offers->n; i++) {
        if (memcmp(offers->items[i].ref_hash, hash, sizeof hash) == 0) {
            put_key(t, user_no, content_ref, offers->items[i].key);
            return ERR_OK;
        }
    }
    if (!store_encrypts(t->store) || offers->source_no == 0)
        return ERR_OK; /* not sealed, or a count that the sweep repairs: the row is there, its file is lost */
    struct key k = key_ref(offers->source_no, SPACE_REF_KEYS, content_ref);
    enum err e = txn_get(t, &k, &value, ec);
    if (e == ERR_OK)
        e = decode(value, &key, ec);
    if (e == ERR_OK)
        put_key(t, user_no, content_ref, key);
    if (e == ERR_NOT_FOUND)
        errctx_clear(ec);
    return e == ERR_NOT_FOUND ? ERR_OK : e;
}

void txn_blob_key_drop(struct txn *t, uint64_t user_no, struct str content_ref)
{
    struct key k = key_ref(user_no, SPACE_REF_KEYS, content_ref);
    if (store_encrypts(t->store))
        txn_delete(t, &k);
}

/* ---- reading ------------------------------------------------------------------------------------------- */

static enum err key_of(
    struct snapshot *snap, uint64_t user_no, struct str ref, const uint8_t **ret, struct errctx *ec)
{
    struct key k = key_ref(user_no, SPACE_REF_KEYS, ref);
    struct str value;
    enum err e = snapshot_get(snap, &k, &value, ec);
    return e == ERR_OK ? decode(value, ret, ec) : e;
}

enum err snapshot_blob_key(
    struct snapshot *snap, struct str content_ref, const uint8_t **ret, struct errctx *ec)
{
    *ret = NULL;
    if (!store_encrypts(snap->store))
        return ERR_OK;
    enum err e = snap->user_no != 0 ? key_of(snap, snap->user_no, content_ref, ret, ec) : ERR_NOT_FOUND;
    return e == ERR_NOT_FOUND ? err_set(ec, e, "no such file") : e;
}

/* The id that a folder is named after. */
struct folder {
    struct str name;
    uint64_t no; /* found; 0: not */
};

static enum err same_folder(void *arg, struct str key, struct str value, struct errctx *ec)
{
    struct folder *f = arg;
    struct buf name = BUF_INIT(1024);
    store_folder_name(&name, str_n(key.ptr + KEY_PREFIX_BYTES, key.len - KEY_PREFIX_BYTES));
    if (value.len == 8 && str_eq(buf_view(&name), f->name))
        f->no = get_be64(value.ptr);
    buf_release(&name);
    (void)ec;
    return ERR_OK;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* By the id's plain beginning: all of it, or of a long one that is cut what its folder shows. */
static enum err partition_of(
    struct snapshot *snap, enum key_space space, struct str name, uint64_t *ret, struct errctx *ec)
{
    struct folder f = {.name = name};
    struct key prefix = key_prefix(CATALOG_USER_NO, space);
    size_t end = str_find(name, '~');
    for (size_t i = 0; i < end && prefix.len < KEY_BYTES_MAX; i++) {
        char c = name.ptr[i];
        if (c == '%') {
            int high = i + 2 < end ? hex_digit(name.ptr[i + 1]) : -1;
            int low = i + 2 < end ? hex_digit(name.ptr[i + 2]) : -1;
            if (high < 0 || low < 0)
                break;
            c = (char)(high << 4 | low);
            i += 2;
        }
        prefix.bytes[prefix.len++] = c;
    }
    enum err e = snapshot_scan(snap, &prefix, same_folder, &f, ec);
    *ret = f.no;
    return e;
}

struct holder {
    struct snapshot *snap;
    struct str ref;
    const uint8_t *key;
};

/* Of a group's members, past ones included, the first who has it. */
static enum err ask_member(void *arg, struct str key, struct str value, struct errctx *ec)
{
    struct holder *h = arg;
    struct str row;
    uint64_t user_no;
    bool present;
    (void)key;
    if (member_entry_head(value, &user_no, &present, &row) != ERR_OK)
        return err_internal(ec, ERR_CORRUPT, "a member of a group is damaged");
    enum err e = key_of(h->snap, user_no, h->ref, &h->key, ec);
    if (e == ERR_NOT_FOUND)
        errctx_clear(ec);
    return e == ERR_OK ? ERR_RETRY : e == ERR_NOT_FOUND ? ERR_OK : e; /* RETRY ends the scan */
}

enum err snapshot_blob_key_any(
    struct snapshot *snap, struct str content_ref, const uint8_t **ret, struct errctx *ec)
{
    enum err e = snapshot_blob_key(snap, content_ref, ret, ec);
    if (e != ERR_NOT_FOUND)
        return e;
    errctx_clear(ec);
    struct holder h = {.snap = snap, .ref = content_ref};
    bool shared = str_starts_with(content_ref, STR(SHARED_DIR "/"));
    struct str name = content_ref;
    if (shared)
        name = str_n(name.ptr + strlen(SHARED_DIR "/"), name.len - strlen(SHARED_DIR "/"));
    name.len = str_find(name, '/');
    uint64_t no = 0;
    e = partition_of(snap, shared ? CATALOG_GROUPS : CATALOG_USERS, name, &no, ec);
    if (e == ERR_OK && no != 0 && shared) {
        struct key members = key_prefix(no, SPACE_GROUP_MEMBERS);
        e = snapshot_scan(snap, &members, ask_member, &h, ec);
        e = e == ERR_RETRY ? ERR_OK : e;
    } else if (e == ERR_OK && no != 0) {
        e = key_of(snap, no, content_ref, &h.key, ec);
    }
    if (e == ERR_OK && h.key == NULL)
        e = ERR_NOT_FOUND;
    *ret = h.key;
    return e == ERR_NOT_FOUND ? err_set(ec, e, "no such file") : e;
}
