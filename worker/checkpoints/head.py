"""Where a thread stands, as its attempt knows it."""

from __future__ import annotations

from collections.abc import Mapping

from worker.checkpoints.namespaces import is_of_a_task

Pin = tuple[str, str, str]
"""Namespace, checkpoint id, and a task whose writes to it are stored, empty for the checkpoint itself."""


class Head:
    """Where a thread stands: by namespace the checkpoint to start from, and the tasks whose writes to it count.

    `fields` are as the store has them; none for a thread that was never pinned: its newest checkpoint counts then.
    """

    def __init__(self, fields: Mapping[bytes, bytes]) -> None:
        self.known = bool(fields)
        self.checkpoints: dict[str, str] = {}
        self.tasks: dict[str, tuple[str, set[str]]] = {}
        for name, value in fields.items():
            kind, _, namespace = name.decode().partition(":")
            if kind == "h":
                self.checkpoints[namespace] = value.decode()
            elif kind == "w":
                checkpoint, *tasks = value.decode().split(" ")
                self.tasks[namespace] = (checkpoint, set(tasks))

    def move(self, pin: Pin) -> None:
        """As the script moves it."""
        namespace, checkpoint, task = pin
        self.known = True
        counted, tasks = self.tasks.get(namespace, ("", set()))
        if not task:
            self.checkpoints[namespace] = checkpoint
            if counted != checkpoint:
                self.tasks.pop(namespace, None)
            for child in [one for one in {*self.checkpoints, *self.tasks} if is_of_a_task(one, namespace)]:
                self.checkpoints.pop(child, None)
                self.tasks.pop(child, None)
        elif counted == checkpoint:
            tasks.add(task)
        elif not counted or counted < checkpoint or checkpoint == self.checkpoints.get(namespace):
            self.tasks[namespace] = (checkpoint, {task})

    def counts(self, namespace: str, checkpoint: str, task: str) -> bool:
        """Whether the writes of this task to this checkpoint were made under a lease."""
        counted, tasks = self.tasks.get(namespace, ("", set()))
        return counted == checkpoint and task in tasks
