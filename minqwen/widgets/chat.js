// The chat panel, in the browser.
//
// `turns` is what was said, `speaking` the turn that is coming. What is written here goes to the kernel as a message:
// { say: text } with the bytes of pictures, { stop }, { new }. See minqwen/widgets/chat.py.

import { Explorer, keyLine, make } from "./explorer.js";

const WORDS = { thinking: "thoughts", call: "calls a tool", result: "gets back" };

const wordsIn = (text) => {
  const count = text.split(/\s+/).filter(Boolean).length;
  return `${count} word${count === 1 ? "" : "s"}`;
};

function partOf(kind) {                                    // text stands there, all else is folded
  if (kind === "text") return make("p", { class: "part text", "data-kind": kind });
  return make("details", { class: `part ${kind}`, "data-kind": kind }, make("summary"), make("p"));
}

function fill(element, parts) {                            // what is there already stays: it may be unfolded
  parts.forEach(({ kind, text }, i) => {
    let part = element.children[i];
    if (part?.dataset.kind !== kind) {
      const fresh = partOf(kind);
      if (part) part.replaceWith(fresh); else element.append(fresh);
      part = fresh;
    }
    const place = kind === "text" ? part : part.lastChild;
    if (place.textContent !== text) place.textContent = text;
    const summary = kind === "thinking" ? `${WORDS[kind]}, ${wordsIn(text)}` : WORDS[kind];
    if (kind !== "text") part.firstChild.textContent = summary;
  });
}

function turnOf({ who, pictures = [], stopped }) {
  const images = pictures.map((url) => make("img", { src: url, alt: "a picture that was sent" }));
  const turn = make("div", { class: `turn ${who}` }, make("p", { class: "who" }, who), ...images,
    make("div", { class: "parts" }));
  if (stopped) turn.append(make("p", { class: "stopped" }, "stopped"));
  return turn;
}

function button(name, go) {
  const one = make("button", { type: "button", class: name.toLowerCase() }, name);
  one.addEventListener("click", go);
  return one;
}

class ChatPanel extends Explorer {
  sent = null;                                             // how many turns there were when something was sent
  turns = [];                                              // the turns that stand in the log
  coming = null;                                           // and the one that is coming
  following = true;                                        // whether the end of the log is in sight, and is to stay so

  constructor(context) {
    super(context, "chat", ["turns", "speaking", "thinking"]);
    const { live, name, recorded } = this.story;
    this.live = live;
    this.where.textContent = `with ${name}`;
    this.root.classList.toggle("still", !live);
    this.makeLog();
    this.makeControls();
    this.lay(this.log, this.waiting, this.text, this.controls);
    if (live) {
      this.help.append(keyLine(["Enter", "sends"], ["Shift", "Enter", "a new line"], ["Esc", "stops the answer"]));
    } else {
      for (const part of [this.waiting, this.text, this.controls]) part.remove();
      this.note((recorded ? `A recorded talk: ${name} said this when the page was made. ` : "This is what was said. ") +
        "To go on talking takes a running notebook.");
    }
  }

  // ---- what is on the page

  makeLog() {
    const told = { role: "log", "aria-live": "polite", "aria-label": "What was said" };
    this.log = make("div", { class: "log", tabindex: 0, ...told });
    this.log.addEventListener("scroll", () => {
      this.following = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 40;
    });
    this.log.addEventListener("load", () => this.toTheEnd(), true);     // of a picture: it takes room only then
  }

  makeControls() {
    const { thinks, sees } = this.story, { model } = this;
    this.text = make("textarea", { rows: 2, "aria-label": "Your message", placeholder: "Write something" });
    this.sendIt = button("Send", () => this.ask());
    this.stop = button("Stop", () => model.send({ stop: true }));
    this.fresh = button("New chat", () => model.send({ new: true }));
    this.thinking = make("input", { type: "checkbox", "data-switch": "thinking" });
    this.thinking.addEventListener("change", () => {
      model.set("thinking", this.thinking.checked);
      model.save_changes();
    });
    const images = { type: "file", accept: "image/*", multiple: "" };
    this.files = make("input", { ...images, "aria-label": "Pictures to send along" });
    this.waiting = make("div", { class: "pictures" });
    this.files.addEventListener("change", () => this.waiting.replaceChildren(...[...this.files.files].map((file) => {
      const picture = make("img", { alt: file.name });
      picture.src = URL.createObjectURL(file);
      return picture;
    })));
    const labels = [make("label", { class: "thinks" }, this.thinking, make("span", {}, "think first")),
      make("label", { class: "files" }, make("span", {}, "pictures"), this.files)];
    this.controls.append(...labels.filter((_, i) => [thinks, sees][i]), this.fresh, this.stop, this.sendIt);
  }

  // ---- talking

  speaking() { return this.model.get("speaking").parts; }

  async ask() {
    if (!this.text.value.trim() || this.speaking() || this.sent !== null) return;
    this.complain("");
    this.sent = this.model.get("turns").length;
    const pictures = await Promise.all([...this.files.files].map((file) => file.arrayBuffer()));
    this.model.send({ say: this.text.value }, undefined, pictures);
  }

  onKey(event) {
    event.stopPropagation();                               // JupyterLab has commands on these keys
    if (event.isComposing) return;
    if (event.key === "Escape" && this.speaking()) this.model.send({ stop: true });
    else if (event.key === "Enter" && !event.shiftKey && event.target === this.text) this.ask();
    else return;
    event.preventDefault();
  }

  home() { return this.text; }

  // ---- drawing

  show({ turns, thinking }) {
    const parts = this.speaking(), { log, live } = this;
    while (this.turns.length > turns.length) this.turns.pop().remove();
    if (this.sent !== null && turns.length > this.sent) {  // it has arrived
      this.sent = null;
      this.text.value = this.files.value = "";
      this.waiting.replaceChildren();
    }
    for (const turn of turns.slice(this.turns.length)) this.add(turn);
    this.showComing(parts);
    log.setAttribute("aria-busy", String(Boolean(parts)));
    this.sendIt.disabled = Boolean(parts);
    this.stop.disabled = !parts;
    this.fresh.disabled = !turns.length;
    this.thinking.checked = thinking;
    if (this.turns.length || this.coming) delete log.dataset.empty;
    else log.dataset.empty = live ? "Nothing was said yet." : "Nothing was said.";
    this.toTheEnd();
  }

  add(turn) {                                              // an answer that came to its end stays, unfolded or not
    const arrived = turn.who === "model" && this.coming, element = arrived || turnOf(turn);
    if (arrived && turn.stopped) element.append(make("p", { class: "stopped" }, "stopped"));
    if (arrived) this.coming = null; else this.log.append(element);
    fill(element.querySelector(".parts"), turn.parts);
    element.classList.remove("coming");
    this.turns.push(element);
  }

  showComing(parts) {
    if (parts && this.turns.at(-1)?.classList.contains("you")) {
      if (!this.coming) this.log.append(this.coming = turnOf({ who: "model" }));
      fill(this.coming.querySelector(".parts"), parts);
    } else if (this.coming) {                              // it ended with nothing said
      this.coming.remove();
      this.coming = null;
    }
    this.coming?.classList.add("coming");
  }

  toTheEnd() { if (this.following) this.log.scrollTop = this.log.scrollHeight; }

  drawn({ turns }) { return [turns.length, this.speaking() ? "speaking" : "silent"]; }

  complain(message) {
    super.complain(message);
    if (message) this.sent = null;
  }
}

export default { render: (context) => new ChatPanel(context).begin() };
