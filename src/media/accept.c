#include "media/media.h"

static struct str next_entry(struct str *list)
{
    size_t n = str_find(*list, ',');
    struct str entry = str_trim(str_n(list->ptr, n));
    *list = n < list->len ? str_n(list->ptr + n + 1, list->len - n - 1) : str_n(list->ptr + n, 0);
    return entry;
}

/* RFC 6838, 4.2, in lower case */
static bool is_name(struct str s)
{
    for (size_t i = 0; i < s.len; i++) {
        char c = s.ptr[i];
        bool word = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
        if (!word && (i == 0 || c == '\0' || strchr("!#$&-^_.+", c) == NULL))
            return false;
    }
    return s.len > 0 && s.len <= 127;
}

bool media_list_valid(struct str list)
{
    if (str_trim(list).len == 0)
        return true;
    for (bool more = true; more;) {
        more = memchr(list.ptr, ',', list.len) != NULL;
        struct str entry = next_entry(&list);
        size_t slash = str_find(entry, '/');
        if (slash == entry.len || !is_name(str_n(entry.ptr, slash)))
            return false;
        struct str second = str_n(entry.ptr + slash + 1, entry.len - slash - 1);
        if (!str_eq(second, STR("*")) && !is_name(second))
            return false;
    }
    return true;
}

bool media_list_holds(struct str list, struct str content_type)
{
    struct str type = str_trim(str_n(content_type.ptr, str_find(content_type, ';')));
    if (str_trim(list).len == 0)
        return true;
    while (list.len > 0) {
        struct str entry = next_entry(&list);
        bool family = str_ends_with(entry, STR("/*"));
        if (family ? str_starts_with(type, str_n(entry.ptr, entry.len - 1)) : str_eq(type, entry))
            return true;
    }
    return false;
}
