// A client of KalamDB for browsers and for Node, in one file without dependencies: copy it.
//
//   Client     SQL over HTTP; one WebSocket that reconnects, with subscriptions that go on where they stopped
//   Cursor     where a subscription stands, and what to ask for after an interruption
//   Timeline   the rows of one conversation: by msg_id, newest change wins, streamed text joined by offset
//   Outbox     messages on their way: in order, each once (client_msg_id), retried until the answer is certain
//
// The last three do no I/O. Everything that came from the server is data; nothing here touches HTML.

export interface Message {
  msg_id: number;
  conversation_id: string;
  conversation_type: "ai" | "group";
  from: string;
  timestamp: string;
  content: string;
  content_ref: string | null;
  metadata: Record<string, any> | null;
  client_msg_id: string | null;
  /** The number of the row's last change in the reader's own history. */
  _seq: number;
}

export interface Result {
  columns: string[];
  rows: any[][];
  rowsAffected?: number;
  insertedId?: number;
}

export const messageColumns = 'msg_id, conversation_id, conversation_type, "from", timestamp, content, content_ref, metadata, client_msg_id, _seq';

/** The rows of an answer by column name. */
export function objects<T = any>(result: Result): T[] {
  return result.rows.map((row) => Object.fromEntries(result.columns.map((name, i) => [name, row[i]])) as T);
}

/** An error of the server (`code` as the API names it), or `NETWORK` when no answer came. */
export class KalamError extends Error {
  constructor(
    readonly code: string,
    message: string,
    readonly status = 0,
  ) {
    super(message);
    this.name = "KalamError";
  }

  /** The same request, with the same client_msg_id, may succeed later. */
  get retryable(): boolean {
    return this.status === 0 || this.status === 401 || this.status === 408 || this.status === 429 || this.status >= 500;
  }
}

/** Milliseconds before attempt n (from 0): doubling from half a second up to 15 s, spread over its upper half. */
export function backoff(attempt: number, random: () => number = Math.random): number {
  const full = Math.min(15000, 500 * 2 ** Math.min(attempt, 10));
  return full / 2 + (full / 2) * random();
}

// ---------------------------------------------------------------------------------------------------------- cursor

/** Where a subscription stands in a user's history of changes. */
export class Cursor {
  feed: string | undefined;
  seq = 0;

  /** What to add to `subscribe`: nothing the first time (only what comes from now on), then where it stopped. */
  resume(): { feed?: string; lastSeq?: number } {
    return this.feed === undefined ? {} : { feed: this.feed, lastSeq: this.seq };
  }

  /** Takes a `subscribe_ack`. "resync": the history is another one, what is held must be dropped and read anew. */
  ack(frame: { feed: string; seq: number; resync?: boolean }): "first" | "resumed" | "resync" {
    const first = this.feed === undefined;
    const resync = frame.resync === true || (!first && this.feed !== frame.feed);
    this.feed = frame.feed;
    if (resync) this.seq = 0;
    else if (first) this.seq = frame.seq;
    return resync ? "resync" : first ? "first" : "resumed";
  }

  /** True when the change with this number is new; remembers it. */
  take(seq: number): boolean {
    if (seq <= this.seq) return false;
    this.seq = seq;
    return true;
  }
}

// -------------------------------------------------------------------------------------------------------- timeline

const encoder = new TextEncoder();
/** Appended text that waits for its row or for a gap before it to close, per message. */
const waitingMax = 4096;

/** Rows of one conversation, whatever order pages, changes and appended text arrive in. Rows are replaced, never changed. */
export class Timeline {
  /** By msg_id, ascending. */
  rows: Message[] = [];
  /** Everything from this msg_id on is held; undefined before the first page. */
  floor: number | undefined;
  /** Nothing older exists. */
  complete = false;
  /** Open streams whose text has a hole here: read these rows again and give them to merge(). */
  readonly gaps = new Set<number>();
  private readonly index = new Map<number, Message>();
  private readonly bytes = new Map<number, number>();
  private readonly deleted = new Map<number, number>();
  private readonly early = new Map<number, Message>();
  private readonly waiting = new Map<number, { offset: number; text: string }[]>();

  /** Drops everything, as after a resync: the numbers of another history compare with nothing held here. */
  clear(): void {
    this.rows = [];
    this.floor = undefined;
    this.complete = false;
    for (const held of [this.gaps, this.index, this.bytes, this.deleted, this.early, this.waiting]) held.clear();
  }

  get(id: number): Message | undefined {
    return this.index.get(id);
  }

  /** Takes a page as SQL read it: the newest `limit` rows below the floor, in any order. */
  page(rows: Message[], limit: number): void {
    const complete = rows.length < limit;
    this.floor = rows.reduce((low, row) => Math.min(low, row.msg_id), this.floor ?? Infinity);
    if (complete) this.complete = true;
    this.merge(rows);
    const due = [...this.early.values()].filter((row) => this.complete || row.msg_id >= this.floor!);
    for (const row of due) this.early.delete(row.msg_id);
    this.merge(due);
  }

  /** Takes rows with their `_seq`, from SQL or live. Of two versions the later counts. */
  merge(rows: Message[]): void {
    let added = false;
    for (const row of rows) {
      const dead = this.deleted.get(row.msg_id);
      if (dead !== undefined && dead >= row._seq) continue;
      // Older than what is shown: it comes with its page, which may have been read before this change.
      if (this.floor !== undefined && row.msg_id < this.floor && !this.complete) {
        if ((this.early.get(row.msg_id)?._seq ?? 0) < row._seq) this.early.set(row.msg_id, row);
        continue;
      }
      const held = this.index.get(row.msg_id);
      if (held !== undefined && held._seq > row._seq) continue;
      const size = streaming(row) ? encoder.encode(row.content).length : undefined;
      // Two reads of the same version of a row that grows: the longer is the later.
      if (held !== undefined && held._seq === row._seq && (size ?? 0) <= (this.bytes.get(row.msg_id) ?? 0)) {
        if (size !== undefined) this.gaps.delete(row.msg_id);
        continue;
      }
      added ||= held === undefined;
      this.put(row, size);
      this.gaps.delete(row.msg_id);
      if (size === undefined) this.waiting.delete(row.msg_id);
      else this.drain(row.msg_id);
    }
    if (added) this.rows = [...this.index.values()].sort((a, b) => a.msg_id - b.msg_id);
  }

  remove(id: number, seq: number): void {
    if ((this.index.get(id)?._seq ?? 0) > seq) return;
    this.deleted.set(id, seq);
    this.forget(id);
  }

  /** Text of an open stream at its byte offset. What is held already is skipped, what comes too early waits. */
  append(id: number, offset: number, text: string): void {
    const row = this.index.get(id);
    if (this.deleted.has(id) || (row !== undefined && !streaming(row))) return;
    const queue = this.waiting.get(id) ?? [];
    if (queue.length < waitingMax) queue.push({ offset, text });
    this.waiting.set(id, queue);
    if (row !== undefined) this.drain(id);
  }

  private drain(id: number): void {
    const queue = this.waiting.get(id)?.sort((a, b) => a.offset - b.offset) ?? [];
    const row = this.index.get(id)!;
    let content = row.content;
    let length = this.bytes.get(id) ?? 0;
    while (queue.length > 0 && queue[0].offset <= length) {
      const { offset, text } = queue.shift()!;
      const bytes = encoder.encode(text);
      if (offset + bytes.length <= length) continue;
      content += offset === length ? text : new TextDecoder().decode(bytes.subarray(length - offset));
      length = offset + bytes.length;
    }
    if (queue.length === 0) this.waiting.delete(id);
    else this.gaps.add(id);
    if (content !== row.content) this.put({ ...row, content }, length);
  }

  private put(row: Message, size: number | undefined): void {
    const known = this.index.has(row.msg_id);
    this.index.set(row.msg_id, row);
    if (size === undefined) this.bytes.delete(row.msg_id);
    else this.bytes.set(row.msg_id, size);
    if (known) this.rows = this.rows.map((held) => (held.msg_id === row.msg_id ? row : held));
  }

  private forget(id: number): void {
    for (const held of [this.gaps, this.index, this.bytes, this.early, this.waiting]) held.delete(id);
    this.rows = this.rows.filter((row) => row.msg_id !== id);
  }
}

/** A reply that still grows, or may grow again after its writer was lost. */
export function streaming(row: Message): boolean {
  return row.metadata?.stream === "open" || row.metadata?.stream === "interrupted";
}

// ---------------------------------------------------------------------------------------------------------- outbox

export interface Outgoing {
  client_msg_id: string;
  conversation_id: string;
  content: string;
  metadata?: Record<string, any>;
  file?: Blob;
  timestamp: string;
  state: "waiting" | "sent" | "failed";
  error?: string;
}

/** Sends one after the other, so that the order of writing is the order of arrival. */
export class Outbox {
  items: Outgoing[] = [];
  private running = false;
  private wake: (() => void) | undefined;

  /** `send` resolves once it is stored; `changed` is told after every change; `pause` waits before retry n. */
  constructor(
    private readonly send: (item: Outgoing) => Promise<unknown>,
    private readonly changed: () => void = () => {},
    private readonly pause = (attempt: number) => new Promise<void>((done) => setTimeout(done, backoff(attempt))),
  ) {}

  add(item: Omit<Outgoing, "state">): void {
    this.items = [...this.items, { ...item, state: "waiting" }];
    this.changed();
    void this.run();
  }

  /** A failed one again, with the same key: nothing is stored twice. */
  retry(key: string): void {
    this.set(key, { state: "waiting", error: undefined });
    void this.run();
  }

  /** Its row is there, or the writer gave up on it. */
  drop(key: string): void {
    if (!this.items.some((item) => item.client_msg_id === key)) return;
    this.items = this.items.filter((item) => item.client_msg_id !== key);
    this.changed();
  }

  /** The network is back: no need to wait any longer. */
  kick(): void {
    this.wake?.();
    void this.run();
  }

  private set(key: string, change: Partial<Outgoing>): void {
    this.items = this.items.map((item) => (item.client_msg_id === key ? { ...item, ...change } : item));
    this.changed();
  }

  private async run(): Promise<void> {
    if (this.running) return;
    this.running = true;
    for (let attempt = 0; ; ) {
      const item = this.items.find((i) => i.state === "waiting");
      if (item === undefined) break;
      try {
        await this.send(item);
        this.set(item.client_msg_id, { state: "sent" });
        attempt = 0;
      } catch (error) {
        if (error instanceof KalamError && error.retryable) {
          await Promise.race([this.pause(attempt++), new Promise<void>((done) => (this.wake = done))]);
        } else {
          this.set(item.client_msg_id, { state: "failed", error: error instanceof Error ? error.message : String(error) });
        }
      }
    }
    this.running = false;
  }
}

// ---------------------------------------------------------------------------------------------------------- client

export interface ClientOptions {
  /** http://host:port of KalamDB. */
  url: string;
  /** A token that is valid now, asked whenever one is needed; `refused`: the server did not take the last one. */
  token: (refused: boolean) => string | Promise<string>;
  onState?: (state: "connecting" | "online" | "offline") => void;
  onSignal?: (signal: { from: string; conversationId: string; kind: string; data?: any }) => void;
  /** For Node before version 22: the class of the package "ws". */
  WebSocket?: any;
}

export interface Subscriber {
  conversationId?: string;
  /** Whose changes, for role service. */
  userId?: string;
  /** Each time the server took the subscription. After "resync" drop what is held and read it anew. */
  onAck?: (how: "first" | "resumed" | "resync") => void;
  onChange?: (op: "insert" | "update" | "delete", message: Message, seq: number) => void;
  onAppend?: (id: number, conversationId: string, offset: number, text: string) => void;
  onConversation?: (conversation: any) => void;
  /** A replay is through: everything up to the ack has been seen. */
  onComplete?: () => void;
}

const answerTimeout = 15000;
const pingEvery = 15000;

export class Client {
  state: "connecting" | "online" | "offline" = "offline";
  private ws: any;
  private attempt = 0;
  private timer: any;
  private heart: any;
  private heard = 0;
  private stopped = true;
  private count = 0;
  private generation = 0;
  private refused = false;
  private readonly subscriptions = new Map<string, { subscriber: Subscriber; cursor: Cursor }>();
  private readonly writers = new Set<ReplyWriter>();

  constructor(readonly options: ClientOptions) {}

  // -- HTTP

  async query(sql: string, params: any[] = []): Promise<Result> {
    return this.request("POST", "/api/v1/query", { sql, params });
  }

  /** Any endpoint; a plain object travels as JSON. Throws KalamError. */
  async request(method: string, path: string, body?: any): Promise<any> {
    const headers: Record<string, string> = {};
    const raw = typeof FormData !== "undefined" && body instanceof FormData;
    if (body !== undefined && !raw) headers["content-type"] = "application/json";
    let response: Response;
    try {
      headers.authorization = `Bearer ${await this.token()}`;
      response = await fetch(this.options.url + path, {
        method,
        headers,
        body: body === undefined || raw ? body : JSON.stringify(body),
        signal: raw ? undefined : AbortSignal.timeout(answerTimeout),
      });
      if (response.ok) return await response.json();
    } catch (error) {
      throw new KalamError("NETWORK", `no answer: ${error instanceof Error ? error.message : error}`);
    }
    if (response.status === 401) this.refused = true;
    const answer = await response.json().catch(() => ({}));
    throw new KalamError(answer.error ?? "HTTP", answer.message ?? `HTTP ${response.status}`, response.status);
  }

  private async token(): Promise<string> {
    const refused = this.refused;
    this.refused = false;
    return this.options.token(refused);
  }

  // -- the socket

  connect(): void {
    if (!this.stopped) return;
    this.stopped = false;
    void this.open();
  }

  close(): void {
    this.stopped = true;
    this.lost(false);
  }

  /** Try now, or, when told that the network is gone, stop believing in the socket. */
  network(up: boolean): void {
    if (this.stopped) return;
    if (!up) this.lost(true);
    else if (this.ws === undefined) void this.open();
  }

  subscribe(subscriber: Subscriber): () => void {
    const id = `s${++this.count}`;
    this.subscriptions.set(id, { subscriber, cursor: new Cursor() });
    if (this.state === "online") this.ask(id);
    return () => {
      if (this.subscriptions.delete(id)) this.frame({ type: "unsubscribe", id });
    };
  }

  /** Reaches the other members who are online now, or nobody: not stored, not repeated. */
  signal(conversationId: string, kind: string, data?: any): void {
    this.frame({ type: "signal", conversationId, kind, data });
  }

  /** A message that grows while it is written. */
  reply(options: ReplyOptions): ReplyWriter {
    const writer = new ReplyWriter(options, (frame) => this.frame(frame), `w${++this.count}`, () => this.writers.delete(writer));
    this.writers.add(writer);
    if (this.state === "online") writer.connected();
    return writer;
  }

  private frame(frame: any): void {
    if (this.state === "online") this.ws.send(JSON.stringify(frame));
  }

  private setState(state: Client["state"]): void {
    if (state === this.state) return;
    this.state = state;
    this.options.onState?.(state);
  }

  private async open(): Promise<void> {
    clearTimeout(this.timer);
    const generation = ++this.generation;
    this.setState("connecting");
    let token: string;
    try {
      token = await this.token();
    } catch {
      if (generation === this.generation) this.lost(true);
      return;
    }
    if (generation !== this.generation || this.stopped) return;
    const Socket = this.options.WebSocket ?? WebSocket;
    const ws = new Socket(`${this.options.url.replace(/^http/, "ws")}/ws`, ["kalamdb", `bearer.${token}`]);
    this.ws = ws;
    // A socket that never opens or goes quiet is lost, whatever the operating system still hopes.
    this.heard = Date.now();
    clearInterval(this.heart);
    this.heart = setInterval(() => {
      if (Date.now() - this.heard > pingEvery + 10000) this.lost(true);
      else this.frame({ type: "ping" });
    }, pingEvery);
    ws.onopen = () => {
      this.setState("online");
      for (const id of this.subscriptions.keys()) this.ask(id);
      for (const writer of this.writers) writer.connected();
    };
    ws.onmessage = ({ data }: { data: string }) => {
      this.heard = Date.now();
      this.take(JSON.parse(data));
    };
    ws.onerror = () => {};
    ws.onclose = ({ code }: { code: number }) => {
      if (code === 4401) this.refused = true;
      this.lost(true);
    };
  }

  private lost(again: boolean): void {
    clearInterval(this.heart);
    clearTimeout(this.timer);
    this.generation++;
    if (this.ws !== undefined) {
      this.ws.onopen = this.ws.onmessage = this.ws.onclose = null;
      this.ws.close();
      this.ws = undefined;
    }
    this.setState("offline");
    if (again && !this.stopped) this.timer = setTimeout(() => void this.open(), backoff(this.attempt++));
  }

  private ask(id: string): void {
    const { subscriber, cursor } = this.subscriptions.get(id)!;
    const { userId, conversationId } = subscriber;
    this.frame({ type: "subscribe", id, userId, conversationId, ...cursor.resume() });
  }

  private take(frame: any): void {
    if (frame.type === "signal") this.options.onSignal?.(frame);
    for (const writer of this.writers) writer.take(frame);
    const held = this.subscriptions.get(frame.id);
    if (held === undefined) return;
    const { subscriber, cursor } = held;
    if (frame.type === "subscribe_ack") {
      // Only now is the token known to be good.
      this.attempt = 0;
      subscriber.onAck?.(cursor.ack(frame));
    } else if (frame.type === "message" && frame.op === "append") {
      const { msg_id, conversation_id, offset, text } = frame.message;
      subscriber.onAppend?.(msg_id, conversation_id, offset, text);
    } else if (frame.type === "message") {
      if (cursor.take(frame.seq)) subscriber.onChange?.(frame.op, { ...frame.message, _seq: frame.seq }, frame.seq);
    } else if (frame.type === "replay_complete") {
      cursor.take(frame.seq);
      subscriber.onComplete?.();
    } else if (frame.type === "conversation") {
      subscriber.onConversation?.(frame.conversation);
    }
  }
}

// --------------------------------------------------------------------------------------------------- streamed reply

export interface ReplyOptions {
  conversationId: string;
  /** Whose conversation, for role service. */
  userId?: string;
  from?: string;
  metadata?: Record<string, any>;
  /** Makes beginning it idempotent: after any interruption it goes on as the same message. */
  clientMsgId?: string;
}

/** Keeps what was not acknowledged and says it again after an interruption; the server knows text by its offset. */
export class ReplyWriter {
  msgId: number | undefined;
  private chunks: { offset: number; text: string; end: number }[] = [];
  private length = 0;
  private later: any;
  private ended: { metadata?: Record<string, any> } | undefined;
  readonly done: Promise<void>;
  private finish!: (error?: Error) => void;

  constructor(
    private readonly options: ReplyOptions,
    private readonly send: (frame: any) => void,
    private readonly id: string,
    released: () => void,
  ) {
    this.done = new Promise((resolve, reject) => {
      this.finish = (error) => {
        released();
        error === undefined ? resolve() : reject(error);
      };
    });
    this.done.catch(() => {});
  }

  write(text: string): void {
    const end = this.length + encoder.encode(text).length;
    const chunk = { offset: this.length, text, end };
    this.chunks.push(chunk);
    this.length = end;
    if (this.msgId !== undefined) this.append(chunk);
  }

  /** Resolves when everything is stored and the message is complete. */
  end(metadata?: Record<string, any>): Promise<void> {
    this.ended = { metadata };
    this.finishIfStored();
    return this.done;
  }

  /** The socket is (again) open. A begin that is repeated with its key names the same message. */
  connected(): void {
    clearTimeout(this.later);
    this.later = undefined;
    if (this.msgId !== undefined && this.options.clientMsgId === undefined) return this.goOn();
    this.msgId = undefined;
    this.send({ type: "stream_begin", id: this.id, ...this.options });
  }

  private goOn(): void {
    for (const chunk of this.chunks) this.append(chunk);
    this.finishIfStored();
  }

  take(frame: any): void {
    if (frame.type === "stream_ack" && frame.id === this.id) {
      this.msgId = frame.msgId;
      // It was ended before the interruption; only the answer was lost.
      if (frame.ended === true) return this.finish();
      this.chunks = this.chunks.filter((chunk) => chunk.end > (frame.offset ?? 0));
      this.goOn();
    } else if (frame.type === "append_ack" && frame.msgId === this.msgId) {
      this.chunks = this.chunks.filter((chunk) => chunk.end > frame.offset);
      this.finishIfStored();
    } else if (frame.type === "stream_end_ack" && frame.msgId === this.msgId) {
      this.finish();
    } else if (frame.type === "error" && frame.id === this.id) {
      if (frame.code === "INTERNAL" || frame.code === "RATE_LIMITED") this.later ??= setTimeout(() => this.connected(), 1000);
      else this.finish(new KalamError(frame.code, frame.message, 400));
    }
  }

  private append(chunk: { offset: number; text: string }): void {
    this.send({ type: "append", id: this.id, msgId: this.msgId, offset: chunk.offset, text: chunk.text });
  }

  private finishIfStored(): void {
    if (this.ended === undefined || this.msgId === undefined || this.chunks.length > 0) return;
    this.send({ type: "stream_end", id: this.id, msgId: this.msgId, metadata: this.ended.metadata });
  }
}
