/* Talking to the server that runs on a data directory: one request over HTTP/1.1, blocking. The server leaves
 * its address in <data>/.kalamdb/address while it runs; the token is minted with the directory's key. */
#ifndef KALAMDB_CLI_CLIENT_H
#define KALAMDB_CLI_CLIENT_H

#include "cli/cli.h"

/* Writes the address of a server that listens at `listen` (as configured) on this port. */
enum err client_publish(const struct config *c, int port, struct errctx *ec) CHECKED;
void client_unpublish(const struct config *c);

/* The address that a server left, cut in two; NOT_FOUND. */
enum err client_address(const struct config *c, char host[256], char port[8], struct errctx *ec) CHECKED;
/* A connection; UNAVAILABLE. */
enum err client_dial(const char *host, const char *port, int *ret, struct errctx *ec) CHECKED;

/* Sends the request as role admin; *ret_status and the answer's body. NOT_FOUND: no server left its address;
 * UNAVAILABLE: it does not answer there. */
enum err client_request(const struct config *c, const char *method, const char *path, struct str body,
    int *ret_status, struct buf *ret_body, struct errctx *ec) CHECKED;

#endif
