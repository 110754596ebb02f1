// A server in a state made at random (groups with members who came and went, large texts, media, edits, deletions,
// streams that grow, hot and cold rows), then restored from a backup, and exported and imported: every user's
// tables, files and unread counts are compared. KALAMDB_SEED repeats one.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { binary, Server, temporaryFolder, type Socket } from "./harness.ts";
import { archivedRows, checkManifest, columns, download, upload } from "./archive.ts";

const seed = Number(process.env.KALAMDB_SEED ?? Date.now() % 1e9);
console.log(`# KALAMDB_SEED=${seed}`);
let state = seed;
/** 0 … n - 1 (mulberry32). */
function below(n: number): number {
  state = (state + 0x6d2b79f5) | 0;
  let t = Math.imul(state ^ (state >>> 15), 1 | state);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) % n;
}
const pick = <T>(list: T[]): T => list[below(list.length)];

const env = { KALAMDB_CONSOLIDATE_INTERVAL_MS: "0", KALAMDB_MAX_RESULT_ROWS: "1000000", KALAMDB_HOT_TAIL_ROWS: "8" };
const users = ["alice", "bob", "car/ol é", "dave|5f7c", "e".repeat(255)];
const groups = ["club", "team/ü ~", "g".repeat(255)];

const tables = [
  `SELECT ${columns}, _seq, _ins_seq FROM messages ORDER BY msg_id`,
  "SELECT *, _unread FROM conversations ORDER BY conversation_id",
  "SELECT * FROM conversation_users ORDER BY conversation_id, user_id",
];

async function content(server: Server, user: string, ref: string): Promise<string> {
  const response = await fetch(`${server.url}/api/v1/content/${ref}`, { headers: { authorization: `Bearer ${server.token(user)}` } });
  assert.equal(response.status, 200, ref);
  return `${response.headers.get("content-type")} ${createHash("sha256").update(Buffer.from(await response.arrayBuffer())).digest("hex")}`;
}

/** All that a user sees: the three tables, the numbers that SELECT * hides, and every file by type and digest. */
async function seen(server: Server, user: string): Promise<any> {
  const [messages, conversations, members] = await Promise.all(tables.map(async (sql) => (await server.sql(user, sql)).rows));
  const refs = [...new Set(messages.map((row: any[]) => row[6]).filter((ref: any) => ref !== null))] as string[];
  const files: Record<string, string> = {};
  for (const ref of refs) files[ref] = await content(server, user, ref);
  return { messages, conversations, members, files };
}

async function everybody(server: Server): Promise<any> {
  const out: any = {};
  for (const user of users) out[user] = await seen(server, user);
  return out;
}

async function media(server: Server, user: string, conversation: string): Promise<number> {
  const form = new FormData();
  form.append("conversation_id", conversation);
  form.append("content", "a picture");
  form.append("file", new Blob([Buffer.concat([Buffer.from("GIF89a"), Buffer.from([below(200), 0, 9, 0, 0, 0, 0]), Buffer.alloc(below(3000), below(256))])]), "x.gif");
  const response = await fetch(`${server.url}/api/v1/media`, { method: "POST", headers: { authorization: `Bearer ${server.token(user)}` }, body: form });
  await response.arrayBuffer();
  return response.status;
}

let texts = 0;
async function step(server: Server): Promise<void> {
  const user = pick(users);
  const own = `own-${below(3)}`;
  const group = pick(groups);
  const some = `msg_id % 11 = ${below(11)}`;
  const text = () => `text ${++texts} of ${user} ü ${"x".repeat(below(200))}`;
  switch (below(16)) {
    case 0: // Large, in both kinds of conversation.
      await server.query(user, "INSERT INTO messages (conversation_id, content) VALUES ($1, $2)", [pick([own, group]), `${text()}${"é large ".repeat(13_000 + below(3000))}`]);
      break;
    case 1:
      await media(server, user, pick([own, group]));
      break;
    case 2:
      await server.query(user, `UPDATE messages SET content = $1 WHERE ${some} AND "from" = $2 AND content_ref IS NULL`, [`edited ${text()}`, user]);
      break;
    case 3:
      await server.query(user, `DELETE FROM messages WHERE ${some}`);
      break;
    case 4:
      await server.query(user, "DELETE FROM conversation_users WHERE conversation_id = $1 AND user_id = $2", [group, pick(users)]);
      break;
    case 5:
      await server.query(user, "INSERT INTO conversation_users (conversation_id, user_id) VALUES ($1, $2)", [group, pick(users)]);
      break;
    case 6:
      await server.query(user, "UPDATE conversation_users SET last_read_msg_id = (SELECT max(msg_id) FROM messages WHERE conversation_id = $1) WHERE conversation_id = $1 AND user_id = $2", [group, user]);
      break;
    case 7:
      await server.query(user, "UPDATE conversations SET title = $1, metadata = $2 WHERE conversation_id = $3", [text(), { n: texts }, pick([own, group])]);
      break;
    case 8: {
      const { rows } = await server.sql(user, "SELECT max(msg_id) FROM messages WHERE conversation_type = 'group'");
      if (rows[0][0] !== null) await server.request("DELETE", `/api/v1/messages/${rows[0][0]}?for=everyone`, { token: server.token(user) });
      break;
    }
    case 9:
      if (below(3) === 0) await server.query(user, "DELETE FROM conversations WHERE conversation_id = $1", [pick([own, group])]);
      break;
    case 10:
      await server.query(user, `UPDATE messages SET content = $1 WHERE ${some} AND "from" = $2 AND length(content) < 50`, [`${text()}${"grown ".repeat(20_000)}`, user]);
      break;
    default:
      await server.query(user, "INSERT INTO messages (conversation_id, content, metadata, client_msg_id) VALUES ($1, $2, $3, $4)", [
        pick([own, group, group]), text(), below(2) === 0 ? null : { deep: [1, { x: "ü" }] }, below(3) === 0 ? `key-${texts}` : null]);
  }
}

/** Streams that are open when the picture is taken. */
async function stream(server: Server, user: string, conversationId: string, large: boolean): Promise<Socket> {
  const ws = await server.socket(user);
  ws.send({ type: "stream_begin", id: "b", conversationId, metadata: { model: "m" } });
  const ack = await ws.next();
  assert.equal(ack.type, "stream_ack", JSON.stringify(ack));
  let offset = 0;
  for (const text of ["so far ", "ü and on ", ...(large ? ["L".repeat(150_000)] : [])]) {
    ws.send({ type: "append", msgId: ack.msgId, offset, text });
    offset += Buffer.byteLength(text);
  }
  for (let at = 0; at < offset; ) {
    const frame = await ws.next();
    assert.equal(frame.type, "append_ack", JSON.stringify(frame));
    at = frame.offset;
  }
  return ws;
}

async function populate(server: Server): Promise<Socket[]> {
  for (const [i, group] of groups.entries()) {
    const made = await server.request("POST", "/api/v1/conversations", {
      token: server.token(users[i]),
      body: { conversation_id: group, conversation_type: "group", title: `The ${i}`, members: users.filter((u) => u !== users[i]), metadata: i === 1 ? { history: "shared" } : { i } },
    });
    assert.equal(made.status, 201, JSON.stringify(made.body));
  }
  for (let i = 0; i < 500; i++) {
    await step(server);
    if (i % 120 === 119) await server.consolidate();
    if (i % 170 === 169) await server.consolidate(pick(users));
  }
  // Everybody has something, and somebody holds a group to stream into.
  for (const user of users) await server.say(user, "last", "the last");
  await server.request("POST", "/api/v1/conversations", {
    token: server.token("alice"),
    body: { conversation_id: "streams", conversation_type: "group", members: ["bob", "dave|5f7c"] },
  });
  // Copying of histories has come to its end.
  for (let i = 0; i < 200; i++) {
    const states = await Promise.all(users.map((user) => server.sql(user, "SELECT count(*) FROM conversation_users WHERE metadata->'history'->>'state' = 'copying'")));
    if (states.every((s) => s.rows[0][0] === 0)) break;
    await new Promise((done) => setTimeout(done, 50));
  }
  return [await stream(server, "alice", "streams", false), await stream(server, "bob", "a-stream", true)];
}

/** Opened streams are interrupted ones once their producers are gone. */
function afterwards(state: any): any {
  const out = structuredClone(state);
  for (const user of users)
    for (const row of out[user].messages)
      if (row[7]?.stream === "open") row[7].stream = "interrupted";
  return out;
}

test("a backup restores every user's tables, files and counts, and each life comes back from its export", async () => {
  const server = await Server.start(env);
  const sockets = await populate(server);
  const before = await everybody(server);
  const rows = users.map((user) => before[user].messages.length);
  assert.ok(rows.every((n) => n > 5), String(rows));

  const dir = temporaryFolder();
  const answer = await server.request("POST", "/api/v1/admin/backup", { token: server.token("root", "admin"), body: { to: dir } });
  assert.equal(answer.status, 200, JSON.stringify(answer.body));
  const archives = new Map<string, Awaited<ReturnType<typeof download>>>();
  for (const user of users) {
    const archive = await download(server, user);
    checkManifest(archive);
    assert.deepEqual(await archivedRows(archive), before[user].messages, user);
    const files = archive.manifest.files.filter((f: any) => f.path.startsWith("content/")).map((f: any) => f.path.slice(8));
    assert.deepEqual(files.sort(), Object.keys(before[user].files).sort());
    for (const ref of files)
      assert.equal(before[user].files[ref].split(" ").pop(), createHash("sha256").update(archive.members.get(`content/${ref}`)!).digest("hex"));
    archives.set(user, archive);
  }
  for (const socket of sockets) socket.close();

  const data = join(temporaryFolder(), "new");
  const run = spawnSync(binary, ["restore", "--from", dir, "--data", data], { encoding: "utf8" });
  assert.equal(run.status, 0, run.stderr);
  const copy = await Server.start(env, [], data);
  const expected = afterwards(before);
  const restored = await everybody(copy);
  for (const user of users) {
    // The end of a stream is a change, of its row and of its conversation.
    const open = new Set(before[user].messages.filter((row: any[]) => row[7]?.stream === "open").map((row: any[]) => row[0]));
    const plain = (state: any) => ({ ...state, conversations: state.conversations.map((row: any[]) => (/^(a-)?streams?$/.test(row[0]) ? row.filter((_, column) => column !== 7) : row)), messages: state.messages.map((row: any[]) => (open.has(row[0]) ? [...row.slice(0, 5), null, null, row[7], row[8]] : row)), files: undefined });
    assert.deepEqual(plain(restored[user]), plain(expected[user]), user);
    for (const [ref, digest] of Object.entries(expected[user].files)) assert.equal(restored[user].files[ref], digest, ref);
  }
  for (const s of [server, copy]) {
    const sweep = await s.request("POST", "/api/v1/admin/sweep", { token: s.token("root", "admin"), body: {} });
    assert.equal(sweep.status, 200, JSON.stringify(sweep.body));
    const expected = ["unknown_variable", "master_key_beside_data", "master_key_with_backup"];
    assert.deepEqual(s.log.filter((entry) => (entry.level === "error" || entry.level === "warn") && !expected.includes(entry.event)), []);
    assert.ok(!existsSync(join(s.data, ".kalamdb/orphans")) || readdirSync(join(s.data, ".kalamdb/orphans")).length === 0);
  }
  // It lives: it consolidates, is restarted, and shows the same.
  await copy.consolidate();
  await copy.stop();
  await copy.up();
  assert.deepEqual(await everybody(copy), restored);

  // Each life under a new id on another server, twice, and on its own.
  const other = await Server.start(env);
  const bare = (state: any) => ({
    messages: state.messages.map((row: any[]) => [...row.slice(0, 6), row[6] !== null, row[7]?.stream === "open" ? { ...row[7], stream: "interrupted" } : row[7], row[8]]),
    conversations: state.conversations.map((row: any[]) => [...row.slice(0, 7), row[8]]), // all but `updated` and _unread
    digests: state.messages.filter((row: any[]) => row[6] !== null).map((row: any[]) => state.files[row[6]]),
  });
  for (const [i, user] of users.entries()) {
    const bytes = archives.get(user)!.bytes;
    const name = `neu ${i}`;
    const first = await upload(other, name, bytes);
    assert.equal(first.status, 200, JSON.stringify(first.body));
    const now = await seen(other, name);
    // What grows is text in the archive and, where it is large, a file here.
    const mine = bare(before[user]);
    const large = new Set(now.messages.filter((row: any[], k: number) => row[6] !== null && before[user].messages[k][6] === null).map((row: any[]) => row[0]));
    const theirs = bare(now);
    const compare = (state: any) => state.messages.map((row: any[]) => (large.has(row[0]) ? [...row.slice(0, 5), ...row.slice(7)] : row));
    assert.deepEqual(compare(theirs), compare(mine), user);
    assert.deepEqual(theirs.conversations, mine.conversations);
    if (large.size === 0) assert.deepEqual(theirs.digests, mine.digests);
    assert.deepEqual(now.members.filter((row: any[]) => row[1] !== name), []);
    const numbers = now.messages.map((row: any[]) => row[9]).sort((a: number, b: number) => a - b);
    assert.deepEqual(numbers, numbers.map((_: number, k: number) => k + 1));
    assert.deepEqual((await upload(other, name, bytes)).body, first.body);
    assert.deepEqual(await seen(other, name), now);
    // An export of it has the same rows again.
    assert.deepEqual(await archivedRows(await download(other, name)), now.messages);
  }
  for (const user of users) {
    const state = await seen(copy, user);
    assert.equal((await upload(copy, user, archives.get(user)!.bytes)).status, 200);
    assert.deepEqual(await seen(copy, user), state, "on its own nothing is missing");
  }
  await Promise.all([server, copy, other].map((s) => s.destroy()));
});
