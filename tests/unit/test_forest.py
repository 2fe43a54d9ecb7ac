"""The forest plot of a release shows every benchmark to scale, and is safe and whole whatever the names are."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from flagrelease.card.data import CardData
from flagrelease.card.forest import forest_plot
from flagrelease.verdicts import BenchmarkVerdict, Verdict
from tests.unit import card_data
from tests.unit.card_data import verdict

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = '<script>alert(1)</script>" onload="x" &amp; ]]> {{ 7*7 }} {% raw %}\u202e\x00\x1b\ufffe\ud800 end'


def data(*benchmarks: BenchmarkVerdict, **changes: Any) -> CardData:
    plain = card_data.card(card_data.container_cell())
    return plain.model_copy(update={"gate": plain.gate.model_copy(update={"benchmarks": list(benchmarks), **changes})})


def drawn(*benchmarks: BenchmarkVerdict, **changes: Any) -> ET.Element:
    text = forest_plot(data(*benchmarks, **changes))
    assert text is not None
    return ET.fromstring(text)  # noqa: S314 - our own picture


def texts(picture: ET.Element) -> list[str]:
    return ["".join(element.itertext()) for element in picture.iter(f"{SVG}text")]


def scale(picture: ET.Element) -> tuple[float, float]:
    """Points a unit of the picture, and where zero is; from the labels of the axis."""
    ticks = [
        (float(element.get("x", "")), float((element.text or "").replace("−", "-")))
        for element in picture.iter(f"{SVG}text")
        if element.get("text-anchor") == "middle"
    ]
    (x1, low), *_, (x2, high) = ticks
    per_unit = (high - low) / (x2 - x1)
    (axis,) = [e for e in picture.iter(f"{SVG}path") if re.fullmatch(r"M\d+ \d+H\d+", e.get("d", ""))]
    assert [x1, x2] == [float(x) for x in re.findall(r"[MH](\d+)", axis.get("d", ""))]
    for x, label in ticks:
        assert label == pytest.approx(low + (x - x1) * per_unit, abs=0.1)
    return per_unit, x1 - low / per_unit


def shapes(picture: ET.Element, kind: str) -> list[ET.Element]:
    return [element for element in picture.iter() if kind in element.get("class", "").split()]


def test_nothing_compared_gives_no_picture() -> None:
    assert forest_plot(data()) is None


def test_intervals_points_margins_and_pooled_are_to_scale() -> None:
    row = verdict("mmlu", "MMLU", difference=-0.0112, lower=-0.0231, upper=0.0007, margin_points=2.5)
    picture = drawn(row)
    per_unit, zero = scale(picture)

    def points(x: str) -> float:
        return (float(x) - zero) * per_unit

    (circle,) = picture.iter(f"{SVG}circle")
    assert points(circle.get("cx", "")) == pytest.approx(-1.12, abs=0.01)
    (bar,) = [each for each in shapes(picture, "consistent") if "H" in each.get("d", "")]
    ends = re.match(r"M([\d.]+) \d+H([\d.]+)", bar.get("d", ""))
    assert ends is not None
    assert [points(x) for x in ends.groups()] == pytest.approx([-2.31, 0.07], abs=0.01)
    dashed = [each.get("d", "")[1:].split()[0] for each in picture.iter() if each.get("stroke-dasharray")]
    assert [points(x) for x in dashed[:2]] == pytest.approx([-2.5, -1.0], abs=0.01)  # the row's, the pooled one
    (diamond,) = [each for each in shapes(picture, "consistent") if each.get("d", "").endswith("z")]
    corners = re.findall(r"[ML]([\d.]+) ", diamond.get("d", ""))
    assert [points(x) for x in corners] == pytest.approx([-0.86, -0.2, 0.46, -0.2], abs=0.01)


def test_margins_and_zero_are_on_the_axis_though_far_from_the_intervals() -> None:
    picture = drawn(verdict("a", "A", difference=0.051, lower=0.05, upper=0.052, margin_points=9.0), pooled=None)
    per_unit, zero = scale(picture)
    (dashed,) = [e for e in picture.iter() if e.get("stroke-dasharray") and "v40" in e.get("d", "")]
    x = float(dashed.get("d", "")[1:].split()[0])
    assert (x - zero) * per_unit == pytest.approx(-9, abs=0.05)
    assert 244 <= x < zero <= 558


def test_rows_say_in_words_what_they_show() -> None:
    row = verdict("a", "AIME", role="advisory", n=30, repeats=4, stopped_of=90, different=True, upper=0.05)
    shown = texts(drawn(row))
    for text in ("AIME", "30 of 90 × 4, advisory", "−0.20", "−0.86 to +5.00", "CONSISTENT", "margin −3, gain > +3"):
        assert text in shown
    assert "Qwen3-8B-FlagOS-metax minus Qwen3-8B-H100-CUDA" in shown
    description = drawn(row).findtext(f"{SVG}desc") or ""
    assert (
        "AIME: −0.20 points, 90 % interval −0.86 to +5.00, margin −3, gain > +3, CONSISTENT, advisory." in description
    )
    assert "Mean of the gated benchmarks: −0.20 points" in description


def test_each_verdict_has_a_shape_a_colour_and_a_word() -> None:
    marks = set()
    for each in Verdict:
        picture = drawn(verdict("a", "A", verdict=each), pooled=None)
        assert each.value in texts(picture)
        (mark,) = [
            e for e in shapes(picture, each.value.lower()) if e.tag != f"{SVG}text" and "H" not in e.get("d", "")
        ]
        marks.add((mark.tag, mark.get("fill"), mark.get("stroke"), len(mark.get("d", ""))))
    assert len(marks) == len(Verdict)


def test_a_pooled_difference_that_may_be_too_large_does_not_look_passed() -> None:
    pooled = data(verdict("a", "A")).gate.pooled
    assert pooled is not None
    picture = drawn(verdict("a", "A"), pooled=pooled.model_copy(update={"non_inferior": False}))
    assert "not above margin" in texts(picture)
    assert shapes(picture, "inconclusive")
    assert "Mean" not in texts(drawn(verdict("a", "A"), pooled=None))


def test_what_weakens_the_comparison_is_said() -> None:
    assert "question by question" in " ".join(texts(drawn(verdict("a", "A"))))
    assert "by totals alone" in " ".join(texts(drawn(verdict("a", "A"), paired=False)))
    invalid = drawn(verdict("a", "A", verdict=Verdict.INVALID), verdict=Verdict.INVALID)
    assert "INVALID: the differences say nothing" in " ".join(texts(invalid))
    assert "above margin" not in texts(invalid)


def test_rows_stand_in_the_order_of_the_card() -> None:
    shown = texts(drawn(verdict("other", "Other"), verdict("aime", "AIME"), verdict("mmlu", "MMLU")))
    assert [text for text in shown if text in {"MMLU", "AIME", "Other"}] == ["MMLU", "AIME", "Other"]


@pytest.mark.parametrize("rows", [1, 2, 30])
def test_any_number_of_rows_fits(rows: int) -> None:
    found = [
        verdict(f"b{i}", f"Benchmark {i}", difference=i / 100, lower=i / 100 - 0.5, upper=i / 100) for i in range(rows)
    ]
    picture = drawn(*found)
    height = float(picture.get("height", ""))
    assert picture.get("viewBox") == f"0 0 820 {height:.0f}"
    heights = [float(element.get("y", "")) for element in picture.iter(f"{SVG}text")]
    assert max(heights) < height
    assert len({text for text in texts(picture) if text.startswith("Benchmark ") and "," not in text}) == rows
    xs = [float(element.get("x", "")) for element in picture.iter(f"{SVG}text")]
    assert all(0 <= x <= 820 for x in xs)


@pytest.mark.parametrize("width", [0.0, 1e-7, 0.0004, 0.02, 1.0])
def test_any_width_of_interval_has_an_axis(width: float) -> None:
    row = verdict("a", "A", difference=0.0, lower=-width, upper=width, margin_points=1e-9 if width < 0.01 else 2.0)
    picture = drawn(row, pooled=None)
    labels = [e.text for e in picture.iter(f"{SVG}text") if e.get("text-anchor") == "middle"]
    assert 2 <= len(labels) <= 12
    assert len(set(labels)) == len(labels)
    scale(picture)


def test_hostile_names_stay_text() -> None:
    plain = data(*(verdict(f"b{i}", HOSTILE * (i + 1)) for i in range(3)))
    cell = plain.cell.model_copy(update={"model": plain.cell.model.model_copy(update={"display": HOSTILE})})
    text = forest_plot(plain.model_copy(update={"cell": cell}))
    assert text is not None
    text.encode()
    picture = ET.fromstring(text)  # noqa: S314 - our own picture
    names = {element.tag.removeprefix(SVG) for element in picture.iter()}
    assert names <= {"svg", "title", "desc", "style", "rect", "g", "text", "path", "circle"}
    assert not [name for element in picture.iter() for name in element.attrib if name.startswith("on")]
    assert all(char.isprintable() or char == "\n" for char in text)
    assert any(shown.startswith("<script>alert") and shown.endswith("…") for shown in texts(picture))
    assert "7*7" in (picture.findtext(f"{SVG}desc") or "")


def test_long_names_are_cut_to_their_column_and_usual_ones_are_not() -> None:
    shown = texts(drawn(verdict("a", "LiveBench-0fewshot_@avg1"), verdict("b", "W" * 300), verdict("c", "评测" * 40)))
    assert "LiveBench-0fewshot_@avg1" in shown
    cut = [text for text in shown if text.endswith("…")]
    assert [text[0] for text in cut] == ["W", "评"]
    assert all(10 <= len(text) <= 17 for text in cut)


def test_same_data_gives_the_same_bytes_and_nothing_is_loaded() -> None:
    rows = [verdict("a", "A", difference=1 / 3, lower=-1 / 7, upper=0.777777777)]
    text = forest_plot(data(*rows))
    assert text == forest_plot(data(*rows))
    assert text is not None
    assert "http" not in text.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"href|url\(|@import|<!", text)
    assert not re.search(r'(?:x|y|cx|cy|d)="[^"]*\.\d\d', text), "coordinates have one decimal"
    assert "prefers-color-scheme: dark" in text
