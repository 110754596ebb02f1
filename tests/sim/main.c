/* kalamdb-sim: seeds of a simulated world. Each seed is a number of lives of one machine, each life a process
 * that is forked for it (docs/simulation.md). */
#include "live/live.h"
#include "plants.h"
#include "sim/disk.h"
#include "workers.h"
#include "world.h"
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct world *world;
struct kalamdb *db;

enum { LIFE_OK = 0, LIFE_CRASHED = 10, LIFE_FAILED = 11 };
/* Without an end of its own in so many seconds of real time, a life hangs. */
#define LIFE_SECONDS_MAX 100

static struct {
    uint64_t seed, seeds, steps, seconds;
    bool have_seed, quiet, trace, twice;
    const char *plant, *log;
} args = {.seeds = 0, .steps = 6000};

/* ---- ends ---- */

uint64_t draw(uint64_t n)
{
    return rng_below(&world->rng, n);
}

bool chance(uint32_t one_in)
{
    return draw(one_in) == 0;
}

void fail(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    vsnprintf(world->failure, sizeof world->failure, format, list);
    va_end(list);
    trace("FAILURE %s", world->failure);
    _exit(LIFE_FAILED);
}

static void stuck(const char *why)
{
    sched_dump_threads();
    fail("%s", why);
}

static bool crashing;

static void crash(void)
{
    crashing = true;
    sched_stop_others();
    /* What nobody was to be told yet shows most surely where all of it is lost; removals, where none is. */
    bool power = world->moment == WHEN_TOLD || (world->moment == BEHIND_REMOVAL ? chance(3) : !chance(4));
    enum disk_loss loss = !power                                    ? LOSS_NONE
                          : world->moment == WHEN_TOLD && chance(2) ? LOSS_ALL
                                                                    : LOSS_BY_SEED;
    trace("crash (%s)", power ? "power" : "kill");
    disk_set_hook(NULL, NULL);
    struct disk_report report = {0};
    disk_crash(world->sched.rng, loss, &report);
    trace("%zu files lost bytes, %zu torn, %zu names lost", report.files_lost, report.files_torn,
        report.names_lost);
    world->crashes++;
    world->power_lost = power;
    _exit(LIFE_CRASHED);
}

/* ---- the disk: slow, and in part of the worlds failing ---- */

void moment_comes(enum moment what)
{
    static const uint8_t within[MOMENTS] = {
        [IN_FSYNC] = 100, [WHEN_TOLD] = 4, [BEHIND_RENAME] = 40, [BEHIND_REMOVAL] = 10};
    struct sched_state *s = &world->sched;
    if (s->crash_at == 0 || world->moment != what || world->moment_after == 0 || --world->moment_after > 0)
        return;
    s->crash_at = s->points + 1 + draw(within[what]);
}

/* Before its effect, while other file calls wait, or after it. False: the machine has stopped meanwhile. */
static bool slow_fsync(void)
{
    bool late = world->moment == IN_FSYNC || world->moment == WHEN_TOLD;
    int64_t us = (int64_t)(chance(20) ? draw(200000) : draw(3000));
    if (chance(late ? 4 : 2)) {
        sched_delay_us(us);
        return true;
    }
    moment_comes(IN_FSYNC);
    sched_still(true); /* the crash is for a thread that does not hold the disk's lock */
    sched_sleep_us(us);
    sched_still(false);
    return !crashing;
}

static int disk_hook(void *arg, enum disk_call call, const char *path)
{
    (void)arg;
    if (call == DISK_SYNC && chance(world->moment == WHEN_TOLD ? 2 : 3) && !slow_fsync())
        return EINTR; /* no failure: it did not come to its end */
    if ((call == DISK_RENAME || call == DISK_UNLINK) && strstr(path, ".kalamdb/hot") == NULL)
        moment_comes(call == DISK_RENAME ? BEHIND_RENAME : BEHIND_REMOVAL);
    if (!world->faults || *path == '\0' || call == DISK_MMAP || call == DISK_SOCKET || call == DISK_READ ||
        call == DISK_OPEN)
        return 0;
    /* The log's writes: what fails there is surely lost, while readers go on. */
    bool log = call == DISK_WRITE && strlen(path) > 4 && strcmp(path + strlen(path) - 4, ".log") == 0;
    if (!chance(log ? 40 : call == DISK_SYNC ? 300 : 600))
        return 0;
    world->faults_hit++;
    trace("disk error: call %d %s", (int)call, path);
    return chance(2) ? EIO : ENOSPC;
}

/* ---- one life ---- */

enum err __real_live_open(
    struct store *s, struct analytic *a, size_t ring_bytes_max, struct live **ret, struct errctx *ec);
enum err __wrap_live_open(
    struct store *s, struct analytic *a, size_t ring_bytes_max, struct live **ret, struct errctx *ec);
/* Rings so short that whoever reads slowly falls out of them. */
enum err __wrap_live_open(
    struct store *s, struct analytic *a, size_t ring_bytes_max, struct live **ret, struct errctx *ec)
{
    return __real_live_open(s, a, world->short_rings ? 1024 : ring_bytes_max, ret, ec);
}

static void open_machine(void)
{
    struct kalamdb_options o;
    struct kalamdb_error error;
    kalamdb_options_default(&o);
    o.data_dir = world->dir;
    o.large_content_bytes = LARGE_BYTES;
    o.consolidate_rows = 40;
    o.consolidate_min_rows = 10;
    o.consolidate_interval_ms = 2000;
    o.hot_tail_rows = (int)(world->seed % 3) * 4;
    o.disk_reserve_bytes = 0;
    o.encryption = world->encrypted;
    o.workers = 2;
    o.block_cache_bytes = (size_t)1 << 20;
    o.write_buffer_bytes = (size_t)256 << 10;
    if (kalamdb_open(&o, &db, &error) != KALAMDB_OK)
        fail("the machine does not start: %s (%s)", error.message, error.internal);
}

static _Noreturn void live(void)
{
    signal(SIGALRM, SIG_DFL);
    alarm(LIFE_SECONDS_MAX);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct sched_state *s = &world->sched;
    sched_start(s, crash, stuck);
    sched_calm(true);
    disk_attach(world->dir);
    world->life_points = s->points;
    s->stuck_at = s->points + args.steps * 30 + 100000;
    trace("life %d of %d", world->life + 1, world->lives);
    bool last = world->life == world->lives - 1;
    /* A machine can also die while it starts. */
    bool early = !last && world->life > 0 && chance(6);
    world->moment = ANY_MOMENT;
    s->crash_at = early ? s->points + 1 + draw(3000) : 0;
    sched_calm(!early);
    open_machine();
    model_check(false);
    sched_calm(false);
    bool clean = last || chance(5);
    world->moment = (enum moment)draw(MOMENTS);
    uint64_t after = world->moment == ANY_MOMENT ? draw(args.steps * 2) : args.steps + draw(args.steps);
    s->crash_at = clean ? 0 : s->points + 1 + after;
    world->moment_after = 1 + (uint32_t)draw(world->moment >= BEHIND_RENAME ? 5 : 30);
    disk_set_hook(disk_hook, NULL);
    uint64_t stop_at = s->points + args.steps;
    devices_start();
    clients_start();
    while (s->points < stop_at)
        sched_sleep_us(1000 + (int64_t)draw(20000));
    clients_stop();
    s->crash_at = 0;
    world->faults = false;
    disk_set_hook(NULL, NULL);
    if (last)
        sched_sleep_us(20000000); /* what runs in the background comes to its end */
    devices_stop();
    if (last)
        model_check(true);
    trace("shutdown");
    kalamdb_close(db);
    disk_detach();
    world->restarts += !last;
    _exit(LIFE_OK);
}

/* ---- one seed ---- */

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st, (void)kind, (void)ftw;
    return remove(path);
}

static void make_world(uint64_t seed)
{
    memset(world, 0, sizeof *world);
    struct sched_state *s = &world->sched;
    world->seed = world->rng = seed;
    s->rng = draw(UINT64_MAX);
    s->wall_us = INT64_C(1767225600000000) + (int64_t)draw(1000000000);
    s->mono_us = 1000000;
    s->hash = UINT64_C(0xcbf29ce484222325);
    static const uint32_t often[] = {2, 4, 8, 16, 64};
    s->switch_in = often[draw(5)];
    s->lag_in = chance(3) ? 20 : 400;
    s->by_rank = chance(3);
    world->lives = 3 + (int)draw(LIVES_MAX - 3);
    world->faults = chance(3);
    world->async = chance(4);
    world->encrypted = chance(2);
    world->short_rings = chance(2);
    world->plant = args.plant;
    if (args.log != NULL)
        s->log_fd = open(args.log, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    const char *base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(world->dir, sizeof world->dir, "%s/kalamdb-sim-%08d", base, (int)getpid());
    nftw(world->dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    mkdir(world->dir, 0700);
}

static void print_trace(void)
{
    const struct sched_state *s = &world->sched;
    uint64_t n = s->nlines,
             from = n > (args.trace ? TRACE_LINES : 60) ? n - (args.trace ? TRACE_LINES : 60) : 0;
    for (uint64_t i = from; i < n; i++)
        fprintf(stderr, "%s\n", s->lines[i % TRACE_LINES]);
}

/* True: all is well. */
static bool run_seed(uint64_t seed)
{
    make_world(seed);
    bool faults = world->faults;
    for (world->life = 0; world->life < world->lives; world->life++) {
        world->faults = faults && world->life < world->lives - 1;
        pid_t pid = fork();
        if (pid == 0)
            live();
        int status = 0;
        while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
            continue;
        int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
        if (code == LIFE_OK || code == LIFE_CRASHED)
            continue;
        if (code != LIFE_FAILED)
            snprintf(world->failure, sizeof world->failure, "life %d ended with %s %d", world->life + 1,
                WIFSIGNALED(status) ? "signal" : "status", WIFSIGNALED(status) ? WTERMSIG(status) : code);
        return false;
    }
    return true;
}

static double now_s(void)
{
    struct timespec t;
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int run_all(void)
{
    double start = now_s(), simulated = 0;
    uint64_t steps = 0, seeds = 0, crashes = 0, acked = 0, events = 0;
    bool good = true;
    for (uint64_t seed = args.seed; good; seed++) {
        double began = now_s();
        good = run_seed(seed);
        if (good && args.twice) {
            uint64_t hash = world->sched.hash;
            good = run_seed(seed);
            if (good && hash != world->sched.hash) {
                snprintf(world->failure, sizeof world->failure, "the same seed took another course");
                good = false;
            }
        }
        const struct sched_state *s = &world->sched;
        double took = now_s() - began;
        seeds++;
        steps += s->points;
        simulated += (double)s->mono_us / 1e6;
        crashes += world->crashes;
        acked += world->acked;
        events += world->events;
        if (!args.quiet || !good)
            printf(
                "seed %llu: %s, %.1f s simulated, %llu steps (%.0f/s), %d lives, %llu crashes, %llu writes "
                "acknowledged, %llu refused, %llu unknown, %llu events, %llu reconnects, %llu "
                "consolidations, "
                "%llu disk errors, trace %016llx\n",
                (unsigned long long)seed, good ? "ok" : "FAILED", (double)s->mono_us / 1e6,
                (unsigned long long)s->points, (double)s->points / took, world->lives,
                (unsigned long long)world->crashes, (unsigned long long)world->acked,
                (unsigned long long)world->refused, (unsigned long long)world->unknown,
                (unsigned long long)world->events, (unsigned long long)world->reconnects,
                (unsigned long long)world->consolidations, (unsigned long long)world->faults_hit,
                (unsigned long long)s->hash);
        fflush(stdout);
        if (!good) {
            print_trace();
            fprintf(stderr, "seed %llu failed at step %llu: %s\n", (unsigned long long)seed,
                (unsigned long long)s->points, world->failure);
        }
        if (args.seconds > 0 ? now_s() - start >= (double)args.seconds : seeds >= args.seeds)
            break;
    }
    nftw(world->dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    printf("%llu seeds in %.1f s, %.0f s simulated, %llu steps (%.0f/s), %llu crashes, %llu writes, %llu "
           "events: "
           "%s\n",
        (unsigned long long)seeds, now_s() - start, simulated, (unsigned long long)steps,
        (double)steps / (now_s() - start), (unsigned long long)crashes, (unsigned long long)acked,
        (unsigned long long)events, good ? "ok" : "FAILED");
    return good ? 0 : 1;
}

/* ---- the command line ---- */

static _Noreturn void usage(void)
{
    fprintf(stderr, "kalamdb-sim [--seed N] [--seeds COUNT | --seconds S] [--steps PER_LIFE] [--plant BUG] "
                    "[--twice] [--quiet] [--trace] [--log FILE]\nbugs (in a build with -Dplants=true):");
    for (int i = 0; plant_names[i] != NULL; i++)
        fprintf(stderr, " %s", plant_names[i]);
    fprintf(stderr, "\n");
    exit(2);
}

static uint64_t number_arg(const char *s)
{
    char *end;
    errno = 0;
    uint64_t n = s != NULL ? strtoull(s, &end, 0) : 0;
    if (s == NULL || end == s || *end != '\0' || errno != 0)
        usage();
    return n;
}

static void parse(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *v = argv[i + 1];
        if (strcmp(a, "--quiet") == 0)
            args.quiet = true;
        else if (strcmp(a, "--trace") == 0)
            args.trace = true;
        else if (strcmp(a, "--twice") == 0)
            args.twice = true;
        else if (strcmp(a, "--seed") == 0)
            args.have_seed = true, args.seed = number_arg(v), i++;
        else if (strcmp(a, "--seeds") == 0)
            args.seeds = number_arg(v), i++;
        else if (strcmp(a, "--steps") == 0)
            args.steps = number_arg(v), i++;
        else if (strcmp(a, "--seconds") == 0)
            args.seconds = number_arg(v), i++;
        else if (strcmp(a, "--log") == 0)
            args.log = v, i++;
        else if (strcmp(a, "--plant") == 0)
            args.plant = v, i++;
        else
            usage();
    }
    if (args.plant != NULL && !plant_choose(args.plant))
        usage();
    if (args.seeds == 0)
        args.seeds = 1;
    if (args.steps == 0)
        args.steps = 1;
    if (!args.have_seed)
        args.seed = (uint64_t)time(NULL);
}

int main(int argc, char **argv)
{
    parse(argc, argv);
    /* Addresses that differ from run to run would find their way into hashes and so into the order of things.
     */
    int kind = personality(0xffffffff);
    if (kind >= 0 && (kind & ADDR_NO_RANDOMIZE) == 0 &&
        personality((unsigned long)kind | ADDR_NO_RANDOMIZE) >= 0)
        execv("/proc/self/exe", argv);
    world = mmap(NULL, sizeof *world, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (world == MAP_FAILED || !sim_workers_start()) {
        fprintf(stderr, "cannot start kalamdb-worker\n");
        return 1;
    }
    int status = run_all();
    sim_workers_end();
    return status;
}
