"""Small pictures and clips of coloured shapes, drawn from a random generator alone, and the truth about them.

A `Scene` is one to four shapes on a grid of three by three places; a `Film` is one shape that moves steadily, sometimes
beside one that rests. Both know what is in them and draw themselves by pillow, four times too large and then reduced,
so that edges are smooth. Six pairs of a colour and a shape never occur in training: whoever names one of them right has
seen its colour and its shape apart.
"""

from dataclasses import dataclass, field, replace
from math import cos, dist, pi, sin
from pathlib import Path
from random import Random

from PIL import Image, ImageDraw, ImageFilter, ImageOps

SHAPES = "circle square triangle star cross diamond".split()
COLOURS = {                                             # as the text world has them, in its order; red, green, blue
    "red": (215, 30, 35), "blue": (35, 70, 215), "green": (25, 140, 60), "gold": (250, 195, 20),
    "pink": (255, 125, 195), "black": (15, 15, 15), "white": (255, 255, 255), "brown": (120, 65, 25),
}
BACKGROUNDS = [(158, 164, 170), (148, 172, 196), (162, 182, 160), (150, 188, 190)]      # grey, sky, sage, water
WHERE = {                                               # the nine places in reading order, and how one says it
    "top left": "in the top left", "top": "at the top", "top right": "in the top right",
    "left": "on the left", "middle": "in the middle", "right": "on the right",
    "bottom left": "in the bottom left", "bottom": "at the bottom", "bottom right": "in the bottom right",
}
WAYS = {"to the left": (-1, 0), "to the right": (1, 0), "up": (0, -1), "down": (0, 1)}  # y grows downwards
SIZES = [(64, 64), (64, 80), (80, 64), (64, 96), (96, 64), (80, 80), (80, 96), (96, 80), (96, 96)]
HELD_OUT = [("red", "star"), ("blue", "square"), ("green", "circle"),
            ("gold", "triangle"), ("pink", "cross"), ("white", "diamond")]
TRAINED = [(colour, kind) for colour in COLOURS for kind in SHAPES if (colour, kind) not in HELD_OUT]
FINER = 4                                               # how much too large a picture is drawn


def held_out(colour: str, shape: str) -> bool:
    """Is this pair kept out of every training sample?"""
    return (colour, shape) in HELD_OUT


@dataclass(frozen=True)
class Shape:
    """One shape. `x`, `y` (its centre) and `radius` are in pixels; `place` is a key of WHERE, or None in a clip.

    colour: a key of COLOURS; or red, green and blue of one that has no name.
    plump: from 0, the leanest form of its kind, to 1, the plumpest.
    """

    kind: str
    colour: str | tuple[int, int, int]
    x: float
    y: float
    radius: float
    place: str | None = None
    plump: float = 0.5

    def __str__(self) -> str:
        return f"{self.colour} {self.kind}" if self.colour in COLOURS else self.kind


def outline(kind: str, plump: float = 0.5) -> list[tuple[float, float]]:
    """The corners of a shape, from -1 to 1 both ways, clockwise from the top; y grows downwards. `plump`: see `Shape`.

    Raises ValueError for a shape that the world does not have.
    """
    more = plump - 0.5                                  # than the middling form

    def round_the_circle(*radii):
        corners = len(radii)
        return [(r * sin(2 * pi * i / corners), -r * cos(2 * pi * i / corners)) for i, r in enumerate(radii)]

    if kind == "circle":
        return round_the_circle(*96 * [0.95])
    if kind == "square":
        return [(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)]
    if kind == "triangle":
        a = 1 - 0.2 * abs(more)
        return [(0, -1), (a, 0.8), (-a, 0.8)]
    if kind == "star":
        return round_the_circle(*5 * [1, 0.42 + 0.16 * more])
    if kind == "cross":
        a, b = 0.33 + 0.16 * more, 0.95
        return [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a),
                (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]
    if kind == "diamond":
        a = 0.72 + 0.28 * more
        return [(0, -1), (a, 0), (0, 1), (-a, 0)]
    raise ValueError(f"There is no shape {kind!r}; there are {', '.join(SHAPES)}.")


def paint(width: int, height: int, background: tuple[int, int, int], shapes: list[Shape]) -> Image.Image:
    """The shapes on a plain background, the later over the earlier: an RGB picture of any size."""
    canvas = Image.new("RGB", (FINER * width, FINER * height), background)
    brush = ImageDraw.Draw(canvas)
    for shape in shapes:
        corners = [(FINER * (shape.x + shape.radius * x), FINER * (shape.y + shape.radius * y))
                   for x, y in outline(shape.kind, shape.plump)]
        brush.polygon(corners, fill=COLOURS.get(shape.colour, shape.colour))
    return canvas.reduce(FINER)


def unnamed_colour(rng: Random, kind: str, background: tuple[int, int, int]) -> tuple[int, int, int]:
    """Any colour that stands out from the background and is far from the one that is held out for this shape."""
    avoided = [background, *(COLOURS[colour] for colour, shape in HELD_OUT if shape == kind)]
    while True:
        colour = rng.randrange(256), rng.randrange(256), rng.randrange(256)
        if min(dist(colour, other) for other in avoided) > 60:
            return colour


def pairs(rng: Random, count: int, test: bool) -> list[tuple[str, str]]:
    """`count` pairs of a colour and a shape. Now and then a shape comes again, so that there is something to count."""
    known, out = HELD_OUT if test else TRAINED, []
    for _ in range(count):
        colour, kind = rng.choice(known)
        if out and rng.random() < 0.35:
            kind = rng.choice(out)[1]
            colour = rng.choice([colour for colour, other in known if other == kind])
        out.append((colour, kind))
    return out


@dataclass(frozen=True)
class Scene:
    """A picture: shapes in reading order, each in a place of its own."""

    width: int
    height: int
    background: tuple[int, int, int]
    shapes: list[Shape]

    @classmethod
    def sample(cls, rng: Random, count: int | None = None, size: tuple[int, int] | None = None,
               test: bool = False) -> "Scene":
        """A random picture of 1 to 4 shapes; `count` (1 to 9) and `size` (width, height) may be given.

        Its colours and shapes are pairs of training, or with `test` all of them pairs that are held out.
        """
        count = count or rng.choices((1, 2, 3, 4), weights=(3, 3, 2, 2))[0]
        width, height = size or (rng.choice(SIZES) if rng.random() < 0.3 else SIZES[0])
        cell = min(width, height) / 3
        shapes = []
        for i, (colour, kind) in zip(sorted(rng.sample(range(9), count)), pairs(rng, count, test)):
            radius = cell * rng.uniform(0.41, 0.48)
            row, column = divmod(i, 3)
            x, y = ((n + 0.5) * whole / 3 + rng.uniform(-1, 1) * (whole / 6 - radius)
                    for n, whole in ((column, width), (row, height)))
            shapes.append(Shape(kind, colour, x, y, radius, list(WHERE)[i], rng.random()))
        return cls(width, height, rng.choice(BACKGROUNDS), shapes)

    def in_unnamed_colours(self, rng: Random) -> "Scene":
        """The same shapes in the same places, in colours that nobody has a word for."""
        return replace(self, shapes=[replace(shape, colour=unnamed_colour(rng, shape.kind, self.background))
                                     for shape in self.shapes])

    @property
    def named(self) -> bool:
        """Have all its colours a name?"""
        return all(shape.colour in COLOURS for shape in self.shapes)

    def find(self, kind: str | None = None, colour: str | None = None) -> list[Shape]:
        """The shapes of this kind and of this colour, in reading order."""
        return [s for s in self.shapes if kind in (None, s.kind) and colour in (None, s.colour)]

    def draw(self) -> Image.Image:
        """The picture, RGB, `width` by `height` pixels."""
        return paint(self.width, self.height, self.background, self.shapes)


@dataclass(frozen=True)
class Film:
    """A clip: `moving` stands where it begins and goes `step` pixels a frame in the direction `way`, a key of WAYS."""

    width: int
    height: int
    background: tuple[int, int, int]
    moving: Shape
    way: str
    step: float
    length: int                                         # frames
    resting: list[Shape] = field(default_factory=list)
    fps: float = 2.0                                    # frames per second, from which the times in the text come

    @classmethod
    def sample(cls, rng: Random, size: tuple[int, int] = (64, 64), test: bool = False) -> "Film":
        """A random clip of 4 to 8 frames, half of them with a second shape that rests beside the path."""
        length, way = rng.randint(4, 8), rng.choice(list(WAYS))
        sideways = WAYS[way][0] != 0
        along, across = size if sideways else size[::-1]
        radius = min(size) / 3 * rng.uniform(0.41, 0.48)
        travel = rng.uniform(0.4, 1) * (along - 2 * radius)
        begin = rng.uniform(radius, along - radius - travel)
        if sum(WAYS[way]) < 0:                          # to the left and up: from the far end
            begin = along - begin
        pair, other = pairs(rng, 2, test)
        lane, resting = rng.uniform(radius, across - radius), []
        if rng.random() < 0.5 and pair != other:
            lane = rng.choice((1, -1)) * (across / 2 - radius) * rng.uniform(0.7, 1)    # from the middle, to one side
            beside = (rng.uniform(radius, along - radius), across / 2 - lane)           # and the other on the other
            lane += across / 2
            resting.append(Shape(other[1], other[0], *(beside if sideways else beside[::-1]), radius,
                                 plump=rng.random()))
        start = (begin, lane) if sideways else (lane, begin)
        background = rng.choice(BACKGROUNDS)
        fps = rng.choice((2.0, 2.0, 2.0, 24.0))         # a list of frames that does not say is taken for 24
        moving = Shape(pair[1], pair[0], *start, radius, plump=rng.random())
        return cls(*size, background, moving, way, travel / (length - 1), length, resting, fps)

    @property
    def shapes(self) -> list[Shape]:
        """All that is to be seen, the moving one first."""
        return [self.moving, *self.resting]

    def frames(self) -> list[Image.Image]:
        """The clip's frames, RGB, in order."""
        dx, dy = WAYS[self.way]
        return [paint(self.width, self.height, self.background, [*self.resting, replace(
                    self.moving, x=self.moving.x + i * self.step * dx, y=self.moving.y + i * self.step * dy)])
                for i in range(self.length)]


# ------------------------------------------------------------------------------------- pictures that ship


def draw_media(folder: str | Path) -> None:
    """Write what lessons look at, data/media, into `folder`: `python -m minqwen.nano.pictures`.

    All are larger than what the model was trained on, so that there is something to resize.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    grey, sky, sage, water = BACKGROUNDS
    paint(192, 192, grey, [Shape("circle", "blue", 32, 32, 28), Shape("star", "gold", 160, 96, 30),
                           Shape("square", "red", 96, 160, 28)]).save(folder / "three_shapes.png")
    paint(240, 192, sage, [Shape("star", "pink", 40, 96, 29), Shape("triangle", "brown", 120, 32, 28),
                           Shape("cross", "black", 200, 32, 28), Shape("star", "gold", 200, 160, 29)],
          ).save(folder / "two_stars.png")
    paint(384, 128, water, [Shape("diamond", "gold", 64, 64, 32), Shape("circle", "red", 192, 64, 30),
                            Shape("triangle", "black", 320, 64, 30)]).save(folder / "wide.png")
    paint(192, 192, sky, [Shape("star", "red", 96, 96, 30), Shape("circle", "green", 32, 160, 28)],   # held out, both
          ).save(folder / "never_seen.png")
    landscape(500, 333).save(folder / "landscape.jpg", quality=90)
    film = Film(128, 128, sky, Shape("star", "gold", 22, 30, 19), "to the right", 14, 7,
                [Shape("cross", "black", 80, 98, 19)])
    first, *rest = film.frames()
    first.save(folder / "moving.webp", save_all=True, append_images=rest, duration=500, loop=0, lossless=True)


def landscape(width: int, height: int) -> Image.Image:
    """An evening by the sea, soft as a photograph: nothing in it has an edge along the pixels."""
    evening = ImageOps.colorize(Image.linear_gradient("L"), (38, 62, 120), (250, 196, 140), mid=(214, 120, 110))
    picture = evening.resize((width, height), Image.Resampling.BICUBIC)
    brush, sea = ImageDraw.Draw(picture), 0.62 * height
    x, y, radius = 0.68 * width, 0.5 * height, 0.09 * height
    brush.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(255, 226, 150))
    brush.rectangle((0, sea, width, height), fill=(46, 74, 112))
    for row in range(int(sea), height, 3):                                              # the sun on the waves
        swing = radius * (0.35 + 0.9 * (row - sea) / (height - sea)) * (0.6 + 0.4 * cos(1.7 * row))
        brush.line((x - swing, row, x + swing, row), fill=(240, 180, 130))
    hills = [(i, sea - height * (0.1 + 0.08 * sin(0.017 * i) + 0.03 * sin(0.06 * i))) for i in range(width // 2 + 40)]
    brush.polygon([(0, sea), *hills, (width // 2 + 120, sea)], fill=(36, 44, 70))
    return picture.filter(ImageFilter.GaussianBlur(1.2))


if __name__ == "__main__":
    draw_media(Path(__file__).parents[2] / "data" / "media")
