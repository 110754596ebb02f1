// kalamdb backup and restore: while writes go on, incrementally, and against every user's tables.
import { test } from "node:test";
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { binary, Server, temporaryFolder } from "./harness.ts";

const quiet = { KALAMDB_CONSOLIDATE_INTERVAL_MS: "0" };

function cli(...args: string[]) {
  return spawnSync(binary, args, { encoding: "utf8" });
}

function backup(server: Server, to: string, keep?: number) {
  return server.request("POST", "/api/v1/admin/backup", {
    token: server.token("root", "admin"),
    body: keep === undefined ? { to } : { to, keep },
  });
}

const tables = [
  "SELECT msg_id, conversation_id, conversation_type, \"from\", timestamp, content, content_ref, metadata, client_msg_id, _seq, _ins_seq FROM messages ORDER BY msg_id",
  "SELECT * FROM conversations ORDER BY conversation_id",
  "SELECT * FROM conversation_users ORDER BY conversation_id, user_id",
];

async function everything(server: Server, users: string[]): Promise<any> {
  const out: any = {};
  for (const user of users) out[user] = await Promise.all(tables.map(async (sql) => (await server.sql(user, sql)).rows));
  return out;
}

function files(dir: string): string[] {
  return readdirSync(dir, { withFileTypes: true }).flatMap((e) => (e.isDirectory() ? files(join(dir, e.name)) : [join(dir, e.name)]));
}

async function restored(from: string, ...more: string[]): Promise<Server> {
  const data = join(temporaryFolder(), "new");
  const run = cli("restore", "--from", from, "--data", data, ...more);
  assert.equal(run.status, 0, run.stderr);
  return Server.start(quiet, [], data);
}

test("a backup holds every user's tables; the second copies little; feeds change", async () => {
  const server = await Server.start(quiet);
  const dir = temporaryFolder();
  const users = ["alice", "bob", "car/ol é"];
  for (const user of users) {
    const rows = Array.from({ length: 300 }, (_, i) => `('talk-${i % 5}', 'first-${user}-${i}')`).join(",");
    await server.sql(user, `INSERT INTO messages (conversation_id, content) VALUES ${rows}`);
  }
  await server.consolidate();
  await server.say("alice", "talk-1", "L".repeat(120000)); // a file of its own
  await server.say("bob", "talk-2", "hot");
  await server.sql("bob", "UPDATE messages SET content = 'edited' WHERE content = 'first-bob-7'");
  await server.sql("bob", "DELETE FROM messages WHERE content = 'first-bob-8'");
  const first = await everything(server, users);
  const socket = await server.socket("alice");
  const feed = (await socket.subscribe()).feed;

  // Who may, and what is refused.
  const asService = await server.request("POST", "/api/v1/admin/backup", { token: server.token("w", "service"), body: { to: dir } });
  assert.equal(asService.status, 403);
  for (const body of [{}, { to: "relative" }, { to: dir, keep: 0 }, { to: 1 }]) {
    const bad = await server.request("POST", "/api/v1/admin/backup", { token: server.token("root", "admin"), body });
    assert.equal(bad.status, 400, JSON.stringify(body));
  }
  let answer = await backup(server, join(server.data, "inside"));
  assert.equal(answer.status, 400);
  assert.match(answer.body.message, /lies in the data directory/);
  assert.ok(!existsSync(join(server.data, "inside")));
  const foreign = temporaryFolder();
  writeFileSync(join(foreign, "thesis.doc"), "mine");
  answer = await backup(server, foreign);
  assert.equal(answer.status, 400);
  assert.match(answer.body.message, /not empty/);

  answer = await backup(server, "/proc/backups/here");
  assert.deepEqual([answer.status, answer.body.error], [400, "INVALID_REQUEST"]);
  assert.match(answer.body.message, /cannot be written to/);
  assert.match(answer.body.detail, /\/proc\/backups/);

  answer = await backup(server, dir);
  assert.equal(answer.status, 200, JSON.stringify(answer.body));
  assert.equal(answer.body.backup, 1);
  assert.equal(answer.body.filesCopied, answer.body.files);
  assert.ok(answer.body.files >= 4, JSON.stringify(answer.body));

  await server.say("alice", "talk-1", "after the first");
  const second = await everything(server, users);
  const run = cli("backup", "--to", dir, "--data", server.data); // by the server that runs
  assert.equal(run.status, 0, run.stderr);
  assert.equal(run.stdout, `${/^backup 2 in .*, of which 0 files, 0 bytes are new\n/.exec(run.stdout)}keys in ${dir}.keys\n`);
  const list = cli("backup", "--list", dir);
  assert.match(list.stdout, /^1  20\S+Z  \d+ files, \d+ bytes\n2  20/);
  for (const secret of ["jwt_secret", "receipt.key"]) assert.ok(!files(dir).some((f) => f.includes(secret)));
  const key = readFileSync(join(server.data, ".kalamdb/jwt_secret"));
  assert.ok(!files(dir).some((f) => readFileSync(f).includes(key)));
  await server.stop();

  const one = await restored(dir, "--backup", "1");
  assert.deepEqual(await everything(one, users), first);
  const two = await restored(dir);
  assert.deepEqual(await everything(two, users), second);

  // Clients ask anew.
  const again = await two.socket("alice");
  const ack = await again.subscribe({ lastSeq: 3, feed });
  assert.equal(ack.resync, true);
  assert.notEqual(ack.feed, feed);
  // And it goes on: new rows, consolidation, a restart.
  await two.say("alice", "talk-1", "new life");
  await two.consolidate();
  await two.stop();
  await two.up();
  const fresh = await two.socket("alice");
  assert.equal((await fresh.subscribe()).feed, ack.feed);
  assert.equal((await two.sql("alice", "SELECT count(*) FROM messages")).rows[0][0], 303);
  // Nothing was set aside: the restored files are all known.
  assert.ok(!existsSync(join(two.data, ".kalamdb/orphans")) || files(join(two.data, ".kalamdb/orphans")).length === 0);
  // Without a server the program backs up by itself.
  await two.stop();
  const third = cli("backup", "--to", dir, "--data", two.data, "--keep", "1");
  assert.equal(third.status, 0, third.stderr);
  assert.match(third.stdout, /2 older removed/);
  assert.equal(cli("backup", "--list", dir).stdout.trim().split("\n").length, 1);
  const kept = await restored(dir);
  assert.equal((await kept.sql("alice", "SELECT count(*) FROM messages")).rows[0][0], 303);
  await Promise.all([server, one, two, kept].map((s) => s.destroy()));
});

test("writes, deletions and consolidation go on during backups: each restores to one moment", async () => {
  const server = await Server.start({ ...quiet, KALAMDB_CONSOLIDATE_ROWS: "200", KALAMDB_CONSOLIDATE_INTERVAL_MS: "50", KALAMDB_CONSOLIDATE_MIN_ROWS: "50" });
  const dir = temporaryFolder();
  let on = true;
  // Writer k sends i = 0, 1, 2 … one by one, and removes what is 300 back.
  const writers = ["a", "b", "c"].map(async (user) => {
    for (let i = 0; on; i++) {
      await server.sql(user, `INSERT INTO messages (conversation_id, content) VALUES ('talk', '${i}'), ('talk', '${i}')`);
      if (i >= 300) await server.sql(user, `DELETE FROM messages WHERE content = '${i - 300}'`);
    }
  });
  const reports: any[] = [];
  for (let n = 0; n < 4; n++) {
    await new Promise((done) => setTimeout(done, 400));
    const answer = await backup(server, dir);
    assert.equal(answer.status, 200, JSON.stringify(answer.body));
    reports.push(answer.body);
  }
  on = false;
  await Promise.all(writers);
  await server.stop();
  let before = 0;
  for (const report of reports) {
    const copy = await restored(dir, "--backup", String(report.backup));
    let total = 0;
    for (const user of ["a", "b", "c"]) {
      const rows = (await copy.sql(user, "SELECT content, count(*) FROM messages GROUP BY content")).rows;
      const seen = rows.map((r: any) => Number(r[0])).sort((x: number, y: number) => x - y);
      // Both rows of a statement or none, no hole, and deletions in order.
      assert.ok(rows.every((r: any) => r[1] === 2), user);
      assert.ok(seen.every((v: number, i: number) => i === 0 || v === seen[i - 1] + 1), user);
      const seq = (await copy.sql(user, "SELECT count(*), count(DISTINCT _seq) FROM messages")).rows[0];
      assert.equal(seq[0], seq[1]);
      const c = (await copy.sql(user, "SELECT total_messages FROM conversations")).rows[0][0];
      assert.equal(c, seq[0]);
      total += seen[seen.length - 1];
    }
    assert.ok(total > before);
    before = total;
    await copy.destroy();
  }
  await server.destroy();
});

test("damage is found, half a restore is recognised, a kill leaves older backups whole", async () => {
  const server = await Server.start(quiet);
  const dir = temporaryFolder();
  for (let i = 0; i < 200; i++) await server.say("alice", "talk", `text-${i}`);
  await server.consolidate();
  assert.equal((await backup(server, dir)).status, 200);
  const truth = await everything(server, ["alice"]);

  // Killed at various moments of a backup with much to copy.
  for (let k = 0; k < 6; k++) {
    const rows = Array.from({ length: 2000 }, (_, i) => `('talk-${k}', 'more-${k}-${i}-${Math.random()}')`).join(",");
    await server.sql("bob", `INSERT INTO messages (conversation_id, content) VALUES ${rows}`);
    await server.consolidate("bob");
    const asked = backup(server, dir).catch(() => undefined);
    await new Promise((done) => setTimeout(done, k * 6));
    await server.kill();
    await asked;
    await server.up();
  }
  const old = await restored(dir, "--backup", "1");
  assert.deepEqual(await everything(old, ["alice"]), truth);
  await old.destroy();
  const whole = await backup(server, dir, 2);
  assert.equal(whole.status, 200, JSON.stringify(whole.body));
  const newest = await restored(dir);
  assert.equal((await newest.sql("bob", "SELECT count(*) FROM messages")).rows[0][0], 12000);
  await newest.destroy();
  await server.stop();

  // A target that is not empty; no such backup; no backup directory.
  const full = temporaryFolder();
  writeFileSync(join(full, "x"), "");
  let run = cli("restore", "--from", dir, "--data", full);
  assert.equal(run.status, 1);
  assert.match(run.stderr, /is not empty/);
  run = cli("restore", "--from", dir, "--data", join(full, "y"), "--backup", "99");
  assert.match(run.stderr, /there is no backup 99/);
  run = cli("restore", "--from", full, "--data", join(full, "y"));
  assert.match(run.stderr, /no backup directory/);

  // One bit of one file.
  const victim = files(join(dir, "files")).sort((a, b) => statSync(b).size - statSync(a).size)[0];
  const good = readFileSync(victim);
  const bad = Buffer.from(good);
  bad[bad.length >> 1] ^= 1;
  writeFileSync(victim, bad);
  const half = join(temporaryFolder(), "half");
  run = cli("restore", "--from", dir, "--data", half);
  assert.equal(run.status, 1);
  assert.match(run.stderr, /is damaged/);
  // What it left is no data directory.
  const start = cli("serve", "--data", half, "--listen", "127.0.0.1:0");
  assert.notEqual(start.status, 0);
  assert.match(start.stderr, /a restore into .* did not finish/);
  writeFileSync(victim, good);

  // A killed restore likewise.
  const killed = join(temporaryFolder(), "killed");
  const child = spawn(binary, ["restore", "--from", dir, "--data", killed], { stdio: "ignore" });
  const over = new Promise((done) => child.once("exit", done));
  while (!existsSync(join(killed, ".kalamdb/restoring"))) await new Promise((done) => setImmediate(done));
  child.kill("SIGKILL");
  await over;
  if (existsSync(join(killed, ".kalamdb/restoring")))
    assert.match(cli("serve", "--data", killed, "--listen", "127.0.0.1:0").stderr, /did not finish/);

  // The hot tier's checksums.
  const table = files(join(dir, "hot")).filter((f) => f.endsWith(".sst")).sort((a, b) => statSync(b).size - statSync(a).size)[0];
  const sst = readFileSync(table);
  sst[sst.length >> 1] ^= 1;
  writeFileSync(table, sst);
  run = cli("restore", "--from", dir, "--data", join(temporaryFolder(), "hot"));
  assert.equal(run.status, 1);
  assert.match(run.stderr, /hot tier of the backup cannot be restored/);

  // The list.
  const lists = readdirSync(join(dir, "generations")).sort();
  const list = join(dir, "generations", lists[lists.length - 1]);
  writeFileSync(list, readFileSync(list, "utf8").replace("file ", "file  "));
  run = cli("restore", "--from", dir, "--data", join(temporaryFolder(), "list"));
  assert.equal(run.status, 1);
  assert.match(run.stderr, /is damaged/);
  mkdirSync(join(full, "z"));
  rmSync(full, { recursive: true });
  await server.destroy();
});

test("a backup from before an erasure gives nothing of the erased, with the keys of today", async () => {
  const key = "0123456789abcdef".repeat(4);
  const sealed = { ...quiet, KALAMDB_ENCRYPTION: "on", KALAMDB_MASTER_KEY: key };
  const server = await Server.start(sealed);
  const dir = temporaryFolder(), keys = join(temporaryFolder(), "keys");
  const admin = server.token("root", "admin");
  const large = "L".repeat(150000);
  for (const user of ["alice", "bob"]) {
    await server.say(user, "c", `planted-${user}`);
    await server.say(user, "c", large);
  }
  assert.equal((await backup(server, dir)).status, 200);
  const receipt = await server.request("DELETE", "/api/v1/users/alice", { token: admin });
  assert.equal(receipt.status, 200, JSON.stringify(receipt.body));
  assert.equal(receipt.body.backups, "covered");
  // Keys beside what they open are refused; apart, they are the newest state.
  let answer = await server.request("POST", "/api/v1/admin/backup", { token: admin, body: { to: dir, keys: join(dir, "keys") } });
  assert.equal(answer.status, 400);
  assert.match(answer.body.message, /lies in the backup/);
  answer = await server.request("POST", "/api/v1/admin/backup", { token: admin, body: { to: dir, keys } });
  assert.equal(answer.status, 200, JSON.stringify(answer.body));
  assert.deepEqual(readdirSync(keys).sort(), ["000000.ring", "ring", "runs"]);
  await server.stop();

  const data = join(temporaryFolder(), "new");
  const run = cli("restore", "--from", dir, "--backup", "1", "--data", data, "--keys", keys);
  assert.equal(run.status, 0, run.stderr);
  const again = await Server.start(sealed, [], data);
  // To the server that comes back she is erased: her folder goes, nobody reads a row.
  for (let i = 0; i < 200 && existsSync(join(data, "alice")); i++) await new Promise((r) => setTimeout(r, 50));
  assert.ok(!existsSync(join(data, "alice")));
  assert.ok(!existsSync(join(data, ".kalamdb", "restored")));
  const asked = await again.request("POST", "/api/v1/query", {
    token: again.token("root", "admin"),
    body: { sql: "SELECT count(*) FROM alice.messages" },
  });
  assert.deepEqual(asked.body.rows ?? [[0]], [[0]], JSON.stringify(asked.body));
  const rows = (await again.sql("bob", "SELECT content, content_ref FROM messages ORDER BY msg_id")).rows;
  assert.equal(rows[0][0], "planted-bob");
  const content = await again.request("GET", `/api/v1/content/${rows[1][1]}`, { token: again.token("bob") });
  assert.equal(content.status, 200);
  await again.stop();
});
