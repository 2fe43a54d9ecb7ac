"""Matrices of many models on simulated chips, and the baseline that all of them share."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from evaluation.baseline import SHIPPED, baseline_id, keep, load
from flagrelease.records import Evaluation
from flagrelease.store import Store
from tests.simulated.simulation import Simulation

CHIPS = Path(__file__).parent / "chips"
MATRIX = Path(__file__).parents[2] / "matrix.yaml"
BENCHMARK = "number_sequence"
"""The one that simulated models are asked: 250 questions."""


def simulated_matrix(models: int, chips: Sequence[str], *, in_images: Collection[str] = ()) -> dict[str, Any]:
    """The content of a matrix of `models` models, each on all `chips`; on those of `in_images` served from an image.

    Models are copies of the shipped small one by other names: a baseline belongs to no model by name, but must be of
    the same weights, questions and settings, and simulated weights are said to be its own.
    """
    facts: dict[str, Any] = yaml.safe_load(MATRIX.read_text())
    model, cell = facts["models"]["smollm2"], facts["cells"][0]
    names = [f"model{number:02}" for number in range(models)]
    facts["suites"] = {"smoke": [BENCHMARK]}
    # Nobody could be asked again.
    facts["policy"].pop("escalation")
    facts["policy"].pop("models", None)
    facts["models"] = {name: _model(model, name) for name in names}
    facts["cells"] = [_cell(cell, name, chip, chip in in_images) for name in names for chip in chips]
    facts.pop("sweeps", None)
    return facts


def _model(small: Mapping[str, Any], name: str) -> dict[str, Any]:
    # Not packaged: by its source each is built for itself.
    copied = {key: value for key, value in small.items() if key != "weights"}
    source = {"hub": "huggingface", "repository": f"simulated/{name.capitalize()}", "local_dir": f"/models/{name}"}
    # The small one's label has the name of another chip, which a card's columns must not.
    reference = {**small["reference"], "label": "H100-CUDA", "baseline": baseline_id(baseline())}
    return {**copied, "display": name.capitalize(), "source": source, "reference": reference}


def _cell(small: Mapping[str, Any], model: str, chip: str, in_image: bool) -> dict[str, Any]:
    settings = {"llama_cpp": {"threads": 1, "context": 2048, "concurrency": 1}}
    about = {"model": model, "chip": chip, "stack": "native", "engine": "llama_cpp", "engines": settings}
    return {**about, "launcher": "container" if in_image else "process", "versions": small["versions"]}


@cache
def baseline() -> Evaluation:
    """The baseline of every simulated model: one benchmark of the shipped one."""
    whole = load(yaml.safe_load(MATRIX.read_text())["models"]["smollm2"]["reference"]["baseline"], SHIPPED)
    return whole.model_copy(
        update={
            name: [row for row in getattr(whole, name) if row.benchmark == BENCHMARK]
            for name in ("benchmarks", "items", "floors")
        }
    )


def keep_baseline(store_url: str) -> None:
    """Put that baseline into a store; a second time changes nothing."""
    with closing(Store.open(store_url)) as store:
        keep(baseline(), store, None)


def write_matrix(path: Path, facts: dict[str, Any]) -> None:
    """Write a matrix."""
    # Through JSON, so that what models share is written out and is no alias, which a matrix may not have.
    path.write_text(yaml.safe_dump(json.loads(json.dumps(facts)), allow_unicode=True, sort_keys=False))


def simulation_of(folder: Path, scale: float) -> Simulation:
    """A simulation whose weights are those of the baseline."""
    known = baseline().provenance
    simulation = Simulation(
        folder=folder,
        scale=scale,
        weights={
            "weights": known.weights_sha256,
            "chat_template": known.chat_template_sha256,
            "tokenizer": known.tokenizer_sha256,
        },
    )
    simulation.write()
    return simulation
