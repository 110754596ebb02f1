#include "engine/modify_read.h"
#include "engine/coerce.h"
#include <stdlib.h>
#include <unistd.h>

/* Deleting so few rows, the newest one that stays is looked for in C. */
#define NEWEST_LOOKUP_MAX 64

void modify_clear(struct modify *m)
{
    read_set_close(&m->set);
    while (m->nsources > 0)
        rowset_release(&m->sources[--m->nsources]);
    spills_release(&m->spills);
    arena_clear(&m->arena);
    m->nrows = m->nmessages = 0;
    m->exprs = NULL;
    m->change = (struct chat_change){0};
    m->update = (struct chat_update){0};
    m->leave = (struct chat_members_remove){0};
}

/* ---- collecting rows ---- */

struct collect {
    struct kalamdb_query *q;
    struct chat_row **rows;
    size_t *nrows, *cap_rows;
    int ncolumns;
    bool messages;
    uint32_t conversation;
};

static enum err collect_add(struct collect *c, struct value *values, uint64_t seq, uint64_t ins_seq)
{
    struct kalamdb_query *q = c->q;
    if (*c->nrows >= q->db->options.max_changed_rows)
        return err_set(&q->ec, ERR_TOO_LARGE, "the statement would change over max_changed_rows (%zu) rows",
            q->db->options.max_changed_rows);
    if (*c->nrows == *c->cap_rows) {
        size_t cap = *c->cap_rows == 0 ? 16 : *c->cap_rows * 2;
        struct chat_row *p = realloc(*c->rows, cap * sizeof *p);
        if (p == NULL)
            return query_no_memory(q, "rows to change");
        *c->rows = p;
        *c->cap_rows = cap;
    }
    (*c->rows)[(*c->nrows)++] =
        (struct chat_row){.values = values, .seq = seq, .ins_seq = ins_seq, .conversation = c->conversation};
    if (c->messages && !value_is_null(values[MSG_CONTENT_REF]))
        (*c->rows)[*c->nrows - 1].ref_read = values[MSG_CONTENT_REF].s;
    return ERR_OK;
}

static enum err collect_row(void *arg, struct str envelope, const struct row_meta *meta,
    const struct value *values, struct errctx *ec)
{
    struct collect *c = arg;
    struct arena *arena = &c->q->modify->arena;
    (void)envelope, (void)ec;
    struct value *copy = arena_array(arena, (size_t)c->ncolumns, sizeof *copy);
    for (int i = 0; copy != NULL && i < c->ncolumns; i++) {
        copy[i] = values[i];
        if (value_is_bytes(copy[i].type))
            copy[i].s = arena_str(arena, copy[i].s);
    }
    if (arena_failed(arena))
        return err_set(&c->q->ec, ERR_TOO_LARGE, "the rows to change are over %zu bytes", arena->max_bytes);
    return collect_add(c, copy, meta->seq, meta->ins_seq);
}

/* A worker's rows: the schema's columns first, then computed values. */
static enum err collect_source(struct collect *c, struct rowset *rows, const struct schema *schema)
{
    struct kalamdb_query *q = c->q;
    if (rows->truncated)
        return err_set(&q->ec, ERR_TOO_LARGE, "the statement would change over max_changed_rows (%zu) rows",
            q->db->options.max_changed_rows);
    if (rows->ncolumns < schema->ncolumns)
        return err_internal(&q->ec, ERR_INTERNAL, "read phase of %d columns", rows->ncolumns);
    for (size_t i = 0; i < rows->nrows; i++) {
        struct value *v = rows->values + i * (size_t)rows->ncolumns;
        for (int k = 0; k < schema->ncolumns; k++) {
            if (v[k].type == schema->columns[k].type || value_is_null(v[k]))
                continue;
            enum err e = coerce_value(&q->modify->arena, &schema->columns[k], v[k], &v[k], &q->ec);
            if (e != ERR_OK)
                return e;
        }
        bool numbered = schema == &schema_messages;
        enum err e = collect_add(
            c, v, numbered ? (uint64_t)v[MSG_SEQ].i : 0, numbered ? (uint64_t)v[MSG_INS_SEQ].i : 0);
        if (e != ERR_OK)
            return e;
    }
    return ERR_OK;
}

static struct collect collect_rows(struct kalamdb_query *q)
{
    struct modify *m = q->modify;
    return (struct collect){.q = q,
        .rows = &m->rows,
        .nrows = &m->nrows,
        .cap_rows = &m->cap_rows,
        .ncolumns = q->stmt->target->ncolumns,
        .messages = q->stmt->target == &schema_messages};
}

static struct collect collect_messages(struct kalamdb_query *q)
{
    struct modify *m = q->modify;
    return (struct collect){.q = q,
        .rows = &m->messages,
        .nrows = &m->nmessages,
        .cap_rows = &m->cap_messages,
        .ncolumns = MSG_NCOLUMNS,
        .messages = true};
}

static enum err read_matching_worker(struct kalamdb_query *q)
{
    struct modify *m = q->modify;
    enum err e = read_set_open(q, &m->arena, &m->set);
    if (e != ERR_OK)
        return e;
    struct rowset *rows = &m->sources[m->nsources];
    /* By key, as in C: the order of change numbers does not depend on the way that the rows were found. */
    struct str sql =
        arena_printf(&m->arena, "SELECT * FROM (%.*s) AS matching ORDER BY 1", STR_FMT(q->stmt->read_sql));
    if (sql.ptr == NULL)
        return query_no_memory(q, "rows to change");
    e = read_worker(q, &m->set, sql, q->db->options.max_changed_rows, rows);
    if (e != ERR_OK)
        return e;
    m->nsources++;
    struct collect c = collect_rows(q);
    e = collect_source(&c, rows, q->stmt->target);
    if (e != ERR_OK || !m->has_expr)
        return e;
    int n = q->stmt->target->ncolumns;
    if (rows->ncolumns < n + m->nexprs)
        return err_internal(&q->ec, ERR_INTERNAL, "read phase of %d columns", rows->ncolumns);
    m->exprs = arena_array(&m->arena, rows->nrows, sizeof *m->exprs);
    if (rows->nrows > 0 && m->exprs == NULL)
        return query_no_memory(q, "rows to change");
    for (size_t i = 0; i < rows->nrows; i++)
        m->exprs[i] = rows->values + i * (size_t)rows->ncolumns + n;
    return ERR_OK;
}

static enum err read_matching(
    struct kalamdb_query *q, size_t visited_max, bool may_block, enum fast_verdict *ret)
{
    struct modify *m = q->modify;
    *ret = FAST_COLD;
    if (read_tries_fast(q) && !m->has_expr) {
        struct snapshot *snap;
        struct fast_limits limits;
        struct collect c = collect_rows(q);
        read_limits(q, visited_max, 0, &limits);
        enum err e = read_set_snapshot(q, &m->arena, &m->set, q->stmt->target_owner, &snap);
        if (e == ERR_OK)
            e = fast_run(snap, q->stmt->target, q->stmt->fast, &limits, &(struct fast_sink){collect_row, &c},
                ret, &q->ec);
        if (e != ERR_OK || *ret == FAST_DONE)
            return e;
    }
    if (!may_block)
        return ERR_OK;
    modify_clear(m);
    *ret = FAST_DONE;
    return read_matching_worker(q);
}

/* ---- what DELETE needs to know beside its rows ---- */

void modify_quote(struct buf *b, struct str s)
{
    buf_u8(b, '\'');
    for (size_t i = 0; i < s.len; i++) {
        if (s.ptr[i] == '\'')
            buf_u8(b, '\'');
        buf_u8(b, (uint8_t)s.ptr[i]);
    }
    buf_u8(b, '\'');
}

/* `conversation_id IN ('…', …)` over those of n that are wanted; bounds follow when there is one. */
static void in_conversations(
    struct buf *b, const struct chat_bounds *all, uint32_t n, const bool *wanted, struct scan_bounds *bounds)
{
    uint32_t count = 0;
    struct str last = STR_NULL;
    buf_str(b, STR("conversation_id IN ("));
    for (uint32_t i = 0; i < n; i++) {
        if (!wanted[i])
            continue;
        if (count++ > 0)
            buf_u8(b, ',');
        last = all[i].conversation_id;
        modify_quote(b, last);
    }
    buf_u8(b, ')');
    if (count == 1)
        bounds->conversation_id = last;
}

/* The newest message of the conversation that stays, by the hot tier; 0: not found there. */
static enum err newest_that_stays(
    struct kalamdb_query *q, struct snapshot *snap, uint32_t conversation, int64_t floor, int64_t *ret)
{
    struct modify *m = q->modify;
    struct scan_spec spec = {.order = SCAN_BY_CONVERSATION,
        .descending = true,
        .conversation_id = m->change.conversations[conversation].conversation_id,
        .id_min = floor,
        .id_max = INT64_MAX,
        .seq_max = UINT64_MAX};
    struct hot_iter *it;
    struct str row;
    struct row_meta meta;
    struct value values[MSG_NCOLUMNS];
    enum err e = hot_iter_open(snap, &spec, &it, &q->ec);
    if (e != ERR_OK)
        return e;
    *ret = 0;
    while (*ret == 0 && (e = hot_iter_next(it, &row, &q->ec)) == ERR_OK) {
        e = row_decode(row, &schema_messages, &meta, values);
        if (e != ERR_OK) {
            e = err_internal(&q->ec, e, "hot row does not decode");
            break;
        }
        bool goes = (meta.flags & ROW_TOMBSTONE) != 0;
        for (size_t i = 0; !goes && i < m->nrows; i++)
            goes = m->rows[i].values[MSG_ID].i == values[MSG_ID].i;
        if (!goes)
            *ret = values[MSG_ID].i;
    }
    hot_iter_close(it);
    if (e == ERR_NOT_FOUND) {
        errctx_clear(&q->ec);
        e = ERR_OK;
    }
    return e;
}

/* Does the conversation need bounds that only files can tell? Settles in C what it can. */
static enum err bounds_wanted(struct kalamdb_query *q, struct snapshot *snap, uint32_t at, const bool lost[2],
    const struct value *conversation, bool *ret)
{
    struct modify *m = q->modify;
    struct chat_bounds *b = &m->change.conversations[at];
    int64_t floor = snapshot_conversation_floor(snap, b->conversation_id), newest = 0;
    *ret = false;
    if ((floor == 0 || (!lost[0] && !lost[1])) && !m->need_bounds)
        return ERR_OK;
    if (!lost[0] && !value_is_null(conversation[CONV_FIRST_MSG_ID]) && m->nrows <= NEWEST_LOOKUP_MAX) {
        enum err e = newest_that_stays(q, snap, at, floor, &newest);
        if (e != ERR_OK)
            return e;
        if (newest != 0) {
            b->known = true;
            b->first = conversation[CONV_FIRST_MSG_ID].i;
            b->last = newest;
            return ERR_OK;
        }
    }
    *ret = true;
    return ERR_OK;
}

static uint32_t find_conversation(const struct chat_change *c, struct str id)
{
    uint32_t lo = 0, hi = c->nconversations;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        int cmp = str_cmp(c->conversations[mid].conversation_id, id);
        if (cmp == 0)
            return mid;
        if (cmp < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return UINT32_MAX;
}

/* First and last of what stays, by a worker: the snapshot's rows without the deleted ones, which go as a
 * second input. */
static enum err bounds_worker(struct kalamdb_query *q, struct snapshot *snap, const bool *wanted)
{
    struct modify *m = q->modify;
    struct chat_change *ch = &m->change;
    struct buf file = BUF_INIT(0), one = BUF_INIT(0), sql = BUF_INIT(0);
    struct scan_bounds bounds = SCAN_BOUNDS_OPEN;
    for (size_t i = 0; i < ch->nrows; i++) {
        struct value key[MSG_NCOLUMNS] = {[MSG_ID] = ch->rows[i].values[MSG_ID],
            [MSG_CONVERSATION_ID] = ch->rows[i].values[MSG_CONVERSATION_ID],
            [MSG_CONTENT] = value_text(STR(""))};
        buf_clear(&one);
        row_encode(&one, &schema_messages, (struct row_meta){1, 1, 0}, key);
        row_file_append(&file, buf_view(&one));
    }
    buf_str(&sql, STR("SELECT conversation_id, min(msg_id), max(msg_id) FROM scan_0 WHERE "));
    in_conversations(&sql, ch->conversations, ch->nconversations, wanted, &bounds);
    buf_str(&sql, STR(" AND msg_id NOT IN (SELECT msg_id FROM scan_1) GROUP BY conversation_id"));
    struct analytic_input inputs[2] = {{.rows_fd = -1}, {.rows_fd = -1}};
    struct rowset out;
    enum err e = one.failed || sql.failed ? query_no_memory(q, "bounds of conversations") : ERR_OK;
    if (e == ERR_OK)
        e = snapshot_input(snap, &schema_messages, &bounds, false, &inputs[0], &q->ec);
    if (e == ERR_OK)
        e = read_rows_input(q, &schema_messages, &file, &inputs[1]);
    if (e == ERR_OK) {
        struct read_set rs = {
            .nsnapshots = 1, .owners = (struct str *)&q->stmt->target_owner, .ninputs = 2, .inputs = inputs};
        e = read_worker(q, &rs, buf_view(&sql), 0, &out);
    }
    if (inputs[1].rows_fd >= 0)
        close(inputs[1].rows_fd);
    buf_release(&file);
    buf_release(&one);
    buf_release(&sql);
    if (e != ERR_OK)
        return e;
    for (uint32_t i = 0; i < ch->nconversations; i++)
        ch->conversations[i].known = ch->conversations[i].known || wanted[i];
    for (size_t i = 0; i < out.nrows; i++) {
        const struct value *v = rowset_row(&out, i);
        uint32_t at = find_conversation(ch, v[0].s);
        if (at != UINT32_MAX) {
            ch->conversations[at].first = v[1].i;
            ch->conversations[at].last = v[2].i;
        }
    }
    rowset_release(&out);
    return ERR_OK;
}

static enum err read_bounds(
    struct kalamdb_query *q, struct snapshot *snap, bool may_block, enum fast_verdict *ret)
{
    struct modify *m = q->modify;
    struct chat_change *ch = &m->change;
    *ret = FAST_DONE;
    if (!snapshot_has_cold(snap) || ch->nrows == 0)
        return ERR_OK;
    struct value(*rows)[CONV_NCOLUMNS] = arena_array(&m->arena, ch->nconversations, sizeof *rows);
    bool(*lost)[2] = arena_array(&m->arena, ch->nconversations, sizeof *lost);
    bool *wanted = arena_array(&m->arena, ch->nconversations, sizeof *wanted);
    if (rows == NULL || lost == NULL || wanted == NULL)
        return query_no_memory(q, "bounds of conversations");
    for (uint32_t i = 0; i < ch->nconversations; i++) {
        enum err e = snapshot_conversation(snap, ch->conversations[i].conversation_id, rows[i], &q->ec);
        if (e != ERR_OK && e != ERR_NOT_FOUND)
            return e;
        errctx_clear(&q->ec);
    }
    for (size_t i = 0; i < ch->nrows; i++) {
        uint32_t at = ch->rows[i].conversation;
        int64_t id = ch->rows[i].values[MSG_ID].i;
        const struct value *first = &rows[at][CONV_FIRST_MSG_ID], *last = &rows[at][CONV_LAST_MSG_ID];
        lost[at][0] = lost[at][0] || (!value_is_null(*first) && first->i == id);
        lost[at][1] = lost[at][1] || (!value_is_null(*last) && last->i == id);
    }
    bool any = false;
    for (uint32_t i = 0; i < ch->nconversations; i++) {
        enum err e = bounds_wanted(q, snap, i, lost[i], rows[i], &wanted[i]);
        if (e != ERR_OK)
            return e;
        any = any || wanted[i];
    }
    if (!any)
        return ERR_OK;
    if (!may_block) {
        *ret = FAST_COLD;
        return ERR_OK;
    }
    return bounds_worker(q, snap, wanted);
}

/* ---- DELETE FROM conversations ---- */

static int row_by_id(const void *a, const void *b)
{
    const struct chat_row *x = a, *y = b;
    return str_cmp(x->values[CONV_ID].s, y->values[CONV_ID].s);
}

static enum err messages_worker(struct kalamdb_query *q, struct snapshot *snap, const bool *wanted)
{
    struct modify *m = q->modify;
    struct chat_change *ch = &m->change;
    struct buf sql = BUF_INIT(0);
    struct scan_bounds bounds = SCAN_BOUNDS_OPEN;
    struct analytic_input input;
    for (int i = 0; i < MSG_NCOLUMNS; i++)
        buf_printf(&sql, "%s\"%.*s\"", i == 0 ? "SELECT " : ", ", STR_FMT(schema_messages.columns[i].name));
    buf_str(&sql, STR(" FROM scan_0 WHERE "));
    in_conversations(&sql, ch->conversations, ch->nconversations, wanted, &bounds);
    buf_str(&sql, STR(" ORDER BY msg_id"));
    enum err e = sql.failed ? query_no_memory(q, "messages of conversations")
                            : snapshot_input(snap, &schema_messages, &bounds, false, &input, &q->ec);
    struct rowset *rows = &m->sources[m->nsources];
    if (e == ERR_OK) {
        struct read_set rs = {
            .nsnapshots = 1, .owners = (struct str *)&q->stmt->target_owner, .ninputs = 1, .inputs = &input};
        e = read_worker(q, &rs, buf_view(&sql), q->db->options.max_changed_rows, rows);
    }
    buf_release(&sql);
    if (e != ERR_OK)
        return e;
    m->nsources++;
    size_t from = m->nmessages;
    struct collect c = collect_messages(q);
    e = collect_source(&c, rows, &schema_messages);
    for (size_t i = from; e == ERR_OK && i < m->nmessages; i++) {
        m->messages[i].conversation = find_conversation(ch, m->messages[i].values[MSG_CONVERSATION_ID].s);
        if (m->messages[i].conversation == UINT32_MAX)
            e = err_internal(&q->ec, ERR_INTERNAL, "a message of another conversation");
    }
    return e;
}

static enum err read_messages_of(struct kalamdb_query *q, struct snapshot *snap, size_t visited_max,
    bool may_block, enum fast_verdict *ret)
{
    struct modify *m = q->modify;
    struct chat_change *ch = &m->change;
    if (m->nrows > 1)
        qsort(m->rows, m->nrows, sizeof *m->rows, row_by_id);
    ch->conversations_too = true;
    ch->nconversations = (uint32_t)m->nrows;
    ch->conversations = arena_array(&m->arena, m->nrows, sizeof *ch->conversations);
    bool *wanted = arena_array(&m->arena, m->nrows, sizeof *wanted);
    if (ch->conversations == NULL || wanted == NULL)
        return query_no_memory(q, "conversations to delete");
    bool any = false, forced = !read_tries_fast(q) && may_block;
    *ret = FAST_DONE;
    for (uint32_t i = 0; i < ch->nconversations; i++) {
        struct value id = m->rows[i].values[CONV_ID];
        ch->conversations[i] = (struct chat_bounds){.conversation_id = id.s, .values = m->rows[i].values};
        struct pred same = {.column = MSG_CONVERSATION_ID, .op = PRED_EQ, .nvalues = 1, .values = &id};
        struct fast_plan plan = {.npreds = 1, .preds = &same, .order_column = -1, .limit = -1};
        struct fast_limits limits;
        size_t before = m->nmessages;
        read_limits(q, visited_max > before ? visited_max - before : 0, 0, &limits);
        struct collect c = collect_messages(q);
        c.conversation = i;
        enum fast_verdict verdict = FAST_COLD;
        enum err e = forced ? ERR_OK
                            : fast_run(snap, &schema_messages, &plan, &limits,
                                  &(struct fast_sink){collect_row, &c}, &verdict, &q->ec);
        if (e != ERR_OK)
            return e;
        if (verdict != FAST_DONE) {
            m->nmessages = before;
            wanted[i] = any = true;
        }
    }
    if (any && !may_block) {
        *ret = FAST_COLD;
        return ERR_OK;
    }
    return any ? messages_worker(q, snap, wanted) : ERR_OK;
}

/* ---- all of it ---- */

static enum err read_for_delete(struct kalamdb_query *q, struct snapshot *snap, size_t visited_max,
    bool may_block, enum fast_verdict *ret)
{
    struct modify *m = q->modify;
    enum err e = ERR_OK;
    if (q->stmt->target == &schema_messages) {
        m->change.rows = m->rows;
        m->change.nrows = m->nrows;
        e = chat_change_group(&m->change, &m->arena, &q->ec);
        return e != ERR_OK ? e : read_bounds(q, snap, may_block, ret);
    }
    if (q->stmt->target == &schema_conversations) {
        e = read_messages_of(q, snap, visited_max, may_block, ret);
        m->change.rows = m->messages;
        m->change.nrows = m->nmessages;
    }
    return e;
}

enum err modify_read(struct kalamdb_query *q, size_t visited_max, bool may_block, enum fast_verdict *ret)
{
    struct modify *m = q->modify;
    struct snapshot *snap;
    modify_clear(m);
    enum err e = read_matching(q, visited_max, may_block, ret);
    if (e == ERR_OK && *ret == FAST_DONE)
        e = read_set_snapshot(q, &m->arena, &m->set, q->stmt->target_owner, &snap);
    if (e == ERR_OK && *ret == FAST_DONE) {
        if (q->stmt->kind == STMT_DELETE)
            e = read_for_delete(q, snap, visited_max, may_block, ret);
        m->change.caller = &q->caller;
        m->change.owner = q->stmt->target_owner;
        m->change.everyone = q->for_everyone;
        m->change.copies = &m->copies;
        m->change.copies_max = q->db->options.max_changed_rows;
        m->change.cold_epoch = snapshot_cold_epoch(snap);
    }
    /* Values of conversations and single messages borrow nothing from it: they were copied. */
    read_set_close(&m->set);
    return e;
}
