/* Keys as kalamdb_admin.h has them: the master key is changed on a thread of its own. */
#include "engine/engine.h"
#include "vault/vault.h"
#include <stdlib.h>

struct rotation_job {
    struct kalamdb *db;
    kalamdb_keys_rotated *done;
    void *arg;
    bool own;
    char path[]; /* unless own */
};

/* A new key of our own, in `next` until it is in force. */
static enum err make_own(struct kalamdb *db, uint8_t key[VAULT_KEY_BYTES], struct errctx *ec)
{
    if (!db->master.is_own) {
        err_set(ec, ERR_INVALID_REQUEST, "master_key_file is missing: the file with the new key");
        err_detail(
            ec, "The master key comes from the configuration, so a new one has to come from you, too.");
        err_hint(ec, "openssl rand -hex 32 makes one.");
        return ec->code;
    }
    enum err e = engine_settle_master_key(db, ec); /* of an attempt that failed at its end */
    return e == ERR_OK ? vault_master_key_file(db->master.next, true, db->os, key, ec) : e;
}

static enum err read_theirs(const char *path, uint8_t key[VAULT_KEY_BYTES], struct errctx *ec)
{
    enum err e = vault_master_key_file(path, false, os_posix(), key, ec);
    return e == ERR_NOT_FOUND ? err_set(ec, ERR_INVALID_REQUEST, "there is no file %s", path) : e;
}

static enum err rotate(struct rotation_job *job, struct kalamdb_key_rotation *ret, struct errctx *ec)
{
    struct kalamdb *db = job->db;
    struct vault_rotation done;
    uint8_t key[VAULT_KEY_BYTES];
    enum err e = job->own ? make_own(db, key, ec) : read_theirs(job->path, key, ec);
    if (e != ERR_OK)
        return e;
    e = vault_rotate_master(db->vault, key, &done, ec);
    vault_wipe(key, sizeof key);
    if (done.switched && job->own) {
        db->master.is_next = true;
        struct errctx second;
        errctx_clear(&second);
        enum err settled = engine_settle_master_key(db, e == ERR_OK ? ec : &second);
        e = e == ERR_OK ? settled : e;
    } else if (done.switched) {
        db->master.is_own = strcmp(job->path, db->master.own) == 0;
    }
    if (done.switched && e != ERR_OK)
        err_hint(ec, "The new master key is in force; the rest is done at the next start.");
    *ret = (struct kalamdb_key_rotation){
        .keys = done.keys, .segments = done.segments, .damaged = done.damaged, .own = job->own};
    return e;
}

static enum err claim(struct kalamdb *db, struct errctx *ec)
{
    if (db->vault == NULL)
        return err_set(ec, ERR_INVALID_REQUEST, "there are no keys: encryption is off");
    pthread_mutex_lock(&db->lock);
    bool busy = db->master.rotating;
    db->master.rotating = true;
    pthread_mutex_unlock(&db->lock);
    return busy ? err_set(ec, ERR_CONFLICT, "the master key is being rotated") : ERR_OK;
}

static void unclaim(struct kalamdb *db)
{
    pthread_mutex_lock(&db->lock);
    db->master.rotating = false;
    pthread_mutex_unlock(&db->lock);
}

static void *rotate_main(void *arg)
{
    struct rotation_job *job = arg;
    struct kalamdb *db = job->db;
    struct kalamdb_key_rotation out;
    struct kalamdb_error error = {.code = KALAMDB_OK};
    struct errctx ec;
    errctx_clear(&ec);
    pthread_mutex_lock(&db->master.changing);
    enum err e = rotate(job, &out, &ec);
    pthread_mutex_unlock(&db->master.changing);
    if (e != ERR_OK)
        (void)engine_operator_error(&error, e, "rotation of the master key", &ec);
    unclaim(db);
    job->done(job->arg, e == ERR_OK ? &out : NULL, &error);
    free(job);
    engine_detached_ends(db);
    return NULL;
}

void kalamdb_rotate_master_key(struct kalamdb *db, const char *path, kalamdb_keys_rotated *done, void *arg)
{
    struct errctx ec;
    struct kalamdb_error error;
    size_t n = path != NULL ? strlen(path) + 1 : 0;
    errctx_clear(&ec);
    if (claim(db, &ec) == ERR_OK) {
        struct rotation_job *job = malloc(sizeof *job + n);
        if (job != NULL) {
            *job = (struct rotation_job){.db = db, .done = done, .arg = arg, .own = path == NULL};
            if (path != NULL)
                memcpy(job->path, path, n);
            if (engine_detach(db, rotate_main, job))
                return;
            free(job);
        }
        unclaim(db);
        err_set(&ec, job != NULL ? ERR_UNAVAILABLE : ERR_NO_MEMORY, "%s",
            job != NULL ? "the database is shutting down" : "out of memory");
    }
    engine_error(&error, &ec);
    done(arg, NULL, &error);
}

void kalamdb_keys(struct kalamdb *db, struct kalamdb_keys *ret)
{
    struct vault_ring_state st;
    *ret = (struct kalamdb_keys){.encryption = db->vault != NULL};
    if (db->vault == NULL)
        return;
    vault_ring_state(db->vault, &st);
    ret->rotating = st.rotating;
    ret->segments = st.segments;
    ret->segments_done = st.segments_done;
    ret->rotations = st.rotations;
    ret->rotated_us = st.rotated_us;
    ret->beside_data = db->master.is_own;
    memcpy(ret->check, st.check, sizeof ret->check);
}
