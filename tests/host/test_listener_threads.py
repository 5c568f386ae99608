"""The listener keeps hold of the thread that asked last: of each thread and process it takes the socket of its own."""

from __future__ import annotations

import os
import socket
import threading

from tests.confined import confined, policy, rule


def test_the_same_number_is_another_socket_in_another_process_and_in_another_thread_it_is_not() -> None:
    def guest() -> object:
        said = []

        def connect(own: socket.socket) -> str:
            own.settimeout(5)
            own.connect(("127.0.0.1", port))
            return own.recv(5).decode()

        first = socket.socket()
        number = first.fileno()
        said.append(connect(first))
        for _ in range(3):  # each has another process's number, and the parent asks in between
            readable, writable = os.pipe()
            if not (child := os.fork()):
                first.close()
                with socket.socket() as own:
                    os.write(writable, f"{own.fileno() == number} {connect(own)}".encode())
                os._exit(0)
            os.waitpid(child, 0)
            said.append(os.read(readable, 64).decode())
            with socket.socket() as own:
                said.append(connect(own))
        for _ in range(2):
            thread = threading.Thread(target=lambda: said.append(connect(socket.socket())))
            thread.start()
            thread.join()
        return said

    with socket.create_server(("127.0.0.1", 0), backlog=16) as server:
        port = server.getsockname()[1]
        accepting = threading.Thread(target=lambda: [server.accept()[0].sendall(b"hello") for _ in range(9)])
        accepting.start()
        seen = confined(guest, policy(rule("connect", f"127.0.0.1:{port}"), allow_fork=True))
        accepting.join(5)
    assert seen.value == ["hello", *["True hello", "hello"] * 3, "hello", "hello"]
    assert not seen.refusals
