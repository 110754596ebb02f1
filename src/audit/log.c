/* The writer.
 *
 *   add ──► pending (lines that are already chained) ──thread──► write, fsync ──► waiters
 *
 * A line gets its number and its hash when it is added, under the lock, so that the order of the log is the
 * order in which things were told. The thread takes the whole buffer, writes and syncs it, and tells whoever
 * waited. What could not be written is kept and tried again: the file is cut back to what is known to be
 * there first, so that a half-written line cannot stay. */
#include "base/log.h"
#include "audit/chain.h"
#include "audit/fold.h"
#include "base/json.h"
#include "base/timefmt.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define RETRY_MS 1000
#define DAY_US (INT64_C(86400) * 1000000)

struct waiter {
    struct waiter *next;
    void (*fn)(void *arg, bool ok);
    void *arg;
};

struct audit {
    const struct os *os;
    char *dir;
    uint64_t file_bytes_max;
    pthread_t thread;
    bool started;

    pthread_mutex_t lock; /* all below */
    pthread_cond_t wake;
    struct buf pending;
    uint64_t pending_begins; /* it begins a file, with this line; 0: it does not */
    bool stop, urgent;
    uint64_t n; /* of the last line that was chained */
    uint8_t chain[HASH_BYTES];
    uint64_t lost, lost_told;
    struct waiter *waiters, **waiters_last;
    struct fold fold;
    uint64_t disk_n; /* of the last line on disk */
    uint8_t disk_chain[HASH_BYTES];
    _Atomic bool failing;

    /* the thread's own, or open's */
    int fd;
    uint64_t file_bytes; /* on disk, whole lines */
    int64_t file_day;
    struct buf writing; /* taken from pending; what an attempt could not write stays */
    uint64_t writing_begins;
};

/* ---- lines -------------------------------------------------------------------------------------------- */

static void member(struct buf *b, const char *name, struct str value)
{
    if (value.len == 0)
        return;
    buf_u8(b, ',');
    json_key(b, str_c(name));
    json_str(b, value);
}

static void put_on(struct buf *b, const struct audit_record *r)
{
    const struct {
        const char *name;
        struct str value;
    } on[] = {
        {"user", r->user}, {"conversation", r->conversation}, {"token", r->token}, {"target", r->target}};
    bool any = false;
    for (size_t i = 0; i < sizeof on / sizeof *on; i++) {
        if (on[i].value.len == 0)
            continue;
        buf_str(b, any ? STR(",") : STR(",\"on\":{"));
        json_key(b, str_c(on[i].name));
        json_str(b, on[i].value);
        any = true;
    }
    if (any)
        buf_u8(b, '}');
}

/* Under the lock. `prev`: the line begins a file. */
static void put_line(struct audit *a, struct buf *b, const struct audit_record *r, uint64_t count, bool prev)
{
    size_t from = b->len;
    char hex[65];
    buf_printf(b, "{\"n\":%llu", (unsigned long long)(a->n + 1));
    if (prev) {
        audit_hex(a->chain, hex);
        buf_printf(b, ",\"prev\":\"%s\"", hex);
    }
    buf_str(b, STR(",\"ts\":\""));
    time_format(b, os_realtime_us(a->os));
    buf_u8(b, '"');
    member(b, "event", str_c(r->event));
    member(b, "sub", r->sub);
    member(b, "role", r->role);
    member(b, "jti", r->jti);
    member(b, "address", r->address);
    put_on(b, r);
    member(b, "outcome", r->outcome);
    if (count > 0)
        buf_printf(b, ",\"count\":%llu", (unsigned long long)count);
    if (r->detail.ptr != NULL && b->len - from + r->detail.len < AUDIT_LINE_BYTES_MAX - 256) {
        buf_str(b, STR(",\"detail\":"));
        buf_str(b, r->detail);
    }
    audit_line_close(b, from, a->chain);
    if (b->failed) { /* it never was */
        b->len = from;
        b->failed = false;
        a->lost++;
        return;
    }
    a->n++;
}

/* Under the lock. */
static void add(struct audit *a, const struct audit_record *r, uint64_t count)
{
    if (a->pending.len > AUDIT_QUEUE_BYTES_MAX) { /* the disk does not take what comes */
        a->lost++;
        return;
    }
    if (a->lost > a->lost_told) {
        uint64_t n = a->lost - a->lost_told;
        a->lost_told = a->lost;
        put_line(a, &a->pending, &(struct audit_record){.event = "lost"}, n, false);
    }
    put_line(a, &a->pending, r, count, false);
}

void audit_add(struct audit *a, const struct audit_record *r)
{
    if (a == NULL)
        return;
    pthread_mutex_lock(&a->lock);
    add(a, r, 0);
    pthread_cond_signal(&a->wake);
    pthread_mutex_unlock(&a->lock);
}

void audit_add_folded(struct audit *a, const struct audit_record *r)
{
    if (a == NULL)
        return;
    pthread_mutex_lock(&a->lock);
    if (fold_first(&a->fold, r, os_monotonic_us(a->os))) {
        add(a, r, 0);
        pthread_cond_signal(&a->wake);
    }
    pthread_mutex_unlock(&a->lock);
}

static void add_summary(void *arg, const struct audit_record *r, uint64_t count)
{
    add(arg, r, count);
}

void audit_fold_now(struct audit *a)
{
    if (a == NULL)
        return;
    pthread_mutex_lock(&a->lock);
    fold_end(&a->fold, os_monotonic_us(a->os), true, add_summary, a);
    pthread_mutex_unlock(&a->lock);
}

void audit_when_durable(struct audit *a, void (*fn)(void *arg, bool ok), void *arg)
{
    struct waiter *w = a != NULL ? malloc(sizeof *w) : NULL;
    if (w == NULL) {
        fn(arg, a == NULL);
        return;
    }
    *w = (struct waiter){.fn = fn, .arg = arg};
    pthread_mutex_lock(&a->lock);
    *a->waiters_last = w;
    a->waiters_last = &w->next;
    a->urgent = true;
    pthread_cond_signal(&a->wake);
    pthread_mutex_unlock(&a->lock);
}

bool audit_writable(const struct audit *a)
{
    return a == NULL || !atomic_load(&a->failing);
}

void audit_head(struct audit *a, struct audit_head *ret)
{
    pthread_mutex_lock(&a->lock);
    *ret = (struct audit_head){.n = a->disk_n, .lost = a->lost};
    audit_hex(a->disk_chain, ret->hash);
    pthread_mutex_unlock(&a->lock);
}

enum err audit_read(struct audit *a, uint64_t after, int max, struct buf *ret, int *ret_n, struct errctx *ec)
{
    struct audit_head head;
    audit_head(a, &head);
    return audit_read_dir(a->dir, after, head.n, max, ret, ret_n, ec);
}

/* ---- the file ----------------------------------------------------------------------------------------- */

static enum err begin_file(struct audit *a, uint64_t first, int64_t now_us, struct errctx *ec)
{
    char *path = audit_path(a->dir, first);
    if (path == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "audit log");
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    enum err e = fd < 0 ? err_internal(ec, ERR_IO, "%s: %s", path, strerror(errno)) : ERR_OK;
    if (e == ERR_OK)
        e = os_fsync_dir(a->os, a->dir, ec);
    free(path);
    if (e != ERR_OK) {
        if (fd >= 0)
            close(fd);
        return e;
    }
    if (a->fd >= 0)
        close(a->fd);
    a->fd = fd;
    a->file_bytes = 0;
    a->file_day = now_us / DAY_US;
    return ERR_OK;
}

static enum err write_out(struct audit *a, struct errctx *ec)
{
    struct str s = buf_view(&a->writing);
    /* What an attempt before may have left behind the last line that is known to be there. */
    if (ftruncate(a->fd, (off_t)a->file_bytes) != 0 || lseek(a->fd, (off_t)a->file_bytes, SEEK_SET) < 0)
        return err_internal(ec, ERR_IO, "audit log: %s", strerror(errno));
    int rc = os_write_all(a->fd, s.ptr, s.len);
    if (rc == 0)
        rc = a->os->fsync(a->os->ctx, a->fd);
    if (rc != 0)
        return err_internal(ec, ERR_IO, "audit log: %s", strerror(-rc));
    a->file_bytes += s.len;
    return ERR_OK;
}

static bool file_is_over(const struct audit *a, size_t more, int64_t now_us)
{
    return a->file_bytes + more >= a->file_bytes_max || (a->file_bytes > 0 && now_us / DAY_US != a->file_day);
}

/* Chains the line that begins a file, as the first that waits. Under the lock, with nothing waiting. */
static void begin_pending(struct audit *a)
{
    put_line(a, &a->pending, &(struct audit_record){.event = "file"}, 0, true);
    a->pending_begins = a->pending.len > 0 ? a->n : 0;
}

/* Moves what waits to `writing`, which is empty. If the file is over with it, what comes next begins one. */
static void take_pending(struct audit *a)
{
    pthread_mutex_lock(&a->lock);
    struct buf taken = a->pending;
    a->pending = a->writing;
    a->writing = taken;
    a->writing_begins = a->pending_begins;
    a->pending_begins = 0;
    buf_clear(&a->pending);
    if (a->writing.len > 0 && a->writing_begins == 0 &&
        file_is_over(a, a->writing.len, os_realtime_us(a->os)))
        begin_pending(a);
    pthread_mutex_unlock(&a->lock);
}

/* The last line that was written says where the log is. */
static void note_head(struct audit *a)
{
    struct str s = buf_view(&a->writing);
    size_t at = s.len - 1;
    struct audit_line l;
    while (at > 0 && s.ptr[at - 1] != '\n')
        at--;
    bool read = audit_line_read(str_n(s.ptr + at, s.len - 1 - at), &l);
    pthread_mutex_lock(&a->lock);
    if (read) {
        a->disk_n = l.n;
        memcpy(a->disk_chain, l.hash, HASH_BYTES);
    }
    pthread_mutex_unlock(&a->lock);
}

static void tell(struct waiter *w, bool ok)
{
    for (struct waiter *next; w != NULL; w = next) {
        next = w->next;
        w->fn(w->arg, ok);
        free(w);
    }
}

/* One round; false: it could not be written. */
static bool flush(struct audit *a)
{
    struct errctx ec;
    enum err e = ERR_OK;
    errctx_clear(&ec);
    pthread_mutex_lock(&a->lock);
    struct waiter *waiters = a->waiters;
    a->waiters = NULL;
    a->waiters_last = &a->waiters;
    a->urgent = false;
    pthread_mutex_unlock(&a->lock);
    /* Twice: what an attempt before has left, then what they wait for, which came later. */
    for (int i = 0; e == ERR_OK && i < 2; i++) {
        if (a->writing.len == 0)
            take_pending(a);
        if (a->writing.len == 0)
            break;
        if (a->writing_begins != 0)
            e = begin_file(a, a->writing_begins, os_realtime_us(a->os), &ec);
        if (e != ERR_OK)
            break;
        a->writing_begins = 0;
        e = write_out(a, &ec);
        if (e != ERR_OK)
            break;
        note_head(a);
        buf_clear(&a->writing);
    }
    bool was = atomic_exchange(&a->failing, e != ERR_OK);
    if (e != ERR_OK && !was)
        log_event(LOG_ERROR, "audit_failed", "s:reason", ec.internal, NULL);
    tell(waiters, e == ERR_OK);
    return e == ERR_OK;
}

static void wait_for(struct audit *a, int64_t ms)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    int64_t ns = t.tv_nsec + ms % 1000 * 1000000;
    t.tv_sec += ms / 1000 + ns / 1000000000;
    t.tv_nsec = ns % 1000000000;
    pthread_cond_timedwait(&a->wake, &a->lock, &t);
}

static void *run(void *arg)
{
    struct audit *a = arg;
    bool ok = true;
    for (bool stop = false; !stop;) {
        pthread_mutex_lock(&a->lock);
        if (!a->urgent && !a->stop)
            wait_for(a, !ok ? RETRY_MS : a->pending.len > 0 || a->writing.len > 0 ? AUDIT_FLUSH_MS : 1000);
        /* Woken by the first record: those of the next moments come along. */
        if (ok && !a->urgent && !a->stop && a->pending.len > 0)
            wait_for(a, AUDIT_FLUSH_MS / 2);
        fold_end(&a->fold, os_monotonic_us(a->os), a->stop, add_summary, a);
        stop = a->stop;
        pthread_mutex_unlock(&a->lock);
        ok = flush(a);
    }
    return NULL;
}

/* ---- open, close -------------------------------------------------------------------------------------- */

/* The newest file's last whole line; *ret_size: bytes up to its end. NOT_FOUND: there is none. */
static enum err last_line(
    int fd, uint64_t size, struct audit_line *ret, uint64_t *ret_size, struct buf *b, struct errctx *ec)
{
    uint64_t from = size > AUDIT_LINE_BYTES_MAX * 2 ? size - AUDIT_LINE_BYTES_MAX * 2 : 0;
    char *p = buf_reserve(b, (size_t)(size - from) + 1);
    if (p == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "audit log");
    if (pread(fd, p, (size_t)(size - from), (off_t)from) != (ssize_t)(size - from))
        return err_internal(ec, ERR_IO, "audit log: %s", strerror(errno));
    size_t end = (size_t)(size - from), at;
    while (end > 0 && p[end - 1] != '\n')
        end--;
    *ret_size = from + end;
    if (end == 0)
        return ERR_NOT_FOUND;
    for (at = end - 1; at > 0 && p[at - 1] != '\n'; at--)
        ;
    if (!audit_line_read(str_n(p + at, end - 1 - at), ret))
        return err_set(ec, ERR_CORRUPT, "the last line of the audit log is none: see kalamdb audit verify");
    return ERR_OK;
}

/* Goes on with the newest file. *ret_cut: bytes of half a line that were taken off. */
static enum err resume(struct audit *a, uint64_t first, uint64_t *ret_cut, struct errctx *ec)
{
    char *path = audit_path(a->dir, first);
    struct stat st;
    struct buf b = BUF_INIT(0);
    struct audit_line l = {0};
    uint64_t size = 0;
    if (path == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "audit log");
    a->fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    enum err e = ERR_OK;
    if (a->fd < 0 || fstat(a->fd, &st) != 0)
        e = err_internal(ec, ERR_IO, "%s: %s", path, strerror(errno));
    free(path);
    if (e == ERR_OK)
        e = last_line(a->fd, (uint64_t)st.st_size, &l, &size, &b, ec);
    buf_release(&b);
    if (e == ERR_OK || e == ERR_NOT_FOUND) {
        *ret_cut = (uint64_t)st.st_size - size;
        if (*ret_cut > 0 && ftruncate(a->fd, (off_t)size) != 0)
            return err_internal(ec, ERR_IO, "audit log: %s", strerror(errno));
        a->file_bytes = size;
        a->file_day = (int64_t)st.st_mtim.tv_sec * 1000000 / DAY_US;
    }
    if (e == ERR_OK) {
        a->n = a->disk_n = l.n;
        memcpy(a->chain, l.hash, HASH_BYTES);
        memcpy(a->disk_chain, l.hash, HASH_BYTES);
    }
    return e;
}

static enum err prepare(struct audit *a, struct errctx *ec)
{
    uint64_t *files = NULL, cut = 0;
    size_t n = 0;
    enum err e = os_mkdirs(a->dir, ec);
    if (e == ERR_OK)
        e = audit_files(a->dir, &files, &n, ec);
    bool begun = false;
    /* A crash may leave a file that has no line yet behind the one that the chain goes on from. */
    for (size_t i = n; e == ERR_OK && !begun && i > 0; i--) {
        e = resume(a, files[i - 1], &cut, ec);
        begun = e == ERR_OK;
        if (e == ERR_NOT_FOUND) {
            char *path = audit_path(a->dir, files[i - 1]);
            close(a->fd);
            a->fd = -1;
            e = path != NULL && a->os->unlink(a->os->ctx, path) == 0
                    ? ERR_OK
                    : err_internal(ec, ERR_IO, "audit log: an empty file cannot be removed");
            free(path);
        }
    }
    free(files);
    if (e != ERR_OK)
        return e;
    int64_t now_us = os_realtime_us(a->os);
    if (!begun || file_is_over(a, 0, now_us))
        begin_pending(a);
    if (cut > 0) {
        char detail[64];
        snprintf(detail, sizeof detail, "{\"bytesCut\":%llu}", (unsigned long long)cut);
        put_line(
            a, &a->pending, &(struct audit_record){.event = "repaired", .detail = str_c(detail)}, 0, false);
    }
    return ERR_OK;
}

static void audit_free(struct audit *a)
{
    if (a->fd >= 0)
        close(a->fd);
    fold_release(&a->fold);
    buf_release(&a->pending);
    buf_release(&a->writing);
    pthread_mutex_destroy(&a->lock);
    pthread_cond_destroy(&a->wake);
    free(a->dir);
    free(a);
}

enum err audit_open(const struct audit_config *cfg, struct audit **ret, struct errctx *ec)
{
    struct audit *a = calloc(1, sizeof *a);
    pthread_condattr_t attr;
    if (a == NULL || (a->dir = strdup(cfg->dir)) == NULL) {
        free(a);
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    }
    a->os = cfg->os;
    a->fd = -1;
    a->file_bytes_max = cfg->file_bytes_max != 0 ? cfg->file_bytes_max : AUDIT_FILE_BYTES_MAX;
    a->waiters_last = &a->waiters;
    pthread_mutex_init(&a->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&a->wake, &attr);
    pthread_condattr_destroy(&attr);
    enum err e = prepare(a, ec);
    if (e == ERR_OK && pthread_create(&a->thread, NULL, run, a) != 0)
        e = err_set(ec, ERR_NO_MEMORY, "cannot start a thread");
    if (e != ERR_OK) {
        audit_free(a);
        return e;
    }
    *ret = a;
    return ERR_OK;
}

void audit_close(struct audit *a)
{
    if (a == NULL)
        return;
    pthread_mutex_lock(&a->lock);
    a->stop = true;
    pthread_cond_signal(&a->wake);
    pthread_mutex_unlock(&a->lock);
    pthread_join(a->thread, NULL);
    (void)flush(a); /* what the last round found behind a failed one */
    audit_free(a);
}
