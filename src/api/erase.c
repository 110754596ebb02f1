/* DELETE /api/v1/users/<id>. */
#include "api/server.h"
#include "auth/receipt.h"
#include "base/log.h"
#include <stdio.h>
#include <stdlib.h>

/* Those who are connected by a token of somebody who is no more are cut off. */
static void on_erased(void *arg, struct kalamdb_str user_id)
{
    struct server *s = arg;
    (void)user_id;
    server_end_void(s);
}

void server_follow_erasures(struct server *s, bool on)
{
    kalamdb_on_erased(s->db, on ? on_erased : NULL, s);
}

/* ---- the receipt -------------------------------------------------------------------------------------- */

/* Under s->receipt_lock. */
static enum err open_key(struct server *s, struct errctx *ec)
{
    char *path = NULL;
    if (s->receipt_key != NULL)
        return ERR_OK;
    if (asprintf(&path, "%s/.kalamdb/receipt.key", s->cfg->data) < 0)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    enum err e = receipt_key_open(os_posix(), path, true, &s->receipt_key, ec);
    free(path);
    return e;
}

static void answer_receipt(struct call *c)
{
    struct server *s = c->worker->server;
    const struct erased_user *u = c->erased;
    struct errctx ec = {0};
    struct receipt r = {.user = str_n(u->id, u->len),
        .erased_at_us = u->erasure.erased_at_us,
        .messages = u->erasure.messages,
        .files = u->erasure.files,
        .bytes = u->erasure.bytes,
        .backups = u->erasure.backups_covered ? STR("covered") : STR("not covered")};
    pthread_mutex_lock(&s->receipt_lock);
    enum err e = open_key(s, &ec);
    pthread_mutex_unlock(&s->receipt_lock);
    if (e == ERR_OK)
        e = receipt_sign(s->receipt_key, &r, &c->req->body, &ec);
    if (e == ERR_OK) {
        answer_json(c, 200);
        return;
    }
    /* The user is erased all the same; asked again, the answer is the receipt. */
    log_event(
        LOG_ERROR, "receipt_not_signed", "s:reason", ec.internal[0] != '\0' ? ec.internal : ec.message, NULL);
    answer_error(c, ERR_INTERNAL, "the user is erased, but the receipt could not be signed: ask again");
}

/* ---- the route ---------------------------------------------------------------------------------------- */

static void erased(struct net_task *task)
{
    struct call *c = (struct call *)task;
    if (c->erased != NULL)
        answer_receipt(c);
    else
        answer_failure(c);
}

/* On a thread of the engine. */
static void erase_done(void *arg, const struct kalamdb_erasure *erasure, const struct kalamdb_error *error)
{
    struct call *c = arg;
    if (erasure != NULL) {
        struct erased_user *u = malloc(sizeof *u + erasure->user_id.len);
        if (u != NULL) {
            u->erasure = *erasure;
            u->len = erasure->user_id.len;
            memcpy(u->id, erasure->user_id.ptr, u->len);
        }
        c->erased = u;
    }
    call_done(c, NULL, error);
}

void serve_user(struct call *c)
{
    struct str user = route_rest(c->route, c->path);
    c->audit.user = user;
    bool self = str_eq(user, str_n(c->who->user_id, c->who->user_id_len));
    if (c->who->role == ROLE_SERVICE || (c->who->role == ROLE_USER && !self)) {
        answer_error(c, ERR_FORBIDDEN, "users are erased by themselves or by role admin");
        return;
    }
    if (!kalamdb_user_id_valid(kstr(user))) {
        answer_error(c, ERR_INVALID_REQUEST, "that cannot be a user id");
        return;
    }
    c->task.run = erased;
    call_submit_begin(c);
    kalamdb_erase(c->worker->server->db, kstr(user), erase_done, c);
    if (call_submit_end(c))
        erased(&c->task);
}
