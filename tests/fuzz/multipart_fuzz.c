/* Multipart bodies from outside: the first byte says in what pieces the rest arrives, then a Content-Type up
 * to the first newline (boundary=x when that is none), then the body. Every cut must give the same events;
 * data of a part is one run of bytes, wherever it was split, and holds no delimiter. */
#include "base/buf.h"
#include "net/multipart.h"
#include <stdlib.h>

static void must(bool ok)
{
    if (!ok)
        abort();
}

static void note_part(const struct multipart *m, struct buf *log)
{
    must(m->name.len >= 1 && m->name.len <= 255 && utf8_valid(m->name) && utf8_valid(m->filename));
    must(memchr(m->name.ptr, '\r', m->name.len) == NULL && memchr(m->name.ptr, '\0', m->name.len) == NULL);
    buf_u8(log, 'P');
    buf_lstr(log, m->name);
    buf_u8(log, m->filename.ptr != NULL);
    buf_lstr(log, m->filename);
    buf_u8(log, m->content_type.ptr != NULL);
    buf_lstr(log, m->content_type);
}

static bool holds_delimiter(const struct multipart *m, const struct buf *data)
{
    return data->len > 0 && memmem(data->ptr, data->len, m->delimiter, m->delimiter_len) != NULL;
}

static bool run(struct str type, const uint8_t *data, size_t n, size_t piece, struct buf *log)
{
    struct multipart m;
    struct str got;
    struct buf part = {0};
    bool in_part = false, over = false;
    if (multipart_init(&m, type) != NULL)
        return false;
    for (size_t at = 0; at < n && !over;) {
        size_t k = n - at < piece ? n - at : piece;
        char *copy = malloc(k);
        const char *p = copy;
        memcpy(copy, data + at, k);
        enum multipart_kind kind;
        while (!over && (kind = multipart_next(&m, &p, copy + k, &got)) != MULTIPART_MORE) {
            must(p >= copy && p <= copy + k);
            if (kind == MULTIPART_PART) {
                must(!in_part);
                in_part = true;
                note_part(&m, log);
            } else if (kind == MULTIPART_DATA) {
                must(in_part && got.len > 0);
                buf_str(&part, got);
            } else if (kind == MULTIPART_PART_END) {
                must(in_part && !holds_delimiter(&m, &part));
                in_part = false;
                buf_u8(log, 'D');
                buf_lstr(log, buf_view(&part));
                buf_clear(&part);
            } else {
                must(!in_part || kind == MULTIPART_BROKEN);
                buf_u8(log, kind == MULTIPART_END ? 'E' : 'B');
                if (kind == MULTIPART_BROKEN)
                    buf_str(log, str_c(m.why));
                over = true;
            }
        }
        must(over || p == copy + k);
        free(copy);
        at += k;
    }
    must(multipart_complete(&m) == (log->len > 0 && over && m.why == NULL));
    buf_release(&part);
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf whole = {0}, pieces = {0};
    struct str type = STR("multipart/form-data; boundary=x");
    if (size < 1)
        return 0;
    size_t piece = data[0] % 16 + 1;
    const uint8_t *lf = memchr(data + 1, '\n', size - 1), *body = data + 1;
    if (size > 2 && data[1] == 'm' && lf != NULL) {
        type = str_n((const char *)data + 1, (size_t)(lf - data - 1));
        body = lf + 1;
    }
    size_t n = size - (size_t)(body - data);
    if (run(type, body, n, SIZE_MAX / 2, &whole)) {
        must(run(type, body, n, piece, &pieces));
        must(str_eq(buf_view(&whole), buf_view(&pieces)));
    }
    buf_release(&whole);
    buf_release(&pieces);
    return 0;
}
