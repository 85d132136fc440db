// The rollout explorer, in the browser: answers to one question, what each is worth, and what became of its tokens.
//
// The story holds it all: `groups[i].answers[j]` has its tokens and, of each that was written, the logarithm of its
// probability when it was drawn, "before", and now, "after" (see rollouts.py).

import { Explorer, cellOf, keyLine, make, openPalettes, ribbonOf, shareOf, stageOf } from "./explorer.js";
import { chance, cssOf, plain, readable, shadeOf, signed } from "./numbers.js";

const HINT = "Point at a token for its numbers; click to go there.";
const NOTHING = 0;                                         // a colour, transparent

const changeAt = ({ before, after }, t) => (before[t] === null ? null : after[t] - before[t]);
const factor = (change) => `× ${Math.exp(change).toFixed(2)}`;
const rounded = (x) => signed(x, 2).replace(/^.0\.00$/, "0.00");

// A row for each answer, a cell for each of its tokens; nothing where one was only read.
function paint(canvas, { answers, limit }, [across, down], palette) {
  const image = new ImageData(canvas.width, canvas.height), pixels = new Uint32Array(image.data.buffer);
  answers.forEach((answer, a) => answer.tokens.forEach((_, t) => {
    const change = changeAt(answer, t), colour = change === null ? NOTHING : palette[shadeOf(change, limit)];
    for (let y = a * down; y < (a + 1) * down - 2; y++)
      pixels.fill(colour, y * canvas.width + t * across, y * canvas.width + (t + 1) * across - (across > 3));
  }));
  canvas.getContext("2d").putImageData(image, 0, 0);
}

class RolloutExplorer extends Explorer {
  keys = { ArrowUp: ["answer", -1], ArrowDown: ["answer", 1], PageUp: ["group", 1], PageDown: ["group", -1] };

  constructor(context) {
    super(context, "rollouts", ["token", "answer", "group"], HINT);
    const { groups, palette, longest, rows, cell: [across, down] } = this.story;
    this.palettes = openPalettes(palette);
    this.slide("token", "answer", ...(groups.length > 1 ? [["group", "question"]] : []));
    this.canvas = make("canvas", { width: longest * across, height: rows * down });
    [this.row, this.box] = ["row", "box"].map((name) => make("i", { class: name }));
    this.worth = make("div", { class: "worth", "aria-hidden": "true" });                // the sliders say it all
    this.stage = stageOf(this.worth,
      make("div", { class: "picture" }, this.canvas, this.row, this.box));
    this.stage.style.setProperty("--row", `${down}px`);
    this.ribbon = ribbonOf();
    this.lay(this.said, this.stage, make("div", { class: "foot" }, this.pointed, this.scale), this.ribbon);
    this.help.append(keyLine(["←", "→", "token"], ["Home", "End", "first, last"], ["↑", "↓", "answer"],
      ...(groups.length > 1 ? [["PgUp", "PgDn", "question"]] : [])));
    this.onPoint(this.canvas, (event) => this.numbersAt(this.placeOf(event)), this.row, this.box);
    this.canvas.addEventListener("click", (event) => {
      const { a, t } = this.placeOf(event), answer = this.group().answers[a];
      if (!answer) return;
      this.set({ answer: a, token: Math.min(t, answer.tokens.length - 1) });
      this.stage.focus();
    });
  }

  // ---- moving

  group(number = this.model.get("group")) { return this.story.groups[number]; }

  ends(name) {
    const { groups } = this.story, { answers } = this.group(), { answer, token } = this.within(this.position());
    const many = { group: groups, answer: answers, token: answers[answer].tokens }[name];
    return [0, Math.max(many.length - 1, name === "token" ? token : 0)];
  }

  within({ token, answer, group }) {                       // another group may have fewer answers, and these tokens
    const { answers } = this.group(group), a = Math.min(answer, answers.length - 1);
    return { token: Math.min(token, answers[a].tokens.length - 1), answer: a, group };
  }

  set(values) { super.set(this.within({ ...this.position(), ...values })); }

  placeOf(event) {                                         // the answer and the token that are pointed at
    const [x, y] = shareOf(event, this.canvas), { cell: [across, down] } = this.story;
    return { a: Math.floor((y * this.canvas.height) / down), t: Math.floor((x * this.canvas.width) / across) };
  }

  // ---- drawing

  show(place, theme) {
    const { token, answer, group } = this.within(place), told = this.group(group), palette = this.palettes[theme];
    this.shown = { token, answer, group };
    paint(this.canvas, told, this.story.cell, palette);
    this.worth.replaceChildren(...told.answers.map((one, a) => {
      const row = make("div", { class: a === answer ? "here" : "" }, make("span", { class: "text" },
        `${readable(one.text)} ${one.right ? "✓" : "✗"}`), make("span", {}, `reward ${one.reward.toFixed(2)}`),
      make("span", {}, rounded(one.advantage)));
      row.addEventListener("click", () => this.go("answer", a));
      return row;
    }));
    this.write(told, answer, token, palette);
    const { cell: [across, down] } = this.story, { width, height } = this.canvas;
    const share = (part, whole) => `${(100 * part) / whole}%`, { tokens } = told.answers[answer];
    const line = { top: share(answer * down, height), height: share(down - 2, height) };
    Object.assign(this.row.style, { ...line, width: share(across * tokens.length, width) });
    Object.assign(this.box.style, { ...line, left: share(token * across, width), width: share(across, width) });
    const [less, more] = this.scale.querySelectorAll("output");
    less.textContent = `less likely, ${factor(-told.limit)}`;
    more.textContent = `${factor(told.limit)}, likelier`;
    this.describe(told);
  }

  write({ answers, limit }, answer, token, palette) {
    const one = answers[answer];
    this.cells = one.tokens.map(({ text, special }, t) => {
      const change = changeAt(one, t), shade = make("i", { class: change === null ? "read" : "shade" });
      if (change !== null) shade.style.background = cssOf(palette, shadeOf(change, limit));
      const cell = cellOf({ text: readable(text), special }, { "data-token": t }, shade);
      cell.classList.toggle("here", t === token);
      cell.addEventListener("click", () => this.go("token", t));
      return cell;
    });
    this.ribbon.replaceChildren(...this.cells);
    this.keepInSight(this.ribbon, this.cells[token]);
  }

  // ---- saying it

  numbersAt({ a, t }) {
    const answer = this.group(this.shown.group).answers[a], token = answer?.tokens[t];
    if (!token) return null;
    const name = `answer ${a + 1}, token ${t + 1}, ${readable(token.text)}: `, change = changeAt(answer, t);
    if (change === null) return [name, "was read, and is not learnt"];
    return [name, `${chance(Math.exp(answer.before[t]))} when it was drawn, now ${chance(Math.exp(answer.after[t]))}, `,
      make("b", {}, factor(change))];
  }

  sentence({ answers, mean }) {
    const { answer, token } = this.shown, one = answers[answer], { text } = one.tokens[token];
    const says = one.text ? ["says ", make("b", {}, readable(one.text)), one.right ? ", which is right" :
      ", which is wrong"] : ["ends without an answer"];
    const change = changeAt(one, token), word = make("b", {}, readable(text));
    const became = change === null ? ["was read, and is not learnt."]
      : [`was drawn with ${chance(Math.exp(one.before[token]))}, and has ${chance(Math.exp(one.after[token]))} now.`];
    return [`Answer ${answer + 1} `, ...says, `: reward ${one.reward.toFixed(2)}. The mean of the group is ` +
      `${mean.toFixed(2)}, so its advantage is ${rounded(one.advantage)}. Its token `, word, " ", ...became];
  }

  describe(told) {
    const { answer, token, group } = this.shown, { answers } = told, one = answers[answer];
    const text = this.sentence(told), spoken = plain(text);
    this.where.replaceChildren(make("q", {}, told.question));
    this.say(...text);
    this.sliders.token.range.max = one.tokens.length - 1;
    this.sliders.answer.range.max = answers.length - 1;
    this.told("token", token, `${token + 1} of ${one.tokens.length}`,
      `token ${token + 1} of ${one.tokens.length}. ${spoken}`);
    this.told("answer", answer, `${answer + 1} of ${answers.length}`, spoken);
    if (this.sliders.group) this.told("group", group, `${group + 1} of ${this.story.groups.length}`,
      `${told.question} ${spoken}`);
    this.stage.setAttribute("aria-label", `${answers.length} answers to ${told.question} ${spoken}`);
    this.point();
  }

  drawn() { return [this.shown.token, this.shown.answer, this.shown.group]; }
}

export default { render: (context) => new RolloutExplorer(context).begin() };
