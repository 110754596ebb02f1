/* kalamdb_admin.h: upkeep on a thread of its own, state, metrics. */
#include "engine/engine.h"
#include "engine/erase.h"
#include <stdio.h>
#include <stdlib.h>

/* ---- consolidation ---- */

struct upkeep_job {
    struct upkeep_job *next;
    kalamdb_done *done;
    void *arg;
    bool everybody;
    bool sweeps, rows; /* instead of consolidating */
    struct sweep_counts counts;
    void (*swept)(void *arg, const struct kalamdb_sweep_counts *counts, const struct kalamdb_error *error);
    size_t len;
    char user_id[];
};

static void upkeep_answer(struct upkeep_job *job, enum err e, struct errctx *ec)
{
    struct kalamdb_error error = {.code = KALAMDB_OK};
    if (e != ERR_OK) {
        if (ec->code != e)
            err_internal(ec, e, job->sweeps ? "sweep failed" : "consolidation failed");
        engine_error(&error, ec);
    }
    if (job->swept != NULL) {
        const struct sweep_counts *c = &job->counts;
        struct kalamdb_sweep_counts counts = {c->users, c->blobs, c->refs, c->refs_repaired,
            c->blobs_repaired, c->blobs_missing, c->files_set_aside, c->uploads_removed};
        job->swept(job->arg, e == ERR_OK ? &counts : NULL, &error);
    }
    if (job->done != NULL)
        job->done(job->arg, NULL, &error);
    free(job);
}

static void *upkeep_main(void *arg)
{
    struct kalamdb *db = arg;
    struct errctx ec;
    pthread_mutex_lock(&db->lock);
    for (;;) {
        while (db->upkeep_first == NULL && !db->closing)
            pthread_cond_wait(&db->upkeep_wake, &db->lock);
        struct upkeep_job *job = db->upkeep_first;
        if (job == NULL)
            break;
        db->upkeep_first = job->next;
        if (db->upkeep_first == NULL)
            db->upkeep_last = &db->upkeep_first;
        bool closing = db->closing;
        pthread_mutex_unlock(&db->lock);
        errctx_clear(&ec);
        struct str user = job->everybody ? STR_NULL : str_n(job->user_id, job->len);
        enum err e = closing       ? err_set(&ec, ERR_UNAVAILABLE, "the database is shutting down")
                     : job->sweeps ? store_sweep(db->store, job->rows, &job->counts, &ec)
                                   : store_consolidate(db->store, user, &ec);
        upkeep_answer(job, e, &ec);
        pthread_mutex_lock(&db->lock);
    }
    pthread_mutex_unlock(&db->lock);
    return NULL;
}

/* Under db->lock. */
static bool upkeep_start(struct kalamdb *db)
{
    if (!db->upkeep_started && pthread_create(&db->upkeep, NULL, upkeep_main, db) == 0)
        db->upkeep_started = true;
    return db->upkeep_started;
}

void engine_upkeep_stop(struct kalamdb *db)
{
    pthread_mutex_lock(&db->lock);
    db->closing = true;
    pthread_cond_broadcast(&db->upkeep_wake);
    bool started = db->upkeep_started;
    pthread_mutex_unlock(&db->lock);
    if (started)
        pthread_join(db->upkeep, NULL);
}

/* NULL: the database is closing, or out of memory, by *ec. */
static bool upkeep_submit(struct kalamdb *db, struct upkeep_job *job, struct errctx *ec)
{
    if (job == NULL) {
        err_internal(ec, ERR_NO_MEMORY, "upkeep");
        return false;
    }
    pthread_mutex_lock(&db->lock);
    bool taken = !db->closing && upkeep_start(db);
    if (taken) {
        *db->upkeep_last = job;
        db->upkeep_last = &job->next;
        pthread_cond_signal(&db->upkeep_wake);
    }
    pthread_mutex_unlock(&db->lock);
    if (taken)
        return true;
    free(job);
    err_set(ec, ERR_UNAVAILABLE, "the database is shutting down");
    return false;
}

void kalamdb_consolidate(struct kalamdb *db, struct kalamdb_str user_id, kalamdb_done *done, void *arg)
{
    size_t len = user_id.ptr != NULL ? user_id.len : 0;
    struct upkeep_job *job = malloc(sizeof *job + len);
    struct errctx ec;
    struct kalamdb_error error;
    if (job != NULL) {
        *job = (struct upkeep_job){.done = done, .arg = arg, .everybody = user_id.ptr == NULL, .len = len};
        if (len > 0)
            memcpy(job->user_id, user_id.ptr, len);
    }
    if (upkeep_submit(db, job, &ec))
        return;
    engine_error(&error, &ec);
    done(arg, NULL, &error);
}

void kalamdb_sweep(struct kalamdb *db,
    void (*done)(void *arg, const struct kalamdb_sweep_counts *counts, const struct kalamdb_error *error),
    void *arg)
{
    struct upkeep_job *job = malloc(sizeof *job);
    struct errctx ec;
    struct kalamdb_error error;
    if (job != NULL)
        *job = (struct upkeep_job){.sweeps = true, .rows = true, .swept = done, .arg = arg};
    if (upkeep_submit(db, job, &ec))
        return;
    engine_error(&error, &ec);
    done(arg, NULL, &error);
}

void engine_sweep_after_open(struct kalamdb *db)
{
    struct upkeep_job *job = malloc(sizeof *job);
    struct errctx ec;
    if (job != NULL)
        *job = (struct upkeep_job){.sweeps = true};
    (void)upkeep_submit(db, job, &ec); /* without it, the next one finds what there is */
}

void kalamdb_stop_consolidation(struct kalamdb *db)
{
    store_stop_consolidation(db->store);
    erasures_stop_waiting(db);
}

kalamdb_code kalamdb_writable(struct kalamdb *db, struct kalamdb_error *error)
{
    struct errctx ec;
    errctx_clear(&ec);
    enum err e = store_writable(db->store, &ec);
    if (e == ERR_OK)
        return KALAMDB_OK;
    if (ec.code != e)
        err_internal(&ec, e, "not writable");
    return engine_error(error, &ec);
}

/* ---- metrics ---- */

struct sampler {
    void (*sample)(void *arg, const struct kalamdb_metric *m);
    void *arg;
};

static void gauge(const struct sampler *s, const char *name, const char *help, const char *labels, double v)
{
    struct kalamdb_metric m = {name, "gauge", help, labels, "", v};
    s->sample(s->arg, &m);
}

static void counter(
    const struct sampler *s, const char *name, const char *help, const char *labels, uint64_t v)
{
    struct kalamdb_metric m = {name, "counter", help, labels, "_total", (double)v};
    s->sample(s->arg, &m);
}

/* Every fourth bound, the powers of two: enough to read a quantile off, few enough to scrape. */
static void histogram(
    const struct sampler *s, const char *name, const char *help, const char *labels, const struct hist *h)
{
    const char *comma = labels[0] != 0 ? "," : "";
    uint64_t total = 0;
    char text[96];
    struct kalamdb_metric m = {name, "histogram", help, text, "_bucket", 0};
    for (int i = 0; i < HIST_BUCKETS; i++) {
        total += atomic_load_explicit(&h->count[i], memory_order_relaxed);
        if (i % 4 != 3 || i == HIST_BUCKETS - 1)
            continue;
        snprintf(text, sizeof text, "%s%sle=\"%.9g\"", labels, comma, (double)hist_bound_us(i) / 1e6);
        m.value = (double)total;
        s->sample(s->arg, &m);
    }
    snprintf(text, sizeof text, "%s%sle=\"+Inf\"", labels, comma);
    m.value = (double)total;
    s->sample(s->arg, &m);
    m.labels = labels;
    m.suffix = "_sum";
    m.value = (double)atomic_load_explicit(&h->sum_us, memory_order_relaxed) / 1e6;
    s->sample(s->arg, &m);
    m.suffix = "_count";
    m.value = (double)total;
    s->sample(s->arg, &m);
}

static void store_metrics(const struct sampler *s, struct store *store)
{
    struct store_stats st;
    store_stats(store, &st);
    counter(s, "kalamdb_commits", "Durable commits.", "", st.commits);
    counter(s, "kalamdb_commit_groups", "Write batches that held them.", "", st.batches);
    counter(s, "kalamdb_rows_changed", "Rows of messages changed.", "op=\"insert\"", st.rows_inserted);
    counter(s, "kalamdb_rows_changed", "Rows of messages changed.", "op=\"update\"", st.rows_updated);
    counter(s, "kalamdb_rows_changed", "Rows of messages changed.", "op=\"delete\"", st.rows_deleted);
    gauge(s, "kalamdb_rows", "Rows stored.", "tier=\"hot\"", (double)st.rows_hot);
    gauge(s, "kalamdb_rows", "Rows stored.", "tier=\"cold\"", (double)st.rows_cold);
    gauge(s, "kalamdb_stored_bytes", "Bytes stored.", "tier=\"hot\"", (double)st.bytes_hot);
    gauge(s, "kalamdb_stored_bytes", "Bytes stored.", "tier=\"cold\"", (double)st.bytes_cold);
    gauge(s, "kalamdb_cold_files", "Parquet files.", "", (double)st.files_cold);
    gauge(s, "kalamdb_cold_cache_bytes", "Parquet files kept in memory for workers.", "",
        (double)st.cold_cache_bytes);
    counter(s, "kalamdb_cold_cache_opens",
        "Parquet files handed to workers: from memory, or opened and checked.", "from=\"memory\"",
        st.cold_cache_hits);
    counter(s, "kalamdb_cold_cache_opens",
        "Parquet files handed to workers: from memory, or opened and checked.", "from=\"disk\"",
        st.cold_cache_misses);
    gauge(s, "kalamdb_users", "Users known.", "", (double)st.users);
    gauge(s, "kalamdb_commit_queue_depth", "Writes waiting for the committer.", "", (double)st.queue_depth);
    counter(s, "kalamdb_consolidations", "Consolidations finished.", "", st.consolidations);
    counter(s, "kalamdb_consolidate_failures", "Consolidations failed.", "", st.consolidate_failures);
    counter(
        s, "kalamdb_store_reopens", "Times the store came back after a failed disk write.", "", st.reopens);
    gauge(s, "kalamdb_free_bytes", "Free space of the data directory.", "", (double)st.free_bytes);
    gauge(s, "kalamdb_writable", "1 while writes are taken.", "", st.writable ? 1 : 0);
    histogram(s, "kalamdb_commit_seconds", "From queue to acknowledgement.", "", store_commit_hist(store));
    histogram(s, "kalamdb_fsync_seconds", "fsync of a commit group.", "", store_sync_hist(store));
}

static void vault_metrics(const struct sampler *s, struct vault *vault)
{
    struct vault_stats st;
    vault_stats(vault, &st);
    gauge(s, "kalamdb_vault_open", "1 where data is encrypted at rest.", "", vault != NULL ? 1 : 0);
    gauge(s, "kalamdb_vault_memory_locked", "1 where keys cannot be swapped out.", "",
        st.memory_locked ? 1 : 0);
    counter(s, "kalamdb_vault_keys_made", "Keys made for users and groups since start.", "", st.keys_made);
    counter(s, "kalamdb_vault_keys_destroyed", "Keys destroyed since start.", "", st.keys_destroyed);
    counter(s, "kalamdb_vault_key_loads", "Keys unwrapped because they were not at hand.", "", st.loads);
    counter(s, "kalamdb_vault_values", "Values sealed and opened.", "op=\"seal\"", st.sealed);
    counter(s, "kalamdb_vault_values", "Values sealed and opened.", "op=\"open\"", st.unsealed);
    counter(s, "kalamdb_vault_unseal_failures", "Values that did not open: damaged, or tampered with.", "",
        st.unseal_failures);
}

bool kalamdb_workers_caged(struct kalamdb *db)
{
    struct analytic_stats an;
    analytic_stats(db->analytic, &an);
    return an.landlock_abi > 0;
}

void kalamdb_metrics(struct kalamdb *db, void (*sample)(void *arg, const struct kalamdb_metric *m), void *arg)
{
    struct sampler s = {sample, arg};
    store_metrics(&s, db->store);
    vault_metrics(&s, db->vault);
    struct analytic_stats an;
    analytic_stats(db->analytic, &an);
    gauge(&s, "kalamdb_workers", "Worker processes.", "state=\"idle\"", an.idle);
    gauge(&s, "kalamdb_workers", "Worker processes.", "state=\"busy\"", an.busy);
    gauge(&s, "kalamdb_workers", "Worker processes.", "state=\"reserved\"", an.reserved);
    counter(&s, "kalamdb_workers_started", "Worker processes started.", "", an.started);
    counter(&s, "kalamdb_workers_died", "Worker processes that died by themselves.", "", an.died);
    counter(&s, "kalamdb_workers_killed", "Worker processes killed.", "", an.killed);
    counter(&s, "kalamdb_workers_expelled", "Worker processes killed for a system call outside their cage.",
        "", an.expelled);
    gauge(&s, "kalamdb_worker_cage", "Version of Landlock around worker processes; 0: no cage.", "",
        an.landlock_abi);
    counter(&s, "kalamdb_worker_runs", "Statements run by workers.", "", an.runs);
    gauge(&s, "kalamdb_worker_waiting", "Statements waiting for a worker.", "", (double)an.waiting);
    struct live_stats lv;
    live_stats(db->live, &lv);
    gauge(&s, "kalamdb_subscriptions", "Live subscriptions.", "", (double)lv.subscriptions);
    gauge(&s, "kalamdb_feeds", "Users followed.", "", (double)lv.feeds);
    gauge(&s, "kalamdb_feed_bytes", "Recent changes kept for subscribers.", "", (double)lv.ring_bytes);
    counter(&s, "kalamdb_catchups", "Slow subscribers served from storage.", "", lv.catchups);
    counter(&s, "kalamdb_replays", "Replays begun.", "", lv.replays);
    counter(&s, "kalamdb_changes_delivered", "Changes handed to subscribers.", "", lv.delivered);
    counter(
        &s, "kalamdb_reads", "SELECTs by the way they took.", "path=\"fast\"", atomic_load(&db->fast_reads));
    counter(&s, "kalamdb_reads", "SELECTs by the way they took.", "path=\"analytic\"",
        atomic_load(&db->analytic_reads));
    counter(&s, "kalamdb_statements_failed", "Statements that ended in an error.", "",
        atomic_load(&db->statements_failed));
    counter(&s, "kalamdb_change_retries", "Changes read again after a concurrent one.", "",
        atomic_load(&db->retries));
    histogram(&s, "kalamdb_statement_seconds", "Statements, whole.", "kind=\"read\"", &db->exec_read);
    histogram(&s, "kalamdb_statement_seconds", "Statements, whole.", "kind=\"write\"", &db->exec_write);
    pthread_mutex_lock(&db->lock);
    size_t inflight = db->inflight;
    pthread_mutex_unlock(&db->lock);
    gauge(&s, "kalamdb_statements_inflight", "Statements off their caller's thread.", "", (double)inflight);
}
