// The vision explorer, in the browser; explorer.js comes before it.
//
// From the kernel (or from the page of `to_html`) come `story`, JSON, and `pages`: one for each view, a picture or a group of a
// clip's frames, its pixels; and one for each token, its weights in all layers and heads, float32. See minqwen/widgets/vision.py,
// which draws the same pixels in Python: by whole numbers, and by sums in double precision in the same order.

// ------------------------------------------------------------------------------------------------------------- weights

function openWeights(page, story) {                        // for each layer Float32Array, heads by T
  const all = new Float32Array(bytesOf(page).slice().buffer);
  let start = 0;
  return story.layers.map(({ heads }) => all.subarray(start, (start += heads * story.tokens.length)));
}

function chosen(weights, heads, head, signs) {             // see `chosen` in vision.py
  const T = weights.length / heads, sized = (x) => (signs ? x : Math.abs(x));
  if (head >= 0) return Float64Array.from(weights.subarray(head * T, (head + 1) * T), sized);
  const mean = new Float64Array(T);
  for (let h = 0; h < heads; h++) for (let t = 0; t < T; t++) mean[t] += sized(weights[h * T + t]);
  return mean.map((x) => x / heads);
}

const largest = (numbers, places) => places.reduce((most, i) => Math.max(most, Math.abs(numbers[i])), 0);
const strongest = (numbers, places) => places.reduce((best, i) => (Math.abs(numbers[i]) > Math.abs(numbers[best]) ? i : best), places[0]);

// ------------------------------------------------------------------------------------------------------------ pictures

const luma = (r, g, b) => (77 * r + 150 * g + 29 * b) >> 8;
const INKS = [[227, 230, 234], [36, 41, 47]];

function lines(length, { patch, merge, zoom }) {           // 2 between tokens, 1 between patches, 0 elsewhere
  const fine = patch * zoom, token = fine * merge;
  return Array.from({ length }, (_, x) =>
    x % token === 0 || (token >= 24 && (x + 1) % token === 0) ? 2 : fine >= 8 && x % fine === 0 ? 1 : 0);
}

// The weights' colours over a pale grey picture, the mean of the frames: (h, w, 3) bytes.
function veiled(frames, story, view, weights, limit, rgb) {
  const pixels = view.height * view.width, F = view.frames, side = view.patch * view.merge, out = new Uint8Array(3 * pixels);
  const mean = [0, 0, 0];
  for (let i = 0; i < pixels; i++) {
    for (let c = 0; c < 3; c++) {
      let sum = Math.floor(F / 2);
      for (let f = 0; f < F; f++) sum += frames[3 * (f * pixels + i) + c];
      mean[c] = Math.floor(sum / F);
    }
    const row = Math.floor(i / view.width / side), column = Math.floor((i % view.width) / side);
    const grey = luma(...mean), shade = 4 * shadeOf(weights[row * view.columns + column], limit);
    for (let c = 0; c < 3; c++) out[3 * i + c] = (story.veil * rgb[shade + c] + (256 - story.veil) * grey) >> 8;
  }
  return out;
}

// The picture with its grids, frame by frame, and beside it, over a pale grey one, the weights: see `frame` in vision.py.
function paint(canvas, story, view, frames, weights, limit, mark, palette, dark) {
  const [height, width, step] = story.size, image = new ImageData(width, height), data = image.data;
  const { zoom, columns, height: h, width: w, frames: F } = view, unit = view.patch * view.merge * zoom;
  const [down, across] = [lines(h * zoom, view), lines(w * zoom, view)];
  const over = veiled(frames, story, view, weights, limit, new Uint8Array(palette.buffer));
  for (let i = 0; i <= F; i++) {
    const source = i < F ? frames.subarray(3 * i * h * w, 3 * (i + 1) * h * w) : over;
    const soft = i < F ? [256, 200, 96] : [256, 256, 208];
    for (let y = 0; y < h * zoom; y++)
      for (let x = 0; x < w * zoom; x++) {
        const from = 3 * (Math.floor(y / zoom) * w + Math.floor(x / zoom)), to = 4 * (y * width + i * step + x);
        const pale = soft[Math.max(down[y], across[x])], bright = luma(source[from], source[from + 1], source[from + 2]) >= 128;
        for (let c = 0; c < 3; c++)
          data[to + c] = bright ? (source[from + c] * pale) >> 8 : 255 - (((255 - source[from + c]) * pale) >> 8);
        data[to + 3] = 255;
      }
    if (mark === null) continue;
    const ring = unit >= 24 ? 2 : 1, inwards = (x) => Math.min(x, unit - 1 - x), [ink, paper] = dark ? INKS : [INKS[1], INKS[0]];
    const [top, left] = [Math.floor(mark / columns) * unit, (mark % columns) * unit];
    for (let y = 0; y < unit; y++)
      for (let x = 0; x < unit; x++) {
        const edge = Math.min(inwards(y), inwards(x));
        if (edge <= ring) data.set(edge < ring ? ink : paper, 4 * ((top + y) * width + i * step + left + x));
      }
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// Every layer and head at once, the first layer at the bottom: see `overview` in vision.py.
function paintOverview(canvas, story, view, maps, limits, palette) {
  const image = new ImageData(canvas.width, canvas.height), pixels = new Uint32Array(image.data.buffer), { rows, columns, unit } = view;
  maps.forEach((heads, layer) => heads.forEach((numbers, head) => {
    const top = (maps.length - 1 - layer) * (story.tile[0] + story.gap), left = head * (story.tile[1] + story.gap);
    for (let y = 0; y < rows * unit; y++)
      for (let x = 0; x < columns * unit; x++) {
        const number = numbers[Math.floor(y / unit) * columns + Math.floor(x / unit)];
        pixels[(top + y) * canvas.width + left + x] = palette[shadeOf(number, limits[layer])];
      }
  }));
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// ------------------------------------------------------------------------------------------------------------ the page

const HINT = "Point at a picture or a tile for its numbers; click to go there.";
const KINDS = { attention: "attention", delta: "delta rule" };

function render({ model, el }) {
  const story = model.get("story");
  const { tokens, stops, layers, views, size, tile, gap } = story, T = tokens.length;
  const palettes = { light: openPalette(story.palettes.light), dark: openPalette(story.palettes.dark) };
  const seen = tokens.flatMap(({ view }, i) => (view >= 0 ? [i] : []));               // what is a piece of a picture
  const isSeen = (token) => tokens[token].view >= 0;
  const later = (token) => tokens.flatMap((_, i) => (i > token ? [i] : []));
  const aims = (token) => (isSeen(token) ? later(token) : seen);                      // what the scale is for
  const texts = (places) => places.filter((i) => !isSeen(i));
  const most = Math.max(...layers.map(({ heads }) => heads)) + 1;
  const clips = views.some(({ kind }) => kind === "clip"), stills = views.some(({ kind }) => kind === "picture");

  const nameOf = ({ kind, number, group }, whole = false) => {
    const several = new Set(views.filter((v) => v.kind === kind).map((v) => v.number)).size > 1;
    const name = several ? `${kind} ${number + 1}` : `the ${kind}`;
    return kind === "clip" && !whole ? `${name}, frames ${2 * group} and ${2 * group + 1}` : name;
  };
  const headName = (head) => (head < 0 ? "mean of its heads" : `head ${head}`);
  const layerName = (layer) => `layer ${layer} (${KINDS[layers[layer].kind]})`;
  const placeIn = (view, at) => `row ${Math.floor(at / view.columns)}, column ${at % view.columns}`;

  // ---- what is on the page

  const title = make("p", { class: "title" }, story.title);
  const where = make("p", { class: "where" });
  const problem = make("p", { class: "problem", role: "alert", hidden: "" });

  const sliders = {
    token: slider("token", 0, stops.length - 1, go), layer: slider("layer", 0, layers.length - 1, go),
    head: slider("head", -1, most - 2, go), view: slider("view", 0, views.length - 1, go),
  };
  sliders.view.row.firstChild.textContent = !clips ? "picture" : stills ? "picture, frames" : "frames";
  sliders.view.row.hidden = views.length === 1;
  const signs = make("input", { type: "checkbox" });
  signs.addEventListener("change", () => go("signs", signs.checked));
  const controls = make("div", { class: "controls" }, ...Object.values(sliders).map(({ row }) => row),
    make("label", { class: "signs", title: "Effective attention may be negative: something is subtracted." }, signs, make("span", {}, "show signs")));

  const cells = tokens.map(({ text, special, view, at }, t) => {
    const cell = make("span", { class: view >= 0 ? "piece" : special ? "cell special" : "cell", "data-token": t },
      ...(view >= 0 ? [] : [make("span", { class: "text" }, readable(text)), make("i")]));
    cell.classList.toggle("absent", !stops.includes(t));
    cell.addEventListener("click", () => choose(t));
    return cell;
  });
  const ribbon = make("div", { class: "ribbon", "aria-hidden": "true" }, ...cells);   // the slider says it all

  const canvas = make("canvas", { class: "pictures", width: size[1], height: size[0] });
  const captions = make("div", { class: "captions" });
  const numbers = make("div", { class: "numbers", "aria-hidden": "true" });
  const stage = make("div", { class: "stage", tabindex: 0, role: "img" }, captions,
    make("div", { class: "picture" }, canvas, numbers));
  stage.style.maxWidth = `${size[1]}px`;

  const tiles = make("canvas", { class: "tiles", width: most * (tile[1] + gap) - gap, height: layers.length * (tile[0] + gap) - gap });
  const box = make("i", { class: "box" });
  const shareX = (head) => (100 * (head + 1) * (tile[1] + gap)) / tiles.width, shareY = (layer) => (100 * (layers.length - 1 - layer) * (tile[0] + gap)) / tiles.height;
  const [tileX, tileY] = [(100 * tile[1]) / tiles.width, (100 * tile[0]) / tiles.height];
  const above = make("div", { class: "above" }, ...Array.from({ length: most }, (_, i) => {
    const label = make("span", {}, i ? `${i - 1}` : "mean");
    label.style.left = `${shareX(i - 1) + tileX / 2}%`;
    return label;
  }));
  const beside = make("div", { class: "beside" }, ...layers.map(({ kind }, i) => {
    const label = make("span", { class: kind }, `${i} ${KINDS[kind]}`);
    label.style.top = `${shareY(i) + tileY / 2}%`;
    return label;
  }));
  const all = make("figure", { class: "all" }, make("figcaption", {}), make("div", { class: "table", "aria-hidden": "true" },
    make("span"), above, beside, make("div", { class: "picture" }, tiles, box)));
  all.style.setProperty("--natural", `${tiles.width}px`);

  const said = make("p", { class: "said" });
  const pointed = make("p", { class: "pointed" });
  const scale = make("span", { class: "scale" }, make("output"), make("i"), make("output"));
  const help = make("p", { class: "help" });
  help.innerHTML = "<kbd>←</kbd> <kbd>→</kbd> token <kbd>Home</kbd> <kbd>End</kbd> first, last <kbd>↑</kbd> <kbd>↓</kbd> head " +
    "<kbd>PgUp</kbd> <kbd>PgDn</kbd> layer" + (views.length > 1 ? ` <kbd>,</kbd> <kbd>.</kbd> ${clips ? "frames" : "picture"}` : "") +
    " <kbd>s</kbd> signs <kbd>Esc</kbd> back to the text";
  if (stops.length < T) help.append(make("span", { class: "lazy" }, `This page holds the weights of ${stops.length} of the ${T} tokens.`));
  if (!story.all_here) help.append(make("span", { class: "lazy" }, `Only what is looked at is fetched from the kernel: ` +
    `${Math.ceil(story.token_bytes / 1000).toLocaleString("en")} kB when a token is first chosen.`));

  const [legend, foot] = [make("div", { class: "foot" }, make("span"), scale), make("div", { class: "foot" }, pointed)];
  legend.style.maxWidth = stage.style.maxWidth;
  const root = make("section", { class: "minqwen-explorer minqwen-vision", "data-lm-suppress-shortcuts": "true", "aria-label": story.title },
    make("header", {}, title, where), controls, problem, ribbon,
    make("div", { class: "side-by-side" }, make("div", { class: "left" }, stage, legend, said, foot), all), help);
  el.append(root);

  // ---- moving

  const NAMES = ["token", "layer", "head", "view", "signs"];
  const { save, stop: stopSaving } = saver(model);
  const position = () => {
    const place = Object.fromEntries(NAMES.map((name) => [name, model.get(name)]));
    return { ...place, head: Math.min(place.head, layers[place.layer].heads - 1) };
  };
  let reader = null;                                       // the token of the text that was chosen last
  function go(name, to) {
    const ends = { token: [0, stops.length - 1], layer: [0, layers.length - 1], head: [-1, layers[position().layer].heads - 1],
                   view: [0, views.length - 1], signs: [false, true] }[name];
    if (name !== "signs") to = Math.min(ends[1], Math.max(ends[0], to));
    if (name === "layer") model.set("head", Math.min(model.get("head"), layers[to].heads - 1));
    if (name === "token" && isSeen(stops[to])) model.set("view", tokens[stops[to]].view);
    model.set(name, name === "token" ? stops[to] : to);
    save();
  }
  function choose(token) {                                 // by a click; once more on a piece of a picture leads back
    if (token === model.get("token") && isSeen(token)) return back();
    if (stops.includes(token)) go("token", stops.indexOf(token));
  }
  const back = () => choose(reader ?? texts(stops).at(-1) ?? stops.at(-1));
  onKeys(root, { ",": ["view", -1], ".": ["view", 1], s: ["signs"], S: ["signs"], Escape: ["back"] }, (name, by) => {
    if (name === "back") return isSeen(model.get("token")) && back();
    if (name === "signs") return go("signs", !model.get("signs"));
    go(name, (name === "token" ? stops.indexOf(model.get("token")) : position()[name]) + by);
  });

  // ---- drawing

  const pages = pagesOf(model, (page, name) => (name.startsWith("view") ? bytesOf(page) : openWeights(page, story)));
  let shown = null;                                        // what the canvases show
  async function draw() {
    const place = position(), { token, layer, head, view } = place;
    try {
      root.classList.add("waiting");                       // seen only when it takes a while
      const [all, frames] = await Promise.all([pages.get(`token ${token}`), pages.get(`view ${view}`)]);
      const now = position();
      if (NAMES.some((name) => now[name] !== place[name])) return;                    // moved on meanwhile
      const theme = isDark() ? "dark" : "light", palette = palettes[theme], at = tokens[token];
      root.dataset.theme = theme;
      const weights = chosen(all[layer], layers[layer].heads, head, place.signs), limit = largest(weights, aims(token)) || 1;
      const map = views[view].tokens.map((i) => weights[i]);
      paint(canvas, story, views[view], frames, map, limit, at.view === view ? at.at : null, palette, theme === "dark");
      drawOverview(all, place, palette);
      shown = { ...place, weights, limit, map, all };
      describe(palette);
      root.classList.remove("waiting");
      root.dataset.drawn = [token, layer, head, view, Number(place.signs), theme].join(" ");
    } catch (error) {
      complain(`${error.name}: ${error.message}`);
    }
  }

  function drawOverview(all, { token, view, signs }, palette) {
    const readers = texts(later(token)), goals = isSeen(token) ? readers : seen, limits = { attention: 0, delta: 0 };
    const maps = layers.map(({ kind, heads }, layer) => {
      for (let h = 0; h < heads; h++) limits[kind] = Math.max(limits[kind], largest(all[layer].subarray(h * T, (h + 1) * T), goals));
      return Array.from({ length: heads + 1 }, (_, i) => {
        const weights = chosen(all[layer], heads, i - 1, signs);
        const top = isSeen(token) && readers.length ? weights[strongest(weights, readers)] : 0;
        return views[view].tokens.map((i) => (isSeen(token) ? top : weights[i]));
      });
    });
    paintOverview(tiles, story, views[view], maps, layers.map(({ kind }) => limits[kind] || 1), palette);
  }

  // ---- saying it

  const short = (x) => (Math.abs(x) >= 0.1 || x === 0 ? Math.abs(x).toFixed(2) : Math.abs(x).toPrecision(2));
  const amount = (x, negative = isSigned()) => (negative ? (x < 0 ? "−" : "+") : "") + short(x);
  const isSigned = () => shown.signs && layers[shown.layer].kind === "delta";
  const quote = (i) => make("b", {}, readable(tokens[i].text));
  const piece = (i) => `token ${tokens[i].at} of ${nameOf(views[tokens[i].view])} (${placeIn(views[tokens[i].view], tokens[i].at)})`;

  function sentence({ token, layer, head, view, weights }) {
    const who = `In ${layerName(layer)}, ${headName(head)}, `;
    const sum = (places) => places.reduce((all, i) => all + Math.abs(weights[i]), 0);
    if (isSeen(token)) {
      const readers = texts(later(token)).sort((a, b) => Math.abs(weights[b]) - Math.abs(weights[a])).slice(0, 3);
      if (!readers.length) return [`${who}${piece(token)}: no text comes after it.`];
      const named = readers.flatMap((i, n) => [n ? ", then by " : "", quote(i), ` (${amount(weights[i])})`]);
      return [`${who}${piece(token)} is looked at most by `, ...named, "."];
    }
    const earlier = seen.filter((i) => i <= token);
    if (!earlier.length) return [quote(token), " comes before every picture: it cannot look at one."];
    const whole = sum(tokens.map((_, i) => i)) || 1, best = strongest(weights, earlier);
    const here = views.length > 1 ? ` (${percent(sum(views[view].tokens) / whole)} on what is shown)` : "";
    const what = layers[layer].kind === "attention" ? "of its weight" : "of its effective attention, by size,";
    return [who, quote(token), ` puts ${percent(sum(earlier) / whole)} ${what} on ${clips && stills || views.length > 1 && !clips ? "pictures" : clips ? "the clip" : "the picture"}${here}; ` +
      `most on ${piece(best)}: ${amount(weights[best])}.`];
  }

  const label = (parts) => parts.map((part) => part.textContent ?? part).join("");

  function describe(palette) {
    const { token, layer, head, view, weights, limit } = shown, here = views[view], kind = layers[layer].kind;
    if (!isSeen(token)) reader = token;

    let before = "", last = -1;
    for (const { text, view } of tokens.slice(0, token + 1)) {                        // a picture is one sign in the story
      if (view < 0 || view !== last) before += view < 0 ? text : "▦";
      last = view;
    }
    before = before.replace(/\s+/g, " ");
    where.replaceChildren(isSeen(token) ? "who looks at " : "after “",
      isSeen(token) ? piece(token) : make("q", {}, before.length > 60 ? before.slice(-60).replace(/^\S*(?=\s)|^/, "…") : before), isSeen(token) ? "" : "”");

    const places = { token: stops.indexOf(token), layer, head, view };
    sliders.head.range.max = layers[layer].heads - 1;
    Object.entries(places).forEach(([name, i]) => (sliders[name].range.value = i));
    sliders.token.number.textContent = `${token + 1} of ${T}`;
    sliders.layer.number.textContent = `${layer} ${KINDS[kind]}`;
    sliders.head.number.textContent = head < 0 ? "mean" : `${head}`;
    sliders.view.number.textContent = `${view + 1} of ${views.length}`;
    signs.checked = shown.signs;
    signs.disabled = kind === "attention";

    const parts = sentence(shown), text = label(parts);
    said.replaceChildren(...parts);
    sliders.token.range.setAttribute("aria-valuetext", `token ${token + 1} of ${T}, ${isSeen(token) ? piece(token) : readable(tokens[token].text)}. ${text}`);
    sliders.layer.range.setAttribute("aria-valuetext", `${layerName(layer)} of ${layers.length}. ${text}`);
    sliders.head.range.setAttribute("aria-valuetext", `${headName(head)}, of ${layers[layer].heads}. ${text}`);
    sliders.view.range.setAttribute("aria-valuetext", `${nameOf(here)}, ${view + 1} of ${views.length}. ${text}`);
    stage.setAttribute("aria-label", `${nameOf(here)}, ${here.rows} by ${here.columns} tokens. ${text}`);

    const titles = [...Array.from({ length: here.frames }, (_, f) => (
      here.kind === "clip" ? `frame ${here.frames * here.group + f}` : f ? "the same once more" : "what the model gets")),
      isSeen(token) ? `who looks at token ${tokens[token].at}` : `where “${readable(tokens[token].text)}” looks`];
    const [height, width, step] = size, high = here.height * here.zoom, wide = here.width * here.zoom;
    captions.replaceChildren(...titles.map((title, i) => {
      const caption = make("span", { title }, title);
      caption.style.left = `${(100 * i * step) / width}%`;
      caption.style.width = `${(100 * wide) / width}%`;
      return caption;
    }));

    const side = here.patch * here.merge * here.zoom, every = here.columns <= 12 ? 1 : here.columns;
    numbers.replaceChildren(...here.tokens.flatMap((_, at) => at % every ? [] : [at]).map((at) => {
      const number = make("span", {}, `${at}`);
      number.style.left = `${(100 * (at % here.columns) * side) / width}%`;
      number.style.top = `${(100 * Math.floor(at / here.columns) * side) / height}%`;
      return number;
    }));

    const rgb = new Uint8Array(palette.buffer), colour = (x) => {
      const shade = 4 * shadeOf(x, limit);
      return `rgb(${rgb[shade]} ${rgb[shade + 1]} ${rgb[shade + 2]})`;
    };
    cells.forEach((cell, t) => {
      cell.classList.toggle("here", t === token);
      cell.classList.toggle("off", isSeen(token) ? t < token : t > token);
      cell.classList.toggle("open", tokens[t].view === view);
      (isSeen(t) ? cell : cell.lastChild).style.background = colour(weights[t]);
      cell.title = (isSeen(t) ? `${piece(t)}: ` : "") + amount(weights[t]);
      cell.dataset.weight = weights[t].toFixed(6);
    });
    const { offsetTop, offsetHeight } = cells[token];      // keep it in sight, without moving the page
    ribbon.scrollTop = Math.max(offsetTop + offsetHeight + 3 - ribbon.clientHeight, Math.min(ribbon.scrollTop, offsetTop - 3));

    all.firstChild.textContent = isSeen(token) ? "every head: its strongest look from the text" : "every head: where it looks";
    Object.assign(box.style, { left: `${shareX(head)}%`, top: `${shareY(layer)}%`, width: `${tileX}%`, height: `${tileY}%` });
    const [low, , high2] = scale.children;
    scale.classList.toggle("half", !isSigned());
    low.textContent = isSigned() ? amount(-limit) : "0";
    high2.textContent = amount(limit);
    if (pointer) pointer(); else pointed.textContent = HINT;
  }

  // ---- pointing and clicking

  const pixelOf = (event, canvas) => {
    const box = canvas.getBoundingClientRect();
    return [Math.floor(((event.clientX - box.left) / box.width) * canvas.width), Math.floor(((event.clientY - box.top) / box.height) * canvas.height)];
  };
  function pieceAt(event) {                                // which token and patch of what is shown
    const view = views[shown.view], [x, y] = pixelOf(event, canvas), patch = view.patch * view.zoom;
    const panel = Math.floor(x / size[2]), column = Math.floor((x - panel * size[2]) / patch), row = Math.floor(y / patch);
    const [rows, columns] = [view.rows * view.merge, view.columns * view.merge];
    if (row < 0 || row >= rows || column < 0 || column >= columns || panel > view.frames) return null;
    const m = view.merge, at = Math.floor(row / m) * view.columns + Math.floor(column / m);
    return { at, token: view.tokens[at], row, column, patch: (view.group * view.rows * view.columns + at) * m * m + (row % m) * m + (column % m) };
  }
  function tileAt(event) {
    const [x, y] = pixelOf(event, tiles), head = Math.floor(x / (tile[1] + gap)) - 1, layer = layers.length - 1 - Math.floor(y / (tile[0] + gap));
    return layers[layer] && head >= -1 && head < layers[layer].heads ? { layer, head } : null;
  }

  let pointer = null;                                      // says again what is pointed at, when the numbers have changed
  const say = (number, ...text) => pointed.replaceChildren(...text, make("b", {}, amount(number)));
  const point = (read) => (event) => {
    pointer = () => { if (!shown || !read(event)) pointed.textContent = HINT; };
    pointer();
  };
  canvas.addEventListener("pointermove", point((event) => {
    const found = pieceAt(event);
    if (found) say(shown.weights[found.token], `patch ${found.patch} [row ${found.row}, column ${found.column}], in ${piece(found.token)}  `);
    return found;
  }));
  tiles.addEventListener("pointermove", point((event) => {
    const found = tileAt(event);
    if (!found) return null;
    const { layer, head } = found, weights = chosen(shown.all[layer], layers[layer].heads, head, shown.signs);
    const goals = isSeen(shown.token) ? texts(later(shown.token)) : views[shown.view].tokens;
    if (goals.length) pointed.replaceChildren(`${layerName(layer)}, ${headName(head)}: strongest here `, make("b", {}, amount(weights[strongest(weights, goals)], shown.signs && layers[layer].kind === "delta")));
    return goals.length;
  }));
  for (const place of [canvas, tiles]) place.addEventListener("pointerleave", () => { pointer = null; pointed.textContent = HINT; });
  canvas.addEventListener("click", (event) => {
    const found = shown && pieceAt(event);
    if (found) choose(found.token);
  });
  tiles.addEventListener("click", (event) => {
    const found = shown && tileAt(event);
    if (!found) return;
    go("layer", found.layer);
    go("head", found.head);
  });

  function complain(text) {
    problem.textContent = text;
    problem.hidden = !text;
    root.classList.remove("waiting");
  }

  const stopFollowing = follow(model, NAMES, draw, complain);
  return () => [stopFollowing, pages.stop, stopSaving].forEach((stop) => stop());
}

export default { render };
