"""The saver of jobs without a thread: LangGraph's in-memory saver, with every change written through to Redis.

Reads cost nothing, for an attempt is the only writer of its job: what an earlier attempt left is read once, at the
start. The changes of one turn of the event loop go out in one fenced script, and LangGraph waits for it
(`durability="sync"`), so that a step is stored before the next one starts. The hash goes with the job.

A field is the msgpack of its name: `["c", thread, namespace, checkpoint]`, `["b", thread, namespace, channel,
version]` or `["w", thread, namespace, checkpoint, task, index]`; values are what the in-memory saver keeps under
these names, bytes and all. Nothing is ever unpickled: LangGraph's serializer writes msgpack.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal

import ormsgpack
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import ChannelVersions, Checkpoint, CheckpointMetadata
from langgraph.checkpoint.memory import InMemorySaver

from shared.store import EarlierWriteLost
from worker.checkpoints.answers import writes_to_store
from worker.checkpoints.coalescing import CoalescedWrite
from worker.checkpoints.namespaces import is_of_a_task

Fields = dict[bytes, bytes]
Write = Callable[[Fields, list[bytes]], Awaitable[None]]
WriteAll = Callable[[Fields], Awaitable[None]]


class JobSaver(InMemorySaver):
    """A job's checkpoints, mirrored by `write(changed, dropped)`, which raises where the lease is gone.

    Where it raises `EarlierWriteLost`, `write_all(fields)` replaces what is there.

    `keep="latest"` keeps the newest checkpoint of a namespace, and the namespaces of subgraphs only while they run, so
    that what is stored does not grow with the number of steps; `all` keeps them all. Namespaces with delta channels,
    which are rebuilt from earlier checkpoints, always keep theirs.
    """

    def __init__(
        self, write: Write, write_all: WriteAll | None = None, *, keep: Literal["latest", "all"] = "latest"
    ) -> None:
        super().__init__()
        self.keep = keep
        self._changed: Fields = {}
        self._dropped: dict[bytes, None] = {}

        async def write_changes() -> None:
            changed, dropped = self._changed.copy(), list(self._dropped)
            self._changed.clear()
            self._dropped.clear()
            if not changed and not dropped:
                return
            try:
                await write(changed, dropped)
            except EarlierWriteLost:
                if write_all is None:
                    raise
                await write_all(self.everything())

        self.stored = CoalescedWrite(write_changes)

    def load(self, fields: Mapping[bytes, bytes]) -> None:
        """Take over what earlier attempts stored."""
        for name, value in fields.items():
            kind, thread, namespace, *parts = ormsgpack.unpackb(name)
            content = ormsgpack.unpackb(value)
            if kind == "c":
                checkpoint, metadata, parent = content
                self.storage[thread][namespace][parts[0]] = (tuple(checkpoint), tuple(metadata), parent)
            elif kind == "b":
                self.blobs[(thread, namespace, parts[0], parts[1])] = tuple(content)
            else:
                task, channel, typed, path = content
                self.writes[(thread, namespace, parts[0])][(parts[1], parts[2])] = (task, channel, tuple(typed), path)

    def everything(self) -> Fields:
        """All that `load` would have to be given to know what this saver knows."""
        found: list[tuple[list[Any], Any]] = []
        for thread, namespaces in self.storage.items():
            for namespace, checkpoints in namespaces.items():
                found += [(["c", thread, namespace, name], value) for name, value in checkpoints.items()]
        found += [(["b", *place], value) for place, value in self.blobs.items()]
        for place, writes in self.writes.items():
            found += [(["w", *place, *one], value) for one, value in writes.items()]
        return {ormsgpack.packb(name): ormsgpack.packb(value) for name, value in found}

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        saved = self.put(config, checkpoint, metadata, new_versions)
        thread, namespace = config["configurable"]["thread_id"], config["configurable"]["checkpoint_ns"]
        self._keep(["c", thread, namespace, checkpoint["id"]], self.storage[thread][namespace][checkpoint["id"]])
        for channel, version in new_versions.items():
            place = (thread, namespace, channel, version)
            self._keep(["b", *place], self.blobs[place])
        if self.keep == "latest" and not metadata.get("counters_since_delta_snapshot"):
            self._drop_older(thread, namespace, checkpoint)
            for child in [one for one in self.storage[thread] if is_of_a_task(one, namespace)]:
                self._drop_namespace(thread, child)
        await self.stored()
        return saved

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        asked = config["configurable"]
        place = (asked["thread_id"], asked.get("checkpoint_ns", ""), asked["checkpoint_id"])
        before = dict(self.writes.get(place, {}))
        self.put_writes(config, writes_to_store(writes), task_id, task_path)
        for one, write in self.writes.get(place, {}).items():
            if before.get(one) is not write:
                self._keep(["w", *place, *one], write)
        await self.stored()

    async def adelete_thread(self, thread_id: str) -> None:
        for namespace in list(self.storage.get(thread_id, {})):
            self._drop_namespace(thread_id, namespace)
        self.delete_thread(thread_id)
        await self.stored()

    def _drop_older(self, thread: str, namespace: str, newest: Checkpoint) -> None:
        """All but the newest: the one put last, whatever another machine's clock has made of the others' ids."""
        for checkpoint_id in [one for one in self.storage[thread][namespace] if one != newest["id"]]:
            self._drop_checkpoint(thread, namespace, checkpoint_id)
        versions = newest["channel_versions"]
        for place in [place for place in self.blobs if place[:2] == (thread, namespace)]:
            if versions.get(place[2]) != place[3]:
                self._drop_blob(place)

    def _drop_namespace(self, thread: str, namespace: str) -> None:
        for checkpoint_id in list(self.storage[thread][namespace]):
            self._drop_checkpoint(thread, namespace, checkpoint_id)
        del self.storage[thread][namespace]
        for place in [place for place in self.blobs if place[:2] == (thread, namespace)]:
            self._drop_blob(place)

    def _drop_checkpoint(self, thread: str, namespace: str, checkpoint_id: str) -> None:
        del self.storage[thread][namespace][checkpoint_id]
        self._drop(["c", thread, namespace, checkpoint_id])
        for one in self.writes.pop((thread, namespace, checkpoint_id), {}):
            self._drop(["w", thread, namespace, checkpoint_id, *one])

    def _drop_blob(self, place: tuple[str, str, str, str | int | float]) -> None:
        del self.blobs[place]
        self._drop(["b", *place])

    def _keep(self, name: list[Any], value: Any) -> None:
        field = ormsgpack.packb(name)
        self._dropped.pop(field, None)
        self._changed[field] = ormsgpack.packb(value)

    def _drop(self, name: list[Any]) -> None:
        field = ormsgpack.packb(name)
        self._changed.pop(field, None)
        self._dropped[field] = None
