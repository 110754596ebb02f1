/* Statement cache by shape. Applications send the same INSERT with other values all day; parsing it is a
 * third of what it costs. Two texts have one shape when they differ only in the contents of plain literals
 * and parameters. The first of a shape is parsed by the gate; where every value of its VALUES turns out to be
 * one literal, parameter, NULL, true or false of the text, in order, and nothing else depends on them, the
 * shape is remembered and later texts only have their values put in.
 *
 * Only statements on the caller's own tables by bare name are remembered: a text with a dot outside of
 * literals is always parsed, so no shape can carry one caller's authorisation to another. Thread-safe. Owns
 * copies of everything it remembers; bounded in entries and bytes. */
#ifndef KALAMDB_SQL_SHAPE_H
#define KALAMDB_SQL_SHAPE_H

#include "sql/sql.h"

struct sql_shapes;

/* NULL when memory ran out. */
struct sql_shapes *sql_shapes_new(void);
void sql_shapes_free(struct sql_shapes *s);

/* sql_parse() through the cache: same arguments, same results. */
enum err sql_shapes_parse(struct sql_shapes *s, struct arena *arena, struct str sql,
    const struct value *params, int nparams, const struct caller *caller, const struct sql_limits *limits,
    struct stmt **ret, struct errctx *ec) CHECKED;

struct sql_shapes_stats {
    uint64_t hits, misses;
};
void sql_shapes_stats(struct sql_shapes *s, struct sql_shapes_stats *ret);

#endif
