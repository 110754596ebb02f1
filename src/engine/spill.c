#include "engine/spill.h"
#include "engine/modify_read.h"
#include <stdlib.h>

bool spill_is_large(const struct kalamdb *db, struct value content)
{
    return !value_is_null(content) && content.s.len >= db->options.large_content_bytes;
}

enum err spill_text(struct kalamdb *db, struct str text, bool group, struct str owner,
    struct str conversation_id, int64_t id, struct blob_file **ret, struct errctx *ec)
{
    struct blob_file *f;
    enum err e = blob_file_new(db->store, &f, ec);
    if (e != ERR_OK)
        return e;
    e = blob_file_write(f, text, ec);
    if (e == ERR_OK)
        e = blob_file_finish(f, false, ec);
    if (e == ERR_OK)
        e = blob_file_place(f, group, group ? conversation_id : owner, id, ec);
    if (e != ERR_OK) {
        blob_file_discard(f);
        return e;
    }
    *ret = f;
    return ERR_OK;
}

static struct spill *add(struct spills *s, struct spill spill)
{
    if (s->n == s->cap) {
        size_t cap = s->cap == 0 ? 4 : s->cap * 2;
        struct spill *p = realloc(s->items, cap * sizeof *p);
        if (p == NULL)
            return NULL;
        s->items = p;
        s->cap = cap;
    }
    s->items[s->n] = spill;
    return &s->items[s->n++];
}

/* Writes the row's content out and puts the preview and the ref in its place. */
static enum err spill_row(
    struct kalamdb_query *q, struct arena *arena, struct spills *s, struct spill spill, struct value *values)
{
    struct str text = values[MSG_CONTENT].s;
    enum err e = spill_text(
        q->db, text, spill.group, spill.owner, spill.conversation_id, spill.file_id, &spill.file, &q->ec);
    if (e != ERR_OK)
        return e;
    if (add(s, spill) == NULL) {
        blob_file_discard(spill.file);
        return query_no_memory(q, "large content");
    }
    values[MSG_CONTENT] = value_text(str_n(text.ptr, blob_preview(text)));
    struct str ref = arena_str(arena, blob_file_ref(spill.file)); /* outlives the file's handle */
    values[MSG_CONTENT_REF] = value_text(ref);
    return ref.ptr != NULL ? query_alive(q) : query_no_memory(q, "large content");
}

/* ---- INSERT ---- */

bool spill_append_wanted(const struct kalamdb *db, const struct chat_append *a)
{
    for (size_t i = 0; i < a->nmessages; i++) {
        if (spill_is_large(db, a->messages[i].values[MSG_CONTENT]))
            return true;
    }
    return false;
}

static bool is_group(struct value type)
{
    return !value_is_null(type) && str_eq(type.s, STR("group"));
}

/* The owner's own conversation of that id decides, else the type that was given. What changes before the
 * commit is found there. */
static enum err goes_to_group(
    struct kalamdb_query *q, struct snapshot *snap, const struct chat_message *m, bool *ret)
{
    struct value values[CONV_NCOLUMNS];
    enum err e = snapshot_conversation(snap, m->values[MSG_CONVERSATION_ID].s, values, &q->ec);
    if (e == ERR_OK)
        *ret = is_group(values[CONV_TYPE]);
    if (e != ERR_NOT_FOUND)
        return e;
    errctx_clear(&q->ec);
    *ret = is_group(m->values[MSG_CONVERSATION_TYPE]);
    return ERR_OK;
}

enum err spill_append(struct kalamdb_query *q, struct chat_append *a, struct spills *s)
{
    struct snapshot *snap = NULL;
    /* For each row one, and one more for the file of each row that brings its own id: file names are never
     * used twice. */
    int64_t *ids = arena_array(&q->arena, a->nmessages, sizeof *ids);
    if (ids == NULL)
        return query_no_memory(q, "large content");
    enum err e = store_reserve_ids(q->db->store, a->nmessages, ids, &q->ec);
    if (e == ERR_OK)
        e = snapshot_open(q->db->store, a->owner, &snap, &q->ec);
    for (size_t i = 0; e == ERR_OK && i < a->nmessages; i++) {
        struct chat_message *m = &a->messages[i];
        struct spill spill = {.row = i,
            .file_id = ids[i],
            .owner = a->owner,
            .conversation_id = m->values[MSG_CONVERSATION_ID].s};
        if (!m->id_given)
            m->id_reserved = ids[i];
        if (!spill_is_large(q->db, m->values[MSG_CONTENT]))
            continue;
        e = goes_to_group(q, snap, m, &spill.group);
        if (e == ERR_OK)
            e = spill_row(q, &q->arena, s, spill, m->values);
    }
    snapshot_close(snap);
    return e;
}

enum err spill_file(struct kalamdb_query *q, struct chat_append *a, struct spills *s, struct blob_file *file,
    uint64_t quota_max)
{
    struct chat_message *m = &a->messages[0];
    struct spill spill = {.file = file,
        .media = true,
        .quota_max = quota_max,
        .owner = a->owner,
        .conversation_id = m->values[MSG_CONVERSATION_ID].s};
    struct snapshot *snap = NULL;
    enum err e = store_reserve_ids(q->db->store, 1, &spill.file_id, &q->ec);
    if (e == ERR_OK)
        e = snapshot_open(q->db->store, a->owner, &snap, &q->ec);
    if (e == ERR_OK)
        e = goes_to_group(q, snap, m, &spill.group);
    snapshot_close(snap);
    if (e == ERR_OK && add(s, spill) == NULL)
        e = query_no_memory(q, "upload");
    if (e == ERR_OK)
        e = blob_file_place(
            file, spill.group, spill.group ? spill.conversation_id : spill.owner, spill.file_id, &q->ec);
    if (e != ERR_OK)
        return e;
    struct str ref = arena_str(&q->arena, blob_file_ref(file));
    m->id_reserved = spill.file_id;
    m->values[MSG_CONTENT_REF] = value_text(ref);
    return ref.ptr != NULL ? ERR_OK : query_no_memory(q, "upload");
}

enum err spills_put(struct spills *s, struct txn *txn, struct errctx *ec)
{
    enum err e = ERR_OK;
    for (size_t i = 0; e == ERR_OK && i < s->n; i++) {
        struct spill *spill = &s->items[i];
        struct blob blob = *blob_file_info(spill->file);
        if (spill->media)
            e = txn_user(txn, spill->owner, true, &blob.uploader_no, ec);
        if (e == ERR_OK)
            e = txn_blob_put(txn, blob_file_ref(spill->file), &blob, spill->quota_max, ec);
        spill->used = e == ERR_OK;
    }
    return e;
}

enum err spills_check_append(
    struct spills *s, const struct chat_append *a, struct txn *txn, struct errctx *ec)
{
    enum err e = ERR_OK;
    for (size_t i = 0; e == ERR_OK && i < s->n; i++) {
        struct spill *spill = &s->items[i];
        const struct chat_message *m = &a->messages[spill->row];
        if (!m->inserted) { /* a retry: the first one's file is there */
            spill->used = false;
            e = txn_blob_drop(txn, blob_file_ref(spill->file), ec);
        } else if (is_group(m->values[MSG_CONVERSATION_TYPE]) != spill->group) {
            s->misplaced = true;
            e = err_set(ec, ERR_RETRY, "the conversation is of another type by now");
        }
    }
    return e;
}

enum err spill_move(struct kalamdb_query *q, struct chat_append *a, struct spills *s)
{
    enum err e = ERR_OK;
    for (size_t i = 0; e == ERR_OK && i < s->n; i++) {
        struct spill *spill = &s->items[i];
        struct value *values = a->messages[spill->row].values;
        bool group = is_group(values[MSG_CONVERSATION_TYPE]);
        if (group == spill->group)
            continue;
        e = blob_file_place(
            spill->file, group, group ? spill->conversation_id : spill->owner, spill->file_id, &q->ec);
        spill->group = group;
        struct str ref = arena_str(&q->arena, blob_file_ref(spill->file));
        values[MSG_CONTENT_REF] = value_text(ref);
        if (e == ERR_OK && ref.ptr == NULL)
            e = query_no_memory(q, "large content");
    }
    s->misplaced = false;
    return e;
}

/* ---- UPDATE ---- */

/* What the row's new content does to its ref; sets *ret_large when it has to be written out. */
static enum err settle_content(struct kalamdb_query *q, struct chat_row *row, bool *ret_large)
{
    struct value *v = row->values;
    *ret_large = spill_is_large(q->db, v[MSG_CONTENT]);
    if (row->ref_read.ptr != NULL && blob_ref_is_media(row->ref_read)) {
        if (*ret_large)
            return err_set(&q->ec, ERR_TOO_LARGE,
                "the caption of a file must be shorter than large_content_bytes (%zu)",
                q->db->options.large_content_bytes);
        return ERR_OK; /* the caption changes, the file stays */
    }
    if (row->ref_read.ptr != NULL && q->stmt->reads_spilled_content) {
        err_set(&q->ec, ERR_UNSUPPORTED,
            "content of message %lld is in a file, which an expression cannot read", (long long)v[MSG_ID].i);
        err_hint(&q->ec, "Fetch it from /api/v1/content/, and set the new content as a value.");
        return q->ec.code;
    }
    v[MSG_CONTENT_REF] = VALUE_OF_NULL;
    return ERR_OK;
}

enum err spill_update(struct kalamdb_query *q, size_t nrows, struct chat_row *rows, struct spills *s)
{
    size_t n = 0;
    bool *large = arena_array(&q->modify->arena, nrows, sizeof *large);
    if (nrows > 0 && large == NULL)
        return query_no_memory(q, "large content");
    for (size_t i = 0; i < nrows; i++) {
        enum err e = settle_content(q, &rows[i], &large[i]);
        if (e != ERR_OK)
            return e;
        n += large[i];
    }
    if (n == 0)
        return ERR_OK;
    int64_t *ids = arena_array(&q->modify->arena, n, sizeof *ids);
    if (ids == NULL)
        return query_no_memory(q, "large content");
    enum err e = store_reserve_ids(q->db->store, n, ids, &q->ec);
    for (size_t i = 0, k = 0; e == ERR_OK && i < nrows; i++) {
        if (!large[i])
            continue;
        struct spill spill = {.row = i,
            .file_id = ids[k++],
            .group = is_group(rows[i].values[MSG_CONVERSATION_TYPE]),
            .owner = q->stmt->target_owner,
            .conversation_id = rows[i].values[MSG_CONVERSATION_ID].s};
        e = spill_row(q, &q->modify->arena, s, spill, rows[i].values);
    }
    return e;
}

/* ---- the end ---- */

void spills_settle(struct spills *s, enum err outcome)
{
    for (size_t i = 0; i < s->n; i++) {
        struct spill *spill = &s->items[i];
        if (outcome == ERR_OUTCOME_UNKNOWN)
            blob_file_leave(spill->file);
        else if (outcome == ERR_OK && spill->used)
            blob_file_keep(spill->file);
        else
            blob_file_discard(spill->file);
        spill->file = NULL;
    }
}

void spills_release(struct spills *s)
{
    for (size_t i = 0; i < s->n; i++)
        blob_file_discard(s->items[i].file);
    free(s->items);
    *s = (struct spills){0};
}
