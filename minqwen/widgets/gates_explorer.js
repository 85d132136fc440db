// The gate explorer, in the browser; explorer.js comes before it.
//
// From the kernel (or from the page of `to_html`) come `story`, JSON, and `pages`, float32: one for each layer, its numbers and
// their places on the panels' scales; and one for each head, its output gate by dimensions. See minqwen/widgets/gates.py, which
// draws the same pixels in Python.

function openLayer(page, { heads, told, panels }, T) {     // name -> (T, H): what is told, and where it stands in its panel
  const all = new Float32Array(bytesOf(page).slice().buffer), size = T * heads;
  const part = (i) => all.subarray(i * size, (i + 1) * size);
  return { told: Object.fromEntries(told.map((name, i) => [name, part(i)])), shares: panels.map((_, i) => part(told.length + i)) };
}

function openFactors(page) {                               // (T, D)
  const all = new Float32Array(bytesOf(page).slice().buffer);
  return { limit: all[0], factors: all.subarray(1) };
}

// ------------------------------------------------------------------------------------------------------------ pictures

function fill(pixels, width, left, top, across, down, colour) {
  for (let y = top; y < top + down; y++) pixels.fill(colour, y * width + left, y * width + left + across);
}

function paintPanel(canvas, shares, T, H, token, head, [across, down], gap, [bar, beside], palette) {      // see `frame` in gates.py
  const image = new ImageData(canvas.width, canvas.height), pixels = new Uint32Array(image.data.buffer), width = canvas.width;
  const [wide, high] = [T * across, H * down], at = (t, h) => shares[t * H + h];
  for (let t = 0; t < T; t++)
    for (let h = 0; h < H; h++) fill(pixels, width, t * across, (H - 1 - h) * down, across, down, palette[Math.floor(at(t, h) * 255 + 0.5)]);
  fill(pixels, width, wide + gap, 0, beside, high, palette[0]);
  fill(pixels, width, 0, high + gap, wide, bar, palette[0]);
  for (let h = 0; h < H; h++)
    fill(pixels, width, wide + gap, (H - 1 - h) * down, Math.floor(at(token, h) * beside + 0.5), down - (down > 3), palette[h === head ? 255 : 140]);
  for (let t = 0; t < T; t++) {
    const tall = Math.floor(at(t, head) * bar + 0.5);
    fill(pixels, width, t * across, high + gap + bar - tall, across - (across > 3), tall, palette[t === token ? 255 : 140]);
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function paintDimensions(canvas, { limit, factors }, T, D, [across, down], signed, palette) {              // see `dimensions` there
  const image = new ImageData(canvas.width, canvas.height), pixels = new Uint32Array(image.data.buffer), shade = signed ? shadeOf : shadeFromZero;
  for (let t = 0; t < T; t++)
    for (let d = 0; d < D; d++) fill(pixels, canvas.width, t * across, d * down, across, down, palette[shade(factors[t * D + d], limit)]);
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// ------------------------------------------------------------------------------------------------------------ the page

const HINT = "Point at a cell for its number; click to go there.";
const CAPTION = 40, BELOW = 8;                             // pixels: a panel's heading, and the room below it

function render({ model, el }) {
  const story = model.get("story");
  const { tokens, layers, gap, bars } = story, T = tokens.length, texts = tokens.map(({ text }) => readable(text));
  const palettes = {};
  for (const kind of ["plain", "signed"]) for (const theme of ["light", "dark"]) palettes[kind + theme] = openPalette(story.palettes[kind][theme]);
  const most = Math.max(...layers.map(({ heads }) => heads)), panelCount = Math.max(...layers.map(({ panels }) => panels.length));
  const kindOf = ({ kind }) => (kind === "delta" ? "Gated DeltaNet" : "gated attention");

  // ---- what is on the page

  const title = make("p", { class: "title" }, story.title);
  const where = make("p", { class: "where" });
  const problem = make("p", { class: "problem", role: "alert", hidden: "" });
  const sliders = { token: slider("token", 0, T - 1, go), layer: slider("layer", 0, layers.length - 1, go), head: slider("head", 0, most - 1, go) };
  const controls = make("div", { class: "controls" }, ...Object.values(sliders).map(({ row }) => row));

  const block = (kind) => {                                // a panel: its heading, the rows' labels, the picture and what marks a place
    const parts = { caption: make("span", { class: "name" }), ramp: make("span", { class: "ramp" }, make("i"), make("span")), side: make("div", { class: "side" }),
                    canvas: make("canvas", { class: kind }), row: make("i", { class: "band" }), column: make("i", { class: "band" }) };
    const heading = make("div", { class: "heading" }, parts.caption, parts.ramp);
    heading.style.height = `${CAPTION}px`;
    parts.all = make("div", { class: "panel" }, heading, parts.side, make("div", { class: "picture" }, parts.canvas, parts.row, parts.column));
    parts.all.style.marginBottom = `${BELOW}px`;
    return parts;
  };
  const panels = Array.from({ length: panelCount }, (_, i) => block(`panel-${i}`)), dims = block("dims");
  const across = make("div", { class: "along across" });
  const sheet = make("div", { class: "sheet" }, make("div", { class: "top" }, across), ...[...panels, dims].map(({ all }) => all));
  const scroller = make("div", { class: "scroller" }, sheet);
  const stage = make("div", { class: "stage", tabindex: 0, role: "img" }, scroller);
  const tall = Math.max(...layers.map(({ panels, heads, cell, dims, dim_cell }) =>                       // so that nothing jumps
    panels.length * (heads * cell[1] + gap + bars[0] + CAPTION + BELOW) + dims * dim_cell[1] + CAPTION + BELOW));
  sheet.style.minHeight = `calc(5.4rem + ${tall}px)`;

  const said = make("p", { class: "said", "aria-live": "polite" });
  const pointed = make("p", { class: "pointed" });
  const help = make("p", { class: "help" });
  help.innerHTML = "<kbd>←</kbd> <kbd>→</kbd> token <kbd>Home</kbd> <kbd>End</kbd> first, last <kbd>↑</kbd> <kbd>↓</kbd> head " +
    "<kbd>PgUp</kbd> <kbd>PgDn</kbd> layer";
  const root = make("section", { class: "minqwen-explorer minqwen-gates", "data-lm-suppress-shortcuts": "true", "aria-label": story.title },
    make("header", {}, title, where), controls, problem, said, stage, make("div", { class: "foot" }, pointed), help);
  if (!story.all_here) {
    const bytes = Math.max(...layers.map(({ dims }) => 4 * (1 + T * dims)));
    root.append(make("p", { class: "help" }, `An output gate's dimensions are fetched from the kernel, head by head, when they are first looked at: ` +
      `up to ${Math.ceil(bytes / 1000).toLocaleString("en")} kB each.`));
  }
  el.append(root);

  // ---- moving

  const { save, stop: stopSaving } = saver(model);
  const indexOf = (layer) => layers.findIndex(({ index }) => index === layer);
  const position = () => {
    const l = Math.max(0, indexOf(model.get("layer")));
    return { token: model.get("token"), l, layer: layers[l].index, head: Math.min(model.get("head"), layers[l].heads - 1) };
  };
  function go(name, to) {
    const place = position(), ends = { token: T, layer: layers.length, head: layers[place.l].heads };
    to = Math.min(ends[name] - 1, Math.max(0, to));
    if (name === "layer") model.set("head", Math.min(place.head, layers[to].heads - 1));
    model.set(name, name === "layer" ? layers[to].index : to);
    save();
  }
  onKeys(root, {}, (name, by) => go(name, (name === "layer" ? position().l : position()[name]) + by));

  // ---- drawing

  const pages = pagesOf(model, (page, name) => (name.startsWith("dims") ? openFactors(page) : openLayer(page, layers[indexOf(Number(name.split(" ")[1]))], T)));
  let shown = null;                                        // what the canvases show
  async function draw() {
    const place = position(), { token, l, layer, head } = place, theme = isDark() ? "dark" : "light";
    const still = () => ["token", "layer", "head"].every((name) => position()[name] === place[name]);
    try {
      root.classList.add("waiting");                       // seen only when it takes a while
      const numbers = await pages.get(`layer ${layer}`);
      if (!still()) return;                                // moved on meanwhile
      root.dataset.theme = theme;
      arrange(place, theme);
      const { heads, cell, panels: described } = layers[l];
      described.forEach((_, i) => paintPanel(panels[i].canvas, numbers.shares[i], T, heads, token, head, cell, gap, bars, palettes["plain" + theme]));
      shown = { ...place, numbers, gate: null };
      describe();
      const gate = await pages.get(`dims ${layer} ${head}`);
      if (!still()) return;
      const signed = layers[l].kind === "delta";
      paintDimensions(dims.canvas, gate, T, layers[l].dims, layers[l].dim_cell, signed, palettes[(signed ? "signed" : "plain") + theme]);
      shown.gate = gate;
      describeGate(theme);
      root.classList.remove("waiting");
      root.dataset.drawn = [token, layer, head, theme].join(" ");
    } catch (error) {
      complain(`${error.name}: ${error.message}`);
    }
  }

  const css = (palette, shade) => `rgb(${[0, 8, 16].map((bits) => (palette[shade] >> bits) & 255).join(" ")})`;
  function gradient(part, palette, first, marks) {         // a scale, with its marks in equal steps
    const stops = Array.from({ length: 9 }, (_, i) => css(palette, Math.round(first + (i / 8) * (255 - first))));
    part.ramp.firstChild.style.background = `linear-gradient(90deg, ${stops.join(", ")})`;
    part.ramp.lastChild.replaceChildren(...marks.map((mark) => make("span", {}, mark)));
    part.ramp.classList.toggle("many", marks.length > 3);
  }
  const resize = (canvas, width, height) => {
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
  };
  const put = (band, left, top, width, height) => Object.assign(band.style, { left: `${left}px`, top: `${top}px`, width: `${width}px`, height: `${height}px` });

  function arrange({ token, l, head }, theme) {            // sizes, headings and marks
    const { heads, dims: D, cell: [wide, high], dim_cell: [, low], panels: described } = layers[l];
    across.style.width = `${T * wide}px`;
    writeAlong(across, texts, token);
    panels.forEach((part, i) => {
      part.all.hidden = i >= described.length;
      if (part.all.hidden) return;
      part.caption.textContent = described[i].title;
      gradient(part, palettes["plain" + theme], 0, described[i].marks);
      resize(part.canvas, T * wide + gap + bars[1], heads * high + gap + bars[0]);
      put(part.row, 0, (heads - 1 - head) * high, T * wide, high);
      put(part.column, token * wide, 0, wide, heads * high);
      const every = Math.ceil(12 / high);
      part.side.replaceChildren(...Array.from({ length: heads }, (_, h) => h).filter((h) => h === head || (h % every === 0 && Math.abs(h - head) * high >= 12)).map((h) => {
        const label = make("span", h === head ? { class: "here" } : {}, h === head ? `head ${h}` : `${h}`);
        label.style.top = `${(heads - h - 0.5) * high}px`;
        return label;
      }));
    });
    dims.caption.textContent = `output gate of head ${head}, dimension by dimension`;
    resize(dims.canvas, T * wide, D * low);
    put(dims.row, 0, 0, 0, 0);
    put(dims.column, token * wide, 0, wide, D * low);
    dims.side.replaceChildren(make("span", {}, "0"), make("span", {}, `${D - 1}`));
    dims.side.firstChild.style.top = "6px";
    dims.side.lastChild.style.top = `${D * low - 6}px`;
    const left = token * wide, labels = 60;                // keep the column in sight: what is at the left covers a part
    scroller.scrollLeft = Math.max(left + wide - (scroller.clientWidth - labels) + 8, Math.min(scroller.scrollLeft, left - 8));
  }

  // ---- saying it

  const number = (name, x) => (name === "shut" ? `${x} of ${layers[shown.l].dims}` : x.toFixed(name === "alpha" ? 6 : 4));
  const has = (name) => name in shown.numbers.told;
  const told = (name, t, h) => shown.numbers.told[name][t * layers[shown.l].heads + h];
  function sentence({ token, l, head }) {
    const { dims: D, kind } = layers[l], shut = told("shut", token, head), parts = [];
    if (has("alpha")) parts.push(`keeps ${percent(told("alpha", token, head))} of the memory (α = ${number("alpha", told("alpha", token, head))}), writes with β = ${number("beta", told("beta", token, head))}`);
    parts.push(kind === "delta" ? `its output gate multiplies by ${number("output", told("output", token, head))} (mean size)`
      : `lets ${percent(told("output", token, head))} through its output gate (mean)`);
    return `${parts.join("; ")}; of ${D} dimensions ${shut} ${shut === 1 ? "is" : "are"} all but shut.`;
  }

  function describe() {
    const { token, l, layer, head } = shown, { heads } = layers[l], text = sentence(shown);
    const before = tokens.slice(0, token + 1).map(({ text }) => text).join("").replace(/\s+/g, " ");
    where.replaceChildren("at the end of “", make("q", {}, before.length > 60 ? before.slice(-60).replace(/^\S*(?=\s)|^/, "…") : before), "”");
    const now = `${texts[token]} Head ${head} ${text}`;
    if (said.textContent !== now) said.replaceChildren(make("b", {}, texts[token]), ` Head ${head} ${text}`);
    sliders.head.range.max = heads - 1;
    Object.entries({ token, layer: l, head }).forEach(([name, i]) => (sliders[name].range.value = i));
    sliders.token.number.textContent = `${token + 1} of ${T}`;
    sliders.layer.number.textContent = `${layer} ${layers[l].kind === "delta" ? "delta rule" : "attention"}`;
    sliders.head.number.textContent = `${head}`;
    sliders.token.range.setAttribute("aria-valuetext", `token ${token + 1} of ${T}, ${texts[token]}. Head ${head} ${text}`);
    sliders.layer.range.setAttribute("aria-valuetext", `layer ${layer}, ${kindOf(layers[l])}. Head ${head} ${text}`);
    sliders.head.range.setAttribute("aria-valuetext", `head ${head} of ${heads}; it ${text}`);
    stage.setAttribute("aria-label", `The gates of layer ${layer} (${kindOf(layers[l])}), ${heads} heads by ${T} tokens. Token ${token + 1}, ${texts[token]}: head ${head} ${text}`);
    if (pointer) pointer(); else pointed.textContent = HINT;
  }

  function describeGate(theme) {
    const { l, gate } = shown, signed = layers[l].kind === "delta", limit = gate.limit.toFixed(signed ? 2 : 0);
    gradient(dims, palettes[(signed ? "signed" : "plain") + theme], signed ? 1 : 0, signed ? [`−${limit}`, "0", `+${limit}`] : ["0", limit]);
    if (pointer) pointer();
  }

  // ---- pointing and clicking

  const pixelOf = (event, canvas) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  function cellAt(event, i) {                              // token and head; a bar stands for its token, or its head
    const { heads, cell: [wide, high] } = layers[shown.l], [x, y] = pixelOf(event, panels[i].canvas);
    const t = Math.floor(x / wide), h = heads - 1 - Math.floor(y / high);
    const [inTokens, inHeads] = [t >= 0 && t < T, h >= 0 && h < heads];
    return inTokens || inHeads ? { token: inTokens ? t : shown.token, head: inHeads ? h : shown.head } : null;
  }
  let pointer = null;
  const pointAt = (read) => (event) => {
    pointer = () => { if (!shown || !read(event)) pointed.textContent = HINT; };
    pointer();
  };
  panels.forEach(({ canvas }, i) => {
    canvas.addEventListener("pointermove", pointAt((event) => {
      const found = cellAt(event, i), panel = layers[shown.l].panels[i];
      if (found && panel) pointed.replaceChildren(`${texts[found.token]} (token ${found.token + 1}), head ${found.head}: `, make("b", {}, number(panel.name, told(panel.name, found.token, found.head))));
      return found && panel;
    }));
    canvas.addEventListener("click", (event) => {
      const found = shown && cellAt(event, i);
      if (!found) return;
      go("token", found.token);
      go("head", found.head);
      stage.focus();
    });
  });
  dims.canvas.addEventListener("pointermove", pointAt((event) => {
    const { dims: D, dim_cell: [wide, low] } = layers[shown.l], [x, y] = pixelOf(event, dims.canvas), t = Math.floor(x / wide), d = Math.floor(y / low);
    const factor = shown.gate?.factors[t * D + d];
    if (factor !== undefined) pointed.replaceChildren(`${texts[t]} (token ${t + 1}), dimension ${d} of head ${shown.head}: `, make("b", {}, layers[shown.l].kind === "delta" ? signed(factor, 6) : factor.toFixed(6)));
    return factor !== undefined;
  }));
  dims.canvas.addEventListener("click", (event) => {
    go("token", Math.floor(pixelOf(event, dims.canvas)[0] / layers[shown.l].dim_cell[0]));
    stage.focus();
  });
  for (const { canvas } of [...panels, dims]) canvas.addEventListener("pointerleave", () => { pointer = null; pointed.textContent = HINT; });

  function complain(text) {
    problem.textContent = text;
    problem.hidden = !text;
    root.classList.remove("waiting");
  }

  const stopFollowing = follow(model, ["token", "layer", "head"], draw, complain);
  return () => [stopFollowing, pages.stop, stopSaving].forEach((stop) => stop());
}

export default { render };
