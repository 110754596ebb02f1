/* The sealed file: what was written comes back, anywhere; what was not is refused. */
#include "../test.h"
#include "vault/sealed_file.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { BLOCK = SEALED_BLOCK_BYTES, SLOT = SEALED_BLOCK_BYTES + SEALED_TAG_BYTES };
static const uint8_t key_a[SEALED_KEY_BYTES] = "key a: thirty-two bytes of a key",
                     key_b[SEALED_KEY_BYTES] = "key b";
static struct errctx ec;

/* Bytes that differ from block to block and within one. */
static void content(char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (char)(i * 31 + i / 251);
}

static int memfd(void)
{
    int fd = os_memfd("test");
    assert_true(fd >= 0);
    return fd;
}

static int seal(const char *p, size_t n, const uint8_t *key, const char *context, size_t step)
{
    int fd = memfd();
    struct sealed_writer *w;
    assert_int_equal(sealed_writer_open(os_posix(), fd, key, str_c(context), &w, &ec), ERR_OK);
    for (size_t at = 0; at < n;) {
        size_t part = n - at < step ? n - at : step;
        assert_int_equal(sealed_writer_append(w, str_n(p + at, part), &ec), ERR_OK);
        at += part;
    }
    assert_int_equal(sealed_writer_bytes(w), n);
    assert_int_equal(sealed_writer_end(w, &ec), ERR_OK);
    assert_int_equal(sealed_writer_append(w, STR("more"), &ec), ERR_TOO_LARGE);
    sealed_writer_free(w);
    return fd;
}

static size_t file_size(int fd)
{
    off_t n = lseek(fd, 0, SEEK_END);
    assert_true(n >= 0);
    return (size_t)n;
}

/* Opens and reads all of it: what a reader would see. */
static enum err read_all(int fd, const uint8_t *key, const char *context, char *ret, size_t n)
{
    struct sealed_reader *r;
    size_t got = 0;
    enum err err = sealed_reader_open(fd, key, str_c(context), &r, &ec);
    if (err != ERR_OK)
        return err;
    if (sealed_reader_size(r) != n)
        err = ERR_INTERNAL;
    else
        err = sealed_reader_pread(r, ret, n, 0, &got, &ec);
    assert_true(err != ERR_OK || got == n);
    sealed_reader_close(r);
    return err;
}

static void test_sizes(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 2, 100, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 77};
    char *p = malloc(3 * BLOCK), *q = malloc(3 * BLOCK);
    content(p, 3 * BLOCK);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (size_t step = 7777; step <= 3 * BLOCK; step = step == 7777 ? BLOCK : step + BLOCK) {
            int fd = seal(p, sizes[i], key_a, "alice/f", step);
            uint64_t plain;
            assert_int_equal(file_size(fd), sealed_size(sizes[i]));
            assert_true(sealed_plain_size(sealed_size(sizes[i]), &plain));
            assert_int_equal(plain, sizes[i]);
            memset(q, 0, 3 * BLOCK);
            assert_int_equal(read_all(fd, key_a, "alice/f", q, sizes[i]), ERR_OK);
            assert_memory_equal(p, q, sizes[i]);
            close(fd);
        }
    uint64_t plain;
    for (uint64_t n = 0; n < SEALED_HEADER_BYTES + SEALED_TAG_BYTES; n++)
        assert_false(sealed_plain_size(n, &plain));
    /* No last block is shorter than its tag, nor empty behind others. */
    for (uint64_t n = 0; n <= SEALED_TAG_BYTES; n++)
        assert_false(n > 0 && sealed_plain_size(SEALED_HEADER_BYTES + SLOT + n, &plain));
    assert_true(sealed_plain_size(SEALED_HEADER_BYTES + SLOT + SEALED_TAG_BYTES + 1, &plain));
    assert_false(sealed_plain_size(UINT64_MAX, &plain));
    free(p);
    free(q);
}

static void test_random_access_equals_plain(void **state)
{
    (void)state;
    size_t n = 3 * BLOCK + 1234;
    char *p = malloc(n), *q = malloc(n);
    content(p, n);
    int fd = seal(p, n, key_a, "alice/f", 10000);
    struct sealed_reader *r;
    assert_int_equal(sealed_reader_open(fd, key_a, STR("alice/f"), &r, &ec), ERR_OK);
    unsigned seed = 4;
    for (int i = 0; i < 500; i++) {
        seed = seed * 1103515245u + 12345u;
        size_t at = seed % (n + 100);
        seed = seed * 1103515245u + 12345u;
        size_t want = i % 3 == 0 ? seed % 50 : seed % (2 * BLOCK), got = 99;
        size_t left = at < n ? n - at : 0, should = want < left ? want : left;
        want = want < n ? want : n;
        assert_int_equal(sealed_reader_pread(r, q, want, at, &got, &ec), ERR_OK);
        assert_int_equal(got, should);
        assert_memory_equal(q, p + (at < n ? at : 0), got);
    }
    sealed_reader_close(r);
    close(fd);
    free(p);
    free(q);
}

static void flip(int fd, size_t at, uint8_t bits)
{
    uint8_t c;
    assert_int_equal(pread(fd, &c, 1, (off_t)at), 1);
    c ^= bits;
    assert_int_equal(pwrite(fd, &c, 1, (off_t)at), 1);
}

static void test_every_flipped_bit_is_refused(void **state)
{
    (void)state;
    char p[100], q[100];
    content(p, sizeof p);
    int fd = seal(p, sizeof p, key_a, "alice/f", 1000);
    size_t size = file_size(fd);
    for (size_t at = 0; at < size; at++)
        for (int bit = 0; bit < 8; bit++) {
            flip(fd, at, (uint8_t)(1 << bit));
            errctx_clear(&ec);
            assert_int_equal(read_all(fd, key_a, "alice/f", q, sizeof q), ERR_CORRUPT);
            assert_string_not_equal(ec.internal, "");
            flip(fd, at, (uint8_t)(1 << bit));
        }
    assert_int_equal(read_all(fd, key_a, "alice/f", q, sizeof q), ERR_OK);
    close(fd);
}

/* A flip spoils the block that it is in, and no other. */
static void test_a_flip_spoils_its_block(void **state)
{
    (void)state;
    size_t n = 2 * BLOCK + 50;
    char *p = malloc(n), *q = malloc(n);
    content(p, n);
    int fd = seal(p, n, key_a, "alice/f", n);
    for (size_t at = SEALED_HEADER_BYTES; at < SEALED_HEADER_BYTES + 2 * SLOT; at += 997) {
        size_t hit = (at - SEALED_HEADER_BYTES) / SLOT, got;
        struct sealed_reader *r;
        flip(fd, at, 0x20);
        assert_int_equal(sealed_reader_open(fd, key_a, STR("alice/f"), &r, &ec), ERR_OK);
        assert_int_equal(sealed_reader_pread(r, q, 10, hit * BLOCK + 5, &got, &ec), ERR_CORRUPT);
        assert_int_equal(sealed_reader_pread(r, q, 10, (1 - hit) * BLOCK + 5, &got, &ec), ERR_OK);
        assert_memory_equal(q, p + (1 - hit) * BLOCK + 5, 10);
        assert_int_equal(sealed_reader_pread(r, q, 10, hit * BLOCK + 5, &got, &ec), ERR_CORRUPT);
        /* One read over all of it gives nothing of the file's behind the damage. */
        assert_int_equal(sealed_reader_pread(r, q, n, 0, &got, &ec), ERR_CORRUPT);
        sealed_reader_close(r);
        int out = -7;
        assert_int_equal(sealed_to_memfd(fd, key_a, STR("alice/f"), "test", &out, &ec), ERR_CORRUPT);
        assert_int_equal(out, -7);
        flip(fd, at, 0x20);
    }
    close(fd);
    free(p);
    free(q);
}

static void test_cut_or_grown_anywhere(void **state)
{
    (void)state;
    char p[200], q[200];
    content(p, sizeof p);
    int fd = seal(p, sizeof p, key_a, "alice/f", 1000);
    for (size_t size = file_size(fd); size-- > 0;) {
        assert_int_equal(ftruncate(fd, (off_t)size), 0);
        assert_int_equal(read_all(fd, key_a, "alice/f", q, 0), ERR_CORRUPT);
    }
    close(fd);

    size_t n = 3 * BLOCK;
    char *big = malloc(n), *back = malloc(n);
    content(big, n);
    static const size_t cuts[] = {SEALED_HEADER_BYTES + SLOT, SEALED_HEADER_BYTES + 2 * SLOT,
        SEALED_HEADER_BYTES + 2 * SLOT + SEALED_TAG_BYTES, SEALED_HEADER_BYTES + 2 * SLOT + 100,
        SEALED_HEADER_BYTES + 3 * SLOT - 1, SEALED_HEADER_BYTES};
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        fd = seal(big, n, key_a, "alice/f", n);
        assert_int_equal(ftruncate(fd, (off_t)cuts[i]), 0);
        assert_int_equal(read_all(fd, key_a, "alice/f", back, n), ERR_CORRUPT);
        close(fd);
    }
    static const size_t more[] = {1, SEALED_TAG_BYTES, SEALED_TAG_BYTES + 1, SLOT};
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
        fd = seal(big, n, key_a, "alice/f", n);
        assert_int_equal(ftruncate(fd, (off_t)(sealed_size(n) + more[i])), 0);
        assert_int_equal(read_all(fd, key_a, "alice/f", back, n), ERR_CORRUPT);
        close(fd);
    }
    free(big);
    free(back);
}

/* Bytes [at, at+n) of one file over those of another. */
static void graft(int from, size_t from_at, int to, size_t to_at, size_t n)
{
    char *p = malloc(n);
    assert_int_equal(pread(from, p, n, (off_t)from_at), n);
    assert_int_equal(pwrite(to, p, n, (off_t)to_at), n);
    free(p);
}

static void test_blocks_moved(void **state)
{
    (void)state;
    size_t n = 4 * BLOCK, slot0 = SEALED_HEADER_BYTES;
    char *p = malloc(n), *q = malloc(n);
    content(p, n);
    int good = seal(p, n, key_a, "alice/f", n), again = seal(p, n, key_a, "alice/f", n);
    struct {
        const char *what;
        int from;
        size_t from_slot, to_slot, slots;
    } cases[] = {
        {"a block twice", good, 0, 1, 1},
        {"the last one earlier", good, 3, 1, 1},
        {"an inner one last", good, 1, 3, 1},
        {"the same block of another writing", again, 1, 1, 1},
        {"all blocks of another writing", again, 0, 0, 4},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int fd = memfd();
        graft(good, 0, fd, 0, sealed_size(n));
        graft(cases[i].from, slot0 + cases[i].from_slot * SLOT, fd, slot0 + cases[i].to_slot * SLOT,
            cases[i].slots * SLOT);
        if (read_all(fd, key_a, "alice/f", q, n) != ERR_CORRUPT)
            fail_msg("accepted: %s", cases[i].what);
        close(fd);
    }
    int swapped = memfd();
    graft(good, 0, swapped, 0, sealed_size(n));
    graft(good, slot0, swapped, slot0 + SLOT, SLOT);
    graft(good, slot0 + SLOT, swapped, slot0, SLOT);
    assert_int_equal(read_all(swapped, key_a, "alice/f", q, n), ERR_CORRUPT);
    close(swapped);
    /* The header of another writing alone. */
    graft(again, 0, good, 0, SEALED_HEADER_BYTES);
    assert_int_equal(read_all(good, key_a, "alice/f", q, n), ERR_CORRUPT);
    close(good);
    close(again);
    free(p);
    free(q);
}

static void test_whose_file_it_is(void **state)
{
    (void)state;
    char p[300], q[300];
    content(p, sizeof p);
    int fd = seal(p, sizeof p, key_a, "alice/f", 1000);
    assert_int_equal(read_all(fd, key_a, "alice/f", q, sizeof q), ERR_OK);
    assert_int_equal(read_all(fd, key_b, "alice/f", q, sizeof q), ERR_CORRUPT);
    assert_int_equal(read_all(fd, key_a, "alice/g", q, sizeof q), ERR_CORRUPT);
    assert_int_equal(read_all(fd, key_a, "alice/", q, sizeof q), ERR_CORRUPT);
    assert_int_equal(read_all(fd, key_a, "", q, sizeof q), ERR_CORRUPT);
    close(fd);
}

static void test_nothing_of_the_content_shows(void **state)
{
    (void)state;
    char p[5000], raw[6000];
    for (size_t i = 0; i < sizeof p; i++)
        p[i] = "planted-content-"[i % 16];
    int one = seal(p, sizeof p, key_a, "alice/f", 1000), two = seal(p, sizeof p, key_a, "alice/f", 1000);
    size_t size = file_size(one);
    assert_int_equal(pread(one, raw, sizeof raw, 0), size);
    assert_null(memmem(raw, size, "planted", 7));
    /* Under the same key the same content is different bytes: no key stream comes twice. */
    char other[6000];
    assert_int_equal(pread(two, other, sizeof other, 0), size);
    size_t same = 0;
    for (size_t i = SEALED_HEADER_BYTES; i < size; i++)
        same += raw[i] == other[i];
    assert_true(same < size / 50);
    close(one);
    close(two);
}

static void test_memfd(void **state)
{
    (void)state;
    size_t n = 2 * BLOCK + 5;
    char *p = malloc(n), *q = malloc(n);
    content(p, n);
    int plain = memfd(), sealed = memfd(), out;
    assert_int_equal(os_write_all(plain, p, n), 0);
    assert_int_equal(sealed_from_fd(os_posix(), plain, n, sealed, key_a, STR("x"), &ec), ERR_OK);
    assert_int_equal(file_size(sealed), sealed_size(n));
    assert_int_equal(sealed_to_memfd(sealed, key_a, STR("x"), "test", &out, &ec), ERR_OK);
    assert_int_equal(os_read_all(out, q, n), n);
    assert_memory_equal(p, q, n);
    assert_int_equal(file_size(out), n);
    /* A worker that holds it cannot change what the next one reads. */
    assert_int_equal(pwrite(out, "x", 1, 0), -1);
    assert_int_equal(ftruncate(out, 0), -1);
    assert_int_equal(ftruncate(out, (off_t)n + 1), -1);
    assert_ptr_equal(mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED, out, 0), MAP_FAILED);
    close(out);
    /* A source shorter than it was said to be. */
    int half = memfd();
    assert_int_not_equal(sealed_from_fd(os_posix(), plain, n + 1, half, key_a, STR("x"), &ec), ERR_OK);
    assert_int_equal(read_all(half, key_a, "x", q, n), ERR_CORRUPT);
    close(half);
    close(plain);
    close(sealed);
    free(p);
    free(q);
}

static void test_not_ended_is_not_a_file(void **state)
{
    (void)state;
    size_t n = 2 * BLOCK;
    char *p = malloc(n), *q = malloc(n);
    content(p, n);
    int fd = memfd();
    struct sealed_writer *w;
    assert_int_equal(sealed_writer_open(os_posix(), fd, key_a, STR("x"), &w, &ec), ERR_OK);
    assert_int_equal(sealed_writer_append(w, str_n(p, n), &ec), ERR_OK);
    sealed_writer_free(w);
    assert_int_equal(read_all(fd, key_a, "x", q, BLOCK), ERR_CORRUPT);
    close(fd);
    free(p);
    free(q);
}

static void test_a_full_disk_is_an_error(void **state)
{
    (void)state;
    struct sealed_writer *w;
    int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
    assert_true(full >= 0);
    assert_int_equal(sealed_writer_open(os_posix(), full, key_a, STR("x"), &w, &ec), ERR_IO);
    assert_non_null(strstr(ec.internal, "ENOSPC"));
    close(full);
}

static void fixed_random(void *ctx, void *p, size_t n)
{
    (void)ctx;
    for (size_t i = 0; i < n; i++)
        ((uint8_t *)p)[i] = (uint8_t)(0xa0 + i);
}

/* The format itself, as node:crypto writes it (hkdfSync, createCipheriv "aes-256-gcm"). */
static void test_format(void **state)
{
    (void)state;
    struct os os = *os_posix();
    os.random = fixed_random;
    size_t n = BLOCK + 3;
    char *p = malloc(n), hex[65];
    for (size_t i = 0; i < n; i++)
        p[i] = (char)i;
    int plain = memfd(), fd = memfd();
    assert_int_equal(os_write_all(plain, p, n), 0);
    assert_int_equal(sealed_from_fd(&os, plain, n, fd, key_a, STR("user_alice\nmessages"), &ec), ERR_OK);
    assert_int_equal(os_sha256_fd(fd, file_size(fd), hex, &ec), ERR_OK);
    assert_string_equal(hex, "5e4adfc44694a7ebf4263fd83efcb131e2a49b1dd768850ac9ac341032b4070e");
    close(plain);
    close(fd);
    free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_random_access_equals_plain),
        cmocka_unit_test(test_every_flipped_bit_is_refused), cmocka_unit_test(test_a_flip_spoils_its_block),
        cmocka_unit_test(test_cut_or_grown_anywhere), cmocka_unit_test(test_blocks_moved),
        cmocka_unit_test(test_whose_file_it_is), cmocka_unit_test(test_nothing_of_the_content_shows),
        cmocka_unit_test(test_memfd), cmocka_unit_test(test_not_ended_is_not_a_file),
        cmocka_unit_test(test_a_full_disk_is_an_error), cmocka_unit_test(test_format)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
