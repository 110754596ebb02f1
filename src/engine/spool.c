#include "engine/spool.h"
#include "vault/sealed_file.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#define CONTEXT STR("kalamdb spool")

struct spool {
    int fd;
    uint8_t key[SEALED_KEY_BYTES];
    struct sealed_writer *writer; /* until the end */
    struct sealed_reader *reader; /* from then on */
};

static enum err make_file(struct spool *s, const char *data_dir, const char *dir, struct errctx *ec)
{
    struct buf path = BUF_INIT(0);
    enum err e = ERR_OK;
    buf_printf(&path, "%s/%s/XXXXXX", data_dir, dir);
    buf_u8(&path, 0);
    if (path.failed)
        e = err_internal(ec, ERR_NO_MEMORY, "temporary file");
    else if ((s->fd = mkostemp(path.ptr, O_CLOEXEC)) < 0)
        e = err_internal(ec, ERR_IO, "%s: %s", path.ptr, strerror(errno));
    else if (unlink(path.ptr) < 0)
        e = err_internal(ec, ERR_IO, "unlink %s: %s", path.ptr, strerror(errno));
    buf_release(&path);
    return e;
}

static enum err disk_full(enum err e, struct errctx *ec)
{
    if (e == ERR_IO && (errno == ENOSPC || errno == EDQUOT))
        return err_set(ec, ERR_UNAVAILABLE, "the disk is full");
    return e;
}

enum err spool_new(
    const struct os *os, const char *data_dir, const char *dir, struct spool **ret, struct errctx *ec)
{
    struct spool *s = calloc(1, sizeof *s);
    if (s == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "temporary file");
    s->fd = -1;
    os->random(os->ctx, s->key, sizeof s->key);
    enum err e = make_file(s, data_dir, dir, ec);
    if (e == ERR_OK)
        e = disk_full(sealed_writer_open(os, s->fd, s->key, CONTEXT, &s->writer, ec), ec);
    if (e != ERR_OK) {
        spool_free(s);
        return e;
    }
    *ret = s;
    return ERR_OK;
}

enum err spool_write(struct spool *s, struct str bytes, struct errctx *ec)
{
    return disk_full(sealed_writer_append(s->writer, bytes, ec), ec);
}

enum err spool_end(struct spool *s, struct errctx *ec)
{
    enum err e = disk_full(sealed_writer_end(s->writer, ec), ec);
    sealed_writer_free(s->writer);
    s->writer = NULL;
    return e == ERR_OK ? sealed_reader_open(s->fd, s->key, CONTEXT, &s->reader, ec) : e;
}

uint64_t spool_size(const struct spool *s)
{
    return s->reader != NULL ? sealed_reader_size(s->reader) : 0;
}

enum err spool_read(void *spool, void *p, size_t n, uint64_t at, size_t *ret_n, struct errctx *ec)
{
    struct spool *s = spool;
    if (s->reader == NULL)
        return err_internal(ec, ERR_INTERNAL, "temporary file: not written to its end");
    return sealed_reader_pread(s->reader, p, n, at, ret_n, ec);
}

void spool_free(struct spool *s)
{
    if (s == NULL)
        return;
    sealed_writer_free(s->writer);
    sealed_reader_close(s->reader);
    if (s->fd >= 0)
        close(s->fd);
    explicit_bzero(s->key, sizeof s->key);
    free(s);
}
