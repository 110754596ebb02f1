#include "engine/result.h"
#include "base/json.h"
#include <stdlib.h>

/* The JSON writer hands out pieces of this size, so that a large answer is never in memory twice. */
#define JSON_PIECE_BYTES ((size_t)64 << 10)

struct kalamdb_result *result_new(void)
{
    struct kalamdb_result *r = malloc(sizeof *r);
    if (r == NULL)
        return NULL;
    *r = (struct kalamdb_result){0};
    rowset_init(&r->rows, ENGINE_RESULT_BYTES_MAX);
    return r;
}

bool result_inserted_alloc(struct kalamdb_result *r, size_t n)
{
    r->inserted = n <= 1 ? &r->inserted_one : calloc(n, sizeof *r->inserted);
    if (r->inserted == NULL)
        return false;
    r->ninserted = n;
    return true;
}

void kalamdb_result_free(struct kalamdb_result *r)
{
    if (r == NULL)
        return;
    rowset_release(&r->rows);
    if (r->inserted != &r->inserted_one)
        free(r->inserted);
    free(r);
}

int kalamdb_result_columns(const struct kalamdb_result *r)
{
    return r->has_rows ? r->rows.ncolumns : 0;
}

struct kalamdb_str kalamdb_result_column_name(const struct kalamdb_result *r, int column)
{
    if (column < 0 || column >= kalamdb_result_columns(r))
        return (struct kalamdb_str){"", 0};
    return (struct kalamdb_str){r->rows.names[column].ptr, r->rows.names[column].len};
}

const char *kalamdb_result_column_type(const struct kalamdb_result *r, int column)
{
    if (column < 0 || column >= kalamdb_result_columns(r))
        return "";
    return value_type_name(r->rows.types[column]);
}

size_t kalamdb_result_rows(const struct kalamdb_result *r)
{
    return r->has_rows ? r->rows.nrows : 0;
}

bool kalamdb_result_truncated(const struct kalamdb_result *r)
{
    return r->has_rows && r->rows.truncated;
}

void kalamdb_result_value(const struct kalamdb_result *r, size_t row, int column, struct kalamdb_value *ret)
{
    *ret = (struct kalamdb_value){.type = KALAMDB_NULL};
    if (row >= kalamdb_result_rows(r) || column < 0 || column >= r->rows.ncolumns)
        return;
    struct value v = rowset_row(&r->rows, row)[column];
    ret->type = (enum kalamdb_type)v.type; /* the numbers are the same by definition of both */
    if (value_is_bytes(v.type))
        ret->s = (struct kalamdb_str){v.s.ptr, v.s.len};
    else if (v.type == VALUE_DOUBLE)
        ret->d = v.d;
    else if (v.type != VALUE_NULL)
        ret->i = v.i;
}

bool kalamdb_result_is_write(const struct kalamdb_result *r)
{
    return r->is_write;
}

int64_t kalamdb_result_rows_affected(const struct kalamdb_result *r)
{
    return r->rows_affected;
}

size_t kalamdb_result_inserted(const struct kalamdb_result *r, const int64_t **ret_ids)
{
    if (ret_ids != NULL)
        *ret_ids = r->inserted;
    return r->ninserted;
}

double kalamdb_result_execution_ms(const struct kalamdb_result *r)
{
    return r->execution_ms;
}

/* ---- JSON ---- */

struct sink {
    struct buf b;
    void (*write)(void *arg, const char *ptr, size_t len);
    void *arg;
};

static void sink_flush(struct sink *s, size_t above)
{
    if (s->b.len <= above)
        return;
    s->write(s->arg, s->b.ptr, s->b.len);
    buf_clear(&s->b);
}

static void put_rows(struct sink *s, const struct rowset *rs)
{
    struct buf *b = &s->b;
    int n = rs->ncolumns;
    buf_str(b, STR("{\"columns\":["));
    for (int i = 0; i < n; i++) {
        if (i > 0)
            buf_u8(b, ',');
        json_str(b, rs->names[i]);
    }
    buf_str(b, STR("],\"types\":["));
    for (int i = 0; i < n; i++) {
        if (i > 0)
            buf_u8(b, ',');
        json_str(b, str_c(value_type_name(rs->types[i])));
    }
    buf_str(b, STR("],\"rows\":["));
    for (size_t r = 0; r < rs->nrows; r++) {
        const struct value *row = rowset_row(rs, r);
        buf_str(b, r == 0 ? STR("[") : STR(",["));
        for (int i = 0; i < n; i++) {
            if (i > 0)
                buf_u8(b, ',');
            json_value(b, row[i]);
        }
        buf_u8(b, ']');
        sink_flush(s, JSON_PIECE_BYTES);
    }
    buf_str(b, STR("],\"rowCount\":"));
    buf_i64(b, (int64_t)rs->nrows);
    if (rs->truncated)
        buf_str(b, STR(",\"truncated\":true"));
}

static void put_counts(struct sink *s, const struct kalamdb_result *r)
{
    struct buf *b = &s->b;
    buf_str(b, r->has_rows ? STR(",\"rowsAffected\":") : STR("{\"rowsAffected\":"));
    buf_i64(b, r->rows_affected);
    if (r->ninserted == 0)
        return;
    buf_str(b, STR(",\"insertedId\":"));
    json_i64(b, r->inserted[0]);
    buf_str(b, STR(",\"insertedIds\":["));
    for (size_t i = 0; i < r->ninserted; i++) {
        if (i > 0)
            buf_u8(b, ',');
        json_i64(b, r->inserted[i]);
        sink_flush(s, JSON_PIECE_BYTES);
    }
    buf_u8(b, ']');
}

void kalamdb_result_json(
    const struct kalamdb_result *r, void (*write)(void *arg, const char *ptr, size_t len), void *arg)
{
    struct sink s = {.b = BUF_INIT(0), .write = write, .arg = arg};
    if (r->has_rows)
        put_rows(&s, &r->rows);
    if (r->is_write)
        put_counts(&s, r);
    buf_printf(&s.b, ",\"executionTimeMs\":%.3f}", r->execution_ms);
    sink_flush(&s, 0);
    buf_release(&s.b);
}
