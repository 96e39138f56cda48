"""The page is whole, self-contained, and shows foreign text as text."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from enclave.leakage.audit import LabelResult, OpeningAudit
from enclave.leakage.plots import readable_bytes, visible
from enclave.leakage.report import Finding, HiddenCiphertexts, LeakageReport, PlannedStage, Rule
from tests.enclave.leakage.sample import make_report, make_statement

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</title></style></svg><b>",
    "$\\frac{1}{$ & ' \"",
    "]]><!--",
    "javascript:alert(1)",
)


class Reader(HTMLParser):
    """Collects tags, attributes and text; complains about tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag != "meta":
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        assert not self._open
        return " ".join("".join(self.words).split())


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    return reader


@pytest.fixture(scope="module")
def report() -> LeakageReport:
    return make_report()


def test_page_tells_the_report(report: LeakageReport) -> None:
    reader = read(report.to_html())
    for part in (
        report.verdict,
        "Evaluated on charite/heart and uniklinik/heart for acme",
        "seen by charite, owner",
        "Declared outputs",
        "9.2 bits",
        "What each party sees",
        "Every step was the planned one.",
        "4,190,112",
        "not seen from here",
        "transport.tls",
        "What was not tested",
        "membership",
        report.spec_digest,
    ):
        assert part in reader.text, part
    assert reader.tags.count("svg") == 3
    for section in ("hidden0.relu", "dealer → charite", "auc/sort", "threshold"):
        assert section in reader.text


def test_page_needs_nothing_from_outside(report: LeakageReport) -> None:
    page = report.to_html()
    reader = read(page)
    assert not {"script", "link", "img", "iframe", "object", "form", "base"} & set(reader.tags)
    for name, value in reader.attributes:
        assert not name.startswith("on")
        if name in ("href", "src", "xlink:href"):
            assert value.startswith("#")
        if "://" in value:
            assert name.startswith("xmlns")
    assert "url(" not in re.sub(r"url\(#[a-z0-9]+\)", "", page) and "@import" not in page
    assert "default-src &#x27;none&#x27;" in page


def test_hostile_text_stays_text(report: LeakageReport) -> None:
    clean = read(report.to_html())
    for hostile in HOSTILE:
        bad = dataclasses.replace(
            report,
            party=hostile,
            buyer=hostile,
            state=hostile,
            purpose=hostile,
            datasets=(hostile,),
            job_id=hostile,
            spec_digest=hostile,
            findings=(Finding(hostile, hostile),),
            claims=(f"{hostile}={hostile}",),
            reasons=(Rule(hostile, hostile),),
            limits=(hostile,),
            hiding=(HiddenCiphertexts(hostile, 40.0, hostile),),
            public=(hostile,),
            checks=(hostile,),
            stages=(PlannedStage(hostile, 1, 5),),
            outputs=tuple(dataclasses.replace(o, name=hostile, type=hostile, to=hostile) for o in report.outputs),
            views=tuple(dataclasses.replace(v, name=hostile, sees=(hostile,)) for v in report.views),
            links=tuple(dataclasses.replace(link, sender=hostile) for link in report.links),
            audit=dataclasses.replace(
                report.audit, uniformity_at=hostile, reused_at=hostile, labels=(LabelResult(hostile, 1, 1, 1, 0.5),)
            ),
        )
        reader = read(bad.to_html())
        assert set(reader.tags) <= {*clean.tags, "li", "code", "ul"}, hostile
        assert not any(name.startswith("on") or name == "src" for name, _ in reader.attributes)
        assert " ".join(hostile.split()) in reader.text
        assert "<script" not in bad.to_html()


def test_characters_that_deceive_are_replaced(report: LeakageReport) -> None:
    assert visible("a\u202eb\x00c\ud800d\u2066") == "a\ufffdb\ufffdc\ufffdd\ufffd"
    assert visible("Müller, 東京 ½ → ✓") == "Müller, 東京 ½ → ✓"
    bad = dataclasses.replace(
        report, purpose="pay\u202efdp\x07", stages=(PlannedStage("x\x01\ud800", 1, 2),), claims=("a\u2028=b",)
    )
    page = bad.to_html()
    page.encode("utf-8")
    assert not re.search("[\u202e\x07\x01\u2028]", page)


def test_findings_are_in_the_headline() -> None:
    rng = np.random.default_rng(3)
    audit = OpeningAudit()
    audit.observe("x", rng.integers(0, 2**63, size=400, dtype=np.uint64))
    page = make_report(audit=audit.result(), statement=make_statement(equals_plan=False)).to_html()
    text = read(page).text
    assert 'class="verdict bad"' in page and "2 findings: opened words are not uniform at x, bit 63" in text
    assert "The steps were not (all) the planned ones." in text


def test_jobs_that_did_not_run_have_a_page(report: LeakageReport) -> None:
    statement = dataclasses.replace(make_statement(state="REFUSED"), transcript=None)
    empty = make_report(statement=statement, audit=OpeningAudit().result(), claims=())
    bare = dataclasses.replace(empty, stages=(), links=(), outputs=(), views=(), datasets=(), checks=())
    for page in (empty.to_html(), bare.to_html()):
        assert "job refused" in read(page).text


def test_long_lists_are_cut(report: LeakageReport) -> None:
    many = dataclasses.replace(
        report,
        stages=tuple(PlannedStage(f"stage {i} " + "x" * 300, 1, i) for i in range(2000)),
        claims=tuple(f"key{i}=v" for i in range(3000)),
    )
    page = many.to_html()
    assert len(page) < 400_000
    assert "stage 1999" in page and "stage 3 " not in page


def test_the_same_report_gives_the_same_page(report: LeakageReport) -> None:
    assert report.to_html() == report.to_html()


def test_readable_bytes() -> None:
    shown = [readable_bytes(n) for n in (0, 999, 1000, 61_440, 4_183_040, 2.5e9, 7e13)]
    assert shown == ["0 B", "999 B", "1 kB", "61.44 kB", "4.183 MB", "2.5 GB", "70 TB"]


def test_json_does_not_load_the_plotting_library() -> None:
    code = (
        "import sys, enclave.leakage.report, enclave.leakage.audit;"
        "sys.exit(any(m.split('.')[0] in ('matplotlib', 'torch', 'scipy') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
