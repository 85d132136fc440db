// What the training explorer paints of a run: its curves, and the map of the layers. tests/pixels.py does the same.

import { surfaceOf } from "./panels.js";

const inkOf = (colour) => {                                // one number, as a pixel has it in memory
  const rgb = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  return new Uint32Array(new Uint8Array([...rgb, 255]).buffer)[0];
};

// Curves from 0 to 1, of which each snapshot is a step `across` wide.
//   curves   name -> a number for each snapshot; the last lies in front
//   at       the snapshot that is marked; jumps: those at which a curve goes up
export function paintCurves(canvas, curves, { at, jumps, across }, colours) {
  const { width, height } = canvas, { fill, show } = surfaceOf(canvas), inks = {};
  for (const [name, colour] of Object.entries(colours)) inks[name] = inkOf(colour);
  const rowOf = (x) => Math.floor((1 - x) * (height - 3) + 0.5);
  for (const share of [0, 0.5, 1]) fill(0, rowOf(share) + 1, width, 1, inks.grid);
  for (const jump of Object.values(jumps)) fill(jump * across, 0, 1, height, inks.jump);
  fill(at * across, 0, across, height, inks.grid);
  for (const [name, numbers] of Object.entries(curves)) {
    numbers.forEach((x, i) => {
      const row = rowOf(x), before = rowOf(numbers[Math.max(0, i - 1)]);
      fill(i * across, row, across, 3, inks[name]);
      fill(i * across, Math.min(row, before), 1, Math.abs(row - before) + 3, inks[name]);
    });
  }
  for (const top of [0, height - 3]) fill(at * across, top, across, 3, inks.here);
  show();
}

// How much each layer's correction counts: snapshots side by side, the lowest layer at the bottom.
export function paintLayers(canvas, lost, most, [across, down], palette) {
  const { fill, show } = surfaceOf(canvas);
  lost.forEach((row, i) => row.forEach((x, l) =>
    fill(i * across, (row.length - 1 - l) * down, across, down, palette[Math.floor((x / most) * 255 + 0.5)])));
  show();
}
