/* Sealed files from a disk nobody vouches for. First byte even: the rest is the file, which must be refused,
 * for nobody knows the key. Odd: a good file of the bytes behind the next four, of which these say where a
 * bit is flipped or the end cut; whatever a reader gives must then be what was written. */
#include "vault/sealed_file.h"
#include <stdlib.h>
#include <unistd.h>

static const uint8_t key[SEALED_KEY_BYTES] = "known to the good file alone";
static struct errctx ec;

static void check(bool ok)
{
    if (!ok)
        abort();
}

static int file_of(struct str bytes)
{
    int fd = os_memfd("fuzz");
    check(fd >= 0 && os_write_all(fd, bytes.ptr, bytes.len) == 0);
    return fd;
}

static void fuzz_file(struct str bytes)
{
    struct sealed_reader *r;
    int fd = file_of(bytes);
    check(sealed_reader_open(fd, key, STR("fuzz"), &r, &ec) == ERR_CORRUPT);
    close(fd);
}

static void fuzz_damage(struct str how, struct str plain)
{
    struct sealed_reader *r;
    char *got = malloc(plain.len + SEALED_BLOCK_BYTES), byte;
    int from = file_of(plain), fd = file_of(STR(""));
    check(sealed_from_fd(os_posix(), from, plain.len, fd, key, STR("fuzz"), &ec) == ERR_OK);
    uint64_t size = sealed_size(plain.len), at = get_be32(how.ptr) / 2 % size;
    bool cut = get_be32(how.ptr) % 2 == 1;
    if (cut) {
        check(ftruncate(fd, (off_t)at) == 0);
    } else {
        check(pread(fd, &byte, 1, (off_t)at) == 1);
        byte ^= (char)(1 << at % 8);
        check(pwrite(fd, &byte, 1, (off_t)at) == 1);
    }
    enum err e = sealed_reader_open(fd, key, STR("fuzz"), &r, &ec);
    check(e == ERR_CORRUPT || (e == ERR_OK && !cut));
    if (e == ERR_OK) {
        size_t n, whole;
        check(sealed_reader_size(r) == plain.len);
        check(sealed_reader_pread(r, got, plain.len, 0, &whole, &ec) == ERR_CORRUPT);
        for (size_t i = 0; i < plain.len; i += SEALED_BLOCK_BYTES)
            if (sealed_reader_pread(r, got, 100, i, &n, &ec) == ERR_OK)
                check(memcmp(got, plain.ptr + i, n) == 0);
        sealed_reader_close(r);
    }
    close(from);
    close(fd);
    free(got);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str bytes = str_n((const char *)data, size);
    if (size > 0 && data[0] % 2 == 0)
        fuzz_file(str_n(bytes.ptr + 1, size - 1));
    else if (size > 5)
        fuzz_damage(str_n(bytes.ptr + 1, 4), str_n(bytes.ptr + 5, size - 5));
    return 0;
}
