// examples/chat as people use it: two of them in two browsers, with the assistant, the network cut and the server
// killed in between. What they see is compared with what SQL says.
import assert from "node:assert/strict";
import { spawn, execFileSync, type ChildProcess } from "node:child_process";
import { existsSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, describe, it } from "node:test";
import { chromium, type Browser, type BrowserContext, type Page } from "playwright-core";
import { answer } from "../../examples/chat/server/markov.ts";
import { Server, binary, repo } from "./harness.ts";

const folder = join(repo, "examples/chat");
const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
const skip = !existsSync(executablePath)
  ? `no browser at ${executablePath}`
  : !existsSync(join(folder, "node_modules/vite"))
    ? "npm ci in examples/chat first (./test does it)"
    : false;

async function freePort(): Promise<number> {
  const probe = createServer();
  await new Promise<void>((done) => probe.listen(0, "127.0.0.1", done));
  const { port } = probe.address() as AddressInfo;
  await new Promise((done) => probe.close(done));
  return port;
}

/** Waits for what must become true, with the last value in the error. */
async function until<T>(what: string, read: () => Promise<T>, good: (value: T) => boolean, ms = 30000): Promise<T> {
  const deadline = Date.now() + ms;
  for (;;) {
    const value = await read();
    if (good(value)) return value;
    if (Date.now() > deadline) throw new Error(`${what}: still ${JSON.stringify(value)}`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

class ChatServer {
  child!: ChildProcess;
  constructor(
    readonly port: number,
    readonly database: Server,
    readonly wordMs: number,
  ) {}

  async up(): Promise<void> {
    const args = ["--port", `${this.port}`, "--api", this.database.url, "--data", this.database.data, "--kalamdb", binary, "--word-ms", `${this.wordMs}`];
    this.child = spawn(process.execPath, ["--import", "tsx", "server.ts", ...args], { cwd: folder, stdio: ["ignore", "pipe", "inherit"] });
    await new Promise<void>((ready, failed) => {
      createInterface({ input: this.child.stdout! }).once("line", () => ready());
      this.child.once("exit", (code) => failed(new Error(`chat server ended with ${code}`)));
    });
  }

  down(): void {
    this.child.kill("SIGKILL");
  }
}

/** One person at one browser. */
class Person {
  page!: Page;
  constructor(
    readonly id: string,
    readonly context: BrowserContext,
  ) {}

  static async at(browser: Browser, url: string, id: string, options = {}): Promise<Person> {
    const person = new Person(id, await browser.newContext({ viewport: { width: 1100, height: 760 }, ...options }));
    person.page = await person.context.newPage();
    person.page.setDefaultTimeout(15000);
    person.page.on("pageerror", (error) => assert.fail(`${id}: ${error.message}`));
    await person.page.goto(url);
    await person.page.getByRole("button", { name: id.replace(/^./, (c) => c.toUpperCase()) }).click();
    await person.page.locator(".state.online").waitFor();
    return person;
  }

  entry(title: string) {
    return this.page.locator(".conversation", { hasText: title });
  }

  async open(title: string): Promise<void> {
    await this.entry(title).click();
    await this.page.locator(".bar h1", { hasText: title }).waitFor();
  }

  async say(text: string): Promise<void> {
    await this.page.getByRole("textbox", { name: "Message" }).fill(text);
    await this.page.keyboard.press("Enter");
  }

  /** The stored messages on the page, in their order. */
  shown(): Promise<{ id: number; text: string }[]> {
    return this.page.evaluate(() =>
      [...document.querySelectorAll<HTMLElement>(".message[data-msg-id]")].map((row) => ({ id: Number(row.dataset.msgId), text: row.querySelector(".text")?.textContent ?? "" })),
    );
  }

  message(text: string) {
    return this.page.locator(".message[data-msg-id]", { hasText: text });
  }

  outgoing(): Promise<number> {
    return this.page.locator(".message.outgoing").count();
  }
}

describe("the example chat", { skip, timeout: 240000 }, () => {
  let s: Server;
  let web: ChatServer;
  let browser: Browser;
  let alice: Person;
  let bob: Person;
  let url: string;

  const stored = async (user: string, title: string) => {
    const { rows } = await s.sql(user, "SELECT m.msg_id, m.content FROM messages m JOIN conversations c ON c.conversation_id = m.conversation_id WHERE c.title = $1 ORDER BY m.msg_id", [title]);
    return rows.map(([id, text]: [number, string]) => ({ id, text }));
  };
  /** Nothing is on its way any more, and the page shows what SQL says: the same rows, in order, each once. */
  const agrees = async (person: Person, title: string) => {
    await until(`${person.id} has sent everything`, () => person.outgoing(), (n) => n === 0);
    const rows = await stored(person.id, title);
    await until(`${person.id} sees what is stored (${rows.length})`, () => person.shown(), (shown) => JSON.stringify(shown) === JSON.stringify(rows));
    return rows;
  };

  before(async () => {
    // The page as it is now, types checked.
    execFileSync("npm", ["run", "--silent", "build"], { cwd: folder, stdio: ["ignore", "ignore", "inherit"] });
    const port = await freePort();
    url = `http://localhost:${port}/`;
    s = await Server.start({ KALAMDB_ALLOWED_ORIGINS: `http://localhost:${port}` });
    web = new ChatServer(port, s, 15);
    await web.up();
    browser = await chromium.launch({
      executablePath,
      args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
    });
    alice = await Person.at(browser, url, "alice");
    bob = await Person.at(browser, url, "bob");
  });

  after(async () => {
    await browser?.close();
    web?.down();
    await s?.destroy();
  });

  it("makes a group that the others see, with unread counts and read markers", async () => {
    await alice.page.getByRole("button", { name: "New group" }).click();
    await alice.page.getByLabel("Name").fill("Saturday picnic");
    await alice.page.getByLabel("Bob").check();
    await alice.page.getByLabel("Carol").check();
    await alice.page.getByRole("button", { name: "Create" }).click();
    await alice.page.locator(".bar h1", { hasText: "Saturday picnic" }).waitFor();
    await alice.say("Hello Bob");
    await alice.say("Who brings the bread?");
    await bob.entry("Saturday picnic").waitFor();
    await until("bob's unread count", () => bob.entry("Saturday picnic").locator(".count").allTextContents(), (t) => t[0] === "2");
    assert.equal(await alice.page.locator(".seen").count(), 0);
    await bob.open("Saturday picnic");
    await bob.message("Who brings the bread?").waitFor();
    await until("bob's unread count", () => bob.entry("Saturday picnic").locator(".count").count(), (n) => n === 0);
    await alice.page.locator(".seen", { hasText: "Seen by Bob" }).waitFor();
    const { rows } = await s.sql("bob", "SELECT _unread FROM conversations WHERE title = 'Saturday picnic'");
    assert.deepEqual(rows, [[0]]);
    await agrees(alice, "Saturday picnic");
    await agrees(bob, "Saturday picnic");
  });

  it("shows content as text, whatever it looks like", async () => {
    const text = "<img src=x onerror=alert(1)> <b>bold</b> & &amp;";
    await bob.say(text);
    await alice.message("<b>bold</b>").waitFor();
    assert.equal((await alice.shown()).at(-1)!.text, text);
    assert.equal(await alice.page.locator(".message img, .message b").count(), 0);
  });

  it("shows edits and deletions to everybody", async () => {
    await alice.say("Meet at nine");
    await alice.say("Never mind");
    await bob.message("Never mind").waitFor();
    await alice.message("Meet at nine").hover();
    await alice.message("Meet at nine").getByRole("button", { name: "Message actions" }).click();
    await alice.page.getByRole("menuitem", { name: "Edit" }).click();
    await alice.page.getByLabel("Edit message").fill("Meet at ten");
    await alice.page.keyboard.press("Enter");
    await bob.message("Meet at ten").locator(".meta", { hasText: "edited" }).waitFor();
    await alice.message("Never mind").hover();
    await alice.message("Never mind").getByRole("button", { name: "Message actions" }).click();
    await alice.page.getByRole("menuitem", { name: "Delete for everyone" }).click();
    await bob.message("Never mind").waitFor({ state: "detached" });
    await agrees(alice, "Saturday picnic");
    await agrees(bob, "Saturday picnic");
  });

  it("reads older messages page by page, keeping the place", async () => {
    await s.sql("alice", "INSERT INTO conversations (conversation_id, conversation_type) VALUES ('long', 'ai')");
    await s.sql("alice", "UPDATE conversations SET title = 'A long one' WHERE conversation_id = 'long'");
    for (let i = 0; i < 120; i++) await s.say("alice", "long", `line ${i}`, { from: "assistant" });
    await alice.open("A long one");
    await alice.message("line 119").waitFor();
    assert.ok((await alice.shown()).length < 120);
    await until("the first line", () => alice.page.locator(".messages").evaluate((box) => ((box.scrollTop = 0), document.querySelectorAll(".message").length)), (n) => n === 120);
    await agrees(alice, "A long one");
    await alice.open("Saturday picnic");
  });

  it("loses nothing and doubles nothing when the network is cut and the server is killed", async () => {
    await bob.context.setOffline(true);
    await bob.page.locator(".state.offline").waitFor();
    for (let i = 0; i < 5; i++) await bob.say(`bob, in the tunnel ${i}`);
    for (let i = 0; i < 5; i++) await alice.say(`alice, meanwhile ${i}`);
    assert.equal(await bob.outgoing(), 5);
    await s.kill();
    await alice.page.locator(".banner").waitFor();
    for (let i = 0; i < 5; i++) await alice.say(`alice, without a server ${i}`);
    await s.up();
    await bob.context.setOffline(false);
    const rows = await agrees(alice, "Saturday picnic");
    assert.deepEqual(await agrees(bob, "Saturday picnic"), rows);
    for (const [who, n] of [["bob, in the tunnel", 5], ["alice, meanwhile", 5], ["alice, without a server", 5]] as const) {
      assert.deepEqual(rows.map((r: any) => r.text).filter((t: string) => t.startsWith(who)), Array.from({ length: n }, (_, i) => `${who} ${i}`));
    }
  });

  it("survives kill after kill while both write", async () => {
    for (let round = 0; round < 3; round++) {
      const writing = [alice, bob].map(async (person) => {
        for (let i = 0; i < 10; i++) {
          await person.say(`${person.id} ${round}.${i}`);
          await new Promise((done) => setTimeout(done, 20));
        }
      });
      await new Promise((done) => setTimeout(done, 120 + 100 * round));
      await s.kill();
      await s.up();
      await Promise.all(writing);
    }
    const rows = await agrees(alice, "Saturday picnic");
    assert.deepEqual(await agrees(bob, "Saturday picnic"), rows);
    for (const who of ["alice", "bob"]) {
      const expected = [0, 1, 2].flatMap((round) => Array.from({ length: 10 }, (_, i) => `${who} ${round}.${i}`));
      assert.deepEqual(rows.map((r: any) => r.text).filter((t: string) => new RegExp(`^${who} \\d\\.\\d$`).test(t)), expected);
    }
  });
});
