/* Groups: conversations that several users share. The store's second public header, apart from store.h
 * because `struct group` is also POSIX's name for something else, and most who read rows need to know nothing
 * of it.
 *
 * A group has a partition of its own, numbered like a user: its record and one list of members, present and
 * past. Every member has a copy of each message, an own row in `conversations` and an own conv_no; the
 * membership (user, conv_no) → group says which group a conversation belongs to. Past members stay listed, so
 * that every copy of a message can be found; SQL does not show them.
 *
 *   catalog: conversation id ──► group_no ──► group record
 *                                    ├──► members by user id: user_no, role, present …
 *                                    └──► client ids of senders
 *   user:    conversation id ──► conv_no ──► membership: group_no, present
 *
 * Threading and ownership as in store.h: everything with a txn on the committer inside apply(). */
#ifndef KALAMDB_STORE_GROUP_H
#define KALAMDB_STORE_GROUP_H

#include "store/store.h"

/* Ascending rank; on disk and in SQL as text. */
enum member_role { ROLE_OF_MEMBER, ROLE_OF_ADMIN, ROLE_OF_OWNER };
struct str member_role_name(enum member_role role);
/* False: no such role. */
bool member_role_of(struct str name, enum member_role *ret);

/* Read for change. Values borrow from the txn's arena, or from where the caller took them. */
struct group {
    uint64_t group_no; /* 0: never written */
    bool exists;
    bool history_shared;                /* metadata says "history":"shared"; the caller keeps it so */
    uint32_t nmembers;                  /* present ones; kept by txn_group_member_put */
    int64_t last_msg_id;                /* newest message ever sent to it; 0: none */
    uint64_t nmessages;                 /* ever sent to it */
    struct value values[CONV_NCOLUMNS]; /* ID, TYPE, TITLE, CREATED, METADATA; the others NULL */
};

struct member {
    uint64_t user_no;
    struct str user_id;
    enum member_role role;
    bool present;
    int64_t history;                      /* cursor of a history copy; 0: none */
    struct value values[MEMBER_NCOLUMNS]; /* as in conversation_users; ROLE is written from `role` */
};

/* Always OK for an absent one (exists = false). */
enum err txn_group(struct txn *txn, struct str conversation_id, struct group *ret, struct errctx *ec) CHECKED;
/* By number. NOT_FOUND: it is gone; its list of members is still there. */
enum err txn_group_no(struct txn *txn, uint64_t group_no, struct group *ret, struct errctx *ec) CHECKED;
/* Writes the record; a new group gets its number and its entry in the catalog. */
enum err txn_group_put(struct txn *txn, struct group *g, struct errctx *ec) CHECKED;
/* Record and catalog entry go: another group may take the id. Members and client ids stay. */
enum err txn_group_delete(struct txn *txn, struct group *g, struct errctx *ec) CHECKED;

/* NOT_FOUND: never was a member. Past ones are found: see `present`. */
enum err txn_group_member(struct txn *txn, const struct group *g, struct str user_id, struct member *ret,
    struct errctx *ec) CHECKED;
/* Writes the entry and counts g->nmembers; the caller puts the group. values[] borrow or own as they like. */
enum err txn_group_member_put(struct txn *txn, struct group *g, struct member *m, struct errctx *ec) CHECKED;
/* Makes a present member a past one, in the list and in the user's membership. */
/* Was the key of the user's partition destroyed? Their own rows cannot be read or written any more. */
bool txn_partition_lost(struct txn *txn, uint64_t user_no);
enum err txn_group_member_remove(
    struct txn *txn, struct group *g, struct member *m, struct errctx *ec) CHECKED;
/* By user id; in the txn's arena. */
enum err txn_group_members(struct txn *txn, const struct group *g, bool include_past, struct member **ret,
    size_t *ret_n, struct errctx *ec) CHECKED;
/* Present members by number, ascending; borrowed until the group's members change or the apply ends. */
enum err txn_group_present(
    struct txn *txn, const struct group *g, const uint64_t **ret, size_t *ret_n, struct errctx *ec) CHECKED;
/* The group of a copy that came from elsewhere: none here has this number, and nobody is a present member. */
#define GROUP_ELSEWHERE UINT64_MAX
/* What `c` of a user is a copy of. An earlier group of that conversation, if another, is remembered. */
enum err txn_membership_put(struct txn *txn, const struct conversation *c, uint64_t group_no, bool present,
    struct errctx *ec) CHECKED;

/* One message to all present members, the same row in each; values[MSG_ID] etc. are set by the caller, the
 * change numbers that `viewer` (a user_no) gets come back in MSG_SEQ and MSG_INS_SEQ. Puts *g. */
enum err txn_group_insert(
    struct txn *txn, struct group *g, struct value *values, uint64_t viewer, struct errctx *ec) CHECKED;
/* The user's conversation row as an event; nothing is written. Absent: nothing. */
enum err txn_conversation_announce(
    struct txn *txn, uint64_t user_no, struct str conversation_id, struct errctx *ec) CHECKED;
/* The user's id, in the txn's arena. NOT_FOUND. */
enum err txn_user_id(struct txn *txn, uint64_t user_no, struct str *ret, struct errctx *ec) CHECKED;
/* The present members' conversation rows as events to those that are followed; nothing is written. */
enum err txn_group_announce(struct txn *txn, const struct group *g, struct errctx *ec) CHECKED;

/* Idempotency keys of a group, by sender; otherwise as txn_client_id_*. */
static inline enum err txn_group_client_id_find(struct txn *txn, uint64_t group_no, struct str from,
    struct str client_id, int64_t *ret_msg_id, struct errctx *ec)
{
    return txn_client_id_find(txn, group_no, 0, from, client_id, ret_msg_id, ec);
}
static inline enum err txn_group_client_id_put(struct txn *txn, uint64_t group_no, struct str from,
    struct str client_id, int64_t msg_id, struct errctx *ec)
{
    return txn_client_id_put(txn, group_no, 0, from, client_id, msg_id, ec);
}

/* ---- one user's copy of a message --------------------------------------------------------------------- */

enum copy_state {
    COPY_ABSENT,      /* in neither tier */
    COPY_HOT,         /* `meta`, `row` (the envelope) and `conv_no` say where and how it stands */
    COPY_DELETED,     /* a tombstone; `meta` is its own */
    COPY_COLD_PERHAPS /* a file's range covers the id: see cold_lookup */
};
struct message_copy {
    enum copy_state state;
    uint32_t conv_no;
    struct row_meta meta;
    struct str row;
    uint64_t cold_epoch; /* of the user, now */
};
enum err txn_copy_find(
    struct txn *txn, uint64_t user_no, int64_t msg_id, struct message_copy *ret, struct errctx *ec) CHECKED;

/* Questions to users' files that an apply cannot ask itself. It answers ERR_RETRY with those it has; the job
 * thread asks a worker per user (snapshot_open_no; the answer holds for the epoch of that snapshot), writes
 * the answers in and submits again; an answer of another epoch counts for nothing and is asked again.
 * Zeroed: empty. Owns its memory; one thread at a time. */
struct cold_question {
    uint64_t user_no, epoch;
    int64_t msg_id;
    bool answered, found; /* found: a file holds the row, with these numbers */
    uint64_t seq, ins_seq;
    uint64_t conversation; /* str_hash of the row's conversation_id: ids are the user's, whatever it is of */
};
struct cold_lookup {
    size_t n, cap, open; /* open: not answered yet */
    struct cold_question *items;
    size_t nslots; /* a hash table over the items, a power of two */
    uint32_t *slots;
};
void cold_lookup_release(struct cold_lookup *l);
/* The answer for the copy's epoch; NULL: not known, and now it is among the questions. ERR_NO_MEMORY. */
enum err cold_lookup_ask(struct cold_lookup *l, uint64_t user_no, uint64_t epoch, int64_t msg_id,
    const struct cold_question **ret) CHECKED;
/* From the job thread, with the epoch that it found. */
void cold_lookup_answer(struct cold_lookup *l, struct cold_question *q, uint64_t epoch, bool found,
    uint64_t seq, uint64_t ins_seq);

/* ---- outside the committer ---------------------------------------------------------------------------- */

/* The same view by number. NOT_FOUND: no such user. */
enum err snapshot_open_no(
    struct store *s, uint64_t user_no, struct snapshot **ret, struct errctx *ec) CHECKED;
/* The conversation of the snapshot's user as far as its members go. NOT_FOUND: no such conversation.
 * group_no 0: their own ai conversation, in which they are present. */
struct conversation_place {
    uint32_t conv_no;
    uint64_t group_no;
    bool present;
};
enum err snapshot_place(struct snapshot *snap, struct str conversation_id, struct conversation_place *ret,
    struct errctx *ec) CHECKED;
/* OK: the snapshot's user is a present member (or the owner) of the conversation; else NOT_FOUND. */
enum err snapshot_member(struct snapshot *snap, struct str conversation_id, struct errctx *ec) CHECKED;
/* Numbers of the present members of that conversation, the user's own among them; until snapshot_close.
 * NOT_FOUND as snapshot_member. */
enum err snapshot_members(struct snapshot *snap, struct str conversation_id, const uint64_t **ret,
    size_t *ret_n, struct errctx *ec) CHECKED;
/* A group by its conversation id, whoever asks: its number. NOT_FOUND. */
enum err snapshot_group_no(
    struct snapshot *snap, struct str conversation_id, uint64_t *ret, struct errctx *ec) CHECKED;
/* *ret: it is a group's id, and the snapshot's user never was in it: who has left it may still retry. */
enum err snapshot_stranger(
    struct snapshot *snap, struct str conversation_id, bool *ret, struct errctx *ec) CHECKED;

#endif
