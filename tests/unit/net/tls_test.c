/* TLS against OpenSSL's own client, in memory: cut at every byte, broken, closed, refused. */
#include "net/tls.h"
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static struct fixture {
    char dir[64], cert[96], key[96], other_key[96];
    struct tls_context *context;
} fx;

static EVP_PKEY *write_key(const char *path)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL);
    fclose(f);
    chmod(path, 0600);
    return key;
}

static void write_certificate(const char *path, EVP_PKEY *key)
{
    X509 *x = X509_new();
    X509_set_version(x, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(x), 1);
    X509_gmtime_adj(X509_getm_notBefore(x), -60);
    X509_gmtime_adj(X509_getm_notAfter(x), 86400);
    X509_set_pubkey(x, key);
    X509_NAME_add_entry_by_txt(
        X509_get_subject_name(x), "CN", MBSTRING_ASC, (const unsigned char *)"test", -1, -1, 0);
    X509_set_issuer_name(x, X509_get_subject_name(x));
    assert_true(X509_sign(x, key, EVP_sha256()) > 0);
    FILE *f = fopen(path, "w");
    PEM_write_X509(f, x);
    fclose(f);
    X509_free(x);
}

static int setup(void **state)
{
    (void)state;
    struct errctx ec = {0};
    strcpy(fx.dir, "/tmp/kalamdb-tls-XXXXXX");
    assert_non_null(mkdtemp(fx.dir));
    snprintf(fx.cert, sizeof fx.cert, "%s/cert", fx.dir);
    snprintf(fx.key, sizeof fx.key, "%s/key", fx.dir);
    snprintf(fx.other_key, sizeof fx.other_key, "%s/other", fx.dir);
    EVP_PKEY *key = write_key(fx.key);
    write_certificate(fx.cert, key);
    EVP_PKEY_free(key);
    EVP_PKEY_free(write_key(fx.other_key));
    struct tls_options o = {.certificate_file = fx.cert, .key_file = fx.key};
    return tls_context_open(&o, &fx.context, &ec) == ERR_OK ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    tls_context_close(fx.context);
    unlink(fx.cert);
    unlink(fx.key);
    unlink(fx.other_key);
    return rmdir(fx.dir);
}

/* ---- a client and a server in one process ---- */

struct pair {
    SSL_CTX *ctx;
    SSL *client;
    struct tls *server;
    size_t piece;           /* bytes that the server is fed at a time */
    struct buf heard, said; /* plaintext that the server, and the client, got */
    enum tls_progress last;
};

static struct pair pair_new(size_t piece)
{
    struct pair p = {.piece = piece, .ctx = SSL_CTX_new(TLS_client_method()), .last = TLS_MORE};
    p.client = SSL_new(p.ctx);
    SSL_set_bio(p.client, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    SSL_set_connect_state(p.client);
    p.server = tls_accept(fx.context);
    assert_non_null(p.server);
    return p;
}

static void pair_free(struct pair *p)
{
    SSL_free(p->client);
    SSL_CTX_free(p->ctx);
    tls_free(p->server);
    buf_release(&p->heard);
    buf_release(&p->said);
}

static void feed(struct pair *p, const char *bytes, size_t n)
{
    char plain[TLS_RECORD_BYTES];
    size_t got;
    char *copy = malloc(n); /* exact: ASan sees overreads, and use after it was let go */
    memcpy(copy, bytes, n);
    tls_feed(p->server, str_n(copy, n));
    while ((p->last = tls_read(p->server, plain, &got)) == TLS_DATA)
        buf_append(&p->heard, plain, got);
    free(copy);
}

/* Bytes to and fro until nothing moves. */
static void turn(struct pair *p)
{
    char bytes[65536];
    for (int quiet = 0; quiet < 2;) {
        int n = BIO_read(SSL_get_wbio(p->client), bytes, sizeof bytes);
        for (int at = 0; at < n && p->last == TLS_MORE; at += (int)p->piece)
            feed(p, bytes + at, (size_t)(n - at) < p->piece ? (size_t)(n - at) : p->piece);
        struct buf *out = tls_output(p->server);
        quiet = n <= 0 && out->len == 0 ? quiet + 1 : 0;
        if (out->len > 0)
            BIO_write(SSL_get_rbio(p->client), out->ptr, (int)out->len);
        out->len = 0;
        n = SSL_read(p->client, bytes, sizeof bytes);
        if (n > 0)
            buf_append(&p->said, bytes, (size_t)n);
    }
    ERR_clear_error();
}

static void assert_said(const struct buf *b, const char *want)
{
    assert_int_equal(b->len, strlen(want));
    assert_memory_equal(b->ptr, want, b->len);
}

static void talks_in_any_pieces(void **state)
{
    (void)state;
    static const size_t pieces[] = {1, 2, 3, 5, 7, 100, 65536};
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        struct pair p = pair_new(pieces[i]);
        assert_false(tls_begun(p.server));
        assert_false(tls_established(p.server));
        turn(&p);
        assert_true(tls_established(p.server));
        assert_int_equal(SSL_version(p.client), TLS1_3_VERSION);
        SSL_write(p.client, "question", 8);
        SSL_write(p.client, "s", 1);
        turn(&p);
        assert_said(&p.heard, "questions");
        assert_true(tls_write(p.server, STR("answer")));
        turn(&p);
        assert_said(&p.said, "answer");
        assert_int_equal(SSL_key_update(p.client, SSL_KEY_UPDATE_REQUESTED), 1);
        SSL_write(p.client, "!", 1);
        turn(&p);
        assert_said(&p.heard, "questions!");
        pair_free(&p);
    }
}

/* Input that could not be taken at once is kept, more is put behind it. */
static void keeps_input(void **state)
{
    (void)state;
    struct pair p = pair_new(65536);
    char bytes[65536], plain[TLS_RECORD_BYTES];
    size_t got;
    turn(&p);
    SSL_write(p.client, "one", 3);
    SSL_write(p.client, "two", 3);
    SSL_write(p.client, "three", 5);
    int n = BIO_read(SSL_get_wbio(p.client), bytes, sizeof bytes), half = n - 10;
    tls_feed(p.server, str_n(bytes, (size_t)half));
    assert_int_equal(tls_read(p.server, plain, &got), TLS_DATA);
    assert_int_equal(got, 3);
    assert_true(tls_has_input(p.server));
    assert_true(tls_keep(p.server));
    memset(bytes, 0, (size_t)half);
    tls_feed(p.server, str_n(bytes + half, 10));
    assert_int_equal(tls_read(p.server, plain, &got), TLS_DATA);
    assert_memory_equal(plain, "two", got);
    assert_int_equal(tls_read(p.server, plain, &got), TLS_DATA);
    assert_memory_equal(plain, "three", got);
    assert_int_equal(tls_read(p.server, plain, &got), TLS_MORE);
    assert_false(tls_has_input(p.server));
    pair_free(&p);
}

static void closes_in_order(void **state)
{
    (void)state;
    struct pair p = pair_new(1);
    turn(&p);
    assert_true(tls_write(p.server, STR("last words")));
    tls_close(p.server);
    tls_close(p.server);
    assert_false(tls_write(p.server, STR("after them")));
    turn(&p);
    assert_said(&p.said, "last words");
    assert_int_equal(SSL_get_shutdown(p.client) & SSL_RECEIVED_SHUTDOWN, SSL_RECEIVED_SHUTDOWN);
    SSL_shutdown(p.client);
    turn(&p);
    assert_int_equal(p.last, TLS_CLOSED);
    pair_free(&p);
}

/* Every byte of a record broken, one at a time: nothing of it is heard, and an alert says so. */
static void hears_nothing_that_was_changed(void **state)
{
    (void)state;
    char bytes[1000];
    int n = 1;
    for (int at = 0; at < n; at++) {
        struct pair p = pair_new(65536);
        turn(&p);
        SSL_write(p.client, "question", 8);
        n = BIO_read(SSL_get_wbio(p.client), bytes, sizeof bytes);
        bytes[at] = (char)(bytes[at] ^ 4);
        feed(&p, bytes, (size_t)n);
        assert_int_equal(p.heard.len, 0);
        /* A length that became longer only waits for more. */
        assert_true(p.last == TLS_FAILED || (p.last == TLS_MORE && (at == 3 || at == 4)));
        if (p.last == TLS_FAILED) {
            assert_true(tls_output(p.server)->len > 0);
            assert_false(tls_write(p.server, STR("x")));
        }
        pair_free(&p);
    }
    assert_true(n > 20);
}

static void refuses(struct pair *p)
{
    turn(p);
    assert_int_equal(p->last, TLS_FAILED);
    assert_false(tls_established(p->server));
    assert_false(SSL_is_init_finished(p->client));
    pair_free(p);
}

static void refuses_what_is_old_or_else(void **state)
{
    (void)state;
    struct pair p = pair_new(65536);
    SSL_set_max_proto_version(p.client, TLS1_2_VERSION);
    refuses(&p);
    p = pair_new(65536);
    SSL_set_alpn_protos(p.client, (const unsigned char *)"\x02h2", 3);
    refuses(&p);
    p = pair_new(65536);
    SSL_set1_groups_list(p.client, "P-521");
    refuses(&p);
    p = pair_new(65536);
    feed(&p, "GET / HTTP/1.1\r\n\r\n", 18);
    assert_int_equal(p.last, TLS_FAILED);
    pair_free(&p);
}

static void gives_no_tickets(void **state)
{
    (void)state;
    struct pair p = pair_new(65536);
    turn(&p);
    SSL_write(p.client, "x", 1);
    turn(&p);
    assert_int_equal(SSL_SESSION_is_resumable(SSL_get_session(p.client)), 0);
    pair_free(&p);
}

static void contexts(void **state)
{
    (void)state;
    struct errctx ec = {0};
    struct tls_context *c = NULL;
    struct tls_options o = {.certificate_file = fx.cert, .key_file = fx.other_key};
    assert_int_equal(tls_context_open(&o, &c, &ec), ERR_INVALID_REQUEST);
    assert_non_null(strstr(ec.message, "is not the key of"));
    o = (struct tls_options){.certificate_file = fx.cert, .key_file = fx.cert};
    chmod(fx.cert, 0600);
    assert_int_equal(tls_context_open(&o, &c, &ec), ERR_INVALID_REQUEST);
    assert_non_null(strstr(ec.message, "no private key"));
    o = (struct tls_options){.certificate_file = fx.cert, .key_file = "/nonexistent"};
    assert_int_equal(tls_context_open(&o, &c, &ec), ERR_INVALID_REQUEST);
    o = (struct tls_options){.certificate_file = fx.cert, .key_file = fx.key};
    chmod(fx.key, 0644);
    assert_int_equal(tls_context_open(&o, &c, &ec), ERR_INVALID_REQUEST);
    assert_non_null(strstr(ec.message, "read by others"));
    chmod(fx.key, 0600);
    assert_null(c);
    assert_int_equal(tls_context_open(&o, &c, &ec), ERR_OK);
    uint8_t a[32], b[32], zero[32] = {0};
    tls_context_pin(c, a);
    tls_context_pin(fx.context, b);
    assert_memory_equal(a, b, 32);
    assert_memory_not_equal(a, zero, 32);
    assert_true(llabs(tls_context_expires_s(c) - (int64_t)time(NULL) - 86400) < 120);
    tls_context_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(talks_in_any_pieces), cmocka_unit_test(keeps_input),
        cmocka_unit_test(closes_in_order), cmocka_unit_test(hears_nothing_that_was_changed),
        cmocka_unit_test(refuses_what_is_old_or_else), cmocka_unit_test(gives_no_tickets),
        cmocka_unit_test(contexts)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
