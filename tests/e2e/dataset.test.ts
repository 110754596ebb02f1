// Real conversations: answers over hot, cold and mixed rows, and during consolidation, against plain DuckDB on the
// same lines.
import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, describe, it } from "node:test";
import { lines, seed } from "../../tools/seed.ts";
import { Server, repo } from "./harness.ts";

const folder = process.env.KALAMDB_DATASETS ?? join(repo, "../shared/data");
const dialogues = join(folder, "topical-dialogues.jsonl.gz");
const irc = join(folder, "irc-groups.jsonl.gz");
const skip = existsSync(dialogues) && existsSync(irc) ? false : `no data sets in ${folder}`;

class Duck {
  private readonly child: ChildProcess;
  private readonly answers: AsyncIterator<string>;

  constructor() {
    this.child = spawn(process.env.KALAMDB_DUCK ?? join(repo, "build/tests/e2e/duck"), { stdio: ["pipe", "pipe", "inherit"] });
    this.answers = createInterface({ input: this.child.stdout! })[Symbol.asyncIterator]();
  }

  async ask(sql: string): Promise<(string | null)[][]> {
    this.child.stdin!.write(`${sql.replaceAll("\n", " ")}\n`);
    const answer = JSON.parse((await this.answers.next()).value);
    if (answer.error !== undefined) throw new Error(`${sql}: ${answer.error}`);
    return answer;
  }

  close(): void {
    this.child.stdin!.end();
  }
}

// Statements that mean the same in both; {m} is the table.
const statements = [
  "SELECT count(*), count(DISTINCT conversation_id), min(length(content)), max(length(content)), sum(length(content)) FROM {m}",
  "SELECT conversation_id, count(*) AS n, min(msg_id) = max(msg_id) AS single, max(length(content)) FROM {m} GROUP BY conversation_id ORDER BY conversation_id",
  `SELECT "from", count(*) FROM {m} GROUP BY "from" ORDER BY "from"`,
  "SELECT content FROM {m} WHERE content ILIKE '%the%' ORDER BY msg_id LIMIT 40",
  "SELECT count(*) FROM {m} WHERE content LIKE '%you%' AND length(content) > 40",
  "SELECT extract(year FROM timestamp) * 100 + extract(month FROM timestamp) AS ym, count(*) FROM {m} GROUP BY 1 ORDER BY 1",
  "SELECT content FROM {m} ORDER BY msg_id DESC LIMIT 50",
  "SELECT content FROM {m} ORDER BY msg_id LIMIT 20 OFFSET 30",
  "SELECT content FROM {m} WHERE conversation_id = (SELECT min(conversation_id) FROM {m}) ORDER BY msg_id DESC LIMIT 50",
  "SELECT conversation_id, content FROM (SELECT conversation_id, content, row_number() OVER (PARTITION BY conversation_id ORDER BY msg_id DESC) AS n FROM {m}) AS w WHERE n = 1 ORDER BY conversation_id",
  "SELECT content, length(content) - lag(length(content)) OVER (ORDER BY msg_id) FROM {m} ORDER BY msg_id LIMIT 60",
  "SELECT count(*) FROM {m} a JOIN {m} b ON a.conversation_id = b.conversation_id AND a.msg_id < b.msg_id WHERE a.content = b.content",
  "SELECT upper(substring(content FROM 1 FOR 5)) AS head, count(*) FROM {m} GROUP BY 1 HAVING count(*) > 1 ORDER BY 2 DESC, 1 LIMIT 20",
  "SELECT count(*) FROM {m} WHERE timestamp >= '2010-01-01T00:00:00Z' AND timestamp < '2019-06-01T00:00:00Z'",
];

const plain = (v: any) => (v === null ? null : typeof v === "boolean" ? String(v) : Number.isFinite(Number(v)) && v !== "" ? String(Number(v)) : String(v));

describe("real conversations", { skip }, () => {
  let s: Server;
  let duck: Duck;
  let people: string[];

  before(async () => {
    s = await Server.start({ KALAMDB_CONSOLIDATE_INTERVAL_MS: "0", KALAMDB_MAX_RESULT_ROWS: "100000" });
    duck = new Duck();
    const columns = `columns = {user: 'VARCHAR', conversation_id: 'VARCHAR', "from": 'VARCHAR', "timestamp": 'VARCHAR', content: 'VARCHAR'}`;
    await duck.ask(
      `CREATE TABLE lines AS SELECT coalesce(user, "from") AS owner, conversation_id, "from", "timestamp"::timestamptz AS "timestamp", content, row_number() OVER () AS msg_id FROM read_json(['${dialogues}', '${irc}'], format = 'newline_delimited', ${columns})`,
    );
    const owners = await duck.ask("SELECT owner, count(*) FROM lines GROUP BY 1 ORDER BY 2 DESC, 1");
    // The busiest, and some of every size.
    people = owners.filter((_, i) => i < 4 || i % 2500 === 17).map((row) => row[0]!);
  });

  after(() => duck.close());

  async function compare(state: string): Promise<void> {
    for (const person of people) {
      const name = person.replaceAll('"', '""');
      await duck.ask(`CREATE OR REPLACE TEMP VIEW mine AS SELECT * FROM lines WHERE owner = '${person.replaceAll("'", "''")}'`);
      for (const sql of statements) {
        const want = await duck.ask(sql.replaceAll("{m}", "mine"));
        const got = (await s.sql("backend", sql.replaceAll("{m}", `"${name}".messages`), undefined, "service")).rows;
        assert.deepEqual(got.map((r: any[]) => r.map(plain)), want.map((r) => r.map(plain)), `${state}: ${person}: ${sql}`);
      }
    }
  }

  it("load through HTTP", async () => {
    const done = await seed(s.url, s.token("backend", "service"), [dialogues, irc], () => {});
    const [[total]] = await duck.ask("SELECT count(*) FROM lines");
    assert.equal(done, Number(total));
    let first;
    for await (const line of lines(dialogues)) {
      first = line;
      break;
    }
    const row = (await s.sql("backend", `SELECT content, metadata FROM "${first!.user}".messages WHERE conversation_id = $1 ORDER BY msg_id LIMIT 1`, [first!.conversation_id], "service")).rows[0];
    assert.deepEqual(row, [first!.content, first!.metadata]);
  });

  it("answer the same hot", () => compare("hot"));

  it("answer the same during consolidation", async () => {
    const consolidating = (async () => {
      for (const person of people) await s.consolidate(person);
    })();
    await Promise.all([compare("during"), consolidating]);
  });

  it("answer the same cold", () => compare("cold"));

  it("answer the same mixed", async () => {
    for (const person of people) {
      const name = person.replaceAll('"', '""');
      const service = (sql: string, params?: any[]) => s.sql("backend", sql, params, "service");
      // Overlay every seventh row with its own content: a changed row that must give the same answers.
      const changed = await service(`UPDATE "${name}".messages SET metadata = '{"touched": true}' WHERE msg_id % 7 = 0`);
      assert.ok(changed.rowsAffected >= 0);
      await service(`INSERT INTO "${name}".messages (conversation_id, from, content) VALUES ('extra', 'x', 'to be deleted')`);
      await service(`DELETE FROM "${name}".messages WHERE conversation_id = 'extra'`);
    }
    await compare("mixed");
  });
});
