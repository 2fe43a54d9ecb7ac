"""FlagRelease: releases models on AI chips, with evidence that they answer as on the reference."""

from importlib.metadata import version

__version__ = version("flagrelease")
