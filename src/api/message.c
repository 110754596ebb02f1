/* DELETE /api/v1/messages/<id>: the caller's copy, or, with ?for=everyone, that of every member. */
#include "api/server.h"
#include <stdlib.h>

static void finish(struct net_task *task)
{
    struct call *c = (struct call *)task;
    if (c->result != NULL && kalamdb_result_rows_affected(c->result) == 0) {
        answer_error(c, ERR_NOT_FOUND, "no such message");
    } else if (c->result != NULL) {
        buf_printf(
            &c->req->body, "{\"rowsAffected\":%lld}", (long long)kalamdb_result_rows_affected(c->result));
        answer_json(c, 200);
    } else {
        answer_failure(c);
    }
}

/* `DELETE FROM "user".messages WHERE msg_id = $1` */
static struct str statement_for(struct call *c, struct str user)
{
    struct buf b = BUF_INIT(0);
    buf_str(&b, STR("DELETE FROM \""));
    for (size_t i = 0; i < user.len; i++) {
        if (user.ptr[i] == '"')
            buf_u8(&b, '"');
        buf_u8(&b, (uint8_t)user.ptr[i]);
    }
    buf_str(&b, STR("\".messages WHERE msg_id = $1"));
    struct str sql = b.failed ? STR_NULL : arena_str(&c->req->arena, buf_view(&b));
    buf_release(&b);
    return sql;
}

void serve_message(struct call *c)
{
    struct str user = STR_NULL, whose = STR_NULL, self = str_n(c->who->user_id, c->who->user_id_len);
    struct kalamdb_value id = {.type = KALAMDB_BIGINT};
    struct kalamdb_statement statement = {.caller = principal_caller(c->who), .params = &id, .nparams = 1};
    if (!str_to_i64(route_rest(c->route, c->path), &id.i) || id.i <= 0) {
        answer_error(c, ERR_INVALID_REQUEST, "a message id is a positive integer");
        return;
    }
    if (!query_param(&c->req->arena, c->query_string, STR("userId"), &user) ||
        !query_param(&c->req->arena, c->query_string, STR("for"), &whose)) {
        answer_error(c, ERR_INVALID_REQUEST, "malformed query string");
        return;
    }
    if (whose.ptr != NULL && !str_eq(whose, STR("everyone")) && !str_eq(whose, STR("me"))) {
        answer_error(c, ERR_INVALID_REQUEST, "for must be me or everyone");
        return;
    }
    if (user.ptr != NULL && c->who->role == ROLE_USER && !str_eq(user, self)) {
        answer_error(c, ERR_FORBIDDEN, "userId is not the token's user");
        return;
    }
    if (user.ptr != NULL && !kalamdb_user_id_valid(kstr(user))) {
        answer_error(c, ERR_INVALID_REQUEST, "userId is no user id");
        return;
    }
    if (!call_durability(c, &statement.durability))
        return;
    statement.for_everyone = whose.ptr != NULL && str_eq(whose, STR("everyone"));
    struct str sql = statement_for(c, user.ptr != NULL ? user : self);
    if (sql.ptr == NULL) {
        answer_error(c, ERR_INTERNAL, "internal error");
        return;
    }
    statement.sql = kstr(sql);
    c->task.run = finish;
    call_submit_begin(c);
    kalamdb_exec_async(c->worker->server->db, &statement, call_done, c, &c->query);
    if (call_submit_end(c))
        finish(&c->task);
}
