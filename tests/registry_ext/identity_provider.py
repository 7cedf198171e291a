"""An identity provider on loopback: discovery, keys that rotate, tokens as a test wants them."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa


class Provider:
    """Issues real, signed tokens; ``down`` makes it answer 500."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {}
        self.asked = 0
        self.down = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                body = json.dumps(outer.answer(self.path)).encode()
                self.send_response(500 if outer.down else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Nothing on the tests' output."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self._server.server_address[1]}/team"
        self.rotate("one")
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, path: str) -> Any:
        if path.endswith("/.well-known/openid-configuration"):
            return {"issuer": self.issuer, "jwks_uri": f"{self.issuer}/keys"}
        return {"keys": [self._public(kid, key) for kid, key in self.keys.items()]}

    def _public(self, kid: str, key: Any) -> dict[str, Any]:
        algorithm = jwt.get_algorithm_by_name("ES256" if isinstance(key, ec.EllipticCurvePrivateKey) else "RS256")
        return {**json.loads(algorithm.to_jwk(key.public_key())), "kid": kid, "use": "sig"}

    def rotate(self, kid: str, curve: bool = False) -> None:
        """A new key, and only that one from now on."""
        new: Any = ec.generate_private_key(ec.SECP256R1()) if curve else rsa.generate_private_key(65537, 2048)
        self.keys = {kid: new}

    def claims(self, **changed: Any) -> dict[str, Any]:
        now = int(time.time())
        good = {"iss": self.issuer, "aud": "windtunnel", "iat": now, "exp": now + 600, "sub": "1"}
        return {**good, "email": "eve@example.org", "email_verified": True, **changed}

    def token(self, *, headers: dict[str, Any] | None = None, **changed: Any) -> str:
        ((kid, key),) = self.keys.items()
        algorithm = "ES256" if isinstance(key, ec.EllipticCurvePrivateKey) else "RS256"
        return jwt.encode(self.claims(**changed), key, algorithm, headers={"kid": kid, **(headers or {})})

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
