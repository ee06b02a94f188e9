"""A proxy before a server of HTTP and websockets that answers some requests itself: the server has no time."""

import contextlib
import socket
import threading
from collections.abc import Iterator

ANSWER = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@contextlib.contextmanager
def refuse(port: int, *starts: bytes) -> Iterator[int]:
    """Yield the port of a proxy before that `port`; requests that begin with one of `starts` get 503."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_serve, args=(listening, port, starts), daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def _serve(listening: socket.socket, port: int, starts: tuple[bytes, ...]) -> None:
    with contextlib.suppress(OSError):  # the end of the block
        while True:
            client, _ = listening.accept()
            server = socket.create_connection(("127.0.0.1", port))
            threading.Thread(target=_copy, args=(client, server, starts), daemon=True).start()
            threading.Thread(target=_copy, args=(server, client, ()), daemon=True).start()


def _copy(source: socket.socket, target: socket.socket, starts: tuple[bytes, ...]) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            if data.startswith(starts) and starts:  # a client sends nothing before it has the last answer
                source.sendall(ANSWER)
                break
            target.sendall(data)
    for one in (source, target):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
