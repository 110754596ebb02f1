// A disk that is full, fails, or keeps what was deleted (contract sections 2, 6 and 7).
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { Server, Socket, binary, temporaryFolder, type Answer } from "./harness.ts";

const shim = process.env.KALAMDB_FAILFS;
const duck = process.env.KALAMDB_DUCK;
const insert = "INSERT INTO messages (conversation_id, content, client_msg_id) VALUES ('c', $1, $2)";

/** Changes only: conversation rows may be told again when the storage comes back. */
async function changes(ws: Socket, n: number): Promise<any[]> {
  const out: any[] = [];
  while (out.length < n) {
    const frame = await ws.next();
    if (frame.type === "message") out.push(frame);
  }
  return out;
}

/** Asks again while the answer is 503, as the contract tells clients to. */
async function persist(ask: () => Promise<Answer>): Promise<Answer> {
  const deadline = Date.now() + 20000;
  for (;;) {
    const answer = await ask();
    if (answer.status !== 503 || Date.now() > deadline) return answer;
    await new Promise((done) => setTimeout(done, 20));
  }
}

describe("a failing disk", { skip: shim === undefined || !existsSync(shim) }, () => {
  it("is told, survived without a restart, and loses nothing that was acknowledged", async () => {
    const data = temporaryFolder();
    const control = join(temporaryFolder(), "control");
    writeFileSync(control, "");
    const s = await Server.start({ LD_PRELOAD: shim!, FAILFS_ROOT: data, FAILFS_CONTROL: control }, [], data);
    const send = (key: string) => s.query("a", insert, [key, key]);
    const sent = ["first"];
    assert.equal((await send("first")).status, 200);
    const ws = await s.socket("a");
    const feed = (await ws.subscribe({ id: "s" })).feed;
    for (const mode of ["fsync EIO", "write ENOSPC", "after 1 EIO", "write EIO"]) {
      writeFileSync(control, `${mode}\n`);
      const keys = Array.from({ length: 5 }, (_, i) => `${mode} ${i}`);
      const codes = [];
      for (const key of keys) {
        const answer = await send(key);
        codes.push(`${answer.status} ${answer.body.error}`);
      }
      assert.equal(codes[0], "503 OUTCOME_UNKNOWN", mode);
      assert.ok(codes.every((c) => c === "503 OUTCOME_UNKNOWN" || c === "503 UNAVAILABLE"), `${mode}: ${codes}`);
      assert.equal((await s.sql("a", "SELECT content FROM messages ORDER BY msg_id LIMIT 1")).rows[0][0], "first");
      assert.equal((await s.request("GET", "/api/v1/health")).body.status, "degraded");
      writeFileSync(control, "");
      for (const key of keys) assert.equal((await persist(() => send(key))).status, 200, mode);
      sent.push(...keys);
    }
    const rows = (await s.sql("a", "SELECT _seq, content FROM messages ORDER BY _seq")).rows;
    assert.deepEqual(rows, sent.map((text, i) => [i + 1, text]));
    assert.deepEqual((await changes(ws, rows.length - 1)).map((f) => [f.op, f.seq, f.message.content]), rows.slice(1).map((r: any) => ["insert", ...r]));
    const again = await s.socket("a");
    assert.ok(!(await again.subscribe({ lastSeq: rows.length, feed })).resync);
    assert.match((await s.request("GET", "/metrics")).body, /^kalamdb_store_reopens_total [1-9]/m);
    assert.equal(await s.stop(), 0);
    await s.up();
    assert.deepEqual((await s.sql("a", "SELECT _seq, content FROM messages ORDER BY _seq")).rows, rows);
    await s.destroy();
  });

  it("keeps asynchronous writes from subscribers until they are on disk", async () => {
    const data = temporaryFolder();
    const control = join(temporaryFolder(), "control");
    writeFileSync(control, "");
    const s = await Server.start({ LD_PRELOAD: shim!, FAILFS_ROOT: data, FAILFS_CONTROL: control }, [], data);
    const send = (key: string, durability: string) =>
      s.request("POST", "/api/v1/query", { token: s.token("a"), headers: { "x-durability": durability }, body: { sql: insert, params: [key, key] } });
    assert.equal((await send("one", "async")).status, 200);
    const ws = await s.socket("a");
    await ws.subscribe({ lastSeq: 0 });
    assert.equal((await changes(ws, 1))[0].message.content, "one");
    writeFileSync(control, "fsync EIO\n");
    await send("two", "async");
    const failing = async () => (await s.request("GET", "/api/v1/health")).body.status === "degraded";
    for (const deadline = Date.now() + 10000; !(await failing()) && Date.now() < deadline; ) await new Promise((done) => setTimeout(done, 10));
    assert.ok(await failing());
    assert.ok(ws.frames.every((f) => f.type !== "message"), "told before fsync");
    writeFileSync(control, "");
    assert.equal((await persist(() => send("three", "sync"))).status, 200);
    const rows = (await s.sql("a", "SELECT _seq, content FROM messages ORDER BY _seq")).rows;
    assert.deepEqual((await changes(ws, rows.length - 1)).map((f) => [f.seq, f.message.content]), rows.slice(1));
    await s.destroy();
  });
});

/** A small disk of its own; undefined where mounting is not allowed. */
function smallDisk(megabytes: number): string | undefined {
  const folder = temporaryFolder();
  const mounted = spawnSync("mount", ["-t", "tmpfs", "-o", `size=${megabytes}m`, "tmpfs", folder]).status === 0;
  if (!mounted) rmSync(folder, { recursive: true });
  return mounted ? folder : undefined;
}

const fill = (folder: string, megabytes: number) =>
  spawnSync("dd", ["if=/dev/zero", `of=${join(folder, ".filler")}`, "bs=1M", `count=${megabytes}`], { stdio: "ignore" });

async function onSmallDisk(megabytes: number, skip: (why: string) => void, run: (folder: string) => Promise<void>): Promise<void> {
  const folder = smallDisk(megabytes);
  if (folder === undefined) return skip("mounting is not allowed");
  try {
    await run(folder);
  } finally {
    spawnSync("umount", ["-l", folder]);
    rmSync(folder, { recursive: true, force: true });
  }
}

describe("a full disk", () => {
  it("stops writes at the reserve, keeps reads, and takes writes again by itself", (t) =>
    onSmallDisk(120, (why) => t.skip(why), async (folder) => {
      const s = await Server.start({ KALAMDB_DISK_RESERVE_BYTES: String(64 << 20) }, [], folder);
      for (let i = 0; i < 5; i++) await s.say("a", "c", `m${i}`);
      fill(folder, 75);
      let rows = 5;
      for (let answer; (answer = await s.query("a", insert, ["x", `k${rows}`])).status === 200; ) {
        rows++;
        assert.ok(rows < 1000);
        await new Promise((done) => setTimeout(done, 20));
      }
      for (const sql of ["UPDATE messages SET content = 'x'", "DELETE FROM messages", "UPDATE conversations SET title = 't'"]) {
        const answer = await s.query("a", sql);
        assert.equal(`${answer.status} ${answer.body.error}`, "503 UNAVAILABLE", sql);
        assert.ok(Number(answer.headers.get("retry-after")) > 0);
      }
      assert.equal((await s.sql("a", "SELECT count(*) FROM messages")).rows[0][0], rows);
      assert.equal((await s.sql("a", "SELECT conversation_id, count(*) FROM messages GROUP BY 1")).rows[0][1], rows);
      assert.equal((await s.request("GET", "/readyz")).status, 200);
      const ws = await s.socket("a");
      await ws.subscribe({ lastSeq: 0 });
      assert.equal((await ws.takeUntil("replay_complete")).length, rows + 1);
      rmSync(join(folder, ".filler"));
      assert.equal((await persist(() => s.query("a", insert, ["again", "again"]))).status, 200);
      assert.deepEqual((await changes(ws, 1)).map((f) => [f.seq, f.message.content]), [[rows + 1, "again"]]);
      await s.kill();
    }));

  it("without a reserve loses and doubles nothing, and comes back", (t) =>
    onSmallDisk(120, (why) => t.skip(why), async (folder) => {
      const s = await Server.start({ KALAMDB_DISK_RESERVE_BYTES: "0", KALAMDB_WRITE_BUFFER_BYTES: String(4 << 20) }, [], folder);
      const ws = await s.socket("a");
      await ws.subscribe();
      fill(folder, 105);
      const texts = Array.from({ length: 40 }, () => randomBytes(300000).toString("base64"));
      const refused = new Set<string>();
      for (const [i, text] of texts.entries()) {
        const answer = await s.query("a", insert, [text, `k${i}`]);
        if (answer.status !== 200) refused.add(`${answer.status} ${answer.body.error}`);
      }
      assert.ok(refused.size > 0, "the disk is larger than this test");
      for (const code of refused) assert.match(code, /^503 (OUTCOME_UNKNOWN|UNAVAILABLE)$/);
      assert.equal((await s.query("a", "SELECT count(*) FROM messages")).status, 200);
      rmSync(join(folder, ".filler"));
      for (const [i, text] of texts.entries()) assert.equal((await persist(() => s.query("a", insert, [text, `k${i}`]))).status, 200);
      const rows = (await s.sql("a", "SELECT _seq, client_msg_id, length(content) FROM messages ORDER BY _seq")).rows;
      assert.equal(rows.length, texts.length);
      assert.equal(new Set(rows.map((r: any) => r[1])).size, texts.length);
      assert.deepEqual((await changes(ws, rows.length)).map((f) => [f.seq, f.message.client_msg_id, f.message.content.length]), rows);
      await s.kill();
    }));
});

describe("files", () => {
  it("have the names of the contract, are sorted by msg_id and open in plain DuckDB", { skip: duck === undefined }, async () => {
    // Another program is to open them, so they are not sealed.
    const s = await Server.start({ KALAMDB_ENCRYPTION: "off" });
    const ids = [];
    for (let i = 0; i < 30; i++) ids.push(await s.say("user_alice", `c${i % 3}`, `m${i}`));
    await s.consolidate("user_alice");
    const folder = join(s.data, "user_alice");
    const files = readdirSync(folder);
    assert.equal(files.length, 1);
    assert.match(files[0], /^batch-\d{8}T\d{6}Z-\d{3}\.parquet$/);
    const out = spawnSync(duck!, { encoding: "utf8", input: `SELECT msg_id, content FROM read_parquet('${join(folder, files[0])}')\n` });
    assert.deepEqual(JSON.parse(out.stdout), ids.map((id, i) => [`${id}`, `m${i}`]));
    await s.destroy();
  });

  it("under encryption have a name that says so, and open nowhere else", { skip: duck === undefined }, async () => {
    const s = await Server.start();
    for (let i = 0; i < 30; i++) await s.say("user_alice", "c", `m${i}`);
    await s.consolidate("user_alice");
    const files = readdirSync(join(s.data, "user_alice"));
    assert.equal(files.length, 1);
    assert.match(files[0], /^batch-\d{8}T\d{6}Z-\d{3}\.parquet\.enc$/);
    const out = spawnSync(duck!, { encoding: "utf8", input: `SELECT count(*) FROM read_parquet('${join(s.data, "user_alice", files[0])}')\n` });
    assert.match(out.stdout + out.stderr, /magic bytes|not a parquet|too small/i);
    assert.deepEqual((await s.sql("user_alice", "SELECT content FROM messages ORDER BY msg_id")).rows, Array.from({ length: 30 }, (_, i) => [`m${i}`]));
    await s.destroy();
  });

  it("nobody names are set aside, foreign ones stay", async () => {
    const s = await Server.start();
    await s.say("a", "c", "x");
    await s.consolidate("a");
    assert.equal(await s.stop(), 0);
    const stray = "batch-20200101T000000Z-001.parquet";
    for (const name of [stray, `${stray}.tmp`, `${stray}.enc`, `${stray}.enc.tmp`]) writeFileSync(join(s.data, "a", name), "PAR1");
    writeFileSync(join(s.data, "a", "notes.txt"), "mine");
    await s.up();
    for (const name of [stray, `${stray}.tmp`, `${stray}.enc`, `${stray}.enc.tmp`]) assert.ok(!existsSync(join(s.data, "a", name)), name);
    assert.equal(readFileSync(join(s.data, "a", "notes.txt"), "utf8"), "mine");
    for (const name of [stray, `${stray}.enc`]) assert.equal(readFileSync(join(s.data, ".kalamdb/orphans/a", name), "utf8"), "PAR1");
    assert.equal((await s.sql("a", "SELECT content FROM messages")).rows[0][0], "x");
    await s.destroy();
  });
});

describe("a server", () => {
  it("has a data directory to itself", async () => {
    const s = await Server.start();
    const second = spawnSync(binary, ["serve", "--data", s.data, "--listen", "127.0.0.1:0"], { encoding: "utf8", timeout: 20000 });
    assert.notEqual(second.status, 0);
    assert.equal(second.signal, null);
    await s.say("a", "c", "still here");
    await s.kill();
    await s.up();
    assert.equal((await s.sql("a", "SELECT content FROM messages")).rows[0][0], "still here");
    await s.destroy();
  });
});
