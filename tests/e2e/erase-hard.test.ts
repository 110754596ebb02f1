// Erasures that meet what a life leaves behind: groups that were left, given up, owned; writes at full rate; tickets,
// exports and backups under way; and the disk, decoded.
import { test } from "node:test";
import assert from "node:assert/strict";
import { createPublicKey, randomBytes, verify } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { execFileSync, spawnSync } from "node:child_process";
import { checkManifest, download, untar, upload } from "./archive.ts";
import { binary, repo, Server } from "./harness.ts";

const quiet = { KALAMDB_CONSOLIDATE_INTERVAL_MS: "0" };
const erase = (server: Server, user: string, by = "root", role = "admin") =>
  server.request("DELETE", `/api/v1/users/${encodeURIComponent(user)}`, { token: server.token(by, role) });

/** Files in which a text stands: as bytes, and in Parquet decoded. */
function search(dir: string, ...texts: string[]): string[] {
  return readdirSync(dir, { recursive: true, encoding: "utf8", withFileTypes: true }).flatMap((entry) => {
    if (!entry.isFile()) return [];
    const path = join((entry as any).parentPath ?? entry.path, entry.name);
    const bytes = readFileSync(path);
    let found = texts.filter((t) => bytes.includes(t));
    if (path.endsWith(".parquet")) {
      const sql = texts.map((t) => `SELECT count(*) FROM '${path}' t WHERE contains(t::VARCHAR, '${t}')\n`).join("");
      const run = spawnSync(process.env.KALAMDB_DUCK ?? join(repo, "build/tests/e2e/duck"), { input: sql, encoding: "utf8" });
      const lines = run.stdout.trim().split("\n").map((l) => JSON.parse(l));
      found = found.concat(texts.filter((_, i) => lines[i][0][0] !== "0"));
    }
    return found.map((t) => `${path}: ${t}`);
  });
}

async function nextSecond(): Promise<void> {
  const second = Math.floor(Date.now() / 1000);
  while (Math.floor(Date.now() / 1000) === second) await new Promise((done) => setTimeout(done, 20));
}

const mint = (server: Server, user: string) =>
  execFileSync(binary, ["token", "--data", server.data, "--user", user], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).trim();

async function group(server: Server, id: string, owner: string, members: string[], more = {}): Promise<void> {
  const made = await server.request("POST", "/api/v1/conversations", {
    token: server.token(owner),
    body: { conversation_id: id, conversation_type: "group", members, ...more },
  });
  assert.equal(made.status, 201, JSON.stringify(made.body));
}

const senders = (server: Server, user: string, id: string) =>
  server.sql(user, `SELECT "from", count(*) FROM messages WHERE conversation_id = '${id}' GROUP BY 1 ORDER BY 1`).then((a) => a.rows);

for (const encryption of ["on", "off"]) test(`groups that the user left, was removed from, gave up, or emptied keep no trace of the sender (encryption ${encryption})`, async () => {
  const server = await Server.start({ ...quiet, KALAMDB_ENCRYPTION: encryption });
  for (const id of ["left", "removed", "given-up", "emptied", "rejoined"]) {
    await group(server, id, "bob", ["Zerasable", "carol"]);
    for (let i = 0; i < 4; i++) await server.say("Zerasable", id, `sent ${i}`, { client_msg_id: `${id}-${i}` });
    await server.say("bob", id, "by bob");
  }
  await server.consolidate();
  for (const id of ["left", "removed", "given-up", "emptied", "rejoined"]) await server.say("Zerasable", id, "sent hot");
  await server.sql("Zerasable", "DELETE FROM conversation_users WHERE conversation_id = 'left' AND user_id = 'Zerasable'");
  await server.sql("bob", "DELETE FROM conversation_users WHERE conversation_id = 'removed' AND user_id = 'Zerasable'");
  await server.sql("Zerasable", "DELETE FROM conversations WHERE conversation_id = 'given-up'");
  await server.sql("Zerasable", "DELETE FROM messages WHERE conversation_id = 'emptied'");
  await server.sql("Zerasable", "DELETE FROM conversations WHERE conversation_id = 'rejoined'");
  await server.sql("bob", "INSERT INTO conversation_users (conversation_id, user_id) VALUES ('rejoined', 'Zerasable')");
  const answer = await erase(server, "Zerasable");
  assert.equal(answer.status, 200, JSON.stringify(answer.body));
  for (const id of ["left", "removed", "given-up", "emptied", "rejoined"])
    for (const user of ["bob", "carol"]) assert.deepEqual(await senders(server, user, id), [["bob", 1], ["deleted_user", 5]], `${id} ${user}`);
  // The id stands in the record of the erasure alone, which is the hot tier's, and in the audit log, which tells who was
  // erased.
  assert.deepEqual(search(server.data, "Zerasable").filter((f) => !/\.kalamdb\/(hot|audit)\//.test(f)), []);
  for (const user of ["bob", "carol"])
    assert.deepEqual((await server.sql(user, "SELECT count(*) FROM conversation_users WHERE user_id = 'Zerasable'")).rows, [[0]]);
  await server.destroy();
});

test("groups that the user owns go to others, and their clients hear of it", async () => {
  const server = await Server.start(quiet);
  await group(server, "alone", "alice", []);
  await group(server, "pair", "alice", ["bob"]);
  await group(server, "staff", "alice", ["bob", "carol"]);
  await server.sql("alice", "UPDATE conversation_users SET role = 'admin' WHERE conversation_id = 'staff' AND user_id = 'carol'");
  await server.say("alice", "alone", "to nobody");
  const live = await server.socket("bob");
  await live.subscribe();
  assert.equal((await erase(server, "alice")).status, 200);
  const members = (id: string) => server.sql("bob", `SELECT user_id, role FROM conversation_users WHERE conversation_id = '${id}' ORDER BY 1`).then((a) => a.rows);
  assert.deepEqual(await members("pair"), [["bob", "owner"]]);
  assert.deepEqual(await members("staff"), [["bob", "member"], ["carol", "owner"]]);
  const heard = (await live.take(2)).map((f) => [f.type, f.conversation?.conversation_id]);
  assert.deepEqual(heard.sort(), [["conversation", "pair"], ["conversation", "staff"]]);
  await group(server, "alone", "bob", []); // the id is free
  await server.destroy();
});

for (const encryption of ["on", "off"]) test(`erased while sending at full rate: what came before is gone, what comes after is refused (encryption ${encryption})`, async () => {
  const server = await Server.start({ ...quiet, KALAMDB_ENCRYPTION: encryption, KALAMDB_CONSOLIDATE_ROWS: "500", KALAMDB_CONSOLIDATE_INTERVAL_MS: "50", KALAMDB_CONSOLIDATE_MIN_ROWS: "50" });
  await group(server, "room", "alice", ["bob"]);
  const statuses = new Set<number>();
  let on = true;
  const writers = Array.from({ length: 8 }, async (_, w) => {
    for (let i = 0; on; i++) {
      const [id, content] = w % 2 === 0 ? ["room", `to the room ${w} ${i}`] : [`own-${w}`, `alone-with-it ${w} ${i} ${i % 50 === 0 ? "large ".repeat(20_000) : ""}`];
      const answer = await server.query("alice", "INSERT INTO messages (conversation_id, content) VALUES ($1, $2)", [id, content]);
      statuses.add(answer.status);
    }
  });
  await new Promise((done) => setTimeout(done, 800));
  const answers = await Promise.all([erase(server, "alice", "alice", "user"), erase(server, "alice"), erase(server, "alice")]);
  await new Promise((done) => setTimeout(done, 200));
  on = false;
  await Promise.all(writers);
  for (const answer of answers) {
    assert.equal(answer.status, 200, JSON.stringify(answer.body));
    assert.deepEqual(answer.body, answers[0].body);
  }
  assert.deepEqual([...statuses].sort(), [200, 401]);
  const rows = await senders(server, "bob", "room");
  assert.deepEqual(rows.map((r: any) => r[0]), ["deleted_user"]);
  assert.deepEqual(search(server.data, "alone-with-it"), []);
  assert.ok(!existsSync(join(server.data, "alice")));
  const sweep = await server.request("POST", "/api/v1/admin/sweep", { token: server.token("root", "admin"), body: {} });
  assert.equal(sweep.status, 200, JSON.stringify(sweep.body));
  await nextSecond();
  const fresh = await server.request("POST", "/api/v1/query", { token: mint(server, "alice"), body: { sql: "SELECT (SELECT count(*) FROM messages), (SELECT count(*) FROM conversations), (SELECT count(*) FROM conversation_users)" } });
  assert.deepEqual(fresh.body.rows, [[0, 0, 0]]);
  await server.destroy();
});

for (const encryption of ["on", "off"]) test(`tickets, downloads, exports, streams and tokens of who was erased (encryption ${encryption})`, async () => {
  const server = await Server.start({ ...quiet, KALAMDB_ENCRYPTION: encryption });
  for (const role of ["service", "admin"]) server.token("alice", role); // from before the erasure, however slow that is
  await group(server, "room", "alice", ["bob"]);
  await server.say("alice", "own", "private-of-alice ".repeat(10_000));
  await server.say("alice", "room", "for-all-to-see ".repeat(10_000));
  const refs = (await server.sql("alice", "SELECT content_ref FROM messages ORDER BY msg_id")).rows.map((r: any) => r[0]);
  const tickets: string[] = [];
  for (const content_ref of refs) {
    const ticket = await server.request("POST", "/api/v1/tickets", { token: server.token("alice"), body: { content_ref } });
    assert.equal(ticket.status, 200, JSON.stringify(ticket.body));
    tickets.push(ticket.body.url ?? `/api/v1/content/${content_ref}?ticket=${ticket.body.ticket}`);
  }
  for (const url of tickets) assert.equal((await server.request("GET", url)).status, 200, url);
  const bobs = await server.request("POST", "/api/v1/tickets", { token: server.token("bob"), body: { content_ref: refs[1] } });
  const bobsUrl = bobs.body.url ?? `/api/v1/content/${refs[1]}?ticket=${bobs.body.ticket}`;
  const ws = await server.socket("alice");
  ws.send({ type: "stream_begin", id: "b", conversationId: "room" });
  const msgId = (await ws.next()).msgId;
  ws.send({ type: "append", msgId, offset: 0, text: "growing-text-of-alice" });
  assert.equal((await ws.next()).offset, 21);
  const events = await fetch(`${server.url}/api/v1/events?token=${server.token("alice")}`);
  const ended = events.text();

  const answer = await erase(server, "alice", "alice", "user");
  assert.equal(answer.status, 200, JSON.stringify(answer.body));
  assert.equal((await ws.closing()).code, 4401);
  await ended.catch(() => undefined);
  for (const url of tickets) assert.ok([401, 404].includes((await server.request("GET", url)).status), url);
  assert.equal((await server.request("GET", bobsUrl)).status, 200);
  for (const [method, path] of [["GET", "/api/v1/export"], ["GET", `/api/v1/content/${refs[0]}`], ["DELETE", "/api/v1/users/alice"], ["POST", "/api/v1/tickets"]])
    assert.equal((await server.request(method, path, { token: server.token("alice") })).status, 401, path);
  for (const role of ["service", "admin"]) assert.equal((await server.query("alice", "SELECT 1", [], role)).status, 401, role);
  assert.equal((await server.request("GET", "/api/v1/export?user=alice", { token: server.token("root", "admin") })).status, 404);
  const rows = (await server.sql("bob", "SELECT \"from\", left(content, 10), metadata FROM messages ORDER BY msg_id")).rows;
  assert.deepEqual(rows.map((r: any) => r[0]), ["deleted_user", "deleted_user"]);
  assert.deepEqual(search(server.data, "private-of-alice"), []);
  assert.deepEqual(search(join(server.data, "shared"), "for-all-to-see"), encryption === "on" ? [] : [`${join(server.data, refs[1])}: for-all-to-see`]);
  assert.ok(existsSync(join(server.data, refs[1])));
  // The receipt, verified with nothing of ours.
  const r = answer.body;
  const text = `kalamdb erasure receipt 1\nuser: ${r.user}\nerasedAt: ${r.erasedAt}\nmessages: ${r.messages}\nfiles: ${r.files}\nbytes: ${r.bytes}\nbackups: ${r.backups}\n`;
  const key = createPublicKey({ key: Buffer.concat([Buffer.from("302a300506032b6570032100", "hex"), Buffer.from(r.key, "base64")]), format: "der", type: "spki" });
  assert.ok(verify(null, Buffer.from(text), key, Buffer.from(r.signature, "base64")));
  await server.destroy();
});

for (const encryption of ["on", "off"]) test(`names count as content: conversations, keys of retries, titles and metadata leave every file (encryption ${encryption})`, async () => {
  const server = await Server.start({ ...quiet, KALAMDB_ENCRYPTION: encryption });
  const other = Array.from({ length: 200 }, (_, i) => `('c', 'by bob ${i}')`).join(",");
  await group(server, "room", "bob", ["alice"]);
  for (let round = 0; round < 4; round++) {
    await server.sql("bob", `INSERT INTO messages (conversation_id, content) VALUES ${other}`);
    for (const id of ["a-named-talk", "z-named-talk"])
      await server.say("alice", `${id}-${round}`, "told-in-private", { client_msg_id: `retry-key-${round}`, metadata: { m: "meta-of-alice" }, from: "assistant:model-of-alice" });
    await server.say("alice", "room", "x", { client_msg_id: `retry-key-room-${round}` });
    await server.sql("alice", `UPDATE conversations SET title = 'title-of-alice' WHERE conversation_id = 'a-named-talk-${round}'`);
    if (round < 3) await server.consolidate();
    if (round === 1) {
      await server.stop();
      await server.up();
    }
  }
  await server.sql("alice", "DELETE FROM conversations WHERE conversation_id = 'a-named-talk-0'");
  const texts = ["named-talk", "retry-key", "told-in-private", "meta-of-alice", "model-of-alice", "title-of-alice"];
  assert.deepEqual([...new Set(search(server.data, ...texts).map((f) => f.split(": ")[1]))].sort(), encryption === "on" ? ["named-talk"] : texts.sort()); // names of conversations are in keys
  assert.equal((await erase(server, "alice")).status, 200);
  assert.deepEqual(search(server.data, ...texts), []);
  await server.destroy();
});

test("an import whose user is erased meanwhile ends, and brings nobody back", async () => {
  const server = await Server.start(quiet);
  for (let k = 0; k < 12; k++)
    await server.sql("alice", `INSERT INTO messages (conversation_id, content) VALUES ${Array.from({ length: 1000 }, (_, i) => `('c', 'brought-along ${k} ${i}')`).join(",")}`);
  for (let i = 0; i < 5; i++) await server.say("alice", "c", `${i} brought-along `.repeat(10_000));
  const archive = await download(server, "alice");
  let cut = 0;
  for (let round = 0; round < 4; round++) {
    const user = `bob ${round}`;
    const importing = upload(server, user, archive.bytes);
    const rows = async () => (await server.sql(user, "SELECT count(*) FROM messages")).rows[0][0];
    while ((await rows()) < 1000 * (1 + 2 * round)) await new Promise((done) => setImmediate(done));
    assert.equal((await erase(server, user)).status, 200);
    const answer = await importing;
    if (answer.status === 409) {
      cut++;
      assert.match(answer.body.message, /was erased while the import went on/);
    } else assert.equal(answer.status, 200, JSON.stringify(answer.body));
    const left = await server.sql("svc", `SELECT (SELECT count(*) FROM "${user}".messages), (SELECT count(*) FROM "${user}".conversations)`, [], "service");
    assert.deepEqual(left.rows, [[0, 0]]);
    const folder = join(server.data, user.replace(" ", "%20"));
    assert.deepEqual(existsSync(folder) ? readdirSync(folder) : [], []);
  }
  assert.ok(cut > 0, "no erasure met an import");
  await server.destroy();
});

/** An export of alice by an operator, held back while she is erased: what came of it. */
async function exportMeetsErasure(server: Server): Promise<Buffer> {
  for (let i = 0; i < 30; i++) await server.say("alice", "c", randomBytes(300_000).toString("base64"));
  const socket = connect(server.port, "127.0.0.1");
  const chunks: Buffer[] = [];
  socket.on("error", () => {});
  socket.write(`GET /api/v1/export?user=alice HTTP/1.0\r\nHost: x\r\nAuthorization: Bearer ${server.token("root", "admin")}\r\n\r\n`);
  await new Promise((done) => socket.once("data", (d) => done(chunks.push(d))));
  socket.pause();
  const token = server.token("alice");
  const erasing = erase(server, "alice");
  while ((await server.request("POST", "/api/v1/query", { token, body: { sql: "SELECT 1" } })).status !== 401) await new Promise((done) => setTimeout(done, 10));
  assert.ok(existsSync(join(server.data, "alice"))); // what is read is still there
  socket.on("data", (d) => chunks.push(d));
  const closed = new Promise((done) => socket.once("close", done));
  socket.resume();
  await closed;
  assert.equal((await erasing).status, 200);
  assert.ok(!existsSync(join(server.data, "alice")));
  const bytes = Buffer.concat(chunks);
  const head = bytes.indexOf("\r\n\r\n");
  assert.match(bytes.subarray(0, head).toString(), / 200 OK\r\n/);
  return bytes.subarray(head + 4);
}

test("a download under way ends whole without encryption, and the erasure waits for it", async () => {
  const server = await Server.start({ ...quiet, KALAMDB_ENCRYPTION: "off" });
  const archive = untar(await exportMeetsErasure(server));
  checkManifest(archive);
  assert.equal(archive.manifest.messages, 30);
  await server.destroy();
});

test("with encryption the key goes first: a download under way is cut short, and nobody can take it for whole", async () => {
  const server = await Server.start({ ...quiet, KALAMDB_ENCRYPTION: "on" });
  const bytes = await exportMeetsErasure(server);
  assert.throws(() => untar(bytes));
  assert.ok(bytes.length < 30 * 300_000);
  await server.destroy();
});
