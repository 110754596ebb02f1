/* KalamDB, the SQL database for conversations, as a library.
 *
 * One process opens a data directory; any number of threads use the handle. Errors are values: a function
 * that can fail returns a `kalamdb_code` (0 = OK) and fills the caller's kalamdb_error; outputs are untouched
 * on failure. Strings are pointer and length, UTF-8, not NUL-terminated; those inside results and events live
 * as long as these. */
#ifndef KALAMDB_H
#define KALAMDB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KALAMDB_VERSION "0.1.0"

struct kalamdb;
struct kalamdb_result;
struct kalamdb_query;
struct kalamdb_subscription;
struct kalamdb_change;

struct kalamdb_str {
    const char *ptr;
    size_t len;
};

/* The codes are those of the HTTP API; kalamdb_code_name() gives the wire name ("SYNTAX_ERROR"),
 * kalamdb_code_status() the HTTP status. */
typedef int kalamdb_code;
#define KALAMDB_OK 0
const char *kalamdb_code_name(kalamdb_code code);
int kalamdb_code_status(kalamdb_code code);

struct kalamdb_error {
    kalamdb_code code;
    int position;      /* 1-based byte in the SQL; 0: unknown */
    char message[512]; /* what a client may read */
    char detail[512];  /* "" : none */
    char hint[256];
    char internal[512]; /* for the host's log only */
};

/* What becomes, in other people's groups, of what an erased user sent: the sender's name goes; the content
 * goes too; everything stays. */
enum kalamdb_erase_sent { KALAMDB_ANONYMIZE, KALAMDB_REDACT, KALAMDB_KEEP };

enum kalamdb_durability { KALAMDB_DURABILITY_DEFAULT, KALAMDB_SYNC, KALAMDB_ASYNC };

/* Start from kalamdb_options_default(); sizes in bytes, times in the unit of the name. */
struct kalamdb_options {
    const char *data_dir;
    const char *worker_path; /* kalamdb-worker; NULL: found by itself */
    enum kalamdb_durability durability;
    int async_window_ms;
    int query_timeout_ms;
    size_t max_result_rows;
    size_t max_sql_bytes;
    size_t max_content_bytes;
    size_t large_content_bytes;    /* content of so many bytes or more becomes a file */
    uint64_t max_media_bytes;      /* of one upload */
    uint64_t max_import_bytes;     /* of one archive */
    uint64_t max_user_media_bytes; /* of all media that a user has uploaded and that is still there; 0: any */
    const char *media_types; /* uploads of these types only, by their bytes, comma-separated; NULL: any */
    size_t max_changed_rows; /* rows one UPDATE or DELETE may change */
    uint32_t max_group_members;
    int consolidate_rows;
    int64_t consolidate_interval_ms; /* 0: never by itself */
    int consolidate_min_rows;
    int hot_tail_rows;
    int64_t tombstone_retention_s;
    uint64_t disk_reserve_bytes;
    int workers; /* DuckDB processes busy at once */
    size_t worker_memory_bytes;
    bool worker_uncaged; /* for kernels without Landlock or seccomp, where kalamdb_open refuses otherwise */
    size_t block_cache_bytes;
    size_t write_buffer_bytes;
    uint64_t cold_cache_bytes; /* of Parquet files kept in memory for workers; 0: none */
    enum kalamdb_erase_sent erase_sent;
    bool encryption;             /* of everything at rest; fixed when the directory is made */
    const char *master_key_file; /* 32 raw bytes, hex or base64 */
    const char *master_key;      /* hex or base64; only one of the two. Not read after kalamdb_open. Neither:
                                    .kalamdb/master.key in the directory, made with it */
    bool inspect;                /* nothing is repaired after the opening: for kalamdb_verify */
};
void kalamdb_options_default(struct kalamdb_options *ret);

/* Opens or creates the directory. CONFLICT: another process has it. */
kalamdb_code kalamdb_open(
    const struct kalamdb_options *options, struct kalamdb **ret, struct kalamdb_error *error);
/* Ends queries and subscriptions (their callbacks get UNAVAILABLE / a close), makes everything durable. No
 * other call may be running or follow; results and changes already handed out stay valid. */
void kalamdb_close(struct kalamdb *db);

enum kalamdb_role { KALAMDB_USER, KALAMDB_SERVICE, KALAMDB_ADMIN };
struct kalamdb_caller {
    struct kalamdb_str user_id;
    enum kalamdb_role role;
    /* When the token that says so was issued (INT64_MIN: it does not say): writes are UNAUTHENTICATED once
     * the user was erased after it. 0: the host vouches for the caller. */
    int64_t issued_s;
};
/* May this be a user id (contract, section 1)? */
bool kalamdb_user_id_valid(struct kalamdb_str id);

enum kalamdb_type {
    KALAMDB_NULL = 0,
    KALAMDB_BOOL = 1,
    KALAMDB_BIGINT = 2,
    KALAMDB_DOUBLE = 3,
    KALAMDB_TEXT = 4,
    KALAMDB_JSON = 5,
    KALAMDB_TIMESTAMPTZ = 6,
    KALAMDB_BLOB = 7,
    KALAMDB_HUGEINT = 8,
    KALAMDB_DECIMAL = 9,
    KALAMDB_TIMESTAMP = 10,
    KALAMDB_DATE = 11,
    KALAMDB_TIME = 12,
    KALAMDB_INTERVAL = 13,
    KALAMDB_UUID = 14,
    KALAMDB_LIST = 15
};
/* BOOL and BIGINT in i, timestamps in i as microseconds since 1970 UTC, DOUBLE in d, all others as text or
 * bytes. */
struct kalamdb_value {
    enum kalamdb_type type; /* of the value; KALAMDB_NULL for NULL */
    int64_t i;
    double d;
    struct kalamdb_str s;
};

struct kalamdb_statement {
    struct kalamdb_caller caller;
    struct kalamdb_str sql;
    const struct kalamdb_value *params; /* $1 … */
    int nparams;
    enum kalamdb_durability durability; /* of a write */
    int timeout_ms;                     /* 0: the option's */
    /* A DELETE of one message of a group takes every member's copy, by the rights of an UPDATE. */
    bool for_everyone;
};

/* Runs one statement and waits. */
kalamdb_code kalamdb_exec(struct kalamdb *db, const struct kalamdb_statement *statement,
    struct kalamdb_result **ret, struct kalamdb_error *error);

/* Runs one statement without blocking. `done` is called exactly once: before this returns, on this thread,
 * when the answer needed no waiting, else from an engine thread; it must not block. It owns the result (NULL
 * on error). *ret_query (may be NULL) is set only when the call is still under way; it is valid until `done`
 * has returned — or until kalamdb_query_free, which must be called exactly once for it, by any thread, at any
 * time. */
typedef void kalamdb_done(void *arg, struct kalamdb_result *result, const struct kalamdb_error *error);
void kalamdb_exec_async(struct kalamdb *db, const struct kalamdb_statement *statement, kalamdb_done *done,
    void *arg, struct kalamdb_query **ret_query);

/* Makes a conversation with its first members, in one commit: what INSERT INTO conversations and INSERT INTO
 * conversation_users do in two statements. The result has its row of `conversations`. CONFLICT: it exists.
 * The rest as kalamdb_exec_async. */
struct kalamdb_member {
    struct kalamdb_str user_id;
    struct kalamdb_str role; /* "owner", "admin", "member"; ptr NULL: member */
};
struct kalamdb_new_conversation {
    struct kalamdb_caller caller;
    struct kalamdb_str user_id;         /* whose conversation; ptr NULL: the caller's */
    struct kalamdb_str conversation_id; /* ptr NULL: refused */
    struct kalamdb_str type;            /* "ai" or "group"; ptr NULL: ai, or group when there are members */
    struct kalamdb_str title, metadata; /* ptr NULL: none; metadata is JSON */
    const struct kalamdb_member *members;
    size_t nmembers;
    enum kalamdb_durability durability;
};
void kalamdb_create_conversation(struct kalamdb *db, const struct kalamdb_new_conversation *conversation,
    kalamdb_done *done, void *arg, struct kalamdb_query **ret_query);

/* Stops the work; `done` then reports TIMEOUT, unless it was finished anyhow. A queued write is not taken
 * back. */
void kalamdb_query_cancel(struct kalamdb_query *query);
void kalamdb_query_free(struct kalamdb_query *query);

/* Results: immutable, one thread at a time. Rows and counts together with RETURNING. */
int kalamdb_result_columns(const struct kalamdb_result *r);
struct kalamdb_str kalamdb_result_column_name(const struct kalamdb_result *r, int column);
const char *kalamdb_result_column_type(const struct kalamdb_result *r, int column); /* "BIGINT", "TEXT" … */
size_t kalamdb_result_rows(const struct kalamdb_result *r);
bool kalamdb_result_truncated(const struct kalamdb_result *r);
void kalamdb_result_value(const struct kalamdb_result *r, size_t row, int column, struct kalamdb_value *ret);
bool kalamdb_result_is_write(const struct kalamdb_result *r);
int64_t kalamdb_result_rows_affected(const struct kalamdb_result *r);
/* Ids of an INSERT into messages, one per row of the statement in order (retries by client_msg_id included).
 */
size_t kalamdb_result_inserted(const struct kalamdb_result *r, const int64_t **ret_ids);
double kalamdb_result_execution_ms(const struct kalamdb_result *r);
void kalamdb_result_free(struct kalamdb_result *r);
/* Appends the HTTP API's JSON answer of this result by repeated calls of `write`. */
void kalamdb_result_json(
    const struct kalamdb_result *r, void (*write)(void *arg, const char *ptr, size_t len), void *arg);

/* ---- live
 * --------------------------------------------------------------------------------------------------- */

struct kalamdb_subscribe {
    struct kalamdb_caller caller;
    struct kalamdb_str user_id;         /* whose changes; ptr NULL: the caller's */
    struct kalamdb_str conversation_id; /* ptr NULL: all */
    bool has_last_seq, has_last_msg_id;
    uint64_t last_seq;
    int64_t last_msg_id;
    struct kalamdb_str feed; /* ptr NULL: not given */
    /* Something may be there: call kalamdb_subscription_next until it says PENDING. Called from any thread,
     * also before kalamdb_subscribe returns; must not block nor call the library. Coalesced: once until the
     * next PENDING. */
    void (*wake)(void *arg);
    void *arg;
};

enum kalamdb_event_kind {
    KALAMDB_EVENT_PENDING,         /* nothing now; wake comes */
    KALAMDB_EVENT_ACK,             /* first event: feed, seq, resync */
    KALAMDB_EVENT_CHANGE,          /* op, seq, change */
    KALAMDB_EVENT_REPLAY_COMPLETE, /* message_count, last_msg_id, seq */
    KALAMDB_EVENT_CONVERSATION,    /* change: latest state of a conversation row */
    KALAMDB_EVENT_CLOSED,          /* code says why; no more events */
    KALAMDB_EVENT_APPEND, /* change: text of an open message, at an offset; 0: in place of what was there */
    KALAMDB_EVENT_SIGNAL  /* change: a signal as JSON; seq numbers signals, the same on all subscriptions */
};
enum kalamdb_change_op { KALAMDB_INSERT, KALAMDB_UPDATE, KALAMDB_DELETE };
struct kalamdb_event {
    enum kalamdb_event_kind kind;
    enum kalamdb_change_op op;
    uint64_t seq;
    bool resync;
    struct kalamdb_str feed;       /* lives as long as the subscription */
    struct kalamdb_change *change; /* the caller's reference: kalamdb_change_unref */
    uint64_t message_count;
    int64_t last_msg_id;
    kalamdb_code code;
};

/* FORBIDDEN for another user's id with role user. The ack comes as the first event. */
kalamdb_code kalamdb_subscribe(struct kalamdb *db, const struct kalamdb_subscribe *options,
    struct kalamdb_subscription **ret, struct kalamdb_error *error);
/* The next event; never waits. One thread at a time per subscription. In _seq order, without loss or
 * duplicate; one that is not called keeps bounded memory and is later served from storage. */
enum kalamdb_event_kind kalamdb_subscription_next(struct kalamdb_subscription *s, struct kalamdb_event *ret);
/* No wake is running nor will come after this returned. */
void kalamdb_unsubscribe(struct kalamdb_subscription *s);

/* The row as a JSON object by column name (a delete: msg_id and conversation_id; an append: these, offset and
 * text; a signal: conversationId, from, kind, data). Encoded once, shared by all. */
struct kalamdb_str kalamdb_change_json(struct kalamdb_change *c);
void kalamdb_change_ref(struct kalamdb_change *c);
void kalamdb_change_unref(struct kalamdb_change *c);

/* Convenience for hosts without an event loop: `on_event` is called in order from a thread of the library; a
 * change is unreferenced after it returns. options->wake and ->arg are ignored. End it with
 * kalamdb_unsubscribe (not from inside on_event). */
kalamdb_code kalamdb_listen(struct kalamdb *db, const struct kalamdb_subscribe *options,
    void (*on_event)(void *arg, const struct kalamdb_event *event), void *arg,
    struct kalamdb_subscription **ret, struct kalamdb_error *error);

/* ---- streamed replies and signals
 * ------------------------------------------------------------------------------------------------------- */

/* One source of streamed messages, such as a connection: what it begins or appends to is its own until
 * another source appends to it. Calls of one producer come from one thread at a time. */
struct kalamdb_producer;

enum kalamdb_stream_event_kind {
    KALAMDB_STREAM_PENDING, /* nothing now; wake comes */
    KALAMDB_STREAM_BEGUN, /* msg_id; offset: bytes that are there (more than 0 where a begin was repeated) */
    KALAMDB_STREAM_ACK, /* msg_id; offset: this much is durable. One for many appends where they come fast */
    KALAMDB_STREAM_ENDED, /* msg_id; offset: bytes of the whole text */
    KALAMDB_STREAM_ERROR  /* error; msg_id, and where has_offset the offset at which to go on */
};
struct kalamdb_stream_event {
    enum kalamdb_stream_event_kind kind;
    uint64_t tag; /* of the call that it answers; of an ACK 0 */
    int64_t msg_id;
    uint64_t offset;
    bool has_offset;
    bool ended; /* BEGUN: a begin was repeated after the end */
    struct kalamdb_error error;
};

/* `wake` as in kalamdb_subscribe: then call kalamdb_producer_next until PENDING. UNAVAILABLE: closing. */
kalamdb_code kalamdb_producer_open(struct kalamdb *db, void (*wake)(void *arg), void *arg,
    struct kalamdb_producer **ret, struct kalamdb_error *error);
/* Its open messages are marked as interrupted, with all of their text. No wake is running nor will come. */
void kalamdb_producer_close(struct kalamdb_producer *p);
enum kalamdb_stream_event_kind kalamdb_producer_next(
    struct kalamdb_producer *p, struct kalamdb_stream_event *ret);
/* Is an event still to come for what was called? When it turns false without one, `wake` is called. */
bool kalamdb_producer_busy(struct kalamdb_producer *p);

/* Strings are copied; ptr NULL: not given. */
struct kalamdb_stream_begin {
    struct kalamdb_caller caller;
    struct kalamdb_str user_id; /* in whose conversation; the caller's own where not given */
    struct kalamdb_str conversation_id, conversation_type, from;
    struct kalamdb_str metadata;      /* a JSON object */
    struct kalamdb_str client_msg_id; /* a repeated begin gives the same message */
};
/* Each is answered by events: BEGUN, ACKs or ENDED, or an ERROR with the tag. */
void kalamdb_stream_begin(struct kalamdb_producer *p, const struct kalamdb_stream_begin *begin, uint64_t tag);
/* Text that follows `offset` bytes. What is there already and agrees is acknowledged again. An interrupted
 * message is opened again by an append at its end. */
void kalamdb_stream_append(struct kalamdb_producer *p, const struct kalamdb_caller *caller, int64_t msg_id,
    uint64_t offset, struct kalamdb_str text, uint64_t tag);
/* `metadata` is merged into the message's. */
void kalamdb_stream_end(struct kalamdb_producer *p, const struct kalamdb_caller *caller, int64_t msg_id,
    struct kalamdb_str metadata, uint64_t tag);

/* Reaches the other members of the conversation that follow it at this moment; never stored. */
struct kalamdb_signal {
    struct kalamdb_caller caller;
    struct kalamdb_str user_id; /* in whose conversation; the caller's own where not given */
    struct kalamdb_str conversation_id, from;
    struct kalamdb_str kind; /* 1 to 64 bytes */
    struct kalamdb_str data; /* JSON of at most 4 KiB; ptr NULL: none */
};
/* FORBIDDEN: no member, or a sender that is not the caller's to use. INVALID_REQUEST. */
kalamdb_code kalamdb_signal(
    struct kalamdb *db, const struct kalamdb_signal *signal, struct kalamdb_error *error);

#ifdef __cplusplus
}
#endif
#endif
