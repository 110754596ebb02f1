#include "../test.h"
#include "auth/auth.h"
#include "auth/jwt.h"
#include "base/json.h"
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define NOW INT64_C(1800000000)
static const struct str key = {"0123456789abcdef0123456789abcdef", 32};

static struct auth *open_auth(const char *issuer, const char *audience)
{
    struct auth_config cfg = {.secret = key.ptr,
        .secret_len = key.len,
        .issuer = issuer,
        .audience = audience,
        .leeway_s = 30,
        .os = os_posix()};
    struct auth *a = NULL;
    struct errctx ec;
    assert_int_equal(auth_open(&cfg, &a, &ec), ERR_OK);
    return a;
}

static struct str sign(struct buf *b, const char *payload)
{
    buf_clear(b);
    assert_true(jwt_sign(key, str_c(payload), b));
    return buf_view(b);
}

static enum err verify(const struct auth *a, struct str token, struct identity *id, struct errctx *ec)
{
    return auth_verify(a, token, NOW, id, ec);
}

static void a_minted_token_is_verified(void **state)
{
    (void)state;
    struct auth *a = open_auth("me", "you");
    struct buf b = BUF_INIT(0);
    struct errctx ec;
    struct identity id;
    assert_int_equal(auth_mint(a, STR("auth0|5f7c"), ROLE_SERVICE, NOW, 60, &b, &ec), ERR_OK);
    assert_int_equal(verify(a, buf_view(&b), &id, &ec), ERR_OK);
    assert_string_equal(id.user_id, "auth0|5f7c");
    assert_int_equal(id.role, ROLE_SERVICE);
    assert_int_equal(id.expires_s, NOW + 60);
    assert_int_equal(id.issued_s, NOW);
    assert_int_equal(auth_mint(a, STR("assistant:x"), ROLE_USER, NOW, 60, &b, &ec), ERR_INVALID_REQUEST);
    buf_release(&b);
    auth_close(a);
}

static void claims_decide(void **state)
{
    (void)state;
    static const struct {
        const char *payload, *message; /* NULL: accepted */
    } cases[] = {
        {"{\"sub\":\"u\",\"exp\":1800000001}", NULL},
        {"{\"sub\":\"u\",\"exp\":1799999971}", NULL}, /* within the leeway */
        {"{\"sub\":\"u\",\"exp\":1799999970}", "token expired"},
        {"{\"sub\":\"u\",\"exp\":1800000001.5,\"nbf\":1800000030}", NULL},
        {"{\"sub\":\"u\",\"exp\":1800000100,\"nbf\":1800000031}", "invalid token"},
        {"{\"sub\":\"u\"}", "invalid token"},
        {"{\"sub\":\"u\",\"exp\":\"1800000001\"}", "invalid token"},
        {"{\"sub\":\"u\",\"exp\":-1}", "invalid token"},
        {"{\"sub\":\"u\",\"exp\":1e300}", "invalid token"},
        {"{\"exp\":1800000001}", "invalid token"},
        {"{\"sub\":7,\"exp\":1800000001}", "invalid token"},
        {"{\"sub\":\"\",\"exp\":1800000001}", "invalid token"},
        {"{\"sub\":\"ai\",\"exp\":1800000001}", "invalid token"},
        {"{\"sub\":\"shared\",\"exp\":1800000001}", "invalid token"},
        {"{\"sub\":\"u\",\"exp\":1800000001,\"role\":\"root\"}", "invalid token"},
        {"{\"sub\":\"u\",\"exp\":1800000001,\"role\":null}", "invalid token"},
        {"{\"sub\":\"u\",\"sub\":\"v\",\"exp\":1800000001}", "invalid token"},
        {"[]", "invalid token"},
        {"{\"sub\":\"u\",\"exp\":1800000001,\"iat\":\"x\"}", "invalid token"},
    };
    struct auth *a = open_auth(NULL, NULL);
    struct buf b = BUF_INIT(0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct errctx ec = {0};
        struct identity id;
        enum err e = verify(a, sign(&b, cases[i].payload), &id, &ec);
        if (cases[i].message == NULL ? e != ERR_OK : strcmp(ec.message, cases[i].message) != 0)
            fail_msg("%s: %d %s", cases[i].payload, e, ec.message);
    }
    buf_release(&b);
    auth_close(a);
}

static void issuer_and_audience_are_checked_when_configured(void **state)
{
    (void)state;
    struct auth *a = open_auth("me", "you");
    struct buf b = BUF_INIT(0);
    struct errctx ec;
    struct identity id;
    assert_int_equal(
        verify(a, sign(&b, "{\"sub\":\"u\",\"exp\":1800000001,\"iss\":\"me\",\"aud\":[\"x\",\"you\"]}"), &id,
            &ec),
        ERR_OK);
    assert_int_equal(verify(a, sign(&b, "{\"sub\":\"u\",\"exp\":1800000001,\"iss\":\"me\"}"), &id, &ec),
        ERR_UNAUTHENTICATED);
    assert_int_equal(
        verify(a, sign(&b, "{\"sub\":\"u\",\"exp\":1800000001,\"iss\":\"he\",\"aud\":\"you\"}"), &id, &ec),
        ERR_UNAUTHENTICATED);
    buf_release(&b);
    auth_close(a);
}

/* A token with any header, whose HS256 signature with our key is right: what a confused issuer could send. */
static struct str with_header(struct buf *b, const char *header)
{
    unsigned char mac[32];
    unsigned int n = sizeof mac;
    buf_clear(b);
    base64url_encode(b, str_c(header));
    buf_u8(b, '.');
    base64url_encode(b, STR("{\"sub\":\"u\",\"exp\":1800000001}"));
    assert_non_null(HMAC(EVP_sha256(), key.ptr, (int)key.len, (unsigned char *)b->ptr, b->len, mac, &n));
    buf_u8(b, '.');
    base64url_encode(b, str_n((char *)mac, n));
    return buf_view(b);
}

static void nothing_in_the_token_chooses_the_algorithm(void **state)
{
    (void)state;
    struct auth *a = open_auth(NULL, NULL);
    struct buf b = BUF_INIT(0);
    struct errctx ec;
    struct identity id;
    assert_int_equal(verify(a, with_header(&b, "{\"alg\":\"HS256\"}"), &id, &ec), ERR_OK);
    const char *headers[] = {"{\"alg\":\"none\"}", "{\"alg\":\"None\",\"typ\":\"JWT\"}",
        "{\"alg\":\"HS384\"}", "{\"alg\":\"RS256\"}", "{}", "{\"alg\":\"HS256\",\"crit\":[\"x\"]}"};
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++)
        assert_int_equal(verify(a, with_header(&b, headers[i]), &id, &ec), ERR_UNAUTHENTICATED);
    /* Unsigned forms. */
    struct str t = sign(&b, "{\"sub\":\"u\",\"exp\":1800000001}");
    size_t last = t.len;
    while (t.ptr[last - 1] != '.')
        last--;
    assert_int_equal(verify(a, str_n(t.ptr, last), &id, &ec), ERR_UNAUTHENTICATED);
    assert_int_equal(verify(a, str_n(t.ptr, last - 1), &id, &ec), ERR_UNAUTHENTICATED);
    buf_release(&b);
    auth_close(a);
}

static void a_changed_character_anywhere_is_refused(void **state)
{
    (void)state;
    struct auth *a = open_auth(NULL, NULL);
    struct buf b = BUF_INIT(0);
    struct errctx ec;
    struct identity id;
    sign(&b, "{\"sub\":\"u\",\"exp\":1800000001}");
    for (size_t i = 0; i < b.len; i++) {
        char was = b.ptr[i];
        b.ptr[i] = was == 'A' ? 'B' : 'A';
        assert_int_equal(verify(a, buf_view(&b), &id, &ec), ERR_UNAUTHENTICATED);
        b.ptr[i] = was;
    }
    assert_int_equal(verify(a, buf_view(&b), &id, &ec), ERR_OK);
    const char *bad[] = {"", ".", "..", "...", "a.b.c", "a.b"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(verify(a, str_c(bad[i]), &id, &ec), ERR_UNAUTHENTICATED);
    buf_release(&b);
    auth_close(a);
}

static void a_secret_is_made_once_and_kept_private(void **state)
{
    (void)state;
    char dir[] = "/tmp/kalamdb-auth-XXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/secret", dir);
    struct auth_config cfg = {.secret_path = path, .leeway_s = 30, .os = os_posix()};
    struct auth *a = NULL, *again = NULL;
    struct errctx ec;
    struct buf b = BUF_INIT(0);
    struct identity id;
    assert_int_equal(auth_open(&cfg, &a, &ec), ERR_INVALID_REQUEST);
    cfg.create = true;
    assert_int_equal(auth_open(&cfg, &a, &ec), ERR_OK);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(st.st_size, 64);
    assert_int_equal(auth_open(&cfg, &again, &ec), ERR_OK);
    assert_int_equal(auth_mint(a, STR("u"), ROLE_USER, NOW, 60, &b, &ec), ERR_OK);
    assert_int_equal(verify(again, buf_view(&b), &id, &ec), ERR_OK);
    cfg.secret = "short";
    cfg.secret_len = 31;
    struct auth *none = NULL;
    assert_int_equal(auth_open(&cfg, &none, &ec), ERR_INVALID_REQUEST);
    assert_null(none);
    buf_release(&b);
    auth_close(a);
    auth_close(again);
    unlink(path);
    rmdir(dir);
}

static void user_ids(void **state)
{
    (void)state;
    char longest[257];
    memset(longest, 'u', sizeof longest);
    assert_true(user_id_valid(str_n(longest, 255)));
    assert_false(user_id_valid(str_n(longest, 256)));
    const char *good[] = {
        "user_alice", "auth0|5f7c", "../../etc", "\xc3\xa9", "aid", "toolbox", "Shared", "a b", "bots:1"};
    const char *bad[] = {"", "shared", "deleted_user", "ai", "ai:x", "assistant", "assistant:", "system",
        "tool:a", "bot", "a\nb", "a\x7f", "\xc2\x85", "\xff"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(user_id_valid(str_c(good[i])));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(user_id_valid(str_c(bad[i])));
    assert_false(user_id_valid(STR("a\0b")));
}

static void tickets(void **state)
{
    (void)state;
    struct auth_config cfg = {
        .secret = "0123456789abcdef0123456789abcdef", .secret_len = 32, .os = os_posix()};
    struct auth *a = NULL, *other = NULL;
    struct errctx ec;
    struct buf t = BUF_INIT(0), token = BUF_INIT(0);
    struct identity who = {.role = ROLE_SERVICE,
                        .expires_s = NOW + 300,
                        .issued_s = INT64_MIN,
                        .user_id_len = 5,
                        .user_id = "alice"},
                    id = {0};
    assert_int_equal(auth_open(&cfg, &a, &ec), ERR_OK);
    cfg.secret = "another secret of at least 32 bytes";
    cfg.secret_len = 35;
    assert_int_equal(auth_open(&cfg, &other, &ec), ERR_OK);
    assert_int_equal(auth_ticket_mint(a, &who, STR("alice/msg-1.bin"), &t, &ec), ERR_OK);
    assert_int_equal(
        auth_ticket_verify(a, buf_view(&t), STR("alice/msg-1.bin"), NOW + 299, &id, &ec), ERR_OK);
    assert_int_equal(id.role, ROLE_SERVICE);
    assert_int_equal(id.expires_s, NOW + 300);
    assert_int_equal(id.issued_s, INT64_MIN);
    assert_true(str_eq(str_n(id.user_id, id.user_id_len), STR("alice")));
    assert_int_equal(auth_ticket_verify(a, buf_view(&t), STR("alice/msg-1.bin"), NOW + 300, &id, &ec),
        ERR_UNAUTHENTICATED);
    assert_string_equal(ec.message, "ticket expired");
    assert_int_equal(
        auth_ticket_verify(a, buf_view(&t), STR("alice/msg-2.bin"), NOW, &id, &ec), ERR_UNAUTHENTICATED);
    assert_string_equal(ec.message, "invalid ticket");
    assert_int_equal(
        auth_ticket_verify(other, buf_view(&t), STR("alice/msg-1.bin"), NOW, &id, &ec), ERR_UNAUTHENTICATED);
    for (size_t i = 0; i <= t.len; i++) { /* cut, and changed anywhere */
        assert_int_equal(auth_ticket_verify(a, str_n(t.ptr, i), STR("alice/msg-1.bin"), NOW, &id, &ec),
            i == t.len ? ERR_OK : ERR_UNAUTHENTICATED);
        if (i == t.len)
            break;
        char was = t.ptr[i];
        t.ptr[i] = was == 'A' ? 'B' : 'A';
        assert_int_equal(
            auth_ticket_verify(a, buf_view(&t), STR("alice/msg-1.bin"), NOW, &id, &ec), ERR_UNAUTHENTICATED);
        t.ptr[i] = was;
    }
    /* neither is the other */
    assert_int_equal(auth_verify(a, buf_view(&t), NOW, &id, &ec), ERR_UNAUTHENTICATED);
    assert_int_equal(auth_mint(a, STR("alice"), ROLE_USER, NOW, 60, &token, &ec), ERR_OK);
    assert_int_equal(
        auth_ticket_verify(a, buf_view(&token), STR("alice/msg-1.bin"), NOW, &id, &ec), ERR_UNAUTHENTICATED);
    buf_release(&t);
    buf_release(&token);
    auth_close(a);
    auth_close(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_minted_token_is_verified),
        cmocka_unit_test(claims_decide),
        cmocka_unit_test(issuer_and_audience_are_checked_when_configured),
        cmocka_unit_test(nothing_in_the_token_chooses_the_algorithm),
        cmocka_unit_test(a_changed_character_anywhere_is_refused),
        cmocka_unit_test(a_secret_is_made_once_and_kept_private),
        cmocka_unit_test(user_ids),
        cmocka_unit_test(tickets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
