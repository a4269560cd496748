"""A local server that speaks HTTP/2 alone, in the clear: each request is answered with its method, path and length."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import Any

import h2.config
import h2.connection
import h2.events

TIMEOUT = 30.0


class H2Server:
    """Serves one connection, on a free port of this machine, while it is entered."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> H2Server:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(TIMEOUT)
        self._listener.close()

    def _serve(self) -> None:
        try:
            peer, _ = self._listener.accept()
        except OSError:  # shut down before anybody came
            return
        with peer:
            peer.settimeout(TIMEOUT)
            connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
            connection.initiate_connection()
            peer.sendall(connection.data_to_send())
            while data := peer.recv(65536):
                for event in connection.receive_data(data):
                    self._answer(connection, event)
                peer.sendall(connection.data_to_send())

    def _answer(self, connection: Any, event: Any) -> None:
        if isinstance(event, h2.events.RequestReceived):
            headers = {bytes(name).decode(): bytes(value).decode() for name, value in event.headers}
            self.seen.append((headers[":method"], headers[":path"]))
        elif isinstance(event, h2.events.StreamEnded):
            connection.send_headers(event.stream_id, [(":status", "200"), ("content-type", "text/plain")])
            connection.send_data(event.stream_id, repr(self.seen[-1]).encode(), end_stream=True)
