// The state of the chat of one person who is logged in, and everything they can do. Views read it and are told when
// it changed.
import { Client, Outbox, Timeline, messageColumns, objects, type Message, type Outgoing, KalamError } from "./kalamdb.ts";

export interface Person {
  id: string;
  name: string;
}

export interface Conversation {
  conversation_id: string;
  conversation_type: "ai" | "group";
  title: string | null;
  last_msg_id: number | null;
  unread: number;
  last: { from: string; text: string; timestamp: string } | null;
}

export interface Member {
  user_id: string;
  role: "owner" | "admin" | "member";
  last_read_msg_id: number | null;
}

export interface Thread {
  id: string;
  timeline: Timeline;
  state: "loading" | "ready" | "failed";
  members: Member[];
  /** Until when each of the others is taken to be typing. */
  typing: Map<string, number>;
  /** The first message that was unread when the conversation was opened. */
  newFrom: number | undefined;
}

const pageSize = 50;
const typingShownMs = 5000;
const typingSentMs = 2500;

const listSql = `SELECT c.conversation_id, c.conversation_type, c.title, c.last_msg_id, c._unread, c.created,
  m."from" AS last_from, m.content AS last_content, m.content_ref AS last_ref, m.metadata AS last_metadata, m.timestamp AS last_timestamp
  FROM conversations c LEFT JOIN messages m ON m.msg_id = c.last_msg_id
  ORDER BY coalesce(m.timestamp, c.created) DESC LIMIT 500`;

export class Chat {
  readonly client: Client;
  readonly outbox: Outbox;
  conversations = new Map<string, Conversation>();
  threads = new Map<string, Thread>();
  current: string | undefined;
  listed = false;
  notice: string | undefined;
  /** The reader has the end of the open conversation before their eyes. */
  atEnd = true;
  private readonly listeners = new Set<() => void>();
  private readonly tickets = new Map<string, { url: Promise<string>; until: number }>();
  private readonly marked = new Map<string, number>();
  private pending: any;
  private refreshTimer: any;
  private refreshing = false;
  private stale = false;
  private noticeTimer: any;
  private typingSent = 0;
  private sentBefore: string[] = [];
  private readonly clock: any;

  constructor(
    readonly me: Person,
    readonly people: Person[],
    api: string,
    token: (refused: boolean) => Promise<string>,
  ) {
    this.client = new Client({
      url: api,
      token,
      onState: (state) => {
        if (state === "online") this.outbox.kick();
        this.changed();
      },
      onSignal: (signal) => {
        if (signal.kind !== "typing" || signal.from === this.me.id) return;
        this.threads.get(signal.conversationId)?.typing.set(signal.from, Date.now() + typingShownMs);
        this.changed();
      },
    });
    this.outbox = new Outbox((item) => this.deliver(item), () => this.outboxChanged());
    this.client.subscribe({
      onAck: (how) => this.acknowledged(how),
      onChange: (op, message, seq) => this.apply(op, message, seq),
      onAppend: (id, conversation, offset, text) => this.grow(id, conversation, offset, text),
      onConversation: (row) => this.conversationChanged(row.conversation_id),
      onComplete: () => {
        for (const key of this.sentBefore.splice(0)) this.outbox.drop(key);
      },
    });
    this.clock = setInterval(() => this.forgetTyping(), 500);
    window.addEventListener("online", this.online);
    window.addEventListener("offline", this.offline);
    document.addEventListener("visibilitychange", this.visible);
    this.client.connect();
    this.restoreOutbox();
  }

  close(): void {
    clearInterval(this.clock);
    window.removeEventListener("online", this.online);
    window.removeEventListener("offline", this.offline);
    document.removeEventListener("visibilitychange", this.visible);
    this.client.close();
  }

  private readonly online = () => {
    this.client.network(true);
    this.outbox.kick();
  };
  private readonly offline = () => this.client.network(false);
  private readonly visible = () => {
    if (document.visibilityState === "visible") this.client.network(true);
    this.markRead();
  };

  // -- listeners; many changes within a frame are one

  listen(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  changed(): void {
    this.pending ??= setTimeout(() => {
      this.pending = undefined;
      for (const listener of this.listeners) listener();
    }, 16);
  }

  say(notice: string): void {
    this.notice = notice;
    clearTimeout(this.noticeTimer);
    this.noticeTimer = setTimeout(() => {
      this.notice = undefined;
      this.changed();
    }, 6000);
    this.changed();
  }

  /** For what a person asked for: a failure is shown. */
  private async attempt<T>(what: string, work: () => Promise<T>): Promise<T | undefined> {
    try {
      return await work();
    } catch (error) {
      this.say(`${what}: ${error instanceof KalamError && error.code === "NETWORK" ? "no connection" : error instanceof Error ? error.message : error}`);
      return undefined;
    }
  }

  // -- what comes from the server

  private acknowledged(how: "first" | "resumed" | "resync"): void {
    if (how === "resync") for (const thread of this.threads.values()) thread.timeline.clear();
    // What is stored by now is in the replay, or was deleted again.
    this.sentBefore = how === "resumed" ? this.outbox.items.filter((item) => item.state === "sent").map((item) => item.client_msg_id) : [];
    void this.refresh();
    for (const thread of this.threads.values()) {
      if (how === "resync" || thread.state === "failed" || thread.timeline.floor === undefined) void this.load(thread);
      if (thread.id === this.current) void this.readMembers(thread);
    }
  }

  private apply(op: string, message: Message, seq: number): void {
    const thread = this.threads.get(message.conversation_id);
    if (op === "delete") {
      thread?.timeline.remove(message.msg_id, seq);
    } else {
      thread?.timeline.merge([message]);
      if (message.from === this.me.id && message.client_msg_id !== null) this.outbox.drop(message.client_msg_id);
      thread?.typing.delete(message.from);
    }
    const listed = this.conversations.get(message.conversation_id);
    if (op === "insert" && listed !== undefined && message.msg_id > (listed.last_msg_id ?? 0)) {
      const unread = listed.unread + (message.from === this.me.id ? 0 : 1);
      this.conversations.set(listed.conversation_id, { ...listed, last_msg_id: message.msg_id, unread, last: summary(message) });
    }
    this.refreshSoon();
    this.markRead();
    this.changed();
  }

  private grow(id: number, conversation: string, offset: number, text: string): void {
    const thread = this.threads.get(conversation);
    if (thread === undefined) return;
    thread.timeline.append(id, offset, text);
    if (thread.timeline.gaps.has(id)) void this.fill(thread, [...thread.timeline.gaps]);
    this.changed();
  }

  private async fill(thread: Thread, ids: number[]): Promise<void> {
    const list = ids.map((_, i) => `$${i + 1}`).join(", ");
    const result = await this.client.query(`SELECT ${messageColumns} FROM messages WHERE msg_id IN (${list})`, ids).catch(() => undefined);
    if (result !== undefined) thread.timeline.merge(objects(result));
    this.changed();
  }

  private conversationChanged(id: string): void {
    this.refreshSoon(60);
    const thread = this.threads.get(id);
    if (thread !== undefined) void this.readMembers(thread);
  }

  // -- the list

  private refreshSoon(ms = 400): void {
    this.stale = true;
    clearTimeout(this.refreshTimer);
    this.refreshTimer = setTimeout(() => void this.refresh(), ms);
  }

  private async refresh(): Promise<void> {
    if (this.refreshing) {
      this.stale = true;
      return;
    }
    this.refreshing = true;
    this.stale = false;
    const result = await this.client.query(listSql).catch(() => undefined);
    this.refreshing = false;
    // A change that came meanwhile may be missing in the answer: the next one has it.
    if (this.stale && this.listed) {
      this.refreshSoon();
      return;
    }
    if (result === undefined) return;
    this.conversations = new Map(
      objects(result).map((row) => [
        row.conversation_id,
        {
          conversation_id: row.conversation_id,
          conversation_type: row.conversation_type,
          title: row.title,
          last_msg_id: row.last_msg_id,
          unread: this.reading(row.conversation_id) ? 0 : row._unread,
          last: row.last_content === null ? null : summary({ from: row.last_from, content: row.last_content, content_ref: row.last_ref, metadata: row.last_metadata, timestamp: row.last_timestamp }),
        },
      ]),
    );
    this.listed = true;
    this.markRead();
    this.changed();
  }

  /** Newest first. */
  list(): Conversation[] {
    return [...this.conversations.values()].sort((a, b) => (b.last_msg_id ?? Infinity) - (a.last_msg_id ?? Infinity));
  }

  // -- one conversation

  open(id: string | undefined): void {
    this.current = id;
    this.atEnd = true;
    if (id !== undefined) {
      let thread = this.threads.get(id);
      if (thread === undefined) {
        thread = { id, timeline: new Timeline(), state: "loading", members: [], typing: new Map(), newFrom: undefined };
        this.threads.set(id, thread);
        void this.load(thread);
      } else {
        this.noteNew(thread);
      }
      void this.readMembers(thread);
      this.markRead();
    }
    this.changed();
  }

  thread(): Thread | undefined {
    return this.current === undefined ? undefined : this.threads.get(this.current);
  }

  private async load(thread: Thread): Promise<void> {
    await this.older(thread);
    this.noteNew(thread);
    if (thread.id === this.current) this.markRead();
    this.changed();
  }

  /** The newest page, or the one before what is held. */
  async older(thread: Thread): Promise<void> {
    const { timeline } = thread;
    const below = timeline.floor;
    thread.state = "loading";
    this.changed();
    try {
      const where = below === undefined ? "conversation_id = $1" : "conversation_id = $1 AND msg_id < $2";
      const params = below === undefined ? [thread.id] : [thread.id, below];
      const result = await this.client.query(`SELECT ${messageColumns} FROM messages WHERE ${where} ORDER BY msg_id DESC LIMIT ${pageSize}`, params);
      // A resync in between started over: that read is under way by itself.
      if (timeline.floor !== below) return;
      timeline.page(objects(result), pageSize);
      for (const row of timeline.rows) if (row.from === this.me.id && row.client_msg_id !== null) this.outbox.drop(row.client_msg_id);
      thread.state = "ready";
    } catch {
      thread.state = "failed";
    }
    this.changed();
  }

  private async readMembers(thread: Thread): Promise<void> {
    const result = await this.client.query("SELECT user_id, role, last_read_msg_id FROM conversation_users WHERE conversation_id = $1", [thread.id]).catch(() => undefined);
    if (result !== undefined) thread.members = objects(result);
    this.changed();
  }

  private noteNew(thread: Thread): void {
    const unread = this.conversations.get(thread.id)?.unread ?? 0;
    const others = thread.timeline.rows.filter((row) => row.from !== this.me.id);
    thread.newFrom = unread > 0 ? others.at(-unread)?.msg_id : undefined;
  }

  private reading(id: string): boolean {
    return id === this.current && this.atEnd && document.visibilityState === "visible" && this.threads.get(id)?.timeline.floor !== undefined;
  }

  /** What the reader has before their eyes is read. */
  markRead(): void {
    const thread = this.thread();
    if (thread === undefined || !this.reading(thread.id)) return;
    const last = thread.timeline.rows.at(-1)?.msg_id;
    const listed = this.conversations.get(thread.id);
    if (listed !== undefined && listed.unread > 0) {
      this.conversations.set(thread.id, { ...listed, unread: 0 });
      this.changed();
    }
    if (last === undefined || last <= (this.marked.get(thread.id) ?? 0)) return;
    this.marked.set(thread.id, last);
    this.client
      .query("UPDATE conversation_users SET last_read_msg_id = $1 WHERE conversation_id = $2 AND user_id = $3 AND coalesce(last_read_msg_id, 0) < $1", [last, thread.id, this.me.id])
      .catch(() => this.marked.delete(thread.id));
  }

  private forgetTyping(): void {
    const now = Date.now();
    for (const thread of this.threads.values()) {
      for (const [who, until] of thread.typing) {
        if (until > now) continue;
        thread.typing.delete(who);
        this.changed();
      }
    }
  }

  typing(): void {
    if (this.current === undefined || Date.now() - this.typingSent < typingSentMs) return;
    if (this.conversations.get(this.current)?.conversation_type !== "group") return;
    this.typingSent = Date.now();
    this.client.signal(this.current, "typing");
  }

  // -- sending

  send(content: string, file?: File): void {
    if (this.current === undefined) return;
    this.typingSent = 0;
    this.outbox.add({ client_msg_id: crypto.randomUUID(), conversation_id: this.current, content, file, timestamp: new Date().toISOString() });
    const listed = this.conversations.get(this.current);
    if (listed?.conversation_type === "ai" && listed.title === null && content !== "") void this.rename(this.current, [...content].slice(0, 48).join(""));
  }

  private async deliver(item: Outgoing): Promise<void> {
    if (item.file !== undefined) {
      const form = new FormData();
      form.set("conversation_id", item.conversation_id);
      form.set("client_msg_id", item.client_msg_id);
      if (item.content !== "") form.set("content", item.content);
      form.set("file", item.file);
      await this.client.request("POST", "/api/v1/media", form);
      return;
    }
    await this.client.query("INSERT INTO messages (conversation_id, content, client_msg_id) VALUES ($1, $2, $3)", [item.conversation_id, item.content, item.client_msg_id]);
  }

  private get outboxKey(): string {
    return `kalam-outbox-${this.me.id}`;
  }

  /** What is not sent survives a reload of the page; pictures do not. */
  private outboxChanged(): void {
    const kept = this.outbox.items.filter((item) => item.state !== "sent" && item.file === undefined);
    sessionStorage.setItem(this.outboxKey, JSON.stringify(kept));
    this.changed();
  }

  private restoreOutbox(): void {
    const kept = JSON.parse(sessionStorage.getItem(this.outboxKey) ?? "[]") as Outgoing[];
    for (const item of kept) this.outbox.add(item);
  }

  // -- changing

  edit(message: Message, content: string): Promise<unknown> {
    return this.attempt("Not changed", () =>
      this.client.query("UPDATE messages SET content = $1, metadata = $2 WHERE msg_id = $3", [content, { ...message.metadata, edited: true }, message.msg_id]),
    );
  }

  remove(message: Message, everyone: boolean): Promise<unknown> {
    return this.attempt("Not deleted", () =>
      everyone
        ? this.client.request("DELETE", `/api/v1/messages/${message.msg_id}?for=everyone`)
        : this.client.query("DELETE FROM messages WHERE msg_id = $1", [message.msg_id]),
    );
  }

  rename(id: string, title: string): Promise<unknown> {
    return this.attempt("Not renamed", async () => {
      await this.client.query("UPDATE conversations SET title = $1 WHERE conversation_id = $2", [title, id]);
      this.refreshSoon(0);
    });
  }

  async newAssistantChat(): Promise<void> {
    await this.attempt("No new chat", async () => {
      const id = `ai-${crypto.randomUUID()}`;
      await this.client.query("INSERT INTO conversations (conversation_id, conversation_type) VALUES ($1, 'ai')", [id]);
      this.known({ conversation_id: id, conversation_type: "ai", title: null });
    });
  }

  async newGroup(title: string, members: string[]): Promise<boolean> {
    const made = await this.attempt("No new group", async () => {
      const id = `group-${crypto.randomUUID()}`;
      await this.client.request("POST", "/api/v1/conversations", { conversation_id: id, conversation_type: "group", title, members });
      this.known({ conversation_id: id, conversation_type: "group", title });
      return true;
    });
    return made === true;
  }

  addMember(id: string, user: string): Promise<unknown> {
    return this.attempt("Not added", () => this.client.query("INSERT INTO conversation_users (conversation_id, user_id) VALUES ($1, $2)", [id, user]));
  }

  async leave(id: string): Promise<void> {
    await this.attempt("Still in the group", async () => {
      await this.client.query("DELETE FROM conversation_users WHERE conversation_id = $1 AND user_id = $2", [id, this.me.id]);
      this.refreshSoon(0);
      const thread = this.threads.get(id);
      if (thread !== undefined) await this.readMembers(thread);
    });
  }

  /** Own side of a conversation, with all its messages. */
  async discard(id: string): Promise<void> {
    await this.attempt("Not deleted", async () => {
      await this.client.query("DELETE FROM conversations WHERE conversation_id = $1", [id]);
      this.threads.delete(id);
      this.conversations.delete(id);
      if (this.current === id) this.open(undefined);
      this.refreshSoon(0);
    });
  }

  private known(made: Pick<Conversation, "conversation_id" | "conversation_type" | "title">): void {
    this.conversations.set(made.conversation_id, { ...made, last_msg_id: null, unread: 0, last: null });
    this.refreshSoon(0);
    this.open(made.conversation_id);
  }

  // -- content

  /** A link that an <img> can use for the next minutes. */
  link(ref: string): Promise<string> {
    const held = this.tickets.get(ref);
    if (held !== undefined && held.until > Date.now()) return held.url;
    const url = this.client
      .request("POST", "/api/v1/tickets", { content_ref: ref })
      .then(({ url }) => this.client.options.url + url);
    this.tickets.set(ref, { url, until: Date.now() + 4 * 60000 });
    url.catch(() => this.tickets.delete(ref));
    return url;
  }

  /** The whole of a long text, of which the row has the beginning. */
  async fullText(ref: string): Promise<string> {
    return (await fetch(await this.link(ref))).text();
  }

  nameOf(id: string): string {
    if (id === this.me.id) return "You";
    return this.people.find((person) => person.id === id)?.name ?? (id === "deleted_user" ? "Deleted user" : id.replace(/^./, (c) => c.toUpperCase()));
  }
}

export function isImage(message: Pick<Message, "content_ref">): boolean {
  return message.content_ref !== null && /\.(png|jpe?g|gif|webp|avif)$/i.test(message.content_ref);
}

function summary(message: Pick<Message, "from" | "content" | "content_ref" | "metadata" | "timestamp">): Conversation["last"] {
  const writing = message.metadata?.stream === "open" && message.content === "";
  const text = isImage(message) ? (message.content === "" ? "Picture" : `Picture: ${message.content}`) : writing ? "Writing…" : message.content;
  return { from: message.from, text: text.replace(/\s+/g, " "), timestamp: message.timestamp };
}
