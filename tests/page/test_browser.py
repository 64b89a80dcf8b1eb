"""The page in a real browser: it draws, encodes and walks, its numbers are ours, and it asks for nothing but its own files.

The browser is Chromium of the system (Debian: `apt-get install chromium`), driven by the Python package playwright;
onnxruntime-web comes from npm's registry or from the user's cache. What is missing skips. `-s` shows what was measured.
"""

import os
import shutil
import threading
import time

import numpy as np
import pytest
from PIL import Image

import ddim_jax
from ddim_jax import page, weights
from ddim_jax.page import runtime
from ddim_jax.page.serving import server

pytestmark = pytest.mark.slow
playwright = pytest.importorskip("playwright.sync_api", reason="the extra ddim_jax[test] brings playwright")
to_onnx = pytest.importorskip("ddim_jax.interop.to_onnx", reason="there is no export to ONNX to make a page of")
pytest.importorskip("onnxruntime", reason="the extra ddim_jax[export] brings onnxruntime")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update
    --disable-sync""".split()
WITHIN = 1e-4  # of our numbers, in pictures from -1 to 1: float32 in another order of sums, through all steps
# Of WebGPU, whose sine may be wrong by 2**-11 (W3C's WGSL, on the accuracy of floats): half a grey level of 256. Found: .0011.
BY_WEBGPU = 1 / 255
PARTS = ("draw", "steps", "walk", "own", "table")
MINUTES = 60_000  # ms of them
# SwiftShader, a GPU in software that comes with Chromium, in place of the --disable-gpu of above.
WEBGPU = [*(flag for flag in FLAGS if flag != "--disable-gpu"), "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]


@pytest.fixture(scope="module")
def model():
    return ddim_jax.load(weights.DIGITS)


@pytest.fixture(scope="module")
def address(model, tmp_path_factory):
    """Where the page of the digits is served."""
    if not CHROMIUM:
        pytest.skip("no Chromium is installed")
    folder = tmp_path_factory.mktemp("page")
    try:
        runtime.files()
    except ValueError as error:
        pytest.skip(str(error))
    to_onnx.save(folder / "exported", model, "eps", "digits")
    page.build(folder / "exported", folder / "page")
    with server(folder / "page", 0) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield "http://127.0.0.1:{1}/".format(*running.server_address)
        running.shutdown()


@pytest.fixture(scope="module")
def browser(address):
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def tab(browser, address):
    """One tab for all tests, which says at the end that it asked for nothing of others and had nothing to complain of."""
    tab = browser.new_page(viewport={"width": 1100, "height": 900})
    asked, complaints = [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    yield tab
    assert {url for url in asked if not url.startswith((address, "data:", "blob:"))} == set()
    names = {url.removeprefix(address) for url in asked}
    assert {"", "network.onnx", "tables.json", "onnxruntime/ort-wasm-simd-threaded.wasm"} < names
    assert complaints == []


def visit(tab, address, part, **state):
    """Opens a part of the page with this state, and waits until all is drawn."""
    tab.goto("about:blank")
    tab.goto(address + "&".join([f"#{part}", *(f"{name}={value}" for name, value in state.items())]))
    tab.wait_for_selector("body[data-device]", timeout=2 * MINUTES)
    finish(tab)


def finish(tab):
    tab.wait_for_timeout(100)  # in which what was asked for begins
    tab.wait_for_selector("body:not([data-busy])", timeout=5 * MINUTES)


READ = """async ([part, name]) => {
    const value = (await import("/page.js")).parts[part].results[name];
    return Array.isArray(value) ? value.map((each) => Array.from(each)) : Array.from(value);
}"""


def result(tab, part, name, shape=(28, 28, 1)):
    """What a part of the page has drawn: [..., H, W, C]."""
    return np.reshape(tab.evaluate(READ, [part, name]), (-1, *shape))


def difference(found, expected):
    assert found.shape == expected.shape
    return np.abs(found - np.asarray(expected)).max()


@pytest.mark.parametrize(
    "state, ours",
    [
        (dict(solver="ddim", steps=10, eta=0, label=3, seed=5), dict(solver="ddim", eta=0.0)),
        (dict(solver="ddim", steps=10, eta=1, label=3, seed=5), dict(solver="ddim", eta=1.0)),
        (dict(solver="unipc", steps=10, label=8, seed=6), dict(solver="unipc")),
        (dict(solver="dpmpp_2m", steps=4, label=7, seed=2, guidance=3), dict(solver="dpmpp_2m", guidance=3.0)),
    ],
    ids=["ddim", "ddpm", "unipc", "guided"],
)
def test_draws_what_the_package_draws(tab, address, model, state, ours):
    visit(tab, address, "draw", **state)
    latents, _ = model.generator().latents(state["seed"], np.arange(1))
    assert difference(result(tab, "draw", "latent"), latents) < 1e-5
    expected = model.sample(1, steps=state["steps"], seed=state["seed"], label=state["label"], **ours)
    assert difference(result(tab, "draw", "x"), expected) < WITHIN
    if "guidance" not in ours:
        table = model.table(state["steps"], **ours)
        start = model.generator().latents(state["seed"], np.arange(1))
        path = model.generator().trajectory(model.params, table, *start, model.told(1, state["label"]))
        assert difference(result(tab, "draw", "xs"), path.x[:, 0]) < WITHIN
        # The first x_0 is a difference of nearly equal numbers divided by signal_scale = .006.
        assert difference(result(tab, "draw", "x0s"), path.x0[:, 0]) < 10 * WITHIN


def test_walks_as_the_package_does(tab, address, model):
    visit(tab, address, "walk", steps=4, label=8, seed=1, across=0.25, down=1)
    assert difference(result(tab, "walk", "line"), model.interpolate(7, seed=1, steps=4, label=8)) < WITHIN
    latents, _ = model.generator().latents(1, np.arange(4))
    grid = ddim_jax.diffusion.sampling.interpolate_grid(latents.reshape(2, 2, *model.shape), 5)
    drawn = model.decode(grid.reshape(25, *model.shape), steps=4, label=8)
    assert difference(result(tab, "walk", "cells"), drawn) < WITHIN
    assert difference(result(tab, "walk", "x"), drawn[21:22]) < WITHIN
    # By keyboard: a slider moves the ring, and the picture follows.
    tab.focus("#walk-down")
    tab.keyboard.press("Home")
    finish(tab)
    assert "down=0" in tab.url
    assert difference(result(tab, "walk", "x"), drawn[1:2]) < WITHIN


def draw_a_seven(tab):
    box = tab.locator('.own[data-place="first"] canvas').bounding_box()
    points = [(0.3, 0.25), (0.7, 0.25), (0.6, 0.5), (0.45, 0.8)]
    places = [(box["x"] + box["width"] * across, box["y"] + box["height"] * down) for across, down in points]
    tab.mouse.move(*places[0])
    tab.mouse.down()
    for place in places[1:]:
        tab.mouse.move(*place, steps=5)
    tab.mouse.up()


def test_encodes_a_drawing_and_a_file(tab, address, model, tmp_path):
    visit(tab, address, "own", steps=10, seed=3)
    draw_a_seven(tab)
    tab.set_input_files(
        '.own[data-place="second"] input[type=file]', {"name": "notes.png", "mimeType": "image/png", "buffer": b"none"}
    )
    tab.wait_for_function("() => document.getElementById('status').textContent.includes('no picture that this browser can read')")
    Image.fromarray((127.5 * (model.sample(1, steps=4, label=2)[0, ..., 0] + 1)).clip(0, 255).astype("uint8")).save(
        tmp_path / "two.png"
    )
    tab.set_input_files('.own[data-place="second"] input[type=file]', tmp_path / "two.png")
    tab.wait_for_function("() => document.getElementById('status').textContent.includes('The picture is there')")
    tab.click("#own-encode")
    finish(tab)
    x0 = result(tab, "own", "x0")
    assert x0.min() == -1 and x0[0].max() > 0.5
    assert np.abs(x0[1] - np.asarray(Image.open(tmp_path / "two.png"))[..., None] / 127.5 + 1).max() < 0.01  # the file as it is
    latents = result(tab, "own", "latents").astype(np.float32)
    assert difference(latents, model.encode(x0.astype(np.float32), steps=10)) < WITHIN
    # A drawing is not what the network has learnt, and few steps from its latents are steep: the last digit of these in float32
    # alone moves what JAX decodes by up to 5e-5.
    back = model.decode(latents, steps=10)
    steep = difference(model.decode(latents * np.float32(1 + 2**-23), steps=10), back)
    assert difference(result(tab, "own", "back"), back) < WITHIN + 4 * steep
    assert difference(result(tab, "own", "line"), model.interpolate(7, latents=latents, steps=10)) < WITHIN + 4 * steep


def test_a_link_brings_back_the_same_state(tab, address):
    visit(tab, address, "own", steps=4, seed=3)
    draw_a_seven(tab)
    tab.click("#own-encode")
    finish(tab)
    before, link = result(tab, "own", "latents"), tab.url
    tab.goto("about:blank")
    tab.goto(link)
    tab.wait_for_selector("body[data-device]", timeout=2 * MINUTES)
    finish(tab)
    assert difference(result(tab, "own", "latents"), before) < 1e-6


def test_a_changed_table(tab, address, model):
    visit(tab, address, "table", steps=4, label=3, seed=5)
    expected = model.sample(1, steps=4, label=3, seed=5)
    assert difference(result(tab, "table", "after"), expected) < WITHIN
    tab.fill('[name="2.noise"]', "0.3")
    tab.keyboard.press("Tab")
    finish(tab)
    table = model.table(4)
    table = table._replace(noise=np.array([0.0, 0.0, 0.3, 0.0]))
    start = model.generator().latents(5, np.arange(1))
    changed = model.generator().sample(model.params, table, *start, model.told(1, 3))
    assert difference(result(tab, "table", "before"), expected) < WITHIN
    assert difference(result(tab, "table", "after"), changed) < WITHIN
    assert "2.noise%3A0.3" in tab.url


def test_stops_and_saves(tab, address):
    visit(tab, address, "draw", steps=4, seed=1)
    with tab.expect_download() as download:
        tab.click("#save")
    assert download.value.suggested_filename == "digits-draw-1.png"
    tab.click('nav a[href="#steps"]')
    tab.wait_for_selector("#stop:enabled")
    tab.click("#stop")
    tab.wait_for_function("() => document.getElementById('status').textContent === 'Stopped.'")
    assert tab.is_disabled("#stop")


NAMELESS = """() => [...document.querySelectorAll("button, select, input, canvas, nav, progress")]
    .filter((each) => !(each.labels?.length || each.ariaLabel || each.textContent.trim() || each.hidden))
    .map((each) => each.outerHTML)"""


def test_is_of_use_without_a_mouse_and_without_eyes(tab, address):
    """All that can be used has a name, and can be reached by keyboard."""
    visit(tab, address, "draw", steps=4)
    nameless = tab.evaluate(NAMELESS)
    assert nameless == []
    reached = []
    for _ in range(25):
        tab.keyboard.press("Tab")
        reached.append(
            tab.evaluate("() => document.activeElement.name || document.activeElement.id || document.activeElement.hash || ''")
        )
    order = [
        "#main",
        "#draw",
        "#table",
        "solver",
        "steps",
        "eta",
        "label",
        "guidance",
        "seed",
        "draw-at",
        "draw-again",
        "save",
        "link",
    ]
    assert [each for each in reached if each in order][: len(order)] == order


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_a_telephone(browser, address, scheme):
    tab = browser.new_page(viewport={"width": 360, "height": 640}, color_scheme=scheme)
    for part in PARTS:
        tab.goto("about:blank")
        tab.goto(f"{address}#{part}")
        tab.wait_for_selector(f"#part-{part}:not([hidden])")
        assert tab.evaluate("() => document.documentElement.scrollWidth") <= 360, part
    ground = tab.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(250, 249, 247)") == (scheme == "light")
    tab.close()


def test_a_damaged_network_is_refused_in_words(browser, address):
    tab = browser.new_page()
    tab.route("**/network.onnx", lambda route: route.fulfill(body=b"no network"))
    tab.goto(address)
    tab.wait_for_selector("#problem:not([hidden])")
    assert tab.inner_text("#problem") == "The network network.onnx is damaged: it is not the file that was exported."
    tab.close()


def test_by_webgpu(browser, address, model):
    """The same pictures, by the half of onnxruntime-web that a browser without a GPU never fetches."""
    second = browser.browser_type.launch(executable_path=CHROMIUM, args=WEBGPU)
    tab = second.new_page()
    complaints = []
    tab.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto(address)
    if not tab.evaluate("async () => Boolean(await navigator.gpu?.requestAdapter().catch(() => null))"):
        second.close()
        pytest.skip("this Chromium has no WebGPU in software")
    visit(tab, address, "draw", solver="ddim", steps=4, eta=1, label=3, seed=5)
    assert tab.evaluate("() => document.body.dataset.device") == "WebGPU"
    assert difference(result(tab, "draw", "x"), model.sample(1, steps=4, eta=1.0, label=3, seed=5)) < BY_WEBGPU
    assert complaints == []
    second.close()


TIMES = """async () => {
    const { app } = await import("/page.js");
    const { t, s, x0, eps, noise } = app.table("ddim", 100, 0);
    const times = [performance.now()];
    const job = { table: { t, s, x0, eps, noise }, x: app.latents([0]).x, keys: [], labels: [app.label], weight: 1 };
    await app.engine.run(job, () => times.push(performance.now()));
    return times;
}"""


def test_measured(browser, address):
    """Prints what docs/page.md says: milliseconds a step, and the time from the address to the first digit."""
    tab = browser.new_page()
    began = time.time()
    visit(tab, address, "draw", steps=10)
    print(f"\nfrom the address to the first digit, in 10 steps: {time.time() - began:.1f} s")
    steps = np.diff(tab.evaluate(TIMES))
    print(f"a step: {np.median(steps):.0f} ms, of 100 the fastest tenth {np.quantile(steps, 0.1):.0f} ms")
    print(f"{tab.inner_text('#status')} The load of the machine is {os.getloadavg()[0]:.1f}")
    assert tab.evaluate("() => document.body.dataset.device").startswith("Wasm, ")
    tab.close()
