/* What must be true, read back from the machine: see world.h for what is remembered, and docs/simulation.md
 * for the rules in words. */
#include "engine/engine.h"
#include "world.h"
#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint32_t present[MESSAGES_MAX];
static uint16_t version[MESSAGES_MAX][USERS];
static uint32_t bytes_of[MESSAGES_MAX][USERS];
static uint64_t seq_of[MESSAGES_MAX][USERS];
static size_t content_refs;
static char refs[MESSAGES_MAX][96];

static struct kalamdb_result *query(
    int user, enum engine_path path, const char *sql, const struct kalamdb_value *params, int n)
{
    struct kalamdb_result *r;
    struct kalamdb_error error;
    engine_force_path(db, path);
    kalamdb_code code = exec_sql(user, KALAMDB_USER, sql, params, n, false, &r, &error);
    engine_force_path(db, PATH_AUTO);
    if (code != KALAMDB_OK)
        fail("u%d: %s: %s (%s)", user, sql, error.message, error.internal);
    return r;
}

static struct kalamdb_str cell(const struct kalamdb_result *r, size_t row, int column)
{
    struct kalamdb_value v;
    kalamdb_result_value(r, row, column, &v);
    return v.type == KALAMDB_NULL ? (struct kalamdb_str){NULL, 0} : v.s;
}

static int64_t number(const struct kalamdb_result *r, size_t row, int column)
{
    struct kalamdb_value v;
    kalamdb_result_value(r, row, column, &v);
    return v.type == KALAMDB_NULL ? 0 : v.i;
}

static bool equal(struct kalamdb_str a, const char *b)
{
    return a.len == strlen(b) && memcmp(a.ptr, b, a.len) == 0;
}

/* ---- one row ---- */

static void note_ref(struct kalamdb_str ref)
{
    for (size_t i = 0; i < content_refs; i++)
        if (equal(ref, refs[i]))
            return;
    snprintf(refs[content_refs++], sizeof refs[0], "%.*s", (int)ref.len, ref.ptr);
}

/* The whole of a large content. */
static size_t read_content(int user, struct kalamdb_str ref, char *ret)
{
    struct kalamdb_content c;
    struct kalamdb_error error;
    struct kalamdb_caller caller = {.user_id = user_name(user)};
    if (kalamdb_content_open(db, caller, ref, &c, &error) != KALAMDB_OK)
        fail("u%d cannot open %.*s: %s (%s)", user, (int)ref.len, ref.ptr, error.message, error.internal);
    size_t n = 0;
    kalamdb_code code = kalamdb_content_read(&c, 0, ret, CONTENT_MAX, &n, &error);
    uint64_t size = c.size;
    kalamdb_content_close(&c);
    if (code != KALAMDB_OK || n != size)
        fail("%.*s has %zu bytes, not %llu", (int)ref.len, ref.ptr, n, (unsigned long long)size);
    return n;
}

static void check_row(int user, const struct kalamdb_result *r, size_t i)
{
    char id[16], conv[32], whole[CONTENT_MAX];
    struct kalamdb_str client = cell(r, i, 5), text = cell(r, i, 3), ref = cell(r, i, 4);
    snprintf(id, sizeof id, "%.*s", (int)client.len, client.len > 0 ? client.ptr : "");
    int64_t tag = tag_of(id), msg_id = number(r, i, 0);
    if (tag < 0)
        fail("u%d has a row that nobody sent (%s)", user, id);
    struct message *m = &world->messages[tag];
    conv_name(m, conv);
    if ((m->may & 1u << user) == 0)
        fail("u%d has t%lld, which is not theirs", user, (long long)tag);
    if (!equal(cell(r, i, 1), conv) || user_of(cell(r, i, 2)) != m->sender)
        fail("t%lld of u%d has another conversation or sender", (long long)tag, user);
    if (m->id != 0 && m->id != msg_id)
        fail("t%lld has id %lld, and %lld", (long long)tag, (long long)m->id, (long long)msg_id);
    if ((present[tag] & 1u << user) != 0)
        fail("u%d has t%lld twice", user, (long long)tag);
    m->id = msg_id;
    if (msg_id > world->floor_id)
        world->floor_id = msg_id;
    present[tag] |= 1u << user;
    uint16_t v = version_of((uint32_t)tag, text.ptr, text.len, false, &bytes_of[tag][user]);
    version[tag][user] = v;
    bool large = !m->stream && m->large[v & 3];
    if (large != (ref.ptr != NULL))
        fail("t%lld v%u of u%d has %s file", (long long)tag, v, user, large ? "no" : "a");
    if (large) {
        uint32_t n;
        size_t len = read_content(user, ref, whole);
        if (version_of((uint32_t)tag, whole, len, true, &n) != v)
            fail("the file of t%lld v%u shows another version", (long long)tag, v);
        note_ref(ref);
    }
    seq_of[tag][user] = (uint64_t)number(r, i, 6);
    log_check(user, (uint64_t)number(r, i, 6), (uint32_t)tag, v, true);
}

/* ---- one user ---- */

static void check_numbers(int user, const struct kalamdb_result *r)
{
    static bool used[SEQS_MAX];
    memset(used, 0, sizeof used);
    for (size_t i = 0; i < kalamdb_result_rows(r); i++) {
        uint64_t seq = (uint64_t)number(r, i, 6);
        if (used[seq])
            fail("u%d: two rows have number %llu", user, (unsigned long long)seq);
        used[seq] = true;
    }
}

static void put(void *arg, const char *ptr, size_t len)
{
    fwrite(ptr, 1, len, arg);
}

/* The answer but for the time it took. */
static char *json_of(const struct kalamdb_result *r)
{
    char *text = NULL;
    size_t n;
    FILE *f = open_memstream(&text, &n);
    kalamdb_result_json(r, put, f);
    fclose(f);
    char *time = strstr(text, ",\"executionTimeMs\"");
    if (time != NULL)
        *time = '\0';
    return text;
}

static void compare_paths(int user, const char *conv)
{
    struct kalamdb_value param = text_value(conv, strlen(conv));
    const char *sql =
        "SELECT msg_id, content, _seq FROM messages WHERE conversation_id = $1 ORDER BY msg_id DESC LIMIT 20";
    for (bool still = false; !still;) { /* a history may be being copied in between */
        struct kalamdb_result *fast = query(user, PATH_FAST, sql, &param, 1),
                              *slow = query(user, PATH_ANALYTIC, sql, &param, 1),
                              *again = query(user, PATH_FAST, sql, &param, 1);
        char *a = json_of(fast), *b = json_of(slow), *c = json_of(again);
        still = strcmp(a, c) == 0;
        if (still && strcmp(a, b) != 0)
            fail("u%d, %s: the paths differ: %.300s … %.300s", user, conv, a, b);
        free(a);
        free(b);
        free(c);
        kalamdb_result_free(fast);
        kalamdb_result_free(slow);
        kalamdb_result_free(again);
    }
}

/* A conversation's counters against the rows. */
static void check_conversation(
    int user, const struct kalamdb_result *c, size_t at, const struct kalamdb_result *r)
{
    struct kalamdb_str id = cell(c, at, 0);
    char conv[32];
    snprintf(conv, sizeof conv, "%.*s", (int)id.len, id.ptr);
    int64_t n = 0, first = 0, last = 0, unread = 0, read = number(c, at, 5);
    for (size_t i = 0; i < kalamdb_result_rows(r); i++) {
        if (!equal(cell(r, i, 1), conv))
            continue;
        int64_t msg_id = number(r, i, 0);
        first = n++ == 0 ? msg_id : first;
        last = msg_id;
        unread += user_of(cell(r, i, 2)) != user && msg_id > read;
    }
    if (number(c, at, 1) != n || number(c, at, 2) != first || number(c, at, 3) != last)
        fail("u%d, %s: total %lld, first %lld, last %lld; the rows say %lld, %lld, %lld", user, conv,
            (long long)number(c, at, 1), (long long)number(c, at, 2), (long long)number(c, at, 3),
            (long long)n, (long long)first, (long long)last);
    if (number(c, at, 4) != unread)
        fail("u%d, %s: %lld unread; the rows say %lld", user, conv, (long long)number(c, at, 4),
            (long long)unread);
    compare_paths(user, conv);
}

/* Rows and conversations of one moment: a history may be being copied meanwhile. */
static void read_user(int user, struct kalamdb_result **ret_rows, struct kalamdb_result **ret_conversations)
{
    const char *sql =
        "SELECT msg_id, conversation_id, \"from\", content, content_ref, client_msg_id, _seq FROM "
        "messages ORDER BY msg_id";
    for (;;) {
        *ret_rows = query(user, PATH_ANALYTIC, sql, NULL, 0);
        *ret_conversations = query(user, PATH_AUTO,
            "SELECT conversation_id, total_messages, first_msg_id, last_msg_id, _unread, _read_msg_id FROM "
            "conversations",
            NULL, 0);
        struct kalamdb_result *again = query(user, PATH_ANALYTIC, sql, NULL, 0);
        char *a = json_of(*ret_rows), *b = json_of(again);
        bool same = strcmp(a, b) == 0;
        free(a);
        free(b);
        kalamdb_result_free(again);
        if (same)
            return;
        kalamdb_result_free(*ret_rows);
        kalamdb_result_free(*ret_conversations);
    }
}

static void check_user(int user)
{
    struct kalamdb_result *r, *c;
    read_user(user, &r, &c);
    for (size_t i = 0; i < kalamdb_result_rows(r); i++)
        check_row(user, r, i);
    check_numbers(user, r);
    for (size_t i = 0; i < kalamdb_result_rows(c); i++)
        check_conversation(user, c, i, r);
    kalamdb_result_free(c);
    kalamdb_result_free(r);
}

/* ---- groups ---- */

static void check_group(int n)
{
    struct group *g = &world->groups[n];
    if (g->fate == UNDECIDED && g->unsettled == 0)
        return;
    char id[32];
    snprintf(id, sizeof id, "group_%d", n);
    struct kalamdb_value param = text_value(id, strlen(id));
    uint32_t in = 0;
    struct kalamdb_result *r = query(
        g->owner, PATH_AUTO, "SELECT user_id FROM conversation_users WHERE conversation_id = $1", &param, 1);
    for (size_t i = 0; i < kalamdb_result_rows(r); i++)
        in |= 1u << user_of(cell(r, i, 0));
    kalamdb_result_free(r);
    if (((in ^ g->in) & ~g->unsettled) != 0)
        fail("%s has members %x; told were %x (open: %x)", id, in, g->in, g->unsettled);
    g->in = in;
    g->unsettled = 0;
    g->busy = 0;
    g->fate = in != 0 ? THERE : UNDECIDED;
}

/* ---- one message, all copies ---- */

static void settle_existence(uint32_t tag)
{
    struct message *m = &world->messages[tag];
    uint32_t is = present[tag], absent = m->must & ~m->gone & ~m->leaving & ~is;
    if (m->fate == THERE && m->soft && world->power_lost && !m->seen)
        m->fate = UNDECIDED;
    m->soft = false;
    if ((m->gone & is) != 0)
        fail("t%u is there again at %x: it was deleted", tag, m->gone & is);
    if (m->fate == NOT_THERE && is != 0)
        fail("t%u is there at %x, though it was refused", tag, is);
    if (m->fate == THERE && absent != 0)
        fail("t%u (id %lld) was acknowledged, and is not there at %x", tag, (long long)m->id, absent);
    if (m->fate == UNDECIDED && (is & m->must) != 0 && absent != 0)
        fail("t%u is at %x and not at %x: half a commit", tag, is, absent);
    if (m->fate == UNDECIDED && is == 0 && m->seen && (m->leaving | m->gone) == 0)
        fail("t%u was delivered, and is gone", tag);
    if (m->fate == UNDECIDED)
        m->fate = is != 0 || m->seen ? THERE : NOT_THERE;
    uint32_t together = m->together & m->must;
    if ((together & is) != 0 && (together & ~is) != 0)
        fail("t%u was deleted at %x and not at %x: half a commit", tag, together & ~is, together & is);
    m->gone |= (m->dead ? m->together : m->leaving) & ~is;
    if (!m->dead)
        m->leaving = 0;
    m->together = 0;
}

static void settle_version(uint32_t tag)
{
    struct message *m = &world->messages[tag];
    uint32_t is = present[tag], newest = 0, together = m->edit_must & is;
    uint16_t top = 0;
    for (int u = 0; u < USERS; u++) {
        if ((is & 1u << u) == 0)
            continue;
        uint16_t v = version[tag][u];
        if (v < m->have[u])
            fail("t%u shows v%u to u%d, though v%u was acknowledged", tag, v, u, m->have[u]);
        m->have[u] = v;
        top = v > top ? v : top;
        newest |= v == m->tried ? 1u << u : 0;
        if ((m->edit_must & 1u << u) != 0 && m->stream && bytes_of[tag][u] < m->acked_bytes)
            fail("t%u has %u bytes for u%d, %u were acknowledged", tag, bytes_of[tag][u], u, m->acked_bytes);
    }
    if ((together & newest) != 0 && (together & ~newest) != 0)
        fail("t%u was edited at %x and not at %x: half a commit", tag, newest, together & ~newest);
    m->edit_must = 0;
    m->tried = is != 0 ? top : m->tried;
    m->busy = m->dead || (m->stream && !m->ended);
}

static void settle_messages(void)
{
    for (uint32_t tag = 0; tag < world->nmessages; tag++) {
        settle_existence(tag);
        settle_version(tag);
    }
    for (uint32_t tag = 0; tag < world->nmessages; tag++)
        for (uint32_t i = 1; i <= world->messages[tag].batch; i++)
            if (world->messages[tag].fate != world->messages[tag + i].fate)
                fail("t%u and t%u came in one statement, and one is there", tag, tag + i);
    world->power_lost = false;
}

/* ---- at the end ---- */

static size_t files;

static int count_file(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st, (void)ftw;
    const char *name = strrchr(path, '/') + 1;
    files += kind == FTW_F && strncmp(name, "msg-", 4) == 0 && strstr(path, "/.kalamdb/") == NULL;
    return 0;
}

struct swept {
    pthread_mutex_t lock;
    pthread_cond_t there;
    bool done;
    struct kalamdb_sweep_counts counts;
    struct kalamdb_error error;
};

static void on_swept(void *arg, const struct kalamdb_sweep_counts *counts, const struct kalamdb_error *error)
{
    struct swept *s = arg;
    pthread_mutex_lock(&s->lock);
    if (counts != NULL)
        s->counts = *counts;
    s->error = *error;
    s->done = true;
    pthread_cond_signal(&s->there);
    pthread_mutex_unlock(&s->lock);
}

/* The engine's own proof of its reference counts finds nothing to repair. */
static void check_refs(bool last)
{
    struct swept s = {.lock = PTHREAD_MUTEX_INITIALIZER, .there = PTHREAD_COND_INITIALIZER};
    kalamdb_sweep(db, on_swept, &s);
    pthread_mutex_lock(&s.lock);
    while (!s.done)
        pthread_cond_wait(&s.there, &s.lock);
    pthread_mutex_unlock(&s.lock);
    if (s.error.code != KALAMDB_OK)
        fail("sweep: %s (%s)", s.error.message, s.error.internal);
    if (s.counts.refs_repaired + s.counts.blobs_repaired + s.counts.blobs_missing > 0)
        fail("reference counts were wrong: %llu of users, %llu of files; %llu files are missing",
            (unsigned long long)s.counts.refs_repaired, (unsigned long long)s.counts.blobs_repaired,
            (unsigned long long)s.counts.blobs_missing);
    files = 0;
    if (last && nftw(world->dir, count_file, 16, FTW_PHYS) == 0 && files != content_refs)
        fail("%zu files of content are there, rows name %zu", files, content_refs);
}

static void check_devices(void)
{
    for (int i = 0; i < DEVICES; i++) {
        const struct device *d = &world->devices[i];
        for (uint32_t tag = 0; tag < world->nmessages; tag++) {
            bool is = (present[tag] & 1u << d->user) != 0;
            const struct held *h = &d->copy[tag];
            if (h->there != is || (is && h->version != version[tag][d->user]))
                fail("device %d has t%u %s v%u; u%d's table has it %s v%u", i, tag,
                    h->there ? "there" : "gone", h->version, d->user, is ? "there" : "gone",
                    version[tag][d->user]);
            if (is && h->seq != seq_of[tag][d->user])
                fail("device %d knows t%u by number %llu; u%d's table has %llu", i, tag,
                    (unsigned long long)h->seq, d->user, (unsigned long long)seq_of[tag][d->user]);
            if (is && world->messages[tag].stream && h->bytes != bytes_of[tag][d->user])
                fail("device %d has %u bytes of t%u, the table %u", i, h->bytes, tag, bytes_of[tag][d->user]);
        }
    }
}

/* Who came into a group with shared history has what nobody has deleted of it. */
static void check_history(void)
{
    for (uint32_t tag = 0; tag < world->nmessages; tag++) {
        const struct message *m = &world->messages[tag];
        if (m->group < 0 || m->fate != THERE || (m->gone | m->leaving) != 0 ||
            !world->groups[m->group].shared)
            continue;
        uint32_t absent = world->groups[m->group].in & ~m->gone & ~m->leaving & ~present[tag];
        if (absent != 0 && (present[tag] & world->groups[m->group].in) != 0)
            fail("t%u of a shared history is not at %x", tag, absent);
    }
}

void model_check(bool last)
{
    memset(present, 0, sizeof present);
    memset(version, 0, sizeof version);
    content_refs = 0;
    for (int n = 0; n < GROUPS; n++)
        check_group(n);
    for (int u = 0; u < USERS; u++)
        check_user(u);
    settle_messages();
    check_refs(last);
    if (last) {
        check_devices();
        check_history();
    }
    trace("checked %u messages", world->nmessages);
}
