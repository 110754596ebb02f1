/* Imports: the round trip, what is left alone, and archives that somebody broke or made up. */
#include "base/arena.h"
#include "engine/archive_manifest.h"
#include "engine/transfer.h"
#include "engine_fixture.h"
#include <archive.h>
#include <archive_entry.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static struct engine e;

static struct kalamdb_str ks(const char *s)
{
    return (struct kalamdb_str){s, s != NULL ? strlen(s) : 0};
}

static const struct kalamdb_caller service = {.user_id = {"s", 1}, .role = KALAMDB_SERVICE};

/* ---- archives ---- */

static void export_pieces(const char *user, uint64_t piece, struct buf *ret)
{
    struct kalamdb_export *x;
    struct kalamdb_error error;
    char chunk[65536];
    if (kalamdb_export_open(e.db, &service, ks(user), &x, &error) != KALAMDB_OK)
        fail_msg("export: %s", error.message);
    export_set_piece(x, piece);
    for (size_t n = 1; n > 0; buf_append(ret, chunk, n)) {
        if (kalamdb_export_read(x, chunk, sizeof chunk, &n, &error) != KALAMDB_OK)
            fail_msg("export: %s (%s)", error.message, error.internal);
    }
    kalamdb_export_close(x);
}

static void export_of(const char *user, struct buf *ret)
{
    export_pieces(user, 250000, ret);
}

#define PARTS_MAX 16
struct part {
    char path[256];
    struct buf bytes;
    long long rows;  /* in the manifest; -1: none */
    bool unlisted;   /* not in the manifest */
    bool absent;     /* in the manifest only */
    int type;        /* of the entry; 0: a file */
    long long size;  /* announced in the manifest; -1: the real one */
    const char *sha; /* in the manifest; NULL: the real one */
};
struct parts {
    int n;
    struct part part[PARTS_MAX];
    long long messages, conversations;
    const char *format, *tail; /* of the manifest */
    bool manifest_first, no_manifest;
};

static void take_apart(const struct buf *tar, struct parts *p)
{
    struct archive *a = archive_read_new();
    struct archive_entry *entry;
    struct arena arena;
    struct archive_manifest m;
    struct errctx ec = {0};
    memset(p, 0, sizeof *p);
    arena_init(&arena, 1 << 20);
    archive_read_support_format_tar(a);
    assert_int_equal(archive_read_open_memory(a, tar->ptr, tar->len), ARCHIVE_OK);
    while (archive_read_next_header(a, &entry) == ARCHIVE_OK) {
        struct part *part = &p->part[p->n++];
        snprintf(part->path, sizeof part->path, "%s", archive_entry_pathname(entry));
        size_t n = (size_t)archive_entry_size(entry);
        char *to = buf_reserve(&part->bytes, n);
        assert_int_equal(archive_read_data(a, to, n), (la_ssize_t)n);
        part->bytes.len = n;
        part->rows = part->size = -1;
    }
    archive_read_free(a);
    p->n--; /* the manifest is made anew */
    assert_int_equal(archive_manifest_parse(buf_view(&p->part[p->n].bytes), &arena, &m, &ec), ERR_OK);
    for (int i = 0; i < p->n; i++)
        p->part[i].rows = m.files[i].has_rows ? (long long)m.files[i].rows : -1;
    p->messages = (long long)m.messages;
    p->conversations = (long long)m.conversations;
    p->format = ARCHIVE_FORMAT;
    p->tail = "";
    arena_release(&arena);
}

static void parts_release(struct parts *p)
{
    for (int i = 0; i < PARTS_MAX; i++)
        buf_release(&p->part[i].bytes);
}

static struct part *part_add(struct parts *p, const char *path, const char *text)
{
    struct part *part = &p->part[p->n];
    buf_release(&part->bytes); /* of the old manifest */
    *part = (struct part){.rows = -1, .size = -1};
    snprintf(part->path, sizeof part->path, "%s", path);
    buf_append(&part->bytes, text, strlen(text));
    p->n++;
    return part;
}

static void manifest_of(const struct parts *p, struct buf *b)
{
    buf_printf(b,
        "{\"format\":\"%s\",\"version\":1,\"user\":\"alice\",\"seq\":1000,\"feed\":\"f\","
        "\"exportedAt\":\"2026-01-01T00:00:00.000000Z\",\"files\":[",
        p->format);
    for (int i = 0, n = 0; i < p->n; i++) {
        const struct part *part = &p->part[i];
        uint8_t digest[32];
        if (part->unlisted)
            continue;
        sha256(buf_view(&part->bytes), digest);
        buf_printf(b, "%s{\"path\":\"%s\",", n++ > 0 ? "," : "", part->path);
        if (part->rows >= 0)
            buf_printf(b, "\"rows\":%lld,", part->rows);
        buf_printf(
            b, "\"bytes\":%lld,\"sha256\":\"", part->size >= 0 ? part->size : (long long)part->bytes.len);
        for (int k = 0; k < 32 && part->sha == NULL; k++)
            buf_printf(b, "%02x", digest[k]);
        buf_printf(b, "%s\"}", part->sha != NULL ? part->sha : "");
    }
    buf_printf(b, "],\"messages\":%lld,\"conversations\":%lld%s}", p->messages, p->conversations, p->tail);
}

static la_ssize_t take(struct archive *a, void *arg, const void *bytes, size_t n)
{
    (void)a;
    buf_append(arg, bytes, n);
    return (la_ssize_t)n;
}

static void put_entry(struct archive *a, const char *path, int type, struct str bytes)
{
    struct archive_entry *entry = archive_entry_new();
    archive_entry_set_pathname(entry, path);
    archive_entry_set_filetype(entry, type != 0 ? (unsigned)type : AE_IFREG);
    archive_entry_set_perm(entry, 0644);
    if (type == AE_IFLNK)
        archive_entry_set_symlink(entry, "/etc/passwd");
    else if (type == 0)
        archive_entry_set_size(entry, (la_int64_t)bytes.len);
    assert_int_equal(archive_write_header(a, entry), ARCHIVE_OK);
    if (type == 0)
        archive_write_data(a, bytes.ptr, bytes.len);
    archive_entry_free(entry);
}

static void put_together(const struct parts *p, struct buf *tar)
{
    struct buf manifest = BUF_INIT(0);
    struct archive *a = archive_write_new();
    manifest_of(p, &manifest);
    archive_write_set_format_pax_restricted(a);
    archive_write_set_bytes_per_block(a, 0);
    assert_int_equal(archive_write_open(a, tar, NULL, take, NULL), ARCHIVE_OK);
    if (p->manifest_first)
        put_entry(a, ARCHIVE_MANIFEST, 0, buf_view(&manifest));
    for (int i = 0; i < p->n; i++) {
        if (!p->part[i].absent)
            put_entry(a, p->part[i].path, p->part[i].type, buf_view(&p->part[i].bytes));
    }
    if (!p->manifest_first && !p->no_manifest)
        put_entry(a, ARCHIVE_MANIFEST, 0, buf_view(&manifest));
    archive_write_close(a);
    archive_write_free(a);
    buf_release(&manifest);
}

/* ---- imports ---- */

struct waiting {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool finished;
    struct kalamdb_import_counts counts;
    struct kalamdb_error error;
};

static void imported(void *arg, const struct kalamdb_import_counts *counts, const struct kalamdb_error *error)
{
    struct waiting *w = arg;
    pthread_mutex_lock(&w->lock);
    w->error = *error;
    if (counts != NULL)
        w->counts = *counts;
    w->finished = true;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

/* "OK messages conversations files", or the error's text and detail. */
static const char *import(const char *user, struct str tar)
{
    static char text[1200];
    struct waiting w = {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
    struct kalamdb_import *im;
    struct kalamdb_error error;
    assert_int_equal(kalamdb_import_begin(e.db, &service, ks(user), &im, &error), KALAMDB_OK);
    for (size_t at = 0; at < tar.len; at += 10000)
        assert_int_equal(
            kalamdb_import_write(im, tar.ptr + at, tar.len - at < 10000 ? tar.len - at : 10000, &error),
            KALAMDB_OK);
    kalamdb_import_finish(im, imported, &w);
    pthread_mutex_lock(&w.lock);
    while (!w.finished)
        pthread_cond_wait(&w.cond, &w.lock);
    pthread_mutex_unlock(&w.lock);
    if (w.error.code == KALAMDB_OK)
        snprintf(text, sizeof text, "OK %llu %llu %llu", (unsigned long long)w.counts.messages,
            (unsigned long long)w.counts.conversations, (unsigned long long)w.counts.files);
    else
        snprintf(text, sizeof text, "%s: %s%s%s", kalamdb_code_name(w.error.code), w.error.message,
            w.error.code == ERR_INTERNAL ? " / " : "", w.error.code == ERR_INTERNAL ? w.error.internal : "");
    return text;
}

static void expect_import(const char *user, struct str tar, const char *want)
{
    const char *got = import(user, tar);
    if (strcmp(got, want) != 0)
        fail_msg("is   %s\n  want %s", got, want);
}

static const char rows_sql[] =
    "SELECT msg_id, conversation_id, conversation_type, \"from\", timestamp, content, metadata, "
    "client_msg_id FROM messages ORDER BY _seq";
static const char conversations_sql[] =
    "SELECT conversation_id, conversation_type, title, first_msg_id, last_msg_id, total_messages, created, "
    "metadata FROM conversations ORDER BY 1";

static void seed(void)
{
    engine_open(&e);
    for (int i = 0; i < 30; i++)
        expect_code(&e, "alice",
            "INSERT INTO messages (conversation_id, content, \"from\", metadata, client_msg_id) VALUES "
            "('c', 'x', 'assistant:gpt', '{\"k\":[1,null]}', NULL), ('d', 'ü', 'alice', NULL, NULL)",
            "OK");
    expect_code(&e, "alice",
        "INSERT INTO messages (conversation_id, content, client_msg_id) VALUES ('d', 'first', 'key')", "OK");
    engine_consolidate(&e, "alice");
    expect_code(&e, "alice", "UPDATE messages SET content = 'changed' WHERE _seq % 7 = 0", "OK");
    expect_code(
        &e, "alice", "INSERT INTO conversations (conversation_id, title) VALUES ('empty', 'E')", "OK");
    expect_code(&e, "alice",
        "UPDATE conversations SET title = 'T', metadata = '{\"m\":1}' WHERE conversation_id = 'c'", "OK");
    expect_code(&e, "alice",
        "UPDATE conversation_users SET last_read_msg_id = 5, metadata = '{\"r\":1}' WHERE conversation_id = "
        "'d'",
        "OK");
}

static char *copy(const char *s)
{
    char *c = strdup(s);
    assert_non_null(c);
    return c;
}

static void round_trip(void **state)
{
    (void)state;
    struct buf tar = BUF_INIT(0);
    seed();
    export_of("alice", &tar);
    char *rows = copy(run(&e, "alice", rows_sql)), *conversations = copy(run(&e, "alice", conversations_sql));
    expect_import("bob", buf_view(&tar), "OK 61 3 0");
    assert_string_equal(run(&e, "bob", rows_sql), rows);
    assert_string_equal(run(&e, "bob", conversations_sql), conversations);
    assert_string_equal(run(&e, "bob",
                            "SELECT user_id, role, last_read_msg_id, metadata FROM conversation_users WHERE "
                            "conversation_id = 'd'"),
        "{\"columns\":[\"user_id\",\"role\",\"last_read_msg_id\",\"metadata\"],\"rows\":[[\"bob\",\"owner\","
        "5,{"
        "\"r\":1}]],\"rowCount\":1}");
    /* Numbers begin anew and have no gaps; the idempotency key works. */
    assert_int_equal(number(&e, "bob", "SELECT max(_seq) FROM messages"), 61);
    assert_int_equal(number(&e, "bob", "SELECT count(DISTINCT _ins_seq) FROM messages"), 61);
    assert_non_null(strstr(run(&e, "bob",
                               "INSERT INTO messages (conversation_id, content, client_msg_id, \"from\") "
                               "VALUES ('d', 'again', 'key', 'alice')"),
        "FORBIDDEN"));
    assert_non_null(strstr(run(&e, "service:s",
                               "INSERT INTO bob.messages (conversation_id, content, client_msg_id, \"from\") "
                               "VALUES ('d', 'again', 'key', 'alice')"),
        "\"rowsAffected\":0"));
    /* Again, hot, half cold, and where something was deleted, added or changed since. */
    expect_import("bob", buf_view(&tar), "OK 61 3 0");
    engine_consolidate(&e, "bob");
    expect_import("bob", buf_view(&tar), "OK 61 3 0");
    assert_int_equal(number(&e, "bob", "SELECT max(_seq) FROM messages"), 61);
    assert_string_equal(run(&e, "bob", rows_sql), rows);
    expect_code(&e, "bob", "UPDATE conversations SET title = 'mine' WHERE conversation_id = 'c'", "OK");
    expect_code(&e, "bob", "DELETE FROM messages WHERE content = 'first'", "OK");
    expect_import("bob", buf_view(&tar), "OK 61 3 0");
    assert_int_equal(number(&e, "bob", "SELECT count(*) FROM messages"), 60);
    assert_int_equal(number(&e, "bob", "SELECT count(*) FROM conversations WHERE title = 'mine'"), 1);
    /* Under its own id nothing is missing. */
    expect_import("alice", buf_view(&tar), "OK 61 3 0");
    assert_string_equal(run(&e, "alice", rows_sql), rows);
    free(rows);
    free(conversations);
    buf_release(&tar);
    engine_close(&e);
}

static void many_files(void **state)
{
    (void)state;
    struct buf tar = BUF_INIT(0);
    seed();
    export_pieces("alice", 5, &tar);
    char *rows = copy(run(&e, "alice", rows_sql));
    expect_import("bob", buf_view(&tar), "OK 61 3 0");
    assert_string_equal(run(&e, "bob", rows_sql), rows);
    free(rows);
    buf_release(&tar);
    engine_close(&e);
}

static void half_there(void **state)
{
    (void)state;
    struct buf tar = BUF_INIT(0);
    seed();
    export_of("alice", &tar);
    char *rows = copy(run(&e, "alice", "SELECT msg_id, content FROM messages ORDER BY msg_id"));
    /* As a crash between two commits leaves it: some rows, in both tiers, and a conversation. */
    expect_code(&e, "service:s",
        "INSERT INTO bob.messages (msg_id, conversation_id, content) SELECT msg_id, conversation_id, content "
        "FROM alice.messages WHERE _ins_seq % 3 = 0",
        "OK");
    engine_consolidate(&e, "bob");
    expect_code(&e, "service:s",
        "INSERT INTO bob.messages (msg_id, conversation_id, content) SELECT msg_id, conversation_id, content "
        "FROM alice.messages WHERE _ins_seq % 3 = 1",
        "OK");
    expect_import("bob", buf_view(&tar), "OK 61 3 0");
    assert_string_equal(run(&e, "bob", "SELECT msg_id, content FROM messages ORDER BY msg_id"), rows);
    assert_int_equal(
        number(&e, "bob", "SELECT total_messages FROM conversations WHERE conversation_id = 'd'"), 31);
    free(rows);
    buf_release(&tar);
    engine_close(&e);
}

/* ---- broken and made up ---- */

static void nothing_written(void)
{
    assert_int_equal(number(&e, "bob", "SELECT count(*) FROM messages"), 0);
    assert_int_equal(number(&e, "bob", "SELECT count(*) FROM conversations"), 0);
}

static void expect_refused(const struct parts *p, const char *want)
{
    struct buf tar = BUF_INIT(0);
    char text[600];
    put_together(p, &tar);
    snprintf(text, sizeof text, "INVALID_REQUEST: %s", want);
    expect_import("bob", buf_view(&tar), text);
    nothing_written();
    buf_release(&tar);
}

/* Each begins from a whole archive. */
#define BROKEN(change, want)                                                                                 \
    do {                                                                                                     \
        struct parts p;                                                                                      \
        take_apart(&tar, &p);                                                                                \
        struct part *messages = &p.part[0];                                                                  \
        (void)messages;                                                                                      \
        change;                                                                                              \
        expect_refused(&p, want);                                                                            \
        parts_release(&p);                                                                                   \
    } while (0)

static void crafted(void **state)
{
    (void)state;
    static const char foreign[] = "the archive holds a file that does not belong there";
    static const char zeros[] = "0000000000000000000000000000000000000000000000000000000000000000";
    struct buf tar = BUF_INIT(0);
    seed();
    export_of("alice", &tar);
    BROKEN(part_add(&p, "../evil", "x")->unlisted = true, foreign);
    BROKEN(part_add(&p, "/etc/passwd", "x")->unlisted = true, foreign);
    BROKEN(part_add(&p, "content/../../x/msg-1.bin", "x")->unlisted = true, foreign);
    BROKEN(part_add(&p, "content/alice/msg-1.exe", "x")->unlisted = true, foreign);
    BROKEN(part_add(&p, "messages/1.parquet", "x")->unlisted = true, foreign);
    BROKEN(part_add(&p, "notes.txt", "x")->unlisted = true, foreign);
    BROKEN((part_add(&p, "content/alice/msg-1.bin", "")->type = AE_IFLNK),
        "content/alice/msg-1.bin in the archive is no regular file");
    BROKEN((part_add(&p, "content/alice/msg-1.bin", "")->type = AE_IFIFO),
        "content/alice/msg-1.bin in the archive is no regular file");
    BROKEN(part_add(&p, "content/alice/msg-1.bin", "x")->unlisted = true,
        "content/alice/msg-1.bin in the archive is not listed in manifest.json");
    BROKEN(part_add(&p, "content/alice/msg-1.bin", "x")->absent = true,
        "content/alice/msg-1.bin in the archive is missing");
    BROKEN((part_add(&p, "messages/001.parquet", "x")->unlisted = true),
        "messages/001.parquet in the archive is there twice");
    BROKEN((part_add(&p, "messages/001.parquet", "x")->rows = 0),
        "manifest.json: files names messages/001.parquet twice");
    BROKEN(messages->sha = zeros,
        "messages/001.parquet in the archive is damaged: its sha256 is not the one in manifest.json");
    BROKEN(
        messages->size = 10, "messages/001.parquet in the archive has another size than manifest.json says");
    BROKEN((messages->rows++, p.messages++),
        "messages/001.parquet in the archive has another number of rows than manifest.json says");
    BROKEN(messages->rows++, "manifest.json: messages is not the sum of its files' rows");
    BROKEN(p.manifest_first = true, "manifest.json is not the last file of the archive");
    BROKEN(p.no_manifest = true, "the archive has no manifest.json at its end");
    BROKEN(p.format = "zip", "manifest.json: format is not \"kalamdb-export\"");
    BROKEN(p.tail = ",,", "manifest.json is no JSON: line 1: string or '}' expected near ','");
    BROKEN((part_add(&p, "messages/002.parquet", "PAR1 nonsense PAR1")->rows = 0),
        "messages/002.parquet in the archive cannot be read as the table that it should be");
    tar.ptr[1500] ^= 1;
    expect_import("bob", buf_view(&tar),
        "INVALID_REQUEST: messages/001.parquet in the archive is damaged: its sha256 is not the one in "
        "manifest.json");
    nothing_written();
    buf_release(&tar);
    engine_close(&e);
}

/* Rows that no export writes, in Parquet files that a worker wrote all the same. */
static void crafted_rows(void **state)
{
    (void)state;
    struct buf tar = BUF_INIT(0);
    seed();
    export_of("alice", &tar);
    /* The messages twice, as two files. */
    struct parts p;
    take_apart(&tar, &p);
    struct part *again = part_add(&p, "messages/002.parquet", "");
    buf_str(&again->bytes, buf_view(&p.part[0].bytes));
    again->rows = p.part[0].rows;
    p.messages *= 2;
    struct buf twice = BUF_INIT(0);
    put_together(&p, &twice);
    const char *got = import("bob", buf_view(&twice));
    assert_memory_equal(got, "INVALID_REQUEST: msg_id ", 24);
    assert_non_null(strstr(got, " is in the archive twice"));
    nothing_written();
    parts_release(&p);
    buf_release(&twice);
    /* Conversations where members should be, and the other way round. */
    take_apart(&tar, &p);
    struct buf swap = p.part[1].bytes;
    p.part[1].bytes = p.part[2].bytes;
    p.part[2].bytes = swap;
    expect_refused(&p, "conversations.parquet in the archive cannot be read as the table that it should be");
    parts_release(&p);
    /* A conversation whose messages are somewhere else. */
    struct buf other = BUF_INIT(0);
    struct parts q;
    expect_code(&e, "carol", "INSERT INTO messages (conversation_id, content) VALUES ('z', 'x')", "OK");
    export_of("carol", &other);
    take_apart(&tar, &p);
    take_apart(&other, &q);
    swap = p.part[1].bytes;
    p.part[1].bytes = q.part[1].bytes;
    q.part[1].bytes = swap;
    p.part[1].rows = q.part[1].rows;
    p.conversations = q.conversations;
    swap = p.part[2].bytes;
    p.part[2].bytes = q.part[2].bytes;
    q.part[2].bytes = swap;
    p.part[2].rows = q.part[2].rows;
    expect_refused(&p, "a file of messages in the archive: its conversation is not in conversations.parquet");
    parts_release(&p);
    parts_release(&q);
    buf_release(&other);
    buf_release(&tar);
    engine_close(&e);
}

static void cut_off(void **state)
{
    (void)state;
    struct buf tar = BUF_INIT(0);
    seed();
    export_of("alice", &tar);
    static const size_t at[] = {0, 1, 511, 512, 700, 1024, 3000};
    for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
        const char *got = import("bob", str_n(tar.ptr, at[i]));
        assert_memory_equal(got, "INVALID_REQUEST:", 16);
    }
    for (size_t n = tar.len - 2048; n > 4096; n -= 2999) {
        const char *got = import("bob", str_n(tar.ptr, n));
        if (strncmp(got, "INVALID_REQUEST:", 16) != 0)
            fail_msg("cut at %zu of %zu: %s", n, tar.len, got);
    }
    nothing_written();
    buf_release(&tar);
    engine_close(&e);
}

static void refused(void **state)
{
    (void)state;
    struct kalamdb_import *im, *second;
    struct kalamdb_error error;
    struct kalamdb_caller alice = {.user_id = ks("alice"), .role = KALAMDB_USER};
    engine_open(&e);
    assert_int_equal(kalamdb_import_begin(e.db, &alice, ks("alice"), &im, &error), ERR_FORBIDDEN);
    assert_int_equal(kalamdb_import_begin(e.db, &service, ks("tool"), &im, &error), ERR_INVALID_REQUEST);
    assert_int_equal(kalamdb_import_begin(e.db, &service, ks("bob"), &im, &error), KALAMDB_OK);
    assert_int_equal(kalamdb_import_begin(e.db, &service, ks("bob"), &second, &error), ERR_CONFLICT);
    kalamdb_import_abort(im);
    assert_int_equal(kalamdb_import_begin(e.db, &service, ks("bob"), &im, &error), KALAMDB_OK);
    kalamdb_import_abort(im);
    kalamdb_close(e.db);
    e.options.max_import_bytes = 1000;
    assert_int_equal(kalamdb_open(&e.options, &e.db, &error), KALAMDB_OK);
    assert_int_equal(kalamdb_import_begin(e.db, &service, ks("bob"), &im, &error), KALAMDB_OK);
    static const char zeros[1001];
    assert_int_equal(kalamdb_import_write(im, zeros, 1000, &error), KALAMDB_OK);
    assert_int_equal(kalamdb_import_write(im, zeros, 1, &error), ERR_TOO_LARGE);
    assert_int_equal(kalamdb_import_write(im, zeros, 1, &error), ERR_TOO_LARGE);
    kalamdb_import_abort(im);
    engine_close(&e);
}

static void erased(void *arg, const struct kalamdb_erasure *erasure, const struct kalamdb_error *error)
{
    struct waiting *w = arg;
    (void)erasure;
    pthread_mutex_lock(&w->lock);
    w->error = *error;
    w->finished = true;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

static kalamdb_code await(struct waiting *w)
{
    pthread_mutex_lock(&w->lock);
    while (!w->finished)
        pthread_cond_wait(&w->cond, &w->lock);
    w->finished = false;
    pthread_mutex_unlock(&w->lock);
    return w->error.code;
}

/* An import that was asked for before an erasure does not bring the user back; one asked for after it does.
 */
static void erased_on_the_way(void **state)
{
    (void)state;
    struct waiting w = {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
    struct kalamdb_import *im;
    struct kalamdb_error error;
    struct buf tar = BUF_INIT(0);
    seed();
    export_of("alice", &tar);
    assert_int_equal(kalamdb_import_begin(e.db, &service, ks("alice"), &im, &error), KALAMDB_OK);
    assert_int_equal(kalamdb_import_write(im, tar.ptr, tar.len, &error), KALAMDB_OK);
    kalamdb_erase(e.db, ks("alice"), erased, &w);
    assert_int_equal(await(&w), KALAMDB_OK);
    kalamdb_import_finish(im, imported, &w);
    assert_int_equal(await(&w), ERR_CONFLICT);
    assert_non_null(strstr(w.error.message, "erased while the import"));
    assert_int_equal(number(&e, "alice", "SELECT count(*) FROM messages"), 0);
    assert_int_equal(number(&e, "alice", "SELECT count(*) FROM conversations"), 0);
    assert_int_equal(strncmp(import("alice", buf_view(&tar)), "OK ", 3), 0);
    assert_true(number(&e, "alice", "SELECT count(*) FROM messages") > 0);
    buf_release(&tar);
    engine_close(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),
        cmocka_unit_test(many_files),
        cmocka_unit_test(half_there),
        cmocka_unit_test(crafted),
        cmocka_unit_test(crafted_rows),
        cmocka_unit_test(cut_off),
        cmocka_unit_test(refused),
        cmocka_unit_test(erased_on_the_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
