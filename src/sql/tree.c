#include "sql/tree.h"

static void *tree_alloc(void *arena, size_t n)
{
    return arena_alloc(arena, n);
}

static void tree_free(void *arena, void *p)
{
    (void)arena;
    (void)p;
}

PgQuery__ParseResult *tree_unpack(struct arena *arena, struct str packed)
{
    ProtobufCAllocator a = {tree_alloc, tree_free, arena};
    return pg_query__parse_result__unpack(&a, packed.len, (const uint8_t *)packed.ptr);
}

struct str tree_text(const PgQuery__Node *n)
{
    return tree_is(n, NODE_CASE(STRING)) ? str_c(n->string->sval) : STR_NULL;
}

int tree_location(const PgQuery__Node *n)
{
    if (n == NULL)
        return -1;
    switch (n->node_case) {
    case NODE_CASE(A_CONST):
        return n->a_const->location;
    case NODE_CASE(COLUMN_REF):
        return n->column_ref->location;
    case NODE_CASE(PARAM_REF):
        return n->param_ref->location;
    case NODE_CASE(A_EXPR): {
        /* Like PostgreSQL's exprLocation: the leftmost of operator and left operand. */
        int left = tree_location(n->a_expr->lexpr);
        return left >= 0 && left < n->a_expr->location ? left : n->a_expr->location;
    }
    case NODE_CASE(BOOL_EXPR):
        return n->bool_expr->location;
    case NODE_CASE(NULL_TEST):
        return tree_location(n->null_test->arg);
    case NODE_CASE(FUNC_CALL):
        return n->func_call->location;
    case NODE_CASE(TYPE_CAST): {
        int arg = tree_location(n->type_cast->arg);
        int cast = n->type_cast->location;
        return arg >= 0 && (cast < 0 || arg < cast) ? arg : cast;
    }
    case NODE_CASE(SQLVALUE_FUNCTION):
        return n->sqlvalue_function->location;
    case NODE_CASE(SET_TO_DEFAULT):
        return n->set_to_default->location;
    case NODE_CASE(SUB_LINK):
        return n->sub_link->location;
    case NODE_CASE(CASE_EXPR):
        return n->case_expr->location;
    case NODE_CASE(COALESCE_EXPR):
        return n->coalesce_expr->location;
    case NODE_CASE(ROW_EXPR):
        return n->row_expr->location;
    case NODE_CASE(RES_TARGET):
        return n->res_target->location;
    case NODE_CASE(RANGE_VAR):
        return n->range_var->location;
    default:
        return -1;
    }
}

bool tree_column_path(const PgQuery__Node *n, struct column_path *ret)
{
    if (!tree_is(n, NODE_CASE(COLUMN_REF)))
        return false;
    const PgQuery__ColumnRef *c = n->column_ref;
    if (c->n_fields < 1 || c->n_fields > 3 || tree_text(c->fields[c->n_fields - 1]).ptr == NULL)
        return false;
    *ret = (struct column_path){.column = tree_text(c->fields[c->n_fields - 1]), .location = c->location};
    if (c->n_fields > 1)
        ret->table = tree_text(c->fields[c->n_fields - 2]);
    if (c->n_fields > 2)
        ret->schema = tree_text(c->fields[0]);
    return true;
}

bool tree_star_path(const PgQuery__Node *n, struct column_path *ret)
{
    if (!tree_is(n, NODE_CASE(COLUMN_REF)))
        return false;
    const PgQuery__ColumnRef *c = n->column_ref;
    if (c->n_fields < 1 || c->n_fields > 3 || !tree_is(c->fields[c->n_fields - 1], NODE_CASE(A_STAR)))
        return false;
    *ret = (struct column_path){.location = c->location};
    if (c->n_fields > 1)
        ret->table = tree_text(c->fields[c->n_fields - 2]);
    if (c->n_fields > 2)
        ret->schema = tree_text(c->fields[0]);
    return true;
}

bool tree_names_are(size_t n, PgQuery__Node *const *names, const char *name)
{
    if (n == 2 && !str_eq(tree_text(names[0]), STR("pg_catalog")))
        return false;
    return (n == 1 || n == 2) && str_eq(tree_text(names[n - 1]), str_c(name));
}

/* ---- walking: by the messages' own descriptors, so that no kind of node can be forgotten ----- */

struct walker {
    tree_visit *fn; /* one of the two */
    tree_visit_table *table;
    void *arg;
};

static bool walk_message(const struct walker *w, const ProtobufCMessage *m);

static bool walk_field(const struct walker *w, const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
    if (f->type != PROTOBUF_C_TYPE_MESSAGE)
        return false;
    const char *base = (const char *)m;
    if (f->label == PROTOBUF_C_LABEL_REPEATED) {
        size_t n;
        memcpy(&n, base + f->quantifier_offset, sizeof n);
        ProtobufCMessage *const *list;
        memcpy(&list, base + f->offset, sizeof list);
        for (size_t i = 0; i < n; i++) {
            if (walk_message(w, list[i]))
                return true;
        }
        return false;
    }
    if ((f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0) {
        uint32_t which;
        memcpy(&which, base + f->quantifier_offset, sizeof which);
        if (which != f->id)
            return false;
    }
    const ProtobufCMessage *one;
    memcpy(&one, base + f->offset, sizeof one);
    return walk_message(w, one);
}

static bool walk_message(const struct walker *w, const ProtobufCMessage *m)
{
    if (m == NULL)
        return false;
    const ProtobufCMessageDescriptor *d = m->descriptor;
    if (d == &pg_query__range_var__descriptor && w->table != NULL)
        return w->table((const PgQuery__RangeVar *)m, w->arg) == WALK_FOUND;
    if (d == &pg_query__node__descriptor) {
        const PgQuery__Node *n = (const PgQuery__Node *)m;
        enum walk next = w->fn != NULL ? w->fn(n, w->arg) : WALK_ON;
        if (next != WALK_ON)
            return next == WALK_FOUND;
        const ProtobufCFieldDescriptor *f = protobuf_c_message_descriptor_get_field(d, n->node_case);
        return f != NULL && walk_field(w, m, f); /* one of 230: not by trying each */
    }
    for (unsigned i = 0; i < d->n_fields; i++) {
        if (walk_field(w, m, &d->fields[i]))
            return true;
    }
    return false;
}

bool tree_any(const PgQuery__Node *n, tree_visit *fn, void *arg)
{
    struct walker w = {.fn = fn, .arg = arg};
    return n != NULL && walk_message(&w, &n->base);
}

bool tree_any_table(const PgQuery__Node *n, tree_visit_table *fn, void *arg)
{
    struct walker w = {.table = fn, .arg = arg};
    return n != NULL && walk_message(&w, &n->base);
}

/* ---- building -------------------------------------------------------------------------------- */

static PgQuery__Node *node_new(struct arena *arena, PgQuery__Node__NodeCase what, void *payload)
{
    PgQuery__Node *n = arena_alloc(arena, sizeof *n);
    if (n == NULL || payload == NULL)
        return NULL;
    pg_query__node__init(n);
    n->node_case = what;
    n->a_const = payload; /* one union of pointers */
    return n;
}

static PgQuery__Node *tree_string(struct arena *arena, const char *s)
{
    PgQuery__String *p = arena_alloc(arena, sizeof *p);
    if (p == NULL)
        return NULL;
    pg_query__string__init(p);
    p->sval = (char *)(uintptr_t)s; /* trees are never written through */
    return node_new(arena, NODE_CASE(STRING), p);
}

PgQuery__Node *tree_column(struct arena *arena, const char *table, const char *column)
{
    PgQuery__ColumnRef *c = arena_alloc(arena, sizeof *c);
    PgQuery__Node **fields = arena_array(arena, 2, sizeof(PgQuery__Node *));
    if (c == NULL || fields == NULL)
        return NULL;
    pg_query__column_ref__init(c);
    fields[0] = tree_string(arena, table);
    fields[1] = tree_string(arena, column);
    if (fields[0] == NULL || fields[1] == NULL)
        return NULL;
    c->n_fields = 2;
    c->fields = fields;
    c->location = -1;
    return node_new(arena, NODE_CASE(COLUMN_REF), c);
}

PgQuery__Node *tree_target(struct arena *arena, PgQuery__Node *val, const char *name)
{
    PgQuery__ResTarget *t = arena_alloc(arena, sizeof *t);
    if (t == NULL || val == NULL)
        return NULL;
    pg_query__res_target__init(t);
    t->val = val;
    t->location = -1;
    if (name != NULL)
        t->name = (char *)(uintptr_t)name;
    return node_new(arena, NODE_CASE(RES_TARGET), t);
}

PgQuery__Node *tree_sort(struct arena *arena, PgQuery__Node *by)
{
    PgQuery__SortBy *s = arena_alloc(arena, sizeof *s);
    if (s == NULL || by == NULL)
        return NULL;
    pg_query__sort_by__init(s);
    s->node = by;
    s->sortby_dir = PG_QUERY__SORT_BY_DIR__SORTBY_DEFAULT;
    s->sortby_nulls = PG_QUERY__SORT_BY_NULLS__SORTBY_NULLS_DEFAULT;
    s->location = -1;
    return node_new(arena, NODE_CASE(SORT_BY), s);
}

PgQuery__Node *tree_range_var(struct arena *arena, PgQuery__RangeVar *rv)
{
    return node_new(arena, NODE_CASE(RANGE_VAR), rv);
}

PgQuery__SelectStmt *tree_select(struct arena *arena)
{
    PgQuery__SelectStmt *s = arena_alloc(arena, sizeof *s);
    if (s == NULL)
        return NULL;
    pg_query__select_stmt__init(s);
    s->op = PG_QUERY__SET_OPERATION__SETOP_NONE;
    s->limit_option = PG_QUERY__LIMIT_OPTION__LIMIT_OPTION_DEFAULT;
    return s;
}

PgQuery__Node **tree_append(struct arena *arena, size_t n, PgQuery__Node *const *list, PgQuery__Node *one)
{
    PgQuery__Node **out = arena_array(arena, n + 1, sizeof(PgQuery__Node *));
    if (out == NULL || one == NULL)
        return NULL;
    if (n > 0)
        memcpy(out, list, n * sizeof(PgQuery__Node *));
    out[n] = one;
    return out;
}
