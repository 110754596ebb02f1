/* kalamdb_verify: the store's walk, told to the host. */
#include "store/verify.h"
#include "engine/engine.h"

struct told {
    void (*found)(void *arg, struct kalamdb_str user_id, const char *text);
    void *arg;
};

static void tell(void *arg, struct str user_id, const char *text)
{
    const struct told *t = arg;
    t->found(t->arg, (struct kalamdb_str){user_id.ptr, user_id.len}, text);
}

kalamdb_code kalamdb_verify(struct kalamdb *db, struct kalamdb_str user_id,
    void (*found)(void *arg, struct kalamdb_str user_id, const char *text), void *arg,
    struct kalamdb_verified *ret, struct kalamdb_error *error)
{
    struct errctx ec = {0};
    struct verify_counts counts = {0};
    enum err e = store_verify(
        db->store, str_n(user_id.ptr, user_id.len), tell, &(struct told){found, arg}, &counts, &ec);
    *ret = (struct kalamdb_verified){
        counts.users, counts.groups, counts.rows, counts.files, counts.blobs, counts.findings};
    return e == ERR_OK ? KALAMDB_OK : engine_error(error, &ec);
}
