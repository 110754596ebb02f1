// Starts real servers in temporary folders and speaks to them as a client would.
import { spawn, execFileSync, type ChildProcess } from "node:child_process";
import { createHmac, sign, type KeyObject } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { after } from "node:test";
import WebSocket from "ws";

export const repo = resolve(import.meta.dirname ?? new URL(".", import.meta.url).pathname, "../..");
export const binary = process.env.KALAMDB_BIN ?? join(repo, "build/src/cli/kalamdb");

/** A token as any issuer makes it: claims (exp in an hour, iat now unless given) signed with a private key, or with a secret for HS256. */
export function mint(key: KeyObject | string, claims: Record<string, any>, header: Record<string, any> = {}): string {
  const now = Math.floor(Date.now() / 1000);
  const kind = typeof key === "string" ? "HS256" : ({ rsa: "RS256", ec: "ES256", ed25519: "EdDSA" } as Record<string, string>)[key.asymmetricKeyType!];
  const part = (o: any) => Buffer.from(JSON.stringify(o)).toString("base64url");
  const text = `${part({ alg: kind, typ: "JWT", ...header })}.${part({ iat: now, exp: now + 3600, ...claims })}`;
  const signature =
    typeof key === "string"
      ? createHmac("sha256", key).update(text).digest()
      : sign(kind === "EdDSA" ? null : "sha256", Buffer.from(text), kind === "ES256" ? { key, dsaEncoding: "ieee-p1363" } : key);
  return `${text}.${signature.toString("base64url")}`;
}

/** Bytes on the disk of n bytes of content under encryption: a header, then blocks of 64 KiB with a tag each (src/vault/sealed_file.h). */
export const sealedSize = (n: number): number => 32 + n + 16 * Math.max(1, Math.ceil(n / 65536));

/** The claims of a token, unchecked. */
export function claims(token: string): any {
  return JSON.parse(Buffer.from(token.split(".")[1], "base64url").toString());
}

export interface Answer {
  status: number;
  headers: Headers;
  body: any;
}

const servers = new Set<Server>();
after(async () => {
  for (const server of servers) await server.destroy();
});

export function temporaryFolder(): string {
  return mkdtempSync(join(tmpdir(), "kalamdb-e2e-"));
}

export class Server {
  child!: ChildProcess;
  port = 0;
  exited!: Promise<number | null>;
  log: any[] = [];
  tokens = new Map<string, string>();

  constructor(
    readonly data: string,
    readonly env: Record<string, string> = {},
    readonly args: string[] = [],
  ) {}

  static async start(env: Record<string, string> = {}, args: string[] = [], data?: string): Promise<Server> {
    const server = new Server(data ?? temporaryFolder(), env, args);
    servers.add(server);
    await server.up();
    return server;
  }

  /** Starts the process (again) and waits until it listens. */
  async up(): Promise<void> {
    const listen = this.args.includes("--listen") ? [] : ["--listen", `127.0.0.1:${this.port}`];
    this.child = spawn(binary, ["serve", "--data", this.data, ...listen, ...this.args], {
      env: { ...process.env, ...this.env },
      stdio: ["ignore", "inherit", "pipe"],
    });
    const child = this.child;
    this.exited = new Promise((done) => child.once("exit", (code) => done(code)));
    await new Promise<void>((started, failed) => {
      const lines = createInterface({ input: child.stderr! });
      lines.on("line", (line) => {
        let entry: any;
        try {
          entry = JSON.parse(line);
        } catch {
          entry = { text: line };
        }
        this.log.push(entry);
        if (entry.event === "started") {
          this.port = entry.port;
          started();
        }
      });
      child.once("exit", (code) => failed(new Error(`server ended with ${code}: ${JSON.stringify(this.log.slice(-5))}`)));
    });
  }

  async stop(): Promise<number | null> {
    this.child.kill("SIGTERM");
    return this.exited;
  }

  async kill(): Promise<void> {
    this.child.kill("SIGKILL");
    await this.exited;
  }

  async destroy(): Promise<void> {
    servers.delete(this);
    if (this.child.exitCode === null && this.child.signalCode === null) await this.kill();
    rmSync(this.data, { recursive: true, force: true });
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  token(user: string, role = "user", ttl = "24h"): string {
    const key = `${user}\0${role}\0${ttl}`;
    let token = this.tokens.get(key);
    if (token === undefined) {
      token = execFileSync(binary, ["token", "--data", this.data, "--user", user, "--role", role, "--ttl", ttl, ...this.secretArgs()], {
        env: { ...process.env, ...this.env },
        encoding: "utf8",
        stdio: ["ignore", "pipe", "ignore"],
      }).trim();
      this.tokens.set(key, token);
    }
    return token;
  }

  private secretArgs(): string[] {
    return this.args.filter((a) => a.startsWith("--jwt"));
  }

  async request(method: string, path: string, options: { token?: string; body?: any; headers?: Record<string, string> } = {}): Promise<Answer> {
    const headers: Record<string, string> = { ...options.headers };
    if (options.token !== undefined) headers.authorization = `Bearer ${options.token}`;
    let body: any = options.body;
    if (body !== undefined && typeof body !== "string" && !(body instanceof Uint8Array)) {
      body = JSON.stringify(body);
      headers["content-type"] ??= "application/json";
    }
    const response = await fetch(this.url + path, { method, headers, body });
    const text = await response.text();
    let parsed: any = text;
    if (response.headers.get("content-type")?.includes("json")) parsed = JSON.parse(text);
    return { status: response.status, headers: response.headers, body: parsed };
  }

  /** As a user; throws on an error answer. */
  async sql(user: string, sql: string, params?: any[], role = "user"): Promise<any> {
    const answer = await this.query(user, sql, params, role);
    if (answer.status !== 200) throw new Error(`${sql}: ${answer.status} ${JSON.stringify(answer.body)}`);
    return answer.body;
  }

  query(user: string, sql: string, params?: any[], role = "user"): Promise<Answer> {
    return this.request("POST", "/api/v1/query", { token: this.token(user, role), body: params === undefined ? { sql } : { sql, params } });
  }

  async say(user: string, conversation: string, content: string, extra: Record<string, any> = {}): Promise<number> {
    const columns = { conversation_id: conversation, content, ...extra };
    const names = Object.keys(columns);
    const answer = await this.sql(
      user,
      `INSERT INTO messages (${names.join(", ")}) VALUES (${names.map((_, i) => `$${i + 1}`).join(", ")})`,
      Object.values(columns),
    );
    return answer.insertedId;
  }

  /** A content file as who holds a row of it gets it. */
  async content(user: string, ref: string): Promise<Buffer> {
    const answer = await fetch(`${this.url}/api/v1/content/${ref}`, { headers: { authorization: `Bearer ${this.token(user)}` } });
    const bytes = Buffer.from(await answer.arrayBuffer());
    if (answer.status !== 200) throw new Error(`${ref}: ${answer.status} ${bytes}`);
    return bytes;
  }

  async consolidate(user?: string): Promise<void> {
    const answer = await this.request("POST", "/api/v1/admin/consolidate", {
      token: this.token("operator", "admin"),
      body: user === undefined ? {} : { user },
    });
    if (answer.status !== 200) throw new Error(`consolidate: ${answer.status} ${JSON.stringify(answer.body)}`);
  }

  async socket(user: string, options: { role?: string; protocols?: string[]; query?: string; headers?: Record<string, string>; path?: string } = {}): Promise<Socket> {
    const query = options.query ?? `?token=${this.token(user, options.role)}`;
    const ws = new WebSocket(`ws://127.0.0.1:${this.port}${options.path ?? "/ws"}${query}`, options.protocols ?? [], { headers: options.headers });
    const socket = new Socket(ws);
    await socket.opened;
    return socket;
  }
}

/** A WebSocket whose frames are taken one by one, in order, with a limit on the wait. */
export class Socket {
  readonly frames: any[] = [];
  private waiting: (() => void)[] = [];
  closed: { code: number; reason: string } | undefined;
  readonly opened: Promise<void>;

  constructor(readonly ws: WebSocket) {
    this.opened = new Promise((done, failed) => {
      ws.once("open", done);
      ws.once("error", failed);
      ws.once("unexpected-response", (_, response) => failed(new Error(`HTTP ${response.statusCode}`)));
    });
    ws.on("message", (data) => {
      this.frames.push(JSON.parse(data.toString()));
      this.notify();
    });
    ws.on("close", (code, reason) => {
      this.closed = { code, reason: reason.toString() };
      this.notify();
    });
    ws.on("error", () => {});
  }

  private notify(): void {
    for (const wake of this.waiting.splice(0)) wake();
  }

  send(message: any): void {
    this.ws.send(typeof message === "string" ? message : JSON.stringify(message));
  }

  private async until<T>(take: () => T | undefined, what: string, ms: number): Promise<T> {
    const deadline = Date.now() + ms;
    for (;;) {
      const got = take();
      if (got !== undefined) return got;
      if (this.closed !== undefined && this.frames.length === 0) throw new Error(`closed (${this.closed.code}) while waiting for ${what}`);
      const left = deadline - Date.now();
      if (left <= 0) throw new Error(`no ${what} within ${ms} ms; pending: ${JSON.stringify(this.frames.slice(0, 3))}`);
      await new Promise<void>((done) => {
        const timer = setTimeout(done, left);
        this.waiting.push(() => {
          clearTimeout(timer);
          done();
        });
      });
    }
  }

  /** The next frame of any type but server pings. */
  next(ms = 10000): Promise<any> {
    return this.until(
      () => {
        while (this.frames.length > 0) {
          const frame = this.frames.shift();
          if (frame.type !== "server_ping") return frame;
        }
        return undefined;
      },
      "frame",
      ms,
    );
  }

  async take(n: number, ms = 30000): Promise<any[]> {
    const out = [];
    while (out.length < n) out.push(await this.next(ms));
    return out;
  }

  /** Frames up to and with the first of this type. */
  async takeUntil(type: string, ms = 30000): Promise<any[]> {
    const out = [];
    for (;;) {
      const frame = await this.next(ms);
      out.push(frame);
      if (frame.type === type) return out;
    }
  }

  async subscribe(options: Record<string, any> = {}): Promise<any> {
    this.send({ type: "subscribe", ...options });
    return this.next();
  }

  closing(ms = 10000): Promise<{ code: number; reason: string }> {
    return this.until(() => {
      if (this.closed !== undefined) return this.closed;
      this.frames.length = 0;
      return undefined;
    }, "close", ms);
  }

  close(): void {
    this.ws.close();
  }
}
