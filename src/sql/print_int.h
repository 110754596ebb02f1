/* Shared by the printer's files only. The printer resolves every name itself, as PostgreSQL does, and gives
 * each relation, query output and CTE a generated name (a number, then the user's name for readable errors):
 * the printed text holds no name that a statement chose except inside quotes behind such a number, and its
 * last column aliases.
 *
 * Errors are sticky: the first one stays in pr->err, later calls do nothing. Expressions go to pr->b; each
 * returns what is known of its type, which decides how the next operator around it is printed. T_ANY means
 * "cannot tell": then DuckDB's own rules apply. */
#ifndef KALAMDB_SQL_PRINT_INT_H
#define KALAMDB_SQL_PRINT_INT_H

#include "sql/print.h"

enum sql_type {
    T_ANY,     /* unknown */
    T_NULL,    /* the constant NULL */
    T_LITERAL, /* a quoted constant without a type yet */
    T_BOOL,
    T_INT,
    T_BIGINT,
    T_NUMERIC, /* DECIMAL, HUGEINT or, where PostgreSQL's numeric has no fixed scale, DOUBLE */
    T_DOUBLE,
    T_TEXT,
    T_JSON,
    T_TIMESTAMPTZ,
    T_TIMESTAMP,
    T_DATE,
    T_TIME,
    T_INTERVAL,
    T_UUID,
    T_BLOB,
    T_RECORD,
    T_NTYPES,
    T_ARRAY = 0x40 /* | element type */
};
#define ELEMENT_OF(t) ((t) & (T_ARRAY - 1))
#define IS_ARRAY(t) (((t)&T_ARRAY) != 0)

/* One printed expression: bytes from `at` to where the next one begins. */
struct ex {
    int type;
    size_t at;
    bool constant; /* a literal or parameter: `text` is its plain text, and it takes the type its context asks
                      for */
    bool parameter;
    struct str text;
    int location;
};

struct column_name {
    struct str name; /* as the user wrote it, folded */
    struct str text; /* SQL that denotes it */
    int type;
    bool hidden; /* not in `*` */
};
struct names {
    int n, cap;
    struct column_name *v;
};
struct relation {
    struct str name;
    const PgQuery__RangeVar *rv; /* of a base table, else NULL */
    const struct schema *schema; /* of a base table */
    struct names columns;
    bool key_grouped; /* its primary key is in GROUP BY: every column may be used */
    bool scalar;      /* a function's single column: its row is that value */
};
/* One SELECT level. */
struct scope {
    struct scope *outer;
    int nrelations, cap_relations,
        first_relation; /* lookups start at first_relation (a join's ON sees its sides only) */
    struct relation *relations;
    struct names names; /* what unqualified names mean, in the order of `*` */
    const PgQuery__SelectStmt *select;
    struct names outputs; /* of this level, once printed: text is the expression */
    bool has_aggregate, has_set_function, has_window, in_aggregate;
};
struct cte {
    struct cte *next;
    struct str name, text;
    struct names columns;
    const PgQuery__CommonTableExpr *node;
    const PgQuery__SelectStmt *body; /* set while the query of a recursive one is printed */
};
/* Where a query stands: decides its output names and whether its rows need an order. */
enum place { PLACE_INSIDE, PLACE_TOP, PLACE_TOP_ARM };

struct pr {
    const struct printer *api;
    struct arena *a;
    struct buf *b;
    struct errctx *ec;
    enum err err;
    struct scope *scope;
    struct cte *ctes;
    int depth, next;
    size_t weight; /* expression nodes so far, repetition by templates and macros included */
};

#define DEPTH_MAX 240
#define WEIGHT_MAX 2000000
#define RELATIONS_MAX 128

/* print.c */
enum err pr_fail(struct pr *p, enum err code, int location, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
enum err pr_unsupported(struct pr *p, int location, const char *what);
static inline bool pr_failed(const struct pr *p)
{
    return p->err != ERR_OK;
}
/* NULL with the error set when out of memory. */
void *pr_alloc(struct pr *p, size_t n, size_t size);
struct str pr_format(struct pr *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Text of the buffer from `at` on, copied into the arena and taken off the buffer. */
struct str pr_cut(struct pr *p, size_t at);
void pr_insert(struct pr *p, size_t at, struct str s);
void pr_replace(struct pr *p, size_t from, size_t to, struct str s);
static inline void pr_put(struct pr *p, const char *s)
{
    buf_append(p->b, s, strlen(s));
}
bool pr_enter(struct pr *p, int location);
void pr_leave(struct pr *p);
/* What was printed since `before` (pr->weight then) will stand `copies` times in DuckDB's plan. Bounds the
 * growth of f(f(f(…))) where f repeats its argument. */
void pr_repeat(struct pr *p, size_t before, unsigned copies);
bool names_add(struct pr *p, struct names *n, struct column_name c);
/* 'text' with quotes doubled. */
void pr_quoted(struct buf *b, struct str s);
struct str pr_quote(struct pr *p, struct str s);
/* Puts text around the expression, which ends where the buffer does. */
void pr_wrap(struct pr *p, size_t at, const char *before, const char *after);
int node_location(const PgQuery__Node *n);
/* Sval of a String node, else STR_NULL. */
struct str node_string(const PgQuery__Node *n);

/* print_names.c */
struct str figure_name(const PgQuery__Node *n);

/* print_select.c */
/* `AS` of an output: the user's name at the top, else a generated one in front of it. */
struct str pr_output_alias(struct pr *p, struct str name, bool top);
void pr_query(struct pr *p, const PgQuery__SelectStmt *s, struct names *ret, enum place place);
void cte_names(struct pr *p, const PgQuery__CommonTableExpr *c, struct names *columns);
void pr_query_node(struct pr *p, const PgQuery__Node *n, struct names *ret);
/* `names`: what the order must begin with; NULL: no DISTINCT. */
struct distinct {
    const struct names *names;
    bool on;
};
void pr_order_by(struct pr *p, size_t n, PgQuery__Node **items, const struct names *outputs,
    const struct distinct *distinct, bool only_outputs);

/* print_order.c */
/* ORDER BY 2, or by an output's name: its number. 0: neither. */
int pr_output_number(struct pr *p, const PgQuery__Node *n, const struct names *outputs, const char *clause);
void pr_group_by(struct pr *p, const PgQuery__SelectStmt *s, const struct names *sources);

/* print_from.c */
void pr_from(struct pr *p, size_t n, PgQuery__Node **items);
struct ex pr_column(struct pr *p, const PgQuery__ColumnRef *c);
/* Expands `*` or `t.*` into columns. */
void pr_star(struct pr *p, const PgQuery__ColumnRef *c, struct names *ret);
bool node_is_star(const PgQuery__Node *n);

/* print_expr.c */
struct ex pr_expr(struct pr *p, const PgQuery__Node *n);
/* Printed, then made `type` where it is a constant. */
struct ex pr_expr_as(struct pr *p, const PgQuery__Node *n, int type);
void pr_list(struct pr *p, size_t n, PgQuery__Node **items);
void pr_window(struct pr *p, const PgQuery__WindowDef *w, int location);
struct ex pr_done(struct pr *p, size_t at, int type, int location);

/* print_ops.c */
struct ex pr_operator(struct pr *p, const PgQuery__AExpr *e);
struct ex pr_sublink(struct pr *p, const PgQuery__SubLink *s);
/* Gives two printed operands one type: constants take the other's. `*l` ends where `*r` begins. */
void pr_unify(struct pr *p, struct ex *l, struct ex *r);

/* "operator does not exist"; `l` NULL: a prefix operator. */
struct ex op_undefined(struct pr *p, const char *op, const struct ex *l, const struct ex *r, int location);
/* Constants on both sides become text. */
void op_texts(struct pr *p, struct ex *l, struct ex *r);
/* (l op r), f l, r) of two printed operands. */
struct ex op_join(
    struct pr *p, const struct ex *l, const struct ex *r, const char *op, int type, int location);
struct ex op_call(
    struct pr *p, const struct ex *l, const struct ex *r, const char *f, int type, int location);

/* print_pattern.c */
bool pr_textual(const struct ex *e);
bool pr_like_operator(struct str op, const char **ret);
/* `escape`: ptr NULL for the backslash, empty for none. */
struct ex pr_like(
    struct pr *p, const char *word, struct str op, struct ex l, struct ex r, struct str escape, int location);
struct ex pr_like_expr(struct pr *p, const PgQuery__AExpr *e, struct str op);
struct ex pr_regexp(struct pr *p, const char *op, struct ex l, struct ex r, int location);
struct ex pr_similar(struct pr *p, const PgQuery__AExpr *e, bool negated);

/* print_json.c */
bool pr_json_operator(
    struct pr *p, const char *op, struct ex l, struct ex r, int location, size_t before, struct ex *ret);
struct str json_pointer_of_array(struct pr *p, struct str literal, int location);
/* Elements of a PostgreSQL array literal '{a,"b c",NULL}'; a NULL element has ptr NULL. False: malformed. */
bool array_literal(struct pr *p, struct str s, struct str **ret, size_t *ret_n);

/* print_types.c */
const char *type_name(int type);   /* PostgreSQL's, for messages */
const char *type_duckdb(int type); /* for CAST */
int type_of_value(enum value_type t);
int type_common(int a, int b);
bool type_is_number(int t);
bool type_is_time(int t);
bool type_comparable(int a, int b);
struct ex pr_cast(struct pr *p, const PgQuery__TypeCast *c);
/* A constant takes the type; anything else stays. Checks the text as PostgreSQL's input functions do. */
void pr_coerce(struct pr *p, struct ex *e, size_t end, int type);
/* ::text of whatever it is, which ends where the buffer does. */
void pr_to_text(struct pr *p, struct ex *e);
/* What to put around it for that; false: nothing. */
bool type_text_wrapper(int type, const char **ret_before, const char **ret_after);

/* print_time.c */
bool interval_parse(struct str s, int64_t *ret_months, int64_t *ret_days, int64_t *ret_us);
/* to_char's pattern as strftime's (or strptime's). False: a pattern without counterpart. */
bool time_pattern(struct str s, struct buf *ret, bool parse);
struct ex pr_extract(struct pr *p, struct str field, struct ex arg, int location, bool as_double);

/* functions.c, functions_call.c */
enum fn_flags {
    FN_AGGREGATE = 1,
    FN_WINDOW = 2, /* only with OVER */
    FN_SET = 4,    /* returns rows */
    FN_ORDERED = 8 /* WITHIN GROUP */
};
struct fn_call;
struct fn {
    const char *name;
    const char *args; /* one letter per argument, see functions.c; ends in * when the last one repeats */
    int type;         /* or one of the TYPE_ below */
    unsigned flags;
    const char *text; /* template; NULL: name(arguments) */
    void (*special)(struct pr *p, struct fn_call *c);
};
#define TYPE_ARG1 (-1)
#define TYPE_ARG2 (-2)
#define TYPE_ARRAY1 (-3)
#define TYPE_ELEMENT1 (-4)
#define TYPE_SUM1 (-5)
#define TYPE_COMMON (-6)
#define TYPE_AVG1 (-7)
#define TYPE_ARG3 (-8)
extern const struct fn fn_table[];

#define FN_ARGS_MAX 100 /* as PostgreSQL */
struct fn_call {
    const struct fn *fn;
    const PgQuery__FuncCall *node;
    struct str name; /* as called */
    int nargs;
    struct ex *args; /* at: unused */
    struct str *texts;
    struct str distinct, order, filter, over;
    int location, type;
};
struct ex pr_function(struct pr *p, const PgQuery__FuncCall *f);
void fn_print(struct pr *p, struct fn_call *c, const char *text);
void fn_undefined(struct pr *p, const struct fn_call *c);
/* Argument i put at the buffer's end, for wrappers. */
struct ex *fn_arg(struct pr *p, struct fn_call *c, int i);
/* …and taken back into texts[i]. */
void fn_arg_done(struct pr *p, struct fn_call *c, int i);
/* Set-returning function in FROM: prints a query with ncolumns outputs named as in ret. */
void pr_function_rows(struct pr *p, const PgQuery__FuncCall *f, bool ordinality, struct names *ret);

/* functions_special.c */
void fn_round(struct pr *p, struct fn_call *c);
void fn_date_part(struct pr *p, struct fn_call *c);
void fn_date_trunc(struct pr *p, struct fn_call *c);
void fn_to_char(struct pr *p, struct fn_call *c);
void fn_to_time(struct pr *p, struct fn_call *c);
void fn_now(struct pr *p, struct fn_call *c);
void fn_age(struct pr *p, struct fn_call *c);
void fn_regexp(struct pr *p, struct fn_call *c);
void fn_format(struct pr *p, struct fn_call *c);
void fn_json_build(struct pr *p, struct fn_call *c);
void fn_json_path(struct pr *p, struct fn_call *c);
void fn_string_agg(struct pr *p, struct fn_call *c);
void fn_json_agg(struct pr *p, struct fn_call *c);
void fn_json_set(struct pr *p, struct fn_call *c);
void fn_text(struct pr *p, struct fn_call *c);
void fn_timezone(struct pr *p, struct fn_call *c);

#endif
