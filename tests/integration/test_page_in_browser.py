"""The report in a real headless Chromium: it draws, searches, downloads, asks no network, and runs no user's text."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kedit_glue import page
from kedit_glue.page.figure import Figure
from kedit_glue.page.write import page_of
from kedit_glue.study_report import About, Result

sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: uv sync")
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome on PATH"),
]
QUIET = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
NASTY = "</script><img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
DRAWN = "body[data-drawn]"
Scored = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync.sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET.split())
        yield made
        made.close()


class Opened:
    """A page that is open, with all that it asked for and complained of."""

    def __init__(self, browser: Any, file: Path, **how: Any) -> None:
        self.context = browser.new_context(accept_downloads=True, **how)
        self.tab = self.context.new_page()
        self.asked: list[str] = []
        self.said: list[str] = []
        self.tab.on("request", lambda request: self.asked.append(request.url))
        self.tab.on("console", lambda message: self.said.append(message.text))
        self.tab.on("pageerror", lambda error: self.said.append(str(error)))
        self.tab.goto(file.as_uri())
        self.tab.locator(DRAWN).wait_for()

    def ids(self) -> list[str]:
        return [text.strip() for text in self.tab.locator("#fact-table tbody th .soft").all_inner_texts()]


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Opened]]:
    """``opened(file)``: the page in a tab of its own; at the end it asked nothing and complained of nothing."""
    made: list[Opened] = []

    def make(file: Path, **how: Any) -> Opened:
        made.append(Opened(browser, file, **how))
        return made[-1]

    yield make
    for one in made:
        foreign = [url for url in one.asked if not url.startswith(("file:", "data:", "blob:"))]
        assert (foreign, one.said) == ([], [])
        one.context.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, scored: Scored) -> Path:
    """A run's folder with its report, some texts of it nasty."""
    folder = tmp_path_factory.mktemp("run")
    document = scored(success=[1.0] * 30 + [0.5, 0.0])
    document["facts"][1]["prompt"] = document["facts"][1]["target_new"] = NASTY
    document["answers"][0] |= {"before": NASTY, "after": NASTY}
    document["after"]["general_change"][NASTY] = document["after"]["general_change"]["choices"]
    document["base"]["model"] = NASTY
    (folder / "scores.json").write_text(json.dumps(document), encoding="utf-8")
    page.write_run(folder)
    return folder


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory, scored: Scored) -> Path:
    """A study's report: two axes, a cell that failed, a nasty name."""
    folder = tmp_path_factory.mktemp("grid")
    results = [
        Result(
            f"layer{layer}-size{size}",
            {"train.layers": [layer], "edits.batch_size": size},
            scored(success=[1.0, 1.0, 1.0, 1.0 - layer / 20], loss=layer / 100),
            at={"train.layers": [layer], "edits.batch_size": size},
        )
        for layer in (2, 6, 8)
        for size in (5, 10)
    ]
    results.append(Result(NASTY, {"train.layers": [9], "edits.batch_size": 5}, scored()))
    results.append(Result("broken", {"train.layers": [9], "edits.batch_size": 10}, None, NASTY))
    about = About("grid", "r.yaml", "layer2-size5", {}, ("train.layers", "edits.batch_size"))
    page.write_study(folder, about, results)
    return folder / "report.html"


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory, searched: Scored) -> Path:
    """The report of a run whose merge was searched twice."""
    folder = tmp_path_factory.mktemp("search")
    judged = [{"paraphrases": 0.5, "locality": 0.5}, "it says nothing", *(
        {"paraphrases": 0.4 + at / 20, "locality": 0.9 - at / 20} for at in range(6)
    )]  # fmt: skip
    document = searched([{"judged": judged}, {"judged": judged, "space": "dfs"}])
    (folder / "scores.json").write_text(json.dumps(document), encoding="utf-8")
    return page.write_run(folder)


def test_every_chart_that_is_shown_is_drawn(opened: Callable[..., Opened], run: Path, grid: Path) -> None:
    for file in (run / "report.html", grid):
        tab = opened(file).tab
        shown = tab.locator("figure:not([hidden])")
        assert shown.count() > 5
        for at in range(shown.count()):
            assert shown.nth(at).locator(".plot svg.main-svg").count() > 0, shown.nth(at).get_attribute("data-figure")
        marks = tab.locator("figure:not([hidden]) .plot path.point, figure:not([hidden]) .plot .hm image")
        assert marks.count() > 20


def test_nothing_of_a_text_runs(opened: Callable[..., Opened], run: Path, grid: Path) -> None:
    for file in (run / "report.html", grid):
        tab = opened(file).tab
        tab.wait_for_timeout(300)
        assert "owned" not in tab.title()
        assert tab.locator("img, main script").count() == 0
        assert NASTY in tab.locator("main").inner_text().replace("\n", "")


def test_failures_come_first_and_search_finds(opened: Callable[..., Opened], run: Path) -> None:
    one = opened(run / "report.html")
    tab = one.tab
    assert one.ids()[:3] == ["f31", "f30", "f0"] and len(one.ids()) == 20
    assert tab.locator("#count").inner_text() == "32 of 32 facts, 2 failed"
    tab.locator("#further").click()
    assert len(one.ids()) == 32 and tab.locator("#further").is_hidden()
    tab.get_by_label("failed only").check()
    assert one.ids() == ["f31", "f30"]
    tab.get_by_label("failed only").uncheck()
    tab.get_by_label("Search").fill("TOWN 17")
    assert one.ids() == ["f17"] and tab.locator("#count").inner_text() == "1 of 32 facts, 0 failed"
    tab.get_by_label("Search").fill("onerror")
    assert one.ids() == ["f0", "f1"], "a prompt, and an answer"
    tab.get_by_label("Search").fill("")
    tab.get_by_label("Order").select_option("order of the edits")
    assert one.ids()[:3] == ["f0", "f1", "f2"]
    tab.get_by_label("Order").select_option("lowest generalization first")
    assert one.ids()[:2] == ["f31", "f30"]


@pytest.mark.parametrize("how", [{"color_scheme": "dark"}, {"viewport": {"width": 360, "height": 740}}])
def test_a_search_of_a_merge_is_shown(opened: Callable[..., Opened], search: Path, how: dict[str, Any]) -> None:
    one = opened(search, **how)
    tab = one.tab
    for name in ("fitness", "front"):
        group = tab.locator(f"[data-group=search_{name}]")
        assert group.locator("figure:visible").get_attribute("data-figure") == f"search_{name}_1"
        group.get_by_role("combobox", name="search", exact=True).select_option("batch 1, layers")
        assert group.locator("figure:visible").get_attribute("data-figure") == f"search_{name}_2"
        assert group.locator("figure:visible path.point").count() > 4
    traces = tab.evaluate("document.getElementById('plot-search_fitness_1').data.map((t) => [t.name, t.line.shape])")
    assert [name for name, shape in traces if shape == "hv"] == ["best so far", "first candidate's level"]
    marked = tab.locator("#fact-table tbody tr", has_text="chose the merge").locator("th .soft")
    assert marked.all_inner_texts() == ["f1", "f3"]
    tab.get_by_label("Search", exact=True).fill("chose the merge")
    assert one.ids() == ["f1", "f3"]
    assert tab.evaluate(FLAWS) == [] and tab.evaluate(CONTRAST) == []
    assert tab.evaluate("document.documentElement.scrollWidth === innerWidth")


def test_a_long_answer_opens_by_keyboard(opened: Callable[..., Opened], run: Path) -> None:
    tab = opened(run / "report.html").tab
    tab.get_by_label("Search").fill("onerror")
    more = tab.get_by_role("button", name="whole of f0")
    assert more.get_attribute("aria-expanded") == "false"
    more.focus()
    tab.keyboard.press("Enter")
    assert more.get_attribute("aria-expanded") == "true"


@pytest.mark.parametrize("which", ["run", "grid"])
def test_a_download_holds_the_figures_numbers(opened: Callable[..., Opened], run: Path, grid: Path, which: str) -> None:
    tab = opened(run / "report.html" if which == "run" else grid).tab
    name = "edits_teacher_forced" if which == "run" else "success_locality"
    with tab.expect_download() as waited:
        tab.locator(f"[data-csv={name}]").click()
    text = Path(waited.value.path()).read_text(encoding="utf-8")
    assert waited.value.suggested_filename.endswith(f"_{name}.csv")
    if which == "run":
        made = next(one for one in page_of(run)[0].figures if one.id == name)
        assert isinstance(made, Figure) and text == made.csv()
    drawn = tab.evaluate(f"document.getElementById('plot-{name}').data.map((trace) => [...trace.x])")
    column = 2 if which == "run" else 1
    rows = list(csv.reader(io.StringIO(text)))[1:]
    assert [float(row[column]) for row in rows if row[column]] == [x for trace in drawn for x in trace if x is not None]


def test_a_picture_is_made_without_a_network(opened: Callable[..., Opened], run: Path) -> None:
    tab = opened(run / "report.html").tab
    with tab.expect_download() as waited:
        tab.locator("[data-png=retention]").click()
    assert Path(waited.value.path()).read_bytes()[1:4] == b"PNG"


def test_an_axis_is_chosen(opened: Callable[..., Opened], grid: Path) -> None:
    tab = opened(grid).tab
    group = tab.locator("[data-group=curves]")
    assert group.locator("figure:visible").get_attribute("data-figure") == "curve_train_layers_edit_success"
    group.get_by_role("combobox", name="axis", exact=True).select_option("batch_size")
    group.get_by_role("combobox", name="measure", exact=True).select_option("locality")
    shown = group.locator("figure:visible")
    assert shown.get_attribute("data-figure") == "curve_edits_batch_size_locality"
    assert shown.locator(".main-svg").count() > 0
    assert "broken" in tab.locator("#cells").inner_text()


def background(tab: Any) -> Any:
    return tab.evaluate("getComputedStyle(document.body).backgroundColor")


def test_light_and_dark(opened: Callable[..., Opened], run: Path) -> None:
    tab = opened(run / "report.html", color_scheme="light").tab
    light = background(tab)
    colour = "getComputedStyle(document.querySelector('.xtick text')).fill"
    ink = tab.evaluate(colour)
    toggle = tab.get_by_role("button", name="Dark colours")
    assert toggle.get_attribute("aria-pressed") == "false"
    toggle.click()
    assert toggle.get_attribute("aria-pressed") == "true"
    tab.locator(DRAWN).wait_for()
    assert tab.evaluate(colour) != ink
    dark = background(tab)
    assert dark != light
    assert background(opened(run / "report.html", color_scheme="dark").tab) == dark


def test_a_phone_needs_no_sideways_scroll(opened: Callable[..., Opened], run: Path, grid: Path) -> None:
    for file in (run / "report.html", grid):
        tab = opened(file, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True).tab
        assert tab.evaluate("document.documentElement.scrollWidth") == 360
        wide = tab.evaluate(
            "[...document.querySelectorAll('main *')].filter((n) => n.getBoundingClientRect().right > 361 "
            "&& !n.closest('.scroll, pre, svg')).map((n) => n.outerHTML.slice(0, 80))"
        )
        assert wide == []


CUT = """() => {
  const cut = [];
  for (const plot of document.querySelectorAll('figure:not([hidden]) .plot')) {
    const frame = plot.getBoundingClientRect();
    for (const text of plot.querySelectorAll('.xtick text, .ytick text, .angularaxistick text')) {
      const box = text.getBoundingClientRect();
      const hidden = getComputedStyle(text).visibility === 'hidden' || getComputedStyle(text).opacity === '0';
      if (hidden || box.left < frame.left - 1 || box.right > frame.right + 1) cut.push(text.textContent);
    }
  }
  return cut;
}"""


@pytest.mark.parametrize("width", [360, 390])
def test_a_phone_shows_every_name_of_an_axis_whole(
    opened: Callable[..., Opened], tmp_path: Path, scored: Scored, width: int
) -> None:
    names = ["insertion", "modification_counterfact", "modification_zsre", "erasure"]
    at = [{"operation": name, "method": method} for name in names for method in ("sft", "rsft")]
    results = [Result("-".join(one.values()), {}, scored(), at=one) for one in at]
    page.write_study(tmp_path, About("grid", "r.yaml", "insertion-sft", {}, ("operation", "method")), results)
    tab = opened(tmp_path / "report.html", viewport={"width": width, "height": 740}, has_touch=True, is_mobile=True).tab
    shown = tab.locator("figure:not([hidden]) .xtick").all_text_contents()
    assert [name for name in names if name in {text.replace(" ", "") for text in shown}] == names
    assert tab.evaluate(CUT) == []


FLAWS = """() => {
  const flaws = [];
  const name = (n) => n.getAttribute('aria-label') || n.labels?.[0]?.innerText || n.innerText?.trim();
  for (const n of document.querySelectorAll('input, select, button, a[href], [role=region], [role=img]')) {
    if (!name(n)) flaws.push(`no name: ${n.outerHTML.slice(0, 80)}`);
  }
  const ids = [...document.querySelectorAll('[id]')].map((n) => n.id);
  for (const id of new Set(ids.filter((id, at) => ids.indexOf(id) !== at))) flaws.push(`twice: ${id}`);
  for (const n of document.querySelectorAll('[aria-labelledby], [aria-controls]')) {
    for (const id of (n.getAttribute('aria-labelledby') || n.getAttribute('aria-controls')).split(' ')) {
      if (!document.getElementById(id)) flaws.push(`nothing is called ${id}`);
    }
  }
  if (document.querySelectorAll('h1').length !== 1) flaws.push('not one h1');
  let before = 1;
  for (const n of document.querySelectorAll('h1, h2, h3')) {
    const level = Number(n.tagName[1]);
    if (level > before + 1) flaws.push(`h${before} then h${level}: ${n.innerText}`);
    before = level;
  }
  if (!document.documentElement.lang) flaws.push('no language');
  for (const n of document.querySelectorAll('table th')) if (!n.scope) flaws.push(`no scope: ${n.innerText}`);
  return flaws;
}"""
CONTRAST = """() => {
  const parts = (c) => c.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = (n) => {
    for (let at = n; at; at = at.parentElement) {
      const found = parts(getComputedStyle(at).backgroundColor);
      if (found.length < 4 || found[3] === 1) return found;
    }
    return [255, 255, 255];
  };
  const flaws = [];
  for (const n of document.querySelectorAll('main *:not(svg *), header *, nav *')) {
    const own = [...n.childNodes].some((c) => c.nodeType === 3 && c.textContent.trim());
    if (!own || !n.getClientRects().length) continue;
    const [a, b] = [light(parts(getComputedStyle(n).color)), light(behind(n))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) flaws.push(`${ratio.toFixed(2)}: ${n.outerHTML.slice(0, 80)}`);
  }
  return [...new Set(flaws)];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_by_everyone(opened: Callable[..., Opened], run: Path, grid: Path, scheme: str) -> None:
    for file in (run / "report.html", grid):
        tab = opened(file, color_scheme=scheme).tab
        assert tab.evaluate(FLAWS) == []
        assert tab.evaluate(CONTRAST) == []


def test_the_keyboard_reaches_everything(opened: Callable[..., Opened], run: Path) -> None:
    tab = opened(run / "report.html").tab
    seen: list[str] = []
    for _ in range(140):
        tab.keyboard.press("Tab")
        seen.append(tab.evaluate("document.activeElement.id || document.activeElement.className || ''"))
        if len(seen) == 1:
            assert tab.evaluate("document.activeElement.getBoundingClientRect().left >= 0"), "the skip link is seen"
        if "failed" in seen:
            break
    assert seen[0] == "skip" and seen[1] == "theme"
    assert [name for name in seen if name in ("search", "order", "failed")] == ["search", "order", "failed"]
    outline = tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "focus is seen"
