/* What happens in the middle of a consolidation: changes by writers, and crashes at every step. */
#include "cold_fixture.h"
#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
/* cmocka wants the three before */
#include <cmocka.h>

#define NSTEPS (STEP_RELEASED + 1)

struct script {
    struct cold *c;
    bool change;     /* update, delete and insert at every step */
    size_t next_row; /* victims so far */
    enum consolidate_step stop_at;
    int stop_after, seen[NSTEPS]; /* stop at the n-th time of stop_at; 0: never */
};

static bool play(void *arg, enum consolidate_step step)
{
    struct script *p = arg;
    p->seen[step]++;
    if (p->change) {
        char text[40];
        snprintf(text, sizeof text, "changed at step %d", (int)step);
        cold_update(p->c, p->next_row++, text);
        cold_delete(p->c, p->next_row++);
        cold_update(p->c, p->next_row, "changed twice");
        cold_update(p->c, p->next_row++, text);
        cold_insert(p->c, 2, 3);
        cold_check(p->c);
    }
    return p->stop_after == 0 || step != p->stop_at || p->seen[step] < p->stop_after;
}

static void set_script(struct cold *c, struct script *p)
{
    struct consolidate_hook hook = {play, p};
    consolidator_set_hook(c->f.store->consolidator, &hook);
}

static void counts_are_exact(struct cold *c)
{
    struct errctx ec = {0};
    struct head h = cold_head(c);
    struct manifest *m = cold_manifest(c);
    uint64_t fresh = 0, overlays = 0;
    for (size_t i = 0; i < c->nrows; i++) {
        const struct model_row *r = &c->rows[i];
        enum row_state state = manifest_row_state(m, (struct row_meta){r->seq, r->ins_seq, 0});
        fresh += r->live && state == ROW_FRESH;
        overlays += r->live && state == ROW_OVERLAY;
    }
    assert_int_equal(h.fresh_rows, fresh);
    assert_true(h.overlays >= overlays); /* and deletions */
    manifest_unref(m);
    (void)ec;
}

static void changes_between(void **state)
{
    (void)state;
    for (int tail = 0; tail < 8; tail += 7) {
        struct cold c;
        struct script p = {.c = &c, .change = true};
        cold_open(&c, "user_alice", tail);
        cold_insert(&c, 500, 3);
        set_script(&c, &p);
        cold_consolidate(&c); /* ends, although every step brings new rows */
        set_script(&c, &(struct script){0});
        assert_true(p.seen[STEP_SNAPSHOT] >= 1 && p.seen[STEP_CHUNK] >= 1 && p.seen[STEP_RELEASED] >= 1);
        cold_check(&c);
        counts_are_exact(&c);
        cold_reopen(&c);
        cold_check(&c);
        cold_consolidate(&c);
        cold_check(&c);
        counts_are_exact(&c);
        assert_int_equal(cold_head(&c).overlays, 0);
        cold_close(&c);
    }
}

static int files_in(const struct cold *c, const char *folder)
{
    char path[512];
    int n = 0;
    snprintf(path, sizeof path, "%s/%s", c->f.dir, folder);
    DIR *dir = opendir(path);
    if (dir == NULL)
        return 0;
    for (struct dirent *e; (e = readdir(dir)) != NULL;)
        n += e->d_name[0] != '.';
    closedir(dir);
    return n;
}

/* One crash: at the n-th time of a step, in the first consolidation or in a later one that merges and
 * rewrites. */
static void crash_at(enum consolidate_step step, int nth, bool later, bool change)
{
    struct cold c;
    struct errctx ec = {0};
    struct script p = {.c = &c, .change = change, .stop_at = step, .stop_after = nth, .next_row = 100};
    cold_open(&c, "user_alice", 2);
    cold_insert(&c, 450, 3);
    if (later) {
        cold_consolidate(&c);
        for (size_t i = 0; i < 60; i++)
            cold_update(&c, i, "overlaid before the crash");
        for (size_t i = 60; i < 90; i++)
            cold_delete(&c, i);
        cold_insert(&c, 450, 3);
    }
    set_script(&c, &p);
    assert_int_equal(store_consolidate(c.f.store, STR("user_alice"), &ec), ERR_UNAVAILABLE);
    assert_int_equal(p.seen[step], nth);
    cold_check(&c);
    cold_reopen(&c);
    cold_check(&c);
    struct manifest *m = cold_manifest(&c);
    bool committed = step >= STEP_MANIFEST;
    assert_int_equal(m != NULL && m->nfiles > 0, committed || later);
    assert_false(m != NULL && m->release_pending); /* open has finished it */
    assert_int_equal(files_in(&c, "user_alice"), m != NULL ? m->nfiles : 0);
    assert_int_equal(files_in(&c, ".kalamdb/orphans/user_alice"), step == STEP_TEMP || step == STEP_RENAMED);
    manifest_unref(m);
    cold_consolidate(&c);
    cold_check(&c);
    counts_are_exact(&c);
    assert_int_equal(files_in(&c, ".kalamdb/orphans/user_alice"), 0);
    cold_close(&c);
}

static void crashes(void **state)
{
    (void)state;
    for (int step = STEP_SNAPSHOT; step <= STEP_RELEASED; step++)
        for (int later = 0; later < 2; later++)
            crash_at((enum consolidate_step)step, 1, later != 0, later != 0);
    crash_at(STEP_CHUNK, 2, false, true);
}

/* The commit fails: no trace is left, and the next attempt works. */
static void disk_errors(void **state);

struct faults {
    const struct os *real;
    int fsyncs, renames; /* fail from this call on; 0: never */
};
static struct faults faults;

static int faulty_fsync(void *ctx, int fd)
{
    (void)ctx;
    if (faults.fsyncs > 0 && --faults.fsyncs == 0) {
        faults.fsyncs = 1;
        return -EIO;
    }
    return faults.real->fsync(NULL, fd);
}

static int faulty_rename(void *ctx, const char *from, const char *to)
{
    (void)ctx;
    return faults.renames > 0 ? -EIO : faults.real->rename(NULL, from, to);
}

static void disk_errors(void **state)
{
    (void)state;
    struct cold c;
    struct errctx ec = {0};
    struct store_stats st;
    faults = (struct faults){.real = os_posix()};
    cold_open(&c, "user_alice", 0);
    c.f.os.fsync = faulty_fsync;
    c.f.os.rename = faulty_rename;
    cold_insert(&c, 30, 2);
    for (int n = 1; n <= 4; n++) { /* the file, the folder, the parent: each in turn */
        faults.fsyncs = n;
        enum err e = store_consolidate(c.f.store, STR("user_alice"), &ec);
        faults.fsyncs = 0;
        cold_check(&c);
        if (e == ERR_OK)
            break;
        assert_true(n < 4);
        assert_int_equal(e, ERR_IO);
        assert_int_equal(cold_head(&c).cold_epoch, 0);
        assert_int_equal(files_in(&c, "user_alice"), 0);
    }
    store_stats(c.f.store, &st);
    assert_true(st.consolidate_failures >= 2);
    cold_insert(&c, 30, 2);
    uint64_t epoch = cold_head(&c).cold_epoch;
    faults.renames = 1;
    assert_int_equal(store_consolidate(c.f.store, STR("user_alice"), &ec), ERR_IO);
    faults.renames = 0;
    assert_int_equal(cold_head(&c).cold_epoch, epoch);
    cold_check(&c);
    cold_consolidate(&c);
    cold_check(&c);
    cold_close(&c);
}

/* A file that is not what the manifest says is an error, never a shorter answer. */
static void damaged_file(void **state)
{
    (void)state;
    struct cold c;
    struct errctx ec = {0};
    struct snapshot *snap;
    struct analytic_input input;
    struct scan_bounds all = SCAN_BOUNDS_OPEN;
    char path[512];
    cold_open(&c, "user_alice", 0);
    cold_insert(&c, 30, 2);
    cold_consolidate(&c);
    struct manifest *m = cold_manifest(&c);
    snprintf(path, sizeof path, "%s/user_alice/%.*s", c.f.dir, STR_FMT(m->files[0].name));
    manifest_unref(m);
    FILE *file = fopen(path, "ab");
    assert_non_null(file);
    fputc('x', file);
    fclose(file);
    OK(snapshot_open(c.f.store, STR("user_alice"), &snap, &ec));
    assert_int_equal(snapshot_input(snap, &schema_messages, &all, false, &input, &ec), ERR_CORRUPT);
    assert_int_equal(remove(path), 0);
    assert_int_equal(snapshot_input(snap, &schema_messages, &all, false, &input, &ec), ERR_CORRUPT);
    snapshot_close(snap);
    cold_close(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(changes_between), cmocka_unit_test(crashes),
        cmocka_unit_test(disk_errors), cmocka_unit_test(damaged_file)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
