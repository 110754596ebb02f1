/* Why a clock and a ring suffice: a snapshot sees a file only if it was opened before the commit that
 * replaced it, so before its burial. Pins enter the ring in order of the clock; when the oldest pin is
 * younger than a grave, nobody can read that file any more. */
#include "store/internal.h"
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct grave {
    struct grave *next;
    uint64_t at;
    char path[];
};

void pins_init(struct pins *p, const struct os *os)
{
    *p = (struct pins){.os = os, .quiesce_ms = QUIESCE_MS};
    pthread_mutex_init(&p->mutex, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&p->left, &attr);
    pthread_condattr_destroy(&attr);
    p->ring.prev = p->ring.next = &p->ring;
    p->last = &p->graves;
}

#define UNLINK_INLINE_MAX 8

/* A batch of graves off the list: counted in p->unlinking. */
struct batch_unlink {
    struct pins *pins;
    struct grave *first;
};

void pins_unlink(const struct os *os, const char *path)
{
    char folder[8192];
    (void)os->unlink(os->ctx, path);
    const char *slash = strrchr(path, '/');
    size_t n = slash != NULL ? (size_t)(slash - path) : 0;
    if (n == 0 || n >= sizeof folder)
        return;
    memcpy(folder, path, n);
    folder[n] = 0;
    const char *name = strrchr(folder, '/');
    if (name != NULL && str_ends_with(str_n(folder, (size_t)(name - folder)), STR("/" SHARED_DIR)))
        (void)rmdir(folder); /* stays while anything is in it */
}

static void unlink_all(struct pins *p, struct grave *g)
{
    while (g != NULL) {
        struct grave *next = g->next;
        /* A failure leaves an orphan, which the manifest's garbage list, or the sweep, names to the next
         * open.
         */
        pins_unlink(p->os, g->path);
        free(g);
        g = next;
    }
    pthread_mutex_lock(&p->mutex);
    p->unlinking--;
    pthread_cond_broadcast(&p->left);
    pthread_mutex_unlock(&p->mutex);
}

static void *unlink_main(void *arg)
{
    struct batch_unlink b = *(struct batch_unlink *)arg;
    free(arg);
    unlink_all(b.pins, b.first);
    return NULL;
}

/* What cut_free gave; NULL: nothing. */
static void unlink_graves(struct pins *p, struct grave *first)
{
    int n = 0;
    pthread_t thread;
    if (first == NULL)
        return;
    for (struct grave *g = first; g != NULL && n <= UNLINK_INLINE_MAX; g = g->next)
        n++;
    struct batch_unlink *b = n > UNLINK_INLINE_MAX ? malloc(sizeof *b) : NULL;
    if (b != NULL) {
        *b = (struct batch_unlink){p, first};
        if (pthread_create(&thread, NULL, unlink_main, b) == 0) {
            pthread_detach(thread); /* pins_release waits for the count */
            return;
        }
        free(b);
    }
    unlink_all(p, first);
}

void pins_release(struct pins *p)
{
    pthread_mutex_lock(&p->mutex);
    while (p->unlinking > 0)
        pthread_cond_wait(&p->left, &p->mutex);
    p->unlinking++;
    pthread_mutex_unlock(&p->mutex);
    unlink_all(p, p->graves);
    pthread_cond_destroy(&p->left);
    pthread_mutex_destroy(&p->mutex);
}

void pin_enter(struct pins *p, struct pin *pin)
{
    pthread_mutex_lock(&p->mutex);
    pin->since = p->clock;
    pin->next = &p->ring;
    pin->prev = p->ring.prev;
    p->ring.prev->next = pin;
    p->ring.prev = pin;
    pthread_mutex_unlock(&p->mutex);
}

/* Cuts the graves that nobody can see off the list. Mutex held. */
static struct grave *cut_free(struct pins *p)
{
    uint64_t oldest = p->ring.next == &p->ring ? UINT64_MAX : p->ring.next->since;
    struct grave *first = p->graves, **at = &first;
    while (*at != NULL && (*at)->at <= oldest)
        at = &(*at)->next;
    p->graves = *at;
    if (p->graves == NULL)
        p->last = &p->graves;
    *at = NULL;
    p->unlinking += first != NULL;
    return first;
}

void pin_leave(struct pins *p, struct pin *pin)
{
    pthread_mutex_lock(&p->mutex);
    pin->prev->next = pin->next;
    pin->next->prev = pin->prev;
    struct grave *free_now = p->graves != NULL ? cut_free(p) : NULL;
    if (p->quiescing > 0)
        pthread_cond_broadcast(&p->left);
    pthread_mutex_unlock(&p->mutex);
    unlink_graves(p, free_now);
}

/* Appends to *last; false: out of memory. */
static bool grave_new(const char *path, struct grave ***last)
{
    size_t n = strlen(path) + 1;
    struct grave *g = malloc(sizeof *g + n);
    if (g == NULL)
        return false;
    g->next = NULL;
    memcpy(g->path, path, n);
    **last = g;
    *last = &g->next;
    return true;
}

static void bury_list(struct pins *p, struct grave *first, struct grave **last)
{
    if (first == NULL)
        return;
    pthread_mutex_lock(&p->mutex);
    p->clock++;
    for (struct grave *g = first; g != NULL; g = g->next)
        g->at = p->clock;
    *p->last = first;
    p->last = last;
    struct grave *free_now = cut_free(p);
    pthread_mutex_unlock(&p->mutex);
    unlink_graves(p, free_now);
}

void pins_bury(struct pins *p, const char *path)
{
    struct grave *first = NULL, **last = &first;
    if (grave_new(path, &last))
        bury_list(p, first, last);
}

void pins_bury_all(struct pins *p, struct str paths)
{
    struct grave *first = NULL, **last = &first;
    struct reader r = reader_of(paths);
    while (reader_left(&r) > 0 && grave_new(read_lstr(&r).ptr, &last))
        ;
    bury_list(p, first, last);
}

bool pins_buried(struct pins *p, const char *path)
{
    bool found = false;
    pthread_mutex_lock(&p->mutex);
    while (p->unlinking > 0)
        pthread_cond_wait(&p->left, &p->mutex);
    for (const struct grave *g = p->graves; !found && g != NULL; g = g->next)
        found = strcmp(g->path, path) == 0;
    pthread_mutex_unlock(&p->mutex);
    return found;
}

bool pins_quiesce(struct pins *p)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += p->quiesce_ms / 1000;
    until.tv_nsec += (long)(p->quiesce_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    int rc = 0;
    pthread_mutex_lock(&p->mutex);
    uint64_t now = ++p->clock;
    p->quiescing++;
    while (rc == 0 && (p->unlinking > 0 || (p->ring.next != &p->ring && p->ring.next->since < now)))
        rc = pthread_cond_timedwait(&p->left, &p->mutex, &until);
    bool quiet = p->ring.next == &p->ring || p->ring.next->since >= now;
    p->quiescing--;
    pthread_mutex_unlock(&p->mutex);
    return quiet;
}

/* ---- the hot tier ---- */

enum { FORCE_BOTTOMMOST = 3 }; /* rewrite files of the last level too, but not those this compaction made */

enum err purge_hot(struct store *s, struct errctx *ec)
{
    char *message = NULL;
    enum err err;
    pthread_rwlock_rdlock(&s->db_lock);
    if (s->db == NULL) {
        pthread_rwlock_unlock(&s->db_lock);
        return err_set(ec, ERR_UNAVAILABLE, "the storage is being recovered");
    }
    rocksdb_flushoptions_t *flush = rocksdb_flushoptions_create();
    rocksdb_compactoptions_t *compact = rocksdb_compactoptions_create();
    rocksdb_flushoptions_set_wait(flush, 1);
    rocksdb_compactoptions_set_bottommost_level_compaction(compact, FORCE_BOTTOMMOST);
    rocksdb_compactoptions_set_exclusive_manual_compaction(compact, 0);
    /* The flush moves writing to a new log; the old one is deleted when its last memtable is in a table file.
     */
    rocksdb_flush(s->db, flush, &message);
    err = store_rocks_err(ec, message, "purge: flush");
    if (err == ERR_OK)
        rocksdb_compact_range_opt(s->db, compact, NULL, 0, NULL, 0);
    rocksdb_compactoptions_destroy(compact);
    rocksdb_flushoptions_destroy(flush);
    pthread_rwlock_unlock(&s->db_lock);
    return err;
}

/* ---- files that are on their way out ---- */

/* 000123.sst */
static bool file_number(const char *name, uint64_t *ret)
{
    struct str s = str_c(name);
    int64_t n;
    if (!str_ends_with(s, STR(".sst")) || !str_to_i64(str_n(s.ptr, s.len - 4), &n) || n < 0)
        return false;
    *ret = (uint64_t)n;
    return true;
}

static enum err each_file(struct store *s, struct purge_files *ret, struct errctx *ec)
{
    DIR *d = opendir(s->hot_dir);
    enum err err = d != NULL ? ERR_OK : err_internal(ec, ERR_IO, "%s: %s", s->hot_dir, strerror(errno));
    ret->n = 0;
    for (struct dirent *e; err == ERR_OK && (e = readdir(d)) != NULL;) {
        uint64_t number;
        if (!file_number(e->d_name, &number))
            continue;
        if (ret->n == ret->cap) {
            size_t cap = ret->cap == 0 ? 64 : ret->cap * 2;
            uint64_t *p = realloc(ret->numbers, cap * sizeof *p);
            if (p == NULL) {
                err = err_internal(ec, ERR_NO_MEMORY, "purge: out of memory");
                break;
            }
            ret->numbers = p;
            ret->cap = cap;
        }
        ret->numbers[ret->n++] = number;
    }
    if (d != NULL)
        closedir(d);
    return err;
}

enum err purge_files_note(struct store *s, struct purge_files *ret, struct errctx *ec)
{
    return each_file(s, ret, ec);
}

static bool holds(const uint64_t *numbers, size_t n, uint64_t number)
{
    for (size_t i = 0; i < n; i++)
        if (numbers[i] == number)
            return true;
    return false;
}

/* Table files of the current version. Closing and opening the gate for deletions makes RocksDB look for what
 * it has forgotten to remove. */
static enum err live_tables(struct store *s, struct purge_files *ret, struct errctx *ec)
{
    char *message = NULL;
    enum err err = ERR_OK;
    ret->n = 0;
    pthread_rwlock_rdlock(&s->db_lock);
    if (s->db == NULL) {
        pthread_rwlock_unlock(&s->db_lock);
        return err_set(ec, ERR_UNAVAILABLE, "the storage is being recovered");
    }
    rocksdb_disable_file_deletions(s->db, &message);
    err = store_rocks_err(ec, message, "purge");
    message = NULL;
    if (err == ERR_OK) {
        rocksdb_enable_file_deletions(s->db, 0, &message);
        err = store_rocks_err(ec, message, "purge");
    }
    const rocksdb_livefiles_t *live = rocksdb_livefiles(s->db);
    size_t n = (size_t)rocksdb_livefiles_count(live);
    uint64_t *numbers = calloc(n + 1, sizeof *numbers);
    for (size_t i = 0; numbers != NULL && i < n; i++) {
        const char *name = rocksdb_livefiles_name(live, (int)i);
        while (*name == '/')
            name++;
        if (file_number(name, &numbers[ret->n]))
            ret->n++;
    }
    rocksdb_livefiles_destroy(live);
    pthread_rwlock_unlock(&s->db_lock);
    free(ret->numbers);
    ret->numbers = numbers;
    return err == ERR_OK && numbers == NULL ? err_internal(ec, ERR_NO_MEMORY, "purge: out of memory") : err;
}

enum err purge_files_gone(
    struct store *s, const struct purge_files *before, int wait_ms, bool *ret_gone, struct errctx *ec)
{
    enum { POLL_MS = 10 };
    struct purge_files now = {0}, live = {0};
    enum err err = ERR_OK;
    bool gone = false;
    for (int waited = 0; err == ERR_OK && !gone && waited <= wait_ms; waited += POLL_MS) {
        if (waited > 0)
            usleep(POLL_MS * 1000);
        err = live_tables(s, &live, ec);
        if (err == ERR_OK)
            err = each_file(s, &now, ec);
        gone = true;
        for (size_t i = 0; err == ERR_OK && gone && i < now.n; i++)
            gone = holds(live.numbers, live.n, now.numbers[i]) ||
                   !holds(before->numbers, before->n, now.numbers[i]);
    }
    free(now.numbers);
    free(live.numbers);
    *ret_gone = gone;
    return err;
}
