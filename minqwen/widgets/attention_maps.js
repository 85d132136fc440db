// What the attention explorer shows: its maps and how they are painted.
//
// Pages, from the kernel or in the page of `to_html`, are one for each layer, the thumbnails of its heads, which are
// shades already; and one for each map, all its numbers up to the diagonal, float32 (see `page` in attention.py).
// tests/pixels.py paints the same, and compares every pixel.

import { bytesOf, floatsOf, shadeFromZero, shadeOf } from "./numbers.js";

// ---------------------------------------------------------------------------------------------------------------- maps

export function openTiles(page, { heads }) {               // of each head: limit, habits, and the shades of its tile
  const bytes = bytesOf(page).slice(), told = new Float32Array(bytes.buffer, 0, 4 * heads);
  const shades = bytes.subarray(16 * heads), size = shades.length / heads;
  return Array.from({ length: heads }, (_, h) => {
    const [limit, itself, previous, first] = told.subarray(4 * h, 4 * h + 4);
    return { limit, itself, previous, first, shades: shades.subarray(h * size, (h + 1) * size) };
  });
}

export function openMap(page) {                            // the rows of a triangle, one behind the other
  const all = floatsOf(page), rows = all.subarray(1);
  return { limit: all[0], at: (i, j) => (j > i ? 0 : rows[(i * (i + 1)) / 2 + j]) };
}

function strongest(map, T, size, row, column) {            // of a block, the first of equally strong ones
  let best = 0;
  for (let i = row * size; i < Math.min(T, (row + 1) * size); i++)
    for (let j = column * size; j < Math.min(i + 1, (column + 1) * size); j++)
      if (Math.abs(map.at(i, j)) > Math.abs(best)) best = map.at(i, j);
  return best;
}

// ------------------------------------------------------------------------------------------------------------ pictures

// A triangle of shades as squares, `unit` pixels wide, from (top, left) on.
function paintTriangle(pixels, width, top, left, { cells, unit }, palette, shadeAt) {
  for (let i = 0; i < cells; i++)
    for (let j = 0; j <= i; j++) {
      const colour = palette[shadeAt(i, j)], from = left + j * unit;
      for (let y = top + i * unit; y < top + (i + 1) * unit; y++)
        pixels.fill(colour, y * width + from, y * width + from + unit);
    }
}

export function paintMap(canvas, map, T, sizes, both, palette) {
  const image = new ImageData(canvas.width, canvas.height), shade = both ? shadeOf : shadeFromZero, { block } = sizes;
  paintTriangle(new Uint32Array(image.data.buffer), canvas.width, 0, 0, sizes, palette,
    (i, j) => shade(block === 1 ? map.at(i, j) : strongest(map, T, block, i, j), map.limit));
  canvas.getContext("2d").putImageData(image, 0, 0);
}

export function paintLayer(tiles, l, heads, size, palette) {                        // a column of the grid
  const image = new ImageData(tiles.wide, tiles.canvas.height), pixels = new Uint32Array(image.data.buffer);
  heads.forEach(({ shades }, h) => paintTriangle(
    pixels, tiles.wide, tiles.topOf(h), 0, size, palette, (i, j) => shades[i * size.cells + j]));
  tiles.canvas.getContext("2d").putImageData(image, tiles.leftOf(l), 0);
}
