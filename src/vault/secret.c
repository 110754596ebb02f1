#include "vault/secret.h"
#include "vault/vault.h"
#include <openssl/crypto.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

void (*secret_freed_hook)(const void *p, size_t n);

static size_t whole_pages(size_t n)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (n + page - 1) / page * page;
}

void *secret_alloc(size_t n, bool *ret_locked)
{
    size_t bytes = whole_pages(n);
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    /* A kernel without these still gives memory. */
    (void)madvise(p, bytes, MADV_DONTDUMP);
    (void)madvise(p, bytes, MADV_WIPEONFORK);
    /* As it is touched, for much of it never is. */
    bool locked = mlock2(p, bytes, MLOCK_ONFAULT) == 0 || mlock(p, bytes) == 0;
    if (ret_locked != NULL)
        *ret_locked = locked;
    return p;
}

void secret_free(void *p, size_t n)
{
    if (p == NULL)
        return;
    vault_wipe(p, n);
    if (secret_freed_hook != NULL)
        secret_freed_hook(p, n);
    munmap(p, whole_pages(n));
}

void vault_wipe(void *p, size_t n)
{
    OPENSSL_cleanse(p, n);
}

void vault_random_key(uint8_t ret[VAULT_KEY_BYTES])
{
    const struct os *os = os_posix();
    os->random(os->ctx, ret, VAULT_KEY_BYTES);
}

void vault_harden_process(void)
{
    struct rlimit none = {0, 0};
    (void)setrlimit(RLIMIT_CORE, &none);
    (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}
