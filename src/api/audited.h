/* What of a call goes into the audit log (src/audit). The loop's thread.
 *
 *   auth_failed, forbidden            401 and 403, counted within a minute
 *   read, write                       another user's rows, counted within a minute
 *   members                           conversations made, members and roles changed
 *   export, import, erase             by whomever
 *   admin/<path>                      every operator endpoint, before its answer is sent
 *   start, stop, keys                 the server itself */
#ifndef KALAMDB_API_AUDITED_H
#define KALAMDB_API_AUDITED_H

#include "api/server.h"
#include "audit/audit.h"

enum err server_audit_open(struct server *s, struct errctx *ec) CHECKED;
void server_audit_close(struct server *s);
/* A call is being answered: records what it was. Sets c->audit.wait when the answer has to wait. */
void audit_call(struct call *c, int status);
/* While the log cannot be written, what an operator does is refused: false, and it is answered. */
bool audit_gate(struct call *c);
/* Sends what `answer` has prepared once the log is on disk. `head` is taken. */
void audit_hold(struct call *c, int status, struct str content_type, struct buf *head);
/* A token that was refused on a socket. */
void audit_auth_failed(struct worker *w, const struct net_conn *conn, const char *where);
/* Somebody else's rows, by a connection that is no call. `user` ptr NULL: their own, which is nothing.
 * `where` is a literal. */
void audit_foreign(struct worker *w, const struct net_conn *conn, const struct principal *who,
    struct str user, bool write, const char *where);
void audit_keys_changed(struct server *s);
/* GET /api/v1/admin/audit */
void serve_audit(struct call *c);

#endif
