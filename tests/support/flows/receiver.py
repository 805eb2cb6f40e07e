"""What notification blocks are pointed at: an HTTP server on loopback that keeps what it is sent."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from prefect.blocks.notifications import CustomWebhookNotificationBlock

from tests.support.stack import until

TO = "custom-webhook/receiver"


class Receiver:
    """Listens while it is entered."""

    def __init__(self) -> None:
        self.messages: list[dict[str, str]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.messages.append(json.loads(body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/?key=hunter2"

    async def save_block(self) -> None:
        """Make the notification block ``TO`` lead here."""
        webhook = CustomWebhookNotificationBlock(
            name="ops", url=self.url, json_data={"subject": "{{subject}}", "body": "{{body}}"}
        )
        await webhook.asave(TO.partition("/")[2], overwrite=True)

    async def next(self, words: str, *, patience: float = 30) -> str:
        """Wait for a message with these words in its subject, and return all of it."""
        found = await until(
            lambda: next((m for m in self.messages if words in m["subject"]), None), patience=patience
        )
        self.messages.remove(found)
        return f"{found['subject']}\n{found['body']}"

    def __enter__(self) -> Receiver:
        self._thread = Thread(target=self.server.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()
