/* Manifest records: what is written is read back, and nothing that a disk may hold gets past decode. */
#include "store/manifest.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define SHA_A "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define SHA_B "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100"

static struct buf filter;
static struct seq_mark marks[2];

static void make(struct manifest *m, struct cold_file files[2], struct str garbage[1])
{
    static const uint32_t convs[] = {1, 2, 130, 70000, 4000000000u};
    filter = BUF_INIT(0);
    conversation_filter_encode(&filter, convs, 5);
    files[0] = (struct cold_file){.name = STR("batch-20251013T120000Z-001.parquet"),
        .rows = 90,
        .bytes = 12345,
        .sha256 = SHA_A,
        .id_min = 1000,
        .id_max = 9007199254740991,
        .ts_min = -5,
        .ts_max = 1760356800000000,
        .seq_min = 1,
        .seq_max = 110,
        .ins_min = 1,
        .ins_max = 100,
        .as_of = 120,
        .conversations = buf_view(&filter)};
    files[1] = (struct cold_file){.name = STR("batch-20251014T120000Z-001.parquet"),
        .rows = 10,
        .bytes = 55,
        .sha256 = SHA_B,
        .id_min = 1,
        .id_max = 2,
        .ts_min = INT64_MAX,
        .ts_max = INT64_MIN,
        .seq_min = 151,
        .seq_max = 180,
        .ins_min = 151,
        .ins_max = 180,
        .as_of = 200,
        .any_conversation = true};
    garbage[0] = STR("batch-20251012T120000Z-001.parquet");
    marks[0] = (struct seq_mark){-1, 3};
    marks[1] = (struct seq_mark){1760356800000000, 150};
    *m = (struct manifest){.epoch = 7,
        .watermark = 190,
        .cold_max_seq = 180,
        .user_floor = 4711,
        .release_pending = true,
        .tail_since_us = 99,
        .nmarks = 2,
        .marks = marks,
        .nfiles = 2,
        .files = files,
        .ngarbage = 1,
        .garbage = garbage};
}

static struct buf encoded(void)
{
    struct manifest m;
    struct cold_file files[2];
    struct str garbage[1];
    make(&m, files, garbage);
    struct buf b = BUF_INIT(0);
    manifest_encode(&b, &m);
    assert_false(b.failed);
    buf_release(&filter);
    return b;
}

static struct manifest *decoded(void)
{
    struct buf b = encoded();
    struct errctx ec = {0};
    struct manifest *m = NULL;
    assert_int_equal(manifest_decode(buf_view(&b), &m, &ec), ERR_OK);
    buf_release(&b);
    return m;
}

static void round_trip(void **state)
{
    (void)state;
    struct manifest *m = decoded();
    assert_int_equal(m->epoch, 7);
    assert_int_equal(m->watermark, 190);
    assert_int_equal(m->cold_max_seq, 180);
    assert_int_equal(m->user_floor, 4711);
    assert_true(m->release_pending);
    assert_int_equal(m->tail_since_us, 99);
    assert_int_equal(m->nmarks, 2);
    assert_true(m->marks[0].time_us == -1 && m->marks[0].seq == 3);
    assert_true(m->marks[1].time_us == 1760356800000000 && m->marks[1].seq == 150);
    assert_int_equal(m->nfiles, 2);
    const struct cold_file *f = &m->files[0];
    assert_true(str_eq(f->name, STR("batch-20251013T120000Z-001.parquet")));
    assert_int_equal(f->rows, 90);
    assert_int_equal(f->bytes, 12345);
    assert_string_equal(f->sha256, SHA_A);
    assert_int_equal(f->id_min, 1000);
    assert_true(f->id_max == 9007199254740991);
    assert_true(f->ts_min == -5 && f->ts_max == 1760356800000000);
    assert_int_equal(f->seq_max, 110);
    assert_int_equal(f->ins_max, 100);
    assert_int_equal(f->as_of, 120);
    assert_false(f->any_conversation);
    assert_string_equal(m->files[1].sha256, SHA_B);
    assert_true(m->files[1].any_conversation);
    assert_true(m->files[1].ts_min == INT64_MAX && m->files[1].ts_max == INT64_MIN);
    assert_int_equal(m->ngarbage, 1);
    assert_true(str_eq(m->garbage[0], STR("batch-20251012T120000Z-001.parquet")));
    assert_int_equal(manifest_rows(m), 100);
    assert_int_equal(manifest_bytes(m), 12400);
    struct manifest *again = manifest_ref(m);
    manifest_unref(m);
    assert_int_equal(again->epoch, 7);
    manifest_unref(again);
}

static void states(void **state)
{
    (void)state;
    struct manifest *m = decoded();
    assert_int_equal(manifest_row_state(NULL, (struct row_meta){5, 5, 0}), ROW_FRESH);
    assert_int_equal(manifest_row_state(m, (struct row_meta){191, 191, 0}), ROW_FRESH);
    assert_int_equal(manifest_row_state(m, (struct row_meta){120, 100, 0}), ROW_TAIL);
    assert_int_equal(manifest_row_state(m, (struct row_meta){121, 100, 0}), ROW_OVERLAY);
    assert_int_equal(manifest_row_state(m, (struct row_meta){121, 1, ROW_TOMBSTONE}), ROW_OVERLAY);
    assert_int_equal(manifest_row_state(m, (struct row_meta){200, 151, 0}), ROW_TAIL);
    /* Arrivals 101 to 150 and 181 to 190 have no file. */
    assert_null(manifest_file_of(m, 101));
    assert_null(manifest_file_of(m, 150));
    assert_null(manifest_file_of(m, 185));
    assert_ptr_equal(manifest_file_of(m, 1), &m->files[0]);
    assert_ptr_equal(manifest_file_of(m, 180), &m->files[1]);
    assert_int_equal(manifest_row_state(m, (struct row_meta){300, 120, ROW_TOMBSTONE}), ROW_TAIL);
    assert_int_equal(manifest_row_state(m, (struct row_meta){300, 120, 0}), ROW_FRESH);
    assert_true(manifest_covers_id(m, 1000));
    assert_true(manifest_covers_id(m, 2));
    assert_false(manifest_covers_id(m, 3));
    assert_false(manifest_covers_id(NULL, 3));
    manifest_unref(m);
}

static void filters(void **state)
{
    (void)state;
    struct manifest *m = decoded();
    const uint32_t in[] = {1, 2, 130, 70000, 4000000000u},
                   out[] = {0, 3, 129, 131, 69999, 70001, 4000000001u};
    for (int i = 0; i < 5; i++)
        assert_true(cold_file_may_hold(&m->files[0], in[i]));
    for (int i = 0; i < 7; i++)
        assert_false(cold_file_may_hold(&m->files[0], out[i]));
    assert_true(cold_file_may_hold(&m->files[1], 3));
    manifest_unref(m);
}

static void damage(void **state)
{
    (void)state;
    struct buf b = encoded();
    struct errctx ec = {0};
    struct manifest *m = NULL;
    for (size_t n = 0; n < b.len; n++)
        assert_int_equal(manifest_decode(str_n(b.ptr, n), &m, &ec), ERR_CORRUPT);
    for (size_t i = 0; i < b.len; i++) {
        b.ptr[i] = (char)(b.ptr[i] ^ 0x10);
        assert_int_equal(manifest_decode(buf_view(&b), &m, &ec), ERR_CORRUPT);
        b.ptr[i] = (char)(b.ptr[i] ^ 0x10);
    }
    assert_null(m);
    buf_release(&b);
}

/* Well-formed checksums around content that must not be believed. */
static void refuse(void (*spoil)(struct manifest *m))
{
    struct manifest m, *got = NULL;
    struct cold_file files[2];
    struct str garbage[1];
    make(&m, files, garbage);
    spoil(&m);
    struct buf b = BUF_INIT(0);
    manifest_encode(&b, &m);
    struct errctx ec = {0};
    assert_int_equal(manifest_decode(buf_view(&b), &got, &ec), ERR_CORRUPT);
    assert_null(got);
    buf_release(&b);
    buf_release(&filter);
}

static void name_path(struct manifest *m)
{
    m->files[0].name = STR("batch-../../../etc/x.parquet");
}
static void name_foreign(struct manifest *m)
{
    m->files[1].name = STR("notes.parquet");
}
static void garbage_path(struct manifest *m)
{
    m->garbage[0] = STR("batch-/../../x.parquet");
}
static void overlap(struct manifest *m)
{
    m->files[1].ins_min = 100;
}
static void beyond_watermark(struct manifest *m)
{
    m->watermark = 179;
}
static void empty_file(struct manifest *m)
{
    m->files[0].rows = 0;
}
static void seq_after_as_of(struct manifest *m)
{
    m->files[0].seq_max = 121;
}

static void marks_backwards(struct manifest *m)
{
    m->marks[1].seq = 2;
}

static void crafted(void **state)
{
    (void)state;
    refuse(name_path);
    refuse(name_foreign);
    refuse(garbage_path);
    refuse(overlap);
    refuse(beyond_watermark);
    refuse(empty_file);
    refuse(seq_after_as_of);
    refuse(marks_backwards);
}

/* A record with its version byte changed, and a checksum that vouches for it. */
static void set_version(struct buf *b, uint8_t version)
{
    uint32_t c = 0xffffffffu;
    b->ptr[0] = (char)version;
    for (size_t i = 0; i < b->len - 4; i++) {
        c ^= (uint8_t)b->ptr[i];
        for (int k = 0; k < 8; k++)
            c = c & 1 ? 0x82f63b78u ^ c >> 1 : c >> 1;
    }
    put_be32(b->ptr + b->len - 4, ~c);
}

/* Sealed files bring their keys; records from before there were any are read as they are. */
static void sealed_files(void **state)
{
    (void)state;
    struct manifest m, *got = NULL;
    struct cold_file files[2];
    struct str garbage[1];
    struct errctx ec = {0};
    make(&m, files, garbage);
    struct buf plain = BUF_INIT(0), sealed = BUF_INIT(0);
    manifest_encode(&plain, &m);
    files[1].name = STR("batch-20251014T120000Z-001.parquet.enc");
    files[1].sealed = true;
    for (uint8_t i = 0; i < SEALED_KEY_BYTES; i++)
        files[1].key[i] = (uint8_t)(0xf0 - i);
    manifest_encode(&sealed, &m);
    assert_int_equal(manifest_decode(buf_view(&sealed), &got, &ec), ERR_OK);
    assert_false(got->files[0].sealed);
    assert_true(got->files[1].sealed);
    assert_memory_equal(got->files[1].key, files[1].key, SEALED_KEY_BYTES);
    assert_int_equal(got->files[1].id_max, 2); /* what follows the key */
    manifest_unref(got);

    set_version(&plain, 1);
    assert_int_equal(manifest_decode(buf_view(&plain), &got, &ec), ERR_OK);
    assert_true(got->nfiles == 2 && !got->files[0].sealed && got->files[1].as_of == 200);
    manifest_unref(got);
    got = NULL;
    set_version(&plain, 3);
    assert_int_equal(manifest_decode(buf_view(&plain), &got, &ec), ERR_CORRUPT);
    set_version(&sealed, 1);
    assert_int_equal(manifest_decode(buf_view(&sealed), &got, &ec), ERR_CORRUPT);
    /* No sealed file is that small. */
    files[1].bytes = SEALED_HEADER_BYTES - 1;
    buf_clear(&sealed);
    manifest_encode(&sealed, &m);
    assert_int_equal(manifest_decode(buf_view(&sealed), &got, &ec), ERR_CORRUPT);
    assert_null(got);
    buf_release(&plain);
    buf_release(&sealed);
    buf_release(&filter);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(round_trip), cmocka_unit_test(states),
        cmocka_unit_test(filters), cmocka_unit_test(damage), cmocka_unit_test(crafted),
        cmocka_unit_test(sealed_files)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
