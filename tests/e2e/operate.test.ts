// Contract sections 1 (tokens) and 6 (operating).
import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { before, describe, it } from "node:test";
import { Server, binary, repo, temporaryFolder } from "./harness.ts";

let s: Server;
before(async () => {
  s = await Server.start();
});

const part = (v: any) => Buffer.from(typeof v === "string" ? v : JSON.stringify(v)).toString("base64url");
function forge(key: string, header: any, payload: any, hash = "sha256"): string {
  const text = `${part(header)}.${part(payload)}`;
  return `${text}.${createHmac(hash, key).update(text).digest("base64url")}`;
}

describe("tokens", () => {
  it("are pinned to HS256 and checked", async () => {
    const key = readFileSync(join(s.data, ".kalamdb/jwt_secret"), "utf8").trim();
    const now = Math.floor(Date.now() / 1000);
    const good = { sub: "t", exp: now + 60 };
    const ask = async (token: string) => (await s.request("POST", "/api/v1/query", { token, body: { sql: "SELECT 1" } })).status;
    assert.equal(await ask(forge(key, { alg: "HS256", typ: "JWT" }, good)), 200);
    const bad: [any, any][] = [
      [{ alg: "none" }, good],
      [{ alg: "HS512" }, good],
      [{ alg: "HS256", crit: ["x"] }, good],
      [{ alg: "HS256" }, { sub: "t" }],
      [{ alg: "HS256" }, { sub: "t", exp: now - 120 }],
      [{ alg: "HS256" }, { ...good, nbf: now + 600 }],
      [{ alg: "HS256" }, { ...good, sub: "shared" }],
      [{ alg: "HS256" }, { ...good, role: "root" }],
      [{ alg: "HS256" }, { exp: now + 60 }],
    ];
    for (const [header, payload] of bad) assert.equal(await ask(forge(key, header, payload)), 401, JSON.stringify([header, payload]));
    assert.equal(await ask(forge("x".repeat(32), { alg: "HS256" }, good)), 401);
    assert.equal(await ask(`${part({ alg: "none" })}.${part(good)}.`), 401);
    const expired = await s.request("POST", "/api/v1/query", { token: forge(key, { alg: "HS256" }, { sub: "t", exp: now - 120 }), body: {} });
    assert.match(expired.body.message, /expired/);
  });

  it("never reach the log", async () => {
    const token = s.token("logged");
    await s.request("GET", `/api/v1/events?token=${token}x`);
    await s.request("POST", "/api/v1/query", { token, body: { sql: "SELECT nope" } });
    assert.ok(!JSON.stringify(s.log).includes(token.slice(0, 40)));
  });

  it("come with a private key file", () => {
    assert.equal(statSync(join(s.data, ".kalamdb/jwt_secret")).mode & 0o777, 0o600);
  });
});

describe("probes and metrics", () => {
  it("need no token and name no user", async () => {
    await s.say("secret_user_name", "c", "x");
    const health = await s.request("GET", "/api/v1/health");
    assert.equal(health.status, 200);
    assert.equal(health.body.status, "ok");
    assert.equal(typeof health.body.version, "string");
    assert.equal(typeof health.body.uptime, "number");
    assert.equal((await s.request("GET", "/healthz")).status, 200);
    assert.equal((await s.request("GET", "/readyz")).status, 200);
    const metrics = await s.request("GET", "/metrics");
    assert.match(metrics.headers.get("content-type")!, /^application\/openmetrics-text/);
    const text = metrics.body as string;
    assert.ok(text.endsWith("# EOF\n"));
    assert.ok(!text.includes("secret_user_name"));
    const families = new Set<string>();
    for (const line of text.trimEnd().split("\n")) {
      if (line.startsWith("# TYPE ")) {
        const name = line.split(" ")[2];
        assert.ok(!families.has(name), `family ${name} twice`);
        families.add(name);
      } else if (!line.startsWith("#")) {
        assert.match(line, /^[a-zA-Z_:][a-zA-Z0-9_:]*(\{[^}]*\})? -?[0-9.eE+-]+(Inf|NaN)?$/);
      }
    }
    assert.ok(families.size > 15, [...families].join());
  });

  it("can ask for a token of their own", async () => {
    const guarded = await Server.start({ KALAMDB_METRICS_TOKEN: "m".repeat(20) });
    assert.equal((await guarded.request("GET", "/metrics")).status, 401);
    assert.equal((await guarded.request("GET", "/metrics", { token: "m".repeat(20) })).status, 200);
    await guarded.destroy();
  });
});

describe("admin", () => {
  it("is for admins", async () => {
    for (const role of ["user", "service"]) {
      const answer = await s.request("POST", "/api/v1/admin/consolidate", { token: s.token("op", role), body: {} });
      assert.equal(`${answer.status} ${answer.body.error}`, "403 FORBIDDEN");
    }
    await s.consolidate();
  });

  // Without encryption, that is: so that the search sees all there is (with it: vault, sealed and deletion tests).
  it("purges what was deleted from every file and log", async () => {
    const s = await Server.start({ KALAMDB_ENCRYPTION: "off" });
    const holding = () => spawnSync("grep", ["-rla", planted, s.data], { encoding: "utf8" }).stdout;
    const planted = `planted-${"q".repeat(24)}-needle`;
    const id = await s.say("purged", "c", planted);
    await s.say("purged", "c", `kept ${planted.length}`);
    assert.notEqual(holding(), "");
    await s.consolidate("purged");
    const edited = await s.say("purged", "c", `${planted}-second`);
    await s.sql("purged", "UPDATE messages SET content = 'harmless' WHERE msg_id = $1", [edited]);
    await s.sql("purged", "DELETE FROM messages WHERE msg_id = $1", [id]);
    await s.consolidate("purged");
    assert.equal(holding(), "");
    assert.equal((await s.sql("purged", "SELECT count(*) FROM messages")).rows[0][0], 2);
    const files = readdirSync(join(s.data, "purged"));
    assert.ok(files.length > 0 && files.every((f) => /^batch-\d{8}T\d{6}Z-\d+\.parquet$/.test(f)), files.join());
    await s.destroy();
  });
});

describe("configuration", () => {
  const run = (args: string[], env: Record<string, string> = {}) => spawnSync(binary, args, { encoding: "utf8", env: { PATH: process.env.PATH!, ...env } });

  it("is refused with key and line", () => {
    const dir = temporaryFolder();
    const file = join(dir, "kalamdb.yaml");
    writeFileSync(file, `data: ${dir}\nquery_timeot_ms: 5\n`);
    const unknown = run(["serve", "--config", file]);
    assert.notEqual(unknown.status, 0);
    assert.match(unknown.stderr, /kalamdb\.yaml:2: .*query_timeot_ms/);
    assert.match(run(["serve", "--data", dir, "--frobnicate"]).stderr, /--frobnicate/);
    assert.match(run(["serve", "--data", dir], { KALAMDB_LOOPS: "many" }).stderr, /KALAMDB_LOOPS/);
    assert.match(run(["serve", "--data", dir], { KALAMDB_JWT_SECRET: "short" }).stderr, /32/);
    assert.ok(!existsSync(join(dir, "LOCK")));
  });

  it("prints itself with secrets masked", () => {
    const shown = run(["config"], { KALAMDB_JWT_SECRET: "s".repeat(40), KALAMDB_QUERY_TIMEOUT_MS: "1234" });
    assert.equal(shown.status, 0);
    assert.match(shown.stdout, /query_timeout_ms: 1234/);
    assert.ok(!shown.stdout.includes("sssss"));
  });

  it("is documented as it is", () => {
    const document = readFileSync(join(repo, "docs/configuration.md"), "utf8");
    const table = document.split("<!-- kalamdb settings: begin -->\n")[1].split("<!-- kalamdb settings: end -->")[0];
    assert.equal(run(["settings"]).stdout, table);
  });

  it("keeps a second server out", async () => {
    const second = run(["serve", "--data", s.data, "--listen", "127.0.0.1:0"]);
    assert.notEqual(second.status, 0);
    assert.match(second.stderr, /another|in use|lock/i);
  });

  it("refuses user folders beside an empty catalog", async () => {
    const dir = temporaryFolder();
    mkdirSync(join(dir, "user_alice"));
    writeFileSync(join(dir, "user_alice", "batch-20251013T120000Z-001.parquet"), "PAR1");
    const refused = run(["serve", "--data", dir, "--listen", "127.0.0.1:0"]);
    assert.notEqual(refused.status, 0);
  });

  it("mints tokens and says what is wrong", () => {
    const token = execFileSync(binary, ["token", "--user", "a", "--data", s.data, "--role", "service", "--ttl", "5m"], { encoding: "utf8" }).trim();
    const claims = JSON.parse(Buffer.from(token.split(".")[1], "base64url").toString());
    assert.equal(claims.sub, "a");
    assert.equal(claims.role, "service");
    assert.equal(claims.exp - claims.iat, 300);
    assert.notEqual(run(["token", "--data", s.data]).status, 0);
    assert.notEqual(run(["token", "--user", "assistant", "--data", s.data]).status, 0);
  });
});

describe("browsers", () => {
  it("are let in by allowed_origins alone", async () => {
    const open = await Server.start({ KALAMDB_ALLOWED_ORIGINS: "https://app.example" });
    const preflight = await open.request("OPTIONS", "/api/v1/query", {
      headers: { origin: "https://app.example", "access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type" },
    });
    assert.ok(preflight.status === 204 || preflight.status === 200);
    assert.equal(preflight.headers.get("access-control-allow-origin"), "https://app.example");
    assert.match(preflight.headers.get("access-control-allow-headers")!, /authorization/i);
    const other = await open.request("POST", "/api/v1/query", { token: open.token("a"), body: { sql: "SELECT 1" }, headers: { origin: "https://evil.example" } });
    assert.equal(other.headers.get("access-control-allow-origin"), null);
    await assert.rejects(open.socket("a", { headers: { origin: "https://evil.example" } }));
    const ws = await open.socket("a", { headers: { origin: "https://app.example" } });
    ws.close();
    await open.destroy();
  });
});

describe("user ids", () => {
  it("of any shape stay in their folder", async () => {
    const ids = ["../../etc/passwd", "auth0|5f7c", "Ünïcødé", "a.b", "%2e%2e", "x".repeat(255), "ü".repeat(120), 'quote"d'];
    for (const id of ids) {
      await s.say(id, "c", `of ${id.length}`);
      const quoted = `"${id.replaceAll('"', '""')}"`;
      assert.equal((await s.sql(id, `SELECT content FROM ${quoted}.messages`)).rows[0][0], `of ${id.length}`);
      await s.consolidate(id);
      assert.equal((await s.sql(id, "SELECT count(*) FROM messages")).rows[0][0], 1);
    }
    const folders = readdirSync(s.data);
    assert.ok(folders.includes("auth0%7C5f7c"));
    assert.ok(folders.every((f) => f === ".kalamdb" || /^[A-Za-z0-9_%~-]+$/.test(f)), folders.join());
    assert.ok(folders.every((f) => Buffer.byteLength(f) <= 200));
  });
});
