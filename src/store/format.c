/* What the catalog says of the whole directory: its format, whether values are sealed and with which ring,
 * the tag of feeds' names. Read when the database was opened, written when there is none yet. */
#include "store/internal.h"

static enum err write_record(struct store *s, const struct key *k, struct str value, struct errctx *ec)
{
    char *message = NULL;
    rocksdb_writeoptions_t *w = rocksdb_writeoptions_create();
    rocksdb_writeoptions_set_sync(w, 1);
    rocksdb_put(s->db, w, k->bytes, k->len, value.ptr, value.len, &message);
    rocksdb_writeoptions_destroy(w);
    if (message == NULL)
        return ERR_OK;
    (void)err_set(ec, ERR_IO, "cannot write to %s: %s", s->hot_dir, message);
    rocksdb_free(message);
    return ERR_IO;
}

/* The directory was made with or without encryption, and stays so. */
static enum err check_vault(struct store *s, bool fresh, struct errctx *ec)
{
    enum { RECORD_BYTES = 1 + VAULT_RING_ID_BYTES, RECORD_FORMAT = 1 };
    struct key k = key_prefix(CATALOG_USER_NO, CATALOG_VAULT);
    char *message = NULL;
    uint8_t mine[RECORD_BYTES] = {RECORD_FORMAT};
    size_t len = 0;
    if (s->vault != NULL)
        vault_ring_id(s->vault, mine + 1);
    char *value = rocksdb_get(s->db, s->read_latest, k.bytes, k.len, &len, &message);
    enum err e = store_rocks_err(ec, message, "read the vault's record");
    bool sealed = value != NULL, same = len == sizeof mine && memcmp(value, mine, sizeof mine) == 0;
    rocksdb_free(value);
    if (e != ERR_OK)
        return e;
    if (s->cfg.encryption && !sealed && !fresh) {
        err_set(ec, ERR_INVALID_REQUEST, "%s was made without encryption", s->cfg.data_dir);
        err_hint(ec, "Set encryption: off (KALAMDB_ENCRYPTION=off). What it is was fixed when it was made; "
                     "kalamdb export and import bring single users into a new directory.");
        return ec->code;
    }
    if (!s->cfg.encryption && sealed) {
        err_set(ec, ERR_INVALID_REQUEST, "%s was made with encryption", s->cfg.data_dir);
        err_hint(ec, "Set encryption: on.");
        return ec->code;
    }
    if (s->cfg.encryption && s->vault == NULL) {
        err_set(ec, ERR_INVALID_REQUEST, "the key ring of %s is missing", s->cfg.data_dir);
        err_hint(ec, "Put the newest copy of .kalamdb/keys there: backups of the data do not hold it.");
        return ec->code;
    }
    if (s->vault != NULL && sealed && !same) {
        err_set(ec, ERR_INVALID_REQUEST, "the key ring of %s is not the one that its data was sealed with",
            s->cfg.data_dir);
        err_hint(ec, "Bring back .kalamdb/keys as it was backed up last.");
        return ec->code;
    }
    return s->vault != NULL && !sealed ? write_record(s, &k, str_n((const char *)mine, sizeof mine), ec)
                                       : ERR_OK;
}

static enum err read_feed_tag(struct store *s, struct errctx *ec)
{
    struct key k = key_prefix(CATALOG_USER_NO, CATALOG_FEED_TAG);
    char *message = NULL;
    size_t len = 0;
    char *value = rocksdb_get(s->db, s->read_latest, k.bytes, k.len, &len, &message);
    enum err e = store_rocks_err(ec, message, "read the feeds' tag");
    s->has_feed_tag = value != NULL && len == sizeof s->feed_tag;
    if (s->has_feed_tag)
        memcpy(s->feed_tag, value, sizeof s->feed_tag);
    else if (value != NULL)
        e = err_set(ec, ERR_CORRUPT, "the feeds' tag is damaged");
    rocksdb_free(value);
    return e;
}

/* The key of the catalog's own values is there before the format is: one that is missing later is damaged,
 * and a new one in its place would be the end of what it has sealed. */
static enum err catalog_key(struct store *s, bool fresh, struct errctx *ec)
{
    if (!fresh && s->vault != NULL && !vault_key_exists(s->vault, CATALOG_USER_NO)) {
        err_set(ec, ERR_CORRUPT,
            "the catalog's key is missing or damaged in %s/" PRIVATE_DIR "/keys/000000.ring",
            s->cfg.data_dir);
        err_hint(
            ec, "Put the newest copy of " PRIVATE_DIR "/keys there: backups of the data do not hold it.");
        return ERR_CORRUPT;
    }
    enum err e = vault_key_make(s->vault, CATALOG_USER_NO, ec);
    return e == ERR_OK ? vault_flush(s->vault, ec) : e;
}

enum err store_check_format(struct store *s, struct errctx *ec)
{
    struct key k = key_prefix(CATALOG_USER_NO, CATALOG_FORMAT);
    char *message = NULL, now[4];
    size_t len = 0;
    char *value = rocksdb_get(s->db, s->read_latest, k.bytes, k.len, &len, &message);
    enum err e = store_rocks_err(ec, message, "read the format");
    if (e != ERR_OK)
        return e;
    bool fresh = value == NULL;
    uint32_t version = len == 4 ? get_be32(value) : 0;
    rocksdb_free(value);
    if (!fresh && version == 0)
        return err_set(ec, ERR_CORRUPT, "the database in %s has no valid format number", s->hot_dir);
    if (version > STORE_FORMAT_VERSION)
        return err_set(ec, ERR_INVALID_REQUEST,
            "%s was written by a newer version (format %u; this program knows formats up to %d)",
            s->cfg.data_dir, version, STORE_FORMAT_VERSION);
    /* Before the format: a directory with a format and without this record is one without encryption. */
    e = check_vault(s, fresh, ec);
    if (e == ERR_OK)
        e = catalog_key(s, fresh, ec);
    put_be32(now, STORE_FORMAT_VERSION);
    /* Lifted at once: a program that does not know the newer one must not meet it later. */
    if (e == ERR_OK && version < STORE_FORMAT_VERSION)
        e = write_record(s, &k, str_n(now, sizeof now), ec);
    return e == ERR_OK ? read_feed_tag(s, ec) : e;
}
