"""Who gets in and whose name stands under the answers: API keys before every request, signatures under packages."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from starlette.types import ASGIApp, Receive, Scope, Send

from app.followed_file import FollowedFile
from app.keys import Keyring, read_keys
from app.settings import AppSettings
from duet.protocol.access_errors import InvalidKeyFile
from duet.protocol.signing import HEADER, SigningKey, read_signing_keys

OPEN_PATHS = frozenset({"/livez", "/readyz"})
"""What load balancers ask without a key; everything else needs one, the documentation included."""


class KeyCheck:
    """ASGI middleware. Lets requests with a valid key in, within its rate; belongs inside the boundary."""

    def __init__(self, app: ASGIApp, *, keys: Keyring) -> None:
        """Stand in front of ``app``.

        Args:
            app: What answers the requests.
            keys: Who may ask.
        """
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request through.

        Raises:
            Unauthorized: If it carries no valid key.
            RateLimited: If its key has sent too many.
        """
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            authorization = next((value for name, value in scope["headers"] if name == b"authorization"), None)
            self._keys.admit(authorization)
        await self._app(scope, receive, send)


@dataclass(frozen=True)
class Access:
    """What an operator has set about access; by default nobody is asked and nothing is signed."""

    keys: Keyring | None = None
    signing_keys: FollowedFile[tuple[SigningKey, ...]] | None = None

    @classmethod
    def from_settings(cls, settings: AppSettings) -> Self:
        """Read the files that the settings name.

        Raises:
            InvalidKeyFile: If one is none.
            OSError: If one cannot be read.
        """
        return cls(
            keys=None if settings.api_keys is None else Keyring(settings.api_keys),
            signing_keys=None
            if settings.signing_keys is None
            else FollowedFile(settings.signing_keys, read_signing_keys),
        )

    def signed(self, headers: Mapping[str, str], body: bytes) -> Mapping[str, str]:
        """Add the signature of a body to its headers; return them as they are if there is no key to sign with."""
        if self.signing_keys is None:
            return headers
        return {**headers, HEADER: self.signing_keys.content()[0].sign(body)}


def check_key_files(settings: AppSettings) -> None:
    """Refuse files of keys before anything starts.

    Raises:
        InvalidKeyFile: If one is none, or if it lets nobody in.
        OSError: If one cannot be read.
    """
    if settings.api_keys is not None and not read_keys(Path(settings.api_keys)):
        raise InvalidKeyFile(
            path=settings.api_keys,
            line=None,
            expected="at least one API key",
            received="none",
            remedy=f"Make one with `duet keys create --file {settings.api_keys}`.",
        )
    if settings.signing_keys is not None:
        read_signing_keys(settings.signing_keys)
