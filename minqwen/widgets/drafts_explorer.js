// The draft explorer, in the browser: an answer, how each token of it came, and what decided in the pass that gave it.
//
// The story holds it all: `runs[n - 1]` is the answer as it was written with n drafts for each pass (see drafts.py).

import { Explorer, cellOf, keyLine, make, ribbonOf, stageOf } from "./explorer.js";
import { chance, endOf, plain, readable } from "./numbers.js";

const LINES = {
  taken: "drafted by the head, and taken", refused: "drafted, and refused", own: "written by the model itself",
};

const PLACES = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth"];

const part = (p) => chance(p).replace("< 0.1", "0.0");      // in a comparison, which has a sign of its own
const count = (n, word) => `${n} ${word}${n === 1 ? "" : word === "pass" ? "es" : "s"}`;
const quote = (text) => make("b", {}, readable(text));

// Rows of a pass: the drafts, each with what head and model think of it, and below them the token of the model itself.
function rowsOf({ drafted, q, p, coins, taken, given, p_given: sure }) {
  const rows = drafted.map(({ text }, i) => (
    { text, q: q[i], p: p[i], coin: coins[i], fate: i < taken ? "taken" : i < p.length ? "refused" : "unread" }));
  if (given.length > taken) rows.push({ text: given[taken].text, p: sure[taken], fate: "own" });
  return rows;
}

// The head's bar above the model's, as long as the token is likely; and where a coin was thrown, how long the model's
// had to be.
function paint(canvas, { row, wide, bars, colours }, rows, theme) {
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  const fill = (who, left, [top, bottom], width) => {
    context.fillStyle = `rgb(${colours[theme][who]})`;
    context.fillRect(left, top, width, bottom - top);
  };
  const long = (x) => Math.floor(x * wide + 0.5);
  rows.forEach(({ q, p, coin }, i) => {
    const [upper, lower] = bars.map((ends) => ends.map((y) => row * i + y));
    if (q !== undefined) fill("head", 0, upper, long(q));
    if (p !== undefined) fill("model", 0, lower, long(p));
    if (coin !== undefined) fill("coin", Math.min(wide - 2, long(coin * q)), [row * i + 1, row * i + row - 1], 2);
  });
}

class DraftExplorer extends Explorer {
  keys = { ArrowUp: ["drafts", 1], ArrowDown: ["drafts", -1], PageUp: ["pass", 1], PageDown: ["pass", -1] };

  constructor(context) {
    super(context, "drafts", ["token", "drafts"]);
    const { runs, row, rows, wide } = this.story;
    this.runs = runs.map((run) => {                        // where each pass begins, and which pass gave each token
      const begins = run.passes.map((_, i) => run.passes.slice(0, i).reduce((n, { given }) => n + given.length, 0));
      return { ...run, begins, of: run.passes.flatMap(({ given }, i) => given.map(() => i)) };
    });
    this.slide("token", "pass", ["drafts", "drafts a pass"]);
    this.ribbon = ribbonOf();
    this.canvas = make("canvas", { width: wide, height: row * rows });
    [this.texts, this.numbers] = ["texts", "numbers"].map((kind) =>
      make("div", { class: kind, "aria-hidden": "true" }, ...Array.from({ length: rows }, () => make("span"))));
    this.stage = stageOf(this.texts, this.canvas, this.numbers);
    this.stage.style.setProperty("--row", `${row}px`);
    this.stage.style.setProperty("--rows", rows);
    this.came = make("p", { class: "came" });
    this.lay(this.ribbon, this.makeLegend(), this.came, this.said, this.stage, this.makeKeys());
    this.help.append(keyLine(["←", "→", "token"], ["Home", "End", "first, last"], ["PgUp", "PgDn", "pass"],
      ["↑", "↓", "drafts a pass"]));
  }

  makeLegend() {
    return make("p", { class: "legend" },
      ...Object.entries(LINES).map(([way, words]) => make("span", { class: way }, words)));
  }

  makeKeys() {
    const entry = (who, words) => make("span", {}, make("i", { class: `key ${who}` }), words);
    const coins = this.runs.some(({ passes }) => passes.some(({ coins: thrown }) => thrown.length));
    return make("p", { class: "legend" }, entry("head", "how likely to the head"),
      entry("model", "how likely to the model"),
      ...(coins ? [entry("coin", "a coin says how far the model’s bar must reach")] : []));
  }

  // ---- moving

  run(drafts = this.model.get("drafts")) { return this.runs[drafts - 1]; }
  passNow() { return this.run().of[Math.min(this.model.get("token"), this.run().of.length - 1)]; }

  ends(name) {
    const { of, passes } = this.run();
    return name === "drafts" ? [1, this.runs.length] : [0, (name === "pass" ? passes : of).length - 1];
  }

  go(name, step) {                                         // to a pass: to the first token of it
    if (name !== "pass") return super.go(name, step);
    const [first, last] = this.ends("pass");
    super.go("token", this.run().begins[Math.min(last, Math.max(first, step))]);
  }

  press(name, by) {
    if (name === "pass") this.go("pass", this.passNow() + by);
    else super.press(name, by);
  }

  set(values) {                                            // a drawn answer may be shorter
    if (!("drafts" in values)) return super.set(values);
    super.set({ ...values, token: Math.min(this.model.get("token"), this.run(values.drafts).of.length - 1) });
  }

  // ---- drawing

  show({ token, drafts }, theme) {
    const run = this.run(drafts), at = Math.min(token, run.of.length - 1), number = run.of[at];
    const rows = rowsOf(run.passes[number]);
    this.write(run, drafts, at, number);
    paint(this.canvas, this.story, rows, theme);
    this.describe(run, drafts, at, number, rows);
  }

  write(run, drafts, at, number) {
    if (this.written !== drafts) {                         // the answer, and before a token what was refused there
      this.written = drafts;
      this.cells = [];
      this.ribbon.replaceChildren(...run.passes.flatMap((pass, i) => pass.given.flatMap((token, j) => {
        const place = run.begins[i] + j, way = run.ways[place], cells = [];
        const add = (told, kind) => {
          const cell = cellOf({ ...told, text: readable(told.text) }, { "data-token": place });
          cell.classList.add(kind);
          cell.classList.toggle("begins", i > 0 && j === 0 && !cells.length);
          cell.addEventListener("click", () => this.go("token", place));
          cells.push(cell);
          return cell;
        };
        if (way === "instead") add(pass.drafted[pass.taken], "refused");
        this.cells[place] = add(token, way);
        return cells;
      })));
    }
    for (const cell of this.ribbon.children) {
      const place = Number(cell.dataset.token);
      cell.classList.toggle("now", run.of[place] === number);
      cell.classList.toggle("here", cell === this.cells[at]);
    }
    this.keepInSight(this.ribbon, this.cells[at]);
  }

  // ---- saying it

  sentence({ passes, ways, begins }, at, number) {
    const { drafted, taken, given, q, p, p_given: sure } = passes[number], way = ways[at], j = at - begins[number];
    const token = quote(given[j].text), guesses = drafted.flatMap(({ text }, i) => [i ? ", " : "", quote(text)]);
    const pass = number === 0 ? ["The prompt was read; the first token is the model’s own. "]
      : drafted.length === 0 ? ["One token was left to write, so nothing was drafted. "]
        : ["The head drafted ", ...guesses, `; the model took ${taken === drafted.length ? "all" : taken || "none"}. `];
    const why = {
      taken: () => [token, ` was drafted with ${chance(q[j])}, is ${chance(p[j])} to the model, and taken.`],
      instead: () => [token, ` is the model’s own, ${chance(sure[j])}, in the place of `, quote(drafted[taken].text),
        `, which is ${chance(p[taken])} to it, and ${chance(q[taken])} to the head.`],
      own: () => [token, ` is the model’s own, ${chance(sure[j])}.`],
    };
    return [`Pass ${number + 1} of ${passes.length}. `, ...pass, ...why[way]()];
  }

  describe(run, drafts, at, number, rows) {
    const { passes, of, summary, begins } = run, N = of.length, text = this.sentence(run, at, number);
    const before = passes.flatMap(({ given }) => given).slice(0, at + 1).map((token) => token.text).join("");
    this.where.replaceChildren("at the end of “", make("q", {}, endOf(before)), "”");
    const each = summary.passes ? (summary.tokens / summary.passes).toFixed(2) : "no";
    const shares = summary.taken.map((share, i) =>
      `${Math.round(100 * share)} % of the ${PLACES[i]}${i ? "" : " drafts"}`).join(", ");
    this.came.textContent = `Behind the prompt ${count(summary.tokens, "token")} in ` +
      `${count(summary.passes, "pass")}, ${each} for each${shares ? `; taken: ${shares}` : ""}.`;
    this.say(...text);
    for (const name of ["token", "pass"]) this.sliders[name].range.max = this.ends(name)[1];
    const spoken = plain(text);
    this.told("token", at, `${at + 1} of ${N}`, `token ${at + 1} of ${N}. ${spoken}`);
    this.told("pass", number, `${number + 1} of ${passes.length}`, spoken);
    this.told("drafts", drafts, drafts, `${count(drafts, "draft")} a pass. ${this.came.textContent}`);
    const j = at - begins[number];
    this.describeRows(rows, j < passes[number].taken ? j : rows.length - 1);
    const said = rows.map((row) => `${readable(row.text)}: ${plain(this.verdict(row))}`).join("; ");
    this.stage.setAttribute("aria-label", `${spoken} ${said}`);
  }

  verdict({ q, p, coin, fate }) {
    if (fate === "own") return ["the model’s own, ", make("b", {}, chance(p))];
    if (fate === "unread") return [`head ${chance(q)}; not looked at any more`];
    const decided = coin === undefined ? [`head ${chance(q)}, model ${chance(p)}`]
      : [`coin ${coin.toFixed(2)} × ${part(q)} ${coin * q < p ? "<" : "≥"} ${part(p)}`];
    return [...decided, ": ", make("b", {}, fate)];
  }

  describeRows(rows, chosen) {
    [...this.texts.children].forEach((cell, i) => {
      const { text, fate } = rows[i] ?? {};
      cell.textContent = text === undefined ? "" : (i === chosen ? "▸ " : "") + readable(text);
      cell.className = { refused: "no", unread: "unread" }[fate] ?? "";
    });
    [...this.numbers.children].forEach((cell, i) => cell.replaceChildren(...(rows[i] ? this.verdict(rows[i]) : [])));
  }
}

export default { render: (context) => new DraftExplorer(context).begin() };
