/* Format of a manifest record (integers as in base/buf.h):
 *
 *   u8 version (2; of 1 no file is sealed) | varint epoch, watermark, cold_max_seq | zigzag user_floor | u8
 * flags (1: release pending) | zigzag tail_since_us | varint nmarks, per mark: zigzag time_us, varint seq |
 * varint nfiles, per file: lstr name | varint rows, bytes | 32 bytes SHA-256 | of a sealed file (its name
 * says so): 32 bytes key | zigzag id_min, id_max, ts_min, ts_max | varint seq_min, seq_max, ins_min, ins_max,
 * as_of | u8 any_conversation | lstr filter | varint ngarbage, lstr each | u32 CRC-32C of all before
 *
 * A record of an unknown version is refused, never guessed at. */
#include "store/manifest.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { MANIFEST_VERSION = 2, MANIFEST_VERSION_PLAIN = 1, FLAG_RELEASE_PENDING = 1 };

static uint32_t crc_table[256];
static pthread_once_t crc_once = PTHREAD_ONCE_INIT;

static void crc_init(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++)
            c = c & 1 ? 0x82f63b78u ^ c >> 1 : c >> 1;
        crc_table[i] = c;
    }
}

static uint32_t crc32c(struct str s)
{
    pthread_once(&crc_once, crc_init);
    uint32_t c = 0xffffffffu;
    for (size_t i = 0; i < s.len; i++)
        c = crc_table[(c ^ (uint8_t)s.ptr[i]) & 0xff] ^ c >> 8;
    return ~c;
}

static void encode_sha256(struct buf *b, const char *hex)
{
    for (int i = 0; i < 32; i++) {
        unsigned v = 0;
        for (int k = 0; k < 2; k++) {
            char c = hex[2 * i + k];
            v = v << 4 | (unsigned)(c >= 'a' ? c - 'a' + 10 : c >= '0' ? c - '0' : 0);
        }
        buf_u8(b, (uint8_t)v);
    }
}

bool cold_name_sealed(struct str name)
{
    return str_ends_with(name, STR(".parquet.enc"));
}

static void encode_file(struct buf *b, const struct cold_file *f)
{
    buf_lstr(b, f->name);
    buf_varint(b, f->rows);
    buf_varint(b, f->bytes);
    encode_sha256(b, f->sha256);
    if (cold_name_sealed(f->name))
        buf_append(b, f->key, sizeof f->key);
    buf_zigzag(b, f->id_min);
    buf_zigzag(b, f->id_max);
    buf_zigzag(b, f->ts_min);
    buf_zigzag(b, f->ts_max);
    buf_varint(b, f->seq_min);
    buf_varint(b, f->seq_max);
    buf_varint(b, f->ins_min);
    buf_varint(b, f->ins_max);
    buf_varint(b, f->as_of);
    buf_u8(b, f->any_conversation);
    buf_lstr(b, f->any_conversation ? STR("") : f->conversations);
}

void manifest_encode(struct buf *b, const struct manifest *m)
{
    size_t start = b->len;
    buf_u8(b, MANIFEST_VERSION);
    buf_varint(b, m->epoch);
    buf_varint(b, m->watermark);
    buf_varint(b, m->cold_max_seq);
    buf_zigzag(b, m->user_floor);
    buf_u8(b, m->release_pending ? FLAG_RELEASE_PENDING : 0);
    buf_zigzag(b, m->tail_since_us);
    buf_varint(b, m->nmarks);
    for (size_t i = 0; i < m->nmarks; i++) {
        buf_zigzag(b, m->marks[i].time_us);
        buf_varint(b, m->marks[i].seq);
    }
    buf_varint(b, m->nfiles);
    for (size_t i = 0; i < m->nfiles; i++)
        encode_file(b, &m->files[i]);
    buf_varint(b, m->ngarbage);
    for (size_t i = 0; i < m->ngarbage; i++)
        buf_lstr(b, m->garbage[i]);
    if (!b->failed)
        buf_be32(b, crc32c(str_n(b->ptr + start, b->len - start)));
}

/* A name becomes part of a path: our own naming only, so that no record can lead out of the user's folder. */
static bool name_ok(struct str name)
{
    if (name.len == 0 || name.len > MANIFEST_NAME_MAX || !str_starts_with(name, STR("batch-")))
        return false;
    for (size_t i = 0; i < name.len; i++) {
        char c = name.ptr[i];
        if (!(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9') && c != '-' &&
            c != '.')
            return false;
    }
    return str_ends_with(name, STR(".parquet")) || cold_name_sealed(name);
}

static void decode_file(struct reader *r, struct cold_file *f)
{
    static const char digits[] = "0123456789abcdef";
    f->name = read_lstr(r);
    f->rows = read_varint(r);
    f->bytes = read_varint(r);
    struct str sum = read_bytes(r, 32);
    for (size_t i = 0; i < sum.len; i++) {
        f->sha256[2 * i] = digits[(uint8_t)sum.ptr[i] >> 4];
        f->sha256[2 * i + 1] = digits[(uint8_t)sum.ptr[i] & 15];
    }
    f->sealed = cold_name_sealed(f->name);
    if (f->sealed) {
        struct str key = read_bytes(r, sizeof f->key);
        if (key.len == sizeof f->key)
            memcpy(f->key, key.ptr, sizeof f->key);
    }
    f->id_min = read_zigzag(r);
    f->id_max = read_zigzag(r);
    f->ts_min = read_zigzag(r);
    f->ts_max = read_zigzag(r);
    f->seq_min = read_varint(r);
    f->seq_max = read_varint(r);
    f->ins_min = read_varint(r);
    f->ins_max = read_varint(r);
    f->as_of = read_varint(r);
    f->any_conversation = read_u8(r) != 0;
    f->conversations = read_lstr(r);
}

static bool file_ok(const struct cold_file *f, uint64_t covered, uint64_t watermark)
{
    return name_ok(f->name) && (!f->sealed || f->bytes >= SEALED_HEADER_BYTES) && f->rows > 0 &&
           f->id_min <= f->id_max && f->seq_min <= f->seq_max && f->seq_max <= f->as_of &&
           f->ins_min > covered && f->ins_min <= f->ins_max && f->ins_max <= watermark &&
           f->ins_max <= f->as_of;
}

struct counts {
    uint64_t marks, files, garbage;
};

/* Counts first, so that one block holds everything: the struct, the arrays and a copy of the bytes. */
static bool decode_counts(struct str body, struct counts *ret)
{
    struct reader r = reader_of(body);
    struct counts n = {0};
    struct cold_file f;
    read_u8(&r);
    for (int i = 0; i < 3; i++)
        read_varint(&r);
    read_zigzag(&r);
    read_u8(&r);
    read_zigzag(&r);
    n.marks = read_varint(&r);
    if (n.marks > MANIFEST_MARKS_MAX)
        return false;
    for (uint64_t i = 0; i < 2 * n.marks; i++)
        read_varint(&r);
    n.files = read_varint(&r);
    if (r.bad || n.files > MANIFEST_FILES_MAX)
        return false;
    for (uint64_t i = 0; i < n.files && !r.bad; i++)
        decode_file(&r, &f);
    n.garbage = read_varint(&r);
    if (r.bad || n.garbage > MANIFEST_FILES_MAX)
        return false;
    *ret = n;
    return true;
}

static bool decode_marks(struct reader *r, struct manifest *m)
{
    read_varint(r);
    for (size_t i = 0; i < m->nmarks; i++) {
        m->marks[i] = (struct seq_mark){.time_us = read_zigzag(r)};
        m->marks[i].seq = read_varint(r);
        if (i > 0 && (m->marks[i].time_us < m->marks[i - 1].time_us || m->marks[i].seq < m->marks[i - 1].seq))
            return false;
    }
    return !r->bad;
}

static bool decode_body(struct reader *r, struct manifest *m)
{
    read_u8(r);
    m->epoch = read_varint(r);
    m->watermark = read_varint(r);
    m->cold_max_seq = read_varint(r);
    m->user_floor = read_zigzag(r);
    m->release_pending = (read_u8(r) & FLAG_RELEASE_PENDING) != 0;
    m->tail_since_us = read_zigzag(r);
    if (!decode_marks(r, m))
        return false;
    read_varint(r);
    uint64_t covered = 0;
    for (size_t i = 0; i < m->nfiles; i++) {
        decode_file(r, &m->files[i]);
        if (r->bad || !file_ok(&m->files[i], covered, m->watermark))
            return false;
        covered = m->files[i].ins_max;
    }
    read_varint(r);
    for (size_t i = 0; i < m->ngarbage; i++) {
        m->garbage[i] = read_lstr(r);
        if (r->bad || !name_ok(m->garbage[i]))
            return false;
    }
    return !r->bad && reader_left(r) == 0;
}

static bool any_sealed(const struct manifest *m)
{
    for (size_t i = 0; i < m->nfiles; i++)
        if (m->files[i].sealed)
            return true;
    return false;
}

enum err manifest_decode(struct str bytes, struct manifest **ret, struct errctx *ec)
{
    struct counts n;
    if (bytes.len < 5 || bytes.len > MANIFEST_BYTES_MAX ||
        get_be32(bytes.ptr + bytes.len - 4) != crc32c(str_n(bytes.ptr, bytes.len - 4)))
        return err_internal(ec, ERR_CORRUPT, "manifest: checksum mismatch (%zu bytes)", bytes.len);
    uint8_t version = (uint8_t)bytes.ptr[0];
    if (version != MANIFEST_VERSION && version != MANIFEST_VERSION_PLAIN)
        return err_internal(ec, ERR_CORRUPT, "manifest: unknown version %u", version);
    struct str body = str_n(bytes.ptr, bytes.len - 4);
    if (!decode_counts(body, &n))
        return err_internal(ec, ERR_CORRUPT, "manifest: malformed");
    size_t head = sizeof(struct manifest) + (size_t)n.files * sizeof(struct cold_file) +
                  (size_t)n.garbage * sizeof(struct str) + (size_t)n.marks * sizeof(struct seq_mark);
    struct manifest *m = calloc(1, head + body.len);
    if (m == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "manifest: out of memory");
    atomic_init(&m->refs, 1);
    m->nfiles = (size_t)n.files;
    m->files = (struct cold_file *)(m + 1);
    m->ngarbage = (size_t)n.garbage;
    m->garbage = (struct str *)(m->files + m->nfiles);
    m->nmarks = (size_t)n.marks;
    m->marks = (struct seq_mark *)(m->garbage + m->ngarbage);
    char *copy = (char *)m + head;
    memcpy(copy, body.ptr, body.len);
    m->block_bytes = head + body.len;
    struct reader r = reader_of(str_n(copy, body.len));
    if (!decode_body(&r, m) || (version == MANIFEST_VERSION_PLAIN && any_sealed(m))) {
        manifest_unref(m);
        return err_internal(ec, ERR_CORRUPT, "manifest: malformed");
    }
    *ret = m;
    return ERR_OK;
}

struct manifest manifest_template(const struct manifest *m)
{
    if (m == NULL)
        return (struct manifest){0};
    /* Not the whole struct at once: other threads change the count of references. */
    return (struct manifest){.epoch = m->epoch,
        .watermark = m->watermark,
        .cold_max_seq = m->cold_max_seq,
        .user_floor = m->user_floor,
        .release_pending = m->release_pending,
        .tail_since_us = m->tail_since_us,
        .nmarks = m->nmarks,
        .marks = m->marks,
        .nfiles = m->nfiles,
        .files = m->files,
        .ngarbage = m->ngarbage,
        .garbage = m->garbage};
}

struct manifest *manifest_ref(struct manifest *m)
{
    if (m != NULL)
        atomic_fetch_add_explicit(&m->refs, 1, memory_order_relaxed);
    return m;
}

void manifest_unref(struct manifest *m)
{
    if (m == NULL || atomic_fetch_sub_explicit(&m->refs, 1, memory_order_acq_rel) != 1)
        return;
    explicit_bzero(m, m->block_bytes);
    free(m);
}

const struct cold_file *manifest_file_of(const struct manifest *m, uint64_t ins_seq)
{
    if (m == NULL || ins_seq > m->watermark)
        return NULL;
    size_t lo = 0, hi = m->nfiles;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (m->files[mid].ins_max < ins_seq)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < m->nfiles && m->files[lo].ins_min <= ins_seq ? &m->files[lo] : NULL;
}

enum row_state manifest_row_state(const struct manifest *m, struct row_meta meta)
{
    if (m == NULL || meta.ins_seq > m->watermark)
        return ROW_FRESH;
    const struct cold_file *f = manifest_file_of(m, meta.ins_seq);
    /* Nothing cold to agree with: a live row shows itself, a tombstone has nothing left to hide. */
    if (f == NULL)
        return meta.flags & ROW_TOMBSTONE ? ROW_TAIL : ROW_FRESH;
    if ((meta.flags & ROW_OPEN) != 0) /* no file has taken it in, or what one has is old */
        return ROW_OVERLAY;
    return meta.seq <= f->as_of ? ROW_TAIL : ROW_OVERLAY;
}

bool manifest_covers_id(const struct manifest *m, int64_t msg_id)
{
    for (size_t i = 0; m != NULL && i < m->nfiles; i++)
        if (m->files[i].id_min <= msg_id && msg_id <= m->files[i].id_max)
            return true;
    return false;
}

uint64_t manifest_rows(const struct manifest *m)
{
    uint64_t n = 0;
    for (size_t i = 0; m != NULL && i < m->nfiles; i++)
        n += m->files[i].rows;
    return n;
}

uint64_t manifest_bytes(const struct manifest *m)
{
    uint64_t n = 0;
    for (size_t i = 0; m != NULL && i < m->nfiles; i++)
        n += m->files[i].bytes;
    return n;
}

void conversation_filter_encode(struct buf *b, const uint32_t *sorted, size_t n)
{
    uint32_t prev = 0;
    for (size_t i = 0; i < n; i++) {
        buf_varint(b, sorted[i] - prev);
        prev = sorted[i];
    }
}

bool cold_file_may_hold(const struct cold_file *f, uint32_t conv_no)
{
    if (f->any_conversation)
        return true;
    struct reader r = reader_of(f->conversations);
    uint64_t at = 0;
    while (reader_left(&r) > 0) {
        at += read_varint(&r);
        if (r.bad)
            return true; /* a filter that cannot be read prunes nothing */
        if (at >= conv_no)
            return at == conv_no;
    }
    return false;
}
