"""Baselines as files: `baseline.json` (provenance) and `items.jsonl` below `evaluation/baselines/<id>/`.

A baseline's id ends with the hash of its content, so a changed file is noticed and a new measurement
is a new baseline.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

from pydantic import ValidationError

from evaluation.run import items_from_jsonl, items_to_jsonl
from flagrelease.errors import BaselineError
from flagrelease.records import Evaluation, digest

SHIPPED = Path(str(files("evaluation"))) / "baselines"


def baseline_id(evaluation: Evaluation) -> str:
    """`<model>-<engine>-<hash of content>`."""
    provenance = evaluation.provenance
    content = digest(evaluation.model_dump(mode="json"))[:12]
    return f"{provenance.model}-{provenance.engine}-{content}"


def save(evaluation: Evaluation, folder: Path) -> Path:
    """Write a baseline below `folder`; returns its own folder."""
    own = folder / baseline_id(evaluation)
    own.mkdir(parents=True, exist_ok=True)
    (own / "items.jsonl").write_bytes(items_to_jsonl(evaluation.items))
    about = evaluation.model_dump(mode="json", exclude={"items"})
    (own / "baseline.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return own


def load(identifier: str, folder: Path = SHIPPED) -> Evaluation:
    """The baseline with this id; raises BaselineError where it is missing or was changed."""
    own = folder / identifier
    try:
        about = json.loads((own / "baseline.json").read_text(encoding="utf-8"))
        items = items_from_jsonl((own / "items.jsonl").read_bytes())
        evaluation = Evaluation(**about, items=items)
    except FileNotFoundError as error:
        raise BaselineError(
            f"there is no baseline {identifier} in {folder}",
            remedy="measure one: flagrelease baseline run <cell> --engine <engine of the reference>",
        ) from error
    except (ValueError, TypeError, ValidationError) as error:
        raise BaselineError(f"the baseline {identifier} cannot be read: {error}", remedy="restore its files") from error
    if baseline_id(evaluation) != identifier:
        raise BaselineError(
            f"the files of baseline {identifier} were changed: their content has another hash",
            remedy="restore them; a new measurement is a new baseline with its own id",
        )
    return evaluation
