// Archives that were damaged at random, or made up with care: each is refused with 400, by name, or is the archive
// that it was; nothing of a refused one is ever there. KALAMDB_SEED repeats a run.
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { type Archive, download, duck, serverRows, tar, unpack, upload } from "./archive.ts";
import { Server } from "./harness.ts";

const seed = Number(process.env.KALAMDB_SEED ?? Date.now() % 1e9);
console.log(`# KALAMDB_SEED=${seed}`);
let state = seed;
function below(n: number): number {
  state = (state + 0x6d2b79f5) | 0;
  let t = Math.imul(state ^ (state >>> 15), 1 | state);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) % n;
}
const sha = (data: Buffer) => createHash("sha256").update(data).digest("hex");

async function seedLife(server: Server): Promise<void> {
  for (let i = 0; i < 60; i++) await server.say("alice", `c${i % 5}`, `text ${i} ${"x".repeat(below(300))}`, { metadata: { i }, ...(i % 4 === 0 ? { client_msg_id: `k${i}` } : {}) });
  await server.say("alice", "c1", "large ü ".repeat(15_000));
  await server.sql("alice", "INSERT INTO conversation_users (conversation_id, user_id) VALUES ('team', 'carol')");
  await server.say("carol", "team", "hello");
}

async function nothing(server: Server, user: string, what: string): Promise<void> {
  for (const table of ["messages", "conversations", "conversation_users"])
    assert.equal((await server.sql(user, `SELECT count(*) FROM ${table}`)).rows[0][0], 0, `${what}: ${table}`);
  assert.ok(!readdirSync(server.data).includes(user), what);
  assert.deepEqual(readdirSync(join(server.data, ".kalamdb/imports")), [], what);
}

/** The files and the manifest of `archive` as `change` leaves them, sizes and digests made to fit. */
function forged(archive: Archive, change: (files: Map<string, Buffer>, manifest: any) => void): Buffer {
  const files = new Map([...archive.members].filter(([name]) => name !== "manifest.json"));
  const manifest = structuredClone(archive.manifest);
  change(files, manifest);
  for (const file of manifest.files) {
    const data = files.get(file.path);
    if (data !== undefined) Object.assign(file, { bytes: data.length, sha256: sha(data) });
  }
  return tar([...[...files].map(([name, data]) => ({ name, data })), { name: "manifest.json", data: Buffer.from(JSON.stringify(manifest)) }]);
}

test("damage at random: refused, or harmless", async () => {
  const server = await Server.start();
  await seedLife(server);
  const archive = await download(server, "alice");
  const truth = await serverRows(server, "alice");
  const { bytes } = archive;
  let taken = 0;
  for (let i = 0; i < 120; i++) {
    const at = below(bytes.length);
    let bad = Buffer.from(bytes);
    switch (i % 6) {
      case 0: case 1: bad[at] ^= 1 << below(8); break;
      case 2: bad = bad.subarray(0, at); break;
      case 3: bad = Buffer.concat([bad.subarray(0, at), randomBytes(1 + below(600)), bad.subarray(at)]); break;
      case 4: bad = Buffer.concat([bad.subarray(0, at), bad.subarray(Math.min(bytes.length, at + 1 + below(2000)))]); break;
      default: randomBytes(1 + below(3000)).copy(bad, at);
    }
    const user = `u${i}`;
    const answer = await upload(server, user, bad);
    if (answer.status === 200) {
      // In padding, times, or after the end.
      taken++;
      const row = (r: any[]) => [...r.slice(0, 6), ...r.slice(7, 9)];
      assert.deepEqual((await serverRows(server, user)).map(row), truth.map(row), `${i} at ${at}`);
      continue;
    }
    assert.equal(answer.status, 400, `${i} at ${at}: ${JSON.stringify(answer.body)}`);
    assert.equal(answer.body.error, "INVALID_REQUEST");
    await nothing(server, user, `${i} at ${at}`);
  }
  assert.ok(taken < 60, `${taken} taken`);
  await server.destroy();
});

test("damage in Parquet and manifest that every digest agrees with: refused or read, never half", async () => {
  const server = await Server.start();
  await seedLife(server);
  const archive = await download(server, "alice");
  const names = ["messages/001.parquet", "conversations.parquet", "conversation_users.parquet"];
  let read = 0;
  for (let i = 0; i < 90; i++) {
    const name = names[i % 3];
    const bad = forged(archive, (files) => {
      const data = Buffer.from(files.get(name)!);
      // The footer holds what a reader believes; the rest is compressed.
      const at = i % 2 === 0 ? below(data.length) : data.length - 1 - below(Math.min(data.length, 1200));
      if (i % 9 === 8) files.set(name, data.subarray(0, at));
      else {
        data[at] ^= 1 << below(8);
        files.set(name, data);
      }
    });
    const user = `u${i}`;
    const answer = await upload(server, user, bad);
    if (answer.status === 200) {
      read++;
      assert.equal((await server.sql(user, "SELECT count(*) FROM messages")).rows[0][0], archive.manifest.messages);
    } else {
      assert.equal(answer.status, 400, `${i}: ${JSON.stringify(answer.body)}`);
      assert.match(answer.body.message, /archive/, `${i}`);
      await nothing(server, user, `${i} ${name}`);
    }
  }
  assert.ok(read < 60, `${read} read`);
  for (let i = 0; i < 60; i++) {
    const text = Buffer.from(archive.members.get("manifest.json")!);
    text[below(text.length)] = [0x20, 0x22, 0x30, 0x2d, 0x7b, 0x7d, 0xff, 0x00, 0x39][below(9)];
    const files = [...archive.members].filter(([name]) => name !== "manifest.json").map(([name, data]) => ({ name, data }));
    const user = `m${i}`;
    const answer = await upload(server, user, tar([...files, { name: "manifest.json", data: text }]));
    assert.ok(answer.status === 200 || answer.status === 400, `${i}: ${answer.status} ${JSON.stringify(answer.body)}`);
    if (answer.status === 400) await nothing(server, user, String(i));
  }
  assert.deepEqual(server.log.filter((e) => e.level === "error"), []);
  await server.destroy();
});

test("archives made up with care", async () => {
  const server = await Server.start();
  await seedLife(server);
  const archive = await download(server, "alice");
  const folder = unpack(archive);
  const conversations = (select: string, to: string) => `COPY (SELECT ${select} FROM read_parquet('${folder}/conversations.parquet')) TO '${folder}/${to}' (FORMAT parquet)`;
  const members = (select: string, to: string) => `COPY (SELECT ${select} FROM read_parquet('${folder}/conversation_users.parquet')) TO '${folder}/${to}' (FORMAT parquet)`;
  const messages = (select: string, to: string) => `COPY (SELECT ${select} FROM read_parquet('${folder}/messages/001.parquet')) TO '${folder}/${to}' (FORMAT parquet)`;
  const cases: [string, string, string][] = [
    ["msg_id null", "messages/001.parquet", messages("* REPLACE (CASE WHEN content = 'hello' THEN NULL ELSE msg_id END AS msg_id)", "1")],
    ["negative msg_id", "messages/001.parquet", messages("* REPLACE (-msg_id AS msg_id)", "2")],
    ["all one id", "messages/001.parquet", messages("* REPLACE (77 AS msg_id)", "3")],
    ["content null", "messages/001.parquet", messages("* REPLACE (NULL::VARCHAR AS content)", "4")],
    ["no conversation", "messages/001.parquet", messages("* REPLACE (NULL::VARCHAR AS conversation_id)", "5")],
    ["long conversation", "messages/001.parquet", messages("* REPLACE (repeat('c', 256) AS conversation_id)", "6")],
    ["type", "messages/001.parquet", messages("* REPLACE ('channel' AS conversation_type)", "7")],
    ["other type", "messages/001.parquet", messages("* REPLACE ('group' AS conversation_type)", "8")],
    ["long sender", "messages/001.parquet", messages("* REPLACE (repeat('f', 300) AS \"from\")", "9")],
    ["metadata", "messages/001.parquet", messages("* REPLACE ('{\"a\":' AS metadata)", "10")],
    ["NUL", "messages/001.parquet", messages("* REPLACE ('a' || chr(0) AS content)", "11")],
    ["refs elsewhere", "messages/001.parquet", messages("* REPLACE ('../../etc/passwd' AS content_ref)", "12")],
    ["refs others", "messages/001.parquet", messages("* REPLACE ('carol/msg-12.bin' AS content_ref)", "13")],
    ["seq too high", "messages/001.parquet", messages("* REPLACE (_seq + 1000 AS _seq)", "14")],
    ["seq zero", "messages/001.parquet", messages("* REPLACE (_seq - 1 AS _seq)", "15")],
    ["time", "messages/001.parquet", messages("* REPLACE ('infinity'::TIMESTAMPTZ AS \"timestamp\")", "16")],
    ["time null", "messages/001.parquet", messages("* REPLACE (NULL::TIMESTAMPTZ AS \"timestamp\")", "17")],
    ["large", "messages/001.parquet", messages("* REPLACE (repeat('x', 2000000) AS content)", "18")],
    ["conversation twice", "conversations.parquet", conversations("* REPLACE ('c1' AS conversation_id)", "19")],
    ["conversation null", "conversations.parquet", conversations("* REPLACE (NULL::VARCHAR AS conversation_id)", "20")],
    ["conversation empty", "conversations.parquet", conversations("* REPLACE ('' AS conversation_id)", "21")],
    ["title", "conversations.parquet", conversations("* REPLACE (42 AS title)", "22")],
    ["conversation metadata", "conversations.parquet", conversations("* REPLACE ('nope' AS metadata)", "23")],
    ["role", "conversation_users.parquet", members("* REPLACE ('king' AS role)", "24")],
    ["member", "conversation_users.parquet", members("* REPLACE (repeat('u', 256) AS user_id)", "25")],
    ["marker", "conversation_users.parquet", members("* REPLACE (-5 AS last_read_msg_id)", "26")],
    ["member of nothing", "conversation_users.parquet", members("* REPLACE ('nowhere' AS conversation_id)", "27")],
    ["list for a text", "messages/001.parquet", messages("* REPLACE ([content] AS content)", "28")],
    ["struct", "messages/001.parquet", messages("* REPLACE ({'a': 1} AS metadata)", "29")],
  ];
  await duck(...cases.map(([, , sql]) => sql));
  for (const [i, [name, path]] of cases.entries()) {
    const bad = forged(archive, (files) => files.set(path, readFileSync(join(folder, String(i + 1)))));
    const answer = await upload(server, `b${i}`, bad);
    assert.equal(answer.status, 400, `${name}: ${JSON.stringify(answer.body)}`);
    assert.equal(answer.body.error, "INVALID_REQUEST", name);
    assert.match(answer.body.message, /archive/, name);
    await nothing(server, `b${i}`, name);
  }
  await server.destroy();
});
