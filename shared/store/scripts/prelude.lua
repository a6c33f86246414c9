-- What the transitions share. A script is what it reaches of this file, tenants.lua, depth.lua, deliveries.lua and ends.lua, followed by
-- its own and calls.lua (assembly.py); KEY is the table of shared/store/keys.py.
--
-- Rules: time is the server's (plus ARGV[1], an offset that only tests set); all checks come before the first write, for scripts do
-- not roll back; nothing here decodes what a client sent. Worker scripts call make_room() first: a write that is allowed when memory
-- is full makes the writes after it allowed too, so that a full Redis still drains.

local VERSION = 1              -- of the record; a worker leaves records of a newer version to newer workers
local HEAD_START_MS = 60000    -- how much earlier one step of priority ranks a job
local MAX_TOKENS = 64          -- wake tokens kept: each claim that leaves work pushes the next one

local MOST_VALUES = 1000       -- of one command: Lua unpacks no more than some thousands

local call = redis.call
local OFFSET = tonumber(ARGV[1]) or tonumber(ARGV[3]) -- of many calls in one (calls.lua) the first one's

local function now_ms()
  local time = call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) + OFFSET
end

local function make_room() call('DEL', KEY.room) end

-- A command with any number of values: those from `first` to `last`, in pairs or alone.
local function call_with(command, name, values, first, last)
  for at = first, last, MOST_VALUES do call(command, name, unpack(values, at, math.min(at + MOST_VALUES - 1, last))) end
end

-- An integer as Redis text: Lua would write large ones as 1.7e+12.
local function int(number) return string.format('%d', number) end

local TENANTS = {}             -- by ref: asked for at every turn
local function tenant_of(ref)
  local tenant = TENANTS[ref] or string.sub(ref, 1, string.find(ref, ':', 1, true) - 1)
  TENANTS[ref] = tenant
  return tenant
end

local function id_of(ref) return string.sub(ref, #tenant_of(ref) + 2) end

local function to_table(flat)
  local fields = {}
  for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
  return fields
end

-- The record of a job as a table of strings, and as Redis gave it; nil where there is none, or where it lacks what every version of it has.
local INTEGERS = { 'v', 'created_at', 'rank', 'attempt', 'tries', 'max_attempts', 'lost', 'round' }
local function read(ref)
  local flat = redis.pcall('HGETALL', KEY.job .. ref)
  if flat.err or #flat == 0 then return nil end
  local job = to_table(flat)
  job.lost = job.lost or '0'
  for _, name in ipairs(INTEGERS) do
    if not string.match(job[name] or '', '^%-?%d+$') then return nil end
  end
  if job.status and job.graph and job.queue then return job, flat end
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

-- The jobs of one tenant that wait in one queue, for whatever: a worker, their time, their thread.
local function waiting_key(ref, queue) return KEY.waiting .. tenant_of(ref) .. ':' .. queue end

-- Moves the job to another status; the record gains what else is given: name, value, …
local function set_status(ref, job, status, ...)
  if job.status == 'queued' then call('SREM', waiting_key(ref, job.queue), id_of(ref)) end
  if status == 'queued' then call('SADD', waiting_key(ref, job.queue), id_of(ref)) end
  call('ZREM', index_key(ref, job, job.status), id_of(ref))
  call('ZADD', index_key(ref, job, status), job.created_at, id_of(ref))
  call('HSET', KEY.job .. ref, 'status', status, ...)
  job.status = status
end

-- Adds to a set that nothing is ever taken from: once, however many calls run in one.
local ADDED = {}
local function add_for_good(name, member)
  local both = name .. ' ' .. member
  if not ADDED[both] then call('SADD', name, member) end
  ADDED[both] = true
end

local function notify(ref, status) call('PUBLISH', KEY.notify, ref .. ' ' .. status) end

-- The job's events gain that it has a new status, after what else is given.
local function add_event(ref, job, now, status, events)
  local values = events or {}
  values[#values + 1] = '{"type":"status","at":' .. int(now) .. ',"round":' .. job.round .. ',"attempt":' .. job.attempt
    .. ',"data":{"status":"' .. status .. '"}}'
  call_with('RPUSH', KEY.events .. ref, values, 1, #values)
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
