// DELETE /api/v1/users/<id>: what is gone, what stays, who is locked out, and what the receipt proves.
import { test } from "node:test";
import assert from "node:assert/strict";
import { createPublicKey, verify } from "node:crypto";
import { execFileSync, spawnSync } from "node:child_process";
import { readdirSync, readFileSync, statSync, writeFileSync, existsSync } from "node:fs";
import { join } from "node:path";
import { binary, repo, Server, temporaryFolder } from "./harness.ts";

const secret = { KALAMDB_CONSOLIDATE_INTERVAL_MS: "0" };

/** Paths of files below `dir` that hold one of the texts. */
export function grep(dir: string, texts: string[]): string[] {
  const found: string[] = [];
  for (const name of readdirSync(dir)) {
    const path = join(dir, name);
    const stat = statSync(path, { throwIfNoEntry: false });
    if (stat === undefined) continue;
    if (stat.isDirectory()) {
      found.push(...grep(path, texts));
      continue;
    }
    const bytes = readFileSync(path);
    if (texts.some((t) => bytes.includes(t))) found.push(path);
  }
  return found;
}

/** Parquet files below `dir` in which the text stands, decoded. */
function inParquet(dir: string, text: string): string[] {
  return readdirSync(dir, { recursive: true, encoding: "utf8" }).filter((name) => {
    if (!name.endsWith(".parquet")) return false;
    const sql = `SELECT count(*) FROM '${join(dir, name)}' t WHERE contains(t::VARCHAR, '${text}')\n`;
    const run = spawnSync(process.env.KALAMDB_DUCK ?? join(repo, "build/tests/e2e/duck"), { input: sql, encoding: "utf8" });
    return JSON.parse(run.stdout)[0][0] !== "0";
  });
}

function mint(server: Server, user: string, role = "user"): string {
  return execFileSync(binary, ["token", "--data", server.data, "--user", user, "--role", role], {
    env: { ...process.env, ...server.env },
    encoding: "utf8",
    stdio: ["ignore", "pipe", "ignore"],
  }).trim();
}

function erase(server: Server, user: string, token: string) {
  return server.request("DELETE", `/api/v1/users/${encodeURIComponent(user)}`, { token });
}

/** Waits for the next second, whose tokens are younger than an erasure now. */
async function nextSecond(): Promise<void> {
  const second = Math.floor(Date.now() / 1000);
  while (Math.floor(Date.now() / 1000) === second) await new Promise((done) => setTimeout(done, 20));
}

function receiptText(r: any): string {
  return (
    `kalamdb erasure receipt 1\nuser: ${r.user}\nerasedAt: ${r.erasedAt}\nmessages: ${r.messages}\n` +
    `files: ${r.files}\nbytes: ${r.bytes}\nbackups: ${r.backups}\n`
  );
}

function receiptHolds(r: any): boolean {
  const der = Buffer.concat([Buffer.from("302a300506032b6570032100", "hex"), Buffer.from(r.key, "base64")]);
  const key = createPublicKey({ key: der, format: "der", type: "spki" });
  return verify(null, Buffer.from(receiptText(r)), key, Buffer.from(r.signature, "base64"));
}

// Both ways: without encryption the disk is searched for bytes that were there, with it the receipt covers backups.
for (const encryption of ["on", "off"]) test(`rows of both tiers, tokens, sockets, receipt; the id comes back as somebody else (encryption ${encryption})`, async () => {
  const server = await Server.start({ ...secret, KALAMDB_ENCRYPTION: encryption });
  const plain = encryption === "off";
  const old = server.token("alice");
  const secretText = (i: number) => `the-secret-of-alice-${i}-${"x".repeat(30)}`;
  for (let i = 0; i < 30; i++) await server.say("alice", `talk-${i % 3}`, secretText(i), { client_msg_id: `c${i}` });
  await server.consolidate("alice");
  for (let i = 30; i < 40; i++) await server.say("alice", "talk-0", secretText(i));
  await server.sql("alice", "UPDATE conversations SET title = 'alices-private-title' WHERE conversation_id = 'talk-1'");
  await server.say("bob", "own", "bob stays");
  assert.equal(inParquet(server.data, "the-secret-of-alice").length, plain ? 1 : 0); // the search itself works
  assert.equal(readdirSync(join(server.data, "alice")).filter((name) => name.endsWith(plain ? ".parquet" : ".parquet.enc")).length, 1);
  const texts = ["the-secret-of-alice", "alices-private-title"];
  assert.equal(grep(server.data, texts).length > 0, plain);

  const idle = await server.socket("alice");
  const live = await server.socket("alice");
  const first = await live.subscribe();
  const service = await server.socket("worker", { role: "service" });
  await service.subscribe({ id: "a", userId: "alice" });
  await service.subscribe({ id: "b", userId: "bob" });

  // Who may.
  assert.equal((await erase(server, "alice", server.token("bob"))).status, 403);
  assert.equal((await erase(server, "alice", server.token("worker", "service"))).status, 403);
  assert.equal((await erase(server, "alice", "nonsense")).status, 401);
  assert.equal((await erase(server, "nobody", server.token("root", "admin"))).status, 404);
  assert.equal((await erase(server, "deleted_user", server.token("root", "admin"))).status, 400);
  const wrong = await server.request("GET", "/api/v1/users/alice", { token: old });
  assert.equal(wrong.status, 405);
  assert.equal(wrong.headers.get("allow"), "DELETE, OPTIONS");

  const before = Date.now();
  const answer = await erase(server, "alice", old);
  assert.equal(answer.status, 200, JSON.stringify(answer.body));
  const r = answer.body;
  assert.equal(r.user, "alice");
  assert.equal(r.messages, 40);
  assert.equal(r.files, 1);
  assert.ok(r.bytes > 40 * 50);
  assert.equal(r.backups, plain ? "not covered" : "covered");
  assert.ok(Date.parse(r.erasedAt) >= before - 1 && Date.parse(r.erasedAt) <= Date.now());
  assert.ok(receiptHolds(r));
  assert.ok(!receiptHolds({ ...r, messages: 41 }));

  // Nothing is left on the disk.
  assert.deepEqual(grep(server.data, texts), []);
  assert.ok(!existsSync(join(server.data, "alice")));

  // Sockets.
  assert.deepEqual(await idle.closing(), { code: 4401, reason: "the user was erased" });
  assert.equal((await live.closing()).code, 4401);
  const ended = await service.next();
  assert.equal(ended.type, "error");
  assert.equal(ended.code, "INVALID_SUBSCRIPTION");
  assert.equal(ended.id, "a");
  await server.say("bob", "own", "still here");
  const next = await service.next();
  assert.equal(next.id, "b");
  assert.equal(next.message.content, "still here");

  // Tokens: the old one is void, for requests and sockets; the receipt is there again for an admin.
  const refused = await server.request("POST", "/api/v1/query", { token: old, body: { sql: "SELECT 1" } });
  assert.equal(refused.status, 401);
  const locked = await server.socket("alice", { query: `?token=${old}` });
  assert.equal((await locked.closing()).code, 4401);
  const again = await erase(server, "alice", server.token("root", "admin"));
  assert.equal(again.status, 200);
  assert.deepEqual(again.body, r);
  const asService = await server.sql("worker", 'SELECT count(*) FROM "alice".messages', [], "service");
  assert.deepEqual(asService.rows, [[0]]);

  // The same after a restart.
  await server.stop();
  await server.up();
  assert.equal((await server.request("POST", "/api/v1/query", { token: old, body: { sql: "SELECT 1" } })).status, 401);

  // Comes back with a new token: empty, with another feed.
  await nextSecond();
  const fresh = mint(server, "alice");
  const empty = await server.request("POST", "/api/v1/query", { token: fresh, body: { sql: "SELECT count(*) FROM messages" } });
  assert.deepEqual(empty.body.rows, [[0]]);
  const back = await server.socket("alice", { query: `?token=${fresh}` });
  const ack = await back.subscribe({ lastSeq: 3, feed: first.feed });
  assert.equal(ack.resync, true);
  assert.notEqual(ack.feed, first.feed);
  assert.equal(ack.seq, 0);
  // Who only looked did not come back; who wrote is erased again.
  assert.deepEqual((await erase(server, "alice", server.token("root", "admin"))).body, r);
  const said = await server.request("POST", "/api/v1/query", {
    token: fresh,
    body: { sql: "INSERT INTO messages (conversation_id, content, client_msg_id) VALUES ('talk-0', 'anew', 'c0')" },
  });
  assert.equal(said.body.rowsAffected, 1);
  const second = await erase(server, "alice", server.token("root", "admin"));
  assert.equal(second.body.messages, 1);
  assert.ok(second.body.erasedAt > r.erasedAt);
  assert.equal(second.body.key, r.key);
  await server.destroy();
});

test("a receipt is checked by the program, and a changed one is not believed", async () => {
  const server = await Server.start(secret);
  await server.say("al\u00edce \"q\"", "c", "hello");
  const answer = await erase(server, 'al\u00edce "q"', server.token("root", "admin"));
  assert.equal(answer.status, 200);
  assert.ok(receiptHolds(answer.body));
  assert.equal(statSync(join(server.data, ".kalamdb/receipt.key")).mode & 0o777, 0o600);
  const dir = temporaryFolder();
  const good = join(dir, "receipt.json");
  writeFileSync(good, JSON.stringify(answer.body, null, 2));
  const check = (...args: string[]) => spawnSync(binary, ["verify-receipt", ...args], { encoding: "utf8" });
  let run = check(good, "--data", server.data);
  assert.equal(run.status, 0, run.stderr);
  assert.match(run.stdout, /user: alíce "q"/);
  assert.equal(check(good, "--key", answer.body.key).status, 0);
  run = check(good);
  assert.equal(run.status, 0);
  assert.match(run.stderr, /its own word/);
  writeFileSync(good, JSON.stringify({ ...answer.body, messages: 2 }));
  run = check(good, "--data", server.data);
  assert.equal(run.status, 1);
  assert.match(run.stderr, /was changed/);
  const other = Buffer.alloc(32, 7).toString("base64");
  writeFileSync(good, JSON.stringify(answer.body));
  assert.equal(check(good, "--key", other).status, 1);
  assert.equal(check(good, "--key", "zz").status, 2);
  writeFileSync(good, "{}");
  assert.equal(check(good).status, 2);
  await server.destroy();
});

for (const encryption of ["on", "off"]) test(`killed in the middle: the next start finishes it (encryption ${encryption})`, async () => {
  const server = await Server.start({ ...secret, KALAMDB_ENCRYPTION: encryption });
  const old = server.token("alice");
  for (let k = 0; k < 4; k++) {
    const rows = Array.from({ length: 2000 }, (_, i) => `('talk', 'killed-secret-${k}-${i}')`).join(",");
    await server.sql("alice", `INSERT INTO messages (conversation_id, content) VALUES ${rows}`);
    if (k === 1) await server.consolidate("alice");
  }
  await server.say("bob", "own", "bob stays");
  for (const ms of [5, 15, 40]) {
    const asked = erase(server, "alice", server.token("root", "admin")).catch(() => undefined);
    await new Promise((done) => setTimeout(done, ms));
    await server.kill();
    await asked;
    await server.up();
  }
  const answer = await erase(server, "alice", server.token("root", "admin"));
  assert.equal(answer.status, 200, JSON.stringify(answer.body));
  assert.equal(answer.body.messages, 8000);
  assert.ok(receiptHolds(answer.body));
  assert.deepEqual(grep(server.data, ["killed-secret"]), []);
  assert.equal((await server.request("POST", "/api/v1/query", { token: old, body: { sql: "SELECT 1" } })).status, 401);
  assert.deepEqual((await server.sql("bob", "SELECT content FROM messages")).rows, [["bob stays"]]);
  await server.destroy();
});

/** alice and others share a group; some of it is cold, some hot; dave left, erin joined late. */
async function shared(server: Server): Promise<void> {
  const made = await server.request("POST", "/api/v1/conversations", {
    token: server.token("alice"),
    body: { conversation_id: "club", conversation_type: "group", title: "Club", members: ["bob", "carol", "dave"] },
  });
  assert.equal(made.status, 201, JSON.stringify(made.body));
  for (let i = 0; i < 10; i++) await server.say("alice", "club", `sent-cold-${i}`, { client_msg_id: `k${i}`, metadata: '{"mood":"glum-mood"}' });
  await server.say("bob", "club", "from-bob-cold");
  await server.consolidate();
  await server.sql("dave", "DELETE FROM conversation_users WHERE conversation_id = 'club' AND user_id = 'dave'");
  for (let i = 0; i < 5; i++) await server.say("alice", "club", `sent-hot-${i}`, { client_msg_id: `h${i}` });
  await server.say("alice", "club", "sent-large-" + "y".repeat(150000));
  await server.sql("bob", "DELETE FROM messages WHERE content = 'sent-hot-3'");
  await server.say("bob", "club", "from-bob-hot");
  await server.say("alice", "own", "only-alices-own");
}

const senders = 'SELECT "from", count(*) FROM messages WHERE conversation_id = \'club\' GROUP BY 1 ORDER BY 1';

for (const encryption of ["on", "off"]) test(`what was sent to groups: the sender goes from every copy, present and past, hot and cold (encryption ${encryption})`, async () => {
  const server = await Server.start({ ...secret, KALAMDB_ENCRYPTION: encryption });
  const plain = encryption === "off";
  await shared(server);
  const live = await server.socket("carol");
  await live.subscribe();
  const answer = await erase(server, "alice", server.token("alice"));
  assert.equal(answer.status, 200, JSON.stringify(answer.body));
  assert.equal(answer.body.messages, 19);
  assert.deepEqual((await server.sql("bob", senders)).rows, [["bob", 2], ["deleted_user", 15]]);
  assert.deepEqual((await server.sql("carol", senders)).rows, [["bob", 2], ["deleted_user", 16]]);
  assert.deepEqual((await server.sql("dave", senders)).rows, [["bob", 1], ["deleted_user", 10]]);
  const row = (await server.sql("carol", "SELECT content, client_msg_id, metadata FROM messages WHERE content = 'sent-cold-4'")).rows;
  assert.deepEqual(row, [["sent-cold-4", null, { mood: "glum-mood" }]]);
  // carol's device saw them as updates, each with its number.
  const updates = (await live.take(16)).filter((f) => f.type === "message");
  assert.ok(updates.every((f) => f.op === "update" && f.message.from === "deleted_user"));
  // She is no member any more; the next one leads.
  const members = (await server.sql("bob", "SELECT user_id, role FROM conversation_users WHERE conversation_id = 'club' ORDER BY 1")).rows;
  assert.deepEqual(members, [["bob", "owner"], ["carol", "member"]]);
  // The large text stays, as others hold it; her own is gone.
  assert.deepEqual(grep(server.data, ["only-alices-own"]), []);
  assert.equal(grep(join(server.data, "shared"), ["sent-large"]).length, plain ? 1 : 0);
  assert.equal(readdirSync(join(server.data, "shared/conversations/club")).length, 1);
  const big = (await server.sql("bob", "SELECT content_ref FROM messages WHERE content_ref IS NOT NULL")).rows[0][0];
  const content = await server.request("GET", `/api/v1/content/${big}`, { token: server.token("bob") });
  assert.deepEqual([content.status, content.body], [200, "sent-large-" + "y".repeat(150000)]);
  // No Parquet file and no table file names the sender.
  assert.deepEqual(inParquet(server.data, "alice"), []);
  // Back again under the same id: no member, and her keys are free.
  await nextSecond();
  const fresh = mint(server, "alice");
  const insert = (sql: string) => server.request("POST", "/api/v1/query", { token: fresh, body: { sql } });
  assert.equal((await insert("INSERT INTO messages (conversation_id, content) VALUES ('club', 'hi')")).status, 403);
  await server.sql("bob", "INSERT INTO conversation_users (conversation_id, user_id) VALUES ('club', 'alice')");
  const said = await insert("INSERT INTO messages (conversation_id, content, client_msg_id) VALUES ('club', 'anew', 'h1')");
  assert.equal(said.body.rowsAffected, 1, JSON.stringify(said.body));
  assert.deepEqual((await insert("SELECT content FROM messages")).body.rows, [["anew"]]);
  const sweep = await server.request("POST", "/api/v1/admin/sweep", { token: server.token("root", "admin"), body: {} });
  assert.equal(sweep.status, 200, JSON.stringify(sweep.body));
  await server.destroy();
});

test("erase_sent: redact empties the content and drops its file, keep leaves all", async () => {
  for (const [mode, encryption] of [["redact", "off"], ["redact", "on"], ["keep", "on"]]) { // off: for bytes that vanish
    const server = await Server.start({ ...secret, KALAMDB_ERASE_SENT: mode, KALAMDB_ENCRYPTION: encryption });
    await shared(server);
    const answer = await erase(server, "alice", server.token("root", "admin"));
    assert.equal(answer.status, 200, JSON.stringify(answer.body));
    if (mode === "redact") {
      const rows = (await server.sql("carol", "SELECT DISTINCT content, content_ref, metadata, client_msg_id FROM messages WHERE \"from\" = 'deleted_user'")).rows;
      assert.deepEqual(rows, [["", null, null, null]]);
      assert.deepEqual(grep(server.data, ["sent-cold", "sent-hot", "sent-large", "glum-mood", "only-alices-own"]), []);
      assert.ok(!existsSync(join(server.data, "shared/conversations/club")) || readdirSync(join(server.data, "shared/conversations/club")).length === 0);
      assert.deepEqual((await server.sql("dave", senders)).rows, [["bob", 1], ["deleted_user", 10]]);
    } else {
      assert.deepEqual((await server.sql("carol", senders)).rows, [["alice", 16], ["bob", 2]]);
      assert.deepEqual(grep(server.data, ["only-alices-own"]), []);
    }
    const members = (await server.sql("carol", "SELECT user_id FROM conversation_users ORDER BY 1")).rows;
    assert.deepEqual(members, [["bob"], ["carol"]]);
    await server.destroy();
  }
});

for (const encryption of ["on", "off"]) test(`a group that is gone, and a kill among the copies (encryption ${encryption})`, async () => {
  const server = await Server.start({ ...secret, KALAMDB_ENCRYPTION: encryption });
  await shared(server);
  for (const user of ["bob", "carol"]) await server.sql(user, `DELETE FROM conversation_users WHERE conversation_id = 'club' AND user_id = '${user}'`);
  await server.sql("alice", "DELETE FROM conversation_users WHERE conversation_id = 'club' AND user_id = 'alice'");
  for (const ms of [10, 40, 90]) {
    const asked = erase(server, "alice", server.token("root", "admin")).catch(() => undefined);
    await new Promise((done) => setTimeout(done, ms));
    await server.kill();
    await asked;
    await server.up();
  }
  const answer = await erase(server, "alice", server.token("root", "admin"));
  assert.equal(answer.status, 200, JSON.stringify(answer.body));
  for (const user of ["bob", "carol", "dave"]) {
    const rows = (await server.sql(user, senders)).rows.map((r: any) => r[0]);
    assert.deepEqual(rows, ["bob", "deleted_user"], user);
  }
  assert.deepEqual(grep(server.data, ["only-alices-own"]), []);
  assert.deepEqual(inParquet(server.data, "alice"), []);
  await server.destroy();
});
