// What a page can do besides being read. Without it everything is there, only nothing folds and nothing is found.
"use strict";

const header = document.currentScript.parentElement;

// An explorer tells how high it is, and its frame follows.
addEventListener("message", ({ data, source }) => {
  for (const frame of document.querySelectorAll("iframe.explorer"))
    if (frame.contentWindow === source && data.height > 0) frame.style.height = `${data.height}px`;
});

// The contents stand beside a wide page, and fold away above a narrow one.
const contents = header.querySelector("details");
const wide = matchMedia("(min-width: 1100px)");
const fold = () => (contents.open = wide.matches);
wide.addEventListener("change", fold);
fold();
contents.addEventListener("click", ({ target }) => {
  if (target.closest("a") && !wide.matches) contents.open = false;
});

// Which part is being read is marked in the contents, and kept in sight there.
addEventListener("DOMContentLoaded", () => {
  const links = [...header.querySelectorAll(".here a")];
  const places = links.map((link) => document.getElementById(decodeURIComponent(link.hash.slice(1))));
  const mark = () => {
    const at = places.findLastIndex((place) => place.getBoundingClientRect().top < innerHeight / 3);
    links.forEach((link, i) => link.toggleAttribute("data-read", i === at));
    const link = links[at] ?? header.querySelector("nav [aria-current]");
    if (!link || !wide.matches) return;
    const { top, bottom } = link.getBoundingClientRect();
    if (top < 80 || bottom > innerHeight - 40) header.scrollTop += top - innerHeight / 2;
  };
  let waits = false;
  addEventListener("scroll", () => {
    if (!waits) requestAnimationFrame(() => (waits = false, mark()));
    waits = true;
  }, { passive: true });
  mark();
});

// The search: its library and its index come with the first look at it.
const search = header.querySelector("search");
const field = search.querySelector("input");
const found = search.querySelector(".found");
const count = search.querySelector(".count");
const MOST = 12;
let index;

const load = () => (index ??= new Promise((done, failed) => {
  const script = document.createElement("script");
  script.src = "search.js";
  script.onerror = failed;
  script.onload = () => {
    const made = new globalThis.MiniSearch({
      fields: ["heading", "text"],
      searchOptions: {
        boost: { heading: 3 }, combineWith: "AND", prefix: true, fuzzy: (term) => (term.length > 4 ? 0.2 : false),
      },
    });
    made.addAll(globalThis.sections.map((section, id) => ({ id, ...section })));
    done(made);
  };
  document.head.append(script);
}));

/** A piece of the text around the first of the terms, with all of them marked. */
function excerpt(text, terms) {
  const first = Math.min(...terms.map((term) => text.toLowerCase().indexOf(term)).filter((at) => at >= 0), text.length);
  const from = first < text.length ? Math.max(0, text.lastIndexOf(" ", Math.max(0, first - 50))) : 0;
  const piece = document.createElement("p");
  const longest = [...terms].sort((a, b) => b.length - a.length).map((term) => term.replace(/[^\p{L}\p{N}]/gu, "\\$&"));
  const parts = text.slice(from, from + 160).split(new RegExp(`(${longest.join("|")})`, "gi"));
  parts.forEach((part, i) => {
    const words = i % 2 ? document.createElement("mark") : document.createTextNode("");
    words.textContent = part;
    piece.append(words);
  });
  if (from > 0) piece.prepend("… ");
  if (from + 160 < text.length) piece.append(" …");
  return piece;
}

async function look() {
  const asked = field.value.trim();
  const results = asked ? (await load()).search(asked) : [];
  if (asked !== field.value.trim()) return;                 // there is a newer question
  count.textContent = asked ? (results.length ? `${results.length} found` : "Nothing found.") : "";
  found.replaceChildren(...results.slice(0, MOST).map(({ id, terms }) => {
    const { page, title, anchor, heading, text } = globalThis.sections[id];
    const item = document.createElement("li");
    const link = document.createElement("a");
    link.href = anchor ? `${page}#${encodeURIComponent(anchor)}` : page;
    link.textContent = heading;
    const where = document.createElement("small");
    where.textContent = title === heading ? "" : title;
    link.append(where, excerpt(text, terms));
    item.append(link);
    return item;
  }));
  search.classList.toggle("asked", Boolean(asked));
}

function leave() {
  field.value = "";
  look();
}

search.hidden = false;
field.addEventListener("focus", load, { once: true });
field.addEventListener("input", look);
found.addEventListener("click", leave);
addEventListener("keydown", (event) => {
  const writes = event.target.closest("input, textarea, select, [contenteditable]");
  if (event.key === "/" && !writes && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    field.focus();
  }
  if (!search.contains(event.target)) return;
  const stops = [field, ...found.querySelectorAll("a")];
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (step) {
    event.preventDefault();
    stops[Math.min(stops.length - 1, Math.max(0, stops.indexOf(document.activeElement) + step))].focus();
  } else if (event.key === "Escape") {
    leave();
    field.focus();
  } else if (event.key === "Enter" && event.target === field) {
    stops[1]?.click();
  }
});
