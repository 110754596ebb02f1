/* Revoked tokens (store/revoked.h), and who is told which statements name another user's tables. */
#include "engine/query.h"
#include "store/revoked.h"
#include <stdlib.h>

struct revoke_job {
    struct revoke_op op; /* first */
    kalamdb_revoked *done;
    void *arg;
    size_t len;
    char id[];
};

static void revoked(struct revoke_op *op, enum err err, const struct errctx *ec)
{
    struct revoke_job *job = (struct revoke_job *)op;
    struct kalamdb_error error = {.code = KALAMDB_OK};
    if (err != ERR_OK)
        engine_error(&error, ec);
    job->done(job->arg, &error);
    free(job);
}

void kalamdb_revoke(struct kalamdb *db, const struct kalamdb_revocation *r, kalamdb_revoked *done, void *arg)
{
    struct errctx ec;
    struct kalamdb_error error;
    errctx_clear(&ec);
    bool valid = r->id.len > 0 && r->id.len <= 255 && (!r->by_user || user_id_valid(engine_str(r->id)));
    struct revoke_job *job = valid ? malloc(sizeof *job + r->id.len) : NULL;
    if (job == NULL) {
        if (valid)
            err_internal(&ec, ERR_NO_MEMORY, "revoke");
        else
            err_set(&ec, ERR_INVALID_REQUEST, "a jti or user id of 1 to 255 bytes is needed");
        engine_error(&error, &ec);
        done(arg, &error);
        return;
    }
    *job = (struct revoke_job){.done = done, .arg = arg, .len = r->id.len};
    memcpy(job->id, r->id.ptr, r->id.len);
    job->op = (struct revoke_op){.what = {.kind = r->by_user ? REVOKED_USER : REVOKED_TOKEN,
                                     .id = str_n(job->id, job->len),
                                     .expires_s = r->expires_s,
                                     .revoked_s = r->revoked_s},
        .done = revoked};
    store_revoke(db->store, &job->op);
}

bool kalamdb_token_revoked(
    struct kalamdb *db, struct kalamdb_str user_id, struct kalamdb_str jti, int64_t issued_s)
{
    return store_token_revoked(db->store, engine_str(user_id), engine_str(jti), issued_s);
}

struct each {
    bool (*fn)(void *arg, const struct kalamdb_revocation *r);
    void *arg;
};

static bool give(void *arg, const struct revocation *r)
{
    const struct each *each = arg;
    return each->fn(each->arg, &(struct kalamdb_revocation){.by_user = r->kind == REVOKED_USER,
                                   .id = {r->id.ptr, r->id.len},
                                   .expires_s = r->expires_s,
                                   .revoked_s = r->revoked_s});
}

void kalamdb_revocations(
    struct kalamdb *db, bool (*fn)(void *arg, const struct kalamdb_revocation *r), void *arg)
{
    store_revocations(db->store, give, &(struct each){fn, arg});
}

/* ---- access ---- */

void kalamdb_on_access(
    struct kalamdb *db, void (*fn)(void *arg, const struct kalamdb_access *access), void *arg)
{
    db->access_arg = arg;
    db->access = fn;
}

/* The one conversation that the statement says it is about, where it says so plainly. */
static struct str conversation_named(const struct stmt *st)
{
    for (int i = 0; i < st->ncolumns && st->nrows > 0; i++) {
        const struct cell *c = &st->cells[i];
        if (str_eq(st->target->columns[st->columns[i]].name, STR("conversation_id")) &&
            c->kind == CELL_VALUE && c->value.type == VALUE_TEXT)
            return c->value.s;
    }
    for (int i = 0; st->fast != NULL && i < st->fast->npreds; i++) {
        const struct pred *p = &st->fast->preds[i];
        if (p->op == PRED_EQ && p->values[0].type == VALUE_TEXT &&
            str_eq(st->target->columns[p->column].name, STR("conversation_id")))
            return p->values[0].s;
    }
    return STR_NULL;
}

static void tell(const struct kalamdb_query *q, struct str owner, bool write, const struct schema *schema)
{
    bool members = write && schema == &schema_conversation_users;
    if (str_eq(owner, q->caller.user_id) && !members)
        return;
    struct str conversation = write ? conversation_named(q->stmt) : STR_NULL;
    q->db->access(
        q->db->access_arg, &(struct kalamdb_access){.caller = {{q->caller.user_id.ptr, q->caller.user_id.len},
                                                        q->caller.role == ROLE_ADMIN     ? KALAMDB_ADMIN
                                                        : q->caller.role == ROLE_SERVICE ? KALAMDB_SERVICE
                                                                                         : KALAMDB_USER,
                                                        q->caller.issued_s},
                               .user_id = {owner.ptr, owner.len},
                               .conversation_id = {conversation.ptr, conversation.len},
                               .write = write,
                               .members = members});
}

void query_tell_access(const struct kalamdb_query *q)
{
    const struct stmt *st = q->stmt;
    if (q->db->access == NULL || q->caller.internal)
        return;
    if (st->kind != STMT_SELECT)
        tell(q, st->target_owner, true, st->target);
    for (int i = 0; i < st->ntables; i++) {
        bool first = true;
        for (int j = 0; j < i; j++)
            first = first && !str_eq(st->tables[j].owner, st->tables[i].owner);
        if (first && (st->kind == STMT_SELECT || !str_eq(st->tables[i].owner, st->target_owner)))
            tell(q, st->tables[i].owner, false, st->tables[i].schema);
    }
}
