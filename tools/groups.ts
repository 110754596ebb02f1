// Replays a group chat's log (one JSON object a line: conversation_id, from, timestamp, content) as group conversations:
// whoever speaks first makes the group, everybody else joins with their first line. Keeps the expectation beside it, so
// that every person's tables can be compared with what they should hold.
import { lines, type Line } from "./seed.ts";

export interface Message {
  id: number;
  from: string;
  content: string;
  timestamp: string;
}

export interface Day {
  id: string;
  owner: string;
  shared: boolean;
  messages: Message[];
  /** Person → how many messages there were when they joined. */
  joined: Map<string, number>;
}

export interface Replayed {
  days: Day[];
  messages: number;
  copies: number;
  seconds: number;
}

const BATCH = 100;
const quoted = (name: string) => `"${name.replaceAll('"', '""')}"`;
// Senders that are no users (contract section 1).
const reserved = /^(shared|deleted_user|(ai|assistant|system|tool|bot)(:.*)?)$/;
export const person = (from: string) => (reserved.test(from) ? `${from}_` : from);

async function sql(url: string, token: string, text: string, params: unknown[]): Promise<any> {
  const response = await fetch(`${url}/api/v1/query`, {
    method: "POST",
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json", "x-durability": "async" },
    body: JSON.stringify({ sql: text, params }),
  });
  const body: any = await response.json();
  if (response.status !== 200) throw new Error(`${text.slice(0, 120)}: ${response.status} ${JSON.stringify(body)}`);
  return body;
}

/** The lines of each conversation, in order of the file; `every`: takes each n-th conversation only. */
export async function conversations(file: string, every = 1): Promise<Map<string, Line[]>> {
  const all = new Map<string, Line[]>();
  for await (const line of lines(file)) {
    const rows = all.get(line.conversation_id);
    if (rows === undefined) all.set(line.conversation_id, [line]);
    else rows.push(line);
  }
  return new Map([...all].filter((_, i) => i % every === 0));
}

async function replayDay(url: string, token: string, id: string, rows: Line[], shared: boolean): Promise<Day> {
  const owner = person(rows[0].from);
  const day: Day = { id, owner, shared, messages: [], joined: new Map([[owner, 0]]) };
  await sql(url, token, `INSERT INTO ${quoted(owner)}.conversations (conversation_id, conversation_type, metadata) VALUES ($1, 'group', $2)`, [
    id,
    shared ? { history: "shared" } : null,
  ]);
  let batch: Line[] = [];
  const flush = async () => {
    if (batch.length === 0) return;
    const params: unknown[] = [id];
    const tuples = batch.map((r) => `($1, ${[person(r.from), r.timestamp, r.content].map((v) => `$${params.push(v)}`).join(", ")})`);
    const answer = await sql(url, token, `INSERT INTO ${quoted(owner)}.messages (conversation_id, "from", "timestamp", content) VALUES ${tuples.join(", ")}`, params);
    batch.forEach((r, i) => day.messages.push({ id: answer.insertedIds[i], from: person(r.from), content: r.content, timestamp: r.timestamp }));
    batch = [];
  };
  for (const row of rows) {
    const from = person(row.from);
    if (!day.joined.has(from)) {
      await flush();
      await sql(url, token, `INSERT INTO ${quoted(owner)}.conversation_users (conversation_id, user_id) VALUES ($1, $2)`, [id, from]);
      day.joined.set(from, day.messages.length);
    }
    batch.push(row);
    if (batch.length === BATCH) await flush();
  }
  await flush();
  return day;
}

/** `sharedEvery`: each n-th conversation says `history: shared`; 0: none. */
export async function replay(
  url: string,
  token: string,
  all: Map<string, Line[]>,
  options: { sharedEvery?: number; parallel?: number; progress?: (done: number, total: number) => void } = {},
): Promise<Replayed> {
  const start = Date.now();
  const queue = [...all].map(([id, rows], i) => ({ id, rows, shared: (options.sharedEvery ?? 0) > 0 && i % options.sharedEvery! === 0 }));
  const total = queue.length;
  const days: Day[] = [];
  const worker = async () => {
    for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
      days.push(await replayDay(url, token, next.id, next.rows, next.shared));
      options.progress?.(days.length, total);
    }
  };
  await Promise.all(Array.from({ length: options.parallel ?? 8 }, worker));
  let messages = 0;
  let copies = 0;
  for (const day of days) {
    messages += day.messages.length;
    for (const from of day.joined.values()) copies += day.messages.length - (day.shared ? 0 : from);
  }
  return { days, messages, copies, seconds: (Date.now() - start) / 1000 };
}

/** What one person's table should hold, by conversation: from their joining on, or all where history is shared. */
export function expected(days: Day[], who: string): Map<string, Message[]> {
  const mine = new Map<string, Message[]>();
  for (const day of days) {
    const from = day.joined.get(who);
    if (from !== undefined) mine.set(day.id, day.messages.slice(day.shared ? 0 : from));
  }
  return mine;
}

/** Compares one person's tables with the expectation; the first difference as text, or undefined. */
export async function difference(url: string, token: string, days: Day[], who: string): Promise<string | undefined> {
  const want = expected(days, who);
  const conversations = await sql(url, token, `SELECT conversation_id, conversation_type, total_messages, first_msg_id, last_msg_id FROM ${quoted(who)}.conversations ORDER BY conversation_id`, []);
  const names = conversations.rows.map((r: any[]) => r[0]);
  if (JSON.stringify(names) !== JSON.stringify([...want.keys()].sort())) return `${who}: conversations ${JSON.stringify(names)}, not ${JSON.stringify([...want.keys()].sort())}`;
  for (const [id, type, total, first, last] of conversations.rows) {
    const rows = want.get(id)!;
    const row = [type, total, first, last];
    const right = ["group", rows.length, rows[0]?.id ?? null, rows.at(-1)?.id ?? null];
    if (JSON.stringify(row) !== JSON.stringify(right)) return `${who}: ${id} is ${JSON.stringify(row)}, not ${JSON.stringify(right)}`;
    const got = await sql(url, token, `SELECT msg_id, "from", content, epoch_us("timestamp") FROM ${quoted(who)}.messages WHERE conversation_id = $1 ORDER BY msg_id`, [id]);
    if (got.truncated === true) return `${who}: ${id}: truncated`;
    if (got.rows.length !== rows.length) return `${who}: ${id} has ${got.rows.length} messages, not ${rows.length}`;
    for (let i = 0; i < rows.length; i++) {
      const right = [rows[i].id, rows[i].from, rows[i].content, Date.parse(rows[i].timestamp) * 1000];
      if (JSON.stringify(got.rows[i]) !== JSON.stringify(right)) return `${who}: ${id}: message ${i} is ${JSON.stringify(got.rows[i])}, not ${JSON.stringify(right)}`;
    }
  }
  return undefined;
}

/** Waits until no shared history is being copied any more. */
export async function historyComplete(url: string, token: string, days: Day[]): Promise<void> {
  for (const day of days.filter((d) => d.shared)) {
    for (;;) {
      const { rows } = await sql(url, token, `SELECT count(*) FROM ${quoted(day.owner)}.conversation_users WHERE conversation_id = $1 AND metadata->'history'->>'state' = 'copying'`, [day.id]);
      if (rows[0][0] === 0) break;
      await new Promise((done) => setTimeout(done, 200));
    }
  }
}
