/* The disk against a tiny program that appends to a journal and replaces a snapshot by rename, as databases
 * do: done right it survives every power loss; with the fsync of the file, or that of the folder, left out, a
 * loss is found within a few seeds. And the plan: the Nth call fails as said, and only that. */
#include "sim/disk.h"
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
/* cmocka wants the three before */
#include <cmocka.h>

static char root[64];

static int setup(void **state)
{
    (void)state;
    snprintf(root, sizeof root, "/tmp/kalamdb-disk-XXXXXX");
    assert_non_null(mkdtemp(root));
    disk_attach(root);
    return 0;
}

static int teardown(void **state)
{
    char command[128];
    (void)state;
    disk_detach();
    snprintf(command, sizeof command, "rm -rf %s", root);
    return system(command);
}

static const char *path(const char *name)
{
    static char buf[4][256];
    static int at;
    at = (at + 1) % 4;
    snprintf(buf[at], sizeof buf[at], "%s/%s", root, name);
    return buf[at];
}

static int64_t content(const char *name, char *ret, size_t size)
{
    int fd = open(path(name), O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t n = read(fd, ret, size - 1);
    close(fd);
    ret[n < 0 ? 0 : n] = '\0';
    return n;
}

static void sync_folder(const char *name)
{
    int fd = open(path(name), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(fsync(fd), 0);
    close(fd);
}

/* ---- the tiny program ---------------------------------------------------------------------------------- */

enum bug { NO_BUG, NO_FILE_FSYNC, NO_FOLDER_FSYNC, NO_JOURNAL_FSYNC };

static void replace(int version, enum bug bug)
{
    char text[2048];
    memset(text, 'a' + version % 26, sizeof text);
    snprintf(text, sizeof text, "%d", version);
    int fd = open(path("db/snapshot.tmp"), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, sizeof text), sizeof text);
    if (bug != NO_FILE_FSYNC)
        assert_int_equal(fsync(fd), 0);
    close(fd);
    assert_int_equal(rename(path("db/snapshot.tmp"), path("db/snapshot")), 0);
    if (bug != NO_FOLDER_FSYNC)
        sync_folder("db");
}

static void append(int version, enum bug bug)
{
    char line[16];
    int fd = open(path("db/journal"), O_WRONLY | O_APPEND | O_CLOEXEC);
    assert_true(fd >= 0);
    snprintf(line, sizeof line, "%07d\n", version);
    assert_int_equal(write(fd, line, 8), 8);
    if (bug != NO_JOURNAL_FSYNC)
        assert_int_equal(fdatasync(fd), 0);
    close(fd);
}

/* What is acknowledged is there, and what is there was written. */
static bool intact(int acknowledged)
{
    char text[4096];
    int64_t n = content("db/snapshot", text, sizeof text);
    if (n != 2048 || atoi(text) < acknowledged || text[2047] != 'a' + atoi(text) % 26)
        return false;
    n = content("db/journal", text, sizeof text);
    if (n < 8 * (int64_t)acknowledged)
        return false;
    for (int i = 1; i <= acknowledged; i++)
        if (atoi(text + 8 * (i - 1)) != i)
            return false;
    return true;
}

/* Seeds until a power loss is noticed, up to `seeds`; 0: none is. */
static int found_at(enum bug bug, int seeds)
{
    for (int seed = 1; seed <= seeds; seed++) {
        char command[128];
        snprintf(command, sizeof command, "rm -rf %s/db", root);
        disk_detach();
        assert_int_equal(system(command), 0);
        disk_attach(root);
        assert_int_equal(mkdir(path("db"), 0700), 0);
        sync_folder("");
        int fd = open(path("db/journal"), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        close(fd);
        sync_folder("db");
        int rounds = 1 + seed % 5;
        for (int i = 1; i <= rounds; i++) {
            append(i, bug);
            replace(i, bug);
        }
        append(rounds + 1, NO_JOURNAL_FSYNC); /* one in flight */
        disk_crash((uint64_t)seed, LOSS_BY_SEED, NULL);
        if (!intact(rounds))
            return seed;
    }
    return 0;
}

static void test_missing_fsyncs_are_found(void **state)
{
    (void)state;
    assert_int_equal(found_at(NO_BUG, 300), 0);
    assert_in_range(found_at(NO_FILE_FSYNC, 300), 1, 10);
    assert_in_range(found_at(NO_FOLDER_FSYNC, 300), 1, 10);
    assert_in_range(found_at(NO_JOURNAL_FSYNC, 300), 1, 10);
}

/* ---- what survives ------------------------------------------------------------------------------------- */

static void put(const char *name, const char *text, bool sync)
{
    int fd = open(path(name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    if (sync)
        assert_int_equal(fsync(fd), 0);
    close(fd);
}

static void expect(const char *name, const char *want)
{
    char text[256];
    int64_t n = content(name, text, sizeof text);
    if (want == NULL)
        assert_int_equal(n, -1);
    else
        assert_string_equal(text, want);
}

static void test_all_that_is_not_synced_is_lost(void **state)
{
    (void)state;
    put("both", "safe", true);
    sync_folder("");
    put("both", "newer", false); /* bytes without fsync */
    put("name", "bytes", true);  /* a name without fsync */
    assert_int_equal(unlink(path("name")), 0);
    put("name", "again", true);
    struct disk_report r;
    char unsafe[256];
    assert_true(disk_unsafe(unsafe, sizeof unsafe));
    disk_crash(1, LOSS_ALL, &r);
    expect("both", "safe");
    expect("name", NULL);
    assert_int_equal(r.names_lost, 3);
    assert_int_equal(r.files_lost, 1);
    assert_false(disk_unsafe(unsafe, sizeof unsafe));
}

static void test_removals_come_back_until_synced(void **state)
{
    (void)state;
    put("one", "1", true);
    put("two", "2", true);
    sync_folder("");
    assert_int_equal(unlink(path("one")), 0);
    disk_crash(1, LOSS_ALL, NULL);
    expect("one", "1");
    assert_int_equal(unlink(path("one")), 0);
    assert_int_equal(rename(path("two"), path("three")), 0);
    sync_folder("");
    disk_crash(1, LOSS_ALL, NULL);
    expect("one", NULL);
    expect("two", NULL);
    expect("three", "2");
}

static void test_a_rename_between_folders_is_one_step(void **state)
{
    (void)state;
    assert_int_equal(mkdir(path("from"), 0700), 0);
    assert_int_equal(mkdir(path("to"), 0700), 0);
    sync_folder("");
    put("from/file", "x", true);
    assert_int_equal(rename(path("from/file"), path("to/file")), 0);
    sync_folder("to");
    disk_crash(1, LOSS_ALL, NULL);
    expect("to/file", "x");
    expect("from/file", NULL);
}

static void test_a_folder_needs_its_own_name(void **state)
{
    (void)state;
    assert_int_equal(mkdir(path("new"), 0700), 0);
    put("new/file", "x", true);
    sync_folder("new");
    disk_crash(1, LOSS_ALL, NULL);
    expect("new/file", NULL);
}

static void test_after_a_kill_all_is_there(void **state)
{
    (void)state;
    put("file", "unsynced", false);
    disk_crash(7, LOSS_NONE, NULL);
    expect("file", "unsynced");
}

static void test_bytes_of_a_failed_fsync_stay_lost(void **state)
{
    (void)state;
    put("file", "", true);
    sync_folder("");
    int fd = open(path("file"), O_WRONLY | O_CLOEXEC);
    assert_int_equal(write(fd, "first", 5), 5);
    disk_fault_add(&(struct disk_fault){.call = DISK_SYNC, .nth = 1, .times = 1, .error = EIO});
    assert_int_equal(fsync(fd), -1);
    assert_int_equal(errno, EIO);
    assert_int_equal(write(fd, "second", 6), 6);
    assert_int_equal(fsync(fd), 0); /* the trap */
    expect("file", "firstsecond");
    close(fd);
    disk_crash(1, LOSS_ALL, NULL);
    char text[64];
    assert_int_equal(content("file", text, sizeof text), 11);
    assert_memory_equal(text, "\0\0\0\0\0second", 11);
}

static void test_torn_at_sectors_and_the_same_by_seed(void **state)
{
    char first[8192], second[8192], old[8192], text[8192 + 1];
    bool torn = false;
    (void)state;
    memset(old, 'o', sizeof old);
    memset(second, 'n', sizeof second);
    for (int round = 0; round < 40; round++) {
        int fd = open(path("file"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        assert_int_equal(pwrite(fd, old, sizeof old, 0), sizeof old);
        assert_int_equal(fsync(fd), 0);
        sync_folder("");
        disk_detach(); /* numbers files anew, so that two rounds are the same calls */
        disk_attach(root);
        assert_int_equal(pwrite(fd, second, sizeof second, 0), sizeof second);
        close(fd);
        disk_crash((uint64_t)(round / 2), LOSS_MIXED, NULL);
        assert_int_equal(content("file", text, sizeof text), sizeof old);
        for (size_t i = 0; i < sizeof old; i += 512) {
            assert_true(text[i] == 'o' || text[i] == 'n');
            for (size_t k = i; k < i + 512; k++)
                assert_int_equal(text[k], text[i]);
            torn |= text[i] != text[0];
        }
        if (round % 2 == 1)
            assert_memory_equal(first, text, sizeof first);
        memcpy(first, text, sizeof first);
    }
    assert_true(torn);
}

static void test_rot_survives(void **state)
{
    (void)state;
    put("file", "abc", true);
    sync_folder("");
    assert_true(disk_rot(path("file"), 1, 0));
    assert_false(disk_rot(path("file"), 3, 0));
    expect("file", "acc");
    disk_crash(1, LOSS_ALL, NULL);
    expect("file", "acc");
}

/* ---- the plan ------------------------------------------------------------------------------------------ */

static void test_the_nth_call_fails(void **state)
{
    (void)state;
    int fd = open(path("file"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    int fault =
        disk_fault_add(&(struct disk_fault){.call = DISK_WRITE, .nth = 2, .times = 1, .error = ENOSPC});
    assert_int_equal(write(fd, "aa", 2), 2);
    assert_int_equal(write(fd, "bb", 2), -1);
    assert_int_equal(errno, ENOSPC);
    assert_int_equal(write(fd, "cc", 2), 2);
    assert_int_equal(disk_fault_seen(fault), 3);
    assert_int_equal(disk_fault_hits(fault), 1);
    disk_faults_clear();
    disk_fault_add(&(struct disk_fault){.call = DISK_WRITE, .nth = 1, .short_bytes = true, .path = "file"});
    assert_int_equal(write(fd, "dddd", 4), 2);
    disk_faults_clear();
    disk_fault_add(&(struct disk_fault){.call = DISK_READ, .nth = 1, .times = 1, .error = EINTR});
    char text[8];
    assert_int_equal(pread(fd, text, sizeof text, 0), -1);
    assert_int_equal(errno, EINTR);
    assert_int_equal(pread(fd, text, sizeof text, 0), 6);
    assert_memory_equal(text, "aaccdd", 6);
    close(fd);
}

static void test_each_kind_of_call_fails(void **state)
{
    static const enum disk_call kinds[] = {DISK_OPEN, DISK_RENAME, DISK_UNLINK, DISK_MKDIR, DISK_TRUNCATE,
        DISK_LINK, DISK_MMAP, DISK_SOCKET, DISK_SYNC};
    (void)state;
    put("file", "abc", true);
    int fd = open(path("file"), O_RDWR | O_CLOEXEC);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        disk_fault_add(&(struct disk_fault){.call = kinds[i], .nth = 1, .error = EIO});
    assert_int_equal(open(path("file"), O_RDONLY | O_CLOEXEC), -1);
    assert_null(fopen(path("file"), "r"));
    assert_int_equal(rename(path("file"), path("b")), -1);
    assert_int_equal(unlink(path("file")), -1);
    assert_int_equal(mkdir(path("d"), 0700), -1);
    assert_int_equal(ftruncate(fd, 1), -1);
    assert_int_equal(link(path("file"), path("b")), -1);
    assert_ptr_equal(mmap(NULL, 3, PROT_READ, MAP_SHARED, fd, 0), MAP_FAILED);
    assert_int_equal(memfd_create("m", 0), -1);
    assert_int_equal(socket(AF_UNIX, SOCK_STREAM, 0), -1);
    assert_int_equal(fsync(fd), -1);
    disk_faults_clear();
    close(fd);
    expect("file", "abc");
}

static void test_allocations_of_ours_fail(void **state)
{
    (void)state;
    int fault =
        disk_fault_add(&(struct disk_fault){.call = DISK_ALLOC, .nth = 2, .times = 1, .error = ENOMEM});
    void *volatile a = malloc(8);
    void *volatile b = calloc(1, 8);
    char *volatile c = strdup("c");
    assert_non_null(a);
    assert_null(b);
    assert_non_null(c);
    assert_int_equal(disk_fault_hits(fault), 1);
    free(a);
    free(c);
}

static void test_without_power_nothing_changes(void **state)
{
    (void)state;
    put("file", "abc", true);
    sync_folder("");
    int fd = open(path("file"), O_RDWR | O_CLOEXEC);
    disk_power_off();
    assert_int_equal(write(fd, "xyz", 3), -1);
    assert_int_equal(fsync(fd), -1);
    assert_int_equal(unlink(path("file")), -1);
    assert_int_equal(open(path("new"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600), -1);
    close(fd);
    disk_power_on(1, LOSS_NONE, NULL);
    expect("file", "abc");
    assert_int_equal(unlink(path("file")), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_missing_fsyncs_are_found, setup, teardown),
        cmocka_unit_test_setup_teardown(test_all_that_is_not_synced_is_lost, setup, teardown),
        cmocka_unit_test_setup_teardown(test_removals_come_back_until_synced, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_rename_between_folders_is_one_step, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_folder_needs_its_own_name, setup, teardown),
        cmocka_unit_test_setup_teardown(test_after_a_kill_all_is_there, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bytes_of_a_failed_fsync_stay_lost, setup, teardown),
        cmocka_unit_test_setup_teardown(test_torn_at_sectors_and_the_same_by_seed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rot_survives, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_nth_call_fails, setup, teardown),
        cmocka_unit_test_setup_teardown(test_each_kind_of_call_fails, setup, teardown),
        cmocka_unit_test_setup_teardown(test_allocations_of_ours_fail, setup, teardown),
        cmocka_unit_test_setup_teardown(test_without_power_nothing_changes, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
