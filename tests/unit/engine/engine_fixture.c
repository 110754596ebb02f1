#include "engine_fixture.h"
#include "base/buf.h"
#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static void open_db(struct engine *e)
{
    struct kalamdb_error error;
    if (kalamdb_open(&e->options, &e->db, &error) != KALAMDB_OK)
        fail_msg("kalamdb_open: %s (%s)", error.message, error.internal);
}

void engine_open(struct engine *e)
{
    memset(e, 0, sizeof *e);
    snprintf(e->dir, sizeof e->dir, "/tmp/kalamdb-engine-XXXXXX");
    assert_non_null(mkdtemp(e->dir));
    kalamdb_options_default(&e->options);
    e->options.data_dir = e->dir;
    e->options.consolidate_interval_ms = 0;
    e->options.hot_tail_rows = 4;
    e->options.workers = 2;
    e->options.durability = KALAMDB_ASYNC; /* tests of rules, not of disks */
    const char *encryption = getenv("KALAMDB_TEST_ENCRYPTION");
    e->options.encryption = encryption != NULL && strcmp(encryption, "on") == 0;
    open_db(e);
}

void engine_reopen(struct engine *e)
{
    kalamdb_close(e->db);
    open_db(e);
}

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st, (void)kind, (void)ftw;
    return remove(path);
}

void engine_close(struct engine *e)
{
    kalamdb_close(e->db);
    nftw(e->dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

struct waiting {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool finished;
    struct kalamdb_error error;
};

static void consolidated(void *arg, struct kalamdb_result *result, const struct kalamdb_error *error)
{
    struct waiting *w = arg;
    assert_null(result);
    pthread_mutex_lock(&w->lock);
    w->error = *error;
    w->finished = true;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

void engine_consolidate(struct engine *e, const char *user)
{
    struct waiting w = {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
    kalamdb_consolidate(e->db, (struct kalamdb_str){user, user != NULL ? strlen(user) : 0}, consolidated, &w);
    pthread_mutex_lock(&w.lock);
    while (!w.finished)
        pthread_cond_wait(&w.cond, &w.lock);
    pthread_mutex_unlock(&w.lock);
    if (w.error.code != KALAMDB_OK)
        fail_msg("consolidate: %s (%s)", w.error.message, w.error.internal);
}

/* ---- statements ---- */

static struct kalamdb_caller caller_of(const char *as)
{
    struct kalamdb_caller c = {.role = KALAMDB_USER};
    if (strncmp(as, "service:", 8) == 0) {
        c.role = KALAMDB_SERVICE;
        as += 8;
    } else if (strncmp(as, "admin:", 6) == 0) {
        c.role = KALAMDB_ADMIN;
        as += 6;
    }
    c.user_id = (struct kalamdb_str){as, strlen(as)};
    return c;
}

static void append_text(void *arg, const char *ptr, size_t len)
{
    buf_append(arg, ptr, len);
}

/* Cuts `"types":[…],` and `,"executionTimeMs":…`. */
static void trim_answer(struct buf *b)
{
    buf_u8(b, 0);
    char *types = strstr(b->ptr, "\"types\":["), *time = strstr(b->ptr, ",\"executionTimeMs\":");
    assert_non_null(time);
    strcpy(time, "}");
    if (types != NULL) {
        char *end = strstr(types, "],\"rows\"");
        assert_non_null(end);
        memmove(types, end + 2, strlen(end + 2) + 1);
    }
}

const char *run_params(
    struct engine *e, const char *as, const char *sql, int n, const struct kalamdb_value *params)
{
    static _Thread_local struct buf answer;
    struct kalamdb_statement st = {
        .caller = caller_of(as), .sql = {sql, strlen(sql)}, .params = params, .nparams = n};
    struct kalamdb_result *result = NULL;
    struct kalamdb_error error;
    buf_release(&answer);
    if (kalamdb_exec(e->db, &st, &result, &error) != KALAMDB_OK) {
        buf_printf(&answer, "%s: %s", kalamdb_code_name(error.code), error.message);
        if (strcmp(kalamdb_code_name(error.code), "INTERNAL") == 0)
            buf_printf(&answer, " (%s)", error.internal);
        buf_u8(&answer, 0);
        return answer.ptr;
    }
    kalamdb_result_json(result, append_text, &answer);
    kalamdb_result_free(result);
    trim_answer(&answer);
    return answer.ptr;
}

const char *run(struct engine *e, const char *as, const char *sql)
{
    return run_params(e, as, sql, 0, NULL);
}

void expect_code(struct engine *e, const char *as, const char *sql, const char *code)
{
    const char *got = run(e, as, sql);
    size_t n = strlen(code);
    if (strcmp(code, "OK") == 0 ? got[0] != '{' : strncmp(got, code, n) != 0 || got[n] != ':')
        fail_msg("%s\n  is   %s\n  want %s", sql, got, code);
}

int64_t number(struct engine *e, const char *as, const char *sql)
{
    struct kalamdb_statement st = {.caller = caller_of(as), .sql = {sql, strlen(sql)}};
    struct kalamdb_result *result;
    struct kalamdb_error error;
    struct kalamdb_value v;
    if (kalamdb_exec(e->db, &st, &result, &error) != KALAMDB_OK)
        fail_msg("%s: %s (%s)", sql, error.message, error.internal);
    assert_int_equal(kalamdb_result_rows(result), 1);
    kalamdb_result_value(result, 0, 0, &v);
    assert_int_equal(v.type, KALAMDB_BIGINT);
    kalamdb_result_free(result);
    return v.i;
}

struct kalamdb_value text_param(const char *s)
{
    return (struct kalamdb_value){.type = KALAMDB_TEXT, .s = {s, strlen(s)}};
}

struct kalamdb_value int_param(int64_t i)
{
    return (struct kalamdb_value){.type = KALAMDB_BIGINT, .i = i};
}
