/* chat's operations against a real store: rows by short literals, answers as codes and counts. */
#ifndef KALAMDB_TESTS_CHAT_FIXTURE_H
#define KALAMDB_TESTS_CHAT_FIXTURE_H

#include "../test.h"
#include "chat/chat.h"
#include "fixture.h"

extern struct fixture store_fixture;
extern struct errctx last_error;
extern const struct caller alice, bob, service;

int chat_setup(void **state);
int chat_teardown(void **state);

/* One message of alice's or of whomever `owner` names; NULL fields are not given. */
struct say {
    const char *conversation, *content, *from, *type, *client_id;
    int64_t id; /* 0: not given */
};
/* Appends n messages in one statement as `caller` to `owner`; what came of it stands in *ret until the next
 * call. */
enum err say(const struct caller *caller, const char *owner, size_t n, const struct say *lines,
    struct chat_append *ret);
/* One that must succeed; its id. */
int64_t said(const char *conversation, const char *content);
enum err run_create(struct chat_create *c);
enum err run_update(struct chat_update *u);
/* DELETE (update false) or UPDATE of alice's messages with these ids to `content`. */
enum err change_messages(size_t n, const int64_t *ids, const char *content);
/* Alice's conversation row, or false. Values live until the next call. */
bool conversation_of(const char *user, const char *id, struct value *ret);
uint64_t seq_of(const char *user);

#endif
