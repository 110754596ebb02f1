/* Are a cell of psql's output and a value of ours the same? Numbers by value, JSON by structure, instants by
 * time. */
#ifndef KALAMDB_TESTS_SQL_CELL_H
#define KALAMDB_TESTS_SQL_CELL_H

#include "base/value.h"

/* How psql is told to print NULL. */
#define NULL_MARK "\x1dN"

/* `column`: the type of the whole column. */
bool cell_same(struct str pg, struct value v, enum value_type column);

#endif
