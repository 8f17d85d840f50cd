"""Ed25519 signatures of model files: the owner of the private key approves a file for boxes.

The signature covers the digest in the file, and so everything but the signature itself. It is part of the file, so
there is no second file to copy, forget or replace too late. A command that writes other metadata, such as `enroll`,
removes the signature, since it no longer matches. Keys are PEM files (PKCS#8, SubjectPublicKeyInfo), as OpenSSL writes
and reads them. Source: RFC 8032.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

from twincar_edge.errors import InputError, ModelError, require
from twincar_edge.files import write_bytes, write_private_text
from twincar_edge.model_file import ModelFile
from twincar_edge.onnx_metadata import check_digest, with_metadata, with_signature

_CONTEXT = (
    b"twincar-edge model signature v1\n"  # domain separation: keeps other signatures of the key from being accepted
)
MAX_KEY_BYTES = 10_000


def make_key_pair(path: Path) -> Path:
    """Write a private key that only its owner can read, and the public key next to it; return the public key's path.

    Raises:
        InputError: a file already exists, or cannot be written.
        MissingExtraError: cryptography is not installed.
    """
    public = path.with_name(f"{path.name}.pub")
    for file in (path, public):
        if file.exists():
            raise InputError(f"{file} exists, and keys are never overwritten: choose another name")
    serialization = _module("serialization")
    key = _module("asymmetric.ed25519").Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_private_text(path, private.decode("ascii"))
    write_bytes(public, key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return public


def signed(data: bytes, key: Path, where: str) -> bytes:
    """Return the bytes of a model file with a signature, which replaces any earlier one.

    Args:
        data: the file; if it has no digest, one is added.
        key: the file of the private key.
        where: names the model in an error.

    Raises:
        InputError: the key cannot be read, or is not an Ed25519 key.
        MissingExtraError: cryptography is not installed.
        ModelError: the file is not an ONNX model, or does not match its digest.
    """
    private = _key(key, "private")
    data = with_metadata(data, {}, where)
    digest = check_digest(data, where).digest
    assert digest is not None, "with_metadata writes one"
    signature: bytes = private.sign(_message(digest))
    return with_signature(data, base64.b64encode(signature).decode("ascii"))


def require_signature(file: ModelFile, public_key: Path) -> None:
    """Check that a model file is signed with the private key of `public_key`.

    Raises:
        InputError: the key cannot be read, or is not an Ed25519 key.
        MissingExtraError: cryptography is not installed.
        ModelError: it is not signed, or with another key.
    """
    key = _key(public_key, "public")
    if file.digest is None or file.signature is None:
        raise ModelError(f"{file.path} is not signed: sign it with `twincar-edge sign`")
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(base64.b64decode(file.signature, validate=True), _message(file.digest))
    except (InvalidSignature, binascii.Error) as error:
        raise ModelError(f"{file.path} is not signed with the private key of {public_key}") from error


def _message(digest: str) -> bytes:
    return _CONTEXT + bytes.fromhex(digest)


def _key(path: Path, kind: str) -> Any:
    """Return the key in a file. `kind` is `private` or `public`."""
    serialization, ed25519 = _module("serialization"), _module("asymmetric.ed25519")
    try:
        with path.open("rb") as file:
            text = file.read(MAX_KEY_BYTES)
    except OSError as error:
        raise InputError(f"cannot read the {kind} key {path}: {error.strerror}") from error
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        if kind == "private":
            key = serialization.load_pem_private_key(text, password=None)
        else:
            key = serialization.load_pem_public_key(text)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it is encrypted
        raise InputError(f"{path} is not an unencrypted {kind} key in PEM format: see `twincar-edge sign`") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey if kind == "private" else ed25519.Ed25519PublicKey):
        raise InputError(f"{path} is not an Ed25519 key: see `twincar-edge sign`")
    return key


def _module(name: str) -> Any:
    return require(f"cryptography.hazmat.primitives.{name}", "sign")
