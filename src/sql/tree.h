/* Reading and building parse trees (protobuf-c structs of pg_query). Trees live in the arena given and are
 * never freed one by one. Pure functions. */
#ifndef KALAMDB_SQL_TREE_H
#define KALAMDB_SQL_TREE_H

#include "base/arena.h"
#include "base/str.h"
#include <pg_query/pg_query.pb-c.h>

#define NODE_CASE(name) PG_QUERY__NODE__NODE_##name

/* NULL when memory ran out (arena_failed) or the bytes are none. */
PgQuery__ParseResult *tree_unpack(struct arena *arena, struct str packed);

static inline bool tree_is(const PgQuery__Node *n, PgQuery__Node__NodeCase what)
{
    return n != NULL && n->node_case == what;
}
/* Text of a String node; ptr NULL for anything else. */
struct str tree_text(const PgQuery__Node *n);
/* Byte offset where the expression starts as PostgreSQL reports it; -1 where the tree does not say. */
int tree_location(const PgQuery__Node *n);

/* A column reference in parts. `schema` and `table` have ptr NULL when not written. */
struct column_path {
    struct str schema, table, column;
    int location;
};
/* False for anything else, `*` included. */
bool tree_column_path(const PgQuery__Node *n, struct column_path *ret);
/* `*` or `t.*` (table.ptr NULL for the former). */
bool tree_star_path(const PgQuery__Node *n, struct column_path *ret);
/* Does the list of names say `name`, bare or after pg_catalog? */
bool tree_names_are(size_t n, PgQuery__Node *const *names, const char *name);

/* Calls fn for `n` and the nodes below it, as long as it says WALK_ON; true as soon as it says WALK_FOUND. */
enum walk { WALK_ON, WALK_SKIP /* not what is below this one */, WALK_FOUND };
typedef enum walk tree_visit(const PgQuery__Node *n, void *arg);
bool tree_any(const PgQuery__Node *n, tree_visit *fn, void *arg);
/* The same for every table reference at or below a node, also where it is no node of its own (targets of
 * writes). */
typedef enum walk tree_visit_table(const PgQuery__RangeVar *rv, void *arg);
bool tree_any_table(const PgQuery__Node *n, tree_visit_table *fn, void *arg);

/* Builders; NULL when memory ran out. */
PgQuery__Node *tree_column(struct arena *arena, const char *table, const char *column);
PgQuery__Node *tree_target(struct arena *arena, PgQuery__Node *val, const char *name);
PgQuery__Node *tree_sort(struct arena *arena, PgQuery__Node *by);
PgQuery__Node *tree_range_var(struct arena *arena, PgQuery__RangeVar *rv);
PgQuery__SelectStmt *tree_select(struct arena *arena);
/* `list` with one more; the list is copied. */
PgQuery__Node **tree_append(struct arena *arena, size_t n, PgQuery__Node *const *list, PgQuery__Node *one);

#endif
