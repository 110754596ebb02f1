// Groups as applications use them: made, written to, joined and left; who may do what; and no message in some
// copies only, whenever the server dies.
import assert from "node:assert/strict";
import { before, describe, it } from "node:test";
import { Server, type Socket } from "./harness.ts";
import { random } from "./crash.ts";

let s: Server;
let n = 0;
/** A conversation id that no other test uses. */
const fresh = (): string => `g${++n}`;

before(async () => {
  s = await Server.start({ KALAMDB_MAX_GROUP_MEMBERS: "8" });
});

async function refused(user: string, sql: string, status: number, code: string, role = "user"): Promise<any> {
  const answer = await s.query(user, sql, undefined, role);
  assert.deepEqual([answer.status, answer.body.error], [status, code], `${sql}: ${JSON.stringify(answer.body)}`);
  return answer.body;
}

const create = (user: string, body: any, role = "user") => s.request("POST", "/api/v1/conversations", { token: s.token(user, role), body });

async function made(user: string, members: any[], more: any = {}): Promise<string> {
  const id = fresh();
  const answer = await create(user, { conversation_id: id, conversation_type: "group", members, ...more });
  assert.equal(answer.status, 201, JSON.stringify(answer.body));
  return id;
}

const texts = async (user: string, id: string): Promise<string[]> =>
  (await s.sql(user, "SELECT content FROM messages WHERE conversation_id = $1 ORDER BY msg_id", [id])).rows.map((row: any[]) => row[0]);

const members = async (user: string, id: string): Promise<string[]> =>
  (await s.sql(user, "SELECT user_id, role FROM conversation_users WHERE conversation_id = $1 ORDER BY user_id", [id])).rows.map((row: any[]) => row.join(":"));

const add = (user: string, id: string, who: string, role?: string) =>
  s.sql(user, role === undefined ? "INSERT INTO conversation_users (conversation_id, user_id) VALUES ($1, $2)" : "INSERT INTO conversation_users (conversation_id, user_id, role) VALUES ($1, $2, $3)", role === undefined ? [id, who] : [id, who, role]);

const remove = (user: string, id: string, who: string) => s.sql(user, "DELETE FROM conversation_users WHERE conversation_id = $1 AND user_id = $2", [id, who]);

describe("making a group", () => {
  it("takes one request, with its members", async () => {
    const id = fresh();
    const answer = await create("ann", { conversation_id: id, conversation_type: "group", title: "Trip", metadata: { colour: "blue" }, members: ["ben", { user_id: "cat", role: "admin" }] });
    assert.equal(answer.status, 201);
    assert.deepEqual(Object.keys(answer.body), ["conversation_id", "conversation_type", "title", "first_msg_id", "last_msg_id", "total_messages", "created", "updated", "metadata"]);
    assert.deepEqual([answer.body.conversation_id, answer.body.conversation_type, answer.body.title, answer.body.total_messages, answer.body.metadata], [id, "group", "Trip", 0, { colour: "blue" }]);
    assert.match(answer.body.created, /^\d{4}-\d\d-\d\dT.*Z$/);
    for (const user of ["ann", "ben", "cat"]) {
      assert.deepEqual(await members(user, id), ["ann:owner", "ben:member", "cat:admin"]);
      assert.deepEqual((await s.sql(user, "SELECT title, metadata, conversation_type FROM conversations WHERE conversation_id = $1", [id])).rows, [["Trip", { colour: "blue" }, "group"]]);
    }
    assert.equal((await create("ann", { conversation_id: id, conversation_type: "group" })).status, 409);
    assert.equal((await create("dan", { conversation_id: id, conversation_type: "group" })).status, 409);
    assert.equal((await create("dan", { conversation_id: id })).status, 409);
    assert.equal((await create("dan", { conversation_id: id, conversation_type: "ai" })).status, 201);
  });

  it("takes one statement as well", async () => {
    const [a, b, c] = [fresh(), fresh(), fresh()];
    const rows = await s.sql("ann", `INSERT INTO conversation_users (conversation_id, user_id, role) VALUES ('${a}', 'ben', NULL), ('${a}', 'cat', 'admin') RETURNING user_id, role, joined`);
    assert.equal(rows.rowsAffected, 2);
    assert.deepEqual(rows.rows.map((row: any[]) => row.slice(0, 2)), [["ben", "member"], ["cat", "admin"]]);
    assert.deepEqual(await members("cat", a), ["ann:owner", "ben:member", "cat:admin"]);
    await s.sql("ann", `INSERT INTO conversations (conversation_id, conversation_type, title) VALUES ('${b}', 'group', 'B')`);
    assert.deepEqual(await members("ann", b), ["ann:owner"]);
    await s.sql("ann", `INSERT INTO conversations (conversation_id, conversation_type, content) VALUES ('${c}', 'group', 'first words')`);
    assert.deepEqual([await members("ann", c), await texts("ann", c)], [["ann:owner"], ["first words"]]);
    // Members from a query: the people of one group into another.
    await s.sql("ann", `INSERT INTO conversation_users (conversation_id, user_id) SELECT '${b}', user_id FROM conversation_users WHERE conversation_id = '${a}' AND user_id <> 'ann'`);
    assert.deepEqual(await members("ben", b), ["ann:owner", "ben:member", "cat:member"]);
  });

  it("is refused with a reason", async () => {
    const mine = fresh();
    await s.say("eve", mine, "an ai conversation of hers");
    const body = (await create("ann", { conversation_id: mine, conversation_type: "group", members: ["eve"] })).body;
    assert.equal(body.error, "CONFLICT");
    assert.match(body.message, /"eve" has an own conversation/);
    assert.equal((await s.sql("ann", "SELECT count(*) FROM conversations WHERE conversation_id = $1", [mine])).rows[0][0], 0);
    const many = Array.from({ length: 8 }, (_, i) => `m${i}`);
    const large = await create("ann", { conversation_id: fresh(), conversation_type: "group", members: many });
    assert.deepEqual([large.status, large.body.error], [400, "CONSTRAINT_VIOLATION"]);
    assert.match(large.body.message, /at most 8 members \(max_group_members\)/);
    assert.equal((await create("ann", { conversation_id: fresh(), conversation_type: "group", members: ["assistant"] })).status, 400);
    assert.equal((await create("ann", { conversation_type: "group" })).status, 400);
    assert.equal((await create("ann", { conversation_id: fresh(), userId: "ben" })).status, 403);
    const ai = fresh();
    assert.deepEqual((await create("ann", { conversation_id: ai, conversation_type: "ai", members: ["ben"] })).body.error, "INVALID_REQUEST");
    assert.equal((await create("ann", { conversation_id: ai, conversation_type: "ai", members: ["ann"] })).status, 201);
    const other = fresh();
    assert.equal((await create("backend", { conversation_id: other, userId: "ben", members: ["ann"] }, "service")).status, 201);
    assert.deepEqual(await members("ann", other), ["ann:member", "ben:owner"]);
  });
});

describe("a message to a group", () => {
  it("is in every member's tables, under one id and everybody's own numbers", async () => {
    const id = await made("ann", ["ben", "cat"]);
    const before = (await s.sql("ben", "SELECT coalesce(max(_seq), 0) FROM messages")).rows[0][0];
    const sent = await s.sql("ann", "INSERT INTO messages (conversation_id, content) VALUES ($1, 'one'), ($1, 'two') RETURNING msg_id, conversation_type, _seq", [id]);
    assert.equal(sent.rowsAffected, 2);
    const ids = sent.rows.map((row: any[]) => row[0]);
    assert.deepEqual(sent.insertedIds, ids);
    assert.equal(sent.rows[1][1], "group");
    assert.equal(sent.rows[1][2], sent.rows[0][2] + 1);
    for (const user of ["ann", "ben", "cat"]) {
      const rows = (await s.sql(user, "SELECT msg_id, content, from FROM messages WHERE conversation_id = $1 ORDER BY 1", [id])).rows;
      assert.deepEqual(rows, [[ids[0], "one", "ann"], [ids[1], "two", "ann"]]);
      assert.deepEqual((await s.sql(user, "SELECT total_messages, first_msg_id, last_msg_id FROM conversations WHERE conversation_id = $1", [id])).rows, [[2, ids[0], ids[1]]]);
    }
    assert.deepEqual((await s.sql("ben", "SELECT _seq FROM messages WHERE conversation_id = $1 ORDER BY 1", [id])).rows, [[before + 1], [before + 2]]);
  });

  it("reaches the sockets of all of them", async () => {
    const id = await made("ann", ["ben", "cat"]);
    const people = ["ann", "ben", "cat"];
    const sockets: Socket[] = [];
    for (const user of people) {
      const ws = await s.socket(user);
      await ws.subscribe({ conversationId: id });
      sockets.push(ws);
    }
    const first = await s.say("ben", id, "hello");
    for (const ws of sockets) {
      const frame = await ws.next();
      assert.deepEqual([frame.type, frame.op, frame.message.msg_id, frame.message.from, frame.message.content], ["message", "insert", first, "ben", "hello"]);
    }
    // Who joins is told of; who is removed hears of it, and of nothing after.
    await add("ann", id, "dan");
    for (const ws of sockets) assert.equal((await ws.next()).type, "conversation");
    await remove("ann", id, "cat");
    for (const ws of sockets) assert.equal((await ws.next()).type, "conversation");
    const second = await s.say("ann", id, "without cat");
    for (const ws of sockets.slice(0, 2)) assert.equal((await ws.next()).message.msg_id, second);
    sockets[2].send({ type: "ping", id: "p" });
    assert.equal((await sockets[2].next()).type, "pong");
    for (const ws of sockets) ws.close();
  });

  it("is refused when its copies would fill the server's memory, which goes on", async () => {
    const id = await made("ann", ["ben", "cat", "dan", "eve", "ida", "jon", "kim"]);
    const text = "x".repeat(100000);
    const values = Array.from({ length: 700 }, () => "($1, $2)").join(", ");
    const body = (await s.query("ann", `INSERT INTO messages (conversation_id, content) VALUES ${values}`, [id, text])).body;
    assert.deepEqual([body.error, body.message], ["TOO_LARGE", "the statement would write over 512 MiB"]);
    assert.deepEqual(await texts("ben", id), []);
    await s.say("ben", id, "small");
    assert.deepEqual(await texts("ann", id), ["small"]);
  });

  it("is sent once, however often it is tried", async () => {
    const id = await made("ann", ["ben"]);
    const first = await s.say("ann", id, "x", { client_msg_id: "k" });
    const again = await s.sql("ann", "INSERT INTO messages (conversation_id, content, client_msg_id) VALUES ($1, 'y', 'k')", [id]);
    assert.deepEqual([again.rowsAffected, again.insertedId], [0, first]);
    assert.notEqual(await s.say("ben", id, "z", { client_msg_id: "k" }), first);
    assert.deepEqual(await texts("ben", id), ["x", "z"]);
  });

  it("is refused to those outside, and under other names", async () => {
    const id = await made("ann", ["ben"]);
    const body = await refused("eve", `INSERT INTO messages (conversation_id, content) VALUES ('${id}', 'x')`, 403, "FORBIDDEN");
    assert.match(body.message, /no member/);
    await refused("eve", `INSERT INTO messages (conversation_id, conversation_type, content) VALUES ('${id}', 'group', 'x')`, 403, "FORBIDDEN");
    await refused("ann", `INSERT INTO messages (conversation_id, from, content) VALUES ('${id}', 'assistant', 'x')`, 403, "FORBIDDEN");
    await refused("ann", `INSERT INTO messages (conversation_id, from, content) VALUES ('${id}', 'ben', 'x')`, 403, "FORBIDDEN");
    await refused("backend", `INSERT INTO messages (conversation_id, content) VALUES ('${id}', 'x')`, 403, "FORBIDDEN", "service");
    await s.sql("backend", `INSERT INTO ann.messages (conversation_id, from, content) VALUES ('${id}', 'assistant:gpt', 'for all')`, undefined, "service");
    assert.deepEqual(await texts("ben", id), ["for all"]);
    // An id that one recipient has is taken for all.
    await s.sql("backend", "INSERT INTO ben.messages (msg_id, conversation_id, content) VALUES (77, 'old', 'x')", undefined, "service");
    const taken = `INSERT INTO ann.messages (msg_id, conversation_id, content) VALUES (77, '${id}', 'x')`;
    await refused("backend", taken, 409, "CONFLICT", "service");
    await s.consolidate("ben"); // … also once a file has it
    await refused("backend", taken, 409, "CONFLICT", "service");
    await s.sql("backend", `INSERT INTO ann.messages (msg_id, conversation_id, content) VALUES (76, '${id}', 'early')`, undefined, "service");
    assert.deepEqual(await texts("ben", id), ["early", "for all"]);
  });
});

describe("members", () => {
  it("see what is sent from their joining on, until they leave", async () => {
    const id = await made("ann", ["ben"]);
    await s.say("ann", id, "1");
    await add("ann", id, "cat");
    await s.say("ben", id, "2");
    await remove("cat", id, "cat");
    await s.say("ben", id, "3");
    assert.deepEqual(await texts("cat", id), ["2"]);
    assert.deepEqual(await members("cat", id), []);
    await refused("cat", `INSERT INTO messages (conversation_id, content) VALUES ('${id}', 'x')`, 403, "FORBIDDEN");
    await add("ann", id, "cat");
    await s.say("cat", id, "4");
    assert.deepEqual(await texts("cat", id), ["2", "4"]);
    assert.deepEqual(await texts("ann", id), ["1", "2", "3", "4"]);
  });

  it("come and go by rank", async () => {
    const id = await made("ann", [{ user_id: "ben", role: "admin" }, "cat"]);
    const insert = (who: string, role: string) => `INSERT INTO conversation_users (conversation_id, user_id, role) VALUES ('${id}', '${who}', '${role}')`;
    const drop = (who: string) => `DELETE FROM conversation_users WHERE conversation_id = '${id}' AND user_id = '${who}'`;
    await refused("cat", insert("dan", "member"), 403, "FORBIDDEN");
    await refused("ben", insert("dan", "owner"), 403, "FORBIDDEN");
    await refused("eve", insert("eve", "owner"), 403, "FORBIDDEN");
    await refused("ann", insert("dan", "boss"), 400, "CONSTRAINT_VIOLATION");
    await s.sql("ben", insert("dan", "admin"));
    await refused("ben", insert("dan", "member"), 409, "CONFLICT");
    await refused("cat", drop("ben"), 403, "FORBIDDEN");
    await refused("ben", drop("ann"), 403, "FORBIDDEN");
    // One row that is forbidden forbids the statement.
    await refused("ben", `DELETE FROM conversation_users WHERE conversation_id = '${id}'`, 403, "FORBIDDEN");
    assert.deepEqual(await members("cat", id), ["ann:owner", "ben:admin", "cat:member", "dan:admin"]);
    assert.equal((await s.sql("ben", drop("dan"))).rowsAffected, 1);
    assert.equal((await s.sql("ben", drop("dan"))).rowsAffected, 0);
    const left = await s.sql("ann", `${drop("ann")} RETURNING user_id, role`);
    assert.deepEqual(left.rows, [["ann", "owner"]]);
    assert.deepEqual(await members("cat", id), ["ben:owner", "cat:member"]);
    // The last one out: the id is free.
    await s.sql("ben", `DELETE FROM conversation_users WHERE conversation_id = '${id}'`);
    assert.equal((await create("eve", { conversation_id: id, conversation_type: "group" })).status, 201);
    await refused("ben", `INSERT INTO messages (conversation_id, content) VALUES ('${id}', 'x')`, 403, "FORBIDDEN");
  });

  it("are found by full SQL as well, beside ai conversations", async () => {
    const id = await made("fay", ["gus"]);
    await s.say("fay", "diary", "x");
    const rows = (await s.sql("fay", "SELECT conversation_id, string_agg(user_id, '+' ORDER BY user_id) FROM conversation_users GROUP BY 1 ORDER BY 1")).rows;
    assert.deepEqual(rows, [["diary", "fay"], [id, "fay+gus"]]);
    const joined = await s.sql("gus", "SELECT c.conversation_type, count(*) FROM conversations c JOIN conversation_users u USING (conversation_id) WHERE conversation_id = $1 GROUP BY 1", [id]);
    assert.deepEqual(joined.rows, [["group", 2]]);
    assert.deepEqual((await s.sql("gus", "SELECT upper(user_id) FROM conversation_users WHERE conversation_id = $1 ORDER BY 1", [id])).rows, [["FAY"], ["GUS"]]);
  });
});

it("loses no copy and makes no half ones over SIGKILLs", { timeout: 120000 }, async (t) => {
  const rng = random(Number(process.env.KALAMDB_TEST_SEED ?? Date.now() % 1000000));
  const server = await Server.start({
    KALAMDB_CONSOLIDATE_ROWS: "300",
    KALAMDB_CONSOLIDATE_MIN_ROWS: "50",
    KALAMDB_CONSOLIDATE_INTERVAL_MS: "300",
    KALAMDB_HOT_TAIL_ROWS: "8",
    KALAMDB_MAX_RESULT_ROWS: "10000000",
  });
  const people = ["ann", "ben", "cat", "dan", "eve"];
  const groups: Record<string, string[]> = { all: people, few: ["ann", "ben"], three: ["cat", "dan", "eve"] };
  for (const [id, list] of Object.entries(groups))
    await server.request("POST", "/api/v1/conversations", { token: server.token(list[0]), body: { conversation_id: id, conversation_type: "group", members: list.slice(1) } });
  const acknowledged = new Map<number, string>();
  const open = new Map<string, { user: string; id: string }>();
  let no = 0;
  for (let round = 0; round < 4; round++) {
    let down = false;
    const writing = people.flatMap((user) =>
      [0, 1].map(async () => {
        for (;;) {
          const mine = Object.keys(groups).filter((id) => groups[id].includes(user));
          const id = mine[Math.floor(rng() * mine.length)];
          const key = `k${no++}`;
          open.set(key, { user, id });
          try {
            acknowledged.set(await server.say(user, id, `${user} to ${id}: ${key}`, { client_msg_id: key }), id);
            open.delete(key);
          } catch (error) {
            if (!down) throw error;
            return;
          }
        }
      }),
    );
    await new Promise((done) => setTimeout(done, 200 + rng() * 800));
    down = true;
    await server.kill();
    await Promise.all(writing);
    await server.up();
    const tables = new Map<string, any[][]>();
    for (const user of people) {
      const { rows } = await server.sql(user, "SELECT msg_id, conversation_id, content, _seq FROM messages ORDER BY _seq");
      rows.forEach((row: any[], i: number) => assert.equal(row[3], i + 1, `${user}: a gap in _seq`));
      tables.set(user, rows);
      const sums = (await server.sql(user, "SELECT conversation_id, total_messages FROM conversations")).rows;
      for (const [id, total] of sums) assert.equal(total, rows.filter((row: any[]) => row[1] === id).length, `${user}: total of ${id}`);
    }
    for (const [id, list] of Object.entries(groups)) {
      const copies = list.map((user) => tables.get(user)!.filter((row) => row[1] === id).map((row) => `${row[0]} ${row[2]}`).sort());
      for (let i = 1; i < list.length; i++) assert.deepEqual(copies[i], copies[0], `${list[i]} and ${list[0]} differ in ${id}`);
      const ids = new Set(copies[0].map((line) => Number(line.split(" ")[0])));
      for (const [msg, group] of acknowledged) if (group === id) assert.ok(ids.has(msg), `${msg} was acknowledged and is gone`);
    }
    // What was under way is there or not, and a retry settles it, once.
    for (const [key, { user, id }] of open) {
      acknowledged.set(await server.say(user, id, `${user} to ${id}: ${key}`, { client_msg_id: key }), id);
      assert.equal((await server.sql(people.find((p) => groups[id].includes(p))!, "SELECT count(*) FROM messages WHERE client_msg_id = $1", [key])).rows[0][0], 1);
      open.delete(key);
    }
    t.diagnostic(`round ${round + 1}: ${acknowledged.size} messages`);
  }
  await server.destroy();
});
