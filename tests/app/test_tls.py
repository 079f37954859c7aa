"""A certificate and its key are checked before a server starts with them."""

from pathlib import Path

import pytest

from app.tls import Certificate
from duet.protocol.errors import InvalidRequest
from tests.self_signed import write_certificate


def test_a_certificate_and_its_key_are_usable_and_trusted(tmp_path: Path) -> None:
    certificate = Certificate(*write_certificate(tmp_path))

    certificate.check()

    assert len(certificate.trusting().get_ca_certs()) == 1
    assert certificate.pem().count("-----BEGIN") == 2


def test_an_encrypted_key_is_refused_and_does_not_ask_on_the_terminal(tmp_path: Path) -> None:
    certificate = Certificate(*write_certificate(tmp_path, password=b"secret"))

    with pytest.raises(InvalidRequest, match="not encrypted"):
        certificate.check()


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (first, _), (_, second) = write_certificate(tmp_path / "a"), write_certificate(tmp_path / "b")

    with pytest.raises(InvalidRequest, match="MISMATCH"):
        Certificate(first, second).check()


def test_what_is_no_certificate_is_refused(tmp_path: Path) -> None:
    _, key = write_certificate(tmp_path)
    (tmp_path / "other.pem").write_text("no certificate")

    with pytest.raises(InvalidRequest, match=r"other\.pem"):
        Certificate(tmp_path / "other.pem", key).check()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pem"):
        Certificate(tmp_path / "nowhere.pem", tmp_path / "key.pem").check()
