// Panels, as the explorers of gates and experts have them: rows by tokens under a heading, with labels and profiles.

import { make } from "./explorer.js";
import { cssOf } from "./numbers.js";

export const CAPTION = 26, BELOW = 6, LABELS = 60;         // pixels: a panel's heading, the room below and beside it

export function resize(canvas, width, height) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
}

export function put(band, left, top, width, height) {
  Object.assign(band.style, { left: `${left}px`, top: `${top}px`, width: `${width}px`, height: `${height}px` });
}

// A panel: its heading, the rows' labels, the picture and what marks a place.
export function panelOf(kind) {
  const ramp = make("span", { class: "ramp" }, make("i"), make("span")), caption = make("span", { class: "name" });
  const side = make("div", { class: "side" }), canvas = make("canvas", { class: kind });
  const [row, column] = [1, 2].map(() => make("i", { class: "band" }));
  const heading = make("div", { class: "heading" }, caption, ramp);
  heading.style.height = `${CAPTION}px`;
  const all = make("div", { class: "panel" }, heading, side, make("div", { class: "picture" }, canvas, row, column));
  all.style.marginBottom = `${BELOW}px`;
  return { caption, ramp, side, canvas, row, column, all };
}

export function gradient({ ramp }, palette, first, marks) {       // a scale, with its marks in equal steps
  const stops = Array.from({ length: 9 }, (_, i) => cssOf(palette, Math.round(first + (i / 8) * (255 - first))));
  ramp.firstChild.style.background = `linear-gradient(90deg, ${stops.join(", ")})`;
  ramp.lastChild.replaceChildren(...marks.map((mark) => make("span", {}, mark)));
  ramp.classList.toggle("many", marks.length > 3);
}

// What is written beside the rows, from the bottom up: of those that are `high` pixels high every n-th, and ours.
export function labelled(name, rows, here, high) {
  const every = Math.ceil(12 / high), apart = (h) => h % every === 0 && Math.abs(h - here) * high >= 12;
  return Array.from({ length: rows }, (_, h) => h).filter((h) => h === here || apart(h)).map((h) => {
    const label = make("span", h === here ? { class: "here" } : {}, h === here ? `${name} ${h}` : `${h}`);
    label.style.top = `${(rows - h - 0.5) * high}px`;
    return label;
  });
}

// ------------------------------------------------------------------------------------------------------------ pictures

const BEHIND = 0, BAR = 140, HERE = 255;                   // colours of the bars

export function surfaceOf(canvas) {
  const { width, height } = canvas, image = new ImageData(width, height), pixels = new Uint32Array(image.data.buffer);
  return {
    fill: (left, top, across, down, colour) => {
      for (let y = top; y < top + down; y++) pixels.fill(colour, y * width + left, y * width + left + across);
    },
    show: () => canvas.getContext("2d").putImageData(image, 0, 0),
  };
}

// A panel: every token's and head's place on the scale, heads as rows, the first at the bottom; and two profiles as
// bars, beside it the heads of this token, below it the tokens of this head. Their common bar has the full colour.
//   sizes   { cell: [across, down], gap, bars: [below, beside] }, in pixels
export function paintPanel(canvas, shares, [T, H], [token, head], { cell, gap, bars }, palette) {
  const { fill, show } = surfaceOf(canvas), [across, down] = cell, [below, beside] = bars;
  const [wide, high] = [T * across, H * down], at = (t, h) => shares[t * H + h], topOf = (h) => (H - 1 - h) * down;
  for (let t = 0; t < T; t++)
    for (let h = 0; h < H; h++) fill(t * across, topOf(h), across, down, palette[Math.floor(at(t, h) * 255 + 0.5)]);
  fill(wide + gap, 0, beside, high, palette[BEHIND]);
  fill(0, high + gap, wide, below, palette[BEHIND]);
  for (let h = 0; h < H; h++) {
    const long = Math.floor(at(token, h) * beside + 0.5);
    fill(wide + gap, topOf(h), long, down - (down > 3), palette[h === head ? HERE : BAR]);
  }
  for (let t = 0; t < T; t++) {
    const tall = Math.floor(at(t, head) * below + 0.5);
    fill(t * across, high + gap + below - tall, across - (across > 3), tall, palette[t === token ? HERE : BAR]);
  }
  show();
}
