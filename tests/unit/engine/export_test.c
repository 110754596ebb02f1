/* Exports, read back by the library's own reader: what stands in them, and that one is of one moment. */
#include "base/arena.h"
#include "engine/archive_manifest.h"
#include "engine/transfer.h"
#include "engine_fixture.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static struct engine e;

static struct kalamdb_str ks(const char *s)
{
    return (struct kalamdb_str){s, s != NULL ? strlen(s) : 0};
}

static enum err always(void *arg, struct errctx *ec)
{
    (void)arg, (void)ec;
    return ERR_OK;
}

/* A finished export in a file without a name. */
static int export_all(struct kalamdb_export *x)
{
    char path[] = "/tmp/kalamdb-export-XXXXXX", chunk[10000];
    int fd = mkstemp(path);
    struct kalamdb_error error;
    assert_true(fd >= 0);
    unlink(path);
    for (size_t n = 1; n > 0;) {
        if (kalamdb_export_read(x, chunk, sizeof chunk, &n, &error) != KALAMDB_OK)
            fail_msg("export: %s (%s)", error.message, error.internal);
        assert_int_equal(write(fd, chunk, n), (ssize_t)n);
    }
    kalamdb_export_close(x);
    return fd;
}

static struct kalamdb_export *open_export(const char *as, enum kalamdb_role role, const char *user)
{
    struct kalamdb_caller caller = {.user_id = ks(as), .role = role};
    struct kalamdb_export *x = NULL;
    struct kalamdb_error error;
    if (kalamdb_export_open(e.db, &caller, ks(user), &x, &error) != KALAMDB_OK)
        fail_msg("export: %s (%s)", error.message, error.internal);
    return x;
}

static enum err read_fd(void *arg, void *p, size_t n, uint64_t at, size_t *ret_n, struct errctx *ec)
{
    (void)ec;
    ssize_t got = pread(*(const int *)arg, p, n, (off_t)at);
    assert_true(got >= 0);
    *ret_n = (size_t)got;
    return ERR_OK;
}

/* Every member against the manifest, in its order, and the manifest last. */
static void read_back(int fd, struct arena *arena, struct archive_manifest *m)
{
    struct archive_reader *r;
    struct archive_member member[256];
    struct buf text = BUF_INIT(ARCHIVE_MANIFEST_BYTES_MAX);
    struct errctx ec = {0};
    size_t n = 0;
    enum err err;
    struct archive_source source = {read_fd, &fd};
    assert_int_equal(archive_reader_open(&source, &r, &ec), ERR_OK);
    while ((err = archive_reader_next(r, &member[n], &text, always, NULL, &ec)) == ERR_OK)
        assert_true(++n < 256);
    if (err != ERR_NOT_FOUND)
        fail_msg("%s", ec.message);
    archive_reader_free(r);
    assert_int_equal(member[n - 1].kind, ARCHIVE_KIND_MANIFEST);
    if (archive_manifest_parse(buf_view(&text), arena, m, &ec) != ERR_OK)
        fail_msg("%s\n%.*s", ec.message, (int)text.len, text.ptr);
    assert_int_equal(m->nfiles, n - 1);
    for (size_t i = 0; i + 1 < n; i++) {
        assert_string_equal(m->files[i].path.ptr, member[i].path);
        assert_string_equal(m->files[i].sha256, member[i].sha256);
        assert_int_equal(m->files[i].bytes, member[i].bytes);
    }
    buf_release(&text);
}

static void one_moment(void **state)
{
    (void)state;
    engine_open(&e);
    struct arena arena;
    struct archive_manifest m;
    arena_init(&arena, 1 << 20);
    for (int i = 0; i < 40; i++)
        expect_code(&e, "alice",
            "INSERT INTO messages (conversation_id, content) VALUES ('c', 'x'), ('d', 'y')", "OK");
    engine_consolidate(&e, "alice");
    expect_code(&e, "alice", "INSERT INTO messages (conversation_id, content) VALUES ('c', 'hot')", "OK");
    expect_code(&e, "alice", "UPDATE messages SET content = 'z' WHERE conversation_id = 'd'", "OK");
    struct kalamdb_export *x = open_export("alice", KALAMDB_USER, NULL);
    expect_code(&e, "alice", "INSERT INTO messages (conversation_id, content) VALUES ('e', 'late')", "OK");
    expect_code(&e, "alice", "DELETE FROM messages WHERE conversation_id = 'c'", "OK");
    int fd = export_all(x);
    read_back(fd, &arena, &m);
    assert_int_equal(m.messages, 81);
    assert_int_equal(m.conversations, 2);
    assert_int_equal(m.seq, 121);
    assert_int_equal(m.nfiles, 3);
    assert_string_equal(m.user.ptr, "alice");
    assert_string_equal(m.files[0].path.ptr, "messages/001.parquet");
    assert_int_equal(m.files[0].rows, 81);
    assert_int_equal(m.files[2].rows, 2); /* members: alice in each */
    close(fd);
    arena_release(&arena);
    engine_close(&e);
}

/* Many files: of hot rows, of cold ones, of both, where ids are dense and where they are not. */
static void pieces(void **state)
{
    (void)state;
    engine_open(&e);
    struct arena arena;
    struct archive_manifest m;
    arena_init(&arena, 1 << 20);
    for (int i = 0; i < 20; i++) {
        expect_code(&e, "alice",
            "INSERT INTO messages (conversation_id, content) VALUES ('c', '1'), ('c', '2'), ('c', '3'), "
            "('c', '4'), "
            "('d', '5'), ('d', '6'), ('d', '7'), ('d', '8'), ('d', '9'), ('d', '10')",
            "OK");
        if (i == 8 || i == 13)
            engine_consolidate(&e, "alice");
    }
    expect_code(&e, "service:s",
        "INSERT INTO alice.messages (msg_id, conversation_id, content) VALUES (1, 'old', 'x'), (2, 'old', "
        "'y'), "
        "(1000000, 'old', 'z')",
        "OK");
    expect_code(&e, "alice", "DELETE FROM messages WHERE content = '7'", "OK");
    expect_code(&e, "alice", "UPDATE messages SET content = 'new' WHERE content = '3'", "OK");
    static const uint64_t sizes[] = {1, 7, 40, 1000000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct kalamdb_export *x = open_export("alice", KALAMDB_USER, NULL);
        export_set_piece(x, sizes[i] == 1 ? 4 : sizes[i]);
        int fd = export_all(x);
        arena_clear(&arena);
        read_back(fd, &arena, &m);
        close(fd);
        assert_int_equal(m.messages, 183);
        uint64_t sum = 0;
        size_t files = 0;
        for (size_t k = 0; k < m.nfiles; k++) {
            sum += m.files[k].kind == ARCHIVE_KIND_MESSAGES ? m.files[k].rows : 0;
            files += m.files[k].kind == ARCHIVE_KIND_MESSAGES;
        }
        assert_int_equal(sum, 183);
        if (sizes[i] < 100)
            assert_true(files >= 183 / 4 / (sizes[i] == 1 ? 4 : sizes[i]));
        else
            assert_int_equal(files, 1);
    }
    arena_release(&arena);
    engine_close(&e);
}

static void refused(void **state)
{
    (void)state;
    engine_open(&e);
    struct kalamdb_export *x = NULL;
    struct kalamdb_error error;
    struct kalamdb_caller alice = {.user_id = ks("alice"), .role = KALAMDB_USER};
    expect_code(&e, "bob", "INSERT INTO messages (conversation_id, content) VALUES ('c', 'x')", "OK");
    assert_int_equal(kalamdb_export_open(e.db, &alice, ks("bob"), &x, &error), ERR_FORBIDDEN);
    assert_int_equal(kalamdb_export_open(e.db, &alice, ks(NULL), &x, &error), ERR_NOT_FOUND);
    assert_int_equal(kalamdb_export_open(e.db, &alice, ks("ai"), &x, &error), ERR_INVALID_REQUEST);
    x = open_export("s", KALAMDB_SERVICE, "bob");
    kalamdb_export_cancel(x);
    char chunk[100];
    size_t n;
    assert_int_equal(kalamdb_export_read(x, chunk, sizeof chunk, &n, &error), ERR_TIMEOUT);
    assert_int_equal(kalamdb_export_read(x, chunk, sizeof chunk, &n, &error), ERR_TIMEOUT);
    kalamdb_export_close(x);
    engine_close(&e);
}

/* ---- without blocking ---- */

struct pulled {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    struct kalamdb_export *x;
    struct buf bytes;
    bool finished;
};

static void on_bytes(void *arg, const char *ptr, size_t len, const struct kalamdb_error *error)
{
    struct pulled *p = arg;
    assert_int_equal(error->code, KALAMDB_OK);
    buf_append(&p->bytes, ptr, len);
    if (len > 0) {
        kalamdb_export_next(p->x, on_bytes, p);
        return;
    }
    kalamdb_export_close(p->x);
    pthread_mutex_lock(&p->lock);
    p->finished = true;
    pthread_cond_signal(&p->cond);
    pthread_mutex_unlock(&p->lock);
}

static void asynchronous(void **state)
{
    (void)state;
    engine_open(&e);
    expect_code(&e, "alice", "INSERT INTO messages (conversation_id, content) VALUES ('c', 'x')", "OK");
    struct pulled p = {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
    p.x = open_export("alice", KALAMDB_USER, "alice");
    kalamdb_export_next(p.x, on_bytes, &p);
    pthread_mutex_lock(&p.lock);
    while (!p.finished)
        pthread_cond_wait(&p.cond, &p.lock);
    pthread_mutex_unlock(&p.lock);
    /* The end of a tar: two empty blocks. */
    assert_true(p.bytes.len > 2048 && p.bytes.len % 512 == 0);
    for (size_t i = p.bytes.len - 1024; i < p.bytes.len; i++)
        assert_int_equal(p.bytes.ptr[i], 0);
    buf_release(&p.bytes);
    engine_close(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_moment),
        cmocka_unit_test(pieces),
        cmocka_unit_test(refused),
        cmocka_unit_test(asynchronous),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
