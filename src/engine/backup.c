/* Backup and restore as kalamdb_admin.h has them: each backup on a thread of its own. */
#include "store/backup.h"
#include "base/log.h"
#include "engine/engine.h"
#include "engine/key_copies.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct backup_job {
    struct kalamdb *db;
    kalamdb_backed_up *done;
    void *arg;
    int keep;
    char *keys; /* heap; NULL: no encryption */
    bool keys_named;
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

kalamdb_code engine_operator_error(
    struct kalamdb_error *error, enum err e, const char *what, struct errctx *ec)
{
    if (ec->code != e)
        err_internal(ec, e, "%s", what);
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

static bool nested(const char *a, const char *b)
{
    return within(a, b) || within(b, a);
}

/* Where data and keys lie in one folder whoever gets the one has the other. */
static enum err check_apart(struct kalamdb *db, const struct backup_job *job, struct errctx *ec)
{
    char *keys = backup_nearest(job->keys), *dir = backup_nearest(job->dir),
         *data = realpath(db->options.data_dir, NULL);
    enum err e = ERR_OK;
    if (keys == NULL || dir == NULL || data == NULL)
        e = err_set(ec, ERR_INVALID_REQUEST, "cannot find %s: %s", job->keys, strerror(errno));
    else if (nested(job->keys, job->dir) || nested(job->keys, db->options.data_dir) || within(keys, data) ||
             (access(job->dir, F_OK) == 0 && within(keys, dir))) {
        e = err_set(ec, ERR_INVALID_REQUEST, "%s lies in the backup or in the data directory", job->keys);
        err_hint(ec, "Keep keys apart from what they open, and where only the newest state of them is kept.");
    }
    free(keys);
    free(dir);
    free(data);
    return e;
}

static enum err check_keys_dir(struct kalamdb *db, const struct backup_job *job, struct errctx *ec)
{
    if (db->vault == NULL && job->keys_named)
        return err_set(ec, ERR_INVALID_REQUEST, "there are no keys: encryption is off");
    enum err e = store_backup_check(db->store, job->dir, ec);
    if (e != ERR_OK || job->keys == NULL)
        return e;
    e = check_apart(db, job, ec);
    if (e == ERR_OK && strlen(job->keys) >= sizeof((struct kalamdb_backup *)0)->keys)
        e = err_set(ec, ERR_INVALID_REQUEST, "the path of the folder for keys is too long");
    if (e == ERR_OK)
        e = vault_backup_check(db->vault, job->keys, ec);
    if (e == ERR_INVALID_REQUEST && ec->hint[0] == '\0')
        err_hint(ec, "%s",
            "The key ring is kept apart from the backup, in DIR.keys unless another folder is named (--keys, "
            "\"keys\").");
    return e;
}

static enum err back_up_keys(
    struct kalamdb *db, const struct backup_job *job, struct kalamdb_backup *ret, struct errctx *ec)
{
    size_t files = 0;
    if (job->keys == NULL)
        return ERR_OK;
    enum err e = key_copies_add(db->os, db->options.data_dir, job->keys, ec);
    pthread_mutex_lock(&db->master.changing); /* the key that is copied opens the ring that is */
    const char *own = engine_own_master_key(db);
    if (e == ERR_OK)
        e = vault_backup(db->vault, job->keys, own, &files, ec);
    pthread_mutex_unlock(&db->master.changing);
    if (e != ERR_OK)
        return e;
    ret->key_files = files;
    ret->master_key_copied = own != NULL;
    snprintf(ret->keys, sizeof ret->keys, "%s", job->keys);
    if (ret->master_key_copied)
        log_event(LOG_WARN, "master_key_with_backup", "s:keys", job->keys, "s:backup", job->dir, "s:reason",
            KALAMDB_MASTER_KEY_COPIED, NULL);
    return ERR_OK;
}

static void job_free(struct backup_job *job)
{
    if (job != NULL)
        free(job->keys);
    free(job);
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
        (void)engine_operator_error(&error, e, "backup", &ec);
    job->done(job->arg, e == ERR_OK ? &out : NULL, &error);
    job_free(job);
    engine_detached_ends(db);
    return NULL;
}

void engine_detached_ends(struct kalamdb *db)
{
    pthread_mutex_lock(&db->lock);
    if (--db->inflight == 0)
        pthread_cond_broadcast(&db->idle);
    pthread_mutex_unlock(&db->lock);
}

bool engine_detach(struct kalamdb *db, void *(*main)(void *job), void *job)
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
    bool started = pthread_create(&thread, &attr, main, job) == 0;
    pthread_attr_destroy(&attr);
    if (!started)
        engine_detached_ends(db);
    return started;
}

static struct backup_job *job_new(struct kalamdb *db, const char *dir, const char *keys)
{
    size_t n = strlen(dir) + 1;
    struct backup_job *job = malloc(sizeof *job + n);
    if (job == NULL)
        return NULL;
    *job = (struct backup_job){.db = db, .keys_named = keys != NULL};
    memcpy(job->dir, dir, n);
    bool wanted = keys != NULL || db->vault != NULL;
    if (wanted)
        job->keys = keys != NULL ? strdup(keys) : backup_keys_default(dir);
    if (!wanted || job->keys != NULL)
        return job;
    free(job);
    return NULL;
}

void kalamdb_backup(
    struct kalamdb *db, const char *dir, int keep, const char *keys, kalamdb_backed_up *done, void *arg)
{
    struct errctx ec;
    struct kalamdb_error error;
    struct backup_job *job = job_new(db, dir, keys);
    errctx_clear(&ec);
    if (job != NULL) {
        job->done = done;
        job->arg = arg;
        job->keep = keep;
        if (engine_detach(db, backup_main, job))
            return;
        job_free(job);
        err_set(&ec, ERR_UNAVAILABLE, "the database is shutting down");
    } else {
        err_internal(&ec, ERR_NO_MEMORY, "backup");
    }
    engine_error(&error, &ec);
    done(arg, NULL, &error);
}

/* The restored directory erases users, too: from the copy that it came from as well. */
static enum err remember_keys(const char *dir, const char *data, const char *keys, struct errctx *ec)
{
    char *beside = keys == NULL ? backup_keys_default(dir) : NULL;
    enum err e = keys == NULL && beside == NULL
                     ? err_set(ec, ERR_NO_MEMORY, "out of memory")
                     : key_copies_add(os_posix(), data, keys != NULL ? keys : beside, ec);
    free(beside);
    return e;
}

kalamdb_code kalamdb_restore(const char *dir, uint32_t generation, const char *data, const char *keys,
    struct kalamdb_backup *ret, struct kalamdb_error *error)
{
    struct errctx ec;
    struct backup_report report;
    errctx_clear(&ec);
    enum err e = store_restore(os_posix(), dir, generation, data, keys, &report, &ec);
    if (e == ERR_OK && report.sealed)
        e = remember_keys(dir, data, keys, &ec);
    if (e != ERR_OK)
        return engine_operator_error(error, e, "backup", &ec);
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
    return e == ERR_OK ? KALAMDB_OK : engine_operator_error(error, e, "backup", &ec);
}
