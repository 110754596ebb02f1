/* Inside of api: what its files share. One `struct worker` per event loop; everything about it, its calls,
 * sessions and principals happens on that loop's thread. Counters are read by others. */
#ifndef KALAMDB_API_SERVER_H
#define KALAMDB_API_SERVER_H

#include "api/api.h"
#include "audit/audit.h"
#include "base/hist.h"
#include "kalamdb_admin.h"
#include "net/net.h"
#include <pthread.h>

/* ---- routes (router.c)
 * ------------------------------------------------------------------------------------------ */

/* X(symbol, methods, path; one that ends in a name in braces takes the rest of the path, which is not empty)
 */
#define ROUTE_LIST(X)                                                                                        \
    X(ROUTE_NONE, 0, "other")                                                                                \
    X(ROUTE_QUERY, ALLOW_POST, "/api/v1/query")                                                              \
    X(ROUTE_CONVERSATIONS, ALLOW_POST, "/api/v1/conversations")                                              \
    X(ROUTE_EVENTS, ALLOW_GET, "/api/v1/events")                                                             \
    X(ROUTE_WS, ALLOW_GET, "/ws")                                                                            \
    X(ROUTE_CONSOLIDATE, ALLOW_POST, "/api/v1/admin/consolidate")                                            \
    X(ROUTE_BACKUP, ALLOW_POST, "/api/v1/admin/backup")                                                      \
    X(ROUTE_KEYS, ALLOW_GET, "/api/v1/admin/keys")                                                           \
    X(ROUTE_KEYS_ROTATE, ALLOW_POST, "/api/v1/admin/keys/rotate")                                            \
    X(ROUTE_SWEEP, ALLOW_POST, "/api/v1/admin/sweep")                                                        \
    X(ROUTE_AUDIT, ALLOW_GET, "/api/v1/admin/audit")                                                         \
    X(ROUTE_REVOKE, ALLOW_GET | ALLOW_POST, "/api/v1/admin/tokens/revoke")                                   \
    X(ROUTE_USER, ALLOW_DELETE, "/api/v1/users/{id}")                                                        \
    X(ROUTE_MESSAGE_STREAM, ALLOW_POST, "/api/v1/messages/stream")                                           \
    X(ROUTE_MESSAGE, ALLOW_DELETE, "/api/v1/messages/{id}")                                                  \
    X(ROUTE_EXPORT, ALLOW_GET, "/api/v1/export")                                                             \
    X(ROUTE_IMPORT, ALLOW_POST, "/api/v1/import")                                                            \
    X(ROUTE_CONTENT, ALLOW_GET, "/api/v1/content/{content_ref}")                                             \
    X(ROUTE_TICKETS, ALLOW_POST, "/api/v1/tickets")                                                          \
    X(ROUTE_MEDIA, ALLOW_POST, "/api/v1/media")                                                              \
    X(ROUTE_HEALTH, ALLOW_GET, "/api/v1/health")                                                             \
    X(ROUTE_HEALTHZ, ALLOW_GET, "/healthz")                                                                  \
    X(ROUTE_READYZ, ALLOW_GET, "/readyz")                                                                    \
    X(ROUTE_METRICS, ALLOW_GET, "/metrics")

enum { ALLOW_GET = 1, ALLOW_POST = 2, ALLOW_DELETE = 4 };
enum route {
#define X(sym, methods, label) sym,
    ROUTE_LIST(X)
#undef X
        ROUTE_COUNT
};
/* The path of a request target (origin or absolute form), percent-decoded into the arena; *ret_query is the
 * raw query string. The path of content whose ref decodes to nothing stays raw. False: malformed. */
bool target_split(struct arena *a, struct str target, struct str *ret_path, struct str *ret_query);
enum route route_of(struct str path);
/* What stands in the place of the name in braces. */
struct str route_rest(enum route r, struct str path);
const char *route_label(enum route r);
bool route_allows(enum route r, enum http_method method);
struct str route_allow_header(enum route r); /* "Allow: …\r\n" */
bool percent_decode(struct arena *a, struct str raw, bool plus_is_space, struct str *ret);
/* Value of the first parameter `name`, decoded; ptr NULL when absent, false when malformed or not UTF-8. */
bool query_param(struct arena *a, struct str query, struct str name, struct str *ret);

/* ---- who calls (identity.c)
 * ------------------------------------------------------------------------------------- */

/* A verified token's bearer, shared by the cache and the sessions of one loop. */
struct principal {
    uint32_t refs;
    enum role role;
    int64_t expires_s;
    int64_t issued_s; /* INT64_MIN: the token does not say */
    uint64_t key_id;  /* what its token was signed with */
    /* kalamdb_erasures and auth_generation when it was last found not to be void */
    uint64_t checked, keys_checked;
    size_t user_id_len, jti_len; /* jti_len 0: none */
    char user_id[];              /* NUL-terminated, then the jti */
};
struct token_cache;
struct token_cache *token_cache_new(void);
void token_cache_free(struct token_cache *cache);
static inline struct kalamdb_str principal_id(const struct principal *p)
{
    return (struct kalamdb_str){p->user_id, p->user_id_len};
}
static inline struct kalamdb_str principal_jti(const struct principal *p)
{
    return (struct kalamdb_str){p->jti_len > 0 ? p->user_id + p->user_id_len + 1 : NULL, p->jti_len};
}
/* As whom the engine is called. */
static inline struct kalamdb_caller principal_caller(const struct principal *p)
{
    return (struct kalamdb_caller){
        principal_id(p), (enum kalamdb_role)p->role, p->issued_s != 0 ? p->issued_s : 1};
}
struct principal *principal_ref(struct principal *p);
void principal_unref(struct principal *p); /* NULL allowed */

/* ---- the server
 * --------------------------------------------------------------------------------------------------- */

#define STATUS_COUNT 28
struct route_counters {
    _Atomic uint64_t by_status[STATUS_COUNT];
    struct hist latency;
};

struct worker {
    struct server *server;
    struct net_loop *loop;
    struct token_cache *tokens;
    struct arena scratch;     /* one WebSocket message */
    struct buf text;          /* a message being written */
    struct session *sessions; /* all of this loop */
    struct ndjson *producers; /* likewise */
    struct net_task erased_task;
    _Atomic bool erased_posted;
    uint64_t ids_base, ids_next; /* subscription ids */
    struct route_counters routes[ROUTE_COUNT];
    _Atomic uint64_t messages_in, messages_out, slow_closed, limited, tokens_cached, tokens_verified;
};

struct limits { /* NULL: none */
    struct limit_rate *user, *address, *failures;
    struct limit_count *sockets;
};

struct server {
    const struct config *cfg;
    struct kalamdb *db;
    struct auth *auth;
    struct net *net;
    struct audit *audit; /* NULL: none is kept */
    struct net_handler handler;
    struct str *origins; /* allowed; into origins_text */
    int norigins;
    bool any_origin, origins_set;
    char *origins_text;
    int64_t started_s;
    uint64_t started_us;
    pthread_mutex_t receipt_lock;
    struct receipt_key *receipt_key; /* made when the first receipt is signed */
    struct limits limits;
    void (*reloaded)(void *arg); /* a certificate was; may be NULL */
    void *reloaded_arg;
    struct {
        pthread_t thread;
        pthread_mutex_t lock;
        pthread_cond_t wake;
        bool running, force, stop; /* the last two: lock */
    } watch;                       /* of the files of keys: revoke.c */
    bool has_metrics_token;
    uint8_t metrics_token_sha256[32];
};

/* A finished erasure, copied for its answer. */
struct erased_user {
    struct kalamdb_erasure erasure;
    size_t len;
    char id[];
};

/* Another user's rows, or members, that a statement names: audited.h. */
struct access_note {
    struct str user, conversation;
    bool write, members;
};
#define ACCESS_NOTES_MAX 8

/* One request under way; in its arena, as req->user. */
struct call {
    struct net_task task; /* posted by the engine's threads */
    struct net_job job;   /* a large answer being written */
    struct net_request *req;
    struct worker *worker;
    enum route route;
    struct str path, query_string;
    struct principal *who;       /* NULL: not asked */
    struct kalamdb_query *query; /* under way */
    struct kalamdb_result *result;
    struct kalamdb_error *error; /* heap */
    struct erased_user *erased;  /* heap */
    struct kalamdb_sweep_counts swept;
    struct kalamdb_backup *backup; /* heap */
    struct kalamdb_key_rotation rotation;
    bool failed, abandoned;          /* abandoned: the client left */
    void (*aborted)(struct call *c); /* told so, or that the time to shut down is up; may be NULL */
    void *owner;                     /* whoever set that */
    struct {
        struct str user, conversation, token, target; /* whom it is about, as far as its route has said */
        struct access_note notes[ACCESS_NOTES_MAX];
        int nnotes;
        bool notes_lost;
        bool wait, ok;        /* the answer waits for the log; did that work */
        struct net_task task; /* posted by the log's thread */
        int status;           /* of the answer that waits, as the next two */
        struct str content_type;
        struct buf head;
        uint64_t after;
    } audit;
};

static inline void counter_add(_Atomic uint64_t *c, int64_t by)
{
    atomic_store_explicit(
        c, atomic_load_explicit(c, memory_order_relaxed) + (uint64_t)by, memory_order_relaxed);
}

/* UNAUTHENTICATED with "token expired" or "invalid token". On success a reference for the caller. */
enum err identify(struct worker *w, struct str token, struct principal **ret, struct errctx *ec) CHECKED;
/* The bearer of a ticket for the file. UNAUTHENTICATED with "ticket expired" or "invalid ticket". */
enum err identify_ticket(struct worker *w, struct str ticket, struct str content_ref, struct principal **ret,
    struct errctx *ec) CHECKED;
/* The bearer token of the Authorization header; ptr NULL: none. */
struct str bearer_token(const struct net_request *req);
/* Is the token void before its end: was it revoked, the user erased after it was issued, its key taken away?
 * Asked on every request. */
bool principal_void(const struct server *s, struct principal *p);
/* principal_void or principal_expired: why, for a close frame; ptr NULL: it is good. */
struct str principal_ended(struct worker *w, struct principal *p);
/* Ends, on all loops, what speaks by tokens that have become void. Any thread. */
void server_end_void(struct server *s);
bool principal_expired(const struct server *s, const struct principal *p, int64_t now_s);

/* ---- answers (answer.c): each ends the call
 * ---------------------------------------------------------------------- */

void answer(struct call *c, int status, struct str content_type, struct str headers);
void answer_json(struct call *c, int status); /* req->body is the JSON */
void answer_error(struct call *c, enum err code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void answer_errctx(struct call *c, const struct errctx *ec);
void answer_engine_error(struct call *c, const struct kalamdb_error *e);
/* What call_done kept of the engine's error; INTERNAL when memory ran out for that. */
void answer_failure(struct call *c);
/* 200 with req->body, an object that is still open, and the time that the call took. */
void answer_timed(struct call *c);
/* Bytes of a file, which is closed after; see net_respond_file. */
void answer_file(struct call *c, int status, struct str content_type, struct str headers,
    struct net_file file, uint64_t offset, uint64_t length);
/* What net says of a request that is none, or of a body that will not come whole. */
void answer_http_failure(struct call *c, int status, const char *why);
/* Any status of HTTP with an error body; `headers` beyond the usual. */
void answer_status(struct call *c, int status, struct str code, struct str message, struct str headers);
/* CORS lines for this request into h. */
void cors_headers(const struct call *c, struct buf *h);
bool origin_allowed(const struct server *s, struct str origin);
int status_of_index(int i);
void count_answer(struct call *c, int status);
/* Lets go of what a call holds when it turns into a stream. */
void call_release(struct call *c);

/* ---- limits (limits.c)
 * ------------------------------------------------------------------------------------------ */

enum err limits_open(struct server *s, struct errctx *ec) CHECKED;
void limits_close(struct server *s);
size_t limits_connections(const struct config *c); /* after the limit of open files was raised */
/* True: it is over the limit and was answered with 429. */
bool limited_address(struct call *c);
bool limited_user(struct call *c);
bool limited_failure(struct call *c); /* instead of a 401 */

/* ---- routes' code
 * ------------------------------------------------------------------------------------------------- */

void serve_query(struct call *c);
/* X-Durability of a write; false: it was answered with an error. */
bool call_durability(struct call *c, enum kalamdb_durability *ret);
void serve_message(struct call *c);
void serve_conversations(struct call *c);
void serve_consolidate(struct call *c);
void serve_backup(struct call *c);
void serve_keys(struct call *c);
void serve_keys_rotate(struct call *c);
void serve_sweep(struct call *c);
void serve_revoke(struct call *c);
/* Looks every two seconds whether the files of keys have changed, where there are any; reads them at once
 * when told to; ends it. */
void server_watch_keys(struct server *s);
void server_refresh_keys(struct server *s);
void server_unwatch_keys(struct server *s);
void serve_user(struct call *c);
/* Closes connections of users that are erased, from now on or no more. */
void server_follow_erasures(struct server *s, bool on);
void serve_export(struct call *c);
/* From the request's head on: takes the body as it comes. */
void serve_import(struct call *c);
void serve_message_stream(struct call *c);
void serve_content(struct call *c);
void serve_tickets(struct call *c);
/* From the head on: takes the body as it comes. */
void serve_media(struct call *c);
/* Puts the bearer of the Authorization header (on streams also the query's `token`) into c->who. False: it is
 * answered. */
bool authenticate(struct call *c);
void serve_health(struct call *c);
void serve_healthz(struct call *c);
void serve_readyz(struct call *c);
void serve_metrics(struct call *c);
void serve_ws(struct call *c);
void serve_events(struct call *c);
/* kalamdb_done for calls: hands the outcome to the loop; `c->task.run` continues there. */
void call_done(void *arg, struct kalamdb_result *result, const struct kalamdb_error *error);
/* The call that is at the engine on this thread; NULL: none. */
struct call *call_submitting(void);
/* Marks, for call_done, that the engine was called from this thread for c and may answer before it returns.
 */
void call_submit_begin(struct call *c);
/* Did it? Then run the continuation now. */
bool call_submit_end(struct call *c);

static inline struct kalamdb_str kstr(struct str s)
{
    return (struct kalamdb_str){s.ptr, s.len};
}

#endif
