/* Members of groups: who may add and remove whom, and what becomes of a group that its owner leaves.
 *
 *   rank         owner > admin > member
 *   add          owner, admin; the new role at most one's own, `member` when not given
 *   remove       an owner anyone, an admin anyone but owners; everybody themselves
 *   last owner   leaves: the longest-serving admin, else member, is owner from then on
 *   last member  leaves: the group goes, and its id is free
 *
 * A service acts for the user whose tables it names, who must be a member; rank does not bind it. */
#include "base/role.h"
#include "chat/rules.h"
#include "chat/stream.h"
#include "store/backfill.h"
#include <jansson.h>

bool chat_metadata_shares_history(struct value metadata)
{
    if (value_is_null(metadata) || memmem(metadata.s.ptr, metadata.s.len, "history", 7) == NULL)
        return false;
    json_t *root = json_loadb(metadata.s.ptr, metadata.s.len, 0, NULL);
    const char *history = json_string_value(json_object_get(root, "history"));
    bool shares = history != NULL && strcmp(history, "shared") == 0;
    json_decref(root);
    return shares;
}

/* ---- making and joining ------------------------------------------------------------------------------- */

/* One more member, whose conversation *c is made, or, of one who was a member before, goes on. */
static enum err join(
    struct txn *txn, struct group *g, struct conversation *c, struct member *m, struct errctx *ec)
{
    struct value id = g->values[CONV_ID];
    bool again = c->exists;
    m->user_no = c->user_no;
    m->present = true;
    m->values[MEMBER_CONVERSATION_ID] = id;
    m->values[MEMBER_ROLE] = value_text(member_role_name(m->role));
    m->values[MEMBER_JOINED] = value_ts(txn_now_us(txn));
    c->values[CONV_ID] = id;
    c->values[CONV_TYPE] = value_text(STR("group"));
    c->values[CONV_TITLE] = g->values[CONV_TITLE];
    c->values[CONV_METADATA] = g->values[CONV_METADATA];
    c->values[CONV_UPDATED] = value_ts(txn_now_us(txn));
    if (!again) {
        c->values[CONV_CREATED] = g->values[CONV_CREATED];
        c->values[CONV_TOTAL_MESSAGES] = c->values[CONV_UNREAD] = value_i64(0);
        /* Who deleted their side and comes back has a marker still. */
        c->values[CONV_READ_MSG_ID] = m->values[MEMBER_LAST_READ_MSG_ID];
    }
    enum err e = txn_backfill_begin(txn, g, m, c, ec);
    if (e == ERR_OK)
        e = txn_conversation_put(txn, c, false, ec);
    if (e == ERR_OK)
        e = txn_membership_put(txn, c, g->group_no, true, ec);
    if (e == ERR_OK)
        e = txn_group_member_put(txn, g, m, ec);
    c->group_no = g->group_no;
    c->present = true;
    return e;
}

enum err group_make(struct txn *txn, struct conversation *c, struct str owner, const struct value *values,
    struct group *ret, struct member *ret_owner, struct errctx *ec)
{
    struct group g = {.history_shared = chat_metadata_shares_history(values[CONV_METADATA])};
    g.values[CONV_ID] = values[CONV_ID];
    g.values[CONV_TITLE] = values[CONV_TITLE];
    g.values[CONV_METADATA] = values[CONV_METADATA];
    struct member m = {.user_id = owner, .role = ROLE_OF_OWNER};
    m.values[MEMBER_USER_ID] = value_text(owner);
    enum err e = txn_group_put(txn, &g, ec); /* gives the number */
    if (e == ERR_OK)
        e = join(txn, &g, c, &m, ec);
    if (e == ERR_OK)
        e = txn_group_put(txn, &g, ec);
    if (e != ERR_OK)
        return e;
    *ret = g;
    *ret_owner = m;
    return ERR_OK;
}

/* ---- INSERT INTO conversation_users ------------------------------------------------------------------- */

static enum err check_row(const struct value *v, struct errctx *ec)
{
    const struct schema *schema = &schema_conversation_users;
    enum member_role role;
    enum err e = rule_conversation_id(schema, v[MEMBER_CONVERSATION_ID], ec);
    if (e != ERR_OK)
        return e;
    if (v[MEMBER_USER_ID].type == VALUE_NULL)
        return rule_not_null(schema, MEMBER_USER_ID, ec);
    if (!user_id_valid(v[MEMBER_USER_ID].s)) {
        err_set(ec, ERR_INVALID_VALUE, "\"%.*s\" cannot be a user id",
            (int)utf8_cut(v[MEMBER_USER_ID].s, CHAT_ID_BYTES_MAX), v[MEMBER_USER_ID].s.ptr);
        err_hint(ec, "A user id has 1 to 255 bytes without control characters and is none of the reserved "
                     "names.");
        return ec->code;
    }
    if (v[MEMBER_ROLE].type != VALUE_NULL && !member_role_of(v[MEMBER_ROLE].s, &role))
        return err_set(ec, ERR_CONSTRAINT,
            "role of relation \"conversation_users\" must be 'owner', 'admin' or 'member'");
    if (v[MEMBER_JOINED].type != VALUE_NULL)
        return rule_kept_by_engine(schema, MEMBER_JOINED, ec);
    if (v[MEMBER_LAST_READ_MSG_ID].type != VALUE_NULL)
        return rule_kept_by_engine(schema, MEMBER_LAST_READ_MSG_ID, ec);
    return ERR_OK;
}

enum err chat_members_add_check(struct chat_members_add *a, struct arena *arena, struct errctx *ec)
{
    enum err e = a->create != NULL ? chat_create_check(a->create, ec) : ERR_OK;
    for (size_t i = 0; e == ERR_OK && i < a->nrows; i++)
        e = check_row(a->rows[i], ec);
    if (e != ERR_OK)
        return e;
    struct str *ids = arena_array(arena, a->nrows, sizeof *ids);
    a->conversation = arena_array(arena, a->nrows, sizeof *a->conversation);
    if (a->nrows > 0 && (ids == NULL || a->conversation == NULL))
        return err_internal(ec, ERR_NO_MEMORY, "%zu members", a->nrows);
    for (size_t i = 0; i < a->nrows; i++)
        ids[i] = a->rows[i][MEMBER_CONVERSATION_ID].s;
    return rule_distinct(a->nrows, ids, arena, a->conversation, &a->conversation_ids, &a->nconversations, ec);
}

/* A group during one apply. */
struct joining {
    struct group g;
    struct member self; /* the schema's user */
    bool loaded, made, maker_named;
};

static enum err not_with_ai(struct str id, struct errctx *ec)
{
    err_set(ec, ERR_CONFLICT, "conversation \"%.*s\" is an ai conversation",
        (int)utf8_cut(id, CHAT_ID_BYTES_MAX), id.ptr);
    err_detail(ec, "The one member of an ai conversation is its owner.");
    return ec->code;
}

enum err chat_group_member_self(struct txn *txn, const struct conversation *c, struct group *ret_group,
    struct member *ret_member, struct errctx *ec)
{
    struct group g;
    struct member m;
    struct str id = c->values[CONV_ID].s, self;
    enum err e = txn_user_id(txn, c->user_no, &self, ec);
    if (e == ERR_OK && (c->group_no == 0 || !c->present))
        return rule_no_member(id, self, ec);
    if (e == ERR_OK)
        e = txn_group_no(txn, c->group_no, &g, ec);
    if (e == ERR_OK)
        e = txn_group_member(txn, &g, self, &m, ec);
    if (e == ERR_NOT_FOUND || (e == ERR_OK && !m.present))
        return err_internal(ec, ERR_CORRUPT, "a membership and a group disagree");
    if (e != ERR_OK)
        return e;
    *ret_group = g;
    *ret_member = m;
    return ERR_OK;
}

static enum err load_group(struct chat_members_add *a, struct txn *txn, uint64_t user_no, uint32_t at,
    struct joining *j, struct errctx *ec)
{
    struct value values[CONV_NCOLUMNS] = {[CONV_ID] = value_text(a->conversation_ids[at])};
    struct conversation c;
    enum err e = txn_conversation(txn, user_no, values[CONV_ID].s, &c, ec);
    if (e != ERR_OK)
        return e;
    if (c.exists && c.group_no == 0)
        return not_with_ai(values[CONV_ID].s, ec);
    if (c.exists) {
        e = chat_group_member_self(txn, &c, &j->g, &j->self, ec);
        if (e == ERR_OK && a->caller->role == ROLE_USER && j->self.role == ROLE_OF_MEMBER) {
            err_set(ec, ERR_FORBIDDEN, "only an owner or admin of the group may add members");
            return ec->code;
        }
    } else {
        e = txn_group(txn, values[CONV_ID].s, &j->g, ec);
        if (e == ERR_OK && j->g.exists)
            return rule_no_member(values[CONV_ID].s, a->owner, ec);
        if (e == ERR_OK)
            e = group_make(txn, &c, a->owner, values, &j->g, &j->self, ec);
        j->made = true;
    }
    j->loaded = e == ERR_OK;
    return e;
}

/* The maker of a group may stand among its first members, as what they are. */
static enum err add_maker(struct txn *txn, struct joining *j, struct value *v, struct errctx *ec)
{
    if (v[MEMBER_ROLE].type != VALUE_NULL && !str_eq(v[MEMBER_ROLE].s, STR("owner")))
        return err_set(ec, ERR_CONSTRAINT, "who makes a group is its owner");
    j->maker_named = true;
    j->self.values[MEMBER_METADATA] = v[MEMBER_METADATA];
    return txn_group_member_put(txn, &j->g, &j->self, ec);
}

static enum err is_member(const struct value *v, struct errctx *ec)
{
    err_set(ec, ERR_CONFLICT, "duplicate key value violates unique constraint \"conversation_users_pkey\"");
    err_detail(ec, "Key (conversation_id, user_id)=(%.*s, %.*s) already exists.",
        STR_FMT(v[MEMBER_CONVERSATION_ID].s), STR_FMT(v[MEMBER_USER_ID].s));
    return ec->code;
}

/* The conversation that a new member will have, if they can have one. */
static enum err take_conversation(struct txn *txn, const struct group *g, const struct value *v,
    struct conversation *ret, struct errctx *ec)
{
    uint64_t user_no;
    struct str user = v[MEMBER_USER_ID].s;
    enum err e = txn_user(txn, user, true, &user_no, ec);
    if (e == ERR_OK)
        e = txn_conversation(txn, user_no, v[MEMBER_CONVERSATION_ID].s, ret, ec);
    if (e != ERR_OK || !ret->exists || (ret->group_no == g->group_no && !ret->present))
        return e;
    if (ret->group_no == g->group_no)
        return is_member(v, ec);
    err_set(ec, ERR_CONFLICT, "user \"%.*s\" has an own conversation with the group's id",
        (int)utf8_cut(user, CHAT_ID_BYTES_MAX), user.ptr);
    err_detail(ec, "Key (conversation_id)=(%.*s) already exists among the user's conversations.",
        STR_FMT(v[MEMBER_CONVERSATION_ID].s));
    return ec->code;
}

static enum err add_one(
    struct chat_members_add *a, struct txn *txn, struct joining *j, struct value *v, struct errctx *ec)
{
    struct member m = {.role = ROLE_OF_MEMBER}, before;
    struct conversation c;
    if (j->made && !j->maker_named && str_eq(v[MEMBER_USER_ID].s, a->owner))
        return add_maker(txn, j, v, ec);
    if (v[MEMBER_ROLE].type != VALUE_NULL)
        (void)member_role_of(v[MEMBER_ROLE].s, &m.role);
    if (a->caller->role == ROLE_USER && m.role > j->self.role)
        return err_set(ec, ERR_FORBIDDEN, "an admin cannot make owners");
    enum err e = take_conversation(txn, &j->g, v, &c, ec);
    if (e != ERR_OK)
        return e;
    if (j->g.nmembers >= a->group_members_max) {
        err_set(
            ec, ERR_CONSTRAINT, "a group has at most %u members (max_group_members)", a->group_members_max);
        return ec->code;
    }
    e = txn_group_member(txn, &j->g, v[MEMBER_USER_ID].s, &before, ec);
    if (e == ERR_OK) /* what they had read stays read */
        m.values[MEMBER_LAST_READ_MSG_ID] = before.values[MEMBER_LAST_READ_MSG_ID];
    else if (e != ERR_NOT_FOUND)
        return e;
    errctx_clear(ec);
    m.values[MEMBER_USER_ID] = v[MEMBER_USER_ID];
    m.values[MEMBER_METADATA] = v[MEMBER_METADATA];
    e = join(txn, &j->g, &c, &m, ec);
    return e;
}

/* The row as stored, for RETURNING; its bytes are the statement's own. */
static void show(struct txn *txn, const struct joining *j, const struct chat_members_add *a, struct value *v)
{
    enum member_role role = ROLE_OF_MEMBER;
    if (v[MEMBER_ROLE].type != VALUE_NULL)
        (void)member_role_of(v[MEMBER_ROLE].s, &role);
    if (j->made && str_eq(v[MEMBER_USER_ID].s, a->owner))
        role = ROLE_OF_OWNER;
    v[MEMBER_ROLE] = value_text(member_role_name(role));
    v[MEMBER_JOINED] = value_ts(txn_now_us(txn));
}

static enum err make_created(
    struct chat_members_add *a, struct txn *txn, uint64_t user_no, struct joining *j, struct errctx *ec)
{
    struct chat_create *cr = a->create;
    enum err e = chat_create_one(cr, txn, user_no, cr->rows[0], &j->g, ec);
    if (e != ERR_OK || !j->g.exists)
        return e;
    j->made = j->loaded = true;
    e = txn_group_member(txn, &j->g, a->owner, &j->self, ec);
    return e;
}

enum err chat_members_add_apply(struct chat_members_add *a, struct txn *txn, struct errctx *ec)
{
    uint64_t user_no;
    uint32_t n = a->nconversations > 0 ? a->nconversations : 1;
    struct joining *all = arena_array(txn_arena(txn), n, sizeof *all);
    if (all == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "%u groups", n);
    enum err e = txn_user(txn, a->owner, true, &user_no, ec);
    if (e == ERR_OK && a->create != NULL)
        e = make_created(a, txn, user_no, &all[0], ec);
    for (size_t i = 0; e == ERR_OK && i < a->nrows; i++) {
        struct joining *j = &all[a->conversation[i]];
        if (!j->loaded)
            e = load_group(a, txn, user_no, a->conversation[i], j, ec);
        if (e == ERR_OK)
            e = add_one(a, txn, j, a->rows[i], ec);
    }
    for (size_t i = 0; e == ERR_OK && i < a->nrows; i++)
        show(txn, &all[a->conversation[i]], a, a->rows[i]);
    for (uint32_t i = 0; e == ERR_OK && i < n; i++) {
        if (!all[i].loaded)
            continue;
        e = txn_group_put(txn, &all[i].g, ec);
        if (e == ERR_OK)
            e = txn_group_announce(txn, &all[i].g, ec);
    }
    return e;
}

/* ---- DELETE FROM conversation_users ------------------------------------------------------------------- */

/* Is `x` the better heir of ownership? */
static bool inherits_before(const struct member *x, const struct member *y)
{
    int64_t a = value_is_null(x->values[MEMBER_JOINED]) ? 0 : x->values[MEMBER_JOINED].i;
    int64_t b = value_is_null(y->values[MEMBER_JOINED]) ? 0 : y->values[MEMBER_JOINED].i;
    return x->role != y->role ? x->role > y->role : a < b; /* at one time: by id, as the list is */
}

/* After somebody left: the group goes, or has an owner. */
static enum err settle_group(struct txn *txn, struct group *g, bool owner_left, struct errctx *ec)
{
    if (g->nmembers == 0)
        return txn_group_delete(txn, g, ec);
    struct member *list, *heir = NULL;
    size_t n = 0;
    enum err e = owner_left ? txn_group_members(txn, g, false, &list, &n, ec) : ERR_OK;
    for (size_t i = 0; e == ERR_OK && i < n; i++) {
        if (heir == NULL || inherits_before(&list[i], heir))
            heir = &list[i];
    }
    if (e == ERR_OK && heir != NULL && heir->role != ROLE_OF_OWNER) {
        heir->role = ROLE_OF_OWNER;
        e = txn_group_member_put(txn, g, heir, ec);
    }
    if (e == ERR_OK)
        e = txn_group_put(txn, g, ec);
    return e == ERR_OK ? txn_group_announce(txn, g, ec) : e;
}

enum err chat_group_leave(struct txn *txn, struct group *g, struct member *m, struct errctx *ec)
{
    bool owner = m->role == ROLE_OF_OWNER;
    enum err e =
        txn_partition_lost(txn, m->user_no) ? ERR_OK : chat_stream_leave(txn, m->user_no, g->group_no, ec);
    if (e == ERR_OK)
        e = txn_group_member_remove(txn, g, m, ec);
    return e == ERR_OK ? settle_group(txn, g, owner, ec) : e;
}

/* A conversation during one apply. */
struct leaving {
    struct group g;
    struct member self;
    bool loaded, gone; /* gone: not, or no longer, a group that the schema's user is in */
    bool changed, owner_left;
};

static enum err load_leaving(
    struct txn *txn, uint64_t user_no, struct str id, struct leaving *l, struct errctx *ec)
{
    struct conversation c;
    enum err e = txn_conversation(txn, user_no, id, &c, ec);
    if (e != ERR_OK)
        return e;
    if (c.exists && c.group_no == 0) {
        err_set(ec, ERR_FORBIDDEN, "the owner cannot leave an ai conversation");
        err_hint(ec, "DELETE FROM conversations removes an ai conversation with its messages.");
        return ec->code;
    }
    l->gone = !c.exists || !c.present;
    e = l->gone ? ERR_OK : chat_group_member_self(txn, &c, &l->g, &l->self, ec);
    l->loaded = e == ERR_OK;
    return e;
}

static enum err check_rank(
    const struct chat_members_remove *r, const struct leaving *l, const struct member *m, struct errctx *ec)
{
    if (r->caller->role != ROLE_USER || m->user_no == l->self.user_no || l->self.role == ROLE_OF_OWNER)
        return ERR_OK;
    if (l->self.role == ROLE_OF_ADMIN && m->role != ROLE_OF_OWNER)
        return ERR_OK;
    return l->self.role == ROLE_OF_ADMIN
               ? err_set(ec, ERR_FORBIDDEN, "an admin cannot remove an owner of the group")
               : err_set(ec, ERR_FORBIDDEN, "only an owner or admin of the group may remove members");
}

/* NOT_FOUND: no longer a member, or not meant any more. */
static enum err remove_one(struct chat_members_remove *r, struct txn *txn, struct leaving *l,
    const struct chat_row_change *row, struct errctx *ec)
{
    struct member m;
    enum err e =
        l->gone ? ERR_NOT_FOUND : txn_group_member(txn, &l->g, row->values[MEMBER_USER_ID].s, &m, ec);
    if (e == ERR_OK && !m.present)
        e = ERR_NOT_FOUND;
    if (e != ERR_OK)
        return e;
    if (r->still != NULL ? !r->still(r->still_arg, m.values)
                         : !rule_same_row(&schema_conversation_users, row->values, m.values))
        return r->still != NULL ? ERR_NOT_FOUND : ERR_RETRY;
    e = check_rank(r, l, &m, ec);
    if (e != ERR_OK)
        return e;
    l->owner_left = l->owner_left || m.role == ROLE_OF_OWNER;
    l->changed = true;
    e = chat_stream_leave(txn, m.user_no, l->g.group_no, ec);
    if (e == ERR_OK)
        e = txn_group_member_remove(txn, &l->g, &m, ec);
    return e == ERR_OK ? txn_conversation_announce(txn, m.user_no, l->g.values[CONV_ID].s, ec) : e;
}

enum err chat_members_remove_apply(struct chat_members_remove *r, struct txn *txn, struct errctx *ec)
{
    uint64_t user_no;
    struct arena *arena = txn_arena(txn);
    struct str *ids = arena_array(arena, r->nrows, sizeof *ids), *distinct;
    uint32_t *index = arena_array(arena, r->nrows, sizeof *index), n;
    if (r->nrows > 0 && (ids == NULL || index == NULL))
        return err_internal(ec, ERR_NO_MEMORY, "%zu members", r->nrows);
    r->removed = 0;
    for (size_t i = 0; i < r->nrows; i++)
        ids[i] = r->rows[i].values[MEMBER_CONVERSATION_ID].s;
    enum err e = rule_distinct(r->nrows, ids, arena, index, &distinct, &n, ec);
    struct leaving *all = e == ERR_OK ? arena_array(arena, n, sizeof *all) : NULL;
    if (e == ERR_OK && n > 0 && all == NULL)
        e = err_internal(ec, ERR_NO_MEMORY, "%u groups", n);
    if (e == ERR_OK)
        e = txn_user(txn, r->owner, false, &user_no, ec);
    if (e == ERR_NOT_FOUND)
        return ERR_RETRY; /* rows were read of a user who is gone */
    for (size_t i = 0; e == ERR_OK && i < r->nrows; i++) {
        struct leaving *l = &all[index[i]];
        if (!l->loaded)
            e = load_leaving(txn, user_no, ids[i], l, ec);
        if (e == ERR_OK)
            e = remove_one(r, txn, l, &r->rows[i], ec);
        r->rows[i].gone = e == ERR_NOT_FOUND;
        r->removed += e == ERR_OK;
        if (e == ERR_NOT_FOUND) {
            errctx_clear(ec);
            e = ERR_OK;
        }
    }
    for (uint32_t i = 0; e == ERR_OK && i < n; i++) {
        if (all[i].changed)
            e = settle_group(txn, &all[i].g, all[i].owner_left, ec);
    }
    return e;
}
