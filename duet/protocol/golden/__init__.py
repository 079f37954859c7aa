"""Test vectors that every runtime reads, in any language: packages, what they hold, and bytes to refuse.

``vectors.json`` describes the ``*.bin`` files beside it; ``docs/protocol.md`` describes ``vectors.json``. All are
written by ``python -m duet.protocol.golden``, to the same bytes every time.
"""

from pathlib import Path

FOLDER = Path(__file__).parent
"""Where the vectors are."""

INDEX_NAME = "vectors.json"
