"""The pages in a real browser: nothing is asked of the network, nothing fails, nothing overflows."""

import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from evergrow.data import explore
from evergrow.evaluation import page
from tests.unit.pages import builders as pages

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --hide-scrollbars"
        " --disable-dev-shm-usage --host-resolver-rules=MAP*~NOTFOUND"
    )
    .replace("MAP*", "MAP * ")
    .split(" --")
)
WIDTHS = (1200, 390)
LONG = "a_feature_whose_name_is_as_long_as_names_of_features_get_in_real_life_trailing_30d"

# Frames are as wide as asked for, while Chromium's own windows are never narrower than 500 pixels.
FRAME = """<!doctype html><body style="margin:0">
<iframe id="page" src="{page}" style="border:0;width:{width}px;height:900px"></iframe>
<p id="found"></p><script>
const frame = document.getElementById("page");
frame.onload = () => {{
  const inside = frame.contentDocument.documentElement;
  const loads = frame.contentWindow.performance.getEntriesByType("resource").map(entry => entry.name);
  const empty = [...inside.querySelectorAll("svg")].filter(svg => svg.getBoundingClientRect().width < 1).length;
  const svgs = inside.querySelectorAll("svg").length;
  const widths = `scroll=${{inside.scrollWidth}} view=${{inside.clientWidth}}`;
  document.getElementById("found").textContent =
    `${{widths}} loads=${{loads.length}} svgs=${{svgs}} empty=${{empty}}`;
}};
</script>"""


def written(kind):
    rows = pages.snapshot(2000).rename(columns={"noise_2": LONG})
    if kind == "report":
        curves = {**pages.binary_curves(), "importance": {LONG: 0.1, "b": 0.05}}
        return page.render(pages.report(curves=curves), pages.document(), pages.about(rows))
    if kind == "regression report":
        about = pages.about(rows, "regression")
        return page.render(pages.regression_report(), pages.document("regression"), about)
    leaky = rows.assign(leak=rows["late"].astype(float))
    return explore.render(pages.about(leaky), leaky)


KINDS = ("report", "regression report", "exploration")


class Reader(HTMLParser):
    """Collects what a page loads, and what lacks a name for who cannot see it."""

    def __init__(self, html):
        super().__init__()
        self.loads, self.unnamed, self.scripts, self.ids, self.links = [], [], 0, set(), []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.loads += [v for k, v in attributes if k in ("src", "srcset", "data", "poster", "xlink:href")]
        self.loads += [given["href"]] if tag in ("link", "image", "use") else []
        self.links += [given["href"]] if tag == "a" else []
        self.scripts += tag == "script" or any(name.startswith("on") for name in given)
        self.ids |= {given["id"]} if "id" in given else set()
        if given.get("role") in ("img", "region") and not given.get("aria-label"):
            self.unnamed.append((tag, given))
        if tag == "th" and given.get("scope") not in ("col", "row"):
            self.unnamed.append((tag, given))


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_needs_neither_script_nor_network_and_names_its_plots(kind):
    html = written(kind)
    read = Reader(html)

    assert read.loads == ["data:,"]
    assert not re.search(r"url\(|@import|https?://", html)
    assert read.scripts == 0
    assert read.unnamed == []
    assert {link.removeprefix("#") for link in read.links} <= read.ids
    assert html.count("<table") == html.count("<caption")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_browser_shows_it_without_overflow_errors_or_requests(kind, width, tmp_path):
    (tmp_path / "page.html").write_text(written(kind), encoding="utf-8")
    (tmp_path / "frame.html").write_text(FRAME.format(page="page.html", width=width), encoding="utf-8")

    shown = browse(tmp_path, "frame.html")

    seen = dict(re.findall(r"(\w+)=(\d+)", re.search(r'<p id="found">(.*?)</p>', shown.stdout)[1]))
    assert int(seen["scroll"]) <= int(seen["view"]) == width
    assert seen["loads"] == "0"
    assert int(seen["svgs"]) > 2
    assert seen["empty"] == "0"
    assert "CONSOLE" not in shown.stderr


def browse(folder, name):
    """Load a file and print what became of it; the console is on standard error."""
    flags = [QUIET[0], *(f"--{flag}" for flag in QUIET[1:]), f"--user-data-dir={folder / 'profile'}"]
    flags += ["--enable-logging=stderr", "--allow-file-access-from-files", "--window-size=1300,1000"]
    command = [CHROMIUM, *flags, "--virtual-time-budget=5000", "--dump-dom", (folder / name).as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
