#include "audit/chain.h"
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

void audit_hex(const uint8_t hash[HASH_BYTES], char ret[65])
{
    for (size_t i = 0; i < HASH_BYTES; i++) {
        ret[i * 2] = "0123456789abcdef"[hash[i] >> 4];
        ret[i * 2 + 1] = "0123456789abcdef"[hash[i] & 15];
    }
    ret[64] = '\0';
}

static int digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool unhex(struct str text, uint8_t ret[HASH_BYTES])
{
    if (text.len != HASH_BYTES * 2)
        return false;
    for (size_t i = 0; i < HASH_BYTES; i++) {
        int hi = digit(text.ptr[i * 2]), lo = digit(text.ptr[i * 2 + 1]);
        if (hi < 0 || lo < 0)
            return false;
        ret[i] = (uint8_t)(hi << 4 | lo);
    }
    return true;
}

void audit_line_hash(const uint8_t prev[HASH_BYTES], struct str body, uint8_t ret[HASH_BYTES])
{
    char hex[65];
    struct os_sha256 *h = os_sha256_begin();
    memset(ret, 0, HASH_BYTES); /* without memory: a line that will not verify */
    if (h == NULL)
        return;
    os_sha256_add(h, prev, HASH_BYTES);
    os_sha256_add(h, body.ptr, body.len);
    os_sha256_end(h, hex);
    (void)unhex(str_n(hex, 64), ret);
}

void audit_line_close(struct buf *b, size_t from, uint8_t chain[HASH_BYTES])
{
    char hex[65];
    uint8_t next[HASH_BYTES];
    if (b->failed)
        return;
    audit_line_hash(chain, str_n(b->ptr + from, b->len - from), next);
    audit_hex(next, hex);
    buf_printf(b, ",\"hash\":\"%s\"}\n", hex);
    if (!b->failed)
        memcpy(chain, next, HASH_BYTES);
}

static bool take(struct str *s, struct str prefix)
{
    if (!str_starts_with(*s, prefix))
        return false;
    s->ptr += prefix.len;
    s->len -= prefix.len;
    return true;
}

bool audit_line_read(struct str line, struct audit_line *ret)
{
    struct audit_line l = {0};
    if (line.len <= HASH_MEMBER_BYTES || line.len > AUDIT_LINE_BYTES_MAX)
        return false;
    l.body = str_n(line.ptr, line.len - HASH_MEMBER_BYTES);
    struct str tail = str_n(line.ptr + l.body.len, HASH_MEMBER_BYTES), rest = l.body;
    if (!take(&tail, STR(",\"hash\":\"")) || !unhex(str_n(tail.ptr, 64), l.hash) ||
        !str_eq(str_n(tail.ptr + 64, tail.len - 64), STR("\"}")))
        return false;
    if (!take(&rest, STR("{\"n\":")))
        return false;
    int64_t n;
    size_t digits = str_find(rest, ',');
    if (!str_to_i64(str_n(rest.ptr, digits), &n) || n < 1 || rest.ptr[0] == '0')
        return false;
    l.n = (uint64_t)n;
    rest.ptr += digits;
    rest.len -= digits;
    if (take(&rest, STR(",\"prev\":\""))) {
        l.begins = true;
        if (rest.len < 64 || !unhex(str_n(rest.ptr, 64), l.prev))
            return false;
    }
    *ret = l;
    return true;
}

/* ---- files ---- */

char *audit_path(const char *dir, uint64_t first)
{
    char *path;
    return asprintf(&path, "%s/audit-%012llu.jsonl", dir, (unsigned long long)first) < 0 ? NULL : path;
}

static bool name_read(const char *name, uint64_t *ret)
{
    struct str s = str_c(name);
    int64_t n;
    if (!take(&s, STR("audit-")) || s.len < 18 || !str_eq(str_n(s.ptr + s.len - 6, 6), STR(".jsonl")) ||
        !str_to_i64(str_n(s.ptr, s.len - 6), &n) || n < 1)
        return false;
    *ret = (uint64_t)n;
    return true;
}

static int ascending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

enum err audit_files(const char *dir, uint64_t **ret, size_t *ret_n, struct errctx *ec)
{
    DIR *d = opendir(dir);
    if (d == NULL && errno == ENOENT)
        return err_set(ec, ERR_NOT_FOUND, "there is no audit log in %s", dir);
    if (d == NULL)
        return err_internal(ec, ERR_IO, "%s: %s", dir, strerror(errno));
    uint64_t *all = NULL, first;
    size_t n = 0, cap = 0;
    bool ok = true;
    for (const struct dirent *e; ok && (e = readdir(d)) != NULL;) {
        if (!name_read(e->d_name, &first))
            continue;
        if (n == cap) {
            cap = cap == 0 ? 64 : cap * 2;
            uint64_t *grown = realloc(all, cap * sizeof *all);
            ok = grown != NULL;
            all = ok ? grown : all;
        }
        if (ok)
            all[n++] = first;
    }
    closedir(d);
    if (!ok) {
        free(all);
        return err_internal(ec, ERR_NO_MEMORY, "audit log");
    }
    if (n > 1)
        qsort(all, n, sizeof *all, ascending);
    *ret = all;
    *ret_n = n;
    return ERR_OK;
}
