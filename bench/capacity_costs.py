"""What a job costs, as measured on this project's machine: each figure with the table it is from.

`results.md` and `README.md` are in this folder. CPU is of the cores that measured it: scale it where yours differ.
What no table gives is marked as an assumption.
"""

MICRO = 1e-6
SECONDS_A_DAY = 86_400

# Worker, CPU µs: README.md, "Budget", after: 1,815 for two steps, 151 of them for claiming, tasks, keeper and logs.
WORKER_JOB_MICROS = 151
WORKER_STEP_MICROS = (1_815 - 151) / 2  # assumption: all the rest grows with the steps
# results.md, "Savers", ten at once: a thread in PostgreSQL beside a job without one, 10.25 and 3.15 ms at three steps.
WORKER_THREAD_STEP_MICROS = (10_250 - 3_150) / 3
# results.md, "Webhooks": a delivery, one worker.
WORKER_WEBHOOK_MICROS = 600
# results.md, "Tuning", WORKER_CONCURRENCY: CPU of a job alone, beside one of ten at once, which share round trips.
# A submit is as much dearer where few come: "Auth" has 929 µs over eight connections.
ALONE = 2.63

# A job lasts longer than its graph, seconds: results.md, "Service", idle, submit and wait, over the bare graph.
JOB_LATENCY_SECONDS = 0.00528

# Gateway, CPU µs: README.md, "Budget"; results.md, "Tuning", submits.
GATEWAY_SUBMIT_MICROS = 340
GATEWAY_BATCHED_SUBMIT_MICROS = 30
GATEWAY_POLL_MICROS = 390

# Valkey, CPU µs: README.md, "Budget": 42 a submit in batches; 300 a run of two steps: claim, one checkpoint, end.
VALKEY_SUBMIT_MICROS = 430 - 340  # results.md, "Tuning": gateway and Valkey, less the gateway
VALKEY_BATCHED_SUBMIT_MICROS = 42
VALKEY_CALL_MICROS = 100
VALKEY_POLL_MICROS = 50  # assumption: half of a write
VALKEY_WEBHOOK_MICROS = 230  # results.md, "Webhooks"
VALKEY_IDLE_WORKER_MICROS = 9_300 / 8  # results.md, "Service": 0.93 % of a core for eight, a second

# Calls of a job: submit, wake-up, claim, each step but the last, end; results.md, "Savers": four more with a thread.
THREAD_CALLS = 4
WEBHOOK_CALLS = 2

# Memory and disk, bytes: results.md, "Sizes", "Service" (638) and "Soak".
GATEWAY_PROCESS_BYTES = 80_000_000
WORKER_PROCESS_BYTES = 107_000_000
RUNNING_JOB_BYTES = 107_000
REDIS_EMPTY_BYTES = 3_000_000
WAITING_JOB_BYTES = 638
ENDED_JOB_BYTES = 1_997
JOB_AOF_BYTES = 5_546
WORKER_AOF_BYTES_A_SECOND = 2_000
JOB_LOG_BYTES = 506
THREAD_STEP_BYTES = 9_200 / 2  # PostgreSQL; SQLite 7,700

# What is planned for. Assumptions: room for bursts, and for what the figures do not know.
SLOTS_BUSY = 0.8
CORE_BUSY = 0.7
REDIS_MEMORY_ROOM = 1.5  # the copy while the append-only file is rewritten
AOF_GROWTH = 3  # the file doubles before it is rewritten, and the new one is beside it
