/* What encryption costs, in-process: two directories, one with and one without it, are asked the same in
 * short turns, so that what else the machine does meets both.
 *
 *   sealed DIR                              a new directory; medians of the turns, in CPU time of the process
 *   sealed DIR on|off newest|insert COUNT   only that, COUNT times: for callgrind, whose counts no load
 * changes */
#include "kalamdb.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

enum {
    TURNS = 41,
    NEWEST_A_TURN = 200,
    INSERTS_A_TURN = 2000,
    IN_FLIGHT = 64,
    USERS = 1000,
    TEXT_BYTES = 120
};

static double cpu_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void must(kalamdb_code code, const struct kalamdb_error *e)
{
    if (code == KALAMDB_OK)
        return;
    fprintf(stderr, "%s: %s %s\n", kalamdb_code_name(code), e->message, e->internal);
    exit(1);
}

static struct kalamdb_str str(const char *s)
{
    return (struct kalamdb_str){s, strlen(s)};
}

static struct kalamdb_statement statement(const char *user, const char *sql)
{
    return (struct kalamdb_statement){
        .caller = {str(user), KALAMDB_USER}, .sql = str(sql), .durability = KALAMDB_ASYNC};
}

static size_t bytes_out;

static void count(void *arg, const char *ptr, size_t len)
{
    (void)arg;
    (void)ptr;
    bytes_out += len;
}

static void newest(struct kalamdb *db, int n)
{
    struct kalamdb_error e;
    struct kalamdb_result *r;
    struct kalamdb_statement st = statement(
        "reader", "SELECT * FROM messages WHERE conversation_id = 'conv_1' ORDER BY msg_id DESC LIMIT 50");
    for (int i = 0; i < n; i++) {
        must(kalamdb_exec(db, &st, &r, &e), &e);
        kalamdb_result_json(r, count, NULL);
        kalamdb_result_free(r);
    }
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static int under_way;

static void wait_for(int most)
{
    pthread_mutex_lock(&lock);
    while (under_way > most)
        pthread_cond_wait(&wake, &lock);
    pthread_mutex_unlock(&lock);
}

static void done(void *arg, struct kalamdb_result *result, const struct kalamdb_error *error)
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

static void inserts(struct kalamdb *db, int n)
{
    char user[32], sql[512];
    for (int i = 0; i < n; i++) {
        snprintf(user, sizeof user, "user_%d", i % USERS);
        snprintf(sql, sizeof sql,
            "INSERT INTO messages (conversation_id, content, metadata) VALUES ('conv', 'message %d with "
            "about "
            "as much text as people write to each other in a chat', '{\"role\":\"user\"}')",
            i);
        struct kalamdb_statement st = statement(user, sql);
        wait_for(IN_FLIGHT - 1);
        pthread_mutex_lock(&lock);
        under_way++;
        pthread_mutex_unlock(&lock);
        kalamdb_exec_async(db, &st, done, NULL, NULL);
    }
    wait_for(0);
}

static struct kalamdb *open_one(const char *dir, const char *mode)
{
    char path[512];
    struct kalamdb_options o;
    struct kalamdb_error e;
    struct kalamdb *db;
    (void)mkdir(dir, 0700);
    snprintf(path, sizeof path, "%s/%s", dir, mode);
    kalamdb_options_default(&o);
    o.data_dir = path;
    o.encryption = strcmp(mode, "on") == 0;
    o.consolidate_interval_ms = 0;
    must(kalamdb_open(&o, &db, &e), &e);
    for (int i = 0; i < 1000; i++) {
        char sql[512], text[TEXT_BYTES + 1];
        memset(text, 'a' + i % 26, TEXT_BYTES);
        text[TEXT_BYTES] = '\0';
        snprintf(sql, sizeof sql, "INSERT INTO messages (conversation_id, content) VALUES ('conv_%d', '%s')",
            i % 5, text);
        struct kalamdb_statement st = statement("reader", sql);
        must(kalamdb_exec(db, &st, NULL, &e), &e);
    }
    inserts(db, USERS); /* everybody exists */
    return db;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void compare(struct kalamdb *const db[2], const char *name, void (*what)(struct kalamdb *, int), int n)
{
    double took[2][TURNS], ratio[TURNS];
    for (int turn = 0; turn < TURNS; turn++) {
        for (int i = 0; i < 2; i++) {
            int mode = (turn + i) % 2;
            double start = cpu_us();
            what(db[mode], n);
            took[mode][turn] = (cpu_us() - start) / n;
        }
        ratio[turn] = took[0][turn] / took[1][turn];
    }
    qsort(took[0], TURNS, sizeof(double), by_value);
    qsort(took[1], TURNS, sizeof(double), by_value);
    qsort(ratio, TURNS, sizeof(double), by_value);
    printf("%s: off %.2f us, on %.2f us of CPU each; %.3f x (quartiles of the pairs %.3f, %.3f)\n", name,
        took[0][TURNS / 2], took[1][TURNS / 2], ratio[TURNS / 2], ratio[TURNS / 4], ratio[TURNS * 3 / 4]);
}

int main(int argc, char **argv)
{
    if (argc != 2 && argc != 5) {
        fprintf(stderr, "usage: sealed DIR [on|off newest|insert COUNT]\n");
        return 2;
    }
    if (argc == 5) {
        struct kalamdb *db = open_one(argv[1], argv[2]);
        (strcmp(argv[3], "newest") == 0 ? newest : inserts)(db, atoi(argv[4]));
        kalamdb_close(db);
        return 0;
    }
    struct kalamdb *db[2] = {open_one(argv[1], "off"), open_one(argv[1], "on")};
    compare(db, "newest 50", newest, NEWEST_A_TURN);
    compare(db, "insert, 64 in flight, 1,000 users", inserts, INSERTS_A_TURN);
    kalamdb_close(db[0]);
    kalamdb_close(db[1]);
    return 0;
}
