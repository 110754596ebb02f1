#include "../test.h"
#include "media/media.h"

struct sample {
    const char *bytes;
    size_t len;
    const char *extension, *content_type;
    uint32_t width, height; /* 0: none */
};
#define S(bytes, ...)                                                                                        \
    {                                                                                                        \
        bytes, sizeof bytes - 1, __VA_ARGS__                                                                 \
    }
#define BMP_HEADER "BM\x46\0\0\0\0\0\0\0\x36\0\0\0"

static const struct sample samples[] = {
    S("\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x02\x80\0\0\x01\xe0\x08\x06\0\0\0", "png", "image/png", 640, 480),
    S("\x89PNG\r\n\x1a\n\0\0\0\rIDAT\0\0\x02\x80\0\0\x01\xe0", "png", "image/png", 0, 0),
    S("GIF89a\x0a\0\x14\0\xf7\0\0", "gif", "image/gif", 10, 20),
    S("GIF87a\x0a\0", "gif", "image/gif", 0, 0),
    /* APP0, a fill byte, DHT (no frame), SOF2 */
    S("\xff\xd8\xff\xe0\0\x04"
      "ab\xff\xff\xc4\0\x03x\xff\xc2\0\x0b\x08\x01\x02\x03\x04\x03",
        "jpg", "image/jpeg", 0x304, 0x102),
    S("\xff\xd8\xff\xda\0\x02\xff\xc0\0\x0b\x08\x01\x02\x03\x04\x03", "jpg", "image/jpeg", 0, 0),
    S("\xff\xd8\xff\xe0\0\x01", "jpg", "image/jpeg", 0, 0),
    S("RIFF\x1a\0\0\0WEBPVP8 \x0e\0\0\0\x10\0\0\x9d\x01\x2a\x20\x03\x58\x82\0\0", "webp", "image/webp", 800,
        600),
    S("RIFF\x1a\0\0\0WEBPVP8L\x0e\0\0\0\x2f\x1f\xc3\x95\0", "webp", "image/webp", 800, 600),
    S("RIFF\x1a\0\0\0WEBPVP8X\x0a\0\0\0\x10\0\0\0\x1f\x03\0\x57\x02\0", "webp", "image/webp", 800, 600),
    S("RIFF\x1a\0\0\0WEBPVP8X\x0a\0\0\0\x10\0\0\0\x1f\x03\0\x57\x02", "webp", "image/webp", 0, 0),
    S(BMP_HEADER "\x28\0\0\0\x03\0\0\0\xfc\xff\xff\xff\x01\0", "bmp", "image/bmp", 3, 4),
    S(BMP_HEADER "\x0c\0\0\0\x05\0\x06\0\x01\0\x18\0", "bmp", "image/bmp", 5, 6),
    S("BMW is a car, and this is a long enough text", "txt", "text/plain; charset=utf-8", 0, 0),
    S("\0\0\0\x1c"
      "ftypmif1\0\0\0\0mif1avifmiaf",
        "avif", "image/avif", 0, 0),
    S("\0\0\0\x18"
      "ftypM4A \0\0\0\0M4A mp42",
        "m4a", "audio/mp4", 0, 0),
    S("\0\0\0\x14"
      "ftypqt  \0\0\0\0qt  ",
        "mov", "video/quicktime", 0, 0),
    S("\0\0\0\x18"
      "ftypisom\0\0\x02\0isomiso2",
        "mp4", "video/mp4", 0, 0),
    S("\0\0\0\x14"
      "ftypnope\0\0\0\0nopeisom",
        "bin", "application/octet-stream", 0, 0),
    S("\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\x82\x84webm\x42\x87", "webm", "video/webm", 0, 0),
    S("\x1a\x45\xdf\xa3\xa3\x42\x82\x88matroska", "mkv", "video/x-matroska", 0, 0),
    S("\x1a\x45\xdf\xa3\xa3\x42\x82\x88matros", "bin", "application/octet-stream", 0, 0),
    S("RIFF\x24\0\0\0WAVEfmt ", "wav", "audio/wav", 0, 0),
    S("RIFF\x24\0\0\0AVI LIST", "bin", "application/octet-stream", 0, 0),
    S("OggS\0\x02", "ogg", "audio/ogg", 0, 0),
    S("fLaC\0\0\0\x22", "flac", "audio/flac", 0, 0),
    S("ID3\x04\0\0", "mp3", "audio/mpeg", 0, 0),
    S("\xff\xfb\x90\x44", "mp3", "audio/mpeg", 0, 0),
    S("\xff\xf1\x50\x80", "aac", "audio/aac", 0, 0),
    S("\xff\xfe"
      "h\0i\0",
        "bin", "application/octet-stream", 0, 0), /* UTF-16 */
    S("%PDF-1.7\n", "pdf", "application/pdf", 0, 0),
    S("PK\x03\x04\x14", "zip", "application/zip", 0, 0),
    S("\x1f\x8b\x08\0", "gz", "application/gzip", 0, 0),
    S("<html><script>alert(1)</script>", "txt", "text/plain; charset=utf-8", 0, 0),
    S("<svg xmlns=\"http://www.w3.org/2000/svg\"/>", "txt", "text/plain; charset=utf-8", 0, 0),
    S("gr\xc3\xbc\xc3\x9f"
      "e\n",
        "txt", "text/plain; charset=utf-8", 0, 0),
    S("gr\xfc\xdf"
      "e\n",
        "bin", "application/octet-stream", 0, 0),
    S("a\0b", "bin", "application/octet-stream", 0, 0),
    S("", "txt", "text/plain; charset=utf-8", 0, 0),
};

static int64_t read_sample(void *arg, uint64_t offset, void *p, size_t n)
{
    const struct sample *s = arg;
    if (offset >= s->len)
        return 0;
    n = n < s->len - offset ? n : s->len - offset;
    memcpy(p, s->bytes + offset, n);
    return (int64_t)n;
}

static void knows_types_and_dimensions(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof samples / sizeof *samples; i++) {
        const struct sample *s = &samples[i];
        struct media_type type = media_sniff(str_n(s->bytes, s->len));
        uint32_t width = 0, height = 0;
        print_message("%zu: %s\n", i, type.content_type);
        assert_string_equal(type.extension, s->extension);
        assert_string_equal(type.content_type, s->content_type);
        struct media_source source = {read_sample, (void *)s};
        assert_int_equal(media_dimensions(type, &source, &width, &height), s->width != 0);
        assert_int_equal(width, s->width);
        assert_int_equal(height, s->height);
    }
}

/* Every header cut at every length: never more than what is there, and no false size from nothing. */
static void a_cut_header_has_no_size(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof samples / sizeof *samples; i++) {
        struct sample s = samples[i];
        struct media_type type = media_sniff(str_n(s.bytes, s.len));
        for (size_t n = 0; n < s.len && n < 10; n++) {
            uint32_t width, height;
            s.len = n;
            struct media_source source = {read_sample, &s};
            assert_false(media_dimensions(type, &source, &width, &height));
            s.len = samples[i].len;
        }
    }
}

/* Segments without an end: the reader gives up. */
static int64_t read_endless(void *arg, uint64_t offset, void *p, size_t n)
{
    (void)offset;
    ++*(int *)arg;
    static const unsigned char segment[] = {0xff, 0xe1, 0, 2, 0xff, 0xe1, 0, 2, 0};
    memcpy(p, segment, n);
    return (int64_t)n;
}

static void an_endless_jpeg_ends(void **state)
{
    (void)state;
    int reads = 0;
    uint32_t width, height;
    struct media_source source = {read_endless, &reads};
    assert_false(media_dimensions((struct media_type){"jpg", "image/jpeg"}, &source, &width, &height));
    assert_int_equal(reads, MEDIA_SEGMENTS_MAX);
}

/* A character that the head cuts does not make a text binary. */
static void a_long_text_is_text(void **state)
{
    (void)state;
    char head[MEDIA_HEAD_BYTES];
    memset(head, 'a', sizeof head);
    memcpy(head + sizeof head - 2, "\xe2\x82", 2);
    assert_string_equal(media_sniff(str_n(head, sizeof head)).extension, "txt");
    head[100] = '\x01';
    assert_string_equal(media_sniff(str_n(head, sizeof head)).extension, "bin");
}

static void lists_of_types(void **state)
{
    (void)state;
    static const char *const valid[] = {
        "", " ", "image/png", "image/*, video/mp4", "application/vnd.ms-x+xml"};
    static const char *const bad[] = {"image", "image/", "/png", "*/*", "image/png,", ",image/png",
        "image/p*", "Image/PNG", "a/b/c", "a b/c", "image/png;q=1"};
    for (size_t i = 0; i < sizeof valid / sizeof *valid; i++)
        assert_true(media_list_valid(str_c(valid[i])));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(media_list_valid(str_c(bad[i])));
    assert_true(media_list_valid(STR_NULL));
    assert_true(media_list_holds(STR_NULL, STR("image/png")));
    assert_true(media_list_holds(STR(" image/png , text/plain"), STR("text/plain; charset=utf-8")));
    assert_true(media_list_holds(STR("image/*,video/mp4"), STR("image/webp")));
    assert_true(media_list_holds(STR("image/*,video/mp4"), STR("video/mp4")));
    assert_false(media_list_holds(STR("image/*,video/mp4"), STR("video/webm")));
    assert_false(media_list_holds(STR("image/*"), STR("imagery/png")));
    assert_false(media_list_holds(STR("image/png"), STR("image/png2")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(knows_types_and_dimensions),
        cmocka_unit_test(a_cut_header_has_no_size), cmocka_unit_test(an_endless_jpeg_ends),
        cmocka_unit_test(a_long_text_is_text), cmocka_unit_test(lists_of_types)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
