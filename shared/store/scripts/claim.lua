-- claim: bring due jobs in, put the jobs of lost workers back, and lease up to `limit` ready ones to this worker.
-- ARGV  1 offset, 2 worker, 3 lease in ms, 4 limit, 5 payload bytes at most (one job is always taken), 6 '1' to put expired leases
--       back, 7 retention in ms of jobs that end here, 8 number of queues, then the queues, then the graphs this worker serves
-- Keys  due, leases, the lanes, and the records of all that is moved
-- Gives { now, ms until the next delayed job is due or -1, '1' where the worker must become free for a job that runs alone,
--         { { ref, attempt, '1' where it runs alone, payload, record as flat list }, … }, { { ref, graph, status }, … } ended here }
local BATCH = 100              -- due jobs and expired leases handled by one claim
local TURN_KEPT_MS = 3600000   -- a tenant not served for an hour is first in turn again
local worker, lease_ms, limit, max_bytes, ttl_ms = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[7]
local now, queues, graphs, serves = now_ms(), {}, {}, {}
for i = 9, 8 + tonumber(ARGV[8]) do queues[#queues + 1] = ARGV[i] end
for i = 9 + tonumber(ARGV[8]), #ARGV do
  graphs[#graphs + 1] = ARGV[i]
  serves[ARGV[i]] = true
end

make_room()
local taken, ended, bytes = {}, {}, 0

-- What stands where a record should be is moved aside, and the job is failed: it must not stop the queue.
local function set_aside(ref, graph, queue)
  if call('EXISTS', KEY.job .. ref) == 1 then call('RENAME', KEY.job .. ref, KEY.aside .. ref) end
  local job = {
    v = int(VERSION), graph = graph, queue = queue, status = 'queued', priority = '0', created_at = int(now), rank = int(now),
    attempt = '0', tries = '0', round = '1', max_attempts = '1', lost = '0',
  }
  write(ref, job)
  call('SADD', KEY.graphs .. tenant_of(ref), graph)
  final(ref, job, 'failed', { 'error', '{"type":"UnreadableRecord","code":"unreadable_record",'
    .. '"message":"The job\'s record could not be read.","node":null,"retryable":false}' }, nil, ttl_ms)
  ended[#ended + 1] = { ref, graph, 'failed' }
end

local function lose(ref)
  local job = read(ref)
  if not job then
    call('ZREM', KEY.leases, ref)
    call('DEL', KEY.running .. ref)
    return
  end
  job.lost = int(tonumber(job.lost or 0) + 1)
  if job.cancel then
    final(ref, job, 'cancelled', {}, nil, ttl_ms)
    ended[#ended + 1] = { ref, job.graph, 'cancelled' }
  elseif tonumber(job.tries) >= tonumber(job.max_attempts) then
    final(ref, job, 'failed', { 'error', '{"type":"WorkerLost","code":"worker_lost","message":"The worker that ran this job was '
      .. 'lost, as often as max_attempts allows.","node":null,"retryable":true}' }, nil, ttl_ms)
    ended[#ended + 1] = { ref, job.graph, 'failed' }
  else
    drop_lease(ref, job)
    call('HSET', KEY.job .. ref, 'lost', job.lost)
    set_status(ref, job, 'queued')
    add_event(ref, job, now, 'queued')
    enter_lane(ref, job)
  end
end

local function take(ref, job, alone)
  local attempt, tries = int(tonumber(job.attempt) + 1), int(tonumber(job.tries) + 1)
  call('ZADD', KEY.leases, int(now + lease_ms), ref)
  call('SET', KEY.running .. ref, worker .. ' ' .. attempt)
  call('SADD', KEY.held .. worker, ref)
  job.attempt, job.tries, job.worker = attempt, tries, worker
  call('HSET', KEY.job .. ref, 'attempt', attempt, 'tries', tries, 'worker', worker)
  call('HSETNX', KEY.job .. ref, 'started_at', int(now))
  set_status(ref, job, 'running')
  add_event(ref, job, now, 'running')
  local payload = call('GET', KEY.input .. ref) or ''
  bytes = bytes + #payload
  taken[#taken + 1] = { ref, attempt, alone and '1' or '0', payload, call('HGETALL', KEY.job .. ref) }
end

for _, ref in ipairs(call('ZRANGEBYSCORE', KEY.due, '-inf', int(now), 'LIMIT', 0, BATCH)) do
  call('ZREM', KEY.due, ref)
  local job = read(ref)
  if job and job.status == 'queued' then enter(ref, job) end
end
if ARGV[6] == '1' then
  for _, ref in ipairs(call('ZRANGEBYSCORE', KEY.leases, '-inf', int(now), 'LIMIT', 0, BATCH)) do lose(ref) end
end

-- A job that must run alone: an idle worker takes it and nothing else; a busy one stops claiming to become free for it.
local hold = false
if limit > 0 then
  local idle = call('SCARD', KEY.held .. worker) == 0
  for _, queue in ipairs(queues) do
    for _, graph in ipairs(graphs) do
      local solo = KEY.solo .. queue .. ':' .. graph
      local ref = call('ZRANGE', solo, 0, 0)[1]
      if ref and not hold and #taken == 0 then
        local job = read(ref)
        if not job then
          call('ZREM', solo, ref)
          set_aside(ref, graph, queue)
        elseif tonumber(job.v) <= VERSION then
          if idle then
            call('ZREM', solo, ref)
            call('DEL', solo .. ':for')
            take(ref, job, true)
            limit = 0
          elseif call('SET', solo .. ':for', worker, 'NX', 'PX', int(lease_ms)) or call('GET', solo .. ':for') == worker then
            hold, limit = true, 0
          end
        end
      end
    end
  end
end

-- Tenants take turns, the one served longest ago first; within a tenant the lowest rank of all its lanes goes first.
local left = {}
for _, queue in ipairs(queues) do
  local tenants, lanes_of = {}, {}
  for _, name in ipairs(call('SMEMBERS', KEY.lanes .. queue)) do
    local graph, tenant = string.match(name, '^([^:]+):(.+)$')
    if serves[graph] then
      if not lanes_of[tenant] then
        lanes_of[tenant] = {}
        tenants[#tenants + 1] = { tenant, tonumber(call('ZSCORE', KEY.turns .. queue, tenant) or 0) }
      end
      local heads = call('ZRANGE', KEY.lane .. queue .. ':' .. name, 0, math.max(limit - #taken, 0), 'WITHSCORES')
      table.insert(lanes_of[tenant], { graph = graph, heads = heads, at = 1 })
    end
  end
  table.sort(tenants, function(a, b) return a[2] < b[2] or (a[2] == b[2] and a[1] < b[1]) end)

  local function next_of(tenant)
    local best
    for _, lane in ipairs(lanes_of[tenant]) do
      local rank = tonumber(lane.heads[lane.at + 1])
      if rank and (not best or rank < tonumber(best.heads[best.at + 1])) then best = lane end
    end
    return best
  end

  local served, progress = {}, true
  while progress and #taken < limit and bytes < max_bytes do
    progress = false
    for _, entry in ipairs(tenants) do
      local lane = #taken < limit and bytes < max_bytes and next_of(entry[1])
      if lane then
        progress = true
        local ref = lane.heads[lane.at]
        lane.at = lane.at + 2
        local job = read(ref)
        if not job then
          leave_lane(ref, { queue = queue, graph = lane.graph })
          set_aside(ref, lane.graph, queue)
        elseif tonumber(job.v) <= VERSION then
          leave_lane(ref, job)
          take(ref, job, false)
          served[entry[1]] = true
        end
      end
    end
  end
  for tenant in pairs(served) do call('ZADD', KEY.turns .. queue, int(now), tenant) end
  if next(served) then call('ZREMRANGEBYSCORE', KEY.turns .. queue, '-inf', int(now - TURN_KEPT_MS)) end
  for _, entry in ipairs(tenants) do
    for _, lane in ipairs(lanes_of[entry[1]]) do
      if lane.heads[lane.at] then left[#left + 1] = { queue, lane.graph } end
    end
  end
end

local next_due = call('ZRANGE', KEY.due, 0, 0, 'WITHSCORES')[2]
local wait_ms = next_due and math.max(0, tonumber(next_due) - now) or -1
if #taken > 0 then
  for _, lane in ipairs(left) do push_wake(lane[1], lane[2]) end
  if #left == 0 and wait_ms >= 0 and wait_ms < 1000 then push_wake(queues[1], graphs[1]) end
elseif #left == 0 and not hold then
  for _, queue in ipairs(queues) do
    for _, graph in ipairs(graphs) do call('DEL', KEY.wake .. queue .. ':' .. graph) end
  end
end
return { int(now), int(wait_ms), hold and '1' or '0', taken, ended }
