/* POST /api/v1/media: one file as multipart/form-data, written while it arrives, then the message that names
 * it. Fields may come before and after the file, so the file's destination is known at the end only.
 *
 * An upload is the body's from the head on; it ends in exactly one of finish (which takes the file) and abort
 * (after which nothing remains of it). */
#include "api/server.h"
#include "base/json.h"
#include "net/multipart.h"
#include <stdlib.h>

#define FIELD_BYTES_MAX 1024
#define METADATA_BYTES_MAX ((size_t)1 << 20)
#define OVERHEAD_BYTES ((size_t)2 << 20) /* of fields and boundaries around the file */

enum field {
    FIELD_FILE,
    FIELD_CONVERSATION,
    FIELD_CONVERSATION_TYPE,
    FIELD_FROM,
    FIELD_CONTENT,
    FIELD_METADATA,
    FIELD_CLIENT_MSG_ID,
    FIELD_COUNT
};
static const struct str field_names[FIELD_COUNT] = {{"file", 4}, {"conversation_id", 15},
    {"conversation_type", 17}, {"from", 4}, {"content", 7}, {"metadata", 8}, {"client_msg_id", 13}};

struct media {
    struct net_task task; /* finished, by an engine's thread */
    struct call *call;
    struct kalamdb_upload *upload; /* begun, neither finished nor aborted */
    struct str owner;              /* ptr NULL: the caller; in the request's arena */
    enum kalamdb_durability durability;
    enum field field; /* of the part under way */
    bool seen[FIELD_COUNT];
    struct buf values[FIELD_COUNT]; /* but the file's */
    /* the outcome */
    bool failed;
    struct kalamdb_error error;
    struct kalamdb_uploaded uploaded;
    struct buf ref;
    struct multipart parser;
};

/* Nothing of the upload remains. The call can be answered after. */
static struct call *media_free(struct media *m)
{
    struct call *c = m->call;
    kalamdb_upload_abort(m->upload);
    for (int i = 0; i < FIELD_COUNT; i++)
        buf_release(&m->values[i]);
    buf_release(&m->ref);
    free(m);
    return c;
}

/* Each of these answers and returns false: the upload is over. */
static bool refuse(struct media *m, enum err code, const char *why)
{
    struct call *c = media_free(m);
    answer_error(c, code, "%s", why);
    return false;
}

static bool refuse_engine(struct media *m, const struct kalamdb_error *e)
{
    struct kalamdb_error copy = *e;
    struct call *c = media_free(m);
    answer_engine_error(c, &copy);
    return false;
}

/* ---- the body
 * ------------------------------------------------------------------------------------------------------ */

static size_t field_max(const struct media *m)
{
    return m->field == FIELD_CONTENT    ? (size_t)m->call->worker->server->cfg->max_content_bytes
           : m->field == FIELD_METADATA ? METADATA_BYTES_MAX
                                        : FIELD_BYTES_MAX;
}

static struct kalamdb_str value_of(const struct media *m, enum field f)
{
    const struct buf *b = &m->values[f];
    return m->seen[f] ? (struct kalamdb_str){b->len > 0 ? b->ptr : "", b->len}
                      : (struct kalamdb_str){NULL, 0};
}

/* A stranger's file is not taken where the parts so far tell that it is one. A type that was given goes by
 * rules of its own, which the message knows. */
static bool begin_file(struct media *m)
{
    struct kalamdb_error e = {0};
    const struct call *c = m->call;
    if (kalamdb_upload_begin(
            c->worker->server->db, principal_caller(c->who), kstr(m->owner), &m->upload, &e) != KALAMDB_OK)
        return refuse_engine(m, &e);
    if (!m->seen[FIELD_CONVERSATION] || m->seen[FIELD_CONVERSATION_TYPE] ||
        kalamdb_upload_check(m->upload, value_of(m, FIELD_CONVERSATION), &e) == KALAMDB_OK)
        return true;
    return refuse_engine(m, &e);
}

static bool begin_part(struct media *m)
{
    int i = 0;
    while (i < FIELD_COUNT && !str_eq(m->parser.name, field_names[i]))
        i++;
    if (i == FIELD_COUNT)
        return refuse(m, ERR_INVALID_REQUEST,
            "unknown field; known are file, conversation_id, conversation_type, from, content, metadata and "
            "client_msg_id");
    if (m->seen[i])
        return refuse(
            m, ERR_INVALID_REQUEST, i == FIELD_FILE ? "one file a request" : "a field is given twice");
    m->seen[i] = true;
    m->field = (enum field)i;
    m->values[i].max_bytes = field_max(m);
    return i != FIELD_FILE || begin_file(m);
}

static bool take_data(struct media *m, struct str bytes)
{
    struct kalamdb_error e = {0};
    struct buf *value = &m->values[m->field];
    if (m->field == FIELD_FILE)
        return kalamdb_upload_write(m->upload, bytes.ptr, bytes.len, &e) == KALAMDB_OK ||
               refuse_engine(m, &e);
    buf_str(value, bytes);
    if (!value->failed)
        return true;
    return refuse(m, ERR_TOO_LARGE,
        m->field == FIELD_CONTENT ? "content is over max_content_bytes" : "a field is too large");
}

static bool end_part(struct media *m)
{
    const struct buf *value = &m->values[m->field];
    if (m->field != FIELD_FILE && value->len > 0 &&
        (!utf8_valid(buf_view(value)) || memchr(value->ptr, '\0', value->len) != NULL))
        return refuse(m, ERR_INVALID_REQUEST, "a field is not UTF-8, or holds NUL");
    return true;
}

static void on_data(void *arg, struct str bytes)
{
    struct media *m = arg;
    const char *p = bytes.ptr, *end = bytes.ptr + bytes.len;
    struct str data;
    for (bool go_on = true; go_on;) {
        switch (multipart_next(&m->parser, &p, end, &data)) {
        case MULTIPART_PART:
            go_on = begin_part(m);
            break;
        case MULTIPART_DATA:
            go_on = take_data(m, data);
            break;
        case MULTIPART_PART_END:
            go_on = end_part(m);
            break;
        case MULTIPART_BROKEN:
            go_on = refuse(m, ERR_INVALID_REQUEST, m->parser.why);
            break;
        case MULTIPART_END:
            break;
        case MULTIPART_MORE:
            return;
        }
    }
}

/* The client is gone, or what it sends is no body. */
static void on_aborted(void *arg)
{
    struct call *c = media_free(arg);
    c->abandoned = c->req->conn == NULL;
    if (c->abandoned)
        answer(c, 503, STR_NULL, STR(""));
    else
        answer_http_failure(c, c->req->failed_status, c->req->failed_why);
}

/* ---- the message
 * -------------------------------------------------------------------------------------------------- */

static void put_answer(const struct media *m, struct buf *b)
{
    const struct kalamdb_uploaded *u = &m->uploaded;
    buf_str(b, STR("{\"msg_id\":"));
    json_i64(b, u->msg_id);
    buf_str(b, STR(",\"conversation_id\":"));
    json_str(b, buf_view(&m->values[FIELD_CONVERSATION]));
    buf_str(b, STR(",\"content_ref\":"));
    if (m->ref.len == 0) { /* a retry, and the first message is gone */
        buf_printf(b, "null,\"rowsAffected\":%d}", u->inserted);
        return;
    }
    json_str(b, buf_view(&m->ref));
    buf_str(b, STR(",\"content_type\":"));
    json_str(b, str_c(u->content_type));
    buf_printf(b, ",\"size\":%llu,\"sha256\":\"%s\"", (unsigned long long)u->size, u->sha256);
    if (u->width > 0 && u->height > 0)
        buf_printf(b, ",\"width\":%u,\"height\":%u", u->width, u->height);
    buf_printf(b, ",\"rowsAffected\":%d}", u->inserted);
}

static void finished(struct net_task *task)
{
    struct media *m = (struct media *)task;
    if (m->failed) {
        refuse_engine(m, &m->error);
        return;
    }
    put_answer(m, &m->call->req->body);
    if (m->ref.failed)
        m->call->req->body.failed = true;
    answer_json(media_free(m), 200);
}

static void on_uploaded(void *arg, const struct kalamdb_uploaded *uploaded, const struct kalamdb_error *error)
{
    struct media *m = arg;
    m->failed = uploaded == NULL;
    if (uploaded != NULL) {
        m->uploaded = *uploaded;
        buf_append(&m->ref, uploaded->content_ref.ptr, uploaded->content_ref.len);
    } else {
        m->error = *error;
    }
    m->task.run = finished;
    net_post(m->call->worker->loop, &m->task);
}

static void on_end(void *arg)
{
    struct media *m = arg;
    if (!multipart_complete(&m->parser)) {
        refuse(m, ERR_INVALID_REQUEST, "the body ends before its closing boundary");
        return;
    }
    if (!m->seen[FIELD_FILE] || !m->seen[FIELD_CONVERSATION]) {
        refuse(m, ERR_INVALID_REQUEST,
            m->seen[FIELD_FILE] ? "conversation_id is missing" : "the part \"file\" is missing");
        return;
    }
    struct kalamdb_upload_message message = {.conversation_id = value_of(m, FIELD_CONVERSATION),
        .conversation_type = value_of(m, FIELD_CONVERSATION_TYPE),
        .from = value_of(m, FIELD_FROM),
        .content = value_of(m, FIELD_CONTENT),
        .metadata = value_of(m, FIELD_METADATA),
        .client_msg_id = value_of(m, FIELD_CLIENT_MSG_ID),
        .durability = m->durability};
    struct kalamdb_upload *upload = m->upload;
    m->upload = NULL; /* taken, whatever comes */
    kalamdb_upload_finish(upload, &message, on_uploaded, m);
}

void serve_media(struct call *c)
{
    static const struct net_body_ops ops = {on_data, on_end, on_aborted};
    const struct config *cfg = c->worker->server->cfg;
    struct str owner = STR_NULL;
    enum kalamdb_durability durability;
    if (!call_durability(c, &durability))
        return;
    struct media *m = calloc(1, sizeof *m);
    if (m == NULL) {
        answer_error(c, ERR_INTERNAL, "internal error");
        return;
    }
    m->call = c;
    m->durability = durability;
    const char *why = multipart_init(&m->parser, net_header(c->req, STR("content-type")));
    if (why == NULL && !query_param(&c->req->arena, c->query_string, STR("user"), &owner))
        why = "malformed query string";
    if (why != NULL) {
        refuse(m, ERR_INVALID_REQUEST, why);
        return;
    }
    m->owner = owner;
    if (owner.ptr != NULL && c->who->role == ROLE_USER &&
        !str_eq(owner, str_n(c->who->user_id, c->who->user_id_len))) {
        refuse(m, ERR_FORBIDDEN, "user is not the token's user");
        return;
    }
    uint64_t max = (uint64_t)cfg->max_media_bytes + (uint64_t)cfg->max_content_bytes + OVERHEAD_BYTES;
    if (!net_request_stream(c->req, &ops, m, max))
        refuse(m, ERR_TOO_LARGE, "the upload is over max_media_bytes");
}
