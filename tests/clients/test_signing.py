"""The proxy signs as Amazon's own client does: the same request gets the same signature from both."""

from __future__ import annotations

import datetime
import hashlib

import pytest

from pyisolate.egress import signing

auth = pytest.importorskip("botocore.auth")
from botocore.awsrequest import AWSRequest  # noqa: E402
from botocore.credentials import Credentials  # noqa: E402

pytestmark = pytest.mark.once

BODY, HOST = b"a body", "api.example.org"
#: Queries are as clients write them, with everything encoded that must be: botocore's own never differ from that.
TARGETS = ("/", "/a/b", "/a/", "//", "/a//b", "/a/./b/../../c", "/../a", "/a%20b", "/a%2Fb", "/a+b~c:d@e",
           "/a,b;c='d'!()*$&", "/a//",
           "/?b=2&a=1&a=0", "/?x=%20y&z=a%2Bb", "/?k", "/?k=&j", "/?a-b=1&a=2&aB=3", "/x?q=%2A%27%2F")  # fmt: skip


def _as_botocore(service: str, target: str, headers: dict[str, str], token: str) -> dict[str, str]:
    request = AWSRequest("POST", f"https://{HOST}{target}", headers, BODY)
    signer = auth.S3SigV4Auth if service == "s3" else auth.SigV4Auth
    access = Credentials("AKIDEXAMPLE0000000", "secret+/secretsecret", token or None)
    signer(access, service, "eu-west-1").add_auth(request)
    return {name: str(value) for name, value in request.headers.items()}


@pytest.mark.parametrize("service", ["execute-api", "s3"])
def test_signatures_are_those_of_botocore(service: str) -> None:
    for target in TARGETS:
        for token in ("", "T" * 20):
            for headers in ({}, {"Content-Type": "text/plain", "X-Amz-Meta-A": "  b   c "}):
                theirs = _as_botocore(service, target, headers, token)
                at = datetime.datetime.strptime(theirs["X-Amz-Date"], "%Y%m%dT%H%M%SZ")
                sent = [("Host", HOST), *theirs.items()]
                kept = [(n.encode(), v.encode()) for n, v in sent if n.lower().encode() not in signing.REPLACED]
                key = signing.Key("AKIDEXAMPLE0000000", "secret+/secretsecret", token, "eu-west-1", service)
                ours = signing.sign(key, b"POST", target.encode(), kept, hashlib.sha256(BODY).hexdigest(), at)
                assert dict(ours)[b"Authorization"].decode() == theirs["Authorization"], (target, token, headers)
