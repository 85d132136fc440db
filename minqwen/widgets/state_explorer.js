// The state explorer, in the browser; explorer.js comes before it.
//
// From the kernel (or from the page of `to_html`) come `story`, JSON, and `pages`, one for each layer, float32:
// keys, values, alphas, betas, limits of the colours, and the initial state. See minqwen/widgets/state.py, which draws the same
// pixels in Python. All counting is in double precision, and every sum and product in the order in which Python does it.

// ---------------------------------------------------------------------------------------------------------- the memory

function openPage(page, story) {
  const all = new Float32Array(bytesOf(page).slice().buffer);
  const { key_heads: Hk, value_heads: Hv, key_dim: Dk, value_dim: Dv } = story;
  const T = story.tokens.length;
  let start = 0;
  const take = (count) => all.subarray(start, (start += count));
  return { k: take(T * Hk * Dk), v: take(T * Hv * Dv), alpha: take(T * Hv), beta: take(T * Hv), limits: take(3 * Hv),
           initial: take(story.begins_empty ? 0 : Hv * Dk * Dv) };
}

class Memory {
  // One head's memory, followed through all tokens.
  constructor(page, story, head) {
    const { key_heads: Hk, value_heads: Hv, key_dim: Dk, value_dim: Dv } = story;
    Object.assign(this, { page, Hk, Hv, Dk, Dv, head, T: story.tokens.length });
    this.keyHead = Math.floor(head / (Hv / Hk));            // value heads share key heads in blocks
    const [memory, key, value] = page.limits.subarray(3 * head, 3 * head + 3);
    this.limits = { memory, key, value };
    const initial = new Float64Array(Dk * Dv);
    if (page.initial.length) initial.set(page.initial.subarray(head * Dk * Dv, (head + 1) * Dk * Dv));
    // The state before every `stride`-th token is kept: all of them, unless that were more than 64 MB.
    this.stride = Math.max(1, Math.ceil((this.T * Dk * Dv * 8) / 64e6));
    this.kept = [initial];
    let state = initial;
    for (let t = 0; t < this.T - 1; t++) {
      state = this.step(state, t).memory;
      if ((t + 1) % this.stride === 0) this.kept.push(state);
    }
  }

  key(t) { return this.page.k.subarray((t * this.Hk + this.keyHead) * this.Dk).subarray(0, this.Dk); }
  value(t) { return this.page.v.subarray((t * this.Hv + this.head) * this.Dv).subarray(0, this.Dv); }
  alpha(t) { return this.page.alpha[t * this.Hv + this.head]; }
  beta(t) { return this.page.beta[t * this.Hv + this.head]; }

  ask(state, k) {                                          // S^T k
    const answer = new Float64Array(this.Dv);
    for (let i = 0; i < this.Dk; i++)
      for (let j = 0; j < this.Dv; j++) answer[j] += k[i] * state[i * this.Dv + j];
    return answer;
  }

  step(state, t) {
    const { Dk, Dv } = this, [key, value, alpha, beta] = [this.key(t), this.value(t), this.alpha(t), this.beta(t)];
    const decayed = state.map((x) => alpha * x);
    const answer = this.ask(decayed, key);
    const error = answer.map((x, j) => value[j] - x);
    const [erased, written, memory] = [0, 0, 0].map(() => new Float64Array(Dk * Dv));
    for (let i = 0; i < Dk; i++)
      for (let j = 0; j < Dv; j++) {
        const at = i * Dv + j;
        erased[at] = key[i] * (beta * answer[j]);
        written[at] = key[i] * (beta * value[j]);
        memory[at] = decayed[at] - erased[at] + written[at];
      }
    return { memory, decayed, erased, written, key, answer, error, value };
  }

  at(t) {
    const from = Math.floor(t / this.stride);
    let state = this.kept[from];
    for (let i = from * this.stride; i < t; i++) state = this.step(state, i).memory;
    const parts = this.step(state, t);
    parts.now = this.ask(parts.memory, parts.key);
    return parts;
  }

  recall(state, t) {                                       // for every key so far: does it bring back its value?
    return Array.from({ length: t + 1 }, (_, j) => cosine(this.ask(state, this.key(j)), this.value(j)));
  }
}

const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
const length = (a) => Math.sqrt(dot(a, a));
const cosine = (a, b) => dot(a, b) / Math.max(length(a) * length(b), 1e-12);

// --------------------------------------------------------------------------------------------------------- the picture

function layout(Dk, Dv) {                                  // see `layout` in state.py
  const unit = Math.max(1, Math.floor((Dk + 8) / 16));
  const x = [0, 1, 2, 3].map((i) => i * (Dv + 6 * unit));
  const places = ["memory", "decayed", "erased", "written"].map((name, i) => ({ name, scale: "memory", x: x[i], y: 0, w: Dv, h: Dk }));
  for (const i of [2, 3]) places.push({ name: "key", scale: "key", x: x[i] - 2 * unit, y: 0, w: unit, h: Dk });
  ["now", "error", "answer", "value"].forEach((name, i) =>
    places.push({ name, scale: "value", x: x[i], y: Dk + unit, w: Dv, h: 2 * unit }));
  return { unit, x, places, width: x[3] + Dv, height: Dk + 3 * unit };
}

// Which number stands at a pixel of a place: along a column, along a row, or in a matrix.
const entry = ({ scale }, x, y, Dv) => (scale === "key" ? y : scale === "value" ? x : y * Dv + x);

function paint(canvas, plan, parts, limits, palette, Dv) {
  const image = new ImageData(plan.width, plan.height), pixels = new Uint32Array(image.data.buffer);
  for (const place of plan.places) {
    const numbers = parts[place.name], limit = limits[place.scale];
    for (let y = 0; y < place.h; y++)
      for (let x = 0; x < place.w; x++) {
        const shade = shadeOf(numbers[entry(place, x, y, Dv)], limit);
        pixels[(place.y + y) * plan.width + place.x + x] = palette[shade];
      }
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// ------------------------------------------------------------------------------------------------------------ the page

const NAMES = {
  memory: "memory now", decayed: "faded", erased: "erased", written: "written", key: "key",
  now: "its answer now", error: "error before", answer: "its answer before", value: "value",
};

const HINT = "Point at a cell for its number.";

function render({ model, el }) {
  const story = model.get("story");
  const { tokens, layers, value_heads: Hv, key_dim: Dk, value_dim: Dv } = story;
  const T = tokens.length, plan = layout(Dk, Dv);
  const palettes = { light: openPalette(story.palettes.light), dark: openPalette(story.palettes.dark) };

  // ---- what is on the page

  const title = make("p", { class: "title" }, story.title);
  const where = make("p", { class: "where" });
  const problem = make("p", { class: "problem", role: "alert", hidden: "" });

  const sliders = { token: slider("token", 0, T - 1, go), layer: slider("layer", 0, layers.length - 1, go), head: slider("head", 0, Hv - 1, go) };
  const controls = make("div", { class: "controls" }, ...Object.values(sliders).map((s) => s.row));

  const bar = (kind) => make("i", { class: kind }, make("b"));
  const cells = tokens.map(({ text, special }, t) => {
    const cell = make("span", { class: special ? "cell special" : "cell", "data-token": t },
      make("span", { class: "text" }, readable(text)), bar("alpha"), bar("beta"), bar("recall"));
    cell.addEventListener("click", () => go("token", t));
    return cell;
  });
  const ribbon = make("div", { class: "ribbon", "aria-hidden": "true" }, ...cells);   // the slider says it all
  const legend = make("p", { class: "legend" });
  legend.innerHTML = `<i class="alpha"></i> <b>α</b> share of the memory kept
    <i class="beta"></i> <b>β</b> strength of writing
    <i class="recall"></i> <b>recall</b> does its key bring back its value? (cosine)`;

  const canvas = make("canvas", { width: plan.width, height: plan.height });
  const captions = (kind, texts) => make("div", { class: `captions ${kind}` }, ...texts.map((text, i) => {
    const caption = make("span", {}, text);
    const [x, width] = i < 4 ? [plan.x[i], Dv] : [plan.x[i - 2] - 2.5 * plan.unit, 2 * plan.unit];
    caption.style.left = `${(100 * x) / plan.width}%`;
    caption.style.width = `${(100 * width) / plan.width}%`;
    return caption;
  }));
  const above = captions("above", ["", "", "", "", "key", "key"]);
  const below = captions("below", ["now", "error", "answer", "value"].map((name) => NAMES[name]));
  const signs = ["=", "−", "+"].map((sign, i) => {
    const mark = make("span", { class: "sign", "aria-hidden": "true" }, sign);
    mark.style.left = `${(100 * (plan.x[i] + Dv + (i ? 1.9 : 3) * plan.unit)) / plan.width}%`;
    mark.style.top = `${(50 * Dk) / plan.height}%`;
    return mark;
  });
  const picture = make("div", { class: "picture" }, canvas, ...signs);
  const stage = make("div", { class: "stage", tabindex: 0, role: "img" }, above, picture, below);
  const said = make("p", { class: "said" });
  const pointed = make("p", { class: "pointed" });
  const scale = make("span", { class: "scale" }, make("output"), make("i"), make("output"));
  const help = make("p", { class: "help" });
  help.innerHTML = "<kbd>←</kbd> <kbd>→</kbd> token <kbd>Home</kbd> <kbd>End</kbd> first, last <kbd>↑</kbd> <kbd>↓</kbd> head " +
    "<kbd>PgUp</kbd> <kbd>PgDn</kbd> layer";

  const root = make("section", { class: "minqwen-explorer minqwen-state", "data-lm-suppress-shortcuts": "true", "aria-label": story.title },
    make("header", {}, title, where), controls, problem, ribbon, legend,
    stage, said, make("div", { class: "foot" }, pointed, scale), help);
  el.append(root);

  // ---- moving

  const { save, stop: stopSaving } = saver(model);
  const position = () => ({ token: model.get("token"), layer: model.get("layer"), head: model.get("head") });
  const index = (name) => (name === "layer" ? layers.indexOf(model.get("layer")) : model.get(name));
  function go(name, to) {
    const last = { token: T, layer: layers.length, head: Hv }[name] - 1;
    to = Math.min(last, Math.max(0, to));
    model.set(name, name === "layer" ? layers[to] : to);
    save();
  }
  onKeys(root, {}, (name, by) => go(name, index(name) + by));

  // ---- the data, page by page: one for each layer

  const pages = pagesOf(model, (page) => openPage(page, story));
  let followed;                                            // the head that was followed last
  async function memoryOf(layer, head) {
    const page = await pages.get(String(layer));
    if (followed?.page !== page || followed.head !== head) followed = new Memory(page, story, head);
    return followed;
  }

  // ---- drawing

  let shown = null;                                        // what the canvas shows: parts, limits
  async function draw() {
    const { token, layer, head } = position();
    try {
      root.classList.add("waiting");                       // seen only when it takes a while
      const memory = await memoryOf(layer, head);
      const now = position();
      if (now.token !== token || now.layer !== layer || now.head !== head) return;     // moved on meanwhile
      const theme = isDark() ? "dark" : "light";
      root.dataset.theme = theme;
      shown = { parts: memory.at(token), limits: memory.limits };
      paint(canvas, plan, shown.parts, memory.limits, palettes[theme], Dv);
      describe(memory, token, layer, head);
      root.classList.remove("waiting");
      root.dataset.drawn = `${token} ${layer} ${head} ${theme}`;
    } catch (error) {
      complain(`${error.name}: ${error.message}`);
    }
  }

  function describe(memory, token, layer, head) {
    const { parts } = shown;
    const [alpha, beta] = [memory.alpha(token), memory.beta(token)];
    const ofValue = (x) => length(x) / Math.max(length(parts.value), 1e-12);
    const wrong = ofValue(parts.error), left = ofValue(parts.now.map((x, j) => parts.value[j] - x));

    const told = tokens.slice(0, token + 1).map(({ text }) => text).join("").replace(/\s+/g, " ");
    where.replaceChildren("after “", make("q", {}, told.length > 60 ? told.slice(-60).replace(/^\S*(?=\s)|^/, "…") : told), "”");

    Object.entries({ token, layer: layers.indexOf(layer), head }).forEach(([name, i]) => (sliders[name].range.value = i));
    sliders.token.number.textContent = `${token + 1} of ${T}`;
    sliders.layer.number.textContent = `${layer}`;
    sliders.head.number.textContent = `${head}`;
    sliders.token.range.setAttribute("aria-valuetext", `token ${token + 1} of ${T}, ${readable(tokens[token].text)}, ` +
      `alpha ${alpha.toFixed(3)}, beta ${beta.toFixed(3)}, error ${percent(wrong)} of the value`);
    sliders.layer.range.setAttribute("aria-valuetext", `layer ${layer}, Gated DeltaNet layer ${layers.indexOf(layer) + 1} of ${layers.length}`);
    sliders.head.range.setAttribute("aria-valuetext", `head ${head} of ${Hv}, key head ${memory.keyHead}`);

    const sentence = `It keeps ${percent(alpha)} of the memory. Asked for this token's key, the memory is off by ${percent(wrong)} ` +
      `of the value; ${percent(beta)} of that is corrected, which leaves ${percent(left)}.`;
    said.replaceChildren(make("b", {}, readable(tokens[token].text)), " " + sentence);
    stage.setAttribute("aria-label", `Memory of layer ${layer}, head ${head}, after token ${token + 1} of ${T}, ` +
      `${readable(tokens[token].text)}. ${sentence}`);
    const steps = ["memory now", `faded: α = ${alpha.toFixed(3)}`, "erased", `written: β = ${beta.toFixed(3)}`];
    steps.forEach((text, i) => (above.children[i].textContent = text));

    const recall = memory.recall(parts.memory, token);
    cells.forEach((cell, t) => {
      cell.classList.toggle("here", t === token);
      cell.classList.toggle("later", t > token);
      const heights = [memory.alpha(t), memory.beta(t), t > token ? 0 : recall[t]];
      [...cell.querySelectorAll("b")].forEach((filled, i) => {
        filled.style.height = `${(100 * Math.abs(heights[i])).toFixed(1)}%`;
        filled.classList.toggle("negative", heights[i] < 0);
      });
      cell.title = `α ${heights[0].toFixed(3)}   β ${heights[1].toFixed(3)}` + (t > token ? "" : `   recall ${signed(heights[2], 3)}`);
      cell.dataset.recall = t > token ? "" : recall[t].toFixed(4);
    });
    const [low, , high] = scale.children;
    low.textContent = signed(-memory.limits.memory, 2);
    high.textContent = signed(memory.limits.memory, 2);
    if (pointer) point(pointer); else pointed.textContent = HINT;
  }

  let pointer = null;
  function point(event) {
    const box = canvas.getBoundingClientRect();
    const x = Math.floor(((event.clientX - box.left) / box.width) * plan.width);
    const y = Math.floor(((event.clientY - box.top) / box.height) * plan.height);
    const place = plan.places.find((p) => x >= p.x && x < p.x + p.w && y >= p.y && y < p.y + p.h);
    pointer = place ? event : null;
    if (!place || !shown) return void (pointed.textContent = HINT);
    const at = place.scale === "key" ? `key ${y}` : place.scale === "value" ? `value ${x - place.x}` : `key ${y}, value ${x - place.x}`;
    const number = shown.parts[place.name][entry(place, x - place.x, y - place.y, Dv)];
    pointed.replaceChildren(`${NAMES[place.name]} [${at}]  `, make("b", {}, signed(number, 6)));
  }
  canvas.addEventListener("pointermove", point);
  canvas.addEventListener("pointerleave", () => { pointer = null; pointed.textContent = HINT; });

  function complain(text) {
    problem.textContent = text;
    problem.hidden = !text;
    root.classList.remove("waiting");
  }

  // ---- what makes it draw, and how it ends

  const stopFollowing = follow(model, ["token", "layer", "head"], draw, complain);
  return () => [stopFollowing, pages.stop, stopSaving].forEach((stop) => stop());
}

export default { render };
