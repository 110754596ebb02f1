#include "chat/copies.h"
#include <stdlib.h>

/* One member's copy of one row, if there is one. */
struct copy_ref {
    bool there;
    uint64_t seq, ins_seq;
};

/* A conversation of the change that is a group's. */
struct spread {
    struct group g;
    const uint64_t *members;
    size_t nmembers;
    bool any_sender;        /* the caller may change what others sent */
    size_t first_row, rows; /* in copies.order */
};

struct copies {
    struct chat_change *ch;
    struct txn *txn;
    uint64_t user_no;
    struct spread **spreads; /* by conversation; NULL: no group */
    uint32_t *order;         /* rows by conversation */
    struct copy_ref **refs;  /* by row: one for each of its group's members */
};

/* ---- answers that the committer has to wait for ------------------------------------------------------- */

void chat_copies_release(struct chat_copies *c)
{
    cold_lookup_release(&c->rows);
    free(c->bounds);
    *c = (struct chat_copies){0};
}

size_t chat_copies_open(const struct chat_copies *c)
{
    return c->rows.open + c->open_bounds;
}

static enum err ask_bounds(struct chat_copies *all, const struct conversation *c, uint64_t epoch,
    int64_t without, const struct copy_bounds **ret, struct errctx *ec)
{
    struct copy_bounds *b = NULL;
    for (size_t i = 0; b == NULL && i < all->nbounds; i++) {
        if (all->bounds[i].user_no == c->user_no && all->bounds[i].without == without)
            b = &all->bounds[i];
    }
    *ret = b;
    if (b != NULL && b->answered && b->epoch == epoch)
        return ERR_OK;
    *ret = NULL;
    if (b == NULL && all->nbounds == all->cap_bounds) {
        size_t cap = all->cap_bounds == 0 ? 16 : all->cap_bounds * 2;
        struct copy_bounds *grown = realloc(all->bounds, cap * sizeof *grown);
        if (grown == NULL)
            return err_internal(ec, ERR_NO_MEMORY, "bounds of conversations");
        all->bounds = grown;
        all->cap_bounds = cap;
    }
    if (b == NULL)
        b = &all->bounds[all->nbounds++];
    else
        all->open_bounds -= !b->answered;
    *b = (struct copy_bounds){.user_no = c->user_no, .epoch = epoch, .without = without};
    all->open_bounds++;
    return ERR_OK;
}

/* ---- finding ------------------------------------------------------------------------------------------ */

static enum err no_memory(struct errctx *ec)
{
    return err_internal(ec, ERR_NO_MEMORY, "copies of a group's messages");
}

static enum err spread_open(
    struct copies *cs, const struct conversation *c, struct spread *s, struct errctx *ec)
{
    const struct chat_change *ch = cs->ch;
    struct member m;
    if (!c->present)
        return rule_no_member(c->values[CONV_ID].s, ch->owner, ec);
    enum err e = txn_group_no(cs->txn, c->group_no, &s->g, ec);
    if (e == ERR_OK)
        e = txn_group_member(cs->txn, &s->g, ch->owner, &m, ec);
    if (e == ERR_OK)
        e = txn_group_present(cs->txn, &s->g, &s->members, &s->nmembers, ec);
    if (e != ERR_OK)
        return e == ERR_NOT_FOUND ? err_internal(ec, ERR_CORRUPT, "a membership has no group") : e;
    s->any_sender = ch->caller->role != ROLE_USER || m.role >= ROLE_OF_ADMIN;
    return ERR_OK;
}

static enum err may_change(
    const struct copies *cs, const struct spread *s, const struct chat_row *row, struct errctx *ec)
{
    struct value from = row->values[MSG_FROM];
    if (s->any_sender || (!value_is_null(from) && str_eq(from.s, cs->ch->owner)))
        return ERR_OK;
    err_set(ec, ERR_FORBIDDEN, "message %lld was sent by somebody else", (long long)row->values[MSG_ID].i);
    err_hint(ec, "In a group, the sender, an owner or an admin may change a message for all its members.");
    return ec->code;
}

/* Rows by conversation: cs->order, and each spread's part of it. */
static enum err sort_rows(struct copies *cs, struct errctx *ec)
{
    const struct chat_change *ch = cs->ch;
    uint32_t *next = arena_array(txn_arena(cs->txn), (size_t)ch->nconversations + 1, sizeof *next);
    cs->order = arena_array(txn_arena(cs->txn), ch->nrows, sizeof *cs->order);
    cs->refs = arena_array(txn_arena(cs->txn), ch->nrows, sizeof *cs->refs);
    if (next == NULL || cs->order == NULL || cs->refs == NULL)
        return no_memory(ec);
    for (size_t i = 0; i < ch->nrows; i++)
        next[ch->rows[i].conversation + 1]++;
    for (uint32_t k = 0; k < ch->nconversations; k++) {
        if (cs->spreads[k] != NULL) {
            cs->spreads[k]->first_row = next[k];
            cs->spreads[k]->rows = next[k + 1];
        }
        next[k + 1] += next[k];
    }
    for (size_t i = 0; i < ch->nrows; i++)
        cs->order[next[ch->rows[i].conversation]++] = (uint32_t)i;
    return ERR_OK;
}

/* A copy whose id lies in the range of a file. The member's own conversation often knows better; else the
 * answer of a worker counts, or one is asked for. */
static enum err find_cold(struct copies *cs, const struct spread *s, uint64_t member,
    const struct message_copy *copy, int64_t id, struct copy_ref *ret, struct errctx *ec)
{
    struct conversation c;
    const struct cold_question *answer;
    enum err e = txn_conversation(cs->txn, member, s->g.values[CONV_ID].s, &c, ec);
    if (e != ERR_OK)
        return e;
    const struct value *first = &c.values[CONV_FIRST_MSG_ID], *last = &c.values[CONV_LAST_MSG_ID];
    int64_t floor;
    e = txn_conversation_hot_from(cs->txn, &c, &floor, ec);
    if (e != ERR_OK || !c.exists || value_is_null(*first) || id < first->i || id > last->i || id >= floor)
        return e; /* not there */
    e = cold_lookup_ask(&cs->ch->copies->rows, member, copy->cold_epoch, id, &answer);
    if (e != ERR_OK)
        return no_memory(ec);
    /* Its deletion will ask for the bounds: at once, then. */
    const struct copy_bounds *bounds;
    if (answer == NULL && cs->ch->everyone && (id == first->i || id == last->i) &&
        c.values[CONV_TOTAL_MESSAGES].i > 1)
        e = ask_bounds(cs->ch->copies, &c, copy->cold_epoch, id, &bounds, ec);
    if (e != ERR_OK)
        return e;
    if (answer == NULL)
        cs->ch->need_copies = true;
    else if (answer->found && answer->conversation == str_hash(s->g.values[CONV_ID].s))
        *ret = (struct copy_ref){true, answer->seq, answer->ins_seq};
    return ERR_OK;
}

/* An id that a service supplied may be that of another message here. */
static enum err of_this_group(
    const struct spread *s, const struct message_copy *copy, bool *ret, struct errctx *ec)
{
    struct row_meta meta;
    struct value values[MSG_NCOLUMNS];
    if (row_decode(copy->row, &schema_messages, &meta, values) != ERR_OK)
        return err_internal(ec, ERR_CORRUPT, "a message row is damaged");
    *ret = str_eq(values[MSG_CONVERSATION_ID].s, s->g.values[CONV_ID].s);
    return ERR_OK;
}

static enum err find_row(struct copies *cs, const struct spread *s, uint32_t row, struct errctx *ec)
{
    int64_t id = cs->ch->rows[row].values[MSG_ID].i;
    struct copy_ref *refs = arena_array(txn_arena(cs->txn), s->nmembers, sizeof *refs);
    if (refs == NULL)
        return no_memory(ec);
    cs->refs[row] = refs;
    for (size_t m = 0; m < s->nmembers; m++) {
        struct message_copy copy;
        if (s->members[m] == cs->user_no)
            continue;
        enum err e = txn_copy_find(cs->txn, s->members[m], id, &copy, ec);
        bool there = false;
        if (e == ERR_OK && copy.state == COPY_HOT)
            e = of_this_group(s, &copy, &there, ec);
        if (e == ERR_OK && there)
            refs[m] = (struct copy_ref){true, copy.meta.seq, copy.meta.ins_seq};
        else if (e == ERR_OK && copy.state == COPY_COLD_PERHAPS)
            e = find_cold(cs, s, s->members[m], &copy, id, &refs[m], ec);
        if (e != ERR_OK)
            return e;
    }
    return ERR_OK;
}

static enum err find_rows(struct copies *cs, struct errctx *ec)
{
    const struct chat_change *ch = cs->ch;
    size_t total = 0;
    for (uint32_t k = 0; k < ch->nconversations; k++) {
        const struct spread *s = cs->spreads[k];
        if (s == NULL)
            continue;
        total += s->rows * s->nmembers;
        if (total > ch->copies_max)
            return err_set(ec, ERR_TOO_LARGE,
                "the statement would change over max_changed_rows (%zu) rows, copies of other members "
                "included",
                ch->copies_max);
        for (size_t i = 0; i < s->rows; i++) {
            uint32_t row = cs->order[s->first_row + i];
            enum err e = may_change(cs, s, &ch->rows[row], ec);
            if (e == ERR_OK)
                e = find_row(cs, s, row, ec);
            if (e != ERR_OK)
                return e;
        }
    }
    return ch->need_copies ? err_set(ec, ERR_RETRY, "copies of other members may be in files") : ERR_OK;
}

enum err copies_find(struct chat_change *ch, struct txn *txn, uint64_t user_no, const struct changing *all,
    struct copies **ret, struct errctx *ec)
{
    struct copies *cs = arena_array(txn_arena(txn), 1, sizeof *cs);
    bool any = false;
    ch->need_copies = false;
    *ret = NULL;
    if (cs == NULL)
        return no_memory(ec);
    *cs = (struct copies){.ch = ch, .txn = txn, .user_no = user_no};
    cs->spreads = arena_array(txn_arena(txn), ch->nconversations, sizeof *cs->spreads);
    if (ch->nconversations > 0 && cs->spreads == NULL)
        return no_memory(ec);
    for (uint32_t k = 0; k < ch->nconversations; k++) {
        if (!all[k].loaded || all[k].c.group_no == 0)
            continue;
        cs->spreads[k] = arena_array(txn_arena(txn), 1, sizeof *cs->spreads[k]);
        if (cs->spreads[k] == NULL)
            return no_memory(ec);
        enum err e = spread_open(cs, &all[k].c, cs->spreads[k], ec);
        if (e != ERR_OK)
            return e;
        any = true;
    }
    if (!any)
        return ERR_OK;
    *ret = cs;
    enum err e = sort_rows(cs, ec);
    return e != ERR_OK ? e : find_rows(cs, ec);
}

/* ---- changing ----------------------------------------------------------------------------------------- */

static enum err update_one(
    struct copies *cs, struct conversation *c, uint32_t row, const struct copy_ref *ref, struct errctx *ec)
{
    struct value values[MSG_NCOLUMNS];
    memcpy(values, cs->ch->rows[row].values, sizeof values); /* the numbers in it are the caller's */
    return txn_message_update(cs->txn, c, values, ref->seq, ref->ins_seq, txn_cold_epoch(cs->txn, c->user_no),
        cs->ch->rows[row].ref_read, ec);
}

/* First and last id after a deletion, without a worker where the hot tier knows enough. */
static enum err settle_bounds(
    struct copies *cs, struct conversation *c, bool was_first, int64_t deleted, struct errctx *ec)
{
    uint64_t epoch = txn_cold_epoch(cs->txn, c->user_no);
    const struct copy_bounds *b = NULL;
    int64_t floor, first, last;
    enum err e = txn_conversation_hot_from(cs->txn, c, &floor, ec);
    if (e == ERR_OK && (floor == 0 || c->values[CONV_TOTAL_MESSAGES].i == 0))
        return txn_conversation_bounds(cs->txn, c, 0, 0, epoch, ec);
    if (e == ERR_OK)
        e = txn_hot_bounds(cs->txn, c, &first, &last, ec);
    if (e != ERR_OK)
        return e;
    if (!was_first && last >= floor)
        return txn_conversation_bounds(cs->txn, c, c->values[CONV_FIRST_MSG_ID].i, last, epoch, ec);
    e = ask_bounds(cs->ch->copies, c, epoch, deleted, &b, ec);
    if (e != ERR_OK)
        return e;
    if (b == NULL) {
        cs->ch->need_copies = true;
        return ERR_OK;
    }
    return txn_conversation_bounds(cs->txn, c, b->first, b->last, epoch, ec);
}

static bool is_id(struct value v, int64_t id)
{
    return !value_is_null(v) && v.i == id;
}

static enum err delete_one(
    struct copies *cs, struct conversation *c, uint32_t row, const struct copy_ref *ref, struct errctx *ec)
{
    const struct value *values = cs->ch->rows[row].values;
    int64_t id = values[MSG_ID].i;
    bool was_first = is_id(c->values[CONV_FIRST_MSG_ID], id),
         was_last = is_id(c->values[CONV_LAST_MSG_ID], id);
    enum err e = txn_message_delete(
        cs->txn, c, values, ref->seq, ref->ins_seq, txn_cold_epoch(cs->txn, c->user_no), ec);
    if (e == ERR_OK && (was_first || was_last))
        e = settle_bounds(cs, c, was_first, id, ec);
    return e;
}

typedef enum err change_one(
    struct copies *cs, struct conversation *c, uint32_t row, const struct copy_ref *ref, struct errctx *ec);

static enum err change_member(
    struct copies *cs, const struct spread *s, size_t m, change_one *fn, struct errctx *ec)
{
    struct conversation c;
    bool loaded = false;
    for (size_t i = 0; i < s->rows; i++) {
        uint32_t row = cs->order[s->first_row + i];
        const struct copy_ref *ref = &cs->refs[row][m];
        enum err e = ERR_OK;
        if (!ref->there)
            continue;
        if (!loaded)
            e = txn_conversation(cs->txn, s->members[m], s->g.values[CONV_ID].s, &c, ec);
        if (e == ERR_OK && !c.exists)
            e = err_internal(ec, ERR_CORRUPT, "a member has messages without their conversation");
        loaded = true;
        if (e == ERR_OK)
            e = fn(cs, &c, row, ref, ec);
        if (e != ERR_OK)
            return e;
    }
    return ERR_OK;
}

static enum err change_all(struct copies *cs, change_one *fn, struct errctx *ec)
{
    for (uint32_t k = 0; cs != NULL && k < cs->ch->nconversations; k++) {
        const struct spread *s = cs->spreads[k];
        for (size_t m = 0; s != NULL && m < s->nmembers; m++) {
            enum err e = change_member(cs, s, m, fn, ec);
            if (e != ERR_OK)
                return e;
        }
    }
    return ERR_OK;
}

enum err copies_update(struct copies *cs, struct errctx *ec)
{
    return change_all(cs, update_one, ec);
}

enum err copies_delete(struct copies *cs, struct errctx *ec)
{
    enum err e = change_all(cs, delete_one, ec);
    if (e == ERR_OK && cs != NULL && cs->ch->need_copies)
        e = err_set(ec, ERR_RETRY, "bounds of other members' conversations are in files");
    return e;
}
