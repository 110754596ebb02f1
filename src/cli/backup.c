#include "base/json.h"
#include "base/timefmt.h"
#include "cli/client.h"
#include "kalamdb_admin.h"
#include <jansson.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct request {
    struct str to, list, keep_text, keys;
    int keep;
};

static bool parse(int argc, char **argv, struct request *rq, struct errctx *ec)
{
    int64_t keep = 0;
    for (int i = 0; i < argc;) {
        int n = cli_flag(argc - i, argv + i, "--to", &rq->to);
        if (n == 0)
            n = cli_flag(argc - i, argv + i, "--list", &rq->list);
        if (n == 0)
            n = cli_flag(argc - i, argv + i, "--keep", &rq->keep_text);
        if (n == 0)
            n = cli_flag(argc - i, argv + i, "--keys", &rq->keys);
        if (n <= 0) {
            err_set(ec, ERR_INVALID_REQUEST, n < 0 ? "%s: needs a value" : "unknown argument: %s", argv[i]);
            return false;
        }
        i += n;
    }
    if (rq->keep_text.ptr != NULL && (!str_to_i64(rq->keep_text, &keep) || keep < 1 || keep > 100000)) {
        err_set(ec, ERR_INVALID_REQUEST, "--keep: a number from 1, not \"%.*s\"", STR_FMT(rq->keep_text));
        return false;
    }
    if ((rq->to.ptr == NULL) == (rq->list.ptr == NULL) || rq->to.len + rq->list.len == 0) {
        err_set(ec, ERR_INVALID_REQUEST, "one of --to and --list is needed");
        err_hint(ec, "kalamdb backup --to DIR [--keep N] [--keys DIR], or kalamdb backup --list DIR");
        return false;
    }
    rq->keep = (int)keep;
    return true;
}

static void print_backup(void *arg, uint32_t generation, int64_t created_us, uint64_t files, uint64_t bytes)
{
    struct buf when = BUF_INIT(64);
    (void)arg;
    time_format(&when, created_us);
    printf("%u  %.*s  %llu files, %llu bytes\n", generation, STR_FMT(buf_view(&when)),
        (unsigned long long)files, (unsigned long long)bytes);
    buf_release(&when);
}

static int list(const char *dir)
{
    struct kalamdb_error error = {0};
    return kalamdb_backups(dir, print_backup, NULL, &error) == KALAMDB_OK ? EXIT_SUCCESS
                                                                          : cli_fail_kalamdb(&error);
}

static void print_done(uint32_t generation, const char *dir, uint64_t files, uint64_t bytes,
    uint64_t files_copied, uint64_t bytes_copied, uint64_t removed)
{
    printf("backup %u in %s: %llu files, %llu bytes, of which %llu files, %llu bytes are new", generation,
        dir, (unsigned long long)files, (unsigned long long)bytes, (unsigned long long)files_copied,
        (unsigned long long)bytes_copied);
    if (removed > 0)
        printf("; %llu older removed", (unsigned long long)removed);
    putchar('\n');
}

static void print_keys(const char *dir, const char *warning)
{
    if (dir != NULL && dir[0] != '\0')
        printf("keys in %s\n", dir);
    if (warning != NULL) {
        fflush(stdout);
        fprintf(stderr, "kalamdb: warning: %s\n", warning);
    }
}

/* ---- without a server --------------------------------------------------------------------------------- */

struct waiting {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool done, ok;
    struct kalamdb_backup backup;
    struct kalamdb_error error;
};

static void on_done(void *arg, const struct kalamdb_backup *backup, const struct kalamdb_error *error)
{
    struct waiting *w = arg;
    pthread_mutex_lock(&w->lock);
    w->done = true;
    w->ok = backup != NULL;
    if (backup != NULL)
        w->backup = *backup;
    else
        w->error = *error;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
}

static int back_up_here(struct kalamdb *db, const char *dir, int keep, const char *keys)
{
    struct waiting w = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};
    kalamdb_backup(db, dir, keep, keys, on_done, &w);
    pthread_mutex_lock(&w.lock);
    while (!w.done)
        pthread_cond_wait(&w.wake, &w.lock);
    pthread_mutex_unlock(&w.lock);
    if (!w.ok)
        return cli_fail_kalamdb(&w.error);
    print_done(w.backup.generation, dir, w.backup.files, w.backup.bytes, w.backup.files_copied,
        w.backup.bytes_copied, w.backup.removed);
    print_keys(w.backup.keys, w.backup.master_key_copied ? KALAMDB_MASTER_KEY_COPIED : NULL);
    return EXIT_SUCCESS;
}

/* ---- by the server that runs -------------------------------------------------------------------------- */

static uint64_t count(const json_t *o, const char *name)
{
    return (uint64_t)json_integer_value(json_object_get(o, name));
}

static int print_answer(int status, struct str body, const char *dir)
{
    struct errctx ec = {0};
    json_t *o = json_loadb(body.ptr, body.len, 0, NULL);
    int result = EXIT_SUCCESS;
    if (status == 200) {
        print_done((uint32_t)count(o, "backup"), dir, count(o, "files"), count(o, "bytes"),
            count(o, "filesCopied"), count(o, "bytesCopied"), count(o, "removed"));
        print_keys(
            json_string_value(json_object_get(o, "keys")), json_string_value(json_object_get(o, "warning")));
    } else {
        const char *message = json_string_value(json_object_get(o, "message"));
        const char *hint = json_string_value(json_object_get(o, "hint"));
        err_set(&ec, ERR_IO, "%s", message != NULL ? message : "the server refused");
        if (hint != NULL)
            err_hint(&ec, "%s", hint);
        result = cli_fail(&ec, EXIT_FAILED);
    }
    json_decref(o);
    return result;
}

static int ask_server(const struct config *c, const char *dir, int keep, const char *keys)
{
    struct errctx ec = {0};
    struct buf body = BUF_INIT(65536), answer = BUF_INIT(0);
    int http = 0, result;
    buf_str(&body, STR("{\"to\":"));
    json_str(&body, str_c(dir));
    if (keep > 0)
        buf_printf(&body, ",\"keep\":%d", keep);
    if (keys != NULL) {
        buf_str(&body, STR(",\"keys\":"));
        json_str(&body, str_c(keys));
    }
    buf_u8(&body, '}');
    if (client_request(c, "POST", "/api/v1/admin/backup", buf_view(&body), &http, &answer, &ec) == ERR_OK)
        result = print_answer(http, buf_view(&answer), dir);
    else
        result = cli_fail(&ec, EXIT_FAILED);
    buf_release(&body);
    buf_release(&answer);
    return result;
}

static int back_up(const struct config *c, const char *dir, int keep, const char *keys)
{
    struct kalamdb_options options;
    struct kalamdb_error error = {0};
    struct kalamdb *db = NULL;
    if (access(c->data, F_OK) != 0) {
        struct errctx ec = {0};
        err_set(&ec, ERR_INVALID_REQUEST, "there is no data directory %s", c->data);
        return cli_fail(&ec, EXIT_FAILED);
    }
    cli_engine_options(c, &options);
    options.consolidate_interval_ms = 0;
    kalamdb_code code = kalamdb_open(&options, &db, &error);
    if (code == KALAMDB_OK) {
        int result = back_up_here(db, dir, keep, keys);
        kalamdb_close(db);
        return result;
    }
    return code == ERR_CONFLICT ? ask_server(c, dir, keep, keys) : cli_fail_kalamdb(&error);
}

/* The server has another working directory. */
static char *absolute(struct str path)
{
    char cwd[PATH_MAX], *out;
    if (path.ptr[0] == '/')
        return strndup(path.ptr, path.len);
    if (getcwd(cwd, sizeof cwd) == NULL || asprintf(&out, "%s/%.*s", cwd, STR_FMT(path)) < 0)
        return NULL;
    return out;
}

int cli_backup(int argc, char **argv, char **envp)
{
    struct config c;
    struct errctx ec = {0};
    struct request rq = {0};
    int left = 0, result;
    if (!cli_config(&c, argc, argv, envp, &left))
        return EXIT_USAGE;
    if (!parse(left, argv, &rq, &ec)) {
        result = cli_fail(&ec, EXIT_USAGE);
    } else {
        char *dir = absolute(rq.to.ptr != NULL ? rq.to : rq.list);
        char *keys = rq.keys.len > 0 ? absolute(rq.keys) : NULL;
        if (dir == NULL || (rq.keys.len > 0 && keys == NULL))
            result = EXIT_FAILED;
        else
            result = rq.to.ptr != NULL ? back_up(&c, dir, rq.keep, keys) : list(dir);
        free(keys);
        free(dir);
    }
    config_release(&c);
    return result;
}
