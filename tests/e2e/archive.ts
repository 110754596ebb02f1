// Archives of users' data: fetched, taken apart, made by hand, and read with plain DuckDB, which knows nothing of KalamDB.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { after } from "node:test";
import { Server, repo } from "./harness.js";

export const scratch = mkdtempSync(join(tmpdir(), "kalamdb-export-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

export interface Archive {
  bytes: Buffer;
  names: string[];
  members: Map<string, Buffer>;
  manifest: any;
}

/** A tar of plain files (ustar and the pax headers that precede long names). */
export function untar(bytes: Buffer): Archive {
  const members = new Map<string, Buffer>();
  const names: string[] = [];
  let longName: string | undefined;
  let at = 0;
  for (; at + 512 <= bytes.length && bytes[at] !== 0; ) {
    const header = bytes.subarray(at, at + 512);
    const text = (from: number, to: number) => header.subarray(from, to).toString("latin1").replace(/\0.*$/s, "");
    const size = parseInt(text(124, 136).trim(), 8);
    const data = bytes.subarray(at + 512, at + 512 + size);
    const type = text(156, 157);
    at += 512 + Math.ceil(size / 512) * 512;
    if (type === "x") {
      longName = /^\d+ path=(.*)$/m.exec(data.toString())?.[1];
      continue;
    }
    assert.ok(type === "0" || type === "", `type ${type}`);
    const prefix = text(345, 500);
    const name = longName ?? (prefix === "" ? text(0, 100) : `${prefix}/${text(0, 100)}`);
    longName = undefined;
    names.push(name);
    members.set(name, data);
  }
  assert.equal(bytes.length - at >= 1024, true, "the end of a tar");
  return { bytes, names, members, manifest: JSON.parse(members.get("manifest.json")!.toString()) };
}

/** The other way round; `extra` makes entries of other types. */
export function tar(entries: { name: string; data?: Buffer; type?: string; link?: string }[]): Buffer {
  const blocks: Buffer[] = [];
  for (const entry of entries) {
    const data = entry.data ?? Buffer.alloc(0);
    const header = Buffer.alloc(512);
    header.write(entry.name, 0, 100);
    header.write("0000644\0", 100);
    header.write("0000000\0", 108);
    header.write("0000000\0", 116);
    header.write(data.length.toString(8).padStart(11, "0") + "\0", 124);
    header.write("00000000000\0", 136);
    header.write("        ", 148);
    header.write(entry.type ?? "0", 156);
    header.write(entry.link ?? "", 157, 100);
    header.write("ustar\0" + "00", 257);
    header.write(header.reduce((sum, byte) => sum + byte, 0).toString(8).padStart(6, "0") + "\0 ", 148);
    blocks.push(header, data, Buffer.alloc((512 - (data.length % 512)) % 512));
  }
  return Buffer.concat([...blocks, Buffer.alloc(1024)]);
}

export async function download(server: Server, user: string, role = "user", query = ""): Promise<Archive> {
  const response = await fetch(`${server.url}/api/v1/export${query}`, { headers: { authorization: `Bearer ${server.token(user, role)}` } });
  const bytes = Buffer.from(await response.arrayBuffer());
  assert.equal(response.status, 200, bytes.toString().slice(0, 500));
  assert.equal(response.headers.get("content-type"), "application/x-tar");
  return untar(bytes);
}

/** Every file against the manifest: in its order, by size and digest, and the manifest last. */
export function checkManifest(archive: Archive): void {
  const { manifest, members, names } = archive;
  assert.deepEqual([...manifest.files.map((f: any) => f.path), "manifest.json"], names);
  for (const file of manifest.files) {
    const data = members.get(file.path)!;
    assert.equal(data.length, file.bytes, file.path);
    assert.equal(createHash("sha256").update(data).digest("hex"), file.sha256, file.path);
  }
  validate(JSON.parse(readFileSync(join(repo, "docs/export-manifest.schema.json"), "utf8")), manifest, "manifest");
}

/** As much of JSON Schema as the schema uses; anything else in it is an error. */
function validate(schema: any, value: any, where: string): void {
  const known = new Set(["$schema", "$id", "title", "description", "type", "const", "required", "properties", "additionalProperties", "items", "pattern", "minimum", "format", "minLength", "maxLength"]);
  for (const key of Object.keys(schema)) assert.ok(known.has(key), `unknown keyword ${key}`);
  if ("const" in schema) assert.deepEqual(value, schema.const, where);
  if (schema.type === "object") {
    assert.equal(typeof value, "object", where);
    for (const key of schema.required ?? []) assert.ok(key in value, `${where}.${key}`);
    for (const [key, item] of Object.entries(value)) {
      if (schema.properties[key] === undefined) assert.notEqual(schema.additionalProperties, false, `${where}.${key}`);
      else validate(schema.properties[key], item, `${where}.${key}`);
    }
  } else if (schema.type === "array") {
    assert.ok(Array.isArray(value), where);
    value.forEach((item: any, i: number) => validate(schema.items, item, `${where}[${i}]`));
  } else if (schema.type === "integer") {
    assert.ok(Number.isInteger(value) && value >= (schema.minimum ?? -Infinity), where);
  } else if (schema.type === "string") {
    assert.equal(typeof value, "string", where);
    if (schema.pattern !== undefined) assert.match(value, new RegExp(schema.pattern), where);
    assert.ok(value.length >= (schema.minLength ?? 0) && value.length <= (schema.maxLength ?? Infinity), where);
  }
}

/** Plain DuckDB: a statement in, its rows as text out. */
export async function duck(...statements: string[]): Promise<any[]> {
  const child = spawn(process.env.KALAMDB_DUCK!, [], { stdio: ["pipe", "pipe", "inherit"] });
  child.stdin.end(statements.join("\n") + "\n");
  const answers: any[] = [];
  for await (const line of createInterface({ input: child.stdout })) answers.push(JSON.parse(line));
  for (const answer of answers) assert.ok(Array.isArray(answer), JSON.stringify(answer));
  return answers;
}

let folders = 0;
export function unpack(archive: Archive): string {
  const folder = join(scratch, `archive-${++folders}`);
  for (const [name, data] of archive.members) {
    mkdirSync(dirname(join(folder, name)), { recursive: true });
    writeFileSync(join(folder, name), data);
  }
  return folder;
}

export const columns = "msg_id, conversation_id, conversation_type, \"from\", \"timestamp\", content, content_ref, metadata, client_msg_id";

/** All rows as DuckDB reads them from an archive, in the JSON of the server's answers. */
export async function archivedRows(archive: Archive): Promise<any[][]> {
  const [rows] = await duck(
    `SELECT msg_id, conversation_id, conversation_type, "from", strftime("timestamp" AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%S.%fZ'), content, content_ref, metadata, client_msg_id, _seq, _ins_seq FROM read_parquet('${unpack(archive)}/messages/*.parquet') ORDER BY msg_id`,
  );
  return rows.map((row: any[]) => row.map((v, i) => (v !== null && (i === 0 || i >= 9) ? Number(v) : v !== null && i === 7 ? JSON.parse(v) : v)));
}

export async function serverRows(server: Server, user: string, where = ""): Promise<any[][]> {
  return (await server.sql(user, `SELECT ${columns}, _seq, _ins_seq FROM messages ${where} ORDER BY msg_id`)).rows;
}

export function upload(server: Server, user: string, archive: Buffer, role = "service"): Promise<{ status: number; body: any }> {
  return server.request("POST", `/api/v1/import?user=${encodeURIComponent(user)}`, {
    token: server.token("backend", role),
    body: new Uint8Array(archive),
    headers: { "content-type": "application/x-tar" },
  });
}
