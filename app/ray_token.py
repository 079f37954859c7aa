"""The token that processes of Ray show each other: whoever has none can neither attach nor have anything unpickled.

A Ray that ``ray.init`` starts asks for it by default; with ``ray start`` that takes ``RAY_AUTH_MODE=token``. Ray 2.60
keeps it in ``~/.ray/auth_token``, readable by everybody; ``RAY_AUTH_TOKEN`` or ``RAY_AUTH_TOKEN_PATH`` may name another
one, and ``RAY_AUTH_MODE=disabled`` switches it off.
"""

import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from duet.protocol.private_file import write_private

_TOKEN_BYTES = 32


def prepare_token(environment: Mapping[str, str]) -> None:
    """Have a token where Ray looks for one by default, readable by its owner alone.

    Args:
        environment: What is exported; a token or a mode that is named there is the operator's affair.

    Raises:
        OSError: If the file cannot be written.
    """
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & environment.keys() or environment.get(
        "RAY_AUTH_MODE", "token"
    ) != "token":
        return
    path = Path.home() / ".ray" / "auth_token"
    path.parent.mkdir(exist_ok=True)
    if not path.exists() or not path.read_text().strip():
        write_private(path, secrets.token_hex(_TOKEN_BYTES))
    elif stat.S_IMODE(path.stat().st_mode) & 0o077:
        path.chmod(0o600)
