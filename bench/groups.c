/* What a group's message costs, in-process: one durable INSERT to 1, 10, 100 and 1,000 members, one after the
 * other, and a stream of them with many under way.
 *
 *   groups DIR [SECONDS per measurement [MEMBERS …]]     a new directory */
#include "kalamdb.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SAMPLES_MAX 100000
#define STREAM_DEPTH 64

static struct kalamdb *db;

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static struct kalamdb_str str(const char *s)
{
    return (struct kalamdb_str){s, strlen(s)};
}

static struct kalamdb_statement statement(const char *sql)
{
    return (struct kalamdb_statement){
        .caller = {str("sender"), KALAMDB_USER}, .sql = str(sql), .durability = KALAMDB_SYNC};
}

static void must(kalamdb_code code, const struct kalamdb_error *e)
{
    if (code == KALAMDB_OK)
        return;
    fprintf(stderr, "%s: %s %s\n", kalamdb_code_name(code), e->message, e->internal);
    exit(1);
}

static void run(const char *sql)
{
    struct kalamdb_error e;
    struct kalamdb_statement st = statement(sql);
    must(kalamdb_exec(db, &st, NULL, &e), &e);
}

/* The group g<n> of the sender and n - 1 others. */
static void make_group(int n)
{
    size_t cap = 200 + (size_t)n * 64, len;
    char *sql = malloc(cap);
    if (n == 1) {
        snprintf(sql, cap,
            "INSERT INTO conversations (conversation_id, conversation_type) VALUES ('g1', 'group')");
    } else {
        len = (size_t)snprintf(sql, cap, "INSERT INTO conversation_users (conversation_id, user_id) VALUES ");
        for (int i = 1; i < n; i++)
            len += (size_t)snprintf(sql + len, cap - len, "%s('g%d', 'member_%04d')", i > 1 ? "," : "", n, i);
    }
    run(sql);
    free(sql);
}

static void message(char *sql, size_t cap, const char *conversation, int no)
{
    snprintf(sql, cap,
        "INSERT INTO messages (conversation_id, content) VALUES ('%s', 'message %d: a line as people write "
        "it "
        "in a busy room, neither long nor short')",
        conversation, no);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double one_by_one(const char *conversation, int members, double seconds)
{
    static double samples[SAMPLES_MAX];
    int n = 0;
    char sql[512];
    for (int i = 0; i < 20; i++) {
        message(sql, sizeof sql, conversation, i);
        run(sql);
    }
    for (double end = now_s() + seconds; now_s() < end && n < SAMPLES_MAX;) {
        message(sql, sizeof sql, conversation, n);
        double start = now_s();
        run(sql);
        samples[n++] = (now_s() - start) * 1e3;
    }
    qsort(samples, (size_t)n, sizeof *samples, by_value);
    printf("%-6s %5d members  %6d sends  p50 %7.3f ms  p99 %7.3f ms\n", conversation, members, n,
        samples[n / 2], samples[n * 99 / 100]);
    return samples[n / 2];
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static int under_way;

static void sent(void *arg, struct kalamdb_result *result, const struct kalamdb_error *error)
{
    (void)arg;
    if (result == NULL)
        must(error->code, error);
    kalamdb_result_free(result);
    pthread_mutex_lock(&lock);
    under_way--;
    pthread_cond_signal(&wake);
    pthread_mutex_unlock(&lock);
}

static void stream(const char *conversation, int members, double seconds)
{
    char sql[512];
    int n = 0;
    double start = now_s();
    while (now_s() < start + seconds) {
        message(sql, sizeof sql, conversation, n++);
        struct kalamdb_statement st = statement(sql);
        struct kalamdb_query *q = NULL;
        pthread_mutex_lock(&lock);
        while (under_way == STREAM_DEPTH)
            pthread_cond_wait(&wake, &lock);
        under_way++;
        pthread_mutex_unlock(&lock);
        kalamdb_exec_async(db, &st, sent, NULL, &q);
        if (q != NULL)
            kalamdb_query_free(q);
    }
    pthread_mutex_lock(&lock);
    while (under_way > 0)
        pthread_cond_wait(&wake, &lock);
    pthread_mutex_unlock(&lock);
    double took = now_s() - start;
    printf("stream to %d members: %.0f messages/s, %.0f copies/s\n", members, n / took, n * members / took);
}

int main(int argc, char **argv)
{
    static const int usual[] = {1, 10, 100, 1000};
    double seconds = argc > 2 ? atof(argv[2]) : 3, single = 0;
    struct kalamdb_options o;
    struct kalamdb_error e;
    if (argc < 2) {
        fprintf(stderr, "usage: groups DIR [SECONDS]\n");
        return 2;
    }
    kalamdb_options_default(&o);
    o.data_dir = argv[1];
    must(kalamdb_open(&o, &db, &e), &e);
    run("INSERT INTO messages (conversation_id, content) VALUES ('own', 'x')");
    single = one_by_one("own", 1, seconds);
    int n = argc > 3 ? argc - 3 : (int)(sizeof usual / sizeof *usual);
    for (int i = 0; i < n; i++) {
        char id[16];
        int members = argc > 3 ? atoi(argv[3 + i]) : usual[i];
        make_group(members);
        snprintf(id, sizeof id, "g%d", members);
        printf("  %.2f x a single insert\n", one_by_one(id, members, seconds) / single);
        if (members >= 10)
            stream(id, members, seconds);
    }
    kalamdb_close(db);
    return 0;
}
