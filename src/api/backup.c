/* POST /api/v1/admin/backup {"to": DIR, "keep": N, "keys": DIR}: role admin. The directory is one of the
 * server's host. */
#include "api/json_in.h"
#include "api/server.h"
#include "base/json.h"
#include <stdlib.h>
#include <uv.h>

#define KEEP_MAX 100000

static void put_count(struct buf *b, const char *name, uint64_t n)
{
    buf_printf(b, ",\"%s\":%llu", name, (unsigned long long)n);
}

static void put_keys(struct buf *b, const struct kalamdb_backup *k)
{
    put_count(b, "keyFiles", k->key_files);
    buf_str(b, STR(",\"keys\":"));
    json_str(b, str_c(k->keys));
    if (k->master_key_copied) {
        buf_str(b, STR(",\"warning\":"));
        json_str(b, STR(KALAMDB_MASTER_KEY_COPIED));
    }
}

static void backed_up(struct net_task *task)
{
    struct call *c = (struct call *)task;
    const struct kalamdb_backup *k = c->backup;
    struct buf *b = &c->req->body;
    if (k != NULL) {
        buf_printf(b, "{\"backup\":%u", k->generation);
        put_count(b, "files", k->files);
        put_count(b, "bytes", k->bytes);
        put_count(b, "filesCopied", k->files_copied);
        put_count(b, "bytesCopied", k->bytes_copied);
        put_count(b, "hotBytes", k->hot_bytes);
        put_count(b, "removed", k->removed);
        if (k->key_files > 0)
            put_keys(b, k);
        answer_timed(c);
    } else {
        answer_failure(c);
    }
}

/* On a thread of the engine. */
static void backup_done(void *arg, const struct kalamdb_backup *backup, const struct kalamdb_error *error)
{
    struct call *c = arg;
    if (backup != NULL && (c->backup = malloc(sizeof *backup)) != NULL)
        *c->backup = *backup;
    call_done(c, NULL, error);
}

/* NULL, or what is wrong with the body. */
static const char *read_body(struct call *c, struct str *ret_to, struct str *ret_keys, int *ret_keep)
{
    struct str text = buf_view(&c->req->in.body), key;
    struct json_item item;
    if (!utf8_valid(text))
        return "the body is not UTF-8";
    struct json_in in = json_in(text, &c->req->arena);
    if (!json_in_object(&in))
        return "the body must be a JSON object";
    while (json_in_member(&in, &key)) {
        if (!json_in_value(&in, &item))
            return in.why;
        if (str_eq(key, STR("to"))) {
            if (item.kind != JSON_IS_STRING || item.s.len == 0 || item.s.ptr[0] != '/')
                return "to must be the absolute path of a directory";
            *ret_to = item.s;
        } else if (str_eq(key, STR("keys")) && item.kind != JSON_IS_NULL) {
            if (item.kind != JSON_IS_STRING || item.s.len == 0 || item.s.ptr[0] != '/')
                return "keys must be the absolute path of a directory";
            *ret_keys = item.s;
        } else if (str_eq(key, STR("keep")) && item.kind != JSON_IS_NULL) {
            if (item.kind != JSON_IS_INT || item.i < 1 || item.i > KEEP_MAX)
                return "keep must be a number from 1";
            *ret_keep = (int)item.i;
        }
    }
    if (!json_in_end(&in))
        return in.why;
    return ret_to->ptr != NULL ? NULL : "to is missing: the directory for backups";
}

void serve_backup(struct call *c)
{
    struct str to = STR_NULL, keys = STR_NULL;
    int keep = 0;
    if (c->who->role != ROLE_ADMIN) {
        answer_error(c, ERR_FORBIDDEN, "this endpoint asks for role admin");
        return;
    }
    const char *why = read_body(c, &to, &keys, &keep);
    if (why != NULL) {
        answer_error(c, ERR_INVALID_REQUEST, "%s", why);
        return;
    }
    to = arena_str(&c->req->arena, to);
    if (keys.ptr != NULL)
        keys = arena_str(&c->req->arena, keys);
    if (to.ptr == NULL || arena_failed(&c->req->arena)) {
        answer_error(c, ERR_INTERNAL, "internal error");
        return;
    }
    c->audit.target = to;
    c->task.run = backed_up;
    call_submit_begin(c);
    kalamdb_backup(c->worker->server->db, to.ptr, keep, keys.ptr, backup_done, c);
    if (call_submit_end(c))
        backed_up(&c->task);
}
