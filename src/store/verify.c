/* The walk: every user with their files, every group, the catalog. Findings go on, errors of the walk end it.
 */
#include "store/verify_int.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

void verify_tell(struct verifier *v, const char *format, ...)
{
    char text[1024];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    v->counts.findings++;
    v->found(v->arg, v->user_id, text);
}

enum err verify_error(struct verifier *v, enum err e, const char *what, struct errctx *ec)
{
    if (e != ERR_CORRUPT && e != ERR_IO && e != ERR_INTERNAL)
        return e;
    verify_tell(v, "%s: %s", what, ec->internal[0] != '\0' ? ec->internal : ec->message);
    errctx_clear(ec);
    return ERR_OK;
}

/* ---- what stands in the hot tier ------------------------------------------------------------------------
 */

static enum err look(void *arg, struct str key, struct str value, struct errctx *ec)
{
    (void)arg, (void)key, (void)value, (void)ec;
    return ERR_OK; /* RocksDB checked the block that it came in */
}

/* Every block of a partition is read, whatever it holds. */
static enum err read_partition(struct verifier *v, struct snapshot *snap, uint64_t number, struct errctx *ec)
{
    struct key prefix = key_prefix(number, SPACE_HEAD);
    prefix.len = 8;
    return verify_error(v, snapshot_scan(snap, &prefix, look, v, ec), "hot tier", ec);
}

/* ---- Parquet files --------------------------------------------------------------------------------------
 */

static enum err check_file(
    struct verifier *v, struct snapshot *snap, const struct cold_file *f, struct errctx *ec)
{
    struct buf path = BUF_INIT(8192);
    struct stat st;
    char sha256_now[65];
    enum err e = ERR_OK;
    cold_path(&path, v->s, head_user_id(&snap->head), f->name);
    int fd = path.failed ? -1 : open(path.ptr, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    v->counts.files++;
    if (fd < 0)
        verify_tell(v, "%.*s: %s", STR_FMT(f->name), strerror(errno));
    else if (fstat(fd, &st) != 0 || (uint64_t)st.st_size != f->bytes)
        verify_tell(v, "%.*s: %lld bytes instead of %llu", STR_FMT(f->name), (long long)st.st_size,
            (unsigned long long)f->bytes);
    else if ((e = os_sha256_fd(fd, f->bytes, sha256_now, ec)) == ERR_OK && strcmp(sha256_now, f->sha256) != 0)
        verify_tell(v, "%.*s: its SHA-256 is not what was written", STR_FMT(f->name));
    char what[MANIFEST_NAME_MAX + 1];
    snprintf(what, sizeof what, "%.*s", STR_FMT(f->name));
    e = verify_error(v, e, what, ec);
    if (fd >= 0)
        close(fd);
    buf_release(&path);
    return e;
}

/* ---- content files ---------------------------------------------------------------------------------------
 */

struct user_refs {
    struct verifier *v;
    struct snapshot *snap;
};

static enum err note_ref(struct verifier *v, struct str ref, uint64_t rows, struct errctx *ec)
{
    if (v->nrefs == v->refs_cap) {
        size_t cap = v->refs_cap == 0 ? 256 : v->refs_cap * 2;
        struct verify_ref *p = realloc(v->refs, cap * sizeof *p);
        if (p == NULL)
            return err_set(ec, ERR_NO_MEMORY, "out of memory");
        v->refs = p;
        v->refs_cap = cap;
    }
    struct key key = key_ref(CATALOG_USER_NO, CATALOG_BLOBS, ref);
    struct verify_ref *r = &v->refs[v->nrefs++];
    memcpy(r->hash, key.bytes + KEY_PREFIX_BYTES, sizeof r->hash);
    r->rows = rows;
    return ERR_OK;
}

static enum err check_content(
    struct verifier *v, struct snapshot *snap, struct str ref, const struct blob *b, struct errctx *ec)
{
    const uint8_t *key = NULL;
    struct blob_reader *reader = NULL;
    struct blob record = *b, now = {0};
    enum err e = snapshot_blob_key(snap, ref, &key, ec);
    if (e == ERR_OK && key != NULL)
        blob_reveal(&record, key);
    if (e == ERR_OK)
        e = store_blob_open(v->s, ref, key, &reader, ec);
    if (e == ERR_OK)
        e = blob_describe(reader, blob_ref_is_media(ref), &now, ec);
    blob_reader_close(reader);
    v->counts.blobs++;
    if (e == ERR_OK && (now.bytes != record.bytes || strcmp(now.sha256, record.sha256) != 0))
        verify_tell(v, "%.*s: its SHA-256 is not what was written", STR_FMT(ref));
    if (e == ERR_NOT_FOUND) {
        verify_tell(v, "%.*s: the file is not there", STR_FMT(ref));
        errctx_clear(ec);
        return ERR_OK;
    }
    char what[BLOB_REF_BYTES_MAX + 1];
    snprintf(what, sizeof what, "%.*s", STR_FMT(ref));
    return verify_error(v, e, what, ec);
}

static enum err check_ref(void *arg, struct str ref, uint32_t rows, struct errctx *ec)
{
    struct user_refs *u = arg;
    struct blob b;
    enum err e = note_ref(u->v, ref, rows, ec);
    if (e == ERR_OK)
        e = snapshot_blob(u->snap, ref, &b, ec);
    if (e == ERR_NOT_FOUND) {
        verify_tell(u->v, "%.*s: %u rows name it, and it has no record", STR_FMT(ref), rows);
        errctx_clear(ec);
        return ERR_OK;
    }
    if (e == ERR_OK)
        return check_content(u->v, u->snap, ref, &b, ec);
    return verify_error(u->v, e, "refs", ec);
}

static int by_hash(const void *a, const void *b)
{
    return memcmp(((const struct verify_ref *)a)->hash, ((const struct verify_ref *)b)->hash, 16);
}

static enum err check_record(void *arg, struct str ref, const struct blob *b, struct errctx *ec)
{
    struct verifier *v = arg;
    struct verify_ref wanted = {.rows = 0};
    struct key key = key_ref(CATALOG_USER_NO, CATALOG_BLOBS, ref);
    (void)ec;
    memcpy(wanted.hash, key.bytes + KEY_PREFIX_BYTES, sizeof wanted.hash);
    const struct verify_ref *r =
        v->nrefs == 0 ? NULL : bsearch(&wanted, v->refs, v->nrefs, sizeof *r, by_hash);
    uint64_t rows = r == NULL ? 0 : r->rows;
    if (rows != b->refs)
        verify_tell(v, "%.*s: its record counts %llu rows, and %llu name it", STR_FMT(ref),
            (unsigned long long)b->refs, (unsigned long long)rows);
    return ERR_OK;
}

static enum err check_records(struct verifier *v, struct errctx *ec)
{
    size_t n = 0;
    v->user_id = STR_NULL;
    if (v->nrefs > 1)
        qsort(v->refs, v->nrefs, sizeof *v->refs, by_hash);
    for (size_t i = 0; i < v->nrefs; i++) {
        if (n > 0 && by_hash(&v->refs[n - 1], &v->refs[i]) == 0)
            v->refs[n - 1].rows += v->refs[i].rows;
        else
            v->refs[n++] = v->refs[i];
    }
    v->nrefs = n;
    return verify_error(v, view_each_blob(v->view, check_record, v, ec), "catalog of files", ec);
}

/* ---- groups ---------------------------------------------------------------------------------------------
 */

struct membership {
    uint32_t conv_no;
    uint64_t group_no;
    bool present;
};
struct memberships {
    struct verifier *v;
    struct membership *items;
    size_t n, cap;
};

static enum err gather_membership(void *arg, struct str key, struct str value, struct errctx *ec)
{
    struct memberships *m = arg;
    struct membership x = {0};
    if (key.len != KEY_PREFIX_BYTES + 4 || membership_get(value, &x.group_no, &x.present) != ERR_OK) {
        verify_tell(m->v, "memberships: an entry is damaged");
        return ERR_OK;
    }
    x.conv_no = get_be32(key.ptr + KEY_PREFIX_BYTES);
    if (m->n == m->cap) {
        size_t cap = m->cap == 0 ? 16 : m->cap * 2;
        struct membership *p = realloc(m->items, cap * sizeof *p);
        if (p == NULL)
            return err_set(ec, ERR_NO_MEMORY, "out of memory");
        m->items = p;
        m->cap = cap;
    }
    m->items[m->n++] = x;
    return ERR_OK;
}

static enum err check_membership(
    struct verifier *v, struct snapshot *snap, const struct membership *m, struct errctx *ec)
{
    struct key key = key_named(m->group_no, SPACE_GROUP_MEMBERS, head_user_id(&snap->head));
    struct str value, row;
    uint64_t user_no = 0;
    bool present = false;
    enum err e = snapshot_get(snap, &key, &value, ec);
    if (e == ERR_OK && member_entry_head(value, &user_no, &present, &row) != ERR_OK)
        e = err_internal(ec, ERR_CORRUPT, "the entry of a member is damaged");
    if (e == ERR_NOT_FOUND) {
        errctx_clear(ec);
        e = ERR_OK;
    }
    if (e == ERR_OK && (present != m->present || (present && user_no != snap->user_no)))
        verify_tell(v, "group %llu: %s among its members, and the user %s", (unsigned long long)m->group_no,
            present ? "present" : "not present", m->present ? "has it" : "has left it");
    return verify_error(v, e, "members of a group", ec);
}

static enum err check_memberships(struct verifier *v, struct snapshot *snap, struct errctx *ec)
{
    struct memberships m = {.v = v};
    struct key prefix = key_prefix(snap->user_no, SPACE_MEMBERSHIPS);
    enum err e = verify_error(v, snapshot_scan(snap, &prefix, gather_membership, &m, ec), "memberships", ec);
    for (size_t i = 0; e == ERR_OK && i < m.n; i++)
        e = check_membership(v, snap, &m.items[i], ec);
    free(m.items);
    return e;
}

struct group_walk {
    struct verifier *v;
    struct snapshot *snap;
    uint64_t group_no;
    uint32_t present;
};

static enum err count_member(void *arg, struct str key, struct str value, struct errctx *ec)
{
    struct group_walk *w = arg;
    uint64_t user_no;
    bool present;
    struct str row;
    (void)key, (void)ec;
    if (member_entry_head(value, &user_no, &present, &row) != ERR_OK)
        verify_tell(w->v, "group %llu: the entry of a member is damaged", (unsigned long long)w->group_no);
    else
        w->present += present;
    return ERR_OK;
}

static enum err check_group(void *arg, struct str key, struct str value, struct errctx *ec)
{
    struct group_walk *w = arg;
    struct group group;
    struct str record;
    if (value.len != 8 || key.len <= KEY_PREFIX_BYTES) {
        verify_tell(w->v, "catalog of groups: an entry is damaged");
        return ERR_OK;
    }
    w->group_no = get_be64(value.ptr);
    w->present = 0;
    w->v->counts.groups++;
    struct key group_key = key_prefix(w->group_no, SPACE_GROUP),
               members = key_prefix(w->group_no, SPACE_GROUP_MEMBERS);
    enum err e = snapshot_get(w->snap, &group_key, &record, ec);
    if (e == ERR_NOT_FOUND) {
        errctx_clear(ec);
        verify_tell(w->v, "group %.*s: has no record",
            STR_FMT(str_n(key.ptr + KEY_PREFIX_BYTES, key.len - KEY_PREFIX_BYTES)));
        return ERR_OK;
    }
    if (e == ERR_OK && group_decode(record, w->group_no, &group) != ERR_OK)
        e = err_internal(ec, ERR_CORRUPT, "the record of a group is damaged");
    if (e == ERR_OK)
        e = snapshot_scan(w->snap, &members, count_member, w, ec);
    if (e == ERR_OK && group.exists && group.nmembers != w->present)
        verify_tell(w->v, "group %llu: counts %u members, and there are %u", (unsigned long long)w->group_no,
            group.nmembers, w->present);
    e = verify_error(w->v, e, "group", ec);
    return e == ERR_OK ? read_partition(w->v, w->snap, w->group_no, ec) : e;
}

/* ---- the walk -------------------------------------------------------------------------------------------
 */

static enum err verify_partition(struct verifier *v, struct snapshot *snap, struct errctx *ec)
{
    struct user_refs refs = {v, snap};
    enum err e = read_partition(v, snap, snap->user_no, ec);
    for (size_t i = 0; e == ERR_OK && snap->manifest != NULL && i < snap->manifest->nfiles; i++)
        e = check_file(v, snap, &snap->manifest->files[i], ec);
    if (e == ERR_OK)
        e = verify_error(v, snapshot_each_ref(snap, check_ref, &refs, ec), "refs", ec);
    if (e == ERR_OK)
        e = check_memberships(v, snap, ec);
    return e == ERR_OK ? verify_rows(v, snap, ec) : e;
}

static enum err verify_user(void *arg, uint64_t user_no, struct str user_id, struct errctx *ec)
{
    struct verifier *v = arg;
    struct snapshot *snap = NULL;
    const struct consolidator *c = v->s->consolidator;
    if (c != NULL && atomic_load(&c->stop))
        return err_set(ec, ERR_UNAVAILABLE, "the server is shutting down");
    v->user_id = user_id;
    v->counts.users++;
    enum err e = snapshot_open_in_no(v->view, user_no, &snap, ec);
    if (e != ERR_OK)
        return verify_error(v, e, "head or manifest", ec);
    if (!snap->exists)
        verify_tell(v, "head: there is none");
    else if (!str_eq(head_user_id(&snap->head), user_id))
        verify_tell(v, "head: is another user's");
    else
        e = verify_partition(v, snap, ec);
    snapshot_close(snap);
    return e;
}

static enum err verify_catalog(struct verifier *v, struct errctx *ec)
{
    struct snapshot *snap;
    v->user_id = STR_NULL;
    enum err e = snapshot_open_in(v->view, STR_NULL, &snap, ec);
    if (e != ERR_OK)
        return verify_error(v, e, "catalog", ec);
    struct group_walk w = {.v = v, .snap = snap};
    struct key groups = key_prefix(CATALOG_USER_NO, CATALOG_GROUPS);
    e = read_partition(v, snap, CATALOG_USER_NO, ec);
    if (e == ERR_OK)
        e = verify_error(v, snapshot_scan(snap, &groups, check_group, &w, ec), "catalog of groups", ec);
    snapshot_close(snap);
    return e;
}

static enum err verify_all(struct verifier *v, struct errctx *ec)
{
    enum err e = verify_catalog(v, ec);
    uint64_t before = v->counts.findings;
    if (e == ERR_OK)
        e = verify_error(v, view_each_user(v->view, verify_user, v, ec), "catalog of users", ec);
    bool whole = v->counts.findings == before; /* else references were missed */
    return e == ERR_OK && whole ? check_records(v, ec) : e;
}

enum err store_verify(struct store *s, struct str user_id, verify_found *found, void *arg,
    struct verify_counts *ret, struct errctx *ec)
{
    struct verifier v = {.s = s, .found = found, .arg = arg};
    struct snapshot *snap = NULL;
    enum err e = store_view_open(s, &v.view, ec);
    if (e != ERR_OK)
        return e;
    if (user_id.ptr == NULL) {
        e = verify_all(&v, ec);
    } else {
        v.user_id = user_id;
        e = snapshot_open_in(v.view, user_id, &snap, ec);
        v.counts.users = 1;
        if (e != ERR_OK)
            e = verify_error(&v, e, "head or manifest", ec);
        else
            e = snap->exists ? verify_partition(&v, snap, ec)
                             : err_set(ec, ERR_NOT_FOUND, "there is no such user");
        snapshot_close(snap);
    }
    store_view_close(v.view);
    free(v.refs);
    *ret = v.counts;
    return e;
}
