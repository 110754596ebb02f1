#include "store/keys.h"
#include "os/os.h"
#include <stdlib.h>

enum { CLIENT_HASH_BYTES = 16, REF_HASH_BYTES = 16 };

static void add(struct key *k, const void *p, size_t n)
{
    if (n > sizeof k->bytes - k->len)
        n = sizeof k->bytes - k->len;
    if (n > 0)
        memcpy(k->bytes + k->len, p, n);
    k->len += n;
}

static void add_be32(struct key *k, uint32_t v)
{
    char b[4];
    put_be32(b, v);
    add(k, b, sizeof b);
}

static void add_be64(struct key *k, uint64_t v)
{
    char b[8];
    put_be64(b, v);
    add(k, b, sizeof b);
}

static struct key prefix_of(uint64_t user_no, enum key_space space)
{
    struct key k;
    k.len = KEY_PREFIX_BYTES;
    put_be64(k.bytes, user_no);
    put_be32(k.bytes + 8, (uint32_t)space);
    return k;
}

struct key key_prefix(uint64_t user_no, enum key_space space)
{
    return prefix_of(user_no, space);
}

struct key key_messages_of(uint64_t user_no, uint32_t conv_no)
{
    struct key k = prefix_of(user_no, SPACE_MESSAGES);
    add_be32(&k, conv_no);
    return k;
}

struct key key_message(uint64_t user_no, uint32_t conv_no, int64_t msg_id)
{
    struct key k = key_messages_of(user_no, conv_no);
    add_be64(&k, ~(uint64_t)msg_id);
    return k;
}

struct key key_id(uint64_t user_no, enum key_space space, int64_t msg_id)
{
    struct key k = prefix_of(user_no, space);
    add_be64(&k, ~(uint64_t)msg_id);
    return k;
}

struct key key_seq(uint64_t user_no, uint64_t seq)
{
    struct key k = prefix_of(user_no, SPACE_SEQ);
    add_be64(&k, seq);
    return k;
}

struct key key_named(uint64_t user_no, enum key_space space, struct str id)
{
    struct key k = prefix_of(user_no, space);
    add(&k, id.ptr, id.len);
    return k;
}

struct key key_members_of(uint64_t user_no, uint32_t conv_no)
{
    struct key k = prefix_of(user_no, SPACE_MEMBERS);
    add_be32(&k, conv_no);
    return k;
}

struct key key_member(uint64_t user_no, uint32_t conv_no, struct str member)
{
    struct key k = key_members_of(user_no, conv_no);
    add(&k, member.ptr, member.len);
    return k;
}

struct key key_membership(uint64_t user_no, uint32_t conv_no)
{
    struct key k = prefix_of(user_no, SPACE_MEMBERSHIPS);
    add_be32(&k, conv_no);
    return k;
}

struct key key_client_id(uint64_t user_no, uint32_t conv_no, struct str from, struct str client_id)
{
    /* Two digests of fixed length, so that no pair of (from, client_id) can be cut differently into the same
     * bytes. */
    uint8_t parts[4 + 32 + 32], hash[32];
    put_be32(parts, conv_no);
    sha256(from, parts + 4);
    sha256(client_id, parts + 36);
    sha256(str_n((const char *)parts, sizeof parts), hash);
    struct key k = prefix_of(user_no, SPACE_CLIENT_IDS);
    add(&k, hash, CLIENT_HASH_BYTES);
    return k;
}

struct key key_ref(uint64_t user_no, enum key_space space, struct str content_ref)
{
    uint8_t hash[32];
    sha256(content_ref, hash);
    struct key k = prefix_of(user_no, space);
    add(&k, hash, REF_HASH_BYTES);
    return k;
}

struct key key_chunks_of(uint64_t user_no, int64_t msg_id)
{
    struct key k = prefix_of(user_no, SPACE_STREAMS);
    add_be64(&k, (uint64_t)msg_id);
    return k;
}

struct key key_chunk(uint64_t user_no, int64_t msg_id, uint64_t offset)
{
    struct key k = key_chunks_of(user_no, msg_id);
    add_be64(&k, offset);
    return k;
}

struct key key_stream(int64_t msg_id)
{
    struct key k = prefix_of(CATALOG_USER_NO, CATALOG_STREAMS);
    add_be64(&k, (uint64_t)msg_id);
    return k;
}

struct key key_after(const struct key *k)
{
    struct key after = *k;
    while (after.len > 0 && (unsigned char)after.bytes[after.len - 1] == 0xff)
        after.len--;
    /* A prefix of all ones does not occur: user numbers are small. */
    if (after.len > 0)
        after.bytes[after.len - 1] = (char)((unsigned char)after.bytes[after.len - 1] + 1);
    return after;
}

bool key_parse_message(struct str key, uint32_t *ret_conv_no, int64_t *ret_msg_id)
{
    if (key.len != KEY_PREFIX_BYTES + 12 || get_be32(key.ptr + 8) != SPACE_MESSAGES)
        return false;
    *ret_conv_no = get_be32(key.ptr + KEY_PREFIX_BYTES);
    *ret_msg_id = (int64_t)~get_be64(key.ptr + KEY_PREFIX_BYTES + 4);
    return true;
}

bool key_parse_id(struct str key, int64_t *ret_msg_id)
{
    if (key.len != KEY_PREFIX_BYTES + 8)
        return false;
    *ret_msg_id = (int64_t)~get_be64(key.ptr + KEY_PREFIX_BYTES);
    return true;
}

bool key_parse_chunk(struct str key, int64_t *ret_msg_id, uint64_t *ret_offset)
{
    if (key.len != KEY_PREFIX_BYTES + 16 || get_be32(key.ptr + 8) != SPACE_STREAMS)
        return false;
    *ret_msg_id = (int64_t)get_be64(key.ptr + KEY_PREFIX_BYTES);
    *ret_offset = get_be64(key.ptr + KEY_PREFIX_BYTES + 8);
    return true;
}

bool key_parse_stream(struct str key, int64_t *ret_msg_id)
{
    if (key.len != KEY_PREFIX_BYTES + 8 || get_be32(key.ptr + 8) != CATALOG_STREAMS)
        return false;
    *ret_msg_id = (int64_t)get_be64(key.ptr + KEY_PREFIX_BYTES);
    return true;
}

void seq_entry_put(char ret[SEQ_ENTRY_BYTES], struct seq_entry e)
{
    put_be32(ret, e.conv_no);
    put_be64(ret + 4, (uint64_t)e.msg_id);
    ret[12] = e.tombstone ? 1 : 0;
}

bool seq_entry_get(struct str value, struct seq_entry *ret)
{
    if (value.len != SEQ_ENTRY_BYTES)
        return false;
    *ret = (struct seq_entry){get_be32(value.ptr), (int64_t)get_be64(value.ptr + 4), value.ptr[12] != 0};
    return true;
}
