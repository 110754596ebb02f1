/* The simulated world: machines that come and go, users, their clients and devices, and the model of what
 * must be true. It lies in shared memory, for each life of the machine, from start to crash or shutdown, is
 * one forked process: what dies there is what would die.
 *
 * Time and randomness: sched.h. One thread runs at a time, so nothing here is locked. */
#ifndef KALAMDB_SIM_WORLD_H
#define KALAMDB_SIM_WORLD_H

#include "kalamdb.h"
#include "kalamdb_admin.h"
#include "scheduler.h"

#define USERS 5
#define CLIENTS 6
#define DEVICES 6
#define AI_CONVS 2 /* of each user */
#define GROUPS 3
#define MESSAGES_MAX 4096
#define SEQS_MAX 16384
#define LIVES_MAX 8
#define ALL_USERS ((1u << USERS) - 1)

/* ---- what the clients did, and what is known of it ---- */

enum fate { UNDECIDED, THERE, NOT_THERE };

/* One message; its number is its tag, which its content begins with: "t<tag> v<version> …". */
struct message {
    enum fate fate;
    int64_t id; /* 0: not known */
    uint8_t sender;
    int8_t group; /* -1: in the sender's own conversation `conv` */
    uint8_t conv;
    bool busy;            /* a client is at it, or its outcome is unknown */
    bool soft;            /* acknowledged without fsync: power loss may take it */
    bool dead;            /* deleted for everyone, or perhaps */
    bool seen;            /* a device was shown it: no crash may take it back */
    bool stream;          /* its text grows; see streams */
    bool large[4];        /* by version & 3: is its content a file? */
    uint8_t batch;        /* rows of its statement that follow it */
    uint32_t must;        /* users who have a copy, if anybody has */
    uint32_t may;         /* users who may have one */
    uint32_t gone;        /* their copy was deleted */
    uint32_t leaving;     /* … is perhaps deleted */
    uint32_t together;    /* of `leaving`: all of them or none */
    uint16_t tried;       /* the newest version that was asked for */
    uint16_t have[USERS]; /* the oldest version that the copy may show */
    uint32_t edit_must;   /* users who get `tried` together, or none of them does; 0: no edit is undecided.
                             Of a stream: those who are sure to get its text */
    uint32_t acked_bytes, sent_bytes; /* of a stream's text */
    bool ended;
};

struct group {
    enum fate fate;
    uint8_t owner;
    bool shared;            /* history */
    uint32_t in, unsettled; /* members; users whose coming or going is undecided */
    uint32_t busy;
};

/* A device's copy of one message. */
struct held {
    uint64_t seq;
    uint16_t version;
    bool there;
    uint32_t bytes;
};

struct device {
    uint8_t user;
    bool has_cursor, resynced;
    uint64_t cursor; /* the last change that arrived */
    char feed[40];
    struct held copy[MESSAGES_MAX];
};

/* What a life that ends in a crash likes to be doing then. */
enum moment {
    ANY_MOMENT,
    IN_FSYNC,      /* before it has an effect */
    WHEN_TOLD,     /* a client has its answer, a device its change: what was behind it must be safe */
    BEHIND_RENAME, /* of one of our own files */
    BEHIND_REMOVAL,
    MOMENTS
};

struct world {
    struct sched_state sched;
    uint64_t seed, rng;
    const char *plant;
    char dir[128];
    int life, lives;
    uint64_t life_points; /* points at its start */
    bool faults;          /* the disk errs now and then */
    bool async;           /* some writes ask for no fsync */
    enum moment moment;
    uint32_t moment_after; /* so many such moments yet; 0: none */
    bool power_lost;       /* the last life ended so */
    bool encrypted;
    bool short_rings; /* slow devices fall out of them, and are served from storage */
    int64_t floor_id; /* the highest id that anybody knows */
    uint32_t nmessages;
    struct message messages[MESSAGES_MAX];
    struct group groups[GROUPS];
    uint64_t log[USERS][SEQS_MAX]; /* what stood at a number, by whoever saw it first */
    uint32_t erased;               /* users who were erased, or perhaps */
    uint32_t erasing;
    uint32_t floor_tag[USERS]; /* older messages of the user went with the erasure */
    struct device devices[DEVICES];
    /* figures */
    uint64_t acked, unknown, refused, events, reconnects, crashes, consolidations, faults_hit, restarts;
    char failure[2048];
};

extern struct world *world;
extern struct kalamdb *db;

/* The seed's own draw. */
uint64_t draw(uint64_t n);
bool chance(uint32_t one_in);
/* What must be true is not: ends the machine, and the run. */
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* One of the moments that a crash may be waiting for. */
void moment_comes(enum moment what);

/* ---- names and content ---- */

struct kalamdb_str user_name(int user);
int user_of(struct kalamdb_str name);
void conv_name(const struct message *m, char ret[32]);
/* The text of a version; its length depends on it alone, or is large. */
size_t content_of(uint32_t tag, uint16_t version, bool large, char *ret);
#define CONTENT_MAX 8192
#define LARGE_BYTES 3000
#define STREAM_MAX 2000
/* The text of a stream up to `n` bytes. */
void stream_text(uint32_t tag, size_t from, size_t n, char *ret);

/* ---- clients: client.c ---- */

/* Threads that work until `clients_stop`. */
void clients_start(void);
void clients_stop(void);
struct kalamdb_value text_value(const char *s, size_t n);
struct kalamdb_value int_value(int64_t i);
kalamdb_code exec_sql(int user, enum kalamdb_role role, const char *sql, const struct kalamdb_value *params,
    int nparams, bool for_everyone, struct kalamdb_result **ret, struct kalamdb_error *error);
/* Everybody who may be changed by an operation under way on a group is now uncertain. */
void group_unsettle(int group, uint32_t users);

/* ---- devices: device.c ---- */

/* By its client_msg_id; -1: not one of ours. */
int64_t tag_of(const char *client_id);
/* The version that a text shows, checked to its last byte (a stream: how much of it, in *ret_bytes). */
uint16_t version_of(uint32_t tag, const char *text, size_t n, bool whole, uint32_t *ret_bytes);
/* What stands at a user's change number must be the same for whoever looks. */
void log_check(int user, uint64_t seq, uint32_t tag, uint16_t version, bool there);

void devices_start(void);
/* They follow to the end, and go. */
void devices_stop(void);

/* ---- the model: model.c ---- */

/* Reads everything and compares; what was undecided is decided by what is there. `last`: nothing is under
 * way in the background any more. */
void model_check(bool last);

#endif
