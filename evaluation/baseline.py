"""Baselines: evaluations of the reference, and published scores that stand in for one. They never change.

A baseline is a folder `<id>/` below `evaluation/baselines/`, a row in the store, or both:

* measured: `baseline.json` (where it comes from, how it was asked, its noise floors), `items.jsonl` (every answer),
  and `canary.json` where it has a canary;
* published: `imported.json`.

An id ends with the hash of the content, so a changed file is noticed and a new measurement is a new baseline.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from evaluation.floors import discordance_between
from evaluation.run import aggregate, items_from_jsonl, items_to_jsonl
from evaluation.sides import pairs
from evaluation.statistics import ROUNDING
from flagrelease.errors import BaselineError, OutputError
from flagrelease.records import CanaryReference, Evaluation, ImportedBaseline, NoiseFloor, Provenance, digest
from flagrelease.store import Store

SHIPPED = Path(str(files("evaluation"))) / "baselines"
CHECKOUT = SHIPPED if (SHIPPED.parents[1] / "pyproject.toml").exists() else None
"""Where new baselines are written to be committed; none where FlagRelease is installed from a wheel."""

IMPORTED_ID = re.compile(r".+-published-[0-9a-f]{12}")
INCOMING = ".incoming"


def baseline_id(baseline: Evaluation | ImportedBaseline) -> str:
    """`<model>-<engine>-<hash of content>`, of published scores `<model>-published-<hash of content>`."""
    # Without defaults, so that an optional field that is added to the records one day changes no id.
    content = baseline.model_dump(mode="json", exclude_defaults=True)
    if isinstance(baseline, ImportedBaseline):
        return f"{baseline.model}-published-{digest(content)[:12]}"
    # The store gives items back in this order, whatever order they were asked in.
    content["items"].sort(key=lambda item: (item["benchmark"], item["item"], item.get("repeat", 0)))
    return f"{baseline.provenance.model}-{baseline.provenance.engine}-{digest(content)[:12]}"


def is_imported(identifier: str) -> bool:
    """Whether an id is one of published scores without items."""
    return IMPORTED_ID.fullmatch(identifier) is not None


def save(baseline: Evaluation | ImportedBaseline, folder: Path) -> Path:
    """Write a baseline below `folder`, whole or not at all; returns its own folder. One that is there stays.

    Raises OutputError where it cannot be written, BaselineError where one with this id is there and was changed.
    """
    own = folder / baseline_id(baseline)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            if own.exists():
                _read(own.name, folder)
                return own
            aside = folder / INCOMING
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            for name, data in _contents(baseline).items():
                (aside / name).write_bytes(data)
            aside.rename(own)
    except OSError as error:
        raise OutputError(
            f"cannot write the baseline {own}: {error.strerror}",
            remedy="free space, or give another folder with --output; then run the same command again",
        ) from error
    return own


def keep(baseline: Evaluation | ImportedBaseline, store: Store, folder: Path | None) -> str:
    """Put a baseline into the store, and below `folder` if there is one; returns its id. A second time changes nothing.

    Raises as `save` does.
    """
    identifier = baseline_id(baseline)
    if folder is not None:
        save(baseline, folder)
    if isinstance(baseline, ImportedBaseline):
        store.add_imported_baseline(identifier, baseline)
    else:
        key = digest(["baseline", identifier])
        store.add_evaluation(baseline, aggregate(baseline), key=key, role="baseline", baseline_id=identifier)
    return identifier


def noise_floors(first: Evaluation, again: Evaluation, how: str) -> list[NoiseFloor]:
    """How much the answers of one system change from `first` to `again` (A/A).

    An item that was not answered again counts as one that scores 0, as it does in a comparison.
    """
    floors = []
    for pair in pairs(again, first):
        names = pair.baseline.names
        before, after = pair.baseline.scores(names), pair.candidate.scores(names)
        # One repeat each, as the gate counts changed answers of a candidate.
        changed = abs(after[:, 0] - before[:, 0]) > ROUNDING
        floors.append(
            NoiseFloor(
                benchmark=pair.benchmark,
                n=len(names),
                flips=int(changed.sum()),
                discordance=discordance_between(before, after),
                how=how,
            )
        )
    return floors


def load(identifier: str, folder: Path = SHIPPED) -> Evaluation:
    """The measured baseline with this id; raises BaselineError where it is missing, changed, or published scores."""
    found = _read(identifier, folder)
    if isinstance(found, ImportedBaseline):
        raise BaselineError(
            f"{identifier} is published scores without items",
            remedy="measure one: flagrelease baseline run <model>",
        )
    return found


def load_imported(identifier: str, folder: Path = SHIPPED) -> ImportedBaseline:
    """The published scores with this id; raises BaselineError where they are missing, changed, or a measurement."""
    found = _read(identifier, folder)
    if isinstance(found, Evaluation):
        raise BaselineError(
            f"{identifier} was measured: it is no published scores", remedy="see it: flagrelease baseline show"
        )
    return found


def listed(folder: Path = SHIPPED) -> dict[str, Provenance | ImportedBaseline | str]:
    """What each baseline below `folder` is of, by id, or in words why that cannot be read.

    Items are not read, so a changed one is not noticed here.
    """
    found: dict[str, Provenance | ImportedBaseline | str] = {}
    for own in sorted(path for path in folder.glob("[!.]*") if path.is_dir()):
        try:
            with _explained(own.name, folder):
                if is_imported(own.name):
                    found[own.name] = ImportedBaseline.model_validate_json((own / "imported.json").read_bytes())
                else:
                    about = json.loads((own / "baseline.json").read_bytes())
                    found[own.name] = Provenance.model_validate(about["provenance"])
        except BaselineError as error:
            found[own.name] = " ".join(error.message.split())
    return found


def _read(identifier: str, folder: Path) -> Evaluation | ImportedBaseline:
    own = folder / identifier
    found: Evaluation | ImportedBaseline
    with _explained(identifier, folder):
        if is_imported(identifier):
            found = ImportedBaseline.model_validate_json((own / "imported.json").read_bytes())
        else:
            about: dict[str, Any] = json.loads((own / "baseline.json").read_bytes())
            canary = own / "canary.json"
            if canary.exists():
                about["canary"] = CanaryReference.model_validate_json(canary.read_bytes())
            found = Evaluation(**about, items=items_from_jsonl((own / "items.jsonl").read_bytes()))
    if baseline_id(found) != identifier:
        raise BaselineError(
            f"the files of baseline {identifier} were changed: their content has another hash",
            remedy="restore them; a new measurement is a new baseline with its own id",
        )
    return found


def _contents(baseline: Evaluation | ImportedBaseline) -> Mapping[str, bytes]:
    """A baseline's files by their names."""
    if isinstance(baseline, ImportedBaseline):
        return {"imported.json": _for_people(baseline.model_dump(mode="json"))}
    contents = {
        "baseline.json": _for_people(baseline.model_dump(mode="json", exclude={"items", "canary"})),
        "items.jsonl": items_to_jsonl(baseline.items),
    }
    if baseline.canary is not None:
        contents["canary.json"] = baseline.canary.model_dump_json().encode()
    return contents


def _for_people(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


@contextmanager
def _explained(identifier: str, folder: Path) -> Iterator[None]:
    """Turn what goes wrong in reading a baseline's files into errors with a next step."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BaselineError(
            f"there is no baseline {identifier} in {folder}",
            remedy="see what there is: flagrelease baseline list; measure one: flagrelease baseline run <model>",
        ) from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        cause = str(error)
        if isinstance(error, ValidationError):
            first, *more = error.errors()
            cause = f"{'.'.join(map(str, first['loc']))}: {first['msg']}{f' (and {len(more)} more)' if more else ''}"
        raise BaselineError(
            f"the baseline {identifier} cannot be read: {cause}",
            remedy="restore its files; one that another version of FlagRelease wrote has to be measured anew",
        ) from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Within the block no other process of this host writes baselines into the folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
