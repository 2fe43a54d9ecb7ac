"""Envelopes against what DSSE publishes: its protocol's example (ECDSA), its Ed25519 vectors (keys of RFC 8032)."""

from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from flagrelease.provenance.dsse import STATEMENT_TYPE, EnvelopeError, open_envelope, pae, sign, unverified_payload
from flagrelease.provenance.keys import PublicKey, SigningKey

BODY = b'{"_type":"https://in-toto.io/Statement/v1"}'
SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
OTHER = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
BODY_SIGNED = "2WAfaHm5jluo0w+0rk8uVkluELJYWjSmU9x7EUzx+AyteDGJ4/nqyJXfmAUVFIAoQafWm7AxBZNw5M9ixNHiCA=="
NO_TYPE_SIGNED = "iC3q/+3Rm0+lpAJRueDmDh15PnwCfxKmS0NAfKsbv+zgulXQC/WM9trc+j1XEqlwDIg/vf/uNfebeD6sxInrDg=="
NO_BODY_SIGNED = "gSggCAaTLTYyRH6FIDBem6meyIynsYy8RTHVzwx9tnTb7Bg/1jMWnuVgI/gffqmbsC2VX5/jHfkkDqsj7CDbDg=="
URL_SAFE = ("-_-_Pj8=", "P-_KHICeR7tI6S_YyejJTRtrXhcQyQ2LYPaL8h90KjC9qN8HU_svOQ6TuDOT1HIrsGW886DbWNWcCmX5twLrAw==")


def public(raw: bytes = PUBLIC) -> PublicKey:
    return PublicKey(Ed25519PublicKey.from_public_bytes(raw))


def envelope(sig: str = BODY_SIGNED, *, payload: str = "", kind: str = STATEMENT_TYPE) -> bytes:
    signatures = [{"keyid": "A", "sig": sig}]
    return json.dumps(
        {"payload": payload or base64.b64encode(BODY).decode(), "payloadType": kind, "signatures": signatures}
    ).encode()


def test_the_example_of_the_protocol() -> None:
    signed = pae("http://example.com/HelloWorld", b"hello world")
    assert signed == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    # Made by the protocol's own implementation: it holds only over exactly these bytes.
    x, y = (
        46950820868899156662930047687818585632848591499744589407958293238635476079160,
        5640078356564379163099075877009565129882514886557779369047442380624545832820,
    )
    sig = base64.b64decode("A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA==")
    r, s = (int.from_bytes(half) for half in (sig[:32], sig[32:]))
    key = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    key.verify(utils.encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA256()))


def test_lengths_count_bytes() -> None:
    assert pae("exämple", "ü".encode()) == "DSSEv1 8 exämple 2 ü".encode()
    assert pae("t", b"") == b"DSSEv1 1 t 0 "


def test_signing_gives_the_published_signature() -> None:
    made = json.loads(sign(BODY, SigningKey(Ed25519PrivateKey.from_private_bytes(SEED))))
    assert made == {
        "payload": base64.b64encode(BODY).decode(),
        "payloadType": "application/vnd.in-toto+json",
        "signatures": [{"keyid": public().id, "sig": BODY_SIGNED}],
    }


def test_the_published_envelopes_open() -> None:
    opened = open_envelope(envelope(), [public(OTHER), public()])
    assert (opened.payload, opened.key.id) == (BODY, public().id)
    payload, sig = URL_SAFE
    assert open_envelope(envelope(sig, payload=payload), [public()]).payload == b"\xfb\xff\xbf>?"
    signatures = [{"sig": BODY_SIGNED[::-1][2:] + "=="}, {"sig": BODY_SIGNED, "more": 1}]
    whole = json.loads(envelope()) | {"signatures": signatures, "unknown": {}}
    assert open_envelope(json.dumps(whole).encode(), [public()]).payload == BODY


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (envelope(kind="application/vnd.example.other+json"), "signature is not by the key"),
        (envelope(NO_TYPE_SIGNED, kind=""), "of the type ''"),
        (envelope(payload=base64.b64encode(BODY + b" ").decode()), "content was changed"),
        (envelope(NO_BODY_SIGNED), "content was changed"),
        (envelope("AAAA"), "signature is not by the key"),
        (envelope("not base64!"), "no DSSE envelope"),
        (b"[]", "no DSSE envelope"),
        (b"{" * 100_000, "no DSSE envelope"),
        (b'{"payload": "", "payloadType": "t", "signatures": []}', "signatures"),
        (b'{"payload": 1, "payloadType": "t", "signatures": [{"sig": ""}]}', "payload"),
        (b"\xff", "no DSSE envelope"),
    ],
)
def test_what_nobody_signed_stays_shut(content: bytes, words: str) -> None:
    with pytest.raises(EnvelopeError, match=words):
        open_envelope(content, [public()])


def test_another_key_does_not_open() -> None:
    with pytest.raises(EnvelopeError, match=public(OTHER).id[:16]):
        open_envelope(envelope(), [public(OTHER)])
    assert unverified_payload(envelope()) == BODY
