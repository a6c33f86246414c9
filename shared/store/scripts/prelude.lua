-- What the transitions share. Each script is this file followed by its own; KEY is the table of shared/store/keys.py.
--
-- Rules: time is the server's (plus ARGV[1], an offset that only tests set); all checks come before the first write, for scripts do
-- not roll back; nothing here decodes what a client sent. Worker scripts call make_room() first: a write that is allowed when memory
-- is full makes the writes after it allowed too, so that a full Redis still drains.

local VERSION = 1              -- of the record; a worker leaves records of a newer version to newer workers
local HEAD_START_MS = 60000    -- how much earlier one step of priority ranks a job
local MAX_TOKENS = 64          -- wake tokens kept: each claim that leaves work pushes the next one
local THIN_BYTES = 262144      -- outputs beyond this are not copied into a delivery

local call = redis.call
local OFFSET = tonumber(ARGV[1]) or 0

local function now_ms()
  local time = call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) + OFFSET
end

local function make_room() call('DEL', KEY.room) end

-- An integer as Redis text: Lua would write large ones as 1.7e+12.
local function int(number) return string.format('%.0f', number) end

local function tenant_of(ref) return string.match(ref, '^([^:]+):') end
local function id_of(ref) return string.match(ref, '^[^:]+:(.+)$') end

local function to_table(flat)
  local fields = {}
  for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
  return fields
end

-- The record of a job as a table of strings; nil where there is none, or where it lacks what every version of it has.
local INTEGERS = { 'v', 'created_at', 'rank', 'attempt', 'tries', 'max_attempts', 'lost', 'round' }
local function read(ref)
  local flat = redis.pcall('HGETALL', KEY.job .. ref)
  if flat.err or #flat == 0 then return nil end
  local job = to_table(flat)
  job.lost = job.lost or '0'
  for _, name in ipairs(INTEGERS) do
    if not string.match(job[name] or '', '^%-?%d+$') then return nil end
  end
  return job.status and job.graph and job.queue and job
end

local function write(ref, job)
  local fields = {}
  for name, value in pairs(job) do
    fields[#fields + 1] = name
    fields[#fields + 1] = value
  end
  call('HSET', KEY.job .. ref, unpack(fields))
end

local function index_key(ref, job, status) return KEY.index .. tenant_of(ref) .. ':' .. job.graph .. ':' .. status end

local function set_status(ref, job, status)
  call('ZREM', index_key(ref, job, job.status), id_of(ref))
  call('ZADD', index_key(ref, job, status), job.created_at, id_of(ref))
  call('HSET', KEY.job .. ref, 'status', status)
  job.status = status
end

local function notify(ref, status) call('PUBLISH', KEY.notify, ref .. ' ' .. status) end

local function add_event(ref, job, now, status)
  call('RPUSH', KEY.events .. ref, '{"type":"status","at":' .. int(now) .. ',"round":' .. job.round .. ',"attempt":'
    .. job.attempt .. ',"data":{"status":"' .. status .. '"}}')
end

-- Lanes ---------------------------------------------------------------------------------------------------------------

local function lane_key(ref, job) return KEY.lane .. job.queue .. ':' .. job.graph .. ':' .. tenant_of(ref) end
local function solo_key(job) return KEY.solo .. job.queue .. ':' .. job.graph end

local function push_wake(queue, graph)
  local key = KEY.wake .. queue .. ':' .. graph
  if call('LLEN', key) < MAX_TOKENS then call('RPUSH', key, '1') end
end

-- The last try of a job that has lost a worker before: it may be what kills them.
local function must_run_alone(job)
  return tonumber(job.lost or 0) > 0 and tonumber(job.tries) + 1 >= tonumber(job.max_attempts)
end

local function enter_lane(ref, job)
  if must_run_alone(job) then
    call('ZADD', solo_key(job), job.rank, ref)
  else
    call('ZADD', lane_key(ref, job), job.rank, ref)
    call('SADD', KEY.lanes .. job.queue, job.graph .. ':' .. tenant_of(ref))
  end
  push_wake(job.queue, job.graph)
end

local function leave_lane(ref, job)
  local lane = lane_key(ref, job)
  call('ZREM', solo_key(job), ref)
  if call('ZREM', lane, ref) == 1 and call('ZCARD', lane) == 0 then
    call('SREM', KEY.lanes .. job.queue, job.graph .. ':' .. tenant_of(ref))
  end
end

-- Threads -------------------------------------------------------------------------------------------------------------

local function thread_keys(ref, job)
  local name = tenant_of(ref) .. ':' .. job.thread
  return KEY.thread .. name, KEY.line .. name
end

-- The job that the thread belongs to; nobody where its record is gone, for then nobody would ever free the thread.
local function holder_of(thread)
  local holder = call('HGET', thread, 'holder')
  return holder and read(holder) and holder
end

-- A due job takes its place: in its thread, if it has one, and then in its lane.
local function enter(ref, job)
  if job.thread then
    local thread, line = thread_keys(ref, job)
    local holder = holder_of(thread)
    if holder and holder ~= ref then
      call('ZADD', line, call('HINCRBY', thread, 'seq', 1), ref)
      return
    end
    call('HSET', thread, 'holder', ref)
  end
  enter_lane(ref, job)
end

-- Frees the thread for the next in line, or leaves the line.
local function leave_thread(ref, job)
  if not job.thread then return end
  local thread, line = thread_keys(ref, job)
  call('ZREM', line, ref)
  if call('HGET', thread, 'holder') ~= ref then return end
  while true do
    local waiting = call('ZRANGE', line, 0, 0)[1]
    if not waiting then
      call('DEL', thread)
      return
    end
    call('ZREM', line, waiting)
    local job_waiting = read(waiting)
    if job_waiting then
      call('HSET', thread, 'holder', waiting)
      enter_lane(waiting, job_waiting)
      return
    end
    call('ZADD', KEY.due, int(now_ms()), waiting) -- cannot be read: the next claim sets it aside
  end
end

-- The head of a thread says where the next job of it starts from: a database cannot know which of its writes were made under a lease.
-- Fields: 'h:<namespace>' a checkpoint id, 'w:<namespace>' that id and the tasks whose writes to it count, 'job' the ref of the job
-- that moved it last. That job has 'stepped' on its record, and the head as it found it beside it.
local function head_keys(ref, job) return KEY.head .. tenant_of(ref) .. ':' .. job.thread, KEY.head_before .. ref end

-- Ends ----------------------------------------------------------------------------------------------------------------

-- The webhook message of a round's end, with a copy of the record and the output: it outlives both.
local function create_delivery(ref, job, status, now)
  if not job.webhook_url then return end
  local kind = 'job.' .. status
  if job.webhook_events and not string.find(job.webhook_events, kind, 1, true) then return end
  local id = id_of(ref) .. '.' .. job.round .. '.' .. status
  local dref = tenant_of(ref) .. ':' .. id
  call('HSET', KEY.delivery .. dref, 'job', ref, 'type', kind, 'url', job.webhook_url, 'status', 'pending',
    'created_at', int(now), 'next_at', int(now), 'attempt', '0', 'step', '0')
  if job.webhook_secret then call('HSET', KEY.delivery .. dref, 'secret', job.webhook_secret) end
  call('COPY', KEY.job .. ref, KEY.delivery_record .. dref, 'REPLACE')
  local size = call('STRLEN', KEY.result .. ref)
  if size > THIN_BYTES then
    call('HSET', KEY.delivery .. dref, 'output_too_large', '1')
  elseif size > 0 then
    call('COPY', KEY.result .. ref, KEY.delivery_output .. dref, 'REPLACE')
  end
  call('RPUSH', KEY.deliveries .. ref, id)
  call('ZADD', KEY.deliveries_due, int(now), dref)
  if call('LLEN', KEY.deliveries_wake) < MAX_TOKENS then call('RPUSH', KEY.deliveries_wake, '1') end
end

local function ask_to_cancel(ref, job)
  call('HSET', KEY.job .. ref, 'cancel', '1')
  call('RPUSH', KEY.control .. job.worker, 'cancel ' .. ref .. ' ' .. job.attempt)
  call('PEXPIRE', KEY.control .. job.worker, 3600000)
end

-- Nobody holds the job any more. The fence names the worker, so that this works without a record too.
local function drop_lease(ref)
  local fence = call('GETDEL', KEY.running .. ref)
  call('ZREM', KEY.leases, ref)
  if fence then call('SREM', KEY.held .. string.match(fence, '^(.+) %d+$'), ref) end
end

-- The round ends here, once. `fields` is what the record gains: { name, value, … }; `ttl_ms` the retention from now on.
local function final(ref, job, status, fields, output, ttl_ms)
  local now = now_ms()
  drop_lease(ref)
  call('HSET', KEY.job .. ref, 'finished_at', int(now), unpack(fields))
  set_status(ref, job, status)
  call('HDEL', KEY.job .. ref, 'cancel')
  if status == 'succeeded' then -- the others can be retried
    call('UNLINK', KEY.checkpoints .. ref, KEY.resume .. ref, KEY.head_before .. ref)
  end
  call('SET', KEY.result .. ref, output or '')
  call('ZADD', KEY.expiry, int(now + tonumber(ttl_ms)), ref)
  add_event(ref, job, now, status)
  leave_thread(ref, job)
  create_delivery(ref, job, status, now)
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
