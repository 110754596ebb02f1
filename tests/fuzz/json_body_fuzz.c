/* JSON from clients through the reader of request bodies and WebSocket messages, against the scanner that
 * decides what JSON is: what one takes and the other does not may differ only where the reader is stricter on
 * purpose. */
#include "api/json_in.h"
#include "base/json.h"
#include <stdlib.h>

static void check_item(const struct json_item *item)
{
    if (item->kind == JSON_IS_STRING && !utf8_valid(item->s))
        abort();
    if ((item->kind == JSON_IS_OBJECT || item->kind == JSON_IS_ARRAY) && !json_valid(item->s))
        abort();
}

static bool read_object(struct str text, struct arena *a)
{
    struct json_in in = json_in(text, a);
    struct json_item item;
    struct str key;
    if (!json_in_object(&in))
        return false;
    while (json_in_member(&in, &key)) {
        if (!utf8_valid(key))
            abort();
        if (json_in_peek(&in) == '[' && key.len % 2 == 1) { /* element by element, as params are */
            (void)json_in_array(&in);
            while (json_in_element(&in) && json_in_value(&in, &item))
                check_item(&item);
        } else if (json_in_value(&in, &item)) {
            check_item(&item);
        }
        if (in.why != NULL)
            return false;
    }
    return json_in_end(&in);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena a;
    char *copy = malloc(size > 0 ? size : 1);
    memcpy(copy, data, size);
    struct str text = str_n(copy, size);
    if (utf8_valid(text)) {
        arena_init(&a, 1 << 22);
        if (read_object(text, &a) && !json_valid(text))
            abort();
        arena_clear(&a);
        struct json_in in = json_in(text, &a);
        struct json_item item;
        if (json_in_value(&in, &item) && json_in_end(&in)) {
            check_item(&item);
            if (!json_valid(text))
                abort();
        }
        arena_release(&a);
    }
    free(copy);
    return 0;
}
