/* Erasure of users, one at a time, on a thread of its own. A request begins an erasure or finds its receipt;
 * what was begun is gone on with until it is done, whoever waits for it: after a failure again in a while,
 * after a crash from open on.
 *
 * Who asked is answered when it is done, so waits through failures too (most often somebody still reads what
 * is to go): users who erase themselves cannot ask again, their token is void. Not for ever, though: after
 * WAIT_US the next failure is the answer. */
#include "engine/erase.h"
#include "base/log.h"
#include "chat/chat.h"
#include "engine/erase_sent.h"
#include "engine/key_copies.h"
#include "engine/stream.h"
#include "store/erase.h"
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#define RETRY_US INT64_C(10000000)
#define RETRY_WAITED_FOR_US INT64_C(1000000)
#define WAIT_US INT64_C(120000000)

struct erase_job {
    struct erase_job *next;
    kalamdb_erased *done; /* NULL: nobody waits */
    void *arg;
    struct erasure go_on; /* user_no 0: to be begun */
    bool covered;         /* the key is gone from every copy: backups are, too */
    bool asked;           /* for, not only found unfinished at open */
    int64_t asked_us, not_before_us;
    size_t len;
    char user_id[];
};

struct erasures {
    struct kalamdb *db;
    pthread_t thread;
    bool started; /* db->lock, as all below */
    pthread_cond_t wake;
    struct erase_job *first, **last;
    bool stopping; /* the store does no upkeep any more */
    int64_t retry_us, wait_us;

    pthread_mutex_t listener_lock; /* held while the listener is called */
    void (*erased)(void *arg, struct kalamdb_str user_id);
    void *arg;
};

static void answer(struct erase_job *job, enum err e, const struct erasure *er, struct errctx *ec)
{
    struct kalamdb_error error = {.code = KALAMDB_OK};
    if (job->done == NULL)
        return;
    if (e != ERR_OK) {
        if (ec->code != e)
            err_internal(ec, e, "erasure failed");
        engine_error(&error, ec);
        job->done(job->arg, NULL, &error);
    } else {
        struct kalamdb_erasure out = {.user_id = {job->user_id, job->len},
            .erased_at_us = er->erased_at_us,
            .messages = er->messages,
            .files = er->files,
            .bytes = er->bytes,
            .backups_covered = job->covered};
        job->done(job->arg, &out, &error);
    }
    job->done = NULL;
}

/* The commit is there: those who are connected hear of it. */
static void announce(struct erasures *es, const struct erasure *e)
{
    live_close_user(es->db->live, e->user_no);
    pthread_mutex_lock(&es->listener_lock);
    if (es->erased != NULL)
        es->erased(es->arg, (struct kalamdb_str){e->user_id.ptr, e->user_id.len});
    pthread_mutex_unlock(&es->listener_lock);
}

static enum err go_on(struct kalamdb *db, struct erasure *e, struct errctx *ec)
{
    uint64_t *users = NULL;
    size_t nusers = 0;
    enum err err = store_erase_key(db->store, e, ec);
    if (err == ERR_OK && db->vault != NULL)
        (void)key_copies_forget(db, e->user_no); /* what it missed the receipt tells */
    if (err == ERR_OK)
        err = streams_erase(db, e, ec);
    if (err == ERR_OK)
        err = erase_sent(db, e, &users, &nusers, ec);
    if (err == ERR_OK)
        err = store_erase_settle(db->store, users, nusers, ec);
    free(users);
    if (err == ERR_OK)
        err = store_erase_rows(db->store, e, ec);
    if (err == ERR_OK)
        err = store_erase_finish(db->store, e, ec);
    return err;
}

static enum err run(struct erasures *es, struct erase_job *job, struct erasure *e, struct errctx *ec)
{
    for (;;) {
        enum err err = ERR_OK;
        *e = job->go_on;
        e->user_id = str_n(job->user_id, job->len);
        if (e->user_no == 0)
            err = store_erase_begin(
                es->db->store, e->user_id, (uint8_t)es->db->options.erase_sent, chat_group_leave, e, ec);
        if (err != ERR_OK || e->finished)
            return err;
        if (job->go_on.user_no == 0 && e->begun)
            announce(es, e);
        job->go_on = *e;
        bool last = e->begun || !job->asked;
        err = go_on(es->db, e, ec);
        if (err != ERR_OK || last)
            return err;
        job->go_on = (struct erasure){0}; /* an earlier one is done: now the one that was asked for */
    }
}

/* ---- the thread ---- */

static void push(struct erasures *es, struct erase_job *job)
{
    job->next = NULL;
    *es->last = job;
    es->last = &job->next;
    pthread_cond_signal(&es->wake);
}

/* The first whose time has come, under the lock; *ret_wait_us: when to look again (INT64_MAX: when woken). */
static struct erase_job *take(struct erasures *es, int64_t *ret_wait_us)
{
    int64_t now = os_monotonic_us(es->db->os);
    *ret_wait_us = INT64_MAX;
    for (struct erase_job **link = &es->first; *link != NULL; link = &(*link)->next) {
        struct erase_job *job = *link;
        if (job->not_before_us <= now || (es->stopping && job->done != NULL)) {
            *link = job->next;
            if (*link == NULL)
                es->last = link;
            return job;
        }
        if (job->not_before_us - now < *ret_wait_us)
            *ret_wait_us = job->not_before_us - now;
    }
    return NULL;
}

static void wait_us(struct erasures *es, int64_t us)
{
    struct timespec t;
    if (us == INT64_MAX) {
        pthread_cond_wait(&es->wake, &es->db->lock);
        return;
    }
    clock_gettime(CLOCK_MONOTONIC, &t);
    int64_t ns = t.tv_nsec + us % 1000000 * 1000;
    t.tv_sec += (time_t)(us / 1000000 + ns / 1000000000);
    t.tv_nsec = ns % 1000000000;
    pthread_cond_timedwait(&es->wake, &es->db->lock, &t);
}

/* The answer to somebody for whom it takes too long. */
static void explain(struct errctx *ec)
{
    char why[sizeof ec->message] = "";
    if (ec->code == ERR_UNAVAILABLE)
        memcpy(why, ec->message, sizeof why);
    err_set(ec, ERR_UNAVAILABLE, "the user is erased, but not yet every byte is off the disk%s%s",
        why[0] != '\0' ? ": " : "", why);
    err_hint(ec, "The work goes on by itself. An admin who asks again gets the receipt.");
}

/* After a failure: again in a while. */
static void put_off(struct erasures *es, struct erase_job *job, struct errctx *ec)
{
    int64_t now = os_monotonic_us(es->db->os);
    pthread_mutex_lock(&es->db->lock);
    bool over = es->stopping || es->db->closing, late = now - job->asked_us >= es->wait_us;
    pthread_mutex_unlock(&es->db->lock);
    if (over)
        err_set(ec, ERR_UNAVAILABLE, "the server is shutting down: the erasure goes on when it is back");
    else if (late)
        explain(ec);
    if (late || over)
        answer(job, ERR_UNAVAILABLE, NULL, ec);
    pthread_mutex_lock(&es->db->lock);
    job->not_before_us = now + (job->done != NULL ? es->retry_us : RETRY_US);
    if (es->db->closing)
        free(job); /* what was begun goes on at the next open */
    else
        push(es, job);
    pthread_mutex_unlock(&es->db->lock);
}

static void work(struct erasures *es, struct erase_job *job, bool stopping)
{
    struct errctx ec;
    struct erasure e = {0};
    errctx_clear(&ec);
    enum err err =
        stopping ? err_set(&ec, ERR_UNAVAILABLE, "the server is shutting down") : run(es, job, &e, &ec);
    if (err != ERR_OK && !stopping && ec.code != ERR_NOT_FOUND && ec.code != ERR_UNAVAILABLE)
        log_event(LOG_WARN, "erasure_interrupted", "s:error", err_wire(err), "s:reason",
            ec.internal[0] != '\0' ? ec.internal : ec.message, NULL);
    if (err != ERR_OK && job->go_on.user_no != 0) {
        put_off(es, job, &ec);
        return;
    }
    /* Each time: a copy that was out of reach when the user was erased may be there now. */
    if (err == ERR_OK && job->done != NULL)
        job->covered = es->db->vault != NULL && key_copies_forget(es->db, e.user_no);
    answer(job, err, &e, &ec);
    free(job);
}

static void *erasures_main(void *arg)
{
    struct erasures *es = arg;
    pthread_mutex_lock(&es->db->lock);
    for (;;) {
        bool closing = es->db->closing, stopping = closing || es->stopping;
        int64_t us;
        struct erase_job *job = take(es, &us);
        if (job == NULL && closing && es->first != NULL) { /* waiting for another try */
            job = es->first;
            es->first = job->next;
            if (es->first == NULL)
                es->last = &es->first;
        }
        if (job == NULL && closing)
            break;
        if (job == NULL) {
            wait_us(es, us);
            continue;
        }
        pthread_mutex_unlock(&es->db->lock);
        work(es, job, stopping);
        pthread_mutex_lock(&es->db->lock);
    }
    pthread_mutex_unlock(&es->db->lock);
    return NULL;
}

/* False: the database closes, or there are no threads. */
static bool submit(struct erasures *es, struct erase_job *job)
{
    pthread_mutex_lock(&es->db->lock);
    if (!es->db->closing && !es->started)
        es->started = pthread_create(&es->thread, NULL, erasures_main, es) == 0;
    bool taken = !es->db->closing && es->started;
    if (taken)
        push(es, job);
    pthread_mutex_unlock(&es->db->lock);
    return taken;
}

/* ---- open, close ---- */

static struct erase_job *job_new(struct str user_id)
{
    struct erase_job *job = malloc(sizeof *job + user_id.len);
    if (job == NULL)
        return NULL;
    *job = (struct erase_job){.len = user_id.len};
    if (user_id.len > 0)
        memcpy(job->user_id, user_id.ptr, user_id.len);
    return job;
}

static enum err resume(void *arg, const struct erasure *e, struct errctx *ec)
{
    struct erasures *es = arg;
    struct erase_job *job = job_new(e->user_id);
    if (job == NULL)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    job->go_on = *e;
    if (submit(es, job))
        return ERR_OK;
    free(job);
    return err_set(ec, ERR_NO_MEMORY, "cannot start a thread");
}

enum err erasures_open(struct kalamdb *db, struct errctx *ec)
{
    struct erasures *es = calloc(1, sizeof *es);
    if (es == NULL)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    es->db = db;
    es->last = &es->first;
    es->retry_us = RETRY_WAITED_FOR_US;
    es->wait_us = WAIT_US;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&es->wake, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&es->listener_lock, NULL);
    db->erasures = es;
    enum err e = store_erase_lost(db->store, (uint8_t)db->options.erase_sent, chat_group_leave, ec);
    if (e != ERR_OK)
        return e;
    return store_erase_unfinished(db->store, resume, es, ec);
}

void erasures_stop_waiting(struct kalamdb *db)
{
    struct erasures *es = db->erasures;
    if (es == NULL)
        return;
    pthread_mutex_lock(&db->lock);
    es->stopping = true;
    pthread_cond_signal(&es->wake);
    pthread_mutex_unlock(&db->lock);
}

void erasures_set_waits(struct kalamdb *db, int64_t retry_us, int64_t wait_us)
{
    pthread_mutex_lock(&db->lock);
    db->erasures->retry_us = retry_us;
    db->erasures->wait_us = wait_us;
    pthread_mutex_unlock(&db->lock);
}

void erasures_close(struct kalamdb *db)
{
    struct erasures *es = db->erasures;
    if (es == NULL)
        return;
    pthread_mutex_lock(&db->lock);
    db->closing = true;
    pthread_cond_broadcast(&es->wake);
    bool started = es->started;
    pthread_mutex_unlock(&db->lock);
    if (started)
        pthread_join(es->thread, NULL);
    pthread_cond_destroy(&es->wake);
    pthread_mutex_destroy(&es->listener_lock);
    free(es);
    db->erasures = NULL;
}

/* ---- kalamdb_admin.h ---- */

void kalamdb_erase(struct kalamdb *db, struct kalamdb_str user_id, kalamdb_erased *done, void *arg)
{
    struct errctx ec;
    struct kalamdb_error error;
    struct str id = engine_str(user_id);
    errctx_clear(&ec);
    struct erase_job *job = user_id_valid(id) ? job_new(id) : NULL;
    if (job != NULL) {
        job->done = done;
        job->arg = arg;
        job->asked = true;
        job->asked_us = os_monotonic_us(db->os);
        if (submit(db->erasures, job))
            return;
        free(job);
        err_set(&ec, ERR_UNAVAILABLE, "the database is shutting down");
    } else if (!user_id_valid(id)) {
        err_set(&ec, ERR_INVALID_REQUEST, "that cannot be a user id");
    } else {
        err_internal(&ec, ERR_NO_MEMORY, "erase");
    }
    engine_error(&error, &ec);
    done(arg, NULL, &error);
}

void kalamdb_on_erased(struct kalamdb *db, void (*erased)(void *arg, struct kalamdb_str user_id), void *arg)
{
    struct erasures *es = db->erasures;
    pthread_mutex_lock(&es->listener_lock);
    es->erased = erased;
    es->arg = arg;
    pthread_mutex_unlock(&es->listener_lock);
}

bool kalamdb_token_void(struct kalamdb *db, struct kalamdb_str user_id, int64_t issued_s)
{
    return store_token_void(db->store, engine_str(user_id), issued_s);
}

uint64_t kalamdb_erasures(struct kalamdb *db)
{
    return store_erasures(db->store);
}
