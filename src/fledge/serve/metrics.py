"""What a server counts, in Prometheus's text format."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("fledge_requests", "HTTP requests", ["path", "status"], registry=registry)
        self.tokens = Counter("fledge_tokens", "Tokens", ["model", "kind"], registry=registry)
        self.seconds = Histogram(
            "fledge_request_seconds", "From request to last token", ["model"], buckets=SECONDS, registry=registry
        )
        self.first = Histogram(
            "fledge_first_token_seconds", "From request to first token", ["model"], buckets=SECONDS, registry=registry
        )
        self.open = Gauge("fledge_requests_open", "Answers being written or waiting", registry=registry)
        self.loaded = Gauge("fledge_models_loaded", "Models in memory", registry=registry)
        self.cancelled = Counter("fledge_cancelled", "Answers nobody waited for to the end", registry=registry)

    def began(self, model: str, seconds: float) -> None:
        """The first token of an answer is there."""
        self.first.labels(model).observe(seconds)

    def ended(self, model: str, seconds: float, prompt: int, drawn: int, cached: int) -> None:
        """An answer is over."""
        self.seconds.labels(model).observe(seconds)
        for kind, count in (("prompt", prompt), ("completion", drawn), ("cached", cached)):
            self.tokens.labels(model, kind).inc(count)

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self.registry)
