/* Bugs planted on purpose, to see that the simulator (tests/sim) finds them. `if (PLANT(name))` is constantly
 * false, and so compiled away, but in a build with -Dplants=true, which is for that one program. */
#ifndef KALAMDB_BASE_PLANT_H
#define KALAMDB_BASE_PLANT_H

#include <stdbool.h>

#define PLANTS(X)                                                                                            \
    X(LOST_FSYNC, "lost-fsync")                           /* a batch is acknowledged, never synced */        \
    X(ACK_BEFORE_FSYNC, "ack-before-fsync")               /* the answer goes out, then comes the fsync */    \
    X(PUBLISH_BEFORE_FSYNC, "publish-before-fsync")       /* subscribers see what a crash takes back */      \
    X(REPLAY_JOIN, "replay-join")                         /* off by one where replay meets live */           \
    X(MANIFEST_BEFORE_FILE, "manifest-before-file")       /* named before its bytes are durable */           \
    X(COUNT_AFTER_ROW, "count-after-row")                 /* reference counts lag behind rows */             \
    X(RELEASE_BEFORE_MANIFEST, "release-before-manifest") /* hot rows go in a commit before the file's */    \
    X(SEQ_REUSED, "seq-reused")                           /* heads survive a failed commit */                \
    X(GROUP_COPY_MISSING, "group-copy-missing")           /* one member gets no copy */                      \
    X(TOMBSTONE_FORGOTTEN, "tombstone-forgotten")         /* a merge brings deleted rows back */             \
    X(UNREAD_NOT_UNDONE, "unread-not-undone")             /* deleting an unread message leaves the count */  \
    X(ID_BACKWARDS, "id-backwards")                       /* ids follow the clock back */                    \
    X(RING_SKIPS, "ring-skips")                           /* a subscriber too far behind is moved on */      \
    X(STREAM_ACK_EARLY, "stream-ack-early")               /* appends are acknowledged before the flush */    \
    X(FOLDER_NOT_SYNCED, "folder-not-synced")             /* a rename that a crash undoes */                 \
    X(ERASED_ROW_STAYS, "erased-row-stays")               /* an erased user's row is there again */

enum plant {
    PLANT_NONE,
#define X(id, name) PLANT_##id,
    PLANTS(X)
#undef X
};

#ifdef KALAMDB_PLANTS
extern enum plant plant_chosen;
#define PLANT(id) (plant_chosen == PLANT_##id)
#else
#define PLANT(id) false
#endif

#endif
