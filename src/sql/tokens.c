#include "sql/tokens.h"
#include "base/buf.h"
#include <pg_query.h>
#include <stdlib.h>

/* ScanResult and ScanToken are read off the wire by hand: unpacking them costs an allocation per token.
 * message ScanResult { int32 version = 1; repeated ScanToken tokens = 2; }
 * message ScanToken { int32 start = 1; int32 end = 2; Token token = 4; KeywordKind keyword_kind = 5; } */
static bool token_read(struct str bytes, struct token *ret)
{
    struct reader r = reader_of(bytes);
    struct token t = {0};
    while (reader_left(&r) > 0) {
        uint64_t tag = read_varint(&r);
        if ((tag & 7) != 0)
            return false;
        int v = (int)read_varint(&r);
        switch (tag >> 3) {
        case 1:
            t.start = v;
            break;
        case 2:
            t.end = v;
            break;
        case 4:
            t.kind = v;
            break;
        case 5:
            t.keyword = v;
            break;
        default:
            break;
        }
    }
    *ret = t;
    return !r.bad;
}

static bool tokens_read(struct arena *arena, struct str bytes, struct tokens *ret)
{
    /* A token takes at least six bytes on the wire: tag and length, then start or end, and the kind. */
    size_t cap = bytes.len / 6 + 1;
    struct token *v = arena_array(arena, cap, sizeof *v);
    if (v == NULL)
        return false;
    struct reader r = reader_of(bytes);
    size_t n = 0;
    while (reader_left(&r) > 0) {
        uint64_t tag = read_varint(&r);
        if (tag >> 3 == 1) {
            (void)read_varint(&r);
            continue;
        }
        struct str one = read_lstr(&r);
        if (r.bad || tag != (2 << 3 | 2) || n == cap || !token_read(one, &v[n]))
            return false;
        if (v[n].kind != PG_QUERY__TOKEN__SQL_COMMENT && v[n].kind != PG_QUERY__TOKEN__C_COMMENT)
            n++;
    }
    *ret = (struct tokens){n, v};
    return !r.bad;
}

bool tokens_scan(struct arena *arena, const char *sql, struct tokens *ret)
{
    PgQueryScanResult scan = pg_query_scan(sql);
    bool ok = scan.error == NULL && tokens_read(arena, str_n(scan.pbuf.data, scan.pbuf.len), ret);
    pg_query_free_scan_result(scan);
    return ok;
}

/* ---- depth ----------------------------------------------------------------------------------- */

/* One open bracket or CASE. An expression's chain of operators is cut by commas and by AND and OR, whose
 * arguments the parser keeps in flat lists; JOIN, UNION and their like nest to the left over all of these,
 * and are never cut. */
struct level {
    int chain;   /* tokens of the current piece that may each nest it one deeper */
    int child;   /* deepest bracket closed in the current piece */
    int best;    /* deepest earlier piece */
    int spine;   /* joins, set operations */
    int between; /* BETWEENs whose AND is still to come */
};

static int level_depth(const struct level *l)
{
    int piece = l->chain + l->child;
    return l->spine + (piece > l->best ? piece : l->best);
}

static void level_cut(struct level *l)
{
    int piece = l->chain + l->child;
    if (piece > l->best)
        l->best = piece;
    l->chain = 1;
    l->child = 0;
}

static bool token_is_leaf(const struct token *t)
{
    switch (t->kind) {
    case PG_QUERY__TOKEN__IDENT:
    case PG_QUERY__TOKEN__UIDENT:
    case PG_QUERY__TOKEN__FCONST:
    case PG_QUERY__TOKEN__SCONST:
    case PG_QUERY__TOKEN__USCONST:
    case PG_QUERY__TOKEN__BCONST:
    case PG_QUERY__TOKEN__XCONST:
    case PG_QUERY__TOKEN__ICONST:
    case PG_QUERY__TOKEN__PARAM:
    case '.':
        return true;
    default:
        return false;
    }
}

int tokens_depth(const struct tokens *t)
{
    struct level stack[SQL_DEPTH_MAX + 2] = {{0}};
    int top = 0, deepest = 0;
    for (size_t i = 0; i < t->n; i++) {
        const struct token *k = &t->v[i];
        struct level *l = &stack[top];
        if (token_is_leaf(k))
            continue;
        switch (k->kind) {
        case '(':
        case '[':
        case PG_QUERY__TOKEN__CASE:
            if (top > SQL_DEPTH_MAX)
                return top;
            stack[++top] = (struct level){.chain = 1};
            break;
        case ')':
        case ']':
        case PG_QUERY__TOKEN__END_P:
            if (top == 0)
                break;
            top--;
            if (level_depth(l) > stack[top].child)
                stack[top].child = level_depth(l);
            stack[top].chain++;
            break;
        case PG_QUERY__TOKEN__BETWEEN:
            l->between++;
            l->chain++;
            break;
        case PG_QUERY__TOKEN__AND:
            if (l->between > 0) {
                l->between--;
                l->chain++;
                break;
            }
            level_cut(l);
            break;
        case PG_QUERY__TOKEN__OR:
        case ',':
            level_cut(l);
            break;
        case PG_QUERY__TOKEN__JOIN:
        case PG_QUERY__TOKEN__UNION:
        case PG_QUERY__TOKEN__INTERSECT:
        case PG_QUERY__TOKEN__EXCEPT:
            l->spine++;
            break;
        default:
            l->chain++;
        }
        if (level_depth(&stack[top]) > deepest)
            deepest = level_depth(&stack[top]);
    }
    while (top > 0) {
        int d = level_depth(&stack[top--]);
        if (d > stack[top].child)
            stack[top].child = d;
    }
    int whole = level_depth(&stack[0]);
    return whole > deepest ? whole : deepest;
}

/* ---- identifiers ----------------------------------------------------------------------------- */

const struct token *tokens_at(const struct tokens *t, int start)
{
    size_t lo = 0, hi = t->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (t->v[mid].start < start)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < t->n && t->v[lo].start == start ? &t->v[lo] : NULL;
}

/* The scanner ends U&"…" after its first byte, so that end is found here: at the quote that is not doubled.
 */
static struct str token_text(struct str sql, const struct token *t)
{
    if (t->start < 0 || t->end < t->start || (size_t)t->end > sql.len)
        return STR_NULL;
    struct str s = str_n(sql.ptr + t->start, (size_t)(t->end - t->start));
    if (t->kind != PG_QUERY__TOKEN__UIDENT)
        return s;
    s.len = sql.len - (size_t)t->start;
    for (size_t i = 3; i < s.len; i++) {
        if (s.ptr[i] != '"')
            continue;
        if (i + 1 == s.len || s.ptr[i + 1] != '"')
            return str_n(s.ptr, i + 1);
        i++;
    }
    return s;
}

static size_t utf8_len(uint32_t code)
{
    return code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
}

/* U&"…" with the default escape: \XXXX and \+XXXXXX stand for one character, \\ for a backslash. */
static size_t unicode_identifier_len(struct str inner)
{
    size_t len = 0;
    for (size_t i = 0; i < inner.len;) {
        size_t skip = 1, digits = 0;
        if (inner.ptr[i] == '"') {
            skip = 2;
        } else if (inner.ptr[i] == '\\' && i + 1 < inner.len) {
            skip = 2;
            digits = inner.ptr[i + 1] == '\\' ? 0 : inner.ptr[i + 1] == '+' ? 6 : 4;
        }
        if (digits == 0) {
            len++;
            i += skip;
            continue;
        }
        char hex[7] = {0};
        size_t from = i + (digits == 6 ? 2 : 1);
        for (size_t d = 0; d < digits && from + d < inner.len; d++)
            hex[d] = inner.ptr[from + d];
        len += utf8_len((uint32_t)strtoul(hex, NULL, 16));
        i = from + digits;
    }
    return len;
}

size_t token_identifier_len(struct str sql, const struct token *t)
{
    struct str s = token_text(sql, t);
    if (t->kind == PG_QUERY__TOKEN__UIDENT && s.len >= 4)
        return unicode_identifier_len(str_n(s.ptr + 3, s.len - 4));
    if (t->kind != PG_QUERY__TOKEN__IDENT || s.len < 2 || s.ptr[0] != '"')
        return s.len;
    size_t len = s.len - 2;
    for (size_t i = 1; i + 1 < s.len; i++) {
        if (s.ptr[i] == '"') {
            len--;
            i++;
        }
    }
    return len;
}

bool token_identifier(struct arena *arena, struct str sql, const struct token *t, struct str *ret)
{
    struct str s = token_text(sql, t);
    if (t->kind == PG_QUERY__TOKEN__UIDENT || s.len == 0)
        return false;
    char *out = arena_alloc(arena, s.len);
    if (out == NULL)
        return false;
    size_t n = 0;
    if (s.ptr[0] == '"') {
        for (size_t i = 1; i + 1 < s.len; i++) {
            out[n++] = s.ptr[i];
            if (s.ptr[i] == '"')
                i++;
        }
    } else {
        for (size_t i = 0; i < s.len; i++)
            out[n++] = s.ptr[i] >= 'A' && s.ptr[i] <= 'Z' ? (char)(s.ptr[i] + 32) : s.ptr[i];
    }
    *ret = str_n(out, n);
    return true;
}
