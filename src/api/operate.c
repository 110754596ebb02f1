/* What operators and probes ask: health, readiness, consolidation. */
#include "api/json_in.h"
#include "api/server.h"
#include "base/json.h"
#include <stdlib.h>
#include <uv.h>

#define TEXT_TYPE STR("text/plain; charset=utf-8")

void serve_health(struct call *c)
{
    const struct server *s = c->worker->server;
    struct buf *b = &c->req->body;
    struct kalamdb_error e = {0};
    bool writable = kalamdb_writable(s->db, &e) == KALAMDB_OK;
    double uptime = ((double)uv_hrtime() / 1e3 - (double)s->started_us) / 1e6;
    buf_printf(b, "{\"status\":\"%s\",\"version\":\"" KALAMDB_VERSION "\",\"uptime\":%.3f",
        net_stopping(s->net) ? "stopping"
        : writable           ? "ok"
                             : "degraded",
        uptime);
    if (!writable) {
        buf_str(b, STR(",\"writes\":"));
        json_str(b, str_c(e.message));
    }
    if (!kalamdb_workers_caged(s->db))
        buf_str(b, STR(",\"workerCage\":\"off\""));
    if (s->audit != NULL) { /* whoever notes this elsewhere sees when records are cut off the end */
        struct audit_head head;
        audit_head(s->audit, &head);
        buf_printf(b, ",\"audit\":{\"n\":%llu,\"hash\":\"%s\"}", (unsigned long long)head.n, head.hash);
    }
    buf_u8(b, '}');
    answer_json(c, 200);
}

/* Alive: this loop answers. */
void serve_healthz(struct call *c)
{
    buf_str(&c->req->body, STR("ok\n"));
    answer(c, 200, TEXT_TYPE, STR(""));
}

/* Send traffic here? A server that refuses writes still reads, so only a stopping one says no. */
void serve_readyz(struct call *c)
{
    bool stopping = net_stopping(c->worker->server->net);
    buf_str(&c->req->body, stopping ? STR("stopping\n") : STR("ok\n"));
    answer(c, stopping ? 503 : 200, TEXT_TYPE, stopping ? STR("Retry-After: 1\r\n") : STR(""));
}

static void consolidated(struct net_task *task)
{
    struct call *c = (struct call *)task;
    if (!c->failed) {
        buf_str(&c->req->body, STR("{\"status\":\"ok\""));
        answer_timed(c);
    } else {
        answer_failure(c);
    }
}

/* Optional {"user": "…"}. NULL, or what is wrong. */
static const char *read_user(struct str text, struct arena *arena, struct str *ret_user)
{
    if (str_trim(text).len == 0)
        return NULL;
    if (!utf8_valid(text))
        return "the body is not UTF-8";
    struct json_in in = json_in(text, arena);
    struct json_item item;
    struct str key;
    if (!json_in_object(&in))
        return "the body must be a JSON object";
    while (json_in_member(&in, &key)) {
        if (!json_in_value(&in, &item))
            return in.why;
        if (!str_eq(key, STR("user")) || item.kind == JSON_IS_NULL)
            continue;
        if (item.kind != JSON_IS_STRING || !kalamdb_user_id_valid(kstr(item.s)))
            return "user must be a user id";
        *ret_user = item.s;
    }
    (void)json_in_end(&in);
    return in.why;
}

void serve_consolidate(struct call *c)
{
    struct str user = STR_NULL;
    if (c->who->role != ROLE_ADMIN) {
        answer_error(c, ERR_FORBIDDEN, "this endpoint asks for role admin");
        return;
    }
    const char *why = read_user(buf_view(&c->req->in.body), &c->req->arena, &user);
    if (why != NULL) {
        answer_error(c, ERR_INVALID_REQUEST, "%s", why);
        return;
    }
    c->audit.user = user;
    c->task.run = consolidated;
    call_submit_begin(c);
    kalamdb_consolidate(c->worker->server->db, kstr(user), call_done, c);
    if (call_submit_end(c))
        consolidated(&c->task);
}

/* ---- the sweeper ---- */

static void swept(struct net_task *task)
{
    struct call *c = (struct call *)task;
    struct buf *b = &c->req->body;
    if (!c->failed) {
        const struct kalamdb_sweep_counts *n = &c->swept;
        const struct {
            struct str name;
            uint64_t value;
        } counts[] = {{STR("users"), n->users}, {STR("blobs"), n->blobs}, {STR("refs"), n->refs},
            {STR("refsRepaired"), n->refs_repaired}, {STR("blobsRepaired"), n->blobs_repaired},
            {STR("blobsMissing"), n->blobs_missing}, {STR("filesSetAside"), n->files_set_aside},
            {STR("uploadsRemoved"), n->uploads_removed}};
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
            buf_u8(b, i == 0 ? '{' : ',');
            json_key(b, counts[i].name);
            json_i64(b, (int64_t)counts[i].value);
        }
        answer_timed(c);
    } else {
        answer_failure(c);
    }
}

static void sweep_done(
    void *arg, const struct kalamdb_sweep_counts *counts, const struct kalamdb_error *error)
{
    struct call *c = arg;
    if (counts != NULL)
        c->swept = *counts;
    call_done(c, NULL, error);
}

void serve_sweep(struct call *c)
{
    if (c->who->role != ROLE_ADMIN) {
        answer_error(c, ERR_FORBIDDEN, "this endpoint asks for role admin");
        return;
    }
    c->task.run = swept;
    call_submit_begin(c);
    kalamdb_sweep(c->worker->server->db, sweep_done, c);
    if (call_submit_end(c))
        swept(&c->task);
}
