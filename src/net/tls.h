/* TLS 1.3 by OpenSSL, the server's side, sans-I/O: ciphertext in and out, plaintext out and in; no sockets,
 * no clock.
 *
 * TLS 1.3 only: every client of the last years speaks it, and what 1.2 would bring back (renegotiation,
 * compression, CBC, static RSA) need not be switched off then. No session tickets: connections live long
 * here, so resumption would save little, and without it there is no ticket key to guard and every connection
 * has keys of its own and, with client_auth, a certificate that was checked. No early data: it can be
 * replayed.
 *
 * A context belongs to any thread; a `struct tls` to one. A connection keeps the context that it began with,
 * whatever becomes current meanwhile. */
#ifndef KALAMDB_NET_TLS_H
#define KALAMDB_NET_TLS_H

#include "base/buf.h"
#include "base/err.h"

#define TLS_RECORD_BYTES 16384 /* plaintext of one record at most (RFC 8446, 5.1) */

enum tls_client_auth {
    TLS_CLIENT_OFF,
    TLS_CLIENT_OPTIONAL, /* asked for; one that is sent must be good */
    TLS_CLIENT_REQUIRED
};
struct tls_options {
    const char *certificate_file; /* PEM, the server's first, then the chain; NULL: no TLS */
    const char *key_file;         /* PEM, without a passphrase, not readable by others */
    const char *client_ca_file;   /* PEM; whose certificates clients may show */
    enum tls_client_auth client_auth;
};

struct tls_context;
/* INVALID_REQUEST with an operator's message that names the file. */
enum err tls_context_open(const struct tls_options *o, struct tls_context **ret, struct errctx *ec) CHECKED;
void tls_context_close(struct tls_context *c);              /* NULL allowed; connections that use it go on */
int64_t tls_context_expires_s(const struct tls_context *c); /* the certificate's notAfter */
/* SHA-256 of the certificate's public key (SubjectPublicKeyInfo), by which a client may know it. */
void tls_context_pin(const struct tls_context *c, uint8_t ret[32]);

enum tls_progress {
    TLS_MORE,   /* all input is taken */
    TLS_DATA,   /* plaintext came */
    TLS_CLOSED, /* the peer said that it sends nothing more */
    TLS_FAILED  /* it is over; tls_output may hold an alert for the peer */
};

struct tls;
struct tls *tls_accept(struct tls_context *c); /* NULL: out of memory */
void tls_free(struct tls *t);                  /* NULL allowed */
/* Ciphertext that came: borrowed until tls_read has said TLS_MORE, or tls_keep. */
void tls_feed(struct tls *t, struct str bytes);
/* Copies what is left of the input. False: out of memory. */
bool tls_keep(struct tls *t) CHECKED;
bool tls_has_input(const struct tls *t);
/* Shakes hands, then decrypts into `out`, of TLS_RECORD_BYTES. */
enum tls_progress tls_read(struct tls *t, char *out, size_t *ret_n);
bool tls_begun(const struct tls *t); /* has any input been fed? */
bool tls_established(const struct tls *t);
/* Encrypts 1 … TLS_RECORD_BYTES bytes; only once established. False: broken or out of memory. */
bool tls_write(struct tls *t, struct str plain) CHECKED;
/* Our close_notify, once; nothing can be written after. */
void tls_close(struct tls *t);
/* Ciphertext to send; the caller takes bytes from its front, or the whole buffer. */
struct buf *tls_output(struct tls *t);

#endif
