// The cost of a context, in the browser: bytes that are kept and operations that are done, for every size.

import { Explorer, keyLine, make, shareOf, stageOf } from "./explorer.js";
import { grouped, percent } from "./numbers.js";
import { costOf, inBytes, inOperations, paintChart, totalOf } from "./cost_chart.js";

const LINES = {                                            // how the lines are called
  "keys and values": "keys and values", states: "states", weights: "weights",
  "all attention": "if all layers were attention",
  attention: "attention", "delta rule": "delta rule", matrices: "matrices",
};
const COLUMNS = [
  "size", "weights", "keys and values", "states", "if all layers were attention", "next token", "of it attention",
  "whole prompt",
];
const HINT = "Point at a chart for its numbers; click to go there.";

const rowsOf = (batch) => (batch === 1 ? "one row" : `${batch} rows`);
const cssName = (name) => name.replace(/ /g, "-");
const shown = (chart) => (chart === "memory" ? inBytes : inOperations);

function tickOf(context) {
  if (context >= 2 ** 20) return "1 M";
  return context >= 1024 ? `${context / 1024} k` : `${context}`;
}

class CostExplorer extends Explorer {
  keys = { ArrowUp: ["batch", 1], ArrowDown: ["batch", -1], PageUp: ["size", 1], PageDown: ["size", -1], d: ["dtype"],
           w: ["work"], b: ["bits"] };

  constructor(context) {
    super(context, "cost", ["size", "context", "batch", "dtype", "work", "bits"], HINT);
    const { counts, contexts, batches, dtypes, works, bits, canvas: [height, width] } = this.story;
    const sizes = Object.keys(counts);
    Object.assign(this, { height, width, sizes, step: (width - 1) / (contexts.length - 1) });
    this.lists = { size: sizes, context: contexts, batch: batches, dtype: dtypes, work: works, bits };
    this.slide("size", "context", "batch", "dtype", "work", ["bits", "weights"]);
    this.panels = Object.fromEntries(Object.keys(this.story.charts).map((chart) => [chart, this.makePanel(chart)]));
    this.stage = stageOf(...Object.values(this.panels).map(({ figure }) => figure));
    this.stage.dataset.moves = "context";
    this.lay(this.said, this.stage, make("div", { class: "foot" }, this.pointed), this.makeTable());
    this.help.append(keyLine(["←", "→", "context"], ["Home", "End", "first, last"], ["↑", "↓", "batch"],
      ["PgUp", "PgDn", "size"], ["d", "dtype"], ["w", "next token or prompt"], ["b", "bits of the weights"]));
    this.note("Counted from the configurations, not timed: an addition and a multiplication are two operations. " +
      "Norms, softmax, gates and activations are left out; states are float32 in every dtype.");
  }

  // ---- what is on the page

  makePanel(chart) {
    const { width, height } = this, { contexts, charts } = this.story;
    const canvas = make("canvas", { class: chart, width, height }), heading = make("figcaption");
    const ticks = make("div", { class: "ticks" }), below = make("div", { class: "below" });
    contexts.forEach((context, i) => {
      if (i % 2) return;
      const label = make("span", {}, tickOf(context));
      label.style.left = `${(100 * i) / (contexts.length - 1)}%`;
      below.append(label);
    });
    const entry = (kind, text) => make("span", {}, make("i", { class: kind }), text);
    const legend = make("p", { class: "legend" }, ...[...charts[chart]].reverse().map((name) =>
      entry(cssName(name), LINES[name])), entry("others", "the other sizes, in all"));
    this.onPoint(canvas, (event) => this.numbersAt(event, chart));
    canvas.addEventListener("click", (event) => {
      this.go("context", Math.round(this.columnOf(event, canvas) / this.step));
      this.stage.focus();
    });
    const plot = make("div", { class: "plot" }, ticks, make("div", { class: "picture" }, canvas), make("span"), below);
    return { canvas, heading, ticks, figure: make("figure", {}, heading, plot, legend) };
  }

  makeTable() {
    this.cells = this.sizes.map((size) =>
      COLUMNS.map((_, i) => (i ? make("td") : make("th", { scope: "row" }, size))));
    this.rows = this.cells.map((cells, i) => {
      const row = make("tr", {}, ...cells);
      row.addEventListener("click", () => this.go("size", i));
      return row;
    });
    this.caption = make("caption");
    const group = (name, colspan) => make("th", { colspan, scope: "colgroup" }, name);
    const heads = make("thead", {}, make("tr", {}, make("th"), group("bytes kept", 4), group("operations", 3)),
      make("tr", {}, ...COLUMNS.map((name) => make("th", { scope: "col" }, name))));
    const table = make("table", {}, this.caption, heads, make("tbody", {}, ...this.rows));
    const scroller = make("div", { class: "scroller" }, table);
    const nameOf = (cell) => `${cell.parentElement.firstChild.textContent}, ${COLUMNS[cell.cellIndex]}`;
    this.onCells(scroller, this.cells, nameOf);
    return scroller;
  }

  // ---- moving

  ends(name) { return [0, this.lists[name].length - 1]; }
  valueAt(name, step) { return this.lists[name][step]; }
  stepOf(name, value) { return this.lists[name].indexOf(value); }

  press(name, by) {
    if (by !== undefined) return super.press(name, by);
    const list = this.lists[name];                         // the one after it, and after the last the first
    this.go(name, (list.indexOf(this.position()[name]) + 1) % list.length);
  }

  columnOf(event, canvas) {
    return Math.min(this.width - 1, Math.max(0, Math.floor(shareOf(event, canvas)[0] * this.width)));
  }

  // ---- drawing

  costs(size, place) { return costOf(this.story.counts[size], place, this.story.bytes); }
  contextAt(column) { return this.story.contexts[0] * 2 ** (column / this.step); }

  show(place, theme) {
    const { charts, contexts, colours, decades } = this.story, at = contexts.indexOf(place.context) * this.step;
    for (const [name, colour] of Object.entries(colours[theme]))
      this.root.style.setProperty(`--${cssName(name)}`, colour);
    for (const [chart, { canvas }] of Object.entries(this.panels)) {
      const costsAt = (size, x) => this.costs(size, { ...place, context: this.contextAt(x) })[chart];
      const others = this.sizes.filter((size) => size !== place.size).map((size) => (
        { colour: "others", thick: 1, dashed: false, dot: false, valueAt: (x) => totalOf(costsAt(size, x)) }));
      const own = charts[chart].map((name) => {
        const dashed = name === "all attention";
        return { colour: name, thick: dashed ? 1 : 2, dashed, dot: true, valueAt: (x) => costsAt(place.size, x)[name] };
      });
      const { step } = this;
      paintChart(canvas, [...others, ...own], { at, step }, decades[`${chart} ${place.work}`], colours[theme]);
    }
    this.shown = place;
    this.describe();
  }

  // ---- saying it

  weightsIn({ dtype, bits }) { return bits === 16 ? `in ${dtype}` : `of ${bits} bits`; }

  sentence({ size, context, dtype, work }) {
    const { counts, bytes } = this.story, { memory, work: done } = this.costs(size, this.shown), own = counts[size];
    const each = own.key_values * bytes[dtype], states = own.states + own.convolutions * bytes[dtype];
    const even = each ? Math.ceil(states / each) : 0;
    const kept = `${grouped(context)} tokens: keys and values take ${inBytes(memory["keys and values"])}, states ` +
      `${inBytes(memory.states)}`;
    const larger = even ? `; from ${grouped(even)} tokens on, keys and values are the larger of the two. ` : ". ";
    const weights = memory.weights ? `Weights ${this.weightsIn(this.shown)} take ${inBytes(memory.weights)}. ` : "";
    const other = each ? `If all layers were attention: ${inBytes(memory["all attention"])}. ` : "";
    const what = work === "token" ? "The next token takes" : "The whole prompt takes";
    const share = percent(done.attention / totalOf(done));
    return `${kept}${larger}${weights}${other}${what} ${inOperations(totalOf(done))} operations, ${share} of them ` +
      "attention's.";
  }

  describe() {
    const { size, context, batch, dtype, work, bits } = this.shown, text = this.sentence(this.shown);
    const { longest } = this.story, beyond = `; beyond the ${grouped(longest[size])} tokens that it is made for`;
    this.where.textContent = `${size}, ${rowsOf(batch)}, ${dtype}` + (context > longest[size] ? beyond : "");
    this.say(text);
    const kind = work === "token" ? "next token" : "prompt";
    const told = {
      size: [size, size], context: [grouped(context), `context of ${grouped(context)} tokens`],
      batch: [batch, `batch of ${rowsOf(batch)}`], dtype: [dtype, dtype], work: [kind, kind],
      bits: [bits === 16 ? "as they are" : `${bits} bits`, `weights ${this.weightsIn(this.shown)}`],
    };
    for (const [name, [number, aloud]] of Object.entries(told))
      this.told(name, this.stepOf(name, this.shown[name]), number, `${aloud}. ${text}`);
    this.stage.setAttribute("aria-label", "Bytes kept and operations done over the context, on logarithmic axes, for " +
      `${this.where.textContent}. ${text}`);
    this.panels.memory.heading.textContent = `bytes kept by ${size}`;
    this.panels.work.heading.textContent = `operations for ${work === "token" ? "the next token" : "the whole prompt"}`;
    this.describeTicks();
    this.describeTable();
    this.point();
  }

  describeTicks() {
    for (const [chart, { ticks }] of Object.entries(this.panels)) {
      const [low, high] = this.story.decades[`${chart} ${this.shown.work}`];
      const decades = Array.from({ length: high - low + 1 }, (_, i) => low + i).filter((decade) => decade % 3 === 0);
      ticks.replaceChildren(...decades.map((decade) => {
        const label = make("span", {}, shown(chart)(10 ** decade));
        label.style.top = `${(100 * (high - decade)) / (high - low)}%`;
        return label;
      }));
    }
  }

  describeTable() {
    const { size, context, batch, dtype } = this.shown;
    this.sizes.forEach((name, i) => {
      const [next, prompt] = ["token", "prompt"].map((work) => this.costs(name, { ...this.shown, work }));
      const { memory } = next, share = next.work.attention / totalOf(next.work);
      const numbers = [memory.weights, memory["keys and values"], memory.states, memory["all attention"],
        totalOf(next.work), share, totalOf(prompt.work)];
      numbers.forEach((x, j) => {
        const cell = this.cells[i][j + 1];
        cell.textContent = j < 4 ? inBytes(x) : j === 5 ? percent(x) : inOperations(x);
        cell.title = j === 5 ? `${x}` : grouped(Math.round(x));
        cell.dataset.value = x;
      });
      this.rows[i].classList.toggle("here", name === size);
      this.rows[i].setAttribute("aria-selected", name === size);
    });
    this.caption.textContent = `every size at ${grouped(context)} tokens, ${rowsOf(batch)}, ${dtype}, weights ` +
      this.weightsIn(this.shown);
  }

  numbersAt(event, chart) {
    const context = Math.round(this.contextAt(this.columnOf(event, this.panels[chart].canvas)));
    const values = this.costs(this.shown.size, { ...this.shown, context })[chart];
    const lines = [...this.story.charts[chart]].reverse().map((name) => `${LINES[name]} ${shown(chart)(values[name])}`);
    return [`at ${grouped(context)} tokens: `, make("b", {}, lines.join(", "))];
  }
}

export default { render: (context) => new CostExplorer(context).begin() };
