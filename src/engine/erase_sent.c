/* Group by group, holder by holder: each one's copies are read and changed by statements of the engine's own,
 * in that holder's schema, in either tier. Whoever joined meanwhile, or is getting the history copied, is
 * looked at once more: what was copied out of a table before its turn came is found there then. */
#include "engine/erase_sent.h"
#include <stdio.h>
#include <stdlib.h>

#define GONE "deleted_user"
enum { STATEMENT_MS = 3600000, PASSES_MAX = 20, BATCH_MAX = 20000 };

struct sent {
    struct kalamdb *db;
    const struct erasure *e;
    uint64_t *users;
    size_t nusers, cap;

    int batch;         /* rows read and changed at once: what one answer may hold */
    uint64_t group_no; /* of the current group */
    struct str conversation_id;
};

static enum err note_user(struct sent *s, uint64_t user_no, struct errctx *ec)
{
    for (size_t i = s->nusers; i > 0; i--)
        if (s->users[i - 1] == user_no)
            return ERR_OK;
    if (s->nusers == s->cap) {
        size_t cap = s->cap == 0 ? 64 : s->cap * 2;
        uint64_t *p = realloc(s->users, cap * sizeof *p);
        if (p == NULL)
            return err_internal(ec, ERR_NO_MEMORY, "erase: out of memory");
        s->users = p;
        s->cap = cap;
    }
    s->users[s->nusers++] = user_no;
    return ERR_OK;
}

/* ---- statements --------------------------------------------------------------------------------------- */

/* `tail` follows the holder's quoted schema and the conditions; $1 is the conversation, $2 the sender. */
static enum err exec(struct sent *s, struct str holder, const char *head, const char *tail,
    struct kalamdb_result **ret, struct errctx *ec)
{
    struct buf sql = BUF_INIT(0);
    buf_str(&sql, str_c(head));
    buf_u8(&sql, '"');
    for (size_t i = 0; i < holder.len; i++) {
        if (holder.ptr[i] == '"')
            buf_u8(&sql, '"');
        buf_u8(&sql, (uint8_t)holder.ptr[i]);
    }
    buf_str(&sql, STR("\".messages "));
    buf_str(&sql, str_c(tail));
    if (sql.failed) {
        buf_release(&sql);
        return err_internal(ec, ERR_NO_MEMORY, "erase: out of memory");
    }
    const struct kalamdb_value params[2] = {
        {.type = KALAMDB_TEXT, .s = {s->conversation_id.ptr, s->conversation_id.len}},
        {.type = KALAMDB_TEXT, .s = {s->e->user_id.ptr, s->e->user_id.len}},
    };
    struct kalamdb_statement st = {
        .caller = {.user_id = {holder.ptr, holder.len}, .role = ENGINE_ROLE_INTERNAL},
        .sql = {sql.ptr, sql.len},
        .params = params,
        .nparams = 2,
        .durability = KALAMDB_SYNC,
        .timeout_ms = STATEMENT_MS};
    struct kalamdb_error error;
    kalamdb_code code = kalamdb_exec(s->db, &st, ret, &error);
    buf_release(&sql);
    if (code == KALAMDB_OK)
        return ERR_OK;
    enum err err = err_set(ec, (enum err)code, "%s", error.message);
    memcpy(ec->internal, error.internal, sizeof ec->internal);
    err_path(ec, "what was sent to a group");
    return err;
}

#define MINE "WHERE conversation_id = $1 AND \"from\" = $2 AND conversation_type = 'group'"

static int64_t number(const struct kalamdb_result *r, int column)
{
    struct kalamdb_value v;
    kalamdb_result_value(r, 0, column, &v);
    return v.i;
}

static enum err count_rows(
    struct sent *s, struct str holder, int64_t *ret_rows, int64_t *ret_client_ids, struct errctx *ec)
{
    struct kalamdb_result *r = NULL;
    enum err err = exec(s, holder, "SELECT count(*), count(client_msg_id) FROM ", MINE, &r, ec);
    if (err != ERR_OK)
        return err;
    *ret_rows = number(r, 0);
    *ret_client_ids = number(r, 1);
    kalamdb_result_free(r);
    return ERR_OK;
}

/* Keys for idempotency that led to these rows: who comes by that id later starts with none. They go before
 * the rows lose them. */
static enum err forget_client_ids(struct sent *s, struct str holder, struct errctx *ec)
{
    struct str *ids = malloc((size_t)s->batch * sizeof *ids);
    enum err err = ids != NULL ? ERR_OK : err_internal(ec, ERR_NO_MEMORY, "erase: out of memory");
    for (size_t n = 1, at = 0; err == ERR_OK && n > 0; at += n) {
        struct kalamdb_result *r = NULL;
        char tail[512];
        snprintf(tail, sizeof tail, MINE " AND client_msg_id IS NOT NULL ORDER BY msg_id LIMIT %d OFFSET %zu",
            s->batch, at);
        err = exec(s, holder, "SELECT client_msg_id FROM ", tail, &r, ec);
        n = err == ERR_OK ? kalamdb_result_rows(r) : 0;
        for (size_t i = 0; i < n; i++) {
            struct kalamdb_value v;
            kalamdb_result_value(r, i, 0, &v);
            ids[i] = str_n(v.s.ptr, v.s.len);
        }
        if (err == ERR_OK)
            err = store_erase_client_ids(s->db->store, s->group_no, s->e->user_id, n, ids, ec);
        kalamdb_result_free(r);
    }
    free(ids);
    return err;
}

/* All of them, or those with ids of a range. */
static enum err change_rows(struct sent *s, struct str holder, int64_t from, int64_t to, struct errctx *ec)
{
    struct buf tail = BUF_INIT(0);
    buf_str(&tail, STR("SET \"from\" = '" GONE "', client_msg_id = NULL"));
    if (s->e->sent == KALAMDB_REDACT)
        buf_str(&tail, STR(", content = '', content_ref = NULL, metadata = NULL"));
    buf_str(&tail, STR(" " MINE));
    if (to != 0)
        buf_printf(&tail, " AND msg_id BETWEEN %lld AND %lld", (long long)from, (long long)to);
    buf_u8(&tail, 0);
    enum err err = tail.failed ? err_internal(ec, ERR_NO_MEMORY, "erase: out of memory")
                               : exec(s, holder, "UPDATE ", tail.ptr, NULL, ec);
    buf_release(&tail);
    return err;
}

/* More rows than one statement should change: in batches, by id. */
static enum err change_batches(struct sent *s, struct str holder, struct errctx *ec)
{
    enum err err = ERR_OK;
    for (size_t n = 1; err == ERR_OK && n > 0;) {
        struct kalamdb_result *r = NULL;
        struct kalamdb_value from = {0}, to = {0};
        char tail[256];
        snprintf(tail, sizeof tail, MINE " ORDER BY msg_id LIMIT %d", s->batch);
        err = exec(s, holder, "SELECT msg_id FROM ", tail, &r, ec);
        n = err == ERR_OK ? kalamdb_result_rows(r) : 0;
        if (n > 0) {
            kalamdb_result_value(r, 0, 0, &from);
            kalamdb_result_value(r, n - 1, 0, &to);
        }
        kalamdb_result_free(r);
        if (n > 0)
            err = change_rows(s, holder, from.i, to.i, ec);
    }
    return err;
}

static enum err change_holder(struct sent *s, const struct erase_holder *h, struct errctx *ec)
{
    int64_t rows = 0, client_ids = 0;
    if (str_eq(h->user_id, s->e->user_id))
        return ERR_OK; /* somebody else by now */
    enum err err = count_rows(s, h->user_id, &rows, &client_ids, ec);
    if (err == ERR_OK && client_ids > 0)
        err = forget_client_ids(s, h->user_id, ec);
    bool change = err == ERR_OK && rows > 0 && s->e->sent != KALAMDB_KEEP;
    if (change)
        err = rows > s->batch ? change_batches(s, h->user_id, ec) : change_rows(s, h->user_id, 0, 0, ec);
    /* Gone on with after a crash: what was changed before it may not be consolidated yet. */
    if (err == ERR_OK && (change || !s->e->begun) && s->e->sent != KALAMDB_KEEP)
        err = note_user(s, h->user_no, ec);
    return err;
}

/* ---- groups ------------------------------------------------------------------------------------------- */

static bool was_there(const struct erase_holder *all, size_t n, uint64_t user_no)
{
    for (size_t i = 0; i < n; i++)
        if (all[i].user_no == user_no)
            return true;
    return false;
}

static enum err change_group(void *arg, uint64_t group_no, struct str conversation_id, struct errctx *ec)
{
    struct sent *s = arg;
    struct erase_holder *before = NULL;
    size_t nbefore = 0;
    bool again = true;
    enum err err = ERR_OK;
    s->group_no = group_no;
    s->conversation_id = conversation_id;
    for (int pass = 0; err == ERR_OK && again && pass < PASSES_MAX; pass++) {
        struct erase_holder *all = NULL;
        size_t n = 0;
        again = false;
        err = store_erase_holders(s->db->store, group_no, &all, &n, ec);
        for (size_t i = 0; err == ERR_OK && i < n; i++) {
            bool fresh = pass > 0 && !was_there(before, nbefore, all[i].user_no);
            again = again || fresh || (pass == 0 && all[i].copying);
            err = change_holder(s, &all[i], ec);
        }
        free(before);
        before = all;
        nbefore = n;
        again = again || pass == 0; /* who joined during the first pass shows in the second */
    }
    free(before);
    return err;
}

enum err erase_sent(
    struct kalamdb *db, const struct erasure *e, uint64_t **ret_users, size_t *ret_n, struct errctx *ec)
{
    size_t batch = db->options.max_result_rows < BATCH_MAX ? db->options.max_result_rows : BATCH_MAX;
    struct sent s = {.db = db, .e = e, .batch = (int)batch};
    enum err err = store_erase_groups(db->store, e, change_group, &s, ec);
    *ret_users = s.users;
    *ret_n = s.nusers;
    return err;
}
