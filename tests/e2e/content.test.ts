// Content in files: what clients see of large texts, what operators see of the references, and that SIGKILL at any
// moment of a spill or an upload leaves rows and files that agree.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { random } from "./crash.ts";
import { Server, sealedSize } from "./harness.ts";

const LARGE = 102400;

/** Text of n bytes that only its key can have made. */
function text(key: string, n: number): string {
  const line = createHash("sha256").update(key).digest("hex") + "\n";
  return line.repeat(Math.ceil(n / line.length)).slice(0, n);
}

async function fetchContent(server: Server, user: string, ref: string): Promise<{ status: number; type: string | null; text: string }> {
  const response = await fetch(`${server.url}/api/v1/content/${ref}`, { headers: { authorization: `Bearer ${server.token(user)}` } });
  return { status: response.status, type: response.headers.get("content-type"), text: await response.text() };
}

async function sweep(server: Server): Promise<any> {
  const answer = await server.request("POST", "/api/v1/admin/sweep", { token: server.token("operator", "admin"), body: {} });
  assert.equal(answer.status, 200, JSON.stringify(answer.body));
  return answer.body;
}

/** Content files below the data directory, as refs. */
function contentFiles(server: Server): string[] {
  return readdirSync(server.data, { recursive: true, encoding: "utf8" })
    .filter((name) => !name.startsWith(".kalamdb") && /(^|\/)(msg|media)-\d+\.[a-z0-9]+$/.test(name))
    .sort();
}

async function eventually(what: string, check: () => boolean): Promise<void> {
  for (let i = 0; i < 200; i++) {
    if (check()) return;
    await new Promise((done) => setTimeout(done, 25));
  }
  assert.fail(what);
}

test("a large text is one file, whoever reads it and wherever its row sits", async () => {
  const server = await Server.start();
  await server.sql("alice", "INSERT INTO conversations (conversation_id, conversation_type) VALUES ('room', 'group')");
  await server.sql("alice", "INSERT INTO conversation_users (conversation_id, user_id) VALUES ('room', 'bob'), ('room', 'carol')");
  const socket = await server.socket("bob");
  await socket.subscribe({ id: "s", conversationId: "room" });
  const body = text("room", LARGE);
  const id = await server.say("alice", "room", body);
  const ref = `shared/conversations/room/msg-${id}.bin`;
  const change = await socket.next();
  assert.equal(change.op, "insert");
  assert.equal(change.message.content, body.slice(0, 1024));
  assert.equal(change.message.content_ref, ref);
  socket.ws.close();
  const own = await server.say("alice", "own", text("own", LARGE));
  const small = await server.say("alice", "own", text("small", LARGE - 1));
  assert.deepEqual(contentFiles(server), [`alice/msg-${own}.bin`, ref]);
  const check = async () => {
    for (const user of ["alice", "bob", "carol"]) {
      const { rows } = await server.sql(user, "SELECT content, content_ref FROM messages WHERE conversation_id = 'room'");
      assert.deepEqual(rows, [[body.slice(0, 1024), ref]]);
      assert.deepEqual(await fetchContent(server, user, ref), { status: 200, type: "text/plain; charset=utf-8", text: body });
    }
    assert.equal((await fetchContent(server, "dave", ref)).status, 404);
    const { rows } = await server.sql("alice", "SELECT length(content) FROM messages WHERE msg_id = $1", [small]);
    assert.deepEqual(rows, [[LARGE - 1]]);
    const found = await sweep(server);
    assert.deepEqual(
      [found.blobs, found.refs, found.refsRepaired, found.blobsRepaired, found.blobsMissing, found.filesSetAside],
      [2, 4, 0, 0, 0, 0],
    );
  };
  await check();
  await server.consolidate();
  await check();
  await server.kill();
  await server.up();
  await check();
  // Edits reach every copy, and let the old file go.
  await server.sql("alice", "UPDATE messages SET content = $1 WHERE conversation_id = 'room'", [text("second", LARGE + 1)]);
  const { rows } = await server.sql("carol", "SELECT content_ref FROM messages WHERE conversation_id = 'room'");
  await eventually("the old file stays", () => !contentFiles(server).includes(ref));
  assert.equal((await fetchContent(server, "bob", rows[0][0])).text, text("second", LARGE + 1));
  const refused = await server.query("alice", "UPDATE messages SET content = upper(content)");
  assert.deepEqual([refused.status, refused.body.error], [400, "UNSUPPORTED"]);
  for (const user of ["alice", "bob", "carol"]) await server.sql(user, "DELETE FROM messages");
  await eventually("files stay", () => contentFiles(server).length === 0);
  assert.equal((await sweep(server)).blobs, 0);
});

test("sweeps are the operator's", async () => {
  const server = await Server.start();
  for (const [role, status] of [["user", 403], ["service", 403]] as const) {
    const answer = await server.request("POST", "/api/v1/admin/sweep", { token: server.token("x", role), body: {} });
    assert.equal(answer.status, status);
  }
});

test("files of ours beside an empty catalog refuse the start", async () => {
  for (const folder of ["alice", "shared/conversations/room"]) {
    const server = await Server.start();
    await server.stop();
    const { mkdirSync } = await import("node:fs");
    mkdirSync(join(server.data, folder), { recursive: true });
    writeFileSync(join(server.data, folder, "msg-1.bin"), "x");
    await assert.rejects(server.up());
    assert.ok(server.log.some((line) => JSON.stringify(line).includes("catalog")), JSON.stringify(server.log.slice(-3)));
  }
});

test("SIGKILL during spills and uploads leaves rows and files that agree", async () => {
  const dice = random(20261122);
  const server = await Server.start({ KALAMDB_CONSOLIDATE_ROWS: "20", KALAMDB_CONSOLIDATE_MIN_ROWS: "5", KALAMDB_CONSOLIDATE_INTERVAL_MS: "200" });
  const members = ["alice", "bob", "carol"];
  await server.sql("alice", "INSERT INTO conversations (conversation_id, conversation_type) VALUES ('room', 'group')");
  await server.sql("alice", "INSERT INTO conversation_users (conversation_id, user_id) VALUES ('room', 'bob'), ('room', 'carol')");
  /** What was acknowledged: by client_msg_id, whose, and the file's text. */
  const acked = new Map<string, { user: string; conversation: string; text: string }>();
  const sent = new Map<string, { user: string; conversation: string; text: string }>();
  let n = 0;
  for (let round = 0; round < 6; round++) {
    let alive = true;
    const writers = members.flatMap((user) =>
      ["own", "room"].map(async (conversation) => {
        while (alive) {
          const key = `k${n++}`;
          const media = dice() < 0.5;
          const item = { user, conversation, text: text(key, media ? 300_000 : LARGE + Math.floor(dice() * 50_000)) };
          sent.set(key, item);
          try {
            if (media) {
              const form = new FormData();
              form.set("conversation_id", conversation);
              form.set("client_msg_id", key);
              form.set("file", new Blob([item.text]), "x.exe");
              const response = await fetch(`${server.url}/api/v1/media`, {
                method: "POST",
                headers: { authorization: `Bearer ${server.token(user)}` },
                body: form,
              });
              const answer: any = await response.json();
              assert.ok(response.status < 300, JSON.stringify(answer));
              assert.match(answer.content_ref, /media-\d+\.txt$/);
            } else {
              await server.say(user, conversation, item.text, { client_msg_id: key });
            }
            acked.set(key, item);
          } catch (error) {
            if (alive || error instanceof assert.AssertionError) throw error;
          }
        }
      }),
    );
    await new Promise((done) => setTimeout(done, 150 + dice() * 400));
    alive = false;
    await server.kill();
    await Promise.all(writers);
    await server.up();
    assert.deepEqual(existsSync(join(server.data, ".kalamdb/uploads")) ? readdirSync(join(server.data, ".kalamdb/uploads")) : [], []);
    const refs = new Set<string>();
    const copies = new Map<string, number>();
    const seen = new Set<string>();
    for (const user of members) {
      const { rows } = await server.sql(user, "SELECT client_msg_id, conversation_id, content_ref FROM messages");
      for (const [key, conversation, ref] of rows) {
        assert.notEqual(ref, null, key);
        refs.add(ref);
        seen.add(key);
        copies.set(key, (copies.get(key) ?? 0) + 1);
        // Every row's file is there, whole.
        const item = sent.get(key)!;
        assert.equal(conversation, item.conversation);
        assert.ok((await server.content(user, ref)).equals(Buffer.from(item.text)), `${key}: another text in ${ref}`);
        assert.equal(statSync(join(server.data, ref)).size, sealedSize(item.text.length));
      }
    }
    for (const key of acked.keys()) assert.ok(seen.has(key), `${key} was acknowledged and is gone`);
    for (const [key, count] of copies) assert.equal(count, sent.get(key)!.conversation === "room" ? 3 : 1, `copies of ${key}`);
    // And no file beside them.
    assert.deepEqual(contentFiles(server), [...refs].sort());
    const found = await sweep(server);
    assert.equal(found.blobs, refs.size);
    assert.deepEqual([found.refsRepaired, found.blobsRepaired, found.blobsMissing, found.filesSetAside, found.uploadsRemoved], [0, 0, 0, 0, 0]);
  }
  assert.ok(acked.size > 20, `only ${acked.size} acknowledged`);
});
