"""What everything that stands in YAML files is made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

KEY_PATTERN = r"^[a-z0-9][a-z0-9._-]*$"
SHA256_PATTERN = r"^[0-9a-f]{64}$"
REVISION_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"

# Names of cells, images, deployments, folders and baselines are made of keys, and each of these has its longest.
Key = Annotated[str, StringConstraints(pattern=KEY_PATTERN, max_length=64)]
BaselineId = Annotated[str, StringConstraints(pattern=KEY_PATTERN, max_length=100)]
Sha256 = Annotated[str, StringConstraints(pattern=SHA256_PATTERN)]
# A commit, tag or branch of a hub's repository. Folders are named after it, so it has no slash.
Revision = Annotated[str, StringConstraints(pattern=REVISION_PATTERN, max_length=100)]


class Entry(BaseModel):
    """Base of what stands in the matrix: unknown keys are errors, types are not guessed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
