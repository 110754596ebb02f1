// A real channel's days replayed as groups: everybody holds exactly what was said from their joining on (or all of it,
// where history is shared), with the same ids in every copy, hot and after consolidation. bench/irc.ts does all days.
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { before, describe, it } from "node:test";
import { conversations, difference, historyComplete, replay, type Replayed } from "../../tools/groups.ts";
import { random } from "./crash.ts";
import { Server, repo } from "./harness.ts";

const file = join(process.env.KALAMDB_DATASETS ?? join(repo, "../shared/data"), "irc-groups.jsonl.gz");

describe("a channel's days as groups", { skip: existsSync(file) ? false : `no data set at ${file}` }, () => {
  let s: Server;
  let replayed: Replayed;
  let token: string;

  before(async () => {
    s = await Server.start({ KALAMDB_CONSOLIDATE_INTERVAL_MS: "0", KALAMDB_MAX_RESULT_ROWS: "100000" });
    token = s.token("backend", "service");
  });

  async function compare(state: string, n: number): Promise<void> {
    const people = [...new Set(replayed.days.flatMap((d) => [...d.joined.keys()]))];
    const rng = random(7);
    for (let i = 0; i < n; i++) {
      const who = people[Math.floor(rng() * people.length)];
      assert.equal(await difference(s.url, token, replayed.days, who), undefined, state);
    }
  }

  it("replay", async () => {
    const all = await conversations(file, 43);
    replayed = await replay(s.url, token, all, { sharedEvery: 3 });
    await historyComplete(s.url, token, replayed.days);
    assert.ok(replayed.days.length >= 4 && replayed.days.some((d) => d.shared) && replayed.days.some((d) => !d.shared));
  });

  it("everybody's tables are as expected", () => compare("hot", 60));

  it("after consolidation of some of them too", async () => {
    const busy = replayed.days.map((d) => d.owner).slice(0, 2);
    for (const who of busy) {
      await s.consolidate(who);
      assert.equal(await difference(s.url, token, replayed.days, who), undefined, "cold");
    }
  });

  it("and after kill -9", async () => {
    await s.kill();
    await s.up();
    await compare("restarted", 30);
  });
});
