/* kalamdb keys: which master key is in force, and another one in its place, by the server that runs on the
 * directory, or without one. */
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
    bool rotate;
    char *path; /* absolute; NULL: a new key in the data directory */
};

static void print_state(
    bool encryption, const char *where, const char *check, int64_t rotations, const char *last, bool rotating)
{
    if (!encryption) {
        puts("encryption is off: there are no keys");
        return;
    }
    printf("master key %s, %s\n", check,
        strcmp(where, "configured") == 0 ? "as configured" : "in the data directory (.kalamdb/master.key)");
    if (rotations > 0)
        printf("rotated %lld times, last on %s\n", (long long)rotations, last);
    if (rotating)
        puts("a rotation is under way");
}

static void print_rotated(
    uint64_t keys, uint64_t segments, uint64_t damaged, const char *check, const char *path)
{
    printf("master key %s is in force: %llu keys in %llu files are wrapped under it\n", check,
        (unsigned long long)keys, (unsigned long long)segments);
    if (damaged > 0)
        printf("%llu keys were damaged before and are as they were: see kalamdb verify\n",
            (unsigned long long)damaged);
    if (path != NULL)
        printf("before the next start set master_key_file (or KALAMDB_MASTER_KEY) to the key in %s\n", path);
    puts("copies of the key ring that were made before open with the old key only: make a new one, with "
         "kalamdb backup, and destroy them and the old key");
}

static void hex_check(const struct kalamdb_keys *k, char ret[17])
{
    for (size_t i = 0; i < sizeof k->check; i++)
        snprintf(ret + 2 * i, 3, "%02x", k->check[i]);
}

/* ---- without a server --------------------------------------------------------------------------------- */

struct waiting {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool done, ok;
    struct kalamdb_key_rotation rotation;
    struct kalamdb_error error;
};

static void on_done(void *arg, const struct kalamdb_key_rotation *rotation, const struct kalamdb_error *error)
{
    struct waiting *w = arg;
    pthread_mutex_lock(&w->lock);
    w->done = true;
    w->ok = rotation != NULL;
    if (rotation != NULL)
        w->rotation = *rotation;
    else
        w->error = *error;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
}

static int work_here(struct kalamdb *db, const struct request *rq)
{
    struct waiting w = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};
    struct kalamdb_keys k;
    char check[17] = "";
    if (rq->rotate) {
        kalamdb_rotate_master_key(db, rq->path, on_done, &w);
        pthread_mutex_lock(&w.lock);
        while (!w.done)
            pthread_cond_wait(&w.wake, &w.lock);
        pthread_mutex_unlock(&w.lock);
        if (!w.ok)
            return cli_fail_kalamdb(&w.error);
    }
    kalamdb_keys(db, &k);
    hex_check(&k, check);
    if (rq->rotate) {
        print_rotated(w.rotation.keys, w.rotation.segments, w.rotation.damaged, check, rq->path);
    } else {
        struct buf last = BUF_INIT(64);
        time_format(&last, k.rotated_us);
        buf_u8(&last, 0);
        print_state(k.encryption, k.beside_data ? "data directory" : "configured", check, k.rotations,
            last.failed ? "" : last.ptr, false);
        buf_release(&last);
    }
    return EXIT_SUCCESS;
}

/* ---- by the server that runs -------------------------------------------------------------------------- */

static const char *text_of(const json_t *o, const char *name)
{
    const char *s = json_string_value(json_object_get(o, name));
    return s != NULL ? s : "";
}

static uint64_t count_of(const json_t *o, const char *name)
{
    return (uint64_t)json_integer_value(json_object_get(o, name));
}

static int print_answer(int status, struct str body, const struct request *rq)
{
    struct errctx ec = {0};
    json_t *o = json_loadb(body.ptr, body.len, 0, NULL);
    int result = EXIT_SUCCESS;
    if (status != 200) {
        err_set(&ec, ERR_IO, "%s", o != NULL ? text_of(o, "message") : "the server refused");
        if (text_of(o, "detail")[0] != '\0')
            err_detail(&ec, "%s", text_of(o, "detail"));
        if (text_of(o, "hint")[0] != '\0')
            err_hint(&ec, "%s", text_of(o, "hint"));
        result = cli_fail(&ec, EXIT_FAILED);
    } else if (rq->rotate) {
        print_rotated(count_of(o, "keys"), count_of(o, "segments"), count_of(o, "damaged"),
            text_of(o, "masterKeyCheck"), rq->path);
    } else {
        print_state(json_is_true(json_object_get(o, "encryption")), text_of(o, "masterKey"),
            text_of(o, "masterKeyCheck"), (int64_t)count_of(o, "masterKeyRotations"),
            text_of(o, "masterKeyRotatedAt"), json_is_true(json_object_get(o, "rotating")));
    }
    json_decref(o);
    return result;
}

/* NOT_FOUND, UNAVAILABLE: there is none. */
static enum err ask_server(
    const struct config *c, const struct request *rq, int *ret_result, struct errctx *ec)
{
    struct buf body = BUF_INIT(65536), answer = BUF_INIT(0);
    int http = 0;
    if (rq->rotate) {
        buf_u8(&body, '{');
        if (rq->path != NULL) {
            buf_str(&body, STR("\"master_key_file\":"));
            json_str(&body, str_c(rq->path));
        }
        buf_u8(&body, '}');
    }
    enum err e = client_request(c, rq->rotate ? "POST" : "GET",
        rq->rotate ? "/api/v1/admin/keys/rotate" : "/api/v1/admin/keys", buf_view(&body), &http, &answer, ec);
    if (e == ERR_OK)
        *ret_result = print_answer(http, buf_view(&answer), rq);
    buf_release(&body);
    buf_release(&answer);
    return e;
}

static int work(const struct config *c, const struct request *rq)
{
    struct kalamdb_options options;
    struct kalamdb_error error = {0};
    struct kalamdb *db = NULL;
    struct errctx ec = {0};
    int result = EXIT_FAILED;
    if (access(c->data, F_OK) != 0) {
        err_set(&ec, ERR_INVALID_REQUEST, "there is no data directory %s", c->data);
        return cli_fail(&ec, EXIT_FAILED);
    }
    /* Asked first: the server may have another master key by now than this environment says. */
    enum err e = ask_server(c, rq, &result, &ec);
    if (e != ERR_NOT_FOUND && e != ERR_UNAVAILABLE)
        return e == ERR_OK ? result : cli_fail(&ec, EXIT_FAILED);
    cli_engine_options(c, &options);
    options.consolidate_interval_ms = 0;
    if (kalamdb_open(&options, &db, &error) != KALAMDB_OK)
        return cli_fail_kalamdb(&error);
    result = work_here(db, rq);
    kalamdb_close(db);
    return result;
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

static bool parse(int argc, char **argv, struct request *rq, struct errctx *ec)
{
    struct str path = STR_NULL;
    int i = 0;
    if (argc > 0 && strcmp(argv[0], "rotate") == 0) {
        rq->rotate = true;
        i = 1;
    }
    while (i < argc) {
        int n = rq->rotate ? cli_flag(argc - i, argv + i, "--new-master-key-file", &path) : 0;
        if (n <= 0) {
            err_set(ec, ERR_INVALID_REQUEST, n < 0 ? "%s: needs a value" : "unknown argument: %s", argv[i]);
            err_hint(ec, "kalamdb keys, or kalamdb keys rotate [--new-master-key-file FILE]");
            return false;
        }
        i += n;
    }
    if (path.ptr != NULL && path.len == 0) {
        err_set(ec, ERR_INVALID_REQUEST, "--new-master-key-file: the name of a file is missing");
        return false;
    }
    rq->path = path.ptr != NULL ? absolute(path) : NULL;
    if (path.ptr != NULL && rq->path == NULL) {
        err_set(ec, ERR_NO_MEMORY, "out of memory");
        return false;
    }
    return true;
}

int cli_keys(int argc, char **argv, char **envp)
{
    struct config c;
    struct errctx ec = {0};
    struct request rq = {0};
    int left = 0;
    if (!cli_config(&c, argc, argv, envp, &left))
        return EXIT_USAGE;
    int result = parse(left, argv, &rq, &ec) ? work(&c, &rq) : cli_fail(&ec, EXIT_USAGE);
    free(rq.path);
    config_release(&c);
    return result;
}
