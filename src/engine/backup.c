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

static void *backup_main(void *arg)
{
    struct backup_job *job = arg;
    struct kalamdb *db = job->db;
    struct backup_report report;
    struct kalamdb_backup out;
    struct kalamdb_error error = {.code = KALAMDB_OK};
    struct errctx ec;
    errctx_clear(&ec);
    enum err e = store_backup(db->store, job->dir, job->keep, &report, &ec);
    if (e == ERR_OK)
        report_of(&report, &out);
    else
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

void kalamdb_backup(struct kalamdb *db, const char *dir, int keep, kalamdb_backed_up *done, void *arg)
{
    struct errctx ec;
    struct kalamdb_error error;
    size_t n = strlen(dir) + 1;
    struct backup_job *job = malloc(sizeof *job + n);
    errctx_clear(&ec);
    if (job != NULL) {
        *job = (struct backup_job){.db = db, .done = done, .arg = arg, .keep = keep};
        memcpy(job->dir, dir, n);
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

kalamdb_code kalamdb_restore(const char *dir, uint32_t generation, const char *data,
    struct kalamdb_backup *ret, struct kalamdb_error *error)
{
    struct errctx ec;
    struct backup_report report;
    errctx_clear(&ec);
    enum err e = store_restore(os_posix(), dir, generation, data, &report, &ec);
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
