// Contract section 4 over HTTP: uploads, content with ranges and conditions, tickets. Raw sockets where a polite
// client would hide what is tested.
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { existsSync, readFileSync, readdirSync, readlinkSync } from "node:fs";
import { connect, type Socket as Tcp } from "node:net";
import { join } from "node:path";
import { before, describe, it } from "node:test";
import { crc32, deflateSync } from "node:zlib";
import { Server, sealedSize } from "./harness.ts";

let s: Server;
before(async () => {
  s = await Server.start();
});

const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");
const sleep = (ms: number) => new Promise((done) => setTimeout(done, ms));

function png(width: number, height: number): Buffer {
  const chunk = (type: string, data: Buffer) => {
    const body = Buffer.concat([Buffer.from(type), data]);
    const out = Buffer.alloc(body.length + 8);
    out.writeUInt32BE(data.length);
    body.copy(out, 4);
    out.writeUInt32BE(crc32(body), body.length + 4);
    return out;
  };
  const head = Buffer.alloc(13);
  head.writeUInt32BE(width);
  head.writeUInt32BE(height, 4);
  head.set([8, 2, 0, 0, 0], 8);
  return Buffer.concat([
    Buffer.from("\x89PNG\r\n\x1a\n", "latin1"),
    chunk("IHDR", head),
    chunk("IDAT", deflateSync(Buffer.alloc((width * 3 + 1) * height))),
    chunk("IEND", Buffer.alloc(0)),
  ]);
}

type Fields = Record<string, string>;

async function upload(user: string, bytes: Uint8Array, fields: Fields, options: { role?: string; query?: string; name?: string; server?: Server } = {}) {
  const server = options.server ?? s;
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  form.append("file", new Blob([bytes as BlobPart], { type: "image/png" }), options.name ?? "x.png");
  const response = await fetch(`${server.url}/api/v1/media${options.query ?? ""}`, {
    method: "POST",
    headers: { authorization: `Bearer ${server.token(user, options.role)}` },
    body: form,
  });
  return { status: response.status, body: (await response.json()) as any };
}

async function get(user: string, ref: string, headers: Record<string, string> = {}, method = "GET") {
  const response = await fetch(`${s.url}/api/v1/content/${ref}`, { method, headers: { authorization: `Bearer ${s.token(user)}`, ...headers } });
  return { status: response.status, headers: response.headers, bytes: Buffer.from(await response.arrayBuffer()) };
}

/** Files of our naming under the data directory, and unfinished uploads. */
function files(server: Server): string[] {
  const all = readdirSync(server.data, { recursive: true }) as string[];
  return all.filter((f) => /(^|\/)(media|msg)-\d+\./.test(f) || f.startsWith(join(".kalamdb", "uploads") + "/"));
}

async function until(what: string, ok: () => boolean | Promise<boolean>): Promise<void> {
  for (let i = 0; i < 500; i++) {
    if (await ok()) return;
    await sleep(20);
  }
  assert.fail(what);
}

function dial(server: Server): Promise<Tcp> {
  return new Promise((done, failed) => {
    const socket = connect(server.port, "127.0.0.1", () => done(socket));
    socket.once("error", failed);
  });
}

const head = (server: Server, user: string, more: string) =>
  `POST /api/v1/media HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer ${server.token(user)}\r\nContent-Type: multipart/form-data; boundary=x\r\n${more}\r\n`;
const filePart = '--x\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n';

/** All that comes until the other side ends. */
function hear(socket: Tcp): Promise<string> {
  return new Promise((done) => {
    let text = "";
    socket.on("data", (d) => (text += d.toString("latin1")));
    socket.on("error", () => {});
    socket.on("close", () => done(text));
  });
}

describe("uploads", () => {
  it("store the file and append the message", async () => {
    const image = png(31, 17);
    const answer = await upload("ua", image, { conversation_id: "c1", content: "look", metadata: '{"mood":"sunny"}' });
    assert.equal(answer.status, 200, JSON.stringify(answer.body));
    const { msg_id, content_ref } = answer.body;
    assert.deepEqual(answer.body, {
      msg_id,
      conversation_id: "c1",
      content_ref,
      content_type: "image/png",
      size: image.length,
      sha256: sha256(image),
      width: 31,
      height: 17,
      rowsAffected: 1,
    });
    assert.equal(content_ref, `ua/media-${/media-(\d+)/.exec(content_ref)![1]}.png`);
    // Sealed on the disk; what its reader gets comes below.
    const stored = readFileSync(join(s.data, content_ref));
    assert.ok(!stored.includes(image.subarray(0, 8)) && stored.length === sealedSize(image.length));
    const { rows } = await s.sql("ua", "SELECT content, content_ref, conversation_type, metadata FROM messages WHERE msg_id = $1", [msg_id]);
    assert.equal(rows[0][0], "look");
    assert.equal(rows[0][1], content_ref);
    assert.equal(rows[0][2], "ai");
    assert.equal(rows[0][3].mood, "sunny");
    assert.equal(rows[0][3].media.content_type, "image/png");
    const got = await get("ua", content_ref);
    assert.equal(got.status, 200);
    assert.deepEqual(got.bytes, image);
    assert.equal(got.headers.get("content-type"), "image/png");
    assert.equal(got.headers.get("x-content-type-options"), "nosniff");
    assert.equal(got.headers.get("content-disposition"), null);
  });

  it("go by the bytes, never by the name", async () => {
    for (const text of ["<!DOCTYPE html><script>alert(1)</script>", '<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>']) {
      const answer = await upload("ua", Buffer.from(text), { conversation_id: "c1" }, { name: "photo.png" });
      assert.equal(answer.status, 200, JSON.stringify(answer.body));
      assert.match(answer.body.content_type, /^text\/plain/);
      assert.match(answer.body.content_ref, /\.txt$/);
      assert.equal(answer.body.width, undefined);
      const got = await get("ua", answer.body.content_ref);
      assert.match(got.headers.get("content-type")!, /^text\/plain/);
      assert.match(got.headers.get("content-disposition")!, /^attachment/);
      assert.match(got.headers.get("content-security-policy")!, /^sandbox/);
    }
    const image = await upload("ua", png(2, 3), { conversation_id: "c1" }, { name: "harmless.txt" });
    assert.equal(image.body.content_type, "image/png");
    assert.match(image.body.content_ref, /\.png$/);
  });

  it("are once for a group, for its members only, and go with the last row", async () => {
    await s.sql("ga", "INSERT INTO conversation_users (conversation_id, user_id) VALUES ('room/1', 'gb'), ('room/1', 'gc')");
    const bytes = randomBytes(5000);
    const before = files(s).length;
    const answer = await upload("ga", bytes, { conversation_id: "room/1" });
    assert.equal(answer.status, 200, JSON.stringify(answer.body));
    const ref = answer.body.content_ref;
    assert.match(ref, /^shared\/conversations\/room%2F1\/media-\d+\.bin$/);
    assert.equal(files(s).length, before + 1);
    for (const member of ["ga", "gb", "gc"]) assert.deepEqual((await get(member, ref)).bytes, bytes);
    const outsider = await get("gd", ref);
    const absent = await get("gd", "shared/conversations/room%2F1/media-1.bin");
    assert.equal(outsider.status, 404);
    assert.deepEqual(outsider.bytes, absent.bytes); // nothing tells that it is there
    assert.equal((await get("ga", encodeURIComponent(ref))).status, 200); // as a URL library has it
    assert.equal((await get("ga", ref.replace("%2F", "/"))).status, 404); // another ref
    const refused = await upload("gd", bytes, { conversation_id: "room/1" });
    assert.equal(refused.status, 403, JSON.stringify(refused.body));
    assert.equal(files(s).length, before + 1);
    for (const member of ["ga", "gb"]) await s.sql(member, "DELETE FROM messages WHERE msg_id = $1", [answer.body.msg_id]);
    assert.equal((await get("ga", ref)).status, 404);
    assert.equal((await get("gc", ref)).status, 200);
    await s.sql("gc", "DELETE FROM messages WHERE msg_id = $1", [answer.body.msg_id]);
    assert.equal((await get("gc", ref)).status, 404);
    await until("the file goes", () => !existsSync(join(s.data, ref)));
  });

  it("are the token's user's, unless a service says whose", async () => {
    const refused = await upload("ua", png(1, 1), { conversation_id: "c1" }, { query: "?user=ub" });
    assert.equal(refused.status, 403);
    const answer = await upload("worker", png(1, 1), { conversation_id: "c9", from: "assistant" }, { role: "service", query: "?user=ub" });
    assert.equal(answer.status, 200, JSON.stringify(answer.body));
    assert.match(answer.body.content_ref, /^ub\//);
    const forged = await upload("ua", png(1, 1), { conversation_id: "c1", from: "ub" });
    assert.equal(forged.status, 403);
  });

  it("are retried by client_msg_id without a second file", async () => {
    const bytes = randomBytes(3000);
    const first = await upload("uc", bytes, { conversation_id: "c1", client_msg_id: "k1" });
    const again = await upload("uc", randomBytes(3000), { conversation_id: "c1", client_msg_id: "k1" });
    assert.equal(again.status, 200, JSON.stringify(again.body));
    assert.deepEqual(again.body, { ...first.body, rowsAffected: 0 });
    assert.deepEqual(readdirSync(join(s.data, "uc")).filter((f) => f.startsWith("media-")).length, 1);
    assert.deepEqual((await get("uc", first.body.content_ref)).bytes, bytes);
    await s.sql("uc", "DELETE FROM messages WHERE msg_id = $1", [first.body.msg_id]);
    const gone = await upload("uc", bytes, { conversation_id: "c1", client_msg_id: "k1" });
    assert.deepEqual(gone.body, { msg_id: first.body.msg_id, conversation_id: "c1", content_ref: null, rowsAffected: 0 });
  });

  it("say what is wrong", async () => {
    const cases: [Fields, number, RegExp][] = [
      [{}, 400, /conversation_id is missing/],
      [{ conversation_id: "c1", other: "x" }, 400, /unknown field/],
      [{ conversation_id: "c1", metadata: "{" }, 400, /./],
      [{ conversation_id: "c1", metadata: "[]" }, 400, /./],
      [{ conversation_id: "" }, 400, /./],
      [{ conversation_id: "c1", conversation_type: "club" }, 400, /./],
      [{ conversation_id: "c1", content: "x".repeat(1048577) }, 413, /content/],
    ];
    const before = files(s).length;
    for (const [fields, status, message] of cases) {
      const answer = await upload("ua", png(1, 1), fields);
      assert.equal(answer.status, status, JSON.stringify([Object.keys(fields), answer]));
      assert.match(answer.body.message, message);
    }
    assert.equal(files(s).length, before);
  });

  it("are refused before the body where the head tells", async () => {
    for (const [more, status] of [
      ["Content-Length: 99999999999\r\n", 413],
      ["Content-Length: 100\r\nX-Durability: x\r\n", 400],
    ] as const) {
      const socket = await dial(s);
      socket.write(head(s, "ua", `Expect: 100-continue\r\n${more}`));
      const answer = await hear(socket);
      assert.match(answer, new RegExp(`^HTTP/1.1 ${status} `)); // and no 100 before
    }
    const socket = await dial(s);
    socket.write("POST /api/v1/media HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n");
    assert.match(await hear(socket), /^HTTP\/1.1 401 /);
  });

  it("leave nothing when they are interrupted, wherever", async () => {
    const before = files(s).length;
    const body = Buffer.concat([Buffer.from(filePart), randomBytes(300000)]);
    for (const n of [filePart.length, filePart.length + 1, 100000, body.length]) {
      const socket = await dial(s);
      socket.on("error", () => {});
      socket.write(head(s, "ua", "Content-Length: 9999999\r\n"));
      await new Promise((done) => socket.write(body.subarray(0, n), done));
      if (n > 1000) await until("the upload begins", () => files(s).length > before);
      socket.destroy();
      await until("nothing is left", () => files(s).length === before);
    }
    // a body without its end
    const socket = await dial(s);
    socket.write(head(s, "ua", `Content-Length: ${filePart.length + 4}\r\nConnection: close\r\n`) + filePart + "abcd");
    assert.match(await hear(socket), /^HTTP\/1.1 400 [^]*closing boundary/);
    await until("nothing is left", () => files(s).length === before);
  });

  it("leave nothing after SIGKILL", async () => {
    const own = await Server.start();
    const socket = await dial(own);
    socket.on("error", () => {});
    socket.write(head(own, "ua", "Content-Length: 9999999\r\n") + filePart);
    socket.write(randomBytes(300000));
    await until("the upload begins", () => files(own).length > 0);
    await own.kill();
    socket.destroy();
    await own.up();
    await until("nothing is left", () => files(own).length === 0);
  });

  it("keep their limits", async () => {
    const own = await Server.start({ KALAMDB_MAX_MEDIA_BYTES: "100000" });
    const fits = await upload("ua", randomBytes(100000), { conversation_id: "c" }, { server: own });
    assert.equal(fits.status, 200, JSON.stringify(fits.body));
    const over = await upload("ua", randomBytes(100001), { conversation_id: "c" }, { server: own });
    assert.equal(over.status, 413);
    assert.equal(over.body.error, "TOO_LARGE");
    // chunked: nobody knows the length before
    const socket = await dial(own);
    socket.write(head(own, "ua", "Transfer-Encoding: chunked\r\n"));
    const chunk = Buffer.alloc(50000);
    const send = (b: Buffer) => socket.write(Buffer.concat([Buffer.from(`${b.length.toString(16)}\r\n`), b, Buffer.from("\r\n")]));
    send(Buffer.from(filePart));
    for (let i = 0; i < 4; i++) send(chunk);
    assert.match(await hear(socket), /^HTTP\/1.1 413 /);
    await until("nothing is left", () => files(own).length === 1);
  });
});

describe("media_types", () => {
  it("accepts by the bytes, before anything is kept", async () => {
    const own = await Server.start({ KALAMDB_MEDIA_TYPES: "image/*, application/pdf" });
    const image = await upload("ua", png(1, 1), { conversation_id: "c" }, { server: own, name: "x.exe" });
    assert.equal(image.status, 200, JSON.stringify(image.body));
    const text = await upload("ua", Buffer.from("hello"), { conversation_id: "c" }, { server: own });
    assert.equal(text.status, 400);
    assert.equal(text.body.error, "INVALID_VALUE");
    assert.match(text.body.message, /text\/plain/);
    await until("nothing is left of it", () => files(own).length === 1);
    assert.deepEqual((await own.sql("ua", "SELECT count(*) FROM messages")).rows, [[1]]);
  });
});

describe("content", () => {
  it("comes in ranges", async () => {
    const bytes = randomBytes(3 << 20);
    const { body } = await upload("ra", bytes, { conversation_id: "c" });
    const n = bytes.length;
    const tag = `"${sha256(bytes)}"`;
    for (const [range, from, to] of [
      ["bytes=0-0", 0, 1],
      ["bytes=0-", 0, n],
      ["bytes=-1", n - 1, n],
      ["bytes=1000000-1999999", 1000000, 2000000],
      [`bytes=${n - 10}-${n + 10}`, n - 10, n],
      [`bytes=-${n + 10}`, 0, n],
    ] as const) {
      const got = await get("ra", body.content_ref, { range });
      assert.equal(got.status, 206, range);
      assert.equal(got.headers.get("content-range"), `bytes ${from}-${to - 1}/${n}`);
      assert.ok(got.bytes.equals(bytes.subarray(from, to)), range);
    }
    const beyond = await get("ra", body.content_ref, { range: `bytes=${n}-` });
    assert.equal(beyond.status, 416);
    assert.equal(beyond.headers.get("content-range"), `bytes */${n}`);
    assert.equal((await get("ra", body.content_ref, { range: "bytes=0-1,5-6" })).bytes.length, n);
    assert.equal((await get("ra", body.content_ref, { range: "bytes=0-1", "if-range": tag })).bytes.length, 2);
    assert.equal((await get("ra", body.content_ref, { range: "bytes=0-1", "if-range": '"x"' })).bytes.length, n);
    const same = await get("ra", body.content_ref, { "if-none-match": tag });
    assert.equal(same.status, 304);
    assert.equal(same.bytes.length, 0);
    assert.equal(same.headers.get("etag"), tag);
    assert.equal((await get("ra", body.content_ref, { "if-match": '"x"' })).status, 412);
    const only = await get("ra", body.content_ref, {}, "HEAD");
    assert.equal(only.headers.get("content-length"), String(n));
    assert.equal(only.headers.get("accept-ranges"), "bytes");
  });

  it("is right at every border of its blocks, sealed or not", async () => {
    const BLOCK = 65536;
    const largest = randomBytes(50 << 20); // max_media_bytes
    for (const server of [s, await Server.start({ KALAMDB_ENCRYPTION: "off" })]) {
      const headers = { authorization: `Bearer ${server.token("ba")}` };
      for (const n of [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 1, largest.length - 1, largest.length]) {
        const bytes = largest.subarray(0, n);
        const answer = await upload("ba", bytes, { conversation_id: "c" }, { server });
        assert.deepEqual([answer.status, answer.body.size, answer.body.sha256], [200, n, sha256(bytes)], JSON.stringify(answer.body));
        const url = `${server.url}/api/v1/content/${answer.body.content_ref}`;
        const ask = async (from: number, to: number) => {
          const got = await fetch(url, { headers: { ...headers, range: `bytes=${from}-${to - 1}` } });
          assert.deepEqual(
            [got.status, got.headers.get("content-range"), got.headers.get("content-length")],
            [206, `bytes ${from}-${to - 1}/${n}`, String(to - from)],
          );
          assert.ok(Buffer.from(await got.arrayBuffer()).equals(bytes.subarray(from, to)), `${from} to ${to} of ${n}`);
        };
        const whole = await fetch(url, { headers });
        assert.deepEqual([whole.status, whole.headers.get("content-length")], [200, String(n)]);
        assert.ok(Buffer.from(await whole.arrayBuffer()).equals(bytes), `all ${n}`);
        const borders = [0, 1, 2, 399, 400, 799, 800].map((b) => b * BLOCK).filter((at) => at <= n);
        const edges = [...new Set([...borders, n].flatMap((at) => [at - 1, at, at + 1]))].filter((at) => at >= 0 && at <= n);
        for (const from of edges) for (const to of edges) if (from < to && (to - from < 4 * BLOCK || (from + to) % 7 === 0)) await ask(from, to);
      }
    }
  });

  it("lets go of its file when a download is given up, wherever", async (t) => {
    try {
      readdirSync(`/proc/${s.child.pid}/fd`);
    } catch {
      return t.skip("descriptors of a process that holds keys are shown to root alone");
    }
    const { body } = await upload("xa", randomBytes(8 << 20), { conversation_id: "c" });
    const open = () => readdirSync(`/proc/${s.child.pid}/fd`).filter((fd) => {
      try {
        return readlinkSync(`/proc/${s.child.pid}/fd/${fd}`).includes(body.content_ref);
      } catch {
        return false; // closed meanwhile
      }
    }).length;
    for (const range of ["", "Range: bytes=65535-\r\n", "Range: bytes=-1\r\n"])
      for (const until of [0, 1, 70000, 300000]) {
        const socket = await dial(s);
        socket.on("error", () => {});
        let got = 0;
        await new Promise<void>((done) => {
          socket.on("close", () => done());
          socket.on("data", (d) => (got += d.length) >= until && socket.destroy());
          socket.write(`GET /api/v1/content/${body.content_ref} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAuthorization: Bearer ${s.token("xa")}\r\n${range}\r\n`);
          if (until === 0) socket.destroy();
        });
      }
    await until("every descriptor goes", () => open() === 0);
    const left = connect(s.port, "127.0.0.1");
    left.pause();
    left.write(`GET /api/v1/content/${body.content_ref} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer ${s.token("xa")}\r\n\r\n`);
    await until("one that waits is seen", () => open() === 1);
    left.destroy();
    await until("and goes", () => open() === 0);
  });

  it("is large text too, whole", async () => {
    const text = "ä€😀".repeat(20000);
    const id = await s.say("ta", "c", text);
    const { rows } = await s.sql("ta", "SELECT content, content_ref FROM messages WHERE msg_id = $1", [id]);
    const [preview, ref] = rows[0];
    assert.ok(text.startsWith(preview) && Buffer.byteLength(preview) <= 1024);
    const got = await get("ta", ref);
    assert.equal(got.bytes.toString(), text);
    assert.equal(got.headers.get("content-type"), "text/plain; charset=utf-8");
    assert.match(got.headers.get("content-disposition")!, /^attachment; filename="msg-\d+\.bin"$/);
  });

  it("costs a slow reader's server little, and nobody else anything", async () => {
    const bytes = randomBytes(24 << 20);
    const { body } = await upload("sa", bytes, { conversation_id: "c" });
    const rss = () => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${s.child.pid}/status`, "utf8"))![1]) * 1024;
    const request = `GET /api/v1/content/${body.content_ref} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAuthorization: Bearer ${s.token("sa")}\r\n\r\n`;
    await get("sa", body.content_ref);
    const before = rss();
    const readers: Tcp[] = [];
    for (let i = 0; i < 20; i++) {
      const socket = await dial(s);
      socket.pause();
      socket.write(request);
      readers.push(socket);
    }
    await sleep(300);
    const started = Date.now();
    assert.equal((await s.request("GET", "/healthz")).status, 200);
    await s.say("sa", "c", "quick");
    assert.ok(Date.now() - started < 1000);
    assert.ok(rss() - before < 16 << 20, `${(rss() - before) >> 20} MiB more for 20 readers of 24 MiB`);
    // what is deleted meanwhile is still sent to its end
    await s.sql("sa", "DELETE FROM messages WHERE msg_id = $1", [body.msg_id]);
    assert.equal((await get("sa", body.content_ref)).status, 404);
    const chunks: Buffer[] = [];
    readers[0].on("data", (d) => chunks.push(d));
    readers[0].resume();
    for (const socket of readers.slice(1)) socket.destroy();
    await new Promise((done) => readers[0].on("close", done));
    const all = Buffer.concat(chunks);
    assert.ok(all.subarray(all.indexOf("\r\n\r\n") + 4).equals(bytes));
  });

  it("opens by ticket, and no log knows it", async () => {
    const image = png(4, 4);
    const { body } = await upload("ka", image, { conversation_id: "c" });
    const asked = await s.request("POST", "/api/v1/tickets", { token: s.token("ka"), body: { content_ref: body.content_ref } });
    assert.equal(asked.status, 200, JSON.stringify(asked.body));
    const { ticket, url, expires_at } = asked.body;
    assert.ok(Math.abs(Date.parse(expires_at) - Date.now() - 300000) < 5000);
    const opened = await fetch(s.url + url);
    assert.equal(opened.status, 200);
    assert.deepEqual(Buffer.from(await opened.arrayBuffer()), image);
    assert.equal((await fetch(`${s.url}${url}x`)).status, 401);
    const other = await upload("ka", png(5, 5), { conversation_id: "c" });
    assert.equal((await fetch(`${s.url}/api/v1/content/${other.body.content_ref}?ticket=${ticket}`)).status, 401);
    const stranger = await s.request("POST", "/api/v1/tickets", { token: s.token("kb"), body: { content_ref: body.content_ref } });
    assert.equal(stranger.status, 404);
    await s.sql("ka", "DELETE FROM messages WHERE msg_id = $1", [body.msg_id]);
    assert.equal((await fetch(s.url + url)).status, 404); // the row is gone
    assert.ok(!JSON.stringify(s.log).includes(ticket));
  });
});
