#include "world.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static struct kalamdb_str ks(const char *s)
{
    return (struct kalamdb_str){s, s != NULL ? strlen(s) : 0};
}

/* ---- the directory ------------------------------------------------------------------------------------- */

void world_make(struct world *w)
{
    memset(w, 0, sizeof *w);
    snprintf(w->root, sizeof w->root, "/tmp/kalamdb-faults-XXXXXX");
    if (mkdtemp(w->root) == NULL)
        abort();
    snprintf(w->dir, sizeof w->dir, "%s/data", w->root);
    snprintf(w->backup, sizeof w->backup, "%s/backup", w->root);
    kalamdb_options_default(&w->options);
    w->options.data_dir = w->dir;
    w->options.consolidate_interval_ms = 0;
    w->options.hot_tail_rows = 2;
    w->options.workers = 1;
    w->options.write_buffer_bytes = 1 << 20;
    disk_attach(w->root);
}

void world_remove(struct world *w)
{
    char command[128];
    disk_detach();
    snprintf(command, sizeof command, "rm -rf %s", w->root);
    if (system(command) != 0)
        abort();
}

kalamdb_code world_open(struct world *w)
{
    return kalamdb_open(&w->options, &w->db, &w->error);
}

void world_close(struct world *w)
{
    if (w->db != NULL)
        kalamdb_close(w->db);
    w->db = NULL;
}

void world_lose_power(struct world *w, uint64_t seed)
{
    disk_power_off();
    world_close(w);
    disk_power_on(seed, LOSS_BY_SEED, NULL);
}

bool world_wait_writable(struct world *w)
{
    struct timespec pause = {0, 2000000};
    for (int i = 0; i < 5000; i++) {
        if (kalamdb_writable(w->db, &w->error) == KALAMDB_OK)
            return true;
        nanosleep(&pause, NULL);
    }
    return false;
}

int world_descriptors(void)
{
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    if (d == NULL)
        abort();
    while (readdir(d) != NULL)
        n++;
    closedir(d);
    return n;
}

/* ---- waiting for an answer ----------------------------------------------------------------------------- */

struct answer {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool here;
    struct kalamdb_error error;
};
#define ANSWER ((struct answer){.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER})

static void give(struct answer *a, const struct kalamdb_error *error)
{
    pthread_mutex_lock(&a->lock);
    if (error != NULL)
        a->error = *error;
    a->here = true;
    pthread_cond_signal(&a->cond);
    pthread_mutex_unlock(&a->lock);
}

static kalamdb_code await(struct world *w, struct answer *a)
{
    pthread_mutex_lock(&a->lock);
    while (!a->here)
        pthread_cond_wait(&a->cond, &a->lock);
    pthread_mutex_unlock(&a->lock);
    if (a->error.code != KALAMDB_OK)
        w->error = a->error;
    return a->error.code;
}

/* ---- operations ---------------------------------------------------------------------------------------- */

kalamdb_code world_sql(struct world *w, const char *as, const char *sql, int64_t *ret_number)
{
    struct kalamdb_statement st = {.caller = {.user_id = ks(as)}, .sql = ks(sql)};
    struct kalamdb_result *result = NULL;
    kalamdb_code code = kalamdb_exec(w->db, &st, &result, &w->error);
    if (code == KALAMDB_OK && ret_number != NULL) {
        struct kalamdb_value v = {.i = -1};
        if (kalamdb_result_rows(result) > 0)
            kalamdb_result_value(result, 0, 0, &v);
        *ret_number = v.i;
    }
    kalamdb_result_free(result);
    return code;
}

static void on_done(void *arg, struct kalamdb_result *result, const struct kalamdb_error *error)
{
    kalamdb_result_free(result);
    give(arg, error);
}

kalamdb_code world_consolidate(struct world *w, const char *user)
{
    struct answer a = ANSWER;
    kalamdb_consolidate(w->db, ks(user), on_done, &a);
    return await(w, &a);
}

static void on_uploaded(void *arg, const struct kalamdb_uploaded *uploaded, const struct kalamdb_error *error)
{
    (void)uploaded;
    give(arg, uploaded != NULL ? NULL : error);
}

kalamdb_code world_upload(struct world *w, const char *user, const char *conversation)
{
    static const char head[] = "\x89PNG\r\n\x1a\n";
    struct kalamdb_caller caller = {.user_id = ks(user)};
    struct kalamdb_upload_message m = {.conversation_id = ks(conversation)};
    struct kalamdb_upload *u;
    struct answer a = ANSWER;
    char body[3000];
    memset(body, 'p', sizeof body);
    memcpy(body, head, sizeof head - 1);
    kalamdb_code code = kalamdb_upload_begin(w->db, caller, ks(NULL), &u, &w->error);
    if (code != KALAMDB_OK)
        return code;
    for (size_t at = 0; code == KALAMDB_OK && at < sizeof body; at += 1000)
        code = kalamdb_upload_write(u, body + at, 1000, &w->error);
    if (code != KALAMDB_OK) {
        kalamdb_upload_abort(u);
        return code;
    }
    kalamdb_upload_finish(u, &m, on_uploaded, &a);
    return await(w, &a);
}

kalamdb_code world_export(struct world *w, const char *user, const char *path)
{
    struct kalamdb_caller caller = {.user_id = ks(user)};
    struct kalamdb_export *x;
    char chunk[8192];
    int fd = path == NULL ? -1 : open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    kalamdb_code code = kalamdb_export_open(w->db, &caller, ks(NULL), &x, &w->error);
    for (size_t n = 1; code == KALAMDB_OK && n > 0;) {
        code = kalamdb_export_read(x, chunk, sizeof chunk, &n, &w->error);
        if (code == KALAMDB_OK && fd >= 0 && write(fd, chunk, n) != (ssize_t)n)
            abort();
        if (code != KALAMDB_OK || n == 0) {
            kalamdb_export_close(x);
            break;
        }
    }
    if (fd >= 0)
        close(fd);
    return code;
}

static void on_imported(
    void *arg, const struct kalamdb_import_counts *counts, const struct kalamdb_error *error)
{
    (void)counts;
    give(arg, error);
}

kalamdb_code world_import(struct world *w, const char *user, const char *path)
{
    struct kalamdb_caller caller = {.user_id = ks("svc"), .role = KALAMDB_SERVICE};
    struct kalamdb_import *im;
    struct answer a = ANSWER;
    char chunk[8192];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        abort();
    kalamdb_code code = kalamdb_import_begin(w->db, &caller, ks(user), &im, &w->error);
    bool begun = code == KALAMDB_OK;
    for (ssize_t n; code == KALAMDB_OK && (n = read(fd, chunk, sizeof chunk)) > 0;)
        code = kalamdb_import_write(im, chunk, (size_t)n, &w->error);
    close(fd);
    if (code != KALAMDB_OK) {
        if (begun)
            kalamdb_import_abort(im);
        return code;
    }
    kalamdb_import_finish(im, on_imported, &a);
    return await(w, &a);
}

static void on_erased(void *arg, const struct kalamdb_erasure *erasure, const struct kalamdb_error *error)
{
    (void)erasure;
    give(arg, error);
}

kalamdb_code world_erase(struct world *w, const char *user)
{
    struct answer a = ANSWER;
    kalamdb_erase(w->db, ks(user), on_erased, &a);
    return await(w, &a);
}

static void on_backup(void *arg, const struct kalamdb_backup *backup, const struct kalamdb_error *error)
{
    (void)backup;
    give(arg, error);
}

kalamdb_code world_backup(struct world *w)
{
    struct answer a = ANSWER;
    kalamdb_backup(w->db, w->backup, 2, NULL, on_backup, &a);
    return await(w, &a);
}

/* ---- streams ------------------------------------------------------------------------------------------- */

static void on_wake(void *arg)
{
    give(arg, NULL);
}

/* Waits for the event that ends a step. */
static kalamdb_code stream_step(struct world *w, struct kalamdb_producer *p, struct answer *a,
    enum kalamdb_stream_event_kind want, uint64_t offset, int64_t *ret_id)
{
    struct kalamdb_stream_event ev;
    for (;;) {
        enum kalamdb_stream_event_kind kind = kalamdb_producer_next(p, &ev);
        if (kind == KALAMDB_STREAM_PENDING) {
            pthread_mutex_lock(&a->lock);
            while (!a->here)
                pthread_cond_wait(&a->cond, &a->lock);
            a->here = false;
            pthread_mutex_unlock(&a->lock);
        } else if (kind == KALAMDB_STREAM_ERROR) {
            w->error = ev.error;
            return ev.error.code;
        } else if (kind == want && ev.offset >= offset) {
            *ret_id = ev.msg_id;
            return KALAMDB_OK;
        }
    }
}

kalamdb_code world_stream(struct world *w, const char *user, const char *conversation)
{
    struct kalamdb_caller caller = {.user_id = ks(user)};
    struct kalamdb_stream_begin begin = {.caller = caller, .conversation_id = ks(conversation)};
    struct kalamdb_producer *p;
    struct answer a = ANSWER;
    char text[150];
    int64_t id = 0;
    memset(text, 's', sizeof text);
    kalamdb_code code = kalamdb_producer_open(w->db, on_wake, &a, &p, &w->error);
    if (code != KALAMDB_OK)
        return code;
    kalamdb_stream_begin(p, &begin, 1);
    code = stream_step(w, p, &a, KALAMDB_STREAM_BEGUN, 0, &id);
    for (uint64_t at = 0; code == KALAMDB_OK && at < 300; at += 150) {
        kalamdb_stream_append(p, &caller, id, at, (struct kalamdb_str){text, 150}, 2);
        code = stream_step(w, p, &a, KALAMDB_STREAM_ACK, at + 150, &id);
    }
    if (code == KALAMDB_OK) {
        kalamdb_stream_end(p, &caller, id, ks(NULL), 3);
        code = stream_step(w, p, &a, KALAMDB_STREAM_ENDED, 300, &id);
    }
    kalamdb_producer_close(p);
    return code;
}
