// What the explorers share, without a page: numbers, words, keys; and the memory that the state explorer follows.
// Run by tests/test_explorer_modules.py, or by hand: node --test tests

import assert from "node:assert/strict";
import { test } from "node:test";

import * as numbers from "../minqwen/widgets/numbers.js";
import * as pointing from "../minqwen/widgets/pointing.js";
import { openPage } from "../minqwen/widgets/state_memory.js";

test("left and right are the token, up and down the head, Page Up and Page Down the layer", () => {
  const moves = { ArrowLeft: ["token", -1], ArrowRight: ["token", 1], ArrowUp: ["head", 1], ArrowDown: ["head", -1],
                  PageUp: ["layer", 1], PageDown: ["layer", -1], Home: ["token", -Infinity], End: ["token", Infinity] };
  for (const [key, move] of Object.entries(moves)) assert.deepEqual(numbers.moveOf(key), move, key);
});

test("an explorer may move something else sideways, and has keys of its own", () => {
  const own = { s: ["signs"], ArrowUp: ["batch", 1] };
  assert.deepEqual(numbers.moveOf("ArrowRight", "layer", own), ["layer", 1]);
  assert.deepEqual(numbers.moveOf("End", "layer", own), ["layer", Infinity]);
  assert.deepEqual(numbers.moveOf("ArrowUp", "layer", own), ["batch", 1]);
  assert.deepEqual(numbers.moveOf("S", undefined, own), ["signs"]);
  for (const key of ["x", "Tab", "constructor", "toString"])
    assert.equal(numbers.moveOf(key, undefined, own), undefined, key);
});

test("a slider's keys move it as those of every slider do: a page is a tenth of it, and at least a step", () => {
  const by = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, Home: -Infinity, End: Infinity };
  for (const [key, steps] of Object.entries(by)) assert.equal(numbers.slideBy(key, 40), steps, key);
  assert.deepEqual([3, 40, 114].map((whole) => numbers.slideBy("PageUp", whole)), [1, 4, 11]);
  assert.equal(numbers.slideBy("PageDown", 40), -4);
  for (const key of ["x", "constructor"]) assert.equal(numbers.slideBy(key, 40), undefined, key);
});

// Numbers in a picture four wide and three high, with nothing in between and a cell that is two wide.
const picture = ["aa b", "cd  ", "e fg"], surface = {
  size: [4, 3], read: (x, y) => (picture[y][x] === " " ? null : [picture[y][x]]),
};

test("pointing goes from number to number, over what has none, and stays at an edge", () => {
  const walk = (from, ...ways) => ways.reduce((place, way) => pointing.nextOf(surface, place, way), from);
  assert.deepEqual(walk([0, 0], [1, 0]), [3, 0]);                      // another number, not another pixel
  assert.deepEqual(walk([3, 0], [-1, 0]), [1, 0]);
  assert.deepEqual(walk([3, 0], [0, 1]), [3, 2]);
  assert.deepEqual(walk([3, 2], [0, 1], [1, 0]), [3, 2]);
  assert.deepEqual(pointing.lastOf(surface, [0, 1], [1, 0]), [1, 1]);  // the last number, where the row ends early
  assert.deepEqual(pointing.lastOf(surface, [2, 2], [0, -1]), [2, 2]);
  assert.deepEqual(pointing.firstOf(surface), [0, 0]);
  const empty = { size: [3, 2], read: () => null };                    // what was pointed at has been switched off
  assert.deepEqual(pointing.lastOf(empty, [1, 1], [1, 0]), [1, 1]);
  assert.deepEqual(pointing.nextOf(empty, [1, 1], [0, -1]), [1, 1]);
  assert.equal(pointing.firstOf({ size: [2, 2], read: () => null }), null);
});

test("zero has the middle of a palette with signs, and the beginning of one without", () => {
  assert.deepEqual([-2, -1, 0, 1, 2].map((x) => numbers.shadeOf(x, 1)), [1, 1, 128, 255, 255]);
  assert.deepEqual([-1, 0, 0.5, 1, 2].map((x) => numbers.shadeFromZero(x, 1)), [0, 0, 128, 255, 255]);
});

test("bytes come in base64 from a page and as a view from a notebook, and are the same", () => {
  const bytes = new Uint8Array([0, 0, 1, 2, 250, 255]), view = new DataView(bytes.buffer, 2, 4);
  assert.deepEqual(numbers.bytesOf(view), bytes.slice(2));
  assert.deepEqual(numbers.bytesOf(Buffer.from(bytes.slice(2)).toString("base64")), bytes.slice(2));
  const floats = new Float32Array([1.5, -2]), shifted = new Uint8Array(9);
  shifted.set(new Uint8Array(floats.buffer), 1);                       // in the middle of a message
  assert.deepEqual(numbers.floatsOf(new DataView(shifted.buffer, 1, 8)), floats);
});

test("a palette's colour is said to a canvas and to a style", () => {
  const rgb = new Uint8Array(768);
  rgb.set([10, 20, 30], 3 * 7);
  const palette = numbers.openPalette(Buffer.from(rgb).toString("base64"));
  assert.deepEqual([...new Uint8Array(palette.buffer, 4 * 7, 4)], [10, 20, 30, 255]);
  assert.equal(numbers.cssOf(palette, 7), "rgb(10 20 30)");
});

test("what is said of numbers and texts", () => {
  assert.equal(numbers.signed(-0.25, 2), "−0.25");
  assert.equal(numbers.signed(0.25), "+0.2500");
  assert.deepEqual([0.5, 0.994, 0.9995, 1, 1.4].map(numbers.percent), ["50 %", "99.4 %", "99.95 %", "100 %", "140 %"]);
  assert.deepEqual([0, 0.0004, 0.0123, 0.9996, 1].map(numbers.chance), ["0 %", "< 0.1 %", "1.2 %", "100 %", "100 %"]);
  assert.equal(numbers.kilobytes(1_234_001), "1,235 kB");
  assert.equal(numbers.readable(" a\n\t"), "·a↵⇥");
  assert.equal(numbers.readable(""), "∅");
  assert.equal(numbers.endOf("Ann  has\na cup", 20), "Ann has a cup");
  assert.equal(numbers.endOf("Ann has a red cup", 9), "… red cup");
  assert.equal(numbers.plain(["a ", { textContent: "b" }, "."]), "a b.");
});

test("few states are kept of a long text: whichever way one goes, they are the same", () => {
  const [T, Dk, Dv] = [14, 3, 4], random = Array.from({ length: T * (Dk + Dv + 2) + 3 }, (_, i) => Math.sin(i * i));
  const page = Buffer.from(new Float32Array(random).buffer).toString("base64");
  const open = (kept) => openPage(page, { key_dim: Dk, value_dim: Dv, kept, texts: [
    { tokens: Array(T).fill({}), begins_empty: true }] }).memories[0];
  const all = open(1e9), few = open(4 * Dk * Dv * 8);
  for (const t of [13, 2, 7, 0, 12, ...Array(T).keys()]) assert.deepEqual(few.before(t), all.before(t), `token ${t}`);
  assert.equal(few.stride, 4);
  assert.equal(few.kept.length, 4);
  assert.equal(all.kept.length, T);
});
