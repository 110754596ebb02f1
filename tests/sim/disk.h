/* A disk that loses power and fails on command, for everything in one process: RocksDB too, whose C API
 * offers no Env, because libc's file calls are defined here (disk_calls.c) and a definition in the executable
 * wins over libc's in every shared library. Link sim_disk whole into a test executable built with -rdynamic
 * (`dep_sim_disk` in tests/sim/meson.build does both); the tree below one folder, the root, is then watched.
 *
 *   visible   what the real folder holds, and what every call sees
 *   safe      what a power loss cannot take: the bytes of a file as of its last fsync, the names in a folder
 *             as of its last fsync (also fdatasync; a real fsync is never made, so tests run fast). A rename
 *             is one step: fsync of either folder makes it safe whole. The fsync of a file does not save its
 *             name, nor that of a folder the folder's own name: both as POSIX has it, stricter than ext4.
 *
 * After a failed fsync the bytes that were waiting for it are as on Linux: seen by readers, and never written
 * by a later fsync (their place keeps what it had, or zeros).
 *
 * Outside the model: bytes that go through stdio's own buffers or a shared writable mapping (RocksDB does
 * neither here but for its information log, which is off); what other processes write into descriptors that
 * they were handed is found when we fsync the file. Stale blocks of other files in an unsynced tail.
 *
 * Threading: every function from any thread; one lock over the model. Nothing here is for production code. */
#ifndef KALAMDB_TESTS_SIM_DISK_H
#define KALAMDB_TESTS_SIM_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Begins to watch an existing folder; all that stands in it is safe. One at a time. */
void disk_attach(const char *root);
/* Ends it; the folder stays as it is seen. Faults are cleared, the power is on. */
void disk_detach(void);

/* ---- faults -------------------------------------------------------------------------------------------- */

enum disk_call {
    DISK_OPEN,     /* open, openat, creat, fopen, opendir: below the root */
    DISK_READ,     /* read, pread, readv … of files below the root */
    DISK_WRITE,    /* write, pwrite, writev … */
    DISK_SYNC,     /* fsync, fdatasync, of files and folders */
    DISK_RENAME,   /* rename, renameat */
    DISK_UNLINK,   /* unlink, unlinkat, rmdir, remove */
    DISK_MKDIR,    /* mkdir, mkdirat */
    DISK_TRUNCATE, /* ftruncate, truncate, fallocate, posix_fallocate */
    DISK_LINK,     /* link, linkat */
    DISK_MMAP,     /* mmap of a file, also of a memfd, wherever it is; memfd_create */
    DISK_SOCKET,   /* socket, socketpair, accept, connect, sendmsg, recvmsg: no path */
    DISK_ALLOC, /* malloc, calloc, realloc, strdup … called by our own objects (disk_alloc.c): no path. The
                   C++ of RocksDB and DuckDB ends the process when it runs out, so it is not covered. */
    DISK_NCALLS
};

struct disk_fault {
    enum disk_call call;
    uint64_t nth;     /* from now on; 1: the next one */
    uint64_t times;   /* so many from the nth on; 0: all that follow */
    int error;        /* errno of the call (EIO, ENOSPC, ENOMEM, EINTR, EMFILE …); 0: it goes well */
    bool short_bytes; /* reads and writes: instead of failing, about half of the bytes */
    unsigned delay_us;
    const char *path; /* only where the path contains this; copied; NULL: all */
    bool this_thread; /* only calls of the thread that adds it */
};
/* Several may stand at once; the first that matches with an error decides. Returns a number for the two
 * below. */
int disk_fault_add(const struct disk_fault *f);
/* Calls that matched since, and how many of them failed (or were short, or slow). */
uint64_t disk_fault_seen(int fault);
uint64_t disk_fault_hits(int fault);
void disk_faults_clear(void);

/* Asked before each call that no fault decided: 0, or the errno to fail with. For random faults by one's own
 * generator, simulated time in fsync … Runs under the model's lock: it makes no file calls. NULL: none.
 * `path` is relative to the root, "" where there is none. DISK_ALLOC does not ask. */
void disk_set_hook(int (*hook)(void *arg, enum disk_call call, const char *path), void *arg);

/* Calls of a kind below the root since disk_attach (DISK_ALLOC, DISK_SOCKET: of the process). */
uint64_t disk_calls(enum disk_call call);

/* ---- power --------------------------------------------------------------------------------------------- */

/* From here on every call that would change the tree fails with EIO, so that the store, which knows nothing
 * of it, can be closed for its memory and threads' sake without touching what stands on the disk. */
void disk_power_off(void);

enum disk_loss {
    LOSS_BY_SEED, /* one of the three by seed, mostly mixed */
    LOSS_ALL,     /* nothing that was not synced survives */
    LOSS_NONE,    /* all that was written survives, as after SIGKILL */
    LOSS_MIXED    /* names: those of the first operations, of all or of each folder; files cut at any byte;
                     changed    sectors of 512 bytes old or new (beyond the old end: zeros or new) */
};
struct disk_report {
    size_t files;      /* in the state that was made */
    size_t files_lost; /* with bytes that were seen and are not there */
    size_t files_torn; /* of these: neither as synced nor as seen */
    size_t names_lost; /* creations, renames and removals undone */
    uint64_t bytes_lost;
};
/* Makes the root what a power loss at disk_power_off could have left; that is visible and safe now. Close
 * every descriptor below the root before. The same calls and the same seed give the same state. */
void disk_power_on(uint64_t seed, enum disk_loss loss, struct disk_report *ret);
/* Both, for where nothing has the tree open (its process was killed, or only files were written). */
void disk_crash(uint64_t seed, enum disk_loss loss, struct disk_report *ret);

/* Flips one bit of a file, seen and safe: rot. False: no such byte. */
bool disk_rot(const char *path, uint64_t offset, unsigned bit);

/* Is something of the tree not safe? With a buffer: names the first such path, for messages. */
bool disk_unsafe(char *ret_path, size_t size);

#endif
