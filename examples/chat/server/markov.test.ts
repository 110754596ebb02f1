import assert from "node:assert/strict";
import { it } from "node:test";
import { answer, tokens } from "./markov.ts";

it("gives the same answer to the same question with the same seed", () => {
  const text = answer("What about the picnic?", 244447445626880);
  assert.equal(answer("What about the picnic?", 244447445626880), text);
  assert.notEqual(answer("What about the picnic?", 244447445626881), text);
  assert.ok(text.startsWith("You wrote: “What about the picnic?”\n\n"));
});

it("does not quote its own name", () => {
  assert.ok(answer("@assistant, what now?", 1).startsWith("You wrote: “what now?”"));
});

it("comes in pieces that are the whole", () => {
  for (let seed = 1; seed < 50; seed++) {
    const text = answer("tell me a long story", seed);
    assert.equal(tokens(text).join(""), text);
    assert.ok(text.length > 600);
  }
});
