/* The chain: what is written verifies, and whatever is changed, removed, moved, put in or cut shows. */
#include "../test.h"
#include "audit/audit.h"
#include "audit/fold.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char root[64], dir[96];

static int setup(void **state)
{
    (void)state;
    snprintf(root, sizeof root, "/tmp/kalamdb-audit-XXXXXX");
    if (mkdtemp(root) == NULL)
        return -1;
    snprintf(dir, sizeof dir, "%s/audit", root);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    DIR *d = opendir(dir);
    for (const struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        unlink(path);
    }
    if (d != NULL)
        closedir(d);
    rmdir(dir);
    return rmdir(root);
}

static struct audit *open_log(uint64_t file_bytes)
{
    struct audit *a = NULL;
    struct errctx ec;
    struct audit_config cfg = {.dir = dir, .os = os_posix(), .file_bytes_max = file_bytes};
    assert_int_equal(audit_open(&cfg, &a, &ec), ERR_OK);
    return a;
}

static void add(struct audit *a, int i)
{
    char target[32];
    snprintf(target, sizeof target, "thing \"%d\"", i);
    audit_add(a, &(struct audit_record){.event = "test",
                     .sub = STR("operator"),
                     .role = STR("admin"),
                     .jti = STR("t-1"),
                     .address = STR("10.0.0.7"),
                     .user = STR("al\"ice"),
                     .target = str_c(target),
                     .outcome = STR("200"),
                     .detail = STR("{\"rows\":7}")});
}

static void write_log(int n, uint64_t file_bytes)
{
    struct audit *a = open_log(file_bytes);
    for (int i = 0; i < n; i++)
        add(a, i);
    audit_close(a);
}

static enum err verify(struct audit_verified *v, struct errctx *ec)
{
    enum err e = audit_verify(dir, STR_NULL, v, ec);
    return e;
}

static char *path_of(uint64_t first)
{
    static char path[192];
    snprintf(path, sizeof path, "%s/audit-%012llu.jsonl", dir, (unsigned long long)first);
    return path;
}

static void load(const char *path, struct buf *b)
{
    struct errctx ec;
    buf_clear(b);
    assert_int_equal(os_read_file(path, b, &ec), ERR_OK);
}

static void store(const char *path, struct str bytes)
{
    int fd = open(path, O_WRONLY | O_TRUNC | O_CREAT, 0600);
    assert_true(fd >= 0);
    assert_int_equal(os_write_all(fd, bytes.ptr, bytes.len), 0);
    close(fd);
}

static void what_is_written_verifies(void **state)
{
    (void)state;
    struct audit_verified v;
    struct errctx ec;
    struct stat st;
    struct buf b = BUF_INIT(0);
    assert_int_equal(verify(&v, &ec), ERR_NOT_FOUND);
    write_log(3, 0);
    assert_int_equal(verify(&v, &ec), ERR_OK);
    assert_int_equal(v.files, 1);
    assert_int_equal(v.first, 1);
    assert_int_equal(v.last, 4); /* and the line that begins the file */
    assert_false(v.cut);
    assert_int_equal(stat(path_of(1), &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    load(path_of(1), &b);
    buf_u8(&b, 0);
    assert_non_null(
        strstr(b.ptr, "\"event\":\"test\",\"sub\":\"operator\",\"role\":\"admin\",\"jti\":\"t-1\","
                      "\"address\":\"10.0.0.7\",\"on\":{\"user\":\"al\\\"ice\",\"target\":\"thing "
                      "\\\"2\\\"\"},\"outcome\":\"200\",\"detail\":{\"rows\":7},\"hash\":\""));
    /* opened again, the chain goes on */
    struct audit *a = open_log(0);
    struct audit_head head;
    audit_head(a, &head);
    assert_int_equal(head.n, 4);
    assert_string_equal(head.hash, v.hash);
    add(a, 4);
    audit_close(a);
    assert_int_equal(audit_verify(dir, str_c(head.hash), &v, &ec), ERR_OK);
    assert_int_equal(v.last, 5);
    assert_true(v.head_seen);
    buf_release(&b);
}

static void every_changed_byte_shows(void **state)
{
    (void)state;
    struct audit_verified v;
    struct errctx ec;
    struct buf b = BUF_INIT(0);
    write_log(3, 0);
    load(path_of(1), &b);
    for (size_t i = 0; i < b.len; i++) {
        char was = b.ptr[i];
        b.ptr[i] = was == '1' ? '2' : '1';
        store(path_of(1), buf_view(&b));
        enum err e = verify(&v, &ec);
        /* The last line feed gone is what a crash leaves. */
        if (i + 1 == b.len ? e != ERR_OK || !v.cut : e != ERR_CORRUPT)
            fail_msg("byte %zu, '%c': %d", i, was, e);
        b.ptr[i] = was;
    }
    store(path_of(1), buf_view(&b));
    assert_int_equal(verify(&v, &ec), ERR_OK);
    buf_release(&b);
}

/* The file's lines, in this order. */
static void rearrange(const struct buf *b, const int *order, int n)
{
    struct str lines[16];
    struct buf out = BUF_INIT(0);
    struct str rest = buf_view(b);
    for (int i = 0; rest.len > 0 && i < 16; i++) {
        size_t len = str_find(rest, '\n') + 1;
        lines[i] = str_n(rest.ptr, len);
        rest = str_n(rest.ptr + len, rest.len - len);
    }
    for (int i = 0; i < n; i++)
        buf_str(&out, lines[order[i]]);
    store(path_of(1), buf_view(&out));
    buf_release(&out);
}

static void moved_missing_and_doubled_lines_show(void **state)
{
    (void)state;
    static const int orders[][6] = {{0, 1, 3, 2, 4, -1}, {0, 2, 3, 4, -1}, {0, 1, 2, 2, 3, 4},
        {1, 2, 3, 4, -1}, {0, 1, 2, 4, -1}, {0, 0, 1, 2, 3, 4}};
    struct audit_verified v;
    struct errctx ec;
    struct buf b = BUF_INIT(0);
    write_log(4, 0);
    load(path_of(1), &b);
    for (size_t i = 0; i < sizeof orders / sizeof *orders; i++) {
        int n = 0;
        while (n < 6 && orders[i][n] >= 0)
            n++;
        rearrange(&b, orders[i], n);
        if (verify(&v, &ec) != ERR_CORRUPT)
            fail_msg("order %zu", i);
    }
    /* Lines cut off the end: the rest is a log, but not the one whose head was noted. */
    store(path_of(1), buf_view(&b));
    assert_int_equal(verify(&v, &ec), ERR_OK);
    char head[65];
    memcpy(head, v.hash, sizeof head);
    rearrange(&b, (const int[]){0, 1, 2}, 3);
    assert_int_equal(audit_verify(dir, str_c(head), &v, &ec), ERR_OK);
    assert_int_equal(v.last, 3);
    assert_false(v.head_seen);
    buf_release(&b);
}

static void files_follow_each_other(void **state)
{
    (void)state;
    struct audit_verified v;
    struct errctx ec;
    struct buf b = BUF_INIT(0);
    uint64_t second = 0;
    int n = 0;
    for (int i = 0; i < 4; i++)
        write_log(3, 600); /* two lines or so */
    assert_int_equal(verify(&v, &ec), ERR_OK);
    assert_true(v.files >= 4);
    for (uint64_t i = 2; second == 0; i++)
        if (access(path_of(i), F_OK) == 0)
            second = i;
    struct audit *a = open_log(600);
    assert_int_equal(audit_read(a, 0, 1000, &b, &n, &ec), ERR_OK);
    assert_int_equal(n, v.last);
    buf_clear(&b);
    assert_int_equal(audit_read(a, second, 2, &b, &n, &ec), ERR_OK);
    assert_int_equal(n, 2);
    char want[32];
    snprintf(want, sizeof want, "{\"n\":%llu,", (unsigned long long)second + 1);
    assert_true(str_starts_with(buf_view(&b), str_c(want)));
    audit_close(a);
    load(path_of(second), &b);
    assert_int_equal(unlink(path_of(second)), 0);
    assert_int_equal(verify(&v, &ec), ERR_CORRUPT); /* a file is missing */
    store(path_of(second), buf_view(&b));
    assert_int_equal(verify(&v, &ec), ERR_OK);
    assert_int_equal(unlink(path_of(1)), 0); /* the oldest may be put away */
    assert_int_equal(verify(&v, &ec), ERR_OK);
    assert_int_equal(v.first, second);
    buf_release(&b);
}

static void a_line_cut_by_a_crash_is_repaired(void **state)
{
    (void)state;
    struct audit_verified v;
    struct errctx ec;
    struct buf b = BUF_INIT(0), now = BUF_INIT(0);
    write_log(2, 0);
    load(path_of(1), &b);
    size_t last = b.len - 1;
    while (b.ptr[last - 1] != '\n')
        last--;
    for (size_t cut = last + 1; cut < b.len; cut += 7) { /* in the middle of the last line */
        store(path_of(1), str_n(b.ptr, cut));
        assert_int_equal(verify(&v, &ec), ERR_OK);
        assert_true(v.cut);
        audit_close(open_log(0));
        assert_int_equal(verify(&v, &ec), ERR_OK);
        assert_false(v.cut);
        load(path_of(1), &now);
        buf_u8(&now, 0);
        assert_non_null(strstr(now.ptr, "\"event\":\"repaired\",\"detail\":{\"bytesCut\":"));
    }
    /* A crash after a file was made and before it had a line. */
    store(path_of(1), buf_view(&b));
    store(path_of(4), STR("{\"n\":4,\"pr"));
    audit_close(open_log(0));
    assert_int_equal(verify(&v, &ec), ERR_OK);
    assert_int_equal(v.files, 1);
    /* What is no cut is not repaired. */
    load(path_of(1), &b);
    b.ptr[b.len - 20] = 'x';
    store(path_of(1), buf_view(&b));
    struct audit *a = NULL;
    struct audit_config cfg = {.dir = dir, .os = os_posix()};
    assert_int_equal(audit_open(&cfg, &a, &ec), ERR_CORRUPT);
    buf_release(&b);
    buf_release(&now);
}

/* ---- a disk that fails ---- */

static _Atomic int failing, syncs;

static int fsync_failing(void *ctx, int fd)
{
    (void)ctx;
    atomic_fetch_add(&syncs, 1);
    if (atomic_load(&failing))
        return -EIO;
    return os_posix()->fsync(os_posix()->ctx, fd);
}

struct told {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    int n;
    bool ok;
};

static void tell(void *arg, bool ok)
{
    struct told *t = arg;
    pthread_mutex_lock(&t->lock);
    t->n++;
    t->ok = ok;
    pthread_cond_signal(&t->cond);
    pthread_mutex_unlock(&t->lock);
}

static bool durable(struct audit *a)
{
    struct told t = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, false};
    audit_when_durable(a, tell, &t);
    pthread_mutex_lock(&t.lock);
    while (t.n == 0)
        pthread_cond_wait(&t.cond, &t.lock);
    pthread_mutex_unlock(&t.lock);
    return t.ok;
}

static void who_waits_is_told_the_truth(void **state)
{
    (void)state;
    struct os os = *os_posix();
    struct audit *a = NULL;
    struct audit_verified v;
    struct audit_head head;
    struct errctx ec;
    os.fsync = fsync_failing;
    atomic_store(&failing, 0);
    struct audit_config cfg = {.dir = dir, .os = &os};
    assert_int_equal(audit_open(&cfg, &a, &ec), ERR_OK);
    add(a, 1);
    assert_true(durable(a));
    assert_true(atomic_load(&syncs) > 0);
    audit_head(a, &head);
    assert_int_equal(head.n, 2);
    atomic_store(&failing, 1);
    add(a, 2);
    assert_false(durable(a));
    assert_false(audit_writable(a));
    audit_head(a, &head);
    assert_int_equal(head.n, 2);
    add(a, 3);
    atomic_store(&failing, 0);
    add(a, 4);
    assert_true(durable(a)); /* the ones before, too, and each once */
    assert_true(audit_writable(a));
    audit_head(a, &head);
    assert_int_equal(head.n, 5);
    audit_close(a);
    assert_int_equal(verify(&v, &ec), ERR_OK);
    assert_int_equal(v.last, 5);
    assert_true(durable(NULL)); /* without a log nobody waits */
}

/* ---- folding ---- */

struct folded {
    int n;
    uint64_t count;
};

static void take(void *arg, const struct audit_record *r, uint64_t count)
{
    struct folded *f = arg;
    f->n++;
    f->count += count;
    assert_true(strcmp(r->event, "others") == 0 || str_eq(r->sub, STR("mallory")));
}

static void what_is_alike_is_counted(void **state)
{
    (void)state;
    struct fold f = {0};
    struct folded got = {0};
    struct audit_record r = {.event = "forbidden", .sub = STR("mallory"), .user = STR("alice")};
    assert_true(fold_first(&f, &r, 1000));
    for (int i = 0; i < 99; i++)
        assert_false(fold_first(&f, &r, 2000));
    r.user = STR("bob");
    assert_true(fold_first(&f, &r, 2000));
    fold_end(&f, 1000 + AUDIT_FOLD_S * INT64_C(1000000) - 1, false, take, &got);
    assert_int_equal(got.n, 0);
    fold_end(&f, 1000 + AUDIT_FOLD_S * INT64_C(1000000), false, take, &got);
    assert_int_equal(got.n, 1); /* bob's was recorded and not repeated */
    assert_int_equal(got.count, 99);
    assert_true(fold_first(&f, &r, 3000)); /* a new minute */
    /* Kinds without number cost bounded memory. */
    got = (struct folded){0};
    for (int i = 0; i < AUDIT_FOLD_MAX + 10; i++) {
        char name[16];
        snprintf(name, sizeof name, "u%d", i);
        r.user = str_c(name);
        (void)fold_first(&f, &r, 3000);
    }
    fold_end(&f, 0, true, take, &got);
    assert_int_equal(got.n, 1);
    assert_int_equal(got.count, 11);
    fold_release(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_is_written_verifies, setup, teardown),
        cmocka_unit_test_setup_teardown(every_changed_byte_shows, setup, teardown),
        cmocka_unit_test_setup_teardown(moved_missing_and_doubled_lines_show, setup, teardown),
        cmocka_unit_test_setup_teardown(files_follow_each_other, setup, teardown),
        cmocka_unit_test_setup_teardown(a_line_cut_by_a_crash_is_repaired, setup, teardown),
        cmocka_unit_test_setup_teardown(who_waits_is_told_the_truth, setup, teardown),
        cmocka_unit_test(what_is_alike_is_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
