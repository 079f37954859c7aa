"""A signature is right for one body under one key; a file of keys is read strictly and never repeated."""

import hashlib
import hmac
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duet.protocol.access_errors import ForgedPackage, InvalidKeyFile
from duet.protocol.signing import SigningKey, check_signature, read_signing_keys, write_signing_keys

OLD, NEW = SigningKey("old", bytes(32)), SigningKey("new", bytes(range(32)))
BODY = b"DUET and the rest"


def test_the_header_is_the_hmac_of_the_body_and_the_id_of_the_key():
    assert NEW.sign(BODY) == f"hmac-sha256={hmac.new(NEW.secret, BODY, hashlib.sha256).hexdigest()}; key=new"


@given(body=st.binary(max_size=200), place=st.integers(0), bit=st.integers(0, 7))
def test_every_flipped_bit_is_found(body, place, bit):
    changed = bytearray(body or b"x")
    changed[place % len(changed)] ^= 1 << bit

    with pytest.raises(ForgedPackage, match="key new is wrong"):
        check_signature(bytes(changed), NEW.sign(body or b"x"), [OLD, NEW])


def test_during_a_rotation_either_key_is_believed():
    for key in (OLD, NEW):
        check_signature(BODY, key.sign(BODY), [OLD, NEW])


@pytest.mark.parametrize(
    ("signature", "told"),
    [
        (None, "no signature"),
        ("", "form"),
        (OLD.sign(BODY), "signed with key old, and this device has new"),
        (OLD.sign(BODY).replace("=old", "=new"), "wrong"),
        (NEW.sign(BODY).upper(), "form"),
        (NEW.sign(BODY).split(";")[0], "form"),
        (NEW.sign(BODY) + ", " + NEW.sign(BODY), "form"),
        (NEW.sign(BODY).replace("sha256", "sha1"), "form"),
        (NEW.sign(b""), "wrong"),
    ],
)
def test_what_is_not_signed_by_a_known_key_is_forged(signature, told):
    with pytest.raises(ForgedPackage, match=told):
        check_signature(BODY, signature, [NEW])


def test_a_file_keeps_keys_in_order_and_from_others(tmp_path):
    path = tmp_path / "signing-keys.jsonl"

    write_signing_keys(path, [NEW, OLD])

    assert read_signing_keys(path) == (NEW, OLD)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_secret_is_not_shown():
    assert "secret" not in repr(NEW)
    assert len(SigningKey.create("x").secret) == 32
    assert SigningKey.create("x") != SigningKey.create("x")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "got none"),
        (b"\xff", "no JSON"),
        (b"sesame", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b'["sesame"]', "other fields"),
        (b'{"id": "a", "secret": 3}', "no text"),
        (b'{"id": "a", "secret": "sesame!"}', "base64url"),
        (b'{"id": "a", "secret": "c2VzYW1l"}', "at least 16 bytes"),
        (b'{"id": "a", "secret": "AAAAAAAAAAAAAAAAAAAAAA=="}\n' * 2, "a again"),
    ],
)
def test_a_file_that_holds_no_keys_is_refused_without_what_stands_in_it(tmp_path, content, told):
    path = tmp_path / "signing-keys.jsonl"
    path.write_bytes(content)

    with pytest.raises(InvalidKeyFile, match=told) as refusal:
        read_signing_keys(path)

    assert "sesame" not in str(refusal.value)
