/* RETURNING: plain columns straight from the affected rows; anything else by a worker over these rows. As a
 * statement that fails changes nothing, such expressions are tried on the rows as far as they are known
 * before the commit. */
#ifndef KALAMDB_ENGINE_RETURNING_H
#define KALAMDB_ENGINE_RETURNING_H

#include "engine/query.h"

/* Gives the i-th affected row, or NULL to leave it out. */
struct returning_rows {
    const struct schema *schema;
    size_t n;
    const struct value *(*row)(const struct kalamdb_query *q, size_t i);
};

/* Plain columns into q->result; false when the statement has none. */
enum err returning_plain(struct kalamdb_query *q, const struct returning_rows *rows) CHECKED;
/* Runs returning.read_sql. With `keep` the answer becomes q->result's, else only its columns. Blocks. */
enum err returning_worker(struct kalamdb_query *q, const struct returning_rows *rows, bool keep) CHECKED;
/* After the commit: either of them. Expressions that fail only now leave the answer without rows, truncated.
 */
enum err returning_committed(struct kalamdb_query *q, const struct returning_rows *rows) CHECKED;

#endif
