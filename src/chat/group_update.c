#include "chat/group_update.h"

#define BIT(column) (UINT64_C(1) << (column))

enum err group_updates_init(
    struct group_updates *gs, struct chat_update *u, struct txn *txn, struct errctx *ec)
{
    struct arena *arena = txn_arena(txn);
    struct str *ids = arena_array(arena, u->nrows, sizeof *ids), *distinct;
    *gs = (struct group_updates){.u = u, .txn = txn};
    gs->index = arena_array(arena, u->nrows, sizeof *gs->index);
    if (u->nrows > 0 && (ids == NULL || gs->index == NULL))
        return err_internal(ec, ERR_NO_MEMORY, "update of %zu rows", u->nrows);
    for (size_t i = 0; i < u->nrows; i++)
        ids[i] = u->rows[i].values[0].s; /* conversation_id in both tables */
    enum err e = rule_distinct(u->nrows, ids, arena, gs->index, &distinct, &gs->n, ec);
    if (e != ERR_OK)
        return e;
    gs->all = arena_array(arena, gs->n, sizeof *gs->all);
    return gs->n > 0 && gs->all == NULL ? err_internal(ec, ERR_NO_MEMORY, "update of %u groups", gs->n)
                                        : ERR_OK;
}

static enum err load(
    struct group_updates *gs, const struct conversation *c, struct group_updating *one, struct errctx *ec)
{
    struct member self;
    if (one->loaded)
        return ERR_OK;
    enum err e = chat_group_member_self(gs->txn, c, &one->g, &self, ec);
    one->self = self.role;
    one->loaded = e == ERR_OK;
    return e;
}

/* ---- conversations ------------------------------------------------------------------------------------ */

static enum err set_conversation(
    struct group_updates *gs, struct conversation *c, size_t i, struct group_updating *one, struct errctx *ec)
{
    const struct chat_update *u = gs->u;
    struct chat_row_change *row = &u->rows[i];
    enum err e = update_recheck(u, row->values, c->values);
    if (e != ERR_OK)
        return e;
    e = load(gs, c, one, ec);
    if (e != ERR_OK)
        return e;
    if (u->caller->role == ROLE_USER && one->self < ROLE_OF_ADMIN)
        return err_set(
            ec, ERR_FORBIDDEN, "only an owner or admin of the group may change its title or metadata");
    update_merge(u, row->set, c->values);
    c->values[CONV_UPDATED] = value_ts(txn_now_us(gs->txn));
    e = update_keep(row, u->schema, c->values, u->columns);
    update_merge(u, row->set, one->g.values);
    one->g.history_shared = chat_metadata_shares_history(one->g.values[CONV_METADATA]);
    if (e == ERR_OK)
        e = txn_group_put(gs->txn, &one->g, ec);
    const uint64_t *members;
    size_t n = 0;
    if (e == ERR_OK)
        e = txn_group_present(gs->txn, &one->g, &members, &n, ec);
    for (size_t m = 0; e == ERR_OK && m < n; m++) {
        struct conversation copy;
        e = txn_conversation(gs->txn, members[m], c->values[CONV_ID].s, &copy, ec);
        if (e == ERR_OK && !copy.exists)
            e = err_internal(ec, ERR_CORRUPT, "a member has no conversation of their group");
        if (e != ERR_OK)
            break;
        update_merge(u, row->set, copy.values);
        copy.values[CONV_UPDATED] = c->values[CONV_UPDATED];
        e = txn_conversation_put(gs->txn, &copy, true, ec);
    }
    return e;
}

/* ---- conversation_users ------------------------------------------------------------------------------- */

static enum err check_role(const struct group_updates *gs, struct group_updating *one, struct member *m,
    struct value role, struct errctx *ec)
{
    enum member_role to;
    if (value_is_null(role) || !member_role_of(role.s, &to))
        return err_set(ec, ERR_CONSTRAINT,
            "role of relation \"conversation_users\" must be 'owner', 'admin' or 'member'");
    if (gs->u->caller->role == ROLE_USER) {
        if (one->self < ROLE_OF_ADMIN)
            return err_set(ec, ERR_FORBIDDEN, "only an owner or admin of the group may change roles");
        if (one->self < ROLE_OF_OWNER && (m->role == ROLE_OF_OWNER || to == ROLE_OF_OWNER))
            return err_set(ec, ERR_FORBIDDEN, "an admin can neither make nor unmake an owner of the group");
    }
    one->owner_lost = one->owner_lost || (m->role == ROLE_OF_OWNER && to != ROLE_OF_OWNER);
    m->role = to;
    return ERR_OK;
}

static enum err set_member(
    struct group_updates *gs, struct conversation *c, size_t i, struct group_updating *one, struct errctx *ec)
{
    struct chat_update *u = gs->u;
    struct chat_row_change *row = &u->rows[i];
    struct member m;
    if (!c->present)
        return ERR_NOT_FOUND;
    enum err e = load(gs, c, one, ec);
    if (e == ERR_OK)
        e = txn_group_member(gs->txn, &one->g, row->values[MEMBER_USER_ID].s, &m, ec);
    if (e == ERR_OK && !m.present)
        e = ERR_NOT_FOUND;
    if (e == ERR_OK)
        e = update_recheck(u, row->values, m.values);
    if (e != ERR_OK)
        return e;
    if (m.user_no != c->user_no && (u->columns & (BIT(MEMBER_LAST_READ_MSG_ID) | BIT(MEMBER_METADATA))) != 0)
        return err_set(
            ec, ERR_FORBIDDEN, "last_read_msg_id and metadata of another member are theirs to set");
    if ((u->columns & BIT(MEMBER_ROLE)) != 0)
        e = check_role(gs, one, &m, row->set[MEMBER_ROLE], ec);
    update_merge(u, row->set, m.values);
    if (e == ERR_OK)
        e = update_keep(row, u->schema, m.values, u->columns);
    if (e == ERR_OK && (u->columns & BIT(MEMBER_LAST_READ_MSG_ID)) != 0) {
        e = txn_conversation_mark(gs->txn, c, m.values[MEMBER_LAST_READ_MSG_ID],
            row->counted ? &row->count : NULL, &u->need_count, ec);
        if (e == ERR_OK)
            e = txn_conversation_put(gs->txn, c, false, ec);
    }
    one->announce = true;
    return e == ERR_OK ? txn_group_member_put(gs->txn, &one->g, &m, ec) : e;
}

enum err group_update_row(struct group_updates *gs, struct conversation *c, size_t i, struct errctx *ec)
{
    struct group_updating *one = &gs->all[gs->index[i]];
    return gs->u->schema == &schema_conversations ? set_conversation(gs, c, i, one, ec)
                                                  : set_member(gs, c, i, one, ec);
}

static enum err has_owner(struct group_updates *gs, const struct group *g, struct errctx *ec)
{
    struct member *list;
    size_t n;
    enum err e = txn_group_members(gs->txn, g, false, &list, &n, ec);
    if (e != ERR_OK)
        return e;
    for (size_t i = 0; i < n; i++) {
        if (list[i].role == ROLE_OF_OWNER)
            return ERR_OK;
    }
    err_set(ec, ERR_CONSTRAINT, "the last owner of a group cannot give up the role");
    err_hint(ec, "Make another member an owner first, or leave.");
    return ec->code;
}

enum err group_updates_finish(struct group_updates *gs, struct errctx *ec)
{
    enum err e = ERR_OK;
    for (uint32_t i = 0; e == ERR_OK && i < gs->n; i++) {
        struct group_updating *one = &gs->all[i];
        if (one->owner_lost)
            e = has_owner(gs, &one->g, ec);
        if (e == ERR_OK && one->announce)
            e = txn_group_announce(gs->txn, &one->g, ec);
    }
    return e;
}
