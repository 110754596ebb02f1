/* Reads in C, straight on the hot tier: what chat applications do all day. Decides from the tiers' floors
 * whether the hot rows alone are the whole answer; where they are not, the caller asks a worker instead.
 *
 * Rows come in the order the plan asks for; without one by the table's key, ascending; ties of an order by
 * the key. */
#ifndef KALAMDB_ENGINE_FAST_H
#define KALAMDB_ENGINE_FAST_H

#include "sql/sql.h"
#include "store/store.h"

enum fast_verdict {
    FAST_DONE, /* the answer is complete */
    FAST_COLD, /* it needs rows of files; what the sink got is void */
    FAST_LONG  /* more than visited_max rows, or bytes_max bytes, to look at; void too */
};

struct fast_sink {
    /* One row of the answer; values by column of the schema, valid until return. `envelope` holds their
     * bytes, or is STR_NULL when they live as long as the snapshot. */
    enum err (*row)(void *arg, struct str envelope, const struct row_meta *meta, const struct value *values,
        struct errctx *ec);
    void *arg;
};

struct fast_limits {
    size_t visited_max, bytes_max;
    size_t rows_max; /* of the answer, beside the plan's own limit; 0: none */
    /* Asked every so often: an error ends the read. May be NULL. */
    enum err (*alive)(void *arg);
    void *alive_arg;
};

enum err fast_run(struct snapshot *snap, const struct schema *schema, const struct fast_plan *plan,
    const struct fast_limits *limits, const struct fast_sink *sink, enum fast_verdict *ret,
    struct errctx *ec) CHECKED;
/* The number of rows that fast_run without limit and offset would give; from the counters where these know
 * it. */
enum err fast_count(struct snapshot *snap, const struct schema *schema, const struct fast_plan *plan,
    const struct fast_limits *limits, int64_t *ret_count, enum fast_verdict *ret, struct errctx *ec) CHECKED;
/* Does the row meet all conditions? */
bool fast_match(const struct fast_plan *plan, const struct value *values);

#endif
