"""Every setting of the service, from the environment or `.env`: one class for gateway and workers.

Lists are comma-separated, empty means unset, a limit of 0 means off. A wrong value is a `SettingsError` whose one
line names the variable, so that a process can print it and exit with status 2.
"""

from __future__ import annotations

import ipaddress
import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.jobs import Name
from shared.redis_url import check_redis_url
from shared.secret_key import weakness

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_ORIGIN = re.compile(r"https?://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


def check_postgresql_url(url: str) -> None:
    """Raise `ValueError` for what libpq could not read either: its message would quote a piece, that is a password."""
    hosts = urlsplit(url).netloc.rpartition("@")[2].split(",")
    ports = [host.rpartition("]")[2].rpartition(":")[2] for host in hosts if ":" in host.rpartition("]")[2]]
    if _STRAY_PERCENT.search(url) or not all(port == "" or port.isdecimal() for port in ports):
        raise ValueError(
            "it has the form postgresql://user:password@host:5432/name, where each of %:/?#[]@ in the password is "
            "written as % and two hexadecimal digits (%25 for %)"
        )


class SettingsError(Exception):
    """A setting is missing or wrong; the message is one line that names the variable and says what would do."""


def _split(value: Any) -> Any:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


CommaList = Annotated[list[str], NoDecode, BeforeValidator(_split)]


class Settings(BaseSettings):
    """The settings of one process. Field `lease_seconds` is the variable `LEASE_SECONDS`, and so on."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore", hide_input_in_errors=True)

    # Running and logging
    debug: bool = False
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    log_format: Literal["json", "console"] = "json"
    log_file: Path | None = None

    # Where things are kept
    redis_url: SecretStr | None = None
    wait_replicas: int = Field(0, ge=0, le=10)
    database_url: SecretStr | None = None
    data_dir: Path = Path("data")
    secret_key: SecretStr | None = None

    # The gateway
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)
    gateway_workers: int = Field(1, ge=1, le=64)
    gateway_recycle_requests: int = Field(0, ge=0)
    gateway_drain_seconds: float = Field(0, ge=0, le=3600)
    gateway_reload_command: str = ""
    auth_required: bool = True
    allowed_hosts: CommaList = []
    rate_limit_per_minute: int = Field(0, ge=0, le=1_000_000_000)
    trusted_proxies: Annotated[list[Network], NoDecode, BeforeValidator(_split)] = []
    cors_origins: CommaList = []
    docs_public: bool = False
    max_queue_depth: int = Field(100_000, ge=0)
    max_tenant_depth: int = Field(1_000_000, ge=0)
    max_body_bytes: int = Field(10_000_000, ge=0)
    max_body_bytes_at_once: int = Field(64_000_000, ge=0)
    max_connections: int = Field(8192, ge=0)
    request_seconds: float = Field(20, ge=0)

    # The workers
    graphs_config: Path = Path("langgraph.json")
    worker_processes: int = Field(1, ge=1, le=64)
    worker_concurrency: int = Field(10, ge=1, le=10_000)
    worker_queues: Annotated[list[Name], NoDecode, BeforeValidator(_split), Field(min_length=1)] = ["default"]
    worker_roles: Annotated[
        list[Literal["jobs", "webhooks"]], NoDecode, BeforeValidator(_split), Field(min_length=1)
    ] = ["jobs", "webhooks"]
    worker_metrics_host: str = "127.0.0.1"
    worker_metrics_port: int = Field(0, ge=0, le=65535)
    worker_recycle_jobs: int = Field(0, ge=0)
    worker_recycle_mb: int = Field(0, ge=0)
    lease_seconds: float = Field(10, ge=0.5, le=3600)
    drain_seconds: float = Field(0, ge=0, le=86_400)

    # Jobs
    max_attempts: int = Field(3, ge=1, le=20)
    job_timeout_seconds: float = Field(3600, ge=0)
    max_output_bytes: int = Field(10_000_000, ge=0)
    result_ttl_seconds: int = Field(7 * 24 * 3600, ge=1)

    # Webhooks
    webhook_allow_networks: Annotated[list[Network], NoDecode, BeforeValidator(_split)] = []
    webhook_timeout_seconds: float = Field(15, gt=0, le=300)
    webhook_concurrency: int = Field(64, ge=1, le=1000)
    webhook_host_concurrency: int = Field(16, ge=1, le=1000)

    # Models
    model_order: Annotated[list[Literal["qwen", "deepseek", "glm", "openai"]], NoDecode, BeforeValidator(_split)] = [
        "qwen",
        "deepseek",
        "glm",
        "openai",
    ]
    qwen_api_key: SecretStr | None = None
    qwen_base_url: str = "https://dashscope.aliyuncs.com/compatible-mode/v1"
    deepseek_api_key: SecretStr | None = None
    deepseek_base_url: str = "https://api.deepseek.com/v1"
    glm_api_key: SecretStr | None = None
    glm_base_url: str = "https://open.bigmodel.cn/api/paas/v4"
    openai_api_key: SecretStr | None = None
    openai_base_url: str = "https://api.openai.com/v1"

    @field_validator("redis_url")
    @classmethod
    def _known_redis_scheme(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            check_redis_url(value.get_secret_value())
        return value

    @field_validator("database_url")
    @classmethod
    def _known_database_scheme(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return value
        url = value.get_secret_value()
        if urlsplit(url).scheme not in {"sqlite", "postgresql", "postgres"}:
            raise ValueError("must start with sqlite:///, postgresql:// or postgres://")
        if not url.startswith("sqlite"):
            check_postgresql_url(url)
        if url.startswith("sqlite") and not url.startswith("sqlite:///"):
            raise ValueError("a SQLite address has three slashes and a file: sqlite:///./data/threads.db")
        return value

    @field_validator("secret_key")
    @classmethod
    def _hard_to_guess(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and (weak := weakness(value.get_secret_value())):
            raise ValueError(f"it {weak}: give 32 random characters or more, for example from: openssl rand -hex 32")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins_as_browsers_write_them(cls, value: list[str]) -> list[str]:
        if any(origin != "*" and not _ORIGIN.fullmatch(origin) for origin in value):
            raise ValueError("an origin is a scheme, a name in lower case and a port: https://app.example.com; or is *")
        return value

    @model_validator(mode="after")
    def _open_only_on_loopback(self) -> Settings:
        if not self.auth_required and not is_loopback(self.host):
            raise ValueError("AUTH_REQUIRED=false is accepted only where HOST is a loopback address such as 127.0.0.1")
        return self

    @model_validator(mode="after")
    def _a_metrics_port_for_each_worker_process(self) -> Settings:
        if self.worker_metrics_port and self.worker_metrics_port + self.worker_processes - 1 > 65535:
            raise ValueError("WORKER_METRICS_PORT is wrong: each further one of WORKER_PROCESSES takes the next port")
        return self

    @cached_property
    def thread_database(self) -> str:
        """The URL of the threads' checkpoints: `DATABASE_URL`, or a SQLite file in `DATA_DIR`."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.data_dir / 'threads.db'}"

    def require_redis_url(self) -> str:
        """`REDIS_URL`. Raises `SettingsError` with both ways out where it is not set."""
        if self.redis_url is None:
            raise SettingsError(
                "REDIS_URL is not set: give the address of a Redis or Valkey (redis://127.0.0.1:6379/0), "
                "or run `python -m gateway --dev`, which brings its own"
            )
        return self.redis_url.get_secret_value()

    def require_secret_key(self) -> str:
        """`SECRET_KEY`. Raises `SettingsError` where it is not set."""
        if self.secret_key is None:
            raise SettingsError(
                "SECRET_KEY is not set: give 32 characters or more, for example from `openssl rand -hex 32`, "
                "the same to every gateway and worker"
            )
        return self.secret_key.get_secret_value()


def is_loopback(host: str) -> bool:
    """Whether `host` names this machine only: `localhost`, 127.0.0.0/8 or ::1."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def load_settings(**overrides: Any) -> Settings:
    """Read the settings of this process. Raises `SettingsError` with one line for the first wrong value."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        message = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:
            raise SettingsError(message) from None
        name = str(first["loc"][0]).upper()
        raise SettingsError(f"{name} is wrong: {message[0].lower()}{message[1:]}") from None
