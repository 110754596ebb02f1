/* Runs one statement and streams what comes out. Rows leave in frames of about FRAME_BYTES while the query
 * goes on, so a large result never stands in the worker's memory, and a limit on rows ends the query as soon
 * as it is met. */
#include "analytic/channel.h"
#include "analytic/errmap.h"
#include "analytic/worker.h"
#include <stdlib.h>

#define FRAME_BYTES (256u << 10)

struct output {
    int sock;
    bool gone;
    struct buf frame, scratch;
    size_t at; /* of the ROWS frame being filled */
    uint64_t rows;
    bool last; /* the worker ends after this */
};

static enum err flush(struct output *out, struct errctx *ec)
{
    if (out->frame.failed)
        return err_set(ec, ERR_TOO_LARGE, "a row of the result is too large");
    if (channel_send(out->sock, buf_view(&out->frame), NULL, 0, CHANNEL_NO_DEADLINE) != 0) {
        out->gone = true;
        return err_internal(ec, ERR_IO, "the server is gone");
    }
    buf_clear(&out->frame);
    return ERR_OK;
}

static enum err add_row(struct output *out, const struct cell_type *types, const duckdb_vector *vectors,
    idx_t n, uint64_t row, struct errctx *ec)
{
    if (out->frame.len == 0)
        out->at = proto_begin(&out->frame, FRAME_ROWS);
    for (idx_t c = 0; c < n; c++) {
        buf_clear(&out->scratch);
        struct value v = cell_value(&types[c], vectors[c], row, &out->scratch);
        proto_put_value(&out->frame, v);
        out->frame.failed |= out->scratch.failed;
    }
    out->rows++;
    if (out->frame.len < FRAME_BYTES && !out->frame.failed)
        return ERR_OK;
    proto_end(&out->frame, out->at);
    return flush(out, ec);
}

/* Chunks until the end or rows_max; `ret_more`: the limit cut it. */
static enum err send_rows(struct output *out, duckdb_result *result, const struct cell_type *types, idx_t n,
    uint64_t rows_max, bool *ret_more, struct errctx *ec)
{
    duckdb_vector *vectors = calloc(n, sizeof *vectors);
    if (vectors == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "result vectors");
    enum err e = ERR_OK;
    bool more = false;
    duckdb_data_chunk chunk;
    while (e == ERR_OK && !more && (chunk = duckdb_fetch_chunk(*result)) != NULL) {
        idx_t rows = duckdb_data_chunk_get_size(chunk);
        for (idx_t c = 0; c < n; c++)
            vectors[c] = duckdb_data_chunk_get_vector(chunk, c);
        for (idx_t r = 0; r < rows && e == ERR_OK && !more; r++) {
            more = rows_max > 0 && out->rows == rows_max;
            if (!more)
                e = add_row(out, types, vectors, n, r, ec);
        }
        duckdb_destroy_data_chunk(&chunk);
        /* A streamed result ends with an empty chunk or none. */
        if (rows == 0)
            break;
    }
    free(vectors);
    const char *text = e == ERR_OK && !more ? duckdb_result_error(result) : NULL;
    if (text != NULL && text[0] != '\0')
        e = errmap_duckdb(str_c(text), ec);
    *ret_more = more;
    return e;
}

static enum err send_result(struct output *out, duckdb_result *result, uint64_t rows_max, struct errctx *ec)
{
    idx_t n = duckdb_column_count(result);
    if (n == 0 || n > PROTO_COLUMNS_MAX)
        return err_set(ec, ERR_UNSUPPORTED, "a result of %llu columns", (unsigned long long)n);
    struct cell_type *types = calloc(n, sizeof *types);
    struct str *names = calloc(n, sizeof *names);
    enum value_type *values = calloc(n, sizeof *values);
    enum err e = ERR_OK;
    bool allocated = types != NULL && names != NULL && values != NULL;
    if (!allocated)
        e = err_internal(ec, ERR_NO_MEMORY, "result columns");
    for (idx_t c = 0; c < n && allocated && e == ERR_OK; c++) {
        e = cell_type_init(&types[c], duckdb_column_logical_type(result, c), ec);
        names[c] = str_c(duckdb_column_name(result, c));
        values[c] = types[c].value;
    }
    bool more = false;
    if (e == ERR_OK) {
        proto_put_columns(&out->frame, (int)n, names, values);
        e = flush(out, ec);
    }
    if (e == ERR_OK)
        e = send_rows(out, result, types, n, rows_max, &more, ec);
    if (e == ERR_OK) {
        if (out->frame.len > 0)
            proto_end(&out->frame, out->at);
        out->last = out->last || worker_stepped_back();
        proto_put_done(&out->frame, (struct proto_done){out->rows, more, out->last});
        e = flush(out, ec);
    }
    for (idx_t c = 0; types != NULL && c < n; c++)
        cell_type_release(&types[c]);
    free(types);
    free(names);
    free(values);
    return e;
}

/* The request's SQL must be one statement, and a query: the printer that made it writes nothing else, and if
 * it ever did, this is the second lock. */
static enum err prepare(struct worker *w, const char *sql, duckdb_prepared_statement *ret, struct errctx *ec)
{
    duckdb_extracted_statements statements = NULL;
    enum err e = ERR_OK;
    idx_t n = duckdb_extract_statements(w->con, sql, &statements);
    if (n == 0) {
        const char *text = duckdb_extract_statements_error(statements);
        e = errmap_duckdb(str_c(text != NULL ? text : "Parser Error: no statement"), ec);
    } else if (n > 1) {
        e = err_set(ec, ERR_UNSUPPORTED, "one statement a request");
    } else if (duckdb_prepare_extracted_statement(w->con, statements, 0, ret) != DuckDBSuccess) {
        const char *text = duckdb_prepare_error(*ret);
        e = errmap_duckdb(str_c(text != NULL ? text : ""), ec);
    }
    duckdb_destroy_extracted(&statements);
    duckdb_statement_type want =
        w->rq->mode == ANALYTIC_PARQUET ? DUCKDB_STATEMENT_TYPE_COPY : DUCKDB_STATEMENT_TYPE_SELECT;
    if (e == ERR_OK && duckdb_prepared_statement_type(*ret) != want)
        e = err_set(ec, ERR_UNSUPPORTED, "only queries can be run here");
    return e;
}

static void put_statement(struct buf *b, const struct analytic_request *rq)
{
    if (rq->mode == ANALYTIC_ROWS) {
        buf_str(b, rq->sql);
    } else {
        buf_printf(b,
            "COPY (%.*s) TO '" WORKER_FD_PATH "%d' (FORMAT parquet, COMPRESSION zstd, PARQUET_VERSION v2, "
            "ROW_GROUP_SIZE 4096, USE_TMP_FILE false)",
            STR_FMT(rq->sql), rq->output_fd);
    }
    buf_u8(b, '\0');
}

static enum err run_prepared(
    struct worker *w, duckdb_prepared_statement stmt, struct output *out, struct errctx *ec)
{
    duckdb_pending_result pending = NULL;
    duckdb_result result;
    memset(&result, 0, sizeof result);
    enum err e = ERR_OK;
    /* The header calls the streaming calls deprecated but 1.4 has nothing in their place, and a materialised
     * result would let the query run to its end whatever rows_max says. */
    if (duckdb_pending_prepared_streaming(stmt, &pending) != DuckDBSuccess) {
        const char *text = duckdb_pending_error(pending);
        e = errmap_duckdb(str_c(text != NULL ? text : ""), ec);
    } else if (duckdb_execute_pending(pending, &result) != DuckDBSuccess) {
        const char *text = duckdb_result_error(&result);
        e = errmap_duckdb(str_c(text != NULL ? text : ""), ec);
    } else {
        e = send_result(out, &result, w->rq->rows_max, ec);
    }
    duckdb_destroy_result(&result);
    duckdb_destroy_pending(&pending);
    return e;
}

enum err worker_result_run(struct worker *w, int sock, bool *ret_gone, struct errctx *ec)
{
    struct buf sql = BUF_INIT(PROTO_REQUEST_MAX + 1024);
    struct output out = {.sock = sock,
        .frame = BUF_INIT(PROTO_FRAME_MAX),
        .scratch = BUF_INIT(PROTO_FRAME_MAX),
        .last = worker_files_exhausted(w)};
    duckdb_prepared_statement stmt = NULL;
    put_statement(&sql, w->rq);
    enum err e = sql.failed ? err_internal(ec, ERR_NO_MEMORY, "statement") : prepare(w, sql.ptr, &stmt, ec);
    if (e == ERR_OK)
        e = run_prepared(w, stmt, &out, ec);
    duckdb_destroy_prepare(&stmt);
    if (e != ERR_OK && w->corrupt)
        e = err_internal(ec, ERR_CORRUPT, "malformed row file");
    buf_release(&sql);
    buf_release(&out.frame);
    buf_release(&out.scratch);
    w->retiring = out.last;
    *ret_gone = out.gone;
    return e;
}
