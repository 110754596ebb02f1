/* Cutting a user's messages into runs of ids that a worker can sort within its memory.
 *
 * The weights: each hot row by itself; a file's rows spread evenly over its ids, which they need not be. So a
 * run may come out larger than asked for, never larger than the files that it touches. */
#include "store/cold_input.h"
#include <stdlib.h>

/* A weight is at most this share of a run. */
enum { SHARES = 16 };
/* What zstd makes of chat, from above: bytes of a Parquet file in memory. */
enum { EXPANSION = 4 };

struct weight {
    int64_t id;
    uint64_t rows, bytes;
};

struct weights {
    const struct manifest *manifest;
    size_t n, cap;
    struct weight *all;
};

static enum err add(struct weights *w, struct weight one, struct errctx *ec)
{
    if (w->n == w->cap) {
        size_t cap = w->cap > 0 ? w->cap * 2 : 1024;
        struct weight *grown = realloc(w->all, cap * sizeof *grown);
        if (grown == NULL)
            return err_internal(ec, ERR_NO_MEMORY, "cutting a user's messages");
        w->all = grown;
        w->cap = cap;
    }
    w->all[w->n++] = one;
    return ERR_OK;
}

static enum err add_hot(void *arg, const struct hot_row *row, struct errctx *ec)
{
    struct weights *w = arg;
    if (manifest_row_state(w->manifest, row->meta) == ROW_TAIL) /* its file counts it */
        return ERR_OK;
    return add(w, (struct weight){row->msg_id, 1, row->row.len}, ec);
}

static enum err add_file(
    struct weights *w, const struct cold_file *f, uint64_t rows_max, uint64_t bytes_max, struct errctx *ec)
{
    uint64_t by_rows = f->rows * SHARES / rows_max, by_bytes = f->bytes * EXPANSION * SHARES / bytes_max;
    uint64_t n = 1 + (by_rows > by_bytes ? by_rows : by_bytes);
    /* In doubles: ids have 53 bits. */
    double from = (double)f->id_min, width = (double)f->id_max - from;
    enum err e = ERR_OK;
    for (uint64_t i = 1; e == ERR_OK && i <= n; i++) {
        int64_t id = i == n ? f->id_max : (int64_t)(from + width * (double)i / (double)n);
        e = add(w, (struct weight){id, f->rows / n + 1, f->bytes * EXPANSION / n + 1}, ec);
    }
    return e;
}

static int by_id(const void *a, const void *b)
{
    int64_t x = ((const struct weight *)a)->id, y = ((const struct weight *)b)->id;
    return x < y ? -1 : x > y;
}

/* In place: w->all becomes the last ids of the runs. */
static size_t cut(const struct weights *w, uint64_t rows_max, uint64_t bytes_max, int64_t *ids)
{
    uint64_t rows = 0, bytes = 0;
    size_t n = 0;
    for (size_t i = 0; i + 1 < w->n; i++) {
        const struct weight *one = &w->all[i], *next = &w->all[i + 1];
        rows += one->rows;
        bytes += one->bytes;
        if (next->id > one->id && (rows + next->rows > rows_max || bytes + next->bytes > bytes_max)) {
            ids[n++] = one->id;
            rows = bytes = 0;
        }
    }
    ids[n++] = INT64_MAX;
    return n;
}

enum err snapshot_split(struct snapshot *snap, uint64_t rows_max, uint64_t bytes_max, int64_t **ret_ids,
    size_t *ret_n, struct errctx *ec)
{
    struct weights w = {.manifest = snap->manifest};
    enum err e = snap->exists ? cold_scan_space(snap, SPACE_MESSAGES, add_hot, &w, ec) : ERR_OK;
    for (size_t i = 0; e == ERR_OK && w.manifest != NULL && i < w.manifest->nfiles; i++)
        e = add_file(&w, &w.manifest->files[i], rows_max, bytes_max, ec);
    int64_t *ids = e == ERR_OK ? malloc((w.n + 1) * sizeof *ids) : NULL;
    if (e == ERR_OK && ids == NULL)
        e = err_internal(ec, ERR_NO_MEMORY, "cutting a user's messages");
    if (e == ERR_OK) {
        if (w.n > 1)
            qsort(w.all, w.n, sizeof *w.all, by_id);
        *ret_n = cut(&w, rows_max, bytes_max, ids);
        *ret_ids = ids;
    }
    free(w.all);
    return e;
}

void snapshot_input_done(struct snapshot *snap)
{
    cold_snapshot_release(snap);
    snap->input_bytes = snap->cold_bytes = 0;
}
