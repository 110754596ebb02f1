// ./test --soak [minutes]: crash rounds until the time is over, at least fifty.
import { crashRounds } from "./crash.ts";

const minutes = Number(process.argv[2] ?? 10);
const end = Date.now() + minutes * 60000;
let rounds = 0;
for (let seed = Number(process.env.KALAMDB_TEST_SEED ?? 1); rounds < 50 || Date.now() < end; seed++) {
  console.log(`seed ${seed}`);
  await crashRounds(10, seed, console.log);
  rounds += 10;
}
console.log(`${rounds} passed, 0 failed`);
process.exit(0);
