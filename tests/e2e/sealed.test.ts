// Old rows under encryption: what lies on the disk, what happens to who damages it, and that nobody else notices.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { download, upload } from "./archive.ts";
import { binary, Server, temporaryFolder } from "./harness.ts";

// Nothing stays in the hot tier, so that what the disk shows is the files' doing.
const cold = { KALAMDB_CONSOLIDATE_INTERVAL_MS: "0", KALAMDB_HOT_TAIL_ROWS: "0" };
const on = { ...cold, KALAMDB_ENCRYPTION: "on" };
const planted = ["!!planted-first-d8f1", "~~planted-last-77ac"]; // first and last in order: Parquet's statistics show them

function files(dir: string): string[] {
  return readdirSync(dir, { withFileTypes: true }).flatMap((e) => (e.isDirectory() ? files(join(dir, e.name)) : [join(dir, e.name)]));
}

/** Files below the folder that contain one of the texts. */
function showing(dir: string, texts = planted): string[] {
  return files(dir).filter((path) => {
    const bytes = readFileSync(path);
    return texts.some((text) => bytes.includes(text));
  });
}

async function fill(server: Server, users: string[]): Promise<void> {
  for (const user of users) {
    const rows = Array.from({ length: 500 }, (_, i) => `('talk-${i % 5}', '${user} says ${i}')`).join(",");
    await server.sql(user, `INSERT INTO messages (conversation_id, content) VALUES ${rows}`);
    for (const text of planted) await server.say(user, "talk-1", text);
  }
}

function parquet(server: Server, user: string): string {
  const names = readdirSync(join(server.data, user)).filter((name) => name.startsWith("batch-"));
  assert.equal(names.length, 1);
  return join(server.data, user, names[0]);
}

const groups = "SELECT conversation_id, count(*), min(content), max(content) FROM messages GROUP BY conversation_id ORDER BY 1";

test("no word of it on the disk, in a backup, or where exports and imports pass through", async () => {
  const plain = await Server.start({ ...cold, KALAMDB_ENCRYPTION: "off" });
  await fill(plain, ["alice"]);
  await plain.consolidate();
  assert.notDeepEqual(showing(plain.data), [], "the search finds what is not sealed");
  const truth = (await plain.sql("alice", groups)).rows;

  const server = await Server.start(on);
  await fill(server, ["alice", "bob"]);
  await server.consolidate();
  assert.match(parquet(server, "alice"), /\.parquet\.enc$/);
  assert.deepEqual(showing(server.data), []);
  assert.deepEqual((await server.sql("alice", groups)).rows, truth);
  const opens = async (from: string) => {
    const metrics = await server.request("GET", "/metrics");
    return Number(new RegExp(`^kalamdb_cold_cache_opens(?:_total)?{from="${from}"} (\\d+)`, "m").exec(metrics.body)![1]);
  };
  const [disk, memory] = [await opens("disk"), await opens("memory")];
  assert.deepEqual((await server.sql("alice", groups)).rows, truth, "again");
  assert.equal(await opens("disk"), disk);
  assert.equal(await opens("memory"), memory + 1);
  // What is replaced is sealed anew; what is deleted is gone.
  await server.sql("alice", "DELETE FROM messages WHERE content = $1", [planted[0]]);
  const rest = (await server.sql("alice", groups)).rows;
  await server.consolidate();
  assert.deepEqual((await server.sql("alice", groups)).rows, rest);
  assert.equal((await server.sql("alice", "SELECT count(*) FROM messages WHERE content = $1", [planted[0]])).rows[0][0], 0);
  await server.kill();
  await server.up();
  assert.deepEqual((await server.sql("alice", groups)).rows, rest, "after a crash");

  // From the beginning: the replay reads the files.
  const socket = await server.socket("bob");
  assert.equal((await socket.subscribe({ id: "all", lastSeq: 0 })).type, "subscribe_ack");
  const replay = await socket.takeUntil("replay_complete");
  assert.equal(replay.at(-1).messageCount, 502);
  assert.deepEqual(planted.filter((text) => JSON.stringify(replay).includes(text)), planted);
  socket.ws.close();

  const archive = await download(server, "bob");
  assert.ok([...archive.members.keys()].some((name) => name.startsWith("messages/")));
  const other = await Server.start(on);
  assert.equal((await upload(other, "bob", archive.bytes)).status, 200);
  assert.deepEqual((await other.sql("bob", groups)).rows, (await server.sql("bob", groups)).rows);
  await other.consolidate();
  assert.deepEqual(showing(other.data), []);

  const to = temporaryFolder();
  const backup = await server.request("POST", "/api/v1/admin/backup", { token: server.token("root", "admin"), body: { to } });
  assert.equal(backup.status, 200, JSON.stringify(backup.body));
  assert.deepEqual(showing(to), []);
});

test("a damaged key is its user's damage: the server starts, the log names the folder, verify the user; the catalog's key stops it", async () => {
  const server = await Server.start(on);
  await fill(server, ["alice", "bob"]);
  await server.consolidate();
  const truth = (await server.sql("alice", groups)).rows;
  await server.stop();
  const ring = join(server.data, ".kalamdb/keys/000000.ring"), whole = readFileSync(ring);
  const slot = 128, catalog = 0, bob = 2; // users are numbered as they come
  for (const at of [0, 40, slot - 1]) {
    const bad = Buffer.from(whole);
    bad[bob * slot + at] ^= 1;
    writeFileSync(ring, bad);
    const found = spawnSync(binary, ["verify", "--data", server.data], { env: { ...process.env, ...on }, encoding: "utf8" });
    assert.equal(found.status, 1);
    assert.match(found.stdout + found.stderr, /user bob:/);
    server.log.length = 0;
    await server.up();
    assert.ok(server.log.some((l) => l.event === "folder_passed_over" && l.folder === "bob"));
    assert.deepEqual((await server.sql("alice", groups)).rows, truth);
    assert.equal((await server.query("bob", groups)).status, 500);
    await server.stop();
    assert.ok(existsSync(parquet(server, "bob")), "nothing of the user was set aside");
    assert.ok(readFileSync(ring).equals(bad), "and no new key stands in the place of the damaged one");

    bad.set(whole);
    bad[catalog * slot + at] ^= 1;
    writeFileSync(ring, bad);
    await assert.rejects(server.up(), /catalog's key is missing or damaged/);
    assert.ok(readFileSync(ring).equals(bad));
  }
  writeFileSync(ring, whole);
  await server.up();
  assert.equal((await server.query("bob", groups)).status, 200);
  await server.destroy();
});

test("one user's file in place of another's, and a flipped bit: an error for that user, with a name in the log", async () => {
  const server = await Server.start(on);
  await fill(server, ["alice", "bob"]);
  await server.consolidate();
  const truth = new Map<string, any>();
  for (const user of ["alice", "bob"]) truth.set(user, (await server.sql(user, groups)).rows);
  const alice = parquet(server, "alice"), bob = parquet(server, "bob");
  const kept = join(temporaryFolder(), "bob");
  const named = () => server.log.some((line) => JSON.stringify(line).includes("bob/batch-"));

  const fails = async (what: string) => {
    server.log.length = 0;
    const answer = await server.query("bob", groups);
    assert.equal(answer.status, 500, `${what}: ${JSON.stringify(answer.body)}`);
    assert.equal(answer.body.error, "INTERNAL");
    assert.ok(!JSON.stringify(answer.body).includes("batch-"), "a client sees no path");
    for (let i = 0; i < 50 && !named(); i++) await new Promise((done) => setTimeout(done, 20));
    assert.ok(named(), `${what}: the log names user and file`);
    assert.deepEqual((await server.sql("alice", groups)).rows, truth.get("alice"), what);
    // Bob himself goes on where the file is not needed.
    await server.say("bob", "talk-9", "hot");
    assert.equal((await server.sql("bob", "SELECT content FROM messages WHERE conversation_id = 'talk-9' ORDER BY msg_id DESC LIMIT 1")).rows[0][0], "hot");
    await server.sql("bob", "DELETE FROM messages WHERE conversation_id = 'talk-9'").catch(() => undefined);
  };

  copyFileSync(bob, kept);
  copyFileSync(alice, bob);
  await fails("swapped, the good one in memory");
  await server.stop();
  await server.up();
  await fails("swapped");
  copyFileSync(kept, bob);
  const bytes = readFileSync(bob);
  for (const at of [0, 20, 40, bytes.length >> 1, bytes.length - 1]) {
    const bad = Buffer.from(bytes);
    bad[at] ^= 1;
    writeFileSync(bob, bad);
    await fails(`byte ${at}`);
  }
  writeFileSync(bob, bytes.subarray(0, bytes.length - 100));
  await fails("cut");
  renameSync(kept, bob);
  const rows = (await server.sql("bob", groups)).rows.filter((row: any[]) => row[0] !== "talk-9");
  assert.deepEqual(rows, truth.get("bob"));
});
