"""Signatures in DSSE envelopes (Dead Simple Signing Envelope 1.0, github.com/secure-systems-lab/dsse).

A signature covers the payload's type and bytes as they are, so nothing has to be parsed before it is checked. An
envelope's key id is a hint that nobody signed: which key signed is found by trying.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flagrelease.provenance.keys import PublicKey, SigningKey

STATEMENT_TYPE = "application/vnd.in-toto+json"
"""Payload type of an in-toto Statement."""

_URL_SAFE = str.maketrans("-_", "+/")


class EnvelopeError(ValueError):
    """Bytes are no envelope, or no key given signed it; the message says which."""


class Opened(NamedTuple):
    """What an envelope whose signature holds carries, and the key that made the signature."""

    payload: bytes
    key: PublicKey


class _Signature(BaseModel):
    model_config = ConfigDict(strict=True)

    sig: str
    keyid: str | None = None


class _Envelope(BaseModel):
    # The format demands that fields which nobody knows are ignored.
    model_config = ConfigDict(strict=True)

    payload: str
    payload_type: str = Field(alias="payloadType")
    signatures: list[_Signature] = Field(min_length=1)


def pae(payload_type: str, payload: bytes) -> bytes:
    """What is signed (pre-authentication encoding): type and payload, each after its length in bytes."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(payload: bytes, key: SigningKey, payload_type: str = STATEMENT_TYPE) -> bytes:
    """The envelope of `payload`, signed by `key`: the same bytes whenever it is called, as Ed25519 is deterministic."""
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": payload_type,
        "signatures": [
            {"keyid": key.public.id, "sig": base64.b64encode(key.sign(pae(payload_type, payload))).decode()}
        ],
    }
    return (json.dumps(envelope, indent=1) + "\n").encode()


def open_envelope(content: bytes, keys: Sequence[PublicKey], payload_type: str = STATEMENT_TYPE) -> Opened:
    """The payload as it was signed by one of `keys`; raises EnvelopeError where it was by none of them."""
    envelope = _read(content)
    payload = _decoded(envelope.payload)
    signed = pae(envelope.payload_type, payload)
    for key in keys:
        if any(key.signed(_decoded(signature.sig), signed) for signature in envelope.signatures):
            if envelope.payload_type != payload_type:
                raise EnvelopeError(f"its payload is of the type {envelope.payload_type!r}, not {payload_type}")
            return Opened(payload, key)
    raise EnvelopeError(
        f"its signature is not by the key {', '.join(key.id[:16] for key in keys)}, or its content was changed"
    )


def unverified_payload(content: bytes) -> bytes:
    """The payload, whoever signed it; raises EnvelopeError where `content` is no envelope."""
    return _decoded(_read(content).payload)


def _read(content: bytes) -> _Envelope:
    try:
        return _Envelope.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise EnvelopeError(f"it is no DSSE envelope: {where and f'{where}: '}{first['msg']}") from None


def _decoded(text: str) -> bytes:
    """Bytes from base64 in its standard or its URL-safe alphabet: both have to be accepted."""
    try:
        return base64.b64decode(text.translate(_URL_SAFE), validate=True)
    except binascii.Error as error:
        raise EnvelopeError(f"it is no DSSE envelope: {error}") from None
