/* When the cold tier is worked on. The committer notes users whose fresh rows have come due or will; a thread
 * takes them in turn. A slow sweep over all heads finds what a restart forgot, and what only time makes due:
 * tails grown old, deletions to forget. store_consolidate() does the same work on request, in its caller's
 * thread. */
#include "base/log.h"
#include "store/cold.h"
#include "store/orphans.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum {
    TICK_US_MIN = 20000,
    TICK_US_MAX = 1000000,
    SWEEP_HEADS = 2000, /* per tick */
    SWEEP_PAUSE_S = 60, /* between two sweeps; less where deletions are forgotten sooner */
    TAKE_MAX = 64,      /* due users taken per look */
    RETRY_US_MIN = 10000000,
    NICE = 10
};
#define TAIL_SLACK_US                                                                                        \
    (INT64_C(24) * 3600 * 1000000) /* beyond TAIL_AGE_US, so that a release is worth its commits */

bool cold_crashed(const struct store *s)
{
    return s->consolidator != NULL && atomic_load(&s->consolidator->crashed);
}

enum err cold_stopping(const struct store *s, struct errctx *ec)
{
    return atomic_load(&s->consolidator->stop) ? err_set(ec, ERR_UNAVAILABLE, "the server is shutting down")
                                               : ERR_OK;
}

enum err cold_step(struct store *s, enum consolidate_step step, struct errctx *ec)
{
    struct consolidator *c = s->consolidator;
    if (c->hook.step != NULL && !c->hook.step(c->hook.arg, step))
        atomic_store(&c->crashed, true);
    if (atomic_load(&c->crashed) || atomic_load(&c->stop))
        return err_set(ec, ERR_UNAVAILABLE, "the server is shutting down");
    return ERR_OK;
}

void consolidator_set_hook(struct consolidator *c, const struct consolidate_hook *hook)
{
    c->hook = hook != NULL ? *hook : (struct consolidate_hook){0};
    atomic_store(&c->crashed, false);
}

void consolidator_counts(const struct consolidator *c, struct consolidate_counts *ret)
{
    *ret = (struct consolidate_counts){0};
    if (c != NULL)
        *ret = (struct consolidate_counts){atomic_load(&c->consolidations), atomic_load(&c->failures)};
}

/* ---- users that are due ---- */

static struct due_user *due_slot(struct due_user *due, size_t cap, uint64_t user_no)
{
    size_t i = (size_t)(user_no * UINT64_C(0x9e3779b97f4a7c15) >> 32) & (cap - 1);
    while (due[i].user_no != 0 && due[i].user_no != user_no)
        i = (i + 1) & (cap - 1);
    return &due[i];
}

/* Room for one more; entries that are not due any more fall out. False: out of memory. */
static bool due_reserve(struct consolidator *c)
{
    if (c->due_cap > 0 && (c->due_count + 1) * 4 <= c->due_cap * 3)
        return true;
    size_t live = 0, cap = 64;
    for (size_t i = 0; i < c->due_cap; i++)
        live += c->due[i].user_no != 0 && c->due[i].due_us != INT64_MAX;
    while (cap < (live + 1) * 2)
        cap *= 2;
    struct due_user *due = calloc(cap, sizeof *due);
    if (due == NULL)
        return false;
    for (size_t i = 0; i < c->due_cap; i++)
        if (c->due[i].user_no != 0 && c->due[i].due_us != INT64_MAX)
            *due_slot(due, cap, c->due[i].user_no) = c->due[i];
    free(c->due);
    c->due = due;
    c->due_cap = cap;
    c->due_count = live;
    return true;
}

/* Out of memory: the sweep finds the user later. */
static void due_set(struct consolidator *c, uint64_t user_no, int64_t due_us)
{
    struct due_user *u = c->due_cap > 0 ? due_slot(c->due, c->due_cap, user_no) : NULL;
    if (u != NULL && u->user_no != 0) {
        u->due_us = due_us;
    } else if (due_us != INT64_MAX && due_reserve(c)) {
        *due_slot(c->due, c->due_cap, user_no) = (struct due_user){user_no, due_us};
        c->due_count++;
    }
}

void consolidator_note(struct consolidator *c, uint64_t user_no, uint64_t fresh_rows, int64_t first_fresh_us)
{
    int64_t due;
    if (c == NULL || !c->running)
        return;
    bool now = consolidate_due(&c->store->cfg, fresh_rows, first_fresh_us, 0, &due);
    pthread_mutex_lock(&c->lock);
    due_set(c, user_no, due);
    if (now)
        pthread_cond_signal(&c->wake);
    pthread_mutex_unlock(&c->lock);
}

/* Takes up to TAKE_MAX users that are due; *ret_next_us: when the next one is. */
static size_t due_take(struct consolidator *c, int64_t now_us, uint64_t users[TAKE_MAX], int64_t *ret_next_us)
{
    size_t n = 0;
    *ret_next_us = INT64_MAX;
    for (size_t i = 0; i < c->due_cap; i++) {
        struct due_user *u = &c->due[i];
        if (u->user_no == 0 || u->due_us == INT64_MAX)
            continue;
        if (u->due_us <= now_us && n < TAKE_MAX) {
            users[n++] = u->user_no;
            u->due_us = INT64_MAX;
        } else if (u->due_us < *ret_next_us) {
            *ret_next_us = u->due_us;
        }
    }
    return n;
}

/* ---- the work ---- */

static void failed(struct consolidator *c, uint64_t user_no, const struct errctx *ec)
{
    if (atomic_load(&c->stop) || cold_crashed(c->store))
        return;
    if (ec->code == ERR_NOT_FOUND) /* erased meanwhile */
        return;
    int64_t interval = c->store->cfg.consolidate_interval_ms * 1000;
    atomic_fetch_add(&c->failures, 1);
    /* The thread has no caller to tell. */
    log_event(LOG_WARN, "consolidation_failed", "i:user_no", (long long)user_no, "s:error",
        err_wire(ec->code), "s:reason", ec->internal[0] != '\0' ? ec->internal : ec->message, NULL);
    pthread_mutex_lock(&c->lock);
    due_set(c, user_no, os_realtime_us(c->store->os) + (interval > RETRY_US_MIN ? interval : RETRY_US_MIN));
    pthread_mutex_unlock(&c->lock);
}

static void work_on(struct consolidator *c, uint64_t user_no)
{
    struct errctx ec = {0};
    pthread_mutex_lock(&c->work);
    enum err err = consolidate_user(c->store, user_no, CONSOLIDATE_DUE, &ec);
    pthread_mutex_unlock(&c->work);
    if (err != ERR_OK)
        failed(c, user_no, &ec);
}

/* What time makes due for a user that has a cold tier or deletions. */
static void look_after(struct consolidator *c, uint64_t user_no)
{
    struct store *s = c->store;
    struct snapshot *snap = NULL;
    struct errctx ec = {0};
    bool tail = false, pending = false;
    pthread_mutex_lock(&c->work);
    enum err err = snapshot_open_no(s, user_no, &snap, &ec);
    if (err == ERR_OK && snap->manifest != NULL) {
        int64_t since = snap->manifest->tail_since_us;
        tail = since != 0 && since < os_realtime_us(s->os) - TAIL_AGE_US - TAIL_SLACK_US;
        pending = snap->manifest->release_pending;
    }
    snapshot_close(snap);
    if (err == ERR_OK && (tail || pending))
        err = release_user(s, user_no, CONSOLIDATE_DUE, &ec);
    if (err == ERR_OK)
        err = release_tombstones(s, user_no, CONSOLIDATE_DUE, &ec);
    pthread_mutex_unlock(&c->work);
    if (err != ERR_OK)
        failed(c, user_no, &ec);
}

/* Numbers only: the id goes with the record. */
static bool read_head(struct store *s, uint64_t user_no, struct head *ret)
{
    struct key k = key_prefix(user_no, SPACE_HEAD);
    char *message = NULL, *value = NULL;
    size_t len = 0;
    pthread_rwlock_rdlock(&s->db_lock);
    if (s->db != NULL)
        value = rocksdb_get(s->db, s->read_latest, k.bytes, k.len, &len, &message);
    pthread_rwlock_unlock(&s->db_lock);
    bool ok = value != NULL && head_decode(str_n(value, len), ret) == ERR_OK;
    if (ok)
        ret->user_id = NULL;
    rocksdb_free(value);
    rocksdb_free(message); /* an unreadable head is reported by whoever needs it */
    return ok;
}

static void sweep(struct consolidator *c)
{
    struct store *s = c->store;
    struct head h;
    uint64_t last = atomic_load(&s->users);
    for (int i = 0; i < SWEEP_HEADS && c->sweep_next <= last && !atomic_load(&c->stop); i++) {
        uint64_t user_no = c->sweep_next++;
        if (!read_head(s, user_no, &h) || h.user_id_len == 0)
            continue;
        bool full = h.fresh_bytes >= BATCH_BYTES_MAX || h.overlays >= (uint64_t)s->cfg.consolidate_rows;
        if (full)
            work_on(c, user_no);
        else
            consolidator_note(c, user_no, h.fresh_rows, h.fresh_since_us);
        if (h.cold_epoch > 0 || h.tombstones > 0)
            look_after(c, user_no);
    }
}

static int64_t tick_us(const struct consolidator *c)
{
    int64_t quarter = c->store->cfg.consolidate_interval_ms * 250;
    return quarter < TICK_US_MIN ? TICK_US_MIN : quarter > TICK_US_MAX ? TICK_US_MAX : quarter;
}

static int64_t sweep_pause_us(const struct consolidator *c)
{
    int64_t pause = INT64_C(1000000) * SWEEP_PAUSE_S;
    int64_t retention = c->store->cfg.tombstone_retention_s * (1000000 / MARKS_PER_RETENTION);
    return retention > 0 && retention < pause ? retention : pause;
}

static void wait_us(struct consolidator *c, int64_t us)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    int64_t ns = t.tv_nsec + us % 1000000 * 1000;
    t.tv_sec += (time_t)(us / 1000000 + ns / 1000000000);
    t.tv_nsec = ns % 1000000000;
    pthread_cond_timedwait(&c->wake, &c->lock, &t);
}

static void *upkeep_main(void *arg)
{
    struct consolidator *c = arg;
    struct store *s = c->store;
    int64_t sweep_at_us = 0, tick = tick_us(c);
    (void)setpriority(PRIO_PROCESS, (id_t)gettid(), NICE); /* writers come first; without it nothing breaks */
    pthread_mutex_lock(&c->lock);
    while (!atomic_load(&c->stop)) {
        uint64_t users[TAKE_MAX];
        int64_t next_us, now_us = os_realtime_us(s->os);
        size_t n = due_take(c, now_us, users, &next_us);
        pthread_mutex_unlock(&c->lock);
        for (size_t i = 0; i < n && !atomic_load(&c->stop); i++)
            work_on(c, users[i]);
        if (n == 0 && os_monotonic_us(s->os) >= sweep_at_us) {
            sweep(c);
            if (c->sweep_next > atomic_load(&s->users)) {
                c->sweep_next = 1;
                sweep_at_us = os_monotonic_us(s->os) + sweep_pause_us(c);
            }
        }
        pthread_mutex_lock(&c->lock);
        if (n == 0 && !atomic_load(&c->stop))
            wait_us(c, next_us - now_us < tick ? (next_us > now_us ? next_us - now_us : 1000) : tick);
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

/* ---- open, close ---- */

static enum err open_folder(void *arg, const char *folder, struct snapshot *snap, struct errctx *ec)
{
    struct store *s = arg;
    (void)folder;
    if (snap->manifest == NULL)
        return ERR_OK;
    atomic_fetch_add(&s->rows_cold, manifest_rows(snap->manifest));
    atomic_fetch_add(&s->bytes_cold, manifest_bytes(snap->manifest));
    atomic_fetch_add(&s->files_cold, snap->manifest->nfiles);
    return snap->manifest->release_pending ? release_user(s, snap->user_no, CONSOLIDATE_REQUEST, ec) : ERR_OK;
}

static enum err start_thread(struct consolidator *c, struct errctx *ec)
{
    if (c->store->cfg.consolidate_interval_ms <= 0)
        return ERR_OK;
    c->running = true;
    int rc = pthread_create(&c->thread, NULL, upkeep_main, c);
    if (rc != 0) {
        c->running = false;
        return err_set(ec, ERR_IO, "cannot start the consolidation thread: %s", strerror(rc));
    }
    return ERR_OK;
}

enum err consolidator_open(struct store *s, struct consolidator **ret, struct errctx *ec)
{
    struct consolidator *c = calloc(1, sizeof *c);
    if (c == NULL)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    c->store = s;
    c->sweep_next = 1;
    pthread_mutex_init(&c->work, NULL);
    pthread_mutex_init(&c->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&c->wake, &attr);
    pthread_condattr_destroy(&attr);
    *ret = c; /* releases below find the hook by it */
    enum err err = cold_each_folder(s, true, open_folder, s, ec);
    if (err == ERR_OK)
        err = start_thread(c, ec);
    if (err != ERR_OK) {
        char why[sizeof ec->internal]; /* who starts a server reads the message */
        memcpy(why, ec->internal, sizeof why);
        if (why[0] != '\0')
            (void)err_set(ec, err, "cannot take up the work on Parquet files: %s", why);
        consolidator_close(c);
        *ret = NULL;
    }
    return err;
}

static void stop_work(struct consolidator *c)
{
    atomic_store(&c->stop, true);
    analytic_cancel(&c->cancel);
    pthread_mutex_lock(&c->lock);
    pthread_cond_signal(&c->wake);
    pthread_mutex_unlock(&c->lock);
}

void store_stop_consolidation(struct store *s)
{
    stop_work(s->consolidator);
    pthread_rwlock_rdlock(&s->db_lock);
    if (s->db != NULL)
        rocksdb_disable_manual_compaction(s->db); /* returns when a purge's compaction has given up */
    pthread_rwlock_unlock(&s->db_lock);
}

void consolidator_close(struct consolidator *c)
{
    if (c == NULL)
        return;
    stop_work(c);
    if (c->running)
        pthread_join(c->thread, NULL);
    pthread_mutex_lock(&c->work); /* a request that runs ends at its next step */
    pthread_mutex_unlock(&c->work);
    pthread_mutex_destroy(&c->work);
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->wake);
    free(c->due);
    free(c);
}

/* ---- on request ---- */

struct user_list {
    uint64_t *users;
    size_t count, cap;
    bool no_memory;
};

static bool list_user(void *arg, uint64_t user_no, struct str user_id)
{
    struct user_list *l = arg;
    (void)user_id;
    if (l->count == l->cap) {
        size_t cap = l->cap == 0 ? 256 : l->cap * 2;
        uint64_t *p = realloc(l->users, cap * sizeof *p);
        l->no_memory = p == NULL;
        if (p == NULL)
            return false;
        l->users = p;
        l->cap = cap;
    }
    l->users[l->count++] = user_no;
    return true;
}

enum err consolidate_now(struct store *s, uint64_t user_no, struct errctx *ec)
{
    struct consolidator *c = s->consolidator;
    enum err err = consolidate_user(s, user_no, CONSOLIDATE_REQUEST, ec);
    if (err == ERR_OK)
        err = release_tombstones(s, user_no, CONSOLIDATE_REQUEST, ec);
    if (err == ERR_NOT_FOUND) /* erased meanwhile: nothing to do */
        err = ERR_OK;
    if (err != ERR_OK)
        atomic_fetch_add(&c->failures, 1);
    return err;
}

/* A user that cannot be consolidated does not keep the others from it; the first error is told. */
static enum err request_all(struct store *s, struct errctx *ec)
{
    struct user_list l = {0};
    struct head h;
    enum err err = store_each_user(s, list_user, &l, ec);
    if (err == ERR_OK && l.no_memory)
        err = err_set(ec, ERR_NO_MEMORY, "out of memory");
    size_t n = err == ERR_OK ? l.count : 0;
    for (size_t i = 0; i < n; i++) {
        struct errctx other = {0};
        if (cold_stopping(s, &other) != ERR_OK) {
            err = ERR_UNAVAILABLE;
            *ec = other;
            break;
        }
        if (read_head(s, l.users[i], &h) && h.fresh_rows == 0 && h.overlays == 0 && h.tombstones == 0)
            continue;
        enum err e = consolidate_now(s, l.users[i], &other);
        if (e != ERR_OK && err == ERR_OK) {
            err = e;
            *ec = other;
        }
    }
    free(l.users);
    return err;
}

enum err store_consolidate(struct store *s, struct str user_id, struct errctx *ec)
{
    struct snapshot *snap = NULL;
    enum err err = store_writable(s, ec);
    if (err != ERR_OK)
        return err;
    pthread_mutex_lock(&s->consolidator->work);
    err = cold_stopping(s, ec);
    if (err == ERR_OK && user_id.ptr == NULL) {
        err = request_all(s, ec);
    } else if (err == ERR_OK) {
        err = snapshot_open(s, user_id, &snap, ec);
        bool exists = err == ERR_OK && snapshot_exists(snap);
        uint64_t user_no = exists ? snapshot_user_no(snap) : 0;
        snapshot_close(snap);
        if (exists)
            err = consolidate_now(s, user_no, ec);
    }
    if (err == ERR_OK)
        err = store_barrier_wait(s, ec);
    if (err == ERR_OK)
        err = orphans_purge(s, user_id, ec);
    /* Whatever a stopped step answered (a killed worker: TIMEOUT). */
    if (atomic_load(&s->consolidator->stop))
        err = cold_stopping(s, ec);
    pthread_mutex_unlock(&s->consolidator->work);
    return err == ERR_OK ? purge_run(s, ec) : err; /* unlocked, as it may wait */
}
