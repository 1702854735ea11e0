"""The page in a real browser: nothing is asked from outside, nothing is said on the console, and it
fits a desk and a phone.
"""

import re
import shutil
import subprocess
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from analysis.report import build_report
from analysis.sections.analysis import Options
from tests.helpers.report_studies import toggle_study

CHROMIUM = next(
    (c for c in ("chromium", "chromium-browser", "google-chrome") if shutil.which(c)), None
)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--enable-logging=stderr", "--log-level=0", "--virtual-time-budget=4000",
)  # fmt: skip
MEASURE = """<script>
document.title = 'wide ' + document.documentElement.scrollWidth + ' of ' + innerWidth
  + ' svgs ' + [...document.querySelectorAll('svg')].filter(s => s.getBBox().width > 20).length
  + ' dark ' + getComputedStyle(document.body).backgroundColor;
</script></body>"""
FRAME = """<!doctype html><link rel="icon" href="data:,">
<iframe src="/page" width="390" height="844" frameborder="0"></iframe>"""
PHONE = """<script>
const own = e => { for (let p = e; p; p = p.parentElement)
  if (p.tagName === 'svg' || /auto|scroll/.test(getComputedStyle(p).overflowX)) return true; };
const out = [...document.querySelectorAll('main *')].filter(
  e => e.getBoundingClientRect().right > innerWidth + 1 && !own(e)).map(e => e.tagName);
const scales = [...document.querySelectorAll('svg')].map(
  s => s.getBoundingClientRect().width / s.viewBox.baseVal.width).filter(s => s > 0);
parent.document.title = 'wide ' + document.documentElement.scrollWidth + ' of ' + innerWidth
  + ' small ' + Math.floor(10 * Math.min(...scales)) + ' out ' + (out.join() || 'none')
  + ' ground ' + getComputedStyle(document.body).backgroundColor;
</script></body>"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = toggle_study(tmp_path_factory.mktemp("browser") / "grid", datasets=2, seeds=2)
    made = build_report(folder, out=folder / "report", options=Options(reps=200), figures=False)
    return made.page.read_text()


class Handler(BaseHTTPRequestHandler):
    """Serves one page, or as /page within a frame, and remembers every path that was asked for."""

    def __init__(self, text, asked, frame, *rest):
        self.text, self.asked, self.frame = text, asked, frame
        super().__init__(*rest)

    def do_GET(self):
        self.asked.append(self.path)
        known = self.path in ("/", "/page") if self.frame else self.path == "/"
        self.send_response(200 if known else 404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        if known:
            framed = self.frame and self.path == "/"
            self.wfile.write((self.frame if framed else self.text).encode())

    def log_message(self, *words):
        """Say nothing."""


def visit(text, tmp_path, width, *more, frame=""):
    """Open the page: its DOM afterwards, what the console said, what was asked from the server."""
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, text, asked, frame))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        done = subprocess.run(
            [CHROMIUM, *FLAGS, *more, f"--user-data-dir={tmp_path / 'profile'}",
             f"--window-size={width},900", "--dump-dom", f"http://127.0.0.1:{server.server_port}/"],
            capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
    finally:
        server.shutdown()
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, said, asked


@pytest.mark.parametrize("width", [1280, 500])
def test_no_request_no_console_message_and_no_sideways_scrolling(page, tmp_path, width):
    dom, said, asked = visit(page.replace("</body>", MEASURE), tmp_path, width)
    wide, inner, svgs = map(int, re.search(r"wide (\d+) of (\d+) svgs (\d+)", dom).groups())
    assert said == [] and asked == ["/"]
    assert wide <= inner, f"the page is {wide} wide in a window of {inner}"
    assert svgs >= 12


def test_the_browser_test_can_fail(page, tmp_path):
    broken = page.replace("</body>", "<img src='/gone.png'><script>console.error('no')</script>")
    _, said, asked = visit(broken, tmp_path, 800)
    assert any("no" in line for line in said) and "/gone.png" in asked


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(page, tmp_path, scheme):
    """A window is never narrower than 500 pixels, a frame in it is: 390, as phones are."""
    told = page.replace("</body>", PHONE)
    blink = f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}"
    dom, said, asked = visit(told, tmp_path, 800, blink, frame=FRAME)
    found = re.search(r"wide (\d+) of (\d+) small (\d+) out (\S*) ground rgb\((\d+),", dom)
    assert found is not None and said == [] and asked == ["/", "/page"]
    wide, inner, small = map(int, found.groups()[:3])
    assert inner == 390 and wide <= inner and found[4] == "none"
    assert small >= 8, f"letters of a figure are {small} pixels high"
    assert (int(found[5]) < 60) == (scheme == "dark")


def test_the_phone_test_can_fail(page, tmp_path):
    broken = page.replace("<h1>", "<h1 style='width:700px'>").replace("</body>", PHONE)
    dom, _, _ = visit(broken, tmp_path, 800, frame=FRAME)
    found = re.search(r"wide (\d+) of 390 small \d+ out (\S*)", dom)
    assert found is not None and int(found[1]) > 390 and found[2] == "H1"
