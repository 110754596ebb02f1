// What groups should be, as a small model: users, their conversations, copies and counters, and what each statement
// does to them. group-model.test.ts plays random statements against it and a server.
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import type { Answer, Server } from "./harness.ts";

export type Role = "owner" | "admin" | "member";
const ranks: Record<Role, number> = { member: 0, admin: 1, owner: 2 };

export interface Row {
  id: number;
  conv: string;
  from: string;
  content: string;
  metadata: any;
  /** Undefined: several rows changed in one statement, in an order that is the server's own. */
  seq: number | undefined;
  ins: number | undefined;
}

interface Conv {
  group: number; // 0: ai
  present: boolean;
  title: string | null;
  metadata: any;
  marker: number | null;
}

interface User {
  seq: number;
  rows: Map<number, Row>;
  convs: Map<string, Conv>;
  /** Ids whose rows this user had and lost. */
  deleted: Set<number>;
}

interface Member {
  role: Role;
  joined: number;
  marker: number | null;
}

interface Group {
  no: number;
  id: string;
  title: string | null;
  metadata: any;
  members: Map<string, Member>;
  markers: Map<string, number | null>; // of those who left
  last: number;
}

export interface State {
  users: Map<string, User>;
  groups: Map<string, Group>;
  keys: Map<string, number>;
  made: number;
  clock: number;
}

export const LARGE = 2048;
export const preview = (content: string): string => (Buffer.byteLength(content) < LARGE ? content : content.slice(0, 1024));
const isLarge = (content: string): boolean => Buffer.byteLength(content) >= LARGE;

export const empty = (): State => ({ users: new Map(), groups: new Map(), keys: new Map(), made: 0, clock: 0 });

/** One statement: how it is sent, what is to be answered, and what it does. `ids` are those of new messages. */
export interface Step {
  label: string;
  run: () => Promise<Answer>;
  status: number;
  apply: (s: State, ids: number[]) => void;
  affected?: number;
  /** Contents of the messages that it makes, and whose table has them. */
  makes?: string[];
  actor: string;
  /** Who gets a history in the background. */
  copies?: { user: string; group: string };
}

export function userOf(s: State, name: string): User {
  let user = s.users.get(name);
  if (user === undefined) s.users.set(name, (user = { seq: 0, rows: new Map(), convs: new Map(), deleted: new Set() }));
  return user;
}

export const rowsOf = (s: State, name: string, conv: string): Row[] =>
  [...userOf(s, name).rows.values()].filter((row) => row.conv === conv).sort((a, b) => a.id - b.id);

/** The group that this user is a present member of under this id. */
export function groupOf(s: State, name: string, id: string): Group | undefined {
  const conv = s.users.get(name)?.convs.get(id);
  return conv !== undefined && conv.group !== 0 && conv.present ? s.groups.get(id) : undefined;
}

// ---- what statements do --------------------------------------------------------------------------------------------

function give(s: State, name: string, row: Omit<Row, "seq" | "ins">): void {
  const user = userOf(s, name);
  user.seq++;
  user.rows.set(row.id, { ...row, seq: user.seq, ins: user.seq });
}

export function makeGroup(s: State, owner: string, id: string, title: string | null = null, metadata: any = null): void {
  const group: Group = { no: ++s.made, id, title, metadata, members: new Map(), markers: new Map(), last: 0 };
  s.groups.set(id, group);
  enter(s, group, owner, "owner", ++s.clock);
}

export function enter(s: State, group: Group, name: string, role: Role, joined: number): void {
  const user = userOf(s, name);
  const before = user.convs.get(group.id);
  let marker = group.markers.get(name) ?? null;
  if (group.metadata?.history === "shared" && group.last !== 0) marker = Math.max(marker ?? 0, group.last);
  group.markers.delete(name);
  group.members.set(name, { role, joined, marker });
  user.convs.set(group.id, { ...(before ?? {}), group: group.no, present: true, title: group.title, metadata: group.metadata, marker });
}

export function leave(s: State, name: string, group: Group): void {
  const member = group.members.get(name)!;
  group.members.delete(name);
  group.markers.set(name, member.marker);
  userOf(s, name).convs.get(group.id)!.present = false;
}

export function settle(s: State, group: Group): void {
  if (group.members.size === 0) {
    s.groups.delete(group.id);
    return;
  }
  const list = [...group.members.entries()];
  if (list.some(([, m]) => m.role === "owner")) return;
  list.sort(([a, x], [b, y]) => ranks[y.role] - ranks[x.role] || x.joined - y.joined || (a < b ? -1 : 1));
  list[0][1].role = "owner";
}

export function append(s: State, name: string, id: string, from: string, content: string, msg: number, asGroup: boolean): void {
  const user = userOf(s, name);
  if (!user.convs.has(id)) {
    if (asGroup) makeGroup(s, name, id);
    else user.convs.set(id, { group: 0, present: true, title: null, metadata: null, marker: null });
  }
  const group = groupOf(s, name, id);
  const row = { id: msg, conv: id, from, content, metadata: null };
  if (group === undefined) return give(s, name, row);
  group.last = Math.max(group.last, msg);
  for (const member of group.members.keys()) give(s, member, row);
}

/** Whether this user may change these rows for all their holders, and who those are. */
export function allowed(s: State, name: string, rows: Row[], service = false): boolean {
  for (const row of rows) {
    const conv = userOf(s, name).convs.get(row.conv)!;
    if (conv.group === 0) continue;
    const group = groupOf(s, name, row.conv);
    if (group === undefined) return false;
    if (!service && row.from !== name && ranks[group.members.get(name)!.role] < ranks.admin) return false;
  }
  return true;
}

export const holders = (s: State, name: string, row: Row): string[] => {
  const group = groupOf(s, name, row.conv);
  return group === undefined ? [name] : [...group.members.keys()].filter((m) => userOf(s, m).rows.get(row.id)?.conv === row.conv);
};

export function edit(s: State, name: string, ids: number[], set: { content?: string; metadata?: any }): void {
  for (const id of ids) {
    const own = userOf(s, name).rows.get(id)!;
    for (const holder of holders(s, name, own)) {
      const user = userOf(s, holder);
      // Everybody's copy becomes as the one that was edited.
      user.rows.set(id, { ...own, ...set, seq: ids.length > 1 ? undefined : user.seq + 1, ins: user.rows.get(id)!.ins });
    }
    for (const holder of holders(s, name, own)) userOf(s, holder).seq++;
  }
}

export function drop(s: State, name: string, ids: number[]): void {
  const user = userOf(s, name);
  for (const id of ids) {
    user.rows.delete(id);
    user.deleted.add(id);
    user.seq++;
  }
}

/** After a copy in the background: the rows of the member who has most of them, as far as they were not there before. */
export async function fillHistory(s: State, server: Server, step: Step): Promise<void> {
  const { user: name, group: id } = step.copies!;
  const group = s.groups.get(id)!;
  if (group.metadata?.history !== "shared" || group.last === 0) return;
  let metadata: any;
  for (const end = Date.now() + 20000; ; await new Promise((done) => setTimeout(done, 5))) {
    [[metadata]] = (await server.sql(name, "SELECT metadata FROM conversation_users WHERE conversation_id = $1 AND user_id = $2", [id, name])).rows;
    if (metadata?.history?.state === "complete") break;
    assert.ok(Date.now() < end, `history of ${name}: ${JSON.stringify(metadata)}`);
  }
  const user = userOf(s, name);
  const lists = [...group.members.keys()].filter((m) => m !== name).map((m) => rowsOf(s, m, id));
  const most = Math.max(...lists.map((list) => list.length));
  const missing = lists
    .filter((list) => list.length === most)
    .map((list) => list.filter((row) => row.id <= group.last && !user.rows.has(row.id) && !user.deleted.has(row.id)));
  const have = new Set((await server.sql(name, "SELECT msg_id FROM messages")).rows.map((row: any[]) => row[0]));
  const source = missing.find((list) => list.every((row) => have.has(row.id)) && list.length === have.size - user.rows.size);
  assert.ok(source !== undefined, `${name} got no member's history of ${id}: ${have.size - user.rows.size} rows, expected ${missing.map((l) => l.length)}`);
  assert.deepEqual(metadata.history, { state: "complete", copied: source.length, total: source.length });
  for (const row of source) give(s, name, { id: row.id, conv: id, from: row.from, content: row.content, metadata: row.metadata });
}

// ---- comparing -----------------------------------------------------------------------------------------------------

/** The user's three tables as the server has them against the model. `full`: read by the analytic engine. */
export async function compare(s: State, server: Server, name: string, full: boolean): Promise<void> {
  const user = userOf(s, name);
  const cte = full ? (t: string) => `WITH t AS (SELECT *, ${t} FROM ` : null;
  const select = (columns: string, hidden: string, table: string, order: string) =>
    cte === null ? `SELECT ${columns} FROM ${table} ORDER BY ${order}` : `${cte(hidden)}${table}) SELECT ${columns} FROM t ORDER BY ${order}`;
  const messages = (
    await server.sql(name, select('msg_id, conversation_id, conversation_type, "from", content, content_ref, metadata, _seq, _ins_seq', "_seq, _ins_seq", "messages", "msg_id"))
  ).rows;
  const expected = [...user.rows.values()].sort((a, b) => a.id - b.id);
  assert.deepEqual(
    messages.map((r: any[], i: number) => [...r.slice(0, 5), r[5] !== null, r[6], expected[i]?.seq === undefined ? undefined : r[7], expected[i]?.ins === undefined ? undefined : r[8]]),
    expected.map((r) => [r.id, r.conv, user.convs.get(r.conv)!.group === 0 ? "ai" : "group", r.from, preview(r.content), isLarge(r.content), r.metadata, r.seq, r.ins]),
    `${name}.messages`,
  );
  const seqs = messages.map((r: any[]) => r[7]);
  assert.equal(new Set(seqs).size, seqs.length, `${name}: a number twice`);
  assert.ok(seqs.every((n: number) => n <= user.seq), `${name}: numbers beyond ${user.seq}`);

  const conversations = (
    await server.sql(name, select("conversation_id, conversation_type, title, metadata, first_msg_id, last_msg_id, total_messages, _unread, _read_msg_id", "_unread, _read_msg_id", "conversations", "conversation_id"))
  ).rows;
  assert.deepEqual(
    conversations,
    [...user.convs.entries()]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([id, c]) => {
        const ids = rowsOf(s, name, id);
        const unread = ids.filter((r) => r.from !== name && r.id > (c.marker ?? 0)).length;
        return [id, c.group === 0 ? "ai" : "group", c.title, c.metadata, ids[0]?.id ?? null, ids.at(-1)?.id ?? null, ids.length, unread, c.marker];
      }),
    `${name}.conversations`,
  );

  const members = (await server.sql(name, select("conversation_id, user_id, role, last_read_msg_id, metadata", "1", "conversation_users", "conversation_id, user_id"))).rows;
  assert.deepEqual(
    members.map((r: any[]) => r.slice(0, 4)),
    [...user.convs.entries()]
      .flatMap(([id, c]): any[][] => {
        if (c.group === 0) return [[id, name, "owner", c.marker]];
        if (!c.present) return [];
        return [...s.groups.get(id)!.members.entries()].map(([m, member]) => [id, m, member.role, member.marker]);
      })
      .sort((a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : a[1] < b[1] ? -1 : 1)),
    `${name}.conversation_users`,
  );
}

const bins = (folder: string): string[] =>
  (readdirSync(folder, { recursive: true }) as string[]).filter((name) => name.endsWith(".bin") && !name.startsWith(".kalamdb"));

/** Each file is referred to by somebody, each reference has its file, and `name` can read theirs. */
export async function compareFiles(s: State, server: Server, names: string[], name: string): Promise<void> {
  const refs = new Map<string, number>();
  for (const one of names)
    for (const [ref, id] of (await server.sql(one, "SELECT content_ref, msg_id FROM messages WHERE content_ref IS NOT NULL")).rows) if (one === name || !refs.has(ref)) refs.set(ref, one === name ? id : 0);
  const expected = [...refs.keys()].sort();
  let files = bins(server.data).sort();
  for (let i = 0; i < 100 && files.join() !== expected.join(); i++) {
    await new Promise((done) => setTimeout(done, 20)); // files go after the commit
    files = bins(server.data).sort();
  }
  assert.deepEqual(files, expected, "files and references");
  for (const [ref, id] of [...refs].filter(([, id]) => id !== 0).slice(0, 3)) {
    const answer = await server.request("GET", `/api/v1/content/${ref}`, { token: server.token(name) });
    assert.equal(answer.status, 200, `${name}: ${ref}`);
    const content = userOf(s, name).rows.get(id)!.content;
    assert.ok(answer.body === content || answer.body.startsWith(preview(content)), `${name}: ${ref} is not what ${id} says`);
  }
}

/** After statements side by side, whose order nobody knows: a model made of what the tables say. compare() then says
 * whether the tables agree with each other and with what every device was told. `before` knows what tables do not show:
 * what was deleted, and the retries' keys. */
export async function adopt(before: State, server: Server, names: string[], mirrors: Mirror[]): Promise<State> {
  const s: State = { ...empty(), keys: before.keys, made: before.made, clock: before.clock };
  const groups = new Map<string, Group>(); // by id and time of making
  const numbers = new Map<string, number>();
  for (const name of names)
    for (const [id, created] of (await server.sql(name, "SELECT conversation_id, created FROM conversations WHERE conversation_type = 'group'")).rows) {
      const old = before.users.get(name)?.convs.get(id);
      if (old !== undefined && old.group !== 0) numbers.set(`${id} ${created}`, old.group);
    }
  for (const name of names) {
    const user = userOf(s, name);
    const old = userOf(before, name);
    const seen = mirrors.find((m) => m.name === name)!.everything;
    const rows = (await server.sql(name, 'SELECT msg_id, conversation_id, "from", content, content_ref, metadata, _seq, _ins_seq FROM messages')).rows;
    for (const [id, conv, from, content, ref, metadata, seq, ins] of rows) {
      const text = ref === null ? content : content.padEnd(LARGE, "x");
      user.rows.set(id, { id, conv, from, content: text, metadata, seq, ins });
    }
    user.seq = Math.max(old.seq, ...mirrors.filter((m) => m.name === name).map((m) => m.seq));
    user.deleted = new Set([...old.deleted, ...old.rows.keys(), ...seen.keys()].filter((id) => !user.rows.has(id)));
    const list = (await server.sql(name, "SELECT conversation_id, user_id, role, joined, last_read_msg_id FROM conversation_users")).rows;
    const convs = (await server.sql(name, "SELECT conversation_id, conversation_type, title, metadata, created, _read_msg_id FROM conversations")).rows;
    for (const [id, type, title, metadata, created, marker] of convs) {
      if (type === "ai") {
        user.convs.set(id, { group: 0, present: true, title, metadata, marker });
        continue;
      }
      const theirs = list.filter((row: any[]) => row[0] === id);
      const key = `${id} ${created}`;
      let group = groups.get(key);
      if (group === undefined) {
        const no = numbers.get(key) ?? ++s.made;
        const was = before.groups.get(id)?.no === no ? before.groups.get(id) : undefined;
        group = { no, id, title: null, metadata: null, members: new Map(), markers: new Map(was?.markers), last: was?.last ?? 0 };
        groups.set(key, group);
      }
      if (theirs.length > 0) {
        s.groups.set(id, group);
        Object.assign(group, { title, metadata });
        group.members = new Map(theirs.map(([, m, role, joined, read]: any[]) => [m, { role, joined: Date.parse(joined), marker: read }]));
      } else group.markers.set(name, marker);
      for (const [msg, conv] of seen) if (conv === id && theirs.length > 0) group.last = Math.max(group.last, msg);
      user.convs.set(id, { group: group.no, present: theirs.length > 0, title, metadata, marker });
    }
  }
  return s;
}

// ---- live mirrors --------------------------------------------------------------------------------------------------

/** What a device knows that was told every change of its user, over any number of connections. */
export class Mirror {
  readonly rows = new Map<number, any>();
  /** Conversations of all messages that ever came. */
  readonly everything = new Map<number, string>();
  feed: string | undefined;
  seq = 0;
  private socket: any;

  constructor(readonly name: string) {}

  async connect(server: Server): Promise<void> {
    this.socket = await server.socket(this.name);
    const resume = this.feed === undefined ? {} : { lastSeq: this.seq, feed: this.feed };
    const ack = await this.socket.subscribe({ id: this.name, ...resume });
    assert.equal(ack.type, "subscribe_ack", JSON.stringify(ack));
    assert.equal(ack.resync, undefined, `${this.name}: resync`);
    const first = this.feed === undefined;
    this.feed = ack.feed;
    if (first) this.seq = ack.seq;
    else for (const frame of await this.socket.takeUntil("replay_complete")) this.take(frame, true);
    this.seq = Math.max(this.seq, ack.seq);
  }

  private take(frame: any, replay: boolean): void {
    if (frame.type !== "message") return;
    if (replay) assert.ok(frame.seq > this.seq, `${this.name}: ${frame.seq} after ${this.seq}`);
    else assert.equal(frame.seq, this.seq + 1, `${this.name}: a change is missing`);
    this.seq = frame.seq;
    const id = frame.message.msg_id;
    this.everything.set(id, frame.message.conversation_id);
    if (!replay) assert.equal(frame.op === "insert", !this.rows.has(id), `${this.name}: ${frame.op} of ${id}`);
    if (frame.op === "delete") this.rows.delete(id);
    else this.rows.set(id, frame.message);
  }

  async compare(s: State): Promise<void> {
    const user = userOf(s, this.name);
    while (this.seq < user.seq) this.take(await this.socket.next(), false);
    const expected = [...user.rows.values()].sort((a, b) => a.id - b.id);
    const rows = [...this.rows.values()].sort((a, b) => a.msg_id - b.msg_id);
    assert.deepEqual(
      rows.map((r) => [r.msg_id, r.conversation_id, r.from, r.content, r.metadata]),
      expected.map((r) => [r.id, r.conv, r.from, preview(r.content), r.metadata]),
      `${this.name}: what its device shows`,
    );
    assert.equal(this.seq, user.seq);
  }

  /** Takes everything up to now: a subscription to nothing says which number that is. */
  async drain(): Promise<void> {
    this.socket.send({ type: "subscribe", id: "now", conversationId: "nowhere" });
    let now: number | undefined;
    while (now === undefined || this.seq < now) {
      const frame = await this.socket.next();
      if (frame.type === "subscribe_ack") {
        now = frame.seq;
        this.socket.send({ type: "unsubscribe", id: "now" });
      } else this.take(frame, false);
    }
  }

  close(): void {
    this.socket?.close();
  }
}
