#include "../test.h"
#include "row/row.h"
#include "row/rowset.h"

static void fill(struct value *v)
{
    for (int i = 0; i < MSG_NCOLUMNS; i++)
        v[i] = VALUE_OF_NULL;
    v[MSG_ID] = value_i64(INT64_C(1) << 52);
    v[MSG_CONVERSATION_ID] = value_text(STR("conv"));
    v[MSG_FROM] = value_text(STR("user_alice"));
    v[MSG_TIMESTAMP] = value_ts(-5);
    v[MSG_CONTENT] = value_text(STR(""));
    v[MSG_METADATA] = value_json(STR("{\"a\":1}"));
}

static void a_row_comes_back(void **state)
{
    (void)state;
    struct value in[MSG_NCOLUMNS], out[MSG_NCOLUMNS];
    fill(in);
    struct buf b = BUF_INIT(0);
    row_encode(&b, &schema_messages, (struct row_meta){.seq = 9, .ins_seq = 3}, in);
    struct row_meta m;
    assert_int_equal(row_decode(buf_view(&b), &schema_messages, &m, out), ERR_OK);
    assert_int_equal(m.seq, 9);
    assert_int_equal(m.ins_seq, 3);
    assert_true(out[MSG_ID].i == INT64_C(1) << 52);
    assert_str(out[MSG_CONVERSATION_ID].s, "conv");
    assert_true(out[MSG_TIMESTAMP].type == VALUE_TIMESTAMPTZ && out[MSG_TIMESTAMP].i == -5);
    assert_true(out[MSG_CONTENT].type == VALUE_TEXT && out[MSG_CONTENT].s.len == 0);
    assert_str(out[MSG_METADATA].s, "{\"a\":1}");
    assert_true(value_is_null(out[MSG_CONTENT_REF]));
    assert_int_equal(out[MSG_SEQ].i, 9);
    assert_int_equal(out[MSG_INS_SEQ].i, 3);
    buf_release(&b);
}

static void a_tombstone_keeps_the_key_and_no_content(void **state)
{
    (void)state;
    struct value in[MSG_NCOLUMNS], out[MSG_NCOLUMNS];
    fill(in);
    in[MSG_CONTENT] = value_text(STR("deleted words"));
    struct buf b = BUF_INIT(0);
    row_encode(&b, &schema_messages, (struct row_meta){.seq = 2, .ins_seq = 1, .flags = ROW_TOMBSTONE}, in);
    struct row_meta m;
    assert_int_equal(row_decode(buf_view(&b), &schema_messages, &m, out), ERR_OK);
    assert_int_equal(m.flags, ROW_TOMBSTONE);
    assert_str(out[MSG_CONVERSATION_ID].s, "conv");
    assert_true(
        value_is_null(out[MSG_FROM]) && value_is_null(out[MSG_METADATA]) && value_is_null(out[MSG_CONTENT]));
    assert_null(memmem(b.ptr, b.len, "deleted", 7));
    buf_release(&b);
}

static void every_cut_and_every_flipped_byte_is_answered(void **state)
{
    (void)state;
    struct value in[MSG_NCOLUMNS], out[MSG_NCOLUMNS];
    fill(in);
    struct buf b = BUF_INIT(0);
    row_encode(&b, &schema_messages, (struct row_meta){.seq = 300, .ins_seq = 1}, in);
    struct row_meta m;
    for (size_t n = 0; n < b.len; n++) {
        /* Cut on a column's edge a row reads as one of an older schema; a row without its required columns
         * never. */
        enum err e = row_decode(str_n(b.ptr, n), &schema_messages, &m, out);
        assert_true(e == ERR_CORRUPT || (e == ERR_OK && !value_is_null(out[MSG_CONTENT])));
    }
    buf_u8(&b, 0);
    assert_int_equal(row_decode(buf_view(&b), &schema_messages, &m, out), ERR_CORRUPT);
    b.len--;
    b.ptr[1] = ROW_SEALED;
    assert_int_equal(row_decode(buf_view(&b), &schema_messages, &m, out), ERR_CORRUPT);
    b.ptr[1] = 0;
    b.ptr[0] = 2;
    assert_int_equal(row_decode_meta(buf_view(&b), &m), ERR_CORRUPT);
    buf_release(&b);
}

static void rowsets_copy_and_stop_at_their_cap(void **state)
{
    (void)state;
    struct rowset rs;
    rowset_init(&rs, 100000);
    assert_int_equal(rowset_set_columns(&rs, 1, &STR("c"), &(enum value_type){VALUE_TEXT}), ERR_OK);
    char text[100];
    memset(text, 'x', sizeof text);
    size_t n = 0;
    enum err e;
    while ((e = rowset_add(&rs, &(struct value){.type = VALUE_TEXT, .s = {text, sizeof text}})) == ERR_OK)
        n++;
    assert_int_equal(e, ERR_TOO_LARGE);
    assert_int_equal(rs.nrows, n);
    assert_in_range(n, 500, 999);
    text[0] = 'y';
    assert_int_equal(rowset_row(&rs, n - 1)->s.ptr[0], 'x');
    rowset_release(&rs);
}

static void the_catalog_knows_its_tables(void **state)
{
    (void)state;
    assert_ptr_equal(catalog_table(STR("messages")), &schema_messages);
    assert_null(catalog_table(STR("Messages")));
    assert_ptr_equal(catalog_table_no(3), &schema_conversation_users);
    assert_int_equal(schema_column(&schema_messages, STR("from")), MSG_FROM);
    assert_int_equal(schema_column(&schema_messages, STR("FROM")), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_row_comes_back),
        cmocka_unit_test(a_tombstone_keeps_the_key_and_no_content),
        cmocka_unit_test(every_cut_and_every_flipped_byte_is_answered),
        cmocka_unit_test(rowsets_copy_and_stop_at_their_cap),
        cmocka_unit_test(the_catalog_knows_its_tables),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
