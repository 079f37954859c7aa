"""The model repository: write a version, verify, list, pin, roll back. Files, hashes and manifests, nothing unpickled.

    <root>/<model>/<version>/manifest.json, and the files that it lists
    <root>/<model>/active                     the pin

A version is immutable: it is written to a temporary folder beside its place, hashed, flushed to disk and renamed. So a
version that can be seen is whole, unless someone changed it later; ``open`` finds that out. A publisher that is killed
leaves a hidden folder ``.<version>.tmp-*``, which nobody reads and anyone may delete.
"""

from duet.registry.files import MAX_JSON_BYTES
from duet.registry.pin import PIN_NAME, Canary, EndedCanary, Pin
from duet.registry.repository import Registry
from duet.registry.versions import CARD_NAME, VOCABULARY_NAME, PendingVersion, PublishedVersion

__all__ = [
    "CARD_NAME",
    "MAX_JSON_BYTES",
    "PIN_NAME",
    "VOCABULARY_NAME",
    "Canary",
    "EndedCanary",
    "PendingVersion",
    "Pin",
    "PublishedVersion",
    "Registry",
]
