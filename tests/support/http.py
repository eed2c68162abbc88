"""An application behind a real HTTP server."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager

import httpx
import uvicorn


@contextmanager
def serve(app):
    """A client of this application, which uvicorn serves in a thread."""
    # With its protocol named, or asyncio leaves Nagle's algorithm on, which costs 40 ms a request.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()  # so that a client waits, and is not refused, until uvicorn accepts
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
