// Backups of encrypted directories: where their keys go, that they come back with no further word, who is not in them.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { binary, Server, temporaryFolder } from "./harness.ts";

const quiet = { KALAMDB_CONSOLIDATE_INTERVAL_MS: "0" };

function cli(env: Record<string, string>, ...args: string[]) {
  return spawnSync(binary, args, { env: { ...process.env, ...env }, encoding: "utf8", timeout: 60000 });
}

const backup = (server: Server, body: any) => server.request("POST", "/api/v1/admin/backup", { token: server.token("root", "admin"), body });
const erase = (server: Server, user: string) => server.request("DELETE", `/api/v1/users/${user}`, { token: server.token("root", "admin") });
const texts = async (server: Server, user: string) => (await server.sql(user, "SELECT content FROM messages ORDER BY msg_id")).rows.map((r: any) => r[0]);
const where = () => join(temporaryFolder(), "backup");

async function inLog(server: Server, event: string): Promise<any> {
  for (let i = 0; i < 100; i++) {
    const line = server.log.find((e) => e.event === event);
    if (line !== undefined) return line;
    await new Promise((done) => setTimeout(done, 20));
  }
  throw new Error(`${event} is not in the log`);
}

/** Texts that the user's rows give in the restored directory; nothing is configured but what `env` says. */
async function restored(from: string, env: Record<string, string>, user: string, ...more: string[]): Promise<string[]> {
  const data = join(temporaryFolder(), "new");
  const run = cli(env, "restore", "--from", from, "--data", data, ...more);
  assert.equal(run.status, 0, run.stderr);
  const server = await Server.start(env, [], data);
  const rows = await texts(server, user);
  await server.destroy();
  return rows;
}

test("nothing configured: the backup and its keys come back by themselves, and the command says what that means", async () => {
  const server = await Server.start(quiet);
  await server.say("alice", "c", "by the server");
  await server.say("alice", "c", "L".repeat(150000));
  await server.consolidate();
  const dir = where();
  const run = cli({}, "backup", "--to", `${dir}/`, "--data", server.data);
  assert.equal(run.status, 0, run.stderr);
  assert.match(run.stdout, /\nkeys in .*\/backup\.keys\n$/);
  assert.match(run.stderr, /warning: the master key lies with the keys: whoever has both folders reads everything; set master_key_file to keep the key elsewhere/);
  const logged = await inLog(server, "master_key_with_backup");
  assert.deepEqual([logged.level, logged.keys], ["warn", `${dir}.keys`]);
  assert.match(logged.reason, /whoever has both folders reads everything/);
  assert.deepEqual(readdirSync(`${dir}.keys`).sort(), ["000000.ring", "master.key", "ring", "runs"]);
  assert.equal(statSync(`${dir}.keys`).mode & 0o777, 0o700);
  for (const name of readdirSync(`${dir}.keys`)) assert.equal(statSync(join(`${dir}.keys`, name)).mode & 0o777, 0o600, name);
  const master = readFileSync(join(server.data, ".kalamdb/master.key"));
  assert.deepEqual(readFileSync(join(`${dir}.keys`, "master.key")), master);
  for (const name of readdirSync(dir, { recursive: true, encoding: "utf8" }))
    if (statSync(join(dir, name)).isFile()) assert.ok(!readFileSync(join(dir, name)).includes(master.subarray(0, 64)), name);
  // A user who came later: the keys are the newest.
  await server.say("bob", "c", "came later");
  chmodSync(`${dir}.keys`, 0o755);
  const again = await backup(server, { to: dir });
  assert.deepEqual([again.status, again.body.keys, again.body.keyFiles], [200, `${dir}.keys`, 4]);
  assert.match(again.body.warning, /whoever has both folders/);
  assert.equal(statSync(`${dir}.keys`).mode & 0o777, 0o700);
  await server.stop();
  // Without a server the program says the same.
  const alone = cli({}, "backup", "--to", dir, "--data", server.data);
  assert.equal(alone.status, 0, alone.stderr);
  assert.match(alone.stdout, /\nkeys in .*\/backup\.keys\n$/);
  assert.match(alone.stderr, /warning: the master key lies with the keys/);
  rmSync(server.data, { recursive: true });
  assert.deepEqual((await restored(dir, quiet, "alice")).map((text) => text.slice(0, 13)), ["by the server", "L".repeat(13)]);
  assert.deepEqual(await restored(dir, quiet, "bob"), ["came later"]);
  // Moved together, or apart and named.
  const moved = where();
  renameSync(dir, moved);
  const data = join(temporaryFolder(), "new");
  const lost = cli({}, "restore", "--from", moved, "--data", data);
  assert.equal(lost.status, 1);
  assert.ok(lost.stderr.includes(`there is no copy of its key ring in ${moved}.keys`), lost.stderr);
  assert.match(lost.stderr, /--keys DIR/);
  assert.ok(!existsSync(data), "nothing was written");
  assert.deepEqual(await restored(moved, quiet, "bob", "--keys", `${dir}.keys`), ["came later"]);
});

test("a configured master key is in no copy, and goes from one that had it", async () => {
  const key = randomBytes(32).toString("hex");
  const folder = temporaryFolder();
  writeFileSync(join(folder, "master"), key, { mode: 0o600 });
  const given: Record<string, string>[] = [{ KALAMDB_MASTER_KEY: key }, { KALAMDB_MASTER_KEY_FILE: join(folder, "master") }];
  for (const env of given) {
    const server = await Server.start({ ...quiet, ...env });
    await server.say("alice", "c", "told");
    const dir = where();
    const runs = statSync(join(server.data, ".kalamdb/keys/runs")).size;
    // The program has no key: the server that runs does it, and the ring in its hands is left alone.
    const run = cli({}, "backup", "--to", dir, "--data", server.data);
    assert.equal(run.status, 0, run.stderr);
    assert.match(run.stdout, /\nkeys in .*\/backup\.keys\n$/);
    assert.doesNotMatch(run.stderr, /warning/);
    assert.equal(statSync(join(server.data, ".kalamdb/keys/runs")).size, runs);
    assert.ok(!server.log.some((e) => e.event === "master_key_with_backup"));
    assert.deepEqual(readdirSync(`${dir}.keys`).sort(), ["000000.ring", "ring", "runs"]);
    await server.destroy();
    assert.deepEqual(await restored(dir, { ...quiet, ...env }, "alice"), ["told"]);
    const data = join(temporaryFolder(), "new");
    assert.equal(cli({}, "restore", "--from", dir, "--data", data).status, 0);
    const start = cli({}, "serve", "--data", data, "--listen", "127.0.0.1:0");
    assert.notEqual(start.status, 0);
    assert.match(start.stderr, /master key is missing/);
  }
  // The server's own, until the operator takes it elsewhere.
  const server = await Server.start(quiet);
  await server.say("alice", "c", "told");
  const dir = where();
  assert.equal((await backup(server, { to: dir })).status, 200);
  assert.ok(existsSync(join(`${dir}.keys`, "master.key")));
  await server.stop();
  renameSync(join(server.data, ".kalamdb/master.key"), join(folder, "moved"));
  (server.env as any).KALAMDB_MASTER_KEY_FILE = join(folder, "moved");
  await server.up();
  const answer = await backup(server, { to: dir });
  assert.deepEqual([answer.status, answer.body.warning], [200, undefined]);
  assert.ok(!existsSync(join(`${dir}.keys`, "master.key")));
  await server.destroy();
});

test("places for keys that are refused", async () => {
  const server = await Server.start(quiet);
  await server.say("alice", "c", "told");
  const dir = where();
  const refused = async (keys: string, want: RegExp, status = 400) => {
    const answer = await backup(server, { to: dir, keys });
    assert.equal(answer.status, status, JSON.stringify(answer.body));
    assert.match(answer.body.message, want);
  };
  await refused(join(dir, "keys"), /lies in the backup or in the data directory/);
  await refused(dir, /lies in the backup or in the data directory/);
  await refused(join(dir, ".."), /lies in the backup or in the data directory|is not empty/);
  await refused(join(server.data, "keys"), /lies in the backup or in the data directory/);
  assert.ok(!existsSync(join(server.data, "keys")));
  const link = join(temporaryFolder(), "link");
  symlinkSync(server.data, link);
  await refused(join(link, "keys"), /lies in the backup or in the data directory/);
  await refused("/proc/keys", /cannot be written to/);
  assert.ok(!existsSync(dir), "no backup is begun whose keys have no place");
  const foreign = temporaryFolder();
  writeFileSync(join(foreign, "thesis.doc"), "mine");
  await refused(foreign, /is not empty, and no copy of a key ring/);
  const other = await Server.start(quiet);
  const others = where();
  assert.equal((await backup(other, { to: others })).status, 200);
  await refused(`${others}.keys`, /holds the key ring of another database/, 409);
  // Nor is it restored with another's.
  assert.equal((await backup(server, { to: dir })).status, 200);
  mkdirSync(join(dir, "in"));
  symlinkSync(join(dir, "in"), join(link, "..", "into"));
  await refused(join(link, "..", "into"), /lies in the backup/);
  const run = cli({}, "restore", "--from", dir, "--data", join(temporaryFolder(), "new"), "--keys", `${others}.keys`);
  assert.equal(run.status, 1);
  assert.match(run.stderr, /holds the key ring of another database/);
  await server.destroy();
  await other.destroy();
});

test("an erasure takes the key out of every copy, and its receipt says when it could not", async () => {
  const server = await Server.start(quiet);
  const [one, two] = [where(), where()];
  const apart = join(temporaryFolder(), "apart");
  for (const user of ["alice", "bob", "carol", "dave"]) await server.say(user, "c", `planted-${user}`);
  assert.equal((await backup(server, { to: one })).status, 200);
  assert.equal((await backup(server, { to: two, keys: apart })).status, 200);
  const ring = () => [`${one}.keys`, apart].map((d) => readFileSync(join(d, "000000.ring")));
  const before = ring();
  const receipt = await erase(server, "alice");
  assert.deepEqual([receipt.status, receipt.body.backups], [200, "covered"]);
  ring().forEach((bytes, i) => assert.notDeepEqual(bytes, before[i]));
  // Both folders, as they lie there, give nothing of her, and everything of the others.
  const data = join(temporaryFolder(), "new");
  assert.equal(cli({}, "restore", "--from", one, "--data", data).status, 0);
  const copy = await Server.start(quiet, [], data);
  for (let i = 0; i < 200 && existsSync(join(data, "alice")); i++) await new Promise((r) => setTimeout(r, 50));
  const asked = await copy.request("POST", "/api/v1/query", { token: copy.token("root", "admin"), body: { sql: "SELECT content FROM alice.messages" } });
  assert.deepEqual(asked.body.rows ?? [], [], JSON.stringify(asked.body));
  assert.deepEqual(await texts(copy, "bob"), ["planted-bob"]);
  // What was restored erases from the copy that it came from, too.
  const there = readFileSync(join(`${one}.keys`, "000000.ring"));
  assert.equal((await erase(copy, "dave")).body.backups, "covered");
  assert.notDeepEqual(readFileSync(join(`${one}.keys`, "000000.ring")), there);
  await copy.destroy();
  // A copy out of reach.
  renameSync(apart, `${apart}-aside`);
  const half = await erase(server, "bob");
  assert.deepEqual([half.status, half.body.backups], [200, "not covered"]);
  const told = await inLog(server, "key_copy_keeps_erased_key");
  assert.deepEqual([told.level, told.folder], ["warn", apart]);
  assert.ok(told.list.endsWith("/.kalamdb/key_copies"));
  // It is back: asked again, the receipt is the better one.
  renameSync(`${apart}-aside`, apart);
  const whole = await erase(server, "bob");
  assert.deepEqual([whole.body.backups, whole.body.erasedAt], ["covered", half.body.erasedAt]);
  // Gone for good: its line is removed.
  rmSync(apart, { recursive: true });
  assert.equal((await erase(server, "carol")).body.backups, "not covered");
  writeFileSync(told.list, readFileSync(told.list, "utf8").replace(`${apart}\n`, ""));
  assert.equal((await erase(server, "carol")).body.backups, "covered");
  await server.destroy();
});

test("without encryption there is no folder for keys", async () => {
  const env = { ...quiet, KALAMDB_ENCRYPTION: "off" };
  const server = await Server.start(env);
  await server.say("alice", "c", "plain");
  const dir = where();
  const run = cli(env, "backup", "--to", dir, "--data", server.data);
  assert.equal(run.status, 0, run.stderr);
  assert.doesNotMatch(run.stdout + run.stderr, /keys in|master key/);
  assert.ok(!existsSync(`${dir}.keys`));
  const answer = await backup(server, { to: dir, keys: join(temporaryFolder(), "k") });
  assert.deepEqual([answer.status, answer.body.message], [400, "there are no keys: encryption is off"]);
  const keys = cli(env, "restore", "--from", dir, "--data", join(temporaryFolder(), "new"), "--keys", temporaryFolder());
  assert.equal(keys.status, 1);
  assert.match(keys.stderr, /made without encryption: it has no keys/);
  assert.deepEqual(await restored(dir, env, "alice"), ["plain"]);
  await server.destroy();
});

test("a directory made without encryption is refused under the default, and both ways out work", async () => {
  const server = await Server.start({ ...quiet, KALAMDB_ENCRYPTION: "off" });
  await server.say("alice", "c", "from before");
  await server.stop();
  const start = cli({}, "serve", "--data", server.data, "--listen", "127.0.0.1:0");
  assert.notEqual(start.status, 0);
  assert.match(start.stderr, /was made without encryption/);
  assert.match(start.stderr, /hint: Set encryption: off \(KALAMDB_ENCRYPTION=off\)/);
  assert.match(start.stderr, /kalamdb export and import bring single users into a new directory/);
  // One: as it says, in the file of settings.
  const settings = join(temporaryFolder(), "kalamdb.yaml");
  writeFileSync(settings, "encryption: off\n");
  const old = await Server.start(quiet, ["--config", settings], server.data);
  assert.deepEqual(await texts(old, "alice"), ["from before"]);
  await old.stop();
  // Two: users go one by one.
  const tar = join(temporaryFolder(), "alice.tar");
  const out = cli({ KALAMDB_ENCRYPTION: "off" }, "export", "--user", "alice", "-o", tar, "--data", server.data);
  assert.equal(out.status, 0, out.stderr);
  const sealed = await Server.start(quiet);
  const brought = cli({}, "import", "--user", "alice", tar, "--data", sealed.data);
  assert.equal(brought.status, 0, brought.stderr);
  assert.deepEqual(await texts(sealed, "alice"), ["from before"]);
  await sealed.destroy();
  await server.destroy();
});
