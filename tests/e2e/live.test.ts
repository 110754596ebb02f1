// Contract section 3: WebSocket and Server-Sent Events.
import assert from "node:assert/strict";
import { connect } from "node:net";
import { before, describe, it } from "node:test";
import { Server, Socket } from "./harness.ts";

let s: Server;
before(async () => {
  s = await Server.start();
});

const summary = (f: any) => [f.op, f.seq, f.message.content ?? null];

describe("subscribe", () => {
  it("acknowledges, then tells every change with the next number", async () => {
    const ws = await s.socket("alice");
    const ack = await ws.subscribe({ id: "s1" });
    assert.equal(ack.type, "subscribe_ack");
    assert.equal(ack.id, "s1");
    assert.equal(ack.seq, 0);
    assert.equal(ack.conversationId, null);
    assert.equal(typeof ack.feed, "string");
    assert.equal(typeof ack.subscriptionId, "string");
    const id = await s.say("alice", "c", "one");
    await s.sql("alice", "UPDATE messages SET content = 'two'");
    await s.sql("alice", "DELETE FROM messages");
    const [insert, update, gone] = await ws.take(3);
    assert.deepEqual([insert.type, insert.id, ...summary(insert)], ["message", "s1", "insert", 1, "one"]);
    assert.equal(insert.message.msg_id, id);
    assert.equal(insert.message.from, "alice");
    assert.deepEqual(Object.keys(insert.message).sort(), ["client_msg_id", "content", "content_ref", "conversation_id", "conversation_type", "from", "metadata", "msg_id", "timestamp"]);
    assert.deepEqual(summary(update), ["update", 2, "two"]);
    assert.deepEqual(gone, { type: "message", id: "s1", op: "delete", seq: 3, message: { msg_id: id, conversation_id: "c" } });
    ws.close();
  });

  it("replays from a cursor, folds, and goes on live without gap", async () => {
    const ids = [];
    for (let i = 0; i < 10; i++) ids.push(await s.say("bob", `c${i % 2}`, `m${i}`));
    await s.sql("bob", "UPDATE messages SET content = 'edited' WHERE msg_id = $1", [ids[2]]); // seq 11
    await s.sql("bob", "DELETE FROM messages WHERE msg_id = $1", [ids[7]]); // seq 12
    await s.sql("bob", "DELETE FROM messages WHERE msg_id = $1", [ids[1]]); // seq 13
    const ws = await s.socket("bob");
    const ack = await ws.subscribe({ id: "a", lastSeq: 4 });
    assert.equal(ack.seq, 13);
    const replay = await ws.takeUntil("replay_complete");
    const done = replay.pop();
    assert.deepEqual(replay.map(summary), [
      ["insert", 5, "m4"],
      ["insert", 6, "m5"],
      ["insert", 7, "m6"],
      ["insert", 9, "m8"],
      ["insert", 10, "m9"],
      ["update", 11, "edited"],
      ["delete", 13, null],
    ]);
    assert.equal(done.messageCount, 7);
    assert.equal(done.seq, 13);
    assert.equal(done.id, "a");
    await s.say("bob", "c0", "live");
    assert.deepEqual(summary(await ws.next()), ["insert", 14, "live"]);

    const all = await s.socket("bob");
    await all.subscribe({ lastMsgId: 1 });
    const everything = (await all.takeUntil("replay_complete")).slice(0, -1);
    assert.deepEqual(everything.map((f) => f.op), Array(9).fill("insert"));

    const some = await s.socket("bob");
    await some.subscribe({ lastMsgId: ids[5] });
    assert.equal((await some.next()).seq, 7);

    const one = await s.socket("bob");
    const filtered = await one.subscribe({ conversationId: "c1", lastSeq: 0 });
    assert.equal(filtered.conversationId, "c1");
    const rows = (await one.takeUntil("replay_complete")).slice(0, -1);
    assert.deepEqual(rows.map((f) => f.message.content), ["m3", "m5", "m9"]);
    await s.say("bob", "c0", "not this");
    await s.say("bob", "c1", "this");
    assert.deepEqual(summary(await one.next()), ["insert", 16, "this"]);
    for (const w of [ws, all, some, one]) w.close();
  });

  it("replays across cold rows, hot rows, edits and deletions", async () => {
    const ids = [];
    for (let i = 0; i < 30; i++) ids.push(await s.say("cold", "c", `m${i}`));
    await s.consolidate("cold");
    await s.sql("cold", "UPDATE messages SET content = 'cold edit' WHERE msg_id = $1", [ids[3]]);
    await s.sql("cold", "DELETE FROM messages WHERE msg_id = $1", [ids[20]]);
    await s.say("cold", "c", "hot");
    const ws = await s.socket("cold");
    await ws.subscribe({ lastSeq: 10 });
    const replay = (await ws.takeUntil("replay_complete")).slice(0, -1);
    const want: any[] = [];
    for (let i = 10; i < 30; i++) if (i !== 20) want.push(["insert", i + 1, `m${i}`]);
    want.push(["update", 31, "cold edit"], ["insert", 33, "hot"]);
    assert.deepEqual(replay.map(summary), want);
    const from25 = await s.socket("cold");
    await from25.subscribe({ lastSeq: 25 });
    const later = (await from25.takeUntil("replay_complete")).slice(0, -1);
    assert.deepEqual(later.map(summary), [...want.slice(14, 19), ["update", 31, "cold edit"], ["delete", 32, null], ["insert", 33, "hot"]]);
    ws.close();
    from25.close();
  });

  it("says resync for a cursor of another history", async () => {
    await s.say("rita", "c", "x");
    const ws = await s.socket("rita");
    const ahead = await ws.subscribe({ id: "1", lastSeq: 99 });
    assert.equal(ahead.resync, true);
    assert.deepEqual((await ws.takeUntil("replay_complete")).slice(0, -1).map(summary), [["insert", 1, "x"]]);
    const other = await ws.subscribe({ id: "2", lastSeq: 1, feed: "another" });
    assert.equal(other.resync, true);
    await ws.takeUntil("replay_complete");
    const same = await ws.subscribe({ id: "3", lastSeq: 1, feed: ahead.feed });
    assert.ok(!same.resync);
    assert.equal((await ws.next()).messageCount, 0);
    ws.close();
  });

  it("takes any lastMsgId for the moment that message arrived, or the last one before", async () => {
    const ids: number[] = [];
    for (let i = 0; i < 8; i++) {
      ids.push(await s.say("ulla", "c", `m${i}`));
      if (i === 4) await s.consolidate("ulla");
    }
    await s.sql("ulla", "DELETE FROM messages WHERE msg_id = $1", [ids[2]]); // seq 9
    const replayed = async (lastMsgId: any) => {
      const ws = await s.socket("ulla");
      assert.ok(!(await ws.subscribe({ id: "s", lastMsgId })).resync);
      const frames = await ws.takeUntil("replay_complete");
      ws.close();
      const end = frames.pop();
      assert.equal(end.messageCount, frames.length);
      assert.equal(end.lastMsgId, frames.at(-1)?.message.msg_id ?? null);
      return frames.map((f) => f.seq);
    };
    const all = [1, 2, 4, 5, 6, 7, 8];
    for (const small of [0, 1, 1234567890, ids[0] - 1]) assert.deepEqual(await replayed(small), all);
    assert.deepEqual(await replayed(ids[1]), [4, 5, 6, 7, 8]); // cold; row 3 came and went
    assert.deepEqual(await replayed(ids[2]), [4, 5, 6, 7, 8, 9]); // deleted since
    assert.deepEqual(await replayed(ids[3] + 1), [5, 6, 7, 8, 9]); // unknown, between cold rows
    assert.deepEqual(await replayed(ids[6]), [8, 9]); // hot
    assert.deepEqual(await replayed(ids[6] - 1), [7, 8, 9]); // unknown, between hot rows
    assert.deepEqual(await replayed(`${ids[6]}`), [8, 9]);
    assert.deepEqual(await replayed(Number.MAX_SAFE_INTEGER), [9]);
  });

  it("says resync where deletions were forgotten", async () => {
    const server = await Server.start({ KALAMDB_TOMBSTONE_RETENTION_S: "1" });
    for (let i = 0; i < 3; i++) await server.say("a", "c", `m${i}`);
    await server.consolidate("a");
    await server.sql("a", "DELETE FROM messages WHERE content = 'm1'"); // seq 4
    const ws = await server.socket("a");
    let ack: any;
    for (let i = 0; i < 300 && !ack?.resync; i++) {
      ack = await ws.subscribe({ id: `${i}`, lastSeq: 2 });
      const rows = (await ws.takeUntil("replay_complete")).slice(0, -1).map((f) => [f.op, f.seq]);
      assert.deepEqual(rows, ack.resync ? [["insert", 1], ["insert", 3]] : [["insert", 3], ["delete", 4]]);
      ws.send({ type: "unsubscribe", id: `${i}` });
      await ws.next();
      await new Promise((done) => setTimeout(done, 50));
    }
    assert.equal(ack.resync, true);
    assert.ok(!(await ws.subscribe({ lastSeq: 4, feed: ack.feed })).resync);
    assert.deepEqual((await ws.next()).messageCount, 0);
    await server.destroy();
  });

  it("loses and doubles nothing among 5,000 concurrent inserts", async () => {
    const total = 5000;
    let started = 0;
    const worker = async () => {
      while (started < total) {
        const i = started++;
        await s.say("storm", `c${i % 5}`, `m${i}`);
      }
    };
    const sockets: Socket[] = [];
    const subscriber = async () => {
      for (let i = 0; i < 8; i++) {
        await new Promise((done) => setTimeout(done, 60));
        const ws = await s.socket("storm");
        sockets.push(ws);
        ws.send({ type: "subscribe", id: "s", lastSeq: 0 });
      }
    };
    await Promise.all([...Array.from({ length: 32 }, worker), subscriber()]);
    for (const ws of sockets) {
      const seqs: number[] = [];
      while (seqs.length < total) {
        const frame = await ws.next();
        if (frame.type === "message") seqs.push(frame.seq);
      }
      for (let i = 0; i < total; i++) assert.equal(seqs[i], i + 1);
      ws.close();
    }
  });

  it("serves a sleeping reader later, everything and in order", async () => {
    const ws = await s.socket("sleepy");
    await ws.subscribe({ id: "s" });
    ws.ws.pause();
    const total = 20000;
    for (let i = 0; i < total; i += 500) {
      const values = Array.from({ length: 500 }, (_, k) => `('c', 'message number ${i + k} with some text to fill the socket')`);
      await s.sql("sleepy", `INSERT INTO messages (conversation_id, content) VALUES ${values.join(",")}`);
    }
    ws.ws.resume();
    for (let i = 1; i <= total; i++) {
      const frame = await ws.next(30000);
      assert.equal(frame.seq, i);
    }
    ws.close();
  });

  it("goes on over a restart", async () => {
    const server = await Server.start();
    await server.say("zoe", "c", "1");
    const ws = await server.socket("zoe");
    const ack = await ws.subscribe({});
    assert.equal(await server.stop(), 0);
    assert.equal((await ws.closing()).code, 1001);
    await server.up();
    await server.say("zoe", "c", "2");
    const again = await server.socket("zoe");
    const second = await again.subscribe({ lastSeq: ack.seq, feed: ack.feed });
    assert.ok(!second.resync);
    assert.equal(second.feed, ack.feed);
    assert.deepEqual(summary(await again.next()), ["insert", 2, "2"]);
    await server.destroy();
  });

  it("announces conversation changes", async () => {
    await s.say("titus", "c", "x");
    const ws = await s.socket("titus");
    await ws.subscribe({ id: "s" });
    await s.sql("titus", "UPDATE conversations SET title = 'New' WHERE conversation_id = 'c'");
    const frame = await ws.next();
    assert.equal(frame.type, "conversation");
    assert.equal(frame.id, "s");
    assert.equal(frame.conversation.title, "New");
    assert.equal(frame.conversation.total_messages, 1);
    assert.equal(frame.seq, undefined);
    ws.close();
  });
});

describe("protocol", () => {
  it("answers ping, unsubscribe and mistakes", async () => {
    const ws = await s.socket("paul");
    ws.send({ type: "ping" });
    assert.equal((await ws.next()).type, "pong");
    await ws.subscribe({ id: "x" });
    ws.send({ type: "unsubscribe", id: "x" });
    const off = await ws.next();
    assert.equal(off.type, "unsubscribe_ack");
    assert.equal(off.id, "x");
    await s.say("paul", "c", "unseen");
    for (const [message, code] of [
      ["not json", "INVALID_MESSAGE"],
      [{ type: "nope" }, "INVALID_MESSAGE"],
      [{ type: "subscribe", lastSeq: "one" }, "INVALID_MESSAGE"],
      [{ type: "unsubscribe", id: "none" }, "INVALID_SUBSCRIPTION"],
      [{ type: "subscribe", userId: "quentin" }, "FORBIDDEN"],
    ] as [any, string][]) {
      ws.send(message);
      const error = await ws.next();
      assert.deepEqual([error.type, error.code], ["error", code], JSON.stringify(message));
    }
    ws.close();
  });

  it("allows 100 subscriptions a connection", async () => {
    const ws = await s.socket("hundred");
    for (let i = 0; i < 100; i++) assert.equal((await ws.subscribe({ id: `${i}` })).type, "subscribe_ack");
    const error = await ws.subscribe({ id: "one too many" });
    assert.deepEqual([error.type, error.code], ["error", "INVALID_SUBSCRIPTION"]);
    await s.say("hundred", "c", "x");
    assert.equal(new Set((await ws.take(100)).map((f) => f.id)).size, 100);
    ws.close();
  });

  it("lets a service follow anybody", async () => {
    const ws = await s.socket("backend", { role: "service" });
    await ws.subscribe({ id: "1", userId: "u1" });
    await ws.subscribe({ id: "2", userId: "u2" });
    await s.say("u2", "c", "x");
    await s.say("u1", "c", "y");
    const frames = await ws.take(2);
    assert.deepEqual(frames.map((f) => [f.id, f.message.content]).sort(), [["1", "y"], ["2", "x"]]);
    ws.close();
  });

  it("takes a token by header, first message and subprotocol, and closes 4401 without", async () => {
    const header = await s.socket("tom", { query: "", headers: { authorization: `Bearer ${s.token("tom")}` } });
    assert.equal((await header.subscribe()).type, "subscribe_ack");
    const first = await s.socket("tom", { query: "" });
    first.send({ type: "auth", token: s.token("tom") });
    first.send({ type: "subscribe", id: "s" });
    for (;;) {
      const frame = await first.next();
      if (frame.type === "subscribe_ack") break;
      assert.notEqual(frame.type, "error");
    }
    const protocol = await s.socket("tom", { query: "", protocols: ["kalamdb", `bearer.${s.token("tom")}`] });
    assert.equal(protocol.ws.protocol, "kalamdb");
    assert.equal((await protocol.subscribe()).type, "subscribe_ack");
    const bad = await s.socket("tom", { query: "" });
    bad.send({ type: "auth", token: "nonsense" });
    assert.equal((await bad.closing()).code, 4401);
    const hasty = await s.socket("tom", { query: "" });
    hasty.send({ type: "subscribe" });
    assert.equal((await hasty.closing()).code, 4401);
    const query = await s.socket("tom", { query: "?token=nonsense" });
    assert.equal((await query.closing()).code, 4401);
    for (const w of [header, first, protocol]) w.close();
  });

  it("closes with RFC 6455's codes", async () => {
    const big = await s.socket("vic");
    big.send("x".repeat(1048577));
    assert.equal((await big.closing()).code, 1009);
    const binary = await s.socket("vic");
    binary.ws.send(Buffer.from([1, 2, 3]), { binary: true });
    assert.equal((await binary.closing()).code, 1003);
    const text = await s.socket("vic");
    (text.ws as any)._sender.sendFrame([Buffer.from([0x81, 0x82, 0, 0, 0, 0, 0xff, 0xfe])]);
    assert.equal((await text.closing()).code, 1007);
  });

  it("answers frames no client may send with their close codes", async () => {
    const masked = (first: number, payload: Buffer | string, length?: number[]) => {
      const body = Buffer.from(payload as any);
      return Buffer.concat([Buffer.from([first, ...(length ?? [0x80 | body.length]), 0, 0, 0, 0]), body]);
    };
    const piece = (first: number, bytes: number) => masked(first, Buffer.alloc(bytes, 32), [0xff, 0, 0, 0, 0, 0, bytes >> 16, (bytes >> 8) & 255, bytes & 255]);
    const cases: [string, Buffer[], number][] = [
      ["unmasked", [Buffer.from([0x81, 2, 0x7b, 0x7d])], 1002],
      ["reserved bit", [masked(0xc1, "{}")], 1002],
      ["unknown opcode", [masked(0x83, "{}")], 1002],
      ["long ping", [masked(0x89, "x".repeat(126), [0xfe, 0, 126])], 1002],
      ["fragmented ping", [masked(0x09, "x")], 1002],
      ["continuation of nothing", [masked(0x80, "x")], 1002],
      ["message within a message", [masked(0x01, "{"), masked(0x81, "}")], 1002],
      ["length above 2^63", [masked(0x81, "", [0xff, 0x80, 0, 0, 0, 0, 0, 0, 0])], 1002],
      ["bad close code", [masked(0x88, Buffer.from([1005 >> 8, 1005 & 255]))], 1002],
      ["broken character over fragments", [masked(0x01, Buffer.from([0xe2, 0x82])), masked(0x80, "A")], 1007],
      ["surrogate", [masked(0x81, Buffer.from([0xed, 0xa0, 0x80]))], 1007],
      ["fragments over the limit", Array.from({ length: 9 }, (_, i) => piece(i === 0 ? 0x01 : 0x00, 131072)), 1009],
    ];
    for (const [name, frames, code] of cases) {
      const socket = connect(s.port, "127.0.0.1");
      socket.on("error", () => {});
      const lines = [`GET /ws?token=${s.token("raw")} HTTP/1.1`, "Host: x", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"];
      socket.write(`${lines.join("\r\n")}\r\nSec-WebSocket-Key: ${Buffer.alloc(16, 7).toString("base64")}\r\n\r\n`);
      for (const frame of frames) socket.write(frame);
      let got = Buffer.alloc(0);
      for await (const chunk of socket) {
        got = Buffer.concat([got, chunk]);
        const frame = got.subarray(got.indexOf("\r\n\r\n") + 4);
        if (got.includes("\r\n\r\n") && frame.length >= 4) break;
      }
      const frame = got.subarray(got.indexOf("\r\n\r\n") + 4);
      assert.deepEqual([frame[0], frame.readUInt16BE(2)], [0x88, code], name);
      socket.destroy();
    }
    const ws = await s.socket("raw");
    ws.send(`{"type":"ping","id":"${"x".repeat(1048576 - 24)}"}`);
    assert.equal((await ws.next()).type, "pong");
    ws.close();
  });

  it("closes when the token ends", async () => {
    const short = await Server.start({}, ["--jwt-leeway-s=0"]);
    const token = short.token("will", "user", "2s");
    const ws = await short.socket("will", { query: `?token=${token}` });
    await ws.subscribe();
    assert.equal((await ws.closing()).code, 4401);
    await short.destroy();
  });

  it("closes a reader that takes nothing with 4408", async () => {
    const strict = await Server.start({ KALAMDB_SLOW_SUBSCRIBER_TIMEOUT_MS: "500", KALAMDB_MAX_SOCKET_BUFFER_BYTES: "16384" });
    const ws = await strict.socket("slow");
    await ws.subscribe({});
    ws.ws.pause();
    for (let i = 0; i < 30; i++) {
      const values = Array.from({ length: 500 }, () => `('c', '${"x".repeat(1000)}')`);
      await strict.sql("slow", `INSERT INTO messages (conversation_id, content) VALUES ${values.join(",")}`);
    }
    const metrics = async () => (await strict.request("GET", "/metrics")).body as string;
    const deadline = Date.now() + 20000;
    while (Date.now() < deadline && !/^kalamdb_websockets(\{.*\})? 0$/m.test(await metrics())) await new Promise((done) => setTimeout(done, 50));
    ws.ws.resume();
    let last = 0;
    const closed = await (async () => {
      for (;;) {
        try {
          const frame = await ws.next();
          assert.equal(frame.seq, last + 1);
          last = frame.seq;
        } catch {
          return ws.closed!;
        }
      }
    })();
    assert.ok(closed.code === 4408 || closed.code === 1006, `${closed.code}`);
    const again = await strict.socket("slow");
    await again.subscribe({ lastSeq: last });
    for (let i = last + 1; i <= 15000; i++) assert.equal((await again.next()).seq, i);
    await strict.destroy();
  });
});

describe("server-sent events", () => {
  async function events(path: string, headers: Record<string, string>, n: number): Promise<{ id?: string; data: any }[]> {
    const control = new AbortController();
    const response = await fetch(s.url + path, { headers, signal: control.signal });
    assert.equal(response.status, 200);
    assert.match(response.headers.get("content-type")!, /^text\/event-stream/);
    const out: { id?: string; data: any }[] = [];
    let text = "";
    const decoder = new TextDecoder();
    for await (const chunk of response.body as any) {
      text += decoder.decode(chunk, { stream: true });
      for (let end; (end = text.indexOf("\n\n")) >= 0; ) {
        const block = text.slice(0, end).split("\n");
        text = text.slice(end + 2);
        const data = block.filter((l) => l.startsWith("data:")).map((l) => l.slice(5).trim()).join("\n");
        if (data !== "") out.push({ id: block.find((l) => l.startsWith("id:"))?.slice(3).trim(), data: JSON.parse(data) });
      }
      if (out.filter((e) => e.data.type === "message").length >= n) break;
    }
    control.abort();
    return out.filter((e) => e.data.type === "message");
  }

  it("carries the same stream and resumes by Last-Event-ID", async () => {
    const auth = { authorization: `Bearer ${s.token("yan")}` };
    for (let i = 0; i < 3; i++) await s.say("yan", "c", `m${i}`);
    const ws = await s.socket("yan");
    const feed = (await ws.subscribe()).feed;
    const got = await events("/api/v1/events", { ...auth, "last-event-id": `${feed}:1` }, 2);
    assert.deepEqual(got.map((e) => [e.id, e.data.op, e.data.seq]), [[`${feed}:2`, "insert", 2], [`${feed}:3`, "insert", 3]]);
    const one = await events(`/api/v1/events?token=${s.token("yan")}&conversationId=c`, { "last-event-id": got[0].id! }, 1);
    assert.equal(one[0].data.seq, 3);
    assert.equal((await s.request("GET", "/api/v1/events")).status, 401);
    ws.close();
  });
});

describe("shutdown", () => {
  it("ends a query and a consolidation of everybody when its time is up", async () => {
    const server = await Server.start({ KALAMDB_SHUTDOWN_TIMEOUT_MS: "100" });
    const values = Array.from({ length: 50 }, (_, i) => `('c${i}', 'x')`).join();
    for (let u = 0; u < 200; u++) await server.sql(`user_${u}`, `INSERT INTO messages (conversation_id, content) VALUES ${values}`);
    const lost = (e: unknown) => ({ status: 0, headers: new Headers(), body: `${e}` });
    const consolidating = server.request("POST", "/api/v1/admin/consolidate", { token: server.token("o", "admin"), body: {} }).catch(lost);
    const querying = server.query("a", "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b").catch(lost);
    const ws = await server.socket("a");
    await ws.subscribe();
    const began = Date.now();
    assert.equal(await server.stop(), 0);
    assert.ok(Date.now() - began < 3000, `${Date.now() - began} ms`);
    assert.equal((await ws.closing()).code, 1001);
    assert.notEqual((await consolidating).status, 200);
    assert.notEqual((await querying).status, 200);
    await server.up();
    assert.equal((await server.sql("user_199", "SELECT count(*) FROM messages")).rows[0][0], 50);
    await server.destroy();
  });

  it("is graceful", async () => {
    const server = await Server.start();
    const ws = await server.socket("x");
    await ws.subscribe();
    const code = server.stop();
    assert.equal((await ws.closing()).code, 1001);
    assert.equal(await code, 0);
    await server.destroy();
  });
});
