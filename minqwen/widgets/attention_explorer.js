// The attention explorer, in the browser; explorer.js comes before it.
//
// From the kernel (or from the page of `to_html`) come `story`, JSON, and `pages`: one for each layer, the thumbnails of its
// heads, which are shades already; and one for each map, all its numbers up to the diagonal, float32. See minqwen/widgets/
// attention.py, which draws the same pixels in Python.

// ---------------------------------------------------------------------------------------------------------------- maps

function openTiles(page, { heads }) {                      // of each head: limit, habits, and the shades of its tile
  const bytes = bytesOf(page).slice(), told = new Float32Array(bytes.buffer, 0, 4 * heads), shades = bytes.subarray(16 * heads);
  const size = shades.length / heads;
  return Array.from({ length: heads }, (_, h) => {
    const [limit, itself, previous, first] = told.subarray(4 * h, 4 * h + 4);
    return { limit, itself, previous, first, shades: shades.subarray(h * size, (h + 1) * size) };
  });
}

function openMap(page) {                                   // the rows of a triangle, one behind the other
  const all = new Float32Array(bytesOf(page).slice().buffer), rows = all.subarray(1);
  return { limit: all[0], at: (i, j) => (j > i ? 0 : rows[(i * (i + 1)) / 2 + j]) };
}

function strongest(map, T, size, row, column) {            // of a block, the first of equally strong ones
  let best = 0;
  for (let i = row * size; i < Math.min(T, (row + 1) * size); i++)
    for (let j = column * size; j < Math.min(i + 1, (column + 1) * size); j++)
      if (Math.abs(map.at(i, j)) > Math.abs(best)) best = map.at(i, j);
  return best;
}

// ------------------------------------------------------------------------------------------------------------ pictures

// A triangle of shades as squares, `unit` pixels wide, from (top, left) on.
function paintTriangle(pixels, width, top, left, cells, unit, palette, shadeAt) {
  for (let i = 0; i < cells; i++)
    for (let j = 0; j <= i; j++) {
      const colour = palette[shadeAt(i, j)];
      for (let y = top + i * unit; y < top + (i + 1) * unit; y++) pixels.fill(colour, y * width + left + j * unit, y * width + left + (j + 1) * unit);
    }
}

function paintMap(canvas, map, T, { block, cells, unit }, signed, palette) {       // see `frame` in attention.py
  const image = new ImageData(canvas.width, canvas.height), shade = signed ? shadeOf : shadeFromZero;
  paintTriangle(new Uint32Array(image.data.buffer), canvas.width, 0, 0, cells, unit, palette,
    (i, j) => shade(block === 1 ? map.at(i, j) : strongest(map, T, block, i, j), map.limit));
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function paintLayer(canvas, heads, top, step, { cells, unit }, palette) {          // a row of `overview` in attention.py
  const image = new ImageData(canvas.width, cells * unit), pixels = new Uint32Array(image.data.buffer);
  heads.forEach(({ shades }, h) => paintTriangle(pixels, canvas.width, 0, h * step, cells, unit, palette, (i, j) => shades[i * cells + j]));
  canvas.getContext("2d").putImageData(image, 0, top);
}

// ------------------------------------------------------------------------------------------------------------ the page

const HINT = { grid: "Point at a map for its habits; click to open it. Each has its own scale.", map: "Point at a cell for its number; click to keep it." };

function render({ model, el }) {
  const story = model.get("story");
  const { tokens, layers, map: sizes, tile, gap } = story, T = tokens.length, most = Math.max(...layers.map(({ heads }) => heads));
  const palettes = {};
  for (const kind of ["plain", "signed"]) for (const theme of ["light", "dark"]) palettes[kind + theme] = openPalette(story.palettes[kind][theme]);
  const texts = tokens.map(({ text }) => readable(text));
  const kindOf = ({ signed }) => (signed ? "effective attention" : "softmax");
  const shortKind = ({ signed }) => (signed ? "delta rule" : "softmax");

  // ---- what is on the page

  const title = make("p", { class: "title" }, story.title);
  const where = make("p", { class: "where" });
  const problem = make("p", { class: "problem", role: "alert", hidden: "" });
  const sliders = {
    layer: slider("layer", 0, layers.length - 1, go), head: slider("head", 0, most - 1, go),
    token: slider("token", 0, T - 1, go), seen: slider("seen", 0, T - 1, go),
  };
  for (const [name, text] of [["token", "token that looks"], ["seen", "looks at"]]) {
    sliders[name].row.firstChild.textContent = text;
    sliders[name].range.setAttribute("aria-label", text);
  }
  const button = make("button", { type: "button" });
  button.addEventListener("click", () => go("opened", !position().opened));
  const controls = make("div", { class: "controls" }, ...Object.values(sliders).map(({ row }) => row), button);

  // all maps
  const step = tile.cells * tile.unit + gap;
  const tiles = make("canvas", { class: "tiles", width: most * step - gap, height: layers.length * step - gap });
  const box = make("i", { class: "box" });
  const shareX = (x) => `${(100 * x) / tiles.width}%`, shareY = (y) => `${(100 * y) / tiles.height}%`, topOf = (l) => (layers.length - 1 - l) * step;
  const above = make("div", { class: "heads" }, ...Array.from({ length: most }, (_, h) => {
    const label = make("span", {}, `${h}`);
    label.style.left = shareX(h * step + (step - gap) / 2);
    return label;
  }));
  const beside = make("div", { class: "layers" }, ...layers.map((layer, l) => {
    const label = make("span", { class: layer.signed ? "" : "softmax" }, `${layer.index} ${shortKind(layer)}`);
    label.style.top = shareY(topOf(l) + (step - gap) / 2);
    return label;
  }));
  const grid = make("div", { class: "grid" }, make("span", { class: "corner" }, "head"), above, beside, make("div", { class: "picture" }, tiles, box));
  grid.style.setProperty("--natural", `${tiles.width}px`);

  // one map
  const canvas = make("canvas", { class: "map", width: sizes.cells * sizes.unit, height: sizes.cells * sizes.unit });
  const [rowBand, columnBand] = ["row", "column"].map((kind) => make("i", { class: `band ${kind}` }));
  const [across, down] = ["across", "down"].map((kind) => make("div", { class: `along ${kind}` }));
  const one = make("div", { class: "one" }, make("span", { class: "corner" }, "looked at →"), across, down, make("div", { class: "picture" }, canvas, rowBand, columnBand));
  one.style.setProperty("--natural", `${canvas.width}px`);
  const stage = make("div", { class: "stage", tabindex: 0, role: "img" }, grid, one);

  const cells = tokens.map(({ special }, t) => {
    const cell = make("span", { class: special ? "cell special" : "cell", "data-token": t }, make("span", { class: "text" }, texts[t]), make("i"));
    cell.addEventListener("click", () => go("token", t));
    return cell;
  });
  const ribbon = make("div", { class: "ribbon", "aria-hidden": "true" }, ...cells);   // the sliders say it all

  const said = make("p", { class: "said", "aria-live": "polite" });
  const pointed = make("p", { class: "pointed" });
  const scale = make("span", { class: "scale" }, make("output"), make("i"), make("output"));
  const help = make("p", { class: "help" }), notes = [];
  if (tile.block > 1) notes.push(`A pixel of a small map shows the strongest weight of ${tile.block} × ${tile.block} tokens.`);
  if (sizes.block > 1) notes.push(`A cell of an opened map shows the strongest weight of ${sizes.block} × ${sizes.block} tokens; the row of the token that looks is written out below, with every number.`);
  if (!story.begins) notes.push("What came before this text is left out: weights on earlier tokens, and what the memories held already.");
  if (!story.all_here) notes.push(`Maps are fetched from the kernel when they are first opened: ${Math.ceil(story.map_bytes / 1000).toLocaleString("en")} kB each.`);

  const root = make("section", { class: "minqwen-explorer minqwen-attention", "data-lm-suppress-shortcuts": "true", "aria-label": story.title },
    make("header", {}, title, where), controls, problem, stage, make("div", { class: "foot" }, pointed, scale), ribbon, said, help,
    ...notes.map((note) => make("p", { class: "help" }, note)));
  el.append(root);

  // ---- moving

  const NAMES = ["layer", "head", "token", "seen", "opened"];
  const { save, stop: stopSaving } = saver(model);
  const indexOf = (layer) => layers.findIndex(({ index }) => index === layer);
  const position = () => {
    const place = Object.fromEntries(NAMES.map((name) => [name, model.get(name)]));
    const l = Math.max(0, indexOf(place.layer));
    return { ...place, l, layer: layers[l].index, head: Math.min(place.head, layers[l].heads - 1) };
  };
  function go(name, to) {
    const place = position(), ends = { layer: layers.length, head: layers[place.l].heads, token: T, seen: T };
    if (name !== "opened") to = Math.min(ends[name] - 1, Math.max(0, to));
    if (name === "layer") model.set("head", Math.min(place.head, layers[to].heads - 1));
    model.set(name, name === "layer" ? layers[to].index : to);
    save();
  }
  const own = { ArrowUp: ["up", 1], ArrowDown: ["up", -1], ",": ["head", -1], ".": ["head", 1], Enter: ["open"], Escape: ["close"] };
  onKeys(root, own, (name, by) => {
    const place = position();
    if (name === "open") return go("opened", !place.opened);
    if (name === "close") return place.opened && go("opened", false);
    if (name === "up") [name, by] = place.opened ? ["token", -by] : ["layer", by];
    go(name, (name === "layer" ? place.l : place[name]) + by);
  });
  button.addEventListener("keydown", (event) => event.key === "Enter" && event.stopPropagation());   // it clicks by itself

  // ---- drawing

  const pages = pagesOf(model, (page, name) => (name.startsWith("map") ? openMap(page) : openTiles(page, layers[indexOf(Number(name.split(" ")[1]))])));
  const paletteOf = (layer, theme) => palettes[(layer.signed ? "signed" : "plain") + theme];
  const still = (place) => NAMES.every((name) => position()[name] === place[name]);
  const painted = {};                                      // which rows of the grid are painted, and for which theme
  let shown = null, ended = false;                         // what the canvases show
  async function draw() {
    const place = position(), theme = isDark() ? "dark" : "light";
    try {
      arrange(place, theme);
      root.classList.add("waiting");                       // seen only when it takes a while
      const map = place.opened ? await pages.get(`map ${place.layer} ${place.head}`) : null;
      if (!place.opened) await drawGrid(place, theme);
      if (!still(place) || ended) return;                  // moved on meanwhile
      if (map) paintMap(canvas, map, T, sizes, layers[place.l].signed, paletteOf(layers[place.l], theme));
      shown = { ...place, map, tiles: place.opened ? null : await pages.get(`layer ${place.layer}`) };
      describe(theme);
      root.classList.remove("waiting");
      root.dataset.drawn = [place.layer, place.head, place.token, place.seen, Number(place.opened), theme].join(" ");
    } catch (error) {
      complain(`${error.name}: ${error.message}`);
    }
  }

  // Layer by layer, so that a map which is opened meanwhile need not wait for all of them; nearest first.
  async function drawGrid(place, theme) {
    const order = [...layers.keys()].sort((a, b) => Math.abs(a - place.l) - Math.abs(b - place.l));
    for (const l of order) {
      if (painted[l] === theme) continue;
      const heads = await pages.get(`layer ${layers[l].index}`);
      if (position().opened || ended) return;
      paintLayer(tiles, heads, topOf(l), step, tile, paletteOf(layers[l], theme));
      painted[l] = theme;
      if (l === place.l && still(place)) {                 // say what is known while the others come
        shown = { ...place, map: null, tiles: heads };
        describe(theme);
      }
    }
  }

  function arrange(place, theme) {                         // what does not wait for data
    root.dataset.theme = theme;
    root.dataset.shows = place.opened ? "map" : "grid";
    stage.dataset.moves = place.opened ? "seen" : "head";
    sliders.token.range.disabled = sliders.seen.range.disabled = !place.opened;
    button.textContent = place.opened ? "back to all maps" : "open this map";
    help.innerHTML = place.opened
      ? "<kbd>↑</kbd> <kbd>↓</kbd> token that looks <kbd>←</kbd> <kbd>→</kbd> looked at <kbd>Home</kbd> <kbd>End</kbd> first, last " +
        "<kbd>,</kbd> <kbd>.</kbd> head <kbd>PgUp</kbd> <kbd>PgDn</kbd> layer <kbd>Esc</kbd> all maps"
      : "<kbd>←</kbd> <kbd>→</kbd> head <kbd>↑</kbd> <kbd>↓</kbd> layer <kbd>Home</kbd> <kbd>End</kbd> first, last head <kbd>Enter</kbd> open the map";
    const { layer, l, head, token, seen } = place;
    sliders.head.range.max = layers[l].heads - 1;
    Object.entries({ layer: l, head, token, seen }).forEach(([name, i]) => (sliders[name].range.value = i));
    sliders.layer.number.textContent = `${layer} ${shortKind(layers[l])}`;
    sliders.head.number.textContent = `${head}`;
    sliders.token.number.textContent = `${token + 1} of ${T}`;
    sliders.seen.number.textContent = `${seen + 1} of ${T}`;
    Object.assign(box.style, { left: shareX(head * step), top: shareY(topOf(l)), width: shareX(step - gap), height: shareY(step - gap) });
    where.textContent = `layer ${layer}, head ${head}: ${kindOf(layers[l])}`;
  }

  // ---- saying it

  const amount = (x, { signed: both }, digits = 4) => (both ? signed(x, digits) : x.toFixed(digits));
  const quote = (t) => make("b", {}, texts[t]);
  const label = (parts) => parts.map((part) => part.textContent ?? part).join("");

  function habit({ limit, itself, previous, first }, layer) {
    const shares = T < 3 ? "" : `${percent(itself)} ${layer.signed ? "of its weight, by size," : "of its weight"} on the token itself, ` +
      `${percent(previous)} on the one before, ${percent(first)} on the first; `;
    return `${shares}full colour at ${amount(limit, { signed: false }, 3)}`;
  }

  function sentence({ l, token, seen, map }) {
    const layer = layers[l];
    if (seen > token) return [quote(token), " cannot look at ", quote(seen), ", which comes later."];
    let best = 0, whole = 0;
    for (let j = 0; j <= token; j++) {
      whole += Math.abs(map.at(token, j));
      if (Math.abs(map.at(token, j)) > Math.abs(map.at(token, best))) best = j;
    }
    const share = layer.signed ? `, ${percent(Math.abs(map.at(token, seen)) / (whole || 1))} of its weights, by size` : "";
    return [quote(token), ` (token ${token + 1}) looks at `, quote(seen), ` (token ${seen + 1}) with ${amount(map.at(token, seen), layer, 6)}${share}; ` +
      "most at ", quote(best), ` (token ${best + 1}): ${amount(map.at(token, best), layer)}.`];
  }

  function describe(theme) {
    const { layer, l, head, token, seen, opened, map } = shown, limit = map?.limit ?? shown.tiles[head].limit;
    const parts = opened ? sentence(shown) : [`Layer ${layer}, head ${head}: ${habit(shown.tiles[head], layers[l])}.`], text = label(parts);
    if (said.textContent !== text) said.replaceChildren(...parts);
    const name = `layer ${layer} (${kindOf(layers[l])}), head ${head} of ${layers[l].heads}`;
    stage.setAttribute("aria-label", opened ? `The map of ${name}, ${T} by ${T} tokens. ${text}` : `All maps; ${name} is chosen. ${text}`);
    sliders.layer.range.setAttribute("aria-valuetext", `layer ${layer}, ${kindOf(layers[l])}. ${text}`);
    sliders.head.range.setAttribute("aria-valuetext", `head ${head} of ${layers[l].heads}. ${text}`);
    sliders.token.range.setAttribute("aria-valuetext", `token ${token + 1} of ${T}, ${texts[token]}. ${text}`);
    sliders.seen.range.setAttribute("aria-valuetext", `token ${seen + 1} of ${T}, ${texts[seen]}. ${text}`);

    const [low, bar, high] = scale.children;
    low.textContent = layers[l].signed ? `≤ ${amount(-limit, layers[l], 3)}` : "0";
    high.textContent = `≥ ${amount(limit, layers[l], 3)}`;
    const rgb = new Uint8Array(paletteOf(layers[l], theme).buffer), css = (shade) => `rgb(${rgb[4 * shade]} ${rgb[4 * shade + 1]} ${rgb[4 * shade + 2]})`;
    bar.style.background = `linear-gradient(90deg, ${[0, 1, 2, 3, 4, 5, 6, 7, 8].map((i) => css(layers[l].signed ? Math.max(1, Math.round(i * 31.875)) : Math.round(i * 31.875))).join(", ")})`;
    if (opened) {
      const part = (t) => (100 * Math.floor(t / sizes.block)) / sizes.cells, size = `${100 / sizes.cells}%`;
      Object.assign(rowBand.style, { top: `${part(token)}%`, height: size, width: `${part(token) + 100 / sizes.cells}%` });
      Object.assign(columnBand.style, { left: `${part(seen)}%`, width: size, top: `${part(seen)}%` });
      writeAlong(across, texts, seen);
      writeAlong(down, texts, token);
      const shade = layers[l].signed ? shadeOf : shadeFromZero;
      cells.forEach((cell, t) => {
        cell.classList.toggle("here", t === token);
        cell.classList.toggle("seen", t === seen);
        cell.classList.toggle("later", t > token);
        cell.lastChild.style.background = t > token ? "none" : css(shade(map.at(token, t), limit));
        cell.title = t > token ? "" : amount(map.at(token, t), layers[l], 6);
        cell.dataset.weight = t > token ? "" : map.at(token, t);
      });
      const { offsetTop, offsetHeight } = cells[token];    // keep it in sight, without moving the page
      ribbon.scrollTop = Math.max(offsetTop + offsetHeight + 3 - ribbon.clientHeight, Math.min(ribbon.scrollTop, offsetTop - 3));
    }
    if (pointer) pointer(); else pointed.textContent = HINT[root.dataset.shows];
  }

  // ---- pointing and clicking

  const pixelOf = (event, canvas) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * canvas.width, ((event.clientY - box.top) / box.height) * canvas.height];
  };
  function tileAt(event) {
    const [x, y] = pixelOf(event, tiles), head = Math.floor(x / step), l = layers.length - 1 - Math.floor(y / step);
    return layers[l] && head >= 0 && head < layers[l].heads ? { l, head } : null;
  }
  function cellAt(event) {                                 // a block's strongest cell is what it shows
    const [seen, token] = pixelOf(event, canvas).map((x) => Math.min(T - 1, Math.max(0, Math.floor((x * T) / canvas.width))));
    return { token, seen };
  }
  let pointer = null;
  const pointAt = (read) => (event) => {
    pointer = () => read(event);
    pointer();
  };
  tiles.addEventListener("pointermove", pointAt(async (event) => {
    const found = tileAt(event);
    if (!found || !painted[found.l]) return void (pointed.textContent = HINT.grid);
    const heads = await pages.get(`layer ${layers[found.l].index}`);
    if (pointer) pointed.replaceChildren(`layer ${layers[found.l].index}, head ${found.head}: `, make("b", {}, habit(heads[found.head], layers[found.l])));
  }));
  canvas.addEventListener("pointermove", pointAt((event) => {
    const { token, seen } = cellAt(event);
    if (!shown?.map || seen > token) return void (pointed.textContent = HINT.map);
    const number = amount(shown.map.at(token, seen), layers[shown.l], 6);
    pointed.replaceChildren(`${texts[token]} (token ${token + 1}) looks at ${texts[seen]} (token ${seen + 1})  `, make("b", {}, number));
  }));
  for (const place of [tiles, canvas]) place.addEventListener("pointerleave", () => { pointer = null; pointed.textContent = HINT[root.dataset.shows]; });
  tiles.addEventListener("click", (event) => {
    const found = tileAt(event);
    if (!found) return;
    go("layer", found.l);
    go("head", found.head);
    go("opened", true);
    pointer = null;
    stage.focus();
  });
  canvas.addEventListener("click", (event) => {
    const { token, seen } = cellAt(event);
    go("token", token);
    go("seen", seen);
    stage.focus();
  });

  function complain(text) {
    problem.textContent = text;
    problem.hidden = !text;
    root.classList.remove("waiting");
  }

  const resized = new ResizeObserver(() => shown?.opened && (writeAlong(across, texts, shown.seen), writeAlong(down, texts, shown.token)));
  resized.observe(canvas);
  const stopFollowing = follow(model, NAMES, draw, complain);
  return () => {
    ended = true;
    [stopFollowing, pages.stop, stopSaving, () => resized.disconnect()].forEach((stop) => stop());
  };
}

export default { render };
