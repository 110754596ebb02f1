#include "store/cold_scan.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { CHUNK_ROWS = 1000, CHUNK_BYTES = 1 << 20, SINK_FLUSH_BYTES = 1 << 20 };

static enum err visit(struct store *s, rocksdb_iterator_t *it, struct str key, struct buf *opened,
    cold_scan_fn *fn, void *arg, size_t *bytes, struct errctx *ec)
{
    struct hot_row row = {0};
    row.row.ptr = rocksdb_iter_value(it, &row.row.len);
    *bytes += row.row.len;
    enum err e = store_unseal(s, key, row.row, opened, &row.row, ec);
    if (e != ERR_OK)
        return e;
    if (!key_parse_message(key, &row.conv_no, &row.msg_id) && !key_parse_id(key, &row.msg_id))
        return err_internal(ec, ERR_CORRUPT, "hot row: malformed key of %zu bytes", key.len);
    if (row_decode_meta(row.row, &row.meta) != ERR_OK)
        return err_internal(ec, ERR_CORRUPT, "hot row %lld: malformed envelope", (long long)row.msg_id);
    return fn(arg, &row, ec);
}

/* One chunk. *at is where to go on; *ret_more says whether there is anything left. The lock is read-held. */
static enum err scan_chunk(struct snapshot *snap, struct key *at, bool *after, struct str end,
    cold_scan_fn *fn, void *arg, bool *ret_more, struct errctx *ec)
{
    rocksdb_iterator_t *it = rocksdb_create_iterator(snap->store->db, snap->options);
    enum err err = ERR_OK;
    size_t rows = 0, bytes = 0;
    struct buf opened = BUF_INIT(0);
    *ret_more = false;
    rocksdb_iter_seek(it, at->bytes, at->len);
    for (; err == ERR_OK && rocksdb_iter_valid(it); rocksdb_iter_next(it)) {
        struct str key;
        key.ptr = rocksdb_iter_key(it, &key.len);
        if (str_cmp(key, end) >= 0)
            break;
        if (*after && str_eq(key, key_view(at)))
            continue;
        if (rows == CHUNK_ROWS || bytes >= CHUNK_BYTES) {
            *ret_more = true;
            break;
        }
        if (key.len > sizeof at->bytes) {
            err = err_internal(ec, ERR_CORRUPT, "hot row: key of %zu bytes", key.len);
            break;
        }
        err = visit(snap->store, it, key, &opened, fn, arg, &bytes, ec);
        at->len = key.len;
        memcpy(at->bytes, key.ptr, key.len);
        *after = true;
        rows++;
    }
    char *message = NULL;
    rocksdb_iter_get_error(it, &message);
    enum err io = store_rocks_err(err == ERR_OK ? ec : &(struct errctx){0}, message, "scan");
    rocksdb_iter_destroy(it);
    buf_release(&opened);
    return err != ERR_OK ? err : io;
}

enum err cold_scan(struct snapshot *snap, const struct key *from, const struct key *end, cold_scan_fn *fn,
    void *arg, struct errctx *ec)
{
    struct store *s = snap->store;
    struct key at = *from;
    bool more = true, after = false;
    enum err err = ERR_OK;
    while (err == ERR_OK && more) {
        pthread_rwlock_rdlock(&s->db_lock);
        if (snap->rocks == NULL || s->db == NULL)
            err = err_set(ec, ERR_UNAVAILABLE, "the storage was reopened after a failure; please retry");
        else
            err = scan_chunk(snap, &at, &after, key_view(end), fn, arg, &more, ec);
        pthread_rwlock_unlock(&s->db_lock);
    }
    return err;
}

enum err cold_scan_space(
    struct snapshot *snap, enum key_space space, cold_scan_fn *fn, void *arg, struct errctx *ec)
{
    struct key from = key_prefix(snap->user_no, space), end = key_after(&from);
    return cold_scan(snap, &from, &end, fn, arg, ec);
}

void row_sink_init(struct row_sink *k)
{
    *k = (struct row_sink){.fd = -1, .bytes_max = ROW_SINK_BYTES_MAX};
}

void row_sink_release(struct row_sink *k)
{
    if (k->fd >= 0)
        close(k->fd);
    buf_release(&k->pending);
    free(k->exclude);
    free(k->index);
    *k = (struct row_sink){.fd = -1};
}

static enum err sink_flush(struct row_sink *k, struct errctx *ec)
{
    if (k->pending.failed)
        return err_internal(ec, ERR_NO_MEMORY, "row file: out of memory");
    if (k->pending.len == 0)
        return ERR_OK;
    if (k->bytes + k->pending.len > k->bytes_max)
        return err_set(ec, ERR_TOO_LARGE, "the statement reads more than %d MiB of recent rows",
            (int)(ROW_SINK_BYTES_MAX >> 20));
    if (k->fd < 0) {
        int fd = os_memfd("kalamdb-rows");
        if (fd < 0)
            return err_internal(ec, ERR_IO, "row file: memfd: %s", strerror(-fd));
        k->fd = fd;
    }
    int rc = os_write_all(k->fd, k->pending.ptr, k->pending.len);
    if (rc < 0)
        return err_internal(ec, ERR_IO, "row file: write: %s", strerror(-rc));
    k->bytes += k->pending.len;
    buf_clear(&k->pending);
    return ERR_OK;
}

enum err row_sink_add(struct row_sink *k, struct str row, struct errctx *ec)
{
    if (row.len > UINT32_MAX)
        return err_internal(ec, ERR_CORRUPT, "row file: row of %zu bytes", row.len);
    row_file_append(&k->pending, row);
    return k->pending.failed || k->pending.len >= SINK_FLUSH_BYTES ? sink_flush(k, ec) : ERR_OK;
}

enum err row_sink_add_message(struct row_sink *k, int64_t msg_id, struct str row, struct errctx *ec)
{
    if (k->nindex == k->index_cap) {
        size_t cap = k->index_cap == 0 ? 256 : k->index_cap * 2;
        struct sink_row *p = cap > SIZE_MAX / sizeof *p ? NULL : realloc(k->index, cap * sizeof *p);
        if (p == NULL)
            return err_internal(ec, ERR_NO_MEMORY, "row file: out of memory");
        k->index = p;
        k->index_cap = cap;
    }
    uint64_t offset = k->bytes + k->pending.len;
    if (row.len > UINT32_MAX - 4)
        return err_internal(ec, ERR_CORRUPT, "row file: row of %zu bytes", row.len);
    k->index[k->nindex++] = (struct sink_row){msg_id, offset, (uint32_t)row.len + 4};
    return row_sink_add(k, row, ec);
}

static int by_row_id(const void *a, const void *b)
{
    int64_t x = ((const struct sink_row *)a)->msg_id, y = ((const struct sink_row *)b)->msg_id;
    return x < y ? -1 : x > y;
}

/* Hot rows are found conversation by conversation, newest first; scans promise them by id. The file is
 * written anew in that order, unless it has it already. */
static enum err sink_sort(struct row_sink *k, struct errctx *ec)
{
    bool sorted = true;
    for (size_t i = 1; i < k->nindex && sorted; i++)
        sorted = k->index[i - 1].msg_id <= k->index[i].msg_id;
    if (sorted)
        return ERR_OK;
    size_t bytes = (size_t)k->bytes;
    const char *rows = mmap(NULL, bytes, PROT_READ, MAP_SHARED, k->fd, 0);
    if (rows == MAP_FAILED)
        return err_internal(ec, ERR_IO, "row file: mmap: %s", strerrorname_np(errno));
    int unsorted = k->fd;
    k->fd = -1;
    k->bytes = 0;
    qsort(k->index, k->nindex, sizeof *k->index, by_row_id);
    enum err err = ERR_OK;
    for (size_t i = 0; i < k->nindex && err == ERR_OK; i++) {
        buf_append(&k->pending, rows + k->index[i].offset, k->index[i].len);
        if (k->pending.failed || k->pending.len >= SINK_FLUSH_BYTES)
            err = sink_flush(k, ec);
    }
    if (err == ERR_OK)
        err = sink_flush(k, ec);
    munmap((void *)(uintptr_t)rows, bytes);
    close(unsorted);
    return err;
}

enum err row_sink_exclude(struct row_sink *k, int64_t msg_id, struct errctx *ec)
{
    if (k->nexclude == k->exclude_cap) {
        size_t cap = k->exclude_cap == 0 ? 64 : k->exclude_cap * 2;
        int64_t *p = cap > SIZE_MAX / sizeof *p ? NULL : realloc(k->exclude, cap * sizeof *p);
        if (p == NULL)
            return err_internal(ec, ERR_NO_MEMORY, "row file: out of memory");
        k->exclude = p;
        k->exclude_cap = cap;
    }
    k->exclude[k->nexclude++] = msg_id;
    return ERR_OK;
}

static int by_id(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

enum err row_sink_finish(struct row_sink *k, struct errctx *ec)
{
    enum err err = sink_flush(k, ec);
    if (err == ERR_OK)
        err = sink_sort(k, ec);
    if (err != ERR_OK || k->nexclude == 0)
        return err;
    qsort(k->exclude, k->nexclude, sizeof *k->exclude, by_id);
    size_t n = 1;
    for (size_t i = 1; i < k->nexclude; i++)
        if (k->exclude[i] != k->exclude[n - 1])
            k->exclude[n++] = k->exclude[i];
    k->nexclude = n;
    return ERR_OK;
}
