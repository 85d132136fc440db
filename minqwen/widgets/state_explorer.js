// The state explorer, in the browser: the memory of one Gated DeltaNet head, token by token; of one text, or of two.

import { Explorer, MOVING, cellOf, keyLine, make, openPalettes, ribbonOf, shareOf, stageOf } from "./explorer.js";
import { endOf, grouped, kilobytes, percent, plain, readable, signed } from "./numbers.js";
import {
  PARTS, answersLayout, cellsOf, cosine, highest, layout, length, openPage, paint, together,
} from "./state_memory.js";

const NAMES = {
  memory: "memory now", decayed: "faded", erased: "erased", written: "written", key: "key",
  now: "its answer now", error: "error before", answer: "its answer before", value: "value",
  first: "memory of A", second: "memory of B", difference: "A − B",
};
const LEGEND = {
  alpha: ["α", "share of the memory kept"], beta: ["β", "strength of writing"],
  recall: ["recall", "does its key bring back its value?"], match: ["match", "is its value the answer?"],
};
const HINT = "Point at a cell for its number; click on a token to ask with its key.";

class StateExplorer extends Explorer {
  keys = {
    f: ["decayed"], e: ["erased"], w: ["written"], x: ["exact"], ",": ["asked", -1], ".": ["asked", 1],
    Enter: ["this"], Escape: ["own"],
  };

  constructor(context) {
    super(context, "state", ["token", "layer", "head", "asked", ...PARTS, "exact"], HINT);
    const { texts, key_dim: Dk, value_dim: Dv, block } = this.story;
    Object.assign(this, { texts, Dk, Dv, coarse: block, two: texts.length === 2 });
    this.lengths = texts.map(({ tokens }) => tokens.length);
    this.T = Math.max(...this.lengths);
    this.every = texts.flatMap(({ tokens }, x) => tokens.map((token, t) => ({ ...token, x, t })));  // as `asked` counts
    this.palettes = openPalettes(this.story.palettes);
    this.root.classList.toggle("two", this.two);
    this.page = this.fetch((page) => openPage(page, this.story));
    this.slide("token", "layer", "head");
    this.controls.append(this.makeSwitches());
    this.lay(this.said, ...this.makeRibbons(), this.makeLegend(), this.makeStage(), this.makeAsking(),
      make("div", { class: "foot" }, this.pointed, this.scale));
    this.makeHelp();
  }

  // ---- what is on the page

  letter(x) { return this.two ? "AB"[x] : ""; }
  of(x) { return this.two ? ` of ${this.letter(x)}` : ""; }

  makeSwitches() {
    this.switches = Object.fromEntries([...PARTS, "exact"].map((name) => {
      const box = make("input", { type: "checkbox", "data-switch": name });
      box.addEventListener("change", () => this.set({ [name]: box.checked }));
      return [name, box];
    }));
    const labelled = (name, text) => make("label", { class: name }, this.switches[name], make("span", {}, text));
    return make("div", { class: "parts", role: "group", "aria-label": "What the memory is put together from" },
      make("span", {}, this.two ? "both memories =" : "memory now ="), labelled("decayed", "faded"),
      labelled("erased", "− erased"), labelled("written", "+ written"),
      ...(this.coarse > 1 ? [labelled("exact", "every cell")] : []));
  }

  makeRibbons() {
    const bar = (kind) => make("i", { class: kind }, make("b"));
    this.cells = this.every.map(({ text, special, t }, i) => {
      const bars = ["alpha", "beta", "recall", "match"].map(bar);
      bars[3].append(make("b"));                           // before, and after
      const cell = cellOf({ text: readable(text), special }, { "data-token": i }, ...bars);
      cell.addEventListener("click", () => this.set({ asked: this.model.get("asked") === i ? -1 : i }));
      cell.addEventListener("dblclick", () => this.go("token", t));
      return cell;
    });
    this.ribbons = [...this.texts.keys()].map((x) => {
      const cells = this.cells.filter((_, i) => this.every[i].x === x);
      const ribbon = ribbonOf(...(this.two ? [make("b", { class: "letter" }, this.letter(x))] : []), ...cells);
      this.onCells(ribbon, [cells], (cell) => readable(this.every[cell.dataset.token].text));
      return ribbon;
    });
    return this.ribbons;
  }

  makeLegend() {
    return make("p", { class: "legend" }, ...Object.entries(LEGEND).map(([kind, [name, text]]) =>
      make("span", {}, make("i", { class: kind }), " ", make("b", {}, name), ` ${text}`)));
  }

  makeStage() {
    const { Dk, Dv, two } = this, plan = layout(Dk, Dv, this.texts.length);
    const placed = (element, { x, w }) => {
      element.style.left = `${(100 * x) / plan.width}%`;
      element.style.width = `${(100 * w) / plan.width}%`;
      return element;
    };
    const captions = (scale) => plan.places.filter((place) => place.scale === scale)
      .map((place) => placed(make("span", {}, NAMES[place.name]), place));
    const keys = two ? [] : [2, 3].map((i) =>
      placed(make("span", {}, "key"), { x: plan.x[i] - 2.5 * plan.unit, w: 2 * plan.unit }));
    this.above = make("div", { class: "captions above" }, ...captions("memory"), ...keys);
    const signs = (two ? ["−", "="] : ["=", "−", "+"]).map((sign, i) => {
      const mark = make("span", { class: "sign", "aria-hidden": "true" }, sign);
      mark.style.left = `${(100 * (plan.x[i] + Dv + (i && !two ? 1.9 : 3) * plan.unit)) / plan.width}%`;
      mark.style.top = `${(50 * Dk) / plan.height}%`;
      return mark;
    });
    this.veils = two ? {} : Object.fromEntries(PARTS.map((name) => {                  // over what is switched off
      const veil = make("i", { class: "veil", hidden: "" });
      veil.style.height = `${(100 * Dk) / plan.height}%`;
      return [name, placed(veil, plan.places.find((place) => place.name === name))];
    }));
    this.canvas = this.pointable(make("canvas", { class: "states" }));
    const picture = make("div", { class: "picture" }, this.canvas, ...signs, ...Object.values(this.veils));
    picture.style.aspectRatio = `${plan.width} / ${plan.height}`;
    this.stage = stageOf(this.above, picture,
      ...(two ? [] : [make("div", { class: "captions below" }, ...captions("value"))]));
    return this.stage;
  }

  makeAsking() {
    const strips = this.texts.flatMap((_, x) => [`${x} before`, `${x} after`]);
    const names = this.texts.flatMap((_, x) => [`${this.letter(x)} before`, `${this.letter(x)} after`]);
    this.strips = [...strips, "value"];
    this.strip = this.pointable(make("canvas", { class: "strips" }));
    this.answer = make("p", { class: "answer", "aria-live": "polite" });
    const beside = [...names, "its value"].map((name) => make("span", {}, name));
    return make("div", { class: "asking" }, make("div", { class: "names", "aria-hidden": "true" }, ...beside),
      this.strip, this.answer);
  }

  makeHelp() {
    const { story, coarse, Dk, Dv } = this, every = coarse > 1 ? [["x", "every cell"]] : [];
    this.help.append(
      keyLine(...MOVING, ["f", "e", "w", "faded, erased, written on and off"], ...every),
      keyLine(["Enter", "or a click: ask with this token's key from now on"],
        [",", ".", "with the one before, the next"], ["Esc", "with each token's own"]));
    const here = story.layers.length * story.heads.length;
    if (coarse > 1) {
      this.note(`A memory has ${Dk} × ${Dv} cells: each point is the strongest of ${coarse} × ${coarse} of them. ` +
        "Point there for all its numbers, exactly.");
    }
    if (!story.all_here) {
      this.note("Only what is looked at is fetched from the kernel: " +
        `${kilobytes(story.page_bytes)} when a head is first chosen.`);
    }
    if (story.left_out) this.note(`This page holds ${here} of the model's ${grouped(here + story.left_out)} memories.`);
  }

  // ---- moving

  ends(name) {
    const { layers, heads } = this.story;
    const last = { token: this.T, layer: layers.length, head: heads.length, asked: this.every.length }[name] - 1;
    return [name === "asked" ? -1 : 0, last];
  }

  numbersOf(name) { return { layer: this.story.layers, head: this.story.heads }[name]; }    // in the model
  valueAt(name, step) { return this.numbersOf(name)?.[step] ?? step; }
  stepOf(name, value) { return this.numbersOf(name)?.indexOf(value) ?? value; }
  askedAt({ token, asked }) { return asked < 0 ? Math.min(token, this.lengths[0] - 1) : asked; }

  press(name, by) {
    const place = this.position();
    if (name === "this") return this.set({ asked: this.askedAt({ ...place, asked: -1 }) });
    if (name === "own") return this.set({ asked: -1 });
    if (by === undefined) return this.set({ [name]: !place[name] });
    if (name === "asked") return this.go(name, Math.max(0, this.askedAt(place) + by));
    super.press(name, by);
  }

  // ---- drawing

  async show(place, theme) {
    const { token, layer, head } = place, { Dk, Dv, two } = this;
    const { memories, limits } = await this.page(`${layer} ${head}`);
    if (!this.still(place)) return false;
    const block = place.exact ? 1 : this.coarse;
    const at = this.lengths.map((T) => Math.min(token, T - 1));
    const steps = memories.map((memory, x) => memory.step(memory.before(at[x]), at[x]));
    const totals = steps.map((parts) => together(parts, place));
    const parts = two
      ? { first: totals[0], second: totals[1], difference: totals[0].map((x, i) => x - totals[1][i]) }
      : { ...steps[0], memory: totals[0], now: memories[0].ask(totals[0], steps[0].key) };
    const answers = this.answersTo(place, memories, at, totals), [h, w] = [Dk, Dv].map((n) => Math.ceil(n / block));
    const plans = { states: layout(h, w, this.texts.length), strips: answersLayout(h, w, this.strips) };
    this.shown = { ...place, at, steps, totals, parts, answers, memories, limits, block, plans };
    paint(this.canvas, plans.states, parts, limits, this.palettes[theme], { block, Dk, Dv });
    paint(this.strip, plans.strips, answers, limits, this.palettes[theme], { block, Dk, Dv });
    this.describe();
    this.root.dataset.asked = [place.asked, ...PARTS.map((name) => Number(place[name])), Number(place.exact)].join(" ");
  }

  drawn({ token, layer, head }) { return [token, layer, head]; }

  answersTo(place, memories, at, totals) {                 // to the key that is asked with, before this step and after
    const { x: from, t } = this.every[this.askedAt(place)], key = memories[from].key(t);
    const answers = { value: memories[from].value(t) };
    memories.forEach((memory, x) => {
      answers[`${x} before`] = memory.ask(memory.before(at[x]), key);
      answers[`${x} after`] = memory.ask(totals[x], key);
    });
    return answers;
  }

  // ---- saying it

  quote(i) { return make("b", {}, readable(this.every[i].text)); }

  readSoFar(x, t) {
    const told = this.texts[x].tokens.slice(0, t + 1).map(({ text }) => text).join("");
    return ["“", make("q", {}, endOf(told, this.two ? 30 : 60)), "”"];
  }

  ofOneText() {
    const { token, steps: [parts], totals: [total], memories: [memory] } = this.shown;
    const [alpha, beta] = [memory.alpha[token], memory.beta[token]];
    const ofValue = (x) => length(x) / Math.max(length(parts.value), 1e-12);
    const left = ofValue(memory.ask(total, parts.key).map((x, j) => parts.value[j] - x)), wrong = ofValue(parts.error);
    const without = PARTS.filter((name) => !this.shown[name]).map((name) => NAMES[name]);
    const captions = [without.length ? `without ${without.join(", ")}` : "memory now", `faded, α ${alpha.toFixed(3)}`,
      "erased", `written, β ${beta.toFixed(3)}`];
    captions.forEach((text, i) => (this.above.children[i].textContent = text));
    const aloud = `, alpha ${alpha.toFixed(3)}, beta ${beta.toFixed(3)}`;
    return { aloud, sentence: [this.quote(token), ` It keeps ${percent(alpha)} of the memory. Asked for this token's ` +
      `key, the memory is off by ${percent(wrong)} of the value; ${percent(beta)} of that is corrected, which leaves ` +
      `${percent(left)}.`] };
  }

  ofTwoTexts() {
    const { at, totals, parts } = this.shown, size = Math.max(length(totals[0]), length(totals[1]), 1e-12);
    return { aloud: "", sentence: ["A has read up to ", this.quote(at[0]), ", B up to ",
      this.quote(this.lengths[0] + at[1]), ". The difference of their memories is " +
      `${percent(length(parts.difference) / size)} of the larger one; they point the same way by a cosine of ` +
      `${signed(cosine(...totals), 2)}.`] };
  }

  describe() {
    const { token, layer, head, at, answers, memories, limits } = this.shown, { story, T } = this;
    const { aloud, sentence } = this.two ? this.ofTwoTexts() : this.ofOneText(), text = plain(sentence);
    const [a, b] = this.texts.map((_, x) => this.readSoFar(x, at[x]));
    this.where.replaceChildren(...(b ? ["A after ", ...a, " · B after ", ...b] : ["after ", ...a]));
    this.answer.setAttribute("aria-live", text === this.said.textContent ? "polite" : "off");   // one at a time
    this.say(...sentence);
    this.told("token", token, `${token + 1} of ${T}`, `token ${token + 1} of ${T}${aloud}. ${text}`);
    const l = story.layers.indexOf(layer);
    this.told("layer", l, layer, `layer ${layer}, Gated DeltaNet layer ${l + 1} of ${story.layers.length}. ${text}`);
    const keyHead = Math.floor(head / story.group);
    this.told("head", story.heads.indexOf(head), head, `head ${head}, key head ${keyHead}. ${text}`);
    for (const [name, box] of Object.entries(this.switches)) box.checked = this.shown[name];
    for (const [name, veil] of Object.entries(this.veils)) veil.hidden = this.shown[name];
    this.stage.setAttribute("aria-label",
      `Memory of layer ${layer}, head ${head}, after token ${token + 1} of ${T}. ${text}`);
    const matches = memories.map((memory, x) =>
      ["before", "after"].map((when) => memory.matches(answers[`${x} ${when}`], at[x])));
    this.describeAnswers(matches);
    memories.forEach((_, x) => this.describeRibbon(x, matches[x]));
    const [low, , high] = this.scale.children;
    low.textContent = signed(-limits.memory, 2);
    high.textContent = signed(limits.memory, 2);
    this.point();
  }

  describeAnswers(matches) {
    const { asked, answers } = this.shown, at = this.askedAt(this.shown), { x: from, t } = this.every[at];
    const own = asked < 0, offset = [0, this.lengths[0]];
    this.answer.replaceChildren(own ? "Asked with this token's key, " : "Asked with the key of ", this.quote(at),
      own ? ":" : `${this.of(from)}, token ${t + 1}:`,
      ...matches.flatMap((pair, x) => {
        const named = pair.flatMap((cosines, i) => {
          if (length(answers[`${x} ${i ? "after" : "before"}`]) < 1e-9) return [i ? ", after it nothing" : "nothing"];
          const value = [this.quote(offset[x] + highest(cosines)), ` (${signed(Math.max(...cosines), 2)})`];
          return [i ? ", after it the value of " : "most like the value of ", ...value];
        });
        return [` ${this.two ? `${this.letter(x)}’s` : "the"} answer before this step is `, ...named, "."];
      }));
  }

  describeRibbon(x, [before, after]) {                     // the bars below each token of a text
    const { asked, memories, totals, at } = this.shown, memory = memories[x], first = x ? this.lengths[0] : 0;
    const recall = memory.recall(totals[x], at[x]), which = this.askedAt(this.shown);
    for (let t = 0; t < this.lengths[x]; t++) {
      const i = first + t, cell = this.cells[i], later = t > at[x];
      cell.classList.toggle("here", t === at[x]);
      cell.classList.toggle("later", later);
      cell.classList.toggle("asked", asked >= 0 && i === which);
      const heights = [memory.alpha[t], memory.beta[t], ...(later ? [0, 0, 0] : [recall[t], before[t], after[t]])];
      [...cell.querySelectorAll("b")].forEach((filled, n) => {
        filled.style.height = `${(100 * Math.min(1, Math.abs(heights[n]))).toFixed(1)}%`;
        filled.classList.toggle("negative", heights[n] < 0);
      });
      const gates = `α ${heights[0].toFixed(3)}   β ${heights[1].toFixed(3)}`, [r, b, a] = heights.slice(2);
      const match = `match ${signed(b, 3)} before, ${signed(a, 3)} after`;
      cell.title = later ? gates : `${gates}   recall ${signed(r, 3)}   ${match}`;
      cell.dataset.recall = later ? "" : r.toFixed(4);
      cell.dataset.match = later ? "" : `${b.toFixed(4)} ${a.toFixed(4)}`;
    }
    this.keepInSight(this.ribbons[x], this.cells[first + at[x]]);
  }

  // ---- exact numbers: of the cell that is pointed at, or of all that its point stands for

  pointable(surface) {
    this.onPoint(surface, (event) => this.numbersAt(event, surface));
    return surface;
  }

  numbersAt(event, surface) {
    const strips = surface === this.strip, plan = this.shown.plans[strips ? "strips" : "states"];
    const share = shareOf(event, surface);
    const x = Math.floor(share[0] * plan.width), y = Math.floor(share[1] * plan.height);
    const place = plan.places.find((p) => x >= p.x && x < p.x + p.w && y >= p.y && y < p.y + p.h);
    if (!place) return null;
    const { row, rows, column, columns, wide } =
      cellsOf(place, x - place.x, y - place.y, this.shown.block, this.Dk, this.Dv);
    const range = (first, count) => (count > 1 ? `${first}–${first + count - 1}` : `${first}`);
    const at = [...(place.scale === "value" ? [] : [`key ${range(row, rows)}`]),
      ...(place.scale === "key" ? [] : [`value ${range(column, columns)}`])];
    const numbers = this.shown[strips ? "answers" : "parts"][place.name], lines = [];
    for (let i = row; i < row + rows; i++)
      lines.push(Array.from({ length: columns }, (_, j) => signed(numbers[i * wide + column + j], 6)).join(" "));
    const answer = `answer ${place.name.slice(2)}${this.of(Number(place.name[0]))}`;
    const name = !strips ? NAMES[place.name] : place.name === "value" ? "its value" : answer;
    return [`${name} [${at.join(", ")}]  `, make("b", {}, lines.join("  /  "))];
  }
}

export default { render: (context) => new StateExplorer(context).begin() };
