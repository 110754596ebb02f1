/* The HTTP and WebSocket server over one open database. main opens, runs, closes; everything else is behind
 * here.
 *
 * server_open binds the listeners (so the port is known and a taken one is an error), server_run serves until
 * SIGTERM, SIGINT or server_stop and then shuts down gracefully, server_close frees. One thread calls these
 * four; server_stop may come from any. The config, database and auth are borrowed and must outlive the
 * server: close it before the database. */
#ifndef KALAMDB_API_API_H
#define KALAMDB_API_API_H

#include "auth/auth.h"
#include "base/err.h"
#include "config/config.h"
#include "kalamdb.h"

struct server;

/* INVALID_REQUEST with an operator's message: bad `listen`, port taken, out of descriptors. Ignores SIGPIPE
 * for the process and raises the soft limit of open files to the hard one. */
enum err server_open(const struct config *cfg, struct kalamdb *db, struct auth *auth, struct server **ret,
    struct errctx *ec) CHECKED;
/* The port bound (for listen 127.0.0.1:0). */
int server_port(const struct server *s);
int server_tls_port(const struct server *s); /* 0: no TLS; server_port's: nothing is plain */
/* SHA-256 of the current certificate's public key. False: no TLS. Any thread. */
bool server_certificate_pin(const struct server *s, uint8_t ret[32]);
/* Called on a loop's thread after each change of the certificate; set it before server_run. */
void server_on_certificate(struct server *s, void (*reloaded)(void *arg), void *arg);
/* Blocks: runs one event loop on this thread and the others on their own. SIGTERM and SIGINT stop accepting,
 * finish what is in flight, close sockets with 1001 and return within shutdown_timeout_ms and a few seconds;
 * a second signal ends at once. SIGHUP reads the certificate
 * again. */
enum err server_run(struct server *s, struct errctx *ec) CHECKED;
/* As SIGTERM. Any thread. */
void server_stop(struct server *s);
void server_close(struct server *s);

#endif
