/* A materialised result: named, typed columns and rows of values. Owns its bytes (one arena). One thread at a
 * time. */
#ifndef KALAMDB_ROW_ROWSET_H
#define KALAMDB_ROW_ROWSET_H

#include "base/arena.h"
#include "base/err.h"
#include "base/value.h"

struct rowset {
    struct arena arena;
    int ncolumns;
    struct str *names;
    enum value_type *types;
    size_t nrows, cap_rows;
    struct value *values; /* nrows * ncolumns, row-major; heap, grown by doubling */
    bool truncated;       /* max_result_rows reached */
};

void rowset_init(struct rowset *rs, size_t max_bytes);
void rowset_release(struct rowset *rs);
/* Copies the names. */
enum err rowset_set_columns(
    struct rowset *rs, int n, const struct str *names, const enum value_type *types) CHECKED;
/* Appends a row, copying bytes into the arena. ERR_TOO_LARGE at the cap, ERR_NO_MEMORY. */
enum err rowset_add(struct rowset *rs, const struct value *row) CHECKED;
/* Same, but values keep borrowing (their bytes must outlive the rowset, e.g. already in rs->arena). */
enum err rowset_add_borrowed(struct rowset *rs, const struct value *row) CHECKED;
static inline const struct value *rowset_row(const struct rowset *rs, size_t i)
{
    return rs->values + i * (size_t)rs->ncolumns;
}

#endif
