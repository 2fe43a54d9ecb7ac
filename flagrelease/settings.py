"""Where FlagRelease keeps its state. Everything can be set in the environment, as FLAGRELEASE_<NAME>."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

PACKAGE_DATA = Path(__file__).parent / "_data"
CHECKOUT = Path(__file__).parent.parent


def data_path(name: str) -> Path:
    """Path of `matrix.yaml` or `templates`: in an installed wheel package data, in a checkout the top level."""
    installed = PACKAGE_DATA / name
    return installed if installed.exists() else CHECKOUT / name


class Settings(BaseSettings):
    """Locations and host facts; nothing here changes what a release measures."""

    model_config = SettingsConfigDict(env_prefix="FLAGRELEASE_", frozen=True)

    home: Path = Field(default=Path(".flagrelease"), description="state on this host: database, evidence, work files")
    store: str | None = Field(default=None, description="database URL; by default an SQLite file in home")
    evidence: str | None = Field(default=None, description="fsspec URL of the evidence folder; by default in home")
    output: Path = Field(default=Path("output"), description="cards and folder publications, for people")
    matrix: Path | None = Field(
        default=None, description="matrix.yaml; by default ./matrix.yaml, then the packaged one"
    )
    chips: Path | None = Field(
        default=None, description="folder of further chip files (<chip>.yaml), beside those that FlagRelease brings"
    )
    known_issues: Path | None = Field(
        default=None, description="file of further known issues of operators, beside those that FlagRelease brings"
    )
    vllm: Path | None = Field(default=None, description="the vllm command; by default .venv-vllm/bin/vllm, then PATH")
    torch: Path | None = Field(
        default=None,
        description="a python that has torch and transformers; by default our own, then .venv-vllm/bin/python",
    )
    evalscope: Path | None = Field(
        default=None, description="the evalscope command; by default .venv-evalscope/bin/evalscope, then PATH"
    )
    operators: Path | None = Field(
        default=None,
        description="a Python with torch, Triton and FlagGems; by default .venv-operators/bin/python, then this one",
    )
    registry: str | None = Field(
        default=None, description="registry and project of container images, for example harbor.example.org/team"
    )
    registry_user: str | None = Field(
        default=None, description="name there; by default what docker login or a credential helper keeps"
    )
    registry_password: SecretStr | None = Field(default=None, description="password or token there")
    base_images: dict[str, str] = Field(
        default_factory=dict, description='base images that replace those of the chip files: {"<chip>": "<image>"}'
    )
    wheels: Path | None = Field(
        default=None, description="folder of wheels for images that no package index has, such as a vendor's"
    )

    hubs: list[Literal["huggingface", "modelscope"]] = Field(
        default_factory=list, description='hubs to publish to, beside the folder: ["huggingface", "modelscope"]'
    )
    hub_namespaces: list[str] = Field(
        default_factory=lambda: ["FlagRelease"], description="organisations to publish in; nothing goes elsewhere"
    )
    hub_endpoints: list[str] = Field(
        default_factory=lambda: ["https://huggingface.co", "https://modelscope.cn", "https://www.modelscope.cn"],
        description="addresses that may get a token; a mirror is not one of them",
    )
    huggingface_endpoint: str = Field(default="https://huggingface.co", description="address of Hugging Face")
    huggingface_token: SecretStr | None = Field(default=None, description="by default what huggingface_hub finds")
    huggingface_pull_requests: bool = Field(
        default=False, description="open pull requests, for a token that may not write to main"
    )
    modelscope_endpoint: str = Field(default="https://modelscope.cn", description="address of ModelScope")
    modelscope_token: SecretStr | None = Field(default=None, description="by default what modelscope-hub finds")

    @property
    def home_path(self) -> Path:
        """Absolute path of home: processes started from here have other working directories."""
        return self.home.expanduser().absolute()

    @property
    def store_url(self) -> str:
        """SQLAlchemy URL of the database."""
        return self.store or f"sqlite:///{self.home_path / 'store.db'}"

    @property
    def evidence_url(self) -> str:
        """fsspec URL (or path) of the evidence folder."""
        return self.evidence or str(self.home_path / "evidence")

    @property
    def output_path(self) -> Path:
        """Absolute path of the output folder."""
        return self.output.expanduser().absolute()

    @property
    def matrix_path(self) -> Path:
        """The matrix file in force."""
        if self.matrix is not None:
            return self.matrix
        here = Path("matrix.yaml")
        return here if here.exists() else data_path("matrix.yaml")

    @property
    def work_path(self) -> Path:
        """Scratch folder of this host: answers so far, converted weights, server logs. Safe to delete."""
        return self.home_path / "work"


@cache
def settings() -> Settings:
    """The settings of this process."""
    return Settings()
