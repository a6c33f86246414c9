"""What must be true of all jobs, from what was done to them: the rules of docs/job-life.md, written a second time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from shared.store import TenantLimits
from tests.store_audit import ENDED
from tests.store_dump import Dump

ENDS = [*sorted(ENDED), "interrupted"]
Pin = tuple[str, str, str]


@dataclass
class Job:
    """One job as it must stand."""

    graph: str
    max_attempts: int
    thread: str  # the name of its key; empty where it has none
    webhook: bool
    status: str = "queued"
    round: int = 1
    attempt: int = 0
    tries: int = 0
    lost: int = 0
    due: bool = False  # whether it waits for its time
    marked: bool = False  # whether it is to be cancelled
    worker: str = ""  # that runs it
    stepped: bool = False  # whether it has moved the head of its thread
    answer: str = ""
    checkpoints: dict[str, str] = field(default_factory=dict)
    events: int = 0

    @property
    def alone(self) -> bool:
        """Whether its next try has to run alone."""
        return self.lost > 0 and self.tries + 1 >= self.max_attempts


class Model:
    """All jobs by ref, and what they share."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.lines: dict[str, list[str]] = {}  # by thread, in the order of arrival: the first one has the thread
        self.heads: dict[str, dict[str, str]] = {}
        self.heads_before: dict[str, dict[str, str]] = {}
        self.deliveries: dict[str, list[str]] = {}
        self.limits = TenantLimits()
        self.keys: dict[str, tuple[str, str]] = {}  # idempotency keys: job id and fingerprint

    def holder(self, thread: str) -> str | None:
        return next(iter(self.lines.get(thread, [])), None)

    # What clients do

    def submit(self, ref: str, job: Job) -> None:
        self.jobs[ref] = job
        if not job.due:
            self.join(ref)

    def join(self, ref: str) -> None:
        """The job is due: it takes its place."""
        job = self.jobs[ref]
        job.due = False
        if job.thread and ref not in self.lines.setdefault(job.thread, []):
            self.lines[job.thread].append(ref)

    def cancel(self, ref: str) -> str:
        job = self.jobs[ref]
        if job.status == "running":
            job.marked = True
            return "cancelling"
        if job.status in ENDED:
            return "ended"
        if job.status == "interrupted":
            job.round += 1
        self.end(ref, "cancelled")
        return "cancelled"

    def retry(self, ref: str, start: str) -> str:
        job = self.jobs[ref]
        if job.status not in {"failed", "cancelled"}:
            return "refused"
        moved_last = self.heads.get(job.thread, {}).get("job") == ref
        busy = self.holder(job.thread) is not None
        if job.stepped and start == "checkpoint" and (busy or not moved_last):
            return "moved_on"
        self._new_round(job)
        if start == "start":
            if job.stepped and moved_last and not busy:
                self.heads[job.thread] = self.heads_before.pop(ref, {"job": ""})
            job.checkpoints, job.answer, job.stepped = {}, "", False
        self.join(ref)
        return "queued"

    def resume(self, ref: str, answer: str) -> str:
        job = self.jobs[ref]
        if job.status != "interrupted":
            return "refused"
        self._new_round(job)
        job.answer = answer
        return "queued"

    def forget(self, ref: str) -> None:
        del self.jobs[ref]
        self.heads_before.pop(ref, None)

    # What workers do

    def take(self, ref: str, worker: str) -> None:
        job = self.jobs[ref]
        assert job.status == "queued", f"only a job that waits is taken: {ref} is {job}"
        assert not job.due, f"no job is taken before it is due: {ref} is {job}"
        assert self.holder(job.thread) in {None, ref}, f"a thread runs its jobs in order: {ref} in {self.lines}"
        job.status, job.worker = "running", worker
        job.events += 1
        job.attempt += 1
        job.tries += 1
        assert job.tries <= job.max_attempts, f"no job has more tries than it may: {ref} is {job}"

    def lose(self, ref: str) -> str:
        """A lease has run out. Gives the job's status."""
        job = self.jobs[ref]
        job.lost += 1
        if job.marked or job.tries >= job.max_attempts:
            self.end(ref, "cancelled" if job.marked else "failed")
        else:
            job.status, job.worker = "queued", ""
            job.events += 1
        return job.status

    def release(self, ref: str, *, tried: bool, delayed: bool = False) -> str:
        """Given back. Gives the job's status."""
        job = self.jobs[ref]
        if job.marked or (tried and job.tries >= job.max_attempts):
            self.end(ref, "cancelled" if job.marked else "failed")
        else:
            job.status, job.worker, job.due = "queued", "", delayed
            job.tries -= not tried
            job.events += 1
        return job.status

    def finish(self, ref: str, status: str) -> None:
        self.end(ref, "cancelled" if status == "interrupted" and self.jobs[ref].marked else status)

    def end(self, ref: str, status: str) -> None:
        """The round is over."""
        job = self.jobs[ref]
        job.status, job.worker, job.marked, job.due = status, "", False, False
        job.events += 1
        if job.webhook:
            self.deliveries.setdefault(ref, []).append(f"{ref.partition(':')[2]}_{job.round}_{status}")
        if status in {"interrupted", "succeeded"}:
            job.answer = ""
        if status == "succeeded":
            job.checkpoints = {}
            self.heads_before.pop(ref, None)
        if status != "interrupted" and ref in self.lines.get(job.thread, []):
            self.lines[job.thread].remove(ref)

    def checkpoint(self, ref: str, changed: Mapping[str, str], dropped: Sequence[str]) -> None:
        kept = self.jobs[ref].checkpoints | changed
        self.jobs[ref].checkpoints = {name: value for name, value in kept.items() if name not in dropped}

    def pin(self, ref: str, pins: Sequence[Pin]) -> None:
        job = self.jobs[ref]
        head = self.heads.setdefault(job.thread, {})
        if head.get("job") != ref:
            self.heads_before.pop(ref, None)
            if head:
                self.heads_before[ref] = dict(head)
            head["job"] = ref
        job.stepped = True
        for space, checkpoint, task in pins:
            counted, *_ = head.get(f"w:{space}", "").split(" ")
            if not task:
                head[f"h:{space}"] = checkpoint
                if counted != checkpoint:
                    head.pop(f"w:{space}", None)
            elif counted == checkpoint:
                head[f"w:{space}"] += f" {task}"
            elif counted < checkpoint or head.get(f"h:{space}") == checkpoint:
                head[f"w:{space}"] = f"{checkpoint} {task}"

    @staticmethod
    def _new_round(job: Job) -> None:
        job.status, job.round, job.tries, job.lost = "queued", job.round + 1, 0, 0
        job.events += 1

    # What must be found

    def differences(self, dump: Dump) -> Iterator[str]:
        """A sentence for each thing that is not as it must be; each begins with the rule that it breaks."""
        for ref in self.jobs.keys() ^ dump.jobs.keys():
            yield f"no job is lost, and none comes back: {ref} is {self.jobs.get(ref)}, found {dump.jobs.get(ref)}"
        for ref in self.jobs.keys() & dump.jobs.keys():
            record, job = dump.jobs[ref], self.jobs[ref]
            found = Job(
                graph=record["graph"], max_attempts=int(record["max_attempts"]), webhook="webhook_url" in record,
                thread=f"{ref.partition(':')[0]}:{record['thread']}" if "thread" in record else "",
                status=record["status"], round=int(record["round"]), attempt=int(record["attempt"]),
                tries=int(record["tries"]), lost=int(record.get("lost", 0)), due=ref in dump.due,
                marked="cancel" in record, worker=dump.strings["running"].get(ref, "").partition(" ")[0],
                stepped="stepped" in record, answer=dump.strings["resume"].get(ref, ""),
                checkpoints=dump.hashes["checkpoints"].get(ref, {}), events=dump.lengths["events"].get(ref, 0),
            )  # fmt: skip
            if found != job:
                yield f"each call changes what it says and nothing else: {ref} is {found}, not {job}"
        lines = {thread: [fields["holder"]] for thread, fields in dump.hashes["thread"].items()}
        for thread, line in dump.zsets["line"].items():
            lines.setdefault(thread, []).extend(sorted(line, key=lambda ref, line=line: line[ref]))
        if lines != {thread: line for thread, line in self.lines.items() if line}:
            yield f"a thread's jobs stand in the order in which they came: {lines}, not {self.lines}"
        if _counted(dump.hashes["head"]) != _counted(self.heads):
            yield f"a head is moved by the attempt that holds the job: {dump.hashes['head']}, not {self.heads}"
        if _counted(dump.hashes["head_before"]) != _counted(self.heads_before):
            yield f"a head is kept as the job found it: {dump.hashes['head_before']}, not {self.heads_before}"
        if dump.lists["deliveries"] != self.deliveries:
            yield f"each end has its delivery: {dump.lists['deliveries']}, not {self.deliveries}"
        if sum(map(len, self.deliveries.values())) != len(dump.hashes["delivery"]):
            yield f"each end has its delivery: {set(dump.hashes['delivery'])}, not {self.deliveries}"


def _counted(heads: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, object]]:
    """Heads with their tasks as sets: a pin that is sent twice names its task twice."""
    return {
        thread: {name: set(value.split(" ")) if name.startswith("w:") else value for name, value in head.items()}
        for thread, head in heads.items()
    }
