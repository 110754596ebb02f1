// TLS 1.3: every kind of answer through it, who may connect, certificates that change, what is refused.
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { once } from "node:events";
import { chmodSync, copyFileSync, existsSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { request as httpsRequest, Agent } from "node:https";
import { connect as tcpConnect, createServer, type Socket as TcpSocket } from "node:net";
import { join } from "node:path";
import { before, describe, it } from "node:test";
import { connect, type TLSSocket } from "node:tls";
import WebSocket from "ws";
import { Authority, serving, type Pair } from "./certificates.ts";
import { Server, Socket, binary, temporaryFolder } from "./harness.ts";

const authority = new Authority();
const pair = authority.sign("server");
let s: Server;
before(async () => {
  s = await Server.start(serving(pair));
});

interface Reply {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  body: Buffer;
}

function ask(server: Server, method: string, path: string, options: { token?: string; body?: string | Buffer; headers?: Record<string, string>; agent?: Agent; port?: number; client?: Pair } = {}): Promise<Reply> {
  return new Promise((done, failed) => {
    const headers: Record<string, string> = { ...options.headers };
    if (options.token !== undefined) headers.authorization = `Bearer ${options.token}`;
    const client = options.client === undefined ? {} : { cert: readFileSync(options.client.cert), key: readFileSync(options.client.key) };
    const request = httpsRequest({ host: "127.0.0.1", servername: "localhost", port: options.port ?? server.port, method, path, headers, ca: authority.pem, agent: options.agent ?? false, ...client }, (response) => {
      const parts: Buffer[] = [];
      response.on("data", (part) => parts.push(part));
      response.on("error", failed);
      response.on("end", () => done({ status: response.statusCode!, headers: response.headers, body: Buffer.concat(parts) }));
    });
    request.on("error", failed);
    request.end(options.body);
  });
}

async function sql(server: Server, user: string, text: string, params: any[] = []): Promise<any> {
  const reply = await ask(server, "POST", "/api/v1/query", { token: server.token(user), body: JSON.stringify({ sql: text, params }) });
  assert.equal(reply.status, 200, reply.body.toString());
  return JSON.parse(reply.body.toString());
}

function secure(port: number, options: Record<string, any> = {}): Promise<TLSSocket> {
  return new Promise((done, failed) => {
    const socket = connect({ host: "127.0.0.1", servername: "localhost", port, ca: authority.pem, ...options }, () => done(socket));
    socket.once("error", failed);
  });
}

async function wss(server: Server, user: string): Promise<Socket> {
  const socket = new Socket(new WebSocket(`wss://localhost:${server.port}/ws?token=${server.token(user)}`, { ca: authority.pem }));
  await socket.opened;
  return socket;
}

const metric = async (server: Server, name: string): Promise<number> => {
  const text = (await ask(server, "GET", "/metrics")).body.toString();
  return Number(new RegExp(`^${name} (.*)$`, "m").exec(text)?.[1]);
};

async function eventually(what: string, check: () => boolean | Promise<boolean>): Promise<void> {
  for (let i = 0; i < 200; i++) {
    if (await check()) return;
    await new Promise((wake) => setTimeout(wake, 25));
  }
  assert.fail(what);
}

describe("TLS", () => {
  it("is 1.3 with HTTP/1.1, without tickets", async () => {
    const socket = await secure(s.port, { ALPNProtocols: ["h2", "http/1.1"] });
    let sessions = 0;
    socket.on("session", () => sessions++);
    assert.equal(socket.getProtocol(), "TLSv1.3");
    assert.equal(socket.alpnProtocol, "http/1.1");
    socket.write("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    assert.match((await once(socket, "data"))[0].toString(), /^HTTP\/1\.1 200 [^]*Strict-Transport-Security: max-age=31536000/);
    assert.equal(sessions, 0);
    socket.destroy();
  });

  it("refuses 1.2, other protocols and ciphers that nobody has", async () => {
    await assert.rejects(secure(s.port, { maxVersion: "TLSv1.2" }), /protocol version/);
    await assert.rejects(secure(s.port, { ALPNProtocols: ["h2"] }), /no application protocol/);
    await assert.rejects(secure(s.port, { ca: new Authority("another").pem }), /unable to verify|self.signed/);
    assert.equal((await ask(s, "GET", "/healthz")).status, 200);
  });

  it("tells plain HTTP what is wrong, in plain", async () => {
    const answer = await fetch(`http://127.0.0.1:${s.port}/api/v1/query`, { method: "POST", body: "{}" });
    assert.equal(answer.status, 400);
    assert.match((await answer.json()).message, /TLS.*https:/);
    assert.equal(answer.headers.get("strict-transport-security"), null);
    const socket = tcpConnect(s.port, "127.0.0.1");
    socket.resume();
    socket.write(Buffer.from([0x80, 0x2e, 1, 0, 2]));
    await once(socket, "close");
  });

  it("carries requests on one connection, large bodies and answers, byte by byte too", async () => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    const before = await metric(s, "kalamdb_tls_handshakes_total");
    const text = "ab€".repeat(15000);
    for (let i = 0; i < 20; i++) {
      const reply = await ask(s, "POST", "/api/v1/query", { agent, token: s.token("large"), body: JSON.stringify({ sql: "INSERT INTO messages (conversation_id, content) VALUES ('c', $1)", params: [`${i} ${text}`] }) });
      assert.equal(reply.status, 200);
    }
    const rows = await ask(s, "POST", "/api/v1/query", { agent, token: s.token("large"), body: JSON.stringify({ sql: "SELECT content FROM messages ORDER BY msg_id" }) });
    assert.deepEqual(JSON.parse(rows.body.toString()).rows.map((row: any[]) => row[0]), Array.from({ length: 20 }, (_, i) => `${i} ${text}`));
    agent.destroy();
    assert.equal((await metric(s, "kalamdb_tls_handshakes_total")) - before, 2); /* ours and the second metric's */
    const socket = await secure(s.port);
    for (const byte of "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") socket.write(byte);
    assert.match((await once(socket, "data"))[0].toString(), /^HTTP\/1\.1 200/);
    socket.destroy();
  });

  it("carries WebSocket and Server-Sent Events", async () => {
    const socket = await wss(s, "live");
    await socket.subscribe();
    const events: string[] = [];
    const request = httpsRequest({ host: "127.0.0.1", servername: "localhost", port: s.port, path: "/api/v1/events", ca: authority.pem, headers: { authorization: `Bearer ${s.token("live")}` } });
    request.end();
    const [response] = await once(request, "response");
    response.on("data", (part: Buffer) => events.push(part.toString()));
    await eventually("the ack", () => events.join("").includes("subscribe_ack"));
    for (let i = 0; i < 50; i++) await sql(s, "live", "INSERT INTO messages (conversation_id, content) VALUES ('c', $1)", [`message ${i} ${"x".repeat(i * 1000)}`]);
    const got = await socket.take(50);
    assert.deepEqual(got.map((m) => m.seq), Array.from({ length: 50 }, (_, i) => i + 1));
    assert.ok(got.every((m, i) => m.message.content === `message ${i} ${"x".repeat(i * 1000)}`));
    await eventually("all events", () => events.join("").includes("message 49 "));
    request.destroy();
    socket.close();
    assert.equal((await socket.closing()).code, 1005);
  });

  it("carries files, slowly read too, and ranges of them", async () => {
    const bytes = Buffer.alloc(8 << 20);
    for (let i = 0; i < bytes.length; i += 4) bytes.writeUInt32LE((i * 2654435761) >>> 0, i);
    const boundary = "b0undary";
    const body = Buffer.concat([Buffer.from(`--${boundary}\r\nContent-Disposition: form-data; name="conversation_id"\r\n\r\nc\r\n--${boundary}\r\nContent-Disposition: form-data; name="file"; filename="x.bin"\r\n\r\n`), bytes, Buffer.from(`\r\n--${boundary}--\r\n`)]);
    const up = await ask(s, "POST", "/api/v1/media", { token: s.token("files"), body, headers: { "content-type": `multipart/form-data; boundary=${boundary}` } });
    assert.equal(up.status, 200, up.body.toString());
    const path = `/api/v1/content/${JSON.parse(up.body.toString()).content_ref}`;
    assert.ok((await ask(s, "GET", path, { token: s.token("files") })).body.equals(bytes));
    const part = await ask(s, "GET", path, { token: s.token("files"), headers: { range: "bytes=100000-200000" } });
    assert.equal(part.status, 206);
    assert.ok(part.body.equals(bytes.subarray(100000, 200001)));
    const request = httpsRequest({ host: "127.0.0.1", servername: "localhost", port: s.port, path, ca: authority.pem, headers: { authorization: `Bearer ${s.token("files")}` } });
    request.end();
    const [response] = await once(request, "response");
    const parts: Buffer[] = [];
    for await (const piece of response) {
      parts.push(piece);
      if (parts.length % 50 === 0) await new Promise((wake) => setTimeout(wake, 5));
    }
    assert.ok(Buffer.concat(parts).equals(bytes));
  });

  it("carries a streamed reply", async () => {
    const lines = [{ type: "stream_begin", id: "r", conversationId: "streamed" }];
    const request = httpsRequest({ host: "127.0.0.1", servername: "localhost", port: s.port, method: "POST", path: "/api/v1/messages/stream", ca: authority.pem, headers: { authorization: `Bearer ${s.token("stream")}`, "content-type": "application/x-ndjson" } });
    request.write(`${JSON.stringify(lines[0])}\n`);
    const [response] = await once(request, "response");
    let text = "";
    response.on("data", (part: Buffer) => (text += part));
    await eventually("the ack", () => text.includes("stream_ack"));
    const msgId = JSON.parse(text.split("\n")[0]).msgId;
    request.write(`${JSON.stringify({ type: "append", msgId, offset: 0, text: "hello" })}\n`);
    await eventually("an append", () => text.includes("append_ack"));
    request.end(`${JSON.stringify({ type: "stream_end", msgId })}\n`);
    await once(response, "end");
    assert.equal((await sql(s, "stream", "SELECT content FROM messages")).rows[0][0], "hello");
  });

  it("ends with close_notify", () => {
    const said = spawnSync("openssl", ["s_client", "-connect", `127.0.0.1:${s.port}`, "-tls1_3", "-ign_eof", "-msg"], {
      input: "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
      encoding: "utf8",
    });
    assert.match(said.stdout, /HTTP\/1\.1 200/);
    assert.match(said.stdout, /<<< TLS 1\.[23], Alert .*warning close_notify/);
  });

  it("takes nothing that was cut off for whole, and counts it", async () => {
    const upstreams: TcpSocket[] = [];
    const relay = createServer((client) => {
      const upstream = tcpConnect(s.port, "127.0.0.1");
      upstreams.push(upstream);
      client.on("data", (part) => upstream.write(part));
      upstream.on("data", (part) => client.write(part));
      upstream.on("error", () => {});
      upstream.on("close", () => client.destroy());
      client.on("error", () => {});
    });
    await new Promise<void>((done) => relay.listen(0, "127.0.0.1", done));
    const before = await metric(s, "kalamdb_tls_truncated_total");
    const socket = await secure((relay.address() as any).port);
    socket.on("error", () => {});
    const body = JSON.stringify({ sql: "INSERT INTO messages (conversation_id, content) VALUES ('c', 'cut')" });
    socket.write(`POST /api/v1/query HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${s.token("cut")}\r\nContent-Length: ${body.length + 1}\r\n\r\n${body}`);
    await new Promise((wake) => setTimeout(wake, 100));
    upstreams[0].end(); /* a FIN that no close_notify announced */
    await once(socket, "close");
    assert.equal(await metric(s, "kalamdb_tls_truncated_total"), before + 1);
    assert.equal((await sql(s, "cut", "SELECT count(*) FROM messages")).rows[0][0], 0);
    relay.close();
  });

  it("survives rubbish at any moment", async () => {
    const before = await metric(s, "kalamdb_tls_handshakes_failed_total");
    for (let i = 0; i < 60; i++) {
      const socket = tcpConnect(s.port, "127.0.0.1");
      socket.on("error", () => {});
      const rubbish = Buffer.alloc(5 + ((i * 97) % 600), (i * 31) & 255);
      rubbish.set([0x16, 3, 1, 0, i * 4], 0);
      socket.resume();
      socket.write(rubbish);
      socket.end();
      await once(socket, "close");
    }
    assert.ok((await metric(s, "kalamdb_tls_handshakes_failed_total")) > before);
    assert.equal((await ask(s, "GET", "/healthz")).status, 200);
  });
});

describe("two listeners", () => {
  it("speak plain and TLS side by side", async () => {
    const both = await Server.start({ ...serving(pair), KALAMDB_TLS_LISTEN: "127.0.0.1:0", KALAMDB_HSTS_MAX_AGE_S: "0" });
    const port = both.log.find((line) => line.event === "started").tls_port;
    assert.notEqual(port, both.port);
    const id = await both.say("alice", "c", "plain");
    const reply = await ask(both, "POST", "/api/v1/query", { port, token: both.token("alice"), body: JSON.stringify({ sql: "SELECT msg_id FROM messages" }) });
    assert.equal(JSON.parse(reply.body.toString()).rows[0][0], id);
    assert.equal(reply.headers["strict-transport-security"], undefined);
    assert.equal(await both.stop(), 0);
    await both.destroy();
  });

  it("warn when tokens would cross a network in the clear", async () => {
    const open = await Server.start({}, ["--listen", "0.0.0.0:0"]);
    assert.ok(open.log.some((line) => line.event === "plain_http_on_the_network"));
    await open.destroy();
    const closed = await Server.start(serving(pair), ["--listen", "0.0.0.0:0"]);
    assert.ok(!closed.log.some((line) => line.event === "plain_http_on_the_network"));
    await closed.destroy();
  });
});

describe("configuration", () => {
  const start = (env: Record<string, string>) => {
    const run = spawnSync(binary, ["serve", "--data", temporaryFolder(), "--listen", "127.0.0.1:0"], { env: { ...process.env, ...env }, encoding: "utf8", timeout: 20000 });
    return `${run.status} ${run.stderr.slice(run.stderr.indexOf("kalamdb: "))}`;
  };

  it("that cannot work stops the start and says why", () => {
    const other = authority.sign("other");
    assert.match(start({ KALAMDB_TLS_CERTIFICATE_FILE: pair.cert }), /^2 .*tls_key_file is missing/);
    assert.match(start({ KALAMDB_TLS_LISTEN: "127.0.0.1:0" }), /^2 .*tls_certificate_file/);
    assert.match(start({ ...serving(pair), KALAMDB_TLS_CLIENT_AUTH: "required" }), /^2 .*tls_client_ca_file is missing/);
    assert.match(start({ ...serving(pair), KALAMDB_TLS_CLIENT_CA_FILE: authority.file }), /^2 .*tls_client_auth is off/);
    assert.match(start(serving({ cert: pair.cert, key: other.key })), /^2 .*not the key of the certificate/);
    assert.match(start(serving({ cert: "/nonexistent.pem", key: pair.key })), /^2 .*No such file/);
    assert.match(start(serving({ cert: pair.key, key: pair.key })), /^2 .*tls_certificate_file/);
    assert.match(start(serving({ cert: pair.cert, key: pair.cert })), /^2 .*can be read by others/);
    const open = join(authority.folder, "open.key");
    copyFileSync(pair.key, open);
    chmodSync(open, 0o644);
    assert.match(start(serving({ cert: pair.cert, key: open })), /^2 .*can be read by others[^]*chmod 600/);
    const locked = join(authority.folder, "locked.key");
    execFileSync("openssl", ["pkey", "-in", pair.key, "-aes256", "-passout", "pass:secret", "-out", locked]);
    chmodSync(locked, 0o600);
    assert.match(start(serving({ cert: pair.cert, key: locked })), /^2 .*passphrase/);
  });
});

describe("client certificates", () => {
  it("are asked for, and must be of the authority", async () => {
    const clients = new Authority("clients");
    const mine = clients.sign("client"), stranger = authority.sign("stranger");
    const guarded = await Server.start({ ...serving(pair), KALAMDB_TLS_CLIENT_AUTH: "required", KALAMDB_TLS_CLIENT_CA_FILE: clients.file });
    assert.equal((await ask(guarded, "GET", "/healthz", { client: mine })).status, 200);
    await assert.rejects(ask(guarded, "GET", "/healthz"), /certificate required|ECONNRESET|socket hang up/);
    await assert.rejects(ask(guarded, "GET", "/healthz", { client: stranger }), /alert|ECONNRESET|socket hang up/);
    /* It opens the door and is nobody's identity. */
    assert.equal((await ask(guarded, "POST", "/api/v1/query", { client: mine, body: "{}" })).status, 401);
    await guarded.destroy();
    const asked = await Server.start({ ...serving(pair), KALAMDB_TLS_CLIENT_AUTH: "optional", KALAMDB_TLS_CLIENT_CA_FILE: clients.file });
    assert.equal((await ask(asked, "GET", "/healthz")).status, 200);
    assert.equal((await ask(asked, "GET", "/healthz", { client: mine })).status, 200);
    await assert.rejects(ask(asked, "GET", "/healthz", { client: stranger }), /alert|ECONNRESET|socket hang up/);
    await asked.destroy();
  });
});

describe("a new certificate", () => {
  const serial = async (server: Server) => {
    const socket = await secure(server.port);
    const number = socket.getPeerCertificate().serialNumber;
    socket.destroy();
    return number;
  };
  const replace = (from: Pair, to: Pair) => {
    for (const part of ["key", "cert"] as const) {
      copyFileSync(from[part], `${to[part]}.new`);
      chmodSync(`${to[part]}.new`, 0o600);
      renameSync(`${to[part]}.new`, to[part]);
    }
  };

  it("is taken at SIGHUP; open connections stay; a broken one changes nothing", async () => {
    const live = authority.sign("live-1");
    const server = await Server.start({ ...serving(live), KALAMDB_TLS_CHECK_MS: "0" });
    const first = await serial(server);
    const socket = await wss(server, "alice");
    await socket.subscribe();
    replace(authority.sign("live-2", { rsa: true }), live);
    assert.equal(await serial(server), first);
    server.child.kill("SIGHUP");
    await eventually("the reload", () => server.log.some((line) => line.event === "certificate_reloaded"));
    const second = await serial(server);
    assert.notEqual(second, first);
    writeFileSync(live.key, "-----BEGIN PRIVATE KEY-----\nrubbish\n-----END PRIVATE KEY-----\n");
    server.child.kill("SIGHUP");
    await eventually("the refusal", () => server.log.some((line) => line.event === "certificate_not_reloaded"));
    assert.ok(!JSON.stringify(server.log).includes("rubbish"));
    assert.equal(await serial(server), second);
    await sql(server, "alice", "INSERT INTO messages (conversation_id, content) VALUES ('c', 'after it all')");
    assert.equal((await socket.next()).message.content, "after it all");
    assert.equal(await server.stop(), 0);
    assert.equal((await socket.closing()).code, 1001);
    await server.destroy();
  });

  it("is noticed by itself", async () => {
    const live = authority.sign("live-3");
    const server = await Server.start({ ...serving(live), KALAMDB_TLS_CHECK_MS: "50" });
    const first = await serial(server);
    replace(authority.sign("live-4"), live);
    await eventually("the new one", async () => (await serial(server)) !== first);
    await server.destroy();
  });

  it("that ends soon is told in the log and the metrics", async () => {
    const server = await Server.start(serving(authority.sign("short", { days: 3 })));
    assert.ok(server.log.some((line) => line.event === "certificate_expires_soon" && line.days <= 3));
    const ends = await metric(server, "kalamdb_tls_certificate_expires_seconds");
    assert.ok(Math.abs(ends - Date.now() / 1000 - 3 * 86400) < 600, String(ends));
    await server.destroy();
  });
});

describe("floods of handshakes", () => {
  it("leave room for others, bounded in number and time", async () => {
    const server = await Server.start({ ...serving(pair), KALAMDB_MAX_TLS_HANDSHAKES: "20", KALAMDB_TLS_HANDSHAKE_TIMEOUT_MS: "1500", KALAMDB_LOOPS: "1" });
    const held: TcpSocket[] = [];
    let closed = 0;
    for (let i = 0; i < 200; i++) {
      const socket = tcpConnect(server.port, "127.0.0.1");
      socket.on("error", () => {});
      socket.on("close", () => closed++);
      socket.on("connect", () => socket.write(Buffer.from([0x16, 3, 1, 1, 0, 1]))); /* a first message that never ends */
      held.push(socket);
    }
    await eventually("the oldest went", () => closed >= 180);
    assert.equal((await ask(server, "GET", "/healthz")).status, 200);
    await eventually("the rest were late", () => closed === 200);
    const answers = await Promise.all(Array.from({ length: 20 }, () => ask(server, "GET", "/healthz")));
    assert.ok(answers.every((reply) => reply.status === 200));
    assert.ok((await metric(server, "kalamdb_tls_handshakes_failed_total")) >= 200);
    await server.destroy();
  });
});

describe("the command line", () => {
  it("finds its own server by its key, whatever its name, and others by an authority", async () => {
    const server = await Server.start(serving(pair));
    await sql(server, "alice", "INSERT INTO messages (conversation_id, content) VALUES ('c', 'exported')");
    const run = (...args: string[]) => spawnSync(binary, args, { encoding: "utf8", env: process.env });
    const file = join(temporaryFolder(), "alice.tar");
    const local = run("export", "--data", server.data, "--user", "alice", "-o", file);
    assert.equal(local.status, 0, local.stderr);
    assert.ok(statSync(file).size > 1000);
    const backup = run("backup", "--data", server.data, "--to", join(temporaryFolder(), "b"));
    assert.equal(backup.status, 0, backup.stderr);
    const url = `https://localhost:${server.port}`, token = server.token("op", "service");
    const trusted = run("export", "--user", "alice", "-o", `${file}.2`, "--url", url, "--token", token, "--ca", authority.file);
    assert.equal(trusted.status, 0, trusted.stderr);
    assert.ok(statSync(`${file}.2`).size > 1000);
    const brought = run("import", "--user", "bob", file, "--url", url, "--token", token, "--ca", authority.file);
    assert.match(brought.stdout, /bob: 1 messages/);
    const strange = run("export", "--user", "alice", "-o", `${file}.3`, "--url", url, "--token", token);
    assert.notEqual(strange.status, 0);
    assert.match(strange.stderr, /not who it should be/);
    assert.ok(!existsSync(`${file}.3`));
    const address = join(server.data, ".kalamdb/address");
    writeFileSync(address, readFileSync(address, "utf8").replace(/tls ./, (m) => `tls ${m.endsWith("0") ? "1" : "0"}`));
    const impostor = run("backup", "--data", server.data, "--to", join(temporaryFolder(), "b"));
    assert.match(impostor.stderr, /not the server that left its address/);
    await server.destroy();
  });
});
