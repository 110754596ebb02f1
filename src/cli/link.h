/* A blocking connection to a server, plain or under TLS 1.3. One thread.
 *
 * Under TLS the server is known by its name and the system's authorities, by those of ca_file instead, or,
 * where it left its address in a data directory that we can read, by the key it left with it; there is no way
 * to go on without. */
#ifndef KALAMDB_CLI_LINK_H
#define KALAMDB_CLI_LINK_H

#include "base/err.h"

struct link_target {
    char host[256], port[8];
    bool tls, pinned;
    uint8_t pin[32];       /* SHA-256 of the server's public key */
    const char *ca_file;   /* PEM; NULL: the system's authorities */
    const char *cert_file; /* PEM: what we show when asked; NULL: nothing */
    const char *key_file;  /* PEM; NULL: it is in cert_file */
};
struct link;

/* UNAVAILABLE: nobody answers there; or it is not who it should be, which the message says. */
enum err link_open(const struct link_target *t, struct link **ret, struct errctx *ec) CHECKED;
void link_close(struct link *l); /* NULL allowed */
/* False: the other side takes nothing more; its answer may say why. */
bool link_send(struct link *l, struct str bytes) CHECKED;
/* Bytes; 0: the end, as the server meant it; -1: cut off. */
int64_t link_recv(struct link *l, char *to, size_t n) CHECKED;
bool link_readable(struct link *l); /* has something come already? */

#endif
