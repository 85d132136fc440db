// The expert explorer, in the browser: which experts read which token, layer by layer.

import {
  LayerExplorer, MOVING, cellOf, keyLine, make, openPalettes, ribbonOf, shareOf, stageOf,
} from "./explorer.js";
import { cssOf, endOf, floatsOf, kilobytes, percent, readable } from "./numbers.js";
import { BELOW, CAPTION, gradient, labelled, paintPanel, panelOf, put, resize, surfaceOf } from "./panels.js";

const HINT = "Point at a cell for its numbers; click to go there.";
const BESIDE = 74;                                         // pixels: the room beside a panel
const KEYS = MOVING.map((keys) => keys.map((word) => (word === "head" ? "expert" : word)));

// Of a layer: (T, E) weights and probabilities, (T,) loudness of the shared expert.
function openExperts(page, { heads }, T) {
  const all = floatsOf(page), part = (i) => all.subarray(i * T * heads, (i + 1) * T * heads);
  return { weights: part(0), probabilities: part(1), shared: part(2) };
}

// How many of the tokens each expert of each layer reads: layers side by side, the first expert at the bottom.
function paintLoads(canvas, layers, [across, down], most, palette) {
  const surface = surfaceOf(canvas);
  layers.forEach(({ heads, load }, l) => load.forEach((share, e) =>
    surface.fill(l * across, (heads - 1 - e) * down, across, down, palette[Math.floor((share / most) * 255 + 0.5)])));
  surface.show();
}

class ExpertExplorer extends LayerExplorer {
  constructor(context) {
    super(context, "experts", ["token", "layer", "head"], HINT);
    const { tokens, layers, palette } = this.story;
    this.texts = tokens.map(({ text }) => readable(text));
    this.palettes = openPalettes(palette);
    this.page = this.fetch((page, name) =>
      openExperts(page, layers[this.stepOf("layer", Number(name.split(" ")[1]))], this.T));
    this.slide("token", "layer", ["head", "expert"]);
    this.stage = stageOf(this.makePanels(), this.makeLoads());
    this.lay(this.said, this.makeRibbon(), this.stage, make("div", { class: "foot" }, this.pointed));
    this.help.append(keyLine(...KEYS));
    if (this.story.all_here) return;
    const bytes = 4 * this.T * (2 * layers[0].heads + 1);
    this.note(`A layer is fetched from the kernel when it is first looked at: ${kilobytes(bytes)}.`);
  }

  // ---- what is on the page

  makeRibbon() {
    this.cells = this.story.tokens.map((token, t) => cellOf(token, { "data-token": t }, make("i", { class: "reads" })));
    this.ribbon = ribbonOf(...this.cells);
    this.ribbon.addEventListener("click", ({ target }) => {
      const cell = target.closest(".cell");
      if (!cell) return;
      this.go("token", Number(cell.dataset.token));
      this.stage.focus();
    });
    return this.ribbon;
  }

  makePanels() {
    const { gap, bars, shared } = this.story, { heads, cell } = this.layers[0];
    this.panel = panelOf("weights");
    this.shared = panelOf("shared");
    this.across = this.along("across", this.texts);
    const sheet = make("div", { class: "sheet" }, make("div", { class: "top" }, this.across.edge),
      this.panel.all, this.shared.all);
    this.panel.caption.textContent = "what each expert counts; empty: not read";
    this.shared.caption.textContent = "how loud the shared expert is";
    const size = [this.T * cell[0] + gap + bars[1], gap + bars[0]];
    resize(this.panel.canvas, size[0], heads * cell[1] + size[1]);
    resize(this.shared.canvas, size[0], shared[1] + size[1]);
    this.across.edge.style.width = `${this.T * cell[0]}px`;
    for (const panel of [this.panel, this.shared]) {
      this.onPoint(panel.canvas, (event) => this.numbersAt(event, panel), panel.row, panel.column);
      panel.canvas.addEventListener("click", (event) => {
        const found = this.shown && this.cellAt(event, panel);
        if (!found) return;
        this.set(panel === this.panel ? found : { token: found.token });
        this.stage.focus();
      });
    }
    return this.scroller = make("div", { class: "scroller", tabindex: -1 }, sheet);
  }

  makeLoads() {
    const { load: [wide, high], most } = this.story, { layers } = this, canvas = make("canvas", { class: "load" });
    const box = make("i", { class: "band" }), heading = make("div", { class: "heading" });
    const every = Math.ceil(16 / wide);
    const below = layers.flatMap(({ index }, l) => {
      if (l % every) return [];
      const label = make("span", {}, `${index}`);
      label.style.left = `${(l + 0.5) * wide}px`;
      return [label];
    });
    heading.style.height = `${CAPTION}px`;
    heading.append("share of tokens read");
    resize(canvas, layers.length * wide, layers[0].heads * high);
    const placeOf = (event) => {
      const [x, y] = shareOf(event, canvas), l = Math.min(layers.length - 1, Math.floor(x * layers.length));
      return { l, e: layers[l].heads - 1 - Math.floor(y * layers[l].heads) };
    };
    this.onPoint(canvas, (event) => {
      const { l, e } = placeOf(event), { index, load, chosen, heads } = layers[l];
      return e < 0 ? null : [`layer ${index}, expert ${e} reads `, make("b", {}, percent(load[e])),
        ` of the tokens (even: ${percent(chosen / heads)})`];
    }, box);
    canvas.addEventListener("click", (event) => {
      const { l, e } = placeOf(event);
      this.set({ layer: layers[l].index, head: Math.max(0, e) });
      this.stage.focus();
    });
    this.load = { canvas, box, scale: make("span", { class: "scale-of-loads" }) };
    this.load.scale.textContent = `full colour: ${percent(most)}`;
    return make("div", { class: "loads" }, heading, make("div", { class: "picture" }, canvas, box),
      make("div", { class: "below" }, ...below), make("p", {}, "layer"), this.load.scale);
  }

  // ---- moving

  cellAt(event, { canvas }) {                              // token and expert; a bar stands for the one or the other
    const { heads, cell: [wide, high] } = this.layers[this.shown.l], [x, y] = shareOf(event, canvas);
    const t = Math.floor((x * canvas.width) / wide), e = heads - 1 - Math.floor((y * canvas.height) / high);
    const [inTokens, inRows] = [t >= 0 && t < this.T, e >= 0 && e < heads];
    return inTokens || inRows ? { token: inTokens ? t : this.shown.token, head: inRows ? e : this.shown.head } : null;
  }

  numbersAt(event, panel) {
    const found = this.cellAt(event, panel), { heads } = this.layers[this.shown.l];
    if (!found) return null;
    const { token, head } = found, name = `${this.texts[token]} (token ${token + 1}), `;
    const { weights, probabilities, shared } = this.shown.numbers;
    if (panel === this.shared) return [`${name}shared expert: `, make("b", {}, shared[token].toFixed(4))];
    const [weight, probability] = [weights, probabilities].map((all) => all[token * heads + head]);
    return [`${name}expert ${head}: `, make("b", {}, weight ? `counts ${weight.toFixed(4)}` : "does not read it"),
      `, probability ${probability.toFixed(4)}`];
  }

  // ---- drawing

  async show(place, theme) {
    const { token, l, layer, head } = place, { gap, bars, shared } = this.story;
    const { heads, cell, limit } = this.layers[l];
    const numbers = await this.page(`layer ${layer}`);
    if (!this.still(place)) return false;
    const palette = this.palettes[theme], shares = numbers.weights.map((weight) => weight / limit);
    paintPanel(this.panel.canvas, shares, [this.T, heads], [token, head], { cell, gap, bars }, palette);
    paintPanel(this.shared.canvas, numbers.shared, [this.T, 1], [token, 0], { cell: shared, gap, bars }, palette);
    paintLoads(this.load.canvas, this.layers, this.story.load, this.story.most, palette);
    gradient(this.panel, palette, 0, ["0", limit.toFixed(2)]);
    gradient(this.shared, palette, 0, ["0", "1"]);
    this.cells.forEach((element, t) => {
      element.classList.toggle("here", t === token);
      element.lastChild.style.background = cssOf(palette, Math.floor(shares[t * heads + head] * 255 + 0.5));
    });
    this.keepInSight(this.ribbon, this.cells[token]);
    this.shown = { ...place, numbers };
    this.mark(place);
    this.describe();
  }

  mark({ token, l, head }) {
    const { heads, cell: [wide, high] } = this.layers[l], { shared, load } = this.story, { scroller } = this;
    this.across.write(token);
    put(this.panel.row, 0, (heads - 1 - head) * high, this.T * wide, high);
    put(this.panel.column, token * wide, 0, wide, heads * high);
    put(this.shared.row, 0, 0, 0, 0);
    put(this.shared.column, token * wide, 0, wide, shared[1]);
    put(this.load.box, l * load[0], (heads - 1 - head) * load[1], load[0], load[1]);
    this.panel.side.replaceChildren(...labelled("expert", heads, head, high));
    const left = token * wide, least = left + wide - (scroller.clientWidth - BESIDE) + BELOW;
    scroller.scrollLeft = Math.max(least, Math.min(scroller.scrollLeft, left - BELOW));
  }

  // ---- saying it

  sentence({ token, l, head, numbers: { weights, probabilities, shared } }) {
    const { heads, chosen, load } = this.layers[l], at = (all, e) => all[token * heads + e];
    const readers = Array.from({ length: heads }, (_, e) => e).filter((e) => at(weights, e) > 0)
      .sort((a, b) => at(weights, b) - at(weights, a)).map((e) => `${e} (${percent(at(weights, e))})`);
    const read = Math.round(load[head] * this.T), even = Math.round((chosen / heads) * this.T);
    return `is read by ${readers.length === 1 ? "expert" : "experts"} ${readers.join(", ")} of ${heads}, ` +
      `and by the shared one at ${percent(shared[token])}. Expert ${head}, to which the router gives ` +
      `${percent(at(probabilities, head))} here, reads ${read} of ${this.T} tokens (an even share: ${even}).`;
  }

  describe() {
    const { token, l, layer, head } = this.shown, { heads, kind } = this.layers[l], { T } = this;
    const text = this.sentence(this.shown), name = this.texts[token];
    const before = this.story.tokens.slice(0, token + 1).map((read) => read.text).join("");
    this.where.replaceChildren("at the end of “", make("q", {}, endOf(before)), "”");
    this.say(make("b", {}, name), ` ${text}`);
    this.told("token", token, `${token + 1} of ${T}`, `token ${token + 1} of ${T}, ${name}, ${text}`);
    const mixer = kind === "delta" ? "delta rule" : "attention";
    this.told("layer", l, `${layer} ${mixer}`, `layer ${layer}. ${name} ${text}`);
    this.told("head", head, head, `expert ${head} of ${heads}. ${name} ${text}`);
    this.stage.setAttribute("aria-label", `The experts of layer ${layer}, ${heads} by ${T} tokens. ` +
      `Token ${token + 1}, ${name}, ${text}`);
    this.point();
  }

  drawn({ token, layer, head }) { return [token, layer, head]; }
}

export default { render: (context) => new ExpertExplorer(context).begin() };
