/* Parameters of a test case, written as one string: "t:text", "i:number", "d:1.5", "j:{\"a\":1}", "b:1", "n"
 * (NULL), separated by commas (a JSON one comes last). */
#ifndef KALAMDB_TESTS_GATE_PARAMS_H
#define KALAMDB_TESTS_GATE_PARAMS_H

#include "base/value.h"
#include <stdlib.h>

static int parse_params(const char *s, struct value *ret)
{
    int n = 0;
    while (s != NULL && *s != '\0') {
        const char *end = s[0] == 'j' ? s + strlen(s) : s + strcspn(s, ",");
        struct str text = s[0] == 'n' ? STR_NULL : str_n(s + 2, (size_t)(end - s - 2));
        switch (s[0]) {
        case 't':
            ret[n++] = value_text(text);
            break;
        case 'i':
            ret[n++] = value_i64(strtoll(text.ptr, NULL, 10));
            break;
        case 'd':
            ret[n++] = (struct value){.type = VALUE_DOUBLE, .d = strtod(text.ptr, NULL)};
            break;
        case 'b':
            ret[n++] = value_bool(text.ptr[0] == '1');
            break;
        case 'j':
            ret[n++] = value_json(text);
            break;
        default:
            ret[n++] = VALUE_OF_NULL;
        }
        s = *end == ',' ? end + 1 : end;
    }
    return n;
}

#endif
