// The state explorer, in the browser; explorer.js comes before it.
//
// From the kernel (or from the page of `to_html`) come `story`, JSON, and `pages`, one for each head of each layer: float32, for
// each text k, v, alpha, beta and the initial state, then the limits of the colours. The delta rule is run here, in double
// precision and in the order of minqwen/widgets/state.py, so that `frame` there gives the same pixels.

// ---------------------------------------------------------------------------------------------------------- the memory

const PARTS = ["decayed", "erased", "written"];

function openPage(page, story) {                           // { memories: one for each text, limits }
  const all = new Float32Array(bytesOf(page).slice().buffer);
  const { key_dim: Dk, value_dim: Dv } = story;
  let start = 0;
  const take = (count) => all.subarray(start, (start += count));
  const memories = story.texts.map(({ tokens: { length: T }, begins_empty }) => new Memory(
    { T, Dk, Dv, k: take(T * Dk), v: take(T * Dv), alpha: take(T), beta: take(T) }, take(begins_empty ? 0 : Dk * Dv), story.kept));
  const [memory, key, value] = take(3);
  return { memories, limits: { memory, key, value } };
}

class Memory {
  // One head's memory, followed through a text. The state before every `stride`-th token is kept: before each, unless that
  // were more than `kept` bytes.
  constructor(numbers, initial, kept) {
    Object.assign(this, numbers);
    this.stride = Math.max(1, Math.ceil((this.T * this.Dk * this.Dv * 8) / kept));
    this.kept = [initial.length ? Float64Array.from(initial) : new Float64Array(this.Dk * this.Dv)];
  }

  key(t) { return this.k.subarray(t * this.Dk, (t + 1) * this.Dk); }
  value(t) { return this.v.subarray(t * this.Dv, (t + 1) * this.Dv); }

  ask(state, k) {                                          // S^T k
    const answer = new Float64Array(this.Dv);
    for (let i = 0; i < this.Dk; i++)
      for (let j = 0; j < this.Dv; j++) answer[j] += k[i] * state[i * this.Dv + j];
    return answer;
  }

  step(state, t) {
    const { Dk, Dv } = this, [key, value, alpha, beta] = [this.key(t), this.value(t), this.alpha[t], this.beta[t]];
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

  before(t) {                                              // the memory as token t finds it, not yet faded
    const near = Math.min(Math.floor(t / this.stride), this.kept.length - 1);
    let state = this.kept[near];
    for (let i = near * this.stride; i < t; i++) {
      state = this.step(state, i).memory;
      if ((i + 1) % this.stride === 0) this.kept.push(state);
    }
    return state;
  }

  recall(state, t) {                                       // for every key so far: does it bring back its value?
    return Array.from({ length: t + 1 }, (_, j) => cosine(this.ask(state, this.key(j)), this.value(j)));
  }

  matches(answer, t) {                                     // how close an answer is to every value so far
    return Array.from({ length: t + 1 }, (_, j) => cosine(answer, this.value(j)));
  }
}

const together = (parts, on) =>                            // the sum of those that are on
  parts.decayed.map((x, i) => {
    let total = on.decayed ? x : 0;
    if (on.erased) total -= parts.erased[i];
    if (on.written) total += parts.written[i];
    return total;
  });

const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
const length = (a) => Math.sqrt(dot(a, a));
const cosine = (a, b) => dot(a, b) / Math.max(length(a) * length(b), 1e-12);
const highest = (numbers) => numbers.reduce((best, x, i) => (x > numbers[best] ? i : best), 0);

// --------------------------------------------------------------------------------------------------------- the picture

const unitOf = (Dk) => Math.max(1, Math.floor((Dk + 8) / 16));

function layout(Dk, Dv, texts) {                           // see `layout` in state.py
  const unit = unitOf(Dk), names = texts === 1 ? ["memory", ...PARTS] : ["first", "second", "difference"];
  const x = names.map((_, i) => i * (Dv + 6 * unit));
  const places = names.map((name, i) => ({ name, scale: "memory", x: x[i], y: 0, w: Dv, h: Dk }));
  const width = x.at(-1) + Dv;
  if (texts === 2) return { unit, x, places, width, height: Dk };
  for (const i of [2, 3]) places.push({ name: "key", scale: "key", x: x[i] - 2 * unit, y: 0, w: unit, h: Dk });
  ["now", "error", "answer", "value"].forEach((name, i) =>
    places.push({ name, scale: "value", x: x[i], y: Dk + unit, w: Dv, h: 2 * unit }));
  return { unit, x, places, width, height: Dk + 3 * unit };
}

function answersLayout(Dk, Dv, names) {
  const unit = unitOf(Dk);
  const places = names.map((name, i) => ({ name, scale: "value", x: 0, y: 3 * unit * i, w: Dv, h: 2 * unit }));
  return { unit, places, width: Dv, height: 3 * unit * names.length - unit };
}

// The cells that a point of a place stands for: where the first one is, how many there are, down and across.
function cellsOf({ scale }, x, y, block, Dk, Dv) {
  const down = scale === "value" ? [0, 1] : [y * block, Math.min(block, Dk - y * block)];
  const across = scale === "key" ? [0, 1] : [x * block, Math.min(block, Dv - x * block)];
  return { row: down[0], rows: down[1], column: across[0], columns: across[1], wide: scale === "key" ? 1 : Dv };
}

function strongest(numbers, { row, rows, column, columns, wide }) {
  let best = numbers[row * wide + column];
  for (let i = row; i < row + rows; i++)
    for (let j = column; j < column + columns; j++) {
      const x = numbers[i * wide + j];
      if (Math.abs(x) > Math.abs(best)) best = x;
    }
  return best;
}

function paint(canvas, plan, parts, limits, palette, block, Dk, Dv) {
  if (canvas.width !== plan.width || canvas.height !== plan.height) Object.assign(canvas, { width: plan.width, height: plan.height });
  const image = new ImageData(plan.width, plan.height), pixels = new Uint32Array(image.data.buffer);
  for (const place of plan.places) {
    const numbers = parts[place.name], limit = limits[place.scale];
    for (let y = 0; y < place.h; y++)
      for (let x = 0; x < place.w; x++) {
        const shade = shadeOf(strongest(numbers, cellsOf(place, x, y, block, Dk, Dv)), limit);
        pixels[(place.y + y) * plan.width + place.x + x] = palette[shade];
      }
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// ------------------------------------------------------------------------------------------------------------ the page

const NAMES = {
  memory: "memory now", decayed: "faded", erased: "erased", written: "written", key: "key",
  now: "its answer now", error: "error before", answer: "its answer before", value: "value",
  first: "memory of A", second: "memory of B", difference: "A − B",
};

const HINT = "Point at a cell for its number; click on a token to ask with its key.";

function render({ model, el }) {
  const story = model.get("story");
  const { texts, layers, heads, key_dim: Dk, value_dim: Dv, block: coarse } = story;
  const lengths = texts.map(({ tokens }) => tokens.length), T = Math.max(...lengths), two = texts.length === 2;
  const every = texts.flatMap(({ tokens }, x) => tokens.map((token, t) => ({ ...token, x, t })));       // as `asked` counts
  const palettes = { light: openPalette(story.palettes.light), dark: openPalette(story.palettes.dark) };
  const letter = (x) => (two ? "AB"[x] : "");
  const of = (x) => (two ? ` of ${letter(x)}` : "");
  const planOf = (block) => layout(Math.ceil(Dk / block), Math.ceil(Dv / block), texts.length);
  const strips = [...texts.flatMap((_, x) => [`${x} before`, `${x} after`]), "value"];

  // ---- what is on the page

  const title = make("p", { class: "title" }, story.title);
  const where = make("p", { class: "where" });
  const problem = make("p", { class: "problem", role: "alert", hidden: "" });

  const sliders = { token: slider("token", 0, T - 1, go), layer: slider("layer", 0, layers.length - 1, go), head: slider("head", 0, heads.length - 1, go) };
  const switches = Object.fromEntries([...PARTS, "exact"].map((name) => {
    const box = make("input", { type: "checkbox", "data-switch": name });
    box.addEventListener("change", () => go(name, box.checked));
    return [name, box];
  }));
  const labelled = (name, text) => make("label", { class: name }, switches[name], make("span", {}, text));
  const shownParts = make("div", { class: "parts", role: "group", "aria-label": "What the memory is put together from" },
    make("span", {}, two ? "both memories =" : "memory now ="), labelled("decayed", "faded"), labelled("erased", "− erased"),
    labelled("written", "+ written"), ...(coarse > 1 ? [labelled("exact", "every cell")] : []));
  const controls = make("div", { class: "controls" }, ...Object.values(sliders).map((s) => s.row), shownParts);

  const bar = (kind) => make("i", { class: kind }, make("b"));
  const cells = every.map(({ text, special }, i) => {
    const cell = make("span", { class: special ? "cell special" : "cell", "data-token": i },
      make("span", { class: "text" }, readable(text)), bar("alpha"), bar("beta"), bar("recall"), bar("match"));
    cell.lastChild.append(make("b"));                      // before, and after
    cell.addEventListener("click", () => go("asked", model.get("asked") === i ? -1 : i));
    cell.addEventListener("dblclick", () => go("token", every[i].t));
    return cell;
  });
  const ribbons = texts.map((_, x) => make("div", { class: "ribbon", "aria-hidden": "true" },        // the sliders say it all
    ...(two ? [make("b", { class: "letter" }, letter(x))] : []), ...cells.filter((_, i) => every[i].x === x)));
  const legend = make("p", { class: "legend" });
  legend.innerHTML = `<i class="alpha"></i> <b>α</b> share of the memory kept
    <i class="beta"></i> <b>β</b> strength of writing
    <i class="recall"></i> <b>recall</b> does its key bring back its value?
    <i class="match"></i> <b>match</b> is its value the answer, before and after this step?`;

  const canvas = make("canvas", { class: "states" }), plan = planOf(1);
  const titles = plan.places.filter(({ scale }) => scale === "memory");
  const placed = (element, place) => {
    element.style.left = `${(100 * place.x) / plan.width}%`;
    element.style.width = `${(100 * place.w) / plan.width}%`;
    return element;
  };
  const above = make("div", { class: "captions above" }, ...titles.map((place) => placed(make("span", {}, NAMES[place.name]), place)),
    ...(two ? [] : [2, 3].map((i) => placed(make("span", {}, "key"), { x: plan.x[i] - 2.5 * plan.unit, w: 2 * plan.unit }))));
  const below = make("div", { class: "captions below" }, ...plan.places.filter(({ scale }) => scale === "value")
    .map((place) => placed(make("span", {}, NAMES[place.name]), place)));
  const signs = (two ? ["−", "="] : ["=", "−", "+"]).map((sign, i) => {
    const mark = make("span", { class: "sign", "aria-hidden": "true" }, sign);
    mark.style.left = `${(100 * (plan.x[i] + Dv + (i && !two ? 1.9 : 3) * plan.unit)) / plan.width}%`;
    mark.style.top = `${(50 * Dk) / plan.height}%`;
    return mark;
  });
  const veils = two ? {} : Object.fromEntries(PARTS.map((name) => {                   // over what is switched off
    const veil = placed(make("i", { class: "veil", hidden: "" }), plan.places.find((place) => place.name === name));
    veil.style.height = `${(100 * Dk) / plan.height}%`;
    return [name, veil];
  }));
  const picture = make("div", { class: "picture" }, canvas, ...signs, ...Object.values(veils));
  picture.style.aspectRatio = `${plan.width} / ${plan.height}`;
  const stage = make("div", { class: "stage", tabindex: 0, role: "img" }, above, picture, ...(two ? [] : [below]));
  const said = make("p", { class: "said", "aria-live": "polite" });

  const strip = make("canvas", { class: "strips" });
  const stripNames = [...texts.flatMap((_, x) => [`${letter(x)} before`, `${letter(x)} after`]), "its value"];
  const answer = make("p", { class: "answer", "aria-live": "polite" });
  const asking = make("div", { class: "asking" },
    make("div", { class: "names", "aria-hidden": "true" }, ...stripNames.map((name) => make("span", {}, name))), strip, answer);

  const pointed = make("p", { class: "pointed" });
  const scale = make("span", { class: "scale" }, make("output"), make("i"), make("output"));
  const help = make("p", { class: "help" });
  help.innerHTML = "<kbd>←</kbd> <kbd>→</kbd> token <kbd>Home</kbd> <kbd>End</kbd> first, last <kbd>↑</kbd> <kbd>↓</kbd> head " +
    "<kbd>PgUp</kbd> <kbd>PgDn</kbd> layer <kbd>f</kbd> <kbd>e</kbd> <kbd>w</kbd> faded, erased, written on and off" +
    "<span><kbd>Enter</kbd> or a click: ask with this token's key from now on <kbd>,</kbd> <kbd>.</kbd> with the one before, the next " +
    "<kbd>Esc</kbd> with each token's own" + (coarse > 1 ? " <kbd>x</kbd> every cell" : "") + "</span>";
  const note = (text) => help.append(make("span", {}, text));
  if (coarse > 1) note(`A memory has ${Dk} × ${Dv} cells: each point is the strongest of ${coarse} × ${coarse} of them. Point there for all its numbers, exactly.`);
  if (!story.all_here) note(`Only what is looked at is fetched from the kernel: ${Math.ceil(story.page_bytes / 1000).toLocaleString("en")} kB when a head is first chosen.`);
  if (story.left_out) note(`This page holds ${layers.length * heads.length} of the model's ${layers.length * heads.length + story.left_out} memories.`);

  const root = make("section", { class: `minqwen-explorer minqwen-state${two ? " two" : ""}`, "data-lm-suppress-shortcuts": "true", "aria-label": story.title },
    make("header", {}, title, where), controls, problem, ...ribbons, legend,
    stage, said, asking, make("div", { class: "foot" }, pointed, scale), help);
  el.append(root);

  // ---- moving

  const SET = ["token", "layer", "head", "asked", ...PARTS, "exact"];
  const { save, stop: stopSaving } = saver(model);
  const position = () => Object.fromEntries(SET.map((name) => [name, model.get(name)]));
  const lists = { layer: layers, head: heads };            // layers and heads by their numbers in the model
  function go(name, to) {
    if (typeof to === "number") {
      const [first, last] = { token: [0, T - 1], layer: [0, layers.length - 1], head: [0, heads.length - 1], asked: [-1, every.length - 1] }[name];
      to = Math.min(last, Math.max(first, to));
    }
    model.set(name, lists[name]?.[to] ?? to);
    save();
  }
  const askedAt = ({ token, asked }) => (asked < 0 ? Math.min(token, lengths[0] - 1) : asked);
  onKeys(root, {
    f: ["decayed"], e: ["erased"], w: ["written"], F: ["decayed"], E: ["erased"], W: ["written"], ...(coarse > 1 ? { x: ["exact"], X: ["exact"] } : {}),
    Enter: ["ask", 0], ",": ["ask", -1], ".": ["ask", 1], Escape: ["forget"],
  }, (name, by) => {
    if (name === "forget") return go("asked", -1);
    if (name === "ask") {
      const last = every.length - 1, from = by ? askedAt(position()) : Math.min(model.get("token"), lengths[0] - 1);
      return go("asked", Math.min(last, Math.max(0, from + by)));
    }
    if (by === undefined) return go(name, !model.get(name));
    go(name, (lists[name]?.indexOf(model.get(name)) ?? model.get(name)) + by);
  });

  // ---- drawing

  const pages = pagesOf(model, (page) => openPage(page, story));
  let shown = null;                                        // what the canvases show
  async function draw() {
    const place = position(), { token, layer, head } = place;
    try {
      root.classList.add("waiting");                       // seen only when it takes a while
      const { memories, limits } = await pages.get(`${layer} ${head}`);
      const now = position();
      if (SET.some((name) => now[name] !== place[name])) return;                      // moved on meanwhile
      const theme = isDark() ? "dark" : "light", block = place.exact ? 1 : coarse;
      root.dataset.theme = theme;
      const at = lengths.map((length) => Math.min(token, length - 1));
      const steps = memories.map((memory, x) => memory.step(memory.before(at[x]), at[x]));
      const totals = steps.map((parts) => together(parts, place));
      const parts = two ? { first: totals[0], second: totals[1], difference: totals[0].map((x, i) => x - totals[1][i]) }
        : { ...steps[0], memory: totals[0], now: memories[0].ask(totals[0], steps[0].key) };

      const { x, t } = every[askedAt(place)], key = memories[x].key(t), answers = { value: memories[x].value(t) };
      memories.forEach((memory, x) => {
        answers[`${x} before`] = memory.ask(memory.before(at[x]), key);
        answers[`${x} after`] = memory.ask(totals[x], key);
      });
      const plans = { states: planOf(block), strips: answersLayout(Math.ceil(Dk / block), Math.ceil(Dv / block), strips) };
      shown = { ...place, at, steps, totals, parts, answers, memories, limits, block, plans };
      paint(canvas, plans.states, parts, limits, palettes[theme], block, Dk, Dv);
      paint(strip, plans.strips, answers, limits, palettes[theme], block, Dk, Dv);
      describe();
      root.classList.remove("waiting");
      root.dataset.drawn = [token, layer, head, theme].join(" ");
      root.dataset.asked = [place.asked, ...PARTS.map((name) => Number(place[name])), Number(place.exact)].join(" ");
    } catch (error) {
      complain(`${error.name}: ${error.message}`);
    }
  }

  // ---- saying it

  const quote = (i) => make("b", {}, readable(every[i].text));
  const plain = (parts) => parts.map((part) => part.textContent ?? part).join("");

  function readSoFar(x, t) {
    const told = texts[x].tokens.slice(0, t + 1).map(({ text }) => text).join("").replace(/\s+/g, " "), most = two ? 30 : 60;
    return ["“", make("q", {}, told.length > most ? told.slice(-most).replace(/^\S*(?=\s)|^/, "…") : told), "”"];
  }

  function ofOneText({ token, steps, totals, memories }) {
    const [parts] = steps, [alpha, beta] = [memories[0].alpha[token], memories[0].beta[token]];
    const ofValue = (x) => length(x) / Math.max(length(parts.value), 1e-12);
    const wrong = ofValue(parts.error), left = ofValue(memories[0].ask(parts.memory, parts.key).map((x, j) => parts.value[j] - x));
    const captions = ["memory now", `faded, α ${alpha.toFixed(3)}`, "erased", `written, β ${beta.toFixed(3)}`];
    captions.forEach((text, i) => (above.children[i].textContent = text));
    const without = PARTS.filter((name) => !shown[name]).map((name) => NAMES[name]);
    if (without.length) above.children[0].textContent = `without ${without.join(", ")}`;
    sliders.token.range.setAttribute("aria-valuetext", `token ${token + 1} of ${T}, ${readable(every[token].text)}, ` +
      `alpha ${alpha.toFixed(3)}, beta ${beta.toFixed(3)}, error ${percent(wrong)} of the value`);
    return [quote(token), ` It keeps ${percent(alpha)} of the memory. Asked for this token's key, the memory is off by ${percent(wrong)} ` +
      `of the value; ${percent(beta)} of that is corrected, which leaves ${percent(left)}.`];
  }

  function ofTwoTexts({ token, at, totals, parts }) {
    const size = Math.max(length(totals[0]), length(totals[1]), 1e-12);
    const tokens = at.map((t, x) => readable(texts[x].tokens[t].text));
    sliders.token.range.setAttribute("aria-valuetext", `token ${token + 1} of ${T}, ${tokens[0]} in A, ${tokens[1]} in B`);
    return ["A has read up to ", quote(at[0]), ", B up to ", quote(lengths[0] + at[1]), `. The difference of their memories is ` +
      `${percent(length(parts.difference) / size)} of the larger one; they point the same way by a cosine of ${signed(cosine(...totals), 2)}.`];
  }

  function describe() {
    const { token, layer, head, at, answers, memories, totals, parts, limits } = shown, asked = askedAt(shown);
    where.replaceChildren(...(two ? texts.flatMap((_, x) => [`${x ? " · B " : "A "}after `, ...readSoFar(x, at[x])]) : ["after ", ...readSoFar(0, token)]));

    sliders.token.range.value = token;
    for (const [name, list] of Object.entries(lists)) sliders[name].range.value = list.indexOf(shown[name]);
    sliders.token.number.textContent = `${token + 1} of ${T}`;
    sliders.layer.number.textContent = `${layer}`;
    sliders.head.number.textContent = `${head}`;
    sliders.layer.range.setAttribute("aria-valuetext", `layer ${layer}, Gated DeltaNet layer ${layers.indexOf(layer) + 1} of ${layers.length}`);
    sliders.head.range.setAttribute("aria-valuetext", `head ${head}, key head ${Math.floor(head / story.group)}`);
    for (const [name, box] of Object.entries(switches)) box.checked = shown[name];
    for (const [name, veil] of Object.entries(veils)) veil.hidden = shown[name];

    const sentence = two ? ofTwoTexts(shown) : ofOneText(shown);
    said.replaceChildren(...sentence);
    stage.setAttribute("aria-label", `Memory of layer ${layer}, head ${head}, after token ${token + 1} of ${T}. ${plain(sentence)}`);

    const matches = memories.map((memory, x) => ["before", "after"].map((when) => memory.matches(answers[`${x} ${when}`], at[x])));
    const offset = (x) => (x ? lengths[0] : 0);
    answer.replaceChildren(shown.asked < 0 ? "Asked with this token's key, " : "Asked with the key of ", quote(asked), shown.asked < 0 || !two ? "" : of(every[asked].x),
      shown.asked < 0 ? ":" : `, token ${every[asked].t + 1}:`, ...matches.flatMap((pair, x) => {
        const named = pair.flatMap((cosines, i) => {
          if (length(answers[`${x} ${i ? "after" : "before"}`]) < 1e-9) return [i ? ", after it nothing" : "nothing"];
          const value = [quote(offset(x) + highest(cosines)), ` (${signed(Math.max(...cosines), 2)})`];
          return [i ? ", after it the value of " : "most like the value of ", ...value];
        });
        return [` ${two ? `${letter(x)}’s` : "the"} answer before this step is `, ...named, "."];
      }));

    memories.forEach((memory, x) => {
      const recall = memory.recall(totals[x], at[x]);
      for (let t = 0; t < lengths[x]; t++) {
        const i = offset(x) + t, cell = cells[i], later = t > at[x];
        cell.classList.toggle("here", t === at[x]);
        cell.classList.toggle("later", later);
        cell.classList.toggle("asked", shown.asked >= 0 && i === asked);
        const heights = [memory.alpha[t], memory.beta[t], ...(later ? [0, 0, 0] : [recall[t], matches[x][0][t], matches[x][1][t]])];
        [...cell.querySelectorAll("b")].forEach((filled, n) => {
          filled.style.height = `${(100 * Math.min(1, Math.abs(heights[n]))).toFixed(1)}%`;
          filled.classList.toggle("negative", heights[n] < 0);
        });
        cell.title = `α ${heights[0].toFixed(3)}   β ${heights[1].toFixed(3)}` + (later ? "" :
          `   recall ${signed(heights[2], 3)}   match ${signed(heights[3], 3)} before, ${signed(heights[4], 3)} after`);
        Object.assign(cell.dataset, later ? { recall: "", match: "" } : { recall: recall[t].toFixed(4), match: heights.slice(3).map((c) => c.toFixed(4)).join(" ") });
      }
    });
    const [low, , high] = scale.children;
    low.textContent = signed(-limits.memory, 2);
    high.textContent = signed(limits.memory, 2);
    if (pointer) point(pointer); else pointed.textContent = HINT;
  }

  // Exact numbers: of the cell that is pointed at, or of all that its point stands for.
  let pointer = null;
  function point(event) {
    const surface = event.target, strips = surface === strip;
    if (!shown) return;
    const plan = shown.plans[strips ? "strips" : "states"], box = surface.getBoundingClientRect();
    const x = Math.floor(((event.clientX - box.left) / box.width) * plan.width);
    const y = Math.floor(((event.clientY - box.top) / box.height) * plan.height);
    const place = plan.places.find((p) => x >= p.x && x < p.x + p.w && y >= p.y && y < p.y + p.h);
    pointer = place ? event : null;
    if (!place) return void (pointed.textContent = HINT);
    const { row, rows, column, columns, wide } = cellsOf(place, x - place.x, y - place.y, shown.block, Dk, Dv);
    const range = (first, count) => (count > 1 ? `${first}–${first + count - 1}` : `${first}`);
    const at = [...(place.scale === "value" ? [] : [`key ${range(row, rows)}`]), ...(place.scale === "key" ? [] : [`value ${range(column, columns)}`])];
    const numbers = strips ? shown.answers[place.name] : shown.parts[place.name], lines = [];
    for (let i = row; i < row + rows; i++)
      lines.push(Array.from({ length: columns }, (_, j) => signed(numbers[i * wide + column + j], 6)).join(" "));
    const name = strips ? (place.name === "value" ? "its value" : `answer ${place.name.slice(2)}${of(Number(place.name[0]))}`) : NAMES[place.name];
    pointed.replaceChildren(`${name} [${at.join(", ")}]  `, make("b", {}, lines.join("  /  ")));
  }
  for (const surface of [canvas, strip]) {
    surface.addEventListener("pointermove", point);
    surface.addEventListener("pointerleave", () => { pointer = null; pointed.textContent = HINT; });
  }

  function complain(text) {
    problem.textContent = text;
    problem.hidden = !text;
    root.classList.remove("waiting");
  }

  // ---- what makes it draw, and how it ends

  const stopFollowing = follow(model, SET, draw, complain);
  return () => [stopFollowing, pages.stop, stopSaving].forEach((stop) => stop());
}

export default { render };
