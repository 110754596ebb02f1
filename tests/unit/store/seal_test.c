/* Sealed values in the database: what stands there, what is refused, and what a crash between the keys and
 * the batch leaves. */
#include "../test.h"
#include "fixture.h"
#include "store/internal.h"
#include "vault/ring.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define OK(call)                                                                                             \
    do {                                                                                                     \
        enum err ok_ = (call);                                                                               \
        if (ok_ != ERR_OK)                                                                                   \
            fail_msg("%s: %s %s (%s)", #call, err_wire(ok_), ec.message, ec.internal);                       \
    } while (0)

static struct fixture f;

static int setup(void **state)
{
    (void)state;
    setenv("KALAMDB_TEST_ENCRYPTION", "on", 1);
    fixture_open(&f);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fixture_close(&f);
    return 0;
}

static int64_t put(const char *user, const char *conversation, const char *content)
{
    struct errctx ec;
    struct message m = {.user = user, .conversation = conversation, .content = content};
    OK(insert(f.store, &m, &ec));
    return m.id;
}

/* The content, or why not. */
static enum err content(const char *user, int64_t id, const char *want, struct errctx *ec)
{
    struct snapshot *snap;
    struct row_meta meta;
    struct value values[MSG_NCOLUMNS];
    errctx_clear(ec);
    enum err e = snapshot_open(f.store, str_c(user), &snap, ec);
    if (e != ERR_OK)
        return e;
    e = snapshot_message(snap, id, &meta, values, ec);
    if (e == ERR_OK)
        assert_str(values[MSG_CONTENT].s, want);
    snapshot_close(snap);
    return e;
}

static void read_raw(const struct key *k, struct buf *ret)
{
    char *message = NULL;
    size_t len;
    char *value = rocksdb_get(f.store->db, f.store->read_latest, k->bytes, k->len, &len, &message);
    assert_null(message);
    assert_non_null(value);
    buf_clear(ret);
    buf_append(ret, value, len);
    rocksdb_free(value);
}

static void write_raw(const struct key *k, struct str value)
{
    char *message = NULL;
    rocksdb_writeoptions_t *w = rocksdb_writeoptions_create();
    rocksdb_put(f.store->db, w, k->bytes, k->len, value.ptr, value.len, &message);
    rocksdb_writeoptions_destroy(w);
    assert_null(message);
}

/* Users are numbered from 1 in the order of their first message, a user's conversations too. */
static void test_values_stay_where_they_are(void **state)
{
    (void)state;
    struct errctx ec;
    struct buf a = BUF_INIT(0), b = BUF_INIT(0), c = BUF_INIT(0);
    int64_t first = put("alice", "c", "alice first"), second = put("alice", "c", "alice second");
    int64_t bobs = put("bob", "c", "bob");
    struct key ka = key_message(1, 1, first), kb = key_message(1, 1, second), kc = key_message(2, 1, bobs);
    read_raw(&ka, &a);
    read_raw(&kb, &b);
    read_raw(&kc, &c);
    assert_null(memmem(a.ptr, a.len, "alice first", 11));
    /* Another message's, another user's, a plain one, a flipped bit. */
    write_raw(&ka, buf_view(&b));
    assert_int_equal(content("alice", first, "", &ec), ERR_CORRUPT);
    assert_non_null(strstr(ec.internal, "partition 1"));
    assert_non_null(strstr(ec.internal, "messages"));
    write_raw(&ka, buf_view(&c));
    assert_int_equal(content("alice", first, "", &ec), ERR_CORRUPT);
    struct buf plain = BUF_INIT(0);
    struct value values[MSG_NCOLUMNS] = {0};
    row_encode(&plain, &schema_messages, (struct row_meta){.seq = 1, .ins_seq = 1}, values);
    write_raw(&ka, buf_view(&plain));
    assert_int_equal(content("alice", first, "", &ec), ERR_CORRUPT);
    a.ptr[a.len / 2] ^= 1;
    write_raw(&ka, buf_view(&a));
    assert_int_equal(content("alice", first, "", &ec), ERR_CORRUPT);
    /* The rest goes on, and the right bytes are right again. */
    OK(content("alice", second, "alice second", &ec));
    OK(content("bob", bobs, "bob", &ec));
    a.ptr[a.len / 2] ^= 1;
    write_raw(&ka, buf_view(&a));
    OK(content("alice", first, "alice first", &ec));
    struct vault_stats stats;
    vault_stats(f.cfg.vault, &stats);
    assert_int_equal(stats.unseal_failures, 4);
    buf_release(&a);
    buf_release(&b);
    buf_release(&c);
    buf_release(&plain);
}

/* A damaged key is one user's trouble: their writes fail, the others' in the same store do not, nor later
 * ones. */
static void test_a_damaged_key_fails_one_user(void **state)
{
    (void)state;
    struct errctx ec;
    char path[128];
    int64_t alices = put("alice", "c", "alice"), bobs = put("bob", "c", "bob");
    snprintf(path, sizeof path, "%s/.kalamdb/keys/000000.ring", f.dir);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, "x", 1, RING_SLOT_BYTES + 30), 1);
    close(fd);
    fixture_reopen(&f);
    struct message m = {.user = "alice", .conversation = "c", .content = "more"};
    assert_int_equal(insert(f.store, &m, &ec), ERR_CORRUPT);
    assert_int_equal(content("alice", alices, "alice", &ec), ERR_CORRUPT);
    OK(content("bob", bobs, "bob", &ec));
    put("bob", "c", "more");
    put("carol", "c", "new");
    struct store_stats stats;
    store_stats(f.store, &stats);
    assert_true(stats.writable);
    assert_int_equal(stats.reopens, 0);
}

/* ---- the order of keys and batch ---- */

static struct {
    int (*real)(void *ctx, int fd);
    bool on;
    char copy[96];
    int taken;
} crash;

/* The directory as it is when the first key file was synced: the batch is not written yet. */
static int crash_fsync(void *ctx, int fd)
{
    char command[256], link[64], target[256] = "";
    int r = crash.real(ctx, fd);
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (crash.on && readlink(link, target, sizeof target - 1) > 0 && strstr(target, ".ring") != NULL &&
        crash.taken++ == 0) {
        snprintf(command, sizeof command, "cp -r %s %s", f.dir, crash.copy);
        assert_int_equal(system(command), 0);
    }
    return r;
}

static void test_crash_between_key_and_batch(void **state)
{
    (void)state;
    struct errctx ec;
    put("alice", "c", "alice");
    crash.real = f.os.fsync;
    f.os.fsync = crash_fsync;
    snprintf(crash.copy, sizeof crash.copy, "%s.crash", f.dir);
    crash.on = true;
    put("bob", "c", "bob");
    crash.on = false;
    assert_int_equal(crash.taken, 1); /* one sync for the group, before its batch */
    char live[64];
    memcpy(live, f.dir, sizeof live);
    store_close(f.store);
    vault_close(f.cfg.vault);
    fixture_remove_dir(live);
    assert_int_equal(rename(crash.copy, live), 0);
    struct vault_config cfg = {
        .master_key = (const uint8_t[VAULT_KEY_BYTES]){"the master key of every test"}, .os = &f.os};
    char keys[128];
    snprintf(keys, sizeof keys, "%s/.kalamdb/keys", f.dir);
    cfg.dir = keys;
    OK(vault_open(&cfg, &f.cfg.vault, &ec));
    OK(store_open(&f.cfg, &f.store, &ec));
    /* Bob was never there; his key waits for whoever gets the number. */
    assert_true(vault_key_exists(f.cfg.vault, 2));
    struct snapshot *snap;
    OK(snapshot_open(f.store, STR("bob"), &snap, &ec));
    assert_false(snapshot_exists(snap));
    snapshot_close(snap);
    int64_t carols = put("carol", "c", "carol");
    fixture_reopen(&f);
    OK(content("carol", carols, "carol", &ec));
}

/* Keys that cannot be made durable: the group is not written, and later it is. */
static int failing_fsync(void *ctx, int fd)
{
    char link[64], target[256] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (crash.on && readlink(link, target, sizeof target - 1) > 0 && strstr(target, ".ring") != NULL) {
        crash.on = false;
        return -EIO;
    }
    return crash.real(ctx, fd);
}

static void test_keys_that_are_not_durable(void **state)
{
    (void)state;
    struct errctx ec;
    crash.real = f.os.fsync;
    f.os.fsync = failing_fsync;
    crash.on = true;
    struct message m = {.user = "alice", .conversation = "c", .content = "x"};
    assert_int_equal(insert(f.store, &m, &ec), ERR_OUTCOME_UNKNOWN);
    for (int i = 0; i < 200 && insert(f.store, &m, &ec) != ERR_OK; i++)
        usleep(50000); /* until the store has come back: there is nothing to wait on */
    OK(content("alice", m.id, "x", &ec));
    fixture_reopen(&f);
    OK(content("alice", m.id, "x", &ec));
}

int main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
    const struct CMUnitTest tests[] = {TEST(test_values_stay_where_they_are),
        TEST(test_a_damaged_key_fails_one_user), TEST(test_crash_between_key_and_batch),
        TEST(test_keys_that_are_not_durable)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
