"""GitHub's signature scheme, as pure functions."""

import pytest

from zerver.contrib.webhooks import signature

# The example of GitHub's own documentation.
SECRET = "It's a Secret to Everybody"
BODY = b"Hello, World!"
SIGNED = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"


def test_signs_as_github_documents_it() -> None:
    assert signature.sign(SECRET, BODY) == SIGNED


def test_a_right_signature_is_valid_in_either_case_of_hexadecimal() -> None:
    for header in (SIGNED, "sha256=" + SIGNED.removeprefix("sha256=").upper()):
        digest = signature.parse(header)
        assert digest is not None
        assert signature.is_valid(SECRET, BODY, digest)


def test_another_secret_or_another_body_is_not_valid() -> None:
    digest = signature.parse(SIGNED)
    assert digest is not None
    assert not signature.is_valid(SECRET + ".", BODY, digest)
    assert not signature.is_valid(SECRET, BODY + b"\n", digest)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "sha256=",
        SIGNED[:-1],
        SIGNED + "0",
        SIGNED + "\n",
        SIGNED.removeprefix("sha256="),
        SIGNED.replace("sha256", "sha1"),
        SIGNED.replace("sha256", "SHA256"),
        "sha256=" + "g" * 64,
        "sha256=" + "é" * 64,
        "sha256=" + "٣" * 64,
        "sha256=" + "0" * 100_000,
    ],
)
def test_what_is_not_of_the_form_has_no_digest(header: str) -> None:
    assert signature.parse(header) is None
