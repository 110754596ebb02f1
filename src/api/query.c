/* POST /api/v1/query: the body's checks, parameters to values, one statement, its answer. */
#include "api/json_in.h"
#include "api/server.h"
#include <stdlib.h>

#define PARAMS_MAX 65535
/* Values that are written in well under a millisecond; more must not hold up the loop. */
#define LARGE_VALUES 4096

struct query_body {
    struct str sql, user_id;
    bool has_sql;
    struct kalamdb_value *params;
    int nparams, cap_params;
};

static bool bad(struct json_in *in, const char *why)
{
    if (in->why == NULL)
        in->why = why;
    return false;
}

static void to_value(const struct json_item *item, struct kalamdb_value *ret)
{
    *ret = (struct kalamdb_value){.type = KALAMDB_NULL};
    switch (item->kind) {
    case JSON_IS_NULL:
        break;
    case JSON_IS_BOOL:
        ret->type = KALAMDB_BOOL;
        ret->i = item->b;
        break;
    case JSON_IS_INT:
        ret->type = KALAMDB_BIGINT;
        ret->i = item->i;
        break;
    case JSON_IS_DOUBLE:
        ret->type = KALAMDB_DOUBLE;
        ret->d = item->d;
        break;
    case JSON_IS_STRING:
        ret->type = KALAMDB_TEXT;
        ret->s = kstr(item->s);
        break;
    case JSON_IS_OBJECT:
    case JSON_IS_ARRAY:
        ret->type = KALAMDB_JSON;
        ret->s = kstr(item->s);
        break;
    }
}

static bool add_param(struct json_in *in, struct query_body *b, const struct json_item *item)
{
    if (b->nparams == PARAMS_MAX)
        return bad(in, "too many params");
    if (b->nparams == b->cap_params) {
        int cap = b->cap_params == 0 ? 16 : b->cap_params * 2;
        struct kalamdb_value *grown = arena_array(in->arena, (size_t)cap, sizeof *grown);
        if (grown == NULL)
            return bad(in, "out of memory");
        if (b->nparams > 0)
            memcpy(grown, b->params, (size_t)b->nparams * sizeof *grown);
        b->params = grown;
        b->cap_params = cap;
    }
    to_value(item, &b->params[b->nparams++]);
    return true;
}

static bool read_params(struct json_in *in, struct query_body *b)
{
    struct json_item item;
    switch (json_in_peek(in)) {
    case '[':
        break;
    case 'n':
        return json_in_value(in, &item);
    default:
        return bad(in, "params must be an array");
    }
    (void)json_in_array(in);
    while (json_in_element(in)) {
        if (!json_in_value(in, &item) || !add_param(in, b, &item))
            return false;
    }
    return in->why == NULL;
}

static bool read_field(struct json_in *in, struct str key, struct query_body *b)
{
    struct json_item item;
    if (str_eq(key, STR("params")))
        return b->params == NULL ? read_params(in, b) : bad(in, "params is given twice");
    if (!json_in_value(in, &item))
        return false;
    if (str_eq(key, STR("sql"))) {
        if (item.kind != JSON_IS_STRING)
            return bad(in, "sql must be a string");
        if (b->has_sql)
            return bad(in, "sql is given twice");
        b->has_sql = true;
        b->sql = item.s;
    } else if (str_eq(key, STR("userId")) && item.kind != JSON_IS_NULL) {
        if (item.kind != JSON_IS_STRING)
            return bad(in, "userId must be a string");
        b->user_id = item.s;
    }
    return true;
}

/* NULL, or what is wrong. */
static const char *read_body(struct str text, struct arena *arena, struct query_body *b)
{
    if (!utf8_valid(text))
        return "the body is not UTF-8";
    struct json_in in = json_in(text, arena);
    struct str key;
    if (!json_in_object(&in))
        return text.len == 0 ? "the body is empty" : "the body must be a JSON object";
    while (json_in_member(&in, &key)) {
        if (!read_field(&in, key, b))
            return in.why;
    }
    if (in.why == NULL && json_in_end(&in) && !b->has_sql)
        return "sql is missing";
    return in.why;
}

static void put_bytes(void *arg, const char *ptr, size_t len)
{
    buf_append(arg, ptr, len);
}

static struct call *call_of(struct net_job *job)
{
    return (struct call *)((char *)job - offsetof(struct call, job));
}

static void write_rows(struct net_job *job)
{
    struct call *c = call_of(job);
    kalamdb_result_json(c->result, put_bytes, &c->req->body);
}

static void rows_written(struct net_job *job)
{
    answer_json(call_of(job), 200);
}

static bool is_large(const struct kalamdb_result *r)
{
    return kalamdb_result_rows(r) * (size_t)kalamdb_result_columns(r) > LARGE_VALUES;
}

static void complete(struct call *c)
{
    if (c->result != NULL) {
        c->job = (struct net_job){.work = write_rows, .done = rows_written};
        if (!c->abandoned && is_large(c->result) && net_offload(c->worker->loop, &c->job))
            return;
        if (!c->abandoned)
            write_rows(&c->job);
        answer_json(c, 200);
        return;
    }
    answer_failure(c);
}

static void finish(struct net_task *task)
{
    complete((struct call *)task);
}

bool call_durability(struct call *c, enum kalamdb_durability *ret)
{
    struct str h = net_header(c->req, STR("x-durability"));
    *ret = KALAMDB_DURABILITY_DEFAULT;
    if (h.ptr == NULL)
        return true;
    *ret = str_ieq(h, STR("sync")) ? KALAMDB_SYNC : KALAMDB_ASYNC;
    if (*ret == KALAMDB_SYNC || str_ieq(h, STR("async")))
        return true;
    answer_error(c, ERR_INVALID_REQUEST, "X-Durability must be sync or async");
    return false;
}

void serve_query(struct call *c)
{
    const struct server *s = c->worker->server;
    struct query_body body = {0};
    const char *why = read_body(buf_view(&c->req->in.body), &c->req->arena, &body);
    struct kalamdb_statement statement = {.caller = principal_caller(c->who),
        .sql = kstr(body.sql),
        .params = body.params,
        .nparams = body.nparams};
    if (why != NULL) {
        answer_error(c, ERR_INVALID_REQUEST, "%s", why);
        return;
    }
    if (!call_durability(c, &statement.durability))
        return;
    if (body.user_id.ptr != NULL && c->who->role == ROLE_USER &&
        !str_eq(body.user_id, str_n(c->who->user_id, c->who->user_id_len))) {
        answer_error(c, ERR_FORBIDDEN, "userId is not the token's user");
        return;
    }
    if (body.sql.len > (size_t)s->cfg->max_sql_bytes) {
        answer_error(c, ERR_TOO_LARGE, "sql is over %lld bytes", (long long)s->cfg->max_sql_bytes);
        return;
    }
    c->task.run = finish;
    call_submit_begin(c);
    kalamdb_exec_async(s->db, &statement, call_done, c, &c->query);
    if (call_submit_end(c))
        complete(c);
}
