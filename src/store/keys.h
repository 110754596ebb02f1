/* Keys of the one column family. Every key starts with the 12 bytes `u64 user_no | u32 space`, which is the
 * prefix of filters and scans; integers are big-endian, and ids stand complemented so that newest first is
 * forward.
 *
 *   space                 after the prefix                  value
 *   HEAD                                                    head record (head.h)
 *   MESSAGES              conv_no u32 | ~msg_id u64         row envelope
 *   IDS                   ~msg_id u64                       conv_no u32: where the hot row is; live rows only
 *   TOMBSTONES            ~msg_id u64                       row envelope of a deleted row
 *   SEQ                   seq u64                           conv_no u32 | msg_id u64 | u8 1: tombstone
 *   CONVERSATIONS         conversation id                   conv_no u32 | hot_floor u64 | row envelope
 *   MEMBERS               conv_no u32 | member id           row envelope
 *   CLIENT_IDS            16 bytes of a hash                msg_id u64 | time in µs u64
 *   MANIFEST                                                manifest record (manifest.h)
 *   MEMBERSHIPS           conv_no u32                       group_no u64 | u8 1: present, 0: past; then
 *                                                           earlier groups of this conversation, likewise
 *   REFS                  16 bytes of a hash of content_ref u32 rows of this user that name it | content_ref
 *   REF_KEYS              the same, where files are sealed  u8 format | 32 bytes: the file's key
 *   ERASED_WORK                                             of an erased user: what there is to do
 * (erase_work.c) QUOTA                                                   u64 bytes of media that count
 * against the user
 *
 * Groups are numbered like users; a partition of theirs has CLIENT_IDS (conv_no 0) and
 *   GROUP                                                   group record (group.c)
 *   GROUP_MEMBERS         user id                           user_no u64 | u8 1: present, 0: past | history
 *                                                           cursor i64 | row envelope of conversation_users
 * The partition of a group, or of the owner of an ai conversation, has
 *   STREAMS               msg_id u64 | offset u64           text of an open message from that byte on
 *
 * User 0 is the catalog: CATALOG_FORMAT (u32 version), CATALOG_STATE (highest msg_id, next user_no …),
 * CATALOG_USERS (user id → user_no), CATALOG_GROUPS (conversation id → group_no), CATALOG_BLOBS (16 bytes of
 * a hash of content_ref → blob record, blob.c), CATALOG_STREAMS (msg_id u64 → stream record), CATALOG_ERASED
 * (user id → erasure record), CATALOG_BACKFILLS (group_no u64 | user_no u64 → pending history copy),
 * CATALOG_FEED_TAG (text mixed into every feed name), CATALOG_VAULT (u8 1 | the key ring's id: values are
 * sealed, see key_sealed), CATALOG_REVOKED_TOKENS (jti) and CATALOG_REVOKED_USERS (user id → when, until
 * when: revoked.h). Pure functions, any thread. */
#ifndef KALAMDB_STORE_KEYS_H
#define KALAMDB_STORE_KEYS_H

#include "base/buf.h"

#define KEY_PREFIX_BYTES 12
#define KEY_BYTES_MAX (KEY_PREFIX_BYTES + 4 + 255)
#define CATALOG_USER_NO 0

/* On disk: never renumber. */
enum key_space {
    SPACE_HEAD = 1,
    SPACE_MESSAGES = 2,
    SPACE_IDS = 3,
    SPACE_TOMBSTONES = 4,
    SPACE_SEQ = 5,
    SPACE_CONVERSATIONS = 6,
    SPACE_MEMBERS = 7,
    SPACE_CLIENT_IDS = 8,
    SPACE_MANIFEST = 9,
    SPACE_MEMBERSHIPS = 10,
    SPACE_GROUP = 11,
    SPACE_GROUP_MEMBERS = 12,
    SPACE_STREAMS = 13,
    SPACE_REFS = 14,
    SPACE_QUOTA = 15,
    SPACE_REF_KEYS = 16,
    SPACE_ERASED_WORK = 17,
    CATALOG_FORMAT = 100,
    CATALOG_STATE = 101,
    CATALOG_USERS = 102,
    CATALOG_GROUPS = 103,
    CATALOG_BLOBS = 104,
    CATALOG_STREAMS = 105,
    CATALOG_ERASED = 106,
    CATALOG_BACKFILLS = 107,
    CATALOG_FEED_TAG = 108,
    CATALOG_VAULT = 109,
    CATALOG_REVOKED_TOKENS = 120,
    CATALOG_REVOKED_USERS = 121
};

struct key {
    size_t len;
    char bytes[KEY_BYTES_MAX];
};

static inline struct str key_view(const struct key *k)
{
    return str_n(k->bytes, k->len);
}

/* The bare prefix; also the whole key of HEAD, MANIFEST, CATALOG_FORMAT and CATALOG_STATE. */
struct key key_prefix(uint64_t user_no, enum key_space space);
struct key key_message(uint64_t user_no, uint32_t conv_no, int64_t msg_id);
/* MESSAGES up to the conversation. */
struct key key_messages_of(uint64_t user_no, uint32_t conv_no);
/* IDS or TOMBSTONES. */
struct key key_id(uint64_t user_no, enum key_space space, int64_t msg_id);
struct key key_seq(uint64_t user_no, uint64_t seq);
/* Spaces whose keys end in an id: CONVERSATIONS, GROUP_MEMBERS, CATALOG_USERS, CATALOG_GROUPS … One longer
 * than 255 bytes is cut: callers refuse those before. */
struct key key_named(uint64_t user_no, enum key_space space, struct str id);
struct key key_member(uint64_t user_no, uint32_t conv_no, struct str member);
/* MEMBERS up to the conversation. */
struct key key_members_of(uint64_t user_no, uint32_t conv_no);
struct key key_membership(uint64_t user_no, uint32_t conv_no);
struct key key_client_id(uint64_t user_no, uint32_t conv_no, struct str from, struct str client_id);
/* REFS, REF_KEYS or CATALOG_BLOBS. */
struct key key_ref(uint64_t user_no, enum key_space space, struct str content_ref);
/* STREAMS; `offset` in bytes. */
struct key key_chunk(uint64_t user_no, int64_t msg_id, uint64_t offset);
/* STREAMS up to the message. */
struct key key_chunks_of(uint64_t user_no, int64_t msg_id);
/* CATALOG_STREAMS. */
struct key key_stream(int64_t msg_id);
/* Does a value of this key hold content or file keys, and is stored sealed under encryption? seal.c. */
bool key_sealed(struct str key);
/* The smallest key after everything that starts with k. */
struct key key_after(const struct key *k);

/* Reading them back; false: not such a key. */
bool key_parse_message(struct str key, uint32_t *ret_conv_no, int64_t *ret_msg_id);
bool key_parse_id(struct str key, int64_t *ret_msg_id);
bool key_parse_chunk(struct str key, int64_t *ret_msg_id, uint64_t *ret_offset);
bool key_parse_stream(struct str key, int64_t *ret_msg_id);

/* Value of SEQ. */
struct seq_entry {
    uint32_t conv_no;
    int64_t msg_id;
    bool tombstone;
};
#define SEQ_ENTRY_BYTES 13
void seq_entry_put(char ret[SEQ_ENTRY_BYTES], struct seq_entry e);
bool seq_entry_get(struct str value, struct seq_entry *ret);

#endif
