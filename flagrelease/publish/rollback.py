"""Taking a release back: the files of an older one are published again, as one more commit.

Their bytes come from the hub's own history, by the tag that said they were read back: neither the key that signs today
nor the way a card is rendered today matters. Where there is no such tag (a folder has none) they are rendered from the
store. Either way they count only if they have the revision that was recorded when they were published, which is a hash
over all of them. No tag is set: `v<release>` names the same content already, further back in the history.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from flagrelease.errors import FlagReleaseError, PublishError, UnknownNameError
from flagrelease.publication_policy import RECORD
from flagrelease.publish.hub_calls import HubUnavailableError
from flagrelease.publish.interface import revision
from flagrelease.records import Publication
from flagrelease.store import Store
from flagrelease.store.publications import Place, publications, taken_back
from flagrelease.store.queries import find_release, release_view

Source = Callable[[], Mapping[str, bytes] | None]
"""The files of a release from somewhere; None: they are not there."""


class Rollback(NamedTuple):
    """What is to be put back, and over what."""

    cell: str
    taken: int
    """The release that is taken back."""
    to: int
    target: str
    wanted: dict[str, Publication]
    """What the older release published, by publisher."""
    over: frozenset[str]
    """Revisions of the releases that may be replaced: those after the older one, up to the one taken back."""


def plan_rollback(store: Store, name: str, to: str | None, publishers: Iterable[str]) -> Rollback:
    """What is to be done to take back a release, given by number, or the newest of a cell that is in its repository.

    `to`: number of the release to put back; by default the newest older one that was published at the same places and
    was not taken back itself. So the same call twice means the same. `publishers`: those of this host.

    PublishError: there is nothing to take back, nothing to put back, or this host cannot reach a place where it is.
    """
    taken = find_release(store, name) if re.fullmatch(r"[0-9]+", name) else None
    cell = name if taken is None else release_view(store, taken).cell
    published = publications(store, cell)
    if taken is None:
        at_cell = (number for number, places in published.items() if not all(_of_record(place) for place in places))
        taken = max(at_cell, default=None)
    if taken is None or taken not in published:
        raise PublishError(
            f"no release of {cell} was published" if taken is None else f"release {taken} was not published",
            remedy="see what there is: flagrelease status",
        )
    target = min(published[taken], key=_of_record).target
    names = set(publishers)
    at = {place for place in published[taken] if place.target == target}
    if lacking := sorted(place.publisher for place in at if place.publisher not in names):
        raise PublishError(
            f"release {taken} is also at {target} ({', '.join(lacking)}), where this host does not publish to",
            remedy="add it to FLAGRELEASE_HUBS, or roll back on a host that has it",
        )
    older = _older(store, published, taken, to, at)
    wanted = {place.publisher: what for place, what in published[older].items() if place.target == target}
    if missing := sorted(place.publisher for place in at if place.publisher not in wanted):
        raise PublishError(
            f"release {older} was never published to {target} ({', '.join(missing)}), where release {taken} is",
            remedy="name another release to put back: --to RELEASE",
        )
    return Rollback(
        cell=cell,
        taken=taken,
        to=older,
        target=target,
        wanted={publisher: what for publisher, what in wanted.items() if publisher in names},
        over=frozenset(
            what.revision
            for release, places in published.items()
            if older < release <= taken
            for place, what in places.items()
            if place.target == target
        ),
    )


def _of_record(place: Place) -> bool:
    return place.target.endswith(RECORD)


def _older(
    store: Store,
    published: Mapping[int, Mapping[Place, Publication]],
    taken: int,
    to: str | None,
    at: set[Place],
) -> int:
    """The release to put back."""
    if to is not None:
        older = find_release(store, to) if re.fullmatch(r"[0-9]+", to) else None
        if older is None or older not in published:
            raise UnknownNameError(
                f"of the releases of this cell no `{to}` was published",
                remedy=f"published were: {', '.join(map(str, published))}",
            )
        if older >= taken:
            raise PublishError(
                f"release {older} is not older than release {taken}, which is to be taken back",
                remedy=f"to publish it: flagrelease publish release {older}",
            )
        return older
    back = taken_back(store)
    for older in sorted((release for release in published if release < taken), reverse=True):
        if all(place in published[older] and (older, place) not in back for place in at):
            return older
    raise PublishError(
        f"there is nothing to put back: no release before release {taken} was published at the same places",
        remedy="name one with --to, or correct what is wrong and release the cell anew",
    )


def files_of(wanted: Publication, release: int, sources: Iterable[Source]) -> Mapping[str, bytes]:
    """The files of a publication that was recorded, from the first source that has exactly them."""
    for source in sources:
        try:
            found = source()
        except HubUnavailableError:
            raise
        except FlagReleaseError:
            # Evidence that is gone, a key that cannot be read: then this is no source.
            continue
        if found is not None and revision(found) == wanted.revision:
            return found
    raise PublishError(
        f"the files of release {release} as they were published to {wanted.target} ({wanted.publisher}) cannot be had: "
        f"its tag v{release} there is gone or names others, and this host renders or signs it otherwise",
        remedy="put back another release: --to RELEASE",
    )
