// Groups after the sending: edits, deletions, markers, and history for who joins.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Server, type Socket } from "./harness.ts";

const people = ["alice", "bob", "carol"];

async function group(s: Server, metadata: any = null): Promise<void> {
  const made = await s.request("POST", "/api/v1/conversations", {
    token: s.token("alice"),
    body: { conversation_id: "g", conversation_type: "group", title: "G", members: ["bob", "carol"], metadata },
  });
  assert.equal(made.status, 201, JSON.stringify(made.body));
}

async function rows(s: Server, user: string, sql: string): Promise<any[][]> {
  return (await s.sql(user, sql)).rows;
}

const drop = (s: Server, user: string, id: any, query = "", role = "user") =>
  s.request("DELETE", `/api/v1/messages/${id}${query}`, { token: s.token(user, role) });

test("edits, deletions, titles and markers reach every member's subscribers", async () => {
  const s = await Server.start();
  await group(s);
  const sockets: Record<string, Socket> = {};
  for (const user of people) {
    sockets[user] = await s.socket(user);
    assert.equal((await sockets[user].subscribe({ id: user })).type, "subscribe_ack");
  }
  await s.say("alice", "own", "alice's numbers are ahead by one");
  const first = await s.say("alice", "g", "first");
  const second = await s.say("bob", "g", "second");
  await s.sql("alice", "UPDATE messages SET content = 'FIRST' WHERE msg_id = $1", [first]);
  assert.deepEqual((await drop(s, "bob", second, "?for=everyone")).body, { rowsAffected: 1 });
  for (const user of people) {
    const ahead = user === "alice" ? 1 : 0;
    const frames = await sockets[user].take(4 + ahead);
    const changes = frames.slice(ahead).map((f) => [f.type, f.op, f.seq, f.message.msg_id, f.message.content]);
    assert.deepEqual(changes, [
      ["message", "insert", 1 + ahead, first, "first"],
      ["message", "insert", 2 + ahead, second, "second"],
      ["message", "update", 3 + ahead, first, "FIRST"],
      ["message", "delete", 4 + ahead, second, undefined],
    ]);
    assert.deepEqual(await rows(s, user, "SELECT total_messages, first_msg_id, last_msg_id FROM conversations WHERE conversation_id = 'g'"), [[1, first, first]]);
  }
  await s.sql("alice", "UPDATE conversations SET title = 'New' WHERE conversation_id = 'g'");
  for (const user of people) {
    const frame = await sockets[user].next();
    assert.deepEqual([frame.type, frame.conversation.conversation_id, frame.conversation.title], ["conversation", "g", "New"]);
  }
  assert.deepEqual(await rows(s, "carol", "SELECT _unread FROM conversations"), [[1]]);
  await s.sql("carol", "UPDATE conversation_users SET last_read_msg_id = $1 WHERE user_id = 'carol'", [first]);
  for (const user of people) {
    const frame = await sockets[user].next();
    assert.deepEqual([frame.type, frame.conversation.conversation_id], ["conversation", "g"]);
  }
  assert.deepEqual(await rows(s, "carol", "SELECT _unread FROM conversations"), [[0]]);
  assert.deepEqual(await rows(s, "bob", "SELECT user_id, last_read_msg_id FROM conversation_users ORDER BY user_id"), [["alice", null], ["bob", null], ["carol", first]]);

  // Who was removed keeps what there is and gets nothing new.
  await s.sql("alice", "DELETE FROM conversation_users WHERE conversation_id = 'g' AND user_id = 'carol'");
  assert.equal((await sockets.carol.next()).type, "conversation");
  await s.sql("alice", "UPDATE messages SET content = 'for those who stay' WHERE msg_id = $1", [first]);
  const third = await s.say("bob", "g", "third");
  assert.equal((await drop(s, "alice", first, "?for=everyone")).status, 200);
  sockets.carol.send({ type: "ping" });
  assert.equal((await sockets.carol.next()).type, "pong");
  assert.deepEqual(await rows(s, "carol", "SELECT msg_id, content FROM messages"), [[first, "FIRST"]]);
  assert.deepEqual(await rows(s, "bob", "SELECT msg_id FROM messages"), [[third]]);
  const late = await s.query("carol", "UPDATE messages SET content = 'mine'");
  assert.deepEqual([late.status, late.body.error], [403, "FORBIDDEN"]);
});

test("DELETE /api/v1/messages/<id>: who may, and what it answers", async () => {
  const s = await Server.start();
  await group(s);
  const ids = [await s.say("alice", "g", "1"), await s.say("carol", "g", "2"), await s.say("bob", "g", "3"), await s.say("carol", "g", "4")];
  const own = await s.say("bob", "notes", "to myself");
  const errors: [string, any, string, number][] = [
    ["carol", ids[0], "?for=everyone", 403],
    ["dan", ids[0], "", 404],
    ["dan", ids[0], "?for=everyone", 404],
    ["alice", "12x", "", 400],
    ["alice", "0", "", 400],
    ["alice", ids[0], "?for=nobody", 400],
    ["alice", ids[0], "?userId=bob", 403],
  ];
  for (const [user, id, query, status] of errors) assert.equal((await drop(s, user, id, query)).status, status, `${user} ${id}${query}`);
  assert.equal((await s.request("DELETE", `/api/v1/messages/${ids[0]}`)).status, 401);
  assert.equal((await s.request("GET", `/api/v1/messages/${ids[0]}`, { token: s.token("alice") })).status, 405);
  // One's own copy, then nothing is left to delete.
  assert.deepEqual((await drop(s, "carol", ids[0])).body, { rowsAffected: 1 });
  assert.equal((await drop(s, "carol", ids[0], "?for=everyone")).status, 404);
  assert.equal((await drop(s, "bob", own, "?for=everyone")).status, 200);
  assert.equal((await drop(s, "carol", ids[1], "?for=everyone")).status, 200);
  assert.equal((await drop(s, "alice", ids[2], "?for=everyone")).status, 200);
  assert.equal((await drop(s, "backend", ids[3], "?for=everyone&userId=bob", "service")).status, 200);
  for (const user of people) assert.deepEqual(await rows(s, user, "SELECT msg_id FROM messages"), user === "carol" ? [] : [[ids[0]]]);
});

test("edits and deletions for everyone reach consolidated copies", async () => {
  const s = await Server.start({ KALAMDB_HOT_TAIL_ROWS: "2" });
  await group(s);
  const ids: number[] = [];
  for (let i = 0; i < 30; i++) ids.push(await s.say(people[i % 3], "g", `m${i}`));
  await s.consolidate();
  const large = "é".repeat(60000);
  await s.sql("alice", "UPDATE messages SET content = $2 WHERE msg_id = $1", [ids[3], "edited cold"]);
  await s.sql("alice", "UPDATE messages SET content = $2 WHERE msg_id = $1", [ids[4], large]);
  for (const id of [ids[0], ids[29], ids[10]]) assert.equal((await drop(s, "alice", id, "?for=everyone")).status, 200);
  await s.consolidate();
  await s.stop();
  await s.up();
  for (const user of people) {
    assert.deepEqual(await rows(s, user, "SELECT content FROM messages WHERE content LIKE 'edited%'"), [["edited cold"]]);
    const [[length, ref]] = await rows(s, user, `SELECT length(content), content_ref FROM messages WHERE msg_id = ${ids[4]}`);
    assert.deepEqual([length, ref], [512, (await rows(s, "alice", `SELECT content_ref FROM messages WHERE msg_id = ${ids[4]}`))[0][0]]);
    assert.match(ref, /^shared\/conversations\/g\/msg-\d+\.bin$/);
    assert.deepEqual(
      await rows(s, user, "SELECT total_messages, first_msg_id, last_msg_id FROM conversations"),
      await rows(s, user, "SELECT count(*), min(msg_id), max(msg_id) FROM messages"),
    );
    assert.deepEqual(await rows(s, user, "SELECT count(*), min(msg_id), max(msg_id) FROM messages"), [[27, ids[1], ids[28]]]);
  }
});

test("an inbox by unread counts, without a scan", async () => {
  const s = await Server.start();
  await group(s);
  await s.sql("backend", "INSERT INTO alice.messages (conversation_id, \"from\", content) VALUES ('bot', 'assistant', 'hello'), ('bot', 'assistant', 'anybody there?')", [], "service");
  await s.say("bob", "g", "hi");
  const mine = await s.say("alice", "g", "hello");
  const last = await s.say("carol", "g", "how are you");
  const inbox = "SELECT conversation_id, title, last_msg_id, _unread FROM conversations ORDER BY last_msg_id DESC";
  assert.deepEqual((await rows(s, "alice", inbox)).map((r) => [r[0], r[1], r[3]]), [["g", "G", 2], ["bot", null, 2]]);
  await s.sql("alice", "UPDATE conversation_users SET last_read_msg_id = $1 WHERE conversation_id = 'g' AND user_id = 'alice'", [mine]);
  assert.deepEqual((await rows(s, "alice", inbox)).map((r) => r[3]), [1, 2]);
  await s.sql("backend", "UPDATE alice.conversation_users SET last_read_msg_id = $1 WHERE conversation_id = 'g' AND user_id = 'alice'", [last], "service");
  assert.deepEqual((await rows(s, "alice", inbox)).map((r) => r[3]), [0, 2]);
});

async function progress(s: Server, user: string): Promise<any> {
  const [[metadata]] = await rows(s, user, `SELECT metadata FROM conversation_users WHERE user_id = '${user}'`);
  return metadata?.history;
}

test("a shared history arrives whole, once, across SIGKILL", async () => {
  const s = await Server.start({ KALAMDB_CONSOLIDATE_INTERVAL_MS: "200", KALAMDB_CONSOLIDATE_ROWS: "3000" });
  const total = 15000;
  await group(s, { history: "shared" });
  for (let i = 0; i < total; i += 500) {
    const values = Array.from({ length: 500 }, (_, k) => `('g', 'message ${i + k}')`).join(",");
    await s.sql(people[(i / 500) % 3], `INSERT INTO messages (conversation_id, content) VALUES ${values}`);
  }
  await s.sql("alice", "INSERT INTO conversation_users (conversation_id, user_id) VALUES ('g', 'dan'), ('g', 'eve')");
  let live = 0;
  for (let kills = 0; kills < 3; ) {
    const p = await progress(s, "dan");
    if (p.state === "complete") {
      assert.ok(kills > 0, "complete before the first kill");
      break;
    }
    if (p.copied === 0 && kills === 0) continue;
    await s.say("bob", "g", `live ${live++}`);
    await s.kill();
    await s.up();
    kills++;
  }
  for (const user of ["dan", "eve"]) {
    for (const end = Date.now() + 60000; (await progress(s, user)).state !== "complete"; await new Promise((done) => setTimeout(done, 50)))
      assert.ok(Date.now() < end, JSON.stringify(await progress(s, user)));
    assert.deepEqual(await progress(s, user), { state: "complete", copied: total, total });
    const [[n, ids, seqs, last]] = await rows(s, user, "SELECT count(*), count(DISTINCT msg_id), count(DISTINCT _seq), max(_seq) FROM messages");
    assert.deepEqual([n, ids, seqs, last], [total + live, total + live, total + live, total + live]);
    const differ = await s.sql(
      "backend",
      `SELECT count(*) FROM ${user}.messages x FULL JOIN alice.messages a ON a.msg_id = x.msg_id AND a.content = x.content AND a."from" = x."from" WHERE a.msg_id IS NULL OR x.msg_id IS NULL`,
      [],
      "service",
    );
    assert.deepEqual(differ.rows, [[0]]);
    assert.deepEqual(await rows(s, user, "SELECT total_messages, _unread FROM conversations"), [[total + live, live]]);
  }
});

test("a history brings no second message under an id that the joiner has", async () => {
  for (const cold of [false, true]) {
    const s = await Server.start({ KALAMDB_HOT_TAIL_ROWS: "0" });
    await group(s, { history: "shared" });
    for (const [user, id] of [["dan", "diary"], ["alice", "g"]])
      await s.sql("backend", `INSERT INTO ${user}.messages (msg_id, conversation_id, "from", content) VALUES (7, $1, 'x', $2)`, [id, `${user}'s`], "service");
    const last = await s.say("alice", "g", "last");
    if (cold) await s.consolidate();
    await s.sql("alice", "INSERT INTO conversation_users (conversation_id, user_id) VALUES ('g', 'dan')");
    const state = async () => (await rows(s, "dan", "SELECT metadata FROM conversation_users WHERE conversation_id = 'g' AND user_id = 'dan'"))[0][0].history.state;
    for (const end = Date.now() + 10000; (await state()) !== "complete"; ) assert.ok(Date.now() < end);
    assert.deepEqual(await rows(s, "dan", "SELECT msg_id, content FROM messages ORDER BY 1"), [[7, "dan's"], [last, "last"]], `cold: ${cold}`);
    await s.destroy();
  }
});

test("a message of another conversation under the same id is not a copy", async () => {
  for (const cold of [false, true]) {
    const s = await Server.start({ KALAMDB_HOT_TAIL_ROWS: "0" });
    await group(s);
    // Supplied ids: dan has a 7 and an 8 of his own, and joins a group that has others. 5 and 9 are in his copy's range.
    const bring = (user: string, id: string, msg: number, content: string) =>
      s.sql("backend", `INSERT INTO ${user}.messages (msg_id, conversation_id, "from", content) VALUES ($1, $2, 'alice', $3)`, [msg, id, content], "service");
    for (const msg of [7, 8]) {
      await bring("dan", "diary", msg, `dan's ${msg}`);
      await bring("alice", "g", msg, `alice's ${msg}`);
    }
    await s.sql("alice", "INSERT INTO conversation_users (conversation_id, user_id) VALUES ('g', 'dan')");
    await bring("alice", "g", 5, "five");
    await bring("alice", "g", 9, "nine");
    if (cold) await s.consolidate();
    await s.sql("alice", "UPDATE messages SET content = 'edited' WHERE msg_id = 7");
    assert.equal((await drop(s, "alice", 8, "?for=everyone")).status, 200);
    assert.deepEqual(await rows(s, "dan", "SELECT msg_id, conversation_id, content FROM messages ORDER BY 1"), [[5, "g", "five"], [7, "diary", "dan's 7"], [8, "diary", "dan's 8"], [9, "g", "nine"]], `cold: ${cold}`);
    assert.deepEqual(await rows(s, "carol", "SELECT msg_id, content FROM messages ORDER BY 1"), [[5, "five"], [7, "edited"], [9, "nine"]], `cold: ${cold}`);
    await s.destroy();
  }
});
