"""A certificate and its key: whether a server can use them, and who trusts exactly this one."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from duet.protocol.errors import InvalidRequest


@dataclass(frozen=True)
class Certificate:
    """Two PEM files.

    Attributes:
        chain: The certificate, then those between it and the authority that signed it.
        key: Its private key, not encrypted.
    """

    chain: Path
    key: Path

    def check(self) -> None:
        """Load both as a server would.

        Raises:
            InvalidRequest: If they are no certificate and its key.
            OSError: If one cannot be read.
        """
        try:
            # an empty password, or an encrypted key would ask on the terminal
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.chain, self.key, password=lambda: "")
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"Expected a certificate and its key at {self.chain} and {self.key}, got no such file. Name both."
            ) from error
        except (ssl.SSLError, ValueError) as error:
            reason = getattr(error, "reason", None) or "a key that is encrypted"
            raise InvalidRequest(
                detail=f"Expected a PEM certificate in {self.chain} and its key, not encrypted, in {self.key}, got: "
                f"{reason}. Give the two files that belong together."
            ) from error

    def pem(self) -> str:
        """Write both one after the other, as HAProxy reads them."""
        return f"{self.chain.read_text().rstrip()}\n{self.key.read_text().rstrip()}\n"

    def trusting(self) -> ssl.SSLContext:
        """Make a context that trusts this certificate alone, whoever signed it and whatever it is called."""
        context = ssl.create_default_context(cafile=str(self.chain))
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context
