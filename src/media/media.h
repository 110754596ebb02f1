/* What a file is, by its bytes and never by its name: type and extension by magic numbers, width and height
 * of images by their headers.
 *
 * Bytes come from anybody: every read is bounded and checked; nothing is decoded, there are no thumbnails.
 * Pure functions, any thread. */
#ifndef KALAMDB_MEDIA_MEDIA_H
#define KALAMDB_MEDIA_MEDIA_H

#include "base/str.h"

/* So many first bytes decide. */
#define MEDIA_HEAD_BYTES 4096

struct media_type {
    const char *extension;    /* "png" */
    const char *content_type; /* "image/png" */
};
/* `head` are the first bytes of the file, MEDIA_HEAD_BYTES or all of a shorter one. UTF-8 text is "txt",
 * "text/plain; charset=utf-8", whatever it says; what nothing matches "bin", "application/octet-stream". */
struct media_type media_sniff(struct str head);

/* A list of types that are accepted, separated by commas: one type ("image/png"), or a star in place of the
 * second half for a whole family. Is each entry well formed? */
bool media_list_valid(struct str list);
/* Is the type (its parameters do not count) in the list? An empty list holds all. */
bool media_list_holds(struct str list, struct str content_type);

struct media_source {
    /* Fills p with n bytes from the offset on; fewer at the end. Bytes read, or negative. */
    int64_t (*read)(void *arg, uint64_t offset, void *p, size_t n);
    void *arg;
};
/* Width and height as the header says them: PNG, JPEG, GIF, WebP, BMP. False: no such image, or damaged.
 * Reads at most MEDIA_SEGMENTS_MAX pieces of a few bytes. */
#define MEDIA_SEGMENTS_MAX 1024
bool media_dimensions(
    struct media_type type, const struct media_source *source, uint32_t *ret_width, uint32_t *ret_height);

#endif
