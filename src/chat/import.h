/* Bringing rows back that were exported: what an archive may say, and the commits that write it. Like the
 * rest of chat, `*_check` on any thread, `*_apply` on the committer; pointers are the caller's. */
#ifndef KALAMDB_CHAT_IMPORT_H
#define KALAMDB_CHAT_IMPORT_H

#include "chat/chat.h"
#include "store/blob.h"

/* As a service's INSERT would have it, and complete: ids, numbers and types are given. Also checks texts
 * (UTF-8 without NUL) and JSON, since nothing did before. CONSTRAINT, INVALID_VALUE, TOO_LARGE, by column. */
enum err chat_import_check_message(const struct value *values, int64_t ids_below, uint64_t seq_max,
    const struct chat_limits *limits, struct errctx *ec) CHECKED;
enum err chat_import_check_conversation(const struct value *values, struct errctx *ec) CHECKED;
enum err chat_import_check_member(const struct value *values, struct errctx *ec) CHECKED;

struct chat_import_conversation {
    const struct value *values;
    const struct value *member; /* the exporting user's own row; NULL: none */
};
struct chat_import_message {
    struct value *values;    /* content_ref already the new one */
    const struct blob *blob; /* of a file placed for it; NULL: none was, or its record is there */
    bool there;              /* in: found in the owner's files under ids_epoch; out: was there, in any tier */
};

struct chat_import {
    struct str owner;
    uint64_t
        owner_no; /* the owner's; 0: not there when the import began. Take over from owner_now after OK */
    bool renew;   /* the first commit that writes begins a new history; cleared once it has */
    size_t nconversations, nmessages;
    const struct chat_import_conversation *conversations; /* made where they are not there */
    struct chat_import_message *messages;                 /* in the order of their new numbers */
    bool ids_looked_up;
    uint64_t ids_epoch;
    /* Out. */
    uint64_t owner_now;
    size_t inserted; /* messages */
    bool renewed;    /* take over into `renew` after OK */
    bool ids_unsure; /* with ERR_RETRY: look up the messages' ids in the owner's files, then submit again */
};
/* RETRY also when a file's record went meanwhile. CONFLICT: the owner was erased since owner_no was read, and
 * whoever has the id now is given nothing of theirs. */
enum err chat_import_apply(struct chat_import *im, struct txn *txn, struct errctx *ec) CHECKED;
/* An id that all ids in an archive must be below. */
int64_t chat_import_ids_below(struct txn *txn);

#endif
