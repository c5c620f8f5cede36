"""The report as a page."""

import dataclasses
import re
from html.parser import HTMLParser

from lasfast.report.page import verdict, write_page
from lasfast.report.run import Candidate, Run

VOID = {"meta", "br"}


class Tags(HTMLParser):
    """Checks that tags close in order, and gathers what would be loaded from elsewhere."""

    def __init__(self):
        super().__init__()
        self.open, self.loaded = [], []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href") and not value.startswith(("#", "data:")):
                self.loaded.append(value)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_has_all_and_loads_nothing(of_choices, tmp_path) -> None:
    layers = [{"name": "stem", "output": [16, 8, 8], "flops": 2_500_000, "params": 160}]
    path = write_page(
        Run.load(of_choices),
        tmp_path / "report.html",
        facts=[("data", "<photos & more>")],
        layers=layers,
        command="lasfast search layernas --constraint 'flops<=5M'",
    )
    text = path.read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(text)
    assert not tags.open
    assert not tags.loaded
    assert text.count("<svg") == 1
    assert "&lt;photos &amp; more&gt;" in text
    assert "<td>stem</td><td>16x8x8</td>" in text
    assert "<td>2.50</td><td>160</td>" in text
    assert "lasfast search layernas --constraint &#39;flops&lt;=5M&#39;" in text
    rows = re.findall(r'<tr(?: class="best")?><td>(opt\S+?)</td><td>(.*?)</td><td>(.*?)</td>', text)
    assert [text for text, *_ in rows] == ["opt0-0", "opt1-0", "opt1-1"]
    assert rows[0][1:] == ("60.0 ± 4.9 %", "1.0")
    assert re.findall(r'class="best"><td>(.*?)</td>', text) == ["opt1-0"]
    again = write_page(Run.load(of_choices), tmp_path / "again.html", layers=layers)
    assert re.search(r"<svg.*</svg>", text, re.DOTALL)[0] in again.read_text(encoding="utf-8")


def test_the_verdict_is_in_words(of_choices) -> None:
    run = Run.load(of_choices)
    assert verdict(run) == (
        "The best is opt1-0, with a top-1 accuracy of 65.0 ± 4.8 % when it was found. The highest is "
        "70.0 ± 4.6 %, of opt1-1."
    )
    best = next(one for step in run.steps for one in step if one.text == "opt1-1")
    assert "No architecture that was measured has a higher one." in verdict(
        dataclasses.replace(run, best=best)
    )


def test_the_verdict_says_what_may_be_chance(of_choices) -> None:
    run = Run.load(of_choices)

    def of_few(one: Candidate) -> Candidate:
        return dataclasses.replace(one, measurement=dataclasses.replace(one.measurement, images=20))

    few = [[of_few(one) for one in step] for step in run.steps]
    assert verdict(dataclasses.replace(run, steps=few)) == (
        "The best is opt1-0, with a top-1 accuracy of 65.0 ± 4.8 % when it was found. The highest is "
        "70.0 ± 10.2 %, of opt1-1: by no more than one standard error. 3 of "
        "the 4 measurements lie within one standard error of the highest: the order among these may be "
        "chance."
    )


def test_a_search_that_has_not_finished_has_no_verdict(directory) -> None:
    assert verdict(Run.load(directory)) == (
        "The search has not finished. The highest accuracy so far is 70.0 ± 4.6 %, of 1-2-2."
    )
