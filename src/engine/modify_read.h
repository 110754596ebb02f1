/* The read phase of UPDATE and DELETE: everything the commit needs to know, taken from one snapshot. */
#ifndef KALAMDB_ENGINE_MODIFY_READ_H
#define KALAMDB_ENGINE_MODIFY_READ_H

#include "engine/fast.h"
#include "engine/query.h"
#include "engine/read.h"
#include "engine/spill.h"

struct modify {
    uint64_t columns;                           /* bit per column that UPDATE sets */
    struct value constants[SCHEMA_COLUMNS_MAX]; /* of the columns' types */
    bool has_expr;                              /* some assignment is computed from the row */
    int nexprs;
    bool need_bounds; /* a commit asked for them */
    struct chat_copies copies;

    /* One attempt. */
    struct arena arena;
    struct read_set set;
    struct rowset sources[2]; /* rows a worker read: the matching ones, the messages of conversations */
    int nsources;
    size_t nrows, cap_rows;
    struct chat_row *rows;            /* of the target; heap */
    struct value **exprs;             /* per row: values of the computed assignments; in arena */
    struct chat_change change;        /* messages, DELETE FROM conversations */
    struct spills spills;             /* UPDATE: large content, in files */
    struct chat_update update;        /* UPDATE conversations, conversation_users */
    struct chat_members_remove leave; /* DELETE FROM conversation_users */
    size_t nmessages, cap_messages;
    struct chat_row *messages; /* DELETE FROM conversations: what they hold; heap */
};

/* Forgets the attempt before. */
void modify_clear(struct modify *m);
/* 'text' with quotes doubled. */
void modify_quote(struct buf *b, struct str s);
/* Reads the matching rows and what their change needs. Where that takes a worker, or more than visited_max
 * rows, and `may_block` is false, *ret is not FAST_DONE and the attempt is void. */
enum err modify_read(
    struct kalamdb_query *q, size_t visited_max, bool may_block, enum fast_verdict *ret) CHECKED;

#endif
