// Encryption at rest as an operator meets it: what lies on the disk, which keys open it, what is refused.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { chmodSync, cpSync, existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { binary, Server, temporaryFolder } from "./harness.ts";

const key = randomBytes(32).toString("hex");
const on = { KALAMDB_ENCRYPTION: "on", KALAMDB_MASTER_KEY: key, KALAMDB_CONSOLIDATE_INTERVAL_MS: "0" };

/** Files of the directory, whichever they are, that hold one of the texts. */
function search(dir: string, texts: string[]): string[] {
  return readdirSync(dir, { recursive: true, encoding: "utf8", withFileTypes: true }).flatMap((entry) => {
    if (!entry.isFile()) return [];
    const path = join((entry as any).parentPath ?? entry.path, entry.name);
    const bytes = readFileSync(path);
    return texts.filter((t) => bytes.includes(t)).map((t) => `${path}: ${t}`);
  });
}

/** A start that must not succeed: what it says. */
function refused(data: string, env: Record<string, string>, args: string[] = []): string {
  const run = spawnSync(binary, ["serve", "--data", data, "--listen", "127.0.0.1:0", ...args], {
    env: { ...process.env, ...env },
    encoding: "utf8",
    timeout: 20000,
  });
  assert.notEqual(run.status, 0);
  assert.equal(run.signal, null, run.stderr);
  return run.stderr;
}

test("nothing that was written stands on the disk, and all of it is there after a kill", async () => {
  const s = await Server.start(on);
  const planted = (what: string) => `planted-${what}-Zq7`;
  const mail = await s.say("alice", "c1", planted("content"), { metadata: { note: planted("metadata") } });
  await s.sql("alice", "UPDATE conversations SET title = $1 WHERE conversation_id = 'c1'", [planted("title")]);
  await s.say("alice", "c1", planted("first"));
  const gone = await s.say("alice", "c1", planted("deleted"));
  await s.sql("alice", "UPDATE messages SET content = $1 WHERE msg_id = $2", [planted("updated"), mail]);
  await s.sql("alice", `DELETE FROM messages WHERE msg_id = ${gone}`);
  const made = await s.request("POST", "/api/v1/conversations", {
    token: s.token("alice"),
    body: { conversation_id: "g1", conversation_type: "group", title: planted("group"), members: ["bob", "carol"], metadata: { m: planted("group-meta") } },
  });
  assert.equal(made.status, 201);
  await s.say("bob", "g1", planted("to-all"));
  await s.sql("bob", "UPDATE conversation_users SET metadata = $1 WHERE conversation_id = 'g1' AND user_id = 'bob'", [{ own: planted("member-meta") }]);
  const ws = await s.socket("alice");
  ws.send({ type: "stream_begin", id: "b", conversationId: "c1", from: "assistant" });
  const { msgId } = await ws.next();
  ws.send({ type: "append", msgId, offset: 0, text: planted("stream") });
  assert.equal((await ws.next()).type, "append_ack");
  await s.say("dave", "d1", planted("consolidated"));
  await s.consolidate("dave");

  const texts = ["content", "metadata", "title", "first", "deleted", "updated", "group", "group-meta", "to-all", "member-meta", "stream", "consolidated"].map(planted);
  assert.deepEqual(search(s.data, texts), [], "while it runs");
  assert.deepEqual(search(s.data, [key]), []);
  await s.kill();
  assert.deepEqual(search(s.data, texts), [], "what a kill leaves");
  await s.up();
  const rows = (await s.sql("alice", "SELECT content, metadata FROM messages WHERE conversation_id = 'c1' ORDER BY msg_id")).rows;
  assert.deepEqual(rows.map((r: any[]) => r[0]), [planted("updated"), planted("first"), planted("stream")]);
  assert.equal(rows[0][1].note, planted("metadata"));
  assert.deepEqual((await s.sql("carol", "SELECT title FROM conversations")).rows, [[planted("group")]]);
  assert.deepEqual((await s.sql("carol", "SELECT content FROM messages")).rows, [[planted("to-all")]]);
  assert.deepEqual((await s.sql("carol", "SELECT user_id, role FROM conversation_users ORDER BY user_id")).rows.length, 3);
  assert.deepEqual((await s.sql("dave", "SELECT content FROM messages WHERE content LIKE '%consolidated%'")).rows, [[planted("consolidated")]]);
  assert.equal(await s.stop(), 0);
  assert.deepEqual(search(s.data, texts), [], "after a clean end");
  await s.destroy();
});

test("the process's environment does not keep the key, and no flag or file of settings takes it", async () => {
  const s = await Server.start(on);
  let environment = "";
  try {
    environment = readFileSync(`/proc/${s.child.pid}/environ`, "latin1");
  } catch {
    // not readable at all: better still
  }
  assert.equal(environment.includes(key), false);
  await s.destroy();
  const data = temporaryFolder();
  assert.match(refused(data, {}, ["--encryption", "on", "--master-key", key]), /environment/);
  writeFileSync(join(data, "k.yaml"), `master_key: "${key}"\n`);
  assert.match(refused(data, {}, ["--config", join(data, "k.yaml")]), /k\.yaml:1: master_key: only from the environment/);
  const shown = spawnSync(binary, ["config"], { env: { ...process.env, ...on }, encoding: "utf8" }).stdout;
  assert.match(shown, /master_key: "\*+"/);
  assert.equal(shown.includes(key), false);
  rmSync(data, { recursive: true });
});

test("keys and modes that do not fit stop the start, with a way out", async () => {
  const s = await Server.start(on);
  await s.say("alice", "c", "x");
  await s.stop();
  assert.match(refused(s.data, { ...on, KALAMDB_MASTER_KEY: randomBytes(32).toString("hex") }), /master key does not open/);
  assert.match(refused(s.data, { ...on, KALAMDB_MASTER_KEY: "short" }), /KALAMDB_MASTER_KEY: .*64 hex digits/);
  writeFileSync(join(s.data, "short"), "short");
  const byFile = (name: string) => refused(s.data, { KALAMDB_ENCRYPTION: "on", KALAMDB_MASTER_KEY_FILE: join(s.data, name) });
  assert.match(byFile("short"), /master_key_file: .*64 hex digits/);
  assert.match(byFile("nowhere"), /master_key_file: there is no .*nowhere/);
  assert.match(refused(s.data, { KALAMDB_ENCRYPTION: "on" }), /master key is missing/);
  assert.match(refused(s.data, { KALAMDB_ENCRYPTION: "off" }), /made with encryption[^]*encryption: on/);
  cpSync(join(s.data, ".kalamdb/keys"), join(s.data, "aside"), { recursive: true });
  rmSync(join(s.data, ".kalamdb/keys"), { recursive: true });
  assert.match(refused(s.data, on), /key ring of .* is missing/);
  assert.equal(existsSync(join(s.data, ".kalamdb/keys/ring")), false, "no new ring beside old data");
  cpSync(join(s.data, "aside"), join(s.data, ".kalamdb/keys"), { recursive: true });
  writeFileSync(join(s.data, "master"), Buffer.from(key, "hex").toString("base64") + "\n");
  delete (s.env as any).KALAMDB_MASTER_KEY;
  (s.env as any).KALAMDB_MASTER_KEY_FILE = join(s.data, "master");
  chmodSync(join(s.data, "master"), 0o644);
  await s.up();
  const open = () => s.log.filter((l) => l.event === "key_file_open_to_others" && l.file === "master_key_file").length;
  assert.equal(open(), 1, "a key that others can read is warned of");
  await s.stop();
  chmodSync(join(s.data, "master"), 0o600);
  await s.up();
  assert.equal(open(), 1);
  assert.equal((await s.sql("alice", "SELECT count(*) FROM messages")).rows[0][0], 1);
  await s.destroy();

  const plain = await Server.start({ KALAMDB_ENCRYPTION: "off" });
  await plain.say("alice", "c", "x");
  await plain.stop();
  assert.match(refused(plain.data, on), /made without encryption[^]*encryption: off/);
  assert.equal(existsSync(join(plain.data, ".kalamdb/keys")), false);
  await plain.up();
  await plain.destroy();
});

test("with no key configured one is made, for its owner only, and said loudly", async () => {
  const s = await Server.start({ KALAMDB_ENCRYPTION: "on" });
  const path = join(s.data, ".kalamdb/master.key");
  assert.equal(statSync(path).mode & 0o777, 0o600);
  assert.match(readFileSync(path, "utf8"), /^[0-9a-f]{64}\n$/);
  assert.ok(s.log.some((e) => e.level === "warn" && e.event === "master_key_beside_data"));
  await s.say("alice", "c", "x");
  await s.kill();
  await s.up();
  assert.equal((await s.sql("alice", "SELECT count(*) FROM messages")).rows[0][0], 1);
  const metrics = (await s.request("GET", "/metrics")).body as string;
  assert.match(metrics, /^kalamdb_vault_unseal_failures_total 0$/m);
  assert.equal(metrics.includes(readFileSync(path, "utf8").trim()), false);
  await s.destroy();
});
