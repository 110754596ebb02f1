// What hostile clients do, and what it costs the others: nothing they would notice. Raw sockets, short timeouts.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { connect, type Socket as Tcp } from "node:net";
import { before, describe, it } from "node:test";
import { Server, Socket } from "./harness.ts";

let s: Server;
before(async () => {
  s = await Server.start({
    KALAMDB_HEADER_TIMEOUT_MS: "500",
    KALAMDB_PING_INTERVAL_MS: "900",
    KALAMDB_IDLE_TIMEOUT_MS: "1000",
    KALAMDB_SLOW_SUBSCRIBER_TIMEOUT_MS: "1000",
    KALAMDB_MAX_BODY_BYTES: "1048576",
    KALAMDB_MAX_SUBSCRIPTIONS: "20",
    KALAMDB_LOOPS: "1",
  });
  for (let i = 0; i < 200; i++) await s.say("rich", "c", `${i} ${"y".repeat(50000)}`);
});

const sleep = (ms: number) => new Promise((wake) => setTimeout(wake, ms));
const memory = (server = s) => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${server.child.pid}/status`, "utf8"))![1]) / 1024;

/** A socket that never throws and keeps what came. */
function dial(server = s, collect = true): Tcp & { got: string; ended: Promise<void> } {
  const socket: any = connect(server.port, "127.0.0.1");
  socket.got = "";
  socket.on("error", () => {});
  if (collect) socket.on("data", (part: Buffer) => (socket.got += part.toString("latin1")));
  socket.ended = new Promise((done) => socket.on("close", done));
  return socket;
}

/** What is answered to these bytes until the server ends the connection, or `ms` have passed. */
async function say(bytes: string | Buffer, ms = 3000): Promise<string> {
  const socket = dial();
  socket.write(bytes);
  await Promise.race([socket.ended, sleep(ms)]);
  socket.destroy();
  return socket.got;
}

const statuses = (text: string) => [...text.matchAll(/HTTP\/1\.1 (\d+)/g)].map((m) => Number(m[1]));
const post = (headers: string, body = "") => `POST /api/v1/query HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${s.token("rich")}\r\n${headers}\r\n${body}`;

/** While `attack` runs, another client's requests are answered promptly, and memory stays below. */
async function harmless(megabytes: number, attack: () => Promise<unknown>): Promise<void> {
  const start = memory();
  let most = start, slowest = 0, running = true;
  s.token("calm");
  const watch = (async () => {
    while (running) {
      const from = Date.now();
      /* A connection of its own: one that is kept may just then be idle for too long. */
      const answer = await s.request("POST", "/api/v1/query", { token: s.token("calm"), body: { sql: "SELECT 1" }, headers: { connection: "close" } });
      assert.equal(answer.status, 200);
      slowest = Math.max(slowest, Date.now() - from);
      most = Math.max(most, memory());
      await sleep(20);
    }
  })();
  watch.catch(() => {}); /* it is awaited below */
  try {
    await attack();
  } finally {
    running = false;
    await watch;
  }
  assert.ok(most - start < megabytes, `${(most - start).toFixed(1)} MiB more`);
  assert.ok(slowest < 5000, `the slowest answer took ${slowest} ms`);
}

describe("slow clients", () => {
  it("that trickle a head or a body are told 408", async () => {
    await harmless(40, async () => {
      const sockets = Array.from({ length: 300 }, (_, i) => {
        const socket = dial();
        socket.write(i % 2 === 0 ? "GET / HTTP/1.1\r\nX: " : post("Content-Length: 1000\r\n", "{"));
        const drip = setInterval(() => socket.write("a"), 100);
        socket.on("close", () => clearInterval(drip));
        return socket;
      });
      await Promise.race([Promise.all(sockets.map((socket) => socket.ended)), sleep(8000)]);
      for (const socket of sockets) assert.deepEqual(statuses(socket.got), [408]);
    });
  });

  it("that say nothing are cut off", async () => {
    const sockets = Array.from({ length: 200 }, () => dial());
    await Promise.race([Promise.all(sockets.map((socket) => socket.ended)), sleep(5000)]);
    assert.ok(sockets.every((socket) => socket.destroyed));
  });

  it("that do not read what they ask for cost little and are cut off", async () => {
    await harmless(250, async () => { /* fifteen answers of 10 MB, and what makes them */
      const body = JSON.stringify({ sql: "SELECT content FROM messages" }); /* 10 MB */
      const sockets = Array.from({ length: 5 }, () => {
        const socket = dial(s, false);
        socket.pause();
        socket.write(post(`Content-Length: ${body.length}\r\n`, body).repeat(3));
        return socket;
      });
      await sleep(5000);
      for (const socket of sockets) socket.destroy();
    });
  });

  it("that leave half-open sockets behind are forgotten", async () => {
    const before = Number(/^kalamdb_connections (\d+)/m.exec((await s.request("GET", "/metrics", { headers: { connection: "close" } })).body)![1]);
    for (let i = 0; i < 100; i++) {
      const socket = dial();
      socket.write("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
      socket.unref();
    }
    await sleep(2500);
    const after = Number(/^kalamdb_connections (\d+)/m.exec((await s.request("GET", "/metrics", { headers: { connection: "close" } })).body)![1]);
    assert.ok(after <= before + 3, `${before} then ${after}`);
  });
});

describe("requests", () => {
  it("that are too large are refused before they are there", async () => {
    assert.deepEqual(statuses(await say(`GET /${"a".repeat(20000)} HTTP/1.1\r\nHost: x\r\n\r\n`)), [414]);
    assert.deepEqual(statuses(await say(`GET / HTTP/1.1\r\nHost: x\r\nX: ${"a".repeat(70000)}`)), [431]);
    assert.deepEqual(statuses(await say(`GET / HTTP/1.1\r\nHost: x\r\n${"X: y\r\n".repeat(100)}\r\n`)), [431]);
    assert.deepEqual(statuses(await say(post("Content-Length: 99999999999\r\n"))), [413]);
  });

  it("that are packed are not unpacked", async () => {
    for (const coding of ["gzip", "br", "deflate", "zstd", "gzip, identity"])
      assert.deepEqual(statuses(await say(post(`Content-Encoding: ${coding}\r\nContent-Length: 2\r\n`, "{}"))), [415], coding);
  });

  it("without an end come to one", async () => {
    await harmless(40, async () => {
      const endless = async (first: string, more: string) => {
        const socket = dial();
        socket.write(first);
        let sent = 0;
        while (!socket.destroyed && statuses(socket.got).length === 0 && sent < 64 << 20) {
          sent += more.length;
          if (!socket.write(more)) await Promise.race([once(socket, "drain"), socket.ended, sleep(1000)]);
          await new Promise((turn) => setImmediate(turn));
        }
        await Promise.race([socket.ended, sleep(2000)]);
        socket.destroy();
        return statuses(socket.got);
      };
      const chunked = post("Transfer-Encoding: chunked\r\n");
      assert.deepEqual(await endless(chunked, `4000\r\n${"a".repeat(0x4000)}\r\n`), [413]);
      assert.deepEqual(await endless(`${chunked}1;`, "e".repeat(4000)), [431]);
      assert.deepEqual(await endless(`${chunked}0\r\n`, "T: trailer\r\n".repeat(100)), [431]);
      assert.deepEqual(await endless("", "\r\n".repeat(1000)), [400]);
    });
  });

  it("of shapes that smuggle are refused, and end the connection", async () => {
    const smuggled = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    const shapes = [
      post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", `0\r\n\r\n${smuggled}`),
      post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", `0\r\n\r\n${smuggled}`),
      post("Content-Length: 0\r\nContent-Length: 40\r\n", smuggled),
      post("Content-Length: 0, 40\r\n", smuggled),
      post("Content-Length: +0\r\n", smuggled),
      post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", `0\r\n\r\n${smuggled}`),
      post("Transfer-Encoding: xchunked\r\n", `0\r\n\r\n${smuggled}`),
      post("Transfer-Encoding : chunked\r\n", `0\r\n\r\n${smuggled}`),
      post("Transfer-Encoding:\x0bchunked\r\n", `0\r\n\r\n${smuggled}`),
      post("X: y\r\n Transfer-Encoding: chunked\r\n", `0\r\n\r\n${smuggled}`),
      post("X: y\nTransfer-Encoding: chunked\r\n", `0\r\n\r\n${smuggled}`),
      post("Transfer-Encoding: chunked\r\n", `0x0\r\n\r\n${smuggled}`),
      post("Transfer-Encoding: chunked\r\n", `1\r\nZZ\r\n0\r\n\r\n${smuggled}`),
      post("Transfer-Encoding: chunked\r\n", `-1\r\n\r\n${smuggled}`),
      post("Transfer-Encoding: chunked\r\n", `10000000000000000\r\n\r\n${smuggled}`),
      `GET /healthz HTTP/1.1\nHost: x\n\n${smuggled}`,
      `GET /healthz HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n${smuggled}`,
      `GET /healthz HTTP/1.1\r\n\r\n${smuggled}`,
    ];
    for (const shape of shapes) {
      const got = statuses(await say(shape));
      assert.ok(got.length === 1 && got[0] >= 400 && got[0] !== 408, `${JSON.stringify(shape.slice(0, 300))}: ${got}`);
    }
  });

  it("by the thousand in one pipeline neither starve the others nor pile up", async () => {
    await harmless(60, async () => {
      const one = `GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n`, n = 5000;
      const reading = dial();
      reading.write(one.repeat(n));
      const deaf = Array.from({ length: 20 }, () => {
        const socket = dial(s, false);
        socket.pause();
        socket.write(one.repeat(5000));
        return socket;
      });
      for (let i = 0; i < 200 && statuses(reading.got).length < n; i++) await sleep(100);
      assert.equal(statuses(reading.got).length, n);
      for (const socket of [reading, ...deaf]) socket.destroy();
    });
  });
});

/** A client's frame, masked unless told otherwise. */
function frame(first: number, payload: Buffer | string = "", masked = true): Buffer {
  const body = Buffer.from(payload);
  const head = body.length < 126 ? Buffer.from([first, body.length]) : body.length < 65536 ? Buffer.from([first, 126, body.length >> 8, body.length & 255]) : Buffer.from([first, 127, 0, 0, 0, 0, ...[24, 16, 8, 0].map((by) => (body.length >>> by) & 255)]);
  if (!masked) return Buffer.concat([head, body]);
  head[1] |= 128;
  return Buffer.concat([head, Buffer.alloc(4), body]);
}

async function upgraded(user = "alice", extra = "", query = `?token=${s.token(user)}`, server = s): Promise<ReturnType<typeof dial>> {
  const socket = dial(server);
  socket.write(`GET /ws${query} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${randomBytes(16).toString("base64")}\r\n${extra}\r\n`);
  for (let i = 0; i < 200 && !socket.got.includes("\r\n\r\n"); i++) await sleep(10);
  assert.match(socket.got, /^HTTP\/1\.1 101/);
  socket.got = socket.got.slice(socket.got.indexOf("\r\n\r\n") + 4);
  return socket;
}

/** The close code that ends what these frames begin. */
async function broken(frames: Buffer, ms = 5000): Promise<number> {
  const socket = await upgraded();
  socket.write(frames);
  await Promise.race([socket.ended, sleep(ms)]);
  socket.destroy();
  const bytes = Buffer.from(socket.got, "latin1");
  for (let at = 0; at + 4 <= bytes.length; ) {
    const n = bytes[at + 1] < 126 ? bytes[at + 1] : bytes.readUInt16BE(at + 2), head = bytes[at + 1] < 126 ? 2 : 4;
    if (bytes[at] === 0x88) return bytes.readUInt16BE(at + 2);
    at += head + n;
  }
  return 0;
}

describe("WebSockets", () => {
  it("break at frames that RFC 6455 forbids", async () => {
    assert.equal(await broken(frame(0x81, "{}", false)), 1002);
    assert.equal(await broken(frame(0xc1, "{}")), 1002); /* compressed: never offered */
    assert.equal(await broken(frame(0x89, "p".repeat(126))), 1002);
    assert.equal(await broken(frame(0x09, "p")), 1002);
    assert.equal(await broken(frame(0x80, "x")), 1002);
    assert.equal(await broken(frame(0x82, "x")), 1003);
    assert.equal(await broken(frame(0x81, Buffer.from([0xff]))), 1007);
    assert.equal(await broken(Buffer.from([0x81, 0xff, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0])), 1009);
    assert.equal(await broken(Buffer.concat([frame(0x01, "a"), Buffer.concat(Array.from({ length: 5000 }, () => frame(0x00)))])), 1009);
  });

  it("offer no compression", async () => {
    const socket = dial();
    socket.write(`GET /ws?token=${s.token("alice")} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${randomBytes(16).toString("base64")}\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n`);
    await once(socket, "data");
    assert.match(socket.got, /^HTTP\/1\.1 101/);
    assert.doesNotMatch(socket.got, /Sec-WebSocket-Extensions/i);
    socket.destroy();
  });

  it("flooded with pings, large messages and endless fragments cost little", async () => {
    await harmless(80, async () => {
      const flood = async (first: Buffer, more: Buffer, times: number) => {
        const socket = await upgraded();
        socket.pause();
        socket.write(first);
        for (let i = 0; i < times && !socket.destroyed; i++) {
          if (!socket.write(more)) await Promise.race([once(socket, "drain"), socket.ended, sleep(500)]);
        }
        await sleep(100);
        socket.destroy();
      };
      const pings = Buffer.concat(Array.from({ length: 1000 }, () => frame(0x89, "p".repeat(125))));
      await Promise.all(Array.from({ length: 10 }, () => flood(pings, pings, 40)));
      const large = frame(0x81, `{"type":"ping","id":"${"x".repeat(1000000)}"}`);
      await Promise.all(Array.from({ length: 5 }, () => flood(large, large, 20)));
      await Promise.all(Array.from({ length: 20 }, () => flood(frame(0x01, "{"), frame(0x00, " ".repeat(1000)), 900)));
    });
  });

  it("may not subscribe without end, nor try tokens", async () => {
    const socket = await s.socket("alice");
    for (let i = 0; i < 500; i++) socket.send({ type: "subscribe", id: `s${i}`, conversationId: `c${i}` });
    const frames = await socket.take(500);
    assert.equal(frames.filter((f) => f.type === "subscribe_ack").length, 20);
    assert.equal(frames.filter((f) => f.code === "INVALID_SUBSCRIPTION").length, 480);
    socket.close();
    const guess = await s.socket("alice", { query: "" });
    for (let i = 0; i < 100; i++) guess.send({ type: "auth", token: "x" });
    assert.equal((await guess.closing()).code, 4401);
    const late = await s.socket("alice", { query: "" });
    late.send({ type: "subscribe" });
    assert.equal((await late.closing()).code, 4401);
  });
});

describe("floods of connections", () => {
  it("without files left do not stop the server, nor make it spin", async () => {
    const server = await Server.start({ KALAMDB_LOOPS: "1" });
    await server.query("alice", "SELECT 1");
    const used = Number(execFileSync("sh", ["-c", `ls /proc/${server.child.pid}/fd | wc -l`], { encoding: "utf8" }));
    execFileSync("prlimit", ["--pid", String(server.child.pid), `--nofile=${used + 20}:`]);
    const sockets = Array.from({ length: 300 }, () => dial(server));
    await sleep(500);
    const cpu = () => readFileSync(`/proc/${server.child.pid}/stat`, "utf8").split(" ").slice(13, 15).reduce((sum, ticks) => sum + Number(ticks), 0);
    const before = cpu();
    await sleep(1000);
    assert.ok(cpu() - before < 50, `${cpu() - before} ticks in a second of nothing`);
    for (const socket of sockets) socket.destroy();
    await sleep(300);
    assert.equal((await server.query("alice", "SELECT 1")).status, 200);
    await server.destroy();
  });

  it("over the limits are told so", async () => {
    const server = await Server.start({ KALAMDB_MAX_CONNECTIONS_PER_ADDRESS: "5", KALAMDB_LOOPS: "2" });
    const held = Array.from({ length: 5 }, () => dial(server));
    await Promise.all(held.map((socket) => once(socket, "connect")));
    await sleep(100);
    const one = dial(server);
    one.write("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    await one.ended;
    assert.match(one.got, /^HTTP\/1\.1 429 [^]*Retry-After: 1[^]*RATE_LIMITED/);
    held[0].destroy();
    await sleep(100);
    assert.equal((await server.request("GET", "/healthz")).status, 200);
    for (const socket of held) socket.destroy();
    await server.destroy();
  });
});

describe("rates", () => {
  it("per user, over HTTP and WebSocket", async () => {
    const server = await Server.start({ KALAMDB_RATE_LIMIT_PER_USER: "2", KALAMDB_RATE_LIMIT_PER_USER_BURST: "5", KALAMDB_MAX_CONNECTIONS_PER_USER: "2" });
    const answers = [];
    for (let i = 0; i < 8; i++) answers.push(await server.query("eager", "SELECT 1"));
    assert.deepEqual(answers.map((a) => a.status), [200, 200, 200, 200, 200, 429, 429, 429]);
    assert.equal(answers[7].body.error, "RATE_LIMITED");
    assert.equal(answers[7].headers.get("retry-after"), "1");
    assert.equal((await server.query("calm", "SELECT 1")).status, 200);
    assert.equal((await server.request("GET", "/healthz")).status, 200);
    const socket = await server.socket("chatty");
    for (let i = 0; i < 10; i++) socket.send({ type: "ping", id: String(i) });
    const frames = await socket.take(10);
    assert.deepEqual(frames.map((f) => f.type === "pong"), Array.from({ length: 10 }, (_, i) => i < 5));
    assert.deepEqual(frames[9], { type: "error", code: "RATE_LIMITED", message: "too many messages", id: "9" });
    for (let i = 0; i < 300; i++) socket.send({ type: "ping" });
    assert.equal((await socket.closing()).code, 4429);
    const two = [await server.socket("many"), await server.socket("many")];
    assert.equal((await (await server.socket("many")).closing()).code, 4429);
    assert.equal((await server.request("GET", "/api/v1/events", { token: server.token("many") })).status, 429);
    two[0].close();
    await two[0].closing();
    const again = await server.socket("many");
    await sleep(50);
    assert.equal(again.closed, undefined);
    await server.destroy();
  });

  it("per address, and of bad tokens", async () => {
    const server = await Server.start({ KALAMDB_RATE_LIMIT_PER_ADDRESS: "3", KALAMDB_RATE_LIMIT_PER_ADDRESS_BURST: "10" });
    const got = [];
    for (let i = 0; i < 12; i++) got.push((await server.request("GET", "/api/v1/nothing")).status);
    assert.deepEqual(got, [...Array(10).fill(404), 429, 429]);
    await server.destroy();
    const strict = await Server.start({ KALAMDB_AUTH_FAILURES_PER_ADDRESS: "3" });
    const tries = [];
    for (let i = 0; i < 5; i++) tries.push((await strict.request("POST", "/api/v1/query", { token: `guess${i}`, body: {} })).status);
    assert.deepEqual(tries, [401, 401, 401, 429, 429]);
    assert.equal((await strict.query("honest", "SELECT 1")).status, 200);
    const socket = await strict.socket("x", { query: "?token=guess" });
    assert.equal((await socket.closing()).code, 4429);
    await strict.destroy();
  });
});

describe("browsers", () => {
  it("of other origins read nothing; headers keep answers where they belong", async () => {
    const server = await Server.start({ KALAMDB_ALLOWED_ORIGINS: "https://app.example, https://two.example" });
    const ask = (origin: string, method = "POST", headers = {}) => server.request(method, "/api/v1/query", { token: server.token("alice"), body: method === "POST" ? { sql: "SELECT 1" } : undefined, headers: { origin, ...headers } });
    const mine = await ask("https://app.example");
    assert.equal(mine.headers.get("access-control-allow-origin"), "https://app.example");
    assert.equal(mine.headers.get("vary"), "Origin");
    assert.equal(mine.headers.get("access-control-allow-credentials"), null);
    for (const origin of ["https://evil.example", "null", "https://app.example.evil.example", "http://app.example", "https://app.example:444"]) {
      const other = await ask(origin);
      assert.equal(other.headers.get("access-control-allow-origin"), null, origin);
      assert.equal(other.headers.get("vary"), "Origin");
      await assert.rejects(server.socket("alice", { headers: { origin } }), /HTTP 403/, origin);
    }
    const preflight = await ask("https://two.example", "OPTIONS", { "access-control-request-method": "POST", "access-control-request-headers": "authorization" });
    assert.equal(preflight.status, 204);
    assert.match(preflight.headers.get("access-control-allow-headers")!, /Authorization/);
    assert.equal(preflight.headers.get("access-control-allow-origin"), "https://two.example");
    const refused = await ask("https://evil.example", "OPTIONS", { "access-control-request-method": "POST" });
    assert.equal(refused.headers.get("access-control-allow-origin"), null);
    for (const answer of [mine, await server.request("GET", "/nowhere"), await server.request("GET", "/api/v1/health")]) {
      assert.equal(answer.headers.get("x-content-type-options"), "nosniff");
      assert.equal(answer.headers.get("cache-control"), "no-store");
      assert.equal(answer.headers.get("referrer-policy"), "no-referrer");
      assert.match(answer.headers.get("content-security-policy")!, /frame-ancestors 'none'/);
    }
    await server.destroy();
  });
});
