/* Manifest records from a disk nobody vouches for. The target adds the checksum, so that the fuzzer gets past
 * it; what decodes must survive a round trip and keep the promises of manifest.h. */
#include "store/manifest.h"
#include <stdlib.h>

static uint32_t crc32c(const uint8_t *p, size_t n)
{
    uint32_t c = 0xffffffffu;
    for (size_t i = 0; i < n; i++) {
        c ^= p[i];
        for (int k = 0; k < 8; k++)
            c = c & 1 ? 0x82f63b78u ^ c >> 1 : c >> 1;
    }
    return ~c;
}

static void check(bool ok)
{
    if (!ok)
        abort();
}

static void check_manifest(const struct manifest *m)
{
    uint64_t covered = 0;
    for (size_t i = 0; i < m->nfiles; i++) {
        const struct cold_file *f = &m->files[i];
        check(f->ins_min > covered && f->ins_max <= m->watermark);
        check(manifest_file_of(m, f->ins_min) == f && manifest_file_of(m, f->ins_max) == f);
        check(manifest_covers_id(m, f->id_min) && manifest_covers_id(m, f->id_max));
        check(memchr(f->name.ptr, '/', f->name.len) == NULL);
        struct row_meta meta = {.seq = f->as_of, .ins_seq = f->ins_min};
        check(manifest_row_state(m, meta) == ROW_TAIL);
        (void)cold_file_may_hold(f, 0);
        (void)cold_file_may_hold(f, UINT32_MAX);
        covered = f->ins_max;
    }
    for (size_t i = 0; i < m->ngarbage; i++)
        check(memchr(m->garbage[i].ptr, '/', m->garbage[i].len) == NULL);
    struct row_meta fresh = {.seq = UINT64_MAX, .ins_seq = m->watermark + 1};
    check(m->watermark == UINT64_MAX || manifest_row_state(m, fresh) == ROW_FRESH);
    (void)manifest_rows(m);
    (void)manifest_bytes(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct errctx ec = {0};
    struct manifest *m, *again;
    struct buf bytes = BUF_INIT(0), first = BUF_INIT(0), second = BUF_INIT(0);
    (void)(manifest_decode(str_n((const char *)data, n), &m, &ec) == ERR_OK && (manifest_unref(m), true));
    buf_append(&bytes, data, n);
    buf_be32(&bytes, crc32c(data, n));
    if (manifest_decode(buf_view(&bytes), &m, &ec) == ERR_OK) {
        check_manifest(m);
        manifest_encode(&first, m);
        check(manifest_decode(buf_view(&first), &again, &ec) == ERR_OK);
        manifest_encode(&second, again);
        check(str_eq(buf_view(&first), buf_view(&second)));
        manifest_unref(again);
        manifest_unref(m);
    }
    buf_release(&bytes);
    buf_release(&first);
    buf_release(&second);
    return 0;
}
