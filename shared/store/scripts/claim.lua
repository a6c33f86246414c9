-- claim: bring due jobs in, put the jobs of lost workers back, and lease up to `limit` ready ones to this worker.
-- ARGV  1 offset, 2 worker, 3 lease in ms, 4 limit, 5 payload bytes at most (one job is always taken), 6 '1' to put expired leases
--       back, where they are true, 7 retention in ms of jobs that end here, 8 the claim's number, which grows, 9 number of queues, then the queues, then
--       the graphs this worker serves
-- Keys  due, leases, the lanes, tenant-limits, and the records of all that is moved
-- Gives { now, ms until the next delayed job is due or the next lease ends, or -1, '1' where the worker must become free for a job that runs alone,
--         { { ref, attempt, '1' where it runs alone, payload, answer of a resume or '', record as flat list }, … }, { { ref, graph, status }, … } ended here }
local BATCH = 100              -- due jobs and expired leases handled by one claim
local TURN_KEPT_MS = 3600000   -- a tenant not served for an hour is first in turn again
local worker, lease_ms, limit, max_bytes, ttl_ms = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[7]
local now, queues, graphs, serves = now_ms(), {}, {}, {}
for i = 10, 9 + tonumber(ARGV[9]) do queues[#queues + 1] = ARGV[i] end
for i = 10 + tonumber(ARGV[9]), #ARGV do
  graphs[#graphs + 1] = ARGV[i]
  serves[ARGV[i]] = true
end

local recover = ARGV[6] == '1' and leases_are_true(now, lease_ms)
make_room()
-- This claim was given up, and what it would have taken is disowned already: it comes too late.
if tonumber(call('GET', KEY.claims .. worker) or 0) >= tonumber(ARGV[8]) then return { int(now), '0', '0', {}, {} } end
local taken, ended, bytes = {}, {}, 0
local refs, leases, records, lanes = {}, {}, {}, {} -- of what is to be taken
local left = {}                -- { queue, graph } where work is left for the next claim
local places = {}              -- by tenant: how many more of its jobs may be taken
local some_limited             -- whether any tenant has a limit of its own
local pass_on = false          -- whether this claim changed what there is to do, so that others must be woken for what is left

-- How many more jobs of the tenant may run: its limit, less what runs, and less what is kept free for one that must run alone.
local function places_of(tenant)
  if some_limited == nil then some_limited = call('EXISTS', KEY.tenant_limits) == 1 end
  if not places[tenant] then
    local most = some_limited and limits_of(tenant) or 0
    places[tenant] = most > 0 and most - count_of(tenant, 'running') or math.huge
  end
  return places[tenant]
end

-- Where the index has an unended job whose record cannot be read.
local function find_in_index(ref)
  for _, graph in ipairs(call('SMEMBERS', KEY.graphs .. tenant_of(ref))) do
    for _, status in ipairs({ 'queued', 'running', 'interrupted' }) do
      local created_at = call('ZSCORE', index_key(ref, { graph = graph }, status), id_of(ref))
      if created_at then return graph, status, int(tonumber(created_at)) end
    end
  end
end

-- A job whose record cannot be read is failed, with what can be saved of the record: it must not stop the queue.
local function set_aside(ref, queue)
  local graph, status, created_at = find_in_index(ref)
  drop_lease(ref)
  if not graph then return end
  local flat = redis.pcall('HGETALL', KEY.job .. ref)
  local job = flat.err and {} or to_table(flat)
  if call('EXISTS', KEY.job .. ref) == 1 then call('RENAME', KEY.job .. ref, KEY.aside .. ref) end
  for _, name in ipairs(call('SMEMBERS', KEY.queues)) do call('SREM', waiting_key(ref, name), id_of(ref)) end
  job.v, job.graph, job.queue, job.status, job.created_at, job.rank =
    int(VERSION), graph, queue or job.queue or 'default', status, created_at, created_at
  for name, default in pairs({ priority = '0', attempt = '0', tries = '0', max_attempts = '1', lost = '0', round = '1' }) do
    if not string.match(job[name] or '', '^%d+$') then job[name] = default end
  end
  write(ref, job)
  final(ref, job, 'failed', { 'error', '{"type":"UnreadableRecord","code":"unreadable_record",'
    .. '"message":"The job\'s record could not be read.","node":null,"retryable":false}' }, nil, ttl_ms)
  ended[#ended + 1] = { ref, graph, 'failed' }
  pass_on = true
end

local function lose(ref)
  local job = read(ref)
  if not job then return set_aside(ref) end
  job.lost = int(tonumber(job.lost) + 1)
  call('HSET', KEY.job .. ref, 'lost', job.lost)
  call('HDEL', KEY.job .. ref, 'worker') -- it ends nothing any more
  pass_on = true
  if job.cancel then
    final(ref, job, 'cancelled', {}, nil, ttl_ms)
    ended[#ended + 1] = { ref, job.graph, 'cancelled' }
  elseif tonumber(job.tries) >= tonumber(job.max_attempts) then
    final(ref, job, 'failed', { 'error', '{"type":"WorkerLost","code":"worker_lost","message":"The worker that ran this job was '
      .. 'lost, as often as max_attempts allows.","node":null,"retryable":true}' }, nil, ttl_ms)
    ended[#ended + 1] = { ref, job.graph, 'failed' }
  else
    requeue(ref, job, now)
    enter_lane(ref, job)
  end
end

-- A job as its lane has it, its record as Redis gave it, its payload, and the answer of a resume; nil where its record says something else,
-- or cannot be read.
local function waiting(ref, queue, graph)
  local job, flat = read(ref)
  if not job or job.status ~= 'queued' or job.queue ~= queue or job.graph ~= graph then return nil end
  local payload, answer = redis.pcall('GET', KEY.input .. ref), job.resumed and redis.pcall('GET', KEY.resume .. ref)
  if type(payload) == 'table' or type(answer) == 'table' then return nil end
  return job, flat, payload or '', answer or ''
end

-- A job's record as it is from now on, and what of it is new: name, value, …
local function now_running(job, flat)
  job.attempt, job.tries, job.worker, job.status = int(tonumber(job.attempt) + 1), int(tonumber(job.tries) + 1), worker, 'running'
  local changed = { attempt = job.attempt, tries = job.tries, worker = worker, status = 'running' }
  if not job.started_at then changed.started_at = int(now) end
  local fields = {}
  for name, value in pairs(changed) do fields[#fields + 1], fields[#fields + 2] = name, value end
  for i = 1, #flat, 2 do
    if changed[flat[i]] then
      flat[i + 1] = changed[flat[i]]
      changed[flat[i]] = nil
    end
  end
  for name, value in pairs(changed) do flat[#flat + 1], flat[#flat + 2] = name, value end
  return fields
end

-- A job is to be taken: `lease` does it, with all others of its lane.
local function take(ref, alone, job, flat, payload, answer)
  local tenant, id, lane = tenant_of(ref), id_of(ref), lane_key(ref, job)
  local fields = now_running(job, flat)
  places[tenant] = places_of(tenant) - 1
  bytes = bytes + #payload + #answer
  taken[#taken + 1] = { ref, job.attempt, alone and '1' or '0', payload, answer, flat }
  refs[#refs + 1], leases[#leases + 1], leases[#leases + 2] = ref, now + lease_ms, ref
  records[#records + 1] = { ref, job, fields }
  lanes[lane] = lanes[lane] or { ref = ref, job = job, refs = {}, ids = {}, ranks = {} }
  local of_lane = lanes[lane]
  of_lane.refs[#of_lane.refs + 1], of_lane.ids[#of_lane.ids + 1] = ref, id
  of_lane.ranks[#of_lane.ranks + 1], of_lane.ranks[#of_lane.ranks + 2] = job.created_at, id
  pass_on = true
end

-- Leases what is to be taken, the lease first: what has one cannot be lost.
local function lease()
  if #refs == 0 then return end
  call_with('ZADD', KEY.leases, leases, 1, #leases)
  call_with('SADD', KEY.held .. worker, refs, 1, #refs)
  for _, record in ipairs(records) do
    call('SET', KEY.running .. record[1], worker .. ' ' .. record[2].attempt)
    call('HSET', KEY.job .. record[1], unpack(record[3]))
  end
  for lane, of_lane in pairs(lanes) do
    local ref, job, ids = of_lane.ref, of_lane.job, of_lane.ids
    call_with('ZREM', lane, of_lane.refs, 1, #ids)
    if call('EXISTS', lane) == 0 then call('SREM', KEY.lanes .. job.queue, job.graph .. ':' .. tenant_of(ref)) end
    call_with('SREM', waiting_key(ref, job.queue), ids, 1, #ids)
    call_with('ZREM', index_key(ref, job, 'queued'), ids, 1, #ids)
    call_with('ZADD', index_key(ref, job, 'running'), of_lane.ranks, 1, 2 * #ids)
    note_drained(tenant_of(ref), job.queue, now, #ids)
  end
  for _, record in ipairs(records) do add_event(record[1], record[2], now, 'running') end
end

-- The members of a set whose time has come, and the time of the first, where that is still to come.
local function times_up(name)
  local first = tonumber(call('ZRANGE', name, 0, 0, 'WITHSCORES')[2])
  if not first or first > now then return {}, first end
  return call('ZRANGEBYSCORE', name, '-inf', int(now), 'LIMIT', 0, BATCH)
end

local due, next_due = times_up(KEY.due)
for _, ref in ipairs(due) do
  call('ZREM', KEY.due, ref)
  local job = read(ref)
  if job and job.status == 'queued' then enter(ref, job) else set_aside(ref) end
end
local lost, next_end = {}, nil
if recover then lost, next_end = times_up(KEY.leases) end
for _, ref in ipairs(lost) do lose(ref) end

-- The first in line to run alone whose tenant has a place for it.
local function first_alone(solo, queue, graph)
  for at = 0, BATCH - 1 do
    local ref = call('ZRANGE', solo, at, at)[1]
    if not ref or places_of(tenant_of(ref)) > 0 then return ref end
    hold_back(tenant_of(ref), queue, graph)
  end
end

-- A job that must run alone: an idle worker takes it and nothing else; a busy one stops claiming to become free for it.
local hold = false
if limit > 0 then
  for _, queue in ipairs(queues) do
    for _, graph in ipairs(graphs) do
      local solo = KEY.solo .. queue .. ':' .. graph
      local ref = not hold and #taken == 0 and first_alone(solo, queue, graph)
      if ref then
        local job, flat, payload, answer = waiting(ref, queue, graph)
        local freeing = call('GET', solo .. ':for')
        if not job then
          call('ZREM', solo, ref)
          set_aside(ref, queue)
          left[#left + 1] = { queue, graph }
        elseif tonumber(job.v) > VERSION then
          -- left alone
        elseif call('SCARD', KEY.held .. worker) == 0 then
          call('ZREM', solo, ref)
          call('DEL', solo .. ':for')
          take(ref, true, job, flat, payload, answer)
          limit = 0
          if call('ZCARD', solo) > 0 then left[#left + 1] = { queue, graph } end
        else
          -- Others of its tenant must not take the place that it waits for.
          places[tenant_of(ref)] = places_of(tenant_of(ref)) - 1
          if not freeing or freeing == worker then
            call('SET', solo .. ':for', worker, 'PX', int(lease_ms))
            hold, limit = true, 0
            if not freeing then -- an idle worker may sleep
              left[#left + 1] = { queue, graph }
              pass_on = true
            end
          end
        end
      end
    end
  end
end

-- Tenants take turns, the one served longest ago first; within a tenant the lowest rank of all its lanes goes first.
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
      lane = lane and places_of(entry[1]) > 0 and lane
      if lane then
        progress = true
        local ref = lane.heads[lane.at]
        lane.at = lane.at + 2
        local job, flat, payload, answer = waiting(ref, queue, lane.graph)
        if not job then
          leave_lane(ref, { queue = queue, graph = lane.graph })
          set_aside(ref, queue)
          left[#left + 1] = { queue, lane.graph }
        elseif tonumber(job.v) <= VERSION then
          take(ref, false, job, flat, payload, answer)
          served[entry[1]] = #taken
        end
      end
    end
  end
  if next(served) then
    -- A turn is the time in µs, and more than the last one given: two claims may see the same millisecond.
    local turns = KEY.turns .. queue
    local last = math.max(now * 1000, tonumber(call('ZRANGE', turns, -1, -1, 'WITHSCORES')[2] or 0))
    local new = 0
    for tenant, place in pairs(served) do new = new + call('ZADD', turns, int(last + place), tenant) end
    if new > 0 then call('ZREMRANGEBYSCORE', turns, '-inf', int((now - TURN_KEPT_MS) * 1000)) end
  end
  for _, entry in ipairs(tenants) do
    for _, lane in ipairs(lanes_of[entry[1]]) do
      if lane.heads[lane.at] and places_of(entry[1]) > 0 then
        left[#left + 1] = { queue, lane.graph }
      elseif lane.heads[lane.at] then
        hold_back(entry[1], queue, lane.graph)
      end
    end
  end
end

lease()

if #due + #lost + #ended > 0 then next_due = tonumber(call('ZRANGE', KEY.due, 0, 0, 'WITHSCORES')[2]) end
local wait_ms = next_due and math.max(0, next_due - now) or -1
if pass_on then
  for _, lane in ipairs(left) do push_wake(lane[1], lane[2]) end
  if #left == 0 and wait_ms >= 0 and wait_ms < 1000 then push_wake(queues[1], graphs[1]) end
elseif #left == 0 and not hold and limit > 0 then
  for _, queue in ipairs(queues) do
    for _, graph in ipairs(graphs) do call('DEL', KEY.wake .. queue .. ':' .. graph) end
  end
end
-- A worker without work looks again when the next lease ends: its worker may be lost.
if recover and (#lost > 0 or #taken > 0) then next_end = tonumber(call('ZRANGE', KEY.leases, 0, 0, 'WITHSCORES')[2]) end
if next_end and (wait_ms < 0 or next_end - now < wait_ms) then wait_ms = math.max(0, next_end - now) end
return { int(now), int(wait_ms), hold and '1' or '0', taken, ended }
