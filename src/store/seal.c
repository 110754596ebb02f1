/* Values are sealed where they leave for the database, and opened where they come from it: everything in
 * between works on plain ones. What is bound to a value is its whole key, so that none can stand in for
 * another, of whatever user, table or message. */
#include "store/internal.h"

bool key_sealed(struct str key)
{
    if (key.len < KEY_PREFIX_BYTES)
        return false;
    /* Without a default: the compiler asks whoever adds a space. */
    switch ((enum key_space)get_be32(key.ptr + 8)) {
    case SPACE_MESSAGES:
    case SPACE_TOMBSTONES:
    case SPACE_CONVERSATIONS:
    case SPACE_MEMBERS:
    case SPACE_MANIFEST:
    case SPACE_GROUP:
    case SPACE_GROUP_MEMBERS:
    case SPACE_STREAMS:
    case SPACE_REF_KEYS: /* not REFS: what an erased user held is let go of without their key */
    case CATALOG_BLOBS:
        return true;
    case SPACE_HEAD: /* ids, numbers, times, sizes */
    case SPACE_IDS:
    case SPACE_SEQ:
    case SPACE_CLIENT_IDS:
    case SPACE_MEMBERSHIPS:
    case SPACE_REFS:
    case SPACE_QUOTA:
    case SPACE_ERASED_WORK: /* read when the partition's key is destroyed */
    case CATALOG_FORMAT:
    case CATALOG_STATE:
    case CATALOG_USERS:
    case CATALOG_GROUPS:
    case CATALOG_STREAMS:
    case CATALOG_ERASED:
    case CATALOG_BACKFILLS:
    case CATALOG_FEED_TAG:
    case CATALOG_VAULT:
    case CATALOG_REVOKED_TOKENS:
    case CATALOG_REVOKED_USERS:
        return false;
    }
    return false;
}

static const char *table_of(struct str key)
{
    switch (get_be32(key.ptr + 8)) {
    case SPACE_MESSAGES:
    case SPACE_TOMBSTONES:
        return "messages";
    case SPACE_CONVERSATIONS:
        return "conversations";
    case SPACE_MEMBERS:
    case SPACE_GROUP_MEMBERS:
        return "conversation_users";
    case SPACE_MANIFEST:
        return "manifest";
    case SPACE_GROUP:
        return "group";
    case SPACE_STREAMS:
        return "streams";
    default:
        return "files";
    }
}

static enum err explain(enum err e, struct str key, struct errctx *ec)
{
    if (e == ERR_NOT_FOUND) /* not the end of a scan */
        return err_set(ec, ERR_UNAVAILABLE, "the user was erased");
    if (e == ERR_CORRUPT)
        err_path(ec, "%s", table_of(key));
    return e;
}

enum err store_unseal(struct store *s, struct str key, struct str value, struct buf *scratch, struct str *ret,
    struct errctx *ec)
{
    if (s->vault == NULL || !key_sealed(key)) {
        *ret = value;
        return ERR_OK;
    }
    buf_clear(scratch);
    enum err e = vault_unseal(s->vault, get_be64(key.ptr), key, value, scratch, ec);
    if (e != ERR_OK)
        return explain(e, key, ec);
    *ret = buf_view(scratch);
    return ERR_OK;
}

enum err store_unseal_copy(struct store *s, struct str key, struct str value, struct arena *arena,
    struct str *ret, struct errctx *ec)
{
    if (s->vault == NULL || !key_sealed(key)) {
        struct str copy = arena_str(arena, value);
        if (copy.ptr == NULL)
            return err_set(ec, ERR_NO_MEMORY, "out of memory");
        *ret = copy;
        return ERR_OK;
    }
    size_t len = 0;
    char *room = arena_alloc(arena, value.len + 1);
    if (room == NULL)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    enum err e = vault_unseal_into(s->vault, get_be64(key.ptr), key, value, room, &len, ec);
    if (e != ERR_OK)
        return explain(e, key, ec);
    *ret = str_n(room, len);
    return ERR_OK;
}

enum err store_seal(struct store *s, struct str key, struct str value, struct buf *scratch, struct str *ret,
    struct errctx *ec)
{
    if (s->vault == NULL || !key_sealed(key)) {
        *ret = value;
        return ERR_OK;
    }
    buf_clear(scratch);
    enum err e = vault_seal(s->vault, get_be64(key.ptr), key, value, scratch, ec);
    if (e == ERR_OK)
        *ret = buf_view(scratch);
    return e;
}
