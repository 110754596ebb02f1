// Contract section 4, sentence by sentence, where a file's life depends on who holds a row: members who come and go,
// edits by others, the last one out; refs that are tricks; retries at once.
import assert from "node:assert/strict";
import { createHash, createHmac, randomBytes } from "node:crypto";
import { existsSync, readFileSync, readdirSync, statSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { before, describe, it } from "node:test";
import { Server, sealedSize, type Answer } from "./harness.ts";

const LARGE = 102400;
let s: Server;
before(async () => {
  s = await Server.start({ KALAMDB_JWT_SECRET: "a secret of at least thirty-two bytes, for tests" });
});

const sleep = (ms: number) => new Promise((done) => setTimeout(done, ms));
const big = (key: string, n = LARGE) => createHash("sha256").update(key).digest("hex").repeat(Math.ceil(n / 64)).slice(0, n);

function files(server = s): string[] {
  return (readdirSync(server.data, { recursive: true }) as string[]).filter((f) => /(^|\/)(media|msg)-\d+\./.test(f)).sort();
}

async function until(what: string, ok: () => boolean | Promise<boolean>): Promise<void> {
  for (let i = 0; i < 250; i++) {
    if (await ok()) return;
    await sleep(20);
  }
  assert.fail(what);
}

async function status(user: string, ref: string, role = "user"): Promise<number> {
  const answer = await fetch(`${s.url}/api/v1/content/${ref}`, { headers: { authorization: `Bearer ${s.token(user, role)}` } });
  await answer.arrayBuffer();
  return answer.status;
}

async function upload(user: string, bytes: Uint8Array | string, fields: Record<string, string>): Promise<Answer> {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  form.append("file", new Blob([bytes as BlobPart]), "x");
  const answer = await fetch(`${s.url}/api/v1/media`, { method: "POST", headers: { authorization: `Bearer ${s.token(user)}` }, body: form });
  return { status: answer.status, headers: answer.headers, body: await answer.json() };
}

const refsOf = async (user: string, conversation: string): Promise<any[]> =>
  (await s.sql(user, "SELECT content_ref FROM messages WHERE conversation_id = $1 ORDER BY msg_id", [conversation])).rows.map((r: any[]) => r[0]);

async function group(id: string, owner: string, ...members: string[]): Promise<void> {
  const answer = await s.request("POST", "/api/v1/conversations", {
    token: s.token(owner),
    body: { conversation_id: id, conversation_type: "group", members },
  });
  assert.ok(answer.status < 300, JSON.stringify(answer.body));
}

/** The request target as it is written, which fetch would tidy up. */
function raw(user: string, target: string, more = ""): Promise<string> {
  return new Promise((done, failed) => {
    const socket = connect(s.port, "127.0.0.1", () => {
      socket.write(`GET ${target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAuthorization: Bearer ${s.token(user)}\r\n${more}\r\n`, "latin1");
    });
    let text = "";
    socket.on("data", (d) => (text += d.toString("latin1")));
    socket.on("error", failed);
    socket.on("close", () => done(text));
  });
}

async function clean(server = s): Promise<void> {
  const answer = await server.request("POST", "/api/v1/admin/sweep", { token: server.token("operator", "admin"), body: {} });
  assert.equal(answer.status, 200);
  const { refsRepaired, blobsRepaired, blobsMissing, filesSetAside } = answer.body;
  assert.deepEqual([refsRepaired, blobsRepaired, blobsMissing, filesSetAside], [0, 0, 0, 0], JSON.stringify(answer.body));
}

describe("the boundary", () => {
  it("is large_content_bytes of UTF-8, and max_content_bytes ends it", async () => {
    const cases: [string, boolean][] = [
      ["x".repeat(LARGE - 1), false],
      ["x".repeat(LARGE), true],
      ["ä".repeat(LARGE / 2 - 1) + "x", false],
      ["ä".repeat(LARGE / 2), true],
      ["😀".repeat(LARGE / 4), true],
      ["x".repeat(1 << 20), true],
    ];
    for (const [text, large] of cases) {
      const id = await s.say("edge", "c", text);
      const [[content, ref]] = (await s.sql("edge", "SELECT content, content_ref FROM messages WHERE msg_id = $1", [id])).rows;
      assert.equal(ref, large ? `edge/msg-${id}.bin` : null);
      if (!large) assert.ok(content === text);
      else {
        assert.ok(text.startsWith(content) && Buffer.byteLength(content) <= 1024 && Buffer.byteLength(content) > 1020);
        assert.ok((await s.content("edge", ref!)).equals(Buffer.from(text)));
        const stored = readFileSync(join(s.data, ref!));
        assert.ok(stored.length === sealedSize(Buffer.byteLength(text)) && !stored.includes(text.slice(0, 16)));
      }
    }
    for (const text of ["x".repeat((1 << 20) + 1), "😀".repeat(1 << 18) + "y"]) {
      const before = files().length;
      for (const sql of ["INSERT INTO messages (conversation_id, content) VALUES ('c', $1)", "UPDATE messages SET content = $1"]) {
        const answer = await s.query("edge", sql, [text]);
        assert.deepEqual([answer.status, answer.body.error], [413, "TOO_LARGE"], sql);
      }
      assert.equal(files().length, before);
    }
    // the cut falls on each place of a character
    for (let i = 0; i < 4; i++) {
      const text = "x".repeat(1024 - i) + "😀".repeat(30000);
      const id = await s.say("edge", "cut", text);
      const [[content]] = (await s.sql("edge", "SELECT content FROM messages WHERE msg_id = $1", [id])).rows;
      assert.equal(content, "x".repeat(1024 - i));
    }
    await s.sql("edge", "DELETE FROM conversations");
    await until("the files go", () => files().every((f) => !f.startsWith("edge/")));
  });

  it("counts for every way of writing", async () => {
    const n = LARGE + 1;
    await s.sql("ways", "INSERT INTO conversations (conversation_id, content) VALUES ('c', $1)", [big("a", n)]);
    await s.sql("ways", "INSERT INTO messages (conversation_id, content) SELECT 'c', repeat('ab', 60000)");
    await s.sql("ways", "INSERT INTO messages (conversation_id, content) VALUES ('c', 'small'), ('c', $1), ('c', $2)", [big("b", n), big("c", n)]);
    const rows = (await s.sql("ways", "INSERT INTO messages (conversation_id, content) VALUES ('c', $1) RETURNING content, content_ref, msg_id", [big("d", n)])).rows;
    assert.equal(rows[0][0], big("d", 1024));
    assert.equal(rows[0][1], `ways/msg-${rows[0][2]}.bin`);
    assert.equal((await refsOf("ways", "c")).filter((r) => r !== null).length, 5);
    await s.sql("ways", "UPDATE messages SET content = repeat(conversation_id, 150000) WHERE content = 'small'");
    assert.equal((await refsOf("ways", "c")).filter((r) => r !== null).length, 6);
    // all or nothing
    const before = files().length;
    const answer = await s.query("ways", "INSERT INTO messages (conversation_id, content, \"from\") VALUES ('c', $1, 'ways'), ('c', $1, 'edge')", [big("e", n)]);
    assert.equal(answer.status, 403);
    const twice = await s.query("ways", "INSERT INTO messages (conversation_id, content, client_msg_id) VALUES ('c', $1, 'k'), ('c', $2, 'k')", [big("f", n), big("g", n)]);
    assert.ok([200, 409, 400].includes(twice.status));
    await s.sql("ways", "DELETE FROM messages WHERE client_msg_id = 'k'");
    await until("nothing is left", () => files().length === before);
    await s.sql("ways", "UPDATE messages SET content = 'small'");
    await until("all files go", () => files().every((f) => !f.startsWith("ways/")));
    await clean();
  });

  it("cannot be written by hand", async () => {
    await s.say("hand", "c", big("hand"));
    for (const sql of [
      "INSERT INTO messages (conversation_id, content, content_ref) VALUES ('c', 'x', 'ways/msg-1.bin')",
      "UPDATE messages SET content_ref = 'ways/msg-1.bin'",
      "UPDATE messages SET content_ref = NULL",
      "INSERT INTO conversations (conversation_id, content, content_ref) VALUES ('c', 'x', 'ways/msg-1.bin')",
    ]) {
      for (const role of ["user", "service"]) {
        const answer = await s.query("hand", sql, undefined, role);
        assert.ok(answer.status === 403 || answer.status === 400, `${sql}: ${answer.status}`);
        assert.match(answer.body.message, /content_ref/);
      }
    }
  });
});

describe("a group's file", () => {
  it("is one whatever the members, and follows who holds a row", async () => {
    const members = Array.from({ length: 40 }, (_, i) => `m${i}`);
    await group("many", "m0", ...members.slice(1));
    const id = await s.say("m0", "many", big("many"));
    const ref = `shared/conversations/many/msg-${id}.bin`;
    const media = (await upload("m1", randomBytes(70000), { conversation_id: "many" })).body.content_ref;
    assert.match(media, /^shared\/conversations\/many\/media-\d+\.bin$/);
    assert.deepEqual(files().filter((f) => f.includes("/many/")), [media, ref].sort());
    for (const m of members) assert.deepEqual([await status(m, ref), await status(m, media)], [200, 200]);
    // later: no row, no file
    await s.sql("m0", "INSERT INTO conversation_users (conversation_id, user_id) VALUES ('many', 'late')");
    assert.equal(await status("late", ref), 404);
    const second = `shared/conversations/many/msg-${await s.say("m0", "many", big("second"))}.bin`;
    assert.equal(await status("late", second), 200);
    // removed, and gone by itself: what they have stays theirs, what comes does not
    await s.sql("m0", "DELETE FROM conversation_users WHERE conversation_id = 'many' AND user_id = 'm2'");
    await s.sql("m3", "DELETE FROM conversation_users WHERE conversation_id = 'many' AND user_id = 'm3'");
    const third = `shared/conversations/many/msg-${await s.say("m0", "many", big("third"))}.bin`;
    for (const m of ["m2", "m3"]) assert.deepEqual([await status(m, ref), await status(m, third)], [200, 404], m);
    assert.equal((await upload("m2", "x", { conversation_id: "many" })).status, 403);
    // an edit of another member: the removed keep the old file
    await s.consolidate();
    await s.sql("m0", "UPDATE messages SET content = $1 WHERE msg_id = $2", [big("edited", LARGE + 7), id]);
    const [edited] = await refsOf("m5", "many");
    assert.notEqual(edited, ref);
    assert.deepEqual([await status("m5", edited), await status("m5", ref)], [200, 404]);
    assert.deepEqual([await status("m2", edited), await status("m2", ref)], [404, 200]);
    assert.deepEqual([await status("m3", edited), await status("m3", ref)], [404, 200]);
    // small, and large again, with cold copies
    await s.consolidate();
    await s.sql("m0", "UPDATE messages SET content = 'short' WHERE msg_id = $1", [id]);
    await until("the edited file goes", () => !existsSync(join(s.data, edited)));
    assert.ok(existsSync(join(s.data, ref)));
    for (const m of ["m0", "m5", "m39"]) {
      const rows = (await s.sql(m, "SELECT content, content_ref FROM messages WHERE msg_id = $1", [id])).rows;
      assert.deepEqual(rows, [["short", null]]);
    }
    await s.consolidate();
    await s.sql("m0", "UPDATE messages SET content = $1 WHERE msg_id = $2", [big("again"), id]);
    const [again] = await refsOf("m39", "many");
    assert.equal(files().filter((f) => f.includes("/many/")).length, 5);
    assert.equal(await status("m39", again), 200);
    await s.sql("m2", "DELETE FROM conversations WHERE conversation_id = 'many'");
    assert.deepEqual([await status("m2", ref), await status("m3", ref)], [404, 200]);
    await s.sql("m3", "DELETE FROM messages WHERE msg_id = $1", [id]);
    await until("the first file goes", () => !existsSync(join(s.data, ref)));
    await clean();
    // everyone's way out, one by one; the file until the last one, then the folder, too
    for (const m of [...members.slice(4), "late", "m3"]) await s.sql(m, "DELETE FROM conversations WHERE conversation_id = 'many'");
    assert.deepEqual([await status("m0", media), await status("m1", media)], [200, 200]);
    await s.consolidate();
    await s.sql("m0", "DELETE FROM conversations WHERE conversation_id = 'many'");
    assert.deepEqual([await status("m0", media), await status("m1", media)], [404, 200]);
    await s.sql("m1", "DELETE FROM conversations WHERE conversation_id = 'many'");
    assert.equal(await status("m1", media), 404);
    await until("the files go", () => files().every((f) => !f.includes("/many/")));
    await until("the folder goes", () => !existsSync(join(s.data, "shared/conversations/many")));
    await clean();
    // the id is free
    await group("many", "m7", "m8");
    const new_one = await s.say("m7", "many", big("new"));
    assert.equal(await status("m8", `shared/conversations/many/msg-${new_one}.bin`), 200);
    assert.equal(await status("m1", `shared/conversations/many/msg-${new_one}.bin`), 404);
  });

  it("goes with a deletion for everyone, cold copies and those of past members who keep theirs", async () => {
    await group("ev", "e0", "e1", "e2");
    const id = await s.say("e1", "ev", big("ev"));
    const ref = `shared/conversations/ev/msg-${id}.bin`;
    await s.consolidate();
    await s.sql("e2", "DELETE FROM conversation_users WHERE conversation_id = 'ev' AND user_id = 'e2'");
    const answer = await s.request("DELETE", `/api/v1/messages/${id}?for=everyone`, { token: s.token("e0") });
    assert.equal(answer.status, 200, JSON.stringify(answer.body));
    assert.deepEqual([await status("e0", ref), await status("e1", ref)], [404, 404]);
    const kept = (await s.sql("e2", "SELECT count(*) FROM messages WHERE conversation_id = 'ev'")).rows[0][0];
    assert.equal(await status("e2", ref), kept === 1 ? 200 : 404);
    assert.equal(existsSync(join(s.data, ref)), kept === 1);
    await clean();
  });

  it("comes to those who join a shared history", async () => {
    await group("hist", "h0");
    await s.sql("h0", `UPDATE conversations SET metadata = '{"history":"shared"}' WHERE conversation_id = 'hist'`);
    const ref = `shared/conversations/hist/msg-${await s.say("h0", "hist", big("hist"))}.bin`;
    await s.consolidate();
    await s.sql("h0", "INSERT INTO conversation_users (conversation_id, user_id) VALUES ('hist', 'h1')");
    await until("the history comes", async () => (await status("h1", ref)) === 200);
    await s.sql("h0", "DELETE FROM messages");
    assert.deepEqual([await status("h0", ref), await status("h1", ref)], [404, 200]);
    await clean();
  });

  it("keeps its name for ids that need a folder of their own spelling", async () => {
    for (const [i, id] of ["../../etc", "a/b", "ö %2F", "shared", ".", "x".repeat(255), "ü".repeat(127)].entries()) {
      await group(id, `n${i}`, "n");
      const msg = await s.say(`n${i}`, id, big(id));
      const [ref] = await refsOf("n", id);
      assert.match(ref, new RegExp(`^shared/conversations/[A-Za-z0-9_%~-]+/msg-${msg}\\.bin$`));
      assert.ok(existsSync(join(s.data, ref)));
      // the conversation "." has a folder %2E, which URL libraries take for a dot unless it is encoded once more
      assert.deepEqual([await status("n", ref.replaceAll("%", id === "." ? "%25" : "%")), await status("n", encodeURIComponent(ref)), await status("m0", ref)], [200, 200, 404]);
    }
    for (const [odd, folder] of [
      ['auth0|../"ö', "auth0%7C%2E%2E%2F%22%C3%B6"],
      ["ü".repeat(127), "%C3%BC".repeat(17).slice(0, 100) + "~" + createHash("sha256").update("ü".repeat(127)).digest("hex").slice(0, 32)],
      ["u".repeat(255), "u".repeat(100) + "~" + createHash("sha256").update("u".repeat(255)).digest("hex").slice(0, 32)],
    ]) {
      const msg = await s.say(odd, "c", big(odd));
      const [ref] = await refsOf(odd, "c");
      assert.equal(ref, `${folder}/msg-${msg}.bin`);
      assert.equal(await status(odd, ref), 200);
      const media = await upload(odd, "hello", { conversation_id: "c" });
      assert.match(media.body.content_ref, /\/media-\d+\.txt$/);
      assert.equal(await status(odd, media.body.content_ref), 200);
    }
    await clean();
  });
});

describe("an upload to a group", () => {
  it("of a stranger is refused before its bytes, and leaves nothing", async () => {
    await group("closed", "c0", "c1");
    const before = files().length;
    const part = (name: string, value: string) => `--x\r\nContent-Disposition: form-data; name="${name}"\r\n\r\n${value}\r\n`;
    const begin = (user: string, parts: string) =>
      new Promise<string>((done) => {
        const socket = connect(s.port, "127.0.0.1", () =>
          socket.write(
            `POST /api/v1/media HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAuthorization: Bearer ${s.token(user)}\r\n` +
              `Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 30000000\r\n\r\n${parts}--x\r\n` +
              'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\nfirst bytes',
          ),
        );
        let text = "";
        const timer = setTimeout(() => socket.destroy(), 700); // it waits for more
        socket.on("data", (d) => (text += d.toString("latin1")));
        socket.on("error", () => {});
        socket.on("close", () => {
          clearTimeout(timer);
          done(text);
        });
      });
    assert.match(await begin("c9", part("conversation_id", "closed")), /^HTTP\/1.1 403 [^]*c9[^]*no member of conversation/);
    assert.equal(await begin("c1", part("conversation_id", "closed")), "");
    assert.equal(await begin("c9", part("conversation_id", "open")), "");
    assert.equal(await begin("c9", part("conversation_type", "ai") + part("conversation_id", "closed")), "");
    const late = await upload("c9", randomBytes(40 << 20), { conversation_id: "closed" });
    assert.deepEqual([late.status, late.body.error], [403, "FORBIDDEN"]);
    // an ai conversation of that id is one's own
    const own = await upload("c9", "mine", { conversation_id: "closed", conversation_type: "ai" });
    assert.equal(own.status, 200, JSON.stringify(own.body));
    assert.match(own.body.content_ref, /^c9\//);
    // who has left may still retry what was sent before
    const first = await upload("c1", "kept", { conversation_id: "closed", client_msg_id: "k" });
    await s.sql("c1", "DELETE FROM conversations WHERE conversation_id = 'closed'");
    const again = await upload("c1", "kept", { conversation_id: "closed", client_msg_id: "k" });
    assert.deepEqual([again.status, again.body.msg_id, again.body.rowsAffected], [200, first.body.msg_id, 0], JSON.stringify(again.body));
    assert.equal((await upload("c1", "new", { conversation_id: "closed" })).status, 403);
    await until("nothing is left", () => files().length === before + 2);
    assert.deepEqual(readdirSync(join(s.data, ".kalamdb/uploads")), []);
    await clean();
  });
});

describe("a streamed reply", () => {
  it("follows the large-content rule when it ends", async () => {
    await group("flow", "f0", "f1");
    for (const conversation of ["own", "flow"])
      for (const n of [LARGE - 1, LARGE, 150000]) {
        const text = "ä".repeat(n / 2) + (n % 2 ? "x" : "");
        const half = Math.floor(text.length / 2);
        const lines: any[] = [
          { type: "stream_begin", conversationId: conversation },
          { type: "append", offset: 0, text: text.slice(0, half) },
          { type: "append", offset: Buffer.byteLength(text.slice(0, half)), text: text.slice(half) },
          { type: "stream_end" },
        ];
        const answer = await fetch(`${s.url}/api/v1/messages/stream`, {
          method: "POST",
          headers: { authorization: `Bearer ${s.token("f0")}`, "content-type": "application/x-ndjson" },
          body: lines.map((l) => JSON.stringify(l) + "\n").join(""),
        });
        const said = (await answer.text()).trim().split("\n").map((l) => JSON.parse(l));
        assert.ok(said.every((l) => l.type !== "error"), JSON.stringify(said));
        const id = said.find((l) => l.type === "stream_ack").msgId;
        for (const user of conversation === "own" ? ["f0"] : ["f0", "f1"]) {
          const [[content, ref]] = (await s.sql(user, "SELECT content, content_ref FROM messages WHERE msg_id = $1", [id])).rows;
          if (n < LARGE) {
            assert.ok(content === text && ref === null);
            continue;
          }
          assert.equal(content, "ä".repeat(512));
          assert.match(ref, conversation === "own" ? /^f0\/msg-\d+\.bin$/ : /^shared\/conversations\/flow\/msg-\d+\.bin$/);
          assert.ok((await s.content(user, ref)).equals(Buffer.from(text)));
          assert.equal(statSync(join(s.data, ref)).size, sealedSize(n));
        }
      }
    assert.equal(files().filter((f) => f.includes("/flow/")).length, 2);
    await clean();
    for (const user of ["f0", "f1"]) await s.sql(user, "DELETE FROM conversations");
    await until("the files go", () => files().every((f) => !/flow|^f0/.test(f)));
  });
});

describe("refs that are tricks", () => {
  it("open nothing, and are all the same 404", async () => {
    const id = await s.say("victim", "c", big("victim"));
    const ref = `victim/msg-${id}.bin`;
    const own = `thief/msg-${await s.say("thief", "c", big("thief"))}.bin`;
    const absent = await raw("thief", "/api/v1/content/thief/msg-1.bin");
    assert.match(absent, /^HTTP\/1.1 404 /);
    const body = absent.slice(absent.indexOf("\r\n\r\n"));
    for (const target of [
      ref,
      `thief/../${ref}`,
      `thief%2F..%2F${ref}`,
      `thief/%2e%2e/${ref}`,
      `thief/%252e%252e/${ref}`,
      `./${ref}`,
      `/${ref}`,
      `//${ref}`,
      `../content/${ref}`,
      `${own}/`,
      `${own}%00`,
      `${own}%00.png`,
      `./${own}`,
      `/${own}`,
      own.replace("/", "//"),
      own.replace("/", "/./"),
      own.replace("/", "%5C"),
      own.toUpperCase(),
      `.kalamdb/hot/CURRENT`,
      `../../../../../../etc/passwd`,
      `%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd`,
      `..%5c..%5c`,
      "",
      "thief",
      "thief/",
      "x".repeat(3000),
      "%",
      "%zz",
      "%ff%fe",
    ]) {
      const answer = await raw("thief", `/api/v1/content/${target}`);
      assert.match(answer, /^HTTP\/1.1 (404|400) /, target);
      if (answer.startsWith("HTTP/1.1 404") && target !== "") assert.equal(answer.slice(answer.indexOf("\r\n\r\n")), body, target);
    }
    assert.match(await raw("thief", `/api/v1/content/${own}`), /^HTTP\/1.1 200 /);
    for (const method of ["POST", "PUT", "DELETE", "PATCH"]) {
      const answer = await s.request(method, `/api/v1/content/${own}`, { token: s.token("thief"), body: method === "DELETE" ? undefined : {} });
      assert.equal(answer.status, 405, method);
    }
    for (const body of [{ content_ref: ref }, { content_ref: `thief/../${ref}` }, { content_ref: `${own}\0` }, { content_ref: "" }, { content_ref: "/etc/passwd" }]) {
      const answer = await s.request("POST", "/api/v1/tickets", { token: s.token("thief"), body });
      assert.ok(answer.status === 404 || answer.status === 400, JSON.stringify([body, answer.body]));
    }
    assert.equal(await status("anyone", ref, "service"), 200);
    assert.equal(await status("anyone", ref, "admin"), 200);
  });
});

describe("conditions", () => {
  it("are RFC 9110's", async () => {
    const text = big("ranges", 150000);
    const ref = `rng/msg-${await s.say("rng", "c", text)}.bin`;
    const tag = `"${createHash("sha256").update(text).digest("hex")}"`;
    const get = async (headers: Record<string, string>, method = "GET") => {
      const answer = await fetch(`${s.url}/api/v1/content/${ref}`, { method, headers: { authorization: `Bearer ${s.token("rng")}`, ...headers } });
      return [answer.status, (await answer.text()).length, answer.headers.get("content-range"), answer.headers.get("content-length")];
    };
    const all = [200, 150000, null, "150000"];
    assert.deepEqual(await get({}), all);
    assert.deepEqual(await get({}, "HEAD"), [200, 0, null, "150000"]);
    assert.deepEqual(await get({ range: "bytes=0-9" }, "HEAD"), [200, 0, null, "150000"]);
    assert.deepEqual(await get({ range: "bytes=149999-" }), [206, 1, "bytes 149999-149999/150000", "1"]);
    assert.deepEqual(await get({ range: "bytes=-0" }), [416, (await get({ range: "bytes=-0" }))[1], "bytes */150000", (await get({ range: "bytes=-0" }))[3]]);
    for (const bad of ["bytes=5-2", "bytes=a-b", "lines=0-1", "bytes=", "bytes=--1", "bytes=99999999999999999999-", "bytes 0-1"])
      assert.ok([200, 416].includes((await get({ range: bad }))[0] as number), bad);
    assert.deepEqual(await get({ range: "bytes=0-1", "if-range": tag }), [206, 2, "bytes 0-1/150000", "2"]);
    assert.deepEqual(await get({ range: "bytes=0-1", "if-range": `W/${tag}` }), all);
    assert.deepEqual(await get({ range: "bytes=0-1", "if-range": "Wed, 21 Oct 2015 07:28:00 GMT" }), all);
    for (const match of [tag, `W/${tag}`, `"other", ${tag}`, "*"]) {
      assert.equal((await get({ "if-none-match": match }))[0], 304, match);
      assert.equal((await get({ "if-none-match": match }, "HEAD"))[0], 304, match);
    }
    assert.deepEqual(await get({ "if-none-match": '"other"' }), all);
    assert.equal((await get({ "if-none-match": tag, range: "bytes=0-1" }))[0], 304);
    assert.equal((await get({ "if-match": tag }))[0], 200);
    assert.equal((await get({ "if-match": "*" }))[0], 200);
    assert.equal((await get({ "if-match": `W/${tag}` }))[0], 412);
    const full = await fetch(`${s.url}/api/v1/content/${ref}`, { headers: { authorization: `Bearer ${s.token("rng")}` } });
    await full.arrayBuffer();
    assert.equal(full.headers.get("etag"), tag);
    assert.equal(full.headers.get("x-content-type-options"), "nosniff");
    assert.match(full.headers.get("content-security-policy")!, /sandbox/);
    assert.match(full.headers.get("content-disposition")!, /^attachment/);
    assert.equal((await fetch(`${s.url}/api/v1/content/${ref}`)).status, 401);
  });

  it("know an empty file", async () => {
    const up = await upload("void", "", { conversation_id: "c" });
    assert.equal(up.status, 200, JSON.stringify(up.body));
    assert.equal(up.body.size, 0);
    const headers = { authorization: `Bearer ${s.token("void")}` };
    const answer = await fetch(`${s.url}/api/v1/content/${up.body.content_ref}`, { headers });
    assert.deepEqual([answer.status, (await answer.text()).length], [200, 0]);
    assert.ok([200, 416].includes((await fetch(`${s.url}/api/v1/content/${up.body.content_ref}`, { headers: { ...headers, range: "bytes=0-" } })).status));
  });
});

describe("tickets", () => {
  it("that are forged, or of another kind, open nothing", async () => {
    const ref = `tick/msg-${await s.say("tick", "c", big("tick"))}.bin`;
    const other = `tick/msg-${await s.say("tick", "c", big("tick2"))}.bin`;
    const { ticket } = (await s.request("POST", "/api/v1/tickets", { token: s.token("tick"), body: { content_ref: ref } })).body;
    const open = async (t: string, r = ref, headers = {}) => {
      const answer = await fetch(`${s.url}/api/v1/content/${r}?ticket=${encodeURIComponent(t)}`, { headers });
      await answer.arrayBuffer();
      return answer.status;
    };
    assert.equal(await open(ticket), 200);
    assert.equal(await open(ticket, encodeURIComponent(ref)), 200);
    assert.equal(await open(ticket, other), 401);
    const b64 = (x: any) => Buffer.from(typeof x === "string" ? x : JSON.stringify(x)).toString("base64url");
    const [head, claims, mac] = ticket.split(".");
    const secret = "a secret of at least thirty-two bytes, for tests";
    const flip = (t: string, i: number) => t.slice(0, i) + (t[i] === "A" ? "B" : "A") + t.slice(i + 1);
    const forged = ["", "x", "..", "a.b.c", `${ticket}.`, ticket.slice(0, -1), flip(ticket, 5), flip(ticket, Math.floor(ticket.length / 2)), flip(ticket, ticket.length - 3), s.token("tick"), s.token("tick", "admin")];
    if (mac !== undefined) {
      const now = Math.floor(Date.now() / 1000);
      for (const more of [{}, { exp: now + 300 }]) {
        const payload = { ...JSON.parse(Buffer.from(claims, "base64url").toString()), ...more };
        const signed = `${head}.${b64(payload)}`;
        forged.push(`${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`);
        forged.push(`${b64({ alg: "none" })}.${b64(payload)}.`);
      }
    }
    for (const t of forged) assert.equal(await open(t), 401, t);
    // and a ticket is no token
    for (const headers of [{ authorization: `Bearer ${ticket}` }]) {
      assert.equal((await fetch(`${s.url}/api/v1/content/${ref}`, { headers })).status, 401);
      assert.equal((await fetch(`${s.url}/api/v1/query`, { method: "POST", headers, body: '{"sql":"SELECT 1"}' })).status, 401);
    }
    assert.equal((await fetch(`${s.url}/api/v1/content/${ref}?token=${s.token("tick")}`)).status, 401);
    await s.kill();
    await s.up();
    assert.equal(await open(ticket), 200);
    await s.sql("tick", "DELETE FROM messages");
    assert.equal(await open(ticket), 404);
    for (const body of [{}, { content_ref: 5 }, { content_ref: null }, [], "x", { ref }]) {
      const answer = await s.request("POST", "/api/v1/tickets", { token: s.token("tick"), body });
      assert.equal(answer.status, 400, JSON.stringify([body, answer.body]));
    }
    assert.equal((await s.request("GET", "/api/v1/tickets", { token: s.token("tick") })).status, 405);
    assert.equal((await s.request("POST", "/api/v1/tickets", { body: { content_ref: ref } })).status, 401);
  });
});

describe("at once", () => {
  it("uploads and large texts of one client_msg_id are one message and one file", async () => {
    await group("race", "r0", "r1");
    for (const conversation of ["own", "race"]) {
      const before = files().length;
      const answers = await Promise.all(
        Array.from({ length: 8 }, (_, i) =>
          i % 2 === 0
            ? upload("r0", randomBytes(50000), { conversation_id: conversation, client_msg_id: "same" })
            : s.query("r0", "INSERT INTO messages (conversation_id, content, client_msg_id) VALUES ($1, $2, 'same')", [conversation, big(`r${i}`)]),
        ),
      );
      for (const answer of answers) assert.equal(answer.status, 200, JSON.stringify(answer.body));
      const ids = new Set(answers.map((a) => a.body.msg_id ?? a.body.insertedId));
      assert.equal(ids.size, 1);
      assert.equal(answers.reduce((n, a) => n + a.body.rowsAffected, 0), 1);
      const refs = new Set(answers.filter((a) => a.body.content_ref !== undefined).map((a) => a.body.content_ref));
      assert.deepEqual([...refs], await refsOf("r0", conversation));
      await until("one file", () => files().length === before + 1);
    }
    await clean();
  });

  it("edits and deletions leave exactly the files that rows name", async () => {
    await group("storm", "s0", "s1", "s2");
    for (let i = 0; i < 4; i++) await s.say("s0", "storm", i % 2 ? "small" : big(`storm ${i}`));
    let on = true;
    const work = async (user: string, next: (i: number) => [string, any[]?]) => {
      for (let i = 0; on; i++) {
        const answer = await s.query(user, ...next(i));
        assert.ok([200, 408].includes(answer.status), JSON.stringify(answer.body));
      }
    };
    const workers = [
      work("s0", (i) => ["UPDATE messages SET content = $1 WHERE conversation_id = 'storm' AND \"from\" = 's0'", [i % 3 ? big(`u${i}`) : "small"]]),
      work("s1", (i) => ["INSERT INTO messages (conversation_id, content) VALUES ('storm', $1)", [big(`i${i}`)]]),
      work("s2", () => ["DELETE FROM messages WHERE conversation_id = 'storm' AND content_ref IS NOT NULL AND \"from\" = 's1'"]),
      work("s1", () => ["DELETE FROM messages WHERE conversation_id = 'storm' AND \"from\" = 's1'"]),
      (async () => {
        while (on) {
          await s.consolidate();
          await clean();
        }
      })(),
    ];
    await sleep(4000);
    on = false;
    await Promise.all(workers);
    const named = new Set<string>();
    for (const user of ["s0", "s1", "s2"]) for (const ref of await refsOf(user, "storm")) if (ref !== null) named.add(ref);
    for (const ref of named) assert.ok(existsSync(join(s.data, ref)));
    await until("no other file", () => files().filter((f) => f.includes("/storm/")).length === named.size);
    await clean();
  });
});
