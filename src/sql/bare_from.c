/* `from` as a column beside the keyword, decided on tokens: a two-state machine, as a reader of SQL would do
 * it.
 *
 *        operand, `)`, `]`, keyword that ends an expression
 *   WANT ────────────────────────────────────────────────→ HAVE
 *        ←────────────────────────────────────────────────
 *        operator, `,`, `(`, `[`, keyword that expects an expression (SELECT, WHERE, BY …)
 *
 * Where an expression is wanted, FROM cannot be the keyword, with three exceptions: DELETE FROM and IS
 * DISTINCT FROM are in HAVE by their preceding word; TRIM(FROM x) looks ahead; `SELECT FROM t` (no columns)
 * and `SELECT a, FROM t` (an error) against `SELECT from t FROM m` (an alias) wait whether the same SELECT
 * brings another FROM in HAVE. Used only after the statement as written failed to parse, so nothing that
 * PostgreSQL understands changes. */
#include "sql/tokens.h"

#define TOK(name) PG_QUERY__TOKEN__##name

enum state { HAVE, WANT };
enum paren { PAREN_PLAIN, PAREN_FROM_INSIDE, PAREN_TRIM, PAREN_DISTINCT_ON };

struct open_paren {
    enum paren kind;
    bool list;    /* inside a SELECT's list of outputs */
    long waiting; /* item of that list that is a column only if a FROM follows; -1: none */
};

struct machine {
    const struct tokens *t;
    struct arena *arena;
    enum state state;
    struct open_paren *stack;
    size_t top;
    bool *quote; /* by token */
};

static int kind_at(const struct machine *m, size_t i)
{
    return i < m->t->n ? m->t->v[i].kind : 0;
}

static int kind_before(const struct machine *m, size_t i, size_t back)
{
    return i >= back ? m->t->v[i - back].kind : 0;
}

static bool wants_expression(int kind)
{
    switch (kind) {
    case TOK(SELECT):
    case TOK(DISTINCT):
    case TOK(ALL):
    case TOK(WHERE):
    case TOK(AND):
    case TOK(OR):
    case TOK(NOT):
    case TOK(ON):
    case TOK(HAVING):
    case TOK(BY):
    case TOK(WHEN):
    case TOK(THEN):
    case TOK(ELSE):
    case TOK(CASE):
    case TOK(IN_P):
    case TOK(LIKE):
    case TOK(ILIKE):
    case TOK(BETWEEN):
    case TOK(SYMMETRIC):
    case TOK(ASYMMETRIC):
    case TOK(TO):
    case TOK(ESCAPE):
    case TOK(RETURNING):
    case TOK(SET):
    case TOK(USING):
    case TOK(LIMIT):
    case TOK(OFFSET):
    case TOK(ANY):
    case TOK(SOME):
    case TOK(ZONE):
    case TOK(PLACING):
    case TOK(FOR):
    case TOK(BOTH):
    case TOK(LEADING):
    case TOK(TRAILING):
        return true;
    default:
        return false;
    }
}

static bool is_operator(int kind)
{
    switch (kind) {
    case '%':
    case '+':
    case '-':
    case '/':
    case ':':
    case '<':
    case '=':
    case '>':
    case '?':
    case '^':
    case TOK(Op):
    case TOK(COLON_EQUALS):
    case TOK(EQUALS_GREATER):
    case TOK(LESS_EQUALS):
    case TOK(GREATER_EQUALS):
    case TOK(NOT_EQUALS):
        return true;
    default:
        return false;
    }
}

static void step_open(struct machine *m, size_t i)
{
    enum paren kind = PAREN_PLAIN;
    switch (kind_before(m, i, 1)) {
    case TOK(EXTRACT):
    case TOK(SUBSTRING):
    case TOK(OVERLAY):
        kind = PAREN_FROM_INSIDE;
        break;
    case TOK(TRIM):
        kind = PAREN_TRIM;
        break;
    case TOK(ON):
        if (kind_before(m, i, 2) == TOK(DISTINCT))
            kind = PAREN_DISTINCT_ON;
        break;
    default:
        break;
    }
    m->stack[++m->top] = (struct open_paren){kind, false, -1};
    m->state = WANT;
}

/* Can what follows SELECT FROM be a table, or an alias of the column `from`? */
static bool name_follows(const struct machine *m, size_t i)
{
    if (i + 1 >= m->t->n)
        return false;
    const struct token *next = &m->t->v[i + 1];
    return next->kind == TOK(IDENT) || next->kind == TOK(UIDENT) || next->kind == '(' ||
           next->keyword == PG_QUERY__KEYWORD_KIND__UNRESERVED_KEYWORD || next->kind == TOK(LATERAL_P) ||
           next->kind == TOK(ONLY);
}

static void step_from(struct machine *m, size_t i)
{
    struct open_paren *p = &m->stack[m->top];
    int before = kind_before(m, i, 1), next = kind_at(m, i + 1);
    if (before == '.' || before == TOK(AS)) { /* a label already */
        m->state = HAVE;
        return;
    }
    if (m->state == HAVE) {
        if (p->waiting >= 0)
            m->quote[p->waiting] = true;
        p->waiting = -1;
        p->list = false;
        bool operand_next = before == TOK(DISTINCT) || p->kind == PAREN_FROM_INSIDE || p->kind == PAREN_TRIM;
        m->state = operand_next ? WANT : HAVE;
        return;
    }
    bool trim_from = p->kind == PAREN_TRIM && (before == '(' || before == TOK(BOTH) ||
                                                  before == TOK(LEADING) || before == TOK(TRAILING));
    if (trim_from) {
        bool column = next == ')' || next == ',' || next == '.' || next == TOK(TYPECAST) ||
                      is_operator(next) || (next == TOK(FROM) && kind_at(m, i + 2) != ')');
        if (!column)
            return; /* the keyword; its operand is still wanted */
    }
    m->state = HAVE;
    if (p->list && (before == TOK(SELECT) || before == ',') && name_follows(m, i)) {
        if (p->waiting >= 0)
            m->quote[p->waiting] = true;
        p->waiting = (long)i;
        return;
    }
    m->quote[i] = true;
}

static void step_keyword(struct machine *m, size_t i)
{
    const struct token *k = &m->t->v[i];
    bool reserved = k->keyword != PG_QUERY__KEYWORD_KIND__UNRESERVED_KEYWORD;
    if (kind_before(m, i, 1) == '.' || kind_before(m, i, 1) == TOK(AS) || (m->state == WANT && !reserved)) {
        m->state = HAVE; /* a name */
        return;
    }
    if (k->kind == TOK(DISTINCT)) {
        int before = kind_before(m, i, 1);
        m->state = before == TOK(IS) || (before == TOK(NOT) && kind_before(m, i, 2) == TOK(IS)) ? HAVE : WANT;
        return;
    }
    struct open_paren *p = &m->stack[m->top];
    if (k->kind == TOK(SELECT)) {
        p->waiting = -1; /* another arm of a UNION */
        p->list = true;
    } else if (k->kind == TOK(WHERE) || k->kind == TOK(GROUP_P) || k->kind == TOK(ORDER)) {
        p->list = false;
    }
    m->state = wants_expression(k->kind) ? WANT : HAVE;
}

static void step(struct machine *m, size_t i)
{
    int kind = m->t->v[i].kind;
    if (kind == TOK(FROM)) {
        step_from(m, i);
    } else if (kind == '(' || kind == '[') {
        step_open(m, i);
    } else if (kind == ')' || kind == ']') {
        enum paren was = m->stack[m->top].kind;
        m->state = was == PAREN_DISTINCT_ON ? WANT : HAVE;
        if (m->top > 0)
            m->top--;
    } else if (kind == '*') {
        m->state = m->state == WANT || kind_before(m, i, 1) == '.' ? HAVE : WANT;
    } else if (kind == ',' || is_operator(kind)) {
        m->state = WANT;
    } else if (kind == '.' || kind == TOK(TYPECAST)) {
        m->state = HAVE; /* a name follows, whatever word it is */
    } else if (m->t->v[i].keyword != PG_QUERY__KEYWORD_KIND__NO_KEYWORD) {
        step_keyword(m, i);
    } else {
        m->state = HAVE;
    }
}

static bool rewrite(
    struct machine *m, struct str sql, size_t n, struct str *ret_text, struct from_map *ret_map)
{
    char *text = arena_alloc(m->arena, sql.len + 2 * n + 1);
    int *starts = arena_array(m->arena, n, sizeof *starts);
    if (text == NULL || starts == NULL)
        return false;
    size_t from = 0, len = 0, k = 0;
    for (size_t i = 0; i < m->t->n; i++) {
        if (!m->quote[i])
            continue;
        size_t start = (size_t)m->t->v[i].start;
        memcpy(text + len, sql.ptr + from, start - from);
        len += start - from;
        memcpy(text + len, "\"from\"", 6);
        len += 6;
        from = start + 4;
        starts[k++] = (int)start;
    }
    memcpy(text + len, sql.ptr + from, sql.len - from);
    *ret_text = str_n(text, len + sql.len - from);
    *ret_map = (struct from_map){n, starts};
    return true;
}

bool bare_from_quote(struct arena *arena, struct str sql, const struct tokens *t, struct str *ret_text,
    struct from_map *ret_map)
{
    struct machine m = {.t = t, .arena = arena, .state = HAVE};
    m.quote = arena_array(arena, t->n, sizeof *m.quote);
    m.stack = arena_array(arena, t->n + 2, sizeof *m.stack);
    if (m.quote == NULL || m.stack == NULL)
        return false;
    m.stack[0].waiting = -1;
    for (size_t i = 0; i < t->n; i++)
        step(&m, i);
    size_t n = 0;
    for (size_t i = 0; i < t->n; i++)
        n += m.quote[i];
    return n > 0 && rewrite(&m, sql, n, ret_text, ret_map);
}

int from_map_back(const struct from_map *m, int offset)
{
    for (size_t i = 0; i < m->n; i++) {
        int start = m->starts[i] + 2 * (int)i; /* of the quoted token in the quoted text */
        if (offset < start)
            return offset - 2 * (int)i;
        if (offset < start + 6)
            return m->starts[i];
    }
    return offset - 2 * (int)m->n;
}

bool from_map_hit(const struct from_map *m, int offset)
{
    for (size_t i = 0; i < m->n; i++) {
        int start = m->starts[i] + 2 * (int)i;
        if (offset >= start && offset < start + 6)
            return true;
    }
    return false;
}
