// A user's own data: out as a tar while writes go on, and back in.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { existsSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { type Archive, archivedRows, checkManifest, download, duck, scratch, serverRows, tar, unpack, untar, upload } from "./archive.js";
import { Server, binary } from "./harness.js";

test("an export is of one moment, whole, and opens in DuckDB", async () => {
  const server = await Server.start({ KALAMDB_MAX_RESULT_ROWS: "1000000" });
  for (let i = 0; i < 200; i++) {
    await server.sql("alice", `INSERT INTO messages (conversation_id, content, metadata, client_msg_id) VALUES ('c${i % 7}', $1, $2, $3)`, [
      `text ${i} ü "quoted"`,
      { i, deep: [1, { x: null }] },
      i % 3 === 0 ? `key-${i}` : null,
    ]);
    if (i === 120) await server.consolidate("alice");
  }
  await server.sql("alice", "UPDATE messages SET content = 'changed' WHERE conversation_id = 'c3'");
  await server.sql("alice", "DELETE FROM messages WHERE conversation_id = 'c4'");
  await server.sql("alice", "UPDATE conversations SET title = 'Title', metadata = '{\"a\":1}' WHERE conversation_id = 'c1'");
  // Writes go on meanwhile; what the archive shows is what stood there at its _seq.
  let stop = false;
  const writing = (async () => {
    for (let i = 0; !stop; i++) await server.say("alice", "live", `while ${i}`);
  })();
  const archive = await download(server, "alice");
  stop = true;
  await writing;
  checkManifest(archive);
  assert.equal(archive.manifest.user, "alice");
  assert.match(archive.manifest.exportedAt, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/);
  const rows = await archivedRows(archive);
  assert.equal(archive.manifest.messages, rows.length);
  assert.deepEqual(rows, await serverRows(server, "alice", `WHERE _seq <= ${archive.manifest.seq}`));
  const folder = unpack(archive);
  const [types, conversations, members] = await duck(
    `SELECT column_name || ' ' || column_type FROM (DESCRIBE SELECT * FROM read_parquet('${folder}/messages/*.parquet'))`,
    `SELECT conversation_id, conversation_type, title, metadata, created FROM read_parquet('${folder}/conversations.parquet') WHERE conversation_id <> 'live' ORDER BY 1`,
    `SELECT count(*), count(DISTINCT conversation_id), min(user_id), min(role) FROM read_parquet('${folder}/conversation_users.parquet')`,
  );
  assert.deepEqual(
    types.map((row: any[]) => row[0]),
    ["msg_id BIGINT", "conversation_id VARCHAR", "conversation_type VARCHAR", "from VARCHAR", "timestamp TIMESTAMP WITH TIME ZONE", "content VARCHAR", "content_ref VARCHAR", "metadata VARCHAR", "client_msg_id VARCHAR", "_seq BIGINT", "_ins_seq BIGINT"],
  );
  assert.equal(conversations.length, 7);
  assert.deepEqual(conversations[1].slice(0, 4), ["c1", "ai", "Title", '{"a":1}']);
  assert.deepEqual(members, [[String(archive.manifest.conversations), String(archive.manifest.conversations), "alice", "owner"]]);
  assert.deepEqual(readdirSync(join(server.data, ".kalamdb/exports")), []);
  await server.destroy();
});

test("who may export whom", async () => {
  const server = await Server.start();
  await server.say("bob", "c", "mine");
  const ask = (user: string, role: string, query: string) =>
    server.request("GET", `/api/v1/export${query}`, { token: server.token(user, role) });
  assert.equal((await ask("alice", "user", "?user=bob")).status, 403);
  assert.equal((await ask("alice", "user", "")).status, 404);
  assert.equal((await ask("alice", "service", "?user=%ff")).status, 400);
  assert.equal((await ask("alice", "service", "?user=assistant")).status, 400);
  assert.equal((await server.request("GET", "/api/v1/export")).status, 401);
  assert.equal((await server.request("POST", "/api/v1/export", { token: server.token("bob") })).status, 405);
  const archive = await download(server, "operator", "service", "?user=bob");
  assert.equal(archive.manifest.messages, 1);
  const head = await fetch(`${server.url}/api/v1/export`, { method: "HEAD", headers: { authorization: `Bearer ${server.token("bob")}` } });
  assert.equal(head.status, 200);
  await server.destroy();
});

test("a client that stops reading costs a buffer, and is cut off", async () => {
  const server = await Server.start({ KALAMDB_IDLE_TIMEOUT_MS: "1500", KALAMDB_PING_INTERVAL_MS: "500" });
  for (let i = 0; i < 40; i++) {
    await server.sql("alice", "INSERT INTO messages (conversation_id, content) VALUES ('c', $1)", [randomBytes(600_000).toString("base64")]);
  }
  const whole = (await download(server, "alice")).bytes.length;
  const socket = connect(server.port, "127.0.0.1");
  socket.on("error", () => {});
  socket.write(`GET /api/v1/export HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${server.token("alice")}\r\n\r\n`);
  await new Promise((done) => socket.once("data", done));
  socket.pause();
  const cut = () => server.request("GET", "/metrics").then((m) => /^kalamdb_connections 1$/m.test(m.body));
  for (let i = 0; i < 100 && !(await cut()); i++) await new Promise((done) => setTimeout(done, 100));
  let got = 0;
  socket.on("data", (d) => (got += d.length));
  const ended = new Promise((done) => socket.once("close", done));
  socket.resume();
  await ended;
  assert.ok(got < whole, `${got} of ${whole} came`);
  await server.destroy();
});

test("SIGKILL in the middle of an export leaves nothing", async () => {
  const server = await Server.start();
  for (let i = 0; i < 20; i++) await server.say("alice", "c", `${"x".repeat(90_000)}${i}`);
  const exports = Array.from({ length: 4 }, () => download(server, "alice").catch(() => undefined));
  await new Promise((done) => setTimeout(done, 30));
  await server.kill();
  await Promise.all(exports);
  writeFileSync(join(server.data, ".kalamdb/exports/left"), "by a crash between two system calls");
  await server.up();
  assert.deepEqual(readdirSync(join(server.data, ".kalamdb/exports")), []);
  assert.equal((await download(server, "alice")).manifest.messages, 20);
  await server.destroy();
});

// ---- import

/** Everything of a user that an import brings back, in the order of _seq. */
async function life(server: Server, user: string): Promise<any> {
  const messages = await server.sql(user, `SELECT msg_id, conversation_id, conversation_type, "from", "timestamp", content, metadata, client_msg_id, content_ref IS NULL FROM messages ORDER BY _seq`);
  const conversations = await server.sql(user, "SELECT conversation_id, conversation_type, title, first_msg_id, last_msg_id, total_messages, created, metadata FROM conversations ORDER BY 1");
  return { messages: messages.rows, conversations: conversations.rows };
}

/** A content file as its user gets it; on the disk it is sealed. */
async function contentOf(server: Server, user: string, ref: string): Promise<Buffer> {
  const response = await fetch(`${server.url}/api/v1/content/${ref}`, { headers: { authorization: `Bearer ${server.token(user)}` } });
  const bytes = Buffer.from(await response.arrayBuffer());
  assert.equal(response.status, 200, bytes.toString().slice(0, 300));
  return bytes;
}

async function seedLife(server: Server): Promise<void> {
  for (let i = 0; i < 150; i++) {
    const from = i % 2 === 0 ? {} : { from: "assistant:x" };
    await server.say("alice", `c${i % 5}`, i % 50 === 7 ? `${"large ü ".repeat(20_000)}${i}` : `text ${i}`, { ...from, metadata: { i }, ...(i % 4 === 0 ? { client_msg_id: `k${i}` } : {}) });
    if (i === 90) await server.consolidate("alice");
  }
  await server.sql("alice", "UPDATE messages SET content = 'edited' WHERE conversation_id = 'c2' AND length(content) < 100");
  await server.sql("alice", "UPDATE conversations SET title = 'Titel' WHERE conversation_id = 'c3'");
  await server.sql("alice", "UPDATE conversation_users SET last_read_msg_id = 17 WHERE conversation_id = 'c3'");
}

/** As the manifest of `archive` but for what `change` does to it, at the end of a tar of its other files. */
function rebuilt(archive: Archive, change: (members: { name: string; data: Buffer }[], manifest: any) => void): Buffer {
  const members = archive.names.filter((name) => name !== "manifest.json").map((name) => ({ name, data: Buffer.from(archive.members.get(name)!) }));
  const manifest = structuredClone(archive.manifest);
  change(members, manifest);
  return tar([...members, { name: "manifest.json", data: Buffer.from(JSON.stringify(manifest)) }]);
}

test("a life moves to another server and another id, once and for all", async () => {
  const server = await Server.start({ KALAMDB_MAX_RESULT_ROWS: "1000000" });
  await seedLife(server);
  const archive = await download(server, "alice");
  checkManifest(archive);
  const files = archive.manifest.files.filter((f: any) => f.path.startsWith("content/")).length;
  const counts = { messages: 150, conversations: 5, files };
  const before = await life(server, "alice");
  const other = await Server.start({ KALAMDB_MAX_RESULT_ROWS: "1000000" });
  const first = await upload(other, "bob 2", archive.bytes);
  assert.deepEqual([first.status, first.body], [200, { user: "bob 2", ...counts }]);
  assert.deepEqual(await life(other, "bob 2"), before);
  const seq = (await other.sql("bob 2", "SELECT max(_seq), count(DISTINCT _seq) FROM messages")).rows[0];
  assert.deepEqual(seq, [150, 150]);
  // Files: the same bytes under names of their own.
  const refs = async (s: Server, user: string) => (await s.sql(user, "SELECT content_ref FROM messages WHERE content_ref IS NOT NULL ORDER BY msg_id")).rows.map((r: any[]) => r[0]);
  const [old, now] = [await refs(server, "alice"), await refs(other, "bob 2")];
  assert.equal(now.length, files);
  for (const [i, ref] of now.entries()) {
    assert.match(ref, /^bob%202\/msg-\d+\.bin$/);
    assert.deepEqual(await contentOf(other, "bob 2", ref), await contentOf(server, "alice", old[i]));
  }
  // Again: nothing changes, whatever tier the rows are in by now.
  const feed = async () => {
    const socket = await other.socket("bob 2");
    const ack = await socket.subscribe({});
    socket.close();
    return ack.feed;
  };
  const feedBefore = await feed();
  await other.consolidate("bob 2");
  assert.deepEqual((await upload(other, "bob 2", archive.bytes)).body, { user: "bob 2", ...counts });
  assert.deepEqual(await life(other, "bob 2"), before);
  assert.equal((await other.sql("bob 2", "SELECT max(_seq) FROM messages")).rows[0][0], 150);
  assert.equal(await feed(), feedBefore);
  assert.deepEqual((await refs(other, "bob 2")), now);
  // What is written begins a new history.
  await other.say("bob 2", "own", "mine");
  const second = await download(server, "alice");
  await server.say("alice", "c0", "one more");
  assert.equal((await upload(other, "bob 2", (await download(server, "alice")).bytes)).body.messages, 151);
  assert.notEqual(await feed(), feedBefore);
  assert.equal((await other.sql("bob 2", "SELECT count(*) FROM messages")).rows[0][0], 152);
  // Where it came from nothing is missing.
  assert.equal((await upload(server, "alice", second.bytes)).status, 200);
  assert.deepEqual((await life(server, "alice")).messages.slice(0, 150), before.messages);
  assert.deepEqual(readdirSync(join(other.data, ".kalamdb/imports")), []);
  await server.destroy();
  await other.destroy();
});

test("a damaged or made-up archive is refused by name, and nothing is written", async () => {
  const server = await Server.start();
  await seedLife(server);
  const archive = await download(server, "alice");
  const sha = (data: Buffer) => createHash("sha256").update(data).digest("hex");
  const refused: [string, Buffer, RegExp][] = [
    ["half", archive.bytes.subarray(0, archive.bytes.length / 2), /archive/],
    ["empty", Buffer.alloc(1024), /no manifest\.json/],
    ["no tar", Buffer.from("PK\x03\x04 nonsense".repeat(100)), /archive/],
    ["bit", Buffer.concat([archive.bytes.subarray(0, 1500), Buffer.from([archive.bytes[1500] ^ 1]), archive.bytes.subarray(1501)]), /messages\/001\.parquet .*sha256/],
    ["traversal", tar([{ name: "../../alice/evil", data: Buffer.from("x") }]), /does not belong/],
    ["link", tar([{ name: "content/alice/msg-1.bin", type: "2", link: "/etc/passwd" }]), /no regular file/],
    ["rows", rebuilt(archive, (_, m) => { m.files[0].rows++; m.messages++; }), /another number of rows/],
    ["extra", rebuilt(archive, (members) => members.push({ name: "content/alice/msg-99.bin", data: Buffer.from("x") })), /not listed/],
    ["trailing", Buffer.concat([archive.bytes, Buffer.from("more")]), /follows the end/],
    ["two in one", Buffer.concat([archive.bytes, archive.bytes]), /follows the end/],
    ["end", archive.bytes.subarray(0, archive.bytes.length - 1), /end of the archive is cut off/],
    ["no end", archive.bytes.subarray(0, archive.bytes.length - 1024), /end of the archive is cut off/],
    ["version", rebuilt(archive, (_, m) => { m.version = 2; }), /version 2/],
    ["user", rebuilt(archive, (_, m) => { m.user = "assistant"; }), /user/],
    ["seq", rebuilt(archive, (_, m) => { m.seq = 10; }), /_seq/],
    ["content", rebuilt(archive, (members, m) => {
      const i = members.findIndex((f) => f.name.startsWith("content/"));
      m.files = m.files.filter((f: any) => f.path !== members[i].name);
      members.splice(i, 1);
    }), /content_ref is missing/],
  ];
  // Columns of another type, written by plain DuckDB.
  const folder = unpack(archive);
  await duck(`COPY (SELECT * REPLACE (msg_id::VARCHAR AS msg_id) FROM read_parquet('${folder}/messages/001.parquet')) TO '${folder}/typed.parquet' (FORMAT parquet)`,
    `COPY (SELECT * REPLACE ('c9' AS conversation_id) FROM read_parquet('${folder}/messages/001.parquet')) TO '${folder}/moved.parquet' (FORMAT parquet)`,
    `COPY (SELECT * REPLACE ('{' AS metadata) FROM read_parquet('${folder}/messages/001.parquet')) TO '${folder}/json.parquet' (FORMAT parquet)`,
    `COPY (SELECT * REPLACE (9007199254740000 AS msg_id) FROM read_parquet('${folder}/messages/001.parquet')) TO '${folder}/future.parquet' (FORMAT parquet)`,
    `COPY (SELECT * REPLACE (7 AS _seq, 7 AS _ins_seq) FROM read_parquet('${folder}/messages/001.parquet')) TO '${folder}/seq.parquet' (FORMAT parquet)`,
    `COPY (SELECT * REPLACE ('' AS "from") FROM read_parquet('${folder}/messages/001.parquet')) TO '${folder}/from.parquet' (FORMAT parquet)`,
    `COPY (SELECT * EXCLUDE content FROM read_parquet('${folder}/messages/001.parquet')) TO '${folder}/column.parquet' (FORMAT parquet)`);
  const replaced = (file: string) => rebuilt(archive, (members, m) => {
    members[0].data = readFileSync(join(folder, file));
    Object.assign(m.files[0], { bytes: members[0].data.length, sha256: sha(members[0].data) });
  });
  refused.push(["type", replaced("typed.parquet"), /messages\/001\.parquet .*another type/], ["conversation", replaced("moved.parquet"), /conversation is not in/],
    ["json", replaced("json.parquet"), /metadata is no JSON/], ["future", replaced("future.parquet"), /msg_id is not between/],
    ["one seq", replaced("seq.parquet"), /one _seq/], ["from", replaced("from.parquet"), /"from" must be/], ["column", replaced("column.parquet"), /cannot be read/]);
  for (const [name, bytes, want] of refused) {
    const answer = await upload(server, "bob", bytes);
    assert.equal(answer.status, 400, `${name}: ${JSON.stringify(answer.body)}`);
    assert.equal(answer.body.error, "INVALID_REQUEST", name);
    assert.match(answer.body.message, want, name);
  }
  for (const table of ["messages", "conversations", "conversation_users"])
    assert.equal((await server.sql("bob", `SELECT count(*) FROM ${table}`)).rows[0][0], 0, table);
  assert.ok(!readdirSync(server.data).includes("bob"));
  assert.deepEqual(readdirSync(join(server.data, ".kalamdb/imports")), []);
  // The archive itself is good, also padded to tapes' blocks as tar does it.
  assert.equal((await upload(server, "bob", Buffer.concat([archive.bytes, Buffer.alloc(9216)]))).status, 200);
  await server.destroy();
});

test("who may import, and how much", async () => {
  const server = await Server.start({ KALAMDB_MAX_IMPORT_BYTES: "100000" });
  await server.say("alice", "c", "x");
  const archive = (await download(server, "alice")).bytes;
  assert.equal((await upload(server, "alice", archive, "user")).status, 403);
  assert.equal((await server.request("POST", "/api/v1/import", { token: server.token("s", "service"), body: new Uint8Array(archive) })).status, 400);
  assert.equal((await server.request("POST", "/api/v1/import?user=a", { token: server.token("s", "service") })).status, 400);
  assert.equal((await server.request("POST", "/api/v1/import?user=a", { body: new Uint8Array(archive) })).status, 401);
  assert.equal((await server.request("GET", "/api/v1/import?user=a", { token: server.token("s", "service") })).status, 405);
  const large = await upload(server, "a", Buffer.alloc(100001)).catch((e) => ({ status: 413, body: e }));
  assert.equal(large.status, 413);
  assert.equal((await upload(server, "a", archive, "admin")).status, 200);
  await server.destroy();
});

test("imports of one user at once: one goes through, the others are told", async () => {
  const server = await Server.start();
  await seedLife(server);
  const archive = await download(server, "alice");
  const answers = await Promise.all(Array.from({ length: 4 }, () => upload(server, "bob", archive.bytes)));
  const statuses = answers.map((a) => a.status).sort();
  assert.equal(statuses[0], 200);
  assert.ok(statuses.every((s) => s === 200 || s === 409), String(statuses));
  assert.equal((await server.sql("bob", "SELECT count(*) FROM messages")).rows[0][0], 150);
  await server.destroy();
});

test("a group comes without its members: to read, not to write", async () => {
  const server = await Server.start();
  const made = await server.query("alice", "INSERT INTO conversation_users (conversation_id, user_id) VALUES ('team', 'carol')");
  assert.equal(made.status, 200, JSON.stringify(made.body));
  await server.say("carol", "team", "hello");
  await server.say("alice", "team", "hi");
  const text = "a long story ".repeat(10_000);
  await server.say("alice", "team", text);
  const archive = await download(server, "alice");
  checkManifest(archive);
  assert.deepEqual((await upload(server, "dave", archive.bytes)).body, { user: "dave", messages: 3, conversations: 1, files: 1 });
  assert.deepEqual((await server.sql("dave", "SELECT conversation_type, total_messages FROM conversations")).rows, [["group", 3]]);
  // The group's one file became his own.
  const [[ref]] = (await server.sql("dave", "SELECT content_ref FROM messages WHERE content_ref IS NOT NULL")).rows;
  assert.match(archive.names.find((name) => name.startsWith("content/"))!, /^content\/shared\/conversations\/team\/msg-\d+\.bin$/);
  assert.match(ref, /^dave\/msg-\d+\.bin$/);
  assert.equal((await contentOf(server, "dave", ref)).toString(), text);
  assert.deepEqual((await server.sql("dave", "SELECT * FROM conversation_users")).rows, []);
  const send = await server.query("dave", "INSERT INTO messages (conversation_id, content) VALUES ('team', 'me too')");
  assert.equal(send.status, 403, JSON.stringify(send.body));
  assert.equal((await server.query("dave", "UPDATE messages SET content = 'x'")).status, 403);
  assert.equal((await server.query("dave", "INSERT INTO conversation_users (conversation_id, user_id) VALUES ('team', 'erin')")).status, 403);
  await server.say("alice", "team", "still us");
  assert.equal((await server.sql("dave", "SELECT count(*) FROM messages")).rows[0][0], 3);
  assert.equal((await server.sql("carol", "SELECT count(*) FROM messages")).rows[0][0], 4);
  assert.deepEqual((await upload(server, "dave", archive.bytes)).body.messages, 3);
  // The sweep at open finds nothing that nobody names, and what he exports is whole.
  await server.stop();
  await server.up();
  const again = await download(server, "dave");
  checkManifest(again);
  assert.equal(again.members.get(`content/${ref}`)!.toString(), text);
  // It can be let go of like any other, and so can they.
  await server.sql("dave", "DELETE FROM conversations WHERE conversation_id = 'team'");
  await server.consolidate("dave");
  assert.ok(!readdirSync(join(server.data, "dave")).includes(ref.slice(5)));
  assert.equal((await upload(server, "erin", archive.bytes)).status, 200);
  assert.equal((await server.request("DELETE", "/api/v1/users/erin", { token: server.token("erin") })).status, 200);
  await server.destroy();
});

test("SIGKILL in the middle of an import: again brings the rest", async () => {
  const server = await Server.start();
  const rows = 6000;
  // The last six of each thousand are files.
  const text = (i: number) => (i % 1000 < 994 ? `row ${i}` : `file ${i} `.repeat(12_000));
  for (let i = 0; i < rows; i += 1000)
    await server.sql("alice", `INSERT INTO messages (conversation_id, content, client_msg_id) VALUES ${Array.from({ length: 1000 }, (_, k) => `('c${k % 9}', '${text(i + k)}', 'k${i + k}')`).join(",")}`);
  const archive = await download(server, "alice");
  const want = (await server.sql("alice", "SELECT count(*), sum(msg_id), count(DISTINCT client_msg_id) FROM messages")).rows;
  // As many files as rows that name one, whatever was cut short.
  const filesAreRows = async (user = "bob") => {
    const [[named]] = (await server.sql(user, "SELECT count(content_ref) FROM messages")).rows;
    const folder = join(server.data, user);
    assert.equal(existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith(".bin")).length : 0, named);
  };
  let cut = 0;
  for (let round = 0; round < 4; round++) {
    const importing = upload(server, "bob", archive.bytes).catch(() => undefined);
    // Kill when some of it is there, but not all.
    for (let i = 0; i < 2000; i++) {
      const there = (await server.sql("bob", "SELECT count(*) FROM messages")).rows[0][0];
      if (there >= (round + 1) * 1000) {
        if (there < rows) cut++;
        break;
      }
    }
    await server.kill();
    await importing;
    await server.up();
    assert.deepEqual(readdirSync(join(server.data, ".kalamdb/imports")), []);
    await filesAreRows();
  }
  assert.ok(cut > 0, "no import was cut short");
  // Killed between the files of a commit and the commit.
  const importing = upload(server, "carol", archive.bytes).catch(() => undefined);
  while (!existsSync(join(server.data, "carol"))) await new Promise((done) => setImmediate(done));
  await server.kill();
  await importing;
  await server.up();
  await filesAreRows("carol");
  assert.equal((await upload(server, "carol", archive.bytes)).status, 200);
  await filesAreRows("carol");
  const [[last]] = (await server.sql("carol", "SELECT content_ref FROM messages WHERE content_ref IS NOT NULL ORDER BY msg_id DESC LIMIT 1")).rows;
  assert.equal((await contentOf(server, "carol", last)).toString(), text(rows - 1));
  assert.deepEqual((await server.sql("carol", "SELECT count(*), sum(msg_id), count(DISTINCT client_msg_id) FROM messages")).rows, want);
  assert.deepEqual((await server.sql("carol", "SELECT max(_seq), count(DISTINCT _seq) FROM messages")).rows, [[rows, rows]]);
  assert.equal((await server.sql("carol", "SELECT sum(total_messages)::bigint FROM conversations")).rows[0][0], rows);
  await server.destroy();
});

// ---- kalamdb export and import

function cli(server: Server, args: string[], input?: Buffer): Promise<{ code: number | null; out: Buffer; err: string }> {
  const child = spawn(binary, [args[0], "--data", server.data, ...args.slice(1)], { env: { ...process.env, ...server.env } });
  const out: Buffer[] = [];
  let err = "";
  child.stdout.on("data", (d) => out.push(d));
  child.stderr.on("data", (d) => (err += d));
  child.stdin.on("error", () => {});
  child.stdin.end(input);
  return new Promise((done) => child.once("close", (code) => done({ code, out: Buffer.concat(out), err })));
}

test("kalamdb export and import, with the server, by its address, and without it", async () => {
  const server = await Server.start();
  await seedLife(server);
  const before = await life(server, "alice");
  const file = join(scratch, "alice.tar");
  const check = (archive: Archive) => {
    checkManifest(archive);
    assert.equal(archive.manifest.messages, 150);
  };
  const good = async (args: string[], input?: Buffer) => {
    const r = await cli(server, args, input);
    assert.equal(r.code, 0, r.err);
    return r.out;
  };
  await good(["export", "--user", "alice", "-o", file]);
  check(untar(readFileSync(file)));
  assert.deepEqual(readdirSync(scratch).filter((name) => name.endsWith(".part")), []);
  check(untar(await good(["export", "--user", "alice", "--url", server.url, "--token", server.token("alice")])));
  assert.match((await good(["import", "--user", "bob", file])).toString(), /^bob: 150 messages, 5 conversations, \d+ files\n$/);
  assert.deepEqual(await life(server, "bob"), before);
  await good(["import", "--user", "carol ü", "-", "--url", `${server.url}/`, "--token", server.token("s", "service")], readFileSync(file));
  assert.deepEqual(await life(server, "carol ü"), before);
  // Refusals have the server's words.
  const denied = await cli(server, ["export", "--user", "bob", "--url", server.url, "--token", server.token("alice")]);
  assert.deepEqual([denied.code, denied.out.length], [1, 0]);
  assert.match(denied.err, /another user's data/);
  const broken = readFileSync(file).subarray(0, 5000);
  assert.match((await cli(server, ["import", "--user", "dave", "-"], broken)).err, /archive/);
  assert.equal((await cli(server, ["export", "--user", "nobody", "-o", join(scratch, "none.tar")])).code, 1);
  assert.ok(!readdirSync(scratch).includes("none.tar"));
  assert.equal((await cli(server, ["export"])).code, 2);
  assert.equal((await cli(server, ["import", "--user", "x"])).code, 2);
  assert.match((await cli(server, ["export", "--user", "x", "--url", "https://h.invalid", "--token", "t"])).err, /cannot find h\.invalid/);
  await server.stop();
  // Without the server: the directory itself.
  check(untar(await good(["export", "--user", "alice"])));
  await good(["import", "--user", "erin", file]);
  assert.match((await cli(server, ["import", "--user", "dave", "-"], broken)).err, /archive/);
  await server.up();
  assert.deepEqual(await life(server, "erin"), before);
  assert.equal((await server.sql("dave", "SELECT count(*) FROM messages")).rows[0][0], 0);
  await server.destroy();
});

test("a server that dies during kalamdb export leaves no file behind", async () => {
  const server = await Server.start();
  for (let i = 0; i < 30; i++) await server.sql("alice", "INSERT INTO messages (conversation_id, content) VALUES ('c', $1)", [randomBytes(600_000).toString("base64")]);
  const child = spawn(binary, ["export", "--data", server.data, "--user", "alice"], { stdio: ["ignore", "pipe", "pipe"] });
  const ended = new Promise((done) => child.once("close", done));
  await new Promise((done) => child.stdout.once("data", done));
  child.stdout.pause();
  await server.kill();
  child.stdout.resume();
  assert.equal(await ended, 1);
  await server.destroy();
});

test("a shutdown waits for neither a client that does not read nor an import without end", async () => {
  const server = await Server.start({ KALAMDB_SHUTDOWN_TIMEOUT_MS: "1000" });
  for (let i = 0; i < 30; i++) await server.sql("alice", "INSERT INTO messages (conversation_id, content) VALUES ('c', $1)", [randomBytes(600_000).toString("base64")]);
  const archive = await download(server, "alice");
  const stalled = connect(server.port, "127.0.0.1");
  stalled.on("error", () => {});
  stalled.write(`GET /api/v1/export HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${server.token("alice")}\r\n\r\n`);
  await new Promise((done) => stalled.once("data", done));
  stalled.pause();
  const half = connect(server.port, "127.0.0.1");
  half.on("error", () => {});
  half.write(`POST /api/v1/import?user=carol HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${server.token("s", "service")}\r\nContent-Length: 1000000\r\n\r\n${"x".repeat(1000)}`);
  const importing = upload(server, "bob", archive.bytes).catch(() => undefined);
  const started = Date.now();
  assert.equal(await server.stop(), 0);
  assert.ok(Date.now() - started < 15_000);
  stalled.destroy();
  half.destroy();
  await importing;
  await server.up();
  for (const folder of ["exports", "imports"]) assert.deepEqual(readdirSync(join(server.data, ".kalamdb", folder)), []);
  assert.equal((await upload(server, "bob", archive.bytes)).status, 200);
  assert.equal((await server.sql("bob", "SELECT count(*) FROM messages")).rows[0][0], 30);
  await server.destroy();
});

test("a reply that was growing is interrupted where it is imported", async () => {
  const server = await Server.start();
  const msgId = await server.say("alice", "c", "so far", { metadata: { stream: "open", model: { stream: "open" } } });
  const archive = await download(server, "alice");
  assert.equal((await upload(server, "bob", archive.bytes)).status, 200);
  assert.deepEqual((await server.sql("bob", "SELECT msg_id, content, metadata FROM messages")).rows, [
    [msgId, "so far", { stream: "interrupted", model: { stream: "open" } }],
  ]);
  await server.destroy();
});
