// The attention explorer, in the browser: who looks at whom, in every layer and head at once, and in one cell by cell.

import {
  LayerExplorer, MOVING, Tiles, cellOf, keyLine, make, openPalettes, ribbonOf, shareOf, stageOf,
} from "./explorer.js";
import { cssOf, kilobytes, percent, plain, readable, shadeFromZero, shadeOf, signed } from "./numbers.js";
import { openMap, openTiles, paintLayer, paintMap } from "./attention_maps.js";

const HINTS = {
  grid: "Point at a map for its habits; click to open it. Each has its own scale.",
  map: "Point at a cell for its number; click to keep it.",
};

class AttentionExplorer extends LayerExplorer {
  keys = { ",": ["seen", -1], ".": ["seen", 1], Enter: ["open"], Escape: ["close"] };

  constructor(context) {
    super(context, "attention", ["layer", "head", "token", "seen", "opened"], HINTS.grid);
    const { tokens, layers, palettes } = this.story;
    this.texts = tokens.map(({ text }) => readable(text));
    this.most = Math.max(...layers.map(({ heads }) => heads));
    this.palettes = { plain: openPalettes(palettes.plain), signed: openPalettes(palettes.signed) };
    this.painted = {};                                     // columns of the grid: the theme and the heads painted there
    this.page = this.fetch((page, name) => {
      const [kind, layer] = name.split(" ");
      return kind === "map" ? openMap(page) : openTiles(page, layers[this.stepOf("layer", Number(layer))]);
    });
    this.slide("layer", "head", ["token", "token that looks"], ["seen", "looks at"]);
    this.button = make("button", { type: "button" });
    this.button.addEventListener("click", () => this.set({ opened: !this.model.get("opened") }));
    this.controls.append(this.button);
    this.stage = stageOf(this.makeGrid(), this.makeMap());
    this.lay(this.said, make("div", { class: "beside" }, this.stage, this.makeRibbon()),
      make("div", { class: "foot" }, this.pointed, this.scale));
    this.makeHelp();
  }

  // ---- what is on the page

  makeGrid() {
    const { tile, gap } = this.story, side = tile.cells * tile.unit;
    const names = this.layers.map((layer) => (
      { short: layer.index, long: `${layer.index} ${this.kindOf(layer, true)}`, attention: !layer.signed }));
    const heads = Array.from({ length: this.most }, (_, h) => h);
    this.tiles = new Tiles(names, heads, { wide: side, high: side, gap });
    this.rows = heads.map(() => make("i", { class: "band row" }));                      // of the token that looks
    this.tiles.picture.append(...this.rows);
    this.onPoint(this.tiles.canvas, (event) => {
      const { l, row } = this.tiles.at(event), painted = this.painted[l];
      if (!painted?.heads[row]) return null;
      const { index } = this.layers[l];
      return [`layer ${index}, head ${row}: `, make("b", {}, this.habit(painted.heads[row], this.layers[l]))];
    }, this.tiles.box);
    this.tiles.canvas.addEventListener("click", (event) => {
      const { l, row } = this.tiles.at(event);
      if (!(row >= 0 && row < this.layers[l]?.heads)) return;
      this.set({ layer: this.layers[l].index, head: row, opened: true });
      this.unpoint();
      this.stage.focus();
    });
    return this.tiles.element;
  }

  makeMap() {
    const { cells, unit } = this.story.map, side = cells * unit;
    this.canvas = make("canvas", { class: "map", width: side, height: side });
    [this.rowBand, this.columnBand] = ["row", "column"].map((kind) => make("i", { class: `band ${kind}` }));
    [this.across, this.down] = ["across", "down"].map((direction) => this.along(direction, this.texts));
    const one = make("div", { class: "one" }, make("span", { class: "corner" }, "looked at →"), this.across.edge,
      this.down.edge, make("div", { class: "picture" }, this.canvas, this.rowBand, this.columnBand));
    one.style.setProperty("--natural", `${side}px`);
    this.onPoint(this.canvas, (event) => {
      const { token, seen } = this.cellAt(event), { map, l } = this.shown, { texts } = this;
      if (!map || seen > token) return null;
      return [`${texts[token]} (token ${token + 1}) looks at ${texts[seen]} (token ${seen + 1})  `,
        make("b", {}, this.amount(map.at(token, seen), this.layers[l], 6))];
    }, this.rowBand, this.columnBand);
    this.canvas.addEventListener("click", (event) => {
      this.set(this.cellAt(event));
      this.stage.focus();
    });
    return one;
  }

  makeRibbon() {
    this.cells = this.story.tokens.map(({ special }, t) => {
      const cell = cellOf({ text: this.texts[t], special }, { "data-token": t }, make("i"));
      cell.addEventListener("click", () => this.go("token", t));
      return cell;
    });
    this.ribbon = ribbonOf(...this.cells);
    this.onCells(this.ribbon, [this.cells], (cell) => this.texts[cell.dataset.token]);
    return this.ribbon;
  }

  makeHelp() {
    const { tile, map, begins, all_here: here, map_bytes: bytes } = this.story;
    this.help.append(keyLine(...MOVING, [",", ".", "looks at"], ["Enter", "open the map"], ["Esc", "all maps"]));
    const blocks = (size) => `shows the strongest weight of ${size} × ${size} tokens`;
    if (tile.block > 1) this.note(`A pixel of a small map ${blocks(tile.block)}.`);
    if (map.block > 1) {
      this.note(`A cell of an opened map ${blocks(map.block)}; the row of the token that looks is written out beside ` +
        "it, with every number.");
    }
    if (!begins) this.note("What came before this text is left out: weights on tokens there, and what memories held.");
    if (!here) this.note(`Maps are fetched from the kernel when they are first opened: ${kilobytes(bytes)} each.`);
  }

  // ---- moving

  press(name, by) {
    const { opened } = this.position();
    if (name === "open") return this.set({ opened: !opened });
    if (name === "close") return opened && this.set({ opened: false });
    super.press(name, by);
  }

  cellAt(event) {                                          // a block's strongest cell is what it shows
    const at = (share) => Math.min(this.T - 1, Math.max(0, Math.floor(share * this.T)));
    const [seen, token] = shareOf(event, this.canvas).map(at);
    return { token, seen };
  }

  // ---- drawing

  paletteOf({ signed: both }, theme) { return this.palettes[both ? "signed" : "plain"][theme]; }

  async show(place, theme) {
    const { layer, l, head, opened } = place, { canvas, T, story } = this;
    this.arrange(place);
    const map = opened ? await this.page(`map ${layer} ${head}`) : null;
    if (!opened) await this.showGrid(place, theme);
    if (!this.still(place)) return false;
    if (map) paintMap(canvas, map, T, story.map, this.layers[l].signed, this.paletteOf(this.layers[l], theme));
    this.shown = { ...place, map, tiles: opened ? null : this.painted[l].heads };
    this.describe(theme);
  }

  // Layer by layer, so that a map which is opened meanwhile need not wait for all of them; nearest first.
  async showGrid(place, theme) {
    const order = [...this.layers.keys()].sort((a, b) => Math.abs(a - place.l) - Math.abs(b - place.l));
    for (const l of order) {
      if (this.painted[l]?.theme === theme) continue;
      const heads = await this.page(`layer ${this.layers[l].index}`);
      if (this.position().opened || this.ended) return;
      paintLayer(this.tiles, l, heads, this.story.tile, this.paletteOf(this.layers[l], theme));
      this.painted[l] = { theme, heads };
      if (l === place.l && this.still(place)) {            // say what is known while the others come
        this.shown = { ...place, map: null, tiles: heads };
        this.describe(theme);
      }
    }
  }

  arrange({ l, layer, head, token, opened }) {             // what does not wait for data
    this.root.dataset.shows = opened ? "map" : "grid";
    this.hint = HINTS[this.root.dataset.shows];
    this.button.textContent = opened ? "back to all maps" : "open this map";
    this.sliders.head.range.max = this.layers[l].heads - 1;
    this.tiles.choose(l, head);
    const { cells, unit, block } = this.story.tile, line = (Math.floor(token / block) + 0.5) * unit;
    this.rows.forEach((row, h) => {
      row.style.top = `${this.tiles.y(this.tiles.topOf(h) + Math.min(line, cells * unit))}%`;
    });
    this.where.textContent = `layer ${layer}, head ${head}: ${this.kindOf(this.layers[l])}`;
  }

  // ---- saying it

  kindOf({ signed: both }, short = false) { return !both ? "softmax" : short ? "delta rule" : "effective attention"; }
  amount(x, { signed: both }, digits = 4) { return both ? signed(x, digits) : x.toFixed(digits); }
  quote(t) { return make("b", {}, this.texts[t]); }

  habit({ limit, itself, previous, first }, { signed: both }) {
    const shares = `${percent(itself)} ${both ? "of its weight, by size," : "of its weight"} on the token itself, ` +
      `${percent(previous)} on the one before, ${percent(first)} on the first; `;
    return `${this.T < 3 ? "" : shares}full colour at ${limit.toFixed(3)}`;
  }

  sentence({ l, token, seen, map }) {
    const layer = this.layers[l];
    if (seen > token) return [this.quote(token), " cannot look at ", this.quote(seen), ", which comes later."];
    let best = 0, whole = 0;
    for (let j = 0; j <= token; j++) {
      whole += Math.abs(map.at(token, j));
      if (Math.abs(map.at(token, j)) > Math.abs(map.at(token, best))) best = j;
    }
    const weight = map.at(token, seen), part = percent(Math.abs(weight) / (whole || 1));
    const share = layer.signed ? `, ${part} of its weights, by size` : "";
    return [this.quote(token), ` (token ${token + 1}) looks at `, this.quote(seen), ` (token ${seen + 1}) with ` +
      `${this.amount(weight, layer, 6)}${share}; most at `, this.quote(best),
      ` (token ${best + 1}): ${this.amount(map.at(token, best), layer)}.`];
  }

  describe(theme) {
    const { layer, l, head, token, seen, opened } = this.shown, { layers, texts, T } = this, { heads } = layers[l];
    const parts = opened ? this.sentence(this.shown)
      : [`Layer ${layer}, head ${head}: ${this.habit(this.shown.tiles[head], layers[l])}.`];
    const text = plain(parts), kind = this.kindOf(layers[l]);
    const name = `layer ${layer} (${kind}), head ${head} of ${heads}`;
    this.say(...parts);
    this.stage.setAttribute("aria-label",
      opened ? `The map of ${name}, ${T} by ${T} tokens. ${text}` : `All maps; ${name} is chosen. ${text}`);
    this.told("layer", l, `${layer} ${this.kindOf(layers[l], true)}`, `layer ${layer}, ${kind}. ${text}`);
    this.told("head", head, head, `head ${head} of ${heads}. ${text}`);
    for (const [slider, t] of [["token", token], ["seen", seen]])
      this.told(slider, t, `${t + 1} of ${T}`, `token ${t + 1} of ${T}, ${texts[t]}. ${text}`);
    this.describeScale(theme);
    if (opened) this.describeMap(theme);
    this.point();
  }

  describeScale(theme) {
    const { l, head, map, tiles } = this.shown, layer = this.layers[l], limit = map?.limit ?? tiles[head].limit;
    const palette = this.paletteOf(layer, theme), [low, bar, high] = this.scale.children;
    low.textContent = layer.signed ? `≤ ${this.amount(-limit, layer, 3)}` : "0";
    high.textContent = `≥ ${this.amount(limit, layer, 3)}`;
    const stops = Array.from({ length: 9 }, (_, i) => cssOf(palette, Math.max(layer.signed, Math.round(i * 31.875))));
    bar.style.background = `linear-gradient(90deg, ${stops.join(", ")})`;
  }

  describeMap(theme) {                                     // what marks the cell, and the row beside the map
    const { l, token, seen, map } = this.shown, { block, cells } = this.story.map, layer = this.layers[l];
    const part = (t) => (100 * Math.floor(t / block)) / cells, size = 100 / cells;
    Object.assign(this.rowBand.style, { top: `${part(token)}%`, height: `${size}%`, width: `${part(token) + size}%` });
    Object.assign(this.columnBand.style, { left: `${part(seen)}%`, width: `${size}%`, top: `${part(seen)}%` });
    this.across.write(seen);
    this.down.write(token);
    const palette = this.paletteOf(layer, theme), shade = layer.signed ? shadeOf : shadeFromZero;
    this.cells.forEach((cell, t) => {
      const later = t > token, weight = map.at(token, t);
      cell.classList.toggle("here", t === token);
      cell.classList.toggle("seen", t === seen);
      cell.classList.toggle("later", later);
      cell.lastChild.style.background = later ? "none" : cssOf(palette, shade(weight, map.limit));
      cell.title = later ? "" : this.amount(weight, layer, 6);
      cell.dataset.weight = later ? "" : weight;
    });
    this.keepInSight(this.ribbon, this.cells[token]);
  }

  drawn({ layer, head, token, seen, opened }) { return [layer, head, token, seen, Number(opened)]; }
}

export default { render: (context) => new AttentionExplorer(context).begin() };
