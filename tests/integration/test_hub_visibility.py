"""Who may see what is published: the real libraries read a repository's visibility from a stand-in hub."""

from __future__ import annotations

import pytest

from flagrelease.errors import PublishError
from flagrelease.publish.hub_client import Creation
from tests.hub.hosts import TARGET, Host, assert_holds, files, ours
from tests.integration.test_hubs import host, libraries_slept  # noqa: F401 - fixtures


def test_what_is_private_does_not_go_into_a_public_repository(host: Host) -> None:  # noqa: F811
    with pytest.raises(PublishError, match="release 1 is for private repositories only, and this one is public") as no:
        host.publisher().publish(files(), TARGET, visibility="private")
    assert '--override "REASON"' in no.value.remedy
    assert ours(host) == []
    assert str(host.publisher().plan(files(), TARGET, visibility="private").refusal) == str(no.value)
    # Nor where somebody says that what is there may be replaced.
    head = host.publisher().plan(files(), TARGET).there
    with pytest.raises(PublishError, match="private repositories only"):
        host.publisher(replace=head).publish(files(), TARGET, visibility="private")
    assert ours(host) == []
    host.hub.store.visibility[TARGET] = "private"
    host.publisher().publish(files(), TARGET, visibility="private")
    assert_holds(host, files())


def test_it_is_looked_at_right_before_the_commit(host: Host) -> None:  # noqa: F811
    host.hub.store.visibility[TARGET] = "private"
    host.publisher().publish(files(1), TARGET, visibility="private")

    def open_it() -> None:
        host.hub.store.visibility[TARGET] = "public"

    # The hub was too busy for the first commit; before the second one it is looked at again.
    host.hub.fail("POST", "/commit/", status=429, before=open_it)
    with pytest.raises(PublishError, match="this one is public"):
        host.publisher().publish(files(2), TARGET, visibility="private")
    assert len(ours(host)) == 1


def test_what_is_there_already_is_no_new_exposure(host: Host) -> None:  # noqa: F811
    """Such as where somebody overrode the policy before."""
    host.publisher().publish(files(), TARGET)
    host.publisher().publish(files(), TARGET, visibility="private")
    assert_holds(host, files())


def test_a_repository_that_is_neither_is_not_taken_for_private(host: Host) -> None:  # noqa: F811
    if host.kind == "modelscope":
        host.hub.store.visibility[TARGET] = "internal"
    else:
        host.hub.fail("GET", r"/models/[^/]+/[^/]+$", status=200, says="{}", times=99)
    with pytest.raises(PublishError):
        host.publisher().publish(files(), TARGET, visibility="private")
    assert ours(host) == []


def test_what_is_public_may_go_into_a_private_repository_and_that_is_said(host: Host) -> None:  # noqa: F811
    host.hub.store.visibility[TARGET] = "private"
    host.publisher().publish(files(), TARGET, visibility="public")
    assert f"{host.kind}: {TARGET} is private: only those who have access to it see release 1" in host.log
    assert_holds(host, files())


def test_a_repository_is_not_created_wider_than_it_may_be(host: Host) -> None:  # noqa: F811
    target = "FlagRelease/new"
    public, private = (Creation(visibility=each, licence="apache-2.0") for each in ("public", "private"))
    with pytest.raises(PublishError, match="was to be created public") as no:
        host.publisher(create=public).publish(files(), target, visibility="private")
    assert "--create private" in no.value.remedy
    assert host.hub.store.names() == [TARGET]
    host.publisher(create=private).publish(files(), target, visibility="private")
    assert host.hub.store.visibility[target] == "private"


def test_an_answer_that_is_lost_is_asked_for_again(host: Host) -> None:  # noqa: F811
    host.hub.store.visibility[TARGET] = "private"
    host.hub.fail("GET", r"/models/[^/]+/[^/]+$", cut=True)
    host.publisher().publish(files(), TARGET, visibility="private")
    assert_holds(host, files())
