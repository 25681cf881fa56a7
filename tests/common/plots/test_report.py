"""The page is complete in itself and safe to fill with any text."""

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from common.io.results import save_png
from common.plots.report import Code, Paragraph, Picture, Row, Table, write_report


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.attributes, self.texts = [], [], []

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        if tag not in ("meta", "img", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture
def page(tmp_path):
    picture = save_png(tmp_path / "a.png", np.eye(4))
    sections = {
        "Numbers": [Paragraph("1 < 2 & <script>"), Table(["sigma", "PSNR"], [[25, 29.456], ["50", None]], "Test")],
        "Pictures": [Picture(picture, 'with "quotes"', pixels=True), Row([Picture(picture, "b")]), Code("a\nb")],
    }
    path = write_report(tmp_path / "index.html", "A <title>", sections, lead="Lead.", footer="Foot.")
    return path.read_text(), picture


def test_page_is_well_formed_and_escaped(page):
    reader = Reader()
    reader.feed(page[0])
    assert reader.open == []
    assert "<script" not in page[0]
    text = " ".join(reader.texts)
    for each in ("A <title>", "Lead.", "1 < 2 & <script>", "29.46", "–", "Foot.", "a\nb", 'with "quotes"', "Test"):
        assert each in text, each


def test_page_refers_to_nothing_outside(page):
    reader = Reader()
    reader.feed(page[0])
    links = [value for name, value in reader.attributes if name in ("src", "href")]
    assert len(links) == 3 and all(link.startswith("data:") for link in links)
    assert "http" not in page[0] and "url(" not in page[0] and "@import" not in page[0]


def test_pictures_are_inside(page):
    (content, _) = re.findall(r"base64,([^\"]+)", page[0])
    assert base64.b64decode(content) == page[1].read_bytes()


def test_unknown_block(tmp_path):
    with pytest.raises(TypeError, match="block: expected one of"):
        write_report(tmp_path / "x.html", "t", {"s": ["text"]})
