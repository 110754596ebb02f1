// Changes of many rows, and what a statement says about a change that stands.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Server } from "./harness.ts";

/** One message in each of n conversations, then all deleted: milliseconds of the DELETE. */
async function deleteAll(s: Server, n: number): Promise<number> {
  for (let i = 0; i < n; i += 1000) {
    const rows = Array.from({ length: 1000 }, (_, k) => `('c${i + k}','x')`);
    await s.sql("alice", `INSERT INTO messages (conversation_id, content) VALUES ${rows.join(",")}`);
  }
  const answer = await s.sql("alice", "DELETE FROM messages");
  assert.equal(answer.rowsAffected, n);
  return answer.executionTimeMs;
}

test("a DELETE over many conversations takes time by its rows, not by their square", async () => {
  const s = await Server.start({ KALAMDB_CONSOLIDATE_INTERVAL_MS: "0", KALAMDB_DURABILITY: "async" });
  await deleteAll(s, 1000);
  const few = Math.max(await deleteAll(s, 2000), await deleteAll(s, 2000));
  const many = await deleteAll(s, 16000);
  assert.ok(many < 28 * few, `${many} ms for 16000 conversations, ${few} ms for 2000`);
  const rows = await s.sql("alice", "SELECT count(*), count(first_msg_id), count(last_msg_id), sum(total_messages) FROM conversations");
  assert.deepEqual(rows.rows[0].map(Number), [16000, 0, 0, 0]);
});

test("RETURNING that fails only after the commit does not deny the change", async () => {
  const s = await Server.start();
  const insert = "INSERT INTO messages (conversation_id, content) VALUES ('a','b') RETURNING 1/(2-_seq) AS x";
  assert.deepEqual((await s.sql("bob", insert)).rows, [[1]]);
  const second = await s.sql("bob", insert);
  assert.equal(second.rowsAffected, 1);
  assert.equal(typeof second.insertedId, "number");
  assert.deepEqual([second.columns, second.rows, second.truncated], [["x"], [], true]);
  const update = await s.sql("bob", "UPDATE messages SET content = 'z' RETURNING 1/(4-_seq) AS x");
  assert.deepEqual([update.rowsAffected, update.rows, update.truncated], [2, [], true]);
  assert.deepEqual((await s.sql("bob", "SELECT content FROM messages")).rows, [["z"], ["z"]]);
  // One that fails before, on the rows as far as they are known, still changes nothing.
  const failed = await s.query("bob", "INSERT INTO messages (conversation_id, content) VALUES ('a','b') RETURNING 1/length(replace(content, 'b', ''))");
  assert.equal(failed.body.error, "INVALID_VALUE");
  assert.deepEqual((await s.sql("bob", "SELECT count(*) FROM messages")).rows, [[2]]);
});
