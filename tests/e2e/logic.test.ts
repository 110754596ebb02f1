// What must hold of any statement, whatever it says: the same rows in files, fresh and half and half give the same
// answer; a predicate counts what it selects (NoREC: Rigger and Su, ESEC/FSE 2020); what it selects, what it refuses
// and what it leaves unknown are all rows together (TLP: Rigger and Su, OOPSLA 2020). And no statement of anybody shows
// another user's secret.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { repo, Server } from "./harness.ts";
import { mutate, Predicates, Random, type Ids } from "./random-sql.ts";

const seed = Number(process.env.KALAMDB_TEST_SEED ?? 1);
const rounds = Number(process.env.KALAMDB_LOGIC_ROUNDS ?? 150);
const attacks = Number(process.env.KALAMDB_FUZZ_STATEMENTS ?? 3000);
const users = ["hot", "mixed", "cold"] as const;
let s: Server;
let ids: Ids;

const contents = ["alpha", "Beta", "gamma ray", "100% sure", "a_b", "it's", "ünïcödé Ärger", "", "zebra\tcrossing", "nul\u0001ish"];

function row(i: number): any[] {
  const metadata = i % 4 === 0 ? null : { kind: i % 3 === 0 ? "note" : "chat", n: i };
  const time = `2025-06-0${1 + (i % 9)}T${String(i % 24).padStart(2, "0")}:00:00Z`;
  return [ids.from + i, `c${i % 5}`, i % 7 === 0 ? "u1" : "alpha", contents[i % contents.length] + (i % 11 === 0 ? "" : ` ${i % 13}`), time, metadata, i % 6 === 0 ? null : `k${i}`];
}

async function insert(user: string, from: number, to: number): Promise<void> {
  for (let at = from; at < to; at += 50) {
    const rows = [];
    for (let i = at; i < Math.min(to, at + 50); i++) rows.push(row(i));
    let n = 0;
    const values = rows.map((r) => `(${r.map(() => `$${++n}`).join(", ")})`).join(", ");
    await s.sql("loader", `INSERT INTO ${user}.messages (msg_id, conversation_id, "from", content, timestamp, metadata, client_msg_id) VALUES ${values}`, rows.flat(), "service");
  }
}

before(async () => {
  s = await Server.start({ KALAMDB_HOT_TAIL_ROWS: "0", KALAMDB_CONSOLIDATE_INTERVAL_MS: "3600000", KALAMDB_MAX_RESULT_ROWS: "1000" });
  ids = { from: 1_000_000, to: 1_000_300 };
  await Promise.all(users.map((user) => insert(user, 0, 150)));
  await s.consolidate("mixed");
  await Promise.all(users.map((user) => insert(user, 150, 300)));
  await s.consolidate("cold");
  for (const user of users) {
    await s.sql(user, `UPDATE messages SET content = 'zebra, edited' WHERE msg_id IN (${[3, 40, 200].map((i) => ids.from + i)})`);
    await s.sql(user, `DELETE FROM messages WHERE msg_id IN (${[5, 77, 151].map((i) => ids.from + i)})`);
  }
  await s.consolidate("cold");
});

/** One answer for all placements of the rows; rows in any order unless `ordered`. */
async function answer(sql: string, ordered = false): Promise<string[]> {
  const all = await Promise.all(users.map((user) => s.query(user, sql)));
  const shown = all.map((a) => {
    if (a.status !== 200) return [`${a.status} ${a.body.error}`];
    const rows = a.body.rows.map((r: any) => JSON.stringify(r));
    return ordered ? rows : rows.sort();
  });
  assert.deepEqual(shown[1], shown[0], `mixed against hot: ${sql}`);
  assert.deepEqual(shown[2], shown[0], `cold against hot: ${sql}`);
  assert.ok(all[0]!.status === 200, `${sql}: ${JSON.stringify(all[0]!.body)}`);
  return shown[0]!;
}

describe("random statements", () => {
  const columns = 'msg_id, conversation_id, "from", content, timestamp, metadata, client_msg_id';

  it("a predicate counts what it selects (NoREC)", async () => {
    const p = new Predicates(new Random(seed), ids);
    for (let i = 0; i < rounds; i++) {
      const where = p.predicate(3);
      const [selected] = await answer(`SELECT count(*) FROM messages WHERE ${where}`);
      const [counted] = await answer(`SELECT coalesce(sum(CASE WHEN ${where} THEN 1 ELSE 0 END), 0)::bigint FROM messages`);
      assert.equal(selected, counted, `seed ${seed}: ${where}`);
      const rows = await answer(`SELECT msg_id FROM messages WHERE ${where} LIMIT 1000`);
      assert.equal(`[${rows.length}]`, selected, `seed ${seed}: ${where}`);
    }
  });

  it("selected, refused and unknown are all rows (TLP)", async () => {
    const p = new Predicates(new Random(seed + 1), ids);
    const all = await answer(`SELECT ${columns} FROM messages`);
    assert.equal(all.length, 297);
    for (let i = 0; i < rounds; i++) {
      const where = p.predicate(3);
      const parts = [];
      for (const part of [where, `NOT (${where})`, `(${where}) IS NULL`]) parts.push(...(await answer(`SELECT ${columns} FROM messages WHERE ${part}`)));
      assert.deepEqual(parts.sort(), all, `seed ${seed}: ${where}`);
    }
  });

  it("aggregates over the parts are the aggregate over all", async () => {
    const p = new Predicates(new Random(seed + 2), ids);
    for (let i = 0; i < rounds / 3; i++) {
      const where = p.predicate(2);
      const group = p.random.pick(["conversation_id", '"from"', "metadata->>'kind'"]);
      const union = [where, `NOT (${where})`, `(${where}) IS NULL`]
        .map((part) => `SELECT ${group} AS g, count(*) AS n, max(msg_id) AS hi, min(content) AS lo FROM messages WHERE ${part} GROUP BY 1`)
        .join(" UNION ALL ");
      const parts = await answer(`SELECT g, sum(n)::bigint, max(hi), min(lo) FROM (${union}) x GROUP BY g`);
      const whole = await answer(`SELECT ${group}, count(*), max(msg_id), min(content) FROM messages GROUP BY 1`);
      assert.deepEqual(parts, whole, `seed ${seed}: ${where}`);
    }
  });

  it("the fast plan and the other engine agree, order and all", async () => {
    const random = new Random(seed + 3);
    const p = new Predicates(random, ids);
    for (let i = 0; i < rounds; i++) {
      const conditions = [];
      if (random.chance(0.7)) conditions.push(`conversation_id = 'c${random.below(6)}'`);
      if (random.chance(0.5)) conditions.push(`msg_id ${random.pick(["<", "<=", ">", ">=", "="])} ${ids.from + random.below(300)}`);
      if (random.chance(0.3)) conditions.push(p.predicate(1));
      const where = conditions.length === 0 ? "" : ` WHERE ${conditions.join(" AND ")}`;
      const tail = ` ORDER BY msg_id${random.pick(["", " DESC"])} LIMIT ${random.below(60)}${random.chance(0.3) ? ` OFFSET ${random.below(40)}` : ""}`;
      const fast = await answer(`SELECT ${columns} FROM messages${where}${tail}`, true);
      const other = await answer(`WITH m AS (SELECT * FROM messages) SELECT ${columns} FROM m${where}${tail}`, true);
      assert.deepEqual(other, fast, `seed ${seed}: ${where}${tail}`);
    }
  });
});

describe("hostile statements", () => {
  const secret = "planted-7c1e-secret-of-the-victim";
  const folder = mkdtempSync(join(tmpdir(), "kalamdb-secret-"));
  const file = join(folder, "secret.csv");
  after(() => rmSync(folder, { recursive: true, force: true }));

  it("never show what another user has, nor a file", async () => {
    writeFileSync(file, `a,b\n1,${secret}\n`);
    await s.sql("victim", "INSERT INTO conversations (conversation_id, conversation_type, content, metadata) VALUES ('vault', 'group', $1, $2)", [secret, { note: secret }]);
    await s.sql("victim", "UPDATE conversations SET title = $1 WHERE conversation_id = 'vault'", [secret]);
    await s.consolidate("victim");
    await s.say("victim", "vault", `${secret} fresh`);
    await s.say("mallory", "c", "mine");
    const before = JSON.stringify((await s.sql("victim", "SELECT *, _seq FROM messages ORDER BY msg_id")).rows);

    const random = new Random(seed + 4);
    const corpus = readFileSync(join(repo, "tests/sql/select.sql"), "utf8")
      .split("\n")
      .filter((l) => l !== "" && !l.startsWith("--"));
    corpus.push(
      "SELECT * FROM victim.messages",
      "SELECT content FROM victim.messages WHERE conversation_id = 'vault' ORDER BY msg_id DESC LIMIT 5",
      "UPDATE messages SET content = 'x' WHERE msg_id = 1 RETURNING *",
      "DELETE FROM messages WHERE conversation_id = 'vault' RETURNING content",
      "INSERT INTO messages (conversation_id, content) VALUES ('c', 'x') RETURNING *",
      "INSERT INTO conversation_users (conversation_id, user_id) VALUES ('vault', 'mallory')",
      "UPDATE conversation_users SET role = 'owner' WHERE conversation_id = 'vault'",
      "DELETE FROM conversations WHERE conversation_id = 'vault'",
    );
    const spice = [
      "victim", '"victim"', "victim.messages", "victim.conversations", "victim.conversation_users", "scan_0", "scan_1", "main", "temp", "memory",
      "'vault'", "vault", "system.users", "pg_catalog", "information_schema.tables", "sqlite_master", "duckdb_tables()", "duckdb_secrets()",
      `read_csv('${file}')`, `read_text('${file}')`, `'${file}'`, `read_blob('${file}')`, "read_parquet('/proc/self/fd/100')", "read_parquet('/proc/self/fd/*')", "glob('/**')", "parquet_metadata('/proc/self/fd/101')",
      "getenv('HOME')", "current_setting('access_mode')", "pragma_database_list()", "query('SELECT 1')", "query_table('scan_0')", "UNION ALL", "--", "/*", "*/", ";", "$1", "$$", "E'\\x00'", "U&'\\0041'",
      "COPY", "ATTACH", "INSTALL", "LOAD", "SET", "RETURNING", "LATERAL", "WITH RECURSIVE", "INTO", "TABLESAMPLE", "*", "(", ")", "::regclass", "::oid", "COLUMNS('.*')", "EXCLUDE", "repeat('x', 300000000)", "9223372036854775808", "1e400", "'\u{1F600}'",
    ];
    const counts = new Map<number, number>();
    const token = s.token("mallory");
    const one = async () => {
      const sql = mutate(random, corpus, spice);
      const a = await s.request("POST", "/api/v1/query", { token, body: { sql, params: sql.includes("$1") ? [secret.slice(0, 4)] : [] } });
      counts.set(a.status, (counts.get(a.status) ?? 0) + 1);
      const text = JSON.stringify(a.body);
      assert.ok(!text.includes(secret), `seed ${seed}: shows the secret: ${sql}\n${text.slice(0, 400)}`);
      assert.ok(a.status < 500, `seed ${seed}: ${a.status}: ${sql}\n${text.slice(0, 400)}`);
    };
    let left = attacks;
    await Promise.all([1, 2].map(async () => { while (left-- > 0) await one(); }));
    const now = JSON.stringify((await s.sql("victim", "SELECT *, _seq FROM messages ORDER BY msg_id")).rows);
    assert.equal(now, before);
    assert.ok((counts.get(400) ?? 0) > attacks / 20 && (counts.get(200) ?? 0) > attacks / 50, `both kinds: ${JSON.stringify([...counts])}`);
  });
});
