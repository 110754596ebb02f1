/* Rows from a disk or a pipe. What decodes must encode to a row that decodes to the same values. */
#include "row/row.h"
#include <stdlib.h>

static void check(bool ok)
{
    if (!ok)
        abort();
}

static void round_trip(struct str in, const struct schema *s)
{
    struct value a[SCHEMA_COLUMNS_MAX], b[SCHEMA_COLUMNS_MAX];
    struct row_meta m, again;
    if (row_decode(in, s, &m, a) != ERR_OK)
        return;
    check(row_decode_meta(in, &again) == ERR_OK && again.seq == m.seq && again.ins_seq == m.ins_seq);
    struct buf out = BUF_INIT(0);
    row_encode(&out, s, m, a);
    check(!out.failed && row_decode(buf_view(&out), s, &again, b) == ERR_OK);
    for (int i = 0; i < s->ncolumns; i++) {
        bool kept = (m.flags & ROW_TOMBSTONE) == 0 || (s->columns[i].flags & COLUMN_KEY) != 0;
        if (!kept)
            continue;
        check(a[i].type == b[i].type);
        if (a[i].type == VALUE_DOUBLE)
            check(memcmp(&a[i].d, &b[i].d, sizeof a[i].d) == 0);
        else if (!value_is_null(a[i]))
            check(value_is_bytes(a[i].type) ? str_eq(a[i].s, b[i].s) : a[i].i == b[i].i);
    }
    buf_release(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str in = {(const char *)data, size};
    round_trip(in, &schema_messages);
    round_trip(in, &schema_conversations);
    round_trip(in, &schema_conversation_users);
    return 0;
}
