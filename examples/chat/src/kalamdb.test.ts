import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { Cursor, KalamError, Outbox, ReplyWriter, Timeline, backoff, type Message, type Outgoing } from "./kalamdb.ts";

const row = (msg_id: number, seq: number, content: string, more: Partial<Message> = {}): Message => ({
  msg_id,
  conversation_id: "c",
  conversation_type: "ai",
  from: "alice",
  timestamp: "2026-01-01T00:00:00.000000Z",
  content,
  content_ref: null,
  metadata: null,
  client_msg_id: null,
  _seq: seq,
  ...more,
});
const open = { metadata: { stream: "open" } };
const texts = (t: Timeline) => t.rows.map((r) => `${r.msg_id}:${r.content}`);

function random(seed: number): () => number {
  let a = seed >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

describe("Cursor", () => {
  it("starts live, then resumes after the last change that was taken", () => {
    const c = new Cursor();
    assert.deepEqual(c.resume(), {});
    assert.equal(c.ack({ feed: "f", seq: 10 }), "first");
    assert.equal(c.take(11), true);
    assert.equal(c.take(11), false);
    assert.deepEqual(c.resume(), { feed: "f", lastSeq: 11 });
    assert.equal(c.ack({ feed: "f", seq: 15 }), "resumed");
    assert.equal(c.take(12), true);
    assert.deepEqual(c.resume(), { feed: "f", lastSeq: 12 });
  });

  it("starts over in another history, whose numbers are lower", () => {
    const c = new Cursor();
    c.ack({ feed: "f", seq: 10 });
    assert.equal(c.ack({ feed: "g", seq: 3, resync: true }), "resync");
    assert.equal(c.take(1), true);
    assert.deepEqual(c.resume(), { feed: "g", lastSeq: 1 });
  });
});

describe("Timeline", () => {
  it("shows a row once, whichever of page and change comes first", () => {
    for (const liveFirst of [true, false]) {
      const t = new Timeline();
      if (liveFirst) t.merge([row(3, 3, "c")]);
      t.page([row(3, 3, "c"), row(2, 2, "b")], 2);
      if (!liveFirst) t.merge([row(3, 3, "c")]);
      assert.deepEqual(texts(t), ["2:b", "3:c"]);
      assert.equal(t.complete, false);
    }
  });

  it("keeps the later version when an older read arrives late", () => {
    const t = new Timeline();
    t.merge([row(1, 5, "edited")]);
    t.page([row(1, 1, "original")], 50);
    assert.deepEqual(texts(t), ["1:edited"]);
  });

  it("does not bring a deleted row back from a read made before", () => {
    const t = new Timeline();
    t.remove(1, 7);
    t.page([row(1, 1, "gone")], 50);
    assert.deepEqual(texts(t), []);
  });

  it("leaves changes of rows below the oldest page to that page", () => {
    const t = new Timeline();
    t.page([row(10, 10, "j"), row(11, 11, "k")], 2);
    t.merge([row(4, 12, "edited")]);
    assert.deepEqual(texts(t), ["10:j", "11:k"]);
    t.page([row(4, 12, "edited")], 2);
    assert.deepEqual(texts(t), ["4:edited", "10:j", "11:k"]);
    assert.equal(t.complete, true);
  });

  it("joins text by byte offset, skipping what it has", () => {
    const t = new Timeline();
    t.page([row(1, 1, "Grü", open)], 50);
    t.append(1, 0, "Grü");
    t.append(1, 2, "üße");
    t.append(1, 7, "!");
    assert.deepEqual(texts(t), ["1:Grüße!"]);
    t.append(1, 3, "x");
    assert.deepEqual(texts(t), ["1:Grüße!"]);
  });

  it("lets text wait for its row", () => {
    const t = new Timeline();
    t.append(1, 3, "def");
    t.append(1, 6, "ghi");
    t.page([row(1, 1, "abcd", open)], 50);
    assert.deepEqual(texts(t), ["1:abcdefghi"]);
  });

  it("asks for the row when text is missing, and goes on with it", () => {
    const t = new Timeline();
    t.page([row(1, 1, "ab", open)], 50);
    t.append(1, 5, "fg");
    assert.deepEqual(texts(t), ["1:ab"]);
    assert.deepEqual([...t.gaps], [1]);
    t.merge([row(1, 1, "abcdef", open)]);
    assert.deepEqual(texts(t), ["1:abcdefg"]);
    assert.equal(t.gaps.size, 0);
  });

  it("a finished row takes no more text, a shorter read of an open one takes none back", () => {
    const t = new Timeline();
    t.page([row(1, 1, "", open)], 50);
    t.append(1, 0, "abc");
    t.merge([row(1, 1, "a", open)]);
    assert.deepEqual(texts(t), ["1:abc"]);
    t.merge([row(1, 2, "abcd")]);
    t.append(1, 3, "dx");
    assert.deepEqual(texts(t), ["1:abcd"]);
  });

  it("forgets everything at a resync", () => {
    const t = new Timeline();
    t.page([row(1, 90, "old"), row(2, 91, "old")], 50);
    t.remove(2, 92);
    t.clear();
    t.page([row(1, 1, "new"), row(2, 2, "new")], 50);
    assert.deepEqual(texts(t), ["1:new", "2:new"]);
  });

  it("ends where the database does, whatever the interleaving of pages, changes and text", () => {
    for (let seed = 1; seed <= 300; seed++) {
      const dice = random(seed);
      const db = new Map<number, Message>();
      const live: ((t: Timeline) => void)[] = [];
      const reads: { rows: Message[]; full: boolean }[] = [];
      const t = new Timeline();
      let seq = 0;
      const snapshot = (below = Infinity, n = 4) => [...db.values()].filter((r) => r.msg_id < below).sort((a, b) => b.msg_id - a.msg_id).slice(0, n);
      for (let step = 0; step < 60; step++) {
        const ids = [...db.keys()];
        const id = ids[Math.floor(dice() * ids.length)];
        const what = dice();
        const change = (r: Message) => {
          db.set(r.msg_id, r);
          live.push((t) => t.merge([r]));
        };
        if (ids.length < 3 || what < 0.2) change(row(step + 1, ++seq, dice() < 0.5 ? "é" : "", dice() < 0.5 ? open : {}));
        else if (what < 0.3) {
          const at = ++seq;
          db.delete(id);
          live.push((t) => t.remove(id, at));
        } else if (what < 0.4) change({ ...db.get(id)!, content: db.get(id)!.content + ".", metadata: null, _seq: ++seq });
        else if (what < 0.75) {
          const old = db.get(id)!;
          if (old.metadata?.stream !== "open") continue;
          const text = dice() < 0.5 ? "ö" : `${step}`;
          db.set(id, { ...old, content: old.content + text });
          const offset = Buffer.byteLength(old.content);
          live.push((t) => t.append(id, offset, text));
        } else if (reads.length === 0) {
          if (t.complete) continue;
          reads.push({ rows: snapshot(t.floor), full: true });
        }
        // The network delivers when it likes, each stream in its own order.
        while (live.length > 0 && dice() < 0.4) live.shift()!(t);
        if (reads.length > 0 && dice() < 0.3) t.page(reads.shift()!.rows, 4);
      }
      for (const deliver of live.splice(0)) deliver(t);
      for (const read of reads.splice(0)) t.page(read.rows, 4);
      while (!t.complete) t.page(snapshot(t.floor), 4);
      t.merge([...db.values()].filter((r) => t.gaps.has(r.msg_id)));
      assert.deepEqual(texts(t), [...db.values()].sort((a, b) => a.msg_id - b.msg_id).map((r) => `${r.msg_id}:${r.content}`), `seed ${seed}`);
    }
  });
});

describe("Outbox", () => {
  const item = (key: string): Omit<Outgoing, "state"> => ({ client_msg_id: key, conversation_id: "c", content: key, timestamp: "" });

  it("sends in order, again with the same key after no answer, and goes on after a refusal", async () => {
    const sent: string[] = [];
    let cut = 2;
    const box = new Outbox(
      async (i) => {
        sent.push(i.client_msg_id);
        if (i.client_msg_id === "a" && cut-- > 0) throw new KalamError("NETWORK", "no answer");
        if (i.client_msg_id === "b") throw new KalamError("FORBIDDEN", "no member", 403);
      },
      undefined,
      async () => {},
    );
    for (const key of ["a", "b", "c"]) box.add(item(key));
    await new Promise((done) => setTimeout(done, 20));
    assert.deepEqual(sent, ["a", "a", "a", "b", "c"]);
    assert.deepEqual(box.items.map((i) => [i.client_msg_id, i.state, i.error]), [
      ["a", "sent", undefined],
      ["b", "failed", "no member"],
      ["c", "sent", undefined],
    ]);
    box.drop("a");
    assert.deepEqual(box.items.map((i) => i.client_msg_id), ["b", "c"]);
  });

  it("waits no longer when the network is back", async () => {
    let up = false;
    const box = new Outbox(
      async () => {
        if (!up) throw new KalamError("NETWORK", "no answer");
      },
      undefined,
      () => new Promise(() => {}),
    );
    box.add(item("a"));
    await new Promise((done) => setImmediate(done));
    assert.equal(box.items[0].state, "waiting");
    up = true;
    box.kick();
    await new Promise((done) => setImmediate(done));
    assert.equal(box.items[0].state, "sent");
  });
});

describe("ReplyWriter", () => {
  it("says again what was not acknowledged, as the same message", async () => {
    const frames: any[] = [];
    const writer = new ReplyWriter({ conversationId: "c", clientMsgId: "k" }, (f) => frames.push(f), "w1", () => {});
    writer.connected();
    writer.write("Grü");
    writer.take({ type: "stream_ack", id: "w1", msgId: 9 });
    writer.write("ße");
    writer.take({ type: "append_ack", msgId: 9, offset: 4 });
    frames.length = 0;
    writer.connected();
    writer.take({ type: "stream_ack", id: "w1", msgId: 9 });
    const done = writer.end();
    assert.deepEqual(frames.map((f) => [f.type, f.clientMsgId ?? f.offset, f.text]), [
      ["stream_begin", "k", undefined],
      ["append", 4, "ße"],
    ]);
    writer.take({ type: "append_ack", msgId: 9, offset: 7 });
    assert.equal(frames.at(-1).type, "stream_end");
    writer.take({ type: "stream_end_ack", msgId: 9 });
    await done;
  });
});

it("backoff doubles up to 15 s and never waits less than half of it", () => {
  assert.deepEqual([0, 1, 2, 5, 50].map((n) => backoff(n, () => 1)), [500, 1000, 2000, 15000, 15000]);
  assert.equal(backoff(3, () => 0), 2000);
});
