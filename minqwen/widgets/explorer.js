// What the explorers share in the browser: the frame that each fills, and what moves it. Nothing here depends on
// anything or asks the network for anything. (explorer.py puts an explorer's files together: imports, then its own.)

import { clamp, moveOf, openPalette, plain, slideBy } from "./numbers.js";
import { Cells, Pointing, Surface } from "./pointing.js";
import sheet from "./explorer.css";

// ------------------------------------------------------------------------------------------------------------ elements

export const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
};

// The sheet that all explorers share, once for a page, however many of them stand on it.
function wear() {
  const id = "minqwen-explorers";
  if (!document.getElementById(id)) document.head.append(make("style", { id }, sheet));
}

const isDark = () => {
  const { jpThemeLight } = document.body.dataset;          // JupyterLab says it here, others leave it to the system
  const own = jpThemeLight !== undefined && !matchMedia("(forced-colors: active)").matches;
  return own ? jpThemeLight === "false" : matchMedia("(prefers-color-scheme: dark)").matches;
};

export const openPalettes = ({ light, dark }) => ({ light: openPalette(light), dark: openPalette(dark) });

// Keys and what they do, as a line of help: each entry is keys and then words.
export const keyLine = (...entries) => make("p", {}, ...entries.flatMap((entry) =>
  [...entry.slice(0, -1).map((key) => make("kbd", {}, key)), ` ${entry.at(-1)} `]));
export const MOVING = [
  ["←", "→", "token"], ["Home", "End", "first, last"], ["↑", "↓", "head"], ["PgUp", "PgDn", "layer"],
];

const POINTING = [["p", "point by arrows, Enter, p, Esc"]];

// A token in a line of tokens, with what stands below its text.
export const cellOf = ({ text, special }, at, ...below) =>
  make("span", { class: special ? "cell special" : "cell", ...at }, make("span", { class: "text" }, text), ...below);

// Tokens in a line. Sliders say all that is in it, and keep what is chosen in sight: Tab has no business here.
export const ribbonOf = (...cells) => make("div", { class: "ribbon", "aria-hidden": "true", tabindex: -1 }, ...cells);

// What the keys of an explorer move when nothing else has the focus.
export const stageOf = (...pictures) => make(
  "div", { class: "stage", tabindex: 0, role: "application", "aria-roledescription": "picture" }, ...pictures);

// Is this key what an element does by itself? What scrolls beside the pictures scrolls.
function isOwn({ key, target }) {
  if (target.matches("input[type=radio]")) return key.startsWith("Arrow");
  if (target.matches(".scroller:not(.stage *), .words, details")) return /^(Arrow|Page|Home|End)/.test(key);
  return key === "Enter" && target.matches("button, summary, input[type=file]");
}

// Has what had the focus lost it, without another having got it?
const isLost = (element) => [element, document.body].includes(document.activeElement) &&
  (!element.isConnected || element.matches(":disabled") || !element.checkVisibility());

function scrollTo(ribbon, cell) {                          // without moving the page
  const within = (now, start, size, room) => Math.max(start + size + 3 - room, Math.min(now, start - 3));
  ribbon.scrollTop = within(ribbon.scrollTop, cell.offsetTop, cell.offsetHeight, ribbon.clientHeight);
  ribbon.scrollLeft = within(ribbon.scrollLeft, cell.offsetLeft, cell.offsetWidth, ribbon.clientWidth);
}

// The grid of all layers and heads, small: layers side by side, heads one above the other, as the keys go. Sizes are
// the canvas's pixels; l is a layer, row a head, both counted from 0.
//   names   what is written above each layer: { short, long, attention }
//   heads   what is written beside each row, from the lowest on
export class Tiles {
  constructor(names, heads, { wide, high, gap }) {
    const steps = [wide + gap, high + gap];
    Object.assign(this, { steps, wide, high, count: heads.length });
    const [width, height] = [names.length * steps[0] - gap, heads.length * steps[1] - gap];
    this.canvas = make("canvas", { class: "tiles", width, height });
    this.box = make("i", { class: "box" });
    const label = (text, attributes, side, at) => {
      const span = make("span", attributes, text);
      span.style[side] = `${at}%`;
      return span;
    };
    const layers = names.flatMap(({ short, long, attention }, l) => (l % Math.ceil(20 / steps[0]) ? [] : [
      label(steps[0] < 76 ? short : long, attention ? { class: "attention" } : {}, "left",
        this.x(this.leftOf(l) + wide / 2))]));
    const rows = heads.flatMap((name, h) => (h % Math.ceil(12 / steps[1]) ? [] : [
      label(name, {}, "top", this.y(this.topOf(h) + high / 2))]));
    this.picture = make("div", { class: "picture" }, this.canvas, this.box);
    this.element = make("div", { class: "grid", "aria-hidden": "true" }, make("span", { class: "corner" }, "head"),
      make("div", { class: "layers" }, ...layers), make("div", { class: "heads" }, ...rows), this.picture);
    this.element.style.setProperty("--natural", `${this.canvas.width}px`);
  }

  x(pixels) { return (100 * pixels) / this.canvas.width; } // in percent
  y(pixels) { return (100 * pixels) / this.canvas.height; }
  leftOf(l) { return l * this.steps[0]; }
  topOf(row) { return (this.count - 1 - row) * this.steps[1]; }

  choose(l, row) {
    Object.assign(this.box.style, { left: `${this.x(this.leftOf(l))}%`, top: `${this.y(this.topOf(row))}%`,
                                    width: `${this.x(this.wide)}%`, height: `${this.y(this.high)}%` });
  }

  at(event) {                                              // layer and row that are pointed at
    const [x, y] = shareOf(event, this.canvas), { width, height } = this.canvas;
    const down = Math.floor((y * height) / this.steps[1]);
    return { l: Math.floor((x * width) / this.steps[0]), row: this.count - 1 - down };
  }
}

// Where on a surface an event is, from 0 to 1 across and down.
export function shareOf(event, surface) {
  const box = surface.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}

// Texts along an edge of a picture, each beside its place of equal ones: every n-th, so that none meets the next, and
// the one that is `here` in any case. Whenever the edge gets a size - at first it has none - it is written anew.
class Along {
  constructor(direction, texts) {
    const edge = make("div", { class: `along ${direction}` });
    Object.assign(this, { texts, edge, here: 0, down: direction === "down" });
    this.sized = new ResizeObserver(() => this.write());
    this.sized.observe(this.edge);
  }

  write(here = this.here) {
    this.here = here;
    const { texts, down } = this, place = (down ? this.edge.clientHeight : this.edge.clientWidth) / texts.length;
    if (!place) return;
    const room = 14, every = Math.ceil(room / place);
    const apart = (i) => i % every === 0 && Math.abs(i - here) * place >= room;
    const chosen = [...texts.keys()].filter((i) => i === here || apart(i));
    this.edge.replaceChildren(...chosen.map((i) => {
      const label = make("span", i === here ? { class: "here" } : {}, texts[i]);
      label.style[down ? "top" : "left"] = `${(100 * (i + 0.5)) / texts.length}%`;
      return label;
    }));
  }

  stop() { this.sized.disconnect(); }
}

// ---------------------------------------------------------------------------------------------------------- the kernel

// The pages by name, each a promise of what `open` makes of it; what did not come at once is fetched when it is wanted.
function pagesOf(model, open) {
  const opened = {}, asked = {};                           // asked: what to do when the kernel sends it
  const onMessage = (message, buffers) => asked[message.page]?.(open(buffers[0], message.page));
  model.on("msg:custom", onMessage);
  const get = (name) => opened[name] ??= new Promise((done) => {
    const here = model.get("pages")[name];
    if (here) return done(open(here, name));
    asked[name] = done;
    model.send({ want: name });
  });
  return { get, stop: () => model.off("msg:custom", onMessage) };
}

// -------------------------------------------------------------------------------------------------------- the explorer

// A subclass makes its elements, hands them to `lay`, and has
//   ends(name)              the first and the last step of what is moved
//   valueAt, stepOf         what value of the model a step stands for, and back, where they are not the same
//   show(place, theme)      draws what is there; false if it has moved on meanwhile
//   press(name, by)         what a key does, where it does not move something
//   drawn(place)            what its `data-drawn` says, for tests
export class Explorer {
  // kind: what its style is called; names: the traits that say where we are; hint: what stands where numbers are read
  constructor({ model, el }, kind, names, hint = "") {
    wear();
    Object.assign(this, { model, el, names, hint, story: model.get("story"), shown: null, pointer: null });
    Object.assign(this, { unsaved: {}, endings: [], inSight: new Map() });
    this.where = make("p", { class: "where" });
    this.problem = make("p", { class: "problem", role: "alert", hidden: "" });
    this.said = make("p", { class: "said", "aria-live": "polite" });
    this.pointed = make("p", { class: "pointed", "aria-live": "off" }, hint);
    this.pointing = new Pointing(this, make("i", { class: "cross", hidden: "" }));
    this.scale = make("span", { class: "scale" }, make("output"), make("i"), make("output"));
    this.controls = make("div", { class: "controls" });
    this.help = make("div", { class: "help" });
    this.sliders = {};
    this.root = make("section", { class: `minqwen-explorer minqwen-${kind}`, "aria-label": this.story.title });
  }

  // A slider for each of these, called by its name or otherwise.
  slide(...entries) {
    for (const entry of entries) {
      const [name, text] = [entry].flat(), [first, last] = this.ends(name);
      const steps = { min: first, max: last, step: 1 }, label = text ?? name, number = make("output");
      const range = make("input", { type: "range", ...steps, "aria-label": label, "data-moves": name });
      range.addEventListener("input", () => this.go(name, Number(range.value)));
      const row = make("label", { class: name }, make("span", {}, label), range, number);
      this.sliders[name] = { range, number, row };
      this.controls.append(row);
    }
  }

  // The whole: the header, what can be moved, and these below.
  lay(...below) {
    const header = make("header", {}, make("p", { class: "title" }, this.story.title), this.where);
    this.root.append(header, this.controls, this.problem, ...below, this.help);
  }

  note(text) { this.help.append(make("p", {}, text)); }

  // Draw, and go on drawing when something changes -> how to end that.
  begin() {
    const { model, names } = this, draw = () => this.draw(), onProblem = () => this.complain(model.get("problem"));
    this.el.append(this.root);
    this.root.addEventListener("keydown", (event) => this.isTheirs(event) || this.onKey(event));
    for (const name of ["keyup", "focusin"]) this.root.addEventListener(name, (event) => this.isTheirs(event));
    this.root.addEventListener("focusout", () => this.unpoint());
    if (this.pointing.surfaces.length) this.help.firstChild.append(...keyLine(...POINTING).childNodes);
    const themes = new MutationObserver(draw), system = matchMedia("(prefers-color-scheme: dark)");
    themes.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
    system.addEventListener("change", draw);
    for (const name of names) model.on(`change:${name}`, draw);
    model.on("change:problem", onProblem);
    onProblem();
    draw();
    return () => {
      this.ended = true;
      themes.disconnect();
      system.removeEventListener("change", draw);
      for (const name of names) model.off(`change:${name}`, draw);
      model.off("change:problem", onProblem);
      clearTimeout(this.saving);
      for (const end of this.endings) end();
    };
  }

  fetch(open) {                                            // gives `get`, from a page's name to a promise of it
    const { get, stop } = pagesOf(this.model, open);
    this.endings.push(stop);
    return get;
  }

  along(direction, texts) {
    const along = new Along(direction, texts);
    this.endings.push(() => along.stop());
    return along;
  }

  // Keep a cell of a ribbon in sight: now, and when the ribbon gets another size - at first it may have none.
  keepInSight(ribbon, cell) {
    if (!this.inSight.has(ribbon)) {
      const sized = new ResizeObserver(() => scrollTo(ribbon, this.inSight.get(ribbon)));
      sized.observe(ribbon);
      this.endings.push(() => sized.disconnect());
    }
    this.inSight.set(ribbon, cell);
    scrollTo(ribbon, cell);
  }

  // ---- moving

  position() { return Object.fromEntries(this.names.map((name) => [name, this.model.get(name)])); }
  still(place) { return !this.ended && this.names.every((name) => this.position()[name] === place[name]); }
  valueAt(name, step) { return step; }
  stepOf(name, value) { return value; }

  // The kernel hears of it when we have come to rest. Until then our word counts: what comes back of an earlier place,
  // late, does not lead back there.
  set(values) {
    Object.assign(this.unsaved, values);
    for (const [name, value] of Object.entries(values)) this.model.set(name, value);
    clearTimeout(this.saving);
    this.saving = setTimeout(() => {
      this.unsaved = {};
      this.model.save_changes();
    }, 200);
  }

  overruled() {                                            // the names of what has been set back since
    return Object.keys(this.unsaved).filter((name) => this.model.get(name) !== this.unsaved[name]);
  }

  go(name, step) { this.set({ [name]: this.valueAt(name, clamp(step, this.ends(name))) }); }
  press(name, by) { this.go(name, this.stepOf(name, this.position()[name]) + by); }

  // What is pressed with Ctrl, Alt or Meta is the browser's or JupyterLab's, which hears of nothing else in here. It
  // looks for the attribute on what has the focus, and may do so before we hear of a key: the one before has set it.
  isTheirs({ target, ctrlKey, metaKey, altKey }) {
    const theirs = Boolean(ctrlKey || metaKey || altKey);
    target.toggleAttribute("data-lm-suppress-shortcuts", !theirs);
    return theirs;
  }

  onKey(event) {
    if (isOwn(event) || !(this.pointing.hears(event) || this.moves(event))) return;
    event.preventDefault();
    event.stopPropagation();
  }

  moves({ key, target }) {                                 // a slider's own keys move that slider
    const { moves } = target.dataset, by = target.type === "range" ? slideBy(key, target.max - target.min) : undefined;
    const move = by ? [moves, by] : moveOf(key, moves, this.keys);
    if (move) this.press(...move);
    return Boolean(move);
  }

  // ---- drawing and saying it

  async draw() {
    const late = this.overruled();
    if (late.length) return late.forEach((name) => this.model.set(name, this.unsaved[name]));         // and draw again
    const place = this.position(), theme = isDark() ? "dark" : "light", { root } = this, focused = this.focused();
    this.said.setAttribute("aria-live", this.saysItself(focused) ? "off" : "polite");
    try {
      root.classList.add("waiting");                       // seen only when it takes a while
      root.dataset.theme = theme;
      if (await this.show(place, theme) === false) return;
      if (focused && isLost(focused)) this.home()?.focus();
      root.classList.remove("waiting");
      root.dataset.drawn = [...this.drawn(place), theme].join(" ");
    } catch (error) {
      this.complain(`${error.name}: ${error.message}`);
    }
  }

  drawn(place) {
    return this.names.map((name) => (typeof place[name] === "boolean" ? Number(place[name]) : place[name]));
  }

  complain(text) {
    this.problem.textContent = text;
    this.problem.hidden = !text;
    this.root.classList.remove("waiting");
  }

  // Where a slider stands, what is written beside it, and what a screen reader says.
  told(name, step, number, aloud) {
    const { range, number: output } = this.sliders[name];
    range.value = step;
    output.textContent = number;
    range.setAttribute("aria-valuetext", aloud);
  }

  say(...parts) { if (this.said.textContent !== plain(parts)) this.said.replaceChildren(...parts); }

  // ---- the focus

  focused() { return this.root.contains(document.activeElement) ? document.activeElement : null; }
  home() { return this.stage; }                            // where the focus goes when what had it is gone

  saysItself(element) {                                    // a slider's value that ends with the sentence: once will do
    const end = this.said.textContent.slice(-40);
    return Boolean(end && element?.getAttribute("aria-valuetext")?.endsWith(end));
  }

  // ---- pointing

  // Numbers of what is pointed at, and again when they change; read(event) gives what to write, or nothing.
  // `marks` are elements that mark what is chosen there: keys begin to point at it.
  onPoint(surface, read, ...marks) {
    this.pointing.add(new Surface(surface, (event) => this.shown && read(event), marks));
    surface.addEventListener("pointermove", (event) => {
      this.pointing.end();
      this.pointer = () => this.shown && read(event);
      this.point();
    });
    surface.addEventListener("pointerleave", () => {
      if (this.pointing.surface) return;
      this.pointer = null;
      this.point();
    });
  }

  // The same of cells, in rows, that say their numbers when a mouse rests on them: by their titles.
  onCells(holder, rows, nameOf) {
    const read = (cell) => (cell.title ? [`${nameOf(cell)}: `, make("b", {}, cell.title)] : null);
    this.pointing.add(new Cells(holder, rows, read));
  }

  unpoint() {                                              // by keys
    this.pointing.end();
    this.point();
  }

  point() {
    const parts = this.pointer?.() || [this.hint];
    if (this.pointed.textContent !== plain(parts)) this.pointed.replaceChildren(...parts);
  }
}

// One for all layers of a text: its story's "layers" have each an "index", their number in the model, and "heads".
export class LayerExplorer extends Explorer {
  constructor(context, kind, names, hint) {
    super(context, kind, names, hint);
    const { tokens, layers } = this.story;
    Object.assign(this, { layers, T: tokens.length });
  }

  ends(name) {
    const heads = this.layers[this.stepOf("layer", this.model.get("layer"))].heads;
    return [0, ({ layer: this.layers.length, head: heads }[name] ?? this.T) - 1];
  }

  valueAt(name, step) { return name === "layer" ? this.layers[step].index : step; }
  stepOf(name, value) {
    return name === "layer" ? Math.max(0, this.layers.findIndex(({ index }) => index === value)) : value;
  }

  position() {                                             // l: the layer, counted from 0
    const place = super.position(), l = this.stepOf("layer", place.layer);
    return { ...place, l, layer: this.layers[l].index, head: Math.min(place.head, this.layers[l].heads - 1) };
  }

  set(values) {                                            // another layer may have fewer heads
    if (!("layer" in values)) return super.set(values);
    const { heads } = this.layers[this.stepOf("layer", values.layer)];
    super.set({ ...values, head: Math.min(values.head ?? this.model.get("head"), heads - 1) });
  }
}
