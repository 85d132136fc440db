"""Driving explorers: a Chromium that counts what it fetches, a JupyterLab of its own, and a canvas's pixels."""

import base64
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import nbformat
import numpy as np

from conftest import REPOSITORY

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update"]

# In a function of the page: colours as [r, g, b, a], what is behind an element, and the contrast of two.
COLOURS = """
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a), 1];
  const behind = (e) => {
    const colour = rgba(getComputedStyle(e).backgroundColor);
    return colour[3] > 0.99 ? colour : over(colour, e.parentElement ? behind(e.parentElement) : [255, 255, 255, 1]);
  };
  const light = (rgb) => rgb.slice(0, 3).map((x) => x / 255)
    .map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4))
    .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
  const contrast = (first, second) => {
    const [x, y] = [light(first), light(second)].sort((p, q) => q - p);
    return (x + 0.05) / (y + 0.05);
  };
"""

# Take an explorer to each place in turn, by its sliders, and bring back all pixels of one of its canvases.
WALK = """async ([root, places, selector]) => {
  const until = async (wanted) => {
    const start = Date.now();
    while (!root.dataset.drawn?.startsWith(wanted + " ")) {
      if (Date.now() - start > 60000) throw new Error(`wanted ${wanted}, but shown is ${root.dataset.drawn}`);
      await new Promise((next) => setTimeout(next));
    }
  };
  const canvas = root.querySelector(selector), all = [];
  for (const [wanted, sliders] of places) {
    for (const [name, value] of sliders) {
      const range = root.querySelector(`[data-moves=${name}]`);
      range.value = value;
      range.dispatchEvent(new Event("input"));
    }
    await until(wanted);
    all.push(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data);
  }
  const reader = new FileReader();
  const read = new Promise((done) => (reader.onload = () => done(reader.result.split(",")[1])));
  reader.readAsDataURL(new Blob(all));
  return read;
}"""


@contextmanager
def a_browser(chromium, profile):
    """A persistent context with a fresh profile, as a person's browser is."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(profile), executable_path=chromium, args=FLAGS, viewport={"width": 1200, "height": 1000})
        yield context
        context.close()


def watched(page, home):
    """Lists that fill up with what goes wrong on a page: requests that leave `home`, and errors."""
    strangers, errors = [], []
    page.on("request", lambda request: strangers.append(request.url)
            if not request.url.startswith((home, "data:", "blob:")) else None)
    page.on("websocket", lambda socket: strangers.append(socket.url)
            if not socket.url.startswith(home.replace("http", "ws", 1)) else None)
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    return strangers, errors


def walk(root, places, layers):
    """(N, height, width, 4) uint8: the canvas of the state explorer `root` at each (token, layer, head)."""
    return walk_by(root, [((token, layer, head), {"layer": layers.index(layer), "head": head, "token": token})
                          for token, layer, head in places])


def walk_by(root, steps, canvas="canvas"):
    """(N, height, width, 4) uint8: a canvas of the explorer `root` after each step.

    steps: (what it then shows, as `data-drawn` begins; slider -> where to put it, in this order) each.
    """
    size = root.evaluate(f"root => {{ const c = root.querySelector('{canvas}'); return [c.height, c.width]; }}")
    steps = [[" ".join(map(str, wanted)), list(sliders.items())] for wanted, sliders in steps]
    pixels = root.evaluate(f"(root, [steps, canvas]) => ({WALK})([root, steps, canvas])", [steps, canvas])
    return np.frombuffer(base64.b64decode(pixels), np.uint8).reshape(-1, *size, 4)


def drawn_at_once(root, slider, value):
    """What an explorer shows right after a slider has moved, before anything outside the page can have answered.

    Only promises that are kept already go on in between: no timer, no frame and no message from a kernel comes through.
    """
    return root.evaluate("""async (root, [name, value]) => {
      const range = root.querySelector(`[data-moves=${name}]`);
      range.value = value;
      range.dispatchEvent(new Event("input"));
      for (let i = 0; i < 100; i++) await null;
      return root.dataset.drawn;
    }""", [slider, value])


def shown(root, place, theme="light"):
    """Wait until the explorer shows this place: (token, layer, head) and what else it has."""
    wanted = " ".join(map(str, place)) + " " + theme
    root.page.wait_for_function("([root, wanted]) => root.dataset.drawn === wanted",
                                arg=[root.element_handle(), wanted], timeout=60_000)


def press(place, key, *wanted, theme="light"):
    """Press a key somewhere in an explorer, and wait until the explorer shows what is wanted."""
    place.press(key)
    shown(place.locator("xpath=ancestor-or-self::section"), wanted, theme)


def go_dark(page):
    """The dark theme of JupyterLab."""
    page.evaluate("() => window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")


@contextmanager
def a_jupyterlab(folder, lesson=None):
    """JupyterLab on a free port, with a home of its own and nothing that calls out. Gives (address, token).

    lesson: start it by `minqwen lab LESSON`, as a learner does, in a folder that has notebooks/.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token, home = secrets.token_hex(16), folder / "home"
    settings = home / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    quiet = {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(quiet))
    own = {f"JUPYTER_{name}_DIR": str(home / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    (home / "config").mkdir()                           # lets the tests reach the application in the page
    (home / "config" / "jupyter_lab_config.json").write_text('{"LabApp": {"expose_app_in_browser": true}}')
    own |= {"JUPYTER_TOKEN": token, "HOME": str(home)}
    own |= {"IPYTHONDIR": str(home / "ipython"), "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--ip=127.0.0.1",
               "--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder}"]
    if lesson:
        command = [sys.executable, "-m", "minqwen.cli", "lab", lesson, "--no-browser", "--port", str(port)]
    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen(command, env=os.environ | own, stdout=log, stderr=log, cwd=folder)
        try:
            address = f"http://127.0.0.1:{port}"
            for _ in range(3000):                       # minutes, on a busy machine
                try:
                    urllib.request.urlopen(f"{address}/api?token={token}", timeout=5).close()
                    break
                except OSError:
                    assert server.poll() is None, (folder / "server.log").read_text()
                    time.sleep(0.1)
            yield address, token
        finally:
            server.terminate()
            try:
                server.wait(timeout=60)
            except subprocess.TimeoutExpired:           # on a busy machine it may wait for its kernels for ever
                server.kill()
                server.wait()


def write_notebook(path, *cells):
    """A notebook with these code cells, the last of which says when all have run."""
    cells = [nbformat.v4.new_code_cell(cell) for cell in (*cells, 'print("ALL" + "DONE")')]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)


NOTEBOOK = "window.jupyterapp?.shell?.currentWidget"        # in a page of JupyterLab
IDLE = f"{NOTEBOOK}?.sessionContext?.session?.kernel?.status === 'idle'"    # said behind all outputs


def open_and_run(page, address, token, name):
    """Open a notebook in JupyterLab, wait for its kernel, and set all its cells going."""
    page.goto(f"{address}/lab/tree/{name}?reset&token={token}", timeout=300_000)
    page.wait_for_function(f"() => {IDLE}", timeout=300_000)
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")


def run_all_cells(page, address, token, name):
    """Run a notebook of `write_notebook` in JupyterLab, and wait for its end."""
    open_and_run(page, address, token, name)
    page.get_by_text("ALLDONE", exact=True).wait_for(timeout=300_000)
