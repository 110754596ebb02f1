/* The live half of kalamdb.h over SQL: who may follow whom, what statements cause, what a listener hears. */
#include "engine_fixture.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

struct listener {
    pthread_mutex_t lock;
    pthread_cond_t more;
    char trace[4096];
    size_t len;
    uint64_t seq;
    unsigned events;
};

static void put(struct listener *l, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void put(struct listener *l, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    l->len += (size_t)vsnprintf(l->trace + l->len, sizeof l->trace - l->len, fmt, args);
    va_end(args);
    assert_true(l->len < sizeof l->trace);
}

static void put_text(struct listener *l, struct kalamdb_str json, const char *key)
{
    char quoted[64];
    int n = snprintf(quoted, sizeof quoted, "\"%s\":\"", key);
    const char *p = memmem(json.ptr, json.len, quoted, (size_t)n);
    if (p != NULL)
        put(l, ":%.*s", (int)strcspn(p + n, "\""), p + n);
}

static void on_event(void *arg, const struct kalamdb_event *ev)
{
    struct listener *l = arg;
    pthread_mutex_lock(&l->lock);
    struct kalamdb_str json = {NULL, 0};
    if (ev->change != NULL)
        json = kalamdb_change_json(ev->change);
    switch (ev->kind) {
    case KALAMDB_EVENT_ACK:
        put(l, "ack%llu%s ", (unsigned long long)ev->seq, ev->resync ? "!" : "");
        break;
    case KALAMDB_EVENT_CHANGE:
        put(l, "%s%llu",
            ev->op == KALAMDB_INSERT   ? "i"
            : ev->op == KALAMDB_UPDATE ? "u"
                                       : "d",
            (unsigned long long)ev->seq);
        put_text(l, json, "content");
        put(l, " ");
        l->seq = ev->seq;
        break;
    case KALAMDB_EVENT_CONVERSATION:
        put(l, "c");
        put_text(l, json, "conversation_id");
        put_text(l, json, "title");
        put(l, " ");
        break;
    case KALAMDB_EVENT_REPLAY_COMPLETE:
        put(l, "complete%llu ", (unsigned long long)ev->message_count);
        break;
    case KALAMDB_EVENT_CLOSED:
        put(l, "closed:%s", kalamdb_code_name(ev->code));
        break;
    case KALAMDB_EVENT_APPEND:
    case KALAMDB_EVENT_SIGNAL:
    case KALAMDB_EVENT_PENDING:
        break;
    }
    l->events++;
    pthread_cond_signal(&l->more);
    pthread_mutex_unlock(&l->lock);
}

static void await_events(struct listener *l, unsigned n)
{
    pthread_mutex_lock(&l->lock);
    while (l->events < n)
        pthread_cond_wait(&l->more, &l->lock);
    pthread_mutex_unlock(&l->lock);
}

static struct kalamdb_str kstr(const char *s)
{
    return (struct kalamdb_str){s, strlen(s)};
}

static struct kalamdb_subscription *listen_to(
    struct engine *e, struct listener *l, struct kalamdb_subscribe o)
{
    struct kalamdb_error error;
    struct kalamdb_subscription *s;
    *l = (struct listener){.lock = PTHREAD_MUTEX_INITIALIZER, .more = PTHREAD_COND_INITIALIZER};
    o.caller = (struct kalamdb_caller){kstr("alice"), KALAMDB_USER};
    if (kalamdb_listen(e->db, &o, on_event, l, &s, &error) != KALAMDB_OK)
        fail_msg("listen: %s", error.message);
    return s;
}

static void statements_are_told(void **state)
{
    (void)state;
    struct engine e;
    engine_open(&e);
    struct listener l;
    struct kalamdb_subscription *s = listen_to(&e, &l, (struct kalamdb_subscribe){0});
    await_events(&l, 1);
    expect_code(&e, "alice",
        "INSERT INTO messages (conversation_id, content) VALUES ('c', 'one'), ('d', 'two')", "OK");
    expect_code(&e, "alice",
        "INSERT INTO messages (conversation_id, content, client_msg_id) VALUES ('c', 'three', 'k')", "OK");
    expect_code(&e, "alice",
        "INSERT INTO messages (conversation_id, content, client_msg_id) VALUES ('c', 'again', 'k')",
        "OK"); /* a retry: nothing */
    expect_code(&e, "alice",
        "INSERT INTO messages (conversation_id, content) VALUES ('c', 'good'), ('c', NULL)",
        "CONSTRAINT_VIOLATION"); /* nothing at all */
    expect_code(
        &e, "bob", "INSERT INTO messages (conversation_id, content) VALUES ('c', 'of another')", "OK");
    expect_code(&e, "alice", "UPDATE messages SET content = 'ONE' WHERE content = 'one'", "OK");
    expect_code(&e, "alice", "UPDATE conversations SET title = 'Hello' WHERE conversation_id = 'c'", "OK");
    expect_code(&e, "alice", "DELETE FROM messages WHERE content = 'two'", "OK");
    expect_code(&e, "service:worker",
        "INSERT INTO alice.messages (conversation_id, content, \"from\") "
        "VALUES ('c', 'reply', 'assistant')",
        "OK");
    await_events(&l, 8);
    kalamdb_unsubscribe(s);
    assert_string_equal(l.trace, "ack0 i1:one i2:two i3:three u4:ONE c:c:Hello d5 i6:reply ");

    /* The same history for one who comes later, out of files. */
    engine_consolidate(&e, "alice");
    s = listen_to(&e, &l, (struct kalamdb_subscribe){.has_last_seq = true});
    await_events(&l, 5);
    kalamdb_unsubscribe(s);
    assert_string_equal(l.trace, "ack6 i3:three i4:ONE i6:reply complete3 ");
    s = listen_to(&e, &l,
        (struct kalamdb_subscribe){.has_last_seq = true, .last_seq = 2, .conversation_id = kstr("d")});
    await_events(&l, 3);
    kalamdb_unsubscribe(s);
    assert_string_equal(l.trace, "ack6 d5 complete1 ");
    engine_close(&e);
}

static kalamdb_code ask(struct engine *e, const char *caller, enum kalamdb_role role, const char *user,
    struct kalamdb_str conversation)
{
    struct kalamdb_error error;
    struct kalamdb_subscription *s;
    struct kalamdb_subscribe o = {.caller = {kstr(caller), role}, .conversation_id = conversation};
    if (user != NULL)
        o.user_id = kstr(user);
    kalamdb_code code = kalamdb_subscribe(e->db, &o, &s, &error);
    if (code == KALAMDB_OK)
        kalamdb_unsubscribe(s);
    else
        assert_int_equal(error.code, code);
    return code;
}

static void who_may_follow_whom(void **state)
{
    (void)state;
    struct engine e;
    engine_open(&e);
    const struct kalamdb_str any = {NULL, 0};
    char long_id[300];
    memset(long_id, 'x', sizeof long_id);
#define ASKED(caller, role, user, conversation) kalamdb_code_name(ask(&e, caller, role, user, conversation))
    assert_string_equal(ASKED("alice", KALAMDB_USER, NULL, any), "OK");
    assert_string_equal(ASKED("alice", KALAMDB_USER, "alice", any), "OK");
    assert_string_equal(ASKED("alice", KALAMDB_USER, "bob", any), "FORBIDDEN");
    assert_string_equal(ASKED("alice", KALAMDB_USER, "Alice", any), "FORBIDDEN");
    assert_string_equal(ASKED("alice", KALAMDB_USER, "", any), "FORBIDDEN");
    assert_string_equal(ASKED("w", KALAMDB_SERVICE, "bob", any), "OK");
    assert_string_equal(ASKED("w", KALAMDB_ADMIN, "bob", any), "OK");
    assert_string_equal(ASKED("w", KALAMDB_SERVICE, "assistant", any), "INVALID_REQUEST");
    assert_string_equal(ASKED("w", KALAMDB_SERVICE, "", any), "INVALID_REQUEST");
    assert_string_equal(ASKED("alice", KALAMDB_USER, NULL, kstr("not yet there")), "OK");
    assert_string_equal(ASKED("alice", KALAMDB_USER, NULL, kstr("")), "INVALID_REQUEST");
    assert_string_equal(ASKED("alice", KALAMDB_USER, NULL, kstr("\xff")), "INVALID_REQUEST");
    assert_string_equal(ASKED("alice", KALAMDB_USER, NULL, ((struct kalamdb_str){long_id, 255})), "OK");
    assert_string_equal(
        ASKED("alice", KALAMDB_USER, NULL, ((struct kalamdb_str){long_id, 256})), "INVALID_REQUEST");
    engine_close(&e);
}

static void count_wake(void *arg)
{
    ++*(_Atomic int *)arg;
}

static void close_ends_subscriptions(void **state)
{
    (void)state;
    struct engine e;
    engine_open(&e);
    struct listener l;
    (void)listen_to(&e, &l, (struct kalamdb_subscribe){0});
    await_events(&l, 1);
    _Atomic int wakes = 0;
    struct kalamdb_error error;
    struct kalamdb_subscription *s;
    struct kalamdb_subscribe o = {
        .caller = {kstr("alice"), KALAMDB_USER}, .has_last_seq = true, .wake = count_wake, .arg = &wakes};
    expect_code(&e, "alice", "INSERT INTO messages (conversation_id, content) VALUES ('c', 'one')", "OK");
    await_events(&l, 2);
    assert_int_equal(kalamdb_subscribe(e.db, &o, &s, &error), KALAMDB_OK);
    engine_close(&e); /* frees the one that was never read, and tells the other */
    assert_string_equal(l.trace, "ack0 i1:one closed:UNAVAILABLE");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(statements_are_told),
        cmocka_unit_test(who_may_follow_whom),
        cmocka_unit_test(close_ends_subscriptions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
