/* Signals: typing, presence, receipts. They go straight to those who follow the conversation now. */
#include "base/json.h"
#include "chat/chat.h"
#include "chat/rules.h"
#include "engine/engine.h"
#include "store/group.h"
#include <stdlib.h>

#define KIND_BYTES_MAX 64
#define DATA_BYTES_MAX 4096

static enum err check(const struct kalamdb_signal *in, const struct caller *caller, struct errctx *ec)
{
    struct str owner = engine_str(in->user_id), id = engine_str(in->conversation_id),
               kind = engine_str(in->kind), from = engine_str(in->from), data = engine_str(in->data);
    if (!user_id_valid(caller->user_id) || (owner.ptr != NULL && !user_id_valid(owner)))
        return err_set(ec, ERR_INVALID_REQUEST, "invalid user id");
    if (caller->role == ROLE_USER && owner.ptr != NULL && !str_eq(owner, caller->user_id))
        return err_set(ec, ERR_FORBIDDEN, "only a service may signal for another user");
    if (id.len < 1 || id.len > CHAT_ID_BYTES_MAX || !utf8_valid(id))
        return err_set(ec, ERR_INVALID_REQUEST, "conversationId must have 1 to 255 bytes");
    if (kind.len < 1 || kind.len > KIND_BYTES_MAX || !utf8_valid(kind))
        return err_set(ec, ERR_INVALID_REQUEST, "kind must have 1 to %d bytes", KIND_BYTES_MAX);
    if (data.len > DATA_BYTES_MAX)
        return err_set(ec, ERR_INVALID_REQUEST, "data may have at most %d bytes", DATA_BYTES_MAX);
    if (data.ptr != NULL && !json_valid(data))
        return err_set(ec, ERR_INVALID_REQUEST, "data is not valid JSON");
    if (from.ptr != NULL && !utf8_valid(from))
        return err_set(ec, ERR_INVALID_REQUEST, "from is not valid UTF-8");
    return from.ptr != NULL ? rule_sender(caller, from, ec) : ERR_OK;
}

static void put_json(struct buf *b, const struct kalamdb_signal *in, struct str from)
{
    buf_str(b, STR("{\"conversationId\":"));
    json_str(b, engine_str(in->conversation_id));
    buf_str(b, STR(",\"from\":"));
    json_str(b, from);
    buf_str(b, STR(",\"kind\":"));
    json_str(b, engine_str(in->kind));
    if (in->data.ptr != NULL) {
        buf_str(b, STR(",\"data\":"));
        buf_str(b, engine_str(in->data));
    }
    buf_u8(b, '}');
}

/* Everybody in the conversation but the one who signals: a user themselves; for a service the user in whose
 * name it comes, unless that user is not the sender. */
static enum err send(struct kalamdb *db, struct snapshot *snap, const struct kalamdb_signal *in,
    struct str from, struct str owner, struct errctx *ec)
{
    struct str id = engine_str(in->conversation_id);
    const uint64_t *members;
    size_t n, kept = 0;
    enum err e = snapshot_members(snap, id, &members, &n, ec);
    if (e == ERR_NOT_FOUND)
        return err_set(ec, ERR_FORBIDDEN, "\"%.*s\" is no conversation of yours", STR_FMT(id));
    if (e != ERR_OK)
        return e;
    uint64_t self = str_eq(from, owner) ? snapshot_user_no(snap) : 0;
    struct buf json = BUF_INIT(0);
    put_json(&json, in, from);
    uint64_t *to = malloc((n + 1) * sizeof *to);
    if (to == NULL || json.failed)
        e = err_internal(ec, ERR_NO_MEMORY, "signal");
    for (size_t i = 0; e == ERR_OK && i < n; i++)
        if (members[i] != self)
            to[kept++] = members[i];
    if (e == ERR_OK && kept > 0)
        live_signal(db->live, to, kept, id, buf_view(&json));
    free(to);
    buf_release(&json);
    return e;
}

kalamdb_code kalamdb_signal(
    struct kalamdb *db, const struct kalamdb_signal *signal, struct kalamdb_error *error)
{
    struct errctx ec;
    errctx_clear(&ec);
    struct caller caller = {
        engine_str(signal->caller.user_id), signal->caller.role == KALAMDB_ADMIN     ? ROLE_ADMIN
                                            : signal->caller.role == KALAMDB_SERVICE ? ROLE_SERVICE
                                                                                     : ROLE_USER};
    struct snapshot *snap = NULL;
    struct str owner = signal->user_id.ptr != NULL ? engine_str(signal->user_id) : caller.user_id;
    struct str from = signal->from.ptr != NULL ? engine_str(signal->from) : caller.user_id;
    enum err e = check(signal, &caller, &ec);
    if (e == ERR_OK)
        e = snapshot_open(db->store, owner, &snap, &ec);
    if (e == ERR_OK)
        e = send(db, snap, signal, from, owner, &ec);
    snapshot_close(snap);
    if (e == ERR_OK)
        return KALAMDB_OK;
    return engine_error(error, &ec);
}
