/* The master key as people keep it. */
#include "vault/ring_int.h"
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <unistd.h>

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

static bool from_hex(struct str text, uint8_t ret[VAULT_KEY_BYTES])
{
    if (text.len != 2 * VAULT_KEY_BYTES)
        return false;
    for (size_t i = 0; i < VAULT_KEY_BYTES; i++) {
        int high = hex_digit(text.ptr[2 * i]), low = hex_digit(text.ptr[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        ret[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

/* 43 characters, with or without the one of padding. */
static bool from_base64(struct str text, uint8_t ret[VAULT_KEY_BYTES])
{
    enum { DIGITS = 43, GROUPS = 44 };
    char padded[GROUPS];
    uint8_t out[GROUPS / 4 * 3];
    if (text.len == GROUPS && text.ptr[DIGITS] == '=')
        text.len--;
    if (text.len != DIGITS)
        return false;
    for (size_t i = 0; i < DIGITS; i++) {
        char c = text.ptr[i];
        padded[i] = c == '-' ? '+' : c == '_' ? '/' : c;
        if (c == '=' || c == ' ' || c == '\n' || c == '\r' || c == '\t')
            return false; /* EVP_DecodeBlock would skip some of these */
    }
    padded[DIGITS] = '=';
    bool good = EVP_DecodeBlock(out, (const uint8_t *)padded, GROUPS) == (int)sizeof out;
    if (good)
        memcpy(ret, out, VAULT_KEY_BYTES);
    vault_wipe(out, sizeof out);
    vault_wipe(padded, sizeof padded);
    return good;
}

enum err vault_parse_master_key(struct str text, uint8_t ret[VAULT_KEY_BYTES], struct errctx *ec)
{
    while (
        text.len > 0 && text.ptr[text.len - 1] != '\0' && strchr(" \t\r\n", text.ptr[text.len - 1]) != NULL)
        text.len--;
    if (from_hex(text, ret) || from_base64(text, ret))
        return ERR_OK;
    err_set(ec, ERR_INVALID_REQUEST,
        "a master key is 64 hex digits or the base64 of 32 bytes; in a file also 32 raw bytes");
    err_hint(ec, "openssl rand -hex 32 makes one.");
    return ec->code;
}

enum err vault_master_key_file(
    const char *path, bool make, const struct os *os, uint8_t ret[VAULT_KEY_BYTES], struct errctx *ec)
{
    enum { FILE_BYTES_MAX = 4096 };
    char text[2 * VAULT_KEY_BYTES + 1];
    uint8_t key[VAULT_KEY_BYTES];
    struct buf b = BUF_INIT(FILE_BYTES_MAX);
    enum err e = os_read_file(path, &b, ec);
    if (e == ERR_OK &&
        (b.len == VAULT_KEY_BYTES || (b.len == VAULT_KEY_BYTES + 1 && b.ptr[VAULT_KEY_BYTES] == '\n')))
        memcpy(ret, b.ptr, VAULT_KEY_BYTES);
    else if (e == ERR_OK)
        e = vault_parse_master_key(buf_view(&b), ret, ec);
    else if (e == ERR_TOO_LARGE)
        e = err_set(ec, ERR_INVALID_REQUEST, "%s is too large for a key", path);
    else if (e == ERR_NOT_FOUND && make) {
        os->random(os->ctx, key, sizeof key);
        for (size_t i = 0; i < sizeof key; i++) {
            text[2 * i] = "0123456789abcdef"[key[i] >> 4];
            text[2 * i + 1] = "0123456789abcdef"[key[i] & 15];
        }
        text[sizeof text - 1] = '\n';
        e = os_write_file(os, path, str_n(text, sizeof text), 0600, ec);
        if (e == ERR_OK)
            memcpy(ret, key, sizeof key);
        vault_wipe(text, sizeof text);
        vault_wipe(key, sizeof key);
    }
    if (b.ptr != NULL)
        vault_wipe(b.ptr, b.cap);
    buf_release(&b);
    if (e != ERR_OK && ec->message[0] == '\0')
        (void)err_set(ec, e, "cannot read the master key in %s", path);
    return e;
}

static enum err sync_folder_of(const struct os *os, const char *path, struct errctx *ec)
{
    char *dir = strdup(path), *slash = dir != NULL ? strrchr(dir, '/') : NULL;
    if (dir == NULL)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    if (slash != NULL)
        slash[slash == dir] = '\0';
    enum err e = os_fsync_dir(os, slash != NULL ? dir : ".", ec);
    free(dir);
    return e;
}

enum err vault_remove_key_file(const struct os *os, const char *path, struct errctx *ec)
{
    if (access(path, F_OK) != 0)
        return ERR_OK;
    int failed = ring_zero_and_remove(os, path);
    return failed == 0 ? sync_folder_of(os, path, ec) : ring_io_error(ec, "remove", path, -failed);
}

enum err vault_replace_key_file(const struct os *os, const char *from, const char *to, struct errctx *ec)
{
    int old = open(to, O_RDWR | O_CLOEXEC);
    int failed = os->rename(os->ctx, from, to);
    enum err e = failed == 0 ? sync_folder_of(os, to, ec) : ring_io_error(ec, "rename", from, -failed);
    if (e == ERR_OK && old >= 0)
        failed = ring_zero_file(os, old);
    if (e == ERR_OK && failed != 0)
        e = ring_io_error(ec, "overwrite", to, -failed);
    if (old >= 0)
        close(old);
    return e;
}
