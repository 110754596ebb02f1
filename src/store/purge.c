/* Why a clock and a ring suffice: a snapshot sees a file only if it was opened before the commit that
 * replaced it, so before its burial. Pins enter the ring in order of the clock; when the oldest pin is
 * younger than a grave, nobody can read that file any more. */
#include "store/internal.h"
#include <stdlib.h>
#include <time.h>

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

static void unlink_all(struct pins *p, struct grave *g)
{
    while (g != NULL) {
        struct grave *next = g->next;
        /* A failure leaves an orphan, which the manifest's garbage list, or the sweep, names to the next
         * open.
         */
        (void)p->os->unlink(p->os->ctx, g->path);
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
