"""An auth server as far as an application sees it: a JWKS on a local port, and the tokens that it signs."""

from __future__ import annotations

import json
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

SECRET = "a shared secret of at least 32 bytes"
KINDS = {
    "ES256": (lambda: ec.generate_private_key(ec.SECP256R1()), ECAlgorithm),
    "RS256": (lambda: rsa.generate_private_key(65537, 2048), RSAAlgorithm),
    "EdDSA": (ed25519.Ed25519PrivateKey.generate, OKPAlgorithm),
}


class SigningKey:
    """A private key, and the entry of a JWKS that says its public half."""

    def __init__(self, key_id="key-1", algorithm="ES256"):
        make, kind = KINDS[algorithm]
        self.id = key_id
        self.algorithm = algorithm
        self.private = make()
        self.jwk = {
            **kind.to_jwk(self.private.public_key(), as_dict=True),
            "kid": key_id,
            "alg": algorithm,
            "use": "sig",
        }

    def sign(self, claims, **headers):
        return jwt.encode(claims, self.private, self.algorithm, {"kid": self.id, **headers})


class AuthServer:
    """The server. What it answers can be changed; ``fetches`` counts how often the keys were asked for."""

    def __init__(self):
        self.key = SigningKey()
        self.keys = [self.key.jwk]
        self.fetches = 0
        self.answer = None  # (status, headers, body) instead of the keys
        self.delay_seconds = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.fetches += 1
                time.sleep(outer.delay_seconds)
                body = json.dumps({"keys": outer.keys}).encode()
                status, headers, body = outer.answer or (200, {}, body)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self):
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def issuer(self):
        return f"{self.url}/auth/v1"

    def claims(self, user_id=None, **changes):
        """What a token says; a change to None leaves a claim out."""
        now = int(time.time())
        claims = {
            "iss": self.issuer, "aud": "authenticated", "sub": str(user_id or uuid.uuid4()), "role": "authenticated",
            "iat": now, "exp": now + 600, **changes,
        }  # fmt: skip
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, user_id=None, **changes):
        """A token of this server."""
        return self.key.sign(self.claims(user_id, **changes))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
