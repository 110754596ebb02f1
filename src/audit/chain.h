/* What the writer and the checker share: lines, hashes, names of files. Pure, but for audit_files. */
#ifndef KALAMDB_AUDIT_CHAIN_H
#define KALAMDB_AUDIT_CHAIN_H

#include "audit/audit.h"

#define HASH_BYTES 32
/* `,"hash":"<64>"}` */
#define HASH_MEMBER_BYTES (9 + 64 + 2)

/* A line without its line feed, taken apart. */
struct audit_line {
    struct str body; /* what is hashed */
    uint64_t n;
    uint8_t hash[HASH_BYTES];
    bool begins; /* the first of a file */
    uint8_t prev[HASH_BYTES];
};
/* False: it is none. */
bool audit_line_read(struct str line, struct audit_line *ret);
void audit_line_hash(const uint8_t prev[HASH_BYTES], struct str body, uint8_t ret[HASH_BYTES]);
/* Appends `,"hash":"…"}` and the line feed to a body that begins at `from`, and moves *chain on. */
void audit_line_close(struct buf *b, size_t from, uint8_t chain[HASH_BYTES]);
void audit_hex(const uint8_t hash[HASH_BYTES], char ret[65]);

/* The n that each file of the folder begins with, ascending; heap. NOT_FOUND: no such folder. */
enum err audit_files(const char *dir, uint64_t **ret, size_t *ret_n, struct errctx *ec) CHECKED;
/* audit_read, of lines up to `last`. */
enum err audit_read_dir(const char *dir, uint64_t after, uint64_t last, int max, struct buf *ret, int *ret_n,
    struct errctx *ec) CHECKED;
/* The path; NULL: out of memory. */
char *audit_path(const char *dir, uint64_t first);

#endif
