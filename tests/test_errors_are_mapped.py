"""Every failure that the cloud can let out has an HTTP status, and the status says who can do something about it."""

from app.problems import STATUS
from duet.protocol.errors import CorruptVersion, DuetError, GenerationError, RequestError, ServiceUnavailable


def leaves(error: type[DuetError]) -> set[type[DuetError]]:
    """The subclasses that have none themselves: the only ones that are raised."""
    children = error.__subclasses__()
    return {leaf for child in children for leaf in leaves(child)} if children else {error}


def test_every_failure_of_the_cloud_has_a_status_and_no_other_has() -> None:
    outside = {CorruptVersion}  # of the repository's errors the only one that a request can meet

    assert set(STATUS) == leaves(RequestError) | leaves(ServiceUnavailable) | leaves(GenerationError) | outside


def test_the_status_says_whether_to_change_the_request_to_retry_or_to_give_up() -> None:
    fixable = {STATUS[leaf] for leaf in leaves(RequestError)}
    retryable = {STATUS[leaf] for leaf in leaves(ServiceUnavailable)}
    ours = {STATUS[leaf] for leaf in leaves(GenerationError)}

    assert all(400 <= status < 500 for status in fixable)
    assert retryable <= {429, 503, 504}
    assert not fixable & retryable
    assert ours == {500}


def test_a_code_names_one_failure() -> None:
    codes = [leaf.code for leaf in leaves(DuetError)]

    assert len(codes) == len(set(codes))
