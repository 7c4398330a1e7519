"""The only reader of the environment: every setting is ``CUVEE_`` and its name in capitals."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.errors import CuveeError
from app.faults import expected, shown

TOKEN_LENGTH = 16  # characters


class SettingsInvalid(CuveeError):
    """A setting in the environment has an impossible value."""

    slug = "settings-invalid"


def _device(name: str) -> str:
    if re.fullmatch(r"auto|cpu|cuda(:\d+)?", name) is None:
        raise ValueError("auto, cpu, cuda or the number of one (cuda:1)")
    return name


def _lower(level: object) -> object:
    return level.lower() if isinstance(level, str) else level


def _long_enough(token: SecretStr) -> SecretStr:
    if len(token.get_secret_value()) < TOKEN_LENGTH:
        raise ValueError(f"at least {TOKEN_LENGTH} characters")
    return token


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise ValueError("a folder that is there")
    return path


class Settings(BaseSettings):
    """Read once by each process and then passed on; see the README for the table."""

    model_config = SettingsConfigDict(env_prefix="CUVEE_", frozen=True)

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65_535)
    database_url: str = "sqlite:///var/cuvee.db"
    data_dir: Annotated[Path, AfterValidator(_folder)] | None = Field(None, description="folder with the two original UCI files")
    cache_dir: Path = Field(Path("var/cache"), description="where a download of them is kept")
    download: bool = Field(True, description="whether the UCI archive may be asked")
    download_timeout_s: float = Field(20.0, gt=0, le=600)
    device: Annotated[str, AfterValidator(_device)] = "auto"
    threads: int = Field(1, ge=1, le=256, description="CPU threads of a training; one is the most economical for nets this small")
    lease_s: float = Field(30.0, gt=0, le=3600)
    poll_interval_s: float = Field(1.0, gt=0, le=60)
    dcr_step: float = Field(0.125, ge=0, le=1, description="standard deviations to which a bundle holds its training rows for min_dcr; 0: not at all")
    checkpoint_interval_s: float = Field(15.0, ge=0, le=3600)
    stall_s: float = Field(300.0, gt=0, description="a training that reports nothing for so long is ended and tried again")
    keep_models: int | None = Field(None, ge=1, description="newest models that are kept when another is registered; none: all")
    max_rows: int = Field(10_000_000, ge=1, description="rows that one GET /samples may make: those in the answer, and those passed over")
    token: Annotated[SecretStr, AfterValidator(_long_enough)] | None = Field(None, description="who sends it as a bearer token has no such limit")
    pour_ahead: int = Field(2, ge=0, le=100, description="answers made in advance, while idle, of each kind that is asked for again and again without a seed")
    max_score_rows: int = Field(10_000, ge=1, description="rows in one POST /score")
    max_json_bytes: int = Field(4 * 2**20, ge=1, description="bytes of one JSON body")
    max_upload_bytes: int = Field(16 * 2**20, ge=1, description="bytes of one uploaded table")
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = "info"


def read_settings() -> Settings:
    """The settings of this process; ``SettingsInvalid`` names each variable, what was expected and what was found."""
    try:
        return Settings()
    except ValidationError as error:
        lines = [f"CUVEE_{str(e['loc'][0]).upper()}: expected {expected(dict(e))}, found {_found(dict(e))}" for e in error.errors()]
        raise SettingsInvalid("the environment has unusable settings: " + "; ".join(lines)) from error


def _found(error: dict[str, Any]) -> str:
    """The value that was given; of a secret its length alone."""
    return f"{len(error['input'])} of them" if error["loc"][0] == "token" else shown(error["input"])
