/* INSERT: cells or a source query → rows of the columns' types → chat's rules → one commit → RETURNING. */
#ifndef KALAMDB_ENGINE_INSERT_H
#define KALAMDB_ENGINE_INSERT_H

#include "engine/query.h"

void insert_start(struct kalamdb_query *q);
void insert_release(struct kalamdb_query *q);

#endif
