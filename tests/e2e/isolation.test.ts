// No statement of one user names, reads or disturbs another's rows.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { before, describe, it } from "node:test";
import { repo, Server } from "./harness.ts";

const secret = "the-victims-secret-7f3a";
let s: Server;
before(async () => {
  s = await Server.start();
  await s.say("victim", "c", secret);
  await s.consolidate("victim");
  await s.say("victim", "c", `${secret} hot`);
  await s.say("mallory", "c", "mine");
});

const long = "victim".padEnd(70, "x");
const attacks = [
  "SELECT * FROM victim.messages",
  'SELECT * FROM "victim".messages',
  "SELECT * FROM VICTIM.MESSAGES",
  "SELECT * FROM victim.conversations",
  "SELECT * FROM victim.conversation_users",
  "SELECT * FROM messages, victim.messages v",
  "SELECT * FROM messages m JOIN victim.messages v USING (conversation_id)",
  "SELECT (SELECT content FROM victim.messages LIMIT 1)",
  "SELECT * FROM messages WHERE content IN (SELECT content FROM victim.messages)",
  "SELECT * FROM messages WHERE EXISTS (SELECT 1 FROM victim.messages)",
  "WITH x AS (SELECT * FROM victim.messages) SELECT * FROM x",
  "WITH RECURSIVE x AS (SELECT content FROM victim.messages UNION ALL SELECT content FROM x WHERE false) SELECT * FROM x",
  "SELECT * FROM messages UNION ALL SELECT * FROM victim.messages",
  "SELECT * FROM messages ORDER BY (SELECT max(content) FROM victim.messages)",
  "SELECT count(*) OVER (ORDER BY (SELECT 1 FROM victim.messages LIMIT 1)) FROM messages",
  "SELECT * FROM LATERAL (SELECT * FROM victim.messages) x",
  "SELECT CASE WHEN (SELECT count(*) FROM victim.messages) > 0 THEN 1 END",
  "TABLE victim.messages",
  "INSERT INTO victim.messages (conversation_id, content) VALUES ('c', 'x')",
  "INSERT INTO messages (conversation_id, content) SELECT 'c', content FROM victim.messages",
  "INSERT INTO messages (conversation_id, content) VALUES ('c', (SELECT content FROM victim.messages LIMIT 1))",
  "INSERT INTO messages (conversation_id, content) VALUES ('c', 'x') RETURNING (SELECT content FROM victim.messages LIMIT 1)",
  "UPDATE victim.messages SET content = 'x'",
  "UPDATE messages SET content = (SELECT content FROM victim.messages LIMIT 1)",
  "UPDATE messages SET content = 'x' FROM victim.messages v WHERE v.content = 'y'",
  "DELETE FROM victim.messages",
  "DELETE FROM messages USING victim.messages v",
  "DELETE FROM messages WHERE content = (SELECT content FROM victim.messages LIMIT 1)",
  "DELETE FROM victim.conversations",
  "UPDATE victim.conversations SET title = 'x'",
  `SELECT * FROM "${long}".messages`,
  `SELECT * FROM "../victim".messages`,
  `SELECT * FROM "victim/".messages`,
  `SELECT * FROM "victim\u0000".messages`.replace("\u0000", " "),
  "SELECT * FROM kalamdb.victim.messages",
  "SELECT * FROM scan_0",
  "SELECT * FROM scan_1",
  "SELECT * FROM system.users",
  "SELECT * FROM pg_catalog.pg_class",
  "SELECT * FROM information_schema.tables",
  "SELECT * FROM pg_class",
  "SELECT * FROM duckdb_settings()",
  "SELECT * FROM duckdb_tables()",
  "SELECT * FROM duckdb_secrets()",
  "SELECT * FROM read_parquet('/proc/self/fd/3')",
  "SELECT * FROM read_csv('/etc/passwd')",
  "SELECT * FROM read_csv_auto('/etc/passwd')",
  "SELECT * FROM read_json('/etc/passwd')",
  "SELECT * FROM read_text('/etc/passwd')",
  "SELECT * FROM read_blob('/etc/passwd')",
  "SELECT * FROM parquet_metadata('/proc/self/fd/3')",
  "SELECT * FROM glob('/*')",
  "SELECT * FROM '/etc/passwd'",
  `SELECT * FROM "/etc/passwd"`,
  "SELECT * FROM query('SELECT 1')",
  "SELECT * FROM query_table('scan_0')",
  "SELECT getenv('HOME')",
  "SELECT current_setting('memory_limit')",
  "SELECT set_config('a', 'b', false)",
  "SELECT pg_read_file('/etc/passwd')",
  "SELECT pg_sleep(10)",
  "SELECT lo_import('/etc/passwd')",
  "COPY messages TO '/tmp/x'",
  "COPY messages FROM '/etc/passwd'",
  "COPY (SELECT 1) TO PROGRAM 'id'",
  "CREATE TABLE x (a int)",
  "CREATE VIEW x AS SELECT 1",
  "CREATE EXTENSION x",
  "CREATE FUNCTION f() RETURNS int AS 'SELECT 1' LANGUAGE sql",
  "DROP TABLE messages",
  "ALTER TABLE messages ADD COLUMN x int",
  "TRUNCATE messages",
  "VACUUM",
  "SET memory_limit = '1GB'",
  "SHOW ALL",
  "RESET ALL",
  "LOAD 'x'",
  "INSTALL httpfs",
  "ATTACH '/tmp/x' AS y",
  "PRAGMA database_list",
  "CALL x()",
  "DO $$ BEGIN END $$",
  "EXPLAIN ANALYZE DELETE FROM messages",
  "PREPARE x AS SELECT 1",
  "EXECUTE x",
  "LISTEN x",
  "NOTIFY x",
  "LOCK TABLE messages",
  "GRANT ALL ON messages TO PUBLIC",
  "SELECT 1; DROP TABLE messages",
  "SELECT * INTO x FROM messages",
  "SELECT * FROM messages FOR UPDATE",
  "MERGE INTO messages USING victim.messages v ON true WHEN MATCHED THEN DELETE",
];

/** The gate's own list of attacks, by a user alice on one called bob: over HTTP, on a server that has both. */
const gate = readFileSync(join(repo, "tests/unit/sql/gate_attack.cases"), "utf8")
  .split("\n")
  .filter((line) => line.startsWith("u||"))
  .map((line) => line.slice(3));

/** One refusal that tells nothing but what the statement itself says. Returns its text. */
async function refused(user: string, sql: string): Promise<string> {
  const answer = await s.query(user, sql);
  const body = JSON.stringify(answer.body);
  assert.ok([400, 403].includes(answer.status), `${sql}: ${answer.status} ${body}`);
  const allowed = ["FORBIDDEN", "UNSUPPORTED", "SYNTAX_ERROR", "UNDEFINED_TABLE", "UNDEFINED_FUNCTION", "UNDEFINED_COLUMN"];
  assert.ok(allowed.includes(answer.body.error), `${sql}: ${body}`);
  for (const planted of [secret, "root:x:", "PAR1", "daemon:", "HOME="]) assert.ok(!body.includes(planted), `${sql}: ${body}`);
  if (!sql.includes(s.data)) assert.ok(!body.includes(s.data), body);
  return body;
}

/** Ways to a file or out of the machine, in each place of a statement where an expression or a relation can stand. */
function reaching(path: string): string[] {
  const text = `'${path}'`;
  const relations = ["read_text", "read_blob", "read_csv", "read_csv_auto", "read_json", "read_json_auto", "read_ndjson", "read_parquet", "parquet_scan", "parquet_schema", "parquet_file_metadata", "sniff_csv", "glob", "sqlite_scan", "iceberg_scan", "arrow_scan"].map((f) => `${f}(${text})`);
  return [
    ...relations.map((r) => `SELECT * FROM ${r}`),
    `SELECT * FROM ${text}`,
    `SELECT * FROM "${path}"`,
    `SELECT * FROM messages m JOIN read_text(${text}) r ON true`,
    `WITH x AS (SELECT * FROM read_text(${text})) SELECT * FROM x`,
    `SELECT (SELECT content FROM read_text(${text}))`,
    `SELECT content FROM messages UNION ALL SELECT content FROM read_text(${text})`,
    `SELECT content FROM messages WHERE content < (SELECT max(content) FROM read_text(${text}))`,
    `INSERT INTO messages (conversation_id, content) SELECT 'c', content FROM read_text(${text})`,
    `UPDATE messages SET content = (SELECT content FROM read_text(${text}))`,
    `DELETE FROM messages WHERE content IN (SELECT content FROM read_text(${text}))`,
    `SELECT pg_read_file(${text})`,
    `SELECT pg_read_binary_file(${text})`,
    `COPY messages FROM ${text}`,
    `COPY messages TO ${text}`,
    `ATTACH ${text} AS other`,
    `LOAD ${text}`,
    `IMPORT DATABASE ${text}`,
  ];
}

describe("attacks", () => {
  for (const sql of attacks) {
    it(sql.slice(0, 90), async () => {
      const body = await refused("mallory", sql);
      assert.ok(!body.includes("/proc/"));
    });
  }

  it("of the gate's list, over HTTP", async () => {
    assert.ok(gate.length >= 160, String(gate.length));
    await s.say("bob", "c", `${secret} of bob`);
    await s.say("alice", "c", "hers");
    for (const sql of gate) await refused("alice", sql);
    assert.deepEqual((await s.sql("bob", "SELECT content FROM messages")).rows, [[`${secret} of bob`]]);
    assert.deepEqual((await s.sql("alice", "SELECT content FROM messages")).rows, [["hers"]]);
  });

  it("on files, sockets and processes", async () => {
    const folder = readdirSync(s.data).find((f) => f.startsWith("victim"));
    assert.ok(folder !== undefined);
    const batch = readdirSync(join(s.data, folder)).find((f) => f.startsWith("batch-"));
    assert.ok(batch !== undefined);
    const paths = ["/etc/passwd", join(s.data, folder, batch), `${s.data}/**`, join(s.data, ".kalamdb/jwt.key"), "/proc/self/environ", `/proc/${s.child.pid}/mem`, "/proc/self/fd/3", "/proc/self/fd/100", "http://127.0.0.1:1/x", "s3://bucket/x"];
    const statements = paths.flatMap(reaching);
    assert.ok(statements.length > 300);
    for (const sql of statements) await refused("mallory", sql);
    const total = new Set([...attacks, ...gate, ...statements]).size;
    assert.ok(total >= 200, `${total} different statements`);
  });

  it("leave the victim as it was", async () => {
    const rows = (await s.sql("victim", "SELECT content FROM messages ORDER BY msg_id")).rows;
    assert.deepEqual(rows, [[secret], [`${secret} hot`]]);
    assert.deepEqual((await s.sql("mallory", "SELECT content FROM messages")).rows, [["mine"]]);
  });

  it("do not come through a function that would read", async () => {
    for (const sql of ["SELECT content FROM messages WHERE content LIKE '%secret%'", "SELECT string_agg(content, ',') FROM messages", 'SELECT * FROM "mallory".messages', "SELECT * FROM mallory.messages, messages m"]) {
      const answer = await s.query("mallory", sql);
      assert.equal(answer.status, 200, `${sql} ${JSON.stringify(answer.body)}`);
      assert.ok(!JSON.stringify(answer.body).includes(secret));
    }
  });

  it("do not come through the live side", async () => {
    const ws = await s.socket("mallory");
    const error = await ws.subscribe({ userId: "victim", lastSeq: 0 });
    assert.equal(error.code, "FORBIDDEN");
    ws.close();
  });
});
