// Asks website/nano.js and website/kernel.js, for tests/test_live.py: reads one JSON object a line, { name: argument },
// and answers each with one line. The argument of this program is a file with what the page holds.
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

import { attentionPage, attentionStory, statePage, stateStory } from "../website/kernel.js";
import { generate, load } from "../website/nano.js";

const files = JSON.parse(readFileSync(process.argv[2]));
const { tokenizer, model, stopIds } = await load(files);

const base64 = (numbers) => Buffer.from(numbers.buffer).toString("base64");
const read = (ids) => {
  const cache = model.newCache();
  return { cache, logits: ids.map((id) => model.forward(id, cache)) };
};

const answers = {
  encode: (text) => tokenizer.encode(text),
  prompt: ([text, thinking]) => tokenizer.prompt(text, thinking),
  decode: (ids) => tokenizer.decode(ids),
  logits: (ids) => read(ids).logits.map(base64),
  answer: (ids) => {
    const { cache, logits } = read(ids);
    return [...generate((id) => model.forward(id, cache), logits.at(-1), stopIds, 64)];
  },
  explorers: ([ids, tokens, names]) => {
    const reading = { tokens, layers: model.layers, ...read(ids) }, { attention, room, state } = files;
    const maps = attentionStory(attention, room, reading);
    return {
      stories: [stateStory(state, reading), maps],
      pages: names.map((name) => (/^\d/.test(name) ? statePage(name, reading) : attentionPage(name, maps, reading)))
        .map(base64),
    };
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const [[name, argument]] = Object.entries(JSON.parse(line));
  console.log(JSON.stringify(answers[name](argument)));
}
