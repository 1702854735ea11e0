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
from report_studies import toggle_study

from analysis.compare import Options
from analysis.report import build_report

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

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = toggle_study(tmp_path_factory.mktemp("browser") / "grid", datasets=2, seeds=2)
    made = build_report(folder, out=folder / "report", options=Options(reps=200), figures=False)
    return made.page.read_text()


class Handler(BaseHTTPRequestHandler):
    """Serves one page and remembers every path that was asked for."""

    def __init__(self, text, asked, *rest):
        self.text, self.asked = text, asked
        super().__init__(*rest)

    def do_GET(self):
        self.asked.append(self.path)
        self.send_response(200 if self.path == "/" else 404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        if self.path == "/":
            self.wfile.write(self.text.encode())

    def log_message(self, *words):
        """Say nothing."""


def visit(text, tmp_path, width, *more):
    """Open the page: its DOM afterwards, what the console said, what was asked from the server."""
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, text, asked))
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
