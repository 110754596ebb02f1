#include "content_fixture.h"
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct engine e;
char text_buf[1 << 20];

int content_setup(void **state)
{
    (void)state;
    engine_open(&e);
    return 0;
}

int content_teardown(void **state)
{
    (void)state;
    engine_close(&e);
    return 0;
}

const char *text(size_t n, unsigned seed)
{
    assert_true(n < sizeof text_buf);
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1103515245u + 12345u;
        text_buf[i] = "0123456789abcdef"[seed >> 16 & 15];
    }
    text_buf[n] = 0;
    return text_buf;
}

const char *cell(const char *as, const char *sql)
{
    static char out[4096];
    const char *got = run(&e, as, sql), *from = strstr(got, "\"rows\":[[");
    if (from == NULL)
        fail_msg("%s: %s", sql, got);
    snprintf(out, sizeof out, "%s", from + strlen("\"rows\":[["));
    char *end = strstr(out, "]],\"rowCount\":1");
    if (end == NULL)
        fail_msg("%s: %s", sql, got);
    *end = 0;
    size_t n = strlen(out);
    if (n >= 2 && out[0] == '"') {
        memmove(out, out + 1, n - 2);
        out[n - 2] = 0;
    }
    return out;
}

int64_t insert(const char *as, const char *conversation, const char *content)
{
    char sql[256];
    struct kalamdb_value p = text_param(content);
    snprintf(sql, sizeof sql,
        "INSERT INTO messages (conversation_id, content) VALUES ('%s', $1) RETURNING msg_id", conversation);
    const char *got = run_params(&e, as, sql, 1, &p), *id = strstr(got, "\"rows\":[[");
    if (id == NULL)
        fail_msg("%s", got);
    return strtoll(id + strlen("\"rows\":[["), NULL, 10);
}

int files_in(const char *folder)
{
    char path[512];
    int n = 0;
    snprintf(path, sizeof path, "%s/%s", e.dir, folder);
    DIR *dir = opendir(path);
    if (dir == NULL)
        return 0;
    for (struct dirent *d; (d = readdir(dir)) != NULL;) {
        if (d->d_name[0] == '.')
            continue;
        char below[512];
        snprintf(below, sizeof below, "%s/%s", folder, d->d_name);
        n += d->d_type == DT_DIR ? files_in(below) : strncmp(d->d_name, "batch-", 6) != 0;
    }
    closedir(dir);
    return n;
}

void wait_for_files(const char *folder, int want)
{
    for (int i = 0; i < 2000 && files_in(folder) != want; i++)
        usleep(1000);
    assert_int_equal(files_in(folder), want);
}

kalamdb_code open_as(const char *as, enum kalamdb_role role, const char *ref, struct kalamdb_content *ret)
{
    struct kalamdb_error error;
    struct kalamdb_caller caller = {.user_id = {as, strlen(as)}, .role = role};
    return kalamdb_content_open(e.db, caller, (struct kalamdb_str){ref, strlen(ref)}, ret, &error);
}

void expect_content(const char *as, const char *ref, const char *want)
{
    struct kalamdb_content c;
    size_t n = strlen(want);
    assert_int_equal(open_as(as, KALAMDB_USER, ref, &c), KALAMDB_OK);
    assert_int_equal(c.size, n);
    assert_string_equal(c.content_type, "text/plain; charset=utf-8");
    char *got = malloc(n), sum[65];
    struct kalamdb_error error;
    size_t read = 0;
    assert_int_equal(kalamdb_content_read(&c, 0, got, n, &read, &error), KALAMDB_OK);
    assert_int_equal(read, n);
    assert_memory_equal(got, want, n);
    struct os_sha256 *hash = os_sha256_begin();
    os_sha256_add(hash, got, n);
    os_sha256_end(hash, sum);
    assert_string_equal(sum, c.sha256);
    free(got);
    kalamdb_content_close(&c);
}

const char *code(kalamdb_code c)
{
    return c == KALAMDB_OK ? "OK" : kalamdb_code_name(c);
}

uint64_t refs_of(const char *ref)
{
    struct store_view *v;
    struct blob b;
    struct errctx ec;
    assert_int_equal(store_view_open(e.db->store, &v, &ec), ERR_OK);
    enum err err = view_blob(v, str_c(ref), &b, &ec);
    store_view_close(v);
    return err == ERR_OK ? b.refs : 0;
}

void make_group(const char *members)
{
    char sql[512];
    expect_code(&e, "alice",
        "INSERT INTO conversations (conversation_id, conversation_type) VALUES ('room', 'group')", "OK");
    snprintf(sql, sizeof sql, "INSERT INTO conversation_users (conversation_id, user_id) VALUES %s", members);
    expect_code(&e, "alice", sql, "OK");
}
