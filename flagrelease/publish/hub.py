"""Publishing to a hub: read, guard, one commit, read back, tag. A client for each hub does the talking.

Nothing is sent twice without looking first: whatever becomes of a request, the hub is read again, and what it holds
decides.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping

from flagrelease.errors import NoRepositoryError, PublishError
from flagrelease.publication_policy import Visibility
from flagrelease.publish import guards
from flagrelease.publish.hub_calls import Caller, HubUnavailableError
from flagrelease.publish.hub_client import Creation, HubClient, MovedError, RemoteState
from flagrelease.publish.hub_reading import CARD, Reader, front_matter, release_of, sha256, tag_of
from flagrelease.publish.interface import MANIFEST, Plan, make_plan, manifest, manifest_json, revision
from flagrelease.publish.ledger import Attempt, Entry, Ledger
from flagrelease.records import Publication, digest

COMMITS = 4
"""Commits that are sent at most: each after the hub was read and found not to hold the last one."""
SETTLING_S = (0.0, 1.0, 2.0, 4.0, 8.0, 15.0)
"""Pauses before each look for a change whose outcome is not known: listings of hubs lag."""


class HubPublisher:
    """Publications as commits in a repository of a hub, each with a manifest and a tag `v<release>`.

    It owns the files of its last manifest; others that lie there, such as weights, are never touched. A card that
    somebody edited, that FlagRelease did not publish or that is of a newer release is replaced only where `replace`
    names the state that it is in (`Plan.there`).
    """

    def __init__(
        self,
        client: HubClient,
        *,
        places: guards.Places,
        ledger: Ledger,
        log: Callable[[str], None],
        create: Creation | None = None,
        replace: str | None = None,
        taken_back: Collection[str] = (),
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """`taken_back`: revisions of newer releases that an older one may replace, where nobody edited them.

        `log` is told each wait with its reason; `pause` waits a number of seconds.
        """
        self.name = client.name
        self._client, self._places, self._ledger, self._log = client, places, ledger, log
        self._create, self._replace, self._taken_back, self._pause = create, replace, taken_back, pause
        self._call = Caller(client.name, log, pause)

    def current(self, target: str) -> Publication | None:
        """What FlagRelease published at `target` last; None if nothing. PublishError: it was edited since."""
        self._places.check(self._client.endpoint, target)
        there = Reader(self._client, self._call, target)
        state = there.state()
        files = there.stated(state) if state else None
        if state is None or files is None:
            return None
        if edited := there.edited(state, files):
            msg = f"{target} ({self.name}) was changed after it was published: {', '.join(edited)}"
            raise PublishError(msg, remedy="look at it there, then publish again")
        return Publication(
            publisher=self.name, target=target, revision=digest([file.model_dump() for file in files]), files=files
        )

    def plan(self, files: Mapping[str, bytes], target: str, *, visibility: Visibility | None = None) -> Plan:
        """What `publish` would change, from what the hub holds now; nothing is sent."""
        work = self._work(files, target, visibility)
        state = work.there.state()
        if state is None:
            return Plan(
                publisher=self.name,
                target=target,
                revision=revision(files),
                there=None,
                added=tuple(sorted(work.files)),
                refusal=self._uncreatable(work),
            )
        owned = {file.path for file in work.there.stated(state) or ()}
        return make_plan(
            self.name,
            target,
            work.files,
            there=state.head,
            hashes={path: work.there.sha256(state, path) for path in (work.files.keys() | owned) & state.files.keys()},
            owned=owned,
            read=lambda path: work.there.content(state, path),
            refusal=self._refusal(work, state),
        )

    def publish(self, files: Mapping[str, bytes], target: str, *, visibility: Visibility | None = None) -> Publication:
        """Make `target` hold `files` and a manifest in one commit, read them back, and tag that state.

        `visibility`: who may see the files; `private` goes into a private repository only, and None asks nothing.
        PublishError: refused, or read back differently. HubUnavailableError: the hub does not answer; the same call
        later goes on from there.
        """
        work = self._work(files, target, visibility)
        with self._ledger.opened(self.name, target) as entry:
            state = work.there.state() or self._created(work)
            state = self._committed(work, state, entry)
            entry.end()
            self._verify(work, state)
            self._tag(work, state)
        if visibility == "public" and work.there.visibility() == "private":
            self._log(f"{self.name}: {target} is private: only those who have access to it see release {work.release}")
        return Publication(publisher=self.name, target=target, revision=revision(files), files=manifest(files))

    def released(self, target: str, release: int) -> dict[str, bytes] | None:
        """The files of a release as its tag names them; None: there is no such tag, or it names no publication.

        Whether they are what was published then is to be seen from their revision.
        """
        self._places.check(self._client.endpoint, target)
        there = Reader(self._client, self._call, target)
        state = there.state(tag_of(release))
        files = there.stated(state) if state else None
        if state is None or files is None:
            return None
        return {file.path: there.content(state, file.path) for file in files if file.path in state.files}

    # Before anything is sent

    def _work(self, files: Mapping[str, bytes], target: str, visibility: Visibility | None) -> _Work:
        """What is to be published, once it may leave this host."""
        self._places.check(self._client.endpoint, target)
        guards.check_files(files)
        guards.check_secrets(files, guards.own_secrets(self._client.secrets()))
        release = release_of(files.get(CARD, b""))
        if release is None:
            raise PublishError(
                "the card names no release, so that nobody could tell which one is newer",
                remedy="publish the card of a release: flagrelease card render <release>",
            )
        stated = Publication(publisher=self.name, target=target, revision=revision(files), files=manifest(files))
        return _Work(
            Reader(self._client, self._call, target), {**files, MANIFEST: manifest_json(stated)}, release, visibility
        )

    def _refusal(self, work: _Work, state: RemoteState) -> PublishError | None:
        """Why nothing may be written over a state."""
        if work.there.holds(state, work.files):
            return None
        if work.visibility == "private" and (exposed := work.there.visibility()) != "private":
            return PublishError(
                f"not published to {work.there.target} ({self.name}): release {work.release} is for private "
                f"repositories only, and this one is {exposed or 'not said to be private'}",
                remedy="make the repository private there; or publish it all the same, with a reason that is kept: "
                f'flagrelease publish release {work.release} --override "REASON"',
            )
        if state.head in work.accepted or state.head == self._replace:
            return None
        reason = work.there.foreign(state, work.files, work.release, self._taken_back)
        if reason is None:
            return None
        return PublishError(
            f"not published to {work.there.target} ({self.name}): {reason}",
            remedy=f"look at what is there; to replace it all the same, name its state: --replace {state.head}",
        )

    def _missing(self, work: _Work) -> NoRepositoryError:
        visibility = "private" if work.visibility == "private" else "public|private"
        return NoRepositoryError(
            f"there is no repository {work.there.target} at {self._client.endpoint}, or the token may not see it",
            remedy="correct the name; to have it created, say so with its visibility: "
            f"flagrelease publish release {work.release} --create {visibility}",
        )

    def _uncreatable(self, work: _Work) -> PublishError | None:
        """Why a repository that is not there must not be created."""
        if self._create is None:
            return self._missing(work)
        if work.visibility == "private" and self._create.visibility != "private":
            return PublishError(
                f"release {work.release} is for private repositories only, {work.there.target} was to be created "
                f"{self._create.visibility}",
                remedy="create it private: --create private",
            )
        licence = front_matter(work.files[CARD]).get("license")
        if licence == self._create.licence:
            return None
        return PublishError(
            f"the card is under {licence!r}, the repository was to be created under {self._create.licence!r}",
            remedy="create it with the licence of the card",
        )

    # Writing

    def _created(self, work: _Work) -> RemoteState:
        """A new repository, where one was asked for."""
        target, creation = work.there.target, self._create
        refusal = self._uncreatable(work)
        if refusal or creation is None:
            raise refusal or self._missing(work)
        self._call.write(lambda: self._client.create(target, creation))
        for seconds in SETTLING_S:
            self._pause(seconds)
            if (state := work.there.state()) is not None:
                self._log(f"{self.name}: created {target}, {creation.visibility}")
                # What a hub puts into a new repository may be replaced.
                work.accepted.add(state.head)
                return state
        raise HubUnavailableError(
            f"{self.name} shows no repository {target} after it was to be created", remedy="publish again later"
        )

    def _committed(self, work: _Work, state: RemoteState, entry: Entry) -> RemoteState:
        """The state that holds the files, after one commit or none."""
        if entry.read() == Attempt(manifest=work.manifest, base=state.head):
            self._log(f"{self.name}: an earlier attempt was cut off; looking whether its commit arrived")
            state = self._settled(work, state)
        for _ in range(COMMITS):
            if work.there.holds(state, work.files):
                return state
            if refusal := self._refusal(work, state):
                entry.end()
                raise refusal
            self._raise_if_proposed(work)
            entry.begin(Attempt(manifest=work.manifest, base=state.head))
            try:
                tried = self._call.write(lambda base=state: self._send(work, base))  # type: ignore[misc]
            except MovedError as error:
                self._log(f"{self.name}: {error}; reading {work.there.target} again")
                tried = True
            state = self._settled(work, state) if tried else work.there.state() or state
        raise HubUnavailableError(
            f"{self.name} took none of {COMMITS} commits to {work.there.target}",
            remedy="publish again later: what the hub holds is read first",
        )

    def _send(self, work: _Work, base: RemoteState) -> None:
        """Send one commit of what differs; what FlagRelease published there before and no longer does, goes."""
        owned = {file.path for file in work.there.stated(base) or ()}
        self._client.commit(
            work.there.target,
            work.there.differing(base, work.files),
            sorted(path for path in owned & base.files.keys() if path not in work.files),
            f"FlagRelease release {work.release}{' put back' if self._taken_back else ''}, {work.mark}",
            base,
        )

    def _settled(self, work: _Work, before: RemoteState) -> RemoteState:
        """The state once it is another than `before`, or that one if it stays."""
        for seconds in SETTLING_S:
            self._pause(seconds)
            self._raise_if_proposed(work)
            state = work.there.state()
            if state is None:
                raise self._missing(work)
            if state.head != before.head:
                return state
        return before

    def _raise_if_proposed(self, work: _Work) -> None:
        """Raise PublishError where an open pull request is for these files: they are published when it is merged."""
        found = work.there.proposed(work.mark) if self._client.pull_requests else None
        if found is None:
            return
        url, state = found
        if work.there.holds(state, work.files):
            raise PublishError(
                f"{work.there.target} ({self.name}) waits for its pull request to be merged: {url}",
                remedy="merge it, then publish again: what was merged is read back and tagged",
            )
        raise PublishError(
            f"{work.there.target} ({self.name}): somebody changed the pull request that FlagRelease opened: {url}",
            remedy="merge or close it, then publish again",
        )

    # After the commit

    def _verify(self, work: _Work, state: RemoteState) -> None:
        """Compare all that the hub lists, and card and manifest as they are downloaded."""
        wrong = set(work.there.differing(state, work.files))
        wrong |= {path for path in (CARD, MANIFEST) if work.there.content(state, path) != work.files[path]}
        if wrong:
            raise PublishError(
                f"{work.there.target} ({self.name}) reads back differently: {', '.join(sorted(wrong))}",
                remedy="look at it there: it was published, and is not tagged; then publish again",
            )

    def _tag(self, work: _Work, state: RemoteState) -> None:
        """Set `v<release>`, which says that this state was read back."""
        name = tag_of(work.release)
        for seconds in (0.0, *SETTLING_S):
            self._pause(seconds)
            tagged = work.there.state(name)
            if tagged is not None and work.there.holds(tagged, work.files):
                return
            if tagged is not None:
                msg = f"{work.there.target} ({self.name}): the tag {name} names another content than was published"
                if self._replace is None:
                    raise PublishError(msg, remedy="look at both there: somebody wrote at the same time")
                self._log(f"{msg}; it stays, and what replaced that has no tag")
                return
            self._call.write(lambda: self._client.tag(work.there.target, name, state))
        raise HubUnavailableError(
            f"{work.there.target} ({self.name}) is published, and the tag {name} does not show",
            remedy="publish again later",
        )


class _Work:
    """One call of `publish` or `plan`: where, what, of which release, for whom, over which states unasked."""

    def __init__(self, there: Reader, files: Mapping[str, bytes], release: int, visibility: Visibility | None) -> None:
        self.there, self.files, self.release, self.visibility = there, files, release, visibility
        self.manifest = sha256(files[MANIFEST])
        self.mark = f"manifest {self.manifest[:16]}"
        self.accepted: set[str] = set()
