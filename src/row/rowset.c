#include "row/rowset.h"
#include <stdlib.h>

void rowset_init(struct rowset *rs, size_t max_bytes)
{
    *rs = (struct rowset){0};
    arena_init(&rs->arena, max_bytes);
}

void rowset_release(struct rowset *rs)
{
    arena_release(&rs->arena);
    free(rs->values);
    *rs = (struct rowset){0};
}

enum err rowset_set_columns(struct rowset *rs, int n, const struct str *names, const enum value_type *types)
{
    rs->names = arena_array(&rs->arena, (size_t)n, sizeof *names);
    rs->types = arena_array(&rs->arena, (size_t)n, sizeof *types);
    if (rs->names == NULL || rs->types == NULL)
        return ERR_NO_MEMORY;
    for (int i = 0; i < n; i++) {
        rs->names[i] = arena_str(&rs->arena, names[i]);
        rs->types[i] = types[i];
        if (rs->names[i].ptr == NULL)
            return ERR_NO_MEMORY;
    }
    rs->ncolumns = n;
    return ERR_OK;
}

enum err rowset_add_borrowed(struct rowset *rs, const struct value *row)
{
    size_t n = (size_t)rs->ncolumns;
    if (rs->nrows == rs->cap_rows) {
        size_t cap = rs->cap_rows == 0 ? 16 : rs->cap_rows * 2, bytes;
        if (__builtin_mul_overflow(cap, n == 0 ? sizeof *row : n * sizeof *row, &bytes))
            return ERR_NO_MEMORY;
        if (bytes > rs->arena.max_bytes)
            return ERR_TOO_LARGE;
        struct value *p = realloc(rs->values, bytes);
        if (p == NULL)
            return ERR_NO_MEMORY;
        rs->values = p;
        rs->cap_rows = cap;
    }
    if (n > 0)
        memcpy(rs->values + rs->nrows * n, row, n * sizeof *row);
    rs->nrows++;
    return ERR_OK;
}

enum err rowset_add(struct rowset *rs, const struct value *row)
{
    enum err e = rowset_add_borrowed(rs, row);
    if (e != ERR_OK)
        return e;
    struct value *copy = rs->values + (rs->nrows - 1) * (size_t)rs->ncolumns;
    for (int i = 0; i < rs->ncolumns; i++) {
        if (!value_is_bytes(copy[i].type))
            continue;
        copy[i].s = arena_str(&rs->arena, copy[i].s);
        if (copy[i].s.ptr == NULL) {
            rs->nrows--;
            return rs->arena.used_bytes + row[i].s.len >= rs->arena.max_bytes ? ERR_TOO_LARGE : ERR_NO_MEMORY;
        }
    }
    return ERR_OK;
}
