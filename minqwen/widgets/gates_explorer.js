// The gate explorer, in the browser: what the gates of a layer do, token by token and head by head.

import { LayerExplorer, MOVING, keyLine, make, openPalettes, shareOf, stageOf } from "./explorer.js";
import { endOf, kilobytes, percent, readable, signed } from "./numbers.js";
import { BELOW, CAPTION, LABELS, gradient, labelled, paintPanel, panelOf, put, resize } from "./panels.js";
import { openFactors, openLayer, paintDimensions } from "./gates_panels.js";

const HINT = "Point at a cell for its number; click to go there.";

const kindOf = ({ kind }) => (kind === "delta" ? "Gated DeltaNet" : "gated attention");

class GateExplorer extends LayerExplorer {
  constructor(context) {
    super(context, "gates", ["token", "layer", "head"], HINT);
    const { tokens, layers, palettes } = this.story;
    this.texts = tokens.map(({ text }) => readable(text));
    this.palettes = { plain: openPalettes(palettes.plain), signed: openPalettes(palettes.signed) };
    this.page = this.fetch((page, name) => {
      const [kind, layer] = name.split(" ");
      return kind === "dims" ? openFactors(page) : openLayer(page, layers[this.stepOf("layer", Number(layer))], this.T);
    });
    this.slide("token", "layer", "head");
    this.stage = stageOf(this.makePanels());
    this.lay(this.said, this.stage, make("div", { class: "foot" }, this.pointed));
    this.makeHelp();
  }

  // ---- what is on the page

  makePanels() {
    const { gap, bars } = this.story, { layers } = this, most = Math.max(...layers.map(({ panels }) => panels.length));
    this.panels = Array.from({ length: most }, (_, i) => panelOf(`panel-${i}`));
    this.dims = panelOf("dims");
    this.across = this.along("across", this.texts);
    const sheet = make("div", { class: "sheet" }, make("div", { class: "top" }, this.across.edge),
      ...[...this.panels, this.dims].map(({ all }) => all));
    const tall = ({ panels, heads, cell, dims, dim_cell: dim }) =>
      panels.length * (heads * cell[1] + gap + bars[0] + CAPTION + BELOW) + dims * dim[1] + CAPTION + BELOW;
    sheet.style.minHeight = `calc(4.4rem + ${Math.max(...layers.map(tall))}px)`;      // so that nothing jumps
    this.panels.forEach((panel, i) => this.makePointable(panel, i));
    this.makeDimsPointable();
    return this.scroller = make("div", { class: "scroller", tabindex: -1 }, sheet);
  }

  makePointable({ canvas, row, column }, i) {
    this.onPoint(canvas, (event) => {
      const found = this.cellAt(event, i), panel = this.layers[this.shown.l].panels[i];
      if (!found || !panel) return null;
      const number = this.number(panel.name, this.numberOf(panel.name, found.token, found.head));
      return [`${this.texts[found.token]} (token ${found.token + 1}), head ${found.head}: `, make("b", {}, number)];
    }, row, column);
    canvas.addEventListener("click", (event) => {
      const found = this.shown && this.cellAt(event, i);
      if (!found) return;
      this.set(found);
      this.stage.focus();
    });
  }

  makeDimsPointable() {
    const { canvas, column } = this.dims, tokenAt = (event) => Math.floor(shareOf(event, canvas)[0] * this.T);
    this.onPoint(canvas, (event) => {
      const { dims: D, kind } = this.layers[this.shown.l];
      const t = tokenAt(event), d = Math.floor(shareOf(event, canvas)[1] * D);
      const factor = this.shown.gate?.factors[t * D + d];
      if (factor === undefined) return null;
      return [`${this.texts[t]} (token ${t + 1}), dimension ${d} of head ${this.shown.head}: `,
        make("b", {}, kind === "delta" ? signed(factor, 6) : factor.toFixed(6))];
    }, column);
    canvas.addEventListener("click", (event) => {
      this.go("token", tokenAt(event));
      this.stage.focus();
    });
  }

  makeHelp() {
    this.help.append(keyLine(...MOVING));
    if (this.story.all_here) return;
    const bytes = Math.max(...this.layers.map(({ dims }) => 4 * (1 + this.T * dims)));
    this.note("An output gate's dimensions are fetched from the kernel, head by head, when they are first looked at: " +
      `up to ${kilobytes(bytes)} each.`);
  }

  // ---- moving

  cellAt(event, i) {                                       // token and head; a bar stands for its token, or its head
    const { heads, cell: [wide, high] } = this.layers[this.shown.l], { canvas } = this.panels[i];
    const [x, y] = shareOf(event, canvas), t = Math.floor((x * canvas.width) / wide);
    const h = heads - 1 - Math.floor((y * canvas.height) / high);
    const [inTokens, inHeads] = [t >= 0 && t < this.T, h >= 0 && h < heads];
    return inTokens || inHeads ? { token: inTokens ? t : this.shown.token, head: inHeads ? h : this.shown.head } : null;
  }

  // ---- drawing

  paletteOf(both, theme) { return this.palettes[both ? "signed" : "plain"][theme]; }

  async show(place, theme) {
    const { token, l, layer, head } = place, { heads, cell, dims: D, dim_cell: dim, panels, kind } = this.layers[l];
    const numbers = await this.page(`layer ${layer}`);
    if (!this.still(place)) return false;
    this.arrange(place, theme);
    const { gap, bars } = this.story, plain = this.paletteOf(false, theme), both = kind === "delta";
    panels.forEach((_, i) => paintPanel(
      this.panels[i].canvas, numbers.shares[i], [this.T, heads], [token, head], { cell, gap, bars }, plain));
    this.shown = { ...place, numbers, gate: null };
    this.describe();
    const gate = await this.page(`dims ${layer} ${head}`);
    if (!this.still(place)) return false;
    paintDimensions(this.dims.canvas, gate, [this.T, D], dim, both, this.paletteOf(both, theme));
    this.shown.gate = gate;
    const limit = gate.limit.toFixed(both ? 2 : 0), marks = both ? [`−${limit}`, "0", `+${limit}`] : ["0", limit];
    gradient(this.dims, this.paletteOf(both, theme), Number(both), marks);
    this.point();
  }

  arrange(place, theme) {                                  // sizes, headings and marks
    const { token, l, head } = place, layer = this.layers[l], { dims: D, cell: [wide], dim_cell: [, low] } = layer;
    this.across.edge.style.width = `${this.T * wide}px`;
    this.across.write(token);
    this.panels.forEach((panel, i) => this.arrangePanel(panel, layer.panels[i], place, theme));
    const { caption, canvas, side, row, column } = this.dims;
    caption.textContent = `output gate of head ${head}, dimension by dimension`;
    resize(canvas, this.T * wide, D * low);
    put(row, 0, 0, 0, 0);
    put(column, token * wide, 0, wide, D * low);
    side.replaceChildren(make("span", {}, "0"), make("span", {}, `${D - 1}`));
    side.firstChild.style.top = "6px";
    side.lastChild.style.top = `${D * low - 6}px`;
    const left = token * wide, { scroller } = this;        // keep the column in sight: labels cover a part at the left
    const least = left + wide - (scroller.clientWidth - LABELS) + 8;
    scroller.scrollLeft = Math.max(least, Math.min(scroller.scrollLeft, left - 8));
  }

  arrangePanel(panel, described, { token, l, head }, theme) {
    panel.all.hidden = !described;
    if (!described) return;
    const { heads, cell: [wide, high] } = this.layers[l], { gap, bars } = this.story;
    panel.caption.textContent = described.title;
    gradient(panel, this.paletteOf(false, theme), 0, described.marks);
    resize(panel.canvas, this.T * wide + gap + bars[1], heads * high + gap + bars[0]);
    put(panel.row, 0, (heads - 1 - head) * high, this.T * wide, high);
    put(panel.column, token * wide, 0, wide, heads * high);
    panel.side.replaceChildren(...labelled("head", heads, head, high));
  }

  // ---- saying it

  number(name, x) {
    return name === "shut" ? `${x} of ${this.layers[this.shown.l].dims}` : x.toFixed(name === "alpha" ? 6 : 4);
  }

  numberOf(name, t, h) { return this.shown.numbers.told[name][t * this.layers[this.shown.l].heads + h]; }

  sentence({ token, l, head }) {
    const { dims: D, kind } = this.layers[l], told = (name) => this.numberOf(name, token, head), shut = told("shut");
    const written = (name) => this.number(name, told(name)), parts = [];
    if ("alpha" in this.shown.numbers.told) {
      parts.push(`keeps ${percent(told("alpha"))} of the memory (α = ${written("alpha")}), ` +
        `writes with β = ${written("beta")}`);
    }
    parts.push(kind === "delta" ? `its output gate multiplies by ${written("output")} (mean size)`
      : `lets ${percent(told("output"))} through its output gate (mean)`);
    return `${parts.join("; ")}; of ${D} dimensions ${shut} ${shut === 1 ? "is" : "are"} all but shut.`;
  }

  describe() {
    const { token, l, layer, head } = this.shown, { heads } = this.layers[l], { T } = this;
    const text = this.sentence(this.shown), name = this.texts[token], kind = kindOf(this.layers[l]);
    const before = this.story.tokens.slice(0, token + 1).map((read) => read.text).join("");
    this.where.replaceChildren("at the end of “", make("q", {}, endOf(before)), "”");
    this.say(make("b", {}, name), ` Head ${head} ${text}`);
    this.sliders.head.range.max = heads - 1;
    this.told("token", token, `${token + 1} of ${T}`, `token ${token + 1} of ${T}, ${name}. Head ${head} ${text}`);
    this.told("layer", l, `${layer} ${this.layers[l].kind === "delta" ? "delta rule" : "attention"}`,
      `layer ${layer}, ${kind}. Head ${head} ${text}`);
    this.told("head", head, head, `head ${head} of ${heads}; it ${text}`);
    this.stage.setAttribute("aria-label", `The gates of layer ${layer} (${kind}), ${heads} heads by ${T} tokens. ` +
      `Token ${token + 1}, ${name}: head ${head} ${text}`);
    this.point();
  }

  drawn({ token, layer, head }) { return [token, layer, head]; }
}

export default { render: (context) => new GateExplorer(context).begin() };
