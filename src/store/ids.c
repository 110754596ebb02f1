#include "store/ids.h"
#include "base/plant.h"

static int64_t from_clock(int64_t now_us)
{
    int64_t ms = now_us / 1000 - IDS_EPOCH_MS;
    if (ms <= 0)
        return 0;
    return ms > IDS_MAX >> IDS_SEQUENCE_BITS ? IDS_MAX : ms << IDS_SEQUENCE_BITS;
}

int64_t ids_next(struct ids *ids, int64_t now_us)
{
    int64_t id = from_clock(now_us);
    if (id <= ids->last && !(PLANT(ID_BACKWARDS) && ids->last - id > INT64_C(4096000)))
        id = ids->last + 1;
    if (id > IDS_MAX)
        id = IDS_MAX;
    ids->last = id;
    return id;
}

void ids_leap(struct ids *ids, int64_t window_ms)
{
    enum { MARGIN_MS = 1000 };
    int64_t leap = (2 * window_ms + MARGIN_MS) << IDS_SEQUENCE_BITS;
    ids->last = ids->last > IDS_MAX - leap ? IDS_MAX : ids->last + leap;
}

int64_t ids_current(struct ids *ids, int64_t now_us)
{
    int64_t id = from_clock(now_us);
    if (id > ids->last)
        ids->last = id;
    return ids->last;
}
