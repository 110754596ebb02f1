/* One statement's answer: a rowset, or counts, or both. Made by the engine, immutable once handed out, freed
 * by its receiver. One thread at a time. */
#ifndef KALAMDB_ENGINE_RESULT_H
#define KALAMDB_ENGINE_RESULT_H

#include "engine/engine.h"
#include "row/rowset.h"

struct kalamdb_result {
    bool has_rows; /* SELECT, or RETURNING */
    struct rowset rows;
    bool is_write;
    int64_t rows_affected;
    size_t ninserted;
    int64_t *inserted;
    int64_t inserted_one; /* what `inserted` points to when there is one */
    double execution_ms;
};

/* NULL: out of memory. */
struct kalamdb_result *result_new(void);
/* Room for n ids; false: out of memory. */
bool result_inserted_alloc(struct kalamdb_result *r, size_t n);

#endif
