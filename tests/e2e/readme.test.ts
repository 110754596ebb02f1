// The README's session, extracted and run as it stands.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { it } from "node:test";
import { runInNewContext } from "node:vm";
import WebSocket from "ws";
import { Server, repo } from "./harness.ts";

const readme = readFileSync(join(repo, "README.md"), "utf8");
const session = readme.split("<!-- session: begin -->")[1].split("<!-- session: end -->")[0];
const block = (language: string) => session.split("```" + language + "\n")[1].split("```")[0];

it("works as written", async () => {
  const s = await Server.start();
  const here = (text: string) => text.replaceAll("localhost:8080", `127.0.0.1:${s.port}`);
  const TOKEN = s.token("user_alice");
  const answers = execFileSync("sh", ["-ec", here(block("sh")).replaceAll("\ncurl", "\necho; curl").replaceAll("curl ", "curl -sS ")], {
    env: { ...process.env, TOKEN },
    encoding: "utf8",
  })
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line));
  assert.equal(answers[0].rowsAffected, 1);
  assert.equal(answers[1].rows[0][0], answers[0].insertedId);
  assert.equal(answers[1].rows[0][5], "Hello AI!");
  assert.deepEqual(answers[2].rows, [["conv_123", 1, 9]]);

  const seen: any[] = [];
  const done = new Promise<void>((resolve) => {
    runInNewContext(here(block("js")), {
      WebSocket,
      TOKEN,
      JSON,
      console: {
        log: (_: string, frame: any) => {
          seen.push(frame);
          if (frame.type === "replay_complete") resolve();
        },
      },
    });
  });
  await done;
  assert.deepEqual(seen.map((f) => f.type), ["subscribe_ack", "message", "replay_complete"]);
  assert.equal(seen[1].message.content, "Hello AI!");
  await s.destroy();
});
