"""A request for parameters whose sample is bytes: the length of the JSON, the JSON without the sample, the sample.

offset 0   u32, little-endian   length L of the JSON
offset 4   L bytes              every field of the request but ``sample``
after it   the rest             the sample
"""

import struct

MEDIA_TYPE = "application/vnd.duet.request"

_LENGTH = struct.Struct("<I")


def join_request(fields: bytes, sample: bytes) -> bytes:
    """Put the JSON of the fields and the bytes of the sample into one body."""
    return b"".join((_LENGTH.pack(len(fields)), fields, sample))


def split_request(body: bytes) -> tuple[bytes, bytes]:
    """Take apart what ``join_request`` made: the JSON, and the sample.

    Raises:
        ValueError: If the body ends before its JSON does.
    """
    if len(body) < _LENGTH.size:
        raise ValueError(f"Expected the length of the JSON in {_LENGTH.size} bytes, got {len(body)}.")
    (length,) = _LENGTH.unpack_from(body)
    end = _LENGTH.size + length
    if end > len(body):
        raise ValueError(f"Expected {length} bytes of JSON, got {len(body) - _LENGTH.size}.")
    return body[_LENGTH.size : end], body[end:]
