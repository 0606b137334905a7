"""report.html in a real Chromium: it runs, is read with keyboard, phone and any colours, and fetches nothing."""

import shutil

import pytest
from scored_run import NASTY, whole_run

from segfocal.evaluation.page import write_report

api = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH")

# The contrast of every text that is seen against what lies behind it, by the formula of WCAG 2.
CONTRASTS = """() => {
  const parts = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const bright = c => { const [r, g, b] = c.slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = e => { for (; e; e = e.parentElement) { const c = parts(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] > 0) return c; } return [255, 255, 255]; };
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, element = node.parentElement;
    if (!node.textContent.trim() || element.closest("script, style") || !element.checkVisibility()) continue;
    const [one, other] = [bright(parts(getComputedStyle(element).color)), bright(behind(element))];
    found.push([(Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05), node.textContent.trim().slice(0, 40)]);
  }
  return found;
}"""
TOLD = "document.getElementById('cell').textContent"


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """By their number of classes; 12 with and without overlap."""
    made = {}
    for key, count, overlap in (("few", 12, False), ("many", 60, False), ("overlap", 12, True)):
        run = whole_run(tmp_path_factory.mktemp(key), count, overlap=overlap)
        made[key] = write_report(run, [run]).as_uri()
    return made


@pytest.fixture
def opened(browser, files):
    """Opens a page; at the end nothing may have been said on the console, asked for, or been wider than the window."""
    contexts, said, asked = [], [], []

    def opened(key="few", width=1280, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(files[key])
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not said
    assert {url for url in asked if not url.startswith("data:")} <= set(files.values())


@pytest.mark.parametrize("key", ["few", "many", "overlap"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_at_any_width_and_every_text_can_be_read(opened, key, scheme):
    for width in (360, 1280):
        page = opened(key, width, scheme)
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 100
        assert min(contrasts)[0] >= 4.5, min(contrasts)
        broken = "[...document.images].filter(image => !image.complete || !image.naturalWidth).length"
        page.wait_for_function("[...document.images].every(image => image.complete)")
        assert page.evaluate(broken) == 0
        assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "light dark"


def test_charts_follow_the_theme(opened):
    sources = []
    for scheme in ("light", "dark"):
        sources.append(opened(scheme=scheme).evaluate("document.querySelector('.charts img').currentSrc"))
    assert sources[0] != sources[1]


def test_names_are_texts(opened):
    page = opened()
    names = page.locator("table.classes tbody th").all_text_contents()
    assert names[:11] == NASTY[:11]


def test_columns_sort_by_click_and_by_key(opened):
    page = opened()
    head = page.locator("table.classes th", has=page.get_by_role("button", name="IoU", exact=True))

    def column():
        return [float(text) for text in page.locator("table.classes tbody .num").all_text_contents()]

    assert column() != sorted(column())
    assert head.get_attribute("aria-sort") is None
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert column() == sorted(column())
    page.keyboard.press("Enter")  # the button still has the focus
    assert head.get_attribute("aria-sort") == "descending"
    assert column() == sorted(column(), reverse=True)
    page.reload()
    page.get_by_role("button", name="precision").first.click()
    assert head.get_attribute("aria-sort") is None
    column_of = page.locator("table.classes thead th").all_text_contents().index("precision")
    last = page.locator("table.classes tbody tr").last.locator("th, td").nth(column_of)
    assert last.text_content() == "–", "what is not known comes last"


@pytest.mark.parametrize("key", ["few", "many"])
def test_a_cell_of_the_matrix_tells_its_pixels(opened, key):
    page = opened(key)
    cells = page.locator("table.matrix tbody tr").nth(0).locator("td")
    cells.nth(1).hover()
    hovered = page.evaluate(TOLD)
    assert all(name in hovered for name in NASTY[:2])
    assert " of the pixels of " in hovered
    cells.nth(0).focus()
    assert "which is right" in page.evaluate(TOLD)
    page.keyboard.press("ArrowRight")
    assert page.evaluate(TOLD) == hovered
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.parentNode.rowIndex") == 2
    page.keyboard.press("ArrowLeft")  # no further
    assert page.evaluate("document.activeElement.cellIndex") == 1
    assert page.locator("table.matrix td[tabindex='0']").count() == 1


def test_a_tap_tells_it_on_a_phone(browser, files):
    context = browser.new_context(viewport={"width": 360, "height": 800}, has_touch=True)
    page = context.new_page()
    page.goto(files["few"])
    page.locator("table.matrix tbody tr").nth(1).locator("td").nth(0).tap()
    assert NASTY[1] in page.evaluate(TOLD)
    context.close()


def test_the_keyboard_reaches_everything(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.locator(".skip").bounding_box()["x"] >= 0, "seen when it has the focus"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('table.classes, .scroll') !== null")
    outlines = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outlines != "none"
    unnamed = "[...document.querySelectorAll('button, a, summary, [tabindex]')].filter(e => !e.textContent.trim()"
    unnamed += " && !e.getAttribute('aria-label') && !e.querySelector('img[alt]') && !e.closest('.matrix')).length"
    assert page.evaluate(unnamed) == 0


@pytest.mark.parametrize("key", ["few", "many", "overlap"])
def test_print_is_light_and_has_all_columns(opened, key):
    page = opened(key, width=718, scheme="dark")  # A4 with the usual margins
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("nav").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 718
    assert page.evaluate("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
