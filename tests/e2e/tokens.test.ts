// Tokens as issuers sign them: asymmetric keys by PEM and JWKS, rotation, revocation, and what becomes of those who
// are connected when their token ends.
import assert from "node:assert/strict";
import { generateKeyPairSync, type KeyObject } from "node:crypto";
import { renameSync, writeFileSync } from "node:fs";
import { request } from "node:http";
import { join } from "node:path";
import { test } from "node:test";
import { claims, mint, Server, temporaryFolder, type Socket } from "./harness.ts";

const pem = (key: KeyObject) => key.export({ type: "spki", format: "pem" }) as string;
const now = () => Math.floor(Date.now() / 1000);

async function status(server: Server, token: string): Promise<number> {
  return (await server.request("POST", "/api/v1/query", { token, body: { sql: "SELECT 1" } })).status;
}

function writeJwks(path: string, keys: Record<string, KeyObject>): void {
  const all = Object.entries(keys).map(([kid, key]) => ({ ...key.export({ format: "jwk" }), kid, use: "sig" }));
  writeFileSync(`${path}.new`, JSON.stringify({ keys: all }));
  renameSync(`${path}.new`, path);
}

async function until(what: () => Promise<boolean>, ms = 15000): Promise<void> {
  for (const end = Date.now() + ms; !(await what()); await new Promise((done) => setTimeout(done, 100)))
    if (Date.now() > end) throw new Error("it did not come to pass");
}

async function closedWith(socket: Socket, code: number, ms = 10000): Promise<string> {
  const closed = await socket.closing(ms);
  assert.equal(closed.code, code);
  return closed.reason;
}

test("RS256, ES256 and EdDSA by PEM; the public key is no HMAC secret", async () => {
  const pairs = [generateKeyPairSync("rsa", { modulusLength: 2048 }), generateKeyPairSync("ec", { namedCurve: "P-256" }), generateKeyPairSync("ed25519")];
  const file = join(temporaryFolder(), "keys.pem");
  writeFileSync(file, pairs.map((p) => pem(p.publicKey)).join("\n"));
  const server = await Server.start({ KALAMDB_JWT_PUBLIC_KEY_FILE: file, KALAMDB_JWT_ISSUER: "https://issuer", KALAMDB_JWT_AUDIENCE: "kalamdb" });
  const good = { sub: "alice", iss: "https://issuer", aud: ["other", "kalamdb"] };
  for (const { privateKey, publicKey } of pairs) {
    assert.equal(await status(server, mint(privateKey, good)), 200);
    assert.equal(await status(server, mint(privateKey, good, { typ: "at+jwt" })), 200);
    assert.equal(await status(server, mint(privateKey, good, { typ: "dpop+jwt" })), 401);
    assert.equal(await status(server, mint(privateKey, { ...good, iss: "https://else" })), 401);
    assert.equal(await status(server, mint(privateKey, { ...good, aud: "other" })), 401);
    assert.equal(await status(server, mint(privateKey, { ...good, exp: now() - 60 })), 401);
    assert.equal(await status(server, mint(privateKey, { ...good, nbf: now() + 60 })), 401);
    assert.equal(await status(server, mint(privateKey, good, { alg: "none" })), 401);
    assert.equal(await status(server, mint(privateKey, good, { crit: ["exp"] })), 401);
    for (const text of [pem(publicKey), pem(publicKey).trim()]) assert.equal(await status(server, mint(text, good)), 401);
  }
  assert.equal(await status(server, mint(generateKeyPairSync("ed25519").privateKey, good)), 401);
  assert.equal(await status(server, mint(pairs[2].privateKey, { ...good, x: "y".repeat(8192) })), 401);
  await server.destroy();
});

test("a JWKS in the place of the PEM file counts as one, and a PEM may take its place", async () => {
  const path = join(temporaryFolder(), "keys");
  const pairs = [generateKeyPairSync("rsa", { modulusLength: 2048 }), generateKeyPairSync("ec", { namedCurve: "P-256" }), generateKeyPairSync("ed25519")];
  writeJwks(path, Object.fromEntries(pairs.map((p, i) => [`k${i}`, p.publicKey])));
  const server = await Server.start({ KALAMDB_JWT_PUBLIC_KEY_FILE: path });
  for (const [i, { privateKey }] of pairs.entries()) {
    assert.equal(await status(server, mint(privateKey, { sub: "alice" }, { kid: `k${i}` })), 200);
    assert.equal(await status(server, mint(privateKey, { sub: "alice" }, { kid: "other" })), 401);
  }
  writeFileSync(path, pem(pairs[2].publicKey));
  server.child.kill("SIGHUP");
  await until(async () => (await status(server, mint(pairs[0].privateKey, { sub: "alice" }))) === 401);
  assert.equal(await status(server, mint(pairs[2].privateKey, { sub: "alice" }, { kid: "a PEM has no names" })), 200);
  await server.destroy();
});

test("a weak key, a private key or a broken file stops the start", async () => {
  const folder = temporaryFolder();
  const bad: [string, RegExp][] = [
    [pem(generateKeyPairSync("rsa", { modulusLength: 1024 }).publicKey), /1024 bits/],
    [generateKeyPairSync("ed25519").privateKey.export({ type: "pkcs8", format: "pem" }) as string, /private key/],
    ["no PEM at all", /no public key/],
  ];
  for (const [text, why] of bad) {
    writeFileSync(join(folder, "key.pem"), text);
    await assert.rejects(Server.start({ KALAMDB_JWT_PUBLIC_KEY_FILE: join(folder, "key.pem") }), why);
  }
  writeFileSync(join(folder, "jwks.json"), JSON.stringify({ keys: [generateKeyPairSync("ed25519").privateKey.export({ format: "jwk" })] }));
  await assert.rejects(Server.start({ KALAMDB_JWKS_FILE: join(folder, "jwks.json") }), /secret/);
});

test("keys rotate while the server runs; a broken file changes nothing; SIGHUP reads at once", async () => {
  const path = join(temporaryFolder(), "jwks.json");
  const old = generateKeyPairSync("ed25519"), next = generateKeyPairSync("ec", { namedCurve: "P-256" });
  writeJwks(path, { old: old.publicKey });
  const server = await Server.start({ KALAMDB_JWKS_FILE: path });
  const byOld = mint(old.privateKey, { sub: "alice" }, { kid: "old" }), byNext = mint(next.privateKey, { sub: "alice" }, { kid: "next" });
  assert.equal(await status(server, byOld), 200);
  assert.equal(await status(server, byNext), 401);

  writeJwks(path, { old: old.publicKey, next: next.publicKey });
  await until(async () => (await status(server, byNext)) === 200);
  assert.equal(await status(server, byOld), 200);
  assert.equal(await status(server, mint(next.privateKey, { sub: "alice" }, { kid: "old" })), 401);

  writeFileSync(path, '{"keys":[{');
  server.child.kill("SIGHUP");
  await until(async () => server.log.some((l) => l.event === "jwt_keys_not_read"));
  assert.equal(await status(server, byOld), 200);
  assert.equal(await status(server, byNext), 200);

  const socket = await server.socket("alice", { query: `?token=${byOld}` });
  await socket.subscribe({ id: "s" });
  writeJwks(path, { next: next.publicKey });
  server.child.kill("SIGHUP");
  assert.equal(await closedWith(socket, 4401), "the token was revoked");
  assert.equal(await status(server, byOld), 401);
  assert.equal(await status(server, byNext), 200);
  await server.destroy();
});

test("a generated secret opens nothing beside public keys, a configured one does", async () => {
  const data = temporaryFolder();
  const first = await Server.start({}, [], data);
  const made = first.token("alice");
  assert.equal(await status(first, made), 200);
  await first.stop();
  const { publicKey, privateKey } = generateKeyPairSync("ed25519");
  writeFileSync(join(data, "key.pem"), pem(publicKey));
  const second = await Server.start({ KALAMDB_JWT_PUBLIC_KEY_FILE: join(data, "key.pem") }, [], data);
  assert.equal(await status(second, made), 401);
  assert.equal(await status(second, mint(privateKey, { sub: "alice" })), 200);
  await second.stop();
  const secret = "a secret that somebody wrote into the configuration";
  const third = await Server.start({ KALAMDB_JWT_PUBLIC_KEY_FILE: join(data, "key.pem"), KALAMDB_JWT_SECRET: secret }, [], data);
  assert.equal(await status(third, mint(secret, { sub: "alice" })), 200);
  assert.equal(await status(third, mint(privateKey, { sub: "alice" })), 200);
  await third.destroy();
});

function revoke(server: Server, body: any) {
  return server.request("POST", "/api/v1/admin/tokens/revoke", { token: server.token("operator", "admin"), body });
}

/** What comes of an event stream until it ends. */
async function events(server: Server, token: string): Promise<{ ended: Promise<void> }> {
  const response = await fetch(`${server.url}/api/v1/events`, { headers: { authorization: `Bearer ${token}` } });
  assert.equal(response.status, 200);
  const reader = response.body!.getReader();
  await reader.read();
  return {
    ended: (async () => {
      try {
        while (!(await reader.read()).done);
      } catch {}
    })(),
  };
}

test("a revoked token ends at once, everywhere, and stays revoked after a restart", async () => {
  const server = await Server.start({ KALAMDB_LOOPS: "4" });
  const token = server.token("alice"), other = server.token("alice", "user", "23h");
  const { jti, exp } = claims(token);
  const sockets = [];
  for (let i = 0; i < 8; i++) sockets.push(await server.socket("alice", { query: `?token=${token}` }));
  for (const [i, s] of sockets.entries()) await s.subscribe({ id: `s${i}` });
  const stays = await server.socket("alice", { query: `?token=${other}` });
  const stream = await events(server, token);
  for (let i = 0; i < 20; i++) assert.equal(await status(server, token), 200); // in every loop's cache
  const ticketAnswer = await server.request("POST", "/api/v1/tickets", { token, body: { content_ref: "alice/msg-1.bin" } });

  const answer = await revoke(server, { jti, expires: exp });
  assert.equal(answer.status, 200, JSON.stringify(answer.body));
  for (let i = 0; i < 20; i++) assert.equal(await status(server, token), 401);
  for (const s of sockets) assert.equal(await closedWith(s, 4401), "the token was revoked");
  await stream.ended;
  assert.equal(stays.closed, undefined);
  assert.equal(await status(server, other), 200);
  if (ticketAnswer.status === 200) assert.equal((await server.request("GET", `/api/v1/content/alice/msg-1.bin?ticket=${ticketAnswer.body.ticket}`)).status, 401);
  stays.close();

  const list = await server.request("GET", "/api/v1/admin/tokens/revoke", { token: server.token("operator", "admin") });
  assert.deepEqual(list.body.tokens.map((t: any) => [t.jti, t.expires]), [[jti, exp]]);
  await server.kill();
  await server.up();
  assert.equal(await status(server, token), 401);
  assert.equal(await status(server, other), 200);
  await server.destroy();
});

test("revoking a user ends all tokens of before, not those of after", async () => {
  const secret = "a secret that somebody wrote into the configuration";
  const server = await Server.start({ KALAMDB_JWT_SECRET: secret });
  const before = mint(secret, { sub: "alice" }), silent = mint(secret, { sub: "alice", iat: undefined }), bob = mint(secret, { sub: "bob" });
  const socket = await server.socket("alice", { query: `?token=${silent}` });
  assert.equal((await revoke(server, { user: "alice" })).status, 200);
  assert.equal(await closedWith(socket, 4401), "the token was revoked");
  assert.equal(await status(server, before), 401);
  assert.equal(await status(server, silent), 401);
  assert.equal(await status(server, bob), 200);
  assert.equal(await status(server, mint(secret, { sub: "alice", iat: now() + 5 })), 200);
  for (const body of [{}, { jti: "a" }, { jti: "a", user: "b", expires: 1 }, { jti: "", expires: 1 }, { jti: 7, expires: 1 }, { user: "ai" }, { jti: "a", expires: -1 }, { jti: "a", expires: "soon" }, []])
    assert.equal((await revoke(server, body)).status, 400, JSON.stringify(body));
  for (const role of ["user", "service"]) {
    const answer = await server.request("POST", "/api/v1/admin/tokens/revoke", { token: server.token("mallory", role), body: { user: "bob" } });
    assert.equal(answer.status, 403);
  }
  await server.destroy();
});

test("an NDJSON producer and an export end with their token", async () => {
  const server = await Server.start();
  const token = server.token("alice");
  const req = request(`${server.url}/api/v1/messages/stream`, { method: "POST", headers: { authorization: `Bearer ${token}` } });
  req.on("error", () => {});
  const cut = new Promise<void>((done) => {
    req.on("response", (res) => res.on("error", () => {}).on("close", () => done()));
  });
  const answered = new Promise<void>((done) => req.on("response", (res) => res.once("data", () => done())));
  req.write('{"type":"stream_begin","conversationId":"c","from":"ai"}\n');
  await answered;
  const { jti, exp } = claims(token);
  assert.equal((await revoke(server, { jti, expires: exp })).status, 200);
  await cut; // the body was never ended by us
  assert.equal((await server.request("GET", "/api/v1/export", { token })).status, 401);
  await server.destroy();
});

test("an export under way ends with its token", async () => {
  const server = await Server.start();
  for (let i = 0; i < 24; i++) await server.say("alice", "c", "x".repeat(900_000) + i);
  const token = server.token("alice");
  const req = request(`${server.url}/api/v1/export`, { headers: { authorization: `Bearer ${token}` } });
  req.on("error", () => {}).end();
  const answer: any = await new Promise((done) => req.on("response", done));
  answer.on("error", () => {}).pause(); // most of it waits for this reader
  const { jti, exp } = claims(token);
  assert.equal((await revoke(server, { jti, expires: exp })).status, 200);
  const closed = new Promise<void>((done) => answer.on("close", () => done()));
  answer.resume();
  await closed;
  assert.equal(answer.complete, false);
  await server.destroy();
});

test("connections end when their token does", async () => {
  const secret = "a secret that somebody wrote into the configuration";
  const server = await Server.start({ KALAMDB_JWT_SECRET: secret, KALAMDB_JWT_LEEWAY_S: "0" });
  const short = mint(secret, { sub: "alice", exp: now() + 3 });
  const socket = await server.socket("alice", { query: `?token=${short}` });
  await socket.subscribe({ id: "s" });
  const renewed = await server.socket("alice", { query: `?token=${short}` });
  renewed.send({ type: "auth", token: mint(secret, { sub: "alice" }) });
  const stream = await events(server, short);
  assert.equal(await closedWith(socket, 4401), "token expired");
  await stream.ended;
  assert.ok(now() >= claims(short).exp);
  assert.equal(await status(server, short), 401);
  await renewed.subscribe({ id: "s" }); // a token that is renewed in time keeps the connection
  assert.equal(renewed.closed, undefined);
  renewed.close();
  await server.destroy();
});
