// The memory lab, in the browser; explorer.js comes before it.
//
// Every change of an edit goes to the kernel, which runs the model and sends back `result`: for each token of the answer that
// was given without edits, what is likely there before and after; and both answers. Drawn is here: see minqwen/widgets/lab.py.

function paint(canvas, { row, wide, bars, colours }, place, theme) {
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  [place.before, place.after].forEach((chances, which) => {
    context.fillStyle = `rgb(${colours[theme][which]})`;
    chances.forEach((p, i) => context.fillRect(0, row * i + bars[which][0], Math.floor(p * wide + 0.5), bars[which][1] - bars[which][0]));
  });
}

const chance = (p) => (p >= 0.9995 || p === 0 ? `${Math.round(100 * p)} %` : p >= 0.001 ? `${(100 * p).toFixed(1)} %` : "< 0.1 %");

const KEYS = { n: "none", c: "clear", a: "alpha", b: "beta", g: "gate" };

function render({ model, el }) {
  const story = model.get("story");
  const { tokens, answer, names, live } = story, N = answer.length;
  const kinds = ["none", ...Object.keys(names).filter((kind) => story.layers[kind].length)];

  // ---- what is on the page

  const title = make("p", { class: "title" }, story.title);
  const where = make("p", { class: "where" });
  const problem = make("p", { class: "problem", role: "alert", hidden: "" });

  const group = `minqwen-lab-${Math.random()}`;
  const radios = Object.fromEntries(kinds.map((kind) => {
    const radio = make("input", { type: "radio", name: group, value: kind, "data-moves": "kind" });
    radio.addEventListener("change", () => go("kind", kinds.indexOf(kind)));
    return [kind, radio];
  }));
  const choice = make("div", { class: "choice", role: "radiogroup", "aria-label": "What to edit" },
    ...kinds.map((kind) => make("label", {}, radios[kind], make("span", {}, kind === "none" ? "no edit" : names[kind]))));
  const sliders = {
    layer: slider("layer", 0, 1, go), head: slider("head", -1, 0, go), token: slider("token", 0, tokens.length - 1, go),
    at: slider("at", -1, N - 1, go),
  };
  sliders.at.row.firstChild.textContent = "answer’s token";
  const keep = make("button", { type: "button" }, "Keep this edit"), undo = make("button", { type: "button" }, "Undo all");
  keep.addEventListener("click", keepIt);
  undo.addEventListener("click", () => set({ kept: [], kind: "none" }));
  const controls = make("div", { class: "controls" }, choice, sliders.layer.row, sliders.head.row, sliders.token.row);
  const chips = make("ul", { class: "chips", "aria-label": "Edits" });
  const edits = make("div", { class: "edits" }, chips, keep, undo);

  const cells = tokens.map(({ text, special }, i) => {
    const cell = make("span", { class: special ? "cell special" : "cell", "data-token": i }, readable(text));
    cell.addEventListener("click", () => go("token", i));
    return cell;
  });
  const ribbon = make("div", { class: "ribbon", "aria-hidden": "true" }, ...cells);                  // the slider says it all

  const answers = ["before", "after"].map((when) => make("div", { class: `answer ${when}` },
    make("p", { class: "when" }, when === "before" ? "answer before" : "answer after"), make("details", {}, make("summary", {}, "thoughts"), make("p")), make("p", { class: "words" })));
  const spoken = answer.map(({ text, special }, i) => {
    const cell = make("span", { class: special ? "cell special" : "cell", "data-at": i }, make("span", {}, readable(text)),
      make("i", { class: "before" }, make("b")), make("i", { class: "after" }, make("b")));
    cell.addEventListener("click", () => go("at", i));
    return cell;
  });
  const likely = make("div", { class: "ribbon spoken", "aria-hidden": "true" }, ...spoken);

  const canvas = make("canvas", { width: story.wide, height: story.row * story.rows });
  const column = (kind) => make("div", { class: kind, "aria-hidden": "true" }, ...Array.from({ length: story.rows }, () => make("span")));
  const [texts, numbers] = [column("texts"), column("numbers")];
  const stage = make("div", { class: "stage", tabindex: 0, role: "img" }, texts, canvas, numbers);
  stage.style.setProperty("--row", `${story.row}px`);
  const said = make("p", { class: "said", "aria-live": "polite" });
  const help = make("p", { class: "help" });
  help.innerHTML = (live ? "<kbd>c</kbd> clear <kbd>a</kbd> nothing fades <kbd>b</kbd> nothing is written <kbd>g</kbd> gate closed <kbd>n</kbd> no edit " +
    "<kbd>←</kbd> <kbd>→</kbd> token <kbd>↑</kbd> <kbd>↓</kbd> head <kbd>PgUp</kbd> <kbd>PgDn</kbd> layer <kbd>k</kbd> keep <kbd>u</kbd> undo all " : "") +
    "<kbd>,</kbd> <kbd>.</kbd> token of the answer <kbd>Esc</kbd> where it changes most";
  if (!live) help.append(make("span", {}, "This page shows these edits as they stood. To try others takes a running notebook: the model computes each anew."));

  const root = make("section", { class: `minqwen-explorer minqwen-lab${live ? "" : " still"}`, "data-lm-suppress-shortcuts": "true", "aria-label": story.title },
    make("header", {}, title, where), controls, problem, ribbon, edits, make("div", { class: "answers" }, ...answers),
    make("div", { class: "which" }, make("span", {}, "How likely each token of the answer before was, and is now:"), sliders.at.row), likely, stage, said, help);
  el.append(root);
  if (!live) root.querySelectorAll(".choice input, .controls input, .edits button").forEach((input) => (input.disabled = true));

  // ---- moving

  const SET = ["kind", "layer", "head", "token", "kept", "at"];
  const { save, stop: stopSaving } = saver(model);
  const position = () => Object.fromEntries(SET.map((name) => [name, model.get(name)]));
  const kindNow = () => (model.get("kind") === "none" ? "beta" : model.get("kind"));
  const layers = (kind = kindNow()) => [-1, ...story.layers[kind]];
  function set(values) {
    if (!live && Object.keys(values).some((name) => name !== "at")) return;
    for (const [name, value] of Object.entries(values)) model.set(name, value);
    save();
  }
  function go(name, to) {
    const [first, last] = { kind: [0, kinds.length - 1], layer: [0, layers().length - 1], head: [-1, story.heads[kindNow()] - 1], token: [0, tokens.length - 1], at: [-1, N - 1] }[name];
    to = Math.min(last, Math.max(first, to));
    if (name !== "kind") return set({ [name]: name === "layer" ? layers()[to] : to });
    const kind = kinds[to], there = kind === "none" ? "beta" : kind, { layer, head } = position();
    set({ kind, layer: layers(there).includes(layer) ? layer : -1, head: head < story.heads[there] ? head : -1 });
  }
  function keepIt() {
    const { kind, layer, head, token, kept } = position();
    if (kind !== "none") set({ kept: [...kept, [kind, layer, head, token, null]], kind: "none" });
  }
  const place = () => model.get("result").places[whichNow()];
  const whichNow = () => (model.get("at") < 0 ? model.get("result").most : model.get("at"));
  const letters = Object.fromEntries(Object.entries(KEYS).filter(([, kind]) => kinds.includes(kind)).flatMap(([key, kind]) => [[key, [kind]], [key.toUpperCase(), [kind]]]));
  onKeys(root, { ...letters, k: ["keep"], K: ["keep"], u: ["undo"], U: ["undo"], ",": ["at", -1], ".": ["at", 1], Escape: ["most"] }, (name, by) => {
    if (name === "keep") return keepIt();
    if (name === "undo") return undo.click();
    if (name === "most") return go("at", -1);
    if (kinds.includes(name)) return go("kind", kinds.indexOf(name));
    if (name === "kind") return go(name, kinds.indexOf(model.get("kind")) + by);
    if (name === "layer") return go(name, layers().indexOf(model.get("layer")) + by);
    if (name === "at" && Math.abs(by) === 1) return go("at", Math.max(0, whichNow() + by));
    go(name, model.get(name) + by);
  });

  // ---- drawing

  function draw() {
    const { kind, layer, head, token, kept, at } = position(), result = model.get("result");
    const theme = isDark() ? "dark" : "light", now = kind === "none" ? ["none", kept] : [kind, layer, head, token, kept];
    root.dataset.theme = theme;
    const current = JSON.stringify(result.of) === JSON.stringify(now);
    root.classList.toggle("waiting", !current && !problem.textContent);

    for (const [name, radio] of Object.entries(radios)) radio.checked = name === kind;
    Object.assign(sliders.layer.range, { max: layers().length - 1, value: layers().indexOf(layer) });
    Object.assign(sliders.head.range, { max: story.heads[kindNow()] - 1, value: head });
    sliders.token.range.value = token;
    sliders.at.range.value = at;
    const words = {
      layer: layer < 0 ? "all" : `${layer}`, head: head < 0 ? "all" : `${head}`, token: `${token + 1} of ${tokens.length}`,
      at: at < 0 ? "most changed" : `${at + 1} of ${N}`,
    };
    for (const [name, text] of Object.entries(words)) {
      sliders[name].number.textContent = text;
      sliders[name].range.setAttribute("aria-valuetext", `${name === "at" ? "token of the answer" : name} ${text}` + (name === "token" ? `, ${readable(tokens[token].text)}` : ""));
    }
    for (const name of ["layer", "head", "token"]) sliders[name].row.classList.toggle("idle", kind === "none");
    keep.disabled = !live || kind === "none";
    undo.disabled = !live || (kind === "none" && !kept.length);
    cells.forEach((cell, i) => {
      cell.classList.toggle("here", kind !== "none" && i === token);
      cell.classList.toggle("touched", kind !== "none" && kind !== "clear" && i >= token);
      cell.classList.toggle("forgotten", kind === "clear" && i < token);
    });
    where.replaceChildren("edit from ", make("q", {}, readable(tokens[token].text)), ` on, token ${token + 1} of ${tokens.length}`);
    if (kind === "none") where.textContent = kept.length ? "edits are kept; choose another" : "nothing is edited: before and after are the same";
    if (kind === "clear") where.replaceChildren("forget all before ", make("q", {}, readable(tokens[token].text)), `, token ${token + 1} of ${tokens.length}`);

    chips.replaceChildren(...result.labels.map((label, i) => {
      const chip = make("li", { class: i < kept.length ? "kept" : "" }, label);
      if (live && i < kept.length) {
        const drop = make("button", { type: "button", "aria-label": `Undo: ${label}` }, "×");
        drop.addEventListener("click", () => set({ kept: kept.filter((_, n) => n !== i) }));
        chip.append(drop);
      }
      return chip;
    }));
    if (!result.labels.length) chips.replaceChildren(make("li", { class: "none" }, "no edit"));

    result.answers.forEach(({ text, thinking, finish }, i) => {
      const [, thoughts, said] = answers[i].children;
      thoughts.hidden = !thinking;
      thoughts.lastChild.textContent = thinking;
      said.textContent = text + (finish === "length" ? " …" : "") || "∅";
    });
    spoken.forEach((cell, i) => {
      cell.classList.toggle("here", i === whichNow());
      for (const when of ["before", "after"]) cell.querySelector(`.${when} b`).style.width = `${(100 * result[when][i]).toFixed(1)}%`;
      cell.title = `${chance(result.before[i])} before, ${chance(result.after[i])} after`;
    });

    const shown = place();
    paint(canvas, story, shown, theme);
    [...texts.children].forEach((cell, i) => (cell.textContent = i < shown.texts.length ? readable(shown.texts[i]) : ""));
    [...numbers.children].forEach((cell, i) => cell.replaceChildren(...(i < shown.texts.length ? [`${chance(shown.before[i])} → `, make("b", {}, chance(shown.after[i]))] : [])));
    describe(result, shown);
    root.dataset.drawn = [at, ...now.flat(), theme].join(" ");
    root.dataset.current = current;
  }

  function describe(result, shown) {
    const at = whichNow(), quote = (text) => make("b", {}, readable(text));
    const best = (chances) => chances.indexOf(Math.max(...chances));
    const [first, now] = [best(shown.before), best(shown.after)], same = result.answers[0].text === result.answers[1].text;
    const sentence = !result.labels.length ? [`Token ${at + 1} of the answer: the model says `, quote(shown.texts[first]), ` with ${chance(shown.before[first])}.`] :
      [`Token ${at + 1} of the answer: `, quote(answer[at].text), ` goes from ${chance(result.before[at])} to ${chance(result.after[at])}. `,
        ...(now === first ? ["The likeliest is the same"] : ["The likeliest is now ", quote(shown.texts[now]), ` with ${chance(shown.after[now])}`]), `; the answer ${same ? "stays" : "changes"}.`];
    said.replaceChildren(...sentence);
    stage.setAttribute("aria-label", sentence.map((part) => part.textContent ?? part).join("") + " " +
      shown.texts.map((text, i) => `${readable(text)} ${chance(shown.before[i])} before, ${chance(shown.after[i])} after`).join("; "));
  }

  function complain(text) {
    problem.textContent = text;
    problem.hidden = !text;
    root.classList.remove("waiting");
  }

  // ---- what makes it draw, and how it ends

  const stopFollowing = follow(model, [...SET, "result"], draw, complain);
  return () => [stopFollowing, stopSaving].forEach((stop) => stop());
}

export default { render };
