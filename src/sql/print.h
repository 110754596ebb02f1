/* The printer: a PostgreSQL 15 parse tree → DuckDB SQL, every subexpression in parentheses. It is the
 * allow-list: a node, operator, type or function without a case is refused, with a position. It knows queries
 * only; what a table name means, and whether its caller may read it, is asked of the gate by callback.
 *
 * One printer prints one statement (print_select may be called several times; scans keep counting). One
 * thread. Positions put into errctx are 1-based bytes of the text that was parsed (tree location + 1); the
 * gate maps them to the client's text. Trees are borrowed and never changed. */
#ifndef KALAMDB_SQL_PRINT_H
#define KALAMDB_SQL_PRINT_H

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/value.h"
#include "row/schema.h"
#include <pg_query/pg_query.pb-c.h>

/* What the gate says about one table reference. */
struct print_table {
    int number; /* printed as scan_<number>, a relation with all columns of schema, hidden ones included */
    const struct schema *schema;
};

struct printer {
    struct arena *arena; /* scratch that lives as long as the tree */
    struct buf *out;
    struct errctx *ec;
    const struct value *params; /* $1 …: printed as typed literals; a number outside is INVALID_REQUEST */
    int nparams;
    int64_t now_us; /* now(), current_timestamp …: printed as this instant */

    /* Called when a SELECT is entered, before anything in its FROM is printed (also subqueries, CTEs, each
     * arm of a set operation): the gate derives scan bounds from its WHERE. May be NULL. */
    void (*enter)(void *ctx, const PgQuery__SelectStmt *select);
    /* Called for each table reference that no CTE name shadows (a schema-qualified name is never shadowed).
     * Checks owner, table and authorisation, and numbers it; fills ec on refusal. The printer gives the
     * relation its alias, or its own table name. Never called twice for one printing of a reference. */
    enum err (*table)(void *ctx, const PgQuery__RangeVar *rv, struct print_table *ret);
    /* Is `schema`.`table` of a column reference (schema.table.column, at tree location `location`) the table
     * that `rv` names? Only the gate can tell: the parser cuts long schema names. */
    bool (*same_table)(void *ctx, const PgQuery__ColumnRef *column, const PgQuery__RangeVar *rv);
    void *ctx;
    struct str user_id; /* current_user and its kin */
    /* Not NULL: the query's list is that of UPDATE or RETURNING (the word is for errors), one row for each
     * row. */
    const char *row_by_row;
    int noutputs; /* out: columns of the last query printed */
};

/* Prints one query (SELECT, VALUES, set operation, WITH included), without a semicolon. `*` and `t.*` leave
 * hidden columns of base tables out. DML inside WITH, SELECT INTO, FOR UPDATE and an empty select list are
 * refused. The gate also uses this for the WHERE of UPDATE and DELETE and for RETURNING, by building a
 * SelectStmt around them. */
enum err print_select(struct printer *p, const PgQuery__SelectStmt *select) CHECKED;

/* Identifier in double quotes, doubled inside; literal of a value, typed so that DuckDB sees the type that
 * PostgreSQL would (shared by gate and printer). */
void print_ident(struct buf *b, struct str name);
void print_literal(struct buf *b, struct value v);

#endif
