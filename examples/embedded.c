/* KalamDB inside a program: open a directory, follow a user, say something, read it back.
 *
 *   cc embedded.c $(pkg-config --cflags --libs kalamdb) && ./a.out ./data */
#include <kalamdb.h>
#include <semaphore.h>
#include <stdio.h>
#include <string.h>

static sem_t seen;

static void on_event(void *arg, const struct kalamdb_event *event)
{
    (void)arg;
    if (event->kind != KALAMDB_EVENT_CHANGE)
        return;
    struct kalamdb_str row = kalamdb_change_json(event->change);
    printf("change %llu: %.*s\n", (unsigned long long)event->seq, (int)row.len, row.ptr);
    sem_post(&seen);
}

int main(int argc, char **argv)
{
    struct kalamdb_options options;
    struct kalamdb_error error;
    struct kalamdb *db;
    struct kalamdb_subscription *sub;
    struct kalamdb_result *result;
    kalamdb_options_default(&options);
    options.data_dir = argc > 1 ? argv[1] : "./data";
    sem_init(&seen, 0, 0);
    struct kalamdb_caller alice = {.user_id = {"alice", 5}, .role = KALAMDB_USER};
    struct kalamdb_subscribe follow = {.caller = alice};
    if (kalamdb_open(&options, &db, &error) != KALAMDB_OK ||
        kalamdb_listen(db, &follow, on_event, NULL, &sub, &error) != KALAMDB_OK)
        return fprintf(stderr, "%s %s\n", error.message, error.internal), 1;

    const char *insert = "INSERT INTO messages (conversation_id, content) VALUES ('conv_1', $1)";
    struct kalamdb_value hello = {.type = KALAMDB_TEXT, .s = {"Hello!", 6}};
    struct kalamdb_statement st = {alice, {insert, strlen(insert)}, &hello, 1, KALAMDB_SYNC, 0};
    if (kalamdb_exec(db, &st, NULL, &error) != KALAMDB_OK)
        return fprintf(stderr, "%s\n", error.message), 1;
    sem_wait(&seen);

    const char *select = "SELECT \"from\", content FROM messages WHERE conversation_id = 'conv_1' LIMIT 50";
    st = (struct kalamdb_statement){.caller = alice, .sql = {select, strlen(select)}};
    if (kalamdb_exec(db, &st, &result, &error) != KALAMDB_OK)
        return fprintf(stderr, "%s\n", error.message), 1;
    for (size_t row = 0; row < kalamdb_result_rows(result); row++) {
        struct kalamdb_value from, content;
        kalamdb_result_value(result, row, 0, &from);
        kalamdb_result_value(result, row, 1, &content);
        printf("%.*s: %.*s\n", (int)from.s.len, from.s.ptr, (int)content.s.len, content.s.ptr);
    }
    kalamdb_result_free(result);
    kalamdb_unsubscribe(sub);
    kalamdb_close(db);
    return 0;
}
