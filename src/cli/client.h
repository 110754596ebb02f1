/* Talking to the server that runs on a data directory: one request over HTTP/1.1, blocking. The server leaves
 * its address in <data>/.kalamdb/address while it runs, and under TLS the hash of its key; the token is
 * minted with the directory's key. */
#ifndef KALAMDB_CLI_CLIENT_H
#define KALAMDB_CLI_CLIENT_H

#include "cli/cli.h"
#include "cli/link.h"

/* Writes the address of a server that listens at `listen` (as configured) on this port; `pin` when it speaks
 * TLS there: SHA-256 of its public key, else NULL. */
enum err client_publish(const struct config *c, int port, const uint8_t *pin, struct errctx *ec) CHECKED;
void client_unpublish(const struct config *c);

/* The address that a server left; NOT_FOUND. */
enum err client_address(const struct config *c, struct link_target *ret, struct errctx *ec) CHECKED;

/* Sends the request as role admin; *ret_status and the answer's body. NOT_FOUND: no server left its address;
 * UNAVAILABLE: it does not answer there. */
enum err client_request(const struct config *c, const char *method, const char *path, struct str body,
    int *ret_status, struct buf *ret_body, struct errctx *ec) CHECKED;

#endif
