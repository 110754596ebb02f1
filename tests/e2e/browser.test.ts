// A page in a real browser: another origin, fetch with CORS, WebSocket with the subprotocol pair.
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { it } from "node:test";
import { chromium } from "playwright-core";
import { Server, repo } from "./harness.ts";

const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
const skip = existsSync(executablePath) ? false : `no browser at ${executablePath}`;

it("writes by SQL and sees the change arrive live", { skip, timeout: 120000 }, async () => {
  const page = createServer((_, answer) => {
    answer.setHeader("content-type", "text/html; charset=utf-8");
    answer.end(readFileSync(join(repo, "tests/e2e/page.html")));
  });
  await new Promise<void>((done) => page.listen(0, "127.0.0.1", done));
  const origin = `http://127.0.0.1:${(page.address() as AddressInfo).port}`;
  const s = await Server.start({ KALAMDB_ALLOWED_ORIGINS: origin });
  await s.say("user_alice", "conv_123", "What is the capital of France?");
  await s.say("user_alice", "conv_123", "Paris.", { from: "assistant:gpt" });
  const browser = await chromium.launch({
    executablePath,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
  try {
    const tab = await browser.newPage({ viewport: { width: 1100, height: 520 } });
    await tab.goto(`${origin}/#${new URLSearchParams({ server: `127.0.0.1:${s.port}`, token: s.token("user_alice") })}`);
    await tab.waitForSelector("li:has-text('replay_complete')");
    await tab.fill("#sql", "INSERT INTO conversations\n  (conversation_id, conversation_type, from, content)\nVALUES ('conv_123', 'ai', 'user_alice', 'And of Italy?')\nRETURNING msg_id, content");
    await tab.click("#run");
    await tab.waitForSelector("li:has-text('And of Italy?')");
    await tab.waitForFunction("document.getElementById('answer').textContent.includes('rowsAffected')");
    const shown = await tab.locator("li").allTextContents();
    assert.deepEqual(shown.filter((t) => t.startsWith("insert")), ["insert #1 user_alice: What is the capital of France?", "insert #2 assistant:gpt: Paris.", "insert #3 user_alice: And of Italy?"]);
    if (process.env.KALAMDB_SCREENSHOT !== undefined) await tab.screenshot({ path: process.env.KALAMDB_SCREENSHOT });
  } finally {
    await browser.close();
    page.close();
    await s.destroy();
  }
});
