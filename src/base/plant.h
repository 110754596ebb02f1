/* Bugs planted on purpose, to see that the simulator (tests/sim) finds them. `if (PLANT(name))` is constantly
 * false, and so compiled away, but in a build with -Dplants=true, which is for that one program. */
#ifndef KALAMDB_BASE_PLANT_H
#define KALAMDB_BASE_PLANT_H

#include <stdbool.h>

#define PLANTS(X)                                                                                            \
    X(LOST_FSYNC, "lost-fsync")                     /* a batch is acknowledged, and never synced */          \
    X(ACK_BEFORE_FSYNC, "ack-before-fsync")         /* the answer goes out, then comes the fsync */          \
    X(PUBLISH_BEFORE_FSYNC, "publish-before-fsync") /* subscribers see what a crash takes back */            \
    X(SEQ_REUSED, "seq-reused")                     /* heads in memory survive a failed commit */            \
    X(ID_BACKWARDS, "id-backwards")                 /* ids follow the clock back */                          \
    X(CLIENT_ID_LOST, "client-id-lost")             /* a retry in an own conversation is stored again */     \
    X(GROUP_COPY_MISSING, "group-copy-missing")     /* one member gets no copy */                            \
    X(UNREAD_NOT_UNDONE, "unread-not-undone")       /* deleting an unread message leaves the count */        \
    X(COUNT_LOST, "count-lost")                     /* an edit of content in a file forgets to count it */   \
    X(MANIFEST_BEFORE_FILE,                                                                                  \
        "manifest-before-file")               /* a Parquet file is named before its bytes are durable */     \
    X(FOLDER_NOT_SYNCED, "folder-not-synced") /* its rename can be undone by a crash */                      \
    X(REPLACED_GO_EARLY, "replaced-go-early") /* merged files go before the manifest that replaces them */   \
    X(TOMBSTONE_FORGOTTEN, "tombstone-forgotten") /* a merge brings deleted rows back */                     \
    X(REPLAY_JOIN, "replay-join")                 /* off by one where replay meets live */                   \
    X(RING_SKIPS, "ring-skips")                   /* a subscriber that fell behind is moved to the end */    \
    X(STREAM_ACK_EARLY, "stream-ack-early")       /* appends are acknowledged and never flushed */

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
