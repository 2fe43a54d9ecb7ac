"""What the lint says of whole cards, what it corrects, and its command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flagrelease import cli
from flagrelease.card.compose import measured_card
from flagrelease.card.lint import errors_of, fix, knowledge, lint_text
from flagrelease.card.read import read_card
from flagrelease.card.render import render
from flagrelease.card.styles import Language, Style
from flagrelease.cli import card_lint
from flagrelease.errors import CardFileError, UnknownNameError
from flagrelease.matrix import Licence, ResolvedCell
from flagrelease.settings import settings
from tests.unit import card_data
from tests.unit.lint_cards import CHIPS, MATRIX, changed, findings, found, good, known, published, rules

ROBOBRAIN_32B = "harbor.baai.ac.cn/flagrelease-public/flagrelease_nv_robobrain2_32b"


# What the five source cards say wrongly, told from their facts in the matrix.
@pytest.mark.parametrize(
    ("cell", "errors"),
    [
        ("minimax-nvidia", ["driver-of-another-vendor"]),
        ("minicpmv4-metax", []),
        ("robobrain2-7b-metax", []),
        ("qwen3-metax", ["driver-of-another-vendor"]),
        ("step3-nvidia", ["mislabelled-benchmark", "mislabelled-benchmark"]),
    ],
)
def test_the_source_cards(cell: str, errors: list[str]) -> None:
    text = published(cell)
    assert [finding.rule for finding in errors_of(text, known(), source="README.md")] == errors
    assert [finding.rule for finding in findings(text) if finding.severity == "warning"] == ["missing-n"]


def test_the_driver_of_the_source_cards_is_moore_threads() -> None:
    for cell, display in (("minimax-nvidia", "Nvidia"), ("qwen3-metax", "Metax")):
        (driver,) = found(published(cell), "driver-of-another-vendor")
        assert driver.cause == (
            f"`Kernel Mode Driver Version: 2.3.0` is a driver of Moore Threads, and the card is for {display}"
        )


def test_on_its_own_chip_the_same_driver_is_right() -> None:
    assert "driver-of-another-vendor" not in rules(published("qwen3-metax").replace("etax", "threads"))


@pytest.mark.parametrize("style", Style)
@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("cell", [card_data.container_cell(), card_data.process_cell()], ids=["container", "process"])
def test_a_measured_card_has_no_error(cell: ResolvedCell, style: Style, language: Language) -> None:
    text = render(measured_card(card_data.card(cell), style, language))
    found = findings(text)
    assert [finding.cause for finding in found if finding.severity == "error"] == []
    # The classic style has no room for the number of questions.
    expected = {"missing-n"} if style is Style.CLASSIC else set()
    assert {finding.rule for finding in found if finding.severity == "warning"} == expected


def test_the_chip_is_the_one_that_most_of_the_card_names() -> None:
    text = changed(good(), ("for the Metax chip", "for the Ascend chip"))
    assert "most of the card says Metax" in found(text, "chip-mismatch")[0].cause
    assert "devices-of-another-chip" not in rules(text)


def test_many_foreign_devices_do_not_make_it_another_chips_card() -> None:
    devices = " ".join(f"--device=/dev/davinci{number}" for number in range(8))
    text = changed(good(), ("--group-add video", devices))
    assert rules(text) == {"devices-of-another-chip"}


def test_a_foreign_device_is_reported_once() -> None:
    text = changed(good(), ("--group-add video", "--gpus all"))
    assert rules(text) == {"devices-of-another-chip"}


def test_the_image_of_another_model_is_found_although_it_is_pulled_too() -> None:
    text = changed(good(), ("harbor.baai.ac.cn/flagrelease-public/flagrelease_metax_qwen3_8b:latest", ROBOBRAIN_32B))
    assert {"image-of-another-model", "chip-mismatch"} <= rules(text)
    assert "run-image-not-pulled" not in rules(text)


def test_a_licence_is_known_by_family_where_the_matrix_lacks_the_model() -> None:
    other = "gemma-3-4b-it"
    text = changed(good(), ("Qwen3-8B", other), ("Qwen/", "google/"))
    assert found(text, "wrong-licence")[0].cause.endswith("the model is under the Gemma Terms of Use")


def test_the_matrix_knows_a_licence_better_than_the_family() -> None:
    models = {
        **MATRIX.models,
        "qwen3": MATRIX.models["qwen3"].model_copy(update={"licence": Licence(spdx="MIT", url="")}),
    }
    mine = knowledge(MATRIX.model_copy(update={"models": models}), CHIPS, known().benchmarks)
    assert "wrong-licence" in {finding.rule for finding in lint_text(good(), mine, source="README.md")}


def test_an_imported_card_is_compared_with_too() -> None:
    other = read_card(changed(good(), ("Qwen3-8B", "Qwen9-9B")), source="other.md").card
    mine = knowledge(MATRIX.model_copy(update={"cells": []}), CHIPS, known().benchmarks, [other])
    copied = [each for each in lint_text(good(), mine, source="README.md") if each.rule == "copied-scores"]
    assert "another model (other.md)" in copied[0].cause


def test_findings_are_sorted_by_severity_then_line() -> None:
    text = changed(
        good(),
        ("LICENSE-2.0.txt>\n", "LICENSE-2.0.txt>"),
        ("Version: 3.3.12", "2.3.0"),
        ("# License", "TODO\n\n# License"),
    )
    found = findings(text)
    assert [finding.severity for finding in found] == ["error", "error", "note"]
    assert [finding.rule for finding in found] == ["driver-of-another-vendor", "placeholder", "no-final-newline"]


def test_a_card_without_a_container_has_its_port_checked_too() -> None:
    start = good()[good().index("### Start the inference") : good().index("### Serve")]
    text = changed(good(), (start, ""), ("flagscale serve qwen3", "vllm serve /nfs/models/Qwen3-8B --port 9010"))
    assert rules(text) == {"port-mismatch"}


def test_text_that_is_no_card_has_only_what_can_be_said_of_it() -> None:
    assert rules("Hello.\n") == {"no-results"}
    assert rules("") == {"no-results"}


def fixed(text: str) -> tuple[str, list[str]]:
    result = fix(text, findings)
    return result.text, [change.rule for change in result.changes]


def test_fix_names_the_benchmarks_of_a_vision_table() -> None:
    text, changes = fixed(published("step3-nvidia"))
    assert changes == ["mislabelled-benchmark", "mislabelled-benchmark"]
    assert text == changed(published("step3-nvidia"), ("MMLU_Pro_", "MMMU_Pro_"))


def test_fix_opens_what_is_only_closed() -> None:
    broken = changed(
        good(), ("**FlagEval (Libra)**, started", "FlagEval (Libra)** started"), ("- **High Eff", "- High Eff")
    )
    text, changes = fixed(broken)
    assert changes == ["unbalanced-bold", "unbalanced-bold"]
    assert text == changed(good(), ("(Libra)**, started", "(Libra)** started"))


@pytest.mark.parametrize("text", ["**Developers everywhere", "Developers** every**where**", "Developers\neverywhere**"])
def test_fix_leaves_alone_what_may_be_meant_otherwise(text: str) -> None:
    broken = changed(good(), ("Developers everywhere", text))
    assert "unbalanced-bold" in rules(broken)
    assert fixed(broken) == (broken, [])


@pytest.mark.parametrize("closed", ["qwen3_8b:latest\n```\n\n### Start", "qwen3_8b:latest bash\n```\n\n### Serve"])
def test_fix_closes_code_before_the_heading_that_it_swallowed(closed: str) -> None:
    broken = changed(good(), (closed, closed.replace("```\n", "")))
    assert "unclosed-code" in rules(broken)
    assert fixed(broken) == (good(), ["unclosed-code"])


def test_fix_ends_the_last_line_and_keeps_the_files_line_ends() -> None:
    broken = changed(good(), ("FlagEval (Libra)**, started", "FlagEval (Libra)**, started")).rstrip("\n")
    broken = changed(broken, ("**FlagEval (Libra)**", "FlagEval (Libra)**")).replace("\n", "\r\n")
    text, changes = fixed(broken)
    assert sorted(changes) == ["no-final-newline", "unbalanced-bold"]
    assert text == good().replace("\n", "\r\n")


def test_fix_corrects_several_things_at_once() -> None:
    last = ("LICENSE-2.0.txt>\n", "LICENSE-2.0.txt>\n\n**Thanks** to all.\n")
    broken = changed(
        changed(good(), last),
        ("**FlagEval (Libra)**", "FlagEval (Libra)**"),
        ("qwen3_8b:latest\n```\n\n### Start", "qwen3_8b:latest\n\n### Start"),
        ("**Thanks** to all.\n", "Thanks** to all."),
    )
    text, changes = fixed(broken)
    assert text == changed(good(), last)
    assert sorted(changes) == ["no-final-newline", "unbalanced-bold", "unbalanced-bold", "unclosed-code"]


def test_fix_does_not_choose_between_two_images() -> None:
    broken = changed(good(), ("flagrelease_metax_qwen3_8b:latest bash", "flagrelease_metax_qwen3_4b bash"))
    assert fixed(broken) == (broken, [])


def test_fix_of_a_good_card_changes_nothing() -> None:
    assert fixed(good()) == (good(), [])


@pytest.fixture(autouse=True)
def host(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, and an empty place for state."""
    monkeypatch.chdir(home)
    # The same files, read once for all tests.
    monkeypatch.setattr(card_lint, "card_knowledge", lambda _: known())
    return home


CARD_KNOWLEDGE = card_lint.card_knowledge


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, ["card", "lint", *arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (("# License", "# License"), 0),
        (("LICENSE-2.0.txt>\n", "LICENSE-2.0.txt>"), 0),
        (("Developers everywhere", "**Developers everywhere"), 1),
        (("Version: 3.3.12", "Version: 2.3.0"), 2),
    ],
    ids=["clean", "note", "warning", "error"],
)
def test_the_exit_code_is_the_worst_severity(host: Path, change: tuple[str, str], code: int) -> None:
    (host / "README.md").write_text(changed(good(), change))
    assert run("README.md")[0] == code


def test_the_command_names_file_line_rule_cause_and_remedy(host: Path) -> None:
    text = changed(good(), ("Version: 3.3.12", "Version: 2.3.0"))
    (host / "README.md").write_text(text)
    line = next(number for number, each in enumerate(text.split("\n"), 1) if "Version: 2.3.0" in each)
    _, output = run("README.md")
    assert output.splitlines() == [
        f"README.md:{line}: error: driver-of-another-vendor: environment table: "
        "`Version: 2.3.0` is a driver of Moore Threads, and the card is for Metax",
        "  -> state the version that the chip's own tool prints on the host that was measured on",
        "README.md: 1 error, 0 warnings, 0 notes",
    ]


def test_the_command_for_programs(host: Path) -> None:
    (host / "README.md").write_text(changed(good(), ("Version: 3.3.12", "Version: 2.3.0")))
    code, output = run("README.md", "--json")
    data = json.loads(output)
    assert code == 2
    assert data["source"] == "README.md"
    assert [(each["rule"], each["severity"], each["place"]) for each in data["findings"]] == [
        ("driver-of-another-vendor", "error", "environment table")
    ]
    assert set(data["findings"][0]) == {"rule", "severity", "place", "line", "cause", "remedy"}


def test_the_command_prints_no_control_characters_of_the_card(host: Path) -> None:
    text = changed(good(), ("Developers everywhere", "[a](\x1b[31m.png) Developers\x1b[2J (all)** everywhere"))
    (host / "README.md").write_text(text)
    code, output = run("README.md", "--fix")
    assert code == 2
    assert "dead-link" in output
    assert "corrected: unbalanced-bold" in output
    assert "\x1b" not in output


def test_the_command_knows_what_lies_beside_the_card(host: Path) -> None:
    (host / "README.md").write_text(changed(good(), ("# License", "![plot](differences.svg)\n\n# License")))
    assert run("README.md")[0] == 2
    (host / "differences.svg").touch()
    assert run("README.md")[0] == 0


def test_cards_are_checked_against_the_hosts_matrix_and_the_catalogue() -> None:
    seen = CARD_KNOWLEDGE(settings())
    assert {table.source for table in seen.published} >= {"MiniMax-M2-nvidia.md", "Qwen3-8B-metax.md"}
    benchmark = seen.benchmark("MMLU-5shots@avg1")
    assert benchmark is not None
    assert benchmark.items == 12032
    assert seen.chip_of("huawei") == "ascend"


def test_cards_that_were_imported_here_are_known(host: Path) -> None:
    known_before = CARD_KNOWLEDGE(settings())
    assert not settings().home_path.exists(), "checking a card makes no store"
    (host / "card.md").write_text(good())
    assert CliRunner().invoke(cli.app, ["card", "import", "card.md"]).exit_code == 0
    sources = [table.source for table in CARD_KNOWLEDGE(settings()).published]
    assert sources == [*(table.source for table in known_before.published), "card.md"]


def test_a_cell_is_checked_as_it_would_be_published() -> None:
    code, output = run("step3-nvidia")
    assert code == 2
    assert "mislabelled-benchmark" in output


def test_fix_writes_the_file_and_says_what_it_changed(host: Path) -> None:
    path = host / "README.md"
    path.write_text(changed(good(), ("**FlagEval (Libra)**", "FlagEval (Libra)**")))
    code, output = run("README.md", "--fix")
    assert code == 0
    assert path.read_text() == good()
    assert "corrected: unbalanced-bold" in output
    assert "  - FlagEval (Libra)**" in output
    assert "  + **FlagEval (Libra)**" in output
    assert run("README.md", "--fix") == (0, "README.md: clean\n")


def test_fix_that_finds_nothing_to_correct_does_not_touch_the_file(host: Path) -> None:
    path = host / "README.md"
    path.write_text(good())
    path.chmod(0o444)
    before = path.stat()
    run("README.md", "--fix")
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_fix_of_a_cell_says_where_to_correct_it() -> None:
    with pytest.raises(CardFileError) as caught:
        run("step3-nvidia", "--fix")
    assert "matrix.yaml" in caught.value.remedy


def test_what_is_not_there_is_named(host: Path) -> None:
    with pytest.raises(CardFileError, match=r"nothing\.md"):
        run("nothing.md")
    with pytest.raises(UnknownNameError, match="no-such-cell"):
        run("no-such-cell")
    (host / "picture.md").write_bytes(b"\x89PNG\xff")
    with pytest.raises(CardFileError, match=r"picture\.md"):
        run("picture.md")
