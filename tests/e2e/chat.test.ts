// examples/chat as people use it: two of them in two browsers, with the assistant, the network cut and the server
// killed in between. What they see is compared with what SQL says.
import assert from "node:assert/strict";
import { spawn, execFileSync, type ChildProcess } from "node:child_process";
import { cpSync, existsSync, rmSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, describe, it } from "node:test";
import { chromium, type Browser, type BrowserContext, type Page } from "playwright-core";
import { answer } from "../../examples/chat/server/markov.ts";
import { Server, binary, repo, temporaryFolder } from "./harness.ts";

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

  async newChat(): Promise<void> {
    await this.page.getByRole("button", { name: "New chat", exact: true }).click();
    await this.page.locator(".bar h1", { hasText: "New chat" }).waitFor();
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
    for (const writer of [alice, bob]) await until(`${writer.id} has sent everything`, () => writer.outgoing(), (n) => n === 0);
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

  it("says what could not be sent, and sends it when asked again", async () => {
    const [[group]] = (await s.sql("alice", "SELECT conversation_id FROM conversations WHERE title = 'Saturday picnic'")).rows;
    await s.sql("alice", "DELETE FROM conversation_users WHERE conversation_id = $1 AND user_id = 'bob'", [group]);
    await bob.say("Am I still here?");
    await bob.page.locator(".outgoing.failed", { hasText: "Not sent" }).waitFor();
    await s.sql("alice", "INSERT INTO conversation_users (conversation_id, user_id) VALUES ($1, 'bob')", [group]);
    await bob.page.getByRole("button", { name: "Try again" }).click();
    await alice.message("Am I still here?").waitFor();
    await agrees(bob, "Saturday picnic");
  });

  it("shows who is typing, for as long as they do", async () => {
    await bob.page.getByRole("textbox", { name: "Message" }).pressSequentially("hm");
    await alice.page.locator(".typing-line", { hasText: "Bob is typing…" }).waitFor();
    assert.equal(await bob.page.locator(".typing-line.shown").count(), 0);
    await until("it fades", () => alice.page.locator(".typing-line.shown").count(), (n) => n === 0);
    await bob.page.getByRole("textbox", { name: "Message" }).fill("");
  });

  it("answers in a stream that grows into view", async () => {
    await alice.newChat();
    await alice.say("Tell me a long story");
    const reply = alice.page.locator(".message.ai .text");
    await reply.waitFor();
    const lengths = new Set<number>();
    await until("a whole answer", async () => {
      lengths.add((await reply.textContent())!.length);
      return alice.page.locator(".caret").count();
    }, (n) => n === 0 && lengths.size > 1);
    assert.ok(lengths.size > 5, `${lengths.size} lengths seen`);
    const [question, got] = await agrees(alice, "Tell me a long story");
    assert.equal(got.text, answer("Tell me a long story", question.id));
    const { rows } = await s.sql("alice", 'SELECT "from", metadata FROM messages WHERE msg_id = $1', [got.id]);
    assert.equal(rows[0][0], "assistant");
    assert.equal(rows[0][1]?.stream, undefined);
  });

  it("brings the answer to its end although the server was killed in the middle", async () => {
    await alice.newChat();
    await alice.say("Another long story, please");
    await until("some of the answer", async () => (await alice.page.locator(".message.ai .text").allTextContents())[0]?.length ?? 0, (n) => n > 200);
    await s.kill();
    await s.up();
    await until("all of it", () => alice.page.locator(".caret, .interrupted").count(), (n) => n === 0);
    const rows = await until("the whole answer is stored", () => stored("alice", "Another long story, please"), (r) => r.length === 2 && r[1].text === answer("Another long story, please", r[0].id));
    assert.deepEqual(await agrees(alice, "Another long story, please"), rows);
  });

  it("answers in a group when it is asked to", async () => {
    await alice.open("Saturday picnic");
    await bob.say("What do you think, @assistant?");
    for (const person of [alice, bob]) {
      const last = person.page.locator(".message").last();
      await until(`${person.id} has the answer`, async () => [await last.getAttribute("class"), await person.page.locator(".caret").count()], ([kind, carets]) => `${kind}`.includes(" ai ") && carets === 0);
    }
    const rows = await agrees(alice, "Saturday picnic");
    assert.deepEqual(await agrees(bob, "Saturday picnic"), rows);
    assert.equal(rows.at(-1).text, answer("What do you think, @assistant?", rows.at(-2).id));
  });

  it("sends a picture that the others see", async () => {
    const picture = await alice.page.locator(".bar").screenshot();
    await alice.page.getByLabel("Picture", { exact: true }).setInputFiles({ name: "bar.png", mimeType: "image/png", buffer: picture });
    await alice.say("Look at this");
    const image = bob.message("Look at this").locator("img");
    await image.waitFor();
    await until("it is loaded", () => image.evaluate((img: HTMLImageElement) => img.naturalWidth), (width) => width > 100);
    await agrees(alice, "Saturday picnic");
    await agrees(bob, "Saturday picnic");
  });

  it("drops what it showed when the server was restored to an earlier state", async () => {
    const [backup, earlier] = [temporaryFolder(), join(temporaryFolder(), "data")];
    const run = (...args: string[]) => execFileSync(binary, args, { stdio: ["ignore", "ignore", "pipe"] });
    try {
      run("backup", "--data", s.data, "--to", join(backup, "it"));
      await alice.say("This will not have happened");
      await bob.message("This will not have happened").waitFor();
      await s.kill();
      run("restore", "--from", join(backup, "it"), "--data", earlier);
      rmSync(s.data, { recursive: true });
      cpSync(earlier, s.data, { recursive: true });
      // A restored server has a key of its own.
      s.tokens.clear();
      await s.up();
    } finally {
      rmSync(backup, { recursive: true });
      rmSync(join(earlier, ".."), { recursive: true });
    }
    await bob.message("This will not have happened").waitFor({ state: "detached" });
    await bob.say("After the restore");
    await alice.message("After the restore").waitFor();
    await agrees(alice, "Saturday picnic");
    await agrees(bob, "Saturday picnic");
  });
});

/** KALAMDB_CHAT_SCREENSHOT=docs/chat.png makes the README's picture, with what a Saturday might look like. */
const picture = process.env.KALAMDB_CHAT_SCREENSHOT;

describe("the picture of it", { skip: picture === undefined ? "KALAMDB_CHAT_SCREENSHOT is not set" : skip }, () => {
  const meadow = `<svg xmlns="http://www.w3.org/2000/svg" width="720" height="400">
    <defs><linearGradient id="sky" x2="0" y2="1"><stop stop-color="#7fb4dd"/><stop offset="1" stop-color="#fbe7c6"/></linearGradient>
    <linearGradient id="water" x2="0" y2="1"><stop stop-color="#8fc3d6"/><stop offset="1" stop-color="#4f8fab"/></linearGradient></defs>
    <rect width="720" height="400" fill="url(#sky)"/><circle cx="560" cy="96" r="40" fill="#fff4d0"/>
    <path d="M0 210Q120 120 250 190T520 160T720 200V400H0z" fill="#8fb39a"/><path d="M0 240Q180 180 360 235T720 225V400H0z" fill="#6f9c7c"/>
    <path d="M720 250Q520 250 430 290T60 400H520Q560 330 720 300z" fill="url(#water)"/><path d="M0 270Q110 255 200 300T230 400H0z" fill="#557f5f"/>
    <path d="M520 400Q560 340 720 318V400z" fill="#618d69"/><g fill="#3d6147"><circle cx="92" cy="206" r="46"/><circle cx="132" cy="186" r="40"/><circle cx="60" cy="190" r="36"/></g>
    <path d="M94 230h12v60h-12z" fill="#5b4636"/><path d="M560 372l70-22 76 18-66 26z" fill="#c9513f"/><path d="M584 364l70 20M606 357l70 20M592 386l72-24M566 376l76-24" stroke="#f6e9dc" stroke-width="4"/></svg>`;

  it("is taken", { timeout: 120000 }, async () => {
    execFileSync("npm", ["run", "--silent", "build"], { cwd: folder, stdio: ["ignore", "ignore", "inherit"] });
    const port = await freePort();
    const s = await Server.start({ KALAMDB_ALLOWED_ORIGINS: `http://localhost:${port}` });
    const web = new ChatServer(port, s, 60);
    const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu", "--font-render-hinting=none"] });
    try {
      const ago = (minutes: number) => new Date(Date.now() - minutes * 60000).toISOString();
      const group = async (owner: string, id: string, title: string, members: string[]) => {
        const answer = await s.request("POST", "/api/v1/conversations", { token: s.token(owner), body: { conversation_id: id, conversation_type: "group", title, members } });
        assert.ok(answer.status < 300, JSON.stringify(answer.body));
      };
      const chat = async (id: string, title: string, minutes: number, question: string, reply: string) => {
        await s.say("alice", id, question, { timestamp: ago(minutes + 1) });
        await s.say("alice", id, reply, { from: "assistant", timestamp: ago(minutes) });
        await s.sql("alice", "UPDATE conversations SET title = $1 WHERE conversation_id = $2", [title, id]);
      };
      const read = (id: string) => s.sql("alice", "UPDATE conversation_users SET last_read_msg_id = (SELECT last_msg_id FROM conversations WHERE conversation_id = $1) WHERE conversation_id = $1 AND user_id = 'alice'", [id]);
      await chat("tomatoes", "Watering the tomatoes", 4300, "How often do tomatoes want water?", "Deeply, twice a week. The best time is the early morning, when the air is cool.");
      await chat("train", "Night train to Lisbon", 2900, "Is there a night train to Lisbon?", "Not directly: change in Hendaye, and pack the evening before.");
      await group("bob", "band", "Band rehearsal", ["alice", "carol"]);
      await s.say("carol", "band", "I have the key to the room", { timestamp: ago(1500) });
      await chat("regex", "A regular expression for dates", 900, "A regular expression for ISO dates?", "Try \\d{4}-\\d{2}-\\d{2}, and let a parser judge the rest.");
      for (const id of ["tomatoes", "train", "band", "regex"]) await read(id);
      await group("carol", "book", "Book club", ["alice", "bob"]);
      await s.say("carol", "book", "Who has finished chapter nine?", { timestamp: ago(95) });
      await s.say("bob", "book", "I have! No spoilers though", { timestamp: ago(94) });
      await group("alice", "picnic", "Saturday picnic", ["bob", "carol"]);
      await s.say("bob", "picnic", "The weather looks perfect. Same place as last year?", { timestamp: ago(14) });
      const tab = await (await browser.newContext({ viewport: { width: 720, height: 360 } })).newPage();
      await tab.setContent(`<body style="margin:-40px 0 0">${meadow}</body>`);
      const form = new FormData();
      form.set("conversation_id", "picnic");
      form.set("content", "This bend of the river, under the big tree");
      form.set("file", new Blob([new Uint8Array(await tab.screenshot({ type: "jpeg", quality: 88 }))], { type: "image/jpeg" }), "river.jpg");
      const sent = await fetch(`${s.url}/api/v1/media`, { method: "POST", headers: { authorization: `Bearer ${s.token("carol")}` }, body: form });
      assert.ok(sent.ok, await sent.text());
      await s.say("alice", "picnic", "Lovely, I’ll bring the blanket and the good bread.", { timestamp: ago(2) });
      await read("picnic");
      await web.up();
      const url = `http://localhost:${port}/`;
      const size = { viewport: { width: 1200, height: 800 }, locale: "en-GB" };
      const alice = await Person.at(browser, url, "alice", size);
      const bob = await Person.at(browser, url, "bob", size);
      await alice.open("Saturday picnic");
      await bob.open("Saturday picnic");
      await alice.page.locator(".picture img").waitFor();
      await alice.say("@assistant what if it rains on Saturday?");
      await alice.page.locator(".message.ai .text", { hasText: /(\S+\s+){16}/ }).waitFor();
      await bob.page.getByRole("textbox", { name: "Message" }).pressSequentially("no");
      await alice.page.locator(".typing-line.shown").waitFor();
      await alice.page.screenshot({ path: join(repo, picture!) });
      if (process.env.KALAMDB_CHAT_SCREENSHOT_ALL !== undefined) {
        for (const scheme of ["dark", "light"] as const) {
          const phone = await Person.at(browser, url, "carol", { viewport: { width: 390, height: 780 }, colorScheme: scheme });
          await phone.page.screenshot({ path: `${process.env.KALAMDB_CHAT_SCREENSHOT_ALL}-${scheme}-list.png` });
          await phone.open("Saturday picnic");
          await phone.page.locator(".picture img").waitFor();
          await phone.page.screenshot({ path: `${process.env.KALAMDB_CHAT_SCREENSHOT_ALL}-${scheme}.png` });
        }
        await alice.page.emulateMedia({ colorScheme: "dark" });
        await alice.page.screenshot({ path: `${process.env.KALAMDB_CHAT_SCREENSHOT_ALL}-wide.png` });
      }
    } finally {
      await browser.close();
      web.down();
      await s.destroy();
    }
  });
});
