// Statements made to eat time or memory end as one refusal for who sent them, and nobody else notices.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { before, describe, it } from "node:test";
import { Server } from "./harness.ts";

const timeout = 1500;
let s: Server;
before(async () => {
  s = await Server.start({ KALAMDB_QUERY_TIMEOUT_MS: String(timeout), KALAMDB_WORKER_MEMORY_BYTES: String(128 << 20), KALAMDB_WORKERS: "2" });
  for (let i = 0; i < 30; i++) await s.say("bomber", "c", `message ${i} ${"a".repeat(200)}`, { metadata: { n: i } });
  await s.say("alice", "c", "hello");
});

/* Cheap after all, or refused by nobody for good reason. */
const harmless = new Set(["LIKE that backtracks", "a chain of WITH", "a number of many digits", "functions as deep as may be", "selects as deep as may be", "scalar selects as deep as may be", "arrays as deep as may be", "CASE as deep as may be"]);
const nest = (open: string, n: number, inner: string, close: string) => open.repeat(n) + inner + close.repeat(n);
const many = "generate_series(1, 10000000)";
const bombs: [name: string, sql: string][] = [
  ["repeat, 300 MB", "SELECT repeat('x', 300000000)"],
  ["repeat, its length alone", "SELECT length(repeat('x', 2000000000))"],
  ["repeat of repeat", "SELECT repeat(repeat('x', 100000), 100000)"],
  ["repeat of a column", "SELECT repeat(content, 10000000) FROM messages"],
  ["repeat in a WHERE", "SELECT 1 FROM messages WHERE length(repeat(content, 10000000)) > 5"],
  ["repeat in an ORDER BY", "SELECT msg_id FROM messages ORDER BY repeat(content, 10000000)"],
  ["repeat in an INSERT", "INSERT INTO messages (conversation_id, content) VALUES ('c', repeat('x', 300000000))"],
  ["repeat in an UPDATE", "UPDATE messages SET content = repeat(content, 10000000)"],
  ["repeat in a DELETE", "DELETE FROM messages WHERE repeat(content, 10000000) = 'x'"],
  ["lpad", "SELECT lpad('x', 1000000000, 'y')"],
  ["rpad", "SELECT rpad('x', 1000000000, 'y')"],
  ["format", "SELECT format('%1000000000s', 'x')"],
  ["replace that multiplies", "SELECT length(replace(repeat('x', 1000000), 'x', repeat('y', 10000)))"],
  ["translate and reverse of much", "SELECT reverse(translate(repeat('x', 400000000), 'x', 'y'))"],
  ["concat that doubles", `SELECT length(e) FROM (SELECT d || d || d || d || d || d || d || d AS e FROM (SELECT repeat('x', 100000000) AS d) q) w`],
  ["cross joins of series", `SELECT count(*) FROM ${many} a, ${many} b, ${many} c`],
  ["cross joins of messages", `SELECT count(*) FROM ${Array.from({ length: 9 }, (_, i) => `messages m${i}`).join(", ")}`],
  ["a series without an end", "SELECT sum(i) FROM generate_series(1, 9000000000000000000) t(i)"],
  ["a distinct count of a product", "SELECT count(DISTINCT a.i::text || b.i::text) FROM generate_series(1, 100000) a(i), generate_series(1, 100000) b(i)"],
  ["a group for each pair", "SELECT a.i, b.i, count(*) FROM generate_series(1, 100000) a(i), generate_series(1, 100000) b(i) GROUP BY 1, 2"],
  ["recursion without an end", "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT max(n) FROM t"],
  ["recursion that doubles its rows", "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t, (VALUES (1), (2), (3)) v(x)) SELECT count(*) FROM t"],
  ["recursion that doubles its text", "WITH RECURSIVE t(x) AS (SELECT 'a' UNION ALL SELECT x || x FROM t) SELECT max(length(x)) FROM t"],
  ["recursion that keeps all", "WITH RECURSIVE t(n, x) AS (SELECT 1, 'a' UNION SELECT n + 1, repeat('x', 10000) || n::text FROM t) SELECT count(*) FROM t"],
  ["string_agg", `SELECT string_agg(i::text, ',') FROM generate_series(1, 100000000) t(i)`],
  ["string_agg of large pieces", `SELECT string_agg(repeat('x', 100000), ',') FROM generate_series(1, 100000) t(i)`],
  ["array_agg", `SELECT array_agg(i) FROM generate_series(1, 1000000000) t(i)`],
  ["json_agg", `SELECT json_agg(i) FROM generate_series(1, 1000000000) t(i)`],
  ["array_to_string", "SELECT length(array_to_string(array_agg(i), ',')) FROM generate_series(1, 300000000) t(i)"],
  ["unnest of a giant list", "SELECT count(*) FROM (SELECT unnest(l) FROM (SELECT array_agg(i) AS l FROM generate_series(1, 300000000) t(i)) q) w"],
  ["unnest of unnest", "SELECT count(*) FROM (SELECT unnest(l) AS x, l FROM (SELECT array_agg(i) AS l FROM generate_series(1, 100000) t(i)) q) w, generate_series(1, 100000) z"],
  ["string_to_array", "SELECT string_to_array(repeat('x,', 100000000), ',')"],
  ["regexp_replace that multiplies", "SELECT length(regexp_replace(repeat('a', 10000000), 'a', repeat('b', 1000), 'g'))"],
  ["a regular expression that explodes", `SELECT ${"'" + "a".repeat(60)}b' ~ '${"(a{1,500}){1,500}"}'`],
  ["a regular expression of nested repeats", "SELECT content ~ '((((a{1,30}){1,30}){1,30}){1,30})' FROM messages"],
  ["a regular expression on much", "SELECT count(*) FROM generate_series(1, 100000000) t(i) WHERE repeat('a', 10000) ~ '(a|aa)+$'"],
  ["LIKE that backtracks", `SELECT count(*) FROM generate_series(1, 10000000) t(i) WHERE repeat('a', 5000) LIKE '${"%a".repeat(50)}%b'`],
  ["a sort of everything", "SELECT i FROM generate_series(1, 300000000) t(i) ORDER BY md5(i::text) LIMIT 1 OFFSET 200000000"],
  ["a window over everything", "SELECT max(r) FROM (SELECT row_number() OVER (ORDER BY md5(i::text)) AS r FROM generate_series(1, 100000000) t(i)) q"],
  ["a window frame of everything", "SELECT sum(s) FROM (SELECT string_agg(i::text, '') OVER (ORDER BY i) AS x, i AS s FROM generate_series(1, 1000000) t(i)) q WHERE length(x) > 0"],
  ["a hash join that outgrows memory", `SELECT count(*) FROM ${many} a(i) JOIN ${many} b(i) ON a.i % 10 = b.i % 10`],
  ["too many rows", "SELECT repeat('x', 100000), i FROM generate_series(1, 9000) t(i)"],
  ["parentheses", `SELECT ${nest("(", 20000, "1", ")")}`],
  ["a sum of many", `SELECT ${"1 + ".repeat(50000)}1`],
  ["a condition of many", `SELECT 1 FROM messages WHERE ${"msg_id = 1 OR ".repeat(20000)}false`],
  ["NOT of NOT", `SELECT ${"NOT ".repeat(20000)}true`],
  ["minus of minus", `SELECT ${"- ".repeat(20000)}1`],
  ["functions of functions", `SELECT ${nest("lower(", 20000, "'x'", ")")}`],
  ["CASE in CASE", `SELECT ${nest("CASE WHEN true THEN ", 5000, "1", " END")}`],
  ["casts of casts", `SELECT 1${"::text".repeat(20000)}`],
  ["selects in selects", `SELECT * FROM ${nest("(SELECT * FROM ", 2000, "messages", ") q")}`],
  ["scalar selects in scalar selects", `SELECT ${nest("(SELECT ", 3000, "1", ")")}`],
  ["arrays in arrays", `SELECT ${nest("ARRAY[", 5000, "1", "]")}`],
  ["UNION of UNION", `SELECT 1${" UNION SELECT 1".repeat(20000)}`],
  ["a chain of WITH", `WITH a0 AS (SELECT 1 AS x) ${Array.from({ length: 60 }, (_, i) => `, a${i + 1} AS (SELECT a.x FROM a${i} a, a${i} b)`).join("")} SELECT count(*) FROM a60`],
  ["a chain of WITH that doubles", `WITH a0 AS (SELECT 1 AS x UNION ALL SELECT 2) ${Array.from({ length: 60 }, (_, i) => `, a${i + 1} AS (SELECT a.x FROM a${i} a, a${i} b)`).join("")} SELECT count(*) FROM a60`],
  ["a chain of WITH, each twice", `WITH a0 AS (SELECT 1 AS x) ${Array.from({ length: 60 }, (_, i) => `, a${i + 1} AS (SELECT x FROM a${i} UNION ALL SELECT x FROM a${i})`).join("")} SELECT count(*) FROM a60`],
  ["functions as deep as may be", `SELECT ${nest("lower(", 180, "content", ")")} FROM messages`],
  ["selects as deep as may be", `SELECT * FROM ${nest("(SELECT * FROM ", 45, "messages", ") q")}`],
  ["scalar selects as deep as may be", `SELECT ${nest("(SELECT ", 90, "max(msg_id) FROM messages", ")")}`],
  ["arrays as deep as may be", `SELECT ${nest("ARRAY[", 120, "1", "]")}`],
  ["CASE as deep as may be", `SELECT ${nest("CASE WHEN msg_id > 0 THEN ", 60, "1", " END")} FROM messages`],
  ["doubling by LATERAL", `SELECT count(*) FROM messages${Array.from({ length: 60 }, (_, i) => `, LATERAL (SELECT 1 UNION ALL SELECT 2) l${i}`).join("")}`],
  ["grouping sets of all", "SELECT count(*) FROM messages GROUP BY CUBE (msg_id, content, conversation_id, from, timestamp, metadata, content_ref, conversation_type, msg_id + 1, msg_id + 2, msg_id + 3, msg_id + 4, msg_id + 5, msg_id + 6, msg_id + 7, msg_id + 8, msg_id + 9, msg_id + 10, msg_id + 11, msg_id + 12)"],
  ["columns without number", `SELECT ${Array.from({ length: 30000 }, (_, i) => `content AS c${i}`).join(", ")} FROM messages`],
  ["a list of many", `SELECT 1 FROM messages WHERE msg_id IN (${"1,".repeat(200000)}1)`],
  ["JSON of depth", `SELECT ('${nest("[", 100000, "", "]")}'::jsonb)->0`],
  ["a number of many digits", "SELECT 10::numeric ^ 100000"],
  ["factorials", "SELECT factorial(100000)"],
  ["an interval that overflows", "SELECT now() + i * interval '100000000 years' FROM generate_series(1, 100) t(i)"],
  ["series by a tiny step", "SELECT count(*) FROM generate_series(timestamp '0001-01-01', timestamp '9999-01-01', interval '1 microsecond') t(i)"],
];

const metric = async (name: string): Promise<number> => {
  const text = (await s.request("GET", "/metrics")).body as string;
  const line = text.split("\n").find((l) => l.startsWith(name));
  assert.ok(line !== undefined, name);
  return Number(line.split(" ").at(-1));
};
const resident = (): number => Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${s.child.pid}/status`, "utf8"))![1]) / 1024;

describe("bombs", () => {
  for (const [name, sql] of bombs) {
    it(name, async () => {
      const start = Date.now();
      const answer = await s.query("bomber", sql);
      const ms = Date.now() - start;
      const text = JSON.stringify(answer.body).slice(0, 300);
      assert.ok([400, 408, harmless.has(name) ? 200 : 408].includes(answer.status), `${answer.status} ${text}`);
      assert.ok(ms < timeout + 6000, `${ms} ms: ${answer.status} ${text}`);
      assert.deepEqual((await s.sql("alice", "SELECT content FROM messages ORDER BY length(content), msg_id")).rows, [["hello"]]);
    });
  }

  it("fall in numbers on their sender alone", async () => {
    const statuses = new Set<number>();
    const flood = Array.from({ length: 24 }, async (_, i) => {
      statuses.add((await s.query("bomber", bombs[i % 3 === 0 ? 15 : i % 3 === 1 ? 0 : 28]![1])).status);
    });
    for (let i = 0; i < 10; i++) {
      assert.deepEqual((await s.sql("alice", "SELECT content FROM messages ORDER BY length(content), msg_id")).rows, [["hello"]]);
    }
    await Promise.all(flood);
    for (const status of statuses) assert.ok([400, 408, 429].includes(status), String(status));
  });

  it("leave the server as it was", async () => {
    assert.equal(await metric("kalamdb_workers_expelled_total"), 0);
    assert.ok((await metric("kalamdb_worker_cage")) > 0);
    assert.ok(resident() < 600, `${resident()} MiB`);
    assert.equal((await s.sql("bomber", "SELECT count(*) FROM messages WHERE content LIKE 'message %'")).rows[0][0], 30);
    assert.equal(s.log.filter((l) => l.level === "error").length, 0, JSON.stringify(s.log.filter((l) => l.level === "error").slice(0, 3)));
  });
});
