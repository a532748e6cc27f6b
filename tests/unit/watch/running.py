"""The pages served over a real socket, by uvicorn in a thread."""

import socket
import threading
from contextlib import contextmanager

import uvicorn

from components.watch.app import Pages, application


def pages_of(world, seconds=0.0, **more):
    reader = world.reader()
    return Pages(reader.read, reader.page, seconds=seconds, **more)


@contextmanager
def served(world, seconds=0.2, seen=None, **more):
    """Its URL and its pages; `seen` collects the path of each request."""
    pages = pages_of(world, seconds, ending=lambda: server.should_exit)
    app = application(pages, **more)

    async def noting(scope, receive, send):
        if seen is not None:
            seen.append(scope["path"])
        await app(scope, receive, send)

    server = uvicorn.Server(uvicorn.Config(noting, log_config=None, lifespan="off", timeout_graceful_shutdown=3))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", pages
        finally:
            server.should_exit = True
            thread.join(timeout=10)
            assert not thread.is_alive(), "the server stopped in time"
