"""What a server is told: where it listens, what it admits, what it may use."""

from pathlib import Path

from pydantic import Field

from fledge.core.config import Config


class ServeConfig(Config):
    """Limits are per process unless they say otherwise.

    max_batch: requests that decode at once, per model. max_waiting: requests that may wait for that; one more gets a
    429. queue_seconds: how long one may wait before it gets a 503. request_seconds: how long an answer may take;
    then it ends where it is. memory: bytes for all loaded models with their caches, 0 for 80 % of what is free at
    the start. dtype: float32, bfloat16, int8, or auto for what is fastest at no loss of quality. rate: requests a
    minute per key or address, 0 for no limit. cors: origins that browsers may call from; none by default. keys: the
    file of API keys. runs: the folder of runs that the web app shows. feedback: where judgements are kept, a file or a
    database URL; by default feedback.db among the runs. audit: a file of one line of JSON per request, without any
    text of it. draft: a small model with the same tokenizer for speculative decoding.
    """

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    device: str = "auto"
    dtype: str = "auto"
    max_batch: int = Field(32, gt=0)
    max_waiting: int = Field(256, ge=0)
    queue_seconds: float = Field(60.0, gt=0)
    request_seconds: float = Field(600.0, gt=0)
    memory: int = Field(0, ge=0)
    cache_bytes: int = Field(1 << 30, gt=0)
    shared_bytes: int = Field(1 << 28, ge=0)
    max_body: int = Field(4 << 20, gt=0)
    max_new_tokens: int = Field(4096, gt=0)
    max_choices: int = Field(128, gt=0)
    max_connections: int = Field(2000, gt=0)
    rate: int = Field(0, ge=0)
    cors: tuple[str, ...] = ()
    keys: Path | None = None
    runs: Path = Path("runs")
    feedback: str = ""
    audit: Path | None = None
    draft: Path | None = None
