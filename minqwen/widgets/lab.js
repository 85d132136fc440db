// The memory lab, in the browser.
//
// Every change of an edit goes to the kernel, which runs the model and sends back `result`: for each token of the
// answer that was given without edits, what is likely there before and after; and both answers. See lab.py.

import { Explorer, MOVING, cellOf, keyLine, make, ribbonOf, stageOf } from "./explorer.js";
import { chance, plain, readable } from "./numbers.js";

const KEYS = { n: "none", c: "clear", a: "alpha", b: "beta", g: "gate" };

const best = (chances) => chances.indexOf(Math.max(...chances));
const quote = (text) => make("b", {}, readable(text));

function paint(canvas, { row, wide, bars, colours }, place, theme) {
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  [place.before, place.after].forEach((chances, which) => {
    const [top, bottom] = bars[which];
    context.fillStyle = `rgb(${colours[theme][which]})`;
    chances.forEach((p, i) => context.fillRect(0, row * i + top, Math.floor(p * wide + 0.5), bottom - top));
  });
}

class MemoryLab extends Explorer {
  constructor(context) {
    super(context, "lab", ["kind", "layer", "head", "token", "kept", "at", "result"]);
    const { tokens, answer, names, layers, live } = this.story;
    Object.assign(this, { tokens, answer, live, N: answer.length });
    this.kinds = ["none", ...Object.keys(names).filter((kind) => layers[kind].length)];
    const letters = Object.entries(KEYS).filter(([, kind]) => this.kinds.includes(kind));
    this.keys = { ...Object.fromEntries(letters.map(([key, kind]) => [key, [kind]])), k: ["keep"], u: ["undo"],
                  ",": ["at", -1], ".": ["at", 1], Escape: ["most"] };
    this.root.classList.toggle("still", !live);
    this.controls.append(this.makeChoice());
    this.slide("layer", "head", "token", ["at", "answer’s token"]);
    const which = make("div", { class: "which" },
      make("span", {}, "How likely each token of the answer before was, and is now:"), this.sliders.at.row);
    this.lay(this.makeRibbon(), this.makeEdits(), this.said, this.makeAnswers(), which, this.makeSpoken(),
      this.makeStage());
    this.makeHelp();
    if (!live) {
      const inputs = this.root.querySelectorAll(".choice input, .controls input, .edits button");
      inputs.forEach((input) => (input.disabled = true));
    }
  }

  // ---- what is on the page

  makeChoice() {
    const group = `minqwen-lab-${Math.random()}`, { names } = this.story;
    this.radios = Object.fromEntries(this.kinds.map((kind) => {
      const radio = make("input", { type: "radio", name: group, value: kind, "data-moves": "kind" });
      radio.addEventListener("change", () => this.go("kind", this.kinds.indexOf(kind)));
      return [kind, radio];
    }));
    const labels = this.kinds.map((kind) => make("label", {}, this.radios[kind], make("span", {}, names[kind] ?? "")));
    this.none = labels[0].lastChild;
    return make("div", { class: "choice", role: "radiogroup", "aria-label": "What to edit" }, ...labels);
  }

  makeRibbon() {
    this.cells = this.tokens.map(({ text, special }, i) => {
      const cell = cellOf({ text: readable(text), special }, { "data-token": i });
      cell.addEventListener("click", () => this.go("token", i));
      return cell;
    });
    return ribbonOf(...this.cells);
  }

  makeEdits() {
    this.keep = make("button", { type: "button" }, "Keep this edit");
    this.undo = make("button", { type: "button" }, "Undo all");
    this.keep.addEventListener("click", () => this.press("keep"));
    this.undo.addEventListener("click", () => this.press("undo"));
    this.chips = make("ul", { class: "chips", "aria-label": "Edits" });
    return make("div", { class: "edits" }, this.chips, this.keep, this.undo);
  }

  makeAnswers() {
    this.answers = ["before", "after"].map((when) => make("div", { class: `answer ${when}` },
      make("p", { class: "when" }, `answer ${when}`), make("details", {}, make("summary", {}, "thoughts"), make("p")),
      make("p", { class: "words" })));
    return make("div", { class: "answers" }, ...this.answers);
  }

  makeSpoken() {
    this.spoken = this.answer.map(({ text, special }, i) => {
      const bars = ["before", "after"].map((when) => make("i", { class: when }, make("b")));
      const cell = cellOf({ text: readable(text), special }, { "data-at": i }, ...bars);
      cell.addEventListener("click", () => this.go("at", i));
      return cell;
    });
    const ribbon = ribbonOf(...this.spoken);
    ribbon.classList.add("spoken");
    return ribbon;
  }

  makeStage() {
    const { wide, row, rows } = this.story;
    this.canvas = make("canvas", { width: wide, height: row * rows });
    [this.texts, this.numbers] = ["texts", "numbers"].map((kind) =>
      make("div", { class: kind, "aria-hidden": "true" }, ...Array.from({ length: rows }, () => make("span"))));
    this.stage = stageOf(this.texts, this.canvas, this.numbers);
    this.stage.style.setProperty("--row", `${row}px`);
    return this.stage;
  }

  makeHelp() {
    const own = [[",", ".", "token of the answer"], ["Esc", "where it changes most"]];
    if (!this.live) {
      this.help.append(keyLine(...own));
      this.note("This page shows these edits as they stood. To try others takes a running notebook: the model " +
        "computes each anew.");
      return;
    }
    const words = { n: "no edit", c: "clear", a: "nothing fades", b: "nothing is written", g: "gate closed" };
    const kinds = Object.keys(words).filter((key) => key in this.keys).map((key) => [key, words[key]]);
    this.help.append(keyLine(...MOVING, ["k", "keep"], ["u", "undo all"]), keyLine(...kinds, ...own));
  }

  // ---- moving

  kindNow() { return this.model.get("kind") === "none" ? "beta" : this.model.get("kind"); }
  layers(kind = this.kindNow()) { return [-1, ...this.story.layers[kind]]; }
  whichNow() { return this.model.get("at") < 0 ? this.model.get("result").most : this.model.get("at"); }

  ends(name) {
    const { kinds, tokens, N, story } = this;
    return { kind: [0, kinds.length - 1], layer: [0, this.layers().length - 1],
             head: [-1, story.heads[this.kindNow()] - 1], token: [0, tokens.length - 1], at: [-1, N - 1] }[name];
  }

  valueAt(name, step) { return { kind: this.kinds, layer: this.layers() }[name]?.[step] ?? step; }
  stepOf(name, value) { return { kind: this.kinds, layer: this.layers() }[name]?.indexOf(value) ?? value; }

  set(values) {
    if (!this.live && Object.keys(values).some((name) => name !== "at")) return;
    if (!("kind" in values)) return super.set(values);
    const there = values.kind === "none" ? "beta" : values.kind, place = this.position(), { heads } = this.story;
    const layer = this.layers(there).includes(place.layer) ? place.layer : -1;          // there may be others
    super.set({ layer, head: place.head < heads[there] ? place.head : -1, ...values });
  }

  press(name, by) {
    const { kind, layer, head, token, kept } = this.position();
    if (name === "keep") {
      return kind !== "none" && this.set({ kept: [...kept, [kind, layer, head, token, null]], kind: "none" });
    }
    if (name === "undo") return this.set({ kept: [], kind: "none" });
    if (name === "most") return this.set({ at: -1 });
    if (this.kinds.includes(name)) return this.set({ kind: name });
    if (name === "at" && Math.abs(by) === 1) return this.go("at", Math.max(0, this.whichNow() + by));
    super.press(name, by);
  }

  // ---- drawing

  now({ kind, layer, head, token, kept }) {                // as the kernel says what `result` is of
    return kind === "none" ? ["none", kept] : [kind, layer, head, token, kept];
  }

  drawn(place) { return [place.at, ...this.now(place).flat()]; }

  show(place, theme) {
    const { result } = place, shown = result.places[this.whichNow()];
    const current = JSON.stringify(result.of) === JSON.stringify(this.now(place));
    this.root.classList.toggle("stale", !current && !this.problem.textContent);         // the kernel is computing
    this.root.dataset.current = current;
    this.shown = place;
    this.describeControls(place);
    this.describeWhere(place);
    this.describeEdits(place);
    this.describeAnswers(result);
    paint(this.canvas, this.story, shown, theme);
    const change = (i) => [`${chance(shown.before[i])} → `, make("b", {}, chance(shown.after[i]))];
    [...this.texts.children].forEach((cell, i) => {
      cell.textContent = i < shown.texts.length ? readable(shown.texts[i]) : "";
    });
    [...this.numbers.children].forEach((cell, i) => cell.replaceChildren(...(i < shown.texts.length ? change(i) : [])));
    this.describe(result, shown);
  }

  describeControls({ kind, layer, head, token, kept, at }) {
    const all = (x) => (x < 0 ? "all" : x), { tokens, N } = this;
    for (const [name, radio] of Object.entries(this.radios)) radio.checked = name === kind;
    this.none.textContent = kept.length ? "no other edit" : "no edit";
    for (const name of ["layer", "head"]) this.sliders[name].range.max = this.ends(name)[1];
    this.told("layer", this.layers().indexOf(layer), all(layer), `layer ${all(layer)}`);
    this.told("head", head, all(head), `head ${all(head)}`);
    const which = `${token + 1} of ${tokens.length}`, spoken = at < 0 ? "most changed" : `${at + 1} of ${N}`;
    this.told("token", token, which, `token ${which}, ${readable(tokens[token].text)}`);
    this.told("at", at, spoken, `token of the answer ${spoken}`);
    for (const name of ["layer", "head", "token"]) this.sliders[name].row.classList.toggle("idle", kind === "none");
    this.keep.disabled = !this.live || kind === "none";
    this.undo.disabled = !this.live || (kind === "none" && !kept.length);
  }

  describeWhere({ kind, token, kept }) {
    this.cells.forEach((cell, i) => {
      cell.classList.toggle("here", kind !== "none" && i === token);
      cell.classList.toggle("touched", kind !== "none" && kind !== "clear" && i >= token);
      cell.classList.toggle("forgotten", kind === "clear" && i < token);
    });
    const text = make("q", {}, readable(this.tokens[token].text));
    const place = `, token ${token + 1} of ${this.tokens.length}`;
    if (kind === "clear") this.where.replaceChildren("forget all before ", text, place);
    else if (kind !== "none") this.where.replaceChildren("edit from ", text, ` on${place}`);
    else this.where.textContent = kept.length ? "edits are kept; choose another" : "before and after are the same";
  }

  describeEdits({ kept, result }) {
    const chips = result.labels.map((label, i) => {
      const chip = make("li", { class: i < kept.length ? "kept" : "" }, label);
      if (this.live && i < kept.length) {
        const drop = make("button", { type: "button", "aria-label": `Undo: ${label}` }, "×");
        drop.addEventListener("click", () => this.set({ kept: kept.filter((_, n) => n !== i) }));
        chip.append(drop);
      }
      return chip;
    });
    this.chips.replaceChildren(...(chips.length ? chips : [make("li", { class: "none" }, "no edit")]));
  }

  describeAnswers(result) {
    result.answers.forEach(({ text, thinking, finish }, i) => {
      const [, thoughts, said] = this.answers[i].children;
      thoughts.hidden = !thinking;
      thoughts.lastChild.textContent = thinking;
      said.textContent = text + (finish === "length" ? " …" : "") || "∅";
    });
    this.spoken.forEach((cell, i) => {
      cell.classList.toggle("here", i === this.whichNow());
      for (const when of ["before", "after"])
        cell.querySelector(`.${when} b`).style.width = `${(100 * result[when][i]).toFixed(1)}%`;
      cell.title = `${chance(result.before[i])} before, ${chance(result.after[i])} after`;
    });
  }

  describe(result, { texts, before, after }) {
    const at = this.whichNow(), [first, now] = [best(before), best(after)];
    const changed = result.answers[0].text === result.answers[1].text ? "stays" : "changes";
    const likeliest = now === first ? ["The likeliest is the same"]
      : ["The likeliest is now ", quote(texts[now]), ` with ${chance(after[now])}`];
    const sentence = result.labels.length
      ? [`Token ${at + 1} of the answer: `, quote(this.answer[at].text), ` goes from ${chance(result.before[at])} to ` +
        `${chance(result.after[at])}. `, ...likeliest, `; the answer ${changed}.`]
      : [`Token ${at + 1} of the answer: the model says `, quote(texts[first]), ` with ${chance(before[first])}.`];
    this.say(...sentence);
    const every = texts.map((text, i) => `${readable(text)} ${chance(before[i])} before, ${chance(after[i])} after`);
    this.stage.setAttribute("aria-label", `${plain(sentence)} ${every.join("; ")}`);
  }
}

export default { render: (context) => new MemoryLab(context).begin() };
