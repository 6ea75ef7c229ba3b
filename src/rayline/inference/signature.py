"""Ed25519 signatures of artifacts: the manifest is signed, which contains the hashes of everything else.

A key is an object of the package `cryptography`, the PEM text of one (bytes), or the path of a PEM file, as
`openssl genpkey -algorithm ed25519 -out key.pem` and `openssl pkey -in key.pem -pubout -out public.pem` write them. The
algorithm is RFC 8032's; the library is `cryptography`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rayline.core import strict_json
from rayline.core.data_types import SigningKey, TrustedKey
from rayline.core.errors import ArtifactError, ParameterError, first_line, needing, place

with needing("A signature of an artifact", "cryptography", "signing"):
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

_PURPOSE = b"rayline artifact 1\n"
"""The prefix of the signed bytes, so that a signature made for another purpose is not valid for an artifact."""


def sign(manifest: bytes, key: SigningKey) -> bytes:
    """Return the member `signature.json` for a manifest. Raises ParameterError when `key` is not a private Ed25519 key."""
    private = _key(key, Ed25519PrivateKey, "sign_with")
    signature = private.sign(_PURPOSE + manifest)
    about = {"algorithm": "ed25519", "public_key": _name(private.public_key()), "signature": signature.hex()}
    return strict_json.dumps(about)


def verify(manifest: bytes, signature: bytes | None, trusted_keys: Sequence[TrustedKey]) -> None:
    """Raise ArtifactError unless one of the trusted keys signed the manifest, ParameterError when one is no key."""
    if isinstance(trusted_keys, (str, bytes, Path)) or not isinstance(trusted_keys, Sequence) or not trusted_keys:
        raise ParameterError.value("trusted_keys", "a list of at least one public key", trusted_keys, where="load")
    trusted = {_name(key): key for key in (_key(k, Ed25519PublicKey, "trusted_keys") for k in trusted_keys)}
    if signature is None:
        raise ArtifactError(
            f"{place()} is not signed.", f"Expected a signature by one of {[*trusted]}.", "save it with sign_with=…"
        )
    about = strict_json.loads(signature, "signature.json")
    fields = ("algorithm", "public_key", "signature")
    if not isinstance(about, dict) or not all(isinstance(about.get(name), str) for name in fields):
        raise ArtifactError.here(
            "its signature is malformed.", f"Expected the fields {list(fields)}.", "sign it again."
        )
    key = trusted.get(about["public_key"])
    if key is None or about["algorithm"] != "ed25519":
        raise ArtifactError(
            f"{place()} is signed by {about['public_key'][:64]!r}, which is not trusted.",
            f"Expected one of {[*trusted]}.",
            "load it with the public key of its author, if you trust them.",
        )
    try:
        key.verify(bytes.fromhex(about["signature"]), _PURPOSE + manifest)
    except (InvalidSignature, ValueError):
        raise ArtifactError(
            f"{place()} was modified after it was signed by {about['public_key']}.",
            "Expected the manifest that was signed.",
        ) from None


def _key(argument_value: Any, kind: type, argument: str) -> Any:
    if isinstance(argument_value, kind):
        return argument_value
    private, key = kind is Ed25519PrivateKey, None
    try:
        text = argument_value if isinstance(argument_value, bytes) else Path(argument_value).read_bytes()
        key = load_pem_private_key(text, password=None) if private else load_pem_public_key(text)
    except (OSError, TypeError, ValueError) as error:
        reason = f": {first_line(error)}"[:200]
    else:
        reason = f", but {type(key).__name__}"
    if isinstance(key, kind):
        return key
    raise ParameterError(
        f"{argument}: this is not a {'private' if private else 'public'} Ed25519 key{reason}.",
        f"Expected an {kind.__name__}, the bytes of a PEM file, or its path.",
        "load an encrypted key with cryptography's load_pem_private_key first." if private else "",
    )


def _name(key: Ed25519PublicKey) -> str:
    return key.public_bytes_raw().hex()
