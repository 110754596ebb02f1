/* What a WHERE says about ids, times, change numbers and the conversation of the rows it wants, per table
 * reference. A predicate at the top level of the WHERE's conjunction that names a column of the reference and
 * compares it with a constant can only be true for rows inside the bound, and comparisons are never true for
 * NULL: so the bound may cut the reference's rows before any join, outer joins included (a row that a cut
 * makes null-extended fails the same predicate). Everything else is left open. */
#include "sql/gate.h"
#include <string.h>

static void at_least(int64_t *min, int64_t v)
{
    if (v > *min)
        *min = v;
}

static void at_most(int64_t *max, int64_t v)
{
    if (v < *max)
        *max = v;
}

/* Inclusive on both sides whatever the operator: a row too many costs nothing, one too few is a wrong answer.
 */
static void bound_number(const struct pred *p, int64_t *min, int64_t *max)
{
    int64_t low = INT64_MAX, high = INT64_MIN;
    switch (p->op) {
    case PRED_EQ:
    case PRED_IN:
        for (int i = 0; i < p->nvalues; i++) {
            low = p->values[i].i < low ? p->values[i].i : low;
            high = p->values[i].i > high ? p->values[i].i : high;
        }
        at_least(min, low);
        at_most(max, high);
        break;
    case PRED_GT:
    case PRED_GE:
        at_least(min, p->values[0].i);
        break;
    case PRED_LT:
    case PRED_LE:
        at_most(max, p->values[0].i);
        break;
    default:
        break;
    }
}

static void bound_conversation(struct scan_bounds *b, const struct pred *p)
{
    if (p->op == PRED_EQ || (p->op == PRED_IN && p->nvalues == 1))
        b->conversation_id = p->values[0].s;
}

static void bound(struct scan_bounds *b, const struct pred *p)
{
    switch (p->column) {
    case MSG_ID:
        bound_number(p, &b->id_min, &b->id_max);
        break;
    case MSG_TIMESTAMP:
        bound_number(p, &b->ts_min, &b->ts_max);
        break;
    case MSG_SEQ:
        bound_number(p, &b->seq_min, &b->seq_max);
        break;
    case MSG_CONVERSATION_ID:
        bound_conversation(b, p);
        break;
    default:
        break;
    }
}

static void note(struct gate *g, const PgQuery__RangeVar *rv, const struct scan_bounds *b)
{
    if (g->nhints == g->cap_hints) {
        size_t cap = g->cap_hints == 0 ? 4 : g->cap_hints * 2;
        struct scan_hint *grown = arena_array(g->tmp, cap, sizeof *grown);
        if (grown == NULL)
            return; /* no hint: wide open */
        if (g->nhints > 0)
            memcpy(grown, g->hints, g->nhints * sizeof *grown);
        g->hints = grown;
        g->cap_hints = cap;
    }
    g->hints[g->nhints++] = (struct scan_hint){rv, *b};
}

static void bounds_table(struct gate *g, const PgQuery__RangeVar *rv, bool sole, const PgQuery__Node *where)
{
    struct fast_table t = {.rv = rv, .schema = catalog_table(str_c(rv->relname)), .sole = sole};
    if (t.schema == NULL || (rv->alias != NULL && rv->alias->n_colnames > 0))
        return;
    t.alias = str_c(rv->alias != NULL ? rv->alias->aliasname : rv->relname);
    struct fast_preds preds = {.complete = true};
    if (!fast_where(g, &t, where, &preds))
        return;
    struct scan_bounds b = SCAN_BOUNDS_OPEN;
    for (int i = 0; i < preds.n; i++)
        if (t.schema == &schema_messages)
            bound(&b, &preds.v[i]);
        else if (preds.v[i].column == t.schema->key_column) /* of both other tables: conversation_id */
            bound_conversation(&b, &preds.v[i]);
    note(g, rv, &b);
}

/* An alias that two items of a FROM share is an error, left to the printer; bounds then do no harm. Column
 * aliases on a join hide its tables' names: nothing below such a join is looked at. */
static void bounds_item(struct gate *g, const PgQuery__Node *item, bool sole, const PgQuery__Node *where)
{
    while (tree_is(item, NODE_CASE(JOIN_EXPR)) && item->join_expr->alias == NULL) {
        bounds_item(g, item->join_expr->rarg, false, where);
        item = item->join_expr->larg;
        sole = false;
    }
    if (tree_is(item, NODE_CASE(RANGE_VAR)))
        bounds_table(g, item->range_var, sole, where);
}

void bounds_enter(struct gate *g, const PgQuery__SelectStmt *s)
{
    if (s->where_clause == NULL)
        return;
    for (size_t i = 0; i < s->n_from_clause; i++)
        bounds_item(g, s->from_clause[i], s->n_from_clause == 1, s->where_clause);
}

struct scan_bounds bounds_of(const struct gate *g, const PgQuery__RangeVar *rv)
{
    for (size_t i = g->nhints; i-- > 0;) {
        if (g->hints[i].rv == rv)
            return g->hints[i].bounds;
    }
    return SCAN_BOUNDS_OPEN;
}
