"""The pages in a real browser: they fit, they ask nobody else, they need no script, and with it they keep up."""

import pytest

from tests.unit.watch.browser import CHROMIUM, browser, new_tab
from tests.unit.watch.builders import MODEL, World, busy, observation, promotion, version
from tests.unit.watch.running import served

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    world = busy(tmp_path_factory.mktemp("busy") / "home", days=30, columns=24)
    with served(world) as (url, _):
        yield url


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("chromium")) as port:
        yield port


@pytest.fixture
def tab(chromium):
    with new_tab(chromium) as opened:
        yield opened


OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
EMPTY = "[...document.querySelectorAll('svg')].filter(svg => svg.getBoundingClientRect().width < 1).length"


@pytest.mark.parametrize("width", [1200, 390])
def test_pages_fit_ask_nobody_else_and_the_browser_does_not_complain(site, tab, width):
    for path in (f"/models/{MODEL}", "/"):
        tab.open(site + path, width)
        tab.until("document.getElementById('live').className === 'live'")
        assert tab.value(OVERFLOW) <= 0
        assert tab.value("document.documentElement.clientWidth") == width
        assert tab.value(EMPTY) == 0
        # Style and script took hold: a policy that did not fit them would have left a bare page.
        assert tab.value("getComputedStyle(document.querySelector('h1')).fontSize") == "28.8px"
    assert {url.partition("?")[0] for url in tab.asked} <= {
        f"{site}/models/{MODEL}", f"{site}/", f"{site}/events", "data:,",
    }  # fmt: skip
    assert tab.complaints == []


def test_stored_reports_are_drawn_and_their_links_lead_back(site, tab):
    tab.open(f"{site}/reports/{MODEL}/as_of=2024-03-01T000000Z/exploration.html")
    assert tab.text() == "the data"
    assert tab.value("getComputedStyle(document.querySelector('p')).color") == "rgb(255, 0, 0)"
    assert tab.complaints == []


def test_without_script_the_facts_are_there_and_a_link_reloads(site, tab):
    tab.open(f"{site}/models/{MODEL}", script=False)
    read = tab.text()
    assert "As of 2" in read
    assert "Live" not in read
    for fact in ("version 3", "Promoted", "Version 2 promoted by ada", "log_loss on 2024-03-29", "Alarms that stand"):
        assert fact.lower() in read.lower(), fact
    assert tab.value("[...document.links].filter(a => a.textContent === 'Reload')[0].href") == f"{site}/models/{MODEL}"
    assert f"{site}/events" not in tab.asked


def small(home):
    built = World(home, version(1, champion=True)).promote(promotion(1))
    return built.look(3, observation("wind", "nulls", alarm=True))


def test_what_changes_shows_up_without_reloading(tmp_path, tab):
    built = small(tmp_path / "home")
    with served(built) as (url, _):
        tab.open(f"{url}/models/{MODEL}")
        tab.until("document.getElementById('live').className === 'live'")
        tab.value("window.same = true; window.scrollTo(0, 200)")
        assert "Nothing to do" in tab.text()

        built.look(4, observation("wind", "nulls", "fail", 3, alarm=True, reason="wind: 41% missing"))

        tab.until("document.getElementById('verdict').textContent === 'Somebody needs to look'")
        assert "wind: 41% missing" in tab.text()
        assert tab.value("window.same"), "the page itself was not loaded again"
        assert tab.value("window.scrollY") == 200
        assert tab.complaints == []


def test_a_new_model_shows_up_on_the_first_page(tmp_path, tab):
    built = small(tmp_path / "home")
    with served(built) as (url, _):
        tab.open(url)
        tab.until("document.getElementById('live').className === 'live'")
        built.look(2, model="bikes")
        tab.until("document.links.length && document.body.innerText.includes('bikes')")


def test_another_models_change_leaves_a_page_alone(tmp_path, tab):
    built, asked = small(tmp_path / "home"), []
    with served(built, seen=asked) as (url, _):
        tab.open(f"{url}/models/{MODEL}")
        tab.until("document.getElementById('live').className === 'live'")
        before = asked.count(f"/models/{MODEL}")
        tab.value("new EventSource('/events').addEventListener('model', e => window.told ||= e.data.includes('bikes'))")
        built.look(2, model="bikes")
        tab.until("window.told")
        built.look(4, observation("wind", "nulls", "fail", 3, alarm=True))
        tab.until("document.getElementById('verdict').textContent === 'Somebody needs to look'")
        assert asked.count(f"/models/{MODEL}") == before + 1


def test_a_server_that_is_gone_is_told_of_with_what_the_page_is_as_of(tmp_path, tab):
    with served(small(tmp_path / "home")) as (url, _):
        tab.open(f"{url}/models/{MODEL}")
        tab.until("document.getElementById('live').className === 'live'")
    tab.until("document.getElementById('live').className === 'lost'")
    assert "No connection, data as of 2" in tab.text()
    assert "Nothing to do" in tab.text()


def test_markup_in_names_and_reasons_does_not_run(tmp_path, tab):
    evil = "<img src=x onerror=\"window.ran = 'yes'\"><script>window.ran = 'yes'</script>"
    built = World(tmp_path / "home").promote(promotion(reason=evil, actor=evil))
    built.look(3, observation(evil, "nulls", "fail", alarm=True, reason=evil))
    with served(built) as (url, _):
        tab.open(f"{url}/models/{MODEL}")
        tab.until("document.getElementById('live').className === 'live'")
        assert tab.value("window.ran") is None
        assert tab.value("document.images.length") == 0
        assert "<script>" in tab.text()
