/* Sweeps of faults, after SQLite's: each operation is run with its Nth call of a kind failing, for rising N
 * until it succeeds with no call left to fail. After each failure:
 *
 *   no crash, no leak   the process lives (ASan and LeakSanitizer look on), as many descriptors as before
 *   no lie              what was acknowledged is there, now and after the power is lost and the directory is
 *                       opened again; a failed operation changed nothing, or says OUTCOME_UNKNOWN
 *   no scar             the same operation succeeds once the fault is gone
 *
 *   sweep              each operation with one of the calls, N = 1, 2, 4, 8, for the suite
 *   sweep --full       every N
 *   sweep [--full] OPERATION [CALL [N]]
 */
#include "world.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct round {
    struct world *w;
    uint64_t number;
    char user[32], other[32], group[32];
    int64_t rows; /* acknowledged rows of the user */
};

static const char *scenario_name = "", *call_name = "";
static char tar_path[64];

static void bad(const struct round *r, uint64_t n, const char *what)
{
    fprintf(stderr, "%s, %s %llu: %s (last error: %s: %s: %s)\n", scenario_name, call_name,
        (unsigned long long)n, what, kalamdb_code_name(r->w->error.code), r->w->error.message,
        r->w->error.internal);
    abort();
}

static void must(const struct round *r, kalamdb_code code, const char *what)
{
    if (code != KALAMDB_OK)
        bad(r, 0, what);
}

static kalamdb_code insert(struct round *r, const char *conversation)
{
    char sql[256];
    snprintf(sql, sizeof sql, "INSERT INTO messages (conversation_id, content) VALUES ('%s', 'text')",
        conversation);
    return world_sql(r->w, r->user, sql, NULL);
}

/* ---- what is swept ------------------------------------------------------------------------------------- */

static void some_rows(struct round *r)
{
    for (int i = 0; i < 3; i++)
        must(r, insert(r, "c"), "insert");
    r->rows = 3;
}

static void cold_rows(struct round *r)
{
    some_rows(r);
    must(r, world_consolidate(r->w, r->user), "consolidate");
}

static void a_group(struct round *r)
{
    char sql[256];
    snprintf(sql, sizeof sql,
        "INSERT INTO conversations (conversation_id, conversation_type, content) VALUES ('%s', "
        "'group', 'first')",
        r->group);
    must(r, world_sql(r->w, r->user, sql, NULL), "make a group");
    snprintf(sql, sizeof sql, "INSERT INTO conversation_users (conversation_id, user_id) VALUES ('%s', '%s')",
        r->group, r->other);
    must(r, world_sql(r->w, r->user, sql, NULL), "add a member");
    r->rows = 1;
}

static void a_file(struct round *r)
{
    some_rows(r);
    must(r, world_upload(r->w, r->user, "c"), "upload");
    r->rows = 4;
}

static void a_tar(struct round *r)
{
    a_file(r);
    must(r, world_export(r->w, r->user, tar_path), "export");
    r->rows = 0;
    snprintf(r->user, sizeof r->user, "i%llu", (unsigned long long)r->number);
}

static void a_backup(struct round *r)
{
    a_file(r);
}

static kalamdb_code op_append(struct round *r)
{
    return insert(r, "c");
}

static kalamdb_code op_async(struct round *r)
{
    struct kalamdb_statement st = {
        .caller = {.user_id = {r->user, strlen(r->user)}}, .durability = KALAMDB_ASYNC};
    struct kalamdb_result *result = NULL;
    const char *sql = "INSERT INTO messages (conversation_id, content) VALUES ('c', 'text')";
    st.sql = (struct kalamdb_str){sql, strlen(sql)};
    kalamdb_code code = kalamdb_exec(r->w->db, &st, &result, &r->w->error);
    kalamdb_result_free(result);
    return code;
}

static kalamdb_code op_group(struct round *r)
{
    return insert(r, r->group);
}

static kalamdb_code op_large(struct round *r)
{
    return world_sql(r->w, r->user,
        "INSERT INTO messages (conversation_id, content) VALUES ('c', repeat('large text ', 12000))", NULL);
}

static kalamdb_code op_consolidate(struct round *r)
{
    return world_consolidate(r->w, r->user);
}

static kalamdb_code right(struct round *r, kalamdb_code code, int64_t got, int64_t want)
{
    if (code == KALAMDB_OK && got != want) {
        fprintf(stderr, "%lld instead of %lld\n", (long long)got, (long long)want);
        bad(r, 0, "a read lied");
    }
    return code;
}

static kalamdb_code op_hot(struct round *r)
{
    int64_t n = 0;
    kalamdb_code code =
        world_sql(r->w, r->user, "SELECT count(*) FROM messages WHERE conversation_id = 'c'", &n);
    return right(r, code, n, 3);
}

static kalamdb_code op_cold(struct round *r)
{
    int64_t n = 0;
    kalamdb_code code = world_sql(r->w, r->user, "SELECT sum(length(content))::bigint FROM messages", &n);
    return right(r, code, n, 12);
}

static kalamdb_code op_update(struct round *r)
{
    return world_sql(r->w, r->user, "UPDATE messages SET content = upper(content) || ''", NULL);
}

static kalamdb_code op_upload(struct round *r)
{
    return world_upload(r->w, r->user, "c");
}

static kalamdb_code op_export(struct round *r)
{
    return world_export(r->w, r->user, NULL);
}

static kalamdb_code op_import(struct round *r)
{
    return world_import(r->w, r->user, tar_path);
}

static kalamdb_code op_erase(struct round *r)
{
    return world_erase(r->w, r->user);
}

static kalamdb_code op_backup(struct round *r)
{
    return world_backup(r->w);
}

static kalamdb_code op_stream(struct round *r)
{
    return world_stream(r->w, r->user, "c");
}

static kalamdb_code op_open(struct round *r)
{
    world_close(r->w);
    return world_open(r->w);
}

static kalamdb_code op_close(struct round *r)
{
    world_close(r->w);
    return KALAMDB_OK;
}

static kalamdb_code op_fresh(struct round *r)
{
    char dir[128];
    struct kalamdb_options options = r->w->options;
    struct kalamdb *db;
    snprintf(dir, sizeof dir, "%s/fresh-%llu", r->w->root, (unsigned long long)r->number);
    options.data_dir = dir;
    kalamdb_code code = kalamdb_open(&options, &db, &r->w->error);
    if (code == KALAMDB_OK)
        kalamdb_close(db);
    return code;
}

static kalamdb_code op_restore(struct round *r)
{
    char dir[128], command[160];
    struct kalamdb_backup done;
    snprintf(dir, sizeof dir, "%s/restored-%llu", r->w->root, (unsigned long long)r->number);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    if (system(command) != 0) /* what a failed one left is refused: removed, as its text says */
        abort();
    return kalamdb_restore(r->w->backup, 0, dir, NULL, &done, &r->w->error);
}

/* What an operation that succeeds does to the user's rows; may say unknown. */
enum effect { READS, ADDS_ONE, ADDS_FOUR, ERASES, BEGINS /* a message that may stay interrupted */ };

struct scenario {
    const char *name;
    void (*prepare)(struct round *r);
    kalamdb_code (*run)(struct round *r);
    enum effect effect;
    bool async;          /* acknowledged may be lost with the power */
    bool closed;         /* the database is closed afterwards */
    const char *sampled; /* the kind of call that the suite looks at */
};

static const struct scenario scenarios[] = {
    {"append", some_rows, op_append, ADDS_ONE, false, false, "fsync-EIO"},
    {"append-async", some_rows, op_async, ADDS_ONE, true, false, "write-ENOSPC"},
    {"append-group", a_group, op_group, ADDS_ONE, false, false, "write-short"},
    {"append-large", some_rows, op_large, ADDS_ONE, false, false, "open-EMFILE"},
    {"update", cold_rows, op_update, READS, false, false, "mmap-ENOMEM"},
    {"consolidate", some_rows, op_consolidate, READS, false, false, "rename-EIO"},
    {"query-hot", some_rows, op_hot, READS, false, false, "alloc-ENOMEM"},
    {"query-cold", cold_rows, op_cold, READS, false, false, "socket-ENOBUFS"},
    {"upload", some_rows, op_upload, ADDS_ONE, false, false, "write-EINTR"},
    {"export", a_file, op_export, READS, false, false, "read-short"},
    {"import", a_tar, op_import, ADDS_FOUR, false, false, "alloc-ENOMEM"},
    {"erase", a_file, op_erase, ERASES, false, false, "unlink-EIO"},
    {"backup", a_backup, op_backup, READS, false, false, "mkdir-ENOSPC"},
    {"restore", some_rows, op_restore, READS, false, false, "read-EIO"},
    {"stream", some_rows, op_stream, BEGINS, false, false, "fsync-EIO"},
    {"open", some_rows, op_open, READS, false, false, "read-EIO"},
    {"open-fresh", some_rows, op_fresh, READS, false, false, "mkdir-ENOSPC"},
    {"close", some_rows, op_close, READS, false, true, "write-ENOSPC"},
};

struct kind {
    const char *name;
    enum disk_call call;
    int error;
    bool short_bytes;
};
static const struct kind kinds[] = {
    {"write-ENOSPC", DISK_WRITE, ENOSPC, false},
    {"write-EINTR", DISK_WRITE, EINTR, false},
    {"write-short", DISK_WRITE, 0, true},
    {"fsync-EIO", DISK_SYNC, EIO, false},
    {"open-EMFILE", DISK_OPEN, EMFILE, false},
    {"read-EIO", DISK_READ, EIO, false},
    {"read-short", DISK_READ, 0, true},
    {"rename-EIO", DISK_RENAME, EIO, false},
    {"unlink-EIO", DISK_UNLINK, EIO, false},
    {"mkdir-ENOSPC", DISK_MKDIR, ENOSPC, false},
    {"mmap-ENOMEM", DISK_MMAP, ENOMEM, false},
    {"socket-ENOBUFS", DISK_SOCKET, ENOBUFS, false},
    {"alloc-ENOMEM", DISK_ALLOC, ENOMEM, false},
};
#define COUNT(a) (sizeof(a) / sizeof *(a))

/* ---- one round ----------------------------------------------------------------------------------------- */

static bool unknown(const struct world *w)
{
    return strcmp(kalamdb_code_name(w->error.code), "OUTCOME_UNKNOWN") == 0;
}

static int64_t count_rows(struct round *r, const char *user)
{
    int64_t n = -1;
    must(r, world_sql(r->w, user, "SELECT count(*) FROM messages", &n), "count the rows");
    return n;
}

struct expected {
    int64_t low, high; /* rows: any of the two */
};

static struct expected expect_rows(const struct scenario *s, const struct round *r, kalamdb_code code)
{
    static const int64_t adds[] = {[ADDS_ONE] = 1, [ADDS_FOUR] = 4, [BEGINS] = 1};
    struct expected x = {r->rows, r->rows};
    int64_t then = s->effect == ERASES ? 0 : r->rows + adds[s->effect];
    if (code == KALAMDB_OK)
        x.low = then;
    if (code == KALAMDB_OK || unknown(r->w) || s->effect == BEGINS)
        x.high = then;
    return x;
}

static void check_rows(struct round *r, uint64_t n, struct expected x, const char *when)
{
    char text[160];
    int64_t got = count_rows(r, r->user), total = -1;
    if (got != x.low && got != x.high) {
        snprintf(text, sizeof text, "%s: %lld rows, not %lld or %lld", when, (long long)got, (long long)x.low,
            (long long)x.high);
        bad(r, n, text);
    }
    must(r, world_sql(r->w, r->user, "SELECT sum(total_messages)::bigint FROM conversations", &total),
        "count by conversations");
    if (got > 0 && total != got)
        bad(r, n, "counters do not agree with rows");
}

static void on_found(void *arg, struct kalamdb_str user, const char *text)
{
    (void)arg;
    fprintf(stderr, "%.*s: %s\n", (int)user.len, user.ptr == NULL ? "" : user.ptr, text);
}

/* Indexes, counters and files against rows: whatever failed left nothing half. */
static void check_whole(struct round *r, uint64_t n)
{
    struct kalamdb_verified v;
    struct kalamdb_str user = {r->user, strlen(r->user)};
    if (r->rows > 0 && kalamdb_verify(r->w->db, user, on_found, NULL, &v, &r->w->error) == KALAMDB_OK &&
        v.findings > 0)
        bad(r, n, "verify finds damage");
}

static void begin(struct round *r, struct world *w, uint64_t number)
{
    *r = (struct round){.w = w, .number = number};
    snprintf(r->user, sizeof r->user, "u%llu", (unsigned long long)number);
    snprintf(r->other, sizeof r->other, "o%llu", (unsigned long long)number);
    snprintf(r->group, sizeof r->group, "g%llu", (unsigned long long)number);
}

static void reopen(struct round *r, uint64_t n)
{
    if (r->w->db == NULL && world_open(r->w) != KALAMDB_OK)
        bad(r, n, "does not open again");
}

/* True: the fault was met, so there is a next N. */
static bool one(struct world *w, const struct scenario *s, const struct kind *k, uint64_t n, uint64_t number)
{
    struct round r;
    begin(&r, w, number);
    s->prepare(&r);
    int fault = disk_fault_add(&(struct disk_fault){
        .call = k->call, .nth = n, .times = 1, .error = k->error, .short_bytes = k->short_bytes});
    w->error = (struct kalamdb_error){0};
    kalamdb_code code = s->run(&r);
    bool met = disk_fault_hits(fault) > 0;
    disk_faults_clear();
    if (code != KALAMDB_OK && !met)
        bad(&r, n, "fails without a fault");
    struct expected x = expect_rows(s, &r, code);
    reopen(&r, n);
    if (!world_wait_writable(w))
        bad(&r, n, "stays unwritable");
    check_rows(&r, n, x, "at once");
    if (s->effect == ADDS_ONE && strcmp(s->name, "append-group") == 0 &&
        count_rows(&r, r.other) + 1 != count_rows(&r, r.user))
        bad(&r, n, "half a group has it");
    world_lose_power(w, number);
    reopen(&r, n);
    if (s->async)
        x.low = r.rows;
    check_rows(&r, n, x, "after the power was lost");
    check_whole(&r, n);
    if (code != KALAMDB_OK && !unknown(w) && (code = s->run(&r)) != KALAMDB_OK)
        bad(&r, n, "fails still when the fault is gone");
    return met;
}

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void sweep(const struct scenario *s, const struct kind *k, bool full, uint64_t only)
{
    static uint64_t number;
    struct world w;
    uint64_t n = 1, rounds = 0, began = now_ms();
    scenario_name = s->name;
    call_name = k->name;
    int before = world_descriptors();
    world_make(&w);
    if (world_open(&w) != KALAMDB_OK)
        abort();
    struct round r;
    begin(&r, &w, ++number);
    a_file(&r);
    if (world_backup(&w) != KALAMDB_OK)
        abort();
    for (n = only != 0 ? only : 1; one(&w, s, k, n, ++number); rounds++) {
        if (only != 0)
            break;
        n = full ? n + 1 : n * 2;
        if (!full && n > 8)
            break;
    }
    world_close(&w);
    if (world_descriptors() != before)
        bad(&r, n, "leaks descriptors");
    world_remove(&w);
    printf("%-14s %-15s %4llu faults, up to %llu, %llu ms\n", s->name, k->name, (unsigned long long)rounds,
        (unsigned long long)n, (unsigned long long)(now_ms() - began));
    fflush(stdout);
}

int main(int argc, char **argv)
{
    bool full = argc > 1 && strcmp(argv[1], "--full") == 0;
    argc -= full;
    argv += full;
    snprintf(tar_path, sizeof tar_path, "/tmp/kalamdb-faults-%d.tar", (int)getpid());
    for (size_t i = 0; i < COUNT(scenarios); i++)
        for (size_t k = 0; k < COUNT(kinds); k++)
            if ((full || argc > 1 || strcmp(scenarios[i].sampled, kinds[k].name) == 0) &&
                ((argc < 2 || strcmp(argv[1], scenarios[i].name) == 0) &&
                    (argc < 3 || strcmp(argv[2], kinds[k].name) == 0)))
                sweep(&scenarios[i], &kinds[k], full, argc > 3 ? strtoull(argv[3], NULL, 10) : 0);
    unlink(tar_path);
    return 0;
}
