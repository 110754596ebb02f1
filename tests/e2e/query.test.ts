// Contract section 2 over HTTP.
import assert from "node:assert/strict";
import { before, describe, it } from "node:test";
import { Server } from "./harness.ts";

let s: Server;
before(async () => {
  s = await Server.start();
});

async function refused(user: string, sql: string, status: number, code: string, params?: any[], role?: string): Promise<any> {
  const answer = await s.query(user, sql, params, role);
  assert.equal(`${answer.status} ${answer.body.error}`, `${status} ${code}`, `${sql}: ${JSON.stringify(answer.body)}`);
  assert.equal(typeof answer.body.message, "string");
  return answer.body;
}

describe("append", () => {
  it("appends by INSERT INTO conversations and reads it back", async () => {
    const made = await s.sql(
      "user_alice",
      `INSERT INTO conversations (conversation_id, conversation_type, from, content, metadata) VALUES ('conv_123', 'ai', 'user_alice', 'Hello AI!', '{"role":"user"}')`,
    );
    assert.equal(made.rowsAffected, 1);
    assert.equal(typeof made.insertedId, "number");
    assert.deepEqual(made.insertedIds, [made.insertedId]);
    const got = await s.sql("user_alice", "SELECT * FROM user_alice.messages WHERE conversation_id = 'conv_123' LIMIT 50");
    assert.deepEqual(got.columns, ["msg_id", "conversation_id", "conversation_type", "from", "timestamp", "content", "content_ref", "metadata", "client_msg_id"]);
    assert.deepEqual(got.types, ["BIGINT", "TEXT", "TEXT", "TEXT", "TIMESTAMPTZ", "TEXT", "TEXT", "JSON", "TEXT"]);
    assert.equal(got.rowCount, 1);
    const [row] = got.rows;
    assert.equal(row[0], made.insertedId);
    assert.match(row[4], /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/);
    assert.deepEqual([row[1], row[2], row[3], row[5], row[6], row[7], row[8]], ["conv_123", "ai", "user_alice", "Hello AI!", null, { role: "user" }, null]);
    assert.equal(typeof got.executionTimeMs, "number");
  });

  it("keeps conversations exact", async () => {
    const ids = [];
    for (let i = 0; i < 3; i++) ids.push(await s.say("carol", "c", `m${i}`));
    let [row] = (await s.sql("carol", "SELECT first_msg_id, last_msg_id, total_messages, conversation_type FROM conversations WHERE conversation_id = 'c'")).rows;
    assert.deepEqual(row, [ids[0], ids[2], 3, "ai"]);
    await s.sql("carol", "DELETE FROM messages WHERE msg_id = $1", [ids[0]]);
    [row] = (await s.sql("carol", "SELECT first_msg_id, last_msg_id, total_messages FROM conversations")).rows;
    assert.deepEqual(row, [ids[1], ids[2], 2]);
    await s.sql("carol", "DELETE FROM messages");
    [row] = (await s.sql("carol", "SELECT first_msg_id, last_msg_id, total_messages FROM conversations")).rows;
    assert.deepEqual(row, [null, null, 0]);
  });

  it("is all or nothing", async () => {
    await refused("dave", "INSERT INTO messages (conversation_id, content) VALUES ('a', 'x'), ('a', NULL)", 400, "CONSTRAINT_VIOLATION");
    assert.equal((await s.sql("dave", "SELECT count(*) FROM messages")).rows[0][0], 0);
    const two = await s.sql("dave", "INSERT INTO messages (conversation_id, content) VALUES ('a', 'x'), ('b', 'y') RETURNING msg_id, content, _seq");
    assert.equal(two.rowsAffected, 2);
    assert.deepEqual(two.rows.map((r: any[]) => [r[1], r[2]]), [["x", 1], ["y", 2]]);
    assert.deepEqual(two.insertedIds, two.rows.map((r: any[]) => r[0]));
  });

  it("answers a retry by client_msg_id with the first id", async () => {
    const insert = "INSERT INTO messages (conversation_id, content, client_msg_id) VALUES ('a', $1, 'k1')";
    const first = await s.sql("erin", insert, ["one"]);
    const again = await s.sql("erin", insert, ["two"]);
    assert.equal(again.rowsAffected, 0);
    assert.equal(again.insertedId, first.insertedId);
    await s.sql("erin", "DELETE FROM messages");
    assert.equal((await s.sql("erin", insert, ["three"])).insertedId, first.insertedId);
    assert.equal((await s.sql("erin", "SELECT count(*) FROM messages")).rows[0][0], 0);
    const other = await s.sql("erin", "INSERT INTO messages (conversation_id, content, client_msg_id, from) VALUES ('a', 'x', 'k1', 'assistant')");
    assert.equal(other.rowsAffected, 1);
  });

  it("decides who may send as whom", async () => {
    for (const from of ["ai", "assistant:gpt", "tool:search", "bot", "system", "frank"]) await s.say("frank", "a", "x", { from });
    for (const from of ["alice", "aix", "robot"]) await refused("frank", "INSERT INTO messages (conversation_id, content, from) VALUES ('a', 'x', $1)", 403, "FORBIDDEN", [from]);
    const sent = await s.sql("backend", `INSERT INTO frank.messages (conversation_id, content, from) VALUES ('a', 'x', 'anyone') RETURNING "from"`, undefined, "service");
    assert.equal(sent.rows[0][0], "anyone");
    await refused("frank", "INSERT INTO messages (conversation_id, content, msg_id) VALUES ('a', 'x', 5)", 403, "FORBIDDEN");
    await s.sql("backend", "INSERT INTO frank.messages (conversation_id, content, msg_id) VALUES ('a', 'x', 5)", undefined, "service");
    await refused("backend", "INSERT INTO frank.messages (conversation_id, content, msg_id) VALUES ('a', 'x', 5)", 409, "CONFLICT", undefined, "service");
  });

  it("checks values", async () => {
    const insert = (column: string) => `INSERT INTO messages (conversation_id, content, ${column}) VALUES ('a', 'x', $1)`;
    await refused("grace", insert("metadata"), 400, "INVALID_VALUE", ["{"]);
    await refused("grace", insert("timestamp"), 400, "INVALID_VALUE", ["yesterday-ish"]);
    await refused("grace", insert("nope"), 400, "UNDEFINED_COLUMN", [1]);
    await refused("grace", "INSERT INTO messages (conversation_id, content) VALUES ('', 'x')", 400, "CONSTRAINT_VIOLATION");
    await refused("grace", "INSERT INTO messages (conversation_id, content) VALUES ('a', $1)", 413, "TOO_LARGE", ["x".repeat(1048577)]);
    const row = (await s.sql("grace", `${insert("timestamp")} RETURNING timestamp`, [1760358896789012])).rows[0];
    assert.equal(row[0], "2025-10-13T12:34:56.789012Z");
    const nanos = (await s.sql("grace", `${insert("timestamp")} RETURNING timestamp`, ["2025-10-13T12:34:56.789012600+02:00"])).rows[0];
    assert.equal(nanos[0], "2025-10-13T10:34:56.789013Z");
    const meta = (await s.sql("grace", `${insert("metadata")} RETURNING metadata`, [{ a: [1, null] }])).rows[0];
    assert.deepEqual(meta[0], { a: [1, null] });
  });
});

describe("ids and numbers", () => {
  it("rise strictly, also for many in a millisecond, and _seq has no gap", async () => {
    await Promise.all(Array.from({ length: 300 }, (_, i) => s.say("heidi", `c${i % 7}`, `m${i}`)));
    const got = await s.sql("heidi", "SELECT msg_id, _seq, _ins_seq FROM messages ORDER BY _seq");
    for (let i = 0; i < 300; i++) {
      assert.equal(got.rows[i][1], i + 1);
      assert.equal(got.rows[i][2], i + 1);
      if (i > 0) assert.ok(got.rows[i][0] > got.rows[i - 1][0]);
      assert.ok(Number.isSafeInteger(got.rows[i][0]));
    }
  });
});

describe("update and delete", () => {
  it("reach any row with any WHERE and count exactly", async () => {
    for (let i = 0; i < 40; i++) await s.say("ivan", `c${i % 4}`, `m${i}`);
    await s.consolidate("ivan");
    for (let i = 40; i < 60; i++) await s.say("ivan", `c${i % 4}`, `m${i}`);
    assert.equal((await s.sql("ivan", "UPDATE messages SET metadata = '{\"x\":1}' WHERE conversation_id = 'c1'")).rowsAffected, 15);
    assert.equal((await s.sql("ivan", "UPDATE messages SET content = content || '!' WHERE content LIKE 'm5%' OR length(content) = 2")).rowsAffected, 20);
    assert.equal((await s.sql("ivan", "SELECT count(*) FROM messages WHERE content LIKE '%!'")).rows[0][0], 20);
    assert.equal((await s.sql("ivan", "DELETE FROM messages WHERE msg_id IN (SELECT msg_id FROM messages ORDER BY msg_id LIMIT 25)")).rowsAffected, 25);
    assert.equal((await s.sql("ivan", "SELECT count(*) FROM messages")).rows[0][0], 35);
    assert.equal((await s.sql("ivan", "SELECT sum(total_messages) FROM conversations")).rows[0][0], "35");
    assert.equal((await s.sql("ivan", "DELETE FROM messages WHERE false")).rowsAffected, 0);
    const seq = (await s.sql("ivan", "SELECT max(_seq) FROM messages")).rows[0][0];
    assert.ok(seq <= 60 + 15 + 20 + 25);
  });

  it("compute row by row", async () => {
    const first = await s.say("jack", "a", "x");
    for (const [what, expression] of [["aggregate", "max(content)"], ["window", "row_number() OVER ()"], ["set-returning", "generate_series(1, 2)"]]) {
      const message = (clause: string) => `${what} functions are not allowed in ${clause}`;
      assert.equal((await refused("jack", `UPDATE messages SET content = ${expression}`, 400, "SYNTAX_ERROR")).message, message("UPDATE"));
      for (const change of ["INSERT INTO messages (conversation_id, content) VALUES ('a', 'y')", "UPDATE messages SET content = 'y'", "DELETE FROM messages"])
        assert.equal((await refused("jack", `${change} RETURNING ${expression}`, 400, "SYNTAX_ERROR")).message, message("RETURNING"));
    }
    assert.deepEqual((await s.sql("jack", "SELECT msg_id, content FROM messages")).rows, [[first, "x"]]);
    const made = await s.sql("jack", "UPDATE messages SET content = (SELECT max(content) || '!' FROM messages), metadata = (SELECT json_agg(g) FROM generate_series(1, 2) g) RETURNING content, metadata");
    assert.deepEqual(made.rows, [["x!", [1, 2]]]);
  });

  it("refuse columns kept by the engine", async () => {
    await s.say("judy", "a", "x");
    for (const set of ["msg_id = 1", "from = 'x'", "timestamp = now()", "_seq = 1", "conversation_id = 'b'"])
      await refused("judy", `UPDATE messages SET ${set}`, 403, "FORBIDDEN");
    await refused("judy", "UPDATE conversations SET total_messages = 7", 403, "FORBIDDEN");
    assert.equal((await s.sql("judy", "UPDATE conversations SET title = 'T', metadata = '{}' WHERE conversation_id = 'a'")).rowsAffected, 1);
    assert.deepEqual((await s.sql("judy", "SELECT title, metadata FROM conversations")).rows, [["T", {}]]);
    const id = (await s.sql("judy", "SELECT last_msg_id FROM conversations")).rows[0][0];
    assert.equal((await s.sql("judy", "UPDATE conversation_users SET last_read_msg_id = $1 WHERE conversation_id = 'a'", [id])).rowsAffected, 1);
    assert.deepEqual((await s.sql("judy", "SELECT user_id, role, last_read_msg_id FROM conversation_users")).rows, [["judy", "owner", id]]);
    assert.equal((await s.sql("judy", "DELETE FROM conversations WHERE conversation_id = 'a'")).rowsAffected, 1);
    assert.equal((await s.sql("judy", "SELECT count(*) FROM messages")).rows[0][0], 0);
    assert.equal((await s.sql("judy", "SELECT count(*) FROM conversations")).rows[0][0], 0);
  });
});

describe("select", () => {
  it("gives PostgreSQL's errors", async () => {
    const syntax = await refused("ken", "SELECT * FRM messages", 400, "SYNTAX_ERROR");
    assert.equal(syntax.message, 'syntax error at or near "FRM"');
    assert.equal(syntax.position, 10);
    const column = await refused("ken", "SELECT nope FROM messages", 400, "UNDEFINED_COLUMN");
    assert.equal(column.position, 8);
    assert.match(column.message, /column "nope" does not exist/);
    const table = await refused("ken", "SELECT 1 FROM nope", 400, "UNDEFINED_TABLE");
    assert.equal(table.position, 15);
    await refused("ken", "SELECT nope(1) FROM messages", 400, "UNDEFINED_FUNCTION");
    await refused("ken", "SELECT 1/0", 400, "INVALID_VALUE");
    await refused("ken", "SELECT 1; SELECT 2", 400, "UNSUPPORTED");
    await refused("ken", "BEGIN", 400, "UNSUPPORTED");
    await refused("ken", "", 400, "SYNTAX_ERROR");
    await refused("ken", "SELECT $2", 400, "INVALID_REQUEST", [1]);
    await refused("ken", "SELECT 'x'::bigint FROM messages", 400, "INVALID_VALUE");
  });

  it("speaks SQL", async () => {
    for (let i = 0; i < 10; i++) await s.say("leo", `c${i % 3}`, `text ${i}`);
    const window = await s.sql("leo", "WITH w AS (SELECT conversation_id, content, row_number() OVER (PARTITION BY conversation_id ORDER BY msg_id DESC) AS n FROM messages) SELECT conversation_id, content FROM w WHERE n = 1 ORDER BY 1");
    assert.deepEqual(window.rows, [["c0", "text 9"], ["c1", "text 7"], ["c2", "text 8"]]);
    const join = await s.sql("leo", "SELECT c.conversation_id, c.total_messages, count(*) FROM conversations c JOIN messages m ON m.conversation_id = c.conversation_id GROUP BY 1, 2 ORDER BY 1");
    assert.deepEqual(join.rows, [["c0", 4, 4], ["c1", 3, 3], ["c2", 3, 3]]);
    const bare = await s.sql("leo", "SELECT from, count(*) AS n FROM messages WHERE from = 'leo' GROUP BY from ORDER BY from");
    assert.deepEqual(bare.columns, ["from", "n"]);
    assert.deepEqual(bare.rows, [["leo", 10]]);
    assert.deepEqual((await s.sql("leo", "SELECT 7/2, -7/2, 7.0/2, 'a' || 1, NULL::text IS NULL")).rows[0].slice(0, 2), [3, -3]);
    assert.deepEqual((await s.sql("leo", "SELECT count(*) FROM messages WHERE content ~ '[0-4]$'")).rows, [[5]]);
  });

  it("truncates at max_result_rows and says so", async () => {
    const many = await s.sql("leo", "SELECT * FROM generate_series(1, 10001)");
    assert.equal(many.rowCount, 10000);
    assert.equal(many.truncated, true);
    const exact = await s.sql("leo", "SELECT * FROM generate_series(1, 10000)");
    assert.equal(exact.truncated, undefined);
  });

  it("maps types", async () => {
    const { rows, types } = await s.sql("leo", "SELECT 9007199254740993::bigint, 12345678901234567890::numeric, 1.5::double precision, 'NaN'::double precision, true, NULL, '2025-01-02 03:04:05+01'::timestamptz, '{\"a\": 1}'::jsonb");
    assert.deepEqual(rows[0].slice(0, 1).concat(rows[0].slice(2)), ["9007199254740993", 1.5, "NaN", true, null, "2025-01-02T02:04:05.000000Z", { a: 1 }]);
    assert.equal(types[0], "BIGINT");
  });

  it("stops a statement at its time and goes on", async () => {
    const quick = await Server.start({ KALAMDB_QUERY_TIMEOUT_MS: "500" });
    const answer = await quick.query("leo", "SELECT count(*) FROM generate_series(1, 3000000) AS x(a), generate_series(1, 3000000) AS y(b) WHERE a * b = 3");
    assert.equal(`${answer.status} ${answer.body.error}`, "408 TIMEOUT");
    assert.equal((await quick.sql("leo", "SELECT 1 + 1")).rows[0][0], 2);
    await quick.destroy();
  });
});

describe("every tier", () => {
  it("answers alike: hot, cold and mixed", async () => {
    const users = ["hot", "cold", "mixed"];
    const fill = async (user: string, from: number) => {
      const rows = Array.from({ length: 10 }, (_, k) => from + k);
      for (const i of rows)
        await s.sql(
          "backend",
          `INSERT INTO ${user}.messages (msg_id, conversation_id, content, timestamp, metadata, client_msg_id, from) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
          [1000 + i * 7, `c${i % 3}`, ["Abc", "a_b%c", "Ünï\\x", "", "10", "l1\nl2", "NULL", "zz' \"", "日本", "a\\b"][i % 10], 1760358896789012 + i * 86400000000, i % 4 === 0 ? null : { n: i, deep: { k: i % 2 === 0 } }, i % 5 === 0 ? `k${i}` : null, i % 2 === 0 ? "user" : "assistant"],
          "service",
        );
    };
    for (const user of users) await fill(user, 0);
    await s.consolidate("mixed");
    for (const user of users) {
      await fill(user, 10);
      assert.equal((await s.sql(user, "UPDATE messages SET metadata = '{\"up\":1}', content = content || '!' WHERE msg_id IN (1007, 1105)")).rowsAffected, 2);
      assert.equal((await s.sql(user, "DELETE FROM messages WHERE msg_id IN (1014, 1112)")).rowsAffected, 2);
    }
    await s.consolidate("cold");
    const statements: [string, any[]?][] = [
      ["SELECT *, _seq, _ins_seq FROM messages"],
      ["SELECT msg_id, client_msg_id FROM messages ORDER BY client_msg_id"],
      ["SELECT msg_id, client_msg_id FROM messages ORDER BY client_msg_id DESC, msg_id LIMIT 3 OFFSET 1"],
      ["SELECT msg_id, content FROM messages ORDER BY content DESC, msg_id"],
      ["SELECT msg_id FROM messages WHERE content LIKE 'a\\_b%' OR content ~ '^l1$'"],
      ["SELECT msg_id, metadata->'deep'->>'k' FROM messages WHERE metadata @> '{\"deep\":{\"k\":true}}'"],
      ["SELECT from, count(*), sum(msg_id) FROM messages GROUP BY from ORDER BY from"],
      ["SELECT msg_id FROM messages WHERE _seq > 15 ORDER BY _seq DESC"],
      ["SELECT msg_id FROM messages WHERE timestamp >= $1 AND timestamp < '2025-10-20'", [1760358896789012 + 86400000000]],
      ["SELECT conversation_id, first_msg_id, last_msg_id, total_messages FROM conversations"],
      ["UPDATE messages SET content = 'last' WHERE msg_id IN (SELECT max(msg_id) FROM messages GROUP BY conversation_id) RETURNING msg_id, _seq"],
      ["WITH w AS (SELECT msg_id FROM messages ORDER BY msg_id LIMIT 2) DELETE FROM messages WHERE msg_id IN (SELECT msg_id FROM w) RETURNING msg_id, from, content"],
      ["DELETE FROM messages m WHERE EXISTS (SELECT 1 FROM conversations c WHERE c.last_msg_id = m.msg_id) RETURNING msg_id"],
      ["SELECT msg_id, content, metadata, _seq FROM messages WHERE conversation_id <> 'c1'"],
      ["SELECT conversation_id, first_msg_id, last_msg_id, total_messages FROM conversations"],
    ];
    for (const [sql, params] of statements) {
      const answers = [];
      for (const user of users) {
        const { executionTimeMs, ...rest } = await s.sql(user, sql, params);
        answers.push(rest);
      }
      assert.ok(answers[0].rows.length > 0, sql);
      assert.deepEqual(answers[1], answers[0], `cold: ${sql}`);
      assert.deepEqual(answers[2], answers[0], `mixed: ${sql}`);
    }
  });

  it("finds instants given as whole microseconds", async () => {
    await s.sql("nina", "INSERT INTO messages (conversation_id, content, timestamp) VALUES ('a', 'early', 0), ('a', 'late', 1760358896789012)");
    for (const extra of ["", " AND upper(content) <> ''"]) {
      const find = async (condition: string, ...params: number[]) =>
        (await s.sql("nina", `SELECT content FROM messages WHERE ${condition}${extra}`, params)).rows.flat();
      assert.deepEqual(await find("timestamp >= $1", 1760358896789012), ["late"]);
      assert.deepEqual(await find("timestamp BETWEEN $1 AND $2", -1, 1760358896789011), ["early"]);
      assert.deepEqual(await find("timestamp IN ($1, $2)", 5, 1760358896789012), ["late"]);
    }
    await refused("nina", "SELECT content FROM messages WHERE timestamp = 1760358896789012", 400, "TYPE_MISMATCH");
    await refused("nina", "SELECT content FROM messages WHERE timestamp = $1", 400, "INVALID_VALUE", [1.5]);
  });
});

describe("another user's tables", () => {
  it("are the service's by any name", async () => {
    for (const user of ["auth0|5f7c", 'quo"ted', "ünï code", "L" + "x".repeat(254)]) {
      const name = `"${user.replaceAll('"', '""')}"`;
      const made = await s.sql("backend", `INSERT INTO ${name}.messages (conversation_id, content) VALUES ('a', 'hello') RETURNING from`, undefined, "service");
      assert.deepEqual(made.rows, [["backend"]]);
      assert.deepEqual((await s.sql(user, `SELECT ${name}.messages.content, m2.content FROM messages JOIN ${name}.messages m2 USING (msg_id)`)).rows, [["hello", "hello"]]);
      await refused("someone", `SELECT 1 FROM ${name}.messages`, 403, "FORBIDDEN");
    }
    const tooLong = `"${"L" + "x".repeat(255)}"`;
    await refused("backend", `SELECT 1 FROM ${tooLong}.messages`, 400, "UNDEFINED_TABLE", undefined, "service");
    await refused("backend", `SELECT 1 AS ${"n".repeat(64)}`, 400, "SYNTAX_ERROR", undefined, "service");
    for (const reserved of ["shared", "deleted_user", "assistant:gpt"]) await refused("backend", `SELECT 1 FROM "${reserved}".messages`, 400, "UNDEFINED_TABLE", undefined, "service");
  });
});

describe("order nobody asked for", () => {
  it("is the same wherever the rows sit", async () => {
    const statements = [
      "SELECT string_agg(content, ',') FROM messages WHERE content <> 'last'",
      "SELECT conversation_id, array_agg(content) FROM messages WHERE content <> 'last' GROUP BY 1 ORDER BY 1",
      "SELECT content, row_number() OVER () FROM messages WHERE content <> 'last' ORDER BY 2",
      "WITH w AS (SELECT content FROM messages WHERE content <> 'last') SELECT content FROM w",
    ];
    const ask = () => Promise.all(statements.map(async (sql) => (await s.sql("olga", sql)).rows));
    for (let i = 0; i < 30; i++) await s.say("olga", `c${(i * 7) % 4}`, `m${i}`);
    const hot = await ask();
    assert.equal(hot[0][0][0], Array.from({ length: 30 }, (_, i) => `m${i}`).join(","));
    await s.consolidate("olga");
    assert.deepEqual(await ask(), hot);
    await s.say("olga", "c0", "last");
    assert.deepEqual(await ask(), hot);
  });
});

describe("requests", () => {
  it("are checked", async () => {
    const token = s.token("mia");
    const post = (body: any, headers?: Record<string, string>) => s.request("POST", "/api/v1/query", { token, body, headers });
    for (const body of ["", "{", "[]", '{"sql": 1}', "{}", '{"sql":"SELECT 1","params":{}}', '{"sql":"SELECT \\u0000"}', '{"sql":"SELECT $1","params":["a\\u0000"]}']) {
      const answer = await post(body);
      assert.equal(`${answer.status} ${answer.body.error}`, "400 INVALID_REQUEST", body);
    }
    assert.equal((await s.request("GET", "/api/v1/query", { token })).status, 405);
    assert.equal((await s.request("GET", "/api/v1/nothing", { token })).body.error, "NOT_FOUND");
    assert.equal((await post({ sql: "SELECT '" + "x".repeat(1048576) + "'" })).body.error, "TOO_LARGE");
    assert.equal((await post({ sql: "SELECT 1", userId: "other" })).body.error, "FORBIDDEN");
    assert.equal((await post({ sql: "SELECT 1", userId: "mia" })).status, 200);
    const big = await post("x".repeat(10485761));
    assert.equal(`${big.status} ${big.body.error}`, "413 TOO_LARGE");
    assert.equal((await post({ sql: "INSERT INTO messages (conversation_id, content) VALUES ('a','b')" }, { "x-durability": "async" })).status, 200);
  });

  it("carry who calls in the token alone", async () => {
    for (const headers of [{}, { authorization: "Bearer x" }, { authorization: "Basic eDp5" }, { authorization: "Bearer " }]) {
      const answer = await s.request("POST", "/api/v1/query", { body: { sql: "SELECT 1" }, headers: headers as any });
      assert.equal(`${answer.status} ${answer.body.error}`, "401 UNAUTHENTICATED");
    }
  });
});
