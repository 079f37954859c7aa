"""A key gets in while its line is in the file and not expired; nothing else does, and no secret is stored or told."""

import hashlib
import json
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.followed_file import LOOK_EVERY_S
from app.keys import ApiKey, Keyring, create_key, read_keys, write_keys
from duet.protocol.access_errors import InvalidKeyFile, RateLimited, Unauthorized

NOW = datetime(2026, 11, 21, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = NOW.timestamp()

    def __call__(self) -> float:
        return self.now


def ring(path: Path, clock: Clock, *keys: ApiKey) -> Keyring:
    write_keys(path, keys)
    return Keyring(path, clock=clock, now=clock)


def bearer(key: str) -> bytes:
    return f"Bearer {key}".encode()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "api-keys.jsonl"


def test_a_key_gets_in_and_everything_else_does_not(path: Path, clock: Clock) -> None:
    text, key = create_key()
    other, _ = create_key()
    keys = ring(path, clock, key)
    keys.admit(bearer(text))
    keys.admit(b"bearer  " + text.encode())

    forged = f"duet_{key.id}_{other.split('_', 2)[2]}"
    wrong = [bearer(wrong) for wrong in (other, forged, text[:-1], text + "x", key.id, key.sha256, "", "duet__", "é")]
    for header in (None, b"", b"Bearer", text.encode(), b"Basic " + text.encode(), bearer("x" * 10_000), *wrong):
        with pytest.raises(Unauthorized):
            keys.admit(header)


def test_the_file_holds_the_hash_and_not_the_key_and_only_its_owner_reads_it(path: Path) -> None:
    text, key = create_key(label="shop app", rate_per_s=5, burst=7, expires=NOW)

    write_keys(path, [key])

    assert text.split("_", 2)[2] not in path.read_text()
    assert json.loads(path.read_text())["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(read_keys(path).values()) == [key]
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_secret_has_256_random_bits() -> None:
    secrets = {create_key()[0].split("_", 2)[2] for _ in range(50)}

    assert len(secrets) == 50
    assert {len(secret) for secret in secrets} == {43}  # of 6 bits each


def test_an_expired_key_is_refused_from_that_moment_on(path: Path, clock: Clock) -> None:
    text, key = create_key(expires=datetime.fromtimestamp(clock.now + 60, UTC))
    keys = ring(path, clock, key)
    clock.now += 59
    keys.admit(bearer(text))

    clock.now += 1

    with pytest.raises(Unauthorized):
        keys.admit(bearer(text))


def test_during_a_rotation_both_keys_are_valid_and_afterwards_the_new_one(path: Path, clock: Clock) -> None:
    (old_text, old), (new_text, new) = create_key(), create_key()
    keys = ring(path, clock, old)

    write_keys(path, [old, new])
    clock.now += LOOK_EVERY_S
    keys.admit(bearer(old_text))
    keys.admit(bearer(new_text))
    write_keys(path, [new])
    clock.now += LOOK_EVERY_S

    keys.admit(bearer(new_text))
    with pytest.raises(Unauthorized):
        keys.admit(bearer(old_text))


def test_the_last_key_can_be_revoked(path: Path, clock: Clock) -> None:
    text, key = create_key()
    keys = ring(path, clock, key)

    write_keys(path, [])
    clock.now += LOOK_EVERY_S

    with pytest.raises(Unauthorized):
        keys.admit(bearer(text))


def test_a_broken_file_locks_nobody_out(path: Path, clock: Clock) -> None:
    text, key = create_key()
    keys = ring(path, clock, key)

    path.write_text("{")
    clock.now += LOOK_EVERY_S

    keys.admit(bearer(text))


def test_a_key_has_its_own_rate_which_a_new_file_does_not_refill(path: Path, clock: Clock) -> None:
    (text, key), (free_text, free) = create_key(rate_per_s=0.1, burst=2), create_key()
    keys = ring(path, clock, key, free)
    keys.admit(bearer(text))
    keys.admit(bearer(text))
    write_keys(path, [key, free, create_key()[1]])
    clock.now += LOOK_EVERY_S

    with pytest.raises(RateLimited):
        keys.admit(bearer(text))
    for _ in range(100):
        keys.admit(bearer(free_text))


def test_what_is_known_of_a_key_goes_with_it(path: Path, clock: Clock) -> None:
    text, key = create_key(rate_per_s=0.001, burst=1)
    keys = ring(path, clock, key)
    keys.admit(bearer(text))

    for held in ([], [key]):
        write_keys(path, held)
        clock.now += LOOK_EVERY_S
        if not held:
            with pytest.raises(Unauthorized):
                keys.admit(bearer(text))

    keys.admit(bearer(text))


def test_a_rate_without_a_burst_allows_one_second_of_it() -> None:
    rates = [create_key(rate_per_s=rate)[1].rate for rate in (0.2, 2.5)]

    assert [rate.burst for rate in rates if rate] == [1, 3]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "the line"),
        ("[]", "the line"),
        ('{"id": "a"}', "sha256"),
        ('{"id": "A B", "sha256": "%s"}', "id"),
        ('{"id": "a", "sha256": "sesame-open"}', "sha256"),
        ('{"id": "a", "sha256": "%s", "rate": 3}', "rate"),
        ('{"id": "a", "sha256": "%s", "rate_per_s": 0}', "rate_per_s"),
        ('{"id": "a", "sha256": "%s", "burst": 3}', "rate_per_s"),
        ('{"id": "a", "sha256": "%s", "expires": "2027-01-01T00:00:00"}', "expires"),
        ('{"id": "a", "sha256": "%s"}\n{"id": "a", "sha256": "%s"}', "a again"),
    ],
)
def test_a_line_that_is_no_key_is_named_without_what_stands_in_it(path: Path, line: str, told: str) -> None:
    path.write_text(line.replace("%s", "0" * 64))

    with pytest.raises(InvalidKeyFile) as refusal:
        read_keys(path)

    assert refusal.value.line in (1, 2)
    assert told in str(refusal.value)
    assert "sesame" not in str(refusal.value) + str(refusal.value.__cause__)
