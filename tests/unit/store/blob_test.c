/* Files that rows name: counts move with the rows, whatever fails on the way leaves nothing, a view keeps
 * what it saw. */
#include "../test.h"
#include "fixture.h"
#include "store/internal.h"
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#define OK(e) assert_int_equal(e, ERR_OK)

static struct fixture f;

static int setup(void **state)
{
    (void)state;
    fixture_open(&f);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fixture_close(&f);
    return 0;
}

static int files_in(const char *folder)
{
    char path[256];
    int n = 0;
    snprintf(path, sizeof path, "%s/%s", f.dir, folder);
    DIR *dir = opendir(path);
    for (struct dirent *d; dir != NULL && (d = readdir(dir)) != NULL;)
        n += d->d_name[0] != '.';
    if (dir != NULL)
        closedir(dir);
    return n;
}

static void wait_for_files(const char *folder, int want)
{
    for (int i = 0; i < 2000 && files_in(folder) != want; i++)
        usleep(1000);
    assert_int_equal(files_in(folder), want);
}

/* ---- one row that names a file ---- */

struct row {
    const char *user;
    int64_t id;
    struct blob_file *file;
    char ref[256];
};

static enum err insert_row(struct txn *txn, void *arg, struct errctx *ec)
{
    const struct row *r = arg;
    uint64_t user_no;
    struct conversation c;
    struct value v[MSG_NCOLUMNS] = {[MSG_ID] = value_i64(r->id),
        [MSG_CONVERSATION_ID] = value_text(STR("c")),
        [MSG_CONVERSATION_TYPE] = value_text(STR("ai")),
        [MSG_FROM] = value_text(str_c(r->user)),
        [MSG_TIMESTAMP] = value_ts(txn_now_us(txn)),
        [MSG_CONTENT] = value_text(STR("preview")),
        [MSG_CONTENT_REF] = value_text(str_c(r->ref))};
    enum err e = txn_user(txn, str_c(r->user), true, &user_no, ec);
    if (e == ERR_OK && r->file != NULL)
        e = txn_blob_put(txn, str_c(r->ref), blob_file_info(r->file), 0, ec);
    if (e == ERR_OK)
        e = txn_conversation(txn, user_no, STR("c"), &c, ec);
    c.values[CONV_ID] = v[MSG_CONVERSATION_ID];
    return e == ERR_OK ? txn_message_insert(txn, &c, v, ec) : e;
}

static enum err write_file(struct row *r, struct errctx *ec)
{
    enum err e = store_reserve_ids(f.store, 1, &r->id, ec);
    if (e == ERR_OK)
        e = blob_file_new(f.store, &r->file, ec);
    if (e == ERR_OK)
        e = blob_file_write(r->file, STR("a large text"), ec);
    if (e == ERR_OK)
        e = blob_file_finish(r->file, false, ec);
    if (e == ERR_OK)
        e = blob_file_place(r->file, false, str_c(r->user), r->id, ec);
    if (e == ERR_OK)
        snprintf(r->ref, sizeof r->ref, "%.*s", STR_FMT(blob_file_ref(r->file)));
    return e;
}

static enum err put(struct row *r, struct errctx *ec)
{
    enum err e = write_file(r, ec);
    if (e == ERR_OK)
        e = commit(f.store, insert_row, r, DURABILITY_SYNC, ec);
    if (e == ERR_OK)
        blob_file_keep(r->file);
    else
        blob_file_discard(r->file);
    r->file = NULL;
    return e;
}

static uint64_t refs_of(const char *ref)
{
    struct snapshot *snap;
    struct blob b;
    struct errctx ec;
    OK(snapshot_open(f.store, STR_NULL, &snap, &ec));
    enum err e = snapshot_blob(snap, str_c(ref), &b, &ec);
    snapshot_close(snap);
    return e == ERR_OK ? b.refs : 0;
}

static bool holds(const char *user, const char *ref)
{
    struct snapshot *snap;
    struct errctx ec;
    bool held;
    OK(snapshot_open(f.store, str_c(user), &snap, &ec));
    OK(snapshot_holds(snap, str_c(ref), &held, &ec));
    snapshot_close(snap);
    return held;
}

static void rows_and_counts_move_together(void **state)
{
    (void)state;
    struct errctx ec;
    struct row r = {.user = "alice"};
    OK(put(&r, &ec));
    assert_int_equal(refs_of(r.ref), 1);
    assert_true(holds("alice", r.ref));
    assert_false(holds("bob", r.ref));
    assert_int_equal(files_in("alice"), 1);
    /* A second row of the same file, of somebody else. */
    struct row second = {.user = "bob", .id = r.id - 1};
    memcpy(second.ref, r.ref, sizeof r.ref);
    OK(commit(f.store, insert_row, &second, DURABILITY_SYNC, &ec));
    assert_int_equal(refs_of(r.ref), 2);
    OK(delete_message(f.store, "alice", r.id, &ec));
    assert_int_equal(refs_of(r.ref), 1);
    assert_false(holds("alice", r.ref));
    assert_int_equal(files_in("alice"), 1);
    fixture_reopen(&f);
    assert_int_equal(files_in("alice"), 1);
    OK(delete_message(f.store, "bob", second.id, &ec));
    assert_int_equal(refs_of(r.ref), 0);
    wait_for_files("alice", 0);
}

/* An op that fails after it counted: nothing of it stays. */
static enum err insert_and_fail(struct txn *txn, void *arg, struct errctx *ec)
{
    enum err e = insert_row(txn, arg, ec);
    return e == ERR_OK ? err_set(ec, ERR_CONFLICT, "no") : e;
}

static enum err drop_all(struct txn *txn, void *arg, struct errctx *ec)
{
    const struct row *r = arg;
    uint64_t user_no;
    bool more = true;
    enum err e = txn_user(txn, str_c(r->user), false, &user_no, ec);
    while (e == ERR_OK && more)
        e = txn_refs_drop(txn, user_no, 1, &more, ec);
    return e == ERR_OK && r->id == 0 ? err_set(ec, ERR_CONFLICT, "no") : e;
}

static void a_failed_op_counts_nothing(void **state)
{
    (void)state;
    struct errctx ec;
    struct row r = {.user = "alice"}, other = {.user = "alice"};
    OK(put(&r, &ec));
    OK(put(&other, &ec));
    struct row failing = {.user = "alice"};
    OK(write_file(&failing, &ec));
    assert_int_equal(commit(f.store, insert_and_fail, &failing, DURABILITY_SYNC, &ec), ERR_CONFLICT);
    assert_int_equal(refs_of(failing.ref), 0);
    blob_file_discard(failing.file);
    struct row undone = {.user = "alice"};
    assert_int_equal(commit(f.store, drop_all, &undone, DURABILITY_SYNC, &ec), ERR_CONFLICT);
    assert_int_equal(refs_of(r.ref), 1);
    assert_int_equal(files_in("alice"), 2);
    undone.id = 1;
    OK(commit(f.store, drop_all, &undone, DURABILITY_SYNC, &ec));
    assert_int_equal(refs_of(r.ref) + refs_of(other.ref), 0);
    wait_for_files("alice", 0);
}

/* The last rows of many files in one commit: all of them go, those included that a closing store finds. */
static void many_at_once(void **state)
{
    (void)state;
    struct errctx ec;
    struct row all = {.user = "alice", .id = 1};
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 40; i++) {
            struct row r = {.user = "alice"};
            OK(put(&r, &ec));
        }
        OK(commit(f.store, drop_all, &all, DURABILITY_SYNC, &ec));
        if (round == 0)
            wait_for_files("alice", 0);
        else
            store_close(f.store); /* waits for them */
    }
    assert_int_equal(files_in("alice"), 0);
    OK(store_open(&f.cfg, &f.store, &ec));
}

/* ---- faults ---- */

static struct {
    struct os real;
    int at, calls; /* the call that fails; 0: none */
} faults;

static bool fails(void)
{
    return ++faults.calls == faults.at;
}

static int fault_fsync(void *ctx, int fd)
{
    return fails() ? -EIO : faults.real.fsync(ctx, fd);
}

static int fault_rename(void *ctx, const char *from, const char *to)
{
    return fails() ? -ENOSPC : faults.real.rename(ctx, from, to);
}

/* Fails the first fsync or rename, then the second, … until all goes well. */
static void whatever_fails_leaves_nothing(void **state)
{
    (void)state;
    struct errctx ec;
    struct row r = {.user = "alice"};
    enum err e = ERR_IO;
    faults.real = f.os;
    f.os.fsync = fault_fsync;
    f.os.rename = fault_rename;
    for (faults.at = 1; e != ERR_OK; faults.at++) {
        faults.calls = 0;
        assert_true(faults.at < 20);
        e = put(&r, &ec);
        assert_int_equal(files_in(".kalamdb/uploads"), 0);
        assert_int_equal(files_in("alice"), e == ERR_OK);
        assert_int_equal(refs_of(r.ref), e == ERR_OK);
    }
    assert_true(faults.at > 4); /* the file, the rename, its folder at least */
    f.os = faults.real;
}

/* ---- views ---- */

static enum err count_user(void *arg, uint64_t user_no, struct str user_id, struct errctx *ec)
{
    (void)user_no, (void)user_id, (void)ec;
    ++*(int *)arg;
    return ERR_OK;
}

static enum err count_blob(void *arg, struct str ref, const struct blob *b, struct errctx *ec)
{
    (void)ref, (void)ec;
    *(int *)arg += (int)b->refs;
    return ERR_OK;
}

static void a_view_keeps_what_it_saw(void **state)
{
    (void)state;
    struct errctx ec;
    struct store_view *v;
    struct snapshot *alice, *nobody;
    struct row r = {.user = "alice"}, later = {.user = "bob"};
    bool held;
    int users = 0, refs = 0;
    struct blob_reader *file;
    const uint8_t *key;
    OK(put(&r, &ec));
    OK(store_view_open(f.store, &v, &ec));
    OK(put(&later, &ec));
    OK(delete_message(f.store, "alice", r.id, &ec));
    OK(view_each_user(v, count_user, &users, &ec));
    OK(view_each_blob(v, count_blob, &refs, &ec));
    assert_int_equal(users, 1);
    assert_int_equal(refs, 1);
    OK(snapshot_open_in(v, STR("alice"), &alice, &ec));
    assert_int_equal(snapshot_total_messages(alice), 1);
    OK(snapshot_holds(alice, str_c(r.ref), &held, &ec));
    assert_true(held);
    OK(snapshot_blob_key(alice, str_c(r.ref), &key, &ec));
    OK(store_blob_open(f.store, str_c(r.ref), key, &file, &ec));
    blob_reader_close(file);
    OK(snapshot_open_in(v, STR("bob"), &nobody, &ec));
    assert_false(snapshot_exists(nobody));
    snapshot_close(nobody);
    snapshot_close(alice);
    assert_int_equal(files_in("alice"), 1); /* the view's pin outlasts its snapshots' */
    store_view_close(v);
    wait_for_files("alice", 0);
    assert_int_equal(files_in("bob"), 1);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {TEST(rows_and_counts_move_together), TEST(a_failed_op_counts_nothing),
        TEST(many_at_once), TEST(whatever_fails_leaves_nothing), TEST(a_view_keeps_what_it_saw)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
