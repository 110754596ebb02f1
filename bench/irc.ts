// Replays the whole #ubuntu log as groups against a server of its own, compares a thousand random people's tables with
// the expectation, consolidates everybody, compares again, and measures the disk against PostgreSQL 15 with one shared
// table and against a copy of all content per member:
//   node --import tsx bench/irc.ts [--every N] [--shared N] [--people N]
// KALAMDB_BIN names the server (default build-bench). Prints one line a figure.
import { execFileSync } from "node:child_process";
import { chownSync, existsSync, mkdtempSync, readdirSync, rmSync, statSync } from "node:fs";
import { request as httpRequest } from "node:http";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { conversations, difference, historyComplete, person, replay } from "../tools/groups.ts";

const repo = resolve(new URL(".", import.meta.url).pathname, "..");
process.env.KALAMDB_BIN ??= join(repo, "build-bench/src/cli/kalamdb");
const { Server } = await import("../tests/e2e/harness.ts");
const { random } = await import("../tests/e2e/crash.ts");

const option = (name: string, fallback: number) => {
  const at = process.argv.indexOf(name);
  return at < 0 ? fallback : Number(process.argv[at + 1]);
};
const every = option("--every", 1);
const file = join(process.env.KALAMDB_DATASETS ?? join(repo, "../shared/data"), "irc-groups.jsonl.gz");

function bytesBelow(folder: string): number {
  let sum = 0;
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    sum += entry.isDirectory() ? bytesBelow(path) : statSync(path).size;
  }
  return sum;
}

/** The same log as people would keep it in PostgreSQL: one table, members beside it, the indexes a chat needs. */
function postgres(all: Awaited<ReturnType<typeof conversations>>): number | undefined {
  const bin = "/usr/lib/postgresql/15/bin";
  if (!existsSync(join(bin, "postgres"))) return undefined;
  const folder = mkdtempSync(join(tmpdir(), "kalamdb-pg-"));
  const user = process.getuid!() === 0 ? { uid: 65534, gid: 65534 } : {};
  const run = (program: string, args: string[], input?: string) =>
    execFileSync(join(bin, program), args, { cwd: folder, encoding: "utf8", input, stdio: ["pipe", "pipe", "inherit"], maxBuffer: 1 << 30, ...user });
  try {
    if (process.getuid!() === 0) chownSync(folder, 65534, 65534);
    run("initdb", ["-D", "data", "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--locale=C"]);
    run("pg_ctl", ["-D", "data", "-w", "-l", "log", "-o", `-k ${folder} -c listen_addresses=`, "start"]);
    const psql = (sql: string) => run("psql", ["-X", "-q", "-A", "-t", "-h", folder, "-U", "postgres", "-v", "ON_ERROR_STOP=1"], sql);
    const quote = (s: string) => s.replaceAll("\\", "\\\\").replaceAll("\t", "\\t").replaceAll("\n", "\\n").replaceAll("\r", "\\r");
    let id = 0;
    let rows = "";
    let members = "";
    for (const [conversation, lines] of all) {
      const people = new Set<string>();
      for (const line of lines) {
        const from = person(line.from);
        if (!people.has(from)) members += `${quote(conversation)}\t${quote(from)}\t${id}\n`;
        people.add(from);
        rows += `${++id}\t${quote(conversation)}\t${quote(from)}\t${line.timestamp}\t${quote(line.content)}\n`;
      }
    }
    psql(`CREATE TABLE messages (msg_id bigint PRIMARY KEY, conversation_id text NOT NULL, "from" text NOT NULL, "timestamp" timestamptz NOT NULL, content text NOT NULL);
CREATE INDEX ON messages (conversation_id, msg_id);
CREATE TABLE members (conversation_id text, user_id text, joined_msg_id bigint, PRIMARY KEY (user_id, conversation_id));
COPY messages FROM stdin;
${rows}\\.
COPY members FROM stdin;
${members}\\.
VACUUM FULL; ANALYZE;`);
    return Number(psql("SELECT pg_total_relation_size('messages') + pg_total_relation_size('members')"));
  } finally {
    try {
      run("pg_ctl", ["-D", "data", "-m", "immediate", "stop"]);
    } catch {}
    rmSync(folder, { recursive: true, force: true });
  }
}

/** By node:http: fetch gives up on an answer after five minutes. */
function consolidateAll(port: number, token: string): Promise<void> {
  return new Promise((done, failed) => {
    const request = httpRequest({ port, method: "POST", path: "/api/v1/admin/consolidate", headers: { authorization: `Bearer ${token}` } }, (answer) => {
      answer.resume();
      answer.on("end", () => (answer.statusCode === 200 ? done() : failed(new Error(`consolidate: ${answer.statusCode}`))));
    });
    request.on("error", failed);
    request.end("{}");
  });
}

const all = await conversations(file, every);
const s = await Server.start({ KALAMDB_CONSOLIDATE_INTERVAL_MS: "2000000000", KALAMDB_MAX_RESULT_ROWS: "1000000", KALAMDB_CONSOLIDATE_ROWS: "100000000" });
try {
  const token = s.token("backend", "service");
  const replayed = await replay(s.url, token, all, { sharedEvery: option("--shared", 12), parallel: 4, progress: (n, total) => n % 10 === 0 && console.error(`${n}/${total} days`) });
  console.log(`${replayed.messages} messages in ${replayed.days.length} groups, ${replayed.copies} copies in ${replayed.seconds.toFixed(0)} s`);
  await historyComplete(s.url, token, replayed.days);
  const everybody = [...new Set(replayed.days.flatMap((d) => [...d.joined.keys()]))];
  const compare = async (state: string, n: number) => {
    const rng = random(2026);
    const rest = [...everybody];
    let different = 0;
    for (let i = 0; i < n && rest.length > 0; i++) {
      const [who] = rest.splice(Math.floor(rng() * rest.length), 1);
      const found = await difference(s.url, token, replayed.days, who);
      if (found !== undefined) console.log(`${state}: ${found}`);
      different += found === undefined ? 0 : 1;
    }
    console.log(`${state}: ${Math.min(n, everybody.length)} of ${everybody.length} people compared, ${different} differ`);
    if (different > 0) process.exitCode = 1;
  };
  await compare("hot", option("--people", 1000));
  const start = Date.now();
  await consolidateAll(s.port, s.token("operator", "admin"));
  console.log(`everybody consolidated in ${((Date.now() - start) / 1000).toFixed(0)} s`);
  await compare("cold", option("--people", 1000));
  const content = replayed.days.reduce((sum, d) => sum + d.messages.reduce((n, m) => n + Buffer.byteLength(m.content), 0), 0);
  let naive = 0;
  for (const day of replayed.days) {
    const joins = [...day.joined.values()].map((from) => (day.shared ? 0 : from)).sort((a, b) => a - b);
    let present = 0;
    day.messages.forEach((m, i) => {
      while (present < joins.length && joins[present] <= i) present++;
      naive += present * Buffer.byteLength(m.content);
    });
  }
  await s.stop();
  const disk = bytesBelow(s.data);
  const pg = postgres(all);
  console.log(`disk: ${(disk / 1e6).toFixed(1)} MB = ${(disk / replayed.messages).toFixed(0)} B a message = ${(disk / replayed.copies).toFixed(1)} B a copy`);
  console.log(`content alone: ${(content / 1e6).toFixed(1)} MB; a copy of it for every member: ${(naive / 1e6).toFixed(1)} MB = ${(naive / replayed.messages).toFixed(0)} B a message`);
  console.log(pg === undefined ? "PostgreSQL 15 is not installed" : `PostgreSQL 15, one shared table: ${(pg / 1e6).toFixed(1)} MB = ${(pg / replayed.messages).toFixed(0)} B a message`);
} finally {
  await s.destroy();
}
