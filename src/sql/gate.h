/* Shared by the gate's files only. A `struct gate` is one call of sql_parse: what came in, the text as it was
 * parsed, and the statement under construction. Positions that go into errctx are bytes of `text` + 1 until
 * sql_parse maps them back to the client's. */
#ifndef KALAMDB_SQL_GATE_H
#define KALAMDB_SQL_GATE_H

#include "sql/print.h"
#include "sql/sql.h"
#include "sql/tokens.h"
#include "sql/tree.h"

struct scan_hint { /* bounds of a table reference, known before it is printed */
    const PgQuery__RangeVar *rv;
    struct scan_bounds bounds;
};

struct gate {
    struct arena *arena; /* the statement's */
    struct arena *tmp;   /* tokens and tree: gone when sql_parse returns */
    struct str sql;      /* the client's text */
    struct str text;     /* as parsed: bare `from` quoted */
    struct from_map map;
    struct tokens tokens; /* of `sql` */
    size_t nlong; /* identifiers over 63 bytes that may be schema names: where they start in `sql` … */
    int *long_starts;
    bool *long_used; /* … and whether they turned out to be */
    const struct value *params;
    int nparams;
    const struct caller *caller;
    const struct sql_limits *limits;
    struct errctx *ec;
    struct stmt *stmt;
    size_t nhints, cap_hints;
    struct scan_hint *hints;
    int cap_tables;
    const PgQuery__RangeVar
        *target;       /* of an UPDATE or DELETE: the reference that is tables[0]; in RETURNING: scan_0 */
    bool in_returning; /* only the target may be read */
    bool placed;       /* ec->position is of the client's text already */
};

/* Error at a tree location (-1: none). */
enum err gate_fail(struct gate *g, enum err code, int location, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* Places the error at a byte of the client's text. */
void gate_at(struct gate *g, int start);
/* The error of an arena that gave out. */
enum err gate_memory(struct gate *g);

/* gate_table.c */
/* Who owns the table that rv names, and what it is; FORBIDDEN, UNDEFINED_TABLE, UNSUPPORTED. */
enum err gate_table(struct gate *g, const PgQuery__RangeVar *rv, struct str *ret_owner,
    const struct schema **ret_schema) CHECKED;
/* Looks at every schema name of the statement, wherever it stands, before anything else is done with it. */
enum err gate_authorise(struct gate *g, const PgQuery__Node *statement) CHECKED;
/* Size, depth and long identifiers: what must be known before the parser runs. */
enum err gate_check_tokens(struct gate *g) CHECKED;
/* $n against the parameters given. */
enum err gate_check_params(struct gate *g) CHECKED;
/* After the tree was used: a long identifier that was no schema name is a syntax error; else `outcome`. */
enum err gate_check_long(struct gate *g, enum err outcome) CHECKED;
/* Prints a query into *ret_sql and collects its table references in stmt->tables. *ret_noutputs may be NULL.
 */
enum err gate_print(
    struct gate *g, const PgQuery__SelectStmt *select, struct str *ret_sql, int *ret_noutputs) CHECKED;

/* gate_select.c */
enum err gate_select(struct gate *g, const PgQuery__SelectStmt *select) CHECKED;
/* The query, with its rows in an order that does not depend on where they are stored. NULL: out of memory. */
const PgQuery__SelectStmt *gate_ordered(struct gate *g, const PgQuery__SelectStmt *select);

/* gate_insert.c, gate_change.c */
enum err gate_insert(struct gate *g, const PgQuery__InsertStmt *s) CHECKED;
enum err gate_update(struct gate *g, const PgQuery__UpdateStmt *s) CHECKED;
enum err gate_delete(struct gate *g, const PgQuery__DeleteStmt *s) CHECKED;
/* PostgreSQL does not write to a name that its WITH defines. */
enum err gate_target_not_cte(
    struct gate *g, const PgQuery__RangeVar *rv, const PgQuery__WithClause *with) CHECKED;
/* RETURNING of any write; `shape` is the table whose rows are returned. */
enum err gate_returning(struct gate *g, size_t n, PgQuery__Node **items, PgQuery__RangeVar *target,
    const struct schema *shape) CHECKED;

/* constant.c */
struct constant {
    struct value value;
    bool untyped; /* quoted literal or text parameter: takes the type that its place asks for */
};
enum constness { NOT_CONSTANT, CONSTANT, CONSTANT_ERROR };
/* Is the expression a constant that needs no DuckDB? Errors (a cast that cannot be, a parameter that is not
 * there) are in g->ec. Strings are copied into the statement's arena. */
enum constness gate_constant(struct gate *g, const PgQuery__Node *n, struct constant *ret);
/* The same for a value that is assigned to a column: numbers and booleans become text where the column is
 * TEXT. */
enum constness gate_constant_for(
    struct gate *g, const PgQuery__Node *n, enum value_type column, struct constant *ret);
/* The same for a place where an error means only "not here": leaves g->ec alone. */
bool gate_constant_quiet(struct gate *g, const PgQuery__Node *n, struct constant *ret);
/* The constant as a comparison with a column of this type sees it. False: PostgreSQL would compare in another
 * type, or refuse; NULL stays NULL. */
bool gate_coerce(const struct constant *c, enum value_type column, struct value *ret);

/* fast.c */
/* One table that unqualified names mean, or that is meant by its alias only. */
struct fast_table {
    const PgQuery__RangeVar *rv;
    const struct schema *schema;
    struct str alias;
    bool sole;
};
/* Schema column that the expression names; -1: none, or not surely of this table. */
int fast_column(struct gate *g, const struct fast_table *t, const PgQuery__Node *n);
struct fast_preds {
    int n, cap;
    struct pred *v;
    bool never;
    bool complete; /* the predicates say all that the condition says */
};
/* Adds what the conjunction `where` says about t. False: out of memory. */
bool fast_where(
    struct gate *g, const struct fast_table *t, const PgQuery__Node *where, struct fast_preds *preds);
/* The one base table of `SELECT … FROM table`, when the query has no CTEs, set operation, grouping, DISTINCT
 * or window, and the table is known. */
bool fast_single_table(const PgQuery__SelectStmt *s, struct fast_table *ret);
/* NULL in *ret: none fits. */
enum err fast_plan_select(struct gate *g, const PgQuery__SelectStmt *s, struct fast_plan **ret) CHECKED;
enum err fast_plan_where(struct gate *g, const PgQuery__RangeVar *rv, const struct schema *schema,
    const PgQuery__Node *where, struct fast_plan **ret) CHECKED;

/* bounds.c */
/* What a SELECT's WHERE says about each table of its FROM; noted in g->hints. */
void bounds_enter(struct gate *g, const PgQuery__SelectStmt *s);
/* SCAN_BOUNDS_OPEN where nothing was noted. */
struct scan_bounds bounds_of(const struct gate *g, const PgQuery__RangeVar *rv);

#endif
