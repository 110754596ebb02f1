/* Where the keys come from. */
#include "vault/vault.h"
#include "engine/engine.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct places {
    char *keys, *ring, *hot,
        *beside; /* the folder, a file in it, a file of the database, the key beside them */
};

static bool find_places(const char *data, struct places *ret)
{
    bool good = asprintf(&ret->keys, "%s/.kalamdb/keys", data) >= 0;
    good = good && asprintf(&ret->ring, "%s/ring", ret->keys) >= 0;
    good = good && asprintf(&ret->hot, "%s/.kalamdb/hot/CURRENT", data) >= 0;
    return good && asprintf(&ret->beside, "%s/.kalamdb/master.key", data) >= 0;
}

/* Names the setting that is wrong. */
static enum err of_setting(const char *setting, enum err e, struct errctx *ec)
{
    char why[sizeof ec->message];
    memcpy(why, ec->message, sizeof why);
    if (e == ERR_INVALID_REQUEST)
        snprintf(ec->message, sizeof ec->message, "%s: %.200s", setting, why);
    return e;
}

static enum err master_key(const struct kalamdb_options *o, const struct places *p, const struct os *os,
    bool make, uint8_t ret[VAULT_KEY_BYTES], struct errctx *ec)
{
    if (o->master_key != NULL && o->master_key_file != NULL)
        return err_set(ec, ERR_INVALID_REQUEST, "master_key and master_key_file: set one of them");
    if (o->master_key != NULL)
        return of_setting("KALAMDB_MASTER_KEY", vault_parse_master_key(str_c(o->master_key), ret, ec), ec);
    if (o->master_key_file != NULL) {
        enum err e = vault_master_key_file(o->master_key_file, false, os, ret, ec);
        if (e == ERR_NOT_FOUND)
            e = err_set(ec, ERR_INVALID_REQUEST, "there is no %s", o->master_key_file);
        return of_setting("master_key_file", e, ec);
    }
    enum err e = vault_master_key_file(p->beside, make, os, ret, ec);
    if (e == ERR_NOT_FOUND) {
        e = err_set(ec, ERR_INVALID_REQUEST, "the master key is missing");
        err_detail(
            ec, "Neither master_key_file nor KALAMDB_MASTER_KEY is set, and there is no %s.", p->beside);
    }
    return e;
}

/* A rotation to a new key of our own leaves it in `next` until the end. Should the one in `own` not open the
 * ring any more, the switch was made. */
static enum err open_with_next(struct kalamdb *db, struct vault_config *cfg, uint8_t *key, struct errctx *ec)
{
    struct errctx second;
    if (!db->master.is_own || access(db->master.next, F_OK) != 0)
        return ERR_INVALID_REQUEST;
    errctx_clear(&second);
    if (vault_master_key_file(db->master.next, false, db->os, key, &second) != ERR_OK ||
        vault_open(cfg, &db->vault, &second) != ERR_OK)
        return ERR_INVALID_REQUEST;
    db->master.is_next = true;
    errctx_clear(ec);
    return ERR_OK;
}

enum err engine_open_vault(struct kalamdb *db, const struct kalamdb_options *o, struct errctx *ec)
{
    struct places p = {NULL, NULL, NULL, NULL};
    uint8_t key[VAULT_KEY_BYTES];
    if (!o->encryption)
        return ERR_OK;
    enum err e = find_places(o->data_dir, &p) ? ERR_OK : err_set(ec, ERR_NO_MEMORY, "out of memory");
    bool ring = e == ERR_OK && access(p.ring, F_OK) == 0, data = e == ERR_OK && access(p.hot, F_OK) == 0;
    db->master.own = p.beside;
    if (e == ERR_OK && asprintf(&db->master.next, "%s.new", p.beside) < 0)
        e = err_set(ec, ERR_NO_MEMORY, "out of memory");
    db->master.is_own = o->master_key == NULL && o->master_key_file == NULL;
    if (e == ERR_OK && (ring || !data)) {
        if (!ring)
            e = os_mkdirs(p.keys, ec);
        if (e == ERR_OK)
            e = master_key(o, &p, db->os, !ring, key, ec);
        struct vault_config cfg = {.dir = p.keys, .master_key = key, .os = db->os, .existing = ring};
        if (e == ERR_OK) {
            e = vault_open(&cfg, &db->vault, ec);
            if (e == ERR_INVALID_REQUEST)
                e = open_with_next(db, &cfg, key, ec);
        }
        vault_wipe(key, sizeof key);
    }
    free(p.keys);
    free(p.ring);
    free(p.hot);
    return e;
}

const char *engine_own_master_key(const struct kalamdb *db)
{
    return !db->master.is_own ? NULL : db->master.is_next ? db->master.next : db->master.own;
}

enum err engine_settle_master_key(struct kalamdb *db, struct errctx *ec)
{
    if (db->vault == NULL || !db->master.is_own)
        return ERR_OK;
    if (!db->master.is_next)
        return vault_remove_key_file(db->os, db->master.next, ec);
    enum err e = vault_replace_key_file(db->os, db->master.next, db->master.own, ec);
    if (access(db->master.next, F_OK) != 0)
        db->master.is_next = false;
    return e;
}
