#include "scheduler.h"
#include <dlfcn.h>
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define THREADS_MAX 1024
#define NEVER INT64_MAX
/* What a step of work costs, in simulated time. */
#define POINT_US 2

enum thread_state { FREE, RUNNABLE, WAITING, ENDED };

struct thread {
    enum thread_state state;
    const void *on;      /* WAITING: a lock, a condition, a thread; NULL: only for the time */
    int64_t deadline_us; /* NEVER: none */
    bool signalled;
    bool detached;
    int still;        /* in a conversation with another process: no point counts */
    int64_t delay_us; /* to be waited for at the next point */
    uint32_t rank;
    _Atomic int go;
    pthread_t handle;
    void *(*fn)(void *);
    void *arg, *result;
};

static struct sched_state *state;
static struct thread threads[THREADS_MAX];
static int nthreads;
static _Thread_local struct thread *self;
static bool calm;
static struct thread *survivor; /* the only one that goes on: the machine stops */
static void (*on_crash)(void), (*on_stuck)(const char *why);
static pthread_key_t end_key;

/* ---- randomness and trace ---- */

uint64_t rng_next(uint64_t *s)
{
    uint64_t z = *s += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

static void mix(uint64_t v)
{
    state->hash = (state->hash ^ v) * UINT64_C(0x100000001B3);
}

/* Every switch and line into a file, to compare two runs of a seed. */
static void log_bytes(const char *p, size_t n)
{
    if (state->log_fd > 0)
        syscall(SYS_write, state->log_fd, p, n);
}

static void log_switch(int to)
{
    char line[64];
    if (state->log_fd > 0)
        log_bytes(line, (size_t)snprintf(line, sizeof line, "%llu %lld -> t%d\n",
                            (unsigned long long)state->points, (long long)state->mono_us, to));
}

void trace(const char *format, ...)
{
    char *line = state->lines[state->nlines++ % TRACE_LINES];
    int n = snprintf(line, TRACE_LINE_BYTES, "%12.6f t%-3d ", (double)state->mono_us / 1e6,
        self != NULL ? (int)(self - threads) : -1);
    va_list args;
    va_start(args, format);
    vsnprintf(line + n, TRACE_LINE_BYTES - (size_t)n, format, args);
    va_end(args);
    for (const char *p = line; *p != '\0'; p++)
        mix((unsigned char)*p);
    log_bytes(line, strlen(line));
    log_bytes("\n", 1);
}

/* ---- the baton ---- */

static void pass(struct thread *to)
{
    atomic_store(&to->go, 1);
    syscall(SYS_futex, &to->go, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void await(struct thread *t)
{
    while (atomic_load(&t->go) == 0)
        syscall(SYS_futex, &t->go, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
    atomic_store(&t->go, 0);
}

void sched_dump_threads(void)
{
    for (int i = 0; i < nthreads; i++)
        if (threads[i].state == RUNNABLE || threads[i].state == WAITING)
            fprintf(stderr, "  thread %d: %s%s%p until %lld\n", i,
                threads[i].state == RUNNABLE ? "can run" : "waits", " on ", threads[i].on,
                threads[i].deadline_us == NEVER ? -1LL : (long long)threads[i].deadline_us);
}

/* Those whose time has come can run. The number that can; the earliest deadline of the others. */
static int ready(struct thread **ret, int64_t *ret_next)
{
    int n = 0;
    *ret_next = NEVER;
    for (int i = 0; i < nthreads; i++) {
        struct thread *t = &threads[i];
        if (t->state == WAITING && t->deadline_us <= state->mono_us)
            t->state = RUNNABLE;
        if (t->state == RUNNABLE)
            ret[n++] = t;
        else if (t->state == WAITING && t->deadline_us < *ret_next)
            *ret_next = t->deadline_us;
    }
    return n;
}

static struct thread *choose(void)
{
    static struct thread *can[THREADS_MAX];
    int64_t next;
    int n = ready(can, &next);
    if (n == 0) {
        if (next == NEVER)
            on_stuck("no thread can ever run again");
        state->mono_us = next;
        n = ready(can, &next);
    }
    if (!state->by_rank || calm)
        return can[rng_below(&state->rng, (uint64_t)n)];
    if (rng_below(&state->rng, 64) == 0)
        can[rng_below(&state->rng, (uint64_t)n)]->rank = (uint32_t)rng_next(&state->rng);
    struct thread *best = can[0];
    for (int i = 1; i < n; i++)
        if (can[i]->rank > best->rank)
            best = can[i];
    return best;
}

/* Lets somebody go on; returns when this thread may. */
static void reschedule(void)
{
    struct thread *me = self, *to = choose();
    state->switches++;
    mix((uint64_t)(to - threads) << 32 ^ (uint64_t)state->mono_us);
    log_switch((int)(to - threads));
    if (to == me)
        return;
    pass(to);
    await(me);
}

static void step(void)
{
    if (self->still > 0)
        return;
    state->points++;
    state->mono_us += POINT_US;
    if (state->crash_at != 0 && state->points >= state->crash_at && !calm)
        on_crash();
    if (state->points == state->stuck_at)
        on_stuck("much happens, and it does not come to an end");
}

static void wait_on(const void *on, int64_t deadline_us);

void sched_point(void)
{
    if (self == NULL || self->still > 0)
        return;
    if (survivor != NULL && self != survivor)
        wait_on(NULL, NEVER);
    step();
    if (self->delay_us > 0) {
        int64_t us = self->delay_us;
        self->delay_us = 0;
        sched_sleep_us(us);
    }
    if (calm || rng_below(&state->rng, state->switch_in) != 0)
        return;
    if (rng_below(&state->rng, state->lag_in) == 0)
        state->mono_us += (int64_t)rng_below(&state->rng, 20000);
    reschedule();
}

static void wait_on(const void *on, int64_t deadline_us)
{
    self->state = WAITING;
    self->on = on;
    self->deadline_us = deadline_us;
    self->signalled = false;
    step();
    reschedule();
    self->on = NULL;
}

static void wake_all(const void *on)
{
    for (int i = 0; i < nthreads; i++)
        if (threads[i].state == WAITING && threads[i].on == on) {
            threads[i].state = RUNNABLE;
            threads[i].signalled = true;
        }
}

static void wake_one(const void *on)
{
    int n = 0;
    struct thread *one = NULL;
    for (int i = 0; i < nthreads; i++)
        if (threads[i].state == WAITING && threads[i].on == on && rng_below(&state->rng, (uint64_t)++n) == 0)
            one = &threads[i];
    if (one != NULL) {
        one->state = RUNNABLE;
        one->signalled = true;
    }
}

int64_t sched_mono_us(void)
{
    return state->mono_us;
}

void sched_sleep_us(int64_t us)
{
    wait_on(NULL, state->mono_us + (us > 0 ? us : 0));
}

void sched_delay_us(int64_t us)
{
    if (self != NULL)
        self->delay_us = us;
}

void sched_still(bool on)
{
    if (self != NULL)
        self->still += on ? 1 : -1;
}

void sched_calm(bool on)
{
    calm = on;
}

void sched_stop_others(void)
{
    survivor = self;
    calm = true;
}

/* ---- threads ----
 * A thread's own destructors run in the C library after its function returned, and they take locks too; the
 * baton is given up in the last of the four rounds of key destructors, when all others have run. */

static _Thread_local int ending;

static void give_up(struct thread *t)
{
    t->state = ENDED;
    wake_all(t);
    self = NULL;
    struct thread *to = choose();
    state->switches++;
    mix((uint64_t)(to - threads) << 32);
    pass(to);
}

static void at_end(void *arg)
{
    if (++ending < 4)
        pthread_setspecific(end_key, arg);
    else
        give_up(arg);
}

static void *run(void *arg)
{
    struct thread *t = arg;
    await(t);
    self = t;
    pthread_setspecific(end_key, t);
    t->result = t->fn(t->arg);
    return t->result;
}

static void *real(const char *name)
{
    void *p = dlsym(RTLD_NEXT, name);
    if (p == NULL)
        abort();
    return p;
}
#define REAL(name) ((__typeof__(&name))(uintptr_t)real(#name))

/* Called by our own code? Only there threads are switched without need: a library that waits for another
 * thread by means that are not seen here (the guard of a static variable) must not find it stopped. */
extern char __executable_start[], etext[];
#define FROM_OURS                                                                                            \
    ((char *)__builtin_return_address(0) >= __executable_start && (char *)__builtin_return_address(0) < etext)

static struct thread *new_thread(void)
{
    for (int i = 0; i < nthreads; i++)
        if (threads[i].state == FREE)
            return &threads[i];
    if (nthreads == THREADS_MAX)
        on_stuck("too many threads");
    return &threads[nthreads++];
}

int pthread_create(pthread_t *ret, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
    if (self == NULL)
        return REAL(pthread_create)(ret, attr, fn, arg);
    struct thread *t = new_thread();
    *t = (struct thread){.state = RUNNABLE, .deadline_us = NEVER, .fn = fn, .arg = arg};
    t->rank = (uint32_t)rng_next(&state->rng);
    int kind = PTHREAD_CREATE_JOINABLE;
    if (attr != NULL)
        pthread_attr_getdetachstate(attr, &kind);
    t->detached = kind == PTHREAD_CREATE_DETACHED;
    int e = REAL(pthread_create)(&t->handle, attr, run, t);
    if (e != 0) {
        t->state = FREE;
        return e;
    }
    *ret = t->handle;
    if (FROM_OURS)
        sched_point();
    return 0;
}

static struct thread *of_handle(pthread_t handle)
{
    for (int i = 0; i < nthreads; i++)
        if (threads[i].state != FREE && !threads[i].detached && pthread_equal(threads[i].handle, handle))
            return &threads[i];
    return NULL;
}

int pthread_join(pthread_t handle, void **ret)
{
    struct thread *t = self != NULL ? of_handle(handle) : NULL;
    if (t == NULL)
        return REAL(pthread_join)(handle, ret);
    while (t->state != ENDED)
        wait_on(t, NEVER);
    int e = REAL(pthread_join)(handle, ret);
    t->state = FREE;
    return e;
}

int pthread_detach(pthread_t handle)
{
    struct thread *t = self != NULL ? of_handle(handle) : NULL;
    if (t != NULL)
        t->detached = true;
    return REAL(pthread_detach)(handle);
}

/* ---- mutexes: glibc's own fields, so that static initialisers mean the same ---- */

static bool mutex_try(pthread_mutex_t *m)
{
    int me = (int)(self - threads) + 1;
    if (m->__data.__lock == 0) {
        m->__data.__lock = 1;
        m->__data.__owner = me;
        m->__data.__count = 1;
        return true;
    }
    if (m->__data.__owner == me && (m->__data.__kind & 3) == PTHREAD_MUTEX_RECURSIVE) {
        m->__data.__count++;
        return true;
    }
    return false;
}

static void mutex_take(pthread_mutex_t *m)
{
    while (!mutex_try(m)) {
        if (m->__data.__owner == (int)(self - threads) + 1)
            on_stuck("a thread locks a mutex that it holds");
        wait_on(m, NEVER);
    }
}

static void mutex_give(pthread_mutex_t *m)
{
    if (--m->__data.__count > 0)
        return;
    m->__data.__owner = 0;
    m->__data.__lock = 0;
    wake_all(m);
}

int pthread_mutex_lock(pthread_mutex_t *m)
{
    if (self == NULL)
        return REAL(pthread_mutex_lock)(m);
    if (FROM_OURS)
        sched_point();
    mutex_take(m);
    return 0;
}

int pthread_mutex_trylock(pthread_mutex_t *m)
{
    if (self == NULL)
        return REAL(pthread_mutex_trylock)(m);
    if (FROM_OURS)
        sched_point();
    return mutex_try(m) ? 0 : EBUSY;
}

int pthread_mutex_unlock(pthread_mutex_t *m)
{
    if (self == NULL)
        return REAL(pthread_mutex_unlock)(m);
    mutex_give(m);
    if (FROM_OURS)
        sched_point();
    return 0;
}

int pthread_mutex_destroy(pthread_mutex_t *m)
{
    if (self != NULL && m->__data.__lock != 0)
        on_stuck("a mutex is destroyed while it is held");
    return 0;
}

/* ---- conditions: the first word holds the clock ---- */

int pthread_cond_init(pthread_cond_t *c, const pthread_condattr_t *attr)
{
    clockid_t clock = CLOCK_REALTIME;
    if (attr != NULL)
        pthread_condattr_getclock(attr, &clock);
    memset(c, 0, sizeof *c);
    memcpy(c, &clock, sizeof clock);
    return 0;
}

int pthread_cond_destroy(pthread_cond_t *c)
{
    (void)c;
    return 0;
}

int pthread_cond_signal(pthread_cond_t *c)
{
    if (self == NULL)
        return REAL(pthread_cond_signal)(c);
    wake_one(c);
    return 0;
}

int pthread_cond_broadcast(pthread_cond_t *c)
{
    if (self == NULL)
        return REAL(pthread_cond_broadcast)(c);
    wake_all(c);
    return 0;
}

static int cond_wait(pthread_cond_t *c, pthread_mutex_t *m, int64_t deadline_us)
{
    mutex_give(m);
    wait_on(c, deadline_us);
    bool signalled = self->signalled;
    mutex_take(m);
    return signalled || deadline_us == NEVER ? 0 : ETIMEDOUT;
}

static int64_t deadline_of(clockid_t clock, const struct timespec *t)
{
    int64_t us = (int64_t)t->tv_sec * 1000000 + (t->tv_nsec + 999) / 1000;
    return clock == CLOCK_MONOTONIC ? us : us - state->wall_us;
}

int pthread_cond_wait(pthread_cond_t *c, pthread_mutex_t *m)
{
    return self == NULL ? REAL(pthread_cond_wait)(c, m) : cond_wait(c, m, NEVER);
}

int pthread_cond_timedwait(pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *until)
{
    clockid_t clock;
    if (self == NULL)
        return REAL(pthread_cond_timedwait)(c, m, until);
    memcpy(&clock, c, sizeof clock);
    return cond_wait(c, m, deadline_of(clock, until));
}

int pthread_cond_clockwait(
    pthread_cond_t *c, pthread_mutex_t *m, clockid_t clock, const struct timespec *until)
{
    if (self == NULL)
        return REAL(pthread_cond_clockwait)(c, m, clock, until);
    return cond_wait(c, m, deadline_of(clock, until));
}

/* ---- read-write locks; a writer that waits goes before readers that come, as the store asks for ---- */

struct rwlock {
    int readers, writer, writers_waiting;
};
_Static_assert(sizeof(struct rwlock) <= sizeof(pthread_rwlock_t), "fits");

int pthread_rwlock_init(pthread_rwlock_t *l, const pthread_rwlockattr_t *attr)
{
    (void)attr;
    memset(l, 0, sizeof *l);
    return 0;
}

int pthread_rwlock_destroy(pthread_rwlock_t *l)
{
    (void)l;
    return 0;
}

int pthread_rwlock_rdlock(pthread_rwlock_t *lock)
{
    if (self == NULL)
        return REAL(pthread_rwlock_rdlock)(lock);
    struct rwlock *l = (struct rwlock *)(void *)lock;
    if (FROM_OURS)
        sched_point();
    while (l->writer || l->writers_waiting > 0)
        wait_on(lock, NEVER);
    l->readers++;
    return 0;
}

int pthread_rwlock_tryrdlock(pthread_rwlock_t *lock)
{
    if (self == NULL)
        return REAL(pthread_rwlock_tryrdlock)(lock);
    struct rwlock *l = (struct rwlock *)(void *)lock;
    if (l->writer || l->writers_waiting > 0)
        return EBUSY;
    l->readers++;
    return 0;
}

int pthread_rwlock_wrlock(pthread_rwlock_t *lock)
{
    if (self == NULL)
        return REAL(pthread_rwlock_wrlock)(lock);
    struct rwlock *l = (struct rwlock *)(void *)lock;
    if (FROM_OURS)
        sched_point();
    l->writers_waiting++;
    while (l->writer || l->readers > 0)
        wait_on(lock, NEVER);
    l->writers_waiting--;
    l->writer = 1;
    return 0;
}

int pthread_rwlock_unlock(pthread_rwlock_t *lock)
{
    if (self == NULL)
        return REAL(pthread_rwlock_unlock)(lock);
    struct rwlock *l = (struct rwlock *)(void *)lock;
    if (l->writer)
        l->writer = 0;
    else
        l->readers--;
    wake_all(lock);
    if (FROM_OURS)
        sched_point();
    return 0;
}

/* ---- clocks, sleep, entropy ---- */

int clock_gettime(clockid_t clock, struct timespec *ret)
{
    if (state == NULL)
        return (int)syscall(SYS_clock_gettime, clock, ret);
    int64_t us = state->mono_us;
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)
        us += state->wall_us;
    *ret = (struct timespec){.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};
    return 0;
}

int gettimeofday(struct timeval *restrict ret, void *restrict zone)
{
    struct timespec t;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &t);
    *ret = (struct timeval){.tv_sec = t.tv_sec, .tv_usec = t.tv_nsec / 1000};
    return 0;
}

time_t time(time_t *ret)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    if (ret != NULL)
        *ret = t.tv_sec;
    return t.tv_sec;
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *t, struct timespec *left)
{
    if (self == NULL)
        return -(int)syscall(SYS_clock_nanosleep, clock, flags, t, left);
    int64_t us = (int64_t)t->tv_sec * 1000000 + (t->tv_nsec + 999) / 1000;
    sched_sleep_us(flags == TIMER_ABSTIME ? deadline_of(clock, t) - state->mono_us : us);
    return 0;
}

int nanosleep(const struct timespec *t, struct timespec *left)
{
    int e = clock_nanosleep(CLOCK_MONOTONIC, 0, t, left);
    errno = e;
    return e == 0 ? 0 : -1;
}

int usleep(useconds_t us)
{
    struct timespec t = {.tv_sec = us / 1000000, .tv_nsec = (long)(us % 1000000) * 1000};
    return nanosleep(&t, NULL);
}

int sched_yield(void)
{
    if (self != NULL) {
        step();
        reschedule();
    }
    return 0;
}

/* Written into files, whose torn states must not depend on it. */
pid_t getpid(void)
{
    return state == NULL ? (pid_t)syscall(SYS_getpid) : 4242;
}

ssize_t getrandom(void *p, size_t n, unsigned flags)
{
    if (state == NULL)
        return syscall(SYS_getrandom, p, n, flags);
    for (size_t i = 0; i < n; i++)
        ((unsigned char *)p)[i] = (unsigned char)rng_next(&state->rng);
    return (ssize_t)n;
}

void sched_start(struct sched_state *s, void (*crash)(void), void (*stuck)(const char *why))
{
    on_crash = crash;
    on_stuck = stuck;
    memset(threads, 0, sizeof threads);
    nthreads = 1;
    threads[0] = (struct thread){.state = RUNNABLE, .deadline_us = NEVER, .handle = pthread_self()};
    if (pthread_key_create(&end_key, at_end) != 0)
        abort();
    state = s;
    self = &threads[0];
}
