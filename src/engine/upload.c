#include "engine/upload.h"
#include "base/json.h"
#include "chat/rules.h"
#include "media/media.h"
#include "store/erase.h"
#include <stdio.h>
#include <stdlib.h>

#define UPLOAD_SQL_BYTES_MAX 4096

struct kalamdb_upload {
    struct kalamdb *db;
    struct kalamdb_upload *prev, *next; /* db->uploads, under db->lock: those still being written */
    bool listed;
    struct caller caller;
    enum kalamdb_role role;
    struct str owner; /* in arena, as the caller's id */
    struct arena arena;
    struct blob_file *file; /* NULL once the statement has it */
    _Atomic uint64_t bytes;
    uint64_t stored;   /* by the owner's quota when it began */
    int64_t erased_us; /* store_erased_us of the owner when it began */
    bool failed;
    struct kalamdb_uploaded answer;
    char ref[BLOB_REF_BYTES_MAX];
    void (*done)(void *arg, const struct kalamdb_uploaded *uploaded, const struct kalamdb_error *error);
    void *arg;
};

static kalamdb_code refuse(struct kalamdb_error *error, struct errctx *ec, enum err e)
{
    if (ec->code != e)
        err_internal(ec, e, "upload");
    return engine_error(error, ec);
}

static void unlist(struct kalamdb_upload *u)
{
    struct kalamdb *db = u->db;
    if (!u->listed)
        return;
    pthread_mutex_lock(&db->lock);
    if (u->prev != NULL)
        u->prev->next = u->next;
    else
        db->uploads = u->next;
    if (u->next != NULL)
        u->next->prev = u->prev;
    pthread_mutex_unlock(&db->lock);
    u->listed = false;
}

static void upload_free(struct kalamdb_upload *u)
{
    unlist(u);
    blob_file_discard(u->file);
    arena_release(&u->arena);
    free(u);
}

/* ---- begin, write -------------------------------------------------------------------------------------- */

static enum err open_upload(
    struct kalamdb_upload *u, struct kalamdb_caller caller, struct kalamdb_str owner, struct errctx *ec)
{
    struct snapshot *snap = NULL;
    struct str id = owner.ptr != NULL ? engine_str(owner) : engine_str(caller.user_id);
    if (!user_id_valid(engine_str(caller.user_id)) || !user_id_valid(id))
        return err_set(ec, ERR_INVALID_REQUEST, "not a valid user id");
    if (caller.role == KALAMDB_USER && !str_eq(id, engine_str(caller.user_id)))
        return err_set(ec, ERR_FORBIDDEN, "the tables of another user");
    u->role = caller.role;
    u->caller.user_id = arena_str(&u->arena, engine_str(caller.user_id));
    u->caller.issued_s = caller.issued_s;
    u->owner = arena_str(&u->arena, id);
    if (arena_failed(&u->arena))
        return err_internal(ec, ERR_NO_MEMORY, "upload");
    u->erased_us = store_erased_us(u->db->store, u->owner);
    enum err e = snapshot_open(u->db->store, u->owner, &snap, ec);
    if (e == ERR_OK)
        e = snapshot_quota(snap, &u->stored, ec);
    snapshot_close(snap);
    return e == ERR_OK ? blob_file_new(u->db->store, &u->file, ec) : e;
}

kalamdb_code kalamdb_upload_begin(struct kalamdb *db, struct kalamdb_caller caller, struct kalamdb_str owner,
    struct kalamdb_upload **ret, struct kalamdb_error *error)
{
    struct errctx ec;
    errctx_clear(&ec);
    struct kalamdb_upload *u = calloc(1, sizeof *u);
    if (u == NULL)
        return refuse(error, &ec, ERR_NO_MEMORY);
    u->db = db;
    arena_init(&u->arena, (size_t)1 << 20);
    enum err e = open_upload(u, caller, owner, &ec);
    if (e != ERR_OK) {
        upload_free(u);
        return refuse(error, &ec, e);
    }
    pthread_mutex_lock(&db->lock);
    u->next = db->uploads;
    if (u->next != NULL)
        u->next->prev = u;
    db->uploads = u;
    pthread_mutex_unlock(&db->lock);
    u->listed = true;
    *ret = u;
    return KALAMDB_OK;
}

kalamdb_code kalamdb_upload_check(
    struct kalamdb_upload *u, struct kalamdb_str conversation_id, struct kalamdb_error *error)
{
    struct errctx ec;
    struct snapshot *snap = NULL;
    bool stranger = false;
    errctx_clear(&ec);
    enum err e = snapshot_open(u->db->store, u->owner, &snap, &ec);
    if (e == ERR_OK)
        e = snapshot_stranger(snap, engine_str(conversation_id), &stranger, &ec);
    snapshot_close(snap);
    if (e == ERR_OK && stranger)
        e = rule_no_member(engine_str(conversation_id), u->owner, &ec);
    return e == ERR_OK ? KALAMDB_OK : refuse(error, &ec, e);
}

/* What the owner's uploads under way hold together; what is stored is counted by the commit, exactly. */
static uint64_t under_way(struct kalamdb_upload *u)
{
    uint64_t bytes = 0;
    pthread_mutex_lock(&u->db->lock);
    for (struct kalamdb_upload *o = u->db->uploads; o != NULL; o = o->next) {
        if (str_eq(o->owner, u->owner))
            bytes += atomic_load_explicit(&o->bytes, memory_order_relaxed);
    }
    pthread_mutex_unlock(&u->db->lock);
    return bytes;
}

static enum err check_size(struct kalamdb_upload *u, size_t n, struct errctx *ec)
{
    const struct kalamdb_options *o = &u->db->options;
    uint64_t bytes = atomic_load_explicit(&u->bytes, memory_order_relaxed);
    if (n > o->max_media_bytes || bytes > o->max_media_bytes - n)
        return err_set(ec, ERR_TOO_LARGE, "the file is over max_media_bytes (%llu)",
            (unsigned long long)o->max_media_bytes);
    if (o->max_user_media_bytes == 0)
        return ERR_OK;
    uint64_t all = u->stored + under_way(u);
    if (all + n <= o->max_user_media_bytes)
        return ERR_OK;
    err_set(ec, ERR_TOO_LARGE, "this would pass the user's quota for media");
    err_detail(ec, "%llu of max_user_media_bytes (%llu) are used, uploads under way included.",
        (unsigned long long)(all - bytes), (unsigned long long)o->max_user_media_bytes);
    err_hint(ec, "Delete messages with media to make room.");
    return ec->code;
}

kalamdb_code kalamdb_upload_write(
    struct kalamdb_upload *u, const void *bytes, size_t n, struct kalamdb_error *error)
{
    struct errctx ec;
    errctx_clear(&ec);
    enum err e =
        u->failed ? err_set(&ec, ERR_INVALID_REQUEST, "the upload has failed before") : check_size(u, n, &ec);
    if (e == ERR_OK)
        e = blob_file_write(u->file, str_n(bytes, n), &ec);
    if (e != ERR_OK) {
        u->failed = true;
        return refuse(error, &ec, e);
    }
    atomic_fetch_add_explicit(&u->bytes, n, memory_order_relaxed);
    return KALAMDB_OK;
}

uint64_t kalamdb_upload_bytes(const struct kalamdb_upload *u)
{
    return atomic_load_explicit(&u->bytes, memory_order_relaxed);
}

void kalamdb_upload_abort(struct kalamdb_upload *u)
{
    if (u != NULL)
        upload_free(u);
}

/* ---- the statement ------------------------------------------------------------------------------------- */

static void answer(struct kalamdb_upload *u, const struct kalamdb_error *error)
{
    u->done(u->arg, error == NULL ? &u->answer : NULL, error);
    upload_free(u);
}

static void first_found(void *arg, struct kalamdb_result *result, const struct kalamdb_error *error)
{
    struct kalamdb_upload *u = arg;
    struct errctx ec;
    struct snapshot *snap = NULL;
    const uint8_t *key = NULL;
    struct blob blob;
    if (error->code != KALAMDB_OK) {
        answer(u, error);
        return;
    }
    /* The first one may have been deleted since: then its id is all there is. */
    if (kalamdb_result_rows(result) == 1) {
        struct kalamdb_value v[3];
        for (int i = 0; i < 3; i++)
            kalamdb_result_value(result, 0, i, &v[i]);
        if (v[0].type == KALAMDB_TEXT && v[0].s.len < sizeof u->ref) {
            memcpy(u->ref, v[0].s.ptr, v[0].s.len);
            u->answer.content_ref = (struct kalamdb_str){u->ref, v[0].s.len};
        }
        u->answer.width = v[1].type == KALAMDB_BIGINT ? (uint32_t)v[1].i : 0;
        u->answer.height = v[2].type == KALAMDB_BIGINT ? (uint32_t)v[2].i : 0;
        errctx_clear(&ec);
        if (snapshot_open(u->db->store, u->owner, &snap, &ec) == ERR_OK &&
            snapshot_blob(snap, engine_str(u->answer.content_ref), &blob, &ec) == ERR_OK &&
            snapshot_blob_key(snap, engine_str(u->answer.content_ref), &key, &ec) == ERR_OK) {
            if (key != NULL)
                blob_reveal(&blob, key);
            u->answer.size = blob.bytes;
            memcpy(u->answer.content_type, blob.content_type, sizeof u->answer.content_type);
            memcpy(u->answer.sha256, blob.sha256, sizeof u->answer.sha256);
        }
        snapshot_close(snap);
    }
    kalamdb_result_free(result);
    answer(u, NULL);
}

/* "owner".messages */
static void table(struct buf *b, const struct kalamdb_upload *u)
{
    buf_u8(b, '"');
    for (size_t i = 0; i < u->owner.len; i++) {
        if (u->owner.ptr[i] == '"')
            buf_u8(b, '"');
        buf_u8(b, (uint8_t)u->owner.ptr[i]);
    }
    buf_str(b, STR("\".messages"));
}

static struct kalamdb_caller caller_of(const struct kalamdb_upload *u)
{
    return (struct kalamdb_caller){.user_id = {u->caller.user_id.ptr, u->caller.user_id.len},
        .role = u->role,
        .issued_s = u->caller.issued_s};
}

/* A retry by client_msg_id: what the first one was. */
static void find_first(struct kalamdb_upload *u)
{
    struct buf sql = BUF_INIT(UPLOAD_SQL_BYTES_MAX);
    u->answer = (struct kalamdb_uploaded){.msg_id = u->answer.msg_id};
    buf_str(&sql, STR("SELECT content_ref, CAST(metadata->'media'->>'width' AS bigint), "
                      "CAST(metadata->'media'->>'height' AS bigint) FROM "));
    table(&sql, u);
    buf_str(&sql, STR(" WHERE msg_id = $1"));
    struct kalamdb_value id = {.type = KALAMDB_BIGINT, .i = u->answer.msg_id};
    struct kalamdb_statement st = {
        .caller = caller_of(u), .sql = {sql.ptr, sql.len}, .params = &id, .nparams = 1};
    kalamdb_exec_async(u->db, &st, first_found, u, NULL);
    buf_release(&sql);
}

static void inserted(void *arg, struct kalamdb_result *result, const struct kalamdb_error *error)
{
    struct kalamdb_upload *u = arg;
    const int64_t *ids;
    if (error->code != KALAMDB_OK) {
        answer(u, error);
        return;
    }
    u->answer.inserted = kalamdb_result_rows_affected(result) == 1;
    u->answer.msg_id = kalamdb_result_inserted(result, &ids) == 1 ? ids[0] : 0;
    kalamdb_result_free(result);
    if (u->answer.inserted)
        answer(u, NULL);
    else
        find_first(u);
}

static struct kalamdb_value param(struct kalamdb_str s, enum kalamdb_type type)
{
    return s.ptr != NULL ? (struct kalamdb_value){.type = type, .s = s}
                         : (struct kalamdb_value){.type = KALAMDB_NULL};
}

void kalamdb_upload_finish(struct kalamdb_upload *u, const struct kalamdb_upload_message *m,
    void (*done)(void *arg, const struct kalamdb_uploaded *uploaded, const struct kalamdb_error *error),
    void *arg)
{
    struct errctx ec;
    struct kalamdb_error error;
    struct buf sql = BUF_INIT(UPLOAD_SQL_BYTES_MAX), object = BUF_INIT(0);
    u->done = done;
    u->arg = arg;
    unlist(u);
    errctx_clear(&ec);
    enum err e = ERR_OK;
    if (u->failed)
        e = err_set(&ec, ERR_INVALID_REQUEST, "the upload has failed before");
    else if (m->content.ptr != NULL && m->content.len >= u->db->options.large_content_bytes)
        e = err_set(&ec, ERR_TOO_LARGE,
            "the caption of a file must be shorter than large_content_bytes (%zu)",
            u->db->options.large_content_bytes);
    else if (m->metadata.ptr != NULL &&
             !json_object_put(&object, engine_str(m->metadata), STR("media"), STR_NULL))
        e = err_set(&ec, ERR_INVALID_REQUEST, "metadata must be a JSON object");
    buf_release(&object);
    if (e != ERR_OK) {
        refuse(&error, &ec, e);
        answer(u, &error);
        return;
    }
    struct kalamdb_value params[] = {
        param(m->conversation_id, KALAMDB_TEXT),
        param(m->conversation_type, KALAMDB_TEXT),
        param(m->from.ptr != NULL ? m->from
                                  : (struct kalamdb_str){u->caller.user_id.ptr, u->caller.user_id.len},
            KALAMDB_TEXT),
        param(m->content.ptr != NULL ? m->content : (struct kalamdb_str){"", 0}, KALAMDB_TEXT),
        param(m->metadata, KALAMDB_JSON),
        param(m->client_msg_id, KALAMDB_TEXT),
    };
    buf_str(&sql, STR("INSERT INTO "));
    table(&sql, u);
    buf_str(&sql, STR(" (conversation_id, conversation_type, \"from\", content, metadata, client_msg_id) "
                      "VALUES ($1, $2, $3, $4, $5, $6)"));
    struct kalamdb_statement st = {.caller = caller_of(u),
        .sql = {sql.ptr, sql.len},
        .params = params,
        .nparams = sizeof params / sizeof *params,
        .durability = m->durability};
    query_exec_upload(u->db, &st, u, inserted, u);
    buf_release(&sql);
}

/* metadata gains {"media":{…}}. */
static enum err describe(struct kalamdb_query *q, const struct kalamdb_uploaded *a, struct value *metadata)
{
    struct buf media = BUF_INIT(1024), object = BUF_INIT(0);
    buf_str(&media, STR("{\"content_type\":"));
    json_str(&media, str_c(a->content_type));
    buf_printf(&media, ",\"size\":%llu,\"sha256\":\"%s\"", (unsigned long long)a->size, a->sha256);
    if (a->width != 0)
        buf_printf(&media, ",\"width\":%u,\"height\":%u", a->width, a->height);
    buf_u8(&media, '}');
    struct str given = value_is_null(*metadata) ? STR("{}") : metadata->s;
    enum err e = ERR_OK;
    if (!json_object_put(&object, given, STR("media"), buf_view(&media)))
        e = err_set(&q->ec, ERR_INVALID_REQUEST, "metadata must be a JSON object");
    struct str text = e == ERR_OK ? arena_str(&q->arena, buf_view(&object)) : STR_NULL;
    if (e == ERR_OK && (text.ptr == NULL || object.failed || media.failed))
        e = query_no_memory(q, "metadata");
    if (e == ERR_OK)
        *metadata = value_json(text);
    buf_release(&media);
    buf_release(&object);
    return e;
}

enum err upload_attach(struct kalamdb_query *q, struct chat_append *a, struct spills *s)
{
    struct kalamdb_upload *u = q->upload;
    struct kalamdb_uploaded *r = &u->answer;
    enum err e = blob_file_finish(u->file, true, &q->ec);
    if (e != ERR_OK)
        return e;
    const struct blob *info = blob_file_info(u->file);
    struct str accepted = str_c(q->db->options.media_types);
    if (!media_list_holds(accepted, str_c(info->content_type))) {
        e = err_set(&q->ec, ERR_INVALID_VALUE, "files of type %s are not accepted here", info->content_type);
        err_detail(&q->ec, "Accepted are %.*s; the type is what the bytes say.", STR_FMT(accepted));
        return e;
    }
    r->size = info->bytes;
    memcpy(r->content_type, info->content_type, sizeof r->content_type);
    memcpy(r->sha256, info->sha256, sizeof r->sha256);
    (void)blob_file_dimensions(u->file, &r->width, &r->height); /* 0: unknown */
    e = describe(q, r, &a->messages[0].values[MSG_METADATA]);
    if (e == ERR_OK)
        e = spill_file(q, a, s, u->file, q->db->options.max_user_media_bytes);
    if (e == ERR_OK || s->n > 0)
        u->file = NULL; /* the statement's */
    return e;
}

enum err upload_wanted(const struct kalamdb_upload *u, struct errctx *ec)
{
    if (store_erased_us(u->db->store, u->owner) != u->erased_us)
        return err_set(ec, ERR_CONFLICT, "the user was erased while the file was uploaded");
    return ERR_OK;
}

void upload_placed(struct kalamdb_upload *u, struct str ref)
{
    size_t n = ref.len < sizeof u->ref ? ref.len : sizeof u->ref;
    memcpy(u->ref, ref.ptr, n);
    u->answer.content_ref = (struct kalamdb_str){u->ref, n};
}
