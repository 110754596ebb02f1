/* Content in files: the boundary, the preview, both directions of UPDATE, groups, media, quotas, deletion. */
#include "content_fixture.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

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
    kalamdb_content_close(&c);
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

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, content_setup, content_teardown)
    const struct CMUnitTest tests[] = {TEST(the_boundary_is_exact), TEST(the_preview_ends_on_a_character),
        TEST(statements_of_many_rows), TEST(a_retry_leaves_no_file), TEST(updates_go_both_ways),
        TEST(a_group_has_one_file), TEST(media_is_stored), TEST(uploads_that_fail_leave_nothing),
        TEST(quotas_hold)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
