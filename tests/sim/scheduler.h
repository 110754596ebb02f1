/* The simulator's scheduler and clock. Every thread of the process — the engine's, RocksDB's, the simulated
 * clients — is a real one, but exactly one runs: it holds the baton, and passes it on at a scheduling point.
 * The executable defines pthread_mutex_lock and its like itself, so that its own code, librocksdb and
 * libstdc++ all come here. Who runs next is drawn from the seed; time passes when nobody can run, and a
 * little at each point. So a run is a function of its seed.
 *
 * Everything here lives in one process, from sched_start on; what must outlive a crash of the simulated
 * machine is in `struct sched_state`, which the caller keeps in shared memory. */
#ifndef KALAMDB_SIM_SCHED_H
#define KALAMDB_SIM_SCHED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TRACE_LINES 512
#define TRACE_LINE_BYTES 160

struct sched_state {
    uint64_t rng;       /* of the scheduler alone: what clients draw does not depend on it */
    int64_t mono_us;    /* since the simulation began; goes on across crashes */
    int64_t wall_us;    /* added to mono_us: the wall clock, which may step */
    uint64_t points;    /* scheduling points passed */
    uint64_t switches;  /* times that another thread went on */
    uint64_t hash;      /* of all that happened: switches and trace lines */
    uint64_t crash_at;  /* at this point the machine stops; 0: never */
    uint64_t stuck_at;  /* whoever runs at this point goes in circles */
    uint32_t switch_in; /* one point in so many is a switch */
    uint32_t lag_in;    /* one switch in so many finds a processor busy elsewhere for up to 20 ms */
    bool by_rank;       /* threads have ranks, and the highest that can runs; ranks change now and then */
    int log_fd;         /* all of it goes there, too; 0: nowhere */
    uint64_t nlines;
    char lines[TRACE_LINES][TRACE_LINE_BYTES]; /* a ring of the last */
};

/* The caller becomes the first thread. `crash` is called at the point `crash_at` and does not return;
 * `stuck` when no thread can ever run again. */
void sched_start(struct sched_state *state, void (*crash)(void), void (*stuck)(const char *why));
/* Another thread may go on here. */
void sched_point(void);
int64_t sched_mono_us(void);
/* Waits: other threads run meanwhile. */
void sched_sleep_us(int64_t us);
/* The calling thread waits so long at its next scheduling point: for where it holds a lock now. */
void sched_delay_us(int64_t us);
/* The calling thread speaks with another process: how many calls that takes is not the seed's to say, so they
 * are no scheduling points. Nests. */
void sched_still(bool still);
/* From now on no crash, and no switch but where a thread must wait. */
void sched_calm(bool calm);
/* The same, and every other thread stops for good at its next lock, unlock or file call. */
void sched_stop_others(void);
/* A line of the trace, part of the hash. */
void trace(const char *format, ...) __attribute__((format(printf, 1, 2)));
void sched_dump_threads(void);

/* splitmix64, the generator of everything in the simulator. */
uint64_t rng_next(uint64_t *state);
/* 0 … n-1. */
static inline uint64_t rng_below(uint64_t *state, uint64_t n)
{
    return rng_next(state) % n;
}

#endif
