// Query workers run in their cage unless an operator says otherwise, and then everybody can see it. What the cage
// holds against is tried in tests/unit/analytic/native_test.c.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync, readdirSync, readlinkSync, rmSync } from "node:fs";
import { describe, it } from "node:test";
import { binary, Server, temporaryFolder } from "./harness.ts";

const aggregate = "SELECT count(*), max(length(content)) FROM messages WHERE content LIKE '%e%' GROUP BY conversation_id";
const status = (pid: string): Map<string, string> => new Map(readFileSync(`/proc/${pid}/status`, "utf8").split("\n").map((l) => l.split(":\t") as [string, string]));

/** The zygote of this server and its workers, by name. */
function workers(s: Server): { zygote: string; queries: string[] } {
  const all = readdirSync("/proc").filter((p) => /^\d+$/.test(p));
  const of = (parent: string) =>
    all.filter((p) => {
      try {
        return status(p).get("PPid") === parent && status(p).get("State")?.[0] !== "Z";
      } catch {
        return false;
      }
    });
  const zygote = of(String(s.child.pid)).find((p) => status(p).get("Name") === "kalamdb-zygote");
  assert.ok(zygote !== undefined);
  return { zygote, queries: of(zygote) };
}
const metrics = async (s: Server): Promise<string> => (await s.request("GET", "/metrics")).body;

describe("query workers", () => {
  it("are caged as the server starts", async () => {
    const s = await Server.start();
    await s.say("alice", "c", "hello");
    await s.sql("alice", aggregate);
    const { zygote, queries } = workers(s);
    assert.ok(queries.length >= 1);
    for (const pid of [zygote, ...queries]) {
      const is = status(pid);
      assert.equal(is.get("Seccomp"), "2");
      assert.equal(is.get("NoNewPrivs"), "1");
      assert.equal(Number(`0x${is.get("CapEff")}`), 0);
      assert.equal(Number(`0x${is.get("CapPrm")}`), 0);
      assert.equal(is.get("Threads"), "1");
      assert.equal(readFileSync(`/proc/${pid}/environ`, "utf8"), "");
      const open = readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`));
      for (const file of open) assert.match(file, /^(\/dev\/null|socket:.*|anon_inode:\[signalfd\]|\/memfd:.*)$/);
    }
    for (const pid of queries) assert.equal(status(pid).get("Seccomp_filters"), "2");
    assert.match(await metrics(s), /^kalamdb_worker_cage [1-9]/m);
    assert.equal((await s.request("GET", "/api/v1/health")).body.workerCage, undefined);
    assert.ok(!s.log.some((l) => l.event === "workers_uncaged"));
    await s.destroy();
  });

  it("run without it where an operator says so, loudly", async () => {
    const s = await Server.start({ KALAMDB_WORKER_CAGE: "off" });
    await s.say("alice", "c", "hello");
    assert.deepEqual((await s.sql("alice", aggregate)).rows, [[1, 5]]);
    assert.equal(status(workers(s).zygote).get("Seccomp_filters"), status(String(s.child.pid)).get("Seccomp_filters"));
    assert.match(await metrics(s), /^kalamdb_worker_cage 0$/m);
    assert.equal((await s.request("GET", "/api/v1/health")).body.workerCage, "off");
    const warned = s.log.filter((l) => l.event === "workers_uncaged");
    assert.equal(warned.length, 1);
    assert.equal(warned[0].level, "warn");
    await s.stop();
    await s.up();
    assert.equal(s.log.filter((l) => l.event === "workers_uncaged").length, 2);
    await s.destroy();
  });

  // A container's policy that knows nothing of Landlock answers as an older kernel does.
  it("stop the start where the cage cannot be built", () => {
    const data = temporaryFolder();
    const refuse = process.env.KALAMDB_REFUSE_LANDLOCK;
    assert.ok(refuse !== undefined, "the wrapper that takes Landlock away is missing");
    const run = (cage: string) =>
      spawnSync(refuse, [binary, "serve", "--data", data, "--listen", "127.0.0.1:0", "--worker-cage", cage], { encoding: "utf8", timeout: 4000, killSignal: "SIGTERM" });
    const refused = run("on");
    assert.notEqual(refused.status, 0);
    assert.match(refused.stderr, /Landlock/);
    assert.match(refused.stderr, /worker_cage: off/);
    assert.doesNotMatch(refused.stderr, /"started"/);
    assert.match(run("off").stderr, /"started"/);
    rmSync(data, { recursive: true, force: true });
  });
});
