/* INSERT: cells or a source query → rows of the columns' types → chat's rules → one commit → RETURNING. */
#ifndef KALAMDB_ENGINE_INSERT_H
#define KALAMDB_ENGINE_INSERT_H

#include "engine/query.h"

void insert_start(struct kalamdb_query *q);
/* One conversation and its first members, in one commit; the answer is the conversation's row. Values are of
 * their columns' types. The query has no statement yet. */
void insert_conversation(struct kalamdb_query *q, struct str owner, struct value (*row)[CONV_NCOLUMNS],
    size_t nmembers, struct value (*members)[MEMBER_NCOLUMNS]);
void insert_release(struct kalamdb_query *q);

#endif
