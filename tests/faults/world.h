/* A KalamDB on a disk that fails on command (tests/sim/disk.h), and every operation of it in one call that
 * returns a code: what the sweeps of faults and of rot share. */
#ifndef KALAMDB_TESTS_FAULTS_WORLD_H
#define KALAMDB_TESTS_FAULTS_WORLD_H

#include "kalamdb_admin.h"
#include "sim/disk.h"

struct world {
    char root[64];   /* what the disk watches */
    char dir[80];    /* root/data */
    char backup[80]; /* root/backup */
    struct kalamdb_options options;
    struct kalamdb *db;         /* NULL: closed */
    struct kalamdb_error error; /* of the last operation that failed */
};

void world_make(struct world *w);
void world_remove(struct world *w);
kalamdb_code world_open(struct world *w);
void world_close(struct world *w);
/* Power is lost, and comes back; open again. */
void world_lose_power(struct world *w, uint64_t seed);
/* After faults: the store finds out by itself that the disk is well. */
bool world_wait_writable(struct world *w);

kalamdb_code world_sql(struct world *w, const char *as, const char *sql, int64_t *ret_number);
kalamdb_code world_consolidate(struct world *w, const char *user);
kalamdb_code world_upload(struct world *w, const char *user, const char *conversation);
/* Into `path`, outside the root, or nowhere (NULL). */
kalamdb_code world_export(struct world *w, const char *user, const char *path);
kalamdb_code world_import(struct world *w, const char *user, const char *path);
kalamdb_code world_erase(struct world *w, const char *user);
kalamdb_code world_backup(struct world *w);
/* One streamed message of 300 bytes in two appends. */
kalamdb_code world_stream(struct world *w, const char *user, const char *conversation);
/* Descriptors that are open now. */
int world_descriptors(void);

#endif
