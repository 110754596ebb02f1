/* Records of groups and their members from a disk nobody vouches for: what decodes survives a round trip. */
#include "store/internal.h"
#include <stdlib.h>

static void check(bool ok)
{
    if (!ok)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct str bytes = str_n((const char *)data, n);
    struct buf first = BUF_INIT(0), second = BUF_INIT(0);
    struct group g;
    struct member m;
    uint64_t group_no;
    bool present;
    if (group_decode(bytes, 1, &g) == ERR_OK) {
        group_encode(&first, &g);
        check(group_decode(buf_view(&first), 1, &g) == ERR_OK);
        group_encode(&second, &g);
        check(str_eq(buf_view(&first), buf_view(&second)));
    }
    buf_clear(&first);
    buf_clear(&second);
    if (member_entry_decode(bytes, &m) == ERR_OK) {
        member_entry_encode(&first, &m);
        check(member_entry_decode(buf_view(&first), &m) == ERR_OK);
        member_entry_encode(&second, &m);
        check(str_eq(buf_view(&first), buf_view(&second)));
    }
    buf_clear(&first);
    if (membership_get(bytes, &group_no, &present) == ERR_OK) {
        membership_encode(&first, group_no, present, bytes);
        check(membership_get(buf_view(&first), &group_no, &present) == ERR_OK);
    }
    buf_release(&first);
    buf_release(&second);
    return 0;
}
