"""A receiver of webhooks: it verifies a message, keeps it, answers at once, and works on it afterwards.

    WEBHOOK_SECRETS=whsec_… uvicorn receiver:create_app --factory --port 9000

`show` is what you would replace. Run it as one process: there is one worker, and nothing keeps two from one message.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from standardwebhooks import Webhook, WebhookVerificationError

MAX_BODY_BYTES = 1_000_000  # a message has at most 262,144; whoever sends more is somebody else
RETRY_SECONDS = 5.0
POLL_SECONDS = 1.0
KEPT_SECONDS = 30 * 24 * 3600  # longer than the sender can repeat a message (its RESULT_TTL_SECONDS)

Message = dict[str, Any]
Work = Callable[[Message], None]


def show(message: Message) -> None:
    """The work: here it is said on standard output.

    It may happen twice, where the process dies before it has noted that it is done, so it should bear that. Where
    `links` has `output`, the output was too large for the message: get the job from there.
    """
    job = message["data"]
    print(f"job {job['id']} {job['status']}, round {message['sequence']}", flush=True)


def create_app(work: Work = show) -> FastAPI:
    """The application. Settings: WEBHOOK_SECRETS (separated by commas: two during a rotation) and WEBHOOK_DATABASE."""
    secrets = [part.strip() for part in os.environ.get("WEBHOOK_SECRETS", "").split(",") if part.strip()]
    if not secrets:
        raise SystemExit("WEBHOOK_SECRETS is missing: the secret that the messages are signed with, whsec_…")
    hooks = [Webhook(secret) for secret in secrets]
    inbox = Inbox(os.environ.get("WEBHOOK_DATABASE", "webhooks.sqlite3"))
    arrived = asyncio.Event()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        worker = asyncio.create_task(work_off(inbox, work, arrived))
        try:
            yield
        finally:
            worker.cancel()
            with suppress(asyncio.CancelledError):
                await worker

    app = FastAPI(lifespan=lifespan)

    @app.post("/hooks/jobs", status_code=204)
    async def receive(request: Request) -> Response:
        body = await read_body(request)
        if not is_signed(hooks, request.headers, body):
            raise HTTPException(401, "The signature does not fit.")
        # In a thread: the disk must not hold up the other requests.
        if await asyncio.to_thread(inbox.keep, request.headers["webhook-id"], body):
            arrived.set()
        return Response(status_code=204)  # also for a message that is known: it must not be sent again

    @app.get("/jobs")
    def list_jobs() -> list[dict[str, Any]]:
        return inbox.jobs()

    return app


async def read_body(request: Request) -> bytes:
    """The bytes that were signed. Whoever sends too many gets a 413."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise HTTPException(413, "No message is as large as this.")
    return body


def is_signed(hooks: Sequence[Webhook], headers: Mapping[str, str], body: bytes) -> bool:
    """Whether one of the secrets has signed this body, within the last five minutes."""
    for hook in hooks:
        try:
            hook.verify(body, dict(headers), json_parse=False)
        except (WebhookVerificationError, ValueError):  # the library lets a ValueError pass where headers are malformed
            continue
        return True
    return False


async def work_off(inbox: Inbox, work: Work, arrived: asyncio.Event) -> None:
    """Work on one message after the other, for ever."""
    forgotten_at = 0.0
    while True:
        arrived.clear()
        try:
            while await asyncio.to_thread(work_on_next, inbox, work):
                pass
            if time.time() - forgotten_at > 3600:
                forgotten_at = time.time()
                await asyncio.to_thread(inbox.forget, forgotten_at - KEPT_SECONDS)
        except sqlite3.Error as error:  # a full disk, say: what is kept stays, and is worked on later
            print(f"the database failed: {error}", flush=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_SECONDS):
                await arrived.wait()


def work_on_next(inbox: Inbox, work: Work) -> bool:
    """Work on the next message that is due. False: there is none."""
    found = inbox.next_due()
    if found is None:
        return False
    webhook_id, body = found
    try:
        message: Message = json.loads(body)
        job: Message | None = None
        # Messages come in no order: one that is not newer than what is known of its job has nothing new to say.
        if message["type"].startswith("job.") and inbox.sequence_of(message["data"]["id"]) < message["sequence"]:
            work(message)
            job = {**message["data"], "sequence": message["sequence"]}
    except Exception as error:  # whatever it is, the others must not wait for it
        print(f"message {webhook_id} failed: {type(error).__name__}: {error}", flush=True)
        inbox.put_off(webhook_id, RETRY_SECONDS)
        return True
    inbox.settle(webhook_id, job)
    return True


class Inbox:
    """The messages that were received, and what is known of each job, in a SQLite file. From any thread."""

    def __init__(self, path: str) -> None:
        self._path = path
        with self._transaction() as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute(
                "CREATE TABLE IF NOT EXISTS messages (webhook_id TEXT PRIMARY KEY, body BLOB NOT NULL,"
                " due REAL NOT NULL, done_at REAL)"
            )
            database.execute("CREATE INDEX IF NOT EXISTS waiting ON messages (due) WHERE done_at IS NULL")
            database.execute(
                "CREATE TABLE IF NOT EXISTS jobs (id TEXT PRIMARY KEY, sequence INTEGER NOT NULL, status TEXT NOT NULL)"
            )

    def keep(self, webhook_id: str, body: bytes) -> bool:
        """Store a message: id and body in one transaction. False: the id is known. It is on disk when this returns."""
        with self._transaction() as database:
            kept = database.execute(
                "INSERT OR IGNORE INTO messages VALUES (?, ?, ?, NULL)", (webhook_id, body, time.time())
            )
            return kept.rowcount == 1

    def next_due(self) -> tuple[str, bytes] | None:
        """Id and body of the message that has been due for the longest time."""
        with self._transaction() as database:
            found = database.execute(
                "SELECT webhook_id, body FROM messages WHERE done_at IS NULL AND due <= ? ORDER BY due LIMIT 1",
                (time.time(),),
            )
            return found.fetchone()  # type: ignore[no-any-return]

    def sequence_of(self, job_id: str) -> int:
        """The number of the job's last round that was worked on, 0 before the first."""
        with self._transaction() as database:
            found = database.execute("SELECT sequence FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return int(found[0]) if found else 0

    def settle(self, webhook_id: str, job: Message | None) -> None:
        """Note that a message is done, and with it what it said of its job."""
        with self._transaction() as database:
            database.execute("UPDATE messages SET done_at = ? WHERE webhook_id = ?", (time.time(), webhook_id))
            if job is not None:
                database.execute("REPLACE INTO jobs VALUES (:id, :sequence, :status)", job)

    def put_off(self, webhook_id: str, seconds: float) -> None:
        """Try a message again later."""
        with self._transaction() as database:
            database.execute("UPDATE messages SET due = ? WHERE webhook_id = ?", (time.time() + seconds, webhook_id))

    def forget(self, before: float) -> None:
        """Delete the messages that were done before this time."""
        with self._transaction() as database:
            database.execute("DELETE FROM messages WHERE done_at < ?", (before,))

    def jobs(self) -> list[dict[str, Any]]:
        """What is known of each job."""
        with self._transaction() as database:
            found = database.execute("SELECT id, sequence, status FROM jobs ORDER BY id")
            return [dict(zip(("id", "sequence", "status"), row, strict=True)) for row in found]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        database = sqlite3.connect(self._path, timeout=10)
        try:
            with database:  # commits, or rolls back
                yield database
        finally:
            database.close()
