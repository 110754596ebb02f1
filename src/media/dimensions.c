/* Width and height, from the headers alone.
 *
 *   PNG   IHDR right behind the signature (W3C PNG, 11.2.2)
 *   GIF   logical screen descriptor (GIF89a, 18)
 *   JPEG  segments up to the frame header SOFn (ITU T.81, B.2.2)
 *   WebP  VP8X canvas, VP8 frame tag (RFC 6386, 9.1), VP8L header
 *   BMP   BITMAPCOREHEADER or BITMAPINFOHEADER */
#include "base/buf.h"
#include "media/media.h"

struct size {
    uint64_t width, height;
};

static bool get(const struct media_source *s, uint64_t offset, unsigned char *p, size_t n)
{
    return s->read(s->arg, offset, p, n) == (int64_t)n;
}

static unsigned le16(const unsigned char *p)
{
    return (unsigned)(p[0] | p[1] << 8);
}

static uint32_t le24(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16;
}

static uint32_t le32(const unsigned char *p)
{
    return le24(p) | (uint32_t)p[3] << 24;
}

static bool png(const struct media_source *s, struct size *ret)
{
    unsigned char p[24];
    if (!get(s, 0, p, sizeof p) || memcmp(p + 12, "IHDR", 4) != 0)
        return false;
    *ret = (struct size){get_be32(p + 16), get_be32(p + 20)};
    return true;
}

static bool gif(const struct media_source *s, struct size *ret)
{
    unsigned char p[10];
    if (!get(s, 0, p, sizeof p))
        return false;
    *ret = (struct size){le16(p + 6), le16(p + 8)};
    return true;
}

static bool jpeg(const struct media_source *s, struct size *ret)
{
    uint64_t at = 2;
    for (int i = 0; i < MEDIA_SEGMENTS_MAX; i++) {
        unsigned char p[9];
        if (!get(s, at, p, 4) || p[0] != 0xff)
            return false;
        unsigned marker = p[1];
        if (marker == 0xff) { /* fill */
            at++;
            continue;
        }
        if (marker == 0x01 || (marker >= 0xd0 && marker <= 0xd8)) { /* without a length */
            at += 2;
            continue;
        }
        bool frame = marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc;
        if (frame) {
            if (!get(s, at, p, sizeof p))
                return false;
            *ret = (struct size){get_be16(p + 7), get_be16(p + 5)};
            return true;
        }
        unsigned len = get_be16(p + 2);
        if (len < 2 || marker == 0xd9 || marker == 0xda)
            return false;
        at += 2 + (uint64_t)len;
    }
    return false;
}

static bool webp(const struct media_source *s, struct size *ret)
{
    unsigned char p[30];
    if (!get(s, 0, p, 25)) /* a VP8L header ends there; the others are longer */
        return false;
    if (memcmp(p + 12, "VP8L", 4) == 0) {
        if (p[20] != 0x2f)
            return false;
        uint32_t bits = le32(p + 21);
        *ret = (struct size){(bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1};
        return true;
    }
    if (!get(s, 0, p, sizeof p))
        return false;
    if (memcmp(p + 12, "VP8X", 4) == 0) {
        *ret = (struct size){(uint64_t)le24(p + 24) + 1, (uint64_t)le24(p + 27) + 1};
        return true;
    }
    if (memcmp(p + 12, "VP8 ", 4) != 0 || memcmp(p + 23, "\x9d\x01\x2a", 3) != 0)
        return false;
    *ret = (struct size){le16(p + 26) & 0x3fff, le16(p + 28) & 0x3fff};
    return true;
}

static bool bmp(const struct media_source *s, struct size *ret)
{
    unsigned char p[26];
    if (!get(s, 0, p, sizeof p))
        return false;
    if (p[14] == 12) {
        *ret = (struct size){le16(p + 18), le16(p + 20)};
        return true;
    }
    uint32_t height = le32(p + 22); /* negative: rows from the top */
    *ret = (struct size){le32(p + 18), height & UINT32_C(1) << 31 ? (uint64_t)0x100000000 - height : height};
    return true;
}

bool media_dimensions(
    struct media_type type, const struct media_source *source, uint32_t *ret_width, uint32_t *ret_height)
{
    static const struct {
        const char *extension;
        bool (*read)(const struct media_source *s, struct size *ret);
    } readers[] = {{"png", png}, {"jpg", jpeg}, {"gif", gif}, {"webp", webp}, {"bmp", bmp}};
    for (size_t i = 0; i < sizeof readers / sizeof *readers; i++) {
        struct size size;
        if (strcmp(type.extension, readers[i].extension) != 0)
            continue;
        if (!readers[i].read(source, &size) || size.width == 0 || size.height == 0 ||
            size.width > INT32_MAX || size.height > INT32_MAX)
            return false;
        *ret_width = (uint32_t)size.width;
        *ret_height = (uint32_t)size.height;
        return true;
    }
    return false;
}
