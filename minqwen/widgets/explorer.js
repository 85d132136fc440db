// What the explorers share in the browser: an explorer's module is this file with its own behind it (see explorer.py).
// Nothing here depends on anything or asks the network for anything.

// ------------------------------------------------------------------------------------------------------------- numbers

const bytesOf = (page) =>                                  // base64 in a page, a DataView in a notebook
  typeof page === "string" ? Uint8Array.from(atob(page), (c) => c.charCodeAt(0))
    : new Uint8Array(page.buffer ?? page, page.byteOffset ?? 0, page.byteLength);

function openPalette(page) {                               // one number for each colour, as a pixel has it in memory
  const rgb = bytesOf(page), pixels = new Uint8Array(4 * 256).fill(255);
  for (let i = 0; i < 256; i++) pixels.set(rgb.subarray(3 * i, 3 * i + 3), 4 * i);
  return new Uint32Array(pixels.buffer);
}

// Which of a palette's colours a number has: 128 is zero, 255 the limit, 1 its opposite.
const shadeOf = (x, limit) => Math.min(255, Math.max(1, Math.floor((x / limit) * 127 + 128.5)));

// The same where nothing is negative: 0 is zero, 255 the limit.
const shadeFromZero = (x, limit) => Math.min(255, Math.max(0, Math.floor((x / limit) * 255 + 0.5)));

const signed = (x, digits = 4) => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(digits);
const percent = (x) => `${(100 * x).toFixed(x >= 1 || x < 0.99 ? 0 : x < 0.999 ? 1 : 2)} %`;
const readable = (text) => text.replace(/ /g, "·").replace(/\n/g, "↵").replace(/\t/g, "⇥") || "∅";

// ------------------------------------------------------------------------------------------------------------ the page

const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
};

const isDark = () => {
  const { jpThemeLight } = document.body.dataset;          // JupyterLab says it here, others leave it to the system
  return jpThemeLight !== undefined ? jpThemeLight === "false" : matchMedia("(prefers-color-scheme: dark)").matches;
};

function slider(name, first, last, go) {
  const range = make("input", { type: "range", min: first, max: last, step: 1, "aria-label": name, "data-moves": name });
  const number = make("output");
  range.addEventListener("input", () => go(name, Number(range.value)));
  return { range, number, row: make("label", { class: name }, make("span", {}, name), range, number) };
}

// Write texts along an edge of a picture, each beside its place of `texts.length` equal ones: every n-th, so that none meets
// the next, and the one that is `here` in any case.
function writeAlong(edge, texts, here) {
  const down = edge.classList.contains("down"), whole = (down ? edge.clientHeight : edge.clientWidth) || 1;
  const place = whole / texts.length, room = 14, every = Math.ceil(room / place);
  const chosen = [...texts.keys()].filter((i) => i === here || (i % every === 0 && Math.abs(i - here) * place >= room));
  edge.replaceChildren(...chosen.map((i) => {
    const label = make("span", i === here ? { class: "here" } : {}, texts[i]);
    label.style[down ? "top" : "left"] = `${(100 * (i + 0.5)) / texts.length}%`;
    return label;
  }));
}

// Keys that move: `own` maps further ones to [name, by]; move(name, by) goes there. JupyterLab does not hear of them.
function onKeys(root, own, move) {
  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const along = event.target.dataset?.moves ?? "token";  // on a slider the sideways keys move that slider
    const moves = {
      ArrowLeft: [along, -1], ArrowRight: [along, 1], Home: [along, -Infinity], End: [along, Infinity],
      ArrowUp: ["head", 1], ArrowDown: ["head", -1], PageUp: ["layer", 1], PageDown: ["layer", -1], ...own,
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    event.stopPropagation();
    move(...moves[event.key]);
  });
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

// Tell the kernel where we are when we have come to rest.
function saver(model) {
  let waiting;
  return {
    save: () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => model.save_changes(), 200);
    },
    stop: () => clearTimeout(waiting),
  };
}

// Draw now, and again whenever one of these numbers or the theme changes; complain when there is a problem.
function follow(model, names, draw, complain) {
  const onProblem = () => complain(model.get("problem"));
  const themes = new MutationObserver(draw), system = matchMedia("(prefers-color-scheme: dark)");
  themes.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
  system.addEventListener("change", draw);
  for (const name of names) model.on(`change:${name}`, draw);
  model.on("change:problem", onProblem);
  onProblem();
  draw();
  return () => {
    themes.disconnect();
    system.removeEventListener("change", draw);
    for (const name of names) model.off(`change:${name}`, draw);
    model.off("change:problem", onProblem);
  };
}

