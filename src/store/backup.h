/* Backups of the whole store into a directory of their own, while it runs, and the way back.
 *
 *   <dir>/kalamdb-backup          what this directory is
 *   <dir>/hot/                    RocksDB's own incremental backups of the hot tier, checksummed
 *   <dir>/files/ab/abcd…          Parquet and content files by their SHA-256, each once
 *   <dir>/generations/00000007    one list per generation: which backup of the hot tier, which files
 *
 * A generation exists when its list does: it is written last and ends with its own SHA-256. Files are taken
 * under a pin that was entered before the hot tier's backup, so everything that the backed-up state names is
 * there; what is copied beyond (files that came later) is set aside when the restored store is opened.
 *
 * Threading: any thread but the committer; blocks. One backup of a directory at a time (a lock file). */
#ifndef KALAMDB_STORE_BACKUP_H
#define KALAMDB_STORE_BACKUP_H

#include "store/store.h"
#include "vault/vault.h"

#define BACKUP_PATH_MAX 1024 /* bytes of a file's path below the data directory */

struct backup_file {
    struct str path; /* relative to the data directory */
    char sha256[65];
    uint64_t bytes;
    int64_t mtime_ns;
};

/* One generation as its list has it. Owns its memory. */
struct backup_list {
    uint32_t generation;
    int64_t created_us;
    uint32_t hot; /* RocksDB's number of the hot tier's backup */
    bool sealed;  /* with this ring: */
    uint8_t ring[VAULT_RING_ID_BYTES];
    size_t nfiles, cap;
    struct backup_file *files; /* by path */
    struct arena arena;
};
void backup_list_init(struct backup_list *l);
void backup_list_release(struct backup_list *l);
enum err backup_list_add(struct backup_list *l, const struct backup_file *f, struct errctx *ec) CHECKED;
/* Sorts; NULL: not there. */
void backup_list_sort(struct backup_list *l);
const struct backup_file *backup_list_find(const struct backup_list *l, struct str path);
uint64_t backup_list_bytes(const struct backup_list *l);
void backup_list_encode(const struct backup_list *l, struct buf *b);
/* Checks the closing hash, and that every path stays below the data directory. CORRUPT, with a message. */
enum err backup_list_decode(struct str text, struct backup_list *ret, struct errctx *ec) CHECKED;

/* The numbers of all generations, ascending, of a heap array. NOT_FOUND: dir is no backup directory. */
enum err backup_generations(const char *dir, uint32_t **ret, size_t *ret_n, struct errctx *ec) CHECKED;
/* NOT_FOUND, CORRUPT, IO. */
enum err backup_read(
    const char *dir, uint32_t generation, struct backup_list *ret, struct errctx *ec) CHECKED;

struct backup_report {
    uint32_t generation;
    uint64_t files, bytes;               /* Parquet and content files of the generation */
    uint64_t files_copied, bytes_copied; /* of these, those that the directory did not have */
    uint64_t hot_bytes;                  /* of the hot tier's backup */
    uint32_t removed;                    /* older generations */
    bool sealed;
};
/* May it be a backup directory, without looking into it? INVALID_REQUEST: it lies in the data directory. */
enum err store_backup_check(const struct store *s, const char *dir, struct errctx *ec) CHECKED;
/* Where the path leads, or would: its nearest ancestor that is there. Heap; NULL with errno. */
char *backup_nearest(const char *path);
/* Where keys are kept unless somebody says otherwise: "DIR.keys", beside the backup. Heap; NULL: no memory.
 */
char *backup_keys_default(const char *dir);
/* Makes a generation; with keep > 0, removes all but the newest `keep` and what only they named. Messages are
 * for operators. INVALID_REQUEST: the directory is not to be used; CONFLICT: another backup is at it. */
enum err store_backup(
    struct store *s, const char *dir, int keep, struct backup_report *ret, struct errctx *ec) CHECKED;

/* Writes generation `generation` (0: the newest) into `data`, an empty or absent directory, checking every
 * checksum. Until it is whole, a mark keeps servers from opening it. Feeds get other names, so that clients
 * ask for everything anew. Where it is sealed the ring's copy in `keys` (NULL: beside the
 * backup) goes with it; ret->sealed says so. INVALID_REQUEST before anything is written: there is none, or
 * another's. */
enum err store_restore(const struct os *os, const char *dir, uint32_t generation, const char *data,
    const char *keys, struct backup_report *ret, struct errctx *ec) CHECKED;

/* The mark, below the private folder. */
#define RESTORING_MARK "restoring"
#define RESTORED_MARK "restored" /* until what was erased since the backup is erased again */

#endif
