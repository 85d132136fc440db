// The training explorer, in the browser: a run of training, snapshot by snapshot, and one head's memory of a story.

import {
  LayerExplorer, MOVING, cellOf, keyLine, make, openPalettes, ribbonOf, shareOf, stageOf,
} from "./explorer.js";
import { bytesOf, clamp, percent, readable, signed } from "./numbers.js";
import { openPage, paint } from "./state_memory.js";
import { paintCurves, paintLayers } from "./training_curves.js";

const HINT = "Point at a picture for its numbers; click to go there.";
const NAMES = { loss: "loss", "told once": "recall of facts told once", changed: "recall of facts that changed" };
const LEGEND = { alpha: ["α", "share of the memory kept"], beta: ["β", "strength of writing"] };

class TrainingExplorer extends LayerExplorer {
  keys = { ",": ["snapshot", -1], ".": ["snapshot", 1], j: ["jump"] };

  constructor(context) {
    super(context, "training", ["token", "layer", "head", "snapshot"], HINT);
    const { tokens, palettes, key_dim: Dk, value_dim: Dv, steps } = this.story;
    Object.assign(this, { Dk, Dv, S: steps.length, text: { ...this.story, texts: [{ tokens, begins_empty: true }] } });
    this.palettes = { memory: openPalettes(palettes.memory), map: openPalettes(palettes.map) };
    this.page = this.fetch((page) => bytesOf(page));
    this.slide("snapshot", "token", "layer", "head");
    this.lay(this.said, this.makeRibbon(), this.makeLegend(), this.makeStage(),
      make("div", { class: "foot" }, this.pointed, this.scale));
    this.help.append(keyLine([",", ".", "snapshot"], ["j", "the jump"], ...MOVING));
  }

  // ---- what is on the page

  makeRibbon() {
    this.cells = this.story.tokens.map(({ text, special }, t) => {
      const bars = ["alpha", "beta"].map((kind) => make("i", { class: kind }, make("b")));
      const cell = cellOf({ text: readable(text), special }, { "data-token": t }, ...bars);
      cell.addEventListener("click", () => this.go("token", t));
      return cell;
    });
    this.ribbon = ribbonOf(...this.cells);
    this.onCells(this.ribbon, [this.cells], (cell) => readable(this.story.tokens[cell.dataset.token].text));
    return this.ribbon;
  }

  makeLegend() {
    return make("p", { class: "legend" }, ...Object.entries(LEGEND).map(([kind, [name, text]]) =>
      make("span", {}, make("i", { class: kind }), " ", make("b", {}, name), ` ${text}`)));
  }

  makeStage() {
    const { cell: [across, down], height } = this.story, { S, layers, Dk, Dv } = this, wide = S * across;
    this.curves = make("canvas", { class: "curves", width: wide, height });
    this.map = make("canvas", { class: "map", width: wide, height: layers.length * down });
    this.canvas = make("canvas", { class: "memory", width: Dv, height: Dk });
    this.onPoint(this.curves, (event) => this.curvesAt(this.snapshotAt(event, this.curves)));
    this.box = make("i", { class: "box" });
    this.onPoint(this.map, (event) => this.mapAt(event), this.box);
    this.onPoint(this.canvas, (event) => this.memoryAt(event));
    for (const surface of [this.curves, this.map]) {
      surface.addEventListener("click", (event) => {
        this.go("snapshot", this.snapshotAt(event, surface));
        if (surface === this.map) this.go("layer", this.layerAt(event));
        this.stage.focus();
      });
    }
    const labels = layers.map(({ index }, l) => {
      const label = make("span", {}, `layer ${index}`);
      label.style.top = `${(100 * (layers.length - l - 0.5)) / layers.length}%`;
      return label;
    });
    const legend = make("p", { class: "legend lines" }, ...Object.entries(NAMES).map(([name, words]) =>
      make("span", {}, make("i", { class: name.replace(" ", "-") }), ` ${words}`)));
    const picture = (...what) => make("div", { class: "picture" }, ...what);
    this.caption = make("figcaption");
    this.stage = stageOf(
      make("figure", { class: "run" }, legend,
        make("span", { class: "ticks" }, ...["1", "0"].map((x) => make("span", {}, x))), picture(this.curves),
        make("p", { class: "heading" }, "recall of changed facts that hangs on a layer’s correction"),
        make("span", { class: "names" }, ...labels), picture(this.map, this.box)),
      make("figure", { class: "head" }, this.caption, picture(this.canvas)));
    return this.stage;
  }

  // ---- moving

  ends(name) { return name === "snapshot" ? [0, this.story.steps.length - 1] : super.ends(name); }

  press(name, by) {
    if (name === "jump") this.go("snapshot", this.story.jumps.changed);
    else super.press(name, by);
  }

  snapshotAt(event, surface) { return clamp(Math.floor(shareOf(event, surface)[0] * this.S), [0, this.S - 1]); }
  layerAt(event) {
    const L = this.layers.length;
    return clamp(L - 1 - Math.floor(shareOf(event, this.map)[1] * L), [0, L - 1]);
  }

  // ---- drawing

  async show(place, theme) {
    const { snapshot, token, layer, l, head } = place, { story, Dk, Dv, T } = this;
    const bytes = await this.page(`layer ${layer}`);
    if (!this.still(place)) return false;
    const size = 4 * (T * (Dk + Dv + 2) + 3), begin = size * (snapshot * this.layers[l].heads + head);
    const { memories: [memory], limits } = openPage(bytes.subarray(begin, begin + size), this.text);
    const after = memory.before(token + 1);
    this.shown = { ...place, memory, limits, after };
    const plan = { width: Dv, height: Dk, places: [{ name: "memory", scale: "memory", x: 0, y: 0, w: Dv, h: Dk }] };
    paint(this.canvas, plan, { memory: after }, limits, this.palettes.memory[theme], { block: 1, Dk, Dv });
    const { curves, jumps, cell, lost, most_lost: most, colours } = story;
    paintCurves(this.curves, curves, { at: snapshot, jumps, across: cell[0] }, colours[theme]);
    paintLayers(this.map, lost, most, cell, this.palettes.map[theme]);
    for (const [name, colour] of Object.entries(colours[theme]))
      this.root.style.setProperty(`--${name.replace(" ", "-")}`, colour);
    this.describe();
  }

  // ---- saying it

  recalled(s) {
    const { steps, loss, curves } = this.story;
    return `After ${steps[s]} of ${steps.at(-1)} steps the loss is ${loss[s].toFixed(2)}; of facts told once ` +
      `${percent(curves["told once"][s])} are recalled, of those that changed ${percent(curves.changed[s])}.`;
  }

  describe() {
    const { snapshot, token, layer, l, head, memory, limits } = this.shown, { story, S, T, layers } = this;
    const { steps, lost, jumps } = story, text = readable(story.tokens[token].text);
    const [alpha, beta] = [memory.alpha[token], memory.beta[token]];
    const gates = `keeps ${percent(alpha)} at “${text}” and writes with ${beta.toFixed(2)}`;
    const counts = `${percent(lost[snapshot][l])} hang on the correction of layer ${layer}, whose head ${head}`;
    const said = `${this.recalled(snapshot)} Of these ${counts} ${gates}.`;
    const when = snapshot === jumps.changed ? "at" : snapshot < jumps.changed ? "before" : "after";
    this.where.textContent = `${when} the jump, step ${steps[jumps.changed]}`;
    this.say(said);
    this.told("snapshot", snapshot, `step ${steps[snapshot]}`, `snapshot ${snapshot + 1} of ${S}. ${said}`);
    this.told("token", token, `${token + 1} of ${T}`, `token ${token + 1} of ${T}, ${text}. ${said}`);
    this.told("layer", l, layer, `layer ${layer}, Gated DeltaNet layer ${l + 1} of ${layers.length}. ${said}`);
    this.told("head", head, head, `head ${head}. ${said}`);
    this.caption.textContent = `memory of layer ${layer}, head ${head}, after “${text}”`;
    this.stage.setAttribute("aria-label", `${said} ${this.where.textContent}.`);
    const share = (n, of) => `${(100 * n) / of}%`;
    Object.assign(this.box.style, { left: share(snapshot, S), width: share(1, S), height: share(1, layers.length),
                                    top: share(layers.length - 1 - l, layers.length) });
    const [low, , high] = this.scale.children;
    low.textContent = signed(-limits.memory, 2);
    high.textContent = signed(limits.memory, 2);
    this.describeRibbon(token, memory);
    this.point();
  }

  describeRibbon(token, memory) {
    this.cells.forEach((cell, t) => {
      const [alpha, beta] = [memory.alpha[t], memory.beta[t]];
      cell.classList.toggle("here", t === token);
      [...cell.querySelectorAll("b")].forEach((filled, i) => {
        filled.style.height = `${(100 * Math.min(1, [alpha, beta][i])).toFixed(1)}%`;
      });
      cell.title = `α ${alpha.toFixed(3)}   β ${beta.toFixed(3)}`;
    });
    this.keepInSight(this.ribbon, this.cells[token]);
  }

  curvesAt(s) { return [make("b", {}, this.recalled(s))]; }

  mapAt(event) {
    const s = this.snapshotAt(event, this.map), l = this.layerAt(event), { steps, lost } = this.story;
    return [`step ${steps[s]}, layer ${this.layers[l].index}: `, make("b", {}, percent(lost[s][l])),
      " hang on its correction"];
  }

  memoryAt(event) {
    const [x, y] = shareOf(event, this.canvas), { Dk, Dv } = this;
    const row = clamp(Math.floor(y * Dk), [0, Dk - 1]), column = clamp(Math.floor(x * Dv), [0, Dv - 1]);
    return [`memory [key ${row}, value ${column}]  `, make("b", {}, signed(this.shown.after[row * Dv + column], 6))];
  }
}

export default { render: (context) => new TrainingExplorer(context).begin() };
