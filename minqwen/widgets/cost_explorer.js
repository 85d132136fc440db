// The cost of a context, in the browser; explorer.js comes before it.
//
// From the kernel (or from the page of `to_html`) comes `story`, JSON: of every size the numbers of which all bytes and operations
// are made. See minqwen/widgets/cost.py, which says what they are and where they come from, and draws the same pixels in Python.

// ------------------------------------------------------------------------------------------------------------ counting

function costOf(counts, context, batch, dtype, work, bytes) {                      // see `cost` in cost.py
  const more = counts.layers / (counts.attention_layers || 1);
  const keysAndValues = batch * context * counts.key_values * bytes[dtype];
  const [count, pairs] = work === "token" ? [1, context] : [context, (context * (context + 1)) / 2];
  const attention = batch * pairs * counts.pair;
  return {
    memory: { "keys and values": keysAndValues, states: batch * (counts.states + counts.convolutions * bytes[dtype]), "all attention": keysAndValues * more },
    work: { attention, "delta rule": batch * count * counts.rule, matrices: batch * (count * counts.matrices + counts.head), "all attention": attention * more },
  };
}

const totalOf = (costs) => Object.entries(costs).reduce((sum, [name, x]) => (name === "all attention" ? sum : sum + x), 0);

const threeDigits = (x) => (x >= 100 ? x.toFixed(0) : x >= 10 ? x.toFixed(1) : x.toFixed(2)).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
function inUnits(x, units) {                               // powers of a thousand
  let i = 0;
  for (; Number(x.toPrecision(3)) >= 1000 && i < units.length - 1; i++) x /= 1000;
  return `${threeDigits(Number(x.toPrecision(3)))} ${units[i]}`.trim();
}
const inBytes = (x) => inUnits(x, ["bytes", "kB", "MB", "GB", "TB", "PB"]);
const inOperations = (x) => inUnits(x, ["", "k", "M", "G", "T", "P", "E"]);
const grouped = (x) => x.toLocaleString("en");

// --------------------------------------------------------------------------------------------------------- the picture

function paintChart(canvas, lines, at, [low, high], colours, steps) {              // see `frame` in cost.py
  const { width, height } = canvas, image = new ImageData(width, height), pixels = new Uint32Array(image.data.buffer);
  const inks = Object.fromEntries(Object.entries(colours).map(([name, colour]) => {
    const [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
    return [name, new Uint32Array(new Uint8Array([r, g, b, 255]).buffer)[0]];
  }));
  const heightOf = (x) => (x === 0 ? null : Math.floor((1 - (Math.log10(x) - low) / (high - low)) * (height - 1) + 0.5 + 1e-6));
  const upright = (x, top, bottom, ink) => { for (let y = Math.max(0, top); y < Math.min(height, bottom); y++) pixels[y * width + x] = ink; };
  for (let decade = low; decade <= high; decade++) pixels.fill(inks.grid, Math.max(0, heightOf(10 ** decade) - 1) * width, (heightOf(10 ** decade) + 1) * width);
  for (let x = 0; x < width; x += steps) for (const beside of [0, 1]) if (x + beside < width) upright(x + beside, 0, height, inks.grid);
  for (let x = Math.max(0, at - 1); x < Math.min(width, at + 2); x++) upright(x, 0, height, inks.here);
  for (const { valueAt, colour, thick, dashed, dot } of lines) {
    const rows = Array.from({ length: width }, (_, x) => heightOf(valueAt(x)));
    rows.forEach((row, x) => {
      const following = rows[Math.min(x + 1, width - 1)];
      if (row === null || following === null || (dashed && Math.floor(x / 12) % 2)) return;
      upright(x, Math.min(row, following) - thick, Math.max(row, following) + thick + 1, inks[colour]);
    });
    if (!dot || rows[at] === null) continue;
    for (let x = Math.max(0, at - 9); x < Math.min(width, at + 10); x++)
      for (let y = Math.max(0, rows[at] - 9); y < Math.min(height, rows[at] + 10); y++)
        if ((x - at) ** 2 + (y - rows[at]) ** 2 <= 90) pixels[y * width + x] = inks[colour];
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// ------------------------------------------------------------------------------------------------------------ the page

const LINES = {                                            // how the lines are called
  "keys and values": "keys and values", states: "states", "all attention": "if all layers were attention",
  attention: "attention", "delta rule": "delta rule", matrices: "matrices",
};
const HINT = "Point at a chart for its numbers; click to go there.";

function render({ model, el }) {
  const story = model.get("story");
  const { counts, contexts, batches, dtypes, works, charts, colours, longest, bytes } = story, sizes = Object.keys(counts);
  const [height, width] = story.canvas, steps = (width - 1) / (contexts.length - 1);
  const lists = { size: sizes, context: contexts, batch: batches, dtype: dtypes, work: works }, NAMES = Object.keys(lists);
  const exact = (value) => grouped(Math.round(value));

  // ---- what is on the page

  const title = make("p", { class: "title" }, story.title);
  const where = make("p", { class: "where" });
  const problem = make("p", { class: "problem", role: "alert", hidden: "" });
  const sliders = Object.fromEntries(NAMES.map((name) => [name, slider(name, 0, lists[name].length - 1, go)]));
  const controls = make("div", { class: "controls" }, ...Object.values(sliders).map(({ row }) => row));
  const said = make("p", { class: "said", "aria-live": "polite" });

  const panels = Object.fromEntries(Object.keys(charts).map((chart) => {
    const canvas = make("canvas", { class: chart, width, height }), heading = make("figcaption");
    const ticks = make("div", { class: "ticks" }), below = make("div", { class: "below" });
    contexts.forEach((context, i) => {
      if (i % 2) return;
      const label = make("span", {}, context >= 2 ** 20 ? "1 M" : context >= 1024 ? `${context / 1024} k` : `${context}`);
      label.style.left = `${(100 * i) / (contexts.length - 1)}%`;
      below.append(label);
    });
    const legend = make("p", { class: "legend" }, ...[...charts[chart]].reverse().map((name) => make("span", {}, make("i", { class: name.replace(/ /g, "-") }), LINES[name])),
      make("span", {}, make("i", { class: "others" }), "the other sizes, in all"));
    const figure = make("figure", {}, heading, make("div", { class: "plot" }, ticks, make("div", { class: "picture" }, canvas), make("span"), below), legend);
    return [chart, { canvas, heading, ticks, figure }];
  }));
  const stage = make("div", { class: "stage", tabindex: 0, role: "img", "data-moves": "context" }, ...Object.values(panels).map(({ figure }) => figure));

  const pointed = make("p", { class: "pointed" });
  const columns = ["size", "keys and values", "states", "if all layers were attention", "next token", "of it attention", "whole prompt"];
  const cells = sizes.map((size) => columns.map((_, i) => make(i ? "td" : "th", i ? {} : { scope: "row" }, i ? "" : size)));
  const rows = cells.map((cells, i) => {
    const row = make("tr", {}, ...cells);
    row.addEventListener("click", () => go("size", i));
    return row;
  });
  const caption = make("caption");
  const table = make("table", {}, caption, make("thead", {}, make("tr", {}, make("th"), make("th", { colspan: 3, scope: "colgroup" }, "bytes kept"), make("th", { colspan: 3, scope: "colgroup" }, "operations")),
    make("tr", {}, ...columns.map((name) => make("th", { scope: "col" }, name)))), make("tbody", {}, ...rows));
  const help = make("p", { class: "help" });
  help.innerHTML = "<kbd>←</kbd> <kbd>→</kbd> context <kbd>Home</kbd> <kbd>End</kbd> first, last <kbd>↑</kbd> <kbd>↓</kbd> batch " +
    "<kbd>PgUp</kbd> <kbd>PgDn</kbd> size <kbd>d</kbd> dtype <kbd>w</kbd> next token or prompt";
  const note = make("p", { class: "help" }, "Counted from the configurations, not timed: an addition and a multiplication are two operations. " +
    "Norms, softmax, gates and activations are left out; states are float32 in every dtype.");
  const root = make("section", { class: "minqwen-explorer minqwen-cost", "data-lm-suppress-shortcuts": "true", "aria-label": story.title },
    make("header", {}, title, where), controls, problem, said, stage, make("div", { class: "foot" }, pointed), make("div", { class: "scroller" }, table), help, note);
  el.append(root);

  // ---- moving

  const { save, stop: stopSaving } = saver(model);
  const position = () => Object.fromEntries(NAMES.map((name) => [name, model.get(name)]));
  function go(name, to) {
    model.set(name, lists[name][Math.min(lists[name].length - 1, Math.max(0, to))]);
    save();
  }
  const own = { ArrowUp: ["batch", 1], ArrowDown: ["batch", -1], PageUp: ["size", 1], PageDown: ["size", -1], d: ["dtype"], D: ["dtype"], w: ["work"], W: ["work"] };
  onKeys(root, own, (name, by) => {
    const at = lists[name].indexOf(position()[name]);
    go(name, by === undefined ? (at + 1) % lists[name].length : at + by);
  });

  // ---- drawing

  const costs = (size, context, { batch, dtype, work }) => costOf(counts[size], context, batch, dtype, work, bytes);
  let shown = null;
  function draw() {
    const place = position(), theme = isDark() ? "dark" : "light";
    try {
      root.dataset.theme = theme;
      for (const [name, colour] of Object.entries(colours[theme])) root.style.setProperty(`--${name.replace(/ /g, "-")}`, colour);
      const at = contexts.indexOf(place.context) * steps, contextAt = (x) => contexts[0] * 2 ** (x / steps);
      for (const [chart, { canvas }] of Object.entries(panels)) {
        const line = { thick: 1, dashed: false, dot: false };
        const lines = sizes.filter((size) => size !== place.size).map((size) => (
          { ...line, colour: "others", valueAt: (x) => totalOf(costs(size, contextAt(x), place)[chart]) }));
        for (const name of charts[chart]) lines.push({
          ...line, colour: name, thick: name === "all attention" ? 1 : 2, dashed: name === "all attention", dot: true,
          valueAt: (x) => costs(place.size, contextAt(x), place)[chart][name] });
        paintChart(canvas, lines, at, story.decades[`${chart} ${place.work}`], colours[theme], steps);
      }
      shown = place;
      describe();
      root.dataset.drawn = [...NAMES.map((name) => place[name]), theme].join(" ");
    } catch (error) {
      complain(`${error.name}: ${error.message}`);
    }
  }

  // ---- saying it

  const rowsOf = (batch) => (batch === 1 ? "one row" : `${batch} rows`);
  function sentence({ size, context, batch, dtype, work }) {
    const { memory, work: done } = costs(size, context, shown), each = counts[size].key_values * bytes[dtype];
    const even = each ? Math.ceil((counts[size].states + counts[size].convolutions * bytes[dtype]) / each) : 0;
    const parts = [`${grouped(context)} tokens: keys and values take ${inBytes(memory["keys and values"])}, states ${inBytes(memory.states)}`];
    parts.push(even ? `; from ${grouped(even)} tokens on, keys and values are the larger part. ` : ". ");
    if (each) parts.push(`If all layers were attention: ${inBytes(memory["all attention"])}. `);
    parts.push(`${work === "token" ? "The next token takes" : "The whole prompt takes"} ${inOperations(totalOf(done))} operations, ${percent(done.attention / totalOf(done))} of them attention's.`);
    return parts.join("");
  }

  function describe() {
    const { size, context, batch, dtype, work } = shown, text = sentence(shown);
    where.textContent = `${size}, ${rowsOf(batch)}, keys and values in ${dtype}` +
      (context > longest[size] ? `; beyond the ${grouped(longest[size])} tokens that it is made for` : "");
    if (said.textContent !== text) said.textContent = text;
    const texts = { size, context: grouped(context), batch: `${batch}`, dtype, work: work === "token" ? "next token" : "prompt" };
    for (const name of NAMES) {
      sliders[name].range.value = lists[name].indexOf(shown[name]);
      sliders[name].number.textContent = texts[name];
      sliders[name].range.setAttribute("aria-valuetext", `${name === "context" ? `context of ${texts.context} tokens` : name === "batch" ? `batch of ${rowsOf(batch)}` : texts[name]}. ${text}`);
    }
    stage.setAttribute("aria-label", `Bytes kept and operations done over the context, on logarithmic axes, for ${where.textContent}. ${text}`);
    panels.memory.heading.textContent = `bytes kept by ${size}`;
    panels.work.heading.textContent = `operations for ${work === "token" ? "the next token" : "the whole prompt"}`;
    for (const [chart, { ticks }] of Object.entries(panels)) {
      const [low, high] = story.decades[`${chart} ${work}`], decades = Array.from({ length: high - low + 1 }, (_, i) => low + i);
      ticks.replaceChildren(...decades.filter((decade) => decade % 3 === 0).map((decade) => {
        const label = make("span", {}, (chart === "memory" ? inBytes : inOperations)(10 ** decade));
        label.style.top = `${(100 * (high - decade)) / (high - low)}%`;
        return label;
      }));
    }
    sizes.forEach((name, i) => {
      const of = (work) => costs(name, context, { ...shown, work }), next = of("token"), values = next.memory;
      const share = next.work.attention / totalOf(next.work);
      const numbers = [values["keys and values"], values.states, values["all attention"], totalOf(next.work), share, totalOf(of("prompt").work)];
      numbers.forEach((x, j) => {
        cells[i][j + 1].textContent = j < 3 ? inBytes(x) : j === 4 ? percent(x) : inOperations(x);
        cells[i][j + 1].title = j === 4 ? `${x}` : exact(x);
        cells[i][j + 1].dataset.value = x;
      });
      rows[i].classList.toggle("here", name === size);
      rows[i].setAttribute("aria-selected", name === size);
    });
    caption.textContent = `every size at ${grouped(context)} tokens, ${rowsOf(batch)}, ${dtype}`;
    if (pointer) pointer(); else pointed.textContent = HINT;
  }

  // ---- pointing and clicking

  let pointer = null;
  const columnOf = (event, canvas) => {
    const box = canvas.getBoundingClientRect();
    return Math.min(width - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * width)));
  };
  for (const [chart, { canvas }] of Object.entries(panels)) {
    canvas.addEventListener("pointermove", (event) => {
      pointer = () => {
        const context = Math.round(contexts[0] * 2 ** (columnOf(event, canvas) / steps)), show = chart === "memory" ? inBytes : inOperations;
        const values = costs(shown.size, context, shown)[chart];
        pointed.replaceChildren(`at ${grouped(context)} tokens: `, make("b", {}, [...charts[chart]].reverse().map((name) => `${LINES[name]} ${show(values[name])}`).join(", ")));
      };
      pointer();
    });
    canvas.addEventListener("pointerleave", () => { pointer = null; pointed.textContent = HINT; });
    canvas.addEventListener("click", (event) => {
      go("context", Math.round(columnOf(event, canvas) / steps));
      stage.focus();
    });
  }

  function complain(text) {
    problem.textContent = text;
    problem.hidden = !text;
  }

  const stopFollowing = follow(model, NAMES, draw, complain);
  return () => [stopFollowing, stopSaving].forEach((stop) => stop());
}

export default { render };
