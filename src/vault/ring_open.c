/* Opening a ring: its header, its runs, the wrapping of keys.
 *
 * Header, file `ring`: magic | u8 format | u32 wrapping | ring id 16 | salt 16 | 32 zero bytes, wrapped like
 * a key | i64 time of the last rotation, µs | check number of the master key before it 8 | checksum 8. Format
 * 1 had no rotations and ended after the wrapped zeroes. `runs` is locked while a run is added, so that two
 * processes that open one ring take two numbers. */
#include "base/timefmt.h"
#include "vault/ring_int.h"
#include "vault/secret.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEADER_MAGIC "KDBRING"
#define HEADER_OWNER UINT64_MAX /* no partition has this number */
enum {
    FIRST_FORMAT = 1,
    HEADER_FORMAT = 2,
    AT_HEADER_FORMAT = sizeof HEADER_MAGIC - 1,
    AT_HEADER_WRAPPING = AT_HEADER_FORMAT + 1,
    AT_HEADER_ID = 12,
    AT_HEADER_SALT = AT_HEADER_ID + VAULT_RING_ID_BYTES,
    AT_HEADER_PROOF = AT_HEADER_SALT + SALT_BYTES,
    AT_HEADER_ROTATED = AT_HEADER_PROOF + WRAPPED_BYTES,
    FIRST_HEADER_BYTES = AT_HEADER_ROTATED,
    AT_HEADER_BEFORE = AT_HEADER_ROTATED + 8,
    AT_HEADER_CHECKSUM = AT_HEADER_BEFORE + VAULT_CHECK_BYTES,
    HEADER_BYTES = AT_HEADER_CHECKSUM + CHECKSUM_BYTES,
    RUN_RECORD_BYTES = 32,
    AT_RUN_CHECKSUM = RUN_RECORD_BYTES - CHECKSUM_BYTES,
    RUNS_MAX = 16 << 20
};

enum err ring_io_error(struct errctx *ec, const char *what, const char *name, int errnum)
{
    return err_internal(ec, ERR_IO, "key ring: %s %s: %s", what, name, strerrordesc_np(errnum));
}

static enum err no_memory(struct errctx *ec)
{
    return err_set(ec, ERR_NO_MEMORY, "out of memory");
}

int64_t ring_read_at(int fd, void *p, size_t n, uint64_t at)
{
    size_t got = 0;
    while (got < n) {
        ssize_t r = pread(fd, (char *)p + got, n - got, (off_t)(at + got));
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return -errno;
        if (r == 0)
            break;
        got += (size_t)r;
    }
    return (int64_t)got;
}

int ring_write_at(int fd, const void *p, size_t n, uint64_t at)
{
    for (size_t done = 0; done < n;) {
        ssize_t w = pwrite(fd, (const char *)p + done, n - done, (off_t)(at + done));
        if (w < 0 && errno == EINTR)
            continue;
        if (w < 0)
            return -errno;
        done += (size_t)w;
    }
    return 0;
}

int ring_sync(const struct ring *r, int fd)
{
    return r->os->fsync(r->os->ctx, fd);
}

/* ---- wrapping ----------------------------------------------------------------------------------------- */

struct label {
    char bytes[64];
    size_t len;
};

static struct label label_of(
    const struct ring *r, uint64_t owner, uint32_t generation, const uint8_t salt[SALT_BYTES])
{
    static const char purpose[] = "kalamdb wrap";
    struct label l = {.len = sizeof purpose - 1};
    memcpy(l.bytes, purpose, l.len);
    memcpy(l.bytes + l.len, r->id, sizeof r->id);
    l.len += sizeof r->id;
    put_be64(l.bytes + l.len, owner);
    put_be32(l.bytes + l.len + 8, generation);
    l.len += 12;
    memcpy(l.bytes + l.len, salt, SALT_BYTES);
    l.len += SALT_BYTES;
    return l;
}

void ring_wrap(const struct ring *r, const uint8_t *master, uint64_t owner, uint32_t generation,
    const uint8_t *salt, const uint8_t key[VAULT_KEY_BYTES], uint8_t ret[WRAPPED_BYTES])
{
    struct label l = label_of(r, owner, generation, salt);
    uint8_t kek[VAULT_KEY_BYTES];
    derive_key(master, str_n(l.bytes, l.len), kek);
    wrap_key(kek, str_n(l.bytes, l.len), key, ret);
    vault_wipe(kek, sizeof kek);
}

bool ring_unwrap(const struct ring *r, const uint8_t *master, uint64_t owner, uint32_t generation,
    const uint8_t *salt, const uint8_t wrapped[WRAPPED_BYTES], uint8_t ret[VAULT_KEY_BYTES])
{
    struct label l = label_of(r, owner, generation, salt);
    uint8_t kek[VAULT_KEY_BYTES];
    derive_key(master, str_n(l.bytes, l.len), kek);
    bool good = unwrap_key(kek, str_n(l.bytes, l.len), wrapped, ret);
    vault_wipe(kek, sizeof kek);
    return good;
}

/* ---- the header --------------------------------------------------------------------------------------- */

static const uint8_t proof[VAULT_KEY_BYTES]; /* zero */

void ring_key_check(const struct ring *r, uint8_t ret[VAULT_CHECK_BYTES])
{
    static const char purpose[] = "kalamdb key check";
    char info[sizeof purpose - 1 + VAULT_RING_ID_BYTES];
    uint8_t derived[VAULT_KEY_BYTES];
    memcpy(info, purpose, sizeof purpose - 1);
    memcpy(info + sizeof purpose - 1, r->id, sizeof r->id);
    derive_key(r->master, str_n(info, sizeof info), derived);
    memcpy(ret, derived, VAULT_CHECK_BYTES);
    vault_wipe(derived, sizeof derived);
}

static void header_checksum(const uint8_t *h, uint8_t ret[CHECKSUM_BYTES])
{
    uint8_t digest[32];
    sha256(str_n((const char *)h, AT_HEADER_CHECKSUM), digest);
    memcpy(ret, digest, CHECKSUM_BYTES);
}

enum err ring_write_header(struct ring *r, const char *name, struct errctx *ec)
{
    char *path;
    uint8_t h[HEADER_BYTES] = {0}, *salt = h + AT_HEADER_SALT;
    memcpy(h, HEADER_MAGIC, AT_HEADER_FORMAT);
    h[AT_HEADER_FORMAT] = HEADER_FORMAT;
    put_be32(h + AT_HEADER_WRAPPING, r->wrapping);
    memcpy(h + AT_HEADER_ID, r->id, sizeof r->id);
    r->os->random(r->os->ctx, salt, SALT_BYTES);
    put_be64(h + AT_HEADER_ROTATED, (uint64_t)r->history.rotated_us);
    memcpy(h + AT_HEADER_BEFORE, r->history.before, VAULT_CHECK_BYTES);
    ring_wrap(r, r->master, HEADER_OWNER, r->wrapping, salt, proof, h + AT_HEADER_PROOF);
    header_checksum(h, h + AT_HEADER_CHECKSUM);
    if (asprintf(&path, "%s/%s", r->dir, name) < 0)
        return no_memory(ec);
    enum err e = os_write_file(r->os, path, str_n((const char *)h, sizeof h), 0600, ec);
    free(path);
    return e;
}

/* Fills what the header says but for the proof. */
static enum err parse_header(struct ring *r, struct str h, struct errctx *ec)
{
    uint8_t sum[CHECKSUM_BYTES];
    const uint8_t *p = (const uint8_t *)h.ptr;
    bool ours = h.len > AT_HEADER_FORMAT && memcmp(p, HEADER_MAGIC, AT_HEADER_FORMAT) == 0;
    if (ours && p[AT_HEADER_FORMAT] > HEADER_FORMAT)
        return err_set(ec, ERR_INVALID_REQUEST, "the key ring in %s was written by a newer version", r->dir);
    bool first = ours && p[AT_HEADER_FORMAT] == FIRST_FORMAT && h.len == FIRST_HEADER_BYTES;
    bool good = ours && p[AT_HEADER_FORMAT] == HEADER_FORMAT && h.len == HEADER_BYTES;
    if (good) {
        header_checksum(p, sum);
        good = memcmp(sum, p + AT_HEADER_CHECKSUM, sizeof sum) == 0;
    }
    if (!first && !good)
        return err_set(
            ec, ERR_CORRUPT, "the key ring in %s is damaged: its file \"ring\" is not one", r->dir);
    memcpy(r->id, p + AT_HEADER_ID, sizeof r->id);
    r->wrapping = first ? 0 : get_be32(p + AT_HEADER_WRAPPING);
    r->history = (struct ring_history){0};
    if (!first) {
        r->history.rotated_us = (int64_t)get_be64(p + AT_HEADER_ROTATED);
        memcpy(r->history.before, p + AT_HEADER_BEFORE, VAULT_CHECK_BYTES);
    }
    return ERR_OK;
}

static bool proves(const struct ring *r, struct str h)
{
    uint8_t zero[VAULT_KEY_BYTES];
    return ring_unwrap(r, r->master, HEADER_OWNER, r->wrapping, (const uint8_t *)h.ptr + AT_HEADER_SALT,
        (const uint8_t *)h.ptr + AT_HEADER_PROOF, zero);
}

/* Is the master key the one of a rotation that did not come to its end? */
static bool opens_next(const struct ring *r)
{
    char *path;
    struct errctx ec;
    struct buf b = BUF_INIT(4 * HEADER_BYTES);
    struct ring next = {.dir = r->dir, .master = r->master};
    if (asprintf(&path, "%s/" RING_NEXT_HEADER, r->dir) < 0)
        return false;
    bool opens = os_read_file(path, &b, &ec) == ERR_OK && parse_header(&next, buf_view(&b), &ec) == ERR_OK &&
                 memcmp(next.id, r->id, sizeof r->id) == 0 && proves(&next, buf_view(&b));
    buf_release(&b);
    free(path);
    return opens;
}

static enum err wrong_key(const struct ring *r, struct errctx *ec)
{
    uint8_t check[VAULT_CHECK_BYTES];
    err_set(ec, ERR_INVALID_REQUEST, "the master key does not open the key ring in %s", r->dir);
    ring_key_check(r, check);
    if (r->history.rotated_us != 0 && memcmp(check, r->history.before, sizeof check) == 0) {
        struct buf when = BUF_INIT(64);
        time_format(&when, r->history.rotated_us);
        err_detail(ec, "It is the key before the rotation of %.*s: the new one is in force.",
            STR_FMT(buf_view(&when)));
        buf_release(&when);
    } else if (opens_next(r)) {
        err_detail(ec, "It is the new key of a rotation that did not finish: the one before is in force.");
    } else {
        err_detail(
            ec, "The key is not the one that this ring was made with, or the ring's header is damaged.");
    }
    err_hint(ec, "Check master_key_file or KALAMDB_MASTER_KEY.");
    return ERR_INVALID_REQUEST;
}

static enum err check_header(struct ring *r, struct str h, struct errctx *ec)
{
    enum err e = parse_header(r, h, ec);
    if (e != ERR_OK)
        return e;
    return proves(r, h) ? ERR_OK : wrong_key(r, ec);
}

/* Looks through the folder: do segments stand there? Half-written ones of a destruction that was cut short
 * go: they hold keys that may be destroyed next. */
static enum err tidy(struct ring *r, bool *ret_segments, struct errctx *ec)
{
    DIR *d = opendir(r->dir);
    if (d == NULL)
        return ring_io_error(ec, "open", r->dir, errno);
    enum err e = ERR_OK;
    bool removed = false;
    *ret_segments = false;
    for (const struct dirent *entry; e == ERR_OK && (entry = readdir(d)) != NULL;) {
        struct str name = str_c(entry->d_name);
        *ret_segments = *ret_segments || str_ends_with(name, STR(".ring"));
        if (!str_ends_with(name, STR(".ring.new")))
            continue;
        removed = true;
        if (unlinkat(dirfd(d), entry->d_name, 0) != 0)
            e = ring_io_error(ec, "remove", entry->d_name, errno);
    }
    closedir(d);
    return e == ERR_OK && removed ? os_fsync_dir(r->os, r->dir, ec) : e;
}

static enum err open_header(struct ring *r, bool existing, struct errctx *ec)
{
    char *path;
    bool segments;
    if (asprintf(&path, "%s/ring", r->dir) < 0)
        return no_memory(ec);
    struct buf b = BUF_INIT(4 * HEADER_BYTES);
    enum err e = os_read_file(path, &b, ec);
    if (e == ERR_OK || e == ERR_TOO_LARGE)
        e = check_header(r, e == ERR_OK ? buf_view(&b) : STR_NULL, ec);
    else if (e == ERR_NOT_FOUND && existing)
        e = err_set(ec, ERR_NOT_FOUND, "there is no key ring in %s", r->dir);
    else if (e == ERR_NOT_FOUND) {
        e = tidy(r, &segments, ec);
        if (e == ERR_OK && segments)
            e = err_set(
                ec, ERR_CORRUPT, "the key ring in %s has keys, but its file \"ring\" is missing", r->dir);
        if (e == ERR_OK) {
            r->os->random(r->os->ctx, r->id, sizeof r->id);
            e = ring_write_header(r, "ring", ec);
        }
    }
    buf_release(&b);
    free(path);
    if (e == ERR_OK)
        e = tidy(r, &segments, ec);
    return e == ERR_OK ? ring_remove_wrappings(r->os, r->dir, r->wrapping, ec) : e;
}

/* ---- runs --------------------------------------------------------------------------------------------- */

static void run_checksum(
    const struct ring *r, const uint8_t record[RUN_RECORD_BYTES], uint8_t ret[CHECKSUM_BYTES])
{
    char bytes[VAULT_RING_ID_BYTES + AT_RUN_CHECKSUM];
    uint8_t digest[32];
    memcpy(bytes, r->id, sizeof r->id);
    memcpy(bytes + sizeof r->id, record, AT_RUN_CHECKSUM);
    sha256(str_n(bytes, sizeof bytes), digest);
    memcpy(ret, digest, CHECKSUM_BYTES);
}

static enum err read_runs(struct ring *r, int fd, struct errctx *ec)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return ring_io_error(ec, "stat", "runs", errno);
    /* A torn record at the end keeps its number: nothing was sealed in that run, but nobody can tell. */
    uint64_t n = ((uint64_t)st.st_size + RUN_RECORD_BYTES - 1) / RUN_RECORD_BYTES;
    if (n >= RUNS_MAX)
        return err_set(ec, ERR_CORRUPT, "the key ring in %s is damaged: \"runs\" is too large", r->dir);
    r->nruns = (size_t)n + 1;
    r->runs = calloc(r->nruns, sizeof *r->runs);
    uint8_t *records = calloc((size_t)n + 1, RUN_RECORD_BYTES);
    if (r->runs == NULL || records == NULL) {
        free(records);
        return no_memory(ec);
    }
    int64_t got = ring_read_at(fd, records, (size_t)n * RUN_RECORD_BYTES, 0);
    for (size_t i = 0; got >= 0 && i < n; i++) {
        uint8_t sum[CHECKSUM_BYTES];
        const uint8_t *record = records + i * RUN_RECORD_BYTES;
        run_checksum(r, record, sum);
        r->runs[i].valid =
            get_be32(record) == i + 1 && memcmp(sum, record + AT_RUN_CHECKSUM, sizeof sum) == 0;
        memcpy(r->runs[i].id, record + 4, RING_RUN_BYTES);
    }
    free(records);
    return got < 0 ? ring_io_error(ec, "read", "runs", (int)-got) : ERR_OK;
}

static enum err add_run(struct ring *r, int fd, struct errctx *ec)
{
    uint8_t record[RUN_RECORD_BYTES] = {0};
    struct ring_run *run = &r->runs[r->nruns - 1];
    r->os->random(r->os->ctx, run->id, sizeof run->id);
    run->valid = true;
    put_be32(record, (uint32_t)r->nruns);
    memcpy(record + 4, run->id, sizeof run->id);
    run_checksum(r, record, record + AT_RUN_CHECKSUM);
    int failed = ring_write_at(fd, record, sizeof record, (r->nruns - 1) * RUN_RECORD_BYTES);
    if (failed == 0)
        failed = ring_sync(r, fd);
    return failed == 0 ? ERR_OK : ring_io_error(ec, "write", "runs", -failed);
}

uint32_t ring_run(const struct ring *r)
{
    return (uint32_t)r->nruns;
}

enum err ring_run_id(const struct ring *r, uint32_t run, uint8_t ret[RING_RUN_BYTES], struct errctx *ec)
{
    if (run == 0 || run > r->nruns || !r->runs[run - 1].valid)
        return err_internal(ec, ERR_CORRUPT, "the key ring does not know run %u", run);
    memcpy(ret, r->runs[run - 1].id, RING_RUN_BYTES);
    return ERR_OK;
}

/* ---- open, close -------------------------------------------------------------------------------------- */

static enum err open_files(struct ring *r, bool existing, struct errctx *ec)
{
    char *path;
    struct stat st;
    if (existing && stat(r->dir, &st) != 0)
        return err_set(ec, ERR_NOT_FOUND, "there is no key ring in %s", r->dir);
    enum err e = os_mkdirs(r->dir, ec);
    if (e != ERR_OK)
        return e;
    if (asprintf(&path, "%s/runs", r->dir) < 0)
        return no_memory(ec);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || flock(fd, LOCK_EX) != 0)
        e = ring_io_error(ec, "open", path, errno);
    if (e == ERR_OK)
        e = open_header(r, existing, ec);
    if (e == ERR_OK)
        e = read_runs(r, fd, ec);
    if (e == ERR_OK)
        e = add_run(r, fd, ec);
    if (e == ERR_OK)
        e = os_fsync_dir(r->os, r->dir, ec);
    if (fd >= 0)
        close(fd);
    free(path);
    return e;
}

enum err ring_open(const struct vault_config *cfg, struct ring **ret, struct errctx *ec)
{
    struct ring *r = calloc(1, sizeof *r);
    if (r == NULL)
        return no_memory(ec);
    r->os = cfg->os != NULL ? cfg->os : os_posix();
    r->dir = strdup(cfg->dir);
    r->master = secret_alloc(VAULT_KEY_BYTES, &r->locked);
    pthread_mutex_init(&r->copying, NULL);
    pthread_mutex_init(&r->whole, NULL);
    pthread_mutex_init(&r->segment, NULL);
    pthread_mutex_init(&r->lock, NULL);
    for (size_t i = 0; i < RING_FDS; i++)
        r->fds[i].fd = -1;
    enum err e = r->dir != NULL && r->master != NULL ? ERR_OK : no_memory(ec);
    if (e == ERR_OK) {
        memcpy(r->master, cfg->master_key, VAULT_KEY_BYTES);
        e = open_files(r, cfg->existing, ec);
    }
    if (e != ERR_OK) {
        ring_close(r);
        return e;
    }
    *ret = r;
    return ERR_OK;
}

void ring_close(struct ring *r)
{
    if (r == NULL)
        return;
    for (size_t i = 0; i < RING_FDS; i++)
        if (r->fds[i].fd >= 0)
            close(r->fds[i].fd);
    secret_free(r->master, VAULT_KEY_BYTES);
    secret_free(r->pending, r->cap_pending * sizeof *r->pending);
    pthread_mutex_destroy(&r->whole);
    pthread_mutex_destroy(&r->segment);
    pthread_mutex_destroy(&r->lock);
    pthread_mutex_destroy(&r->copying);
    free(r->rotated);
    free(r->runs);
    free(r->dir);
    free(r);
}

const uint8_t *ring_id(const struct ring *r)
{
    return r->id;
}

bool ring_memory_locked(const struct ring *r)
{
    return r->locked;
}
