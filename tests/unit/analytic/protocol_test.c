/* The frames: what goes in comes out, and whatever else comes in is refused. */
#include "analytic/protocol.h"
#include "fixture.h"
#include <stdlib.h>
#include <string.h>

static uint64_t seed = 1;
static uint8_t chance(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint8_t)(seed >> 24);
}

static const int files[] = {7, 8};
static const int64_t exclude[] = {INT64_MIN, -1, 5, INT64_MAX};
static const struct analytic_input inputs[] = {
    {.schema = &schema_messages,
        .rows_fd = 6,
        .rows_bytes = 123456,
        .nfiles = 2,
        .file_fds = files,
        .nexclude = 4,
        .exclude = exclude,
        .with_tombstones = true},
    {.schema = &schema_conversations, .rows_fd = -1},
};
static const struct analytic_request request = {.user_id = {"user_\xc3\xa9", 7},
    .sql = {"SELECT 1", 8},
    .ninputs = 2,
    .inputs = inputs,
    .mode = ANALYTIC_PARQUET,
    .output_fd = 9,
    .rows_max = 10001,
    .timeout_ms = 30000};

static struct str body_of(const struct buf *b, enum frame_type want)
{
    struct frame_header h;
    assert_int_equal(proto_header((const uint8_t *)b->ptr, &h), ERR_OK);
    assert_int_equal(h.type, want);
    assert_int_equal(h.body_bytes, b->len - PROTO_HEADER_BYTES);
    return str_n(b->ptr + PROTO_HEADER_BYTES, h.body_bytes);
}

static void request_round_trip(void **state)
{
    (void)state;
    int fds[PROTO_FDS_MAX];
    assert_int_equal(proto_request_fds(&request, fds), 4);
    const int want[] = {6, 7, 8, 9};
    assert_memory_equal(fds, want, sizeof want);
    struct buf b = BUF_INIT(0);
    proto_put_request(&b, &request);
    struct arena arena;
    arena_init(&arena, 1u << 20);
    struct analytic_request got;
    assert_int_equal(proto_get_request(&arena, body_of(&b, FRAME_REQUEST), 4, &got), ERR_OK);
    assert_true(str_eq(got.user_id, request.user_id));
    assert_true(str_eq(got.sql, request.sql));
    assert_int_equal(got.mode, ANALYTIC_PARQUET);
    assert_int_equal(got.rows_max, 10001);
    assert_int_equal(got.timeout_ms, 30000);
    assert_int_equal(got.output_fd, 3);
    assert_int_equal(got.ninputs, 2);
    assert_int_equal(got.inputs[0].rows_fd, 0);
    assert_int_equal(got.inputs[0].rows_bytes, 123456);
    assert_int_equal(got.inputs[0].file_fds[0], 1);
    assert_int_equal(got.inputs[0].file_fds[1], 2);
    assert_memory_equal(got.inputs[0].exclude, exclude, sizeof exclude);
    assert_true(got.inputs[0].with_tombstones);
    assert_int_equal(got.inputs[1].rows_fd, -1);
    assert_false(got.inputs[1].with_tombstones);
    assert_int_equal(got.inputs[1].schema->ncolumns, schema_conversations.ncolumns);
    for (int c = 0; c < schema_messages.ncolumns; c++) {
        assert_true(str_eq(got.inputs[0].schema->columns[c].name, schema_messages.columns[c].name));
        assert_int_equal(got.inputs[0].schema->columns[c].type, schema_messages.columns[c].type);
        assert_int_equal(got.inputs[0].schema->columns[c].flags, schema_messages.columns[c].flags);
    }
    /* Descriptors that do not match what the body says. */
    assert_int_equal(proto_get_request(&arena, body_of(&b, FRAME_REQUEST), 3, &got), ERR_CORRUPT);
    assert_int_equal(proto_get_request(&arena, body_of(&b, FRAME_REQUEST), 5, &got), ERR_CORRUPT);
    arena_release(&arena);
    buf_release(&b);
}

static void too_many_descriptors(void **state)
{
    (void)state;
    int many[PROTO_FDS_MAX] = {0}, fds[PROTO_FDS_MAX];
    struct analytic_input in = {
        .schema = &schema_messages, .rows_fd = 1, .nfiles = PROTO_FDS_MAX - 2, .file_fds = many};
    struct analytic_request rq = {.ninputs = 1, .inputs = &in, .mode = ANALYTIC_PARQUET, .output_fd = 2};
    assert_int_equal(proto_request_fds(&rq, fds), PROTO_FDS_MAX);
    in.nfiles++;
    assert_int_equal(proto_request_fds(&rq, fds), -1);
}

/* Every prefix and every byte changed at random: an error or a request within its bounds. */
static void request_garbage(void **state)
{
    (void)state;
    struct buf b = BUF_INIT(0);
    proto_put_request(&b, &request);
    struct str body = body_of(&b, FRAME_REQUEST);
    struct arena arena;
    arena_init(&arena, 1u << 20);
    struct analytic_request got;
    for (size_t n = 0; n < body.len; n++) {
        /* An exact copy, so that a read past the end is seen. */
        char *copy = malloc(n + 1);
        memcpy(copy, body.ptr, n);
        assert_int_equal(proto_get_request(&arena, str_n(copy, n), 4, &got), ERR_CORRUPT);
        free(copy);
        arena_clear(&arena);
    }
    char *copy = malloc(body.len);
    for (int round = 0; round < 20000; round++) {
        memcpy(copy, body.ptr, body.len);
        for (int k = 0; k <= round % 3; k++)
            copy[(size_t)(chance() * 256 + chance()) % body.len] = (char)chance();
        enum err e = proto_get_request(&arena, str_n(copy, body.len), 4, &got);
        assert_true(e == ERR_OK || e == ERR_CORRUPT || e == ERR_NO_MEMORY);
        for (int i = 0; e == ERR_OK && i < got.ninputs; i++) {
            assert_true(got.inputs[i].rows_fd < 4);
            for (int f = 0; f < got.inputs[i].nfiles; f++)
                assert_in_range(got.inputs[i].file_fds[f], 0, 3);
            assert_in_range(got.inputs[i].schema->key_column, 0, got.inputs[i].schema->ncolumns - 1);
        }
        arena_clear(&arena);
    }
    free(copy);
    arena_release(&arena);
    buf_release(&b);
}

static void headers(void **state)
{
    (void)state;
    struct frame_header h;
    const uint8_t good[] = {0, 0, 1, 0, FRAME_ROWS}, no_type[] = {0, 0, 0, 0, 0}, other[] = {0, 0, 0, 0, 6},
                  big[] = {0xff, 0xff, 0xff, 0xff, FRAME_ROWS}, big_request[] = {4, 0, 0, 1, FRAME_REQUEST};
    assert_int_equal(proto_header(good, &h), ERR_OK);
    assert_int_equal(h.body_bytes, 256);
    assert_int_equal(proto_header(no_type, &h), ERR_CORRUPT);
    assert_int_equal(proto_header(other, &h), ERR_CORRUPT);
    assert_int_equal(proto_header(big, &h), ERR_CORRUPT);
    assert_int_equal(proto_header(big_request, &h), ERR_CORRUPT);
}

static const struct str names[] = {{"b", 1}, {"i", 1}, {"d", 1}, {"t", 1}, {"x", 1}};
static const enum value_type types[] = {VALUE_BOOL, VALUE_BIGINT, VALUE_DOUBLE, VALUE_TEXT, VALUE_BLOB};

static void put_sample(struct buf *columns, struct buf *rows)
{
    struct value d = {.type = VALUE_DOUBLE, .d = -0.5}, x = {.type = VALUE_BLOB, .s = {"\xff\0", 2}};
    proto_put_columns(columns, 5, names, types);
    size_t at = proto_begin(rows, FRAME_ROWS);
    const struct value row[] = {value_bool(true), value_i64(INT64_MIN), d, value_text(STR("h\xc3\xa9")), x};
    for (int i = 0; i < 5; i++)
        proto_put_value(rows, row[i]);
    for (int i = 0; i < 5; i++)
        proto_put_value(rows, VALUE_OF_NULL);
    proto_end(rows, at);
}

static void result_round_trip(void **state)
{
    (void)state;
    struct buf c = BUF_INIT(0), r = BUF_INIT(0);
    put_sample(&c, &r);
    struct rowset rs;
    rowset_init(&rs, 1u << 20);
    /* Rows before columns are out of order. */
    assert_int_equal(proto_get_rows(body_of(&r, FRAME_ROWS), &rs), ERR_CORRUPT);
    assert_int_equal(proto_get_columns(body_of(&c, FRAME_COLUMNS), &rs), ERR_OK);
    assert_int_equal(proto_get_columns(body_of(&c, FRAME_COLUMNS), &rs), ERR_CORRUPT);
    assert_int_equal(proto_get_rows(body_of(&r, FRAME_ROWS), &rs), ERR_OK);
    assert_int_equal(rs.nrows, 2);
    const struct value *v = rowset_row(&rs, 0);
    assert_int_equal(v[0].i, 1);
    assert_true(v[1].i == INT64_MIN);
    assert_true(v[2].d == -0.5);
    assert_true(str_eq(v[3].s, STR("h\xc3\xa9")));
    assert_int_equal(v[4].s.len, 2);
    for (int i = 0; i < 5; i++)
        assert_true(value_is_null(rowset_row(&rs, 1)[i]));
    rowset_release(&rs);
    buf_release(&c);
    buf_release(&r);
}

static void result_garbage(void **state)
{
    (void)state;
    struct buf c = BUF_INIT(0), r = BUF_INIT(0);
    put_sample(&c, &r);
    struct str body = body_of(&r, FRAME_ROWS);
    char *copy = malloc(body.len);
    for (int round = 0; round < 20000; round++) {
        struct rowset rs;
        rowset_init(&rs, 1u << 16);
        assert_int_equal(proto_get_columns(body_of(&c, FRAME_COLUMNS), &rs), ERR_OK);
        memcpy(copy, body.ptr, body.len);
        copy[chance() % body.len] = (char)chance();
        enum err e = proto_get_rows(str_n(copy, body.len), &rs);
        assert_true(e == ERR_OK || e == ERR_CORRUPT || e == ERR_TOO_LARGE);
        for (size_t i = 0; e == ERR_OK && i < rs.nrows * 5; i++) {
            struct value v = rs.values[i];
            assert_true(value_is_null(v) || v.type == types[i % 5]);
            assert_true(v.type != VALUE_TEXT || utf8_valid(v.s));
        }
        rowset_release(&rs);
    }
    free(copy);
    /* A value of another type than its column's, and text that is not UTF-8. */
    struct buf bad = BUF_INIT(0);
    struct rowset rs;
    rowset_init(&rs, 1u << 16);
    assert_int_equal(proto_get_columns(body_of(&c, FRAME_COLUMNS), &rs), ERR_OK);
    proto_put_value(&bad, value_text(STR("x")));
    assert_int_equal(proto_get_rows(buf_view(&bad), &rs), ERR_CORRUPT);
    buf_clear(&bad);
    for (int i = 0; i < 3; i++)
        proto_put_value(&bad, VALUE_OF_NULL);
    proto_put_value(&bad, value_text(STR("\xff")));
    proto_put_value(&bad, VALUE_OF_NULL);
    assert_int_equal(proto_get_rows(buf_view(&bad), &rs), ERR_CORRUPT);
    assert_int_equal(rs.nrows, 0);
    rowset_release(&rs);
    buf_release(&bad);
    buf_release(&c);
    buf_release(&r);
}

static void done_error_control(void **state)
{
    (void)state;
    struct buf b = BUF_INIT(0);
    struct proto_done done;
    proto_put_done(&b, (struct proto_done){77, true, true});
    assert_int_equal(proto_get_done(body_of(&b, FRAME_DONE), &done), ERR_OK);
    assert_int_equal(done.rows, 77);
    assert_true(done.truncated && done.retire);
    struct errctx ec, got;
    bool retire;
    err_set(&ec, ERR_INVALID_VALUE, "a \"b\"");
    err_detail(&ec, "d");
    err_hint(&ec, "h");
    buf_clear(&b);
    proto_put_error(&b, &ec, true);
    struct str body = body_of(&b, FRAME_ERROR);
    assert_int_equal(proto_get_error(body, &got, &retire), ERR_OK);
    assert_int_equal(got.code, ERR_INVALID_VALUE);
    assert_string_equal(got.message, "a \"b\"");
    assert_string_equal(got.detail, "d");
    assert_string_equal(got.hint, "h");
    assert_true(retire);
    for (size_t n = 0; n < body.len; n++)
        assert_int_equal(proto_get_error(str_n(body.ptr, n), &got, &retire), ERR_CORRUPT);
    b.ptr[PROTO_HEADER_BYTES] = (char)0xee; /* no such code */
    assert_int_equal(proto_get_error(body, &got, &retire), ERR_CORRUPT);
    uint8_t bytes[CONTROL_BYTES];
    struct control c;
    control_put(bytes, (struct control){CONTROL_FORKED, 0xdeadbeef, 4242});
    assert_int_equal(control_get(str_n((char *)bytes, sizeof bytes), &c), ERR_OK);
    assert_int_equal(c.type, CONTROL_FORKED);
    assert_true(c.id == 0xdeadbeef);
    assert_int_equal(c.value, 4242);
    assert_int_equal(control_get(str_n((char *)bytes, sizeof bytes - 1), &c), ERR_CORRUPT);
    bytes[1] = 9;
    assert_int_equal(control_get(str_n((char *)bytes, sizeof bytes), &c), ERR_CORRUPT);
    buf_release(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(request_round_trip),
        cmocka_unit_test(too_many_descriptors),
        cmocka_unit_test(request_garbage),
        cmocka_unit_test(headers),
        cmocka_unit_test(result_round_trip),
        cmocka_unit_test(result_garbage),
        cmocka_unit_test(done_error_control),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
