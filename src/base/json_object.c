#include "base/json_object.h"

static size_t skip_space(struct str s, size_t at)
{
    while (at < s.len && (s.ptr[at] == ' ' || s.ptr[at] == '\t' || s.ptr[at] == '\n' || s.ptr[at] == '\r'))
        at++;
    return at;
}

/* Past the string that begins at `at`. */
static size_t skip_string(struct str s, size_t at)
{
    for (at++; at < s.len && s.ptr[at] != '"'; at++)
        at += s.ptr[at] == '\\';
    return at < s.len ? at + 1 : s.len;
}

/* Past the value that begins at `at`: up to a comma or bracket that is not its own. */
static size_t skip_value(struct str s, size_t at)
{
    size_t depth = 0;
    while (at < s.len) {
        char c = s.ptr[at];
        if (c == '"') {
            at = skip_string(s, at);
            continue;
        }
        if (depth == 0 && (c == ',' || c == '}' || c == ']'))
            break;
        depth += c == '{' || c == '[';
        depth -= c == '}' || c == ']';
        at++;
    }
    while (at > 0 && skip_space(str_n(s.ptr, at), at - 1) == at)
        at--;
    return at;
}

struct member {
    struct str key, value;
};

/* The member at *at; false: there is none any more. */
static bool next_member(struct str s, size_t *at, struct member *ret)
{
    size_t i = skip_space(s, *at);
    if (i < s.len && (s.ptr[i] == '{' || s.ptr[i] == ','))
        i = skip_space(s, i + 1);
    if (i >= s.len || s.ptr[i] != '"')
        return false;
    size_t end = skip_string(s, i);
    ret->key = str_n(s.ptr + i + 1, end > i + 1 ? end - i - 2 : 0);
    i = skip_space(s, end);
    if (i >= s.len || s.ptr[i] != ':')
        return false;
    i = skip_space(s, i + 1);
    end = skip_value(s, i);
    ret->value = str_n(s.ptr + i, end - i);
    *at = skip_space(s, end);
    return true;
}

bool json_text_is_object(struct str json)
{
    size_t at = skip_space(json, 0);
    return at < json.len && json.ptr[at] == '{';
}

struct str json_text_member(struct str object, struct str key)
{
    struct member m;
    struct str found = STR_NULL;
    for (size_t at = 0; next_member(object, &at, &m);)
        if (str_eq(m.key, key))
            found = m.value;
    return found;
}

static void put_member(struct buf *b, const struct member *m, bool *any)
{
    buf_u8(b, *any ? ',' : '{');
    buf_u8(b, '"');
    buf_str(b, m->key);
    buf_str(b, STR("\":"));
    buf_str(b, m->value);
    *any = true;
}

bool json_text_merge(struct buf *ret, struct str a, struct str b, struct str without)
{
    struct member m;
    bool any = false;
    for (size_t at = 0; next_member(a, &at, &m);)
        if (!str_eq(m.key, without) && json_text_member(b, m.key).ptr == NULL)
            put_member(ret, &m, &any);
    for (size_t at = 0; next_member(b, &at, &m);)
        put_member(ret, &m, &any);
    buf_str(ret, any ? STR("}") : STR("{}"));
    return any;
}
