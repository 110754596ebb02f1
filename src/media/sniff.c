/* Magic numbers, as file(1) and the WHATWG's MIME Sniffing have them. */
#include "base/buf.h"
#include "media/media.h"

struct magic {
    struct str bytes;
    struct media_type type;
};
#define MAGIC(bytes, extension, type)                                                                        \
    {                                                                                                        \
        {bytes, sizeof bytes - 1},                                                                           \
        {                                                                                                    \
            extension, type                                                                                  \
        }                                                                                                    \
    }
static const struct magic magics[] = {
    MAGIC("\x89PNG\r\n\x1a\n", "png", "image/png"),
    MAGIC("\xff\xd8\xff", "jpg", "image/jpeg"),
    MAGIC("GIF87a", "gif", "image/gif"),
    MAGIC("GIF89a", "gif", "image/gif"),
    MAGIC("ID3", "mp3", "audio/mpeg"),
    MAGIC("OggS", "ogg", "audio/ogg"),
    MAGIC("fLaC", "flac", "audio/flac"),
    MAGIC("%PDF-", "pdf", "application/pdf"),
    MAGIC("PK\x03\x04", "zip", "application/zip"),
    MAGIC("PK\x05\x06", "zip", "application/zip"),
    MAGIC("PK\x07\x08", "zip", "application/zip"),
    MAGIC("\x1f\x8b\x08", "gz", "application/gzip"),
};

static bool at(struct str head, size_t offset, struct str bytes)
{
    return head.len >= offset + bytes.len && memcmp(head.ptr + offset, bytes.ptr, bytes.len) == 0;
}

/* ISO base media (ISO/IEC 14496-12, 4.3): size, "ftyp", major brand, version, compatible brands. */
static bool brand(struct str head, struct media_type *ret)
{
    static const struct magic brands[] = {
        MAGIC("avif", "avif", "image/avif"),
        MAGIC("avis", "avif", "image/avif"),
        MAGIC("M4A ", "m4a", "audio/mp4"),
        MAGIC("M4B ", "m4a", "audio/mp4"),
        MAGIC("qt  ", "mov", "video/quicktime"),
        MAGIC("isom", "mp4", "video/mp4"),
        MAGIC("iso2", "mp4", "video/mp4"),
        MAGIC("iso4", "mp4", "video/mp4"),
        MAGIC("iso5", "mp4", "video/mp4"),
        MAGIC("iso6", "mp4", "video/mp4"),
        MAGIC("mp41", "mp4", "video/mp4"),
        MAGIC("mp42", "mp4", "video/mp4"),
        MAGIC("avc1", "mp4", "video/mp4"),
        MAGIC("M4V ", "mp4", "video/mp4"),
        MAGIC("dash", "mp4", "video/mp4"),
    };
    if (!at(head, 4, STR("ftyp")) || head.len < 16)
        return false;
    size_t size = get_be32(head.ptr);
    size = size < head.len ? size : head.len;
    /* The major brand first, then those it is compatible with. */
    for (size_t offset = 8; offset + 4 <= size; offset += offset == 8 ? 8 : 4) {
        for (size_t i = 0; i < sizeof brands / sizeof *brands; i++) {
            if (at(head, offset, brands[i].bytes)) {
                *ret = brands[i].type;
                return true;
            }
        }
    }
    return false;
}

/* EBML (RFC 8794): the DocType element, 0x4282, of the header. */
static bool matroska(struct str head, struct media_type *ret)
{
    if (!at(head, 0, STR("\x1a\x45\xdf\xa3")))
        return false;
    for (size_t i = 4; i + 3 < head.len && i < 256; i++) {
        if (!at(head, i, STR("\x42\x82")))
            continue;
        size_t len = (unsigned char)head.ptr[i + 2] & 0x7f;
        if (len == 4 && at(head, i + 3, STR("webm"))) {
            *ret = (struct media_type){"webm", "video/webm"};
            return true;
        }
        if (len == 8 && at(head, i + 3, STR("matroska"))) {
            *ret = (struct media_type){"mkv", "video/x-matroska"};
            return true;
        }
    }
    return false;
}

static bool riff(struct str head, struct media_type *ret)
{
    if (!at(head, 0, STR("RIFF")))
        return false;
    if (at(head, 8, STR("WEBP")))
        *ret = (struct media_type){"webp", "image/webp"};
    else if (at(head, 8, STR("WAVE")))
        *ret = (struct media_type){"wav", "audio/wav"};
    else
        return false;
    return true;
}

/* "BM" alone begins many texts: the size of the second header decides. */
static bool bmp(struct str head, struct media_type *ret)
{
    if (!at(head, 0, STR("BM")) || head.len < 26)
        return false;
    const unsigned char *p = (const unsigned char *)head.ptr + 14;
    if (p[1] != 0 || p[2] != 0 || p[3] != 0 ||
        (p[0] != 12 && p[0] != 40 && p[0] != 52 && p[0] != 56 && p[0] != 64 && p[0] != 108 && p[0] != 124))
        return false;
    *ret = (struct media_type){"bmp", "image/bmp"};
    return true;
}

/* A frame of MPEG audio without an ID3 tag before it (ISO/IEC 11172-3, 2.4.1.3), or of ADTS (14496-3). */
static bool mpeg_frame(struct str head, struct media_type *ret)
{
    if (head.len < 4 || (unsigned char)head.ptr[0] != 0xff)
        return false;
    unsigned b1 = (unsigned char)head.ptr[1], b2 = (unsigned char)head.ptr[2];
    if ((b1 & 0xf6) == 0xf0 && (b2 >> 2 & 15) < 13) {
        *ret = (struct media_type){"aac", "audio/aac"};
        return true;
    }
    if ((b1 & 0xe0) != 0xe0 || (b1 >> 3 & 3) == 1 || (b1 >> 1 & 3) != 1 || b2 >> 4 == 15 || b2 >> 4 == 0 ||
        (b2 >> 2 & 3) == 3)
        return false;
    *ret = (struct media_type){"mp3", "audio/mpeg"};
    return true;
}

static bool text(struct str head)
{
    if (head.len == MEDIA_HEAD_BYTES) /* the last character may be cut */
        head.len = utf8_cut(head, head.len - 1);
    for (size_t i = 0; i < head.len; i++) {
        unsigned char c = (unsigned char)head.ptr[i];
        if ((c < 0x20 && c != '\t' && c != '\n' && c != '\r' && c != '\f' && c != 0x1b) || c == 0x7f)
            return false;
    }
    return utf8_valid(head);
}

struct media_type media_sniff(struct str head)
{
    struct media_type type;
    for (size_t i = 0; i < sizeof magics / sizeof *magics; i++) {
        if (at(head, 0, magics[i].bytes))
            return magics[i].type;
    }
    if (riff(head, &type) || brand(head, &type) || matroska(head, &type) || bmp(head, &type) ||
        mpeg_frame(head, &type))
        return type;
    if (text(head))
        return (struct media_type){"txt", "text/plain; charset=utf-8"};
    return (struct media_type){"bin", "application/octet-stream"};
}
