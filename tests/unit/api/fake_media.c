/* Files for the server's tests: two that alice holds, and what is uploaded. */
#include "base/buf.h"
#include "base/err.h"
#include "fake_engine.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define FILES_MAX 16

struct kalamdb_upload {
    struct buf bytes;
    char owner[256];
};

static struct {
    pthread_mutex_t lock;
    int nfiles, uploads;
    struct {
        char owner[256], ref[300], type[64];
        struct buf bytes;
    } files[FILES_MAX];
} fake = {.lock = PTHREAD_MUTEX_INITIALIZER,
    .nfiles = 2,
    .files = {{"alice", "user%3Aalice/msg-1.bin", "text/plain; charset=utf-8",
                  {.ptr = (char *)(uintptr_t) "0123456789", .len = 10}},
        {"alice", "alice/media-2.png", "image/png", {.ptr = (char *)(uintptr_t) "PNG", .len = 3}}}};

int fake_uploads(void)
{
    pthread_mutex_lock(&fake.lock);
    int n = fake.uploads;
    pthread_mutex_unlock(&fake.lock);
    return n;
}

static kalamdb_code fail(struct kalamdb_error *error, enum err code, const char *message)
{
    *error = (struct kalamdb_error){.code = (kalamdb_code)code};
    snprintf(error->message, sizeof error->message, "%s", message);
    return error->code;
}

kalamdb_code kalamdb_content_open(struct kalamdb *db, struct kalamdb_caller caller, struct kalamdb_str ref,
    struct kalamdb_content *ret, struct kalamdb_error *error)
{
    (void)db;
    pthread_mutex_lock(&fake.lock);
    for (int i = 0; i < fake.nfiles; i++) {
        if (!str_eq(str_n(ref.ptr, ref.len), str_c(fake.files[i].ref)) ||
            (caller.role == KALAMDB_USER &&
                !str_eq(str_n(caller.user_id.ptr, caller.user_id.len), str_c(fake.files[i].owner))))
            continue;
        ret->fd = memfd_create("fake", MFD_CLOEXEC);
        ret->size = fake.files[i].bytes.len;
        if (write(ret->fd, fake.files[i].bytes.ptr, ret->size) != (ssize_t)ret->size)
            abort();
        snprintf(ret->content_type, sizeof ret->content_type, "%s", fake.files[i].type);
        snprintf(ret->sha256, sizeof ret->sha256, "%064d", i);
        pthread_mutex_unlock(&fake.lock);
        return KALAMDB_OK;
    }
    pthread_mutex_unlock(&fake.lock);
    return fail(error, ERR_NOT_FOUND, "not here");
}

kalamdb_code kalamdb_content_read(
    struct kalamdb_content *c, uint64_t at, void *p, size_t n, size_t *ret_n, struct kalamdb_error *error)
{
    ssize_t got = pread(c->fd, p, n, (off_t)at);
    *ret_n = got > 0 ? (size_t)got : 0;
    return got >= 0 ? KALAMDB_OK : fail(error, ERR_IO, "not readable");
}

void kalamdb_content_close(struct kalamdb_content *c)
{
    close(c->fd);
}

kalamdb_code kalamdb_upload_begin(struct kalamdb *db, struct kalamdb_caller caller, struct kalamdb_str owner,
    struct kalamdb_upload **ret, struct kalamdb_error *error)
{
    (void)db;
    (void)error;
    struct kalamdb_upload *u = calloc(1, sizeof *u);
    struct kalamdb_str whose = owner.ptr != NULL ? owner : caller.user_id;
    snprintf(u->owner, sizeof u->owner, "%.*s", (int)whose.len, whose.ptr);
    pthread_mutex_lock(&fake.lock);
    fake.uploads++;
    pthread_mutex_unlock(&fake.lock);
    *ret = u;
    return KALAMDB_OK;
}

kalamdb_code kalamdb_upload_check(
    struct kalamdb_upload *u, struct kalamdb_str conversation_id, struct kalamdb_error *error)
{
    (void)u;
    if (conversation_id.len == 8 && memcmp(conversation_id.ptr, "strange1", 8) == 0)
        return fail(error, ERR_FORBIDDEN, "you are no member");
    return KALAMDB_OK;
}

kalamdb_code kalamdb_upload_write(
    struct kalamdb_upload *u, const void *bytes, size_t n, struct kalamdb_error *error)
{
    if (u->bytes.len + n > 100000)
        return fail(error, ERR_TOO_LARGE, "the file is over max_media_bytes");
    buf_append(&u->bytes, bytes, n);
    return KALAMDB_OK;
}

void kalamdb_upload_abort(struct kalamdb_upload *u)
{
    if (u == NULL)
        return;
    buf_release(&u->bytes);
    free(u);
    pthread_mutex_lock(&fake.lock);
    fake.uploads--;
    pthread_mutex_unlock(&fake.lock);
}

void kalamdb_upload_finish(struct kalamdb_upload *u, const struct kalamdb_upload_message *message,
    void (*done)(void *arg, const struct kalamdb_uploaded *uploaded, const struct kalamdb_error *error),
    void *arg)
{
    struct kalamdb_error error;
    struct kalamdb_str c = message->conversation_id;
    if (c.len == 6 && memcmp(c.ptr, "secret", 6) == 0) {
        fail(&error, ERR_FORBIDDEN, "you are no member");
        done(arg, NULL, &error);
    } else {
        struct kalamdb_uploaded up = {.msg_id = 4503599627370497, .inserted = true, .size = u->bytes.len};
        pthread_mutex_lock(&fake.lock);
        int i = fake.nfiles < FILES_MAX ? fake.nfiles++ : FILES_MAX - 1;
        snprintf(fake.files[i].owner, sizeof fake.files[i].owner, "%s", u->owner);
        snprintf(fake.files[i].ref, sizeof fake.files[i].ref, "%s/media-%d.bin", u->owner, i);
        snprintf(fake.files[i].type, sizeof fake.files[i].type, "application/octet-stream");
        buf_release(&fake.files[i].bytes);
        fake.files[i].bytes = u->bytes;
        u->bytes = (struct buf){0};
        pthread_mutex_unlock(&fake.lock);
        up.content_ref = (struct kalamdb_str){fake.files[i].ref, strlen(fake.files[i].ref)};
        snprintf(up.content_type, sizeof up.content_type, "application/octet-stream");
        snprintf(up.sha256, sizeof up.sha256, "%064d", i);
        up.width = (uint32_t)message->content.len;
        up.height = (uint32_t)message->metadata.len;
        done(arg, &up, NULL);
    }
    kalamdb_upload_abort(u);
}
