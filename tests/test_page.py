"""report.html, read without a browser."""

import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from scored_run import NASTY, add_curves, score_images, whole_run

from segfocal.evaluation import page
from segfocal.evaluation.page import write_report
from segfocal.evaluation.words import shown

VOID = {"meta", "link", "img", "source", "br", "rect", "path"}


class Page(HTMLParser):
    """The elements with their attributes and texts; a tag that is never closed is an error."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["script"], ["style"]):
            self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]

    @property
    def text(self):
        return "".join(data for _, data in self.texts)


def read(folder, training=()):
    return Page(write_report(folder, training).read_text(encoding="utf-8"))


@pytest.fixture(params=[(12, False), (1, True), (12, True), (70, False)], ids=str)
def run(request, tmp_path):
    count, overlap = request.param
    return whole_run(tmp_path / "run", count, overlap=overlap)


def test_names_are_shown_and_never_markup(tmp_path):
    held = read(whole_run(tmp_path, 12), [tmp_path])
    names = [data for tag, data in held.texts if tag == "bdi"]
    for name in NASTY:
        assert shown(name) in names
    assert "a\\b\\x07" in held.text
    assert len(held.all("script")) == 1
    assert not [tag for tag, _ in held.elements if tag in ("b", "i", "u")]
    assert "<i>im\\xe9 " in held.text


def test_every_kind_of_classes_has_a_page(run):
    held = read(run, [run])
    ids = [attrs["id"] for _, attrs in held.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = [attrs["href"] for attrs in held.all("a")]
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    assert all((run / link).is_file() for link in links if not link.startswith("#"))
    for _, attrs in held.elements:
        for key in ("aria-labelledby", "aria-describedby"):
            assert attrs.get(key, ids[0]) in ids
    headings = [int(tag[1]) for tag, _ in held.elements if re.fullmatch("h[1-6]", tag)]
    assert headings.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(headings))
    assert all(attrs["alt"] for attrs in held.all("img"))
    assert held.all("html") == [{"lang": "en"}]


def test_nothing_is_fetched(run):
    text = write_report(run, [run]).read_text(encoding="utf-8")
    held = Page(text)
    for tag, attrs in held.elements:
        for key in ("src", "srcset", "href", "data", "action"):
            value = attrs.get(key) or "data:"
            local = tag == "a" and value.startswith(("#", "gallery/"))
            assert local or value.startswith("data:"), (tag, value)
        assert not [key for key in attrs if key.startswith("on") or key == "style"], tag
    assert "url(" not in re.search("<style>(.*?)</style>", text, re.DOTALL)[1]
    (policy,) = (attrs["content"] for attrs in held.all("meta") if "http-equiv" in attrs)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_the_same_folder_gives_the_same_bytes(tmp_path):
    run = whole_run(tmp_path, 3)
    first = write_report(run, [run]).read_bytes()
    assert write_report(run, [run]).read_bytes() == first


def test_the_charts_lie_beside_it_as_png(tmp_path):
    run = whole_run(tmp_path, 3)
    write_report(run, [run])
    files = {path.name: path.read_bytes() for path in (run / "charts").iterdir()}
    wanted = {"confusion", "reliability", "curves_loss", "curves_miou", "curves_iou", "curves_loss_share"}
    assert {f"{name}.png" for name in wanted} == set(files)
    assert all(held.startswith(b"\x89PNG") for held in files.values())


def test_parts_without_figures_are_left_out(tmp_path):
    score_images(tmp_path, ["road", "car", "pole"])
    held = read(tmp_path)
    headings = [data for tag, data in held.texts if tag == "h2"]
    assert headings == ["Summary", "Classes", "Confusion", "Images", "What to try next", "How it was made"]
    assert "AUROC" not in held.text
    assert "ECE" not in held.text
    add_curves(tmp_path, ["road", "car", "pole"])
    assert "Training" in [data for tag, data in read(tmp_path, [tmp_path]).texts if tag == "h2"]


def test_pictures_that_are_gone_or_damaged_are_left_out(tmp_path):
    run = whole_run(tmp_path, 3)
    whole = len(read(run).all("img"))
    for name, held in (("worst-1-image", None), ("worst-1-truth", b""), ("worst-2-errors", b"no picture")):
        file = run / "gallery" / f"{name}.jpg"
        file.unlink() if held is None else file.write_bytes(held)
    assert len(read(run).all("img")) == whole - 3


def test_figures_are_those_of_the_files(tmp_path):
    held = read(whole_run(tmp_path, 3), [tmp_path])
    assert "0.087" in held.text  # ECE
    assert "0.900" in held.text  # AUROC
    assert "95 %: 0." in held.text
    (reliability,) = (attrs["alt"] for attrs in held.all("img") if attrs["alt"].startswith("Reliability"))
    assert "the net is too sure" in reliability
    assert "900 pixels" in reliability.replace("\xa0", " ")


def test_the_page_is_small_however_large_the_pictures(tmp_path, monkeypatch):
    folder = whole_run(tmp_path, 3)
    whole = len(write_report(folder).read_bytes())
    monkeypatch.setattr("segfocal.evaluation.illustrations._BUDGET", 1)
    monkeypatch.setattr("segfocal.evaluation.illustrations._WIDTHS", (480, 8))
    assert len(write_report(folder).read_bytes()) < whole


def test_the_ink_of_every_shade_can_be_read():
    for red, green, blue, ink in re.findall(r"rgb\((\d+), (\d+), (\d+)\); color: (#\w+)", page._shades()):
        linear = [((int(value) / 255 + 0.055) / 1.055) ** 2.4 for value in (red, green, blue)]
        bright = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        contrast = 1.05 / (bright + 0.05) if ink == "#fff" else (bright + 0.05) / 0.05
        assert contrast >= 4.5
