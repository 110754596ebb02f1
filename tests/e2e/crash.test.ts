import { it } from "node:test";
import { crashRounds } from "./crash.ts";

it("loses and doubles nothing over five SIGKILLs", { timeout: 240000 }, async (t) => {
  const seed = Number(process.env.KALAMDB_TEST_SEED ?? Date.now() % 1000000);
  t.diagnostic(`seed ${seed}`);
  await crashRounds(5, seed, (line) => t.diagnostic(line));
});
