// SIGKILL in a loop under concurrent writers, subscribers and consolidation, checked against an outside record of what
// was acknowledged. Used with few rounds by crash.test.ts and with many by soak.ts.
import assert from "node:assert/strict";
import { Server, Socket } from "./harness.ts";

/** mulberry32: small, seeded, good enough to choose delays and victims. */
export function random(seed: number): () => number {
  let a = seed >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** What the outside knows of one user's rows: by client_msg_id, the states that the row may be in. */
interface Known {
  /** Possible contents; undefined: absent. One entry when the outcome is certain. */
  states: (string | undefined)[];
  id?: number;
  conversation: string;
}

class Person {
  readonly rows = new Map<string, Known>();
  readonly mirror = new Map<number, string>();
  feed: string | undefined;
  cursor = 0;
  private n = 0;

  constructor(
    readonly name: string,
    readonly edits: boolean,
    readonly rng: () => number,
  ) {}

  /** One write; the record is made before the request leaves, and narrowed when the answer is in. */
  async write(server: Server): Promise<void> {
    const certain = [...this.rows.entries()].filter(([, k]) => k.id !== undefined && k.states.length === 1 && k.states[0] !== undefined);
    const dice = this.rng();
    if (this.edits && certain.length > 20 && dice < 0.3) {
      const [, known] = certain[Math.floor(this.rng() * certain.length)];
      const next = dice < 0.15 ? undefined : `edit ${this.n++} ${"y".repeat(100)}`;
      known.states.push(next);
      const sql = next === undefined ? "DELETE FROM messages WHERE msg_id = $1" : "UPDATE messages SET content = $2 WHERE msg_id = $1";
      const answer = await server.sql(this.name, sql, next === undefined ? [known.id] : [known.id, next]);
      assert.equal(answer.rowsAffected, 1);
      known.states = [next];
      return;
    }
    const key = `k${this.n++}`;
    const content = `${this.name} ${key} ${"x".repeat(Math.floor(this.rng() * 200))}`;
    const known: Known = { states: [undefined, content], conversation: `c${this.n % 5}` };
    this.rows.set(key, known);
    known.id = await server.say(this.name, known.conversation, content, { client_msg_id: key });
    known.states = [content];
  }

  /** Retries every insert whose answer never came: it must now exist exactly once. */
  async settle(server: Server): Promise<void> {
    for (const [key, known] of this.rows) {
      if (known.id !== undefined) continue;
      const content = known.states[1]!;
      known.id = await server.say(this.name, known.conversation, content, { client_msg_id: key });
    }
    const { rows } = await server.sql(this.name, "SELECT client_msg_id, msg_id, content FROM messages");
    const found = new Map<string, [number, string]>();
    for (const [key, id, content] of rows) {
      assert.ok(!found.has(key), `${this.name}: ${key} twice`);
      found.set(key, [id, content]);
    }
    for (const [key, known] of this.rows) {
      const [id, content] = found.get(key) ?? [undefined, undefined];
      // The uncertain insert has just been settled: it is there.
      const possible = known.states.length === 2 && known.states[0] === undefined ? [known.states[1]] : known.states;
      assert.ok(possible.includes(content), `${this.name}: ${key} is ${content}, expected one of ${JSON.stringify(possible)}`);
      if (content !== undefined) assert.equal(id, known.id, `${this.name}: ${key}`);
      known.states = [content];
      found.delete(key);
    }
    assert.equal(found.size, 0, `${this.name}: rows nobody wrote: ${[...found.keys()]}`);
  }

  take(frame: any): void {
    if (frame.type !== "message") return;
    assert.ok(frame.seq > this.cursor, `${this.name}: ${frame.seq} after ${this.cursor}`);
    if (!this.edits) assert.equal(frame.seq, this.cursor + 1, `${this.name}: a gap`);
    this.cursor = frame.seq;
    const { msg_id, content } = frame.message;
    if (frame.op === "insert") assert.ok(!this.mirror.has(msg_id), `${this.name}: ${msg_id} inserted twice`);
    if (frame.op === "update") assert.ok(this.mirror.has(msg_id), `${this.name}: update of unknown ${msg_id}`);
    if (frame.op === "delete") assert.ok(this.mirror.delete(msg_id), `${this.name}: delete of unknown ${msg_id}`);
    else this.mirror.set(msg_id, content);
  }

  async follow(server: Server): Promise<Socket> {
    const ws = await server.socket(this.name);
    const ack = await ws.subscribe({ lastSeq: this.cursor, feed: this.feed });
    assert.ok(!ack.resync, `${this.name}: resync`);
    this.feed = ack.feed;
    return ws;
  }

  /** Reads until the server has no more (cursor = head), then compares with the table. */
  async compare(server: Server, ws: Socket): Promise<void> {
    const head = (await server.sql(this.name, "SELECT coalesce(max(_seq), 0), count(*) FROM messages")).rows[0];
    const probe = await server.socket(this.name);
    const { seq } = await probe.subscribe({});
    probe.close();
    assert.ok(seq >= head[0]);
    while (this.cursor < seq) this.take(await ws.next(30000));
    const { rows } = await server.sql(this.name, "SELECT msg_id, content FROM messages");
    assert.equal(rows.length, this.mirror.size, `${this.name}: rows and subscriber differ in number`);
    for (const [id, content] of rows) assert.equal(this.mirror.get(id), content, `${this.name}: ${id}`);
    if (!this.edits) assert.equal(head[0], head[1], `${this.name}: _seq has gaps`);
    const sums = (await server.sql(this.name, "SELECT sum(total_messages) FROM conversations")).rows[0][0];
    assert.equal(Number(sums ?? 0), rows.length, `${this.name}: counters`);
  }
}

export async function crashRounds(rounds: number, seed: number, say: (line: string) => void): Promise<void> {
  const rng = random(seed);
  const server = await Server.start({
    KALAMDB_CONSOLIDATE_ROWS: "300",
    KALAMDB_CONSOLIDATE_MIN_ROWS: "50",
    KALAMDB_CONSOLIDATE_INTERVAL_MS: "300",
    KALAMDB_HOT_TAIL_ROWS: "8",
    KALAMDB_MAX_RESULT_ROWS: "10000000",
  });
  const people = ["ann", "ben", "cat", "dan"].map((name, i) => new Person(name, i >= 2, random(seed + i + 1)));
  for (let round = 0; round < rounds; round++) {
    let down = false;
    const sockets: Socket[] = [];
    const following = people.map(async (person) => {
      const ws = await person.follow(server);
      sockets.push(ws);
      try {
        for (;;) person.take(await ws.next(60000));
      } catch (error) {
        if (!down) throw error;
        // What arrived before the kill has been taken: next() hands out all frames before it reports the close.
      }
    });
    const writing = people.flatMap((person) =>
      [0, 1, 2].map(async () => {
        for (;;) {
          try {
            await person.write(server);
          } catch (error) {
            if (!down) throw error;
            return;
          }
        }
      }),
    );
    await new Promise((done) => setTimeout(done, 200 + rng() * 1300));
    down = true;
    await server.kill();
    await Promise.all([...following, ...writing]);
    await server.up();
    for (const person of people) {
      await person.settle(server);
      const ws = await person.follow(server);
      await person.compare(server, ws);
      ws.close();
    }
    say(`round ${round + 1}: ${people.map((p) => `${p.name} ${p.rows.size} rows, seq ${p.cursor}`).join("; ")}`);
  }
  await server.destroy();
}
