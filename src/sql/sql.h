/* The gate: one SQL text in PostgreSQL 15's grammar → one `struct stmt` that says what to do, or the
 * contract's error with position, detail and hint. Decides on the parse tree only: kind, tables, columns,
 * functions, authorisation. What it has no case for is refused; its printer is the allow-list. Pure function
 * of its arguments; any thread. Everything in a stmt lives in the arena given to sql_parse. */
#ifndef KALAMDB_SQL_SQL_H
#define KALAMDB_SQL_SQL_H

#include "base/arena.h"
#include "base/err.h"
#include "base/role.h"
#include "base/value.h"
#include "row/schema.h"
#include "store/store.h"

struct caller {
    struct str user_id;
    enum role role;
    int64_t issued_s; /* of the token; 0: none (commit_op.author_issued_s) */
    bool internal;    /* the engine itself: may set every column of messages, one user's copies alone */
};

enum stmt_kind { STMT_SELECT, STMT_INSERT, STMT_UPDATE, STMT_DELETE };

/* Table reference number N: scan_N in read_sql. */
struct stmt_table {
    struct str owner; /* user id, from the SQL's own bytes; the caller's for a bare name */
    const struct schema *schema;
    struct scan_bounds bounds; /* what the WHERE implies about this reference; conservative */
};

enum pred_op { PRED_EQ, PRED_NE, PRED_LT, PRED_LE, PRED_GT, PRED_GE, PRED_IN, PRED_IS_NULL, PRED_NOT_NULL };
struct pred {
    int column;
    enum pred_op op;
    int nvalues;                /* 1 for comparisons, n for IN, 0 for NULL tests */
    const struct value *values; /* already of the column's type, never NULL (col = NULL makes `never` true) */
};

/* A SELECT (or the WHERE of an UPDATE/DELETE) that needs no DuckDB: conjunction of preds over tables[0], one
 * order, a limit. The executor may still choose the analytic path, when cold rows are needed. */
struct fast_plan {
    bool never; /* WHERE can never be true */
    int npreds;
    const struct pred *preds;
    int order_column; /* -1: none asked (rows then come by the table's key, ascending, on either path) */
    bool descending, nulls_first;
    bool tie_descending; /* rows that order_column leaves equal come by the key: ascending, or, with this,
                            descending */
    int64_t limit;       /* -1: none */
    int64_t offset;
    bool count; /* SELECT count(*): one row, one BIGINT column */
    int nout;   /* output columns: schema column numbers and their names */
    const int *out_columns;
    const struct str *out_names;
};

enum cell_kind { CELL_VALUE, CELL_DEFAULT };
struct cell {
    enum cell_kind kind;
    struct value
        value; /* literal or parameter: TEXT for untyped literals, coerced by the executor to the column */
};

struct returning {
    bool present;
    int nout; /* plain columns: filled by the executor itself */
    const int *out_columns;
    const struct str *out_names;
    struct str
        read_sql; /* when set instead: SELECT over scan_0 = the affected rows, in the target's schema */
};

struct assignment {
    int column;
    bool is_default;
    bool is_expr; /* value is column "_set_<k>" of read_sql, k = index of this assignment */
    struct value value;
};

struct stmt {
    enum stmt_kind kind;
    int ntables;
    struct stmt_table *tables; /* SELECT: all references; writes: [0] is the target as read by read_sql, more
                                  from subqueries. INSERT … SELECT: the references of the source. */
    struct str read_sql;    /* DuckDB text. SELECT: the query. INSERT whose source is not all constants: the
                               source, one output column per insert column. UPDATE/DELETE: all columns of the
                               target's schema in schema order (hidden ones too) of the matching rows of
                               scan_0, then _set_0, _set_1 … for the is_expr assignments. */
    struct fast_plan *fast; /* NULL: analytic path only */

    struct str target_owner; /* INSERT, UPDATE, DELETE */
    const struct schema *target;
    bool target_is_append; /* INSERT INTO conversations with message columns or content: an append to
                              messages; target is then schema_messages, as for INSERT INTO messages. Without
                              content: creates the conversation, columns number schema_conversations
                              (conversation_id, conversation_type, title, metadata; `from` is checked by the
                              gate to be an allowed column and is in create_from). */
    struct cell create_from;
    int ncolumns; /* INSERT */
    const int *columns;
    size_t nrows;             /* 0 when read_sql is the source */
    const struct cell *cells; /* nrows * ncolumns */
    int nassignments;         /* UPDATE */
    const struct assignment *assignments;
    struct returning returning;
    bool
        reads_spilled_content; /* UPDATE … SET content = expression over content (see contract; next issue) */
};

struct sql_limits {
    size_t sql_bytes_max;
    int64_t now_us; /* now(), CURRENT_TIMESTAMP … */
};

/* `params`: $1 … as values (TEXT, BIGINT, DOUBLE, BOOL, JSON, NULL). Errors as in contract section 2:
 * SYNTAX_ERROR, UNDEFINED_*, TYPE_MISMATCH, UNSUPPORTED, FORBIDDEN, INVALID_REQUEST (params do not match),
 * TOO_LARGE. */
enum err sql_parse(struct arena *arena, struct str sql, const struct value *params, int nparams,
    const struct caller *caller, const struct sql_limits *limits, struct stmt **ret,
    struct errctx *ec) CHECKED;

/* A worker's error names DuckDB's view of things: adds the position of the column or function it complains
 * about, and PostgreSQL's wording and code where known. */
void sql_explain_error(struct str sql, struct errctx *ec);

/* SQL that a worker runs once, before its first statement: our macros (PostgreSQL's functions by their
 * names). */
extern const char *const sql_worker_macros;

/* The functions users may call, for the docs and tests: name and "(args) -> type" text; ends with NULL name.
 */
struct sql_function {
    const char *name, *signature;
};
extern const struct sql_function sql_functions[];

#endif
