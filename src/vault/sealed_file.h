/* A file of bytes under a key of its own: what is written, read anywhere, and refused when one bit of it is
 * not what was written. Consolidated rows (Parquet) and content in files are kept like this.
 *
 *   header: "KDBS" | u16 version | u16 0 | u32 block bytes | u32 0 | 16 bytes file id
 *   blocks: 65,536 bytes of content each, the last one 1 to 65,536 (none of an empty file), each followed by
 *           its 16-byte tag
 *
 * A block is AES-256-GCM, nonce = u64 number | 3 zero bytes | u8 "is the last" (the STREAM construction of
 * Hoang, Reyhanitabar, Rogaway and Vizár, CRYPTO 2015), associated data = header | context. So no block can
 * be changed, left out, moved, or taken from another file or another version of this one, and no file can be
 * cut. `context` is the caller's: whose file it is, and its name. The AES key is HKDF-SHA256(file key, file
 * id); the id is drawn for each writing, so that no (key, nonce) comes twice even for a caller who writes
 * twice under one file key.
 *
 * Threading: a writer or reader belongs to one thread at a time. Ownership: descriptors are borrowed; keys
 * are copied, and wiped with the reader or writer. Positions of descriptors are not used by readers (pread).
 */
#ifndef KALAMDB_VAULT_SEALED_FILE_H
#define KALAMDB_VAULT_SEALED_FILE_H

#include "os/os.h"

#define SEALED_KEY_BYTES 32
#define SEALED_HEADER_BYTES 32
#define SEALED_BLOCK_BYTES 65536
#define SEALED_TAG_BYTES 16
#define SEALED_PLAIN_MAX (UINT64_C(1) << 46) /* of one file, bytes; a longer one is refused */

/* Bytes on disk of a file with `plain` bytes of content (at most SEALED_PLAIN_MAX). */
uint64_t sealed_size(uint64_t plain);
/* The other way round; false: no sealed file has this size. */
bool sealed_plain_size(uint64_t sealed, uint64_t *ret_plain);

struct sealed_writer;
/* Writes the header at fd's position. Errors of all three: IO, errno saying why; NO_MEMORY. */
enum err sealed_writer_open(const struct os *os, int fd, const uint8_t key[SEALED_KEY_BYTES],
    struct str context, struct sealed_writer **ret, struct errctx *ec) CHECKED;
enum err sealed_writer_append(struct sealed_writer *w, struct str plain, struct errctx *ec) CHECKED;
/* Writes what is pending as the last block. Without it the file cannot be read. Does not fsync. */
enum err sealed_writer_end(struct sealed_writer *w, struct errctx *ec) CHECKED;
/* Of content so far. */
uint64_t sealed_writer_bytes(const struct sealed_writer *w);
void sealed_writer_free(struct sealed_writer *w); /* NULL allowed */

struct sealed_reader;
/* Checks header, size and last block, so that the size is known to be true. ERR_CORRUPT: not a sealed file,
 * damaged or cut, another file's, or not of this key and context; which of them cannot be told. The internal
 * text names the block; the caller adds whose file it is (err_path). */
enum err sealed_reader_open(int fd, const uint8_t key[SEALED_KEY_BYTES], struct str context,
    struct sealed_reader **ret, struct errctx *ec) CHECKED;
/* Bytes of content. */
uint64_t sealed_reader_size(const struct sealed_reader *r);
/* Up to n bytes from `at`; less only at the end. Every block touched is checked before a byte of it is given:
 * ERR_CORRUPT, IO. The last block read stays in memory, so that reading on in small pieces opens none twice.
 */
enum err sealed_reader_pread(
    struct sealed_reader *r, void *p, size_t n, uint64_t at, size_t *ret_n, struct errctx *ec) CHECKED;
void sealed_reader_close(struct sealed_reader *r); /* NULL allowed */

/* The whole content in a memfd that nobody can change any more (sealed against write, shrink and grow),
 * position 0. Nothing is returned unless every block was good. */
enum err sealed_to_memfd(int fd, const uint8_t key[SEALED_KEY_BYTES], struct str context, const char *name,
    int *ret_fd, struct errctx *ec) CHECKED;
/* Seals the first `size` bytes of plain_fd (pread) into fd, end included. */
enum err sealed_from_fd(const struct os *os, int plain_fd, uint64_t size, int fd,
    const uint8_t key[SEALED_KEY_BYTES], struct str context, struct errctx *ec) CHECKED;

#endif
