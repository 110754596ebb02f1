/* Streamed messages by the library: what is durable when, offsets, ends, interruptions, groups. */
#include "engine_fixture.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- a producer that waits ---- */

struct source {
    struct kalamdb_producer *p;
    pthread_mutex_t lock;
    pthread_cond_t woken;
    bool ready;
    struct kalamdb_stream_event event; /* the last */
    char text[600];
};

static void on_wake(void *arg)
{
    struct source *s = arg;
    pthread_mutex_lock(&s->lock);
    s->ready = true;
    pthread_cond_signal(&s->woken);
    pthread_mutex_unlock(&s->lock);
}

static void source_open(struct source *s, struct engine *e)
{
    struct kalamdb_error error;
    *s = (struct source){.lock = PTHREAD_MUTEX_INITIALIZER, .woken = PTHREAD_COND_INITIALIZER};
    assert_int_equal(kalamdb_producer_open(e->db, on_wake, s, &s->p, &error), KALAMDB_OK);
}

/* The next event as text. */
static const char *next(struct source *s)
{
    while (kalamdb_producer_next(s->p, &s->event) == KALAMDB_STREAM_PENDING) {
        pthread_mutex_lock(&s->lock);
        while (!s->ready)
            pthread_cond_wait(&s->woken, &s->lock);
        s->ready = false;
        pthread_mutex_unlock(&s->lock);
    }
    const struct kalamdb_stream_event *e = &s->event;
    switch (e->kind) {
    case KALAMDB_STREAM_BEGUN:
        snprintf(
            s->text, sizeof s->text, "begun %llu%s", (unsigned long long)e->offset, e->ended ? " ended" : "");
        break;
    case KALAMDB_STREAM_ACK:
        snprintf(s->text, sizeof s->text, "ack %llu", (unsigned long long)e->offset);
        break;
    case KALAMDB_STREAM_ENDED:
        snprintf(s->text, sizeof s->text, "ended %llu", (unsigned long long)e->offset);
        break;
    default:
        if (e->has_offset)
            snprintf(s->text, sizeof s->text, "%s at %llu: %s", kalamdb_code_name(e->error.code),
                (unsigned long long)e->offset, e->error.message);
        else
            snprintf(s->text, sizeof s->text, "%s: %s", kalamdb_code_name(e->error.code), e->error.message);
    }
    return s->text;
}

static struct kalamdb_str ks(const char *s)
{
    return (struct kalamdb_str){s, s != NULL ? strlen(s) : 0};
}

static struct kalamdb_caller who(const char *as)
{
    if (strncmp(as, "service:", 8) == 0)
        return (struct kalamdb_caller){ks(as + 8), KALAMDB_SERVICE};
    return (struct kalamdb_caller){ks(as), KALAMDB_USER};
}

static void begin(struct source *s, const char *as, const char *owner, const char *conversation,
    const char *from, const char *metadata, const char *client_id)
{
    struct kalamdb_stream_begin b = {.caller = who(as),
        .user_id = ks(owner),
        .conversation_id = ks(conversation),
        .from = ks(from),
        .metadata = ks(metadata),
        .client_msg_id = ks(client_id)};
    kalamdb_stream_begin(s->p, &b, 7);
}

static void append(struct source *s, const char *as, int64_t id, uint64_t offset, const char *text)
{
    struct kalamdb_caller c = who(as);
    kalamdb_stream_append(s->p, &c, id, offset, ks(text), 8);
}

static void end(struct source *s, const char *as, int64_t id, const char *metadata)
{
    struct kalamdb_caller c = who(as);
    kalamdb_stream_end(s->p, &c, id, ks(metadata), 9);
}

#define expect_event(s, want)                                                                                \
    do {                                                                                                     \
        const char *got_ = next(s);                                                                          \
        if (strcmp(got_, want) != 0)                                                                         \
            fail_msg("event\n  is   %s\n  want %s", got_, want);                                             \
    } while (0)

static int64_t begun(struct source *s, const char *as, const char *conversation)
{
    begin(s, as, NULL, conversation, strncmp(as, "service:", 8) == 0 ? NULL : "assistant", NULL, NULL);
    expect_event(s, "begun 0");
    return s->event.msg_id;
}

/* ---- one user ---- */

static void test_grows_and_ends(void **state)
{
    struct engine *e = *state;
    struct source s;
    source_open(&s, e);
    begin(&s, "alice", NULL, "c", "assistant", "{\"model\":\"m\"}", NULL);
    expect_event(&s, "begun 0");
    int64_t id = s.event.msg_id;
    expect(e, "alice", "SELECT content, metadata, \"from\", _seq FROM messages",
        "{\"columns\":[\"content\",\"metadata\",\"from\",\"_seq\"],\"rows\":[[\"\",{\"model\":\"m\","
        "\"stream\":"
        "\"open\"},\"assistant\",1]],\"rowCount\":1}");
    append(&s, "alice", id, 0, "Hel");
    expect_event(&s, "ack 3");
    append(&s, "alice", id, 3, "lo \xc3\xa4");
    expect_event(&s, "ack 8");
    /* The same answer on every path: by id, by conversation, by a worker. */
    char sql[200];
    snprintf(sql, sizeof sql, "SELECT content FROM messages WHERE msg_id = %lld", (long long)id);
    expect(e, "alice", sql, "{\"columns\":[\"content\"],\"rows\":[[\"Hello \xc3\xa4\"]],\"rowCount\":1}");
    expect(e, "alice", "SELECT upper(content) AS u FROM messages",
        "{\"columns\":[\"u\"],\"rows\":[[\"HELLO \xc3\x84\"]],\"rowCount\":1}");
    end(&s, "alice", id, "{\"tokens\":2,\"model\":\"n\"}");
    expect_event(&s, "ended 8");
    expect(e, "alice", "SELECT content, metadata, _seq, _ins_seq FROM messages",
        "{\"columns\":[\"content\",\"metadata\",\"_seq\",\"_ins_seq\"],\"rows\":[[\"Hello "
        "\xc3\xa4\",{\"tokens\":2,"
        "\"model\":\"n\"},2,1]],\"rowCount\":1}");
    /* Once more, as a producer does that did not hear of it. */
    end(&s, "alice", id, NULL);
    expect_event(&s, "ended 8");
    append(&s, "alice", id, 8, "x");
    expect_event(&s, "INVALID_REQUEST at 8: the stream of this message has ended");
    kalamdb_producer_close(s.p);
}

static void test_offsets(void **state)
{
    struct engine *e = *state;
    struct source s;
    source_open(&s, e);
    int64_t id = begun(&s, "alice", "c");
    append(&s, "alice", id, 0,
        "a\xc3\xa4"
        "b");
    expect_event(&s, "ack 4");
    append(&s, "alice", id, 5, "x");
    expect_event(&s, "INVALID_REQUEST at 4: the offset leaves a hole: the text is shorter");
    append(&s, "alice", id, 1,
        "\xc3\xa4"
        "b");
    expect_event(&s, "ack 4");
    append(&s, "alice", id, 0, "");
    expect_event(&s, "ack 4");
    append(&s, "alice", id, 2, "b");
    expect_event(&s, "INVALID_REQUEST at 4: the offset lies within a character");
    append(&s, "alice", id, 0, "ax");
    expect_event(&s, "INVALID_REQUEST at 4: the text differs from what is there");
    append(&s, "alice", id, 3, "bcd"); /* overlaps, agrees, goes on */
    expect_event(&s, "ack 6");
    append(&s, "alice", id, 6, "\xff");
    expect_event(&s, "INVALID_REQUEST: the text is not valid UTF-8");
    append(&s, "alice", id + 1, 0, "x");
    expect_event(&s, "INVALID_REQUEST: there is no stream of this message");
    append(&s, "bob", id, 6, "x");
    expect_event(&s, "FORBIDDEN: the message is streamed by somebody else");
    append(&s, "service:w", id, 6, "e");
    expect_event(&s, "ack 7");
    end(&s, "alice", id, "[1]");
    expect_event(&s, "INVALID_REQUEST: metadata of a streamed message must be an object");
    end(&s, "bob", id, NULL);
    expect_event(&s, "FORBIDDEN: the message is streamed by somebody else");
    end(&s, "alice", id, NULL);
    expect_event(&s, "ended 7");
    expect(e, "alice", "SELECT content, metadata FROM messages",
        "{\"columns\":[\"content\",\"metadata\"],\"rows\":[[\"a\xc3\xa4"
        "bcde\",null]],\"rowCount\":1}");
    kalamdb_producer_close(s.p);
}

static void test_limits_and_rights(void **state)
{
    struct engine *e = *state;
    struct source s;
    source_open(&s, e);
    begin(&s, "alice", NULL, "c", "bob", NULL, NULL);
    assert_true(strncmp(next(&s), "FORBIDDEN", 9) == 0);
    begin(&s, "alice", "bob", "c", NULL, NULL, NULL);
    expect_event(&s, "FORBIDDEN: only a service may write in another user's conversations");
    begin(&s, "alice", NULL, "c", NULL, "[]", NULL);
    expect_event(&s, "INVALID_REQUEST: metadata of a streamed message must be an object");
    begin(&s, "alice", NULL, NULL, NULL, NULL, NULL);
    assert_true(strncmp(next(&s), "CONSTRAINT_VIOLATION", 20) == 0);
    begin(&s, "service:w", "alice", "c", NULL, NULL, NULL);
    expect_event(&s, "begun 0");
    int64_t id = s.event.msg_id;
    assert_int_equal(number(e, "alice", "SELECT count(*) FROM messages WHERE \"from\" = 'w'"), 1);
    char *big = malloc((1 << 20) + 2);
    memset(big, 'x', (1 << 20) + 1);
    big[(1 << 20) + 1] = 0;
    append(&s, "service:w", id, 0, big);
    expect_event(&s, "INVALID_REQUEST at 0: the text would be longer than max_content_bytes");
    big[1 << 20] = 0;
    append(&s, "service:w", id, 0, big);
    expect_event(&s, "ack 1048576");
    append(&s, "service:w", id, 1048576, "y");
    expect_event(&s, "INVALID_REQUEST at 1048576: the text would be longer than max_content_bytes");
    free(big);
    kalamdb_producer_close(s.p);
}

static void test_repeated_begin(void **state)
{
    struct engine *e = *state;
    struct source a, b;
    source_open(&a, e);
    source_open(&b, e);
    begin(&a, "alice", NULL, "c", "ai", NULL, "k1");
    expect_event(&a, "begun 0");
    int64_t id = a.event.msg_id;
    append(&a, "alice", id, 0, "abc");
    expect_event(&a, "ack 3");
    begin(&b, "alice", NULL, "c", "ai", NULL, "k1");
    expect_event(&b, "begun 3");
    assert_int_equal(b.event.msg_id, id);
    kalamdb_producer_close(a.p); /* it is b's by now: nothing is interrupted */
    append(&b, "alice", id, 3, "d");
    expect_event(&b, "ack 4");
    end(&b, "alice", id, NULL);
    expect_event(&b, "ended 4");
    begin(&b, "alice", NULL, "c", "ai", NULL, "k1");
    expect_event(&b, "begun 4 ended");
    expect_code(e, "alice",
        "INSERT INTO messages (conversation_id, content, client_msg_id) VALUES ('c', 'x', 'k2')", "OK");
    begin(&b, "alice", NULL, "c", "alice", NULL, "k2");
    expect_event(&b, "INVALID_REQUEST: this clientMsgId belongs to a message that is no stream");
    assert_int_equal(number(e, "alice", "SELECT count(*) FROM messages"), 2);
    kalamdb_producer_close(b.p);
}

/* Waits until the message says so: interruption has no event. */
static void await_state(struct engine *e, const char *as, int64_t id, const char *want)
{
    char sql[200];
    snprintf(sql, sizeof sql,
        "SELECT count(*) FROM messages WHERE msg_id = %lld AND metadata->>'stream' = '%s'", (long long)id,
        want);
    for (int i = 0; i < 500 && number(e, as, sql) != 1; i++)
        ;
    assert_int_equal(number(e, as, sql), 1);
}

static void interrupt_and_go_on(struct engine *e, bool cold, bool crash)
{
    struct source s;
    source_open(&s, e);
    int64_t id = begun(&s, "alice", "c");
    append(&s, "alice", id, 0, "one ");
    expect_event(&s, "ack 4");
    kalamdb_producer_close(s.p);
    if (crash)
        engine_reopen(e);
    await_state(e, "alice", id, "interrupted");
    if (cold)
        engine_consolidate(e, NULL);
    source_open(&s, e);
    append(&s, "bob", id, 4, "x");
    expect_event(&s, "FORBIDDEN: the message is streamed by somebody else");
    await_state(e, "alice", id, "interrupted");
    append(&s, "alice", id, 9, "x");
    expect_event(&s, "INVALID_REQUEST at 4: the offset leaves a hole: the text is shorter");
    await_state(e, "alice", id, "interrupted"); /* nobody took it up */
    append(&s, "alice", id, 4, "two ");
    append(&s, "alice", id, 8, "three");
    while (strcmp(next(&s), "ack 13") != 0)
        assert_int_equal(s.event.kind, KALAMDB_STREAM_ACK);
    await_state(e, "alice", id, "open");
    if (cold) {
        engine_consolidate(e, NULL);
        await_state(e, "alice", id, "open");
    }
    end(&s, "alice", id, NULL);
    expect_event(&s, "ended 13");
    expect(e, "alice", "SELECT content, metadata FROM messages",
        "{\"columns\":[\"content\",\"metadata\"],\"rows\":[[\"one two three\",null]],\"rowCount\":1}");
    if (cold) {
        engine_consolidate(e, NULL);
        expect(e, "alice", "SELECT content, metadata FROM messages",
            "{\"columns\":[\"content\",\"metadata\"],\"rows\":[[\"one two three\",null]],\"rowCount\":1}");
    }
    kalamdb_producer_close(s.p);
}

static void test_goes_on(void **state)
{
    interrupt_and_go_on(*state, false, false);
}

static void test_goes_on_after_restart(void **state)
{
    interrupt_and_go_on(*state, false, true);
}

static void test_goes_on_from_a_file(void **state)
{
    interrupt_and_go_on(*state, true, false);
}

static void test_open_message_is_deleted(void **state)
{
    struct engine *e = *state;
    struct source s;
    source_open(&s, e);
    int64_t id = begun(&s, "alice", "c");
    append(&s, "alice", id, 0, "abc");
    expect_event(&s, "ack 3");
    expect_code(e, "alice", "UPDATE messages SET content = 'x'", "CONFLICT");
    expect_code(e, "alice", "DELETE FROM messages", "OK");
    append(&s, "alice", id, 3, "d");
    expect_event(&s, "INVALID_REQUEST: the message was deleted");
    append(&s, "alice", id, 3, "d");
    expect_event(&s, "INVALID_REQUEST: there is no stream of this message");
    id = begun(&s, "alice", "c");
    expect_code(e, "alice", "DELETE FROM conversations", "OK");
    end(&s, "alice", id, NULL);
    expect_event(&s, "INVALID_REQUEST: the message was deleted");
    assert_int_equal(number(e, "alice", "SELECT count(*) FROM messages"), 0);
    kalamdb_producer_close(s.p);
}

/* Consolidation passes an open message by, and takes it in when it is closed. */
static void test_consolidation(void **state)
{
    struct engine *e = *state;
    struct source s;
    source_open(&s, e);
    for (int i = 0; i < 3; i++)
        expect_code(
            e, "alice", "INSERT INTO messages (conversation_id, content) VALUES ('c', 'before')", "OK");
    int64_t id = begun(&s, "alice", "c");
    append(&s, "alice", id, 0, "abc");
    expect_event(&s, "ack 3");
    for (int i = 0; i < 3; i++)
        expect_code(
            e, "alice", "INSERT INTO messages (conversation_id, content) VALUES ('c', 'after')", "OK");
    engine_consolidate(e, NULL);
    assert_int_equal(number(e, "alice", "SELECT count(*) FROM messages WHERE content <> 'abc'"), 6);
    assert_int_equal(number(e, "alice", "SELECT count(*) FROM messages WHERE length(content) = 3"), 1);
    append(&s, "alice", id, 3, "d");
    expect_event(&s, "ack 4");
    /* All that is in the file goes, and the file with it; the open message is in no file's range then. */
    expect_code(e, "alice", "DELETE FROM messages WHERE content IN ('before', 'after')", "OK");
    engine_consolidate(e, NULL);
    end(&s, "alice", id, NULL);
    expect_event(&s, "ended 4");
    expect_code(e, "alice", "INSERT INTO messages (conversation_id, content) VALUES ('c', 'later')", "OK");
    for (int i = 0; i < 2; i++) {
        assert_int_equal(number(e, "alice", "SELECT count(*) FROM messages"), 2);
        assert_int_equal(number(e, "alice", "SELECT count(*) FROM messages WHERE length(content) = 4"), 1);
        engine_consolidate(e, NULL);
    }
    assert_int_equal(number(e, "alice", "SELECT count(*) FROM messages WHERE length(content) = 4"), 1);
    kalamdb_producer_close(s.p);
}

/* ---- a follower ---- */

static void on_change(void *arg)
{
    (void)arg;
}

/* Takes events until the text put together from them is `want`; each piece begins where the text ends, or at
 * 0 in place of it. */
static void follow_to(struct kalamdb_subscription *sub, char *text, const char *want)
{
    struct kalamdb_event ev;
    for (int i = 0; i < 20000 && strcmp(text, want) != 0; i++) {
        enum kalamdb_event_kind kind = kalamdb_subscription_next(sub, &ev);
        if (kind == KALAMDB_EVENT_PENDING)
            nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
        if (kind == KALAMDB_EVENT_CONVERSATION)
            kalamdb_change_unref(ev.change);
        if (kind != KALAMDB_EVENT_CHANGE && kind != KALAMDB_EVENT_APPEND)
            continue;
        struct kalamdb_str json = kalamdb_change_json(ev.change);
        char change[1000], *at;
        size_t offset = 0;
        snprintf(change, sizeof change, "%.*s", (int)json.len, json.ptr);
        if (kind == KALAMDB_EVENT_APPEND) {
            assert_non_null(at = strstr(change, "\"offset\":"));
            offset = strtoul(at + 9, NULL, 10);
            assert_true(offset == 0 || offset == strlen(text));
        }
        const char *key = kind == KALAMDB_EVENT_APPEND ? "\"text\":\"" : "\"content\":\"";
        assert_non_null(at = strstr(change, key));
        at += strlen(key);
        snprintf(text + offset, 100 - offset, "%.*s", (int)strcspn(at, "\""), at);
        kalamdb_change_unref(ev.change);
    }
    assert_string_equal(text, want);
}

/* Who comes into a shared history while a message of it grows, and follows: is shown all of its text, and
 * then what is added. */
static void test_new_member_follows(void **state)
{
    struct engine *e = *state;
    struct kalamdb_error error;
    struct kalamdb_subscription *sub;
    struct source s;
    char text[100] = "";
    source_open(&s, e);
    expect_code(e, "alice",
        "INSERT INTO conversations (conversation_id, conversation_type, metadata) VALUES ('g', 'group', "
        "'{\"history\":\"shared\"}')",
        "OK");
    begin(&s, "alice", NULL, "g", NULL, NULL, NULL);
    expect_event(&s, "begun 0");
    int64_t id = s.event.msg_id;
    append(&s, "alice", id, 0, "one ");
    expect_event(&s, "ack 4");
    append(&s, "alice", id, 4, "two ");
    expect_event(&s, "ack 8");
    struct kalamdb_subscribe o = {.caller = who("bob"), .wake = on_change};
    assert_int_equal(kalamdb_subscribe(e->db, &o, &sub, &error), KALAMDB_OK);
    expect_code(
        e, "alice", "INSERT INTO conversation_users (conversation_id, user_id) VALUES ('g', 'bob')", "OK");
    follow_to(sub, text, "one two ");
    append(&s, "alice", id, 8, "three");
    expect_event(&s, "ack 13");
    follow_to(sub, text, "one two three");
    kalamdb_unsubscribe(sub);
    kalamdb_producer_close(s.p);
}

/* Large text goes into a file when the stream ends, not while it may go on. */
static void test_large(void **state)
{
    enum { N = 102400 };
    struct engine *e = *state;
    struct source s;
    source_open(&s, e);
    int64_t id = begun(&s, "alice", "c");
    char *big = malloc(N + 1);
    memset(big, 'x', N);
    big[N] = 0;
    append(&s, "alice", id, 0, big);
    expect_event(&s, "ack 102400");
    kalamdb_producer_close(s.p);
    await_state(e, "alice", id, "interrupted");
    assert_int_equal(number(e, "alice", "SELECT length(content) FROM messages WHERE content_ref IS NULL"), N);
    source_open(&s, e);
    end(&s, "alice", id, NULL);
    expect_event(&s, "ended 102400");
    assert_int_equal(
        number(e, "alice", "SELECT length(content) FROM messages WHERE content_ref LIKE 'alice/msg-%'"),
        1024);
    end(&s, "alice", id, NULL);
    expect_event(&s, "ended 102400");
    id = begun(&s, "alice", "c");
    big[N - 1] = 0;
    append(&s, "alice", id, 0, big);
    expect_event(&s, "ack 102399");
    end(&s, "alice", id, NULL);
    expect_event(&s, "ended 102399");
    assert_int_equal(number(e, "alice", "SELECT count(*) FROM messages WHERE content_ref IS NOT NULL"), 1);
    free(big);
    kalamdb_producer_close(s.p);
}

/* A thousand streams by one producer, in turns: each gets its acknowledgements, and its text. */
static void test_many(void **state)
{
    enum { N = 1000, ROUNDS = 5 };
    struct engine *e = *state;
    struct source s;
    static int64_t ids[N];
    source_open(&s, e);
    for (int i = 0; i < N; i++)
        begin(&s, "service:w", i % 2 == 0 ? "alice" : "bob", "c", NULL, NULL, NULL);
    for (int i = 0; i < N; i++) {
        expect_event(&s, "begun 0");
        ids[i] = s.event.msg_id;
    }
    for (int r = 0; r < ROUNDS; r++)
        for (int i = 0; i < N; i++)
            append(&s, "service:w", ids[i], (uint64_t)(4 * r), "tok ");
    for (int left = N; left > 0;) {
        (void)next(&s);
        assert_int_equal(s.event.kind, KALAMDB_STREAM_ACK);
        left -= s.event.offset == 4 * ROUNDS;
    }
    for (int i = 0; i < N; i += 2)
        end(&s, "service:w", ids[i], NULL);
    for (int i = 0; i < N; i += 2)
        expect_event(&s, "ended 20");
    assert_int_equal(
        number(e, "alice", "SELECT count(*) FROM messages WHERE content = 'tok tok tok tok tok '"), N / 2);
    assert_int_equal(
        number(e, "bob", "SELECT count(*) FROM messages WHERE content = 'tok tok tok tok tok '"), N / 2);
    kalamdb_producer_close(s.p);
    engine_reopen(e); /* waits for what the closed producer left */
    assert_int_equal(
        number(e, "bob", "SELECT count(*) FROM messages WHERE metadata->>'stream' = 'interrupted'"), N / 2);
    assert_int_equal(
        number(e, "bob", "SELECT count(*) FROM messages WHERE content = 'tok tok tok tok tok '"), N / 2);
}

static int setup(void **state)
{
    static struct engine e;
    engine_open(&e);
    *state = &e;
    return 0;
}

static int teardown(void **state)
{
    engine_close(*state);
    return 0;
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_grows_and_ends),
        TEST(test_offsets),
        TEST(test_limits_and_rights),
        TEST(test_repeated_begin),
        TEST(test_goes_on),
        TEST(test_goes_on_after_restart),
        TEST(test_goes_on_from_a_file),
        TEST(test_open_message_is_deleted),
        TEST(test_consolidation),
        TEST(test_new_member_follows),
        TEST(test_large),
        TEST(test_many),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
