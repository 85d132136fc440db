// The page that nano lives in: what is typed is read here, token by token, answered, and shown. Three explorers look at
// it; those of state and attention are the notebooks' own.

import { Explorer, cellOf, keyLine, make, ribbonOf } from "../minqwen/widgets/explorer.js";
import { chance, endOf, grouped, plain, readable } from "../minqwen/widgets/numbers.js";
import { Kernel, attentionPage, attentionStory, mapOf, statePage, stateStory, telling } from "./kernel.js";
import { generate, load, softmax, stripped } from "./nano.js";

const MOST = 512;                                          // tokens that are read at once
const FAR = 10_000;                                        // letters: what is longer has more, and is not counted
const LONGEST = 256;                                       // tokens of an answer
const GUESSES = 8;                                         // that are shown of what may come next
const PAUSE = 300;                                         // milliseconds without a key before the text is read

const EXAMPLES = {
  "a cup becomes a key": "Ann has a red cup. Bob has a blue hat. Ann now has a gold key. What does Ann have?",
  "who is where": "Eve is in the park. Sue is in the kitchen. Eve is now in the library. Where is Eve?",
  "nobody was told": "Ann has a red cup. Bob is in the barn. What does Bob have?",
  "a sum": "What is 347 + 582?",
  "out of its world": "Who wrote Hamlet?",
};

// -------------------------------------------------------------------------------------------------- what may come next

class NextExplorer extends Explorer {
  constructor(context) {
    super(context, "next", ["token"]);
    this.T = this.story.tokens.length;
    this.slide("token");
    this.cells = this.story.tokens.map(({ text, special, written }, t) => {
      const cell = cellOf({ text: readable(text), special }, { "data-token": t });
      cell.classList.toggle("written", written);
      cell.addEventListener("click", () => this.go("token", t));
      return cell;
    });
    this.ribbon = ribbonOf(...this.cells);
    this.guesses = make("ol", { class: "guesses" });
    this.lay(this.ribbon, this.said, this.guesses);
    this.help.append(keyLine(["←", "→", "token"], ["Home", "End", "first, last"]));
    this.note("Underlined is what nano wrote; small, between bars, what the chat itself writes around your text.");
  }

  ends() { return [0, this.T - 1]; }
  press(name, by) { if (name === "token") super.press(name, by); }

  show({ token }) {
    const { tokens, guesses } = this.story, came = tokens[token + 1], [first] = guesses[token];
    const quote = ({ text }) => make("b", {}, readable(text));
    const happened = came && guesses[token].find(({ id }) => id === came.id);
    const sentence = ["Behind ", quote(tokens[token]), " it most expects ", quote(first), ` (${chance(first.p)})`,
      ...(!came ? ["."] : came.id === first.id ? [", which came."] : ["; what came is ", quote(came),
        happened ? ` (${chance(happened.p)}).` : ", which is not among these."])];
    this.cells.forEach((cell, t) => cell.classList.toggle("here", t === token));
    this.keepInSight(this.ribbon, this.cells[token]);
    const before = tokens.slice(0, token + 1).map(({ text }) => text).join("");
    this.where.replaceChildren("after “", make("q", {}, endOf(before)), "”");
    this.guesses.replaceChildren(...guesses[token].map((guess) => {
      const bar = make("i");
      bar.style.width = `${100 * guess.p}%`;
      return make("li", guess.id === came?.id ? { class: "came" } : {},
        make("span", { class: "text" }, readable(guess.text)), make("span", { class: "bar" }, bar),
        make("span", {}, chance(guess.p)));
    }));
    this.say(...sentence);
    this.told("token", token, `${token + 1} of ${this.T}`, `token ${token + 1} of ${this.T}. ${plain(sentence)}`);
  }
}

// ----------------------------------------------------------------------------------------------- reading and answering

const turn = () => new Promise((next) => setTimeout(next));                   // of the page, which must not stand still

// Reads a question and answers it: { tokens, ids, asked, cache, logits, layers, milliseconds }; null when `still` says
// that a newer one waits. `heard` is told the answer's ids as they come.
export async function read({ tokenizer, model, stopIds }, ids, heard = () => {}, still = () => true) {
  const cache = model.newCache(), logits = [], asked = ids.length, begun = performance.now();
  const forward = (id) => {
    logits.push(model.forward(id, cache));
    return logits.at(-1);
  };
  let rested = performance.now(), answered = begun;
  const resting = async () => {
    if (performance.now() < rested + 30) return true;
    await turn();
    rested = performance.now();
    return still();
  };
  for (const id of ids) {
    forward(id);
    if (!await resting()) return null;
  }
  answered = performance.now();
  ids = [...ids];
  for (const id of generate(forward, logits.at(-1), stopIds, LONGEST)) {
    ids.push(id);
    heard(ids.slice(asked));
    if (!await resting()) return null;
  }
  const special = new Set(Object.values(tokenizer.special));
  const tokens = ids.map((id, t) => (
    { id, text: tokenizer.decode([id]), special: special.has(id), written: t >= asked }));
  return { tokens, ids, asked, cache, logits, layers: model.layers,
           milliseconds: [answered - begun, performance.now() - answered] };
}

// The likeliest tokens behind each token.
const guessesOf = (tokenizer, logits) => logits.map((scores) => {
  const p = softmax(scores), ids = [...p.keys()].sort((a, b) => p[b] - p[a]).slice(0, GUESSES);
  return ids.map((id) => ({ id, text: tokenizer.decode([id]), p: p[id] }));
});

// ------------------------------------------------------------------------------------------------------------ the page

class Live {
  constructor(nano, { state, attention, room }) {
    Object.assign(this, { nano, stories: { state, attention, room }, shown: {}, moved: new Set(), newest: 0 });
    this.field = make("textarea", { id: "story", rows: 3, spellcheck: "false", autocomplete: "off" });
    this.thinking = make("input", { type: "checkbox", id: "thinking" });
    this.problem = make("p", { class: "problem", role: "alert", hidden: "" });
    this.thought = make("p", { class: "thought", hidden: "" });
    this.answer = make("p", { class: "answer", "aria-live": "polite" });
    this.told = make("p", { class: "told", role: "status" });
    const buttons = Object.entries(EXAMPLES).map(([name, text]) => {
      const button = make("button", { type: "button" }, name);
      button.addEventListener("click", () => this.take(text));
      return button;
    });
    this.field.addEventListener("input", () => this.soon(PAUSE));
    this.thinking.addEventListener("change", () => this.soon(0));
    document.querySelector("#ask").replaceChildren(
      make("label", { for: "story" }, "A story, and a question"), this.field,
      make("div", { class: "beside" }, make("div", { role: "group", "aria-label": "Examples" }, ...buttons),
        make("label", {}, this.thinking, " think first")),
      this.problem, this.thought, this.answer, this.told);
    this.take(Object.values(EXAMPLES)[0]);
  }

  take(text) {
    this.field.value = text;
    this.thinking.checked = / \+ /.test(text);              // of sums thinking is most of the work
    this.soon(0);
  }

  soon(milliseconds) {                                     // what is being read meanwhile is given up
    this.newest++;
    document.body.dataset.live = "reading";
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => this.run(this.newest).catch(({ message }) => this.complain(message)), milliseconds);
  }

  complain(sentence) {                                     // and show nothing that belongs to another text
    this.problem.textContent = sentence;
    this.problem.hidden = !sentence;
    for (const part of document.querySelectorAll("#next, #state, #attention")) part.hidden = Boolean(sentence);
  }

  refusal(text, { length: tokens }) {                      // why it cannot be read, in a sentence
    if (!stripped(text))
      return "There is nothing to read yet: write a story and a question, or take one of the examples.";
    if (text.length <= FAR && tokens <= MOST) return "";
    return `This page reads up to ${MOST} tokens at once, some 400 words, and this text has ` +
      `${text.length > FAR ? "far more" : `${grouped(tokens)} tokens`}: shorten it.`;
  }

  async run(number) {
    const text = this.field.value, thinking = this.thinking.checked;
    const ids = this.nano.tokenizer.prompt(text.slice(0, FAR), thinking), refused = this.refusal(text, ids);
    this.complain(refused);
    this.hear([], thinking);
    this.answer.setAttribute("aria-busy", "true");         // it is read out once it is whole
    this.told.textContent = "";
    if (!refused) {
      const reading = await read(this.nano, ids, (answer) => this.hear(answer, thinking), () => number === this.newest);
      if (!reading) return;
      this.report(text, reading);
      this.explore(reading);
    }
    this.answer.setAttribute("aria-busy", "false");
    document.body.dataset.live = "done";
  }

  hear(answer, thinking) {
    const { tokenizer } = this.nano, { "</think>": thought } = tokenizer.special;
    const write = (place, name, ids) => {
      const words = tokenizer.decode(ids).trim();
      place.replaceChildren(...(words ? [make("b", {}, name), " ", words] : []));
      place.hidden = place === this.thought && !words;
    };
    const end = thinking ? answer.indexOf(thought) : -1;
    const thoughts = !thinking ? [] : end < 0 ? answer : answer.slice(0, end);
    write(this.thought, "nano thinks:", thoughts);
    write(this.answer, "nano:", answer.slice(end < 0 ? thoughts.length : end + 1));
  }

  report(text, { asked, ids, milliseconds }) {
    const { special } = this.nano.tokenizer, written = ids.length - asked, named = Object.keys(special);
    const [reading, writing] = milliseconds.map((time) => `${Math.round(time)} ms`);
    const typed = named.filter((name) => text.includes(name)), strange = text.match(/[^\p{ASCII}]+/u);
    this.told.textContent = `${asked} tokens read in ${reading}, ${written} written in ${writing}.` +
      (written === LONGEST ? ` It was stopped there: an answer has at most ${LONGEST} tokens here.` : "") +
      (typed.length ? ` “${typed[0]}” in your text is read as the letters that it is.` : "") +
      (strange ? ` For “${endOf(strange[0], 20)}” nano has no words: it reads the bytes.` : "");
  }

  explore(reading) {
    const { state, attention, room } = this.stories, { tokens, logits, asked } = reading;
    this.put("next", { render: (context) => new NextExplorer(context).begin() }, {
      story: { title: "What comes next", tokens, guesses: guessesOf(this.nano.tokenizer, logits) }, token: asked - 1 });
    const { layer, head, seen: token } = this.place("state", true, reading);        // written then, and read later on
    const parts = { decayed: true, erased: true, written: true, exact: false, ...this.shown.state?.state };
    this.put("state", globalThis.StateExplorer, {
      ...parts, story: stateStory(state, reading), layer, head, token, asked: -1,
    }, (name) => statePage(name, reading));
    const story = attentionStory(attention, room, reading), { opened = false } = this.shown.attention?.state ?? {};
    this.put("attention", globalThis.AttentionExplorer, { ...this.place("attention", false, reading), story, opened },
      (name) => attentionPage(name, story, reading));
  }

  // Where an explorer begins: in the layer and head that it was moved to, or else in those whose map shows most; and
  // there at what it shows.
  place(id, signed, reading) {
    const showing = (layer, head) => ({ layer, head, ...telling(mapOf(reading, layer, head)) });
    if (this.moved.has(id)) return showing(this.shown[id].state.layer, this.shown[id].state.head);
    const layers = this.stories.attention.layers.filter((layer) => layer.signed === signed);
    return layers.flatMap(({ index, heads }) => Array.from({ length: heads }, (_, head) => showing(index, head)))
      .reduce((a, b) => (b.strength > a.strength ? b : a));
  }

  put(id, explorer, state, page) {                         // in the place of the one that was there
    const el = document.createElement("div");
    this.shown[id]?.end();
    const kernel = new Kernel(state, page), end = explorer.render({ el, model: kernel });
    for (const name of ["layer", "head"]) kernel.on(`change:${name}`, () => this.moved.add(id));
    document.querySelector(`#${id}`).replaceChildren(el);
    this.shown[id] = { state: kernel.state, end };
  }
}

const files = JSON.parse(document.querySelector("#checkpoint").textContent);
globalThis.nano = await load(files);                       // for the curious: nano.tokenizer.encode("Ann has a cup.")
new Live(globalThis.nano, files);
