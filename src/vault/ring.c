#include "vault/crypt.h"
#include "vault/ring_int.h"
#include "vault/secret.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- slots -------------------------------------------------------------------------------------------- */

void ring_slot_checksum(
    const struct ring *r, uint64_t owner, const uint8_t *slot, uint8_t ret[CHECKSUM_BYTES])
{
    char bytes[VAULT_RING_ID_BYTES + 8 + AT_CHECKSUM];
    uint8_t digest[32];
    memcpy(bytes, r->id, VAULT_RING_ID_BYTES);
    put_be64(bytes + VAULT_RING_ID_BYTES, owner);
    memcpy(bytes + VAULT_RING_ID_BYTES + 8, slot, AT_CHECKSUM);
    sha256(str_n(bytes, sizeof bytes), digest);
    memcpy(ret, digest, CHECKSUM_BYTES);
}

bool ring_slot_is_zero(const uint8_t *slot)
{
    static const uint8_t zero[RING_SLOT_BYTES];
    return memcmp(slot, zero, sizeof zero) == 0;
}

bool ring_slot_valid(const struct ring *r, uint64_t owner, const uint8_t *slot)
{
    uint8_t sum[CHECKSUM_BYTES];
    ring_slot_checksum(r, owner, slot, sum);
    return memcmp(sum, slot + AT_CHECKSUM, sizeof sum) == 0 && slot[AT_STATE] >= SLOT_KEY &&
           slot[AT_STATE] <= SLOT_DESTROYED;
}

void ring_slot_destroyed(const struct ring *r, uint64_t owner, uint8_t ret[RING_SLOT_BYTES])
{
    memset(ret, 0, RING_SLOT_BYTES);
    ret[AT_STATE] = SLOT_DESTROYED;
    ring_slot_checksum(r, owner, ret, ret + AT_CHECKSUM);
}

static void slot_of_key(const struct ring *r, const struct pending_key *p, uint8_t ret[RING_SLOT_BYTES])
{
    enum { FIRST_GENERATION = 1 };
    memset(ret, 0, RING_SLOT_BYTES);
    put_be32(ret, FIRST_GENERATION);
    ret[AT_STATE] = SLOT_KEY;
    r->os->random(r->os->ctx, ret + AT_SALT, SALT_BYTES);
    ring_wrap(r, r->master, p->owner, FIRST_GENERATION, ret + AT_SALT, p->key, ret + AT_KEY);
    ring_slot_checksum(r, p->owner, ret, ret + AT_CHECKSUM);
}

/* ---- segments; lock held ------------------------------------------------------------------------------ */

char *ring_segment_path(const struct ring *r, uint64_t segment, const char *suffix)
{
    char *path;
    unsigned long long no = segment;
    int n = r->wrapping == 0 ? asprintf(&path, "%s/%06llu.ring%s", r->dir, no, suffix)
                             : asprintf(&path, "%s/%06llu-%u.ring%s", r->dir, no, r->wrapping, suffix);
    return n < 0 ? NULL : path;
}

static void forget_fd(struct ring *r, uint64_t segment)
{
    size_t i = (size_t)(segment % RING_FDS);
    if (r->fds[i].fd >= 0 && r->fds[i].segment == segment) {
        close(r->fds[i].fd);
        r->fds[i].fd = -1;
    }
}

enum err ring_segment_fd(struct ring *r, uint64_t segment, bool make, int *ret, struct errctx *ec)
{
    size_t i = (size_t)(segment % RING_FDS);
    if (r->fds[i].fd >= 0 && r->fds[i].segment == segment) {
        *ret = r->fds[i].fd;
        return ERR_OK;
    }
    char *path = ring_segment_path(r, segment, "");
    if (path == NULL)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    enum err e = ERR_OK;
    bool made = false;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT && make) {
        fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        made = fd >= 0;
    }
    if (fd < 0)
        e = errno == ENOENT ? ERR_NOT_FOUND : ring_io_error(ec, "open", path, errno);
    if (e == ERR_OK && made)
        e = os_fsync_dir(r->os, r->dir, ec);
    if (e != ERR_OK && fd >= 0) {
        (void)unlink(path); /* empty: the next attempt makes it, and syncs the folder, again */
        close(fd);
    }
    free(path);
    if (e != ERR_OK)
        return e;
    if (r->fds[i].fd >= 0)
        close(r->fds[i].fd);
    r->fds[i].segment = segment;
    r->fds[i].fd = fd;
    *ret = fd;
    return ERR_OK;
}

static uint64_t slot_offset(uint64_t owner)
{
    return owner % RING_SEGMENT_SLOTS * RING_SLOT_BYTES;
}

/* Zeroes where there is none. */
static enum err read_slot(struct ring *r, uint64_t owner, uint8_t ret[RING_SLOT_BYTES], struct errctx *ec)
{
    int fd = -1;
    uint8_t slot[RING_SLOT_BYTES] = {0};
    enum err e = ring_segment_fd(r, owner / RING_SEGMENT_SLOTS, false, &fd, ec);
    if (e == ERR_OK) {
        int64_t n = ring_read_at(fd, slot, sizeof slot, slot_offset(owner));
        if (n < 0)
            e = ring_io_error(ec, "read", "a segment", (int)-n);
    }
    if (e != ERR_OK && e != ERR_NOT_FOUND)
        return e;
    memcpy(ret, slot, sizeof slot);
    return ERR_OK;
}

/* ---- keys --------------------------------------------------------------------------------------------- */

static struct pending_key *find_pending(struct ring *r, uint64_t owner)
{
    for (size_t i = r->npending; i > 0; i--)
        if (r->pending[i - 1].owner == owner)
            return &r->pending[i - 1];
    return NULL;
}

/* In the order of the numbers it is at the end, mostly. */
static bool is_pending(struct ring *r, uint64_t owner)
{
    return owner <= r->pending_max && find_pending(r, owner) != NULL;
}

static void drop_pending(struct ring *r, struct pending_key *p)
{
    *p = r->pending[--r->npending];
    vault_wipe(&r->pending[r->npending], sizeof *p);
}

static bool grow_pending(struct ring *r)
{
    enum { FIRST = 4096 / sizeof(struct pending_key) };
    if (r->npending < r->cap_pending)
        return true;
    size_t cap = r->cap_pending == 0 ? FIRST : r->cap_pending * 2;
    bool locked;
    struct pending_key *p = secret_alloc(cap * sizeof *p, &locked);
    if (p == NULL)
        return false;
    if (r->npending > 0)
        memcpy(p, r->pending, r->npending * sizeof *p);
    secret_free(r->pending, r->cap_pending * sizeof *p);
    r->locked = r->locked && locked;
    r->pending = p;
    r->cap_pending = cap;
    return true;
}

static enum err key_in_slot(const struct ring *r, const uint8_t *master, uint64_t owner, const uint8_t *slot,
    uint32_t generation, uint32_t *ret_generation, uint8_t ret[VAULT_KEY_BYTES], struct errctx *ec)
{
    unsigned long long no = owner;
    uint8_t key[VAULT_KEY_BYTES];
    uint32_t newest = get_be32(slot);
    if (ring_slot_is_zero(slot))
        return err_internal(ec, ERR_CORRUPT, "partition %llu has no key in the ring", no);
    if (!ring_slot_valid(r, owner, slot))
        return err_internal(ec, ERR_CORRUPT, "the key of partition %llu is damaged in the ring", no);
    if (slot[AT_STATE] == SLOT_DESTROYED)
        return err_set(ec, ERR_NOT_FOUND, "the key was destroyed");
    if (generation != 0 && generation != newest)
        return err_internal(
            ec, ERR_CORRUPT, "the ring has no key of generation %u of partition %llu", generation, no);
    bool good = ring_unwrap(r, master, owner, newest, slot + AT_SALT, slot + AT_KEY, key);
    if (good) {
        memcpy(ret, key, sizeof key);
        *ret_generation = newest;
    }
    vault_wipe(key, sizeof key);
    return good ? ERR_OK
                : err_internal(ec, ERR_CORRUPT, "the key of partition %llu does not open in the ring", no);
}

enum err ring_key(struct ring *r, uint64_t owner, uint32_t generation, uint32_t *ret_generation,
    uint8_t ret[VAULT_KEY_BYTES], struct errctx *ec)
{
    uint8_t slot[RING_SLOT_BYTES], master[VAULT_KEY_BYTES];
    pthread_mutex_lock(&r->lock);
    const struct pending_key *p = find_pending(r, owner);
    bool found = p != NULL && generation <= 1;
    enum err e = ERR_OK;
    if (found) {
        memcpy(ret, p->key, VAULT_KEY_BYTES);
        *ret_generation = 1;
    } else {
        e = read_slot(r, owner, slot, ec);
        memcpy(master, r->master, sizeof master); /* the one that this slot is wrapped under */
    }
    pthread_mutex_unlock(&r->lock);
    if (found)
        return ERR_OK;
    if (e == ERR_OK)
        e = key_in_slot(r, master, owner, slot, generation, ret_generation, ret, ec);
    vault_wipe(master, sizeof master);
    return e;
}

bool ring_has(struct ring *r, uint64_t owner)
{
    struct errctx ec;
    uint8_t slot[RING_SLOT_BYTES];
    pthread_mutex_lock(&r->lock);
    bool has = find_pending(r, owner) != NULL;
    if (!has && read_slot(r, owner, slot, &ec) == ERR_OK)
        has = ring_slot_valid(r, owner, slot) && slot[AT_STATE] != SLOT_DESTROYED;
    pthread_mutex_unlock(&r->lock);
    return has;
}

bool ring_is_destroyed(struct ring *r, uint64_t owner)
{
    struct errctx ec;
    uint8_t slot[RING_SLOT_BYTES];
    pthread_mutex_lock(&r->lock);
    bool is = find_pending(r, owner) == NULL && read_slot(r, owner, slot, &ec) == ERR_OK &&
              ring_slot_valid(r, owner, slot) && slot[AT_STATE] == SLOT_DESTROYED;
    pthread_mutex_unlock(&r->lock);
    return is;
}

enum err ring_make(struct ring *r, uint64_t owner, bool *ret_new, struct errctx *ec)
{
    uint8_t slot[RING_SLOT_BYTES];
    pthread_mutex_lock(&r->lock);
    enum err e = ERR_OK;
    *ret_new = false;
    if (!is_pending(r, owner)) {
        e = read_slot(r, owner, slot, ec);
        bool valid = e == ERR_OK && ring_slot_valid(r, owner, slot);
        if (valid && slot[AT_STATE] == SLOT_DESTROYED)
            e = err_internal(ec, ERR_CONFLICT,
                "the key of partition %llu was destroyed and is to be made again", (unsigned long long)owner);
        else if (e == ERR_OK && !valid && !grow_pending(r))
            e = err_set(ec, ERR_NO_MEMORY, "out of memory");
        if (e == ERR_OK && !valid) { /* a torn one was never used: see the header */
            struct pending_key *p = &r->pending[r->npending++];
            p->owner = owner;
            r->pending_max = owner > r->pending_max ? owner : r->pending_max;
            r->os->random(r->os->ctx, p->key, sizeof p->key);
            *ret_new = true;
        }
    }
    pthread_mutex_unlock(&r->lock);
    return e;
}

static enum err stuck(struct errctx *ec)
{
    return err_internal(ec, ERR_IO,
        "key ring: the disk failed while the master key was changed; start again, with the key that then "
        "opens it");
}

static int by_owner(const void *a, const void *b)
{
    const struct pending_key *x = a, *y = b;
    return x->owner < y->owner ? -1 : x->owner > y->owner;
}

/* The pending keys from `first` on that share its segment are written and synced. */
static enum err flush_segment(struct ring *r, size_t first, size_t *ret_end, struct errctx *ec)
{
    uint64_t segment = r->pending[first].owner / RING_SEGMENT_SLOTS;
    uint8_t slot[RING_SLOT_BYTES];
    int fd;
    size_t i = first;
    enum err e = ring_rotation_touch(r, segment, ec);
    if (e == ERR_OK)
        e = ring_segment_fd(r, segment, true, &fd, ec);
    for (; e == ERR_OK && i < r->npending && r->pending[i].owner / RING_SEGMENT_SLOTS == segment; i++) {
        slot_of_key(r, &r->pending[i], slot);
        int w = ring_write_at(fd, slot, sizeof slot, slot_offset(r->pending[i].owner));
        if (w != 0)
            e = ring_io_error(ec, "write", "a segment", -w);
    }
    if (e == ERR_OK) {
        int s = ring_sync(r, fd);
        if (s != 0)
            e = ring_io_error(ec, "fsync", "a segment", -s);
    }
    *ret_end = i;
    return e;
}

enum err ring_flush(struct ring *r, struct errctx *ec)
{
    pthread_mutex_lock(&r->lock);
    enum err e = r->stuck && r->npending > 0 ? stuck(ec) : ERR_OK;
    if (r->npending > 1)
        qsort(r->pending, r->npending, sizeof *r->pending, by_owner);
    for (size_t i = 0; e == ERR_OK && i < r->npending;)
        e = flush_segment(r, i, &i, ec);
    if (e == ERR_OK && r->npending > 0) {
        vault_wipe(r->pending, r->npending * sizeof *r->pending);
        r->npending = 0;
        r->pending_max = 0;
    }
    pthread_mutex_unlock(&r->lock);
    return e;
}

/* ---- destroying; lock held ---------------------------------------------------------------------------- */

/* The segment anew, with the partition's slot replaced: complete and synced under a temporary name, then
 * renamed. `old` is the file that it replaces. */
static enum err rewrite_segment(struct ring *r, int old, uint64_t owner, struct errctx *ec)
{
    uint64_t segment = owner / RING_SEGMENT_SLOTS;
    char *path = ring_segment_path(r, segment, ""), *temp = ring_segment_path(r, segment, ".new");
    uint8_t *bytes = calloc(1, SEGMENT_BYTES);
    enum err e =
        path == NULL || temp == NULL || bytes == NULL ? err_set(ec, ERR_NO_MEMORY, "out of memory") : ERR_OK;
    int64_t n = e == ERR_OK ? ring_read_at(old, bytes, SEGMENT_BYTES, 0) : 0;
    if (n < 0)
        e = ring_io_error(ec, "read", path, (int)-n);
    int fd = -1;
    if (e == ERR_OK) {
        ring_slot_destroyed(r, owner, bytes + slot_offset(owner));
        if ((uint64_t)n < slot_offset(owner) + RING_SLOT_BYTES)
            n = (int64_t)slot_offset(owner) + RING_SLOT_BYTES;
        fd = open(temp, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        int failed = fd < 0 ? -errno : ring_write_at(fd, bytes, (size_t)n, 0);
        if (failed == 0)
            failed = ring_sync(r, fd);
        if (failed == 0)
            failed = r->os->rename(r->os->ctx, temp, path);
        if (failed != 0) {
            e = ring_io_error(ec, "write", temp, -failed);
            (void)r->os->unlink(r->os->ctx, temp);
        }
    }
    if (fd >= 0)
        close(fd);
    free(bytes);
    free(path);
    free(temp);
    return e;
}

/* The blocks of a file that is gone are not wiped by its going. */
static enum err scrub(struct ring *r, int old, uint64_t owner, struct errctx *ec)
{
    uint8_t noise[RING_SLOT_BYTES];
    r->os->random(r->os->ctx, noise, sizeof noise);
    int failed = ring_write_at(old, noise, sizeof noise, slot_offset(owner));
    if (failed == 0)
        failed = ring_sync(r, old);
    return failed == 0 ? ERR_OK : ring_io_error(ec, "overwrite", "a segment", -failed);
}

static enum err destroy_in_segment(struct ring *r, uint64_t owner, bool *ret_existed, struct errctx *ec)
{
    uint8_t slot[RING_SLOT_BYTES];
    uint64_t segment = owner / RING_SEGMENT_SLOTS;
    int fd;
    enum err e = ring_segment_fd(r, segment, false, &fd, ec);
    if (e == ERR_NOT_FOUND)
        return ERR_OK;
    if (e == ERR_OK)
        e = read_slot(r, owner, slot, ec);
    if (e != ERR_OK || ring_slot_is_zero(slot))
        return e;
    if (ring_slot_valid(r, owner, slot) && slot[AT_STATE] == SLOT_DESTROYED)
        return os_fsync_dir(r->os, r->dir, ec); /* perhaps the last attempt failed at this */
    *ret_existed = true;
    ring_slot_destroyed(r, owner, slot);
    e = ring_rotation_destroy(r, owner, slot, ec);
    if (e == ERR_OK)
        e = rewrite_segment(r, fd, owner, ec);
    if (e != ERR_OK)
        return e;
    e = os_fsync_dir(r->os, r->dir, ec);
    enum err scrubbed = scrub(r, fd, owner, ec);
    forget_fd(r, segment);
    return e != ERR_OK ? e : scrubbed;
}

enum err ring_destroy(struct ring *r, uint64_t owner, bool *ret_existed, struct errctx *ec)
{
    pthread_mutex_lock(&r->segment);
    pthread_mutex_lock(&r->lock);
    struct pending_key *p = find_pending(r, owner);
    *ret_existed = p != NULL;
    if (p != NULL)
        drop_pending(r, p);
    enum err e = r->stuck ? stuck(ec) : destroy_in_segment(r, owner, ret_existed, ec);
    pthread_mutex_unlock(&r->lock);
    pthread_mutex_unlock(&r->segment);
    return e;
}
