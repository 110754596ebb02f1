#include "engine/read.h"
#include <stdlib.h>
#include <unistd.h>

/* ---- snapshots and inputs ---- */

enum err read_set_snapshot(struct kalamdb_query *q, struct arena *arena, struct read_set *rs,
    struct str owner, struct snapshot **ret)
{
    for (int i = 0; i < rs->nsnapshots; i++) {
        if (str_eq(rs->owners[i], owner)) {
            *ret = rs->snapshots[i];
            return ERR_OK;
        }
    }
    if (rs->owners == NULL) {
        size_t n = (size_t)q->stmt->ntables + 1; /* every table, and the target */
        rs->owners = arena_array(arena, n, sizeof *rs->owners);
        rs->snapshots = arena_array(arena, n, sizeof *rs->snapshots);
        if (rs->owners == NULL || rs->snapshots == NULL) {
            rs->owners = NULL;
            return query_no_memory(q, "snapshots of a statement");
        }
    }
    enum err e = snapshot_open(q->db->store, owner, &rs->snapshots[rs->nsnapshots], &q->ec);
    if (e != ERR_OK)
        return e;
    rs->owners[rs->nsnapshots] = owner;
    *ret = rs->snapshots[rs->nsnapshots++];
    return ERR_OK;
}

enum err read_set_open(struct kalamdb_query *q, struct arena *arena, struct read_set *ret)
{
    const struct stmt *st = q->stmt;
    *ret = (struct read_set){0};
    ret->inputs = arena_array(arena, (size_t)st->ntables, sizeof *ret->inputs);
    if (ret->inputs == NULL)
        return query_no_memory(q, "inputs of a statement");
    for (int i = 0; i < st->ntables; i++) {
        const struct stmt_table *t = &st->tables[i];
        struct snapshot *snap = NULL;
        enum err e = read_set_snapshot(q, arena, ret, t->owner, &snap);
        if (e == ERR_OK)
            e = snapshot_input(snap, t->schema, &t->bounds, false, &ret->inputs[i], &q->ec);
        if (e != ERR_OK)
            return e;
        ret->ninputs++;
    }
    return ERR_OK;
}

void read_set_close(struct read_set *rs)
{
    for (int i = 0; i < rs->nsnapshots; i++)
        snapshot_close(rs->snapshots[i]);
    *rs = (struct read_set){0};
}

/* ---- workers ---- */

/* Whose rows a worker sees. One that has seen alice's and bob's rows together serves nobody else but those
 * who read both again: its name is all their ids, which hold no NUL. */
static enum err worker_name(struct kalamdb_query *q, const struct read_set *rs, struct buf *ret)
{
    if (rs->nsnapshots == 0)
        buf_str(ret, q->caller.user_id);
    for (int i = 0; i < rs->nsnapshots; i++) {
        if (i > 0)
            buf_u8(ret, 0);
        buf_str(ret, rs->owners[i]);
    }
    return ret->failed ? query_no_memory(q, "name of a worker") : ERR_OK;
}

enum err read_worker(
    struct kalamdb_query *q, const struct read_set *rs, struct str sql, size_t rows_max, struct rowset *ret)
{
    enum err e = query_alive(q);
    if (e != ERR_OK)
        return e;
    struct buf name = BUF_INIT(0);
    e = worker_name(q, rs, &name);
    struct analytic_request rq = {
        .user_id = buf_view(&name),
        .sql = sql,
        .ninputs = rs->ninputs,
        .inputs = rs->inputs,
        .mode = ANALYTIC_ROWS,
        .output_fd = -1,
        .rows_max = rows_max,
        .timeout_ms = query_timeout_ms(q),
        .cancel = &q->cancel,
    };
    if (e == ERR_OK) {
        e = analytic_run(q->db->analytic, &rq, ret, &q->ec);
        if (e != ERR_OK) {
            sql_explain_error(q->sql, &q->ec);
            e = q->ec.code != ERR_OK ? q->ec.code : e;
        }
    }
    buf_release(&name);
    return query_costly(q, e);
}

enum err read_rows_input(
    struct kalamdb_query *q, const struct schema *schema, const struct buf *rows, struct analytic_input *ret)
{
    *ret = (struct analytic_input){.schema = schema, .rows_fd = -1};
    if (rows->failed)
        return query_no_memory(q, "rows for a worker");
    if (rows->len == 0)
        return ERR_OK;
    int fd = os_memfd("rows");
    if (fd < 0)
        return err_internal(&q->ec, ERR_IO, "memfd: %s", strerror(-fd));
    int n = os_write_all(fd, rows->ptr, rows->len);
    if (n < 0) {
        close(fd);
        return err_internal(&q->ec, ERR_IO, "write to memfd: %s", strerror(-n));
    }
    ret->rows_fd = fd;
    ret->rows_bytes = rows->len;
    return ERR_OK;
}

enum err read_worker_rows(struct kalamdb_query *q, const struct schema *schema, const struct buf *rows,
    struct str sql, size_t rows_max, struct rowset *ret)
{
    struct analytic_input input;
    enum err e = read_rows_input(q, schema, rows, &input);
    if (e != ERR_OK)
        return e;
    struct str owner = q->stmt->target_owner;
    struct read_set rs = {.nsnapshots = 1, .owners = &owner, .ninputs = 1, .inputs = &input};
    e = read_worker(q, &rs, sql, rows_max, ret);
    if (input.rows_fd >= 0)
        close(input.rows_fd);
    return e;
}

/* ---- SELECT ---- */

static enum err alive(void *arg)
{
    return query_alive(arg);
}

void read_limits(struct kalamdb_query *q, size_t visited_max, size_t rows_max, struct fast_limits *ret)
{
    bool forced = atomic_load_explicit(&q->db->path, memory_order_relaxed) == PATH_FAST;
    *ret = (struct fast_limits){
        .visited_max = forced ? SIZE_MAX : visited_max,
        .bytes_max = forced || visited_max > QUERY_ROWS_INLINE_MAX ? SIZE_MAX : QUERY_BYTES_INLINE_MAX,
        .rows_max = rows_max,
        .alive = alive,
        .alive_arg = q,
    };
}

bool read_tries_fast(const struct kalamdb_query *q)
{
    return q->stmt->fast != NULL && atomic_load_explicit(&q->db->path, memory_order_relaxed) != PATH_ANALYTIC;
}

/* Rows of the answer: the columns asked for, bytes copied once. */
struct select_sink {
    struct rowset *rows;
    const struct fast_plan *plan;
    size_t rows_max;
    bool whole; /* most columns are wanted: the envelope is copied as it is, and values point into the copy */
    struct value *out;
};

static enum err select_row(void *arg, struct str envelope, const struct row_meta *meta,
    const struct value *values, struct errctx *ec)
{
    struct select_sink *s = arg;
    (void)meta;
    if (s->rows->nrows == s->rows_max) {
        s->rows->truncated = true;
        return ERR_OK;
    }
    for (int i = 0; i < s->plan->nout; i++)
        s->out[i] = values[s->plan->out_columns[i]];
    enum err e;
    if (!s->whole || envelope.ptr == NULL) {
        e = rowset_add(s->rows, s->out);
    } else {
        struct str copy = arena_str(&s->rows->arena, envelope);
        for (int i = 0; copy.ptr != NULL && i < s->plan->nout; i++) {
            if (value_is_bytes(s->out[i].type))
                s->out[i].s.ptr = copy.ptr + (s->out[i].s.ptr - envelope.ptr);
        }
        e = copy.ptr == NULL ? ERR_TOO_LARGE : rowset_add_borrowed(s->rows, s->out);
    }
    if (e == ERR_TOO_LARGE)
        return err_set(ec, e, "the answer is over %zu bytes", s->rows->arena.max_bytes);
    return e == ERR_OK ? e : err_internal(ec, e, "row of an answer");
}

static enum err set_columns(
    struct kalamdb_query *q, struct rowset *rows, const struct schema *schema, const struct fast_plan *plan)
{
    enum value_type types[SCHEMA_COLUMNS_MAX];
    struct str count = STR("count");
    enum err e;
    if (plan->count) {
        types[0] = VALUE_BIGINT;
        e = rowset_set_columns(rows, 1, plan->nout == 1 ? plan->out_names : &count, types);
    } else {
        enum value_type *t =
            plan->nout <= SCHEMA_COLUMNS_MAX ? types : arena_array(&q->arena, (size_t)plan->nout, sizeof *t);
        for (int i = 0; t != NULL && i < plan->nout; i++)
            t[i] = schema->columns[plan->out_columns[i]].type;
        e = t == NULL ? ERR_NO_MEMORY : rowset_set_columns(rows, plan->nout, plan->out_names, t);
    }
    return e == ERR_OK ? e : query_no_memory(q, "columns of an answer");
}

static enum err select_count(struct kalamdb_query *q, struct snapshot *snap, const struct fast_limits *limits,
    struct rowset *rows, enum fast_verdict *verdict)
{
    const struct fast_plan *plan = q->stmt->fast;
    int64_t n = 0;
    enum err e = fast_count(snap, q->stmt->tables[0].schema, plan, limits, &n, verdict, &q->ec);
    if (e != ERR_OK || *verdict != FAST_DONE || plan->limit == 0 || plan->offset > 0)
        return e;
    struct value v = value_i64(n);
    e = rowset_add(rows, &v);
    return e == ERR_OK ? e : query_no_memory(q, "count");
}

static enum err select_rows(struct kalamdb_query *q, struct snapshot *snap, const struct fast_limits *limits,
    struct rowset *rows, enum fast_verdict *verdict)
{
    const struct stmt_table *t = &q->stmt->tables[0];
    const struct fast_plan *plan = q->stmt->fast;
    struct select_sink sink = {
        .rows = rows,
        .plan = plan,
        .rows_max = q->db->options.max_result_rows,
        .whole = plan->nout * 2 > t->schema->ncolumns,
        .out = arena_array(&q->arena, (size_t)plan->nout, sizeof *sink.out),
    };
    if (sink.out == NULL)
        return query_no_memory(q, "row of an answer");
    return fast_run(snap, t->schema, plan, limits, &(struct fast_sink){select_row, &sink}, verdict, &q->ec);
}

static enum err select_fast(struct kalamdb_query *q, size_t visited_max, enum fast_verdict *verdict)
{
    const struct stmt_table *t = &q->stmt->tables[0];
    struct kalamdb_result *r = query_result(q);
    if (r == NULL)
        return query_no_memory(q, "result");
    struct snapshot *snap;
    enum err e = snapshot_open(q->db->store, t->owner, &snap, &q->ec);
    if (e != ERR_OK)
        return e;
    struct fast_limits limits;
    read_limits(q, visited_max, q->db->options.max_result_rows + 1, &limits);
    e = set_columns(q, &r->rows, t->schema, q->stmt->fast);
    if (e == ERR_OK && q->stmt->fast->count)
        e = select_count(q, snap, &limits, &r->rows, verdict);
    else if (e == ERR_OK)
        e = select_rows(q, snap, &limits, &r->rows, verdict);
    snapshot_close(snap);
    r->has_rows = true;
    if (e == ERR_OK && *verdict != FAST_DONE) {
        rowset_release(&r->rows);
        rowset_init(&r->rows, ENGINE_RESULT_BYTES_MAX);
    }
    if (e == ERR_OK && *verdict == FAST_DONE)
        atomic_fetch_add_explicit(&q->db->fast_reads, 1, memory_order_relaxed);
    return e;
}

static enum err select_worker(struct kalamdb_query *q)
{
    struct kalamdb_result *r = query_result(q);
    if (r == NULL)
        return query_no_memory(q, "result");
    struct read_set rs;
    struct rowset rows;
    enum err e = read_set_open(q, &q->arena, &rs);
    if (e == ERR_OK)
        e = read_worker(q, &rs, q->stmt->read_sql, q->db->options.max_result_rows, &rows);
    read_set_close(&rs);
    if (e != ERR_OK)
        return e;
    rowset_release(&r->rows);
    r->rows = rows;
    r->has_rows = true;
    atomic_fetch_add_explicit(&q->db->analytic_reads, 1, memory_order_relaxed);
    return ERR_OK;
}

static void select_worker_step(struct kalamdb_query *q)
{
    query_finish(q, select_worker(q));
}

/* On a job thread: the same in C with time enough, else a worker. */
static void select_long_step(struct kalamdb_query *q)
{
    enum fast_verdict verdict = FAST_LONG;
    enum err e = query_alive(q);
    if (e == ERR_OK)
        e = select_fast(q, QUERY_ROWS_JOB_MAX, &verdict);
    if (e == ERR_OK && verdict != FAST_DONE)
        e = select_worker(q);
    query_finish(q, e);
}

void read_start(struct kalamdb_query *q)
{
    if (!read_tries_fast(q)) {
        query_to_job(q, select_worker_step);
        return;
    }
    enum fast_verdict verdict = FAST_DONE;
    enum err e = select_fast(q, QUERY_ROWS_INLINE_MAX, &verdict);
    if (e != ERR_OK || verdict == FAST_DONE)
        query_finish(q, e);
    else
        query_to_job(q, verdict == FAST_COLD ? select_worker_step : select_long_step);
}
