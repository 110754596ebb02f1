#include "base/role.h"

bool user_id_valid(struct str id)
{
    static const struct str exact[] = {{"shared", 6}, {"deleted_user", 12}};
    static const struct str senders[] = {{"ai", 2}, {"assistant", 9}, {"system", 6}, {"tool", 4}, {"bot", 3}};
    if (id.len < 1 || id.len > 255 || !utf8_valid(id))
        return false;
    for (size_t i = 0; i < id.len; i++) {
        unsigned char c = (unsigned char)id.ptr[i];
        bool c1 = c == 0xc2 && i + 1 < id.len && (unsigned char)id.ptr[i + 1] < 0xa0; /* U+0080 to U+009F */
        if (c < 0x20 || c == 0x7f || c1)
            return false;
    }
    for (size_t i = 0; i < sizeof exact / sizeof *exact; i++) {
        if (str_eq(id, exact[i]))
            return false;
    }
    for (size_t i = 0; i < sizeof senders / sizeof *senders; i++) {
        if (str_starts_with(id, senders[i]) && (id.len == senders[i].len || id.ptr[senders[i].len] == ':'))
            return false;
    }
    return true;
}
