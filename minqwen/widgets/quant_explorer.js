// The explorer of quantization, in the browser: it rounds by itself, as minqwen.quantize does.

import { Explorer, keyLine, make, openPalettes, shareOf, stageOf } from "./explorer.js";
import { floatsOf, plain, signed } from "./numbers.js";
import { inSignificant, paintGroup, paintNumbers, roundedGroup, sizeOf } from "./quant_rounding.js";

const share = (x) => `${(100 * x).toFixed(1)} %`;
const HINT = "Point at a number to read it; click to go to its group.";

class QuantExplorer extends Explorer {
  keys = { ArrowUp: ["row", -1], ArrowDown: ["row", 1], PageUp: ["bits", 1], PageDown: ["bits", -1], ",": ["size", -1],
           ".": ["size", 1] };

  constructor(context) {
    super(context, "quant", ["row", "column", "bits", "size"], HINT);
    const { shape: [N, K], sizes, bits, rows, cell: [across, down], chart: [high], palette } = this.story;
    Object.assign(this, { N, K, lists: { bits, size: sizes }, palettes: openPalettes(palette) });
    this.page = this.fetch(floatsOf);
    this.slide("row", ["column", "group"], "bits", ["size", "group size"]);
    const width = K * across, height = rows * down;
    this.maps = ["numbers", "errors"].map((kind) => this.makeMap(kind, width, height));
    this.chart = make("canvas", { class: "group", width, height: high });
    this.caption = make("figcaption");
    this.onPoint(this.chart, (event) => this.numberAt(this.shown.row, this.firstColumn() +
      Math.min(this.shown.size - 1, Math.floor(shareOf(event, this.chart)[0] * this.shown.size))));
    const group = make("figure", {}, this.caption, this.chart);
    this.stage = stageOf(...this.maps.map(({ figure }) => figure), group);
    this.stage.dataset.moves = "column";
    this.lay(this.said, this.stage, make("div", { class: "foot" }, this.pointed), this.makeTable());
    this.help.append(keyLine(["←", "→", "group"], ["Home", "End", "first, last"], ["↑", "↓", "row"],
      ["PgUp", "PgDn", "bits"], [",", ".", "group size"]));
  }

  // ---- what is on the page

  makeMap(kind, width, height) {
    const canvas = make("canvas", { class: kind, width, height }), band = make("i", { class: "band" });
    const caption = make("figcaption");
    this.onPoint(canvas, (event) => this.numberAt(...this.placeOf(event, canvas)), band);
    canvas.addEventListener("click", (event) => {
      const [row, column] = this.placeOf(event, canvas);
      if (row < this.N) this.set({ row, column });
      this.stage.focus();
    });
    const figure = make("figure", {}, caption, make("div", { class: "picture" }, canvas, band));
    return { caption, canvas, band, figure };
  }

  makeTable() {
    const { bits, sizes } = this.story;
    this.cells = bits.map((b) => sizes.map((size) => {
      const cell = make("td", {}, share(this.lost(b, size)));
      cell.addEventListener("click", () => this.set({ bits: b, size }));
      return cell;
    }));
    const head = make("tr", {}, make("th", {}, "groups of"),
      ...sizes.map((size) => make("th", { scope: "col" }, `${size}`)));
    return make("table", {}, make("caption", {}, "what is lost of the whole matrix, for the bits of a code"),
      make("thead", {}, head), make("tbody", {}, ...bits.map((b, i) =>
        make("tr", {}, make("th", { scope: "row" }, `${b} bits`), ...this.cells[i]))));
  }

  // ---- moving

  lost(bits, size) { return this.story.lost[`${bits} ${size}`]; }
  firstColumn({ column, size } = this.shown) { return Math.floor(column / size) * size; }

  ends(name) {
    const last = { row: this.N, column: this.K / this.model.get("size") }[name] ?? this.lists[name].length;
    return [0, last - 1];
  }

  valueAt(name, step) {
    return name === "row" ? step : name === "column" ? step * this.model.get("size") : this.lists[name][step];
  }

  stepOf(name, value) {
    return name === "row" ? value : name === "column" ? Math.floor(value / this.model.get("size"))
      : this.lists[name].indexOf(value);
  }

  placeOf(event, canvas) {                                 // row and column of the number that is pointed at
    const [x, y] = shareOf(event, canvas), { rows } = this.story, first = Math.floor(this.shown.row / rows) * rows;
    const within = (part, many) => Math.min(many - 1, Math.max(0, Math.floor(part * many)));
    return [first + within(y, rows), within(x, this.K)];
  }

  // ---- drawing

  async show(place, theme) {
    const { rows, cell, limit, parts, chart, colours } = this.story, { row, bits, size } = place;
    this.sliders.column.range.max = this.ends("column")[1];
    const block = Math.floor(row / rows), numbers = await this.page(`rows ${block}`);
    if (!this.still(place)) return false;
    const becomes = new Float32Array(numbers.length), scales = [];
    for (let first = 0; first < numbers.length; first += size) {
      const found = roundedGroup(numbers.subarray(first, first + size), bits, parts);
      becomes.set(found.becomes, first);
      scales.push(found.scale);
    }
    const off = numbers.map((x, i) => x - becomes[i]), [whole, errors] = this.maps, palette = this.palettes[theme];
    paintNumbers(whole.canvas, numbers, this.K, cell, limit, palette);
    paintNumbers(errors.canvas, off, this.K, cell, limit / 15, palette);
    this.shown = { ...place, numbers, becomes, off, scales, from: block * rows };
    const start = (row - this.shown.from) * this.K + this.firstColumn();
    this.here = { start, scale: scales[start / size] };
    const part = (all) => all.subarray(start, start + size);
    paintGroup(this.chart, part(numbers), part(becomes), this.here.scale, bits, chart[1], colours[theme]);
    for (const [name, colour] of Object.entries(colours[theme])) this.root.style.setProperty(`--${name}`, colour);
    for (const { band } of this.maps)
      Object.assign(band.style, { left: `${(100 * this.firstColumn()) / this.K}%`, width: `${(100 * size) / this.K}%`,
                                  top: `${(100 * (row - this.shown.from)) / rows}%`, height: `${100 / rows}%` });
    this.describe();
  }

  // ---- saying it

  numberAt(row, column) {
    const i = (row - this.shown.from) * this.K + column, { numbers, becomes, scales, size } = this.shown;
    if (i < 0 || i >= numbers.length) return null;
    const code = Math.round(becomes[i] / scales[Math.floor(i / size)]);
    return [`row ${row}, column ${column}: ${signed(numbers[i])} becomes `, make("b", {}, signed(becomes[i])),
      `, code ${code}; off by ${signed(this.shown.off[i])}`];
  }

  sentence() {
    const { bits, size, numbers, off } = this.shown, { start, scale } = this.here;
    const part = (all) => all.subarray(start, start + size), norm = sizeOf(part(numbers));
    const largest = part(numbers).reduce((most, x) => Math.max(most, Math.abs(x)), 0);
    const lost = norm ? sizeOf(part(off)) / norm : 0;
    return ["The largest number of this group is ", `${inSignificant(largest)}, and a code counts `,
      `${inSignificant(scale)}. `, make("b", {}, `${share(lost)} is lost`), " of the group, and ",
      make("b", {}, share(this.lost(bits, size))), " of the whole matrix. ",
      `A weight takes ${inSignificant(bits + 16 / size)} bits, its share of a scale included.`];
  }

  describe() {
    const { row, column, bits, size, from } = this.shown, { name, rows } = this.story;
    const groups = this.K / size, g = Math.floor(column / size), text = this.sentence(), spoken = plain(text);
    this.where.textContent = `${name}, ${this.N} × ${this.K}`;
    this.say(...text);
    this.told("row", row, row, `row ${row} of ${this.N}. ${spoken}`);
    this.told("column", g, `${g + 1} of ${groups}`, `group ${g + 1} of ${groups}. ${spoken}`);
    this.told("bits", this.stepOf("bits", bits), bits, `${bits} bits. ${spoken}`);
    this.told("size", this.stepOf("size", size), size, `groups of ${size}. ${spoken}`);
    this.maps[0].caption.textContent = `rows ${from} to ${Math.min(from + rows, this.N) - 1}: the weights`;
    this.maps[1].caption.textContent = "what each is off by, in colours 15 times as strong";
    this.caption.replaceChildren(`group ${g + 1} of row ${row}: `, make("i", { class: "key number" }), "the numbers, ",
      make("i", { class: "key off" }), "what each becomes");
    this.story.bits.forEach((b, i) => this.story.sizes.forEach((s, j) =>
      this.cells[i][j].classList.toggle("here", b === bits && s === size)));
    this.stage.setAttribute("aria-label", `Row ${row}, group ${g + 1} of ${groups}, ${bits} bits. ${spoken}`);
    this.point();
  }
}

export default { render: (context) => new QuantExplorer(context).begin() };
