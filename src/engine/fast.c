#include "engine/fast.h"
#include <stdlib.h>

/* A cancelled read notices within this many rows. */
#define ALIVE_EVERY 256

/* Ids asked for one by one (=, IN); longer lists are scanned for. */
#define POINTS_MAX 256

/* Up to so many rows a sort with a limit keeps only the best; above, it keeps all. */
#define BEST_MAX 2000

/* ---- conditions ---- */

static bool pred_true(const struct pred *p, struct value v)
{
    if (p->op == PRED_IS_NULL || p->op == PRED_NOT_NULL)
        return value_is_null(v) == (p->op == PRED_IS_NULL);
    if (value_is_null(v))
        return false;
    if (p->op == PRED_IN) {
        for (int i = 0; i < p->nvalues; i++) {
            if (value_cmp(v, p->values[i]) == 0)
                return true;
        }
        return false;
    }
    int c = value_cmp(v, p->values[0]);
    switch (p->op) {
    case PRED_EQ:
        return c == 0;
    case PRED_NE:
        return c != 0;
    case PRED_LT:
        return c < 0;
    case PRED_LE:
        return c <= 0;
    case PRED_GT:
        return c > 0;
    default:
        return c >= 0;
    }
}

bool fast_match(const struct fast_plan *plan, const struct value *values)
{
    if (plan->never)
        return false;
    for (int i = 0; i < plan->npreds; i++) {
        if (!pred_true(&plan->preds[i], values[plan->preds[i].column]))
            return false;
    }
    return true;
}

/* ---- what the conditions say about where to look ---- */

struct range {
    int64_t min, max; /* inclusive; min > max: empty */
};

static void range_cut(struct range *r, const struct pred *p)
{
    int64_t v = p->nvalues > 0 ? p->values[0].i : 0;
    switch (p->op) {
    case PRED_EQ:
        r->min = v > r->min ? v : r->min;
        r->max = v < r->max ? v : r->max;
        break;
    case PRED_GT:
    case PRED_GE:
        if (p->op == PRED_GT && v == INT64_MAX)
            r->max = INT64_MIN;
        else if (v + (p->op == PRED_GT) > r->min)
            r->min = v + (p->op == PRED_GT);
        break;
    case PRED_LT:
    case PRED_LE:
        if (p->op == PRED_LT && v == INT64_MIN)
            r->max = INT64_MIN;
        else if (v - (p->op == PRED_LT) < r->max)
            r->max = v - (p->op == PRED_LT);
        break;
    default:
        break;
    }
}

/* The range of one BIGINT column, within 0 … INT64_MAX as ids and change numbers are. */
static struct range range_of(const struct fast_plan *plan, int column)
{
    struct range r = {0, INT64_MAX};
    for (int i = 0; i < plan->npreds; i++) {
        if (plan->preds[i].column == column)
            range_cut(&r, &plan->preds[i]);
    }
    return r;
}

/* The first = or IN on the column: its values are all that can match. */
static const struct pred *points_of(const struct fast_plan *plan, int column)
{
    for (int i = 0; i < plan->npreds; i++) {
        const struct pred *p = &plan->preds[i];
        if (p->column == column && (p->op == PRED_EQ || (p->op == PRED_IN && p->nvalues <= POINTS_MAX)))
            return p;
    }
    return NULL;
}

static struct str equal_text(const struct fast_plan *plan, int column)
{
    for (int i = 0; i < plan->npreds; i++) {
        if (plan->preds[i].column == column && plan->preds[i].op == PRED_EQ)
            return plan->preds[i].values[0].s;
    }
    return STR_NULL;
}

/* ---- one run ---- */

/* A row kept for sorting. */
struct kept {
    struct row_meta meta;
    struct value *values;
};

struct run {
    struct snapshot *snap;
    const struct schema *schema;
    const struct fast_plan *plan;
    const struct fast_limits *limits;
    const struct fast_sink *sink;
    struct errctx *ec;
    size_t visited, bytes;
    int64_t skip, left; /* of the plan's offset and limit; left -1: no limit */
    bool full;          /* the limit is reached: nothing more is needed */
    bool sorting;       /* the source's order is not the plan's: keep, sort, then emit */
    struct arena arena; /* kept rows */
    struct kept *kept;
    size_t nkept, cap_kept;
    size_t best;  /* with a limit, only so many rows can be in the answer; 0: all */
    bool settled; /* kept[best - 1] is the worst of `best` kept rows: what is not better is not kept */
};

static enum err emit(
    struct run *r, struct str envelope, const struct row_meta *meta, const struct value *values)
{
    if (r->skip > 0) {
        r->skip--;
        return ERR_OK;
    }
    enum err e = ERR_OK;
    if (r->left != 0)
        e = r->sink->row(r->sink->arg, envelope, meta, values, r->ec);
    if (r->left > 0)
        r->left--;
    r->full = r->left == 0;
    return e;
}

static int cmp_column(struct value a, struct value b, bool descending, bool nulls_first)
{
    bool an = value_is_null(a), bn = value_is_null(b);
    if (an || bn)
        return an == bn ? 0 : (an == nulls_first ? -1 : 1);
    int c = value_cmp(a, b);
    return descending ? -c : c;
}

static int kept_cmp(const void *a, const void *b, void *arg)
{
    const struct run *r = arg;
    const struct kept *x = a, *y = b;
    int c = 0;
    if (r->plan->order_column >= 0) {
        int o = r->plan->order_column;
        c = cmp_column(x->values[o], y->values[o], r->plan->descending, r->plan->nulls_first);
    }
    if (c == 0) {
        int key = r->schema->key_column;
        c = cmp_column(x->values[key], y->values[key], r->plan->tie_descending, false);
    }
    if (c == 0 && r->schema == &schema_conversation_users) /* the second half of its key */
        c = cmp_column(x->values[MEMBER_USER_ID], y->values[MEMBER_USER_ID], false, false);
    return c;
}

static enum err keep(struct run *r, const struct row_meta *meta, const struct value *values)
{
    if (r->settled &&
        kept_cmp(&(struct kept){.values = (struct value *)values}, &r->kept[r->best - 1], r) >= 0)
        return ERR_OK;
    if (r->best > 0 && r->nkept == 2 * r->best) {
        qsort_r(r->kept, r->nkept, sizeof *r->kept, kept_cmp, r);
        r->nkept = r->best;
        r->settled = true;
    }
    if (r->nkept == r->cap_kept) {
        size_t cap = r->cap_kept == 0 ? 64 : r->cap_kept * 2;
        struct kept *p = realloc(r->kept, cap * sizeof *p);
        if (p == NULL)
            return err_internal(r->ec, ERR_NO_MEMORY, "sort of %zu rows", r->nkept);
        r->kept = p;
        r->cap_kept = cap;
    }
    size_t n = (size_t)r->schema->ncolumns;
    struct value *copy = arena_array(&r->arena, n, sizeof *copy);
    for (size_t i = 0; copy != NULL && i < n; i++) {
        copy[i] = values[i];
        if (value_is_bytes(copy[i].type))
            copy[i].s = arena_str(&r->arena, copy[i].s);
    }
    if (arena_failed(&r->arena))
        return err_set(r->ec, ERR_TOO_LARGE, "the rows to sort are over %zu bytes", r->arena.max_bytes);
    r->kept[r->nkept++] = (struct kept){*meta, copy};
    return ERR_OK;
}

/* Takes one row of the source. */
static enum err take(
    struct run *r, struct str envelope, const struct row_meta *meta, const struct value *values)
{
    if (!fast_match(r->plan, values))
        return ERR_OK;
    return r->sorting ? keep(r, meta, values) : emit(r, envelope, meta, values);
}

static enum err emit_kept(struct run *r)
{
    if (r->nkept > 1)
        qsort_r(r->kept, r->nkept, sizeof *r->kept, kept_cmp, r);
    for (size_t i = 0; i < r->nkept && !r->full; i++) {
        enum err e = emit(r, STR_NULL, &r->kept[i].meta, r->kept[i].values);
        if (e != ERR_OK)
            return e;
    }
    return ERR_OK;
}

/* ---- sources ---- */

/* Yields the iterator's rows. With `floor` above 0 the source is whole only for ids from there on: a row
 * below, when more are wanted, sends the statement to the files. */
static enum err scan(struct run *r, const struct scan_spec *spec, int64_t floor, enum fast_verdict *ret)
{
    struct hot_iter *it;
    enum err e = hot_iter_open(r->snap, spec, &it, r->ec);
    if (e != ERR_OK)
        return e;
    struct value values[SCHEMA_COLUMNS_MAX];
    struct row_meta meta;
    struct str row;
    *ret = FAST_DONE;
    while (!r->full && (e = hot_iter_next(it, &row, r->ec)) == ERR_OK) {
        r->bytes += row.len;
        if (r->visited++ >= r->limits->visited_max || r->bytes > r->limits->bytes_max) {
            *ret = FAST_LONG;
            break;
        }
        if (r->visited % ALIVE_EVERY == 0 && r->limits->alive != NULL &&
            (e = r->limits->alive(r->limits->alive_arg)) != ERR_OK)
            break;
        e = row_decode(row, r->schema, &meta, values);
        if (e != ERR_OK) {
            e = err_internal(r->ec, e, "hot row of %zu bytes does not decode", row.len);
            break;
        }
        if ((meta.flags & ROW_TOMBSTONE) != 0)
            continue;
        if (floor > 0 && values[MSG_ID].i < floor) {
            *ret = FAST_COLD;
            break;
        }
        e = take(r, row, &meta, values);
        if (e != ERR_OK)
            break;
    }
    hot_iter_close(it);
    if (e == ERR_NOT_FOUND) {
        errctx_clear(r->ec);
        e = ERR_OK;
    }
    return e;
}

/* Messages of a conversation (ptr set) or of the user by msg_id. */
static enum err scan_ids(struct run *r, struct str conversation, struct range ids, enum fast_verdict *ret)
{
    int64_t floor = 0;
    if (snapshot_has_cold(r->snap))
        floor = conversation.ptr != NULL ? snapshot_conversation_floor(r->snap, conversation)
                                         : snapshot_user_floor(r->snap);
    bool whole = ids.min >= floor; /* the range has no part in the files */
    bool descending = !r->sorting && r->plan->descending;
    if (!whole && (!descending || ids.max < floor)) {
        *ret = FAST_COLD;
        return ERR_OK;
    }
    struct scan_spec spec = {
        .order = conversation.ptr != NULL ? SCAN_BY_CONVERSATION : SCAN_BY_ID,
        /* A sort finds its best rows sooner from the end that they are at: ids follow time, mostly. */
        .descending = r->plan->descending,
        .conversation_id = conversation,
        .id_min = ids.min,
        .id_max = ids.max,
        .seq_max = UINT64_MAX,
    };
    enum err e = scan(r, &spec, whole ? 0 : floor, ret);
    if (e == ERR_OK && *ret == FAST_DONE && !r->full && !whole)
        *ret = FAST_COLD;
    return e;
}

static enum err scan_seqs(struct run *r, struct range seqs, enum fast_verdict *ret)
{
    struct scan_spec spec = {
        .order = SCAN_BY_SEQ,
        .conversation_id = equal_text(r->plan, MSG_CONVERSATION_ID),
        .id_max = INT64_MAX,
        .seq_min = (uint64_t)seqs.min,
        .seq_max = (uint64_t)seqs.max,
    };
    return scan(r, &spec, 0, ret);
}

static int cmp_i64(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

/* Messages by id, one by one. An id that is not hot is nowhere when all rows from it on are hot. */
static enum err points(struct run *r, const struct pred *p, enum fast_verdict *ret)
{
    int64_t ids[POINTS_MAX];
    int n = p->nvalues;
    for (int i = 0; i < n; i++)
        ids[i] = p->values[i].i;
    qsort(ids, (size_t)n, sizeof *ids, cmp_i64);
    struct str conversation = equal_text(r->plan, MSG_CONVERSATION_ID);
    int64_t floor = 0;
    if (snapshot_has_cold(r->snap)) {
        floor = snapshot_user_floor(r->snap);
        int64_t own = conversation.ptr != NULL ? snapshot_conversation_floor(r->snap, conversation) : floor;
        floor = own < floor ? own : floor;
    }
    *ret = FAST_DONE;
    bool descending = !r->sorting && r->plan->descending;
    for (int k = 0; k < n && !r->full; k++) {
        int i = descending ? n - 1 - k : k;
        if ((k > 0 && ids[i] == ids[descending ? i + 1 : i - 1]) || ids[i] < 0)
            continue;
        struct row_meta meta;
        struct value values[SCHEMA_COLUMNS_MAX];
        enum err e = snapshot_message(r->snap, ids[i], &meta, values, r->ec);
        r->visited++;
        if (e == ERR_NOT_FOUND) {
            errctx_clear(r->ec);
            if (ids[i] >= floor)
                continue;
            *ret = FAST_COLD;
            return ERR_OK;
        }
        if (e == ERR_OK && (meta.flags & ROW_TOMBSTONE) == 0)
            e = take(r, STR_NULL, &meta, values);
        if (e != ERR_OK)
            return e;
    }
    return ERR_OK;
}

static enum err run_messages(struct run *r, enum fast_verdict *ret)
{
    const struct fast_plan *plan = r->plan;
    int order = plan->order_column;
    struct range ids = range_of(plan, MSG_ID), seqs = range_of(plan, MSG_SEQ);
    if (ids.min > ids.max || seqs.min > seqs.max) {
        *ret = FAST_DONE;
        return ERR_OK;
    }
    const struct pred *p = points_of(plan, MSG_ID);
    bool by_id = order < 0 || order == MSG_ID;
    if (p != NULL) {
        r->sorting = !by_id;
        return points(r, p, ret);
    }
    bool seqs_hot = !snapshot_has_cold(r->snap) || (uint64_t)seqs.min > snapshot_cold_max_seq(r->snap);
    if (seqs_hot && (seqs.min > 0 || seqs.max < INT64_MAX || order == MSG_SEQ)) {
        r->sorting = order != MSG_SEQ || plan->descending;
        return scan_seqs(r, seqs, ret);
    }
    r->sorting = !by_id;
    return scan_ids(r, equal_text(plan, MSG_CONVERSATION_ID), ids, ret);
}

static enum err run_conversation_points(struct run *r, const struct pred *p)
{
    for (int i = 0; i < p->nvalues; i++) {
        bool again = false;
        for (int k = 0; k < i && !again; k++)
            again = str_eq(p->values[k].s, p->values[i].s);
        struct value values[SCHEMA_COLUMNS_MAX];
        if (again)
            continue;
        enum err e = snapshot_conversation(r->snap, p->values[i].s, values, r->ec);
        r->visited++;
        if (e == ERR_OK)
            e = take(r, STR_NULL, &(struct row_meta){0}, values);
        else if (e == ERR_NOT_FOUND)
            e = ERR_OK;
        if (e != ERR_OK)
            return e;
    }
    errctx_clear(r->ec);
    return ERR_OK;
}

/* The small tables: all hot, scanned whole, or one conversation of them, and sorted. */
static enum err run_table(struct run *r, enum fast_verdict *ret)
{
    r->sorting = true;
    const struct pred *p = points_of(r->plan, CONV_ID);
    if (r->schema == &schema_conversations && p != NULL) {
        *ret = FAST_DONE;
        return run_conversation_points(r, p);
    }
    struct scan_spec spec = {.order = SCAN_TABLE,
        .table = r->schema,
        .conversation_id = equal_text(r->plan, r->schema->key_column),
        .id_max = INT64_MAX,
        .seq_max = UINT64_MAX};
    return scan(r, &spec, 0, ret);
}

enum err fast_run(struct snapshot *snap, const struct schema *schema, const struct fast_plan *plan,
    const struct fast_limits *limits, const struct fast_sink *sink, enum fast_verdict *ret, struct errctx *ec)
{
    struct run r = {.snap = snap,
        .schema = schema,
        .plan = plan,
        .limits = limits,
        .sink = sink,
        .ec = ec,
        .skip = plan->offset,
        .left = plan->limit};
    if (limits->rows_max > 0 && (r.left < 0 || (uint64_t)r.left > limits->rows_max))
        r.left = (int64_t)limits->rows_max;
    enum fast_verdict verdict = FAST_DONE;
    enum err e = ERR_OK;
    if (plan->never || r.left == 0 || !snapshot_exists(snap)) {
        *ret = FAST_DONE;
        return ERR_OK;
    }
    arena_init(&r.arena, (size_t)256 << 20);
    if (r.left > 0 && r.left <= BEST_MAX && r.skip <= BEST_MAX)
        r.best = (size_t)(r.left + r.skip);
    e = schema == &schema_messages ? run_messages(&r, &verdict) : run_table(&r, &verdict);
    if (e == ERR_OK && verdict == FAST_DONE && r.sorting)
        e = emit_kept(&r);
    arena_release(&r.arena);
    free(r.kept);
    if (e == ERR_OK)
        *ret = verdict;
    return e;
}

/* ---- count(*) ---- */

static enum err count_row(void *arg, struct str envelope, const struct row_meta *meta,
    const struct value *values, struct errctx *ec)
{
    (void)envelope, (void)meta, (void)values, (void)ec;
    ++*(int64_t *)arg;
    return ERR_OK;
}

enum err fast_count(struct snapshot *snap, const struct schema *schema, const struct fast_plan *plan,
    const struct fast_limits *limits, int64_t *ret_count, enum fast_verdict *ret, struct errctx *ec)
{
    if (schema == &schema_messages && !plan->never && plan->npreds == 0) {
        *ret = FAST_DONE;
        *ret_count = snapshot_exists(snap) ? snapshot_total_messages(snap) : 0;
        return ERR_OK;
    }
    if (schema == &schema_messages && !plan->never && plan->npreds == 1 && plan->preds[0].op == PRED_EQ &&
        plan->preds[0].column == MSG_CONVERSATION_ID) {
        struct value values[CONV_NCOLUMNS];
        enum err e = snapshot_conversation(snap, plan->preds[0].values[0].s, values, ec);
        if (e != ERR_OK && e != ERR_NOT_FOUND)
            return e;
        errctx_clear(ec);
        *ret = FAST_DONE;
        *ret_count = e == ERR_OK ? values[CONV_TOTAL_MESSAGES].i : 0;
        return ERR_OK;
    }
    struct fast_plan all = *plan;
    all.limit = -1;
    all.offset = 0;
    all.order_column = -1;
    all.descending = all.tie_descending = false;
    int64_t n = 0;
    struct fast_limits unlimited = *limits;
    unlimited.rows_max = 0;
    enum err e = fast_run(snap, schema, &all, &unlimited, &(struct fast_sink){count_row, &n}, ret, ec);
    if (e == ERR_OK)
        *ret_count = n;
    return e;
}
