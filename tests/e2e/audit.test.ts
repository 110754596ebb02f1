// The audit log as an operator meets it: what stands in it, what never does, and that nobody changes it unseen.
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { appendFileSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { binary, claims, Server } from "./harness.ts";

const folder = (server: Server) => join(server.data, ".kalamdb/audit");

function lines(server: Server): string[] {
  return readdirSync(folder(server)).sort().flatMap((f) => readFileSync(join(folder(server), f), "utf8").split("\n").filter(Boolean));
}

function verify(server: Server, ...more: string[]) {
  return spawnSync(binary, ["audit", "verify", "--data", server.data, ...more], { encoding: "utf8" });
}

function admin(server: Server, path: string, body?: any, method = "POST") {
  return server.request(method, `/api/v1/admin/${path}`, { token: server.token("operator", "admin"), body });
}

/** Records as the endpoint gives them: flushed at the latest 100 ms after they came. */
async function records(server: Server, where: (r: any) => boolean, atLeast = 1): Promise<any[]> {
  for (let i = 0; ; i++) {
    const answer = await admin(server, "audit", undefined, "GET");
    assert.equal(answer.status, 200, JSON.stringify(answer.body));
    const found = answer.body.records.filter(where);
    if (found.length >= atLeast || i === 50) return found;
    await new Promise((done) => setTimeout(done, 50));
  }
}

test("who did what to whom", async () => {
  const server = await Server.start({ KALAMDB_JWT_SECRET: "a secret that somebody wrote into the configuration" });
  await server.say("alice", "c1", "planted content");
  const start = (await records(server, (r) => r.event === "start"))[0];
  assert.equal(start.detail.settings.jwt_secret, "********");

  assert.equal((await server.request("POST", "/api/v1/query", { token: "not.a.token", body: { sql: "SELECT 1" } })).status, 401);
  const failed = (await records(server, (r) => r.event === "auth_failed"))[0];
  assert.deepEqual([failed.address, failed.on, failed.outcome], ["127.0.0.1", { target: "/api/v1/query" }, "401"]);

  assert.equal((await server.query("mallory", "SELECT * FROM alice.messages")).status, 403);
  const forbidden = (await records(server, (r) => r.event === "forbidden"))[0];
  assert.deepEqual([forbidden.sub, forbidden.role, forbidden.jti], ["mallory", "user", claims(server.token("mallory")).jti]);

  await server.sql("backend", "SELECT count(*) FROM alice.messages", undefined, "service");
  await server.sql("backend", "INSERT INTO alice.messages (conversation_id, content) VALUES ('c1', 'planted too')", undefined, "service");
  const read = (await records(server, (r) => r.event === "read" && r.sub === "backend"))[0];
  assert.deepEqual([read.role, read.on, read.outcome], ["service", { user: "alice" }, "200"]);
  assert.equal((await records(server, (r) => r.event === "write" && r.sub === "backend" && r.on.user === "alice")).length, 1);
  const subscriber = await server.socket("backend", { role: "service" });
  await subscriber.subscribe({ id: "s", userId: "alice" });
  await records(server, (r) => r.event === "read" && r.on?.target === "/ws" && r.on.user === "alice");
  subscriber.send({ type: "stream_begin", id: "b", conversationId: "c1", userId: "dora" });
  assert.equal((await subscriber.next()).type, "stream_ack");
  assert.equal((await records(server, (r) => r.event === "write" && r.on?.target === "/ws" && r.on.user === "dora")).length, 1);
  subscriber.close();

  const made = await server.request("POST", "/api/v1/conversations", { token: server.token("alice"), body: { conversation_id: "g1", conversation_type: "group", members: ["bob"] } });
  assert.equal(made.status, 201);
  await server.sql("alice", "INSERT INTO conversation_users (conversation_id, user_id) VALUES ('g1', 'carol')");
  const members = await records(server, (r) => r.event === "members" && r.on.conversation === "g1", 2);
  assert.deepEqual(members.map((r) => r.sub), ["alice", "alice"]);

  assert.equal((await admin(server, "consolidate", { user: "alice" })).status, 200);
  assert.equal((await admin(server, "tokens/revoke", { jti: "some-jti", expires: 4e9 })).status, 200);
  assert.equal((await admin(server, "backup", { to: join(server.data, "../" + `backup-${process.pid}`) })).status, 200);
  assert.equal((await server.request("GET", "/api/v1/export", { token: server.token("alice") })).status, 200);
  assert.equal((await server.request("DELETE", "/api/v1/users/bob", { token: server.token("operator", "admin") })).status, 200);
  // An operator's answer comes after its record is on disk: no waiting here.
  const raw = lines(server);
  const has = (event: string, on: any) => raw.some((l) => JSON.parse(l).event === event && JSON.stringify(JSON.parse(l).on) === JSON.stringify(on));
  assert.ok(has("admin/consolidate", { user: "alice" }));
  assert.ok(has("admin/tokens/revoke", { token: "some-jti" }));
  assert.ok(has("erase", { user: "bob" }));
  assert.ok(raw.some((l) => JSON.parse(l).event === "admin/backup"));
  assert.equal((await records(server, (r) => r.event === "export" && r.sub === "alice")).length, 1);

  const text = raw.join("\n");
  for (const secret of ["planted", "a secret that", "not.a.token", server.token("alice"), server.token("operator", "admin")]) assert.ok(!text.includes(secret), secret);
  for (const f of readdirSync(folder(server))) assert.equal(statSync(join(folder(server), f)).mode & 0o777, 0o600);
  for (const role of ["user", "service"]) assert.equal((await server.request("GET", "/api/v1/admin/audit", { token: server.token("x", role) })).status, 403);
  assert.equal((await admin(server, "audit?after=x", undefined, "GET")).status, 400);
  const page = (await admin(server, "audit?after=3", undefined, "GET")).body.records;
  assert.equal(page[0].n, 4);
  await server.destroy();
});

test("what comes often is counted", async () => {
  const server = await Server.start();
  for (let i = 0; i < 25; i++) assert.equal((await server.request("POST", "/api/v1/query", { token: `no${i}`, body: {} })).status, 401);
  await records(server, (r) => r.event === "auth_failed");
  await server.stop(); // the minute's counts are written at the latest then
  const failed = lines(server).map((l) => JSON.parse(l)).filter((r) => r.event === "auth_failed");
  assert.deepEqual(failed.map((r) => r.count), [undefined, 24]);
  assert.equal(JSON.parse(lines(server).at(-1)!).event, "stop");
  await server.destroy();
});

test("the chain can be checked by anybody, survives a crash, and shows what was changed", async () => {
  const server = await Server.start();
  for (let i = 0; i < 3; i++) await admin(server, "sweep", {});
  const head = (await server.request("GET", "/api/v1/health")).body.audit;
  await server.kill();
  const file = join(folder(server), readdirSync(folder(server)).sort().at(-1)!);
  appendFileSync(file, '{"n":99,"ts":"20'); // cut in the middle of a write
  assert.match(verify(server).stdout, /half/);
  await server.up();
  assert.ok((await records(server, (r) => r.event === "repaired")).length === 1);
  await server.stop();

  // The chain, in ten lines of another language.
  let chain = Buffer.alloc(32), n = 0;
  for (const line of lines(server)) {
    const at = line.lastIndexOf(',"hash":"');
    chain = createHash("sha256").update(chain).update(line.slice(0, at)).digest();
    assert.equal(JSON.parse(line).hash, chain.toString("hex"));
    assert.equal(JSON.parse(line).n, ++n);
  }
  assert.equal(verify(server).status, 0);
  assert.equal(verify(server, "--head", head.hash).status, 0);
  assert.equal(execFileSync(binary, ["audit", "verify", folder(server)], { encoding: "utf8" }).includes(chain.toString("hex")), true);

  const good = readFileSync(file, "utf8");
  const record = good.split("\n")[3];
  for (const [name, value] of Object.entries(JSON.parse(record))) {
    if (name === "hash") continue;
    const text = JSON.stringify(value);
    const other = text.replace(/[0-9a-zA-Z](?=[^0-9a-zA-Z]*$)/, (c) => (c === "x" ? "y" : name === "n" ? "9" : "x"));
    writeFileSync(file, good.replace(record, record.replace(`"${name}":${text}`, `"${name}":${other}`)));
    const checked = verify(server);
    assert.equal(checked.status, 1, name);
    assert.match(checked.stderr, /\.jsonl:[45]: /, name);
  }
  const rows = good.split("\n");
  writeFileSync(file, [...rows.slice(0, 2), rows[3], rows[2], ...rows.slice(4)].join("\n"));
  assert.equal(verify(server).status, 1);
  writeFileSync(file, [...rows.slice(0, 2), ...rows.slice(3)].join("\n"));
  assert.equal(verify(server).status, 1);
  writeFileSync(file, rows.slice(0, 2).join("\n") + "\n"); // whole lines off the end: only a head noted elsewhere tells
  assert.equal(verify(server).status, 0);
  assert.equal(verify(server, "--head", head.hash).status, 1);
  await server.destroy();
});

test("audit_log: off keeps none", async () => {
  const server = await Server.start({ KALAMDB_AUDIT_LOG: "off" });
  assert.equal((await admin(server, "sweep", {})).status, 200);
  assert.equal((await admin(server, "audit", undefined, "GET")).status, 404);
  assert.throws(() => readdirSync(folder(server)));
  assert.ok(server.log.some((l) => l.event === "audit_log_off"));
  await server.destroy();
});
