"""report.html: its structure is held by golden files, it needs nothing from outside, and text stays text."""

import html.parser
import itertools
import os
import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from ryot_jax.comparison.results import decode
from ryot_jax.comparison.schema import ConfigDifference
from ryot_jax.report import plots
from ryot_jax.report.formats import html as report
from ryot_jax.runtime.json_values import plain

GOLDEN = Path(__file__).parent / "golden"
SITUATIONS = sorted(path.stem for path in GOLDEN.glob("*.txt"))
VOID = {"meta", "link", "br", "hr", "img", "input"}
HOSTILE = """<script>alert(1)</script><img src=x onerror="alert('2')"> & ]]> --> $\\frac{ {{ 7*7 }} *md* |"""


class Page(html.parser.HTMLParser):
    """What a page holds: elements with their attributes in order, the text of each, and tags that do not match."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.mismatched, self._open = [], [], []
        self.feed(text)
        self.close()
        self.mismatched += [element["tag"] for element in self._open]

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "attrs": dict(attrs), "text": ""}
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.elements.append({"tag": tag, "attrs": dict(attrs), "text": ""})

    def handle_endtag(self, tag):
        if self._open and self._open[-1]["tag"] == tag:
            self._open.pop()
        else:
            self.mismatched.append(tag)

    def handle_data(self, data):
        for element in self._open:
            element["text"] += data

    def all(self, *tags):
        return [element for element in self.elements if element["tag"] in tags]

    def text(self):
        return self.elements[0]["text"]


def _outline(text):
    """Headings, sections, table headers and alternative texts with their numbers, in order, a line each."""
    lines = []
    for element in Page(text).elements:
        tag, attributes, words = element["tag"], element["attrs"], " ".join(element["text"].split())
        if tag in ("h1", "h2", "h3", "caption"):
            lines.append(f"{tag} {words}")
        elif tag == "section":
            lines.append(f"section #{attributes['id']}")
        elif tag == "thead":
            lines.append("columns " + " | ".join(filter(None, (c.strip() for c in element["text"].split("\n")))))
        elif tag == "svg":
            lines.append(f"svg {attributes['role']}")
        elif tag in ("title", "desc", "nav"):
            lines.append(f"{tag} {words}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_structure_is_the_golden_one(page, situation):
    golden = GOLDEN / f"{situation}.txt"
    found = _outline(page(situation))
    if os.environ.get("WRITE_GOLDEN"):  # WRITE_GOLDEN=1 python -m pytest tests/report/test_html.py
        golden.write_text(found, encoding="utf-8")
    assert found == golden.read_text(encoding="utf-8")


def test_every_situation_has_a_golden_file(any_results, request):
    assert request.node.callspec.params["any_results"] in SITUATIONS


@pytest.mark.parametrize("situation", SITUATIONS)
def test_nothing_is_loaded_and_no_script_can_run(page, situation):
    text = page(situation)
    found = Page(text)
    policies = [m["attrs"]["content"] for m in found.all("meta") if "http-equiv" in m["attrs"]]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"]
    assert not found.all("script", "link", "iframe", "object", "embed", "img", "base", "form")
    for element in found.elements:
        assert not [name for name in element["attrs"] if name.startswith("on") or name in ("src", "srcset")]
        for name in ("href", "xlink:href"):
            assert element["attrs"].get(name, "#").startswith("#")
    assert "url(" not in re.sub(r"url\(#", "", text) and "@import" not in text
    assert {match.rstrip('"') for match in re.findall(r"https?://[^ >]*", text)} <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_page_is_well_formed_and_speaks_to_screen_readers(page, situation):
    found = Page(page(situation))
    assert not found.mismatched
    ids = [element["attrs"]["id"] for element in found.elements if "id" in element["attrs"]]
    assert len(ids) == len(set(ids))
    for element in found.elements:
        named = element["attrs"].get("aria-labelledby", "").split()
        linked = [v[1:] for k, v in element["attrs"].items() if k in ("href", "xlink:href")]
        assert set(named) | set(linked) <= set(ids)
    assert len(found.all("h1")) == len(found.all("main")) == len(found.all("nav")) == 1
    assert found.elements[0]["attrs"] == {"lang": "en"}
    assert all(svg["attrs"]["role"] == "img" and svg["attrs"]["aria-labelledby"] for svg in found.all("svg"))
    assert len(found.all("desc")) == len(found.all("svg")) and all(d["text"].strip() for d in found.all("desc"))
    assert all(cell["attrs"].get("scope") in ("col", "row") for cell in found.all("th"))
    assert len(found.all("caption")) == len(found.all("table"))
    regions = [d for d in found.all("div") if d["attrs"].get("role") == "region"]
    assert len(regions) == len(found.all("table")) and all(r["attrs"]["tabindex"] == "0" for r in regions)


def test_the_first_thing_said_is_the_verdict_with_effect_interval_pairs_and_margin(page):
    first = Page(page("passed")).all("p")[0]
    assert " ".join(first["text"].split()) == (
        "PASS: optimized is 1.251 times as fast per step as baseline (95 % interval 1.240 to 1.262, 16 block pairs; "
        "noise floor 1.2 %); its final held-out loss differs by +0.0041 nats/token (95 % interval +0.0012 to +0.0070, "
        "512 held-out sequences; margins 0.1 and 0.02)."
    )


def test_verdicts_are_words_in_every_table_that_has_them(page):
    found = Page(page("placebo_failed"))
    verdicts = [element["text"] for element in found.all("strong") if "verdict" in element["attrs"]["class"]]
    assert verdicts == ["INCONCLUSIVE", "FAIL", "PASS", "PASS", "PASS", "PASS", "PASS"]


def _poisoned(value):
    """`value` with every text replaced by a hostile one, but for verdicts and what says which arm is meant."""
    if isinstance(value, dict):
        return {key: _poisoned(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_poisoned(v) for v in value]
    kept = ("PASS", "FAIL", "INCONCLUSIVE", "baseline", "optimized", "compute", "memory", "bigram")
    return HOSTILE if isinstance(value, str) and value not in kept else value


def test_markup_in_any_text_of_the_results_stays_text(situation, renamed):
    others = (
        ("attribution", "ablated"),
        ("compression", "compressed"),
        ("decoding", "decoded"),
        ("time_to_loss", "scheduled"),
    )
    results = replace(situation("many_seeds"), **{name: getattr(situation(of), name) for name, of in others})
    poisoned = decode(_poisoned(plain(results)))
    poisoned = renamed(poisoned, {name: HOSTILE + name for name in ("baseline", "optimized")})
    poisoned = replace(
        poisoned,
        config_differences=(ConfigDifference(field=HOSTILE, baseline=HOSTILE, optimized=HOSTILE),),
        warnings=(HOSTILE,),
        artifacts={HOSTILE: HOSTILE},
        manifest={**poisoned.manifest, HOSTILE: HOSTILE},
    )
    text = report.render(poisoned)
    found, clean = Page(text), Page(report.render(results))
    assert not found.mismatched and {e["tag"] for e in found.elements} == {e["tag"] for e in clean.elements}
    assert not [a for e in found.elements for a in e["attrs"] if a.startswith("on") or a == "src"]
    assert HOSTILE in found.all("h1")[0]["text"]
    assert sum(HOSTILE in li["text"] for li in found.all("li")) >= 2, "the warning, twice"
    assert sum(HOSTILE in cell["text"] for cell in found.all("td", "th")) > 80
    assert "49" not in found.all("h1")[0]["text"], "the template engine has run what it was given"


def test_control_characters_and_halves_of_characters_are_not_in_the_page(results, edit):
    hidden = "a\x1b[2J\x00\u202e\ud800b"
    results = edit(edit(results, name=hidden), "criteria.0", actual=hidden)
    text = report.render(results)
    assert Page(text).all("h1")[0]["text"] == "a?[2J???b"
    assert not set("\x1b\x00\u202e\ud800") & set(text)


def test_the_report_in_a_frame_is_one_element_whose_page_is_escaped(results, edit):
    results = edit(results, name=HOSTILE)
    found = Page(str(report.framed(results)))
    (frame,) = found.elements
    assert frame["tag"] == "iframe" and frame["attrs"]["sandbox"] is None
    assert HOSTILE in frame["attrs"]["title"]
    assert frame["attrs"]["srcdoc"] == report.render(results)


def test_the_same_results_give_the_same_bytes(results, page):
    assert report.render(results) == page("passed")


@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_report_has_less_than_a_megabyte(page, situation):
    assert len(page(situation).encode()) < 1_000_000


def test_a_run_of_many_blocks_and_epochs_has_less_than_a_megabyte_too(results, edit):
    blocks = itertools.islice(itertools.cycle(results.comparison.step_time_speedup.blocks), 5000)
    blocks = tuple(replace(block, index=index) for index, block in enumerate(blocks))
    results = edit(results, "comparison.step_time_speedup", blocks=blocks)
    for name, arm in results.arms.items():
        epochs = itertools.islice(itertools.cycle(arm.epochs), 2500)
        epochs = tuple(replace(epoch, epoch=i + 1, step=100 * (i + 1)) for i, epoch in enumerate(epochs))
        results = edit(results, f"arms.{name}", epochs=epochs)
    text = report.render(results)
    assert len(text.encode()) < 1_000_000
    assert "Epochs: one in 25 of 2,500; results.json holds all" in text


def _contrast(first, second):
    """Contrast ratio of two colours by WCAG 2.2."""

    def luminance(colour):
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


def test_text_has_the_contrast_that_wcag_aa_asks_for(page):
    assert _contrast("#000000", "#ffffff") == pytest.approx(21)
    style = Page(page("passed")).all("style")[0]["text"]
    pairs = re.findall(r"[{ ]color: (#\w{6}); background: (#\w{6})", style)
    assert len(pairs) >= 4, "the page and the three verdicts"
    alone = [colour for colour in re.findall(r"[{ ]color: (#\w{6})", style) if colour not in dict(pairs)]
    pairs += [(colour, "#ffffff") for colour in (*alone, plots.style.INK, plots.style.GREY)]
    assert [pair for pair in pairs if _contrast(*pair) < 4.5] == []
    assert [colour for colour in plots.style.COLOURS if _contrast(colour, "#ffffff") < 3] == []
