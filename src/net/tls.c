#include "net/tls.h"
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEY_FILE_BYTES_MAX 65536
#define PEER_CHAIN_BYTES_MAX 32768
#define OUTPUT_BYTES_MAX ((size_t)1 << 20)

struct tls_context {
    SSL_CTX *ssl;
    int64_t expires_s;
    uint8_t pin[32];
};

struct tls {
    SSL *ssl;
    struct str in;   /* not yet taken: borrowed, or into `kept` */
    struct buf kept; /* owns `in` after tls_keep */
    struct buf out;
    bool begun, closing, failed;
};

/* ---- the context
 * ------------------------------------------------------------------------------------------------ */

/* OpenSSL's last reason, as a sentence's end. */
static const char *reason(void)
{
    unsigned long e = ERR_peek_last_error();
    const char *text = e != 0 ? ERR_reason_error_string(e) : NULL;
    return text != NULL ? text : "not understood";
}

/* There is nobody to ask for one. */
static int no_passphrase(char *text, int size, int rwflag, void *arg)
{
    (void)text;
    (void)size;
    (void)rwflag;
    *(bool *)arg = true;
    return 0;
}

/* PostgreSQL's rule: 0600 when it is ours, 0640 when it is root's. */
static enum err check_key_file(int fd, const char *path, struct errctx *ec)
{
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        return err_set(ec, ERR_INVALID_REQUEST, "tls_key_file: %s is not a file", path);
    mode_t refused = st.st_uid == 0 ? (mode_t)027 : (mode_t)077;
    if ((st.st_mode & refused) == 0)
        return ERR_OK;
    err_set(ec, ERR_INVALID_REQUEST, "tls_key_file: %s can be read by others", path);
    err_hint(ec, "chmod 600, or 640 when it belongs to root");
    return ec->code;
}

static enum err read_key(const char *path, EVP_PKEY **ret, struct errctx *ec)
{
    char *text = malloc(KEY_FILE_BYTES_MAX);
    int fd = text != NULL ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) {
        int e = errno;
        free(text);
        return err_set(ec, ERR_INVALID_REQUEST, "tls_key_file: %s: %s", path, strerror(e));
    }
    enum err e = check_key_file(fd, path, ec);
    ssize_t n = e == ERR_OK ? read(fd, text, KEY_FILE_BYTES_MAX) : 0;
    close(fd);
    bool asked = false;
    BIO *bio = e == ERR_OK && n > 0 ? BIO_new_mem_buf(text, (int)n) : NULL;
    if (bio != NULL)
        *ret = PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, &asked);
    BIO_free(bio);
    OPENSSL_cleanse(text, KEY_FILE_BYTES_MAX);
    free(text);
    if (e == ERR_OK && *ret == NULL)
        e = err_set(ec, ERR_INVALID_REQUEST,
            asked ? "tls_key_file: %s is protected by a passphrase, which a server has nobody to ask for"
                  : "tls_key_file: %s holds no private key in PEM",
            path);
    return e;
}

static enum err load_pair(struct tls_context *c, const struct tls_options *o, struct errctx *ec)
{
    EVP_PKEY *key = NULL;
    ERR_clear_error();
    if (SSL_CTX_use_certificate_chain_file(c->ssl, o->certificate_file) != 1) {
        const char *why = access(o->certificate_file, R_OK) != 0 ? strerror(errno) : reason();
        return err_set(ec, ERR_INVALID_REQUEST, "tls_certificate_file: %s: %s", o->certificate_file, why);
    }
    enum err e = read_key(o->key_file, &key, ec);
    if (e == ERR_OK && (SSL_CTX_use_PrivateKey(c->ssl, key) != 1 || SSL_CTX_check_private_key(c->ssl) != 1))
        e = err_set(ec, ERR_INVALID_REQUEST, "tls_key_file: %s is not the key of the certificate in %s (%s)",
            o->key_file, o->certificate_file, reason());
    EVP_PKEY_free(key); /* the context holds it; OpenSSL wipes it with the last reference */
    return e;
}

static enum err load_client_ca(struct tls_context *c, const struct tls_options *o, struct errctx *ec)
{
    if (o->client_auth == TLS_CLIENT_OFF)
        return ERR_OK;
    STACK_OF(X509_NAME) *names = NULL;
    if (SSL_CTX_load_verify_file(c->ssl, o->client_ca_file) != 1 ||
        (names = SSL_load_client_CA_file(o->client_ca_file)) == NULL) {
        const char *why = access(o->client_ca_file, R_OK) != 0 ? strerror(errno) : reason();
        return err_set(ec, ERR_INVALID_REQUEST, "tls_client_ca_file: %s: %s", o->client_ca_file, why);
    }
    SSL_CTX_set_client_CA_list(c->ssl, names);
    int mode = SSL_VERIFY_PEER;
    if (o->client_auth == TLS_CLIENT_REQUIRED)
        mode |= SSL_VERIFY_FAIL_IF_NO_PEER_CERT;
    SSL_CTX_set_verify(c->ssl, mode, NULL);
    SSL_CTX_set_verify_depth(c->ssl, 4);
    SSL_CTX_set_max_cert_list(c->ssl, PEER_CHAIN_BYTES_MAX);
    return ERR_OK;
}

/* RFC 7301: a client that names protocols and not ours is told so. */
static int select_protocol(SSL *ssl, const unsigned char **out, unsigned char *out_len,
    const unsigned char *in, unsigned in_len, void *arg)
{
    static const unsigned char ours[] = "\x08http/1.1";
    unsigned char *chosen = NULL;
    (void)ssl;
    (void)arg;
    if (SSL_select_next_proto(&chosen, out_len, ours, sizeof ours - 1, in, in_len) != OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

static bool set_rules(SSL_CTX *ssl)
{
    SSL_CTX_set_options(ssl, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET |
                                 SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
    SSL_CTX_set_mode(ssl, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_session_cache_mode(ssl, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_alpn_select_cb(ssl, select_protocol, NULL);
    return SSL_CTX_set_min_proto_version(ssl, TLS1_3_VERSION) == 1 && SSL_CTX_set_num_tickets(ssl, 0) == 1 &&
           SSL_CTX_set1_groups_list(ssl, "X25519:P-256:P-384") == 1;
}

static bool describe(struct tls_context *c)
{
    struct tm tm;
    unsigned char *der = NULL;
    unsigned n = 0;
    X509 *cert = SSL_CTX_get0_certificate(c->ssl);
    if (cert == NULL || ASN1_TIME_to_tm(X509_get0_notAfter(cert), &tm) != 1)
        return false;
    c->expires_s = timegm(&tm);
    int len = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(cert), &der);
    bool ok = len > 0 && EVP_Digest(der, (size_t)len, c->pin, &n, EVP_sha256(), NULL) == 1;
    OPENSSL_free(der);
    return ok;
}

enum err tls_context_open(const struct tls_options *o, struct tls_context **ret, struct errctx *ec)
{
    struct tls_context *c = calloc(1, sizeof *c);
    if (c == NULL || (c->ssl = SSL_CTX_new(TLS_server_method())) == NULL) {
        free(c);
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    }
    enum err e = ERR_OK;
    if (!set_rules(c->ssl))
        e = err_internal(ec, ERR_INTERNAL, "TLS: %s", reason());
    if (e == ERR_OK)
        e = load_pair(c, o, ec);
    if (e == ERR_OK)
        e = load_client_ca(c, o, ec);
    if (e == ERR_OK && !describe(c))
        e = err_set(ec, ERR_INVALID_REQUEST, "tls_certificate_file: %s: %s", o->certificate_file, reason());
    ERR_clear_error();
    if (e != ERR_OK) {
        tls_context_close(c);
        return e;
    }
    *ret = c;
    return ERR_OK;
}

void tls_context_close(struct tls_context *c)
{
    if (c == NULL)
        return;
    SSL_CTX_free(c->ssl);
    free(c);
}

int64_t tls_context_expires_s(const struct tls_context *c)
{
    return c->expires_s;
}

void tls_context_pin(const struct tls_context *c, uint8_t ret[32])
{
    memcpy(ret, c->pin, 32);
}

/* ---- the connection's bytes, as OpenSSL sees them
 * --------------------------------------------------------------- */

static int bio_read(BIO *bio, char *to, size_t n, size_t *ret)
{
    struct tls *t = BIO_get_data(bio);
    size_t k = t->in.len < n ? t->in.len : n;
    BIO_clear_retry_flags(bio);
    *ret = k;
    if (k == 0) {
        BIO_set_retry_read(bio);
        return 0;
    }
    memcpy(to, t->in.ptr, k);
    t->in = str_n(t->in.ptr + k, t->in.len - k);
    return 1;
}

static int bio_write(BIO *bio, const char *from, size_t n, size_t *ret)
{
    struct tls *t = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    buf_append(&t->out, from, n);
    *ret = n;
    return t->out.failed ? 0 : 1;
}

static long bio_ctrl(BIO *bio, int cmd, long number, void *p)
{
    (void)bio;
    (void)number;
    (void)p;
    return cmd == BIO_CTRL_FLUSH ? 1 : 0;
}

static BIO_METHOD *method;

static void make_method(void)
{
    method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "kalamdb");
    if (method == NULL || BIO_meth_set_read_ex(method, bio_read) != 1 ||
        BIO_meth_set_write_ex(method, bio_write) != 1 || BIO_meth_set_ctrl(method, bio_ctrl) != 1) {
        BIO_meth_free(method);
        method = NULL;
    }
}

struct tls *tls_accept(struct tls_context *c)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_method);
    struct tls *t = calloc(1, sizeof *t);
    BIO *bio = t != NULL && method != NULL ? BIO_new(method) : NULL;
    if (bio == NULL || (t->ssl = SSL_new(c->ssl)) == NULL) {
        BIO_free(bio);
        free(t);
        return NULL;
    }
    t->out.max_bytes = OUTPUT_BYTES_MAX;
    BIO_set_data(bio, t);
    BIO_set_init(bio, 1);
    SSL_set_bio(t->ssl, bio, bio); /* one reference for both */
    SSL_set_accept_state(t->ssl);
    return t;
}

void tls_free(struct tls *t)
{
    if (t == NULL)
        return;
    SSL_free(t->ssl);
    buf_release(&t->kept);
    buf_release(&t->out);
    free(t);
}

void tls_feed(struct tls *t, struct str bytes)
{
    t->begun = true;
    if (t->in.len == 0) {
        t->in = bytes;
    } else if (tls_keep(t)) { /* behind what is still there */
        buf_append(&t->kept, bytes.ptr, bytes.len);
        t->failed = t->failed || t->kept.failed;
        t->in = buf_view(&t->kept);
    }
}

bool tls_keep(struct tls *t)
{
    struct buf copy = {0};
    if (t->in.len > 0)
        buf_append(&copy, t->in.ptr, t->in.len);
    t->failed = t->failed || copy.failed;
    buf_release(&t->kept);
    t->kept = copy;
    t->in = buf_view(&t->kept);
    return !t->failed;
}

bool tls_has_input(const struct tls *t)
{
    return t->in.len > 0 && !t->failed;
}

enum tls_progress tls_read(struct tls *t, char *out, size_t *ret_n)
{
    if (t->failed)
        return TLS_FAILED;
    ERR_clear_error();
    if (SSL_read_ex(t->ssl, out, TLS_RECORD_BYTES, ret_n) == 1)
        return TLS_DATA;
    switch (SSL_get_error(t->ssl, 0)) {
    case SSL_ERROR_WANT_READ:
        if (t->in.len == 0) {
            buf_release(&t->kept);
            t->in = STR_NULL;
            return TLS_MORE;
        }
        break;
    case SSL_ERROR_ZERO_RETURN:
        return TLS_CLOSED;
    default:
        break;
    }
    t->failed = true;
    ERR_clear_error();
    return TLS_FAILED;
}

bool tls_begun(const struct tls *t)
{
    return t->begun;
}

bool tls_established(const struct tls *t)
{
    return SSL_is_init_finished(t->ssl) == 1;
}

bool tls_write(struct tls *t, struct str plain)
{
    size_t n = 0;
    if (t->failed || t->closing)
        return false;
    ERR_clear_error();
    t->failed = SSL_write_ex(t->ssl, plain.ptr, plain.len, &n) != 1 || n != plain.len;
    return !t->failed;
}

void tls_close(struct tls *t)
{
    if (t->failed || t->closing || !tls_established(t))
        return;
    t->closing = true;
    ERR_clear_error();
    (void)SSL_shutdown(t->ssl); /* the peer's own close_notify is waited for by no one */
}

struct buf *tls_output(struct tls *t)
{
    return &t->out;
}
