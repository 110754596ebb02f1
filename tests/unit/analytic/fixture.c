#include "fixture.h"
#include "base/json.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct analytic *fixture_start(const struct analytic_config *cfg)
{
    struct analytic *a = NULL;
    struct errctx ec;
    errctx_clear(&ec);
    if (analytic_open(cfg, &a, &ec) != ERR_OK)
        fail_msg("analytic_open: %s", ec.internal);
    return a;
}

int fixture_open(void **state)
{
    struct analytic_config cfg = {.workers_max = 4,
        .threads = 2,
        .memory_bytes_max = (size_t)256 << 20,
        .result_bytes_max = (size_t)8 << 20,
        .idle_worker_ms = 60000};
    struct fixture *f = calloc(1, sizeof *f);
    f->a = fixture_start(&cfg);
    *state = f;
    return 0;
}

int fixture_close(void **state)
{
    struct fixture *f = *state;
    analytic_close(f->a);
    free(f);
    return 0;
}

void row_file_open(struct row_file *f)
{
    f->bytes = BUF_INIT(0);
    f->fd = os_memfd("rows");
    assert_true(f->fd >= 0);
}

void row_file_message(struct row_file *f, int64_t msg_id, const char *content, unsigned flags)
{
    char conversation[32];
    snprintf(conversation, sizeof conversation, "c%d", (int)(msg_id % 3));
    struct value v[MSG_NCOLUMNS];
    for (int i = 0; i < MSG_NCOLUMNS; i++)
        v[i] = VALUE_OF_NULL;
    v[MSG_ID] = value_i64(msg_id);
    v[MSG_CONVERSATION_ID] = value_text(str_c(conversation));
    v[MSG_CONVERSATION_TYPE] = value_text(STR("ai"));
    v[MSG_FROM] = value_text(STR("user_alice"));
    v[MSG_TIMESTAMP] = value_ts(INT64_C(1760356800000000) + msg_id);
    v[MSG_CONTENT] = value_text(str_c(content));
    v[MSG_METADATA] = value_json(STR("{\"a\": [1, null]}"));
    struct buf row = BUF_INIT(0);
    struct row_meta meta = {.seq = (uint64_t)msg_id + 1000, .ins_seq = (uint64_t)msg_id, .flags = flags};
    row_encode(&row, &schema_messages, meta, v);
    row_file_append(&f->bytes, buf_view(&row));
    buf_release(&row);
}

void row_file_messages(struct row_file *f, int64_t first, int n)
{
    for (int i = 0; i < n; i++) {
        char content[64];
        snprintf(content, sizeof content, "text %lld", (long long)first + i);
        row_file_message(f, first + i, content, 0);
    }
}

struct analytic_input row_file_input(struct row_file *f)
{
    assert_int_equal(ftruncate(f->fd, 0), 0);
    assert_int_equal(lseek(f->fd, 0, SEEK_SET), 0);
    assert_int_equal(os_write_all(f->fd, f->bytes.ptr, f->bytes.len), 0);
    return (struct analytic_input){.schema = &schema_messages, .rows_fd = f->fd, .rows_bytes = f->bytes.len};
}

void row_file_close(struct row_file *f)
{
    buf_release(&f->bytes);
    close(f->fd);
}

enum err run_sql(struct analytic *a, const char *user, const char *sql, const struct analytic_input *inputs,
    int ninputs, struct rowset *rs, struct errctx *ec)
{
    struct analytic_request rq = {.user_id = str_c(user),
        .sql = str_c(sql),
        .inputs = inputs,
        .ninputs = ninputs,
        .mode = ANALYTIC_ROWS,
        .output_fd = -1,
        .timeout_ms = 60000};
    errctx_clear(ec);
    return analytic_run(a, &rq, rs, ec);
}

const char *one(struct analytic *a, const char *sql, const struct analytic_input *inputs, int ninputs)
{
    static char text[4096];
    struct rowset rs;
    struct errctx ec;
    if (run_sql(a, "user_alice", sql, inputs, ninputs, &rs, &ec) != ERR_OK)
        fail_msg("%s: %s %s %s", sql, err_wire(ec.code), ec.message, ec.internal);
    assert_int_equal(rs.nrows, 1);
    struct value v = rowset_row(&rs, 0)[0];
    struct buf b = BUF_INIT(sizeof text - 1);
    if (value_is_null(v))
        buf_str(&b, STR("NULL"));
    else if (value_is_bytes(v.type))
        buf_str(&b, v.s);
    else
        json_value(&b, v);
    assert_false(b.failed);
    snprintf(text, sizeof text, "%.*s", STR_FMT(buf_view(&b)));
    buf_release(&b);
    rowset_release(&rs);
    return text;
}

int make_parquet(struct analytic *a, const char *sql, const struct analytic_input *inputs, int ninputs)
{
    int fd = os_memfd("parquet");
    assert_true(fd >= 0);
    struct analytic_request rq = {.user_id = STR("user_alice"),
        .sql = str_c(sql),
        .inputs = inputs,
        .ninputs = ninputs,
        .mode = ANALYTIC_PARQUET,
        .output_fd = fd,
        .timeout_ms = 60000};
    struct rowset rs;
    struct errctx ec;
    errctx_clear(&ec);
    if (analytic_run(a, &rq, &rs, &ec) != ERR_OK)
        fail_msg("%s: %s %s %s", sql, err_wire(ec.code), ec.message, ec.internal);
    assert_int_equal(rs.nrows, 1);
    assert_int_equal(rs.ncolumns, 1);
    rowset_release(&rs);
    return fd;
}
