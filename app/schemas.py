"""The messages of the HTTP API, checked strictly: unknown fields, other types and infinite numbers are refused."""

from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from duet.protocol.budget import FASTEST_KBPS, PROFILES, SLOWEST_KBPS, Link
from duet.protocol.decoders import NAME_CHARACTERS

Profile: TypeAlias = Literal["slow-3g", "slow-4g", "fast-4g", "lte", "wifi", "5g"]
FormName: TypeAlias = Literal["factors", "full", "composed", "shared"]
DtypeName: TypeAlias = Literal["float32", "float16", "int8"]
Rate = Annotated[float, Field(ge=SLOWEST_KBPS, le=FASTEST_KBPS, allow_inf_nan=False)]

MAX_BUDGET_MS = 10_000


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class LinkFields(_Message):
    """A link that the device has measured."""

    down_kbps: Rate = Field(description="Towards the device, kbit/s.")
    up_kbps: Rate = Field(description="Towards the cloud, kbit/s.")
    rtt_ms: float = Field(ge=0, le=60_000, allow_inf_nan=False, description="Round-trip time.")


def _link_kind(value: object) -> str:
    return "measured" if isinstance(value, dict | LinkFields) else "profile"


LinkWish: TypeAlias = Annotated[
    # told apart first, so that a mistake is told in terms of the one that was meant
    Annotated[Profile, Tag("profile")] | Annotated[LinkFields, Tag("measured")],
    Discriminator(_link_kind),
]


class Accepts(_Message):
    """What the device can use."""

    forms: tuple[FormName, ...] = Field(
        default=("factors", "full"),
        min_length=1,
        max_length=8,
        description="`composed` is for devices that cannot add factors to their shared weights themselves.",
    )
    dtypes: tuple[DtypeName, ...] = Field(default=("float32", "float16", "int8"), min_length=1, max_length=8)
    decoders: str | None = Field(
        default=None,
        pattern=rf"^[0-9a-f]{{{NAME_CHARACTERS}}}$",
        description="Which decoders the device holds: the first 32 hexadecimal digits of the SHA-256 of "
        "`decoders.onnx` in the manifest. Who holds the version's own takes the form `embedding` besides.",
    )


class Held(_Message):
    """The parameters that the device has applied."""

    version: str = Field(pattern=r"^[0-9a-f]{32}$", description="`Duet-Version` of the answer they came with.")
    tag: str = Field(pattern=r"^[0-9a-f]{16}$", description="`Duet-Tag` of the answer they came with.")
    age_s: float = Field(default=0, ge=0, allow_inf_nan=False, description="How long ago they were made.")


Number = Annotated[float, Field(allow_inf_nan=False)]


def _spelling(value: object) -> str:
    return "numbers" if isinstance(value, list | tuple) else "base64"


class EmbeddingFields(_Message):
    """The embedding of the sample, made on the device by the encoder of a version that declares `embedding_upload`."""

    version: str = Field(
        pattern=r"^[0-9a-f]{32}$", description="Of the encoder: `Duet-Version` of the answer that it came with."
    )
    values: Annotated[
        Annotated[str, Tag("base64")] | Annotated[tuple[Number, ...], Tag("numbers")], Discriminator(_spelling)
    ] = Field(description="D numbers: base64 of little-endian float16, or a list, which is rounded to float16.")


def _one_of_two(schema: dict[str, Any]) -> None:
    for name in _ONE_OF:
        schema["properties"][name].pop("default", None)  # which is no value of theirs
    schema["oneOf"] = [{"required": [name]} for name in _ONE_OF]


_ONE_OF = ("sample", "embedding")


class RequestFields(_Message):
    """All that a device says beside its sample: the JSON of a binary request."""

    device: str = Field(min_length=1, max_length=128, description="Opaque id; never stored.")
    budget_ms: float = Field(
        default=200, gt=0, le=MAX_BUDGET_MS, allow_inf_nan=False, description="From sending to the last byte received."
    )
    link: LinkWish = Field(default="lte", description="A named profile, or the measured link.")
    accepts: Accepts | None = Field(default=None, description="Factors and full residuals of every dtype by default.")
    current: Held | None = Field(default=None, description="What the device holds, so that it is not sent again.")
    priority: Literal["low", "normal", "high"] = Field(
        default="normal", description="Who goes first when requests queue."
    )

    @property
    def network(self) -> Link:
        """The link in the protocol's terms."""
        if isinstance(self.link, str):
            return PROFILES[self.link]
        return Link(self.link.down_kbps, self.link.up_kbps, self.link.rtt_ms)


class ParametersRequest(RequestFields):
    """A device asks for the parameters that suit its current sample: it sends that one or its embedding, not both."""

    model_config = ConfigDict(json_schema_extra=_one_of_two)

    sample: object = Field(
        default=None, description="What the model's signature asks for; checked against its manifest."
    )
    embedding: EmbeddingFields = Field(default=None)  # type: ignore[assignment]  # null is no value of it

    @model_validator(mode="after")
    def _brings_one_thing(self) -> Self:
        brought = [name for name in _ONE_OF if name in self.model_fields_set]
        if len(brought) != 1:
            raise PydanticCustomError(
                "one_of",
                "one of {names}",
                {"names": " and ".join(f"`{name}`" for name in _ONE_OF), "received": "both" if brought else "neither"},
            )
        return self

    @property
    def has_embedding(self) -> bool:
        """Whether it brings the embedding, and no sample."""
        return "embedding" in self.model_fields_set


class PackageAnswer(_Message):
    """A parameter package in JSON, for clients that cannot read a binary body."""

    package: str = Field(description="The package, base64.")
    plan: str = Field(description="Name of the representation.")
    version: str = Field(description="First 16 bytes of the manifest's SHA-256, hexadecimal.")
    model_version: str
    tag: str = Field(description="Names what was sent, hexadecimal.")
    predicted_ms: float
    server_ms: float
    network_ms: float


class CanarySummary(_Message):
    """The version that a share of the devices gets."""

    version: str
    percent: float = Field(description="Of the devices, by a hash of model and device id.")


class ModelSummary(_Message):
    """One model and its versions."""

    name: str
    active: str | None = Field(description="The version that is served, once it is prepared.")
    canary: CanarySummary | None = Field(default=None, description="The version that is tried beside it.")
    versions: tuple[str, ...] = Field(description="Oldest first.")


class ModelList(_Message):
    """Every model that is served."""

    models: tuple[ModelSummary, ...]


class Requests(_Message):
    """What became of requests at one gateway; of long ago they count half."""

    requests: float
    failures: float = Field(description="Late, refused for want of time, or failed for a reason of ours.")


class CanaryState(CanarySummary):
    """A canary at one gateway."""

    since: str = Field(description="When the trial began, ISO 8601.")
    counted: Requests
    beside: Requests = Field(description="The requests of the other devices meanwhile.")


class GatewayState(_Message):
    """What one gateway sends devices to."""

    gateway: str = Field(description="Tells one gateway from another, until it ends.")
    version: str
    canary: CanaryState | None = None


class Rollout(_Message):
    """What every gateway of this server sends devices to."""

    model: str
    gateways: tuple[GatewayState, ...]
    silent: int = Field(description="Gateways that did not answer.")


class Status(_Message):
    """Whether the server can be sent requests."""

    status: Literal["alive", "ready"]
    models: dict[str, str] = Field(default_factory=dict, description="The active version of every model.")


class Problem(BaseModel):
    """Why a request failed (RFC 9457). Beside these fields stand the facts of the code, such as `smallest_ms`."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: str = Field(description="`urn:duet:problem:<code>`")
    title: str
    status: int
    code: str = Field(description="Stable; what programs look at.")
    detail: str = Field(description="What was expected, what arrived, what to do.")
    request_id: str
