/* Content in files: the boundary, the preview, both directions of UPDATE, groups, media, quotas, deletion,
 * and what a sweep finds and repairs. */
#include "engine_fixture.h"
#include "store/internal.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define LARGE 102400

static struct engine e;
static char text_buf[1 << 20];

static int setup(void **state)
{
    (void)state;
    engine_open(&e);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    engine_close(&e);
    return 0;
}

/* Text of n bytes that differ by seed. */
static const char *text(size_t n, unsigned seed)
{
    assert_true(n < sizeof text_buf);
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1103515245u + 12345u;
        text_buf[i] = "0123456789abcdef"[seed >> 16 & 15];
    }
    text_buf[n] = 0;
    return text_buf;
}

/* One text out of the one row. Valid until the next call. */
static const char *cell(const char *as, const char *sql)
{
    static char out[4096];
    const char *got = run(&e, as, sql), *from = strstr(got, "\"rows\":[[");
    if (from == NULL)
        fail_msg("%s: %s", sql, got);
    snprintf(out, sizeof out, "%s", from + strlen("\"rows\":[["));
    char *end = strstr(out, "]],\"rowCount\":1");
    if (end == NULL)
        fail_msg("%s: %s", sql, got);
    *end = 0;
    size_t n = strlen(out);
    if (n >= 2 && out[0] == '"') {
        memmove(out, out + 1, n - 2);
        out[n - 2] = 0;
    }
    return out;
}

static int64_t insert(const char *as, const char *conversation, const char *content)
{
    char sql[256];
    struct kalamdb_value p = text_param(content);
    snprintf(sql, sizeof sql,
        "INSERT INTO messages (conversation_id, content) VALUES ('%s', $1) RETURNING msg_id", conversation);
    const char *got = run_params(&e, as, sql, 1, &p), *id = strstr(got, "\"rows\":[[");
    if (id == NULL)
        fail_msg("%s", got);
    return strtoll(id + strlen("\"rows\":[["), NULL, 10);
}

/* Files below a folder of the data directory, subfolders too; -1: no such folder. */
static int files_in(const char *folder)
{
    char path[512];
    int n = 0;
    snprintf(path, sizeof path, "%s/%s", e.dir, folder);
    DIR *dir = opendir(path);
    if (dir == NULL)
        return 0;
    for (struct dirent *d; (d = readdir(dir)) != NULL;) {
        if (d->d_name[0] == '.')
            continue;
        char below[512];
        snprintf(below, sizeof below, "%s/%s", folder, d->d_name);
        n += d->d_type == DT_DIR ? files_in(below) : strncmp(d->d_name, "batch-", 6) != 0;
    }
    closedir(dir);
    return n;
}

/* Files go when the commit that takes their last row is published, a moment after it is answered. */
static void wait_for_files(const char *folder, int want)
{
    for (int i = 0; i < 2000 && files_in(folder) != want; i++)
        usleep(1000);
    assert_int_equal(files_in(folder), want);
}

static kalamdb_code open_as(
    const char *as, enum kalamdb_role role, const char *ref, struct kalamdb_content *ret)
{
    struct kalamdb_error error;
    struct kalamdb_caller caller = {.user_id = {as, strlen(as)}, .role = role};
    return kalamdb_content_open(e.db, caller, (struct kalamdb_str){ref, strlen(ref)}, ret, &error);
}

/* The file of a ref is these bytes. */
static void expect_content(const char *as, const char *ref, const char *want)
{
    struct kalamdb_content c;
    size_t n = strlen(want);
    assert_int_equal(open_as(as, KALAMDB_USER, ref, &c), KALAMDB_OK);
    assert_int_equal(c.size, n);
    assert_string_equal(c.content_type, "text/plain; charset=utf-8");
    char *got = malloc(n), sum[65];
    struct errctx ec;
    assert_int_equal(pread(c.fd, got, n, 0), n);
    assert_memory_equal(got, want, n);
    assert_int_equal(os_sha256_fd(c.fd, c.size, sum, &ec), ERR_OK);
    assert_string_equal(sum, c.sha256);
    free(got);
    close(c.fd);
}

static const char *code(kalamdb_code c)
{
    return c == KALAMDB_OK ? "OK" : kalamdb_code_name(c);
}

static void the_boundary_is_exact(void **state)
{
    (void)state;
    insert("alice", "c", text(LARGE - 1, 1));
    assert_int_equal(number(&e, "alice", "SELECT length(content) FROM messages"), LARGE - 1);
    expect(&e, "alice", "SELECT content_ref FROM messages",
        "{\"columns\":[\"content_ref\"],\"rows\":[[null]],\"rowCount\":1}");
    assert_int_equal(files_in("alice"), 0);
    int64_t id = insert("alice", "c", text(LARGE, 2));
    char want[64], ref[128];
    snprintf(want, sizeof want, "alice/msg-%lld.bin", (long long)id);
    snprintf(ref, sizeof ref, "%s",
        cell("alice", "SELECT content_ref FROM messages WHERE content_ref IS NOT NULL"));
    assert_string_equal(ref, want);
    assert_int_equal(
        number(&e, "alice", "SELECT length(content) FROM messages WHERE content_ref IS NOT NULL"),
        BLOB_PREVIEW_BYTES);
    expect_content("alice", ref, text(LARGE, 2));
    assert_int_equal(files_in(".kalamdb/uploads"), 0);
    /* Nobody else's, and nothing that is no ref. */
    struct kalamdb_content c;
    assert_string_equal(code(open_as("bob", KALAMDB_USER, ref, &c)), "NOT_FOUND");
    assert_string_equal(code(open_as("alice", KALAMDB_USER, "alice/../.kalamdb/jwt", &c)), "NOT_FOUND");
    assert_string_equal(code(open_as("alice", KALAMDB_USER, "", &c)), "NOT_FOUND");
    assert_string_equal(code(open_as("s", KALAMDB_SERVICE, "alice//msg-1.bin", &c)), "NOT_FOUND");
    assert_int_equal(open_as("s", KALAMDB_SERVICE, ref, &c), KALAMDB_OK);
    close(c.fd);
}

static void the_preview_ends_on_a_character(void **state)
{
    (void)state;
    /* 1,023 bytes, then characters of three. */
    size_t n = BLOB_PREVIEW_BYTES - 1;
    memset(text_buf, 'a', n);
    while (n < LARGE) {
        memcpy(text_buf + n, "\xe2\x82\xac", 3);
        n += 3;
    }
    text_buf[n] = 0;
    insert("alice", "c", text_buf);
    assert_int_equal(
        number(&e, "alice", "SELECT octet_length(content::blob) FROM messages"), BLOB_PREVIEW_BYTES - 1);
}

static void statements_of_many_rows(void **state)
{
    (void)state;
    char *a = strdup(text(LARGE, 3)), *b = strdup(text(LARGE + 5, 4));
    struct kalamdb_value p[] = {text_param(a), text_param(b)};
    const char *got = run_params(&e, "alice",
        "INSERT INTO messages (conversation_id, content) VALUES ('c', 'one'), ('c', $1), ('d', 'three'), "
        "('d', $2) "
        "RETURNING content_ref IS NULL, length(content)",
        2, p);
    assert_non_null(strstr(got, "\"rows\":[[true,3],[false,1024],[true,5],[false,1024]]"));
    /* Ids in the order of the rows. */
    expect(&e, "alice", "SELECT length(content) FROM messages ORDER BY msg_id",
        "{\"columns\":[\"length\"],\"rows\":[[3],[1024],[5],[1024]],\"rowCount\":4}");
    assert_int_equal(files_in("alice"), 2);
    run(&e, "alice",
        "INSERT INTO messages (conversation_id, content) SELECT 'e', repeat(content, 100) FROM messages "
        "WHERE "
        "content_ref IS NOT NULL");
    assert_int_equal(number(&e, "alice",
                         "SELECT count(*) FROM messages WHERE conversation_id = 'e' AND "
                         "content_ref IS NOT NULL"),
        2);
    assert_int_equal(files_in("alice"), 4);
    /* All or nothing: no file of a statement that fails. */
    expect_code(&e, "alice",
        "INSERT INTO messages (conversation_id, content, conversation_type) SELECT 'f', repeat('x', 200000), "
        "CASE WHEN content = 'one' THEN 'no' ELSE 'ai' END FROM messages",
        "CONSTRAINT_VIOLATION");
    assert_int_equal(files_in("alice"), 4);
    free(a);
    free(b);
}

static void a_retry_leaves_no_file(void **state)
{
    (void)state;
    struct kalamdb_value p = text_param(text(LARGE, 5));
    const char *sql =
        "INSERT INTO messages (conversation_id, content, client_msg_id) VALUES ('c', $1, 'once')";
    assert_non_null(strstr(run_params(&e, "alice", sql, 1, &p), "\"rowsAffected\":1"));
    assert_non_null(strstr(run_params(&e, "alice", sql, 1, &p), "\"rowsAffected\":0"));
    wait_for_files("alice", 1);
    expect_content("alice", cell("alice", "SELECT content_ref FROM messages"), text(LARGE, 5));
}

static void updates_go_both_ways(void **state)
{
    (void)state;
    char ref[128];
    insert("alice", "c", "small");
    struct kalamdb_value p = text_param(text(LARGE, 6));
    assert_non_null(
        strstr(run_params(&e, "alice", "UPDATE messages SET content = $1", 1, &p), "\"rowsAffected\":1"));
    snprintf(ref, sizeof ref, "%s", cell("alice", "SELECT content_ref FROM messages"));
    expect_content("alice", ref, text(LARGE, 6));
    /* An expression over what is in a file; one that is not. */
    expect_code(&e, "alice", "UPDATE messages SET content = content || 'x'", "UNSUPPORTED");
    expect_code(&e, "alice", "UPDATE messages SET metadata = '{\"a\":1}'", "OK");
    expect_content("alice", ref, text(LARGE, 6));
    p = text_param(text(LARGE, 7));
    run_params(&e, "alice", "UPDATE messages SET content = $1", 1, &p);
    assert_string_not_equal(cell("alice", "SELECT content_ref FROM messages"), ref);
    wait_for_files("alice", 1);
    expect(&e, "alice", "UPDATE messages SET content = 'small' RETURNING content, content_ref",
        "{\"columns\":[\"content\",\"content_ref\"],\"rows\":[[\"small\",null]],\"rowCount\":1,"
        "\"rowsAffected\":1}");
    wait_for_files("alice", 0);
    /* A computed content that is large. */
    expect_code(&e, "alice", "UPDATE messages SET content = repeat(content, 30000)", "OK");
    assert_int_equal(files_in("alice"), 1);
    expect_content("alice", cell("alice", "SELECT content_ref FROM messages"), ({
        for (size_t i = 0; i < 30000; i++)
            memcpy(text_buf + 5 * i, "small", 5);
        text_buf[150000] = 0;
        text_buf;
    }));
    /* Cold rows, both ways. */
    engine_consolidate(&e, "alice");
    expect_code(&e, "alice", "UPDATE messages SET content = 'cold'", "OK");
    wait_for_files("alice", 0);
    engine_consolidate(&e, "alice");
    p = text_param(text(LARGE, 8));
    run_params(&e, "alice", "UPDATE messages SET content = $1", 1, &p);
    engine_consolidate(&e, "alice");
    assert_int_equal(files_in("alice"), 1);
    expect_code(&e, "alice", "DELETE FROM messages", "OK");
    wait_for_files("alice", 0);
}

static uint64_t refs_of(const char *ref)
{
    struct store_view *v;
    struct blob b;
    struct errctx ec;
    assert_int_equal(store_view_open(e.db->store, &v, &ec), ERR_OK);
    enum err err = view_blob(v, str_c(ref), &b, &ec);
    store_view_close(v);
    return err == ERR_OK ? b.refs : 0;
}

static void make_group(const char *members)
{
    char sql[512];
    expect_code(&e, "alice",
        "INSERT INTO conversations (conversation_id, conversation_type) VALUES ('room', 'group')", "OK");
    snprintf(sql, sizeof sql, "INSERT INTO conversation_users (conversation_id, user_id) VALUES %s", members);
    expect_code(&e, "alice", sql, "OK");
}

static void a_group_has_one_file(void **state)
{
    (void)state;
    char ref[128], want[128];
    make_group("('room', 'bob'), ('room', 'carol')");
    int64_t id = insert("alice", "room", text(LARGE, 9));
    snprintf(want, sizeof want, "shared/conversations/room/msg-%lld.bin", (long long)id);
    snprintf(ref, sizeof ref, "%s", cell("bob", "SELECT content_ref FROM messages"));
    assert_string_equal(ref, want);
    assert_int_equal(files_in("shared"), 1);
    assert_int_equal(refs_of(ref), 3);
    expect_content("carol", ref, text(LARGE, 9));
    struct kalamdb_content c;
    assert_string_equal(code(open_as("dave", KALAMDB_USER, ref, &c)), "NOT_FOUND");
    /* A file lives as long as some row names it, in whatever tier. */
    engine_consolidate(&e, NULL);
    expect_code(&e, "bob", "DELETE FROM messages", "OK");
    assert_string_equal(code(open_as("bob", KALAMDB_USER, ref, &c)), "NOT_FOUND");
    assert_int_equal(refs_of(ref), 2);
    struct kalamdb_value p = text_param(text(LARGE, 10));
    run_params(&e, "alice", "UPDATE messages SET content = $1", 1, &p);
    char second[128];
    snprintf(second, sizeof second, "%s", cell("carol", "SELECT content_ref FROM messages"));
    assert_string_not_equal(second, ref);
    wait_for_files("shared", 1);
    assert_int_equal(refs_of(second), 2);
    expect_code(&e, "carol", "DELETE FROM conversations", "OK");
    assert_int_equal(refs_of(second), 1);
    expect_content("alice", second, text(LARGE, 10));
    expect_code(&e, "alice", "DELETE FROM conversations", "OK");
    wait_for_files("shared", 0);
}

/* ---- media ---- */

struct upload {
    struct kalamdb_upload_message message;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool finished;
    struct kalamdb_uploaded got;
    char ref[256], message_text[512];
    kalamdb_code code;
};

static void uploaded(void *arg, const struct kalamdb_uploaded *u, const struct kalamdb_error *error)
{
    struct upload *up = arg;
    pthread_mutex_lock(&up->lock);
    up->code = error != NULL ? error->code : KALAMDB_OK;
    if (error != NULL)
        snprintf(up->message_text, sizeof up->message_text, "%s", error->message);
    if (u != NULL) {
        up->got = *u;
        snprintf(up->ref, sizeof up->ref, "%.*s", (int)u->content_ref.len, u->content_ref.ptr);
    }
    up->finished = true;
    pthread_cond_signal(&up->wake);
    pthread_mutex_unlock(&up->lock);
}

static struct upload media_message(const char *conversation)
{
    return (struct upload){.message = {.conversation_id = {conversation, strlen(conversation)}},
        .lock = PTHREAD_MUTEX_INITIALIZER,
        .wake = PTHREAD_COND_INITIALIZER};
}

static const char *upload(const char *as, struct upload *up, const void *bytes, size_t n)
{
    struct kalamdb_upload *u;
    struct kalamdb_error error;
    struct kalamdb_caller caller = {.user_id = {as, strlen(as)}};
    kalamdb_code c = kalamdb_upload_begin(e.db, caller, (struct kalamdb_str){NULL, 0}, &u, &error);
    for (size_t at = 0; c == KALAMDB_OK && at < n; at += 1000)
        c = kalamdb_upload_write(u, (const char *)bytes + at, n - at < 1000 ? n - at : 1000, &error);
    if (c != KALAMDB_OK) {
        kalamdb_upload_abort(u);
        return kalamdb_code_name(c);
    }
    up->finished = false;
    kalamdb_upload_finish(u, &up->message, uploaded, up);
    pthread_mutex_lock(&up->lock);
    while (!up->finished)
        pthread_cond_wait(&up->wake, &up->lock);
    pthread_mutex_unlock(&up->lock);
    return code(up->code);
}

static const char png[] = "\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x02\x80\0\0\x01\xe0\x08\x06\0\0\0";

static void media_is_stored(void **state)
{
    (void)state;
    struct upload up = media_message("c");
    up.message.metadata = (struct kalamdb_str){"{\"alt\":\"a cat\",\"n\":1e400}", 25};
    up.message.content = (struct kalamdb_str){"look", 4};
    up.message.client_msg_id = (struct kalamdb_str){"k", 1};
    assert_string_equal(upload("alice", &up, png, sizeof png - 1), "OK");
    assert_true(up.got.inserted);
    assert_string_equal(up.got.content_type, "image/png");
    assert_int_equal(up.got.size, sizeof png - 1);
    assert_int_equal(up.got.width, 640);
    assert_int_equal(up.got.height, 480);
    char want[256];
    snprintf(want, sizeof want, "alice/media-%lld.png", (long long)up.got.msg_id);
    assert_string_equal(up.ref, want);
    assert_string_equal(cell("alice", "SELECT content_ref FROM messages"), want);
    assert_string_equal(cell("alice", "SELECT content FROM messages"), "look");
    snprintf(want, sizeof want,
        "{\"alt\":\"a "
        "cat\",\"n\":1e400,\"media\":{\"content_type\":\"image/png\",\"size\":%zu,\"sha256\":\"%s\","
        "\"width\":640,\"height\":480}}",
        sizeof png - 1, up.got.sha256);
    assert_string_equal(cell("alice", "SELECT metadata FROM messages"), want);
    /* The caption is all there: an expression may read it, and the file stays. */
    expect_code(&e, "alice", "UPDATE messages SET content = content || '!'", "OK");
    assert_string_equal(cell("alice", "SELECT content FROM messages"), "look!");
    assert_string_equal(cell("alice", "SELECT content_ref FROM messages"), up.ref);
    expect_code(&e, "alice", "UPDATE messages SET content = repeat('x', 200000)", "TOO_LARGE");
    /* A retry describes the first one. */
    struct upload again = media_message("c");
    again.message.client_msg_id = up.message.client_msg_id;
    assert_string_equal(upload("alice", &again, "text", 4), "OK");
    assert_false(again.got.inserted);
    assert_int_equal(again.got.msg_id, up.got.msg_id);
    assert_string_equal(again.ref, up.ref);
    assert_string_equal(again.got.sha256, up.got.sha256);
    assert_int_equal(again.got.width, 640);
    wait_for_files("alice", 1);
    assert_int_equal(files_in(".kalamdb/uploads"), 0);
}

static void uploads_that_fail_leave_nothing(void **state)
{
    (void)state;
    struct upload up = media_message("c");
    up.message.from = (struct kalamdb_str){"bob", 3};
    assert_string_equal(upload("alice", &up, png, sizeof png - 1), "FORBIDDEN");
    up = media_message("c");
    up.message.metadata = (struct kalamdb_str){"[1]", 3};
    assert_string_equal(upload("alice", &up, png, sizeof png - 1), "INVALID_REQUEST");
    up = media_message("");
    assert_string_equal(upload("alice", &up, png, sizeof png - 1), "CONSTRAINT_VIOLATION");
    expect_code(&e, "bob",
        "INSERT INTO conversations (conversation_id, conversation_type) VALUES ('theirs', 'group')", "OK");
    up = media_message("theirs");
    assert_string_equal(upload("alice", &up, png, sizeof png - 1), "FORBIDDEN");
    struct kalamdb_upload *u;
    struct kalamdb_error error;
    struct kalamdb_caller caller = {.user_id = {"alice", 5}};
    assert_int_equal(
        kalamdb_upload_begin(e.db, caller, (struct kalamdb_str){"bob", 3}, &u, &error) == KALAMDB_OK, false);
    assert_string_equal(kalamdb_code_name(error.code), "FORBIDDEN");
    assert_int_equal(
        kalamdb_upload_begin(e.db, caller, (struct kalamdb_str){NULL, 0}, &u, &error), KALAMDB_OK);
    assert_int_equal(kalamdb_upload_write(u, "x", 1, &error), KALAMDB_OK);
    assert_int_equal(files_in(".kalamdb/uploads"), 1);
    kalamdb_upload_abort(u);
    assert_int_equal(files_in(".kalamdb/uploads"), 0);
    assert_int_equal(files_in("alice"), 0);
    assert_int_equal(files_in("shared"), 0);
}

static void quotas_hold(void **state)
{
    (void)state;
    engine_close(&e);
    engine_open(&e);
    e.options.max_media_bytes = 3000;
    e.options.max_user_media_bytes = 5000;
    engine_reopen(&e);
    struct upload up = media_message("c");
    assert_string_equal(upload("alice", &up, text(3001, 1), 3001), "TOO_LARGE");
    assert_string_equal(upload("alice", &up, text(3000, 1), 3000), "OK");
    int64_t first = up.got.msg_id;
    assert_string_equal(upload("alice", &up, text(2001, 2), 2001), "TOO_LARGE");
    assert_string_equal(upload("alice", &up, text(2000, 3), 2000), "OK");
    assert_string_equal(upload("alice", &up, "x", 1), "TOO_LARGE");
    assert_string_equal(upload("bob", &up, "x", 1), "OK"); /* each for themselves */
    /* Two at once: together too large, one of them finds out while it writes. */
    char sql[128];
    snprintf(sql, sizeof sql, "DELETE FROM messages WHERE msg_id = %lld", (long long)first);
    expect_code(&e, "alice", sql, "OK");
    struct kalamdb_upload *a, *b;
    struct kalamdb_error error;
    struct kalamdb_caller caller = {.user_id = {"alice", 5}};
    struct kalamdb_str none = {NULL, 0};
    assert_int_equal(kalamdb_upload_begin(e.db, caller, none, &a, &error), KALAMDB_OK);
    assert_int_equal(kalamdb_upload_begin(e.db, caller, none, &b, &error), KALAMDB_OK);
    assert_int_equal(kalamdb_upload_write(a, text(2000, 4), 2000, &error), KALAMDB_OK);
    assert_string_equal(code(kalamdb_upload_write(b, text(1001, 5), 1001, &error)), "TOO_LARGE");
    kalamdb_upload_abort(b);
    kalamdb_upload_abort(a);
    assert_string_equal(upload("alice", &up, text(3000, 6), 3000), "OK");
}

/* ---- the sweeper ---- */

struct swept {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool finished;
    kalamdb_code code;
    struct kalamdb_sweep_counts counts;
};

static void sweep_done(
    void *arg, const struct kalamdb_sweep_counts *counts, const struct kalamdb_error *error)
{
    struct swept *s = arg;
    pthread_mutex_lock(&s->lock);
    s->finished = true;
    s->code = error->code;
    if (counts != NULL)
        s->counts = *counts;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

static struct kalamdb_sweep_counts sweep(void)
{
    struct swept s = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};
    kalamdb_sweep(e.db, sweep_done, &s);
    pthread_mutex_lock(&s.lock);
    while (!s.finished)
        pthread_cond_wait(&s.wake, &s.lock);
    pthread_mutex_unlock(&s.lock);
    assert_int_equal(s.code, KALAMDB_OK);
    return s.counts;
}

static void plant(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", e.dir, name);
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "x", 1), 1);
    close(fd);
}

/* Damages counts as no commit does. */
struct damage {
    struct commit_op op;
    struct str ref;
    uint64_t user_no;
    int64_t user_delta, total_delta;
    bool forget;
};

static enum err damage_apply(struct commit_op *op, struct txn *txn, struct errctx *ec)
{
    const struct damage *d = (const struct damage *)(void *)op;
    if (d->forget) {
        struct key k = key_ref(CATALOG_USER_NO, CATALOG_BLOBS, d->ref);
        txn_delete(txn, &k);
        return ERR_OK;
    }
    return txn_ref_repair(txn, d->user_no, d->ref, d->user_delta, d->total_delta, ec);
}

static void damage(const char *user, const char *ref, int64_t by_user, int64_t total, bool forget)
{
    struct snapshot *snap;
    struct errctx ec;
    assert_int_equal(snapshot_open(e.db->store, str_c(user), &snap, &ec), ERR_OK);
    struct damage d = {.op = {.apply = damage_apply},
        .ref = str_c(ref),
        .user_no = snapshot_user_no(snap),
        .user_delta = by_user,
        .total_delta = total,
        .forget = forget};
    snapshot_close(snap);
    assert_int_equal(store_commit_wait(e.db->store, &d.op, &ec), ERR_OK);
}

static void a_sweep_proves_and_repairs(void **state)
{
    (void)state;
    char hot[256], cold[256], room[256];
    make_group("('room', 'bob')");
    insert("alice", "room", text(LARGE, 11));
    snprintf(room, sizeof room, "%s", cell("bob", "SELECT content_ref FROM messages"));
    insert("alice", "c", text(LARGE, 12));
    snprintf(cold, sizeof cold, "%s",
        cell("alice", "SELECT content_ref FROM messages WHERE conversation_id = 'c'"));
    engine_consolidate(&e, "alice");
    insert("alice", "h", text(LARGE, 13));
    snprintf(
        hot, sizeof hot, "%s", cell("alice", "SELECT content_ref FROM messages WHERE conversation_id = 'h'"));
    struct kalamdb_sweep_counts c = sweep();
    assert_int_equal(c.users, 2);
    assert_int_equal(c.blobs, 3);
    assert_int_equal(c.refs, 4);
    assert_int_equal(c.refs_repaired + c.blobs_repaired + c.blobs_missing + c.files_set_aside, 0);
    /* A count too high of a cold row, one lost of a hot one, a total too low, a record gone. */
    damage("alice", cold, +2, 0, false);
    damage("alice", hot, -1, 0, false);
    damage("bob", room, 0, -1, false);
    c = sweep();
    assert_int_equal(c.refs_repaired, 2);
    assert_int_equal(c.blobs_repaired, 1);
    damage("alice", hot, 0, 0, true);
    assert_int_equal(refs_of(hot), 0);
    c = sweep();
    assert_int_equal(c.blobs_repaired, 1);
    assert_int_equal(c.files_set_aside, 0);
    c = sweep();
    assert_int_equal(c.refs_repaired + c.blobs_repaired + c.files_set_aside, 0);
    assert_int_equal(refs_of(cold), 1);
    assert_int_equal(refs_of(hot), 1);
    assert_int_equal(refs_of(room), 2);
    expect_content("alice", hot, text(LARGE, 13));
    /* Files that nobody names; others are left alone. */
    plant("alice/msg-77.bin");
    plant("alice/notes.txt");
    plant("shared/conversations/room/media-78.png");
    plant(".kalamdb/uploads/fresh");
    c = sweep();
    assert_int_equal(c.files_set_aside, 2);
    assert_int_equal(c.uploads_removed, 0);
    assert_int_equal(files_in(".kalamdb/orphans/alice"), 1);
    assert_int_equal(files_in(".kalamdb/orphans/shared.room"), 1);
    assert_int_equal(files_in("alice"), 3);
    /* A row whose file is gone. */
    char path[512];
    snprintf(path, sizeof path, "%s/%s", e.dir, hot);
    assert_int_equal(unlink(path), 0);
    c = sweep();
    assert_int_equal(c.blobs_missing, 1);
    struct kalamdb_content content;
    assert_string_equal(code(open_as("alice", KALAMDB_USER, hot, &content)), "NOT_FOUND");
    /* At open everything goes that nobody names. */
    plant("alice/media-79.gif");
    plant("shared/conversations/room/msg-80.bin");
    engine_reopen(&e);
    assert_int_equal(files_in(".kalamdb/orphans/alice"), 2);
    assert_int_equal(files_in(".kalamdb/orphans/shared.room"), 2);
    assert_int_equal(files_in(".kalamdb/uploads"), 0);
    expect_content("bob", room, text(LARGE, 11));
}

/* A file under work is nobody's orphan, and one that an older snapshot sees is not set aside. */
static void a_sweep_leaves_work_alone(void **state)
{
    (void)state;
    struct blob_file *f;
    struct errctx ec;
    insert("alice", "c", text(LARGE, 14));
    char ref[256];
    snprintf(ref, sizeof ref, "%s", cell("alice", "SELECT content_ref FROM messages"));
    assert_int_equal(blob_file_new(e.db->store, &f, &ec), ERR_OK);
    assert_int_equal(blob_file_write(f, STR("placed, not committed"), &ec), ERR_OK);
    assert_int_equal(blob_file_finish(f, false, &ec), ERR_OK);
    assert_int_equal(blob_file_place(f, false, STR("alice"), 4711, &ec), ERR_OK);
    assert_int_equal(sweep().files_set_aside, 0);
    struct snapshot *snap;
    int fd;
    assert_int_equal(snapshot_open(e.db->store, STR("alice"), &snap, &ec), ERR_OK);
    expect_code(&e, "alice", "DELETE FROM messages", "OK");
    assert_int_equal(sweep().files_set_aside, 0);
    assert_int_equal(store_blob_open(e.db->store, str_c(ref), &fd, &ec), ERR_OK);
    close(fd);
    snapshot_close(snap);
    wait_for_files("alice", 1);
    blob_file_leave(f); /* nobody knows: now it is one */
    assert_int_equal(sweep().files_set_aside, 1);
    assert_int_equal(files_in("alice"), 0);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {TEST(the_boundary_is_exact), TEST(the_preview_ends_on_a_character),
        TEST(statements_of_many_rows), TEST(a_retry_leaves_no_file), TEST(updates_go_both_ways),
        TEST(a_group_has_one_file), TEST(media_is_stored), TEST(uploads_that_fail_leave_nothing),
        TEST(quotas_hold), TEST(a_sweep_proves_and_repairs), TEST(a_sweep_leaves_work_alone)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
