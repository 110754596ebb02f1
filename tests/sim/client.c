/* The clients: threads that send, edit, delete, come and go, and write down what they were told. Before each
 * call stands what it may change, so that a crash in the middle leaves an honest record. */
#include "world.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pthread_t threads[CLIENTS];
static bool stop;

/* ---- names, content ---- */

struct kalamdb_str user_name(int user)
{
    static const char names[USERS][8] = {"user_0", "user_1", "user_2", "user_3", "user_4"};
    return (struct kalamdb_str){names[user], 6};
}

int user_of(struct kalamdb_str name)
{
    for (int u = 0; u < USERS; u++)
        if (name.len == 6 && memcmp(name.ptr, user_name(u).ptr, 6) == 0)
            return u;
    return -1;
}

void conv_name(const struct message *m, char ret[32])
{
    if (m->group >= 0)
        snprintf(ret, 32, "group_%d", m->group);
    else
        snprintf(ret, 32, "ai_%d_%d", m->sender, m->conv);
}

size_t content_of(uint32_t tag, uint16_t version, bool large, char *ret)
{
    size_t n = (size_t)snprintf(ret, 64, "t%u v%u ", tag, version);
    size_t len = large ? LARGE_BYTES + (tag * 37 + version) % 4000 : n + (tag * 7 + version * 13u) % 200;
    for (; n < len; n++)
        ret[n] = (char)('a' + (tag + version + n) % 26);
    ret[n] = '\0';
    return n;
}

void stream_text(uint32_t tag, size_t from, size_t n, char *ret)
{
    for (size_t i = 0; i < n; i++)
        ret[i] = (char)('a' + (tag * 11 + (from + i) * 7 + (from + i) / 13) % 26);
    ret[n] = '\0';
}

struct kalamdb_value text_value(const char *s, size_t n)
{
    return (struct kalamdb_value){.type = KALAMDB_TEXT, .s = {s, n}};
}

struct kalamdb_value int_value(int64_t i)
{
    return (struct kalamdb_value){.type = KALAMDB_BIGINT, .i = i};
}

/* ---- statements ---- */

static kalamdb_code exec(
    const struct kalamdb_statement *st, struct kalamdb_result **ret, struct kalamdb_error *error)
{
    struct kalamdb_result *r = NULL;
    memset(error, 0, sizeof *error);
    kalamdb_code code = kalamdb_exec(db, st, &r, error);
    if (ret != NULL)
        *ret = r;
    else
        kalamdb_result_free(r);
    return code;
}

kalamdb_code exec_sql(int user, enum kalamdb_role role, const char *sql, const struct kalamdb_value *params,
    int nparams, bool for_everyone, struct kalamdb_result **ret, struct kalamdb_error *error)
{
    struct kalamdb_statement st = {.caller = {.user_id = user_name(user), .role = role},
        .sql = {sql, strlen(sql)},
        .params = params,
        .nparams = nparams,
        .for_everyone = for_everyone};
    return exec(&st, ret, error);
}

static bool is(kalamdb_code code, const char *name)
{
    return strcmp(kalamdb_code_name(code), name) == 0;
}

enum outcome { DONE, REFUSED, UNKNOWN };

/* Only OUTCOME_UNKNOWN leaves open what happened; every other error promises that nothing did. */
static enum outcome outcome(
    kalamdb_code code, const struct kalamdb_error *error, const char *what, bool may_refuse)
{
    if (code == KALAMDB_OK) {
        world->acked++;
        moment_comes(WHEN_TOLD);
        return DONE;
    }
    if (is(code, "OUTCOME_UNKNOWN")) {
        world->unknown++;
        return UNKNOWN;
    }
    world->refused++;
    trace("%s refused: %s", what, kalamdb_code_name(code));
    bool known = is(code, "UNAVAILABLE") || (world->faults_hit > 0 && is(code, "INTERNAL")) || may_refuse;
    if (!known)
        fail("%s: %s: %s (%s)", what, kalamdb_code_name(code), error->message, error->internal);
    return REFUSED;
}

/* ---- groups ---- */

static uint32_t members(const struct group *g)
{
    return g->in & ~g->unsettled;
}

void group_unsettle(int group, uint32_t users)
{
    world->groups[group].unsettled |= users;
    for (uint32_t tag = 0; tag < world->nmessages; tag++) {
        struct message *m = &world->messages[tag];
        if (m->group != group)
            continue;
        m->edit_must &= ~users;
        m->together &= ~users;
        if (m->fate == UNDECIDED) {
            m->must &= ~users;
            m->may |= users;
        }
    }
}

static void group_create(int n, int user)
{
    struct group *g = &world->groups[n];
    char id[32], metadata[] = "{\"history\":\"shared\"}";
    struct kalamdb_error error;
    snprintf(id, sizeof id, "group_%d", n);
    g->owner = (uint8_t)user;
    g->shared = n == 1;
    g->busy = 1;
    g->unsettled = 1u << user;
    struct kalamdb_value params[] = {text_value(id, strlen(id)),
        g->shared ? (struct kalamdb_value){.type = KALAMDB_JSON, .s = {metadata, strlen(metadata)}}
                  : (struct kalamdb_value){.type = KALAMDB_NULL}};
    enum outcome o = UNKNOWN;
    for (bool again = false; o == UNKNOWN; again = true) {
        kalamdb_code code = exec_sql(user, KALAMDB_USER,
            "INSERT INTO conversations (conversation_id, conversation_type, metadata) VALUES ($1, 'group', "
            "$2)",
            params, 2, false, NULL, &error);
        o = again && is(code, "CONFLICT") ? DONE : outcome(code, &error, "create group", false);
        if (again && o == REFUSED) { /* and whether the first try came through is still open */
            o = UNKNOWN;
            sched_sleep_us((int64_t)draw(3000));
        }
    }
    trace("u%d group %d: %d", user, n, (int)o);
    g->busy = 0;
    g->unsettled &= ~(1u << user);
    if (o == DONE) {
        g->fate = THERE;
        g->in |= 1u << user;
    }
}

static void group_change(int user)
{
    int n = (int)draw(GROUPS);
    struct group *g = &world->groups[n];
    if (g->fate == UNDECIDED && !g->busy)
        group_create(n, user);
    if (g->fate != THERE || g->owner != user || g->busy)
        return;
    uint32_t who = (uint32_t)draw(USERS), bit = 1u << who;
    if ((int)who == user || (g->unsettled & bit) != 0)
        return;
    bool leave = (g->in & bit) != 0;
    if (leave && !chance(3))
        return;
    g->busy = 1;
    group_unsettle(n, bit);
    if (!leave && g->shared)
        for (uint32_t tag = 0; tag < world->nmessages; tag++) {
            struct message *m = &world->messages[tag];
            if (m->group != n)
                continue;
            m->may |= bit;
            m->leaving |= m->gone & bit; /* what they had deleted may come again */
            m->gone &= ~bit;
        }
    char id[32];
    struct kalamdb_error error;
    snprintf(id, sizeof id, "group_%d", n);
    struct kalamdb_value params[] = {text_value(id, strlen(id)), text_value(user_name((int)who).ptr, 6)};
    const char *sql = leave ? "DELETE FROM conversation_users WHERE conversation_id = $1 AND user_id = $2"
                            : "INSERT INTO conversation_users (conversation_id, user_id) VALUES ($1, $2)";
    kalamdb_code code = exec_sql(user, KALAMDB_USER, sql, params, 2, false, NULL, &error);
    enum outcome o = outcome(code, &error, leave ? "remove member" : "add member", false);
    trace("u%d %s u%u in group %d: %d", user, leave ? "removes" : "adds", who, n, (int)o);
    g->busy = 0;
    if (o == UNKNOWN)
        return; /* unsettled until the next start looks */
    g->unsettled &= ~bit;
    if (o == DONE)
        g->in = leave ? g->in & ~bit : g->in | bit;
}

/* ---- sending ---- */

static struct message *new_message(int user, int group, uint32_t *ret_tag)
{
    if (world->nmessages == MESSAGES_MAX)
        return NULL;
    uint32_t tag = *ret_tag = world->nmessages++;
    struct message *m = &world->messages[tag];
    uint32_t self = 1u << user;
    *m = (struct message){.sender = (uint8_t)user,
        .group = (int8_t)group,
        .conv = (uint8_t)draw(AI_CONVS),
        .busy = true,
        .must = group < 0 ? self : members(&world->groups[group]),
        .may = group < 0 ? self : world->groups[group].in | world->groups[group].unsettled};
    return m;
}

/* A group to write to, or -1. */
static int some_group(int user)
{
    int n = (int)draw(GROUPS);
    return world->groups[n].fate == THERE && (members(&world->groups[n]) & 1u << user) != 0 ? n : -1;
}

static void know_id(struct message *m, int64_t id, int64_t floor, bool retry, uint32_t tag)
{
    if (id <= 0 || (m->id != 0 && m->id != id))
        fail("t%u: id %lld after id %lld", tag, (long long)id, (long long)m->id);
    if (!retry && id <= floor)
        fail("t%u got id %lld, though %lld was given before it was sent", tag, (long long)id,
            (long long)floor);
    m->id = id;
    world->floor_id = id > world->floor_id ? id : world->floor_id;
}

/* One statement of n rows; sent again with the same client_msg_id while its outcome is unknown, or its answer
 * was lost on the way. */
static void send(int user)
{
    int n = chance(8) ? 3 : 1, group = chance(2) ? some_group(user) : -1;
    struct message *m[3];
    uint32_t tag[3];
    for (int i = 0; i < n; i++)
        if ((m[i] = new_message(user, group, &tag[i])) == NULL) {
            n = i;
            break;
        }
    if (n == 0)
        return;
    char conv[32], ids[3][16], sql[512], content[3][CONTENT_MAX];
    struct kalamdb_value params[8];
    int np = 0, at = snprintf(sql, sizeof sql,
                    "INSERT INTO messages (conversation_id%s, content, client_msg_id) VALUES",
                    group < 0 ? ", conversation_type" : "");
    conv_name(m[0], conv);
    params[np++] = text_value(conv, strlen(conv));
    for (int i = 0; i < n; i++) {
        m[i]->conv = m[0]->conv;
        m[i]->batch = (uint8_t)(n - 1 - i);
        m[i]->large[0] = chance(12);
        snprintf(ids[i], sizeof ids[i], "c%u", tag[i]);
        size_t len = content_of(tag[i], 0, m[i]->large[0], content[i]);
        params[np++] = text_value(content[i], len);
        params[np++] = text_value(ids[i], strlen(ids[i]));
        at += snprintf(sql + at, sizeof sql - (size_t)at, "%s ($1%s, $%d, $%d)", i > 0 ? "," : "",
            group < 0 ? ", 'ai'" : "", np - 1, np);
    }
    bool soft = world->async && chance(2);
    for (int tries = 0;; tries++) {
        int64_t floor = world->floor_id;
        struct kalamdb_statement st = {.caller = {.user_id = user_name(user)},
            .sql = {sql, (size_t)at},
            .params = params,
            .nparams = np,
            .durability = soft ? KALAMDB_ASYNC : KALAMDB_SYNC};
        struct kalamdb_result *r;
        struct kalamdb_error error;
        sched_sleep_us((int64_t)draw(3000)); /* the way there */
        kalamdb_code code = exec(&st, &r, &error);
        bool lost = chance(20); /* the answer */
        if (chance(2))
            sched_sleep_us((int64_t)draw(3000));
        bool may_refuse = group >= 0 && (m[0]->must & 1u << user) == 0;
        enum outcome o = lost ? UNKNOWN : outcome(code, &error, "send", may_refuse);
        trace(
            "u%d sends t%u to %s: %s%s", user, tag[0], conv, kalamdb_code_name(code), lost ? " (lost)" : "");
        if (o == DONE) {
            const int64_t *got;
            size_t ngot = kalamdb_result_inserted(r, &got);
            if (ngot != (size_t)n)
                fail("t%u: %zu ids for %d rows", tag[0], ngot, n);
            for (int i = 0; i < n; i++) {
                know_id(m[i], got[i], floor, tries > 0, tag[i]);
                m[i]->fate = THERE;
                m[i]->soft = soft;
                m[i]->busy = false;
            }
        }
        kalamdb_result_free(r);
        if (o == DONE)
            return;
        if (o == REFUSED && tries == 0) {
            for (int i = 0; i < n; i++)
                m[i]->fate = NOT_THERE;
            return;
        }
        if (may_refuse || tries > 200 || stop)
            return; /* undecided: the next start looks */
        sched_sleep_us((int64_t)draw(100000));
    }
}

/* ---- changing ---- */

static struct message *pick(int user, uint32_t *ret_tag)
{
    for (int i = 0; i < 12 && world->nmessages > 0; i++) {
        uint32_t back = (uint32_t)draw(chance(2) ? 20 : MESSAGES_MAX), n = world->nmessages;
        uint32_t tag = back < n ? n - 1 - back : (uint32_t)draw(n);
        struct message *m = &world->messages[tag];
        uint32_t bit = 1u << user;
        if (m->fate != THERE || m->busy || m->dead || m->soft || m->id == 0 || (m->must & bit) == 0 ||
            ((m->gone | m->leaving) & bit) != 0)
            continue;
        *ret_tag = tag;
        return m;
    }
    return NULL;
}

static uint32_t reach(const struct message *m)
{
    uint32_t r = m->must & ~m->gone & ~m->leaving;
    return m->group < 0 ? r : r & members(&world->groups[m->group]);
}

static void edit(int user)
{
    uint32_t tag;
    struct message *m = pick(user, &tag);
    if (m == NULL || m->sender != user || m->stream || (reach(m) & 1u << user) == 0 || m->tried > 200)
        return;
    m->busy = true;
    m->tried++;
    m->large[m->tried & 3] = chance(10);
    m->edit_must = reach(m);
    char content[CONTENT_MAX];
    size_t n = content_of(tag, m->tried, m->large[m->tried & 3], content);
    struct kalamdb_value params[] = {text_value(content, n), int_value(m->id)};
    struct kalamdb_error error;
    struct kalamdb_result *r;
    kalamdb_code code = exec_sql(user, KALAMDB_USER, "UPDATE messages SET content = $1 WHERE msg_id = $2",
        params, 2, false, &r, &error);
    bool may_refuse = (m->edit_must & 1u << user) == 0;
    enum outcome o = outcome(code, &error, "edit", may_refuse);
    trace("u%d edits t%u v%u: %s", user, tag, m->tried, kalamdb_code_name(code));
    if (o == DONE && kalamdb_result_rows_affected(r) != 1 && !may_refuse)
        fail("edit of t%u changed %lld rows", tag, (long long)kalamdb_result_rows_affected(r));
    kalamdb_result_free(r);
    if (o == UNKNOWN || (o == DONE && may_refuse))
        return; /* busy: the next start looks */
    if (o == DONE) {
        for (int u = 0; u < USERS; u++)
            if ((m->edit_must & 1u << u) != 0)
                m->have[u] = m->tried;
    } else {
        m->tried--;
    }
    m->edit_must = 0;
    m->busy = false;
}

static void delete (int user)
{
    uint32_t tag, bit = 1u << user;
    struct message *m = pick(user, &tag);
    if (m == NULL)
        return;
    bool everyone = m->group >= 0 && m->sender == user && (reach(m) & bit) != 0 && chance(2);
    m->busy = true;
    m->dead = everyone;
    m->together = everyone ? reach(m) : bit;
    m->leaving |= everyone ? ALL_USERS : bit;
    struct kalamdb_value param = int_value(m->id);
    struct kalamdb_error error;
    struct kalamdb_result *r;
    kalamdb_code code = exec_sql(
        user, KALAMDB_USER, "DELETE FROM messages WHERE msg_id = $1", &param, 1, everyone, &r, &error);
    bool may_refuse = everyone && (m->together & bit) == 0;
    enum outcome o = outcome(code, &error, "delete", may_refuse);
    trace("u%d deletes t%u%s: %s", user, tag, everyone ? " for everyone" : "", kalamdb_code_name(code));
    if (o == DONE && kalamdb_result_rows_affected(r) < 1 && !may_refuse)
        fail("delete of t%u changed %lld rows", tag, (long long)kalamdb_result_rows_affected(r));
    kalamdb_result_free(r);
    if (o == UNKNOWN || may_refuse)
        return;
    if (o == DONE) /* one's own copy goes whoever comes or leaves meanwhile */
        m->gone |= everyone ? m->together : bit;
    m->leaving = everyone && o == DONE ? m->leaving : m->leaving & ~(everyone ? ALL_USERS : bit);
    m->dead = m->dead && o == DONE;
    m->together = 0;
    m->busy = false;
}

static void mark_read(int user)
{
    uint32_t tag;
    struct message *m = pick(user, &tag);
    if (m == NULL || m->group < 0 || (members(&world->groups[m->group]) & 1u << user) == 0)
        return;
    char conv[32];
    conv_name(m, conv);
    struct kalamdb_value params[] = {
        int_value(m->id), text_value(conv, strlen(conv)), text_value(user_name(user).ptr, 6)};
    struct kalamdb_error error;
    kalamdb_code code = exec_sql(user, KALAMDB_USER,
        "UPDATE conversation_users SET last_read_msg_id = $1 WHERE conversation_id = $2 AND user_id = $3",
        params, 3, false, NULL, &error);
    (void)outcome(code, &error, "read marker", true);
}

/* ---- waiting for calls that answer from another thread ---- */

struct answer {
    pthread_mutex_t lock;
    pthread_cond_t there;
    bool done;
    kalamdb_code code;
    struct kalamdb_error error;
};

static void answered(void *arg, struct kalamdb_result *r, const struct kalamdb_error *error)
{
    struct answer *a = arg;
    kalamdb_result_free(r);
    pthread_mutex_lock(&a->lock);
    a->error = *error;
    a->done = true;
    pthread_cond_signal(&a->there);
    pthread_mutex_unlock(&a->lock);
}

static void consolidate(int user)
{
    struct answer a = {.lock = PTHREAD_MUTEX_INITIALIZER, .there = PTHREAD_COND_INITIALIZER};
    kalamdb_consolidate(db, chance(2) ? user_name(user) : (struct kalamdb_str){NULL, 0}, answered, &a);
    pthread_mutex_lock(&a.lock);
    while (!a.done)
        pthread_cond_wait(&a.there, &a.lock);
    pthread_mutex_unlock(&a.lock);
    trace("consolidated: %s", kalamdb_code_name(a.error.code));
    if (a.error.code == KALAMDB_OK)
        world->consolidations++;
    else
        (void)outcome(a.error.code, &a.error, "consolidate", false);
}

static void step_clock(void)
{
    int64_t by = (int64_t)draw(7200000000) - 5400000000;
    if (chance(3))
        by = (int64_t)draw(2000000) - 1000000;
    world->sched.wall_us += by;
    trace("the clock steps by %lld us", (long long)by);
}

/* ---- streams ---- */

struct source {
    pthread_mutex_t lock;
    pthread_cond_t there;
    bool woken;
};

static void woken(void *arg)
{
    struct source *s = arg;
    pthread_mutex_lock(&s->lock);
    s->woken = true;
    pthread_cond_signal(&s->there);
    pthread_mutex_unlock(&s->lock);
}

/* Takes what there is; false: an error came. */
static bool take_events(struct kalamdb_producer *p, struct message *m, uint32_t tag)
{
    struct kalamdb_stream_event ev;
    bool good = true;
    while (kalamdb_producer_next(p, &ev) != KALAMDB_STREAM_PENDING) {
        if (ev.kind == KALAMDB_STREAM_ERROR) {
            trace("stream t%u: %s %s", tag, kalamdb_code_name(ev.error.code), ev.error.message);
            bool known = is(ev.error.code, "UNAVAILABLE") || is(ev.error.code, "OUTCOME_UNKNOWN") ||
                         (m->group >= 0 && (m->edit_must & 1u << m->sender) == 0) || world->faults_hit > 0;
            if (!known)
                fail("stream t%u: %s: %s (%s)", tag, kalamdb_code_name(ev.error.code), ev.error.message,
                    ev.error.internal);
            good = false;
            continue;
        }
        trace("stream t%u: event %d offset %llu", tag, (int)ev.kind, (unsigned long long)ev.offset);
        if (ev.kind == KALAMDB_STREAM_BEGUN) {
            know_id(m, ev.msg_id, 0, true, tag);
            m->fate = THERE;
        }
        if (ev.offset > m->acked_bytes)
            m->acked_bytes = (uint32_t)ev.offset;
        moment_comes(WHEN_TOLD);
        if (ev.kind == KALAMDB_STREAM_ENDED)
            m->ended = true;
    }
    return good;
}

static bool settle_events(struct kalamdb_producer *p, struct source *s, struct message *m, uint32_t tag)
{
    bool good = true;
    for (;;) {
        good = take_events(p, m, tag) && good; /* to PENDING: from here on whatever comes wakes */
        if (!kalamdb_producer_busy(p))
            return good;
        pthread_mutex_lock(&s->lock);
        while (!s->woken)
            pthread_cond_wait(&s->there, &s->lock);
        s->woken = false;
        pthread_mutex_unlock(&s->lock);
    }
}

static void stream(int user)
{
    uint32_t tag;
    int group = chance(2) ? some_group(user) : -1;
    struct message *m = new_message(user, group, &tag);
    if (m == NULL)
        return;
    m->stream = true;
    m->edit_must = m->must; /* who gets the text; whoever leaves keeps what there was */
    struct source s = {.lock = PTHREAD_MUTEX_INITIALIZER, .there = PTHREAD_COND_INITIALIZER};
    struct kalamdb_producer *p;
    struct kalamdb_error error;
    if (kalamdb_producer_open(db, woken, &s, &p, &error) != KALAMDB_OK) {
        m->fate = NOT_THERE;
        return;
    }
    char conv[32], id[16], text[256];
    conv_name(m, conv);
    snprintf(id, sizeof id, "c%u", tag);
    struct kalamdb_caller caller = {.user_id = user_name(user)};
    struct kalamdb_stream_begin begin = {.caller = caller,
        .conversation_id = {conv, strlen(conv)},
        .conversation_type = group < 0 ? (struct kalamdb_str){"ai", 2} : (struct kalamdb_str){NULL, 0},
        .client_msg_id = {id, strlen(id)}};
    trace("u%d begins t%u in %s", user, tag, conv);
    kalamdb_stream_begin(p, &begin, 1);
    bool good = settle_events(p, &s, m, tag) && m->fate == THERE;
    for (int i = (int)draw(12); good && i > 0 && m->sent_bytes < STREAM_MAX - 256; i--) {
        size_t n = 1 + draw(200);
        uint32_t at = m->sent_bytes;
        stream_text(tag, at, n, text);
        m->sent_bytes += (uint32_t)n;
        kalamdb_stream_append(p, &caller, m->id, at, (struct kalamdb_str){text, n}, 2 + (uint64_t)i);
        good = chance(2) ? take_events(p, m, tag) : settle_events(p, &s, m, tag);
        sched_sleep_us((int64_t)draw(30000));
    }
    if (good && chance(2)) {
        kalamdb_stream_end(p, &caller, m->id, (struct kalamdb_str){NULL, 0}, 1000);
        settle_events(p, &s, m, tag);
    }
    if (m->fate == THERE)
        take_events(p, m, tag);
    trace("u%d leaves t%u with %u of %u bytes", user, tag, m->acked_bytes, m->sent_bytes);
    kalamdb_producer_close(p);
    if (m->fate == THERE && m->ended)
        m->busy = false;
}

/* ---- the threads ---- */

static void *client(void *arg)
{
    int user = (int)(intptr_t)arg % USERS;
    while (!stop) {
        sched_sleep_us((int64_t)draw(chance(10) ? 200000 : 10000));
        uint64_t what = draw(100);
        if (what < 50)
            send(user);
        else if (what < 65)
            edit(user);
        else if (what < 75)
            delete (user);
        else if (what < 85)
            group_change(user);
        else if (what < 89)
            mark_read(user);
        else if (what < 96)
            stream(user);
        else if (what < 99)
            consolidate(user);
        else
            step_clock();
    }
    return NULL;
}

void clients_start(void)
{
    stop = false;
    for (int i = 0; i < CLIENTS; i++)
        if (pthread_create(&threads[i], NULL, client, (void *)(intptr_t)i) != 0)
            abort();
}

void clients_stop(void)
{
    stop = true;
    for (int i = 0; i < CLIENTS; i++)
        pthread_join(threads[i], NULL);
}
