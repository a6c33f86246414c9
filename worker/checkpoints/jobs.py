"""The saver of jobs without a thread: LangGraph's in-memory saver, with what counts written through to Redis.

Reads cost nothing, for an attempt is the only writer of its job: what an earlier attempt left is read once, at the
start. The changes of one turn of the event loop go out in one fenced script, and LangGraph waits for it
(`durability="sync"`), so that a step is stored before the next one starts. The hash goes with the job.

A checkpoint that no node's work is in waits for the first node's, but not for long: an attempt that starts over comes
to the same. Nor is the last one written, where the job succeeds: its outcome is next, and with it all this is dropped.

A field is the msgpack of its name: `["c", thread, namespace, checkpoint]`, `["b", thread, namespace, channel,
version]` or `["w", thread, namespace, checkpoint, task, index]`; values are what the in-memory saver keeps under
these names, bytes and all. Nothing is ever unpickled: LangGraph's serializer writes msgpack.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from inspect import signature
from typing import Any, Literal

import ormsgpack
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import ChannelVersions, Checkpoint, CheckpointMetadata, CheckpointTuple
from langgraph.checkpoint.memory import InMemorySaver

from shared.store import EarlierWriteLost
from worker.checkpoints.answers import writes_to_store
from worker.checkpoints.coalescing import CoalescedWrite
from worker.checkpoints.namespaces import START_TASK, is_of_a_task

Fields = dict[bytes, bytes]
Name = list[Any]
Write = Callable[[Fields, list[bytes]], Awaitable[None]]
WriteAll = Callable[[Fields], Awaitable[None]]
SENDS = "__pregel_tasks"
SOON_SECONDS = 0.05


@dataclass(slots=True)
class _Put:
    """A checkpoint that is not packed yet."""

    config: RunnableConfig
    checkpoint: Checkpoint
    metadata: CheckpointMetadata
    new_versions: ChannelVersions


@dataclass(slots=True)
class _Writes:
    """What a task wrote, not packed yet."""

    config: RunnableConfig
    writes: Sequence[tuple[str, Any]]
    task: str
    path: str

    @property
    def place(self) -> tuple[str, str]:
        asked = self.config["configurable"]
        return asked["thread_id"], asked.get("checkpoint_ns", "")


class JobSaver(InMemorySaver):
    """A job's checkpoints, mirrored by `write(changed, dropped)`, which raises where the lease is gone.

    Where it raises `EarlierWriteLost`, `write_all(fields)` replaces what is there.

    `keep="latest"` keeps the newest checkpoint of a namespace, and the namespaces of subgraphs only while they run, so
    that what is stored does not grow with the number of steps; `all` keeps them all. Namespaces with delta channels,
    which are rebuilt from earlier checkpoints, always keep theirs.
    """

    starting: Collection[str] = ()
    """The channels that start nodes: a checkpoint of the graph that updates none is its last. None known: all do."""

    def __init__(
        self, write: Write, write_all: WriteAll | None = None, *, keep: Literal["latest", "all"] = "latest"
    ) -> None:
        super().__init__()
        self.keep = keep
        self._changed: Fields = {}
        self._dropped: dict[bytes, None] = {}
        self._sent: set[bytes] = set()
        self._puts: dict[tuple[str, str], _Put] = {}  # by thread and namespace
        self._writes: list[_Writes] = []
        self._ran = self._stored = 0  # how many tasks have run, and of how many what they came to is stored
        self._last = False
        self._timer: asyncio.TimerHandle | None = None

        async def write_changes() -> None:
            if self._ran == self._stored or self._last:
                return
            self._no_timer()
            ran = self._ran
            self._pack()
            changed, dropped = self._changed.copy(), list(self._dropped)
            self._changed.clear()
            self._dropped.clear()
            self._sent.update(changed)
            self._sent.difference_update(dropped)
            try:
                await write(changed, dropped)
            except EarlierWriteLost:
                if write_all is None:
                    raise
                await write_all(self.everything())
            self._stored = ran

        self.stored = CoalescedWrite(write_changes)

    def load(self, fields: Mapping[bytes, bytes]) -> None:
        """Take over what earlier attempts stored."""
        self._sent.update(fields)
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
        self._pack()
        found: list[tuple[list[Any], Any]] = []
        for thread, namespaces in self.storage.items():
            for namespace, checkpoints in namespaces.items():
                found += [(["c", thread, namespace, name], value) for name, value in checkpoints.items()]
        found += [(["b", *place], value) for place, value in self.blobs.items()]
        for place, writes in self.writes.items():
            found += [(["w", *place, *one], value) for one, value in writes.items()]
        return {ormsgpack.packb(name): ormsgpack.packb(value) for name, value in found}

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        self._pack()
        return super().get_tuple(config)

    def list(self, config: RunnableConfig | None, **options: Any) -> Iterator[CheckpointTuple]:
        self._pack()
        return super().list(config, **options)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        place = (config["configurable"]["thread_id"], config["configurable"]["checkpoint_ns"])
        if self._takes_the_place_of_others(metadata):
            earlier = self._puts.pop(place, None)
            if earlier is not None:
                new_versions = {**earlier.new_versions, **new_versions}
            self._writes = [one for one in self._writes if one.place != place]
        else:
            self._pack()
        self._puts[place] = _Put(config, checkpoint, metadata, new_versions)
        if self.keep == "all":
            self._ran += 1
        self._last = self._is_last(place[1], checkpoint)
        if not self._last and metadata.get("source") != "input":
            self._pack()  # a node follows, which may change what it is given
            self._store_soon()
        await self._store()
        return {"configurable": {"thread_id": place[0], "checkpoint_ns": place[1], "checkpoint_id": checkpoint["id"]}}

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        self._writes.append(_Writes(config, writes_to_store(writes), task_id, task_path))
        if task_path != START_TASK or self.keep == "all":
            self._last = False
            self._ran += 1
            await self._store()

    async def adelete_thread(self, thread_id: str) -> None:
        self._pack()
        for namespace in list(self.storage.get(thread_id, {})):
            self._drop_namespace(thread_id, namespace)
        self.delete_thread(thread_id)
        self._ran += 1
        await self._store()

    async def ended(self) -> None:
        """The graph has come to its end, and its job succeeds: what is not stored by now needs not be."""
        self._no_timer()
        for unsent in (self._puts, self._writes, self._changed, self._dropped):
            unsent.clear()
        self._stored = self._ran

    async def store_all(self) -> None:
        """Return once all that is there is stored. Raises what `write` raises."""
        self._last = False
        if self._puts or self._writes or self._changed or self._dropped:
            self._ran += 1
        await self._store()

    async def settled(self) -> None:
        """Return once nothing is being written any more: the attempt has come to an end that matters more."""
        with suppress(Exception):
            await self.store_all()
        await self.stored.settled()

    def _store_soon(self) -> None:
        """Have it stored before long, also where the first node takes its time: what chose it may have, too."""
        if self._timer is None and self._ran == self._stored:
            self._timer = asyncio.get_running_loop().call_later(SOON_SECONDS, self._store_unasked)

    def _no_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _store_unasked(self) -> None:
        self._ran += 1
        self.stored.begin().add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _store(self) -> None:
        if self._ran != self._stored and not self._last:
            await self.stored()

    def _takes_the_place_of_others(self, metadata: CheckpointMetadata) -> bool:
        return self.keep == "latest" and not metadata.get("counters_since_delta_snapshot")

    def _is_last(self, namespace: str, checkpoint: Checkpoint) -> bool:
        updated = checkpoint.get("updated_channels")
        if namespace or not self.starting or updated is None or checkpoint["channel_values"].get(SENDS):
            return False
        return not any(channel in self.starting for channel in updated)

    def _pack(self) -> None:
        """Take what was put into what is kept."""
        puts, self._puts = self._puts, {}
        for (thread, namespace), put in puts.items():
            self._pack_checkpoint(thread, namespace, put)
        writes, self._writes = self._writes, []
        for one in writes:
            self._pack_writes(one)

    def _pack_checkpoint(self, thread: str, namespace: str, put: _Put) -> None:
        self.put(put.config, put.checkpoint, put.metadata, put.new_versions)
        checkpoint = put.checkpoint
        self._keep(["c", thread, namespace, checkpoint["id"]], self.storage[thread][namespace][checkpoint["id"]])
        for channel, version in put.new_versions.items():
            place = (thread, namespace, channel, version)
            self._keep(["b", *place], self.blobs[place])
        if self._takes_the_place_of_others(put.metadata):
            self._drop_older(thread, namespace, checkpoint)
            for child in [one for one in self.storage[thread] if is_of_a_task(one, namespace)]:
                self._drop_namespace(thread, child)

    def _pack_writes(self, one: _Writes) -> None:
        place = (*one.place, one.config["configurable"]["checkpoint_id"])
        before = dict(self.writes.get(place, {}))
        self.put_writes(one.config, one.writes, one.task, one.path)
        for name, write in self.writes.get(place, {}).items():
            if before.get(name) is not write:
                self._keep(["w", *place, *name], write)

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

    def _keep(self, name: Name, value: Any) -> None:
        field = ormsgpack.packb(name)
        self._dropped.pop(field, None)
        self._changed[field] = ormsgpack.packb(value)

    def _drop(self, name: Name) -> None:
        field = ormsgpack.packb(name)
        self._changed.pop(field, None)
        if field in self._sent:
            self._dropped[field] = None


# LangGraph asks for it at the start of each run.
JobSaver.aput_writes.__signature__ = signature(JobSaver.aput_writes)  # type: ignore[attr-defined]
