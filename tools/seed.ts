// Loads conversations (one JSON object a line, gzip or plain) through HTTP, each into its owner's own tables:
//   node --import tsx tools/seed.ts --url http://127.0.0.1:8080 --token <service token> FILE…
// A line has conversation_id, from, timestamp, content, and perhaps user (the owner; else `from` owns it) and metadata.
import { createReadStream } from "node:fs";
import { createInterface } from "node:readline";
import { createGunzip } from "node:zlib";
import { pathToFileURL } from "node:url";

export interface Line {
  user?: string;
  conversation_id: string;
  from: string;
  timestamp: string;
  content: string;
  metadata?: unknown;
}

export async function* lines(file: string): AsyncGenerator<Line> {
  const raw = createReadStream(file);
  const input = file.endsWith(".gz") ? raw.pipe(createGunzip()) : raw;
  for await (const line of createInterface({ input, crlfDelay: Infinity })) if (line !== "") yield JSON.parse(line);
}

const quoted = (name: string) => `"${name.replaceAll('"', '""')}"`;

async function append(url: string, token: string, owner: string, rows: Line[]): Promise<void> {
  const columns = ["conversation_id", "conversation_type", "from", "timestamp", "content", "metadata"];
  const params: unknown[] = [];
  const tuples = rows.map((r) => {
    const values = [r.conversation_id, "ai", r.from, r.timestamp, r.content, r.metadata ?? null];
    return `(${values.map((v) => `$${params.push(v)}`).join(", ")})`;
  });
  const response = await fetch(`${url}/api/v1/query`, {
    method: "POST",
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
    body: JSON.stringify({ sql: `INSERT INTO ${quoted(owner)}.messages (${columns.join(", ")}) VALUES ${tuples.join(", ")}`, params }),
  });
  if (response.status !== 200) throw new Error(`${owner}: ${response.status} ${await response.text()}`);
  await response.arrayBuffer();
}

/** Appends all lines, in file order per owner, `parallel` owners at a time; returns how many. */
export async function seed(url: string, token: string, files: string[], progress: (done: number, total: number) => void, parallel = 16): Promise<number> {
  const owners = new Map<string, Line[]>();
  let total = 0;
  for (const file of files) {
    for await (const line of lines(file)) {
      const owner = line.user ?? line.from;
      const rows = owners.get(owner);
      if (rows === undefined) owners.set(owner, [line]);
      else rows.push(line);
      total++;
    }
  }
  const queue = [...owners];
  let done = 0;
  const worker = async () => {
    for (let next = queue.pop(); next !== undefined; next = queue.pop()) {
      const [owner, rows] = next;
      for (let i = 0; i < rows.length; i += 200) {
        const part = rows.slice(i, i + 200);
        await append(url, token, owner, part);
        done += part.length;
        progress(done, total);
      }
    }
  };
  await Promise.all(Array.from({ length: parallel }, worker));
  return done;
}

function bar(done: number, total: number): void {
  if (!process.stderr.isTTY && done < total) return;
  const width = 40;
  const filled = Math.floor((done / total) * width);
  process.stderr.write(`\r[${"#".repeat(filled)}${".".repeat(width - filled)}] ${done}/${total}${done === total ? "\n" : ""}`);
}

async function main(argv: string[]): Promise<void> {
  let url = "http://127.0.0.1:8080";
  let token = "";
  const files: string[] = [];
  for (let i = 0; i < argv.length; i++) {
    if (argv[i] === "--url") url = argv[++i];
    else if (argv[i] === "--token") token = argv[++i];
    else files.push(argv[i]);
  }
  if (token === "" || files.length === 0) {
    console.error("usage: node --import tsx tools/seed.ts --url URL --token SERVICE_TOKEN FILE…");
    process.exit(2);
  }
  const start = Date.now();
  const done = await seed(url, token, files, bar);
  console.log(`${done} messages in ${((Date.now() - start) / 1000).toFixed(1)} s`);
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) await main(process.argv.slice(2));
