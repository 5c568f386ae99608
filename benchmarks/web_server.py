"""A host for the egress benchmark: answers each GET with as many bytes as its path says, plain and over TLS.

`python -m benchmarks.web_server`: prints its ports and its certificate authority, serves until its input ends.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys

from pyisolate.egress.authority import Issuer, new_authority

HOST = "api.example.org"


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the requests of one connection."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            size = int(head.split(b" ", 2)[1].removeprefix(b"/"))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
            await writer.drain()
    except (OSError, EOFError):
        pass
    finally:
        writer.close()


async def main() -> None:
    """Serve."""
    authority = new_authority("benchmark")
    context: ssl.SSLContext = Issuer(authority).context(HOST)
    plain = await asyncio.start_server(answer, "127.0.0.1", 0)
    secure = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    ports = [server.sockets[0].getsockname()[1] for server in (plain, secure)]
    print(json.dumps({"plain": ports[0], "secure": ports[1], "authority": authority.certificate}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
