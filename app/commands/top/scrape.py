"""Reads what a running server exports: finds the endpoints, scrapes them, keeps our series by replica."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import httpx
from prometheus_client.parser import text_string_to_metric_families

PREFIX = "ray_duet_"
"""What our metrics are called where Ray exports them."""

_HEALTHY = "ray_serve_deployment_replica_healthy"
_TIMEOUT_S = 5.0
_REPLICA = "replica"
_OF_RAY = frozenset(
    {"Component", "NodeAddress", "SessionName", "Version", "WorkerId", "application", "deployment", _REPLICA}
)

Labels = frozenset[tuple[str, str]]

_READ: tuple[str, Labels] = ("read_timestamp_seconds", frozenset())


@dataclass(frozen=True)
class Series:
    """The values of one gateway replica at one time.

    Attributes:
        values: By the name without prefix, and the labels that are ours.
    """

    values: Mapping[tuple[str, Labels], float]

    @property
    def started_s(self) -> float:
        """When the replica started, Unix time."""
        return self.values.get(("start_timestamp_seconds", frozenset()), 0.0)

    @property
    def read_s(self) -> float:
        """When the replica read its values, Unix time; they travel for some seconds."""
        return self.values.get(_READ, 0.0)

    def named(self, name: str, **labels: str) -> Iterator[tuple[dict[str, str], float]]:
        """Find the values of a metric whose labels include these."""
        wanted = set(labels.items())
        for (known, own), value in self.values.items():
            if known == name and wanted <= own:
                yield dict(own), value

    def since(self, before: "Series | None") -> "Series":
        """Subtract what was there before; from the start of the replica if that is another one."""
        if before is None or before.started_s != self.started_s:
            return self
        return Series({key: value - before.values.get(key, 0.0) for key, value in self.values.items()})


@dataclass(frozen=True)
class Snapshot:
    """What all nodes export at one time.

    Attributes:
        gateways: The values of every gateway replica, by its name.
        replicas: Healthy replicas of every deployment, by Ray Serve's own count; empty where it does not tell.
    """

    gateways: Mapping[str, Series] = field(default_factory=dict)
    replicas: Mapping[str, int] = field(default_factory=dict)


def parse(texts: Iterable[str]) -> Snapshot:
    """Read the answers of all endpoints.

    Args:
        texts: In Prometheus' text format. Of them only our own series are read: the rest is much longer.
    """
    found: dict[str, dict[tuple[str, Labels], float]] = {}
    replicas: dict[str, int] = {}
    for text in texts:
        ours = "\n".join(line for line in text.splitlines() if line.startswith((PREFIX, _HEALTHY)))
        for family in text_string_to_metric_families(f"{ours}\n"):
            for sample in family.samples:
                if sample.name == _HEALTHY:
                    deployment = sample.labels.get("deployment", "")
                    replicas[deployment] = replicas.get(deployment, 0) + int(sample.value)
                    continue
                series = found.setdefault(sample.labels.get(_REPLICA, ""), {})
                series[sample.name.removeprefix(PREFIX), _own(sample.labels)] = sample.value
    # the agent keeps a value for some seconds after its replica has gone, but not all equally long
    whole = {replica: Series(values) for replica, values in found.items() if _READ in values}
    return Snapshot(whole, replicas)


def _own(labels: Mapping[str, str]) -> Labels:
    return frozenset(
        (name, value) for name, value in labels.items() if name not in _OF_RAY and not name.startswith("otel_scope_")
    )


class Scraper:
    """Asks a server, or endpoints that are named."""

    def __init__(self, url: str, endpoints: Sequence[str] = (), *, api_key: str | None = None) -> None:
        """Connect to nobody yet.

        Args:
            url: Where the server listens.
            endpoints: Where metrics are exported; the server is asked for them by default.
            api_key: Where the server asks for one; the endpoints are not shown it.
        """
        self._authorization = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._url, self._named = url.rstrip("/"), tuple(endpoints)
        self._client = httpx.Client(timeout=_TIMEOUT_S)

    def scrape(self) -> Snapshot:
        """Read all endpoints.

        Raises:
            ConnectionError: If one cannot be read.
        """
        endpoints = self._named or self._asked()
        return parse(self._get(endpoint, _ENDPOINT_REMEDY).text for endpoint in endpoints)

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def _asked(self) -> tuple[str, ...]:
        url = f"{self._url}/metadata"
        try:
            document = self._get(url, _SERVER_REMEDY, self._authorization).json()
            return tuple(str(endpoint) for endpoint in document["metrics"])
        except (ValueError, KeyError, TypeError) as error:
            raise ConnectionError(
                f"Expected the metadata of a duet server at {url}, got something else. {_SERVER_REMEDY}"
            ) from error

    def _get(self, url: str, remedy: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
        try:
            answer = self._client.get(url, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ConnectionError(f"Expected an answer from {url}, got none ({error}). {remedy}") from error
        if answer.status_code != httpx.codes.OK:
            raise ConnectionError(f"Expected an answer from {url}, got status {answer.status_code}. {remedy}")
        return answer


_SERVER_REMEDY = "Start a server with `duet serve`, or name its address with --url."
_ENDPOINT_REMEDY = "Name an address of the node that this machine can reach: --metrics http://HOST:PORT/metrics."
