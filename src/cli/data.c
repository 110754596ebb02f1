/* `kalamdb export` and `kalamdb import`: by the server at --url, or the one that runs on --data; where none
 * does, in this process. */
#include "cli/client.h"
#include "cli/http.h"
#include "kalamdb_admin.h"
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define CALLER STR("kalamdb-cli")
#define TOKEN_TTL_S 3600

struct request {
    struct str user, url, token, ca, cert, key;
    const char *file; /* NULL or "-": the standard streams */
    bool import;
};

static bool parse(int argc, char **argv, struct request *rq, struct errctx *ec)
{
    struct str file = STR_NULL;
    for (int i = 0; i < argc;) {
        int n = cli_flag(argc - i, argv + i, "--user", &rq->user);
        if (n == 0)
            n = cli_flag(argc - i, argv + i, "--url", &rq->url);
        if (n == 0)
            n = cli_flag(argc - i, argv + i, "--token", &rq->token);
        if (n == 0)
            n = cli_flag(argc - i, argv + i, "--ca", &rq->ca);
        if (n == 0)
            n = cli_flag(argc - i, argv + i, "--cert", &rq->cert);
        if (n == 0)
            n = cli_flag(argc - i, argv + i, "--key", &rq->key);
        if (n == 0 && !rq->import)
            n = cli_flag(argc - i, argv + i, "-o", &file);
        if (n == 0 && rq->import && file.ptr == NULL && (argv[i][0] != '-' || argv[i][1] == '\0')) {
            file = str_c(argv[i]);
            n = 1;
        }
        if (n <= 0) {
            err_set(ec, ERR_INVALID_REQUEST, n < 0 ? "%s: needs a value" : "unknown argument: %s", argv[i]);
            return false;
        }
        i += n;
    }
    rq->file = file.ptr == NULL || str_eq(file, STR("-")) ? NULL : file.ptr;
    if (rq->user.len == 0)
        err_set(ec, ERR_INVALID_REQUEST, "--user is missing");
    else if (rq->import && file.ptr == NULL)
        err_set(ec, ERR_INVALID_REQUEST, "the archive is missing (- reads standard input)");
    else if (rq->url.ptr != NULL && rq->token.ptr == NULL)
        err_set(ec, ERR_INVALID_REQUEST, "--url asks for --token");
    else if (rq->url.ptr == NULL && rq->token.ptr != NULL)
        err_set(ec, ERR_INVALID_REQUEST, "--token goes with --url");
    else if (!str_starts_with(rq->url, STR("https://")) &&
             (rq->ca.ptr != NULL || rq->cert.ptr != NULL || rq->key.ptr != NULL))
        err_set(ec, ERR_INVALID_REQUEST, "--ca, --cert and --key go with an https:// --url");
    else if (rq->key.ptr != NULL && rq->cert.ptr == NULL)
        err_set(ec, ERR_INVALID_REQUEST, "--key goes with --cert");
    else
        return true;
    err_hint(ec, "%s",
        rq->import
            ? "kalamdb import --user ID FILE [--url https://HOST:PORT --token TOKEN [--ca FILE]]"
            : "kalamdb export --user ID [-o FILE] [--url https://HOST:PORT --token TOKEN [--ca FILE]]");
    return false;
}

/* ---- the archive on this side ------------------------------------------------------------------------- */

/* An export in a file appears whole or not at all. */
struct target {
    int fd;
    char *temp; /* NULL: standard output */
};

static enum err target_open(const char *file, struct target *t, struct errctx *ec)
{
    *t = (struct target){.fd = STDOUT_FILENO};
    if (file == NULL && isatty(STDOUT_FILENO))
        return err_set(ec, ERR_INVALID_REQUEST, "this is a tar: name a file with -o, or redirect the output");
    if (file == NULL)
        return ERR_OK;
    if (asprintf(&t->temp, "%s.part", file) < 0)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    t->fd = open(t->temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    return t->fd >= 0 ? ERR_OK : err_set(ec, ERR_IO, "%s: %s", t->temp, strerror(errno));
}

static enum err target_close(struct target *t, const char *file, enum err e, struct errctx *ec)
{
    if (t->temp == NULL)
        return e;
    if (t->fd >= 0) {
        if (e == ERR_OK && fsync(t->fd) != 0)
            e = err_set(ec, ERR_IO, "%s: %s", t->temp, strerror(errno));
        close(t->fd);
        if (e == ERR_OK && rename(t->temp, file) != 0)
            e = err_set(ec, ERR_IO, "%s: %s", file, strerror(errno));
        if (e != ERR_OK)
            unlink(t->temp);
    }
    free(t->temp);
    return e;
}

static bool take(void *arg, struct str bytes)
{
    return os_write_all(((struct target *)arg)->fd, bytes.ptr, bytes.len) == 0;
}

static void print_counts(const char *user, uint64_t messages, uint64_t conversations, uint64_t files)
{
    printf("%s: %llu messages, %llu conversations, %llu files\n", user, (unsigned long long)messages,
        (unsigned long long)conversations, (unsigned long long)files);
}

/* ---- by a server -------------------------------------------------------------------------------------- */

static enum err refused(const struct http_exchange *x, struct errctx *ec)
{
    json_t *o = json_loadb(x->answer.ptr != NULL ? x->answer.ptr : "", x->answer.len, 0, NULL);
    const char *message = json_string_value(json_object_get(o, "message"));
    const char *detail = json_string_value(json_object_get(o, "detail"));
    err_set(ec, ERR_IO, "%s", message != NULL ? message : "the server refused");
    if (detail != NULL)
        err_detail(ec, "%s", detail);
    if (message == NULL)
        err_detail(ec, "HTTP status %d", x->status);
    json_decref(o);
    return ec->code;
}

static void put_user(struct buf *b, struct str user)
{
    for (size_t i = 0; i < user.len; i++)
        buf_printf(b, "%%%02X", (unsigned char)user.ptr[i]);
}

static uint64_t count(const json_t *o, const char *name)
{
    return (uint64_t)json_integer_value(json_object_get(o, name));
}

static enum err by_server(const struct request *rq, const struct link_target *at, struct str token,
    int archive, struct target *t, struct errctx *ec)
{
    struct buf path = BUF_INIT(0);
    buf_printf(&path, "/api/v1/%s?user=", rq->import ? "import" : "export");
    put_user(&path, rq->user);
    struct http_exchange x = {.at = at,
        .method = rq->import ? "POST" : "GET",
        .target = buf_view(&path),
        .token = token,
        .body_fd = archive,
        .take = rq->import ? NULL : take,
        .arg = t};
    enum err e = path.failed ? err_set(ec, ERR_NO_MEMORY, "out of memory") : http_run(&x, ec);
    if (e == ERR_OK && x.status != 200)
        e = refused(&x, ec);
    if (e == ERR_OK && rq->import) {
        json_t *o = json_loadb(x.answer.ptr, x.answer.len, 0, NULL);
        print_counts(rq->user.ptr, count(o, "messages"), count(o, "conversations"), count(o, "files"));
        json_decref(o);
    }
    buf_release(&x.answer);
    buf_release(&path);
    return e;
}

/* The one that has the data directory. */
static enum err by_local_server(
    const struct config *c, const struct request *rq, int archive, struct target *t, struct errctx *ec)
{
    struct link_target at;
    struct auth *auth = NULL;
    struct buf token = BUF_INIT(16384);
    enum err e = client_address(c, &at, ec);
    if (e == ERR_OK)
        e = cli_open_auth(c, &auth, ec);
    if (e == ERR_OK)
        e = auth_mint(
            auth, CALLER, ROLE_SERVICE, os_realtime_us(os_posix()) / 1000000, TOKEN_TTL_S, &token, ec);
    if (e == ERR_OK)
        e = by_server(rq, &at, buf_view(&token), archive, t, ec);
    buf_release(&token);
    auth_close(auth);
    return e;
}

/* ---- in this process ---------------------------------------------------------------------------------- */

static enum err engine_failed(const struct kalamdb_error *error, struct errctx *ec)
{
    *ec = (struct errctx){.code = (enum err)error->code};
    memcpy(ec->message, error->message, sizeof ec->message);
    memcpy(ec->detail, error->detail, sizeof ec->detail);
    memcpy(ec->hint, error->hint, sizeof ec->hint);
    memcpy(ec->internal, error->internal, sizeof ec->internal);
    return ec->code;
}

static const struct kalamdb_caller self = {.user_id = {"kalamdb-cli", 11}, .role = KALAMDB_SERVICE};

static enum err export_here(struct kalamdb *db, const struct request *rq, struct target *t, struct errctx *ec)
{
    struct kalamdb_export *x;
    struct kalamdb_error error = {0};
    char chunk[65536];
    enum err e = ERR_OK;
    if (kalamdb_export_open(db, &self, (struct kalamdb_str){rq->user.ptr, rq->user.len}, &x, &error) !=
        KALAMDB_OK)
        return engine_failed(&error, ec);
    for (size_t n = 1; e == ERR_OK && n > 0;) {
        if (kalamdb_export_read(x, chunk, sizeof chunk, &n, &error) != KALAMDB_OK)
            e = engine_failed(&error, ec);
        else if (!take(t, str_n(chunk, n)))
            e = err_set(ec, ERR_IO, "the archive could not be written: %s", strerror(errno));
    }
    kalamdb_export_close(x);
    return e;
}

struct waiting {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool finished;
    struct kalamdb_import_counts counts;
    struct kalamdb_error error;
};

static void imported(void *arg, const struct kalamdb_import_counts *counts, const struct kalamdb_error *error)
{
    struct waiting *w = arg;
    pthread_mutex_lock(&w->lock);
    w->error = *error;
    if (counts != NULL)
        w->counts = *counts;
    w->finished = true;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

static enum err import_here(struct kalamdb *db, const struct request *rq, int archive, struct errctx *ec)
{
    struct waiting w = {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
    struct kalamdb_import *im;
    struct kalamdb_error error = {0};
    char chunk[65536];
    if (kalamdb_import_begin(db, &self, (struct kalamdb_str){rq->user.ptr, rq->user.len}, &im, &error) !=
        KALAMDB_OK)
        return engine_failed(&error, ec);
    for (int64_t n = 1; n > 0;) {
        n = os_read_all(archive, chunk, sizeof chunk);
        if (n >= 0 && kalamdb_import_write(im, chunk, (size_t)n, &error) == KALAMDB_OK)
            continue;
        kalamdb_import_abort(im);
        return n < 0 ? err_set(ec, ERR_IO, "reading the archive failed: %s", strerror((int)-n))
                     : engine_failed(&error, ec);
    }
    kalamdb_import_finish(im, imported, &w);
    pthread_mutex_lock(&w.lock);
    while (!w.finished)
        pthread_cond_wait(&w.cond, &w.lock);
    pthread_mutex_unlock(&w.lock);
    if (w.error.code != KALAMDB_OK)
        return engine_failed(&w.error, ec);
    print_counts(rq->user.ptr, w.counts.messages, w.counts.conversations, w.counts.files);
    return ERR_OK;
}

static enum err here(
    const struct config *c, const struct request *rq, int archive, struct target *t, struct errctx *ec)
{
    struct kalamdb_options options;
    struct kalamdb_error error = {0};
    struct kalamdb *db = NULL;
    struct stat st;
    cli_engine_options(c, &options);
    options.consolidate_interval_ms = 0;
    if (!rq->import && stat(c->data, &st) != 0)
        return err_set(ec, ERR_NOT_FOUND, "there is no data directory %s", c->data);
    if (kalamdb_open(&options, &db, &error) != KALAMDB_OK) {
        if (error.code == ERR_CONFLICT)
            return by_local_server(c, rq, archive, t, ec);
        return engine_failed(&error, ec);
    }
    enum err e = rq->import ? import_here(db, rq, archive, ec) : export_here(db, rq, t, ec);
    kalamdb_close(db);
    return e;
}

static enum err run(const struct config *c, const struct request *rq, struct errctx *ec)
{
    struct link_target at = {.ca_file = rq->ca.ptr, .cert_file = rq->cert.ptr, .key_file = rq->key.ptr};
    struct target t = {.fd = -1};
    int archive = -1;
    enum err e = rq->url.ptr != NULL ? http_url(rq->url, &at, ec) : ERR_OK;
    if (e == ERR_OK && !rq->import) {
        e = target_open(rq->file, &t, ec);
    } else if (e == ERR_OK) {
        archive = rq->file != NULL ? open(rq->file, O_RDONLY | O_CLOEXEC) : STDIN_FILENO;
        if (archive < 0)
            e = err_set(ec, ERR_IO, "%s: %s", rq->file, strerror(errno));
    }
    if (e == ERR_OK)
        e = rq->url.ptr != NULL ? by_server(rq, &at, rq->token, archive, &t, ec)
                                : here(c, rq, archive, &t, ec);
    if (archive > STDIN_FILENO)
        close(archive);
    return target_close(&t, rq->file, e, ec);
}

static int data_command(int argc, char **argv, char **envp, bool import)
{
    struct config c;
    struct errctx ec = {0};
    struct request rq = {.import = import};
    int left = 0;
    if (!cli_config(&c, argc, argv, envp, &left))
        return EXIT_USAGE;
    int status = EXIT_SUCCESS;
    if (!parse(left, argv, &rq, &ec))
        status = cli_fail(&ec, EXIT_USAGE);
    else if (run(&c, &rq, &ec) != ERR_OK)
        status = cli_fail(&ec, EXIT_FAILED);
    config_release(&c);
    return status;
}

int cli_export(int argc, char **argv, char **envp)
{
    return data_command(argc, argv, envp, false);
}

int cli_import(int argc, char **argv, char **envp)
{
    return data_command(argc, argv, envp, true);
}
