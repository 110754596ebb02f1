#include "cold_fixture.h"
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
/* cmocka wants the three before */
#include <cmocka.h>

#define CONTENT_TS_STEP 1000

void cold_open(struct cold *c, const char *user, int tail)
{
    struct errctx ec = {0};
    memset(c, 0, sizeof *c);
    c->user = user;
    fixture_open(&c->f);
    struct analytic_config cfg = {.workers_max = 2,
        .threads = 1,
        .memory_bytes_max = (size_t)512 << 20,
        .result_bytes_max = (size_t)256 << 20,
        .idle_worker_ms = 200,
        .os = &c->f.os};
    OK(analytic_open(&cfg, &c->f.cfg.analytic, &ec));
    c->f.cfg.hot_tail_rows = tail;
    c->f.cfg.cold_cache_bytes = (uint64_t)8 << 20;
    fixture_reopen(&c->f);
}

void cold_close(struct cold *c)
{
    struct analytic *a = c->f.cfg.analytic;
    fixture_close(&c->f);
    analytic_close(a);
    free(c->rows);
}

void cold_reopen(struct cold *c)
{
    fixture_reopen(&c->f);
}

/* ---- changes ---- */

static size_t model_add(struct cold *c)
{
    if (c->nrows == c->cap) {
        c->cap = c->cap == 0 ? 256 : c->cap * 2;
        c->rows = realloc(c->rows, c->cap * sizeof *c->rows);
        assert_non_null(c->rows);
    }
    c->rows[c->nrows] = (struct model_row){.live = true};
    return c->nrows++;
}

static void row_values(const struct cold *c, const struct model_row *r, struct value *v)
{
    for (int i = 0; i < MSG_NCOLUMNS; i++)
        v[i] = VALUE_OF_NULL;
    v[MSG_ID] = value_i64(r->id);
    v[MSG_CONVERSATION_ID] = value_text(str_c(r->conv));
    v[MSG_CONVERSATION_TYPE] = value_text(STR("ai"));
    v[MSG_FROM] = value_text(str_c(c->user));
    v[MSG_TIMESTAMP] = value_ts(r->ts);
    v[MSG_CONTENT] = value_text(str_c(r->content));
    v[MSG_METADATA] = value_json(STR("{\"k\":[1,2]}"));
    v[MSG_CLIENT_MSG_ID] = value_text(str_c(r->conv));
    v[MSG_SEQ] = value_i64((int64_t)r->seq);
    v[MSG_INS_SEQ] = value_i64((int64_t)r->ins_seq);
}

struct change_arg {
    struct cold *c;
    size_t first, count;
    const char *content; /* update; NULL: delete */
    uint64_t epoch;
};

static enum err apply_insert(struct txn *txn, void *arg, struct errctx *ec)
{
    struct change_arg *a = arg;
    uint64_t user_no;
    enum err e = txn_user(txn, str_c(a->c->user), true, &user_no, ec);
    for (size_t i = a->first; e == ERR_OK && i < a->first + a->count; i++) {
        struct model_row *r = &a->c->rows[i];
        struct conversation conv;
        struct value v[MSG_NCOLUMNS];
        if (r->id == 0)
            r->id = txn_next_msg_id(txn);
        row_values(a->c, r, v);
        e = txn_conversation(txn, user_no, str_c(r->conv), &conv, ec);
        if (e == ERR_OK)
            e = txn_message_insert(txn, &conv, v, ec);
        r->seq = r->ins_seq = (uint64_t)v[MSG_SEQ].i;
    }
    return e;
}

void cold_insert(struct cold *c, size_t n, int nconv)
{
    struct errctx ec = {0};
    struct change_arg a = {.c = c, .first = c->nrows, .count = n};
    for (size_t i = 0; i < n; i++) {
        size_t at = model_add(c);
        struct model_row *r = &c->rows[at];
        snprintf(r->conv, sizeof r->conv, "c%d", (int)(at % (size_t)nconv));
        snprintf(r->content, sizeof r->content, "content-%zu", at);
        r->ts = (int64_t)at * CONTENT_TS_STEP;
    }
    OK(commit(c->f.store, apply_insert, &a, DURABILITY_DEFAULT, &ec));
}

size_t cold_add(struct cold *c, int64_t id, const char *conv, const char *content)
{
    struct errctx ec = {0};
    size_t at = model_add(c);
    struct model_row *r = &c->rows[at];
    snprintf(r->conv, sizeof r->conv, "%s", conv);
    snprintf(r->content, sizeof r->content, "%s", content);
    r->id = id;
    r->ts = (int64_t)at * CONTENT_TS_STEP;
    struct change_arg a = {.c = c, .first = at, .count = 1};
    OK(commit(c->f.store, apply_insert, &a, DURABILITY_DEFAULT, &ec));
    return at;
}

static enum err apply_change(struct txn *txn, void *arg, struct errctx *ec)
{
    struct change_arg *a = arg;
    struct model_row *r = &a->c->rows[a->first];
    struct conversation conv;
    struct value v[MSG_NCOLUMNS];
    uint64_t user_no;
    enum err e = txn_user(txn, str_c(a->c->user), false, &user_no, ec);
    if (e == ERR_OK)
        e = txn_conversation(txn, user_no, str_c(r->conv), &conv, ec);
    if (e != ERR_OK)
        return e;
    row_values(a->c, r, v);
    if (a->content != NULL) {
        v[MSG_CONTENT] = value_text(str_c(a->content));
        e = txn_message_update(txn, &conv, v, r->seq, r->ins_seq, a->epoch, STR_NULL, ec);
        r->seq = (uint64_t)v[MSG_SEQ].i;
        return e;
    }
    return txn_message_delete(txn, &conv, v, r->seq, r->ins_seq, a->epoch, ec);
}

static void change(struct cold *c, size_t i, const char *content)
{
    struct errctx ec = {0};
    struct snapshot *snap;
    OK(snapshot_open(c->f.store, str_c(c->user), &snap, &ec));
    struct change_arg a = {.c = c, .first = i, .content = content, .epoch = snapshot_cold_epoch(snap)};
    snapshot_close(snap);
    enum err e;
    while ((e = commit(c->f.store, apply_change, &a, DURABILITY_DEFAULT, &ec)) == ERR_RETRY) {
        OK(snapshot_open(c->f.store, str_c(c->user), &snap, &ec));
        a.epoch = snapshot_cold_epoch(snap);
        snapshot_close(snap);
    }
    OK(e);
}

void cold_update(struct cold *c, size_t i, const char *content)
{
    change(c, i, content);
    snprintf(c->rows[i].content, sizeof c->rows[i].content, "%s", content);
}

void cold_delete(struct cold *c, size_t i)
{
    change(c, i, NULL);
    c->rows[i].live = false;
}

void cold_consolidate(struct cold *c)
{
    struct errctx ec = {0};
    OK(store_consolidate(c->f.store, str_c(c->user), &ec));
}

/* ---- checks ---- */

static int by_id(const void *a, const void *b)
{
    const struct model_row *x = a, *y = b;
    return x->id < y->id ? -1 : x->id > y->id;
}

static bool within(const struct scan_bounds *b, int64_t id, struct str conv, int64_t ts, int64_t seq)
{
    return id >= b->id_min && id <= b->id_max && ts >= b->ts_min && ts <= b->ts_max && seq >= b->seq_min &&
           seq <= b->seq_max && (b->conversation_id.ptr == NULL || str_eq(b->conversation_id, conv));
}

static void read_rows(struct cold *c, const struct scan_bounds *bounds, struct rowset *rs)
{
    static const char sql[] =
        "SELECT msg_id, conversation_id, \"from\", epoch_us(timestamp), content, metadata, "
        "client_msg_id, _seq, _ins_seq FROM scan_0 ORDER BY msg_id";
    struct errctx ec = {0};
    struct snapshot *snap;
    struct analytic_input input;
    OK(snapshot_open(c->f.store, str_c(c->user), &snap, &ec));
    OK(snapshot_input(snap, &schema_messages, bounds, false, &input, &ec));
    struct analytic_request rq = {.user_id = str_c(c->user),
        .sql = STR(sql),
        .ninputs = 1,
        .inputs = &input,
        .output_fd = -1,
        .timeout_ms = 60000};
    rowset_init(rs, (size_t)256 << 20);
    OK(analytic_run(c->f.cfg.analytic, &rq, rs, &ec));
    snapshot_close(snap);
}

static void compare_row(const struct cold *c, const struct model_row *want, const struct value *got)
{
    if (got[0].i != want->id)
        fail_msg("msg_id %lld instead of %lld", (long long)got[0].i, (long long)want->id);
    assert_true(str_eq(got[1].s, str_c(want->conv)));
    assert_true(str_eq(got[2].s, str_c(c->user)));
    assert_int_equal(got[3].i, want->ts);
    if (!str_eq(got[4].s, str_c(want->content)))
        fail_msg(
            "row %lld: \"%.*s\" instead of \"%s\"", (long long)want->id, STR_FMT(got[4].s), want->content);
    assert_true(str_eq(got[5].s, STR("{\"k\":[1,2]}")));
    assert_true(str_eq(got[6].s, str_c(want->conv)));
    assert_int_equal(got[7].i, want->seq);
    assert_int_equal(got[8].i, want->ins_seq);
}

void cold_check_bounds(struct cold *c, const struct scan_bounds *bounds)
{
    struct model_row *want = malloc((c->nrows + 1) * sizeof *want);
    struct rowset rs;
    size_t n = 0, at = 0;
    assert_non_null(want);
    for (size_t i = 0; i < c->nrows; i++) {
        const struct model_row *r = &c->rows[i];
        if (r->live && within(bounds, r->id, str_c(r->conv), r->ts, (int64_t)r->seq))
            want[n++] = *r;
    }
    qsort(want, n, sizeof *want, by_id);
    read_rows(c, bounds, &rs);
    /* Pruning is coarse; the statement's own filter decides, which is applied here. */
    for (size_t i = 0; i < rs.nrows; i++) {
        const struct value *v = rowset_row(&rs, i);
        if (!within(bounds, v[0].i, v[1].s, v[3].i, v[7].i))
            continue;
        if (at == n)
            fail_msg("row %lld is not in the model", (long long)v[0].i);
        compare_row(c, &want[at++], v);
    }
    if (at < n)
        fail_msg("row %lld is missing", (long long)want[at].id);
    rowset_release(&rs);
    free(want);
}

void cold_check(struct cold *c)
{
    struct scan_bounds all = SCAN_BOUNDS_OPEN;
    cold_check_bounds(c, &all);
}

int cold_files(struct cold *c, const struct scan_bounds *bounds)
{
    struct errctx ec = {0};
    struct snapshot *snap;
    struct analytic_input input;
    OK(snapshot_open(c->f.store, str_c(c->user), &snap, &ec));
    OK(snapshot_input(snap, &schema_messages, bounds, false, &input, &ec));
    int n = input.nfiles;
    snapshot_close(snap);
    return n;
}

struct head cold_head(struct cold *c)
{
    struct errctx ec = {0};
    struct snapshot *snap;
    OK(snapshot_open(c->f.store, str_c(c->user), &snap, &ec));
    struct head h = snap->head;
    snapshot_close(snap);
    return h;
}

struct manifest *cold_manifest(struct cold *c)
{
    struct errctx ec = {0};
    struct snapshot *snap;
    OK(snapshot_open(c->f.store, str_c(c->user), &snap, &ec));
    struct manifest *m = manifest_ref(snap->manifest);
    snapshot_close(snap);
    return m;
}

bool cold_is_hot(struct cold *c, size_t i)
{
    struct errctx ec = {0};
    struct snapshot *snap;
    struct row_meta meta;
    struct value v[MSG_NCOLUMNS];
    OK(snapshot_open(c->f.store, str_c(c->user), &snap, &ec));
    enum err e = snapshot_message(snap, c->rows[i].id, &meta, v, &ec);
    snapshot_close(snap);
    assert_true(e == ERR_OK || e == ERR_NOT_FOUND);
    return e == ERR_OK;
}

/* ---- the disk ---- */

static const char *grep_text;
static bool grep_found;

static int grep_file(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)ftw;
    if (kind != FTW_F || st->st_size == 0)
        return 0;
    FILE *file = fopen(path, "rb");
    char *bytes = malloc((size_t)st->st_size);
    if (file != NULL && bytes != NULL) {
        size_t n = fread(bytes, 1, (size_t)st->st_size, file);
        if (memmem(bytes, n, grep_text, strlen(grep_text)) != NULL) {
            print_message("found in %s\n", path);
            grep_found = true;
        }
    }
    free(bytes);
    if (file != NULL)
        fclose(file);
    return 0;
}

bool cold_grep(const struct cold *c, const char *text)
{
    grep_text = text;
    grep_found = false;
    nftw(c->f.dir, grep_file, 16, FTW_PHYS);
    return grep_found;
}

bool cold_exists(const struct cold *c, const char *path)
{
    char full[512];
    struct stat st;
    snprintf(full, sizeof full, "%s/%s", c->f.dir, path);
    return lstat(full, &st) == 0;
}
