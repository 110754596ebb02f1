// Deleted bytes are gone from a running server's disk after a consolidation that was asked for: every file is searched,
// logs included, for marks that were planted and deleted in every way; under encryption for the sealed bytes of what was
// deleted. What compression could hide, tests/unit/engine/gone_test.c decodes.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readFileSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { it } from "node:test";
import { Server } from "./harness.ts";

const LARGE = 102400;

/** Which of the marks are anywhere below the data directory, and in which file. */
function found(server: Server, marks: Map<string, string | Buffer>): string[] {
  const out: string[] = [];
  for (const name of readdirSync(server.data, { recursive: true }) as string[]) {
    const path = join(server.data, name);
    let bytes: Buffer;
    try {
      if (!statSync(path).isFile()) continue;
      bytes = readFileSync(path);
    } catch {
      continue; // went meanwhile
    }
    for (const [what, mark] of marks) if (bytes.includes(mark)) out.push(`${what} in ${name}`);
  }
  return out.sort();
}

/** Pieces of every file that a deletion must take: of content, and of batches that it makes be written anew. */
function sealedPieces(server: Server): Map<string, Buffer> {
  const pieces = new Map<string, Buffer>();
  for (const name of readdirSync(server.data, { recursive: true }) as string[]) {
    if (name.startsWith(".kalamdb") || !/(^|\/)((msg|media)-\d+\.[a-z0-9]+|batch-.*\.parquet\.enc)$/.test(name)) continue;
    const bytes = readFileSync(join(server.data, name));
    for (const at of [32, bytes.length >> 1, bytes.length - 16]) pieces.set(`byte ${at} of ${name}`, bytes.subarray(at, at + 16)); // ciphertext and tags
  }
  return pieces;
}

async function ndjson(server: Server, user: string, lines: any[]): Promise<any[]> {
  const answer = await fetch(`${server.url}/api/v1/messages/stream`, {
    method: "POST",
    headers: { authorization: `Bearer ${server.token(user)}`, "content-type": "application/x-ndjson" },
    body: lines.map((l) => JSON.stringify(l) + "\n").join(""),
  });
  return (await answer.text()).trim().split("\n").map((l) => JSON.parse(l));
}

for (const [whose, encryption] of [[undefined, "off"], ["alice", "off"], [undefined, "on"], ["alice", "on"]] as const) {
  it(`leaves the disk after consolidating ${whose ?? "all"}, encryption ${encryption}`, async () => {
    const s = await Server.start({ KALAMDB_ENCRYPTION: encryption });
    const marks = new Map<string, string>();
    const mark = (what: string) => {
      const text = randomBytes(16).toString("hex");
      marks.set(what, text);
      return text;
    };
    const large = (text: string) => text + "x".repeat(LARGE) + text;
    const media = async (conversation: string, bytes: string, caption: string) => {
      const form = new FormData();
      form.set("conversation_id", conversation);
      form.set("content", caption);
      form.set("file", new Blob([bytes]), "x");
      const answer = await fetch(`${s.url}/api/v1/media`, { method: "POST", headers: { authorization: `Bearer ${s.token("alice")}` }, body: form });
      assert.equal(answer.status, 200);
    };
    const plant = async (conversation: string, when: string) => {
      const name = `${conversation}, ${when}`;
      await s.say("alice", conversation, mark(`small, ${name}`), { client_msg_id: mark(`client_msg_id, ${name}`), metadata: { x: mark(`metadata, ${name}`) } });
      await s.say("alice", conversation, large(mark(`large, ${name}`)));
      await media(conversation, mark(`media, ${name}`), mark(`caption, ${name}`));
      for (const [what, text] of [["streamed", mark(`streamed, ${name}`)], ["streamed large", large(mark(`streamed large, ${name}`))]]) {
        const said = await ndjson(s, "alice", [{ type: "stream_begin", conversationId: conversation }, { type: "append", offset: 0, text }, { type: "stream_end" }]);
        assert.ok(said.every((l) => l.type !== "error"), `${what}: ${JSON.stringify(said)}`);
      }
      // never ended: its text is in chunks until it is interrupted
      await ndjson(s, "alice", [{ type: "stream_begin", conversationId: conversation }, { type: "append", offset: 0, text: mark(`interrupted, ${name}`) }]);
    };
    await s.sql("alice", "INSERT INTO conversation_users (conversation_id, user_id) VALUES ('room', 'bob')");
    await s.sql("alice", "UPDATE conversations SET title = $1, metadata = $2 WHERE conversation_id = 'room'", [mark("title"), { x: mark("group's metadata") }]);
    await s.sql("alice", "UPDATE conversation_users SET metadata = $1 WHERE conversation_id = 'room' AND user_id = 'alice'", [{ x: mark("member's metadata") }]);
    for (const when of ["cold", "hot"]) {
      for (const conversation of ["own", "gone", "edited", "room"]) await plant(conversation, when);
      if (when === "cold") await s.consolidate();
    }
    const kept = new Map([["kept", randomBytes(16).toString("hex")]]);
    await s.say("alice", "keep", kept.get("kept")!);
    // to be found: in the files of content, and what is hot in the log
    const before = found(s, marks);
    for (const what of marks.keys())
      if (encryption === "off" && /hot$|^(large|media|streamed large)/.test(what)) assert.ok(before.some((f) => f.startsWith(what)), what);
    const pieces = encryption === "on" ? sealedPieces(s) : new Map<string, Buffer>();
    if (encryption === "on") {
      assert.deepEqual(before, []);
      assert.deepEqual([...new Set([...pieces.keys()].map((p) => /(msg|media|batch)-/.exec(p)![1]))].sort(), ["batch", "media", "msg"]);
    }
    const live = await s.sql("alice", "SELECT metadata->>'stream' FROM messages WHERE metadata->>'stream' IS NOT NULL");
    assert.deepEqual(new Set(live.rows.map((r: any) => r[0])), new Set(["interrupted"]));

    await s.sql("alice", "DELETE FROM messages WHERE conversation_id = 'own'");
    await s.sql("alice", "DELETE FROM conversations WHERE conversation_id = 'gone'");
    await s.sql("alice", "UPDATE messages SET content = 'harmless', metadata = NULL WHERE conversation_id = 'edited'");
    await s.sql("alice", "DELETE FROM messages WHERE conversation_id = 'edited' AND (content_ref IS NOT NULL OR client_msg_id IS NOT NULL)");
    await s.sql("bob", "DELETE FROM conversations WHERE conversation_id = 'room'");
    await s.sql("alice", "DELETE FROM conversations WHERE conversation_id = 'room'");
    if (whose !== undefined) await s.consolidate("bob");
    await s.consolidate(whose);
    assert.deepEqual(found(s, marks), []);
    assert.deepEqual(found(s, pieces), []);
    assert.equal((await s.sql("alice", "SELECT content FROM messages WHERE conversation_id = 'keep'")).rows[0][0], kept.get("kept"));
    assert.ok((await s.sql("alice", "SELECT count(*) FROM messages WHERE conversation_id = 'edited' AND content = 'harmless'")).rows[0][0] > 0);
    assert.deepEqual(readdirSync(join(s.data, ".kalamdb/uploads")), []);
    assert.deepEqual((readdirSync(s.data, { recursive: true }) as string[]).filter((f) => /(^|\/)(msg|media)-\d+\./.test(f)), []);
    await s.kill();
    await s.up();
    assert.deepEqual(found(s, marks), []);
    assert.deepEqual(found(s, pieces), []);
    await s.destroy();
  });
}

it("SIGKILL during deletions, edits and consolidation leaves every named file, and no other", async () => {
  const s = await Server.start();
  await s.sql("a", "INSERT INTO conversation_users (conversation_id, user_id) VALUES ('room', 'b')");
  const large = () => randomBytes(60000).toString("hex");
  for (let round = 0; round < 5; round++) {
    let alive = true;
    const work = async (next: () => Promise<any>) => {
      while (alive) {
        try {
          await next();
        } catch (error) {
          if (alive) throw error;
        }
      }
    };
    const all = [
      work(() => s.say("a", "room", large())),
      work(() => s.say("b", "solo", large())),
      work(() => s.sql("a", "UPDATE messages SET content = $1 WHERE msg_id = (SELECT max(msg_id) FROM messages)", [large()])),
      work(() => s.sql("b", "DELETE FROM messages")),
      work(() => s.sql("a", "DELETE FROM messages WHERE conversation_id = 'room'")),
      work(() => s.consolidate()),
    ];
    await new Promise((done) => setTimeout(done, 300 + 150 * round));
    alive = false;
    await s.kill();
    await Promise.all(all);
    await s.up();
    const named = new Set<string>();
    for (const user of ["a", "b"]) for (const [ref] of (await s.sql(user, "SELECT content_ref FROM messages WHERE content_ref IS NOT NULL")).rows) named.add(ref);
    const there = () => (readdirSync(s.data, { recursive: true }) as string[]).filter((f) => !f.startsWith(".kalamdb") && /(^|\/)(msg|media)-\d+\./.test(f)).sort();
    assert.deepEqual(there(), [...named].sort());
    const sweep = await s.request("POST", "/api/v1/admin/sweep", { token: s.token("operator", "admin"), body: {} });
    assert.deepEqual([sweep.body.blobs, sweep.body.refsRepaired, sweep.body.blobsRepaired, sweep.body.blobsMissing], [named.size, 0, 0, 0], JSON.stringify(sweep.body));
  }
  await s.destroy();
});
