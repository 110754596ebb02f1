// The built-in assistant: a service client of KalamDB that follows each user and answers with streamed replies. Which
// message an answer belongs to is in its client_msg_id, so that after any interruption it goes on as the same message.
import WebSocket from "ws";
import { Client, messageColumns, objects, type Message } from "../src/kalamdb.ts";
import { answer, tokens } from "./markov.ts";

export interface AssistantOptions {
  url: string;
  token: (refused: boolean) => Promise<string>;
  users: string[];
  /** Mean time between two words. */
  wordMs: number;
  log: (line: string) => void;
}

/** Nobody waits for an answer to what was written longer ago. */
const patienceMs = 10 * 60 * 1000;

export class Assistant {
  private readonly client: Client;
  private readonly answered = new Set<number>();
  private stopped = false;

  constructor(private readonly options: AssistantOptions) {
    this.client = new Client({ url: options.url, token: options.token, WebSocket });
  }

  start(): void {
    for (const user of this.options.users) {
      this.client.subscribe({
        userId: user,
        onAck: (how) => how === "first" && void this.catchUp(user),
        onChange: (op, message) => op === "insert" && this.consider(user, message),
      });
    }
    this.client.connect();
  }

  stop(): void {
    this.stopped = true;
    this.client.close();
  }

  /** Questions that nobody answered while this program was not running. */
  private async catchUp(user: string): Promise<void> {
    const schema = `"${user.replaceAll('"', '""')}"`;
    const columns = messageColumns.split(", ").map((name) => `m.${name}`).join(", ");
    try {
      const result = await this.client.query(
        `SELECT ${columns} FROM ${schema}.conversations c JOIN ${schema}.messages m ON m.msg_id = c.last_msg_id WHERE m.conversation_type = 'ai'`,
      );
      for (const message of objects<Message>(result)) this.consider(user, message);
    } catch (error) {
      this.options.log(`assistant: cannot read what ${user} asked: ${error}`);
    }
  }

  /** A group message is in the feed of each member; the sender's own feed decides. */
  private consider(user: string, message: Message): void {
    if (message.from !== user || this.answered.has(message.msg_id)) return;
    if (Date.now() - Date.parse(message.timestamp) > patienceMs) return;
    if (message.conversation_type === "group" && !/(^|\s)@assistant\b/i.test(message.content)) return;
    if (message.content === "" && message.content_ref === null) return;
    this.answered.add(message.msg_id);
    void this.reply(user, message);
  }

  private async reply(user: string, message: Message): Promise<void> {
    const text = message.content_ref === null ? answer(message.content, message.msg_id) : "A picture says more than I could. Thank you for sharing it.";
    const writer = this.client.reply({
      conversationId: message.conversation_id,
      userId: user,
      from: "assistant",
      clientMsgId: `answer-${message.msg_id}`,
    });
    for (const token of tokens(text)) {
      if (this.stopped) return;
      writer.write(token);
      await new Promise((done) => setTimeout(done, this.options.wordMs * (0.5 + Math.random())));
    }
    await writer.end().catch((error) => this.options.log(`assistant: ${error.message}`));
  }
}
