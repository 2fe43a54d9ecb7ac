from __future__ import annotations

from pathlib import Path

import pytest

from flagrelease.errors import PublishError
from flagrelease.publish.guards import Places, check_files, check_secrets, files_of, own_secrets

PLACES = Places(endpoints=("https://huggingface.co", "http://127.0.0.1:8080"), namespaces=("FlagRelease",))


@pytest.mark.parametrize(
    "endpoint", ["https://huggingface.co", "https://huggingface.co/", "https://HuggingFace.co:443"]
)
def test_an_allowed_place(endpoint: str) -> None:
    PLACES.check(endpoint, "FlagRelease/Qwen3-8B-metax-FlagOS")


@pytest.mark.parametrize(
    "endpoint",
    [
        *("https://hf-mirror.com", "http://huggingface.co", "https://huggingface.co.evil.example", "huggingface.co"),
        *("https://huggingface.co:8443", "https://huggingface.co@evil.example", "http://127.0.0.1:8081", ""),
    ],
)
def test_a_mirror_does_not_get_the_token(endpoint: str) -> None:
    with pytest.raises(PublishError, match="not a hub to publish to") as raised:
        PLACES.check(endpoint, "FlagRelease/Qwen3")
    assert "FLAGRELEASE_HUB_ENDPOINTS" in raised.value.remedy


@pytest.mark.parametrize("target", ["FlagReIease/Qwen3", "flagrelease/Qwen3", "FlagRelease2/Qwen3"])
def test_other_namespaces_are_refused(target: str) -> None:
    with pytest.raises(PublishError, match="outside the namespaces"):
        PLACES.check("https://huggingface.co", target)


SECRETS = {
    "Hugging Face": "hf_" + "aB3" * 11,
    "ModelScope": "ms-01234567-89ab-cdef-0123-456789abcdef",
    "GitHub": "ghp_" + "a1" * 18,
    "GitLab": "glpat-" + "x-1" * 8,
    "AWS": "ASIA" + "A1" * 8,
    "Alibaba": "LTAI5t" + "a1B2" * 4,
    "Google": "AIza" + "a-1" * 11 + "bc",
    "OpenAI": "sk-proj-" + "a1_-" * 10,
    "Slack": "xoxb-" + "12345-abc" * 3,
    "PyPI": "pypi-AgEI" + "a1" * 30,
    "private key": "-----BEGIN OPENSSH PRIVATE KEY-----",
    "password in a URL": "postgresql+psycopg://release:correct-horse@db.example.org/flagrelease",
    "bearer token": '"Authorization": "Bearer abcdefghij0123456789=="',
}


@pytest.mark.parametrize("kind", SECRETS)
def test_secrets_are_found_wherever_they_stand(kind: str) -> None:
    content = f"first line\n\xff {SECRETS[kind]}\n".encode("latin-1")
    with pytest.raises(PublishError, match=r"evidence/server\.log, line 2, holds") as raised:
        check_secrets({"README.md": b"fine", "evidence/server.log": content}, {})
    assert kind in str(raised.value)
    assert SECRETS[kind] not in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        "pip install huggingface_hub; hf_token=...; export HF_TOKEN=hf_your_token_here",
        "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "http://127.0.0.1:8000/v1/models and https://example.org:8080/a@b",
        "docker login -u $USER -p $PASSWORD registry.example.org:5000",
        "-----BEGIN PUBLIC KEY-----",
        "Authorization: Bearer $TOKEN",
        "task-risk-assessment and desk-organisation-of-everything-that-is-long",
        "postgresql://user:***@host/db, https://user:${PASSWORD}@host/",
    ],
)
def test_what_only_looks_like_one(text: str) -> None:
    check_secrets({"README.md": text.encode()}, {})


def test_values_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAGRELEASE_REGISTRY_PASSWORD", "tr0ub4dor&3")
    monkeypatch.setenv("SHORT_TOKEN", "abc")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "falsefalse")
    monkeypatch.setenv("DB_PASSWORD_FILE", "/run/secrets/db")
    own = own_secrets(["the-hubs-own-token"])
    with pytest.raises(PublishError, match="line 1, holds the value of FLAGRELEASE_REGISTRY_PASSWORD"):
        check_secrets({"a.txt": b"login tr0ub4dor&3"}, own)
    with pytest.raises(PublishError, match="the hub's token"):
        check_secrets({"a.txt": b"x\nthe-hubs-own-token"}, own)
    check_secrets({"a.txt": b"abc falsefalse /run/secrets/db"}, own)


def test_a_folder_with_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "evidence").mkdir()
    (tmp_path / "README.md").write_bytes(b"# card\n")
    (tmp_path / "evidence" / "items.jsonl").write_bytes(b"{}\n")
    assert files_of(tmp_path) == {"README.md": b"# card\n", "evidence/items.jsonl": b"{}\n"}
    (tmp_path / "evidence" / "key").symlink_to("/etc/hostname")
    with pytest.raises(PublishError, match="evidence/key is a symbolic link"):
        files_of(tmp_path)


@pytest.mark.parametrize("path", [".env", "evidence/.netrc", ".git/config", ".cache/huggingface/token"])
def test_dotfiles_are_refused_unless_a_hub_reads_them(path: str) -> None:
    check_files({"README.md": b"", ".eval_results/flagrelease.yaml": b"", ".gitattributes": b""})
    with pytest.raises(PublishError, match="starts with a dot"):
        check_files({"README.md": b"", path: b""})
