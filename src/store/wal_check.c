/* The format (rocksdb/wiki "Write Ahead Log File Format"): blocks of 32 KiB; in them pieces of records, each
 * u32 masked CRC32C of type and payload | u16 length | u8 type | payload, little-endian; no piece starts in
 * the last 6 bytes of a block, which are zero. A record is one piece (FULL), or FIRST, MIDDLE …, LAST. Its
 * payload is a batch: u64 sequence | u32 count | operations; ours begin with LogData (3 | varint length). */
#include "store/wal_check.h"
#include "base/buf.h"
#include "os/os.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { BLOCK = 32768, HEADER = 7, FULL = 1, FIRST = 2, LAST = 4, LOG_DATA = 3, BATCH_HEADER = 12 };
static const char mark[8] = {'k', 'a', 'l', 'a', 'm', 'd', 'b', '1'};
enum { ATTEST = 16 };

void wal_attest(rocksdb_writebatch_t *batch, uint64_t synced)
{
    char note[ATTEST];
    memcpy(note, mark, sizeof mark);
    put_be64(note + sizeof mark, synced);
    rocksdb_writebatch_put_log_data(batch, note, sizeof note);
}

/* CRC-32C (Castagnoli), by bits of four: logs are read once, at open. */
static uint32_t crc32c(const unsigned char *p, size_t n)
{
    static const uint32_t table[16] = {0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3,
        0x61c69362, 0x7198540d, 0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9, 0xc38d26c4, 0xd3d3e1ab,
        0xe330a81a, 0xf36e6f75};
    uint32_t c = ~0u;
    for (size_t i = 0; i < n; i++) {
        c ^= p[i];
        c = (c >> 4) ^ table[c & 15];
        c = (c >> 4) ^ table[c & 15];
    }
    return ~c;
}

static uint32_t masked(uint32_t crc)
{
    return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

static uint64_t le(const unsigned char *p, int bytes)
{
    uint64_t v = 0;
    for (int i = bytes - 1; i >= 0; i--)
        v = v << 8 | p[i];
    return v;
}

struct walk {
    uint64_t next; /* sequence number that follows what was whole so far; 0: nothing was */
    bool damaged;  /* something was not whole since */
    char file[64]; /* where */
    uint64_t at;
    uint64_t behind;   /* sequence number of the first record behind the damage; 0: there is none */
    uint64_t attested; /* by records behind the damage: all up to here was safe */
};

/* Everything that is missing was safe. */
static bool certain(const struct walk *w)
{
    return w->damaged && w->behind > 0 && w->attested + 1 >= w->behind;
}

static void batch(struct walk *w, const unsigned char *p, size_t n)
{
    if (n < BATCH_HEADER)
        return;
    uint64_t sequence = le(p, 8), count = le(p + 8, 4);
    bool attests = n >= BATCH_HEADER + 2 + ATTEST && p[BATCH_HEADER] == LOG_DATA &&
                   p[BATCH_HEADER + 1] == ATTEST && memcmp(p + BATCH_HEADER + 2, mark, sizeof mark) == 0;
    /* What goes on where the whole part ended misses nothing: a torn end that an earlier start left out. */
    if (w->damaged && !certain(w) && w->next > 0 && sequence <= w->next)
        w->damaged = false;
    if (!w->damaged) {
        w->next = sequence + count;
        w->behind = w->attested = 0;
        return;
    }
    if (w->behind == 0)
        w->behind = sequence;
    uint64_t synced = attests ? get_be64((const char *)p + BATCH_HEADER + 2 + sizeof mark) : 0;
    if (synced > w->attested)
        w->attested = synced;
}

static void damage(struct walk *w, const char *file, uint64_t at)
{
    if (w->damaged)
        return;
    w->damaged = true;
    w->at = at;
    snprintf(w->file, sizeof w->file, "%.63s", file);
}

/* Pieces of one block. Behind one that is not whole the next is looked for by its length, which may be right.
 */
static void block(struct walk *w, const char *file, uint64_t offset, const unsigned char *p, size_t n)
{
    for (size_t at = 0; at + HEADER <= n;) {
        size_t len = (size_t)le(p + at + 4, 2);
        unsigned type = p[at + 6];
        if (type == 0 && len == 0 && le(p + at, 4) == 0) { /* never written */
            damage(w, file, offset + at);
            return;
        }
        bool fits = at + HEADER + len <= n;
        if (!fits || masked(crc32c(p + at + 6, len + 1)) != le(p + at, 4)) {
            damage(w, file, offset + at);
            if (!fits || len == 0)
                return;
        } else if (type == FULL || type == FIRST) {
            batch(w, p + at + HEADER, len);
        } else if (type > LAST) {
            return; /* a format of RocksDB's that is not ours to judge */
        }
        at += HEADER + len;
    }
}

static size_t read_block(int fd, unsigned char *p, uint64_t offset)
{
    size_t n = 0;
    for (ssize_t r; n < BLOCK; n += (size_t)r) {
        do
            r = pread(fd, p + n, BLOCK - n, (off_t)(offset + n));
        while (r < 0 && errno == EINTR);
        if (r <= 0)
            break;
    }
    return n;
}

static void log_file(struct walk *w, const char *dir, const char *name, unsigned char *p)
{
    char *path;
    if (asprintf(&path, "%s/%s", dir, name) < 0)
        return;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    free(path);
    if (fd < 0)
        return;
    for (uint64_t offset = 0;; offset += BLOCK) {
        size_t n = read_block(fd, p, offset);
        block(w, name, offset, p, n);
        if (n < BLOCK)
            break;
    }
    close(fd);
}

static int is_log(const struct dirent *e)
{
    size_t n = strlen(e->d_name);
    return n > 4 && n < 64 && strspn(e->d_name, "0123456789") == n - 4 &&
           strcmp(e->d_name + n - 4, ".log") == 0;
}

/* ---- the list of files --------------------------------------------------------------------------------- */

/* A record of the list: tags and values, of which the number of the first log that the database still needs
 * comes among the first (db/version_edit.cc). 0: it says nothing of that. */
static uint64_t edit_log_number(const unsigned char *p, size_t n)
{
    enum { COMPARATOR = 1, LOG_NUMBER = 2, DB_ID = 8193 };
    struct reader r = reader_of(str_n((const char *)p, n));
    while (!r.bad && reader_left(&r) > 0) {
        uint64_t tag = read_varint(&r);
        if (tag == LOG_NUMBER)
            return read_varint(&r);
        if (tag != COMPARATOR && tag != DB_ID)
            return 0;
        (void)read_lstr(&r);
    }
    return 0;
}

/* The list is as long as its files are many, and its last records count: logs older than what they say may
 * stand there with an end that nobody had to make safe. */
struct list {
    unsigned char head[256]; /* of the record that its pieces make */
    size_t n;
    uint64_t first; /* log */
};

/* False: here it ends. */
static bool list_block(struct list *l, const unsigned char *p, size_t n)
{
    for (size_t at = 0; at + HEADER <= n;) {
        size_t len = (size_t)le(p + at + 4, 2);
        unsigned type = p[at + 6];
        if (at + HEADER + len > n || type < FULL || type > LAST ||
            masked(crc32c(p + at + 6, len + 1)) != le(p + at, 4))
            return false;
        l->n = type == FULL || type == FIRST ? 0 : l->n;
        size_t room = sizeof l->head - l->n, take = len < room ? len : room;
        memcpy(l->head + l->n, p + at + HEADER, take);
        l->n += take;
        uint64_t number = type == FULL || type == LAST ? edit_log_number(l->head, l->n) : 0;
        l->first = number > l->first ? number : l->first;
        at += HEADER + len;
    }
    return n == BLOCK;
}

static uint64_t first_log(const char *hot_dir, unsigned char *p)
{
    struct buf current = BUF_INIT(256);
    struct errctx ignored;
    struct list l = {.n = 0};
    char *path = NULL;
    if (asprintf(&path, "%s/CURRENT", hot_dir) < 0)
        return 0;
    bool known = os_read_file(path, &current, &ignored) == ERR_OK && current.len > 1;
    free(path);
    path = NULL;
    if (known && asprintf(&path, "%s/%.*s", hot_dir, (int)current.len - 1, current.ptr) < 0)
        path = NULL;
    buf_release(&current);
    int fd = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    free(path);
    if (fd < 0)
        return 0;
    for (uint64_t at = 0; list_block(&l, p, read_block(fd, p, at)); at += BLOCK)
        continue;
    close(fd);
    return l.first;
}

/* ---- all of it ----------------------------------------------------------------------------------------- */

static int by_number(const struct dirent **a, const struct dirent **b)
{
    long long x = atoll((*a)->d_name), y = atoll((*b)->d_name);
    return (x > y) - (x < y);
}

enum err wal_check(const char *hot_dir, struct errctx *ec)
{
    struct walk w = {0};
    struct dirent **names = NULL;
    unsigned char *p = malloc(BLOCK);
    if (p == NULL)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    uint64_t first = first_log(hot_dir, p);
    int n = scandir(hot_dir, &names, is_log, by_number);
    for (int i = 0; i < n; i++) {
        if (strtoull(names[i]->d_name, NULL, 10) >= first)
            log_file(&w, hot_dir, names[i]->d_name, p);
        free(names[i]);
    }
    free(names);
    free(p);
    if (!certain(&w))
        return ERR_OK;
    err_set(ec, ERR_CORRUPT,
        "cannot open the database: %s/%s is damaged at byte %llu, and writes behind it were acknowledged",
        hot_dir, w.file, (unsigned long long)w.at);
    err_hint(ec,
        "Restore a backup (kalamdb restore); to go on without these writes: truncate -s %llu that file.",
        (unsigned long long)w.at);
    return ERR_CORRUPT;
}
