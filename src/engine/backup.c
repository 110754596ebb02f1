/* Backup and restore as kalamdb_admin.h has them: each backup on a thread of its own. */
#include "store/backup.h"
#include "engine/engine.h"
#include <stdio.h>
#include <stdlib.h>

struct backup_job {
    struct kalamdb *db;
    kalamdb_backed_up *done;
    void *arg;
    int keep;
    const char *keys; /* behind dir; NULL: not */
    char dir[];
};

static void report_of(const struct backup_report *from, struct kalamdb_backup *ret)
{
    *ret = (struct kalamdb_backup){.generation = from->generation,
        .files = from->files,
        .bytes = from->bytes,
        .files_copied = from->files_copied,
        .bytes_copied = from->bytes_copied,
        .hot_bytes = from->hot_bytes,
        .removed = from->removed};
}

static kalamdb_code fail(struct kalamdb_error *error, enum err e, struct errctx *ec)
{
    if (ec->code != e)
        err_internal(ec, e, "backup");
    /* Who asks for this operates the server: the reason is theirs to read. */
    if (ec->internal[0] != '\0' && strcmp(ec->message, "internal error") == 0) {
        char why[sizeof ec->internal];
        memcpy(why, ec->internal, sizeof why);
        (void)err_set(ec, e, "%s", why);
    }
    return engine_error(error, ec);
}

static bool within(const char *path, const char *dir)
{
    size_t n = strlen(dir);
    return strncmp(path, dir, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

/* Where data and keys lie side by side an erasure would not reach what is kept of the user. */
static enum err check_keys_dir(struct kalamdb *db, const struct backup_job *job, struct errctx *ec)
{
    if (job->keys == NULL)
        return ERR_OK;
    if (db->vault == NULL)
        return err_set(ec, ERR_INVALID_REQUEST, "there are no keys: encryption is off");
    if (!within(job->keys, job->dir) && !within(job->keys, db->options.data_dir))
        return ERR_OK;
    err_set(ec, ERR_INVALID_REQUEST, "%s lies in the backup or in the data directory", job->keys);
    err_hint(ec, "Keep keys apart from what they open, and where only the newest state of them is kept.");
    return ec->code;
}

static enum err back_up_keys(
    struct kalamdb *db, const struct backup_job *job, struct kalamdb_backup *ret, struct errctx *ec)
{
    size_t files = 0;
    enum err e = job->keys != NULL ? vault_backup(db->vault, job->keys, &files, ec) : ERR_OK;
    ret->key_files = files;
    return e;
}

static void *backup_main(void *arg)
{
    struct backup_job *job = arg;
    struct kalamdb *db = job->db;
    struct backup_report report;
    struct kalamdb_backup out;
    struct kalamdb_error error = {.code = KALAMDB_OK};
    struct errctx ec;
    errctx_clear(&ec);
    enum err e = check_keys_dir(db, job, &ec);
    if (e == ERR_OK)
        e = store_backup(db->store, job->dir, job->keep, &report, &ec);
    if (e == ERR_OK) {
        report_of(&report, &out);
        e = back_up_keys(db, job, &out, &ec); /* after the data: no key that it needs is missing */
    }
    if (e != ERR_OK)
        (void)fail(&error, e, &ec);
    job->done(job->arg, e == ERR_OK ? &out : NULL, &error);
    free(job);
    pthread_mutex_lock(&db->lock);
    if (--db->inflight == 0)
        pthread_cond_broadcast(&db->idle);
    pthread_mutex_unlock(&db->lock);
    return NULL;
}

static bool start(struct kalamdb *db, struct backup_job *job)
{
    pthread_attr_t attr;
    pthread_t thread;
    pthread_mutex_lock(&db->lock);
    bool closing = db->closing;
    db->inflight += !closing; /* kalamdb_close waits for it */
    pthread_mutex_unlock(&db->lock);
    if (closing)
        return false;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    bool started = pthread_create(&thread, &attr, backup_main, job) == 0;
    pthread_attr_destroy(&attr);
    if (!started) {
        pthread_mutex_lock(&db->lock);
        if (--db->inflight == 0)
            pthread_cond_broadcast(&db->idle);
        pthread_mutex_unlock(&db->lock);
    }
    return started;
}

void kalamdb_backup(
    struct kalamdb *db, const char *dir, int keep, const char *keys, kalamdb_backed_up *done, void *arg)
{
    struct errctx ec;
    struct kalamdb_error error;
    size_t n = strlen(dir) + 1, nkeys = keys != NULL ? strlen(keys) + 1 : 0;
    struct backup_job *job = malloc(sizeof *job + n + nkeys);
    errctx_clear(&ec);
    if (job != NULL) {
        *job = (struct backup_job){.db = db, .done = done, .arg = arg, .keep = keep};
        memcpy(job->dir, dir, n);
        if (keys != NULL)
            job->keys = memcpy(job->dir + n, keys, nkeys);
        if (start(db, job))
            return;
        free(job);
        err_set(&ec, ERR_UNAVAILABLE, "the database is shutting down");
    } else {
        err_internal(&ec, ERR_NO_MEMORY, "backup");
    }
    engine_error(&error, &ec);
    done(arg, NULL, &error);
}

kalamdb_code kalamdb_restore(const char *dir, uint32_t generation, const char *data, const char *keys,
    struct kalamdb_backup *ret, struct kalamdb_error *error)
{
    struct errctx ec;
    struct backup_report report;
    errctx_clear(&ec);
    enum err e = store_restore(os_posix(), dir, generation, data, keys, &report, &ec);
    if (e != ERR_OK)
        return fail(error, e, &ec);
    report_of(&report, ret);
    return KALAMDB_OK;
}

kalamdb_code kalamdb_backups(const char *dir,
    void (*fn)(void *arg, uint32_t generation, int64_t created_us, uint64_t files, uint64_t bytes), void *arg,
    struct kalamdb_error *error)
{
    struct errctx ec;
    uint32_t *all = NULL;
    size_t n = 0;
    errctx_clear(&ec);
    enum err e = backup_generations(dir, &all, &n, &ec);
    for (size_t i = 0; e == ERR_OK && i < n; i++) {
        struct backup_list l;
        backup_list_init(&l);
        e = backup_read(dir, all[i], &l, &ec);
        if (e == ERR_OK)
            fn(arg, l.generation, l.created_us, l.nfiles, backup_list_bytes(&l));
        backup_list_release(&l);
    }
    free(all);
    return e == ERR_OK ? KALAMDB_OK : fail(error, e, &ec);
}
