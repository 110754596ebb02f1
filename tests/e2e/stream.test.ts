// Contract section 3: streamed replies and signals, over WebSocket and NDJSON.
import assert from "node:assert/strict";
import { request } from "node:http";
import { before, describe, it } from "node:test";
import { Server, Socket } from "./harness.ts";

let s: Server;
before(async () => {
  s = await Server.start();
});

/** What a client holds of one conversation: rows by id, texts merged by offset. A hole, or text that differs, throws. */
class Model {
  texts = new Map<number, Buffer>();
  states = new Map<number, string | null>();
  seq = 0;
  take(frame: any): void {
    if (frame.type !== "message") return;
    const m = frame.message;
    if (frame.op === "append") {
      assert.equal("seq" in frame, false);
      const text = Buffer.from(m.text);
      const known = this.texts.get(m.msg_id) ?? Buffer.alloc(0);
      if (m.offset === 0) this.texts.set(m.msg_id, text);
      else {
        assert.equal(m.offset, known.length, "a piece begins where the text ends");
        this.texts.set(m.msg_id, Buffer.concat([known, text]));
      }
      return;
    }
    assert.ok(frame.seq > this.seq);
    this.seq = frame.seq;
    if (frame.op === "delete") this.texts.delete(m.msg_id);
    else {
      this.texts.set(m.msg_id, Buffer.from(m.content));
      this.states.set(m.msg_id, m.metadata?.stream ?? null);
    }
  }
  text(id: number): string | undefined {
    return this.texts.get(id)?.toString();
  }
}

async function begin(ws: Socket, conversationId: string, extra: Record<string, any> = {}): Promise<number> {
  ws.send({ type: "stream_begin", id: "b", conversationId, ...extra });
  const ack = await ws.next();
  assert.equal(ack.type, "stream_ack", JSON.stringify(ack));
  assert.equal(ack.id, "b");
  return ack.msgId;
}

/** Waits for the acknowledgement of this offset; earlier ones may be folded into it. */
async function acked(ws: Socket, msgId: number, offset: number): Promise<void> {
  for (;;) {
    const frame = await ws.next();
    assert.equal(frame.type, "append_ack", JSON.stringify(frame));
    assert.equal(frame.msgId, msgId);
    if (frame.offset >= offset) return assert.equal(frame.offset, offset);
  }
}

const state = async (user: string, id: number) => (await s.sql(user, "SELECT content, metadata FROM messages WHERE msg_id = $1", [id])).rows[0];

describe("a streamed reply", () => {
  it("grows for those who follow, and is a plain row in the end", async () => {
    const reader = await s.socket("ann");
    await reader.subscribe({ id: "r" });
    const writer = await s.socket("ann");
    const id = await begin(writer, "c", { from: "assistant", metadata: { model: "m" } });
    writer.send({ type: "append", msgId: id, offset: 0, text: "Grüß" });
    await acked(writer, id, 6);
    writer.send({ type: "append", msgId: id, offset: 6, text: " dich" });
    await acked(writer, id, 11);
    writer.send({ type: "stream_end", id: "e", msgId: id, metadata: { tokens: 2 } });
    assert.deepEqual(await writer.next(), { type: "stream_end_ack", id: "e", msgId: id, offset: 11 });
    const [first, one, two, last] = await reader.take(4);
    assert.deepEqual([first.op, first.seq, first.message.content, first.message.metadata], ["insert", 1, "", { model: "m", stream: "open" }]);
    assert.deepEqual(one, { type: "message", id: "r", op: "append", message: { msg_id: id, conversation_id: "c", offset: 0, text: "Grüß" } });
    assert.deepEqual(two.message, { msg_id: id, conversation_id: "c", offset: 6, text: " dich" });
    assert.deepEqual([last.op, last.seq, last.message.content, last.message.metadata], ["update", 2, "Grüß dich", { model: "m", tokens: 2 }]);
    assert.deepEqual(await state("ann", id), ["Grüß dich", { model: "m", tokens: 2 }]);
    writer.close();
    reader.close();
  });

  it("says what is wrong, with the right offset", async () => {
    const ws = await s.socket("ben");
    const id = await begin(ws, "c", { from: "ai" });
    ws.send({ type: "append", msgId: id, offset: 0, text: "abc" });
    await acked(ws, id, 3);
    ws.send({ type: "append", msgId: id, offset: 4, text: "x" });
    assert.deepEqual(await ws.next(), { type: "error", code: "INVALID_MESSAGE", message: "the offset leaves a hole: the text is shorter", msgId: id, offset: 3 });
    ws.send({ type: "append", msgId: id, offset: 1, text: "bc" });
    await acked(ws, id, 3);
    ws.send({ type: "append", msgId: id, offset: 1, text: "x" });
    assert.equal((await ws.next()).offset, 3);
    ws.send({ type: "append", msgId: id, text: "x" });
    assert.equal((await ws.next()).message, "offset is missing");
    ws.send({ type: "append", offset: 0, text: "x" });
    assert.equal((await ws.next()).message, "msgId is missing");
    ws.send({ type: "stream_begin", id: "q", conversationId: "c", from: "somebody" });
    const error = await ws.next();
    assert.deepEqual([error.code, error.id], ["FORBIDDEN", "q"]);
    const other = await s.socket("eve");
    other.send({ type: "append", msgId: id, offset: 3, text: "x" });
    assert.equal((await other.next()).code, "FORBIDDEN");
    assert.equal((await s.query("ben", "UPDATE messages SET content = 'x'")).status, 409);
    await s.sql("ben", "DELETE FROM messages");
    ws.send({ type: "append", msgId: id, offset: 3, text: "d" });
    assert.equal((await ws.next()).code, "INVALID_MESSAGE");
    ws.close();
    other.close();
  });

  it("acknowledges text that came right before the end", async () => {
    const ws = await s.socket("bea");
    for (let i = 0; i < 20; i++) {
      const id = await begin(ws, "c", { from: "ai" });
      ws.send({ type: "append", msgId: id, offset: 0, text: "all" });
      ws.send({ type: "append", msgId: id, offset: 3, text: " of it" });
      ws.send({ type: "stream_end", msgId: id });
      await acked(ws, id, 9);
      assert.deepEqual(await ws.next(), { type: "stream_end_ack", msgId: id, offset: 9 });
    }
    ws.close();
  });

  it("is shown to those who come in the middle, by every way in", async () => {
    const writer = await s.socket("service-w", { role: "service" });
    const early = await s.socket("cyd");
    const ack = await early.subscribe({ id: "x" });
    const model = new Model();
    const id = await begin(writer, "c", { userId: "cyd" });
    writer.send({ type: "append", msgId: id, offset: 0, text: "one " });
    await acked(writer, id, 4);
    // Live only: the text so far at offset 0, then the rest.
    const live = await s.socket("cyd");
    await live.subscribe({ id: "l", conversationId: "c" });
    assert.deepEqual((await live.next()).message, { msg_id: id, conversation_id: "c", offset: 0, text: "one " });
    // From a cursor before the begin: the row with the text so far.
    const replayed = await s.socket("cyd");
    await replayed.subscribe({ id: "p", lastSeq: ack.seq });
    const row = await replayed.next();
    assert.deepEqual([row.op, row.seq, row.message.content], ["insert", 1, "one "]);
    assert.equal((await replayed.next()).type, "replay_complete");
    // From a cursor after the begin: what there is, in place of what the client may have.
    const resumed = await s.socket("cyd");
    await resumed.subscribe({ id: "s", lastSeq: 1 });
    assert.deepEqual((await resumed.next()).message, { msg_id: id, conversation_id: "c", offset: 0, text: "one " });
    assert.equal((await resumed.next()).type, "replay_complete");
    const elsewhere = await s.socket("cyd");
    await elsewhere.subscribe({ id: "o", conversationId: "d" });
    writer.send({ type: "append", msgId: id, offset: 4, text: "two" });
    await acked(writer, id, 7);
    for (const ws of [live, replayed, resumed]) assert.deepEqual((await ws.next()).message, { msg_id: id, conversation_id: "c", offset: 4, text: "two" });
    for (const frame of await early.take(3)) model.take(frame);
    assert.equal(model.text(id), "one two");
    assert.equal(elsewhere.frames.length, 0);
    writer.send({ type: "stream_end", msgId: id });
    await writer.takeUntil("stream_end_ack");
    for (const ws of [live, replayed, resumed, early]) assert.equal((await ws.next()).message.content, "one two");
    for (const ws of [live, replayed, resumed, early, elsewhere, writer]) ws.close();
  });

  it("is interrupted with its producer's connection, and goes on by offset", async () => {
    const ws = await s.socket("dan");
    const id = await begin(ws, "c", { from: "ai", clientMsgId: "k" });
    ws.send({ type: "append", msgId: id, offset: 0, text: "half" });
    await acked(ws, id, 4);
    const reader = await s.socket("dan");
    await reader.subscribe({ id: "r", lastSeq: 0 });
    ws.ws.terminate();
    const frames = await reader.take(3);
    assert.deepEqual([frames[2].op, frames[2].message.content, frames[2].message.metadata], ["update", "half", { stream: "interrupted" }]);
    const again = await s.socket("dan");
    again.send({ type: "stream_begin", id: "b", conversationId: "c", from: "ai", clientMsgId: "k" });
    assert.deepEqual(await again.next(), { type: "stream_ack", id: "b", msgId: id, offset: 4 });
    again.send({ type: "append", msgId: id, offset: 4, text: " and half" });
    await acked(again, id, 13);
    assert.deepEqual(await state("dan", id), ["half and half", { stream: "open" }]);
    again.send({ type: "stream_end", msgId: id });
    await again.takeUntil("stream_end_ack");
    assert.deepEqual(await state("dan", id), ["half and half", null]);
    const rest = (await reader.take(3)).map((f) => [f.op, f.message.content ?? f.message.text]);
    assert.deepEqual(rest, [["update", "half"], ["append", " and half"], ["update", "half and half"]]);
    again.close();
    reader.close();
  });

  it("comes as Server-Sent Events, appends without an id", async () => {
    const writer = await s.socket("eva");
    const id = await begin(writer, "c", { from: "ai" });
    const abort = new AbortController();
    const response = await fetch(`${s.url}/api/v1/events?token=${s.token("eva")}`, { signal: abort.signal });
    let text = "";
    const decoder = new TextDecoder();
    const body = response.body!.getReader();
    const until = async (what: string) => {
      while (!text.includes(what)) text += decoder.decode((await body.read()).value, { stream: true });
    };
    await until("subscribe_ack");
    writer.send({ type: "append", msgId: id, offset: 0, text: "a\nb" });
    await acked(writer, id, 3);
    writer.send({ type: "stream_end", msgId: id });
    await until('"op":"update"');
    const events = text.split("\n\n").filter((e) => e.includes('"message"'));
    assert.equal(events.length, 2);
    assert.ok(events[0].startsWith("data: ") && events[0].includes('"offset":0,"text":"a\\nb"'), events[0]);
    assert.ok(/^id: \w+:2\n/.test(events[1]), events[1]);
    abort.abort();
    writer.close();
  });

  it("keeps every acknowledged byte when the server is killed", async () => {
    for (let round = 0; round < 4; round++) {
      const own = await Server.start();
      const ws = await own.socket("w", { role: "service" });
      const durable = new Map<number, number>();
      const ids: number[] = [];
      for (let i = 0; i < 20; i++) ids.push(await begin(ws, `c${i % 3}`, { userId: `u${i % 4}` }));
      for (const id of ids) durable.set(id, 0);
      ws.ws.on("message", (data) => {
        const frame = JSON.parse(data.toString());
        if (frame.type === "append_ack") durable.set(frame.msgId, frame.offset);
      });
      const word = (id: number, n: number) => `${id % 97}.${n} `;
      const whole = new Map(ids.map((id) => [id, ""]));
      const deadline = Date.now() + 150 + 100 * round;
      for (let n = 0; Date.now() < deadline; n++) {
        for (const id of ids) {
          const text = whole.get(id)!;
          ws.send({ type: "append", msgId: id, offset: Buffer.byteLength(text), text: word(id, n) });
          whole.set(id, text + word(id, n));
        }
        await new Promise((done) => setTimeout(done, 2));
      }
      await own.kill();
      assert.ok([...durable.values()].every((n) => n > 0));
      await own.up();
      for (let i = 0; i < ids.length; i++) {
        const [content, metadata] = (await own.sql(`u${i % 4}`, "SELECT content, metadata FROM messages WHERE msg_id = $1", [ids[i]])).rows[0];
        assert.deepEqual(metadata, { stream: "interrupted" });
        assert.ok(content.length >= durable.get(ids[i])!, `${content.length} of ${durable.get(ids[i])} bytes`);
        assert.ok(whole.get(ids[i])!.startsWith(content));
      }
      // And it goes on where it was.
      const again = await own.socket("w", { role: "service" });
      const id = ids[0];
      again.send({ type: "append", msgId: id, offset: 0, text: whole.get(id)! });
      await acked(again, id, whole.get(id)!.length);
      again.send({ type: "stream_end", msgId: id });
      await again.takeUntil("stream_end_ack");
      assert.equal((await own.sql("u0", "SELECT content FROM messages WHERE msg_id = $1", [id])).rows[0][0], whole.get(id));
      await own.destroy();
    }
  });

  it("reaches every member of a group, and ends for each of them", async () => {
    const made = await s.request("POST", "/api/v1/conversations", { token: s.token("gil"), body: { conversation_id: "room", conversation_type: "group", members: ["hal", "ivy"] } });
    assert.equal(made.status, 201, JSON.stringify(made.body));
    const members = ["gil", "hal", "ivy"];
    const readers = new Map<string, Socket>();
    for (const m of members) {
      const ws = await s.socket(m);
      await ws.subscribe({ id: m });
      readers.set(m, ws);
    }
    const writer = await s.socket("helper", { role: "service" });
    const id = await begin(writer, "room", { userId: "gil" });
    writer.send({ type: "append", msgId: id, offset: 0, text: "to all" });
    await acked(writer, id, 6);
    for (const m of members) {
      const frames = (await readers.get(m)!.take(2)).filter((f) => f.type === "message");
      assert.deepEqual(frames.map((f) => [f.op, f.message.content ?? f.message.text]), [["insert", ""], ["append", "to all"]]);
      assert.deepEqual(await state(m, id), ["to all", { stream: "open" }]);
    }
    const late = await s.socket("hal");
    await late.subscribe({ id: "late" });
    assert.deepEqual((await late.next()).message.text, "to all");
    // One deletes their copy, one leaves; both are let be.
    await s.sql("hal", "DELETE FROM messages WHERE msg_id = $1", [id]);
    await s.sql("ivy", "DELETE FROM conversation_users WHERE conversation_id = 'room' AND user_id = 'ivy'");
    assert.deepEqual(await state("ivy", id), ["to all", { stream: "interrupted" }]);
    writer.send({ type: "append", msgId: id, offset: 6, text: ", or some" });
    await acked(writer, id, 15);
    writer.send({ type: "stream_end", msgId: id });
    await writer.takeUntil("stream_end_ack");
    assert.deepEqual(await state("gil", id), ["to all, or some", null]);
    assert.deepEqual(await state("ivy", id), ["to all", { stream: "interrupted" }]);
    assert.equal(await state("hal", id), undefined);
    for (const ws of [...readers.values(), late, writer]) ws.close();
  });

  it("is interrupted for all when its user leaves or is removed, and goes on when they are back", async () => {
    const made = await s.request("POST", "/api/v1/conversations", { token: s.token("jo"), body: { conversation_id: "lobby", conversation_type: "group", members: ["kay", "lou"] } });
    assert.equal(made.status, 201, JSON.stringify(made.body));
    const kay = await s.socket("kay");
    const id = await begin(kay, "lobby");
    const other = await s.socket("helper", { role: "service" });
    const stays = await begin(other, "lobby", { userId: "jo" });
    other.send({ type: "append", msgId: stays, offset: 0, text: "one" });
    await acked(other, stays, 3);
    kay.send({ type: "append", msgId: id, offset: 0, text: "said" });
    await acked(kay, id, 4);
    await s.sql("jo", "DELETE FROM conversation_users WHERE conversation_id = 'lobby' AND user_id = 'kay'");
    for (const message of ["the stream was interrupted when its user left the group", '"kay" is no member of conversation "lobby"']) {
      kay.send({ type: "append", msgId: id, offset: 4, text: " more" });
      assert.equal((await kay.next()).message, message);
    }
    kay.send({ type: "stream_end", id: "e", msgId: id });
    assert.equal((await kay.next()).type, "error");
    assert.deepEqual(await state("lou", id), ["said", { stream: "interrupted" }]);
    // Back again, kay goes on with their own; the open one that was there before is not theirs any more.
    await s.sql("jo", "INSERT INTO conversation_users (conversation_id, user_id) VALUES ('lobby', 'kay')");
    const back = await s.socket("kay");
    await back.subscribe({ id: "k" });
    other.send({ type: "append", msgId: stays, offset: 3, text: " two" });
    await acked(other, stays, 7);
    kay.send({ type: "append", msgId: id, offset: 4, text: " again" });
    await acked(kay, id, 10);
    kay.send({ type: "stream_end", id: "e", msgId: id });
    await kay.takeUntil("stream_end_ack");
    const frames = (await back.take(3)).map((f) => [f.op, f.message.msg_id, f.message.content ?? f.message.text]);
    assert.deepEqual(frames, [["update", id, "said"], ["append", id, " again"], ["update", id, "said again"]]);
    assert.deepEqual(await state("lou", id), ["said again", null]);
    assert.deepEqual(await state("kay", stays), ["one", { stream: "interrupted" }]);
    assert.deepEqual(await state("lou", stays), ["one two", { stream: "open" }]);
    for (const ws of [kay, other, back]) ws.close();
  });

  it("of a user who leaves with text under way ends with an answer", async () => {
    const made = await s.request("POST", "/api/v1/conversations", { token: s.token("mo"), body: { conversation_id: "stairs", conversation_type: "group", members: ["ned"] } });
    assert.equal(made.status, 201, JSON.stringify(made.body));
    for (let round = 0; round < 8; round++) {
      const ned = await s.socket("ned");
      const id = await begin(ned, "stairs");
      ned.send({ type: "append", msgId: id, offset: 0, text: "abc" });
      await acked(ned, id, 3);
      const left = s.sql("mo", "DELETE FROM conversation_users WHERE conversation_id = 'stairs' AND user_id = 'ned'");
      let text = "abc";
      for (let i = 0; i < 5 * round; i++) {
        ned.send({ type: "append", msgId: id, offset: text.length, text: "d" });
        text += "d";
      }
      ned.send({ type: "stream_end", id: "e", msgId: id });
      let durable = 3;
      for (let frame; (frame = await ned.next()).id !== "e"; ) if (frame.type === "append_ack") durable = frame.offset;
      await left;
      const [content] = await state("mo", id);
      assert.ok(content.length >= durable && text.startsWith(content), `${content}: ${durable} were acknowledged`);
      await s.sql("mo", "INSERT INTO conversation_users (conversation_id, user_id) VALUES ('stairs', 'ned')");
      ned.close();
    }
  });
});

/** A request whose body is written while its answer is read. */
function open(user: string, role = "user") {
  const req = request(`${s.url}/api/v1/messages/stream`, { method: "POST", headers: { authorization: `Bearer ${s.token(user, role)}`, "content-type": "application/x-ndjson" } });
  const lines: any[] = [];
  let wake = () => {};
  let ended = false;
  let text = "";
  req.on("error", () => {});
  req.on("response", (res) => {
    assert.equal(res.statusCode, 200);
    assert.equal(res.headers["content-type"], "application/x-ndjson");
    res.setEncoding("utf8");
    res.on("data", (piece: string) => {
      text += piece;
      for (let at; (at = text.indexOf("\n")) >= 0; text = text.slice(at + 1)) lines.push(JSON.parse(text.slice(0, at)));
      wake();
    });
    res.on("end", () => {
      ended = true;
      wake();
    });
    res.on("error", () => {});
  });
  req.flushHeaders();
  const next = async (): Promise<any> => {
    while (lines.length === 0 && !ended) await new Promise<void>((done) => (wake = done));
    return lines.shift();
  };
  return { req, next, say: (m: any) => req.write(JSON.stringify(m) + "\n") };
}

async function post(user: string, body: string): Promise<any[]> {
  const response = await fetch(`${s.url}/api/v1/messages/stream`, { method: "POST", headers: { authorization: `Bearer ${s.token(user)}` }, body });
  assert.equal(response.status, 200);
  return (await response.text()).trim().split("\n").map((line) => JSON.parse(line));
}

describe("erasure of a user who streams", () => {
  it("ends the streams, and tells nobody whose they were", async () => {
    const made = await s.request("POST", "/api/v1/conversations", { token: s.token("una"), body: { conversation_id: "last", conversation_type: "group", members: ["vic"] } });
    assert.equal(made.status, 201);
    const una = await s.socket("una");
    const group = await begin(una, "last");
    una.send({ type: "append", msgId: group, offset: 0, text: "so far" });
    await acked(una, group, 6);
    const helper = await s.socket("helper", { role: "service" });
    const own = await begin(helper, "c", { userId: "una" });
    helper.send({ type: "append", msgId: own, offset: 0, text: "private" });
    await acked(helper, own, 7);
    const erased = await s.request("DELETE", "/api/v1/users/una", { token: s.token("operator", "admin") });
    assert.equal(erased.status, 200, JSON.stringify(erased.body));
    helper.send({ type: "append", msgId: own, offset: 7, text: "more" });
    assert.equal((await helper.next()).code, "INVALID_MESSAGE");
    const [content, from, metadata] = (await s.sql("vic", 'SELECT content, "from", metadata FROM messages WHERE msg_id = $1', [group])).rows[0];
    assert.deepEqual([content, from, metadata.stream], ["so far", "deleted_user", "interrupted"]);
    helper.close();
  });
});

describe("a streamed body", () => {
  it("is answered while it comes", async () => {
    const { req, next, say } = open("worker", "service");
    say({ type: "stream_begin", id: "b", userId: "pia", conversationId: "c", metadata: { a: 1 } });
    const ack = await next();
    assert.deepEqual([ack.type, ack.id, ack.offset], ["stream_ack", "b", 0]);
    say({ type: "append", offset: 0, text: "one" });
    assert.deepEqual(await next(), { type: "append_ack", msgId: ack.msgId, offset: 3 });
    assert.deepEqual(await state("pia", ack.msgId), ["one", { a: 1, stream: "open" }]);
    req.write("nonsense\n\n");
    assert.equal((await next()).code, "INVALID_MESSAGE");
    say({ type: "append", offset: 9, text: "x" });
    assert.equal((await next()).offset, 3);
    say({ type: "append", offset: 3, text: " two" });
    assert.equal((await next()).offset, 7);
    say({ type: "stream_end", id: "e" });
    assert.deepEqual(await next(), { type: "stream_end_ack", id: "e", msgId: ack.msgId, offset: 7 });
    req.end();
    assert.equal(await next(), undefined);
    assert.deepEqual(await state("pia", ack.msgId), ["one two", { a: 1 }]);
  });

  it("may come at once, several messages after another, the last line without a break", async () => {
    const all = [
      { type: "stream_begin", conversationId: "c", from: "ai" },
      { type: "append", offset: 0, text: "first" },
      { type: "stream_end" },
      { type: "stream_begin", conversationId: "c", from: "ai" },
      { type: "append", offset: 0, text: "second" },
    ];
    const lines = await post("quin", all.map((m) => JSON.stringify(m)).join("\n"));
    assert.deepEqual([...new Set(lines.map((l: any) => l.type))], ["stream_ack", "append_ack", "stream_end_ack"]);
    assert.deepEqual(lines.at(-1).type, "append_ack");
    assert.equal(lines.at(-1).offset, 6);
    // The second was not ended.
    const rows = async () => (await s.sql("quin", "SELECT content, metadata FROM messages ORDER BY msg_id")).rows;
    for (let i = 0; i < 100 && (await rows())[1][1].stream !== "interrupted"; i++);
    assert.deepEqual(await rows(), [["first", null], ["second", { stream: "interrupted" }]]);
  });

  it("is answered whole when something in it is wrong", async () => {
    for (let i = 0; i < 10; i++) {
      const lines = await post("uwe", '{"type":"stream_begin","conversationId":"c","from":"ai"}\n{"type":"append","offset":0,"text":"abc"}\n{"type":"append","offset":9,"text":"x"}\n');
      assert.deepEqual(lines.map((l: any) => l.offset).sort(), [0, 3, 3]);
      assert.deepEqual(lines.map((l: any) => l.type).sort(), ["append_ack", "error", "stream_ack"]);
    }
  });

  it("does not append to the message before when a begin fails", async () => {
    for (const failing of ['{"type":"stream_begin","conversationId":5}', '{"type":"stream_begin"}', '{"type":"stream_begin","conversationId":"c","from":"x"}']) {
      const lines = await post("vera", `{"type":"stream_begin","conversationId":"c","from":"ai"}\n${failing}\n{"type":"append","offset":0,"text":"abc"}\n`);
      assert.deepEqual(lines.map((l: any) => l.type), ["stream_ack", "error", "error"]);
      assert.equal(lines[2].message, "msgId is missing");
    }
  });

  it("ends when another connection has taken its message over", async () => {
    const { req, next, say } = open("walt");
    say({ type: "stream_begin", conversationId: "c", from: "ai" });
    const { msgId } = await next();
    const ws = await s.socket("walt");
    for (let i = 0; i < 40; i++) {
      say({ type: "append", offset: 2 * i, text: "ab" });
      ws.send({ type: "append", msgId, offset: 0, text: "ab".repeat(i + 1) });
    }
    req.end();
    for (let line; (line = await next()) !== undefined; ) assert.equal(line.msgId, msgId);
    ws.close();
  });

  it("that breaks off leaves the message interrupted", async () => {
    const { req, next, say } = open("rex");
    say({ type: "stream_begin", conversationId: "c", from: "ai" });
    const { msgId } = await next();
    say({ type: "append", offset: 0, text: "half" });
    assert.equal((await next()).offset, 4);
    req.destroy();
    for (let i = 0; i < 200 && (await state("rex", msgId))[1].stream !== "interrupted"; i++);
    assert.deepEqual(await state("rex", msgId), ["half", { stream: "interrupted" }]);
  });

  it("needs a token, and lines of bounded length", async () => {
    assert.equal((await s.request("POST", "/api/v1/messages/stream", { body: "{}\n" })).status, 401);
    assert.match((await post("sam", "x".repeat(1 << 20) + "yz\n"))[0].message, /longer than max_frame_bytes/);
  });
});

describe("signals", () => {
  it("reach the other members once per connection, and are never stored", async () => {
    const made = await s.request("POST", "/api/v1/conversations", { token: s.token("kim"), body: { conversation_id: "talk", conversation_type: "group", members: ["leo"] } });
    assert.equal(made.status, 201, JSON.stringify(made.body));
    const kim = await s.socket("kim");
    await kim.subscribe({ id: "k" });
    const leo = await s.socket("leo");
    await leo.subscribe({ id: "l1" });
    await leo.subscribe({ id: "l2", conversationId: "talk" });
    const apart = await s.socket("leo");
    await apart.subscribe({ id: "l3", conversationId: "other" });
    kim.send({ type: "signal", conversationId: "talk", kind: "typing", data: { on: true } });
    assert.deepEqual(await leo.next(), { type: "signal", conversationId: "talk", from: "kim", kind: "typing", data: { on: true } });
    await s.say("kim", "talk", "hello");
    // What comes next on each of leo's subscriptions is the message: no second signal.
    assert.deepEqual((await leo.take(2)).map((f) => f.type), ["message", "message"]);
    assert.equal((await kim.next()).type, "message");
    assert.equal(apart.frames.length, 0);
    const stranger = await s.socket("mia");
    stranger.send({ type: "signal", id: "x", conversationId: "talk", kind: "typing" });
    const refused = await stranger.next();
    assert.deepEqual([refused.code, refused.id], ["FORBIDDEN", "x"]);
    stranger.send({ type: "signal", conversationId: "talk" });
    assert.equal((await stranger.next()).code, "INVALID_MESSAGE");
    stranger.send({ type: "signal", conversationId: "talk", kind: "k", data: "x".repeat(5000) });
    assert.equal((await stranger.next()).code, "INVALID_MESSAGE");
    for (const ws of [kim, leo, apart, stranger]) ws.close();
  });

  it("of a service reach the owner of an ai conversation", async () => {
    await s.say("nia", "chat", "hello");
    const nia = await s.socket("nia");
    await nia.subscribe({ id: "n" });
    const bot = await s.socket("helper", { role: "service" });
    bot.send({ type: "signal", userId: "nia", conversationId: "chat", kind: "typing" });
    assert.deepEqual(await nia.next(), { type: "signal", conversationId: "chat", from: "helper", kind: "typing" });
    nia.close();
    bot.close();
  });

  it("are limited per connection", async () => {
    const own = await Server.start({ KALAMDB_SIGNALS_PER_SECOND: "2" });
    await own.say("ola", "c", "x");
    const ws = await own.socket("ola");
    for (let i = 0; i < 5; i++) ws.send({ type: "signal", conversationId: "c", kind: "typing" });
    ws.send({ type: "ping" });
    const frames = await ws.takeUntil("pong");
    assert.deepEqual(frames.map((f) => f.code ?? f.type), ["RATE_LIMITED", "pong"]);
    ws.close();
    await own.destroy();
  });
});
