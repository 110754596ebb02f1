/* Assignment of a value to a column: what a literal, a parameter or an expression's result becomes there,
 * with PostgreSQL's assignment casts and texts. Untyped literals and parameters come as TEXT and are read as
 * the column's type. Pure functions, any thread; new bytes come from the arena. */
#ifndef KALAMDB_ENGINE_COERCE_H
#define KALAMDB_ENGINE_COERCE_H

#include "base/arena.h"
#include "base/err.h"
#include "row/schema.h"

/* INVALID_VALUE ("invalid input syntax for type bigint: \"x\"" …), TYPE_MISMATCH, INVALID_REQUEST (NUL in a
 * text). */
enum err coerce_value(struct arena *arena, const struct column *column, struct value in, struct value *ret,
    struct errctx *ec) CHECKED;

#endif
