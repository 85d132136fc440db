// The vision explorer, in the browser: where in a picture or clip a token looks, in every layer and head.

import {
  Explorer, MOVING, Tiles, cellOf, keyLine, make, openPalettes, ribbonOf, shareOf, stageOf,
} from "./explorer.js";
import { cssOf, endOf, kilobytes, percent, plain, readable, shadeOf } from "./numbers.js";
import {
  chosen, largest, openFrames, openWeights, paintOverview, paintSlice, strongest,
} from "./vision_pictures.js";

const HINT = "Point at a picture or a tile for its numbers; click to go there.";
const KINDS = { attention: "attention", delta: "delta rule" };

const headName = (head) => (head < 0 ? "mean of its heads" : `head ${head}`);
const placeIn = ({ columns }, at) => `row ${Math.floor(at / columns)}, column ${at % columns}`;

function amount(x, negative) {
  const size = Math.abs(x), short = size >= 0.1 || x === 0 ? size.toFixed(2) : size.toPrecision(2);
  return (negative ? (x < 0 ? "−" : "+") : "") + short;
}

class VisionExplorer extends Explorer {
  keys = { ",": ["slice", -1], ".": ["slice", 1], s: ["signs"], Escape: ["back"] };
  reader = null;                                           // the token of the text that was chosen last

  constructor(context) {
    super(context, "vision", ["token", "layer", "head", "slice", "signs"], HINT);
    const { tokens, stops, layers, slices, palettes } = this.story;
    Object.assign(this, { tokens, stops, layers, slices, T: tokens.length });
    this.palettes = openPalettes(palettes);
    this.seen = tokens.flatMap(({ slice }, i) => (slice >= 0 ? [i] : []));              // what is a piece of a picture
    this.clips = slices.some(({ kind }) => kind === "clip");
    this.stills = slices.some(({ kind }) => kind === "picture");
    this.most = Math.max(...layers.map(({ heads }) => heads));
    this.page = this.fetch((page, name) => (
      name.startsWith("slice") ? openFrames(page) : openWeights(page, this.story)));
    this.slide("token", "layer", "head", ["slice", this.clips ? "slice" : "picture"]);
    this.sliders.slice.row.hidden = slices.length === 1;
    this.signs = make("input", { type: "checkbox" });
    this.signs.addEventListener("change", () => this.set({ signs: this.signs.checked }));
    this.controls.append(make("label", { class: "signs", title: "Effective attention may be negative: something is " +
      "subtracted." }, this.signs, make("span", {}, "show signs")));
    this.lay(this.said, this.makeRibbon(), make("div", { class: "beside" }, this.makeStage(), this.makeOverview()),
      make("div", { class: "foot" }, this.pointed));
    this.makeHelp();
  }

  // ---- what is on the page

  makeRibbon() {
    this.cells = this.tokens.map(({ text, special, slice }, t) => {
      const at = { "data-token": t };
      const cell = slice >= 0 ? make("span", { class: "piece", ...at })
        : cellOf({ text: readable(text), special }, at, make("i"));
      cell.classList.toggle("absent", !this.stops.includes(t));
      cell.addEventListener("click", () => this.choose(t));
      return cell;
    });
    this.ribbon = ribbonOf(...this.cells);
    this.onCells(this.ribbon, [this.cells], (cell) => readable(this.tokens[cell.dataset.token].text));
    return this.ribbon;
  }

  makeStage() {
    const [height, width] = this.story.size;
    this.canvas = make("canvas", { class: "pictures", width, height });
    this.captions = make("div", { class: "captions" });
    this.numbers = make("div", { class: "numbers", "aria-hidden": "true" });
    this.stage = stageOf(this.captions,
      make("div", { class: "picture" }, this.canvas, this.numbers));
    const left = make("div", { class: "left" }, this.stage, this.scale);
    left.style.maxWidth = `${width}px`;
    this.onPoint(this.canvas, (event) => {
      const found = this.pieceAt(event);
      if (!found) return null;
      return [`patch ${found.patch} [row ${found.row}, column ${found.column}], in ${this.piece(found.token)}  `,
        make("b", {}, this.amount(this.shown.weights[found.token]))];
    });
    this.canvas.addEventListener("click", (event) => {
      const found = this.shown && this.pieceAt(event);
      if (found) this.choose(found.token);
    });
    return left;
  }

  makeOverview() {
    const names = this.layers.map(({ kind }, i) => (
      { short: i, long: `${i} ${KINDS[kind]}`, attention: kind === "attention" }));
    const heads = Array.from({ length: this.most + 1 }, (_, i) => (i ? `${i - 1}` : "mean"));
    const { tile: [high, wide], gap } = this.story;
    this.tiles = new Tiles(names, heads, { wide, high, gap });
    this.onPoint(this.tiles.canvas, (event) => this.tileNumbers(this.tileAt(event)), this.tiles.box);
    this.tiles.canvas.addEventListener("click", (event) => {
      const found = this.shown && this.tileAt(event);
      if (found) this.set(found);
    });
    this.caption = make("figcaption");
    return make("figure", { class: "all" }, this.caption, this.tiles.element);
  }

  makeHelp() {
    const { slices, stops, T, clips } = this;
    const slice = slices.length > 1 ? [[",", ".", clips ? "slice" : "picture"]] : [];
    this.help.append(keyLine(...MOVING, ...slice, ["s", "signs"], ["Esc", "back to the text"]));
    if (stops.length < T) this.note(`This page holds the weights of ${stops.length} of the ${T} tokens.`);
    if (!this.story.all_here) {
      this.note("Only what is looked at is fetched from the kernel: " +
        `${kilobytes(this.story.token_bytes)} when a token is first chosen.`);
    }
  }

  // ---- moving

  ends(name) {
    const { layers, stops, slices } = this, heads = layers[this.model.get("layer")].heads;
    return { token: [0, stops.length - 1], layer: [0, layers.length - 1], head: [-1, heads - 1],
             slice: [0, slices.length - 1] }[name];
  }

  valueAt(name, step) { return name === "token" ? this.stops[step] : step; }
  stepOf(name, value) { return name === "token" ? this.stops.indexOf(value) : value; }

  position() {
    const place = super.position();
    return { ...place, head: Math.min(place.head, this.layers[place.layer].heads - 1) };
  }

  set(values) {                                            // a piece of a picture brings its slice along
    const slice = this.isSeen(values.token) ? { slice: this.tokens[values.token].slice } : {}, { layer } = values;
    if (layer === undefined) return super.set({ ...slice, ...values });
    const head = Math.min(values.head ?? this.model.get("head"), this.layers[layer].heads - 1);   // it may have fewer
    super.set({ ...slice, ...values, head });
  }

  choose(token) {                                          // by a click; once more on a piece of a picture leads back
    if (token === this.model.get("token") && this.isSeen(token)) return this.back();
    if (this.stops.includes(token)) this.set({ token });
  }

  back() { this.choose(this.reader ?? this.texts(this.stops).at(-1) ?? this.stops.at(-1)); }

  press(name, by) {
    if (name === "back") return this.isSeen(this.model.get("token")) && this.back();
    if (name === "signs") return this.set({ signs: !this.model.get("signs") });
    super.press(name, by);
  }

  pieceAt(event) {                                         // which token and patch of what is shown
    const [height, width, step] = this.story.size, { rows, columns, merge, patch, zoom, frames, slice, tokens } =
      this.slices[this.shown.slice];
    const [x, y] = shareOf(event, this.canvas), across = Math.floor(x * width), side = patch * zoom;
    const panel = Math.floor(across / step), column = Math.floor((across - panel * step) / side);
    const row = Math.floor(Math.floor(y * height) / side);
    if (row < 0 || row >= rows * merge || column < 0 || column >= columns * merge || panel > frames) return null;
    const at = Math.floor(row / merge) * columns + Math.floor(column / merge), whole = slice * rows * columns + at;
    return { token: tokens[at], row, column, patch: whole * merge * merge + (row % merge) * merge + (column % merge) };
  }

  tileAt(event) {
    const { l: layer, row } = this.tiles.at(event), head = row - 1;
    return this.layers[layer] && head >= -1 && head < this.layers[layer].heads ? { layer, head } : null;
  }

  // ---- drawing

  async show(place, theme) {
    const { token, layer, head, slice, signs } = place, at = this.tokens[token], palette = this.palettes[theme];
    const [all, frames] = await Promise.all([this.page(`token ${token}`), this.page(`slice ${slice}`)]);
    if (!this.still(place)) return false;
    const here = this.slices[slice], weights = chosen(all[layer], this.layers[layer].heads, head, signs);
    const limit = largest(weights, this.aims(token)) || 1, mark = at.slice === slice ? at.at : null;
    const map = { weights: here.tokens.map((i) => weights[i]), limit, mark };
    paintSlice(this.canvas, this.story, here, frames, map, { palette, dark: theme === "dark" });
    this.showOverview(all, place, palette);
    this.shown = { ...place, weights, limit, all };
    this.describe(palette);
  }

  // All layers of a kind have one scale. For a piece of a picture each tile has one colour: that of the largest weight
  // with which a later token of the text looks at it.
  showOverview(all, { token, slice, signs }, palette) {
    const { layers, T } = this, readers = this.texts(this.later(token)), limits = { attention: 0, delta: 0 };
    const goals = this.isSeen(token) ? readers : this.seen;
    const maps = layers.map(({ kind, heads }, layer) => {
      for (let h = 0; h < heads; h++)
        limits[kind] = Math.max(limits[kind], largest(all[layer].subarray(h * T, (h + 1) * T), goals));
      return Array.from({ length: heads + 1 }, (_, i) => {
        const weights = chosen(all[layer], heads, i - 1, signs);
        const top = this.isSeen(token) && readers.length ? weights[strongest(weights, readers)] : 0;
        return this.slices[slice].tokens.map((t) => (this.isSeen(token) ? top : weights[t]));
      });
    });
    paintOverview(this.tiles, this.slices[slice], maps, layers.map(({ kind }) => limits[kind] || 1), palette);
  }

  // ---- tokens

  isSeen(token) { return this.tokens[token]?.slice >= 0; } // is it a piece of a picture?
  later(token) { return this.tokens.flatMap((_, i) => (i > token ? [i] : [])); }
  aims(token) { return this.isSeen(token) ? this.later(token) : this.seen; }            // what the scale is for
  texts(places) { return places.filter((i) => !this.isSeen(i)); }

  // ---- saying it

  isSigned() { return this.shown.signs && this.layers[this.shown.layer].kind === "delta"; }
  amount(x, negative = this.isSigned()) { return amount(x, negative); }
  quote(i) { return make("b", {}, readable(this.tokens[i].text)); }
  layerName(layer) { return `layer ${layer} (${KINDS[this.layers[layer].kind]})`; }

  nameOf({ kind, number, slice }) {
    const several = new Set(this.slices.filter((other) => other.kind === kind).map((other) => other.number)).size > 1;
    const name = several ? `${kind} ${number}` : `the ${kind}`;
    return kind === "clip" ? `slice ${slice} of ${name}` : name;
  }

  piece(i) {
    const { slice, at } = this.tokens[i], here = this.slices[slice];
    return `token ${at} of ${this.nameOf(here)} (${placeIn(here, at)})`;
  }

  ofPiece({ token, layer, head, weights }) {
    const who = `In ${this.layerName(layer)}, ${headName(head)}, ${this.piece(token)}`;
    const readers = this.texts(this.later(token));
    if (!readers.length) return [`${who}: no text comes after it.`];
    const first = readers.sort((a, b) => Math.abs(weights[b]) - Math.abs(weights[a])).slice(0, 3);
    const named = first.flatMap((i, n) => [n ? ", then by " : "", this.quote(i), ` (${this.amount(weights[i])})`]);
    return [`${who} is looked at most by `, ...named, "."];
  }

  ofText({ token, layer, head, slice, weights }) {
    const earlier = this.seen.filter((i) => i <= token), { slices, clips, stills } = this;
    if (!earlier.length) return [this.quote(token), " comes before every picture: it cannot look at one."];
    const sum = (places) => places.reduce((all, i) => all + Math.abs(weights[i]), 0);
    const whole = sum(this.tokens.map((_, i) => i)) || 1, best = strongest(weights, earlier);
    const here = slices.length > 1 ? ` (${percent(sum(slices[slice].tokens) / whole)} on what is shown)` : "";
    const what = this.layers[layer].kind === "attention" ? "of its weight" : "of its effective attention, by size,";
    const onto = clips && !stills ? "the clip" : slices.length > 1 ? "pictures" : "the picture";
    return [`In ${this.layerName(layer)}, ${headName(head)}, `, this.quote(token), " puts " +
      `${percent(sum(earlier) / whole)} ${what} on ${onto}${here}; most on ${this.piece(best)}: ` +
      `${this.amount(weights[best])}.`];
  }

  tileNumbers(found) {
    if (!found) return null;
    const { layer, head } = found, { token, slice, signs, all } = this.shown, { kind, heads } = this.layers[layer];
    const goals = this.isSeen(token) ? this.texts(this.later(token)) : this.slices[slice].tokens;
    if (!goals.length) return null;
    const weights = chosen(all[layer], heads, head, signs), most = weights[strongest(weights, goals)];
    return [`${this.layerName(layer)}, ${headName(head)}: strongest here `,
      make("b", {}, amount(most, signs && kind === "delta"))];
  }

  readSoFar(token) {                                       // a picture is one sign in the story
    let before = "", last = -1;
    for (const { text, slice } of this.tokens.slice(0, token + 1)) {
      if (slice < 0 || slice !== last) before += slice < 0 ? text : "▦";
      last = slice;
    }
    return endOf(before);
  }

  describe(palette) {
    const { token, layer, head, slice, signs } = this.shown, { slices, layers, T } = this, seen = this.isSeen(token);
    const here = slices[slice], { kind, heads } = layers[layer];
    if (!seen) this.reader = token;
    this.where.replaceChildren(...(seen ? [`who looks at ${this.piece(token)}`]
      : ["after “", make("q", {}, this.readSoFar(token)), "”"]));
    const parts = seen ? this.ofPiece(this.shown) : this.ofText(this.shown), text = plain(parts);
    this.say(...parts);
    this.sliders.head.range.max = heads - 1;
    const name = seen ? this.piece(token) : readable(this.tokens[token].text);
    const which = `${token + 1} of ${T}`;
    this.told("token", this.stops.indexOf(token), which, `token ${which}, ${name}. ${text}`);
    this.told("layer", layer, `${layer} ${KINDS[kind]}`, `${this.layerName(layer)} of ${layers.length}. ${text}`);
    this.told("head", head, head < 0 ? "mean" : head, `${headName(head)}, of ${heads}. ${text}`);
    this.told("slice", slice, slice, `${this.nameOf(here)}. ${text}`);
    this.signs.checked = signs;
    this.signs.disabled = kind === "attention";
    this.stage.setAttribute("aria-label", `${this.nameOf(here)}, ${here.rows} by ${here.columns} tokens. ${text}`);
    this.caption.textContent = seen ? "every head: its strongest look from the text" : "every head: where it looks";
    this.tiles.choose(layer, head + 1);
    this.describeSlice(here);
    this.describeRibbon(palette);
    const [low, , high] = this.scale.children, both = this.isSigned(), { limit } = this.shown;
    this.scale.classList.toggle("half", !both);
    low.textContent = both ? this.amount(-limit) : "0";
    high.textContent = this.amount(limit);
    this.point();
  }

  describeSlice(here) {                                    // what is written above and on the pictures
    const { token } = this.shown, [height, width, step] = this.story.size, { tokens, columns, zoom } = here;
    const looks = this.isSeen(token) ? `who looks at token ${this.tokens[token].at}`
      : `where “${readable(this.tokens[token].text)}” looks`;
    const titles = [...here.names, looks];
    this.captions.replaceChildren(...titles.map((title, i) => {
      const caption = make("span", { title }, title);
      caption.style.left = `${(100 * i * step) / width}%`;
      caption.style.width = `${(100 * here.width * zoom) / width}%`;
      return caption;
    }));
    const side = here.patch * here.merge * zoom, every = columns <= 12 ? 1 : columns;
    this.numbers.replaceChildren(...[...tokens.keys()].filter((at) => at % every === 0).map((at) => {
      const number = make("span", {}, `${at}`);
      number.style.left = `${(100 * (at % columns) * side) / width}%`;
      number.style.top = `${(100 * Math.floor(at / columns) * side) / height}%`;
      return number;
    }));
  }

  describeRibbon(palette) {
    const { token, slice, weights, limit } = this.shown, piece = this.isSeen(token);
    this.cells.forEach((cell, t) => {
      const seen = this.isSeen(t);
      cell.classList.toggle("here", t === token);
      cell.classList.toggle("off", piece ? t < token : t > token);
      cell.classList.toggle("open", this.tokens[t].slice === slice);
      (seen ? cell : cell.lastChild).style.background = cssOf(palette, shadeOf(weights[t], limit));
      cell.title = (seen ? `${this.piece(t)}: ` : "") + this.amount(weights[t]);
      cell.dataset.weight = weights[t].toFixed(6);
    });
    this.keepInSight(this.ribbon, this.cells[token]);
  }
}

export default { render: (context) => new VisionExplorer(context).begin() };
