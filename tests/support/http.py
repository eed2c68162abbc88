"""An application behind a real HTTP server."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager

import httpx
import uvicorn


@contextmanager
def served(app):
    """A client of this application, which uvicorn serves in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=5))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            # uvicorn closes a connection after an error, which a client that keeps connections may notice too late.
            limits = httpx.Limits(max_keepalive_connections=0)
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, limits=limits) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()
