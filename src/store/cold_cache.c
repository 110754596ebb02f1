#include "store/cold_cache.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { CHUNK_BYTES = 65536 };

struct entry {
    struct entry *prev, *next; /* by use, the newest first */
    uint64_t hash, bytes;      /* of the path; of the content */
    struct stat st;            /* of the file as it was read */
    char sha256[65];
    int fd;
    char path[];
};

struct cold_cache {
    pthread_mutex_t lock;
    struct entry ring; /* sentinel */
    uint64_t bytes, bytes_max;
    size_t files;
    uint64_t hits, misses;
};

struct cold_cache *cold_cache_new(uint64_t bytes_max)
{
    struct cold_cache *c = calloc(1, sizeof *c);
    if (c == NULL)
        return NULL;
    pthread_mutex_init(&c->lock, NULL);
    c->ring.prev = c->ring.next = &c->ring;
    c->bytes_max = bytes_max;
    return c;
}

static void unlink_entry(struct cold_cache *c, struct entry *e)
{
    e->prev->next = e->next;
    e->next->prev = e->prev;
    c->bytes -= e->bytes;
    c->files--;
}

static void link_first(struct cold_cache *c, struct entry *e)
{
    e->prev = &c->ring;
    e->next = c->ring.next;
    c->ring.next->prev = e;
    c->ring.next = e;
    c->bytes += e->bytes;
    c->files++;
}

/* Entries taken off the list, by `next`. Closing the last descriptor of a large memfd takes a while: not
 * under the lock. */
static void close_all(struct entry *e)
{
    while (e != NULL) {
        struct entry *next = e->next;
        close(e->fd);
        free(e);
        e = next;
    }
}

void cold_cache_free(struct cold_cache *c)
{
    if (c == NULL)
        return;
    c->ring.prev->next = NULL;
    close_all(c->ring.next == &c->ring ? NULL : c->ring.next);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static struct entry *find(struct cold_cache *c, uint64_t hash, const char *path)
{
    for (struct entry *e = c->ring.next; e != &c->ring; e = e->next)
        if (e->hash == hash && strcmp(e->path, path) == 0)
            return e;
    return NULL;
}

void cold_cache_drop(struct cold_cache *c, const char *path)
{
    if (c == NULL)
        return;
    pthread_mutex_lock(&c->lock);
    struct entry *e = find(c, str_hash(str_c(path)), path);
    if (e != NULL) {
        unlink_entry(c, e);
        e->next = NULL;
    }
    pthread_mutex_unlock(&c->lock);
    close_all(e);
}

static bool same_time(struct timespec a, struct timespec b)
{
    return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

static bool same_file(const struct entry *e, const struct stat *st, const struct cold_file *f)
{
    return e->st.st_dev == st->st_dev && e->st.st_ino == st->st_ino && e->st.st_size == st->st_size &&
           same_time(e->st.st_mtim, st->st_mtim) && same_time(e->st.st_ctim, st->st_ctim) &&
           memcmp(e->sha256, f->sha256, sizeof e->sha256) == 0;
}

static enum err duplicate(int fd, int *ret_fd, struct errctx *ec)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0)
        return err_internal(ec, ERR_IO, "descriptor: %s", strerrorname_np(errno));
    *ret_fd = copy;
    return ERR_OK;
}

/* *ret_found: was it there as the file is now? One that has changed is let go. */
static enum err look_up(struct cold_cache *c, uint64_t hash, const char *path, const struct stat *st,
    const struct cold_file *f, bool *ret_found, int *ret_fd, struct errctx *ec)
{
    enum err err = ERR_OK;
    struct entry *stale = NULL;
    pthread_mutex_lock(&c->lock);
    struct entry *e = find(c, hash, path);
    *ret_found = e != NULL && same_file(e, st, f);
    if (e != NULL)
        unlink_entry(c, e);
    if (*ret_found) {
        link_first(c, e);
        c->hits++;
        err = duplicate(e->fd, ret_fd, ec);
    } else {
        stale = e;
        if (stale != NULL)
            stale->next = NULL;
        c->misses++;
    }
    pthread_mutex_unlock(&c->lock);
    close_all(stale);
    return err;
}

/* A plain file's bytes, if they are those that the manifest knows. */
static enum err copy_plain(int fd, const struct cold_file *f, int memfd, struct errctx *ec)
{
    char hex[65], *chunk = malloc(CHUNK_BYTES);
    struct os_sha256 *hash = os_sha256_begin();
    enum err err = ERR_OK;
    if (chunk == NULL || hash == NULL)
        err = err_internal(ec, ERR_NO_MEMORY, "out of memory");
    for (uint64_t at = 0; err == ERR_OK && at < f->bytes;) {
        size_t want = f->bytes - at < CHUNK_BYTES ? (size_t)(f->bytes - at) : CHUNK_BYTES;
        ssize_t n = pread(fd, chunk, want, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            err = n < 0 ? err_internal(ec, ERR_IO, "read: %s", strerrorname_np(errno))
                        : err_internal(ec, ERR_CORRUPT, "cut at byte %llu", (unsigned long long)at);
            break;
        }
        os_sha256_add(hash, chunk, (size_t)n);
        int rc = os_write_all(memfd, chunk, (size_t)n);
        if (rc < 0)
            err = err_internal(ec, ERR_IO, "memfd: %s", strerrorname_np(-rc));
        at += (uint64_t)n;
    }
    os_sha256_end(hash, err == ERR_OK ? hex : NULL);
    if (err == ERR_OK && memcmp(hex, f->sha256, 64) != 0)
        err = err_internal(ec, ERR_CORRUPT, "its SHA-256 is not that of what was written");
    free(chunk);
    return err;
}

static enum err load_plain(int fd, const struct cold_file *f, int *ret_fd, struct errctx *ec)
{
    int memfd = os_memfd("kalamdb-cold");
    if (memfd < 0)
        return err_internal(ec, ERR_IO, "memfd: %s", strerrorname_np(-memfd));
    enum err err = copy_plain(fd, f, memfd, ec);
    if (err == ERR_OK &&
        (lseek(memfd, 0, SEEK_SET) != 0 ||
            fcntl(memfd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0))
        err = err_internal(ec, ERR_IO, "memfd: %s", strerrorname_np(errno));
    if (err != ERR_OK) {
        close(memfd);
        return err;
    }
    *ret_fd = memfd;
    return ERR_OK;
}

/* The cache takes `fd`; the oldest make room. Returns what is to be closed. */
static struct entry *insert(struct cold_cache *c, struct entry *e)
{
    struct entry *gone = NULL;
    pthread_mutex_lock(&c->lock);
    struct entry *other = find(c, e->hash, e->path); /* read by another thread meanwhile */
    if (other != NULL) {
        unlink_entry(c, other);
        other->next = gone;
        gone = other;
    }
    link_first(c, e);
    while (c->bytes > c->bytes_max || c->files > COLD_CACHE_FILES_MAX) {
        struct entry *last = c->ring.prev;
        unlink_entry(c, last);
        last->next = gone;
        gone = last;
    }
    pthread_mutex_unlock(&c->lock);
    return gone;
}

/* What cannot be kept is given out all the same. */
static void keep(struct cold_cache *c, uint64_t hash, const char *path, const struct stat *st,
    const struct cold_file *f, int fd, uint64_t bytes)
{
    size_t len = strlen(path) + 1;
    struct entry *e = bytes <= c->bytes_max ? malloc(sizeof *e + len) : NULL;
    if (e == NULL)
        return;
    *e = (struct entry){.hash = hash, .bytes = bytes, .st = *st};
    memcpy(e->sha256, f->sha256, sizeof e->sha256);
    memcpy(e->path, path, len);
    if (duplicate(fd, &e->fd, &(struct errctx){0}) != ERR_OK)
        free(e);
    else
        close_all(insert(c, e));
}

enum err cold_cache_open(struct cold_cache *c, const char *path, int fd, const struct stat *st,
    const struct cold_file *f, struct str sealed_context, int *ret_fd, struct errctx *ec)
{
    uint64_t hash = str_hash(str_c(path)), bytes = f->bytes;
    bool found;
    int memfd = -1;
    enum err err = look_up(c, hash, path, st, f, &found, &memfd, ec);
    if (err == ERR_OK && !found) {
        if (f->sealed && !sealed_plain_size(f->bytes, &bytes))
            err =
                err_internal(ec, ERR_CORRUPT, "no sealed file has %llu bytes", (unsigned long long)f->bytes);
        else if (f->sealed)
            err = sealed_to_memfd(fd, f->key, sealed_context, "kalamdb-cold", &memfd, ec);
        else
            err = load_plain(fd, f, &memfd, ec);
        if (err == ERR_OK)
            keep(c, hash, path, st, f, memfd, bytes);
    }
    if (err == ERR_OK)
        *ret_fd = memfd;
    return err;
}

void cold_cache_stats(struct cold_cache *c, struct cold_cache_stats *ret)
{
    pthread_mutex_lock(&c->lock);
    *ret = (struct cold_cache_stats){c->hits, c->misses, c->bytes, c->files};
    pthread_mutex_unlock(&c->lock);
}
