// What the gate explorer shows: the numbers of a layer's gates and how they are painted.
//
// Pages, from the kernel or in the page of `to_html`, are float32: one for each layer, its numbers and their places on
// the panels' scales; and one for each head, its output gate by dimensions (see `page` in minqwen/widgets/gates.py).
// tests/pixels.py paints the same, and compares every pixel.

import { floatsOf, shadeFromZero, shadeOf } from "./numbers.js";
import { surfaceOf } from "./panels.js";

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

// A head's output gate: dimensions are rows, from the top; tokens are columns.
export function paintDimensions(canvas, { limit, factors }, [T, D], [across, down], both, palette) {
  const { fill, show } = surfaceOf(canvas), shade = both ? shadeOf : shadeFromZero;
  for (let t = 0; t < T; t++)
    for (let d = 0; d < D; d++) fill(t * across, d * down, across, down, palette[shade(factors[t * D + d], limit)]);
  show();
}
