/* One user's rows against their indexes and counters. The hot rows are gathered in memory (a few dozen bytes
 * each); those of both tiers together are counted by a worker where there are files. */
#include "store/verify_int.h"
#include <stdlib.h>

#define VERIFY_TIMEOUT_MS 600000 /* of one user's worker */
#define TEXT_BYTES_MAX ((size_t)256 << 20)

struct hot {
    int64_t msg_id;
    uint64_t seq, ins_seq;
    uint32_t conv_no;
    bool tombstone;
    uint8_t seen; /* by which indexes */
};
enum { SEEN_ID = 1, SEEN_SEQ = 2 };

/* Live rows of one conversation. */
struct tally {
    struct str id;    /* by name where a worker counted */
    uint32_t conv_no; /* else by number */
    int64_t n, first, last;
};

struct rows {
    struct verifier *v;
    struct snapshot *snap;
    bool tombstones; /* of the scan under way */
    struct hot *hot;
    size_t nhot, hot_cap, live;
    struct tally *tallies;
    size_t ntallies, tallies_cap;
    bool by_name;
    int64_t total;
    struct arena arena;
};

static enum err no_memory(struct errctx *ec)
{
    return err_set(ec, ERR_NO_MEMORY, "out of memory");
}

/* ---- hot rows ------------------------------------------------------------------------------------------ */

/* Under the lock of the database: only gathers. */
static enum err gather(void *arg, const struct hot_row *row, struct errctx *ec)
{
    struct rows *r = arg;
    struct row_meta meta;
    struct value values[SCHEMA_COLUMNS_MAX];
    if (r->nhot == r->hot_cap) {
        size_t cap = r->hot_cap == 0 ? 256 : r->hot_cap * 2;
        struct hot *p = realloc(r->hot, cap * sizeof *p);
        if (p == NULL)
            return no_memory(ec);
        r->hot = p;
        r->hot_cap = cap;
    }
    if (row_decode(row->row, &schema_messages, &meta, values) != ERR_OK)
        verify_tell(r->v, "messages: row %lld is damaged", (long long)row->msg_id);
    r->hot[r->nhot++] =
        (struct hot){row->msg_id, row->meta.seq, row->meta.ins_seq, row->conv_no, r->tombstones, 0};
    r->live += !r->tombstones;
    return ERR_OK;
}

static int by_seq(const void *a, const void *b)
{
    uint64_t x = ((const struct hot *)a)->seq, y = ((const struct hot *)b)->seq;
    return (x > y) - (x < y);
}

static int by_id(const void *a, const void *b)
{
    const struct hot *x = a, *y = b;
    if (x->msg_id != y->msg_id)
        return x->msg_id < y->msg_id ? -1 : 1;
    return x->tombstone - y->tombstone;
}

static enum err check_id(void *arg, struct str key, struct str value, struct errctx *ec)
{
    struct rows *r = arg;
    struct hot wanted = {0};
    (void)ec;
    if (!key_parse_id(key, &wanted.msg_id) || value.len != 4) {
        verify_tell(r->v, "ids: an entry is damaged");
        return ERR_OK;
    }
    struct hot *h = r->nhot == 0 ? NULL : bsearch(&wanted, r->hot, r->nhot, sizeof *h, by_id);
    if (h == NULL || h->conv_no != get_be32(value.ptr))
        verify_tell(
            r->v, "ids: message %lld is in the index and not among the rows", (long long)wanted.msg_id);
    else
        h->seen |= SEEN_ID;
    return ERR_OK;
}

static enum err check_seq(void *arg, struct str key, struct str value, struct errctx *ec)
{
    struct rows *r = arg;
    struct seq_entry entry;
    if (key.len != KEY_PREFIX_BYTES + 8 || !seq_entry_get(value, &entry)) {
        verify_tell(r->v, "seq: an entry is damaged");
        return ERR_OK;
    }
    (void)ec;
    struct hot wanted = {.seq = get_be64(key.ptr + KEY_PREFIX_BYTES)};
    struct hot *h = r->nhot == 0 ? NULL : bsearch(&wanted, r->hot, r->nhot, sizeof *h, by_seq);
    if (h == NULL || h->msg_id != entry.msg_id || h->tombstone != entry.tombstone)
        verify_tell(
            r->v, "seq: change %llu is in the index and not among the rows", (unsigned long long)wanted.seq);
    else
        h->seen |= SEEN_SEQ;
    return ERR_OK;
}

static enum err scan_space(
    struct rows *r, enum key_space space, scan_fn *fn, const char *name, struct errctx *ec)
{
    struct key prefix = key_prefix(r->snap->user_no, space);
    return verify_error(r->v, snapshot_scan(r->snap, &prefix, fn, r, ec), name, ec);
}

/* Sorted by id afterwards. */
static void check_numbers(struct rows *r)
{
    const struct head *head = &r->snap->head;
    for (size_t i = 0; i < r->nhot; i++) {
        const struct hot *h = &r->hot[i];
        if (i > 0 && h->seq == h[-1].seq)
            verify_tell(r->v, "messages: rows %lld and %lld have the same _seq %llu", (long long)h[-1].msg_id,
                (long long)h->msg_id, (unsigned long long)h->seq);
        if (h->seq > head->seq || h->ins_seq > h->seq || h->ins_seq == 0)
            verify_tell(r->v, "messages: row %lld has _seq %llu, arrived at %llu, and the user is at %llu",
                (long long)h->msg_id, (unsigned long long)h->seq, (unsigned long long)h->ins_seq,
                (unsigned long long)head->seq);
    }
}

static enum err check_hot(struct rows *r, struct errctx *ec)
{
    enum err e = cold_scan_space(r->snap, SPACE_MESSAGES, gather, r, ec);
    if (e == ERR_OK) {
        r->tombstones = true;
        e = cold_scan_space(r->snap, SPACE_TOMBSTONES, gather, r, ec);
    }
    if (e != ERR_OK)
        return verify_error(r->v, e, "messages", ec);
    if (r->nhot > 1)
        qsort(r->hot, r->nhot, sizeof *r->hot, by_seq);
    check_numbers(r);
    e = scan_space(r, SPACE_SEQ, check_seq, "seq", ec);
    if (r->nhot > 1)
        qsort(r->hot, r->nhot, sizeof *r->hot, by_id);
    if (e == ERR_OK)
        e = scan_space(r, SPACE_IDS, check_id, "ids", ec);
    for (size_t i = 0; e == ERR_OK && i < r->nhot; i++) {
        const struct hot *h = &r->hot[i];
        if ((h->seen & SEEN_SEQ) == 0)
            verify_tell(r->v, "seq: row %lld is not in the index", (long long)h->msg_id);
        if (!h->tombstone && (h->seen & SEEN_ID) == 0)
            verify_tell(r->v, "ids: row %lld is not in the index", (long long)h->msg_id);
    }
    return e;
}

/* ---- how many there are -------------------------------------------------------------------------------- */

static enum err tally_add(struct rows *r, struct tally t, struct errctx *ec)
{
    if (r->ntallies == r->tallies_cap) {
        size_t cap = r->tallies_cap == 0 ? 64 : r->tallies_cap * 2;
        struct tally *p = realloc(r->tallies, cap * sizeof *p);
        if (p == NULL)
            return no_memory(ec);
        r->tallies = p;
        r->tallies_cap = cap;
    }
    r->tallies[r->ntallies++] = t;
    return ERR_OK;
}

static int by_conv_no(const void *a, const void *b)
{
    uint32_t x = ((const struct tally *)a)->conv_no, y = ((const struct tally *)b)->conv_no;
    return (x > y) - (x < y);
}

static int by_name(const void *a, const void *b)
{
    return str_cmp(((const struct tally *)a)->id, ((const struct tally *)b)->id);
}

static enum err count_hot(struct rows *r, struct errctx *ec)
{
    enum err e = ERR_OK;
    for (size_t i = 0; e == ERR_OK && i < r->nhot; i++)
        if (!r->hot[i].tombstone)
            e = tally_add(r,
                (struct tally){.conv_no = r->hot[i].conv_no,
                    .n = 1,
                    .first = r->hot[i].msg_id,
                    .last = r->hot[i].msg_id},
                ec);
    if (r->ntallies > 1)
        qsort(r->tallies, r->ntallies, sizeof *r->tallies, by_conv_no);
    size_t n = 0;
    for (size_t i = 0; i < r->ntallies; i++) {
        struct tally *t = &r->tallies[i], *before = n > 0 ? &r->tallies[n - 1] : NULL;
        if (before == NULL || before->conv_no != t->conv_no) {
            r->tallies[n++] = *t;
            continue;
        }
        before->n++;
        before->first = t->first < before->first ? t->first : before->first;
        before->last = t->last > before->last ? t->last : before->last;
    }
    r->ntallies = n;
    r->total = (int64_t)r->live;
    return e;
}

static enum err keep_counts(struct rows *r, const struct rowset *found, struct errctx *ec)
{
    enum err e = ERR_OK;
    for (size_t i = 0; e == ERR_OK && i < found->nrows; i++) {
        const struct value *v = rowset_row(found, i);
        struct str id = arena_str(&r->arena, v[0].s);
        if (id.ptr == NULL)
            return no_memory(ec);
        e = tally_add(r, (struct tally){.id = id, .n = v[1].i, .first = v[2].i, .last = v[3].i}, ec);
        r->total += v[1].i;
    }
    if (r->ntallies > 1)
        qsort(r->tallies, r->ntallies, sizeof *r->tallies, by_name);
    return e;
}

static enum err count_both(struct rows *r, struct errctx *ec)
{
    struct store *s = r->snap->store;
    struct analytic_input input;
    struct scan_bounds bounds = SCAN_BOUNDS_OPEN;
    struct rowset found;
    r->by_name = true;
    enum err e = snapshot_input(r->snap, &schema_messages, &bounds, false, &input, ec);
    if (e != ERR_OK)
        return e;
    struct analytic_request rq = {.user_id = head_user_id(&r->snap->head),
        .sql = STR("SELECT conversation_id, count(*), min(msg_id), max(msg_id) FROM scan_0 GROUP BY 1"),
        .ninputs = 1,
        .inputs = &input,
        .mode = ANALYTIC_ROWS,
        .output_fd = -1,
        .timeout_ms = VERIFY_TIMEOUT_MS};
    e = analytic_run(s->cfg.analytic, &rq, &found, ec);
    if (e != ERR_OK)
        return e;
    e = keep_counts(r, &found, ec);
    rowset_release(&found);
    return e;
}

/* ---- counters ------------------------------------------------------------------------------------------ */

static int64_t number(struct value v)
{
    return value_is_null(v) ? 0 : v.i;
}

static enum err check_conversation(void *arg, struct str key, struct str value, struct errctx *ec)
{
    struct rows *r = arg;
    struct conversation_record record;
    struct row_meta meta;
    struct value values[SCHEMA_COLUMNS_MAX];
    struct tally wanted = {.id = str_n(key.ptr + KEY_PREFIX_BYTES, key.len - KEY_PREFIX_BYTES)}, none = {0};
    (void)ec;
    if (conversation_record_get(value, &record) != ERR_OK || row_decode_meta(record.row, &meta) != ERR_OK) {
        verify_tell(r->v, "conversations: the record of %.*s is damaged", STR_FMT(wanted.id));
        return ERR_OK;
    }
    wanted.conv_no = record.conv_no;
    const struct tally *t = r->ntallies == 0 ? NULL
                                             : bsearch(&wanted, r->tallies, r->ntallies, sizeof *t,
                                                   r->by_name ? by_name : by_conv_no);
    t = t == NULL ? &none : t;
    bool gone = (meta.flags & ROW_TOMBSTONE) != 0;
    if (!gone && row_decode(record.row, &schema_conversations, &meta, values) != ERR_OK) {
        verify_tell(r->v, "conversations: the row of %.*s is damaged", STR_FMT(wanted.id));
        return ERR_OK;
    }
    int64_t total = gone ? 0 : number(values[CONV_TOTAL_MESSAGES]);
    if (total != t->n)
        verify_tell(r->v, "conversations: %.*s counts %lld messages, and there are %lld", STR_FMT(wanted.id),
            (long long)total, (long long)t->n);
    else if (t->n > 0 &&
             (number(values[CONV_FIRST_MSG_ID]) != t->first || number(values[CONV_LAST_MSG_ID]) != t->last))
        verify_tell(r->v, "conversations: %.*s says its messages are %lld to %lld, and they are %lld to %lld",
            STR_FMT(wanted.id), (long long)number(values[CONV_FIRST_MSG_ID]),
            (long long)number(values[CONV_LAST_MSG_ID]), (long long)t->first, (long long)t->last);
    return ERR_OK;
}

static enum err check_counters(struct rows *r, struct errctx *ec)
{
    bool cold = r->snap->manifest != NULL && r->snap->manifest->nfiles > 0;
    enum err e = cold ? count_both(r, ec) : count_hot(r, ec);
    if (e != ERR_OK) /* the file was told already, or is now */
        return verify_error(r->v, e, "messages", ec);
    if (r->total != r->snap->head.total_messages)
        verify_tell(r->v, "head: counts %lld messages, and there are %lld",
            (long long)r->snap->head.total_messages, (long long)r->total);
    r->v->counts.rows += (uint64_t)r->total;
    return scan_space(r, SPACE_CONVERSATIONS, check_conversation, "conversations", ec);
}

enum err verify_rows(struct verifier *v, struct snapshot *snap, struct errctx *ec)
{
    struct rows r = {.v = v, .snap = snap};
    arena_init(&r.arena, TEXT_BYTES_MAX);
    uint64_t before = v->counts.findings;
    enum err e = check_hot(&r, ec);
    if (e == ERR_OK && v->counts.findings == before) /* counting what cannot be read says nothing */
        e = check_counters(&r, ec);
    free(r.hot);
    free(r.tallies);
    arena_release(&r.arena);
    return e;
}
