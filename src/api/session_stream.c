/* What a WebSocket streams: its producer at the engine, and the answers on their way back. */
#include "api/audited.h"
#include "api/stream.h"
#include "base/json.h"
#include <stdlib.h>

struct session_producer {
    struct net_task task;
    _Atomic bool posted;     /* task is in the loop's queue */
    struct session *session; /* NULL: gone; freed when the task has run */
    struct net_loop *loop;
    struct kalamdb_producer *engine;
    struct stream_ids ids;
};

static void producer_task(struct net_task *task)
{
    struct session_producer *sp = (struct session_producer *)task;
    /* Cleared before the events are taken: a wake from here on posts again. */
    atomic_store(&sp->posted, false);
    if (sp->session == NULL)
        free(sp);
    else
        session_pump(sp->session);
}

static void on_wake(void *arg)
{
    struct session_producer *sp = arg;
    if (!atomic_exchange(&sp->posted, true))
        net_post(sp->loop, &sp->task);
}

static struct session_producer *open_producer(struct session *s)
{
    struct session_producer *sp = calloc(1, sizeof *sp);
    if (sp == NULL)
        return NULL;
    sp->task.run = producer_task;
    sp->session = s;
    sp->loop = s->worker->loop;
    if (kalamdb_producer_open(s->worker->server->db, on_wake, sp, &sp->engine, NULL) != KALAMDB_OK) {
        free(sp);
        return NULL;
    }
    return sp;
}

void session_stream_close(struct session *s)
{
    struct session_producer *sp = s->producer;
    if (sp == NULL)
        return;
    s->producer = NULL;
    sp->session = NULL;
    kalamdb_producer_close(sp->engine); /* no wake after this: `posted` is final */
    stream_ids_release(&sp->ids);
    if (!atomic_load(&sp->posted))
        free(sp);
}

static void refuse(struct session *s, const struct client_message *m, const char *code, const char *why)
{
    struct buf *b = &s->worker->text;
    buf_clear(b);
    stream_refusal_json(b, code, why, m);
    if (!b->failed)
        session_send(s, buf_view(b));
}

void session_stream(struct session *s, const struct client_message *m)
{
    if (s->producer == NULL && (s->producer = open_producer(s)) == NULL) {
        refuse(s, m, "INTERNAL", "internal error");
        return;
    }
    /* Appends are acknowledged together, so they have no ids of their own. */
    bool named = !str_eq(m->type, STR("append"));
    uint64_t tag = named ? stream_ids_add(&s->producer->ids, m->id) : 0;
    if (named && tag == 0) {
        refuse(s, m, "RATE_LIMITED", "too many streams begin or end at once");
        return;
    }
    struct kalamdb_caller caller = principal_caller(s->who);
    const char *why = stream_call(s->producer->engine, &caller, m, tag);
    if (why == NULL && str_eq(m->type, STR("stream_begin")))
        audit_foreign(s->worker, s->conn, s->who, m->subscribe.user_id, true, "/ws");
    if (why != NULL) {
        (void)stream_ids_take(&s->producer->ids, tag, &s->worker->scratch);
        refuse(s, m, "INVALID_MESSAGE", why);
    }
}

void session_stream_pump(struct session *s)
{
    struct kalamdb_stream_event ev;
    struct buf *b = &s->worker->text;
    size_t max = (size_t)s->worker->server->cfg->max_socket_buffer_bytes;
    while (s->conn != NULL && s->producer != NULL && net_stream_pending(s->conn) < max &&
           kalamdb_producer_next(s->producer->engine, &ev) != KALAMDB_STREAM_PENDING) {
        buf_clear(b);
        stream_event_json(b, &ev, stream_ids_take(&s->producer->ids, ev.tag, &s->worker->scratch));
        if (b->failed) /* a producer that waits for an answer waits for good */
            net_stream_close(s->conn, WS_INTERNAL_ERROR, STR("out of memory"), false);
        else
            session_send(s, buf_view(b));
    }
}

/* ---- signals ---- */

#define SIGNALS_KNOWN 32
struct session_signals {
    uint64_t sent[SIGNALS_KNOWN]; /* numbers of the last ones */
    unsigned next;
    double tokens; /* what the client may send yet */
    uint64_t told_ms;
};

/* Made with the first signal of either direction: most connections never see one. NULL: out of memory. */
static struct session_signals *signals_of(struct session *s)
{
    if (s->signals == NULL)
        s->signals = calloc(1, sizeof *s->signals);
    return s->signals;
}

/* A bucket of two seconds' worth. */
bool session_may_signal(struct session *s)
{
    struct session_signals *g = signals_of(s);
    uint64_t now = net_now_ms(s->worker->loop);
    double rate = (double)s->worker->server->cfg->signals_per_second, most = 2 * rate;
    if (rate == 0 || g == NULL)
        return false;
    g->tokens += (double)(now - g->told_ms) * rate / 1000;
    if (g->told_ms == 0 || g->tokens > most)
        g->tokens = most;
    g->told_ms = now;
    if (g->tokens < 1)
        return false;
    g->tokens -= 1;
    return true;
}

bool session_signal_is_new(struct session *s, uint64_t seq)
{
    struct session_signals *g = signals_of(s);
    if (g == NULL)
        return false;
    for (int i = 0; i < SIGNALS_KNOWN; i++) {
        if (g->sent[i] == seq)
            return false;
    }
    g->sent[g->next++ % SIGNALS_KNOWN] = seq;
    return true;
}
