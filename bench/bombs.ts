// What other users feel of one who sends memory and time bombs without a pause: percentiles of a read of the newest
// messages, of a durable insert, and of an aggregate in DuckDB, with the bomber and without, in turns.
//   node --import tsx bench/bombs.ts [--seconds N] [--bombers N]
// KALAMDB_BIN names the server (default build-bench). Prints one JSON object a line.
import { join, resolve } from "node:path";

const repo = resolve(new URL(".", import.meta.url).pathname, "..");
process.env.KALAMDB_BIN ??= join(repo, "build-bench/src/cli/kalamdb");
const { Server } = await import("../tests/e2e/harness.ts");

const option = (name: string, fallback: number) => {
  const at = process.argv.indexOf(name);
  return at < 0 ? fallback : Number(process.argv[at + 1]);
};
const seconds = option("--seconds", 5);
const bombers = option("--bombers", 8);
const bombs = [
  "SELECT repeat('x', 300000000)",
  "SELECT count(*) FROM generate_series(1, 10000000) a, generate_series(1, 10000000) b",
  "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT max(n) FROM t",
  "SELECT string_agg(repeat('x', 100000), ',') FROM generate_series(1, 100000) t(i)",
  "SELECT lpad('x', 1000000000, 'y')",
  "SELECT length(regexp_replace(repeat('a', 10000000), 'a', repeat('b', 1000), 'g'))",
];
const kinds: Record<string, (user: string, i: number) => [string, unknown[]?]> = {
  "newest 20": () => ["SELECT msg_id, content FROM messages WHERE conversation_id = 'c' ORDER BY msg_id DESC LIMIT 20"],
  "durable insert": (_, i) => ["INSERT INTO messages (conversation_id, content) VALUES ('c', $1)", [`message ${i}`]],
  "aggregate in DuckDB": () => ["SELECT date_trunc('hour', timestamp), count(*), avg(length(content)) FROM messages GROUP BY 1"],
};

const server = await Server.start({ KALAMDB_QUERY_TIMEOUT_MS: "2000" });
const users = ["alice", "bob", "carol"];
for (const user of users) for (let i = 0; i < 100; i++) await server.say(user, "c", `message ${i} ${"a".repeat(200)}`);
await server.sql("bomber", "SELECT 1");

const at = (sorted: number[], p: number) => Math.round((sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * p))] ?? 0) * 100) / 100;
let statuses: Record<number, number> = {};

async function round(bombed: boolean): Promise<Record<string, number[]>> {
  const taken: Record<string, number[]> = {};
  const until = performance.now() + seconds * 1000;
  const bombing = Array.from({ length: bombed ? bombers : 0 }, async (_, i) => {
    for (let n = i; performance.now() < until; n++) {
      const { status } = await server.query("bomber", bombs[n % bombs.length]!);
      statuses[status] = (statuses[status] ?? 0) + 1;
    }
  });
  if (bombed) await new Promise((done) => setTimeout(done, 300));
  for (let i = 0; performance.now() < until; i++) {
    for (const [kind, statement] of Object.entries(kinds)) {
      const user = users[i % users.length]!;
      const [sql, params] = statement(user, i);
      const start = performance.now();
      await server.sql(user, sql, params);
      (taken[kind] ??= []).push(performance.now() - start);
    }
    await new Promise((done) => setTimeout(done, 5));
  }
  await Promise.all(bombing);
  return taken;
}

await round(false);
const sum: Record<string, Record<string, number[]>> = { alone: {}, bombed: {} };
for (let i = 0; i < 3; i++)
  for (const what of ["alone", "bombed"])
    for (const [kind, ms] of Object.entries(await round(what === "bombed"))) (sum[what]![kind] ??= []).push(...ms);
for (const kind of Object.keys(kinds))
  for (const what of ["alone", "bombed"]) {
    const ms = sum[what]![kind]!.sort((a, b) => a - b);
    console.log(JSON.stringify({ kind, what, n: ms.length, p50_ms: at(ms, 0.5), p90_ms: at(ms, 0.9), p99_ms: at(ms, 0.99) }));
  }
console.log(JSON.stringify({ bombers, statuses }));
await server.destroy();
process.exit(0);
