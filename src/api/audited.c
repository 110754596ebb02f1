#include "api/audited.h"
#include "base/json.h"
#include "base/log.h"
#include <stdio.h>
#include <stdlib.h>

#define READ_MAX 1000
#define ADMIN_PREFIX STR("/api/v1/admin/")

/* ---- records ------------------------------------------------------------------------------------------ */

static struct str text_of(struct kalamdb_str s)
{
    return str_n(s.ptr, s.ptr != NULL ? s.len : 0);
}

static struct str role_of(enum role role)
{
    return role == ROLE_ADMIN ? STR("admin") : role == ROLE_SERVICE ? STR("service") : STR("user");
}

static void put_who(struct audit_record *r, const struct principal *who)
{
    if (who == NULL)
        return;
    r->sub = str_n(who->user_id, who->user_id_len);
    r->role = role_of(who->role);
    r->jti = text_of(principal_jti(who));
}

static bool is_admin_route(enum route route)
{
    return str_starts_with(str_c(route_label(route)), ADMIN_PREFIX);
}

static const char *event_of(const struct call *c)
{
    switch (c->route) {
    case ROUTE_USER:
        return "erase";
    case ROUTE_EXPORT:
        return "export";
    case ROUTE_IMPORT:
        return "import";
    case ROUTE_CONVERSATIONS:
        return "members";
    default:
        return is_admin_route(c->route) ? route_label(c->route) + sizeof "/api/v1" : NULL;
    }
}

static void add_notes(struct call *c, const struct audit_record *base)
{
    struct audit *a = c->worker->server->audit;
    for (int i = 0; i < c->audit.nnotes; i++) {
        const struct access_note *n = &c->audit.notes[i];
        struct audit_record r = *base;
        r.user = n->user;
        if (n->members) {
            r.event = "members";
            r.conversation = n->conversation;
            audit_add(a, &r);
        } else {
            r.event = n->write ? "write" : "read";
            audit_add_folded(a, &r);
        }
    }
    if (c->audit.notes_lost) {
        struct audit_record r = *base;
        r.event = "read";
        r.user = STR("(further users)");
        audit_add_folded(a, &r);
    }
}

void audit_call(struct call *c, int status)
{
    struct audit *a = c->worker->server->audit;
    const char *event = event_of(c);
    if (a == NULL || (event == NULL && status != 401 && status != 403 && c->audit.nnotes == 0 &&
                         (c->route != ROUTE_CONTENT || c->who == NULL || c->who->role == ROLE_USER)))
        return;
    char address[NET_ADDRESS_BYTES] = "", outcome[16];
    net_address(c->req->conn, address);
    snprintf(outcome, sizeof outcome, "%d", status);
    struct audit_record r = {.address = str_c(address), .outcome = str_c(outcome)};
    put_who(&r, c->who);
    if (status == 401) {
        r = (struct audit_record){.event = "auth_failed",
            .address = r.address,
            .target = str_c(route_label(c->route)),
            .outcome = r.outcome};
        audit_add_folded(a, &r);
        return;
    }
    if (status == 403) {
        r.event = "forbidden";
        r.target = str_c(route_label(c->route));
        r.user = c->audit.user;
        audit_add_folded(a, &r);
        return;
    }
    if (c->route == ROUTE_CONTENT && c->who != NULL && c->who->role != ROLE_USER) {
        struct audit_record read = r;
        read.event = "read";
        read.target = route_rest(c->route, c->path);
        if (read.target.len > 512)
            read.target.len = utf8_cut(read.target, 512);
        audit_add_folded(a, &read);
    }
    add_notes(c, &r);
    if (event == NULL)
        return;
    r.event = event;
    r.user = c->audit.user;
    r.conversation = c->audit.conversation;
    r.token = c->audit.token;
    r.target = c->audit.target;
    audit_add(a, &r);
    c->audit.wait = is_admin_route(c->route) || c->route == ROUTE_USER;
}

/* On the thread that gives the statement. */
static void on_access(void *arg, const struct kalamdb_access *access)
{
    struct server *s = arg;
    struct call *c = call_submitting();
    struct str user = text_of(access->user_id), conversation = text_of(access->conversation_id);
    if (c == NULL) { /* the end of an upload, a stream: their requests are told of elsewhere */
        struct audit_record r = {.event = access->members ? "members"
                                          : access->write ? "write"
                                                          : "read",
            .sub = text_of(access->caller.user_id),
            .role = role_of((enum role)access->caller.role),
            .user = user};
        audit_add_folded(s->audit, &r);
        return;
    }
    if (c->audit.nnotes == ACCESS_NOTES_MAX) {
        c->audit.notes_lost = true;
        return;
    }
    struct access_note *n = &c->audit.notes[c->audit.nnotes];
    *n = (struct access_note){.write = access->write, .members = access->members};
    n->user = arena_str(&c->req->arena, user); /* the statement may be gone when it is answered */
    n->conversation = conversation.len > 0 ? arena_str(&c->req->arena, conversation) : STR_NULL;
    if (n->user.ptr != NULL)
        c->audit.nnotes++;
}

void audit_auth_failed(struct worker *w, const struct net_conn *conn, const char *where)
{
    char address[NET_ADDRESS_BYTES] = "";
    if (w->server->audit == NULL)
        return;
    net_address(conn, address);
    audit_add_folded(w->server->audit, &(struct audit_record){.event = "auth_failed",
                                           .address = str_c(address),
                                           .target = str_c(where),
                                           .outcome = STR("4401")});
}

void audit_foreign(struct worker *w, const struct net_conn *conn, const struct principal *who,
    struct str user, bool write, const char *where)
{
    char address[NET_ADDRESS_BYTES] = "";
    if (w->server->audit == NULL || user.ptr == NULL || str_eq(user, str_n(who->user_id, who->user_id_len)))
        return;
    net_address(conn, address);
    struct audit_record r = {
        .event = write ? "write" : "read", .address = str_c(address), .user = user, .target = str_c(where)};
    put_who(&r, who);
    audit_add_folded(w->server->audit, &r);
}

void audit_keys_changed(struct server *s)
{
    char detail[64];
    snprintf(detail, sizeof detail, "{\"keys\":%zu}", auth_key_count(s->auth));
    audit_add(s->audit, &(struct audit_record){.event = "keys", .detail = str_c(detail)});
}

/* ---- answers that wait -------------------------------------------------------------------------------- */

bool audit_gate(struct call *c)
{
    if (audit_writable(c->worker->server->audit) || (!is_admin_route(c->route) && c->route != ROUTE_USER))
        return true;
    answer_error(
        c, ERR_UNAVAILABLE, "the audit log cannot be written, so nothing is done that belongs in it");
    return false;
}

static void release(struct net_task *task)
{
    struct call *c = (struct call *)(void *)((char *)task - offsetof(struct call, audit.task));
    struct net_request *req = c->req;
    struct buf head = c->audit.head;
    int status = c->audit.status;
    if (!c->audit.ok && status < 400) {
        static const char text[] =
            "{\"error\":\"INTERNAL\",\"message\":\"it was done, but the audit log could not be written\"}";
        buf_clear(&req->body);
        buf_str(&req->body, str_c(text));
        status = 500;
    }
    net_respond(req, status, c->audit.content_type, buf_view(&head));
    buf_release(&head);
}

/* On the log's thread. */
static void on_durable(void *arg, bool ok)
{
    struct call *c = arg;
    c->audit.ok = ok;
    net_post(c->worker->loop, &c->audit.task);
}

void audit_hold(struct call *c, int status, struct str content_type, struct buf *head)
{
    c->audit.status = status;
    c->audit.content_type = content_type;
    c->audit.head = *head;
    c->audit.task.run = release;
    audit_when_durable(c->worker->server->audit, on_durable, c);
}

/* ---- the log ------------------------------------------------------------------------------------------ */

enum err server_audit_open(struct server *s, struct errctx *ec)
{
    char *dir = NULL;
    if (strcmp(s->cfg->audit_log, "off") == 0) {
        log_event(LOG_WARN, "audit_log_off", NULL);
        return ERR_OK;
    }
    if (asprintf(&dir, "%s/.kalamdb/audit", s->cfg->data) < 0)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    struct audit_config cfg = {.dir = dir, .os = os_posix()};
    enum err e = audit_open(&cfg, &s->audit, ec);
    free(dir);
    if (e != ERR_OK) {
        char why[sizeof ec->message];
        snprintf(why, sizeof why, "%s", ec->internal[0] != '\0' ? ec->internal : ec->message);
        err_set(ec, e, "the audit log cannot be opened: %.400s", why);
        err_hint(ec, "kalamdb audit verify says what is wrong with it; move it away to begin a new one.");
        return e;
    }
    struct buf detail = BUF_INIT(32768);
    buf_str(&detail, STR("{\"version\":\"" KALAMDB_VERSION "\",\"settings\":"));
    config_changed_json(s->cfg, &detail);
    buf_u8(&detail, '}');
    audit_add(s->audit,
        &(struct audit_record){.event = "start", .detail = detail.failed ? STR_NULL : buf_view(&detail)});
    buf_release(&detail);
    kalamdb_on_access(s->db, on_access, s);
    return ERR_OK;
}

void server_audit_close(struct server *s)
{
    if (s->audit == NULL)
        return;
    kalamdb_on_access(s->db, NULL, NULL);
    audit_fold_now(s->audit);
    audit_add(s->audit, &(struct audit_record){.event = "stop"});
    audit_close(s->audit);
    s->audit = NULL;
}

/* ---- GET ---------------------------------------------------------------------------------------------- */

static struct call *call_of(struct net_job *job)
{
    return (struct call *)((char *)job - offsetof(struct call, job));
}

/* On a thread of the pool. */
static void read_log(struct net_job *job)
{
    struct call *c = call_of(job);
    struct buf *b = &c->req->body;
    struct audit *a = c->worker->server->audit;
    struct audit_head head;
    struct errctx ec = {0};
    int n = 0;
    audit_head(a, &head);
    buf_str(b, STR("{\"records\":["));
    c->failed = audit_read(a, c->audit.after, READ_MAX, b, &n, &ec) != ERR_OK;
    buf_printf(b, "],\"head\":{\"n\":%llu,\"hash\":\"%s\"}}", (unsigned long long)head.n, head.hash);
    if (c->failed)
        log_event(LOG_ERROR, "audit_not_read", "s:reason", ec.internal, NULL);
}

static void log_was_read(struct net_job *job)
{
    struct call *c = call_of(job);
    if (c->failed)
        answer_error(c, ERR_INTERNAL, "the audit log could not be read");
    else
        answer_json(c, 200);
}

void serve_audit(struct call *c)
{
    struct str after;
    int64_t n = 0;
    if (c->who->role != ROLE_ADMIN) {
        answer_error(c, ERR_FORBIDDEN, "this endpoint asks for role admin");
        return;
    }
    if (c->worker->server->audit == NULL) {
        answer_error(c, ERR_NOT_FOUND, "no audit log is kept (audit_log: off)");
        return;
    }
    if (!query_param(&c->req->arena, c->query_string, STR("after"), &after) ||
        (after.ptr != NULL && (!str_to_i64(after, &n) || n < 0))) {
        answer_error(c, ERR_INVALID_REQUEST, "after must be the n of a record");
        return;
    }
    c->audit.after = (uint64_t)n;
    c->job = (struct net_job){.work = read_log, .done = log_was_read};
    if (!net_offload(c->worker->loop, &c->job))
        answer_error(c, ERR_UNAVAILABLE, "too much is being read at once");
}
