/* Bit rot: in every kind of file of a data directory one bit is flipped, at sampled places. Then a read gives
 * the right answer or an error, never a wrong answer; verify finds it wherever an answer is missing, and in
 * every byte of Parquet and content files; a user whose files are whole goes on working; and a backup
 * restores all of it.
 *
 *   rot [SEED [PLACES]]     other places for another seed; so many in each file (2 in the suite)
 */
#include "world.h"
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { FILES_MAX = 256 };

static char files[FILES_MAX][512];
static size_t nfiles;
static struct world w;
static char pristine[128];
static uint64_t seed = 1, places = 2;

static uint64_t random_next(void)
{
    seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return seed >> 16;
}

static void die(const char *file, uint64_t at, const char *what)
{
    fprintf(stderr, "%s, byte %llu: %s (last error: %s: %s: %s)\n", file, (unsigned long long)at, what,
        kalamdb_code_name(w.error.code), w.error.message, w.error.internal);
    exit(1);
}

static void shell(const char *format, const char *a, const char *b)
{
    char command[512];
    snprintf(command, sizeof command, "%s %s %s", format, a, b);
    if (system(command) != 0)
        die(command, 0, "fails");
}

/* ---- what stands there ----------------------------------------------------------------------------------
 */

static void must(kalamdb_code code, const char *what)
{
    if (code != KALAMDB_OK)
        die("making the directory", 0, what);
}

static void sql(const char *as, const char *text)
{
    must(world_sql(&w, as, text, NULL), text);
}

static void fill(void)
{
    char text[512];
    sql("bob", "INSERT INTO messages (conversation_id, content) VALUES ('own', 'bob''s first')");
    for (int i = 0; i < 60; i++) {
        snprintf(text, sizeof text,
            "INSERT INTO messages (conversation_id, content) VALUES ('c%d', 'message %d of alice')", i % 3,
            i);
        sql("alice", text);
    }
    sql("alice",
        "INSERT INTO messages (conversation_id, content) VALUES ('c0', repeat('a large text, ', 10000))");
    must(world_upload(&w, "alice", "c1"), "upload");
    sql("alice", "INSERT INTO conversations (conversation_id, conversation_type, content) VALUES ('room', "
                 "'group', 'hello')");
    sql("alice", "INSERT INTO conversation_users (conversation_id, user_id) VALUES ('room', 'bob')");
    must(world_consolidate(&w, NULL), "consolidate");
    sql("alice", "UPDATE messages SET content = 'changed' WHERE content = 'message 7 of alice'");
    sql("alice", "DELETE FROM messages WHERE content = 'message 8 of alice'");
    sql("bob", "INSERT INTO messages (conversation_id, content) VALUES ('room', 'to the group')");
    must(world_stream(&w, "alice", "c2"), "stream");
    for (int i = 0; i < 200; i++) { /* blocks that are one user's alone */
        char noise[400];
        for (size_t k = 0; k < sizeof noise; k++)
            noise[k] = (char)('a' + random_next() % 26);
        snprintf(text, sizeof text, "INSERT INTO messages (conversation_id, content) VALUES ('own', '%.*s')",
            150, noise);
        sql(i < 100 ? "alice" : "bob", text);
    }
}

/* In the log of writes only. */
static void write_some(void)
{
    for (int i = 0; i < 10; i++) {
        sql("bob", "INSERT INTO messages (conversation_id, content) VALUES ('own', 'fresh')");
        sql("alice", "INSERT INTO messages (conversation_id, content) VALUES ('c0', 'fresh')");
    }
}

/* All of a user's messages as one number; 0: a read failed. */
static uint64_t fingerprint(const char *user)
{
    static const char text[] = "SELECT msg_id, content, content_ref, _seq FROM messages ORDER BY msg_id";
    struct kalamdb_statement st = {
        .caller = {.user_id = {user, strlen(user)}}, .sql = {text, sizeof text - 1}};
    struct kalamdb_result *r = NULL;
    uint64_t h = UINT64_C(1469598103934665603);
    if (kalamdb_exec(w.db, &st, &r, &w.error) != KALAMDB_OK)
        return 0;
    for (size_t row = 0; row < kalamdb_result_rows(r); row++)
        for (int c = 0; c < 4; c++) {
            struct kalamdb_value v;
            kalamdb_result_value(r, row, c, &v);
            h = (h ^ (uint64_t)v.i) * UINT64_C(1099511628211);
            for (size_t i = 0; i < v.s.len; i++)
                h = (h ^ (unsigned char)v.s.ptr[i]) * UINT64_C(1099511628211);
        }
    kalamdb_result_free(r);
    return h;
}

/* ---- verify ---------------------------------------------------------------------------------------------
 */

struct findings {
    uint64_t n;
    bool names_alice, names_file;
    const char *file;
    char first[600];
};

static void on_found(void *arg, struct kalamdb_str user, const char *text)
{
    struct findings *f = arg;
    if (f->n++ == 0)
        snprintf(
            f->first, sizeof f->first, "%.*s: %s", (int)user.len, user.ptr == NULL ? "" : user.ptr, text);
    f->names_alice |= user.len == 5 && memcmp(user.ptr, "alice", 5) == 0;
    f->names_file |= strstr(text, f->file) != NULL;
}

static struct findings verify(const char *file)
{
    const char *slash = strrchr(file, '/');
    struct findings f = {.file = slash == NULL ? file : slash + 1};
    struct kalamdb_verified v;
    if (kalamdb_verify(w.db, (struct kalamdb_str){NULL, 0}, on_found, &f, &v, &w.error) != KALAMDB_OK)
        die(file, 0, "verify itself fails");
    return f;
}

/* ---- one flipped bit ------------------------------------------------------------------------------------
 */

static bool ends(const char *s, const char *tail)
{
    size_t n = strlen(s), k = strlen(tail);
    return n >= k && strcmp(s + n - k, tail) == 0;
}

/* Every byte of it is covered by a hash or a tag, and read by verify. */
static bool hashed(const char *file)
{
    return strstr(file, "/batch-") != NULL || strstr(file, "/msg-") != NULL ||
           strstr(file, "/media-") != NULL;
}

static void flip(const char *file, uint64_t at, unsigned bit)
{
    char path[700], byte;
    snprintf(path, sizeof path, "%s/%s", w.dir, file);
    FILE *f = fopen(path, "r+");
    if (f == NULL || fseek(f, (long)at, SEEK_SET) != 0 || fread(&byte, 1, 1, f) != 1)
        die(file, at, "cannot be read");
    byte = (char)(byte ^ (1 << bit));
    if (fseek(f, (long)at, SEEK_SET) != 0 || fwrite(&byte, 1, 1, f) != 1 || fclose(f) != 0)
        die(file, at, "cannot be written");
}

struct tally {
    unsigned refused, found, harmless;
};

static void one(const char *file, uint64_t at, uint64_t alice, uint64_t bob, struct tally *t)
{
    shell("rm -rf", w.dir, "");
    shell("cp -a", pristine, w.dir);
    flip(file, at, (unsigned)(random_next() % 8));
    if (world_open(&w) != KALAMDB_OK) {
        t->refused++; /* an error, which names the file or the folder */
        return;
    }
    uint64_t a = fingerprint("alice"), b = fingerprint("bob");
    if ((a != 0 && a != alice) || (b != 0 && b != bob))
        die(file, at, "a read gave a wrong answer");
    if (strncmp(file, "alice/", 6) == 0 && b == 0)
        die(file, at, "bob does not get his rows, and the file is alice's");
    struct findings f = verify(file);
    if (f.n == 0 && (a == 0 || b == 0 || hashed(file)))
        die(file, at, "verify does not find it");
    if (hashed(file) && !f.names_file)
        die(file, at, f.first);
    if (strncmp(file, "alice/", 6) == 0 && !f.names_alice)
        die(file, at, "verify does not say whose it is");
    t->found += f.n > 0;
    t->harmless += f.n == 0;
    world_close(&w);
}

static int gather(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)ftw;
    const char *relative = path + strlen(pristine) + 1;
    if (kind == FTW_F && st->st_size > 0 && nfiles < FILES_MAX && strlen(relative) < sizeof files[0] &&
        !ends(path, "/lock") && !ends(path, "/LOCK") && !ends(path, "/LOG"))
        snprintf(files[nfiles++], sizeof files[0], "%s", relative);
    return 0;
}

static uint64_t size_of(const char *file)
{
    char path[700];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", pristine, file);
    if (stat(path, &st) != 0)
        die(file, 0, "is gone");
    return (uint64_t)st.st_size;
}

static void round_of(bool encryption)
{
    nfiles = 0;
    world_make(&w);
    w.options.encryption = encryption;
    must(world_open(&w), "open");
    fill();
    must(world_backup(&w), "backup");
    uint64_t backed_up = fingerprint("alice");
    write_some();
    uint64_t alice = fingerprint("alice"), bob = fingerprint("bob");
    struct findings clean = verify("");
    if (clean.n != 0)
        die("pristine", 0, clean.first);
    world_close(&w);
    disk_detach();
    snprintf(pristine, sizeof pristine, "%s/pristine", w.root);
    shell("cp -a", w.dir, pristine);
    nftw(pristine, gather, 16, FTW_PHYS);
    for (size_t i = 0; i < nfiles; i++) {
        struct tally t = {0};
        uint64_t size = size_of(files[i]);
        for (uint64_t k = 0; k < places; k++) { /* from the second place on any; the first is an edge */
            uint64_t edge = i % 2 == 0 ? 0 : size - 1;
            one(files[i], k == 0 ? edge : random_next() % size, alice, bob, &t);
        }
        printf("%-60s %7llu bytes: %u refused at open, %u found, %u harmless\n", files[i],
            (unsigned long long)size, t.refused, t.found, t.harmless);
    }
    shell("rm -rf", w.dir, "");
    struct kalamdb_backup done;
    must(kalamdb_restore(w.backup, 0, w.dir, NULL, &done, &w.error), "restore");
    if (encryption) { /* keys are not in a backup */
        char from[512], to[256];
        snprintf(from, sizeof from, "%s/.kalamdb/keys %s/.kalamdb/master.key", pristine, pristine);
        snprintf(to, sizeof to, "%s/.kalamdb/", w.dir);
        shell("cp -a", from, to);
    }
    must(world_open(&w), "open what was restored");
    if (fingerprint("alice") != backed_up || verify("").n != 0)
        die("backup", 0, "does not bring it back");
    world_close(&w);
    shell("rm -rf", w.root, "");
}

int main(int argc, char **argv)
{
    seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    places = argc > 2 ? strtoull(argv[2], NULL, 10) : 2;
    puts("encryption: off");
    round_of(false);
    puts("encryption: on");
    round_of(true);
    return 0;
}
