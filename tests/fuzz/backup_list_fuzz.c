/* Lists of backups from a disk nobody vouches for. The target closes what it is given with count and hash, so
 * that the fuzzer gets past them; what decodes must survive a round trip, and name files below the data
 * directory only. */
#include "store/backup.h"
#include <stdlib.h>
#include <string.h>

static void check(bool ok)
{
    if (!ok)
        abort();
}

static void check_path(struct str path)
{
    size_t start = 0;
    check(path.len > 0 && path.len <= BACKUP_PATH_MAX && path.ptr[0] != '/');
    for (size_t i = 0; i <= path.len; i++) {
        check(i == path.len || (path.ptr[i] > ' ' && path.ptr[i] < 127));
        if (i < path.len && path.ptr[i] != '/')
            continue;
        check(i > start && path.ptr[start] != '.');
        start = i + 1;
    }
}

static void check_list(const struct backup_list *l)
{
    check(l->hot > 0);
    for (size_t i = 0; i < l->nfiles; i++) {
        const struct backup_file *f = &l->files[i];
        check(strlen(f->sha256) == 64 && f->bytes <= INT64_MAX);
        check_path(f->path);
        check(backup_list_find(l, f->path) == f);
    }
    (void)backup_list_bytes(l);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct errctx ec = {0};
    struct backup_list l, again;
    struct buf text = BUF_INIT(0), first = BUF_INIT(0), second = BUF_INIT(0);
    uint8_t digest[32];
    size_t files = 0;
    backup_list_init(&l);
    (void)(backup_list_decode(str_n((const char *)data, n), &l, &ec) == ERR_OK && (check_list(&l), true));
    backup_list_release(&l);
    buf_append(&text, data, n);
    sha256(buf_view(&text), digest);
    for (size_t i = 0; i + 6 <= n; i++)
        files += memcmp(data + i, "\nfile ", 6) == 0;
    buf_printf(&text, "end %zu ", files);
    for (int i = 0; i < 32; i++)
        buf_printf(&text, "%02x", digest[i]);
    buf_u8(&text, '\n');
    backup_list_init(&l);
    backup_list_init(&again);
    if (backup_list_decode(buf_view(&text), &l, &ec) == ERR_OK) {
        check_list(&l);
        backup_list_encode(&l, &first);
        check(backup_list_decode(buf_view(&first), &again, &ec) == ERR_OK);
        check(again.nfiles == l.nfiles && again.hot == l.hot && again.created_us == l.created_us);
        backup_list_encode(&again, &second);
        check(str_eq(buf_view(&first), buf_view(&second)));
    }
    backup_list_release(&l);
    backup_list_release(&again);
    buf_release(&text);
    buf_release(&first);
    buf_release(&second);
    return 0;
}
