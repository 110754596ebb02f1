#include "chat/chat.h"
#include "engine/engine.h"
#include "engine/erase.h"
#include "engine/history.h"
#include "engine/query.h"
#include "engine/stream.h"
#include "engine/transfer.h"
#include "media/media.h"
#include <stdlib.h>
#include <unistd.h>

/* Recent changes kept per followed user for live subscribers (live.h). */
#define RING_BYTES_MAX ((size_t)256 << 10)
/* A worker that was kept waits so long for its user's next statement. */
#define IDLE_WORKER_MS 2000

const char *kalamdb_code_name(kalamdb_code code)
{
    return err_wire((enum err)code);
}

int kalamdb_code_status(kalamdb_code code)
{
    return err_status((enum err)code);
}

bool kalamdb_user_id_valid(struct kalamdb_str id)
{
    return user_id_valid(engine_str(id));
}

kalamdb_code engine_error(struct kalamdb_error *ret, const struct errctx *ec)
{
    enum err code = ec->code;
    if (code == ERR_IO || code == ERR_CORRUPT || code == ERR_NO_MEMORY || code == ERR_RETRY)
        code = ERR_INTERNAL;
    if (ret == NULL)
        return (kalamdb_code)code;
    _Static_assert(sizeof ret->message == sizeof ec->message && sizeof ret->detail == sizeof ec->detail &&
                       sizeof ret->hint == sizeof ec->hint && sizeof ret->internal == sizeof ec->internal,
        "texts fit");
    ret->code = (kalamdb_code)code;
    ret->position = ec->position;
    memcpy(ret->message, ec->message, sizeof ret->message);
    memcpy(ret->detail, ec->detail, sizeof ret->detail);
    memcpy(ret->hint, ec->hint, sizeof ret->hint);
    memcpy(ret->internal, ec->internal, sizeof ret->internal);
    return ret->code;
}

void engine_force_path(struct kalamdb *db, enum engine_path path)
{
    atomic_store(&db->path, (int)path);
}

void kalamdb_options_default(struct kalamdb_options *ret)
{
    *ret = (struct kalamdb_options){
        .data_dir = "./data",
        .durability = KALAMDB_SYNC,
        .async_window_ms = 50,
        .query_timeout_ms = 30000,
        .max_result_rows = 10000,
        .max_sql_bytes = (size_t)1 << 20,
        .max_content_bytes = (size_t)1 << 20,
        .large_content_bytes = 102400,
        .max_media_bytes = (uint64_t)50 << 20,
        .max_import_bytes = (uint64_t)10 << 30,
        .max_user_media_bytes = (uint64_t)10 << 30,
        .max_changed_rows = 1000000,
        .max_group_members = 1000,
        .consolidate_rows = 10000,
        .consolidate_interval_ms = 300000,
        .consolidate_min_rows = 500,
        .hot_tail_rows = 64,
        .tombstone_retention_s = 30 * 86400,
        .disk_reserve_bytes = (uint64_t)64 << 20,
        .workers = 4,
        .worker_memory_bytes = (size_t)1 << 30,
        .block_cache_bytes = (size_t)64 << 20,
        .write_buffer_bytes = (size_t)32 << 20,
        .cold_cache_bytes = (uint64_t)256 << 20,
        .erase_sent = KALAMDB_ANONYMIZE,
    };
}

static enum err check_options(const struct kalamdb_options *o, struct errctx *ec)
{
    const char *bad = o->data_dir == NULL || o->data_dir[0] == 0    ? "data_dir"
                      : o->async_window_ms < 1                      ? "async_window_ms"
                      : o->query_timeout_ms < 1                     ? "query_timeout_ms"
                      : o->max_result_rows < 1                      ? "max_result_rows"
                      : o->max_sql_bytes < 1                        ? "max_sql_bytes"
                      : o->max_content_bytes < 1                    ? "max_content_bytes"
                      : o->large_content_bytes < BLOB_PREVIEW_BYTES ? "large_content_bytes"
                      : o->max_media_bytes < 1                      ? "max_media_bytes"
                      : !media_list_valid(str_c(o->media_types))    ? "media_types"
                      : o->max_import_bytes < 1                     ? "max_import_bytes"
                      : o->max_changed_rows < 1                     ? "max_changed_rows"
                      : o->max_group_members < 2                    ? "max_group_members"
                      : o->consolidate_rows < 1                     ? "consolidate_rows"
                      : o->consolidate_min_rows < 1                 ? "consolidate_min_rows"
                      : o->hot_tail_rows < 0                        ? "hot_tail_rows"
                      : o->tombstone_retention_s < 1                ? "tombstone_retention_s"
                      : o->workers < 1                              ? "workers"
                                                                    : NULL;
    return bad == NULL ? ERR_OK : err_set(ec, ERR_INVALID_REQUEST, "option %s is out of range", bad);
}

static bool copy_string(const char **s)
{
    if (*s == NULL)
        return true;
    *s = strdup(*s);
    return *s != NULL;
}

static enum err open_analytic(struct kalamdb *db, struct errctx *ec)
{
    const struct kalamdb_options *o = &db->options;
    struct analytic_config cfg = {
        .worker_path = o->worker_path,
        .workers_max = o->workers,
        /* Two above the workers: long reads in C, read phases and retries go on while all workers are busy.
         */
        .threads = o->workers + 2,
        .memory_bytes_max = o->worker_memory_bytes,
        .uncaged = o->worker_uncaged,
        .result_bytes_max = ENGINE_RESULT_BYTES_MAX,
        .idle_worker_ms = IDLE_WORKER_MS,
        .os = db->os,
    };
    return analytic_open(&cfg, &db->analytic, ec);
}

static enum err open_store(struct kalamdb *db, struct errctx *ec)
{
    const struct kalamdb_options *o = &db->options;
    struct store_config cfg = {
        .data_dir = o->data_dir,
        .os = db->os,
        .encryption = o->encryption,
        .vault = db->vault,
        .lock_fd = &db->lock_fd,
        .analytic = db->analytic,
        .durability = o->durability == KALAMDB_ASYNC ? DURABILITY_ASYNC : DURABILITY_SYNC,
        .async_window_ms = o->async_window_ms,
        .disk_reserve_bytes = o->disk_reserve_bytes,
        .consolidate_rows = o->consolidate_rows,
        .consolidate_min_rows = o->consolidate_min_rows,
        .consolidate_interval_ms = o->consolidate_interval_ms,
        .hot_tail_rows = o->hot_tail_rows,
        .tombstone_retention_s = o->tombstone_retention_s,
        .block_cache_bytes = o->block_cache_bytes,
        .write_buffer_bytes = o->write_buffer_bytes,
        .cold_cache_bytes = o->cold_cache_bytes,
    };
    return store_open(&cfg, &db->store, ec);
}

static void free_all(struct kalamdb *db)
{
    streams_close(db);
    if (db->live != NULL)
        live_close(db->live);
    if (db->store != NULL)
        store_close(db->store);
    if (db->analytic != NULL)
        analytic_close(db->analytic);
    vault_close(db->vault);
    if (db->lock_fd >= 0)
        close(db->lock_fd);
    free(db->master.own);
    free(db->master.next);
    pthread_mutex_destroy(&db->master.changing);
    sql_shapes_free(db->shapes);
    pthread_cond_destroy(&db->upkeep_wake);
    pthread_cond_destroy(&db->idle);
    pthread_mutex_destroy(&db->lock);
    free((char *)db->options.data_dir);
    free((char *)db->options.worker_path);
    free((char *)db->options.media_types);
    free(db);
}

kalamdb_code kalamdb_open(
    const struct kalamdb_options *options, struct kalamdb **ret, struct kalamdb_error *error)
{
    struct errctx ec;
    errctx_clear(&ec);
    if (check_options(options, &ec) != ERR_OK)
        return engine_error(error, &ec);
    struct kalamdb *db = calloc(1, sizeof *db);
    if (db == NULL) {
        err_internal(&ec, ERR_NO_MEMORY, "open");
        return engine_error(error, &ec);
    }
    db->options = *options;
    db->os = os_posix();
    db->lock_fd = -1;
    db->options.master_key = db->options.master_key_file = NULL; /* keys are the vault's alone */
    db->upkeep_last = &db->upkeep_first;
    pthread_mutex_init(&db->lock, NULL);
    pthread_mutex_init(&db->master.changing, NULL);
    pthread_cond_init(&db->idle, NULL);
    pthread_cond_init(&db->upkeep_wake, NULL);
    bool copied = copy_string(&db->options.data_dir);
    if (!copied)
        db->options.media_types = NULL;
    copied = copied && copy_string(&db->options.media_types);
    if (!copied)
        db->options.worker_path = NULL;
    copied = copied && copy_string(&db->options.worker_path);
    db->shapes = sql_shapes_new();
    enum err e =
        copied && db->shapes != NULL ? open_analytic(db, &ec) : err_internal(&ec, ERR_NO_MEMORY, "open");
    if (e == ERR_OK) /* before its key ring is touched */
        e = store_lock(options->data_dir, db->os, &db->lock_fd, &ec);
    if (e == ERR_OK)
        e = engine_open_vault(db, options, &ec);
    if (e == ERR_OK)
        e = open_store(db, &ec);
    if (e == ERR_OK && !options->inspect)
        e = engine_settle_master_key(db, &ec);
    if (e == ERR_OK)
        e = transfers_open(db, &ec);
    if (e == ERR_OK)
        e = live_open(db->store, db->analytic, RING_BYTES_MAX, &db->live, &ec);
    if (e == ERR_OK)
        e = streams_open(db, &ec);
    if (e == ERR_OK)
        e = erasures_open(db, &ec);
    if (e == ERR_OK)
        e = history_open(db, &ec);
    if (e != ERR_OK) {
        if (ec.code != e)
            err_internal(&ec, e, "open failed");
        erasures_close(db);
        free_all(db);
        return engine_error(error, &ec);
    }
    if (!options->inspect)
        engine_sweep_after_open(db);
    *ret = db;
    return KALAMDB_OK;
}

void kalamdb_close(struct kalamdb *db)
{
    if (db == NULL)
        return;
    streams_stop(db);
    live_close_all(db->live);
    store_stop_consolidation(db->store);
    pthread_mutex_lock(&db->lock);
    db->closing = true;
    for (struct kalamdb_query *q = db->queries; q != NULL; q = q->next)
        kalamdb_query_cancel(q);
    transfers_cancel(db);
    pthread_mutex_unlock(&db->lock);
    erasures_close(db); /* its statements end like the others; it begins no more */
    pthread_mutex_lock(&db->lock);
    while (db->inflight > 0)
        pthread_cond_wait(&db->idle, &db->lock);
    pthread_mutex_unlock(&db->lock);
    history_close(db);
    engine_upkeep_stop(db);
    free_all(db);
}
