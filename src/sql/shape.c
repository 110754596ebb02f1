#include "sql/shape.h"
#include "base/buf.h"
#include <pthread.h>
#include <stdlib.h>

#define SLOTS 1024
#define KEY_BYTES_MAX 4096
#define HOLES_MAX 1024

/* One value in the text, in order. */
struct hole {
    struct value value;
};

/* The text without its literals' contents, and the values that were there. */
struct scan {
    struct buf *key;
    struct arena *arena;
    const struct value *params;
    int nparams;
    struct hole *holes;
    int n;
};

struct shape {
    struct str key; /* the bytes follow the columns in one allocation */
    const struct schema *target;
    bool target_is_append;
    bool reads_spilled_content;
    struct returning returning;
    int ncolumns;
    size_t nrows;
    int *columns;
    int *sources; /* per cell, row-major: index of its hole, or -1 for DEFAULT */
    struct arena arena;
};

struct sql_shapes {
    pthread_mutex_t lock; /* slots and counters; shapes are read under it too, they are small */
    struct shape *slots[SLOTS];
    struct sql_shapes_stats stats;
};

static bool word_byte(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

static bool digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool add_hole(struct scan *s, struct value v)
{
    if (s->n == HOLES_MAX)
        return false;
    s->holes[s->n++].value = v;
    return true;
}

/* 'text' with '' for a quote: PostgreSQL's standard_conforming_strings, the gate's too. Bytes used, 0: not
 * plain. */
static size_t scan_string(struct scan *s, struct str rest)
{
    size_t end = 1, quotes = 0;
    for (;; end++) {
        const char *q = end < rest.len ? memchr(rest.ptr + end, '\'', rest.len - end) : NULL;
        if (q == NULL)
            return 0;
        end = (size_t)(q - rest.ptr);
        if (end + 1 >= rest.len || rest.ptr[end + 1] != '\'')
            break;
        quotes++;
        end++;
    }
    struct str text = str_n(rest.ptr + 1, end - 1);
    if (quotes > 0) {
        char *copy = arena_alloc(s->arena, text.len);
        size_t n = 0;
        if (copy == NULL)
            return 0;
        for (size_t i = 0; i < text.len; i++) {
            copy[n++] = text.ptr[i];
            if (text.ptr[i] == '\'')
                i++;
        }
        text = str_n(copy, n);
    }
    buf_u8(s->key, 1);
    return add_hole(s, value_text(text)) ? end + 1 : 0;
}

static size_t scan_number(struct scan *s, struct str rest)
{
    size_t n = 0;
    int64_t v;
    while (n < rest.len && digit(rest.ptr[n]))
        n++;
    if (n > 18 || (n < rest.len && word_byte(rest.ptr[n])) || !str_to_i64(str_n(rest.ptr, n), &v))
        return 0;
    buf_u8(s->key, 2);
    return add_hole(s, value_i64(v)) ? n : 0;
}

static size_t scan_param(struct scan *s, struct str rest)
{
    size_t n = 1;
    int64_t number;
    while (n < rest.len && digit(rest.ptr[n]))
        n++;
    if (n > 6 || !str_to_i64(str_n(rest.ptr + 1, n - 1), &number) || number < 1 || number > s->nparams ||
        (n < rest.len && word_byte(rest.ptr[n])))
        return 0;
    buf_append(s->key, rest.ptr, n);
    return add_hole(s, s->params[number - 1]) ? n : 0;
}

static size_t scan_word(struct scan *s, struct str rest)
{
    size_t n = 0;
    while (n < rest.len && word_byte(rest.ptr[n]))
        n++;
    /* E'', B'', N'', X'' are not plain, nor is what follows a word without a space. */
    if (n < rest.len && (rest.ptr[n] == '\'' || rest.ptr[n] == '$' || (unsigned char)rest.ptr[n] >= 0x80))
        return 0;
    struct str word = str_n(rest.ptr, n);
    buf_str(s->key, word);
    if (str_ieq(word, STR("null")))
        return add_hole(s, VALUE_OF_NULL) ? n : 0;
    if (str_ieq(word, STR("true")) || str_ieq(word, STR("false")))
        return add_hole(s, value_bool(n == 4)) ? n : 0;
    return n;
}

/* Literals may only stand after what cannot make them part of something else: ( , or space. */
static bool value_may_start(const struct buf *key)
{
    char before = key->len > 0 ? key->ptr[key->len - 1] : ' ';
    return before == ' ' || before == '(' || before == ',' || before == '\n';
}

/* Fills key and holes; false where the text holds anything that is not surely understood. */
static bool scan_text(struct scan *s, struct str sql)
{
    for (size_t i = 0; i < sql.len;) {
        struct str rest = str_n(sql.ptr + i, sql.len - i);
        char c = rest.ptr[0];
        size_t used = 0;
        if (c == '\'') {
            used = value_may_start(s->key) ? scan_string(s, rest) : 0;
        } else if (digit(c)) {
            used = value_may_start(s->key) ? scan_number(s, rest) : 0;
        } else if (c == '$') {
            used = value_may_start(s->key) ? scan_param(s, rest) : 0;
        } else if (word_byte(c)) {
            used = scan_word(s, rest);
        } else if (c == ' ' || c == '\n' || c == '(' || c == ')' || c == ',' || c == ';' || c == '*') {
            buf_u8(s->key, (uint8_t)c);
            used = 1;
        }
        if (used == 0 || s->key->len > KEY_BYTES_MAX)
            return false;
        i += used;
    }
    /* The types of parameters decide too. */
    buf_u8(s->key, 3);
    for (int i = 0; i < s->nparams; i++)
        buf_u8(s->key, (uint8_t)s->params[i].type);
    return !s->key->failed;
}

static bool text_ok(struct str s)
{
    return (s.len == 0 || memchr(s.ptr, '\0', s.len) == NULL) && utf8_valid(s);
}

/* What the gate checks of every text before it looks at it; the gate words the error. */
static bool input_ok(struct str sql, const struct value *params, int nparams, const struct sql_limits *limits)
{
    if (sql.len > limits->sql_bytes_max || !text_ok(sql))
        return false;
    for (int i = 0; i < nparams; i++) {
        if ((params[i].type == VALUE_TEXT || params[i].type == VALUE_JSON) && !text_ok(params[i].s))
            return false;
    }
    return true;
}

static bool same_value(struct value a, struct value b)
{
    if (a.type != b.type)
        return false;
    return a.type == VALUE_NULL || value_cmp(a, b) == 0;
}

static bool is_insert(struct str sql)
{
    struct str s = str_trim(sql);
    return s.len > 6 && str_ieq(str_n(s.ptr, 6), STR("insert"));
}

/* Which hole fills which cell; false where cells and holes are not one to one in order, or the statement
 * depends on its values in another way. */
static bool match(
    struct shape *shape, const struct stmt *st, const struct scan *s, const struct caller *caller)
{
    if (st->kind != STMT_INSERT || st->nrows == 0 || st->read_sql.ptr != NULL ||
        st->returning.read_sql.ptr != NULL || st->ntables > 0 || st->fast != NULL ||
        !str_eq(st->target_owner, caller->user_id) || st->create_from.kind != CELL_DEFAULT)
        return false;
    size_t n = st->nrows * (size_t)st->ncolumns;
    shape->sources = arena_array(&shape->arena, n, sizeof *shape->sources);
    if (shape->sources == NULL)
        return false;
    int next = 0;
    for (size_t i = 0; i < n; i++) {
        shape->sources[i] = -1;
        if (st->cells[i].kind == CELL_DEFAULT)
            continue;
        if (next == s->n || !same_value(st->cells[i].value, s->holes[next].value))
            return false;
        shape->sources[i] = next++;
    }
    return next == s->n;
}

static void shape_free(struct shape *shape)
{
    if (shape != NULL)
        arena_release(&shape->arena);
    free(shape);
}

static bool copy_returning(struct shape *shape, const struct returning *r)
{
    size_t n = (size_t)r->nout;
    int *columns = arena_array(&shape->arena, n, sizeof *columns);
    struct str *names = arena_array(&shape->arena, n, sizeof *names);
    if (columns == NULL || names == NULL)
        return false;
    for (size_t i = 0; i < n; i++) {
        columns[i] = r->out_columns[i];
        names[i] = arena_str(&shape->arena, r->out_names[i]);
    }
    shape->returning = (struct returning){
        .present = r->present, .nout = r->nout, .out_columns = columns, .out_names = names};
    return true;
}

/* A shape that gives this statement again, or NULL. */
static struct shape *shape_of(const struct stmt *st, const struct scan *s, const struct caller *caller)
{
    struct shape *shape = calloc(1, sizeof *shape);
    if (shape == NULL)
        return NULL;
    arena_init(&shape->arena, 256 * 1024);
    shape->target = st->target;
    shape->target_is_append = st->target_is_append;
    shape->reads_spilled_content = st->reads_spilled_content;
    shape->ncolumns = st->ncolumns;
    shape->nrows = st->nrows;
    shape->key = arena_str(&shape->arena, buf_view(s->key));
    shape->columns = arena_array(&shape->arena, (size_t)st->ncolumns, sizeof *shape->columns);
    bool ok = shape->columns != NULL && match(shape, st, s, caller) &&
              copy_returning(shape, &st->returning) && !arena_failed(&shape->arena);
    if (!ok) {
        shape_free(shape);
        return NULL;
    }
    memcpy(shape->columns, st->columns, (size_t)st->ncolumns * sizeof *shape->columns);
    return shape;
}

static bool copy_out_returning(struct arena *arena, const struct returning *from, struct returning *ret)
{
    int *columns = arena_array(arena, (size_t)from->nout, sizeof *columns);
    struct str *names = arena_array(arena, (size_t)from->nout, sizeof *names);
    if (columns == NULL || names == NULL)
        return false;
    for (int i = 0; i < from->nout; i++) {
        columns[i] = from->out_columns[i];
        names[i] = arena_str(arena, from->out_names[i]);
    }
    *ret = (struct returning){
        .present = from->present, .nout = from->nout, .out_columns = columns, .out_names = names};
    return true;
}

/* The shape with the values of this text. Borrows nothing from the shape, which may be gone a moment later.
 */
static struct stmt *fill(
    const struct shape *shape, struct arena *arena, const struct scan *s, const struct caller *caller)
{
    size_t n = shape->nrows * (size_t)shape->ncolumns;
    struct stmt *st = arena_alloc(arena, sizeof *st);
    struct cell *cells = arena_array(arena, n, sizeof *cells);
    int *columns = arena_array(arena, (size_t)shape->ncolumns, sizeof *columns);
    if (st == NULL || cells == NULL || columns == NULL ||
        !copy_out_returning(arena, &shape->returning, &st->returning))
        return NULL;
    memcpy(columns, shape->columns, (size_t)shape->ncolumns * sizeof *columns);
    for (size_t i = 0; i < n; i++) {
        int hole = shape->sources[i];
        cells[i] = hole < 0 ? (struct cell){.kind = CELL_DEFAULT}
                            : (struct cell){.kind = CELL_VALUE, .value = s->holes[hole].value};
    }
    st->kind = STMT_INSERT;
    st->target_owner = arena_str(arena, caller->user_id);
    st->target = shape->target;
    st->target_is_append = shape->target_is_append;
    st->reads_spilled_content = shape->reads_spilled_content;
    st->create_from.kind = CELL_DEFAULT;
    st->ncolumns = shape->ncolumns;
    st->columns = columns;
    st->nrows = shape->nrows;
    st->cells = cells;
    return arena_failed(arena) ? NULL : st;
}

struct sql_shapes *sql_shapes_new(void)
{
    struct sql_shapes *s = calloc(1, sizeof *s);
    if (s != NULL && pthread_mutex_init(&s->lock, NULL) != 0) {
        free(s);
        s = NULL;
    }
    return s;
}

void sql_shapes_free(struct sql_shapes *s)
{
    if (s == NULL)
        return;
    for (size_t i = 0; i < SLOTS; i++)
        shape_free(s->slots[i]);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static struct stmt *lookup(struct sql_shapes *s, struct arena *arena, const struct scan *scan, uint64_t hash,
    const struct caller *caller)
{
    struct stmt *st = NULL;
    pthread_mutex_lock(&s->lock);
    const struct shape *shape = s->slots[hash % SLOTS];
    if (shape != NULL && str_eq(shape->key, buf_view(scan->key)))
        st = fill(shape, arena, scan, caller);
    if (st != NULL)
        s->stats.hits++;
    else
        s->stats.misses++;
    pthread_mutex_unlock(&s->lock);
    return st;
}

static void remember(struct sql_shapes *s, const struct stmt *st, const struct scan *scan, uint64_t hash,
    const struct caller *caller)
{
    struct shape *shape = shape_of(st, scan, caller);
    if (shape == NULL)
        return;
    pthread_mutex_lock(&s->lock);
    struct shape *old = s->slots[hash % SLOTS];
    s->slots[hash % SLOTS] = shape;
    pthread_mutex_unlock(&s->lock);
    shape_free(old);
}

enum err sql_shapes_parse(struct sql_shapes *s, struct arena *arena, struct str sql,
    const struct value *params, int nparams, const struct caller *caller, const struct sql_limits *limits,
    struct stmt **ret, struct errctx *ec)
{
    struct hole holes[HOLES_MAX];
    struct buf key = BUF_INIT(2 * KEY_BYTES_MAX);
    struct scan scan = {.key = &key, .arena = arena, .params = params, .nparams = nparams, .holes = holes};
    bool scanned = is_insert(sql) && input_ok(sql, params, nparams, limits) && scan_text(&scan, sql);
    uint64_t hash = scanned ? str_hash(buf_view(&key)) : 0;
    struct stmt *st = scanned ? lookup(s, arena, &scan, hash, caller) : NULL;
    enum err e = ERR_OK;
    if (st != NULL) {
        *ret = st;
    } else {
        e = sql_parse(arena, sql, params, nparams, caller, limits, ret, ec);
        if (e == ERR_OK && scanned)
            remember(s, *ret, &scan, hash, caller);
    }
    buf_release(&key);
    return e;
}

void sql_shapes_stats(struct sql_shapes *s, struct sql_shapes_stats *ret)
{
    pthread_mutex_lock(&s->lock);
    *ret = s->stats;
    pthread_mutex_unlock(&s->lock);
}
