/* Archives that strangers upload. First byte even: a manifest.json, which, where it is taken, must keep the
 * promises of archive_manifest.h and come back the same when written. Odd: a whole tar, of which whatever is
 * handed out must lie within it, under a name of ours, and read the same a second time. */
#include "engine/archive_manifest.h"
#include "os/os.h"
#include <stdlib.h>
#include <unistd.h>

static void check(bool ok)
{
    if (!ok)
        abort();
}

static void check_manifest(const struct archive_manifest *m)
{
    uint64_t messages = 0;
    int tables = 0;
    for (size_t i = 0; i < m->nfiles; i++) {
        const struct archive_file *f = &m->files[i];
        check(f->kind == archive_kind_of(f->path) && f->kind != ARCHIVE_KIND_NONE &&
              f->kind != ARCHIVE_KIND_MANIFEST);
        check(f->path.ptr[0] != '/' && memmem(f->path.ptr, f->path.len, "..", 2) == NULL);
        check(strlen(f->sha256) == 64 && f->has_rows == (f->kind != ARCHIVE_KIND_CONTENT));
        messages += f->kind == ARCHIVE_KIND_MESSAGES ? f->rows : 0;
        tables += f->kind == ARCHIVE_KIND_CONVERSATIONS || f->kind == ARCHIVE_KIND_MEMBERS;
    }
    check(messages == m->messages && tables == 2);
}

static void fuzz_manifest(struct str text)
{
    struct arena arena;
    struct errctx ec = {0};
    struct archive_manifest m, again;
    arena_init(&arena, (size_t)64 << 20);
    if (archive_manifest_parse(text, &arena, &m, &ec) == ERR_OK) {
        struct buf files = BUF_INIT(0), whole = BUF_INIT(0);
        check_manifest(&m);
        for (size_t i = 0; i < m.nfiles; i++) {
            if (i > 0)
                buf_u8(&files, ',');
            archive_manifest_file(&files, &m.files[i]);
        }
        archive_manifest_write(&whole, &m, buf_view(&files));
        check(archive_manifest_parse(buf_view(&whole), &arena, &again, &ec) == ERR_OK);
        check(again.nfiles == m.nfiles && again.seq == m.seq && str_eq(again.user, m.user));
        buf_release(&files);
        buf_release(&whole);
    } else {
        check(ec.code == ERR_INVALID_REQUEST || ec.code == ERR_NO_MEMORY);
        check(ec.message[0] != '\0');
    }
    arena_release(&arena);
}

static enum err always(void *arg, struct errctx *ec)
{
    (void)arg;
    (void)ec;
    return ERR_OK;
}

static enum err count(void *arg, struct str bytes, struct errctx *ec)
{
    (void)ec;
    *(uint64_t *)arg += bytes.len;
    return ERR_OK;
}

static enum err read_from(void *arg, void *p, size_t n, uint64_t at, size_t *ret_n, struct errctx *ec)
{
    const struct str *bytes = arg;
    (void)ec;
    size_t left = at < bytes->len ? bytes->len - (size_t)at : 0;
    *ret_n = n < left ? n : left;
    if (*ret_n > 0)
        memcpy(p, bytes->ptr + at, *ret_n);
    return ERR_OK;
}

static void fuzz_tar(struct str bytes)
{
    struct archive_reader *r;
    struct archive_member m;
    struct errctx ec = {0};
    struct buf manifest = BUF_INIT(1 << 20);
    struct archive_source source = {read_from, &bytes};
    if (archive_reader_open(&source, &r, &ec) == ERR_OK) {
        enum err e;
        while ((e = archive_reader_next(r, &m, &manifest, always, NULL, &ec)) == ERR_OK) {
            uint64_t seen = 0;
            check(m.kind == archive_kind_of(str_c(m.path)) && m.kind != ARCHIVE_KIND_NONE);
            check(m.offset + m.bytes <= bytes.len);
            check(archive_member_read(&source, &m, count, &seen, &ec) == ERR_OK && seen == m.bytes);
        }
        check(e == ERR_NOT_FOUND || e == ERR_INVALID_REQUEST);
        archive_reader_free(r);
    }
    buf_release(&manifest);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    struct str rest = str_n((const char *)data + 1, size - 1);
    if (data[0] % 2 == 0)
        fuzz_manifest(rest);
    else
        fuzz_tar(rest);
    return 0;
}
