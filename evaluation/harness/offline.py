"""Keeping what reads local questions from asking a hub."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
# What these libraries read from the environment once, when they are imported.
READ_ONCE = {
    "huggingface_hub.constants": ("HF_HUB_OFFLINE",),
    "datasets.config": ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"),
}


@contextmanager
def offline() -> Iterator[None]:
    """Inside, Hugging Face's libraries and processes that are started reach no hub; afterwards all is as it was."""
    before = {name: os.environ.get(name) for name in OFFLINE}
    known = [
        (sys.modules[module], name, getattr(sys.modules[module], name))
        for module, names in READ_ONCE.items()
        if module in sys.modules
        for name in names
    ]
    os.environ.update(OFFLINE)
    for module, name, _ in known:
        setattr(module, name, True)
    try:
        yield
    finally:
        for variable, value in before.items():
            if value is None:
                del os.environ[variable]
            else:
                os.environ[variable] = value
        for module, name, told in known:
            setattr(module, name, told)
