/* Uploaded files: type by magic numbers, dimensions by headers. Reads stay inside what there is, and what
 * they give is in range. */
#include "media/media.h"
#include <stdlib.h>

static int64_t read_input(void *arg, uint64_t offset, void *p, size_t n)
{
    const struct str *in = arg;
    if (offset >= in->len)
        return 0;
    n = n < in->len - offset ? n : (size_t)(in->len - offset);
    memcpy(p, in->ptr + offset, n);
    return (int64_t)n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str in = str_n((const char *)data, size);
    struct media_type type = media_sniff(str_n(in.ptr, size < MEDIA_HEAD_BYTES ? size : MEDIA_HEAD_BYTES));
    struct media_source source = {read_input, &in};
    uint32_t width = 0, height = 0;
    if (type.extension == NULL || type.content_type == NULL)
        abort();
    bool known = media_dimensions(type, &source, &width, &height);
    if (known ? width == 0 || height == 0 || width > INT32_MAX || height > INT32_MAX : width != 0)
        abort();
    return 0;
}
