/* Why a clock and a ring suffice: a snapshot sees a file only if it was opened before the commit that
 * replaced it, so before its burial. Pins enter the ring in order of the clock; when the oldest pin is
 * younger than a grave, nobody can read that file any more. */
#include "store/internal.h"
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
    *p = (struct pins){.os = os, .purge_wait_ms = PURGE_WAIT_MS};
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
        cold_cache_drop(p->cache, g->path);
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

uint64_t pins_mark(struct pins *p)
{
    pthread_mutex_lock(&p->mutex);
    uint64_t mark = ++p->clock;
    pthread_mutex_unlock(&p->mutex);
    return mark;
}

bool pins_quiesce(struct pins *p, uint64_t mark, int wait_ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += wait_ms / 1000;
    until.tv_nsec += (long)(wait_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    int rc = 0;
    pthread_mutex_lock(&p->mutex);
    p->quiescing++;
    while (rc == 0 && (p->unlinking > 0 || (p->ring.next != &p->ring && p->ring.next->since < mark)))
        rc = pthread_cond_timedwait(&p->left, &p->mutex, &until);
    bool quiet = p->unlinking == 0 && (p->ring.next == &p->ring || p->ring.next->since >= mark);
    p->quiescing--;
    pthread_mutex_unlock(&p->mutex);
    return quiet;
}
