// The master key changed while people write: what is acknowledged stays, the old key opens nothing afterwards,
// and a kill at any moment leaves a directory that starts. Its every step is stopped in tests/unit/vault/rotate_test.c.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync, readdirSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { test } from "node:test";
import { binary, Server, temporaryFolder } from "./harness.ts";

const on = { KALAMDB_ENCRYPTION: "on", KALAMDB_CONSOLIDATE_INTERVAL_MS: "0" };

function keyFile(): string {
  const path = join(temporaryFolder(), "master");
  writeFileSync(path, randomBytes(32).toString("hex") + "\n", { mode: 0o600 });
  return path;
}

function cli(args: string[], env: Record<string, string> = {}) {
  return spawnSync(binary, args, { env: { ...process.env, ...env }, encoding: "utf8", timeout: 60000 });
}

function refused(data: string, env: Record<string, string>): string {
  const run = cli(["serve", "--data", data, "--listen", "127.0.0.1:0"], env);
  assert.notEqual(run.status, 0);
  assert.equal(run.signal, null, run.stderr);
  return run.stderr;
}

const admin = (s: Server) => ({ token: s.token("root", "admin") });
const rotate = (s: Server, body: any = {}) => s.request("POST", "/api/v1/admin/keys/rotate", { ...admin(s), body });
const state = async (s: Server) => (await s.request("GET", "/api/v1/admin/keys", admin(s))).body;
const ring = (s: Server) => readdirSync(join(s.data, ".kalamdb/keys")).filter((f) => f !== "ring" && f !== "runs").sort();
const count = async (s: Server, user: string) => (await s.sql(user, "SELECT count(*) FROM messages")).rows[0][0];

test("a configured key is replaced by the one in a file; the old one opens nothing any more", async () => {
  const [before, after] = [keyFile(), keyFile()];
  const s = await Server.start({ ...on, KALAMDB_MASTER_KEY_FILE: before });
  for (const user of ["alice", "bob", "carol"]) await s.say(user, "c", "x");
  assert.equal((await s.request("DELETE", "/api/v1/users/carol", admin(s))).status, 200);
  await s.consolidate("alice");
  const first = await state(s);
  assert.deepEqual([first.encryption, first.masterKey, first.masterKeyRotations, first.masterKeyRotatedAt, first.rotating], [true, "configured", 0, null, false]);
  assert.match(first.masterKeyCheck, /^[0-9a-f]{16}$/);
  const segment = readFileSync(join(s.data, ".kalamdb/keys/000000.ring"));

  // What is refused changes nothing.
  assert.equal((await s.request("POST", "/api/v1/admin/keys/rotate", { token: s.token("alice"), body: {} })).status, 403);
  assert.equal((await s.request("GET", "/api/v1/admin/keys", { token: s.token("svc", "service") })).status, 403);
  for (const [body, text] of [
    [{}, /master_key_file is missing/],
    [{ master_key_file: before }, /master key in use/],
    [{ master_key_file: after + ".no" }, /there is no file/],
    [{ master_key_file: "relative" }, /absolute path/],
    [{ master_key_file: join(s.data, ".kalamdb/keys/ring") }, /64 hex digits/],
    [{ user: "alice" }, /master_key_file only/],
  ] as const) {
    const a = await rotate(s, body);
    assert.equal(a.status, 400, JSON.stringify(a.body));
    assert.match(a.body.message, text);
  }
  assert.deepEqual(ring(s), ["000000.ring"]);

  // Writers go on meanwhile, of users who are there and of new ones.
  let stop = false;
  const written: Record<string, number> = { alice: 1, bob: 1 };
  const writers = ["alice", "new"].map(async (user, w) => {
    for (let i = 0; !stop; i++) {
      const id = w === 0 ? user : `${user}${i}`;
      await s.say(id, "c", "y");
      written[id] = (written[id] ?? 0) + 1;
    }
  });
  const done = await rotate(s, { master_key_file: after });
  stop = true;
  await Promise.all(writers);
  assert.equal(done.status, 200, JSON.stringify(done.body));
  assert.equal(done.body.masterKey, "configured");
  assert.equal(done.body.damaged, 0);
  assert.ok(done.body.keys >= 3, JSON.stringify(done.body)); // the catalog's, alice's, bob's
  assert.notEqual(done.body.masterKeyCheck, first.masterKeyCheck);
  const second = await state(s);
  assert.equal(second.masterKeyRotations, 1);
  assert.match(second.masterKeyRotatedAt, /^20.*Z$/);
  for (const [user, n] of Object.entries(written)) assert.equal(await count(s, user), n, user);

  // Nothing of an old wrap is left: no wrapped key of before stands anywhere in the ring.
  assert.deepEqual(ring(s), ["000000-1.ring"]);
  const now = readFileSync(join(s.data, ".kalamdb/keys/000000-1.ring"));
  for (let at = 0; at + 128 <= segment.length; at += 128) {
    const wrapped = segment.subarray(at + 24, at + 72);
    if (wrapped.some((b) => b !== 0)) assert.equal(now.includes(wrapped), false, `slot ${at / 128}`);
  }
  await s.stop();
  assert.match(refused(s.data, { ...on, KALAMDB_MASTER_KEY_FILE: before }), /does not open[^]*key before the rotation of 20/);
  s.env.KALAMDB_MASTER_KEY_FILE = after;
  await s.up();
  for (const [user, n] of Object.entries(written)) assert.equal(await count(s, user), n, user);
  assert.equal((await s.request("DELETE", "/api/v1/users/carol", admin(s))).status, 200); // erased as before
  const audit = (await s.request("GET", "/api/v1/admin/audit", admin(s))).body;
  assert.ok(JSON.stringify(audit).includes("admin/keys/rotate"));
  await s.destroy();
});

test("the directory's own key is replaced by a new one, as often as one likes, by the command line", async () => {
  const s = await Server.start(on);
  const own = join(s.data, ".kalamdb/master.key");
  await s.say("alice", "c", "x");
  const old = readFileSync(own, "utf8");
  for (let i = 1; i <= 3; i++) {
    const run = cli(["keys", "rotate", "--data", s.data]);
    assert.equal(run.status, 0, run.stderr);
    assert.match(run.stdout, /^master key [0-9a-f]{16} is in force: \d+ keys/);
    assert.deepEqual(ring(s), [`000000-${i}.ring`]);
  }
  assert.notEqual(readFileSync(own, "utf8"), old);
  assert.equal(statSync(own).mode & 0o777, 0o600);
  assert.equal(existsSync(own + ".new"), false);
  await s.say("bob", "c", "x");
  await s.kill();
  const run = cli(["keys", "rotate", "--data", s.data]); // no server
  assert.equal(run.status, 0, run.stderr);
  assert.match(cli(["keys", "--data", s.data]).stdout, /in the data directory[^]*rotated 4 times/);
  await s.up();
  assert.deepEqual([await count(s, "alice"), await count(s, "bob")], [1, 1]);
  await s.stop();

  // Stopped between the switch and the file's new name; and before the switch.
  const key = readFileSync(own, "utf8");
  renameSync(own, own + ".new");
  writeFileSync(own, old);
  await s.up();
  assert.equal(readFileSync(own, "utf8"), key);
  assert.equal(existsSync(own + ".new"), false);
  await s.stop();
  writeFileSync(own + ".new", old);
  await s.up();
  assert.equal(readFileSync(own, "utf8"), key);
  assert.equal(existsSync(own + ".new"), false);
  assert.equal(await count(s, "alice"), 1);
  await s.destroy();
});

test("copies of the ring follow a rotation, and keep nothing of before", async () => {
  const s = await Server.start(on);
  const folder = temporaryFolder(), keys = join(folder, "keys"), to = join(folder, "backup");
  const back = () => s.request("POST", "/api/v1/admin/backup", { ...admin(s), body: { to, keys } });
  await s.say("alice", "c", "x");
  assert.equal((await back()).status, 200);
  assert.deepEqual(readdirSync(keys).sort(), ["000000.ring", "master.key", "ring", "runs"]);
  await s.say("bob", "c", "x");
  assert.equal((await rotate(s)).status, 200);
  // Erased between rotation and backup: the copy is of the wrapping before.
  const erased = await s.request("DELETE", "/api/v1/users/alice", admin(s));
  assert.equal(erased.body.backups, "covered", JSON.stringify(erased.body));
  const slots = readFileSync(join(keys, "000000.ring"));
  assert.ok([...Array(slots.length / 128).keys()].some((i) => slots[i * 128 + 4] === 2), "a destroyed slot");
  assert.equal((await back()).status, 200);
  assert.deepEqual(readdirSync(keys).sort(), ["000000-1.ring", "master.key", "ring", "runs"]);
  const data = join(folder, "restored");
  assert.equal(cli(["restore", "--from", to, "--data", data, "--keys", keys]).status, 0);
  const restored = await Server.start(on, [], data);
  assert.equal(await count(restored, "bob"), 1);
  await restored.destroy();
  await s.destroy();
});

test("killed at any moment of a rotation, the server starts, with one key or the other", async () => {
  const s = await Server.start(on); // its own key: a start needs no help
  for (let i = 0; i < 40; i++) await s.say(`u${i}`, "c", "x");
  const begin = Date.now();
  assert.equal((await rotate(s)).status, 200);
  const takes = Date.now() - begin;
  let acknowledged = 1, rotations = 1;
  for (let round = 0; round < 10; round++) {
    const rotation = rotate(s).then((a) => assert.equal(a.status, 200), () => {});
    const write = s.say("u7", "c", "y").then(() => acknowledged++, () => {});
    await sleep((round * takes) / 6); // to well after its end
    await s.kill();
    await Promise.all([rotation, write]);
    await s.up();
    assert.equal(existsSync(join(s.data, ".kalamdb/master.key.new")), false);
    const n = (await state(s)).masterKeyRotations;
    assert.ok(n === rotations || n === rotations + 1, `${n} after ${rotations}`);
    rotations = n;
    assert.deepEqual(ring(s), [`000000-${n}.ring`]);
    const got = await count(s, "u7");
    assert.ok(got >= acknowledged, `${got} of ${acknowledged}`);
    acknowledged = got;
    for (let i = 0; i < 40; i += 13) assert.ok((await count(s, `u${i}`)) >= 1);
  }
  assert.equal((await rotate(s)).status, 200);
  assert.ok(rotations > 1, "no kill came after a switch");
  await s.destroy();
});

test("without encryption there are no keys", async () => {
  const s = await Server.start({ KALAMDB_ENCRYPTION: "off" });
  assert.equal((await state(s)).encryption, false);
  const a = await rotate(s);
  assert.equal(a.status, 400);
  assert.match(a.body.message, /encryption is off/);
  assert.match(cli(["keys", "--data", s.data]).stdout, /encryption is off/);
  assert.equal(cli(["keys", "rotate", "--new-master-key-file"]).status, 2);
  await s.destroy();
});
