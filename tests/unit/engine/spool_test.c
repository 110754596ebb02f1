/* What a transfer keeps on disk: read back anywhere, without a name, and of no use to who reads the disk. */
#include "../test.h"
#include "engine/spool.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static struct errctx ec;
static char dir[] = "/tmp/kalamdb-spool-XXXXXX";

/* The descriptor of the file without a name in `dir`, opened anew; -1: there is none. */
static int disk_file(void)
{
    DIR *d = opendir("/proc/self/fd");
    int found = -1;
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d)) != NULL && found < 0;) {
        char link[300], target[300];
        snprintf(link, sizeof link, "/proc/self/fd/%s", e->d_name);
        ssize_t n = readlink(link, target, sizeof target - 1);
        target[n > 0 ? n : 0] = '\0';
        if (strncmp(target, dir, strlen(dir)) == 0 && strstr(target, "(deleted)") != NULL)
            found = open(link, O_RDWR | O_CLOEXEC);
    }
    closedir(d);
    return found;
}

static int names(void)
{
    int n = 0;
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

static struct spool *filled(char *p, size_t n)
{
    struct spool *s;
    for (size_t i = 0; i < n; i++)
        p[i] = "planted in a spool, "[i % 20];
    assert_int_equal(spool_new(os_posix(), dir, ".", &s, &ec), ERR_OK);
    size_t got;
    assert_int_equal(spool_read(s, p, 1, 0, &got, &ec), ERR_INTERNAL);
    assert_int_equal(spool_size(s), 0);
    for (size_t at = 0; at < n; at += 30000)
        assert_int_equal(spool_write(s, str_n(p + at, n - at < 30000 ? n - at : 30000), &ec), ERR_OK);
    assert_int_equal(spool_end(s, &ec), ERR_OK);
    return s;
}

static void round_trip(void **state)
{
    (void)state;
    size_t n = 200000, got;
    char *p = malloc(n), *q = malloc(n);
    struct spool *s = filled(p, n);
    assert_int_equal(spool_size(s), n);
    assert_int_equal(spool_read(s, q, n, 0, &got, &ec), ERR_OK);
    assert_int_equal(got, n);
    assert_memory_equal(p, q, n);
    assert_int_equal(spool_read(s, q, 100, 131000, &got, &ec), ERR_OK);
    assert_memory_equal(p + 131000, q, 100);
    assert_int_equal(spool_read(s, q, 100, n - 5, &got, &ec), ERR_OK);
    assert_int_equal(got, 5);
    assert_int_equal(names(), 0);
    spool_free(s);
    assert_int_equal(disk_file(), -1);
    spool_free(NULL);
    free(p);
    free(q);
}

static void sealed_and_checked(void **state)
{
    (void)state;
    size_t n = 200000, got;
    char *p = malloc(n), *raw = malloc(2 * n), byte;
    struct spool *s = filled(p, n);
    int fd = disk_file();
    assert_true(fd >= 0);
    ssize_t size = pread(fd, raw, 2 * n, 0);
    assert_true(size > (ssize_t)n);
    assert_null(memmem(raw, (size_t)size, "planted", 7));
    assert_null(memmem(raw, (size_t)size, "spool,", 6));
    byte = (char)(raw[100000] ^ 1);
    assert_int_equal(pwrite(fd, &byte, 1, 100000), 1);
    assert_int_equal(spool_read(s, raw, n, 0, &got, &ec), ERR_CORRUPT);
    assert_int_equal(spool_read(s, raw, 10, 0, &got, &ec), ERR_OK);
    close(fd);
    spool_free(s);
    free(p);
    free(raw);
}

static void given_up(void **state)
{
    (void)state;
    struct spool *s;
    assert_int_equal(spool_new(os_posix(), dir, ".", &s, &ec), ERR_OK);
    assert_int_equal(spool_write(s, STR("half"), &ec), ERR_OK);
    spool_free(s);
    assert_int_equal(spool_new(os_posix(), dir, "not-there", &s, &ec), ERR_IO);
    assert_int_equal(names(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip), cmocka_unit_test(sealed_and_checked), cmocka_unit_test(given_up)};
    if (mkdtemp(dir) == NULL)
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(dir);
    return failed;
}
