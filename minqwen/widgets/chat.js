// The chat panel, in the browser; explorer.js comes before it.
//
// `turns` is what was said, `speaking` the turn that is coming. What is written here goes to the kernel as a message:
// { say: text } with the bytes of pictures, { stop }, { new }. See minqwen/widgets/chat.py.

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
    if (kind !== "text") part.firstChild.textContent = kind === "thinking" ? `${WORDS[kind]}, ${wordsIn(text)}` : WORDS[kind];
  });
}

function render({ model, el }) {
  const story = model.get("story"), { live } = story;

  // ---- what is on the page

  const title = make("p", { class: "title" }, story.title), where = make("p", { class: "where" }, `with ${story.name}`);
  const problem = make("p", { class: "problem", role: "alert", hidden: "" });
  const log = make("div", { class: "log", role: "log", "aria-live": "polite", tabindex: 0, "aria-label": "What was said" });
  const text = make("textarea", { rows: 2, "aria-label": "Your message", placeholder: "Write something" });
  const button = (name, go) => {
    const one = make("button", { type: "button", class: name.toLowerCase() }, name);
    one.addEventListener("click", go);
    return one;
  };
  const sendIt = button("Send", say), stop = button("Stop", () => model.send({ stop: true })), fresh = button("New chat", () => model.send({ new: true }));
  const thinking = make("input", { type: "checkbox", "data-switch": "thinking" });
  thinking.addEventListener("change", () => { model.set("thinking", thinking.checked); model.save_changes(); });
  const files = make("input", { type: "file", accept: "image/*", multiple: "", "aria-label": "Pictures to send along" });
  const waiting = make("div", { class: "pictures" });
  files.addEventListener("change", () => waiting.replaceChildren(...[...files.files].map((file) => {
    const picture = make("img", { alt: file.name });
    picture.src = URL.createObjectURL(file);
    return picture;
  })));
  const controls = make("div", { class: "controls" },
    ...(story.thinks ? [make("label", { class: "thinks" }, thinking, make("span", {}, "think first"))] : []),
    ...(story.sees ? [make("label", { class: "files" }, make("span", {}, "pictures"), files)] : []), fresh, stop, sendIt);
  const help = make("p", { class: "help" });
  help.innerHTML = live ? "<kbd>Enter</kbd> sends <kbd>Shift</kbd> <kbd>Enter</kbd> a new line <kbd>Esc</kbd> stops the answer" :
    "This page shows what was said. To go on talking takes a running notebook.";
  const root = make("section", { class: `minqwen-explorer minqwen-chat${live ? "" : " still"}`, "data-lm-suppress-shortcuts": "true", "aria-label": story.title },
    make("header", {}, title, where), problem, log, ...(live ? [waiting, text, controls] : []), help);
  el.append(root);

  // ---- talking

  let sent = null;                                         // how many turns there were when something was sent
  async function say() {
    if (!text.value.trim() || model.get("speaking").parts || sent !== null) return;
    complain("");
    sent = model.get("turns").length;
    const pictures = await Promise.all([...files.files].map((file) => file.arrayBuffer()));
    model.send({ say: text.value }, undefined, pictures);
  }
  root.addEventListener("keydown", (event) => {
    event.stopPropagation();                               // JupyterLab has commands on these keys
    if (event.isComposing) return;
    if (event.key === "Escape" && model.get("speaking").parts) model.send({ stop: true });
    else if (event.key === "Enter" && !event.shiftKey && event.target === text) say();
    else return;
    event.preventDefault();
  });

  // ---- drawing

  const turnOf = ({ who, pictures = [], stopped }) => {
    const turn = make("div", { class: `turn ${who}` }, make("p", { class: "who" }, who),
      ...pictures.map((url) => make("img", { src: url, alt: "a picture that was sent" })), make("div", { class: "parts" }));
    if (stopped) turn.append(make("p", { class: "stopped" }, "stopped"));
    return turn;
  };
  let following = true;                                    // whether the end of the log is in sight, and is to stay so
  const toTheEnd = () => following && (log.scrollTop = log.scrollHeight);
  log.addEventListener("scroll", () => (following = log.scrollHeight - log.scrollTop - log.clientHeight < 40));
  log.addEventListener("load", toTheEnd, true);            // of a picture: it takes room only then
  const drawn = [];                                        // the turns that stand in the log
  let coming = null;                                       // and the one that is coming

  function draw() {
    root.dataset.theme = isDark() ? "dark" : "light";
    const turns = model.get("turns"), { parts } = model.get("speaking");
    while (drawn.length > turns.length) drawn.pop().remove();
    if (sent !== null && turns.length > sent) {            // it has arrived
      sent = null;
      text.value = files.value = "";
      waiting.replaceChildren();
    }
    for (const turn of turns.slice(drawn.length)) {
      // an answer that has come to its end stays where it is, unfolded or not
      const element = turn.who === "model" && coming ? coming : turnOf(turn);
      if (element === coming && turn.stopped) coming.append(make("p", { class: "stopped" }, "stopped"));
      if (element === coming) coming = null; else log.append(element);
      fill(element.querySelector(".parts"), turn.parts);
      drawn.push(element);
    }
    if (parts && drawn.at(-1)?.classList.contains("you")) {
      if (!coming) log.append(coming = turnOf({ who: "model" }));
      fill(coming.querySelector(".parts"), parts);
    } else if (coming) {                                   // it ended with nothing said
      coming.remove();
      coming = null;
    }
    coming?.classList.add("coming");
    drawn.at(-1)?.classList.remove("coming");
    log.setAttribute("aria-busy", String(Boolean(parts)));
    sendIt.disabled = Boolean(parts);
    stop.disabled = !parts;
    fresh.disabled = !turns.length;
    thinking.checked = model.get("thinking");
    if (!drawn.length && !coming) log.dataset.empty = live ? "Nothing was said yet." : "Nothing was said."; else delete log.dataset.empty;
    toTheEnd();
    root.dataset.drawn = `${turns.length} ${parts ? "speaking" : "silent"}`;
  }

  function complain(message) {
    problem.textContent = message;
    problem.hidden = !message;
    if (message) sent = null;
  }

  return follow(model, ["turns", "speaking", "thinking"], draw, complain);
}

export default { render };
