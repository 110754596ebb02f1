/* The same statements, over the same rows, in a real PostgreSQL 15 and through sql_parse and a worker. What
 * differs is a failure: column names, row order (where the statement orders), every value, and whether it is
 * an error.
 *
 * compare FILE.sql …: statements end with a semicolon at the end of a line. A line before one may say
 *   --! error CODE     both must refuse it, we with this code
 *   --! only CODE      PostgreSQL accepts it, we refuse it with this code (a documented limit)
 *   --! ours           PostgreSQL does not know it (DuckDB's functions): it must run
 *   --! differs why    both run, answers are not compared (a documented difference)
 * PostgreSQL runs in a temporary folder on a socket; without its programs the test is skipped (exit 77). */
#include "analytic/analytic.h"
#include "base/json.h"
#include "base/timefmt.h"
#include "cell.h"
#include "sql/sql.h"
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PG_BIN "/usr/lib/postgresql/15/bin/"
#define FIELD "\x1f"
#define ROW "\x1e"

static char folder[64];
static struct analytic *engine;
static const int64_t now_us = INT64_C(1760356800000000); /* 2025-10-13 12:00:00 UTC */
static int verbose;

static void die(const char *what)
{
    fprintf(stderr, "compare: %s: %s\n", what, strerror(errno));
    exit(2);
}

/* ---- rows
 * ---------------------------------------------------------------------------------------------------- */

static const char *const people[] = {"user_alice", "ai", "assistant:gpt", "bob", "tool:search"};
static const char *const texts[] = {"Hello AI!", "how are you?", "100% sure", "under_score", "back\\slash",
    "it's", "Grüße aus Köln", "日本語", "", " lead and trail ", "a,b,,c", "line\nbreak", "UPPER lower", "12",
    "3.75", "x"};
static const char *const metas[] = {NULL, "{\"role\":\"user\",\"n\":1}",
    "{\"role\":\"assistant\",\"n\":2.5,\"tags\":[\"a\",\"b\"]}",
    "{\"nested\":{\"deep\":{\"k\":\"v\"}},\"n\":null}", "{\"tags\":[],\"ok\":true}",
    "{\"a.b\":1,\"a/b\":2,\"$c\":3,\"\":4}", "{\"list\":[1,2,{\"x\":\"y\"}]}"};

#define NMESSAGES 60
static void message(int i, struct value *v, struct arena *a)
{
    v[MSG_ID] = value_i64(1000 + i * 7);
    v[MSG_CONVERSATION_ID] = value_text(arena_printf(a, "conv_%d", i % 5));
    v[MSG_CONVERSATION_TYPE] = value_text(i % 5 == 4 ? STR("group") : STR("ai"));
    v[MSG_FROM] = value_text(str_c(people[i % 5]));
    /* Across months, with and without fractions. */
    v[MSG_TIMESTAMP] =
        value_ts(INT64_C(1735689600000000) + INT64_C(86400000000) * (i * 4) + INT64_C(3723004500) * i);
    v[MSG_CONTENT] = value_text(str_c(texts[i % 16]));
    v[MSG_CONTENT_REF] = i % 9 == 0 ? value_text(arena_printf(a, "user_alice/msg-%d.bin", i)) : VALUE_OF_NULL;
    v[MSG_METADATA] = metas[i % 7] == NULL ? VALUE_OF_NULL : value_json(str_c(metas[i % 7]));
    v[MSG_CLIENT_MSG_ID] = i % 4 == 0 ? value_text(arena_printf(a, "client-%d", i)) : VALUE_OF_NULL;
    v[MSG_SEQ] = value_i64(i + 1);
    v[MSG_INS_SEQ] = value_i64(i + 1);
}

#define NCONVERSATIONS 6
static void conversation(int i, struct value *v, struct arena *a)
{
    bool empty = i == 5;
    v[CONV_ID] = value_text(arena_printf(a, "conv_%d", i));
    v[CONV_TYPE] = value_text(i == 4 ? STR("group") : STR("ai"));
    v[CONV_TITLE] = i % 2 == 0 ? value_text(arena_printf(a, "Title %d", i)) : VALUE_OF_NULL;
    v[CONV_FIRST_MSG_ID] = empty ? VALUE_OF_NULL : value_i64(1000 + i * 7);
    v[CONV_LAST_MSG_ID] = empty ? VALUE_OF_NULL : value_i64(1000 + (55 + i) * 7);
    v[CONV_TOTAL_MESSAGES] = value_i64(empty ? 0 : 12);
    v[CONV_CREATED] = value_ts(INT64_C(1735689600000000) + i);
    v[CONV_UPDATED] = value_ts(INT64_C(1750000000000000) + i);
    v[CONV_METADATA] = i == 3 ? value_json(STR("{\"color\":\"red\"}")) : VALUE_OF_NULL;
}

static void pg_literal(struct buf *b, struct value v)
{
    if (v.type == VALUE_NULL)
        buf_printf(b, "NULL");
    else if (v.type == VALUE_BIGINT)
        buf_i64(b, v.i);
    else {
        buf_u8(b, '\'');
        if (v.type == VALUE_TIMESTAMPTZ)
            time_format(b, v.i);
        else
            for (size_t i = 0; i < v.s.len; i++) {
                if (v.s.ptr[i] == '\'')
                    buf_u8(b, '\'');
                buf_u8(b, (uint8_t)v.s.ptr[i]);
            }
        buf_u8(b, '\'');
    }
}

/* The rows of a table: as a row file for a worker, and as INSERT for PostgreSQL. */
static int build(const struct schema *s, int n, void (*row)(int, struct value *, struct arena *),
    struct buf *pg, uint64_t *ret_bytes)
{
    struct arena a;
    struct buf rows = BUF_INIT(0), one = BUF_INIT(0);
    arena_init(&a, 1u << 24);
    for (int i = 0; i < n; i++) {
        struct value v[SCHEMA_COLUMNS_MAX];
        row(i, v, &a);
        buf_clear(&one);
        row_encode(&one, s, (struct row_meta){.seq = (uint64_t)i + 1, .ins_seq = (uint64_t)i + 1}, v);
        row_file_append(&rows, buf_view(&one));
        buf_printf(pg, "INSERT INTO %.*s VALUES (", STR_FMT(s->name));
        bool first = true;
        for (int k = 0; k < s->ncolumns; k++) {
            if (s->columns[k].flags & COLUMN_HIDDEN)
                continue;
            buf_printf(pg, first ? "" : ", ");
            pg_literal(pg, v[k]);
            first = false;
        }
        buf_printf(pg, ");\n");
    }
    int fd = os_memfd("rows");
    if (fd < 0 || os_write_all(fd, rows.ptr, rows.len) != 0)
        die("memfd");
    *ret_bytes = rows.len;
    buf_release(&rows);
    buf_release(&one);
    arena_release(&a);
    return fd;
}

static const char schema_sql[] = "CREATE TABLE messages (msg_id bigint primary key, conversation_id text not "
                                 "null, conversation_type text, \"from\" "
                                 "text, timestamp timestamptz, content text not null, content_ref text, "
                                 "metadata jsonb, client_msg_id text);\n"
                                 "CREATE TABLE conversations (conversation_id text primary key, "
                                 "conversation_type text, title text, first_msg_id "
                                 "bigint, last_msg_id bigint, total_messages bigint, created timestamptz, "
                                 "updated timestamptz, metadata jsonb);\n";

/* ---- PostgreSQL
 * ---------------------------------------------------------------------------------------------- */

/* PostgreSQL does not run as root. */
static void become_nobody(void)
{
    if (geteuid() != 0)
        return;
    struct passwd *p = getpwnam("nobody");
    if (p == NULL || setgroups(0, NULL) != 0 || setgid(p->pw_gid) != 0 || setuid(p->pw_uid) != 0)
        _exit(126);
}

/* Runs a program, stdout into `out` when given. */
static int run(const char *const *argv, const char *input, struct buf *out)
{
    int in[2], pipes[2];
    if (pipe(in) != 0 || pipe(pipes) != 0)
        die("pipe");
    pid_t pid = fork();
    if (pid < 0)
        die("fork");
    if (pid == 0) {
        dup2(in[0], 0);
        if (out != NULL)
            dup2(pipes[1], 1);
        int null = open("/dev/null", 1);
        if (out == NULL)
            dup2(null, 1);
        if (!verbose || out == NULL)
            dup2(null, 2);
        for (int i = 3; i < 256; i++)
            close(i);
        become_nobody();
        if (chdir(folder) != 0)
            _exit(125);
        unsetenv("LD_PRELOAD");
        execv(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    close(in[0]);
    close(pipes[1]);
    if (input != NULL && os_write_all(in[1], input, strlen(input)) != 0 && verbose)
        fprintf(stderr, "compare: input cut\n");
    close(in[1]);
    char chunk[4096];
    int64_t n;
    while (out != NULL && (n = read(pipes[0], chunk, sizeof chunk)) > 0)
        buf_append(out, chunk, (size_t)n);
    close(pipes[0]);
    int status;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int psql(const char *sql, struct buf *out)
{
    const char *argv[] = {PG_BIN "psql", "-X", "-q", "-A", "-h", folder, "-U", "postgres", "-F", FIELD, "-R",
        ROW, "-P", "null=" NULL_MARK, "-P", "footer=off", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-f",
        "-", NULL};
    return run(argv, sql, out);
}

static pid_t postmaster;

static void pg_stop(void)
{
    const char *clean[] = {"/bin/rm", "-rf", "data", NULL};
    if (postmaster > 0) {
        kill(postmaster, SIGQUIT);
        waitpid(postmaster, NULL, 0);
    }
    if (folder[0] == 0)
        return;
    run(clean, NULL, NULL);
    rmdir(folder);
}

/* The server is our child and dies with us: a killed test leaves none behind. */
static void pg_serve(void)
{
    postmaster = fork();
    if (postmaster != 0)
        return;
    int null = open("/dev/null", O_RDWR);
    for (int i = 0; i < 3; i++)
        dup2(null, i);
    for (int i = 3; i < 256; i++)
        close(i);
    become_nobody();
    prctl(PR_SET_PDEATHSIG, SIGQUIT);
    if (chdir(folder) != 0)
        _exit(125);
    execl(PG_BIN "postgres", "postgres", "-D", "data", "-k", folder, "-c", "listen_addresses=", "-c",
        "fsync=off", "-c", "timezone=UTC", "-c", "max_connections=4", "-c", "statement_timeout=10000",
        (char *)NULL);
    _exit(127);
}

static void pg_start(const char *setup)
{
    strcpy(folder, "/tmp/kalamdb-sql-XXXXXX");
    if (mkdtemp(folder) == NULL || chmod(folder, 0777) != 0)
        die("mkdtemp");
    const char *init[] = {PG_BIN "initdb", "-D", "data", "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8",
        "--lc-collate=C", "--lc-ctype=C.UTF-8", "--lc-messages=C", NULL};
    const char *ready[] = {PG_BIN "pg_isready", "-q", "-h", folder, NULL};
    atexit(pg_stop);
    bool up = run(init, NULL, NULL) == 0;
    if (up)
        pg_serve();
    for (int i = 0; up && run(ready, NULL, NULL) != 0; i++) {
        up = i < 1000 && waitpid(postmaster, NULL, WNOHANG) == 0;
        usleep(10000);
    }
    if (!up || psql(setup, NULL) != 0) {
        fprintf(stderr, "compare: PostgreSQL does not start in %s\n", folder);
        exit(2);
    }
}

/* ---- one statement
 * ------------------------------------------------------------------------------------------- */

static int scans[3];
static uint64_t scan_bytes[3];

static enum err ours(
    struct str sql, struct rowset *rs, struct str *ret_printed, struct arena *a, struct errctx *ec)
{
    struct stmt *st;
    struct caller caller = {STR("user_alice"), ROLE_USER};
    struct sql_limits limits = {1u << 20, now_us};
    enum err e = sql_parse(a, sql, NULL, 0, &caller, &limits, &st, ec);
    if (e != ERR_OK)
        return e;
    *ret_printed = st->read_sql;
    struct analytic_input inputs[64];
    for (int i = 0; i < st->ntables && i < 64; i++) {
        int k = st->tables[i].schema == &schema_messages ? 0 : 1;
        inputs[i] = (struct analytic_input){
            .schema = st->tables[i].schema, .rows_fd = scans[k], .rows_bytes = scan_bytes[k]};
    }
    struct analytic_request rq = {.user_id = STR("user_alice"),
        .sql = st->read_sql,
        .ninputs = st->ntables,
        .inputs = inputs,
        .mode = ANALYTIC_ROWS,
        .timeout_ms = 20000};
    e = analytic_run(engine, &rq, rs, ec);
    if (e == ERR_OK)
        return e;
    sql_explain_error(sql, ec);
    return ec->code;
}

struct lines {
    size_t n;
    struct str v[4096];
};

static void split(struct str s, char by, struct lines *ret)
{
    ret->n = 0;
    while (ret->n < 4096) {
        size_t k = str_find(s, by);
        ret->v[ret->n++] = str_n(s.ptr, k);
        if (k == s.len)
            break;
        s = str_n(s.ptr + k + 1, s.len - k - 1);
    }
}

static bool row_same(struct str row, const struct rowset *rs, size_t i)
{
    static struct lines cells;
    split(row, FIELD[0], &cells);
    if (cells.n != (size_t)rs->ncolumns)
        return false;
    for (int k = 0; k < rs->ncolumns; k++)
        if (!cell_same(cells.v[k], rowset_row(rs, i)[k], rs->types[k]))
            return false;
    return true;
}

/* NULL when they agree, else what does not. */
static const char *differ(struct str sql, struct str pg, const struct rowset *rs)
{
    static struct lines rows, names;
    static char why[400];
    if (pg.len > 0 && pg.ptr[pg.len - 1] == ROW[0])
        pg.len--;
    if (pg.len > 0 && pg.ptr[pg.len - 1] == '\n')
        pg.len--;
    split(pg, ROW[0], &rows);
    split(rows.v[0], FIELD[0], &names);
    if (names.n != (size_t)rs->ncolumns)
        return "number of columns";
    for (int i = 0; i < rs->ncolumns; i++)
        if (!str_eq(names.v[i], rs->names[i])) {
            snprintf(why, sizeof why, "column name \"%.*s\" instead of \"%.*s\"", STR_FMT(rs->names[i]),
                STR_FMT(names.v[i]));
            return why;
        }
    if (rows.n - 1 != rs->nrows) {
        snprintf(why, sizeof why, "%zu rows instead of %zu", rs->nrows, rows.n - 1);
        return why;
    }
    bool ordered = memmem(sql.ptr, sql.len, "ORDER BY", 8) != NULL, used[4096] = {false};
    for (size_t i = 1; i < rows.n; i++) {
        size_t k = i - 1;
        bool same = !used[k] && row_same(rows.v[i], rs, k);
        if (!same && !ordered)
            for (k = 0; k < rs->nrows && !same; k += !same)
                same = !used[k] && row_same(rows.v[i], rs, k);
        if (!same) {
            struct buf b = BUF_INIT(0);
            for (int c = 0; c < rs->ncolumns; c++) {
                buf_printf(&b, c > 0 ? " | " : "");
                json_value(&b, rowset_row(rs, i - 1)[c]);
            }
            snprintf(why, sizeof why, "row %zu: PostgreSQL %.*s\n      ours (%s …) %.*s", i,
                (int)rows.v[i].len, rows.v[i].ptr, value_type_name(rs->types[0]), (int)b.len, b.ptr);
            buf_release(&b);
            return why;
        }
        used[k] = true;
    }
    return NULL;
}

enum expect { EXPECT_SAME, EXPECT_ERROR, EXPECT_ONLY, EXPECT_OURS, EXPECT_DIFFERS };

static bool check(struct str sql, enum expect expect, struct str code)
{
    struct arena a;
    struct buf pg = BUF_INIT(0), text = BUF_INIT(0);
    struct errctx ec;
    struct rowset rs;
    struct str printed = STR_NULL;
    const char *why = NULL;
    arena_init(&a, 1u << 26);
    errctx_clear(&ec);
    rowset_init(&rs, 1u << 26);
    buf_printf(&text, "%.*s;\n", STR_FMT(sql));
    buf_u8(&text, 0);
    bool pg_ok = expect == EXPECT_OURS || psql(text.ptr, &pg) == 0;
    enum err e = ours(sql, &rs, &printed, &a, &ec);
    static char reason[1200];
    if (expect == EXPECT_ERROR || expect == EXPECT_ONLY) {
        if (pg_ok != (expect == EXPECT_ONLY))
            why = pg_ok ? "PostgreSQL accepts it" : "PostgreSQL refuses it";
        else if (e == ERR_OK)
            why = "we accept it";
        else if (!str_eq(str_c(err_wire(e)), code)) {
            snprintf(reason, sizeof reason, "%s: %s", err_wire(e), ec.message);
            why = reason;
        }
    } else if (e != ERR_OK) {
        snprintf(reason, sizeof reason, "%s: %s %s", err_wire(e), ec.message, ec.internal);
        why = reason;
    } else if (!pg_ok)
        why = "PostgreSQL refuses it";
    else if (expect == EXPECT_SAME)
        why = differ(sql, buf_view(&pg), &rs);
    if (why != NULL || verbose)
        printf("%s %.*s\n    %s\n    %.*s\n", why != NULL ? "FAIL" : "ok  ", STR_FMT(sql),
            why != NULL ? why : "", STR_FMT(printed));
    rowset_release(&rs);
    buf_release(&pg);
    buf_release(&text);
    arena_release(&a);
    return why == NULL;
}

static void mark(struct str line, enum expect *ret, struct str *ret_code)
{
    static const struct {
        struct str word;
        enum expect expect;
    } words[] = {{STR("error "), EXPECT_ERROR}, {STR("only "), EXPECT_ONLY}, {STR("ours"), EXPECT_OURS},
        {STR("differs"), EXPECT_DIFFERS}};
    for (size_t i = 0; i < 4; i++)
        if (str_starts_with(line, words[i].word)) {
            *ret = words[i].expect;
            *ret_code = str_trim(str_n(line.ptr + words[i].word.len, line.len - words[i].word.len));
            return;
        }
    fprintf(stderr, "compare: unknown mark %.*s\n", STR_FMT(line));
    exit(2);
}

static void run_file(const char *path, int *ret_run, int *ret_failed)
{
    struct buf b = BUF_INIT(1u << 24), sql = BUF_INIT(1u << 20);
    struct errctx ec;
    enum expect expect = EXPECT_SAME;
    struct str code = STR("");
    if (os_read_file(path, &b, &ec) != ERR_OK)
        die(path);
    for (struct str s = buf_view(&b); s.len > 0;) {
        size_t n = str_find(s, '\n');
        struct str line = str_n(s.ptr, n), trimmed = str_trim(line);
        s = n < s.len ? str_n(s.ptr + n + 1, s.len - n - 1) : STR("");
        if (str_starts_with(trimmed, STR("--! ")))
            mark(str_n(trimmed.ptr + 4, trimmed.len - 4), &expect, &code);
        else if (str_starts_with(trimmed, STR("--")) || (trimmed.len == 0 && sql.len == 0))
            continue;
        else {
            buf_str(&sql, line);
            buf_u8(&sql, '\n');
            if (!str_ends_with(trimmed, STR(";")))
                continue;
            struct str one = str_trim(buf_view(&sql));
            one.len--;
            ++*ret_run;
            *ret_failed += !check(one, expect, code);
            expect = EXPECT_SAME;
            buf_clear(&sql);
        }
    }
    buf_release(&b);
    buf_release(&sql);
}

int main(int argc, char **argv)
{
    if (access(PG_BIN "postgres", X_OK) != 0) {
        printf("skipped: PostgreSQL 15 is not installed (Debian package postgresql-15)\n");
        return 77;
    }
    struct buf setup = BUF_INIT(0);
    buf_printf(&setup, "%s", schema_sql);
    scans[0] = build(&schema_messages, NMESSAGES, message, &setup, &scan_bytes[0]);
    scans[1] = build(&schema_conversations, NCONVERSATIONS, conversation, &setup, &scan_bytes[1]);
    buf_u8(&setup, 0);
    struct errctx ec;
    errctx_clear(&ec);
    struct analytic_config cfg = {.workers_max = 1,
        .threads = 1,
        .memory_bytes_max = 512u << 20,
        .result_bytes_max = 64u << 20,
        .idle_worker_ms = 60000,
        .os = os_posix()};
    if (analytic_open(&cfg, &engine, &ec) != ERR_OK) {
        fprintf(stderr, "compare: %s %s\n", ec.message, ec.internal);
        return 2;
    }
    pg_start(setup.ptr);
    buf_release(&setup);
    int nrun = 0, failed = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "-v") == 0)
            verbose = 1;
        else
            run_file(argv[i], &nrun, &failed);
    }
    printf("%d statements, %d differ\n", nrun, failed);
    analytic_close(engine);
    return failed == 0 && nrun > 0 ? 0 : 1;
}
