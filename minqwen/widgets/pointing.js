// Pointing without a mouse: keys move a cross over what can be pointed at, from number to number. Nothing here makes an
// element; the explorer hands over the cross.

// What can be pointed at has a `size`, [columns, rows], a `holder` of the cross, and for each of its places
//   read(x, y)          what is written there: strings and elements, or nothing
//   boxOf(x, y, w, h)   where it is on the screen, w places wide and h high
//   click(x, y)         as a mouse would
//   chosen()            the place that is chosen, if it says one

export class Surface {                                     // a canvas; `marks` are elements that mark what is chosen
  constructor(canvas, read, marks) {
    Object.assign(this, { element: canvas, marks });
    this.read = (x, y) => read(this.eventAt(x, y));
  }

  get holder() { return this.element.parentElement; }
  get size() { return [this.element.width, this.element.height]; }
  click(x, y) {                                            // a MouseEvent would round where it is
    this.element.dispatchEvent(Object.assign(new Event("click", { bubbles: true }), this.eventAt(x, y)));
  }

  eventAt(x, y) {                                          // in the middle of that pixel
    const { left, top, width, height } = this.boxOf(x, y, 1, 1);
    return { clientX: left + width / 2, clientY: top + height / 2 };
  }

  boxOf(x, y, w, h) {
    const { left, top, width, height } = this.element.getBoundingClientRect(), [W, H] = this.size;
    const [wide, high] = [width / W, height / H];
    return { left: left + x * wide, top: top + y * high, width: w * wide, height: h * high };
  }

  chosen() {                                               // a narrow mark says the column, a flat one the row
    const { left, top, width, height } = this.element.getBoundingClientRect(), [W, H] = this.size;
    const boxes = this.marks.map((mark) => mark.getBoundingClientRect()).filter((box) => box.width && box.height);
    if (!boxes.length) return null;
    const [narrow, flat] = ["width", "height"].map((side) => boxes.reduce((a, b) => (b[side] < a[side] ? b : a)));
    const [x, y] = [(narrow.left + narrow.width / 2 - left) / width, (flat.top + flat.height / 2 - top) / height];
    return [Math.floor(x * W), Math.floor(y * H)];
  }
}

export class Cells {                                       // elements in rows; `read` says what is written of one
  constructor(holder, rows, read) { Object.assign(this, { element: holder, holder, rows, of: read }); }
  get size() { return [this.rows[0].length, this.rows.length]; }
  read(x, y) { return this.of(this.rows[y][x]); }
  boxOf(x, y) { return this.rows[y][x].getBoundingClientRect(); }
  click(x, y) { this.rows[y][x].click(); }

  chosen() {
    const y = this.rows.findIndex((row) => row.some((cell) => cell.matches(".here, .here *")));
    return y < 0 ? null : [this.rows[y].findIndex((cell) => cell.matches(".here, .here *")), y];
  }
}

// ------------------------------------------------------------------------------------------------------------- walking

const textAt = (surface, [x, y]) => surface.read(x, y)?.map((part) => part.textContent ?? part).join("") ?? "";
const inside = ({ size: [columns, rows] }, [x, y]) => x >= 0 && x < columns && y >= 0 && y < rows;

// From a place on, in a direction: the first at which something else is written, or the place itself.
export function nextOf(surface, place, [across, down]) {
  const here = textAt(surface, place);
  for (let next = place; ;) {
    next = [next[0] + across, next[1] + down];
    if (!inside(surface, next)) return place;
    const text = textAt(surface, next);
    if (text && text !== here) return next;
  }
}

// The last place in a direction at which something is written; the place itself where nothing is any more.
export function lastOf(surface, place, [across, down]) {
  const [columns, rows] = surface.size, edge = (at, by, size) => (by > 0 ? size - 1 : by < 0 ? 0 : at);
  let last = [edge(place[0], across, columns), edge(place[1], down, rows)];
  while (inside(surface, last) && !textAt(surface, last)) last = [last[0] - across, last[1] - down];
  return inside(surface, last) ? last : place;
}

export function firstOf(surface) {                         // as one reads; null if nothing is written anywhere
  const [columns, rows] = surface.size;
  for (let y = 0; y < rows; y++)
    for (let x = 0; x < columns; x++) if (textAt(surface, [x, y])) return [x, y];
  return null;
}

function around(surface, place) {                          // all that has the number of this place: its box
  const here = textAt(surface, place), reach = (across, down) => {
    let [x, y] = place, steps = -1;
    for (; inside(surface, [x, y]) && textAt(surface, [x, y]) === here; x += across, y += down) steps++;
    return steps;
  };
  const [left, right, up, down] = [reach(-1, 0), reach(1, 0), reach(0, -1), reach(0, 1)];
  return surface.boxOf(place[0] - left, place[1] - up, left + right + 1, up + down + 1);
}

// ------------------------------------------------------------------------------------------------------------ the keys

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const LAST = { Home: [-1, 0], End: [1, 0], PageUp: [0, -1], PageDown: [0, 1] };

// `explorer` has a `stage` to point in, a `pointer`, which gives what to write, and `point()`, which writes it.
export class Pointing {
  surfaces = [];
  surface = null;                                          // what is pointed at; null while nothing is

  constructor(explorer, cross) { Object.assign(this, { explorer, cross }); }

  add(surface) { this.surfaces.push(surface); }

  seen() {                                                 // where numbers are in sight now, as one reads
    const before = (a, b) => a.compareDocumentPosition(b) & a.DOCUMENT_POSITION_FOLLOWING;
    return this.surfaces.filter((surface) => surface.element.checkVisibility() && firstOf(surface))
      .sort(({ element: a }, { element: b }) => (before(a, b) ? -1 : 1));
  }

  hears({ key, shiftKey }) {                               // was the key for us?
    if (key.toLowerCase() === "p" && this.surfaces.length) this.goOn();
    else if (!this.surface) return false;
    else if (key === "Escape") this.end();
    else if (key === "Enter") this.surface.click(...this.place);
    else if (key in LAST) this.place = lastOf(this.surface, this.place, LAST[key]);
    else if (key in STEPS)
      for (let n = shiftKey ? 10 : 1; n; n--) this.place = nextOf(this.surface, this.place, STEPS[key]);
    else return false;
    this.explorer.point();
    return true;
  }

  goOn() {                                                 // to the first surface, or to that after ours
    const { explorer } = this, seen = this.seen(), surface = seen[(seen.indexOf(this.surface) + 1) % seen.length];
    if (!surface) return;
    explorer.stage.focus();                                // what had the focus ends what it was pointed at
    Object.assign(this, { surface, place: this.chosenIn(surface) });
    explorer.pointer = () => this.write();
    explorer.pointed.setAttribute("aria-live", "polite");
  }

  chosenIn(surface) {
    const place = surface.chosen();
    return place && inside(surface, place) && textAt(surface, place) ? place : firstOf(surface);
  }

  write() {                                                // the cross to its place -> what is written there
    const { surface, cross } = this;
    if (!surface.element.checkVisibility()) return this.end();
    if (!inside(surface, this.place)) this.place = this.chosenIn(surface);
    if (!this.place) return this.end();
    const { left, top, width, height } = around(surface, this.place), { holder } = surface;
    const from = holder.getBoundingClientRect();
    holder.append(cross);
    cross.hidden = false;
    Object.assign(cross.style, { left: `${left - from.left + holder.scrollLeft}px`, width: `${width}px`,
                                 top: `${top - from.top + holder.scrollTop}px`, height: `${height}px` });
    cross.scrollIntoView({ block: "nearest", inline: "nearest" });
    return surface.read(...this.place);
  }

  end() {
    if (!this.surface) return null;
    const { explorer, cross } = this;
    this.surface = explorer.pointer = null;
    cross.hidden = true;
    explorer.pointed.setAttribute("aria-live", "off");
    return null;
  }
}
