// What the built-in assistant says: an echo of the question, then sentences from a word chain. The same question with
// the same seed gives the same answer, so that an answer that was interrupted can be said again and go on.

const corpus = `
A conversation is a table, and every message in it is one row with a number of its own.
A message that was acknowledged is on disk, so a crash takes nothing that anyone has seen.
Every change of yours gets the next number, so a phone that was in a tunnel knows exactly what it missed.
A reply that streams is one message that grows, and each piece of text knows the place where it belongs.
When the network comes back, the browser names the last number it has seen and goes on from there.
When two people write at the same time, both see the same messages in the same order.
A group message is one commit with a copy for each person, so either all of you have it or nobody does.
Old messages move to compact files on their own, and a query gives the same answer before and after.
You can ask for your whole history in one file and take it with you whenever you like.
The plan could be simple: write it down, share it with the others, and change it when the weather does.
A short list is often better than a long one, because a short list is read to the end.
Start with the part that is hard to change later, and leave the colours for the end of the day.
The train leaves early, so pack the evening before and leave one empty pocket for what you find on the way.
Good bread, ripe tomatoes, olives and a blanket are enough for a picnic by the water.
If it rains, the museum by the river is open until six, and the café next to it has good cake.
Bring a light jacket, because the evenings by the water are cooler than they look.
The quickest way is along the river, and the nicest way is along the river too, only slower.
It helps to say the question out loud, and it helps even more to write the answer where others find it.
Three things are worth a try: ask someone who was there, look at the map, and leave a little earlier.
The best time to water the garden is the early morning, when the air is cool and the soil can drink slowly.
`;

const sentences = corpus.trim().split("\n").map((line) => line.split(" "));
const chain = new Map<string, string[]>();
for (const words of sentences) {
  for (let i = 0; i + 1 < words.length; i++) {
    const key = `${words[i - 1] ?? ""} ${words[i]}`;
    chain.set(key, [...(chain.get(key) ?? []), words[i + 1]]);
  }
}

/** mulberry32, seeded from all of the number. */
function random(seed: number): () => number {
  let a = (seed ^ Math.floor(seed / 4294967296)) >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

const common = new Set("about also because best could does every from have into just like more most much often should some such take than that their them then there these they this what when where which will with would your".split(" "));

/** Words of a text that say what it is about. */
function topics(text: string): string[] {
  return (text.toLowerCase().match(/[\p{L}\p{N}]{4,}/gu) ?? []).filter((word) => !common.has(word));
}

function sentence(start: string[], dice: () => number): string {
  const words = [start[0]];
  while (words.length < 40) {
    const next = chain.get(`${words.at(-2) ?? ""} ${words.at(-1)}`);
    if (next === undefined) break;
    words.push(next[Math.floor(dice() * next.length)]);
  }
  return words.join(" ");
}

/** The whole answer to a text. */
export function answer(text: string, seed: number): string {
  const dice = random(seed);
  const question = text.replace(/@assistant\b[,:]?\s*/giu, "").trim();
  const about = new Set(topics(question));
  const fitting = sentences.filter((words) => words.some((word) => about.has(word.toLowerCase().replace(/\W/g, ""))));
  const count = /\b(story|long|everything|essay)\b/i.test(question) ? 24 : 2 + Math.floor(dice() * 2);
  const said = new Set<string>();
  // The first that fits is said as it is; the others wander.
  if (fitting.length > 0) said.add(fitting[Math.floor(dice() * fitting.length)].join(" "));
  for (let i = 0; said.size < count && i < count * 8; i++) {
    const from = said.size < 2 && fitting.length > 0 ? fitting : sentences;
    said.add(sentence(from[Math.floor(dice() * from.length)], dice));
  }
  const short = question.length > 80 ? `${[...question].slice(0, 77).join("")}…` : question;
  return [`You wrote: “${short || "…"}”`, [...said].join(" ")].join("\n\n");
}

/** In the pieces that a model would give it: a word at a time. */
export function tokens(text: string): string[] {
  return text.match(/\s*\S+/gu) ?? [];
}
