// What the gate explorer shows: the numbers of a layer's gates and how they are painted.
//
// Pages, from the kernel or in the page of `to_html`, are float32: one for each layer, its numbers and their places on
// the panels' scales; and one for each head, its output gate by dimensions (see `page` in minqwen/widgets/gates.py).
// tests/pixels.py paints the same, and compares every pixel.

import { floatsOf, shadeFromZero, shadeOf } from "./numbers.js";

// Of a layer: name -> (T, H), what is told; and for each panel (T, H), where that stands on its scale.
export function openLayer(page, { heads, told, panels }, T) {
  const all = floatsOf(page), size = T * heads, part = (i) => all.subarray(i * size, (i + 1) * size);
  const numbers = Object.fromEntries(told.map((name, i) => [name, part(i)]));
  return { told: numbers, shares: panels.map((_, i) => part(told.length + i)) };
}

export function openFactors(page) {                        // (T, D)
  const all = floatsOf(page);
  return { limit: all[0], factors: all.subarray(1) };
}

// ------------------------------------------------------------------------------------------------------------ pictures

const BEHIND = 0, BAR = 140, HERE = 255;                   // colours of the bars

function surfaceOf(canvas) {
  const { width, height } = canvas, image = new ImageData(width, height), pixels = new Uint32Array(image.data.buffer);
  return {
    fill: (left, top, across, down, colour) => {
      for (let y = top; y < top + down; y++) pixels.fill(colour, y * width + left, y * width + left + across);
    },
    put: () => canvas.getContext("2d").putImageData(image, 0, 0),
  };
}

// A panel: every token's and head's place on the scale, heads as rows, the first at the bottom; and two profiles as
// bars, beside it the heads of this token, below it the tokens of this head. Their common bar has the full colour.
//   sizes   { cell: [across, down], gap, bars: [below, beside] }, in pixels
export function paintPanel(canvas, shares, [T, H], [token, head], { cell, gap, bars }, palette) {
  const { fill, put } = surfaceOf(canvas), [across, down] = cell, [below, beside] = bars;
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
  put();
}

// A head's output gate: dimensions are rows, from the top; tokens are columns.
export function paintDimensions(canvas, { limit, factors }, [T, D], [across, down], both, palette) {
  const { fill, put } = surfaceOf(canvas), shade = both ? shadeOf : shadeFromZero;
  for (let t = 0; t < T; t++)
    for (let d = 0; d < D; d++) fill(t * across, d * down, across, down, palette[shade(factors[t * D + d], limit)]);
  put();
}
