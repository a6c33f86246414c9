-- The ends of rounds and attempts, and the fences before them.

local function ask_to_cancel(ref, job)
  call('HSET', KEY.job .. ref, 'cancel', '1')
  call('RPUSH', KEY.control .. job.worker, 'cancel ' .. ref .. ' ' .. job.attempt)
  call('PEXPIRE', KEY.control .. job.worker, 3600000)
end

-- Nobody holds the job any more, and its tenant has a place free. The fence names the worker, so that this works without a record too.
local function drop_lease(ref)
  local fence = call('GETDEL', KEY.running .. ref)
  call('ZREM', KEY.leases, ref)
  if fence then call('SREM', KEY.held .. string.match(fence, '^(.+) %d+$'), ref) end
  wake_held_back(tenant_of(ref))
end

-- The round ends here, once. `fields` is what the record gains: { name, value, … }; `ttl_ms` the retention from now on; `events` what
-- comes before the last event. The first write is one that a full Redis allows.
local function final(ref, job, status, fields, output, ttl_ms, events)
  local now = now_ms()
  drop_lease(ref)
  set_status(ref, job, status, 'finished_at', int(now), unpack(fields))
  if job.cancel then call('HDEL', KEY.job .. ref, 'cancel') end
  if status == 'succeeded' then -- the others can be retried
    call('UNLINK', KEY.checkpoints .. ref, KEY.resume .. ref, KEY.head_before .. ref)
  end
  call('SET', KEY.result .. ref, output or '')
  call('ZADD', KEY.expiry, int(now + tonumber(ttl_ms)), ref)
  add_event(ref, job, now, status, events)
  leave_thread(ref, job)
  create_deliveries(ref, job, status, now)
  notify(ref, status)
end

-- Ends a job that nobody runs. An interrupt was the end of its round, so this is the end of another one.
local function cancel_waiting(ref, job, ttl_ms)
  if job.status == 'interrupted' then
    job.round = int(tonumber(job.round) + 1)
    call('HSET', KEY.job .. ref, 'round', job.round)
  end
  leave_lane(ref, job)
  call('ZREM', KEY.due, ref)
  final(ref, job, 'cancelled', {}, nil, ttl_ms)
end

-- Fences --------------------------------------------------------------------------------------------------------------

-- Whether (worker, attempt) still holds the job.
local function holds(ref, worker, attempt) return call('GET', KEY.running .. ref) == worker .. ' ' .. attempt end

-- Whether a lease that has run out was lost. Where this server was frozen, down or suspended, or its clock was set, leases ran out that
-- nobody could renew; the first to ask afterwards may have asked before. Keepers beat each fifth of a lease or more often: when none did
-- for half of one, they are given the time to renew first.
local function leases_are_true(now, lease_ms)
  local last, unbroken = unpack(call('HMGET', KEY.pulse, 'last', 'unbroken_since'))
  return not last or (now - last <= lease_ms / 2 and now - unbroken > lease_ms / 3 + 500)
end

-- Whether this very attempt has ended already: the reply was lost, and the worker asks again. A lost attempt ends nothing, for its
-- worker is struck off the record.
local function ended_by(job, worker, attempt)
  return job and job.worker == worker and job.attempt == attempt and job.status ~= 'running' and job.status ~= 'queued'
end

-- Puts a job whose attempt did not count, or failed, back into the queue; nobody holds it from now on.
local function requeue(ref, job, now)
  drop_lease(ref)
  call('HDEL', KEY.job .. ref, 'worker')
  set_status(ref, job, 'queued')
  add_event(ref, job, now, 'queued')
end

-- Starts another round of a job: with all its tries, and nothing of the last round to be seen.
local function new_round(ref, job, call_id)
  job.round, job.tries, job.lost = int(tonumber(job.round) + 1), '0', '0'
  call('HSET', KEY.job .. ref, 'round', job.round, 'tries', '0', 'lost', '0', 'call', call_id)
  call('HDEL', KEY.job .. ref, 'started_at', 'finished_at', 'error', 'interrupts', 'cancel', 'usage')
  call('DEL', KEY.result .. ref)
  call('ZREM', KEY.expiry, ref)
end

-- Erases an ended job and all that belongs to it, but its deliveries.
local function forget(ref, job)
  local tenant, id = tenant_of(ref), id_of(ref)
  call('UNLINK', KEY.job .. ref, KEY.input .. ref, KEY.resume .. ref, KEY.checkpoints .. ref, KEY.head_before .. ref, KEY.events .. ref,
    KEY.result .. ref, KEY.aside .. ref)
  call('ZREM', KEY.expiry, ref)
  if not job then return end
  local index = index_key(ref, job, job.status)
  call('ZREM', index, id)
  if job.thread then call('ZREM', KEY.index_thread .. tenant .. ':' .. job.thread, id) end
end
