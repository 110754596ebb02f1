/* A request's inputs as relations. The name scan_i in its statement means, for input i,
 *
 *   rows only     kalamdb_rows(i)
 *   files only    read_parquet([…])                       plain, so that filters reach the files
 *   both          read_parquet([…]) [ANTI JOIN kalamdb_keys(i)] UNION ALL BY NAME kalamdb_rows(i)
 *
 * with the schema's columns in the schema's order: a column that no file has yet (it is newer than they are)
 * reads as NULL, one that is gone from the schema is not shown. With files it is a table macro,
 * kalamdb_scan_i(); the names are resolved by a replacement scan. Views would do the same, but making one
 * binds it, which reads the files' footers and costs a small statement a third of its time. */
#include "analytic/worker.h"
#include "row/row.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

struct scan_state {
    size_t pos;
    int ncolumns;
    int columns[]; /* schema column, or ncolumns of the schema for _deleted, or -1: DuckDB wants only the row
                    */
};

static duckdb_logical_type logical_type(enum value_type t)
{
    switch (t) {
    case VALUE_BOOL:
        return duckdb_create_logical_type(DUCKDB_TYPE_BOOLEAN);
    case VALUE_BIGINT:
        return duckdb_create_logical_type(DUCKDB_TYPE_BIGINT);
    case VALUE_DOUBLE:
        return duckdb_create_logical_type(DUCKDB_TYPE_DOUBLE);
    case VALUE_TIMESTAMPTZ:
        return duckdb_create_logical_type(DUCKDB_TYPE_TIMESTAMP_TZ);
    case VALUE_BLOB:
        return duckdb_create_logical_type(DUCKDB_TYPE_BLOB);
    default: {
        duckdb_logical_type text = duckdb_create_logical_type(DUCKDB_TYPE_VARCHAR);
        if (t == VALUE_JSON)
            duckdb_logical_type_set_alias(text, "JSON");
        return text;
    }
    }
}

static struct str type_sql(enum value_type t)
{
    switch (t) {
    case VALUE_BOOL:
        return STR("BOOLEAN");
    case VALUE_BIGINT:
        return STR("BIGINT");
    case VALUE_DOUBLE:
        return STR("DOUBLE");
    case VALUE_TIMESTAMPTZ:
        return STR("TIMESTAMPTZ");
    case VALUE_BLOB:
        return STR("BLOB");
    case VALUE_JSON:
        return STR("JSON");
    default:
        return STR("VARCHAR");
    }
}

/* The input that a bind call means, or -1 with the error set. */
static int bound_input(duckdb_bind_info info, const struct worker *w)
{
    duckdb_value v = duckdb_bind_get_parameter(info, 0);
    int64_t i = duckdb_get_int64(v);
    duckdb_destroy_value(&v);
    if (w->rq == NULL || i < 0 || i >= w->rq->ninputs) {
        duckdb_bind_set_error(info, "no such input");
        return -1;
    }
    return (int)i;
}

static void add_column(duckdb_bind_info info, struct str name, enum value_type type)
{
    char copy[256];
    size_t n = name.len < sizeof copy ? name.len : sizeof copy - 1;
    memcpy(copy, name.ptr, n);
    copy[n] = '\0';
    duckdb_logical_type t = logical_type(type);
    duckdb_bind_add_result_column(info, copy, t);
    duckdb_destroy_logical_type(&t);
}

static void rows_bind(duckdb_bind_info info)
{
    const struct worker *w = duckdb_bind_get_extra_info(info);
    int i = bound_input(info, w);
    if (i < 0)
        return;
    const struct analytic_input *in = &w->rq->inputs[i];
    for (int c = 0; c < in->schema->ncolumns; c++)
        add_column(info, in->schema->columns[c].name, in->schema->columns[c].type);
    if (in->with_tombstones)
        add_column(info, STR("_deleted"), VALUE_BOOL);
    /* A guess for the join order: rows are some 150 bytes. */
    duckdb_bind_set_cardinality(info, w->rows[i].len / 150 + 1, false);
    duckdb_bind_set_bind_data(info, (void *)(uintptr_t)in, NULL);
}

static void keys_bind(duckdb_bind_info info)
{
    const struct worker *w = duckdb_bind_get_extra_info(info);
    int i = bound_input(info, w);
    if (i < 0)
        return;
    const struct analytic_input *in = &w->rq->inputs[i];
    add_column(info, STR("k"), VALUE_BIGINT);
    duckdb_bind_set_cardinality(info, in->nexclude, true);
    duckdb_bind_set_bind_data(info, (void *)(uintptr_t)in, NULL);
}

static void scan_init(duckdb_init_info info)
{
    const struct analytic_input *in = duckdb_init_get_bind_data(info);
    idx_t n = duckdb_init_get_column_count(info);
    struct scan_state *st =
        n > SCHEMA_COLUMNS_MAX + 1 ? NULL : calloc(1, sizeof *st + n * sizeof st->columns[0]);
    if (st == NULL) {
        duckdb_init_set_error(info, "Out of Memory Error: scan state");
        return;
    }
    st->ncolumns = (int)n;
    for (idx_t c = 0; c < n; c++) {
        idx_t column = duckdb_init_get_column_index(info, c);
        /* count(*) asks for a virtual column, whose number is far above any real one. */
        st->columns[c] = column > (idx_t)in->schema->ncolumns ? -1 : (int)column;
    }
    duckdb_init_set_max_threads(info, 1);
    duckdb_init_set_init_data(info, st, free);
}

static void set_null(duckdb_vector vector, idx_t row)
{
    duckdb_vector_ensure_validity_writable(vector);
    duckdb_validity_set_row_invalid(duckdb_vector_get_validity(vector), row);
}

/* False when the value is not of its column's type. */
static bool put_cell(duckdb_vector vector, void *data, idx_t row, enum value_type type, struct value v)
{
    if (v.type == VALUE_NULL) {
        set_null(vector, row);
        return true;
    }
    if (v.type != type)
        return false;
    switch (type) {
    case VALUE_BOOL:
        ((bool *)data)[row] = v.i != 0;
        return true;
    case VALUE_BIGINT:
    case VALUE_TIMESTAMPTZ:
        ((int64_t *)data)[row] = v.i;
        return true;
    case VALUE_DOUBLE:
        ((double *)data)[row] = v.d;
        return true;
    default:
        /* DuckDB's text functions take UTF-8 for granted. */
        if (type != VALUE_BLOB && !utf8_valid(v.s))
            return false;
        duckdb_vector_assign_string_element_len(vector, row, v.s.ptr, v.s.len);
        return true;
    }
}

/* The next row that is to be shown. 1, 0 at the end, -1 when the file is malformed. */
static int next_row(struct scan_state *st, struct worker_rows rows, const struct analytic_input *in,
    struct row_meta *meta, struct value *values)
{
    while (st->pos < rows.len) {
        if (rows.len - st->pos < 4)
            return -1;
        size_t n = get_be32(rows.ptr + st->pos);
        if (n > rows.len - st->pos - 4)
            return -1;
        struct str bytes = str_n(rows.ptr + st->pos + 4, n);
        st->pos += 4 + n;
        if (row_decode(bytes, in->schema, meta, values) != ERR_OK)
            return -1;
        if ((meta->flags & ROW_TOMBSTONE) == 0 || in->with_tombstones)
            return 1;
    }
    return 0;
}

static void rows_run(duckdb_function_info info, duckdb_data_chunk chunk)
{
    struct worker *w = duckdb_function_get_extra_info(info);
    const struct analytic_input *in = duckdb_function_get_bind_data(info);
    struct scan_state *st = duckdb_function_get_init_data(info);
    struct worker_rows rows = w->rows[in - w->rq->inputs];
    duckdb_vector vectors[SCHEMA_COLUMNS_MAX + 1];
    void *data[SCHEMA_COLUMNS_MAX + 1];
    const int ncolumns = st->ncolumns;
    struct value values[SCHEMA_COLUMNS_MAX];
    struct row_meta meta;
    for (int c = 0; c < ncolumns; c++) {
        vectors[c] = duckdb_data_chunk_get_vector(chunk, (idx_t)c);
        data[c] = duckdb_vector_get_data(vectors[c]);
    }
    idx_t n = 0, max = duckdb_vector_size();
    int got = 1;
    while (n < max && (got = next_row(st, rows, in, &meta, values)) > 0) {
        bool good = true;
        for (int c = 0; c < ncolumns && good; c++) {
            int column = st->columns[c];
            if (column == in->schema->ncolumns)
                ((bool *)data[c])[n] = (meta.flags & ROW_TOMBSTONE) != 0;
            else if (column >= 0)
                good = put_cell(vectors[c], data[c], n, in->schema->columns[column].type, values[column]);
        }
        if (!good) {
            got = -1;
            break;
        }
        n++;
    }
    if (got < 0) {
        w->corrupt = true;
        duckdb_function_set_error(info, "malformed row file");
        n = 0;
    }
    duckdb_data_chunk_set_size(chunk, n);
}

static void keys_run(duckdb_function_info info, duckdb_data_chunk chunk)
{
    const struct analytic_input *in = duckdb_function_get_bind_data(info);
    struct scan_state *st = duckdb_function_get_init_data(info);
    idx_t n = 0, max = duckdb_vector_size();
    int64_t *keys = st->ncolumns == 1 && st->columns[0] == 0
                        ? duckdb_vector_get_data(duckdb_data_chunk_get_vector(chunk, 0))
                        : NULL;
    for (; n < max && st->pos < in->nexclude; n++, st->pos++)
        if (keys != NULL)
            keys[n] = in->exclude[st->pos];
    duckdb_data_chunk_set_size(chunk, n);
}

static enum err register_one(struct worker *w, const char *name, duckdb_table_function_bind_t bind,
    duckdb_table_function_t run, struct errctx *ec)
{
    duckdb_table_function f = duckdb_create_table_function();
    duckdb_logical_type param = duckdb_create_logical_type(DUCKDB_TYPE_BIGINT);
    duckdb_table_function_set_name(f, name);
    duckdb_table_function_add_parameter(f, param);
    duckdb_table_function_set_extra_info(f, w, NULL);
    duckdb_table_function_set_bind(f, bind);
    duckdb_table_function_set_init(f, scan_init);
    duckdb_table_function_set_function(f, run);
    duckdb_table_function_supports_projection_pushdown(f, true);
    duckdb_state s = duckdb_register_table_function(w->con, f);
    duckdb_destroy_logical_type(&param);
    duckdb_destroy_table_function(&f);
    return s == DuckDBSuccess ? ERR_OK : err_internal(ec, ERR_INTERNAL, "register %s", name);
}

static void replace_scan(duckdb_replacement_scan_info info, const char *name, void *data)
{
    const struct worker *w = data;
    struct str s = str_c(name);
    int64_t i;
    /* Any other name is left to DuckDB, which knows none. */
    if (w->rq == NULL || !str_starts_with(s, STR("scan_")) || !str_to_i64(str_n(s.ptr + 5, s.len - 5), &i) ||
        i < 0 || i >= w->rq->ninputs)
        return;
    if (w->rq->inputs[i].nfiles == 0) {
        duckdb_value v = duckdb_create_int64(i);
        duckdb_replacement_scan_set_function_name(info, "kalamdb_rows");
        duckdb_replacement_scan_add_parameter(info, v);
        duckdb_destroy_value(&v);
    } else {
        char macro[48];
        snprintf(macro, sizeof macro, "kalamdb_scan_%lld", (long long)i);
        duckdb_replacement_scan_set_function_name(info, macro);
    }
}

enum err worker_scan_register(struct worker *w, struct errctx *ec)
{
    duckdb_add_replacement_scan(w->db, replace_scan, w, NULL);
    enum err e = register_one(w, "kalamdb_rows", rows_bind, rows_run, ec);
    return e != ERR_OK ? e : register_one(w, "kalamdb_keys", keys_bind, keys_run, ec);
}

static void put_name(struct buf *b, struct str name)
{
    buf_u8(b, '"');
    for (size_t i = 0; i < name.len; i++) {
        if (name.ptr[i] == '"')
            buf_u8(b, '"');
        buf_u8(b, (uint8_t)name.ptr[i]);
    }
    buf_u8(b, '"');
}

/* Cast to the schema's types: no work where a file has them, and the same answer where one was written
 * otherwise. */
static void put_columns(struct buf *b, const struct schema *s)
{
    for (int c = 0; c < s->ncolumns; c++) {
        struct str type = type_sql(s->columns[c].type);
        if (c > 0)
            buf_str(b, STR(", "));
        put_name(b, s->columns[c].name);
        buf_printf(b, "::%.*s AS ", STR_FMT(type));
        put_name(b, s->columns[c].name);
    }
}

static void put_files(struct buf *b, const struct analytic_input *in)
{
    buf_str(b, STR("read_parquet(["));
    for (int f = 0; f < in->nfiles; f++)
        buf_printf(b, "%s'" WORKER_FD_PATH "%d'", f > 0 ? ", " : "", in->file_fds[f]);
    /* One file needs no union, and the union keeps row groups from being skipped by some rewrites. */
    buf_printf(b, "]%s)", in->nfiles > 1 ? ", union_by_name = true" : "");
}

/* A relation without rows that has every column of the schema, so that UNION ALL BY NAME fills what files
 * lack. The optimiser drops it. */
static void put_no_rows(struct buf *b, const struct schema *s)
{
    buf_str(b, STR("SELECT "));
    for (int c = 0; c < s->ncolumns; c++) {
        struct str type = type_sql(s->columns[c].type);
        buf_printf(b, "%sNULL::%.*s AS ", c > 0 ? ", " : "", STR_FMT(type));
        put_name(b, s->columns[c].name);
    }
    buf_str(b, STR(" WHERE false"));
}

static void put_macro(struct buf *b, const struct analytic_input *in, int i, bool rows)
{
    buf_printf(b, "CREATE OR REPLACE TEMP MACRO kalamdb_scan_%d() AS TABLE SELECT ", i);
    if (in->as_stored) {
        buf_str(b, STR("* FROM "));
        put_files(b, in);
        return;
    }
    put_columns(b, in->schema);
    if (in->with_tombstones)
        buf_str(b, STR(", \"_deleted\""));
    /* Old rows before fresh ones, each by key: what takes rows as they come (string_agg, LIMIT of a subquery)
     * then answers alike before and after rows move. */
    buf_str(b, STR(" FROM (SELECT *"));
    if (in->with_tombstones)
        buf_str(b, STR(", false AS \"_deleted\""));
    buf_str(b, STR(" FROM "));
    put_files(b, in);
    if (in->nexclude > 0) {
        buf_printf(b, " f ANTI JOIN kalamdb_keys(%d) x ON f.", i);
        put_name(b, in->schema->columns[in->schema->key_column].name);
        buf_str(b, STR(" = x.k"));
    }
    buf_str(b, STR(" UNION ALL BY NAME "));
    if (rows) {
        buf_printf(b, "SELECT * FROM kalamdb_rows(%d)", i);
    } else {
        put_no_rows(b, in->schema);
    }
    buf_str(b, STR(")"));
}

static enum err map_rows(struct worker *w, int i, struct errctx *ec)
{
    const struct analytic_input *in = &w->rq->inputs[i];
    w->rows[i] = (struct worker_rows){NULL, 0};
    if (in->rows_fd < 0 || in->rows_bytes == 0)
        return ERR_OK;
    struct stat st;
    /* A file shorter than announced would be a SIGBUS later. */
    if (fstat(in->rows_fd, &st) != 0 || st.st_size < 0 || (uint64_t)st.st_size < in->rows_bytes)
        return err_internal(ec, ERR_CORRUPT, "row file %d is shorter than announced", i);
    void *p = mmap(NULL, in->rows_bytes, PROT_READ, MAP_SHARED, in->rows_fd, 0);
    if (p == MAP_FAILED)
        return err_internal(ec, ERR_INTERNAL, "map row file: %s", strerror(errno));
    w->rows[i] = (struct worker_rows){p, in->rows_bytes};
    return ERR_OK;
}

enum err worker_scan_open(struct worker *w, struct errctx *ec)
{
    for (int i = 0; i < w->rq->ninputs; i++) {
        enum err e = map_rows(w, i, ec);
        if (e != ERR_OK)
            return e;
        if (w->rq->inputs[i].nfiles == 0)
            continue;
        struct buf sql = BUF_INIT(1u << 20);
        put_macro(&sql, &w->rq->inputs[i], i, w->rows[i].len > 0 || w->rq->inputs[i].with_tombstones);
        buf_u8(&sql, '\0');
        e = sql.failed ? err_internal(ec, ERR_NO_MEMORY, "scan of input %d", i)
                       : worker_duckdb_exec(w, sql.ptr, ec);
        buf_release(&sql);
        if (e != ERR_OK)
            return e;
    }
    return ERR_OK;
}

void worker_scan_close(struct worker *w)
{
    for (int i = 0; i < w->rq->ninputs; i++)
        if (w->rows[i].ptr != NULL) {
            munmap((void *)(uintptr_t)w->rows[i].ptr, w->rows[i].len);
            w->rows[i] = (struct worker_rows){NULL, 0};
        }
}
