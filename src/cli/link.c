#include "cli/link.h"
#include <errno.h>
#include <netdb.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

struct link {
    int fd;
    SSL *ssl; /* NULL: plain */
};

static enum err dial(const char *host, const char *port, int *ret, struct errctx *ec)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV}, *found = NULL;
    int rc = getaddrinfo(host, port, &hints, &found), fd = -1;
    if (rc != 0)
        return err_set(ec, ERR_UNAVAILABLE, "cannot find %s: %s", host, gai_strerror(rc));
    for (struct addrinfo *a = found; a != NULL && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
        if (fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen) != 0) {
            int error = errno;
            close(fd);
            fd = -1;
            errno = error;
        }
    }
    int error = errno;
    freeaddrinfo(found);
    if (fd < 0)
        return err_set(
            ec, ERR_UNAVAILABLE, "the server at %s port %s does not answer: %s", host, port, strerror(error));
    *ret = fd;
    return ERR_OK;
}

/* ---- TLS
 * -------------------------------------------------------------------------------------------------------- */

static const char *reason(void)
{
    unsigned long e = ERR_peek_last_error();
    const char *text = e != 0 ? ERR_reason_error_string(e) : NULL;
    return text != NULL ? text : "the connection was cut";
}

static enum err load_files(SSL_CTX *ctx, const struct link_target *t, struct errctx *ec)
{
    const char *key = t->key_file != NULL ? t->key_file : t->cert_file;
    if (t->ca_file != NULL ? SSL_CTX_load_verify_file(ctx, t->ca_file) != 1
                           : SSL_CTX_set_default_verify_paths(ctx) != 1)
        return err_set(ec, ERR_INVALID_REQUEST, "--ca: %s: %s",
            t->ca_file != NULL ? t->ca_file : "the system's authorities", reason());
    if (t->cert_file != NULL && (SSL_CTX_use_certificate_chain_file(ctx, t->cert_file) != 1 ||
                                    SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1))
        return err_set(ec, ERR_INVALID_REQUEST, "--cert, --key: %s, %s: %s", t->cert_file, key, reason());
    return ERR_OK;
}

static bool is_address(const char *host)
{
    ASN1_OCTET_STRING *a = a2i_IPADDRESS(host);
    ASN1_OCTET_STRING_free(a);
    return a != NULL;
}

/* The name that the certificate must be for; none where its key is known. */
static bool expect_name(SSL *ssl, const struct link_target *t)
{
    if (t->pinned) {
        SSL_set_verify(ssl, SSL_VERIFY_NONE, NULL); /* pin_matches is asked instead */
        return true;
    }
    SSL_set_verify(ssl, SSL_VERIFY_PEER, NULL);
    if (is_address(t->host))
        return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), t->host) == 1;
    return SSL_set1_host(ssl, t->host) == 1 && SSL_set_tlsext_host_name(ssl, t->host) == 1;
}

static bool pin_matches(SSL *ssl, const uint8_t pin[32])
{
    unsigned char *der = NULL, got[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    X509 *cert = SSL_get0_peer_certificate(ssl);
    int len = cert != NULL ? i2d_X509_PUBKEY(X509_get_X509_PUBKEY(cert), &der) : 0;
    bool same = len > 0 && EVP_Digest(der, (size_t)len, got, &n, EVP_sha256(), NULL) == 1 && n == 32 &&
                memcmp(got, pin, 32) == 0; /* of public keys */
    OPENSSL_free(der);
    return same;
}

static enum err shake_hands(struct link *l, const struct link_target *t, struct errctx *ec)
{
    ERR_clear_error();
    if (SSL_connect(l->ssl) != 1) {
        long why = SSL_get_verify_result(l->ssl);
        if (why == X509_V_OK)
            return err_set(ec, ERR_UNAVAILABLE, "TLS with %s port %s: %s", t->host, t->port, reason());
        err_set(ec, ERR_UNAVAILABLE, "%s port %s is not who it should be: %s", t->host, t->port,
            X509_verify_cert_error_string(why));
        err_hint(ec, "--ca FILE names the authority that signed its certificate");
        return ec->code;
    }
    if (t->pinned && !pin_matches(l->ssl, t->pin))
        return err_set(ec, ERR_UNAVAILABLE,
            "%s port %s is not the server that left its address in the data directory", t->host, t->port);
    return ERR_OK;
}

static enum err secure(struct link *l, const struct link_target *t, struct errctx *ec)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    enum err e = ERR_OK;
    if (ctx == NULL || SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) != 1)
        e = err_set(ec, ERR_NO_MEMORY, "out of memory");
    if (e == ERR_OK)
        e = load_files(ctx, t, ec);
    if (e == ERR_OK) {
        SSL_CTX_set_mode(ctx, SSL_MODE_AUTO_RETRY);
        l->ssl = SSL_new(ctx);
        if (l->ssl == NULL || SSL_set_fd(l->ssl, l->fd) != 1 || !expect_name(l->ssl, t))
            e = err_set(ec, ERR_NO_MEMORY, "out of memory");
    }
    SSL_CTX_free(ctx);
    return e == ERR_OK ? shake_hands(l, t, ec) : e;
}

/* ---- the connection
 * ------------------------------------------------------------------------------------------------ */

enum err link_open(const struct link_target *t, struct link **ret, struct errctx *ec)
{
    struct link *l = calloc(1, sizeof *l);
    if (l == NULL)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    signal(SIGPIPE, SIG_IGN); /* OpenSSL writes by write(2) */
    l->fd = -1;
    enum err e = dial(t->host, t->port, &l->fd, ec);
    if (e == ERR_OK && t->tls)
        e = secure(l, t, ec);
    if (e != ERR_OK) {
        link_close(l);
        return e;
    }
    *ret = l;
    return ERR_OK;
}

void link_close(struct link *l)
{
    if (l == NULL)
        return;
    if (l->ssl != NULL && SSL_is_init_finished(l->ssl))
        (void)SSL_shutdown(l->ssl);
    SSL_free(l->ssl);
    if (l->fd >= 0)
        close(l->fd);
    free(l);
}

bool link_send(struct link *l, struct str bytes)
{
    while (bytes.len > 0) {
        size_t sent = 0;
        if (l->ssl != NULL) {
            ERR_clear_error();
            if (SSL_write_ex(l->ssl, bytes.ptr, bytes.len, &sent) != 1)
                return false;
        } else {
            ssize_t n = send(l->fd, bytes.ptr, bytes.len, MSG_NOSIGNAL);
            if (n < 0 && errno == EINTR)
                continue;
            if (n <= 0)
                return false;
            sent = (size_t)n;
        }
        bytes = str_n(bytes.ptr + sent, bytes.len - sent);
    }
    return true;
}

int64_t link_recv(struct link *l, char *to, size_t n)
{
    size_t got = 0;
    if (l->ssl != NULL) {
        ERR_clear_error();
        if (SSL_read_ex(l->ssl, to, n, &got) == 1)
            return (int64_t)got;
        return SSL_get_error(l->ssl, 0) == SSL_ERROR_ZERO_RETURN ? 0 : -1;
    }
    ssize_t r;
    do
        r = recv(l->fd, to, n, 0);
    while (r < 0 && errno == EINTR);
    return r;
}

bool link_readable(struct link *l)
{
    struct pollfd p = {.fd = l->fd, .events = POLLIN};
    return (l->ssl != NULL && SSL_has_pending(l->ssl)) || (poll(&p, 1, 0) > 0 && p.revents != 0);
}
