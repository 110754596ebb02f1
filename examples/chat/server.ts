// Serves the built chat on a port of its own, mints DEVELOPMENT tokens for a few named users, and runs the built-in
// assistant. A real product has its own log-in instead of /dev/token; everything else the browser does, it does with
// KalamDB directly.
import { execFile } from "node:child_process";
import { readFileSync, readdirSync, statSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { extname, join, relative, resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs, promisify } from "node:util";
import { Assistant } from "./server/assistant.ts";

const here = fileURLToPath(new URL(".", import.meta.url));
const { values: options } = parseArgs({
  options: {
    port: { type: "string", default: "5180" },
    api: { type: "string", default: "http://127.0.0.1:8090" },
    data: { type: "string", default: join(here, "data") },
    kalamdb: { type: "string", default: process.env.KALAMDB_BIN ?? resolve(here, "../../build/src/cli/kalamdb") },
    dist: { type: "string", default: join(here, "dist") },
    "word-ms": { type: "string", default: "45" },
  },
});

const users = [
  { id: "alice", name: "Alice" },
  { id: "bob", name: "Bob" },
  { id: "carol", name: "Carol" },
];
const tokenHours = 12;

/** `kalamdb token` signs with the key that the server has for this data directory. */
async function mint(user: string, role: "user" | "service"): Promise<string> {
  const args = ["token", "--data", options.data, "--user", user, "--role", role, "--ttl", `${tokenHours}h`];
  return (await promisify(execFile)(options.kalamdb, args)).stdout.trim();
}

let serviceToken: { token: string; until: number } | undefined;
async function assistantToken(refused: boolean): Promise<string> {
  if (refused || serviceToken === undefined || Date.now() > serviceToken.until) {
    serviceToken = { token: await mint("chat-server", "service"), until: Date.now() + (tokenHours - 1) * 3600000 };
  }
  return serviceToken.token;
}

const types: Record<string, string> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".svg": "image/svg+xml",
};

/** The built files by path, read once: no request names a file of the disk. */
function load(folder: string): Map<string, { type: string; bytes: Buffer }> {
  const files = new Map<string, { type: string; bytes: Buffer }>();
  for (const name of readdirSync(folder, { recursive: true }) as string[]) {
    const path = join(folder, name);
    if (!statSync(path).isFile()) continue;
    files.set(`/${relative(folder, path).split(sep).join("/")}`, { type: types[extname(path)] ?? "application/octet-stream", bytes: readFileSync(path) });
  }
  files.set("/", files.get("/index.html")!);
  return files;
}

const files = load(options.dist);
const api = new URL(options.api);
const policy = [
  "default-src 'self'",
  `connect-src 'self' ${api.origin} ${api.origin.replace(/^http/, "ws")}`,
  `img-src 'self' blob: data: ${api.origin}`,
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join("; ");

function json(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { "content-type": "application/json", "cache-control": "no-store" });
  response.end(JSON.stringify(body));
}

async function body(request: IncomingMessage): Promise<any> {
  let text = "";
  for await (const chunk of request) {
    text += chunk;
    if (text.length > 1000) throw new Error("body too long");
  }
  return JSON.parse(text);
}

/** Tokens go to pages of this server only, also when another name points at this machine. */
function ownPage(request: IncomingMessage): boolean {
  const host = request.headers.host ?? "";
  const origin = request.headers.origin;
  return /^(localhost|127\.0\.0\.1)(:\d+)?$/.test(host) && (origin === undefined || origin === `http://${host}`);
}

async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const path = new URL(request.url ?? "/", "http://localhost").pathname;
  if (path === "/dev/config" && request.method === "GET") return json(response, 200, { api: api.origin, users });
  if (path === "/dev/token" && request.method === "POST") {
    if (!ownPage(request)) return json(response, 403, { message: "development tokens are for this server's own pages" });
    const { user } = await body(request);
    if (!users.some((known) => known.id === user)) return json(response, 404, { message: "no such development user" });
    return json(response, 200, { user, token: await mint(user, "user"), expires: Date.now() + tokenHours * 3600000 });
  }
  const file = files.get(path);
  if (file === undefined || (request.method !== "GET" && request.method !== "HEAD")) return json(response, 404, { message: "not found" });
  response.writeHead(200, {
    "content-type": file.type,
    "content-security-policy": policy,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": path.startsWith("/assets/") ? "public, max-age=31536000, immutable" : "no-cache",
  });
  response.end(request.method === "HEAD" ? undefined : file.bytes);
}

const server = createServer((request, response) => {
  handle(request, response).catch((error) => {
    console.error(`${request.method} ${request.url}: ${error.message}`);
    if (!response.headersSent) json(response, 500, { message: "the chat server failed; its log says why" });
  });
});
const assistant = new Assistant({
  url: api.origin,
  token: assistantToken,
  users: users.map((user) => user.id),
  wordMs: Number(options["word-ms"]),
  log: (line) => console.error(line),
});

// Loopback only: whoever reaches this port can be anyone.
server.listen(Number(options.port), "127.0.0.1", () => {
  const address = server.address();
  console.log(`chat server on http://localhost:${typeof address === "object" ? address?.port : options.port}`);
  assistant.start();
});
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.once(signal, () => {
    assistant.stop();
    server.close();
    server.closeAllConnections();
  });
}
