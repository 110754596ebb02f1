/* GET /api/v1/admin/keys, POST /api/v1/admin/keys/rotate {"master_key_file": PATH}: role admin. The file is
 * one of the server's host; without it a new key takes the place of the data directory's own. */
#include "api/json_in.h"
#include "api/server.h"
#include "base/timefmt.h"

static bool allowed(struct call *c)
{
    if (c->who->role == ROLE_ADMIN)
        return true;
    answer_error(c, ERR_FORBIDDEN, "this endpoint asks for role admin");
    return false;
}

static void put_check(struct buf *b, const struct kalamdb_keys *k)
{
    buf_str(b, STR(",\"masterKeyCheck\":\""));
    for (size_t i = 0; i < sizeof k->check; i++)
        buf_printf(b, "%02x", k->check[i]);
    buf_u8(b, '"');
}

void serve_keys(struct call *c)
{
    struct kalamdb_keys k;
    struct buf *b = &c->req->body;
    if (!allowed(c))
        return;
    kalamdb_keys(c->worker->server->db, &k);
    buf_printf(b, "{\"encryption\":%s", k.encryption ? "true" : "false");
    if (k.encryption) {
        buf_printf(b, ",\"masterKey\":\"%s\"", k.beside_data ? "data directory" : "configured");
        put_check(b, &k);
        buf_printf(b, ",\"masterKeyRotations\":%u,\"masterKeyRotatedAt\":", k.rotations);
        if (k.rotated_us != 0) {
            buf_u8(b, '"');
            time_format(b, k.rotated_us);
            buf_u8(b, '"');
        } else {
            buf_str(b, STR("null"));
        }
        buf_printf(b, ",\"rotating\":%s", k.rotating ? "true" : "false");
        if (k.rotating)
            buf_printf(b, ",\"segments\":%llu,\"segmentsDone\":%llu", (unsigned long long)k.segments,
                (unsigned long long)k.segments_done);
    }
    answer_timed(c);
}

static void rotated(struct net_task *task)
{
    struct call *c = (struct call *)task;
    const struct kalamdb_key_rotation *r = &c->rotation;
    struct kalamdb_keys k;
    struct buf *b = &c->req->body;
    if (c->failed) {
        answer_failure(c);
        return;
    }
    kalamdb_keys(c->worker->server->db, &k);
    buf_printf(b, "{\"masterKey\":\"%s\"", r->own ? "data directory" : "configured");
    put_check(b, &k);
    buf_printf(b, ",\"keys\":%llu,\"segments\":%llu,\"damaged\":%llu", (unsigned long long)r->keys,
        (unsigned long long)r->segments, (unsigned long long)r->damaged);
    answer_timed(c);
}

/* On a thread of the engine. */
static void rotate_done(
    void *arg, const struct kalamdb_key_rotation *rotation, const struct kalamdb_error *error)
{
    struct call *c = arg;
    if (rotation != NULL)
        c->rotation = *rotation;
    call_done(c, NULL, error);
}

/* NULL, or what is wrong with the body. One that is empty asks for nothing. */
static const char *read_body(struct call *c, struct str *ret_file)
{
    struct str text = buf_view(&c->req->in.body), key;
    struct json_item item;
    if (text.len == 0)
        return NULL;
    if (!utf8_valid(text))
        return "the body is not UTF-8";
    struct json_in in = json_in(text, &c->req->arena);
    if (!json_in_object(&in))
        return "the body must be a JSON object";
    while (json_in_member(&in, &key)) {
        if (!json_in_value(&in, &item))
            return in.why;
        if (!str_eq(key, STR("master_key_file")))
            return "the body has master_key_file only";
        if (item.kind == JSON_IS_NULL)
            continue;
        if (item.kind != JSON_IS_STRING || item.s.len == 0 || item.s.ptr[0] != '/')
            return "master_key_file must be the absolute path of a file";
        *ret_file = item.s;
    }
    return json_in_end(&in) ? NULL : in.why;
}

void serve_keys_rotate(struct call *c)
{
    struct str file = STR_NULL;
    if (!allowed(c))
        return;
    const char *why = read_body(c, &file);
    if (why != NULL) {
        answer_error(c, ERR_INVALID_REQUEST, "%s", why);
        return;
    }
    if (file.ptr != NULL)
        file = arena_str(&c->req->arena, file);
    if (arena_failed(&c->req->arena)) {
        answer_error(c, ERR_INTERNAL, "internal error");
        return;
    }
    c->audit.target = file.ptr != NULL ? file : STR("master.key");
    c->task.run = rotated;
    call_submit_begin(c);
    kalamdb_rotate_master_key(c->worker->server->db, file.ptr, rotate_done, c);
    if (call_submit_end(c))
        rotated(&c->task);
}
