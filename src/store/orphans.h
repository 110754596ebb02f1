/* The data directory against the catalog. Files of our own naming that no manifest names are set aside at
 * open and removed after a week. Foreign files are left alone.
 *
 * Threading: open runs before the first commit; purge any thread that holds up consolidation. */
#ifndef KALAMDB_STORE_ORPHANS_H
#define KALAMDB_STORE_ORPHANS_H

#include "store/store.h"

#define ORPHAN_AGE_S (7 * 24 * 3600)

/* batch-….parquet[.enc], or a temporary of it (….parquet.tmp), or a blob? */
bool orphan_name_ours(struct str name);
/* msg-<id>.bin or media-<id>.<ext>? */
bool orphan_name_blob(struct str name);
/* Moves a file out of a folder below the data directory. */
enum err orphan_set_aside(struct store *s, struct str folder, struct str name, struct errctx *ec) CHECKED;
/* Removes temporaries of uploads that nobody works on and that were last written at that time or before. */
enum err orphans_uploads(struct store *s, int64_t older_than_s, uint64_t *removed, struct errctx *ec) CHECKED;
/* INVALID_REQUEST when the catalog has no user but folders hold our files. Moves what is not named to
 * <data>/.kalamdb/orphans/<folder>/ (shared.<conversation> of a shared one), removes all uploads, unlinks
 * what a manifest lists as garbage, removes old orphans. */
enum err orphans_open(struct store *s, struct errctx *ec) CHECKED;
/* Removes what was set aside from one user's folder, or from all (user_id.ptr NULL): an asked-for purge
 * leaves no copy. */
enum err orphans_purge(struct store *s, struct str user_id, struct errctx *ec) CHECKED;

/* Calls fn for each folder of the data directory that holds files of ours, with a snapshot of its user (of an
 * unknown one where no user has that folder), which is closed afterwards. An error ends it; CORRUPT, with
 * `pass`, is said in the log and ends only this folder. */
typedef enum err folder_fn(void *arg, const char *folder, struct snapshot *snap, struct errctx *ec);
enum err cold_each_folder(struct store *s, bool pass, folder_fn *fn, void *arg, struct errctx *ec) CHECKED;

/* The same for shared/conversations/…, with a snapshot of nobody. */
enum err shared_each_folder(struct store *s, folder_fn *fn, void *arg, struct errctx *ec) CHECKED;

/* The names of all these folders, of empty ones too. */
enum err shared_each_name(struct store *s, enum err (*fn)(void *arg, const char *folder, struct errctx *ec),
    void *arg, struct errctx *ec) CHECKED;

#endif
