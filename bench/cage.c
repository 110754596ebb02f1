/* What the cage around query workers costs: one statement by a user who has no worker yet (a fork and its
 * first statement), and by one who has, with the cage and without, in turns. Prints one JSON object a line.
 *   cage [N] */
#include "analytic/analytic.h"
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define RUNS_MAX 10000

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double run(struct analytic *a, const char *user)
{
    struct analytic_request rq = {.user_id = str_c(user),
        .sql = STR("SELECT count(*), sum(i) FROM range(200) t(i)"),
        .output_fd = -1,
        .timeout_ms = 10000};
    struct rowset rs;
    struct errctx ec;
    errctx_clear(&ec);
    double start = now_us();
    if (analytic_run(a, &rq, &rs, &ec) != ERR_OK) {
        fprintf(stderr, "%s %s\n", ec.message, ec.internal);
        exit(1);
    }
    double us = now_us() - start;
    rowset_release(&rs);
    return us;
}

static void report(const char *what, bool caged, double *us, int n)
{
    qsort(us, (size_t)n, sizeof *us, compare);
    printf("{\"what\":\"%s\",\"cage\":\"%s\",\"runs\":%d,\"min_us\":%.0f,\"p10_us\":%.0f,\"p50_us\":%.0f}\n",
        what, caged ? "on" : "off", n, us[0], us[n / 10], us[n / 2]);
}

static struct analytic *start(bool caged)
{
    struct analytic_config cfg = {.workers_max = 1,
        .threads = 1,
        .memory_bytes_max = (size_t)1 << 30,
        .uncaged = !caged,
        .idle_worker_ms = 600000};
    struct analytic *a = NULL;
    struct errctx ec;
    errctx_clear(&ec);
    double begun = now_us();
    if (analytic_open(&cfg, &a, &ec) != ERR_OK) {
        fprintf(stderr, "%s\n", ec.internal);
        exit(1);
    }
    printf("{\"what\":\"start\",\"cage\":\"%s\",\"us\":%.0f}\n", caged ? "on" : "off", now_us() - begun);
    return a;
}

int main(int argc, char **argv)
{
    static double fresh[2][RUNS_MAX], warm[2][RUNS_MAX];
    int n = argc > 1 ? atoi(argv[1]) : 200;
    n = n < 1 ? 1 : n > RUNS_MAX ? RUNS_MAX : n;
    struct analytic *a[2] = {start(false), start(true)};
    for (int i = 0; i < n; i++)
        for (int caged = 0; caged < 2; caged++) {
            char user[32];
            snprintf(user, sizeof user, "user_%d", i);
            /* The spare workers are forked meanwhile: what a user waits for who comes alone. */
            usleep(5000);
            fresh[caged][i] = run(a[caged], user);
            /* Not while the next spare one is forked. */
            usleep(5000);
            warm[caged][i] = run(a[caged], user);
        }
    for (int caged = 0; caged < 2; caged++) {
        report("first statement of a worker", caged, fresh[caged], n);
        report("next statement", caged, warm[caged], n);
        analytic_close(a[caged]);
    }
    /* One after the other as fast as they go: each waits for a fork. */
    for (int caged = 0; caged < 2; caged++) {
        struct analytic *b = start(caged == 1);
        for (int i = 0; i < n; i++) {
            char user[32];
            snprintf(user, sizeof user, "user_%d", i);
            fresh[caged][i] = run(b, user);
        }
        report("fork and first statement", caged == 1, fresh[caged], n);
        analytic_close(b);
    }
    return 0;
}
