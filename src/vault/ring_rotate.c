/* All keys of a ring under another master key, while the ring is in use.
 *
 * The set of segments that are wrapped under one master key is a wrapping, numbered from 0; the number stands
 * in the names of its segments (000012.ring, 000012-1.ring …) and in the header. A rotation
 *
 *   1. writes ring.next, the header as it will be,
 *   2. writes each segment anew as one of the next wrapping, synced,
 *   3. does once more what changed meanwhile, and holds off changes for that,
 *   4. renames ring.next to ring: this is the switch,
 *   5. overwrites and removes the segments of the wrapping before.
 *
 * Until 4 the ring is what it was, from 4 on it is the next one, and whatever of the other wrapping lies
 * there goes at the next opening. A new key marks its segment as changed. A destruction is done in both
 * wrappings before it is acknowledged, and never while its segment is between 2's reading and writing, so
 * that no wrapped key outlives it. `runs` stays locked all the while: another process that opens the ring
 * would otherwise take the next wrapping for what a crash left. */
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

static enum err no_memory(struct errctx *ec)
{
    return err_set(ec, ERR_NO_MEMORY, "out of memory");
}

bool ring_segment_name(const char *name, uint64_t *ret_segment, uint32_t *ret_wrapping)
{
    struct str text = str_c(name);
    int64_t segment, wrapping = 0;
    if (!str_ends_with(text, STR(".ring")))
        return false;
    text.len -= STR(".ring").len;
    size_t n = strspn(name, "0123456789");
    if (n < 6 || n > 18 || !str_to_i64(str_n(name, n), &segment))
        return false;
    if (n < text.len && (name[n] != '-' || strspn(name + n + 1, "0123456789") != text.len - n - 1 ||
                            !str_to_i64(str_n(name + n + 1, text.len - n - 1), &wrapping) || wrapping < 1 ||
                            wrapping > UINT32_MAX))
        return false;
    *ret_segment = (uint64_t)segment;
    *ret_wrapping = (uint32_t)wrapping;
    return true;
}

/* ---- removing ----------------------------------------------------------------------------------------- */

int ring_zero_file(const struct os *os, int fd)
{
    static const char zero[65536];
    struct stat st;
    int failed = fstat(fd, &st) == 0 ? 0 : -errno;
    for (off_t at = 0; failed == 0 && at < st.st_size; at += (off_t)sizeof zero) {
        off_t left = st.st_size - at;
        failed =
            ring_write_at(fd, zero, left < (off_t)sizeof zero ? (size_t)left : sizeof zero, (uint64_t)at);
    }
    return failed == 0 ? os->fsync(os->ctx, fd) : failed;
}

int ring_zero_and_remove(const struct os *os, const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    int failed = ring_zero_file(os, fd);
    close(fd);
    if (failed == 0)
        failed = os->unlink(os->ctx, path);
    return failed == -ENOENT ? 0 : failed;
}

enum err ring_remove_wrappings(const struct os *os, const char *dir, uint32_t keep, struct errctx *ec)
{
    DIR *d = opendir(dir);
    if (d == NULL)
        return ring_io_error(ec, "open", dir, errno);
    enum err e = ERR_OK;
    bool removed = false;
    uint64_t segment;
    uint32_t wrapping;
    for (const struct dirent *entry; e == ERR_OK && (entry = readdir(d)) != NULL;) {
        char *path;
        bool other = ring_segment_name(entry->d_name, &segment, &wrapping) && wrapping != keep;
        if (!other && strncmp(entry->d_name, RING_NEXT_HEADER, sizeof RING_NEXT_HEADER - 1) != 0)
            continue;
        if (asprintf(&path, "%s/%s", dir, entry->d_name) < 0) {
            e = no_memory(ec);
            break;
        }
        int failed = ring_zero_and_remove(os, path);
        if (failed != 0)
            e = ring_io_error(ec, "remove", path, -failed);
        removed = true;
        free(path);
    }
    closedir(d);
    return e == ERR_OK && removed ? os_fsync_dir(os, dir, ec) : e;
}

/* ---- what changes meanwhile; lock held ---------------------------------------------------------------- */

static struct rotated *find_rotated(struct ring *r, uint64_t segment)
{
    for (size_t i = r->nrotated; i > 0; i--)
        if (r->rotated[i - 1].segment == segment)
            return &r->rotated[i - 1];
    return NULL;
}

static enum err add_dirty(struct ring *r, uint64_t segment, struct errctx *ec)
{
    struct rotated *s = find_rotated(r, segment);
    if (s == NULL && r->nrotated == r->cap_rotated) {
        size_t cap = r->cap_rotated == 0 ? 64 : r->cap_rotated * 2;
        struct rotated *grown = reallocarray(r->rotated, cap, sizeof *grown);
        if (grown == NULL)
            return no_memory(ec);
        r->rotated = grown;
        r->cap_rotated = cap;
    }
    if (s == NULL) {
        s = &r->rotated[r->nrotated++];
        *s = (struct rotated){.segment = segment};
    }
    s->dirty = true;
    return ERR_OK;
}

enum err ring_rotation_touch(struct ring *r, uint64_t segment, struct errctx *ec)
{
    return r->next != NULL ? add_dirty(r, segment, ec) : ERR_OK;
}

enum err ring_rotation_destroy(
    struct ring *r, uint64_t owner, const uint8_t slot[RING_SLOT_BYTES], struct errctx *ec)
{
    if (!r->two)
        return ERR_OK;
    struct ring other = {.dir = r->dir, .wrapping = r->other};
    char *path = ring_segment_path(&other, owner / RING_SEGMENT_SLOTS, "");
    if (path == NULL)
        return no_memory(ec);
    enum err e = ring_rotation_touch(r, owner / RING_SEGMENT_SLOTS, ec);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    int failed = fd >= 0 ? 0 : -errno;
    if (failed == 0)
        failed = ring_write_at(fd, slot, RING_SLOT_BYTES, owner % RING_SEGMENT_SLOTS * RING_SLOT_BYTES);
    if (failed == 0)
        failed = ring_sync(r, fd);
    if (fd >= 0)
        close(fd);
    if (failed != 0 && failed != -ENOENT && e == ERR_OK)
        e = ring_io_error(ec, "overwrite", path, -failed);
    free(path);
    return e;
}

/* ---- wrapping ----------------------------------------------------------------------------------------- */

/* A slot that is damaged stays what it is. */
static void rewrap_slot(
    const struct ring *r, const struct ring *next, uint64_t owner, uint8_t *slot, struct rotated *count)
{
    uint8_t key[VAULT_KEY_BYTES];
    uint32_t generation = get_be32(slot);
    if (ring_slot_is_zero(slot))
        return;
    bool valid = ring_slot_valid(r, owner, slot);
    if (valid && slot[AT_STATE] == SLOT_DESTROYED)
        return;
    if (!valid || !ring_unwrap(r, r->master, owner, generation, slot + AT_SALT, slot + AT_KEY, key)) {
        count->damaged++;
        return;
    }
    r->os->random(r->os->ctx, slot + AT_SALT, SALT_BYTES);
    ring_wrap(next, next->master, owner, generation, slot + AT_SALT, key, slot + AT_KEY);
    vault_wipe(key, sizeof key);
    ring_slot_checksum(next, owner, slot, slot + AT_CHECKSUM);
    count->keys++;
}

/* lock held */
static enum err read_segment(
    struct ring *r, uint64_t segment, uint8_t *bytes, size_t *ret_n, struct errctx *ec)
{
    int fd;
    enum err e = ring_segment_fd(r, segment, false, &fd, ec);
    if (e == ERR_NOT_FOUND)
        return err_internal(ec, ERR_IO, "key ring: a segment is gone");
    int64_t n = e == ERR_OK ? ring_read_at(fd, bytes, SEGMENT_BYTES, 0) : 0;
    if (n < 0)
        return ring_io_error(ec, "read", "a segment", (int)-n);
    memset(bytes + n, 0, SEGMENT_BYTES - (size_t)n);
    *ret_n = ((size_t)n + RING_SLOT_BYTES - 1) / RING_SLOT_BYTES * RING_SLOT_BYTES;
    return e;
}

static enum err write_segment(
    const struct ring *r, struct rotated *count, uint8_t *bytes, size_t n, struct errctx *ec)
{
    for (size_t at = 0; at < n; at += RING_SLOT_BYTES)
        rewrap_slot(
            r, r->next, count->segment * RING_SEGMENT_SLOTS + at / RING_SLOT_BYTES, bytes + at, count);
    char *path = ring_segment_path(r->next, count->segment, "");
    if (path == NULL)
        return no_memory(ec);
    /* In place when it is there already: what it held goes with that. */
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    int failed = fd < 0 ? -errno : ring_write_at(fd, bytes, n, 0);
    if (failed == 0)
        failed = ring_sync(r, fd);
    if (fd >= 0)
        close(fd);
    enum err e = failed == 0 ? ERR_OK : ring_io_error(ec, "write", path, -failed);
    free(path);
    return e;
}

/* One segment that is dirty. `locked`: lock and segment are held; else it takes them, and leaves the ring to
 * others while it computes and writes. */
static enum err rotate_one(struct ring *r, uint8_t *bytes, bool locked, bool *ret_any, struct errctx *ec)
{
    size_t n = 0, i = 0;
    enum err e = ERR_OK;
    if (!locked) {
        pthread_mutex_lock(&r->segment);
        pthread_mutex_lock(&r->lock);
    }
    while (i < r->nrotated && !r->rotated[i].dirty)
        i++;
    *ret_any = i < r->nrotated;
    struct rotated count = {0};
    if (*ret_any) {
        count.segment = r->rotated[i].segment;
        r->rotated[i].dirty = false;
        e = read_segment(r, count.segment, bytes, &n, ec);
    }
    if (!locked)
        pthread_mutex_unlock(&r->lock);
    if (*ret_any && e == ERR_OK)
        e = write_segment(r, &count, bytes, n, ec);
    if (!locked)
        pthread_mutex_lock(&r->lock);
    if (*ret_any && e == ERR_OK) {
        r->rotated[i].keys = count.keys;
        r->rotated[i].damaged = count.damaged;
        r->rotated_done++;
    }
    if (!locked) {
        pthread_mutex_unlock(&r->lock);
        pthread_mutex_unlock(&r->segment);
    }
    return e;
}

/* ---- the switch; lock and segment held ---------------------------------------------------------------- */

static enum err put_in_force(struct ring *r, bool *ret_switched, struct errctx *ec)
{
    char *next, *now;
    if (asprintf(&next, "%s/" RING_NEXT_HEADER, r->dir) < 0)
        return no_memory(ec);
    if (asprintf(&now, "%s/ring", r->dir) < 0) {
        free(next);
        return no_memory(ec);
    }
    struct stat st;
    int failed = r->os->rename(r->os->ctx, next, now);
    /* Whatever was said of it: the rename took the file away, or it did not. */
    *ret_switched = stat(next, &st) != 0;
    free(next);
    free(now);
    enum err e = os_fsync_dir(r->os, r->dir, ec);
    if (e != ERR_OK || (failed == 0) != *ret_switched) {
        r->stuck = true;
        return err_set(ec, ERR_UNAVAILABLE,
            "the disk failed while the master key was changed: start the server again, with the new key, "
            "or, where that does not open the ring, with the one before");
    }
    return *ret_switched ? ERR_OK : ring_io_error(ec, "rename", RING_NEXT_HEADER, -failed);
}

static void become_next(struct ring *r)
{
    for (size_t i = 0; i < RING_FDS; i++) {
        if (r->fds[i].fd >= 0)
            close(r->fds[i].fd);
        r->fds[i].fd = -1;
    }
    memcpy(r->master, r->next->master, VAULT_KEY_BYTES);
    r->other = r->wrapping;
    r->wrapping = r->next->wrapping;
    r->history = r->next->history;
}

/* ---- the whole ---------------------------------------------------------------------------------------- */

static enum err list_segments(struct ring *r, struct errctx *ec)
{
    DIR *d = opendir(r->dir);
    if (d == NULL)
        return ring_io_error(ec, "open", r->dir, errno);
    enum err e = ERR_OK;
    uint64_t segment;
    uint32_t wrapping;
    for (const struct dirent *entry; e == ERR_OK && (entry = readdir(d)) != NULL;)
        if (ring_segment_name(entry->d_name, &segment, &wrapping) && wrapping == r->wrapping)
            e = add_dirty(r, segment, ec);
    closedir(d);
    return e;
}

static enum err remove_other(struct ring *r, struct errctx *ec)
{
    enum err e = ring_remove_wrappings(r->os, r->dir, r->wrapping, ec);
    pthread_mutex_lock(&r->lock);
    r->two = r->two && e != ERR_OK;
    pthread_mutex_unlock(&r->lock);
    return e;
}

static enum err begin(struct ring *r, struct ring *next, const uint8_t *master, struct errctx *ec)
{
    if (r->stuck || r->wrapping == UINT32_MAX)
        return err_set(ec, ERR_UNAVAILABLE, "the last rotation of the master key failed: start again first");
    if (memcmp(master, r->master, VAULT_KEY_BYTES) == 0)
        return err_set(ec, ERR_INVALID_REQUEST, "this is the master key in use");
    *next = (struct ring){.dir = r->dir, .os = r->os, .wrapping = r->wrapping + 1};
    memcpy(next->id, r->id, sizeof next->id);
    next->master = secret_alloc(VAULT_KEY_BYTES, NULL);
    if (next->master == NULL)
        return no_memory(ec);
    memcpy(next->master, master, VAULT_KEY_BYTES);
    next->history.rotated_us = os_realtime_us(r->os);
    ring_key_check(r, next->history.before);
    enum err e = remove_other(r, ec); /* of an attempt that failed */
    if (e == ERR_OK)
        e = ring_write_header(next, RING_NEXT_HEADER, ec);
    if (e != ERR_OK)
        return e;
    pthread_mutex_lock(&r->lock);
    r->nrotated = r->rotated_done = 0;
    e = list_segments(r, ec);
    if (e == ERR_OK) {
        r->next = next;
        r->two = true;
        r->other = next->wrapping;
    }
    pthread_mutex_unlock(&r->lock);
    return e;
}

static enum err finish(struct ring *r, uint8_t *bytes, struct vault_rotation *ret, struct errctx *ec)
{
    bool any = true;
    enum err e = ERR_OK;
    while (e == ERR_OK && any)
        e = rotate_one(r, bytes, true, &any, ec);
    if (e == ERR_OK)
        e = os_fsync_dir(r->os, r->dir, ec);
    if (e == ERR_OK)
        e = put_in_force(r, &ret->switched, ec);
    if (e != ERR_OK)
        return e;
    become_next(r);
    ret->segments = r->nrotated;
    for (size_t i = 0; i < r->nrotated; i++) {
        ret->keys += r->rotated[i].keys;
        ret->damaged += r->rotated[i].damaged;
    }
    return ERR_OK;
}

static enum err rotate(struct ring *r, uint8_t *bytes, struct vault_rotation *ret, struct errctx *ec)
{
    enum { AGAIN = 2 }; /* new users come while it runs, and all of them into the last segments */
    bool any = true;
    enum err e = ERR_OK;
    size_t rounds = r->nrotated + AGAIN;
    for (size_t i = 0; e == ERR_OK && any && i < rounds; i++)
        e = rotate_one(r, bytes, false, &any, ec);
    if (e == ERR_OK)
        e = os_fsync_dir(r->os, r->dir, ec);
    pthread_mutex_lock(&r->segment);
    pthread_mutex_lock(&r->lock);
    if (e == ERR_OK)
        e = finish(r, bytes, ret, ec);
    r->next = NULL;
    pthread_mutex_unlock(&r->lock);
    pthread_mutex_unlock(&r->segment);
    return e;
}

static enum err rotate_held(
    struct ring *r, const uint8_t *master, struct vault_rotation *ret, struct errctx *ec)
{
    struct ring next = {.master = NULL};
    struct errctx ignored;
    uint8_t *bytes = malloc(SEGMENT_BYTES);
    enum err e = bytes != NULL ? begin(r, &next, master, ec) : no_memory(ec);
    bool begun = e == ERR_OK;
    if (begun)
        e = rotate(r, bytes, ret, ec);
    free(bytes);
    secret_free(next.master, VAULT_KEY_BYTES);
    if (e == ERR_OK)
        e = remove_other(r, ec);
    else if (begun && !r->stuck) /* what does not go now goes at the next opening, or attempt */
        (void)!remove_other(r, &ignored);
    return e;
}

enum err ring_rotate(
    struct ring *r, const uint8_t master[VAULT_KEY_BYTES], struct vault_rotation *ret, struct errctx *ec)
{
    char *path;
    *ret = (struct vault_rotation){0};
    if (pthread_mutex_trylock(&r->whole) != 0)
        return err_set(ec, ERR_CONFLICT, "keys are being rotated or copied");
    if (asprintf(&path, "%s/runs", r->dir) < 0) {
        pthread_mutex_unlock(&r->whole);
        return no_memory(ec);
    }
    int fd = open(path, O_RDWR | O_CLOEXEC);
    enum err e = fd >= 0 && flock(fd, LOCK_EX) == 0 ? ERR_OK : ring_io_error(ec, "lock", path, errno);
    if (e == ERR_OK)
        e = rotate_held(r, master, ret, ec);
    if (fd >= 0)
        close(fd);
    free(path);
    pthread_mutex_unlock(&r->whole);
    return e;
}

void ring_state(struct ring *r, struct vault_ring_state *ret)
{
    pthread_mutex_lock(&r->lock);
    *ret = (struct vault_ring_state){.rotating = r->next != NULL,
        .segments = r->next != NULL ? r->nrotated : 0,
        .segments_done = r->next == NULL                 ? 0
                         : r->rotated_done < r->nrotated ? r->rotated_done
                                                         : r->nrotated,
        .rotations = r->wrapping,
        .rotated_us = r->history.rotated_us};
    ring_key_check(r, ret->check);
    pthread_mutex_unlock(&r->lock);
}
