// No statement of one user names, reads or disturbs another's rows.
import assert from "node:assert/strict";
import { before, describe, it } from "node:test";
import { Server } from "./harness.ts";

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

describe("attacks", () => {
  for (const sql of attacks) {
    it(sql.slice(0, 90), async () => {
      const answer = await s.query("mallory", sql);
      assert.ok([400, 403].includes(answer.status), `${answer.status} ${JSON.stringify(answer.body)}`);
      const allowed = ["FORBIDDEN", "UNSUPPORTED", "SYNTAX_ERROR", "UNDEFINED_TABLE", "UNDEFINED_FUNCTION", "UNDEFINED_COLUMN"];
      assert.ok(allowed.includes(answer.body.error), JSON.stringify(answer.body));
      assert.ok(!JSON.stringify(answer.body).includes(secret));
      assert.ok(!JSON.stringify(answer.body).includes("/proc/"));
    });
  }

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
