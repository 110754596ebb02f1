/* What a sweep finds and repairs, what it leaves alone, and a file whose conversation becomes another. */
#include "content_fixture.h"
#include "engine/spill.h"
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

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
    if (d->user_delta < 0) { /* the count alone: a key goes with the last row, and is not made up again */
        struct key k = key_ref(d->user_no, SPACE_REFS, d->ref);
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

static enum err quota_apply(struct commit_op *op, struct txn *txn, struct errctx *ec)
{
    const struct damage *d = (const struct damage *)(void *)op;
    return txn_quota_repair(txn, d->user_no, d->user_delta, ec);
}

/* Bytes that count against a user are those of the files on record as theirs. */
static void a_sweep_repairs_quotas(void **state)
{
    (void)state;
    struct errctx ec;
    struct snapshot *snap;
    uint64_t bytes;
    insert("alice", "c", text(LARGE, 16)); /* text counts against nobody */
    assert_int_equal(snapshot_open(e.db->store, STR("alice"), &snap, &ec), ERR_OK);
    struct damage d = {.op = {.apply = quota_apply}, .user_no = snapshot_user_no(snap), .user_delta = 1000};
    snapshot_close(snap);
    assert_int_equal(store_commit_wait(e.db->store, &d.op, &ec), ERR_OK);
    assert_int_equal(sweep().blobs_repaired, 1);
    assert_int_equal(sweep().blobs_repaired, 0);
    assert_int_equal(snapshot_open(e.db->store, STR("alice"), &snap, &ec), ERR_OK);
    assert_int_equal(snapshot_quota(snap, &bytes, &ec), ERR_OK);
    assert_int_equal(bytes, 0);
    snapshot_close(snap);
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
    struct blob_reader *r;
    const uint8_t *key;
    assert_int_equal(snapshot_open(e.db->store, STR("alice"), &snap, &ec), ERR_OK);
    expect_code(&e, "alice", "DELETE FROM messages", "OK");
    assert_int_equal(sweep().files_set_aside, 0);
    assert_int_equal(snapshot_blob_key(snap, str_c(ref), &key, &ec), ERR_OK);
    assert_int_equal(store_blob_open(e.db->store, str_c(ref), key, &r, &ec), ERR_OK);
    blob_reader_close(r);
    snapshot_close(snap);
    wait_for_files("alice", 1);
    blob_file_leave(f); /* nobody knows: now it is one */
    assert_int_equal(sweep().files_set_aside, 1);
    assert_int_equal(files_in("alice"), 0);
}

/* ---- a race, step by step ---- */

struct append_op {
    struct commit_op op;
    struct chat_append *a;
    struct spills *s;
};

static enum err append_apply(struct commit_op *op, struct txn *txn, struct errctx *ec)
{
    struct append_op *o = (struct append_op *)(void *)op;
    enum err err = spills_put(o->s, txn, ec);
    if (err == ERR_OK)
        err = chat_append_apply(o->a, txn, ec);
    return err == ERR_OK ? spills_check_append(o->s, o->a, txn, ec) : err;
}

/* The conversation is made, as a group, between the look at it and the commit. */
static void a_file_follows_its_conversation(void **state)
{
    (void)state;
    struct kalamdb_query q = {.db = e.db, .deadline_us = INT64_MAX};
    struct spills s = {0};
    struct caller caller = {.user_id = STR("alice")};
    struct chat_message m = {.values = {[MSG_CONVERSATION_ID] = value_text(STR("room")),
                                 [MSG_CONTENT] = value_text(str_c(text(LARGE, 15)))}};
    struct chat_append a = {.caller = &caller, .owner = STR("alice"), .nmessages = 1, .messages = &m};
    struct chat_limits limits = {.content_bytes_max = 1 << 20};
    struct append_op op = {.op = {.apply = append_apply}, .a = &a, .s = &s};
    arena_init(&q.arena, 1 << 20);
    assert_int_equal(chat_append_check(&a, &limits, &q.arena, &q.ec), ERR_OK);
    assert_int_equal(spill_append(&q, &a, &s), ERR_OK);
    assert_int_equal(files_in("alice"), 1);
    make_group("('room', 'bob')");
    assert_int_equal(store_commit_wait(e.db->store, &op.op, &q.ec), ERR_RETRY);
    assert_true(s.misplaced);
    assert_int_equal(number(&e, "alice", "SELECT count(*) FROM messages"), 0);
    assert_int_equal(spill_move(&q, &a, &s), ERR_OK);
    assert_int_equal(files_in("alice"), 0);
    assert_int_equal(store_commit_wait(e.db->store, &op.op, &q.ec), ERR_OK);
    spills_settle(&s, ERR_OK);
    spills_release(&s);
    chat_copies_release(&a.copies);
    arena_release(&q.arena);
    char ref[256];
    snprintf(ref, sizeof ref, "%s", cell("bob", "SELECT content_ref FROM messages"));
    assert_memory_equal(ref, "shared/conversations/room/msg-", 30);
    assert_int_equal(refs_of(ref), 2);
    expect_content("bob", ref, text(LARGE, 15));
    assert_int_equal(sweep().files_set_aside, 0);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, content_setup, content_teardown)
    const struct CMUnitTest tests[] = {TEST(a_sweep_proves_and_repairs), TEST(a_sweep_repairs_quotas),
        TEST(a_sweep_leaves_work_alone), TEST(a_file_follows_its_conversation)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
