-- release: give a job back, to run again now (a worker stops: the try does not count) or after a backoff (the try failed).
-- ARGV  1 offset, 2 worker, 3 ref, 4 attempt, 5 'hand_back' or 'backoff', 6 delay in ms, 7 error JSON or '', 8 retention in ms,
--       then events
-- Keys  the fence, record, events, lease set, lane or due set
-- Gives 'queued', 'cancelled' (a cancel was asked for), 'failed' (no try is left), 'already' or 'gone'
local worker, ref, attempt, kind, delay, failure = ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7]
make_room()
local job = read(ref)
if not job or not holds(ref, worker, attempt) then
  local repeated = job and job.released == worker .. ' ' .. attempt or ended_by(job, worker, attempt)
  return repeated and 'already' or 'gone'
end
call_with('RPUSH', KEY.events .. ref, ARGV, 9, #ARGV)
if job.cancel then
  final(ref, job, 'cancelled', {}, nil, ARGV[8])
  return 'cancelled'
end
if kind == 'backoff' and tonumber(job.tries) >= tonumber(job.max_attempts) then
  final(ref, job, 'failed', { 'error', failure }, nil, ARGV[8])
  return 'failed'
end
local now = now_ms()
requeue(ref, job, now)
call('HSET', KEY.job .. ref, 'released', worker .. ' ' .. attempt)
if kind == 'hand_back' then
  job.tries = int(tonumber(job.tries) - 1)
  call('HSET', KEY.job .. ref, 'tries', job.tries)
else
  call('HSET', KEY.job .. ref, 'error', failure)
end
if delay > 0 then
  call('ZADD', KEY.due, int(now + delay), ref)
  push_wake(job.queue, job.graph)
else
  enter_lane(ref, job)
end
return 'queued'
