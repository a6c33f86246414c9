-- submit: accept one job, or say why not, in one step.
-- ARGV  1 offset, 2 ref, 3 graph, 4 queue, 5 priority, 6 delay in ms ('' for none), 7 due time in ms ('' for none), 8 on_busy,
--       9 SHA-1 of the idempotency key ('' for none), 10 the job's place in the request with that key, 11 fingerprint of that request,
--       12 how long the key is kept in ms, 13 payload for the worker, 14 retention in ms of a job that on_busy ends,
--       15 how many jobs of the tenant may wait in the queue, 16 and in all queues, unless it has a limit of its own (0: any number), then field, value, … for the record
-- Keys  the job's record and input, its lane, thread, index, the idempotency key, what waits in the queue and how fast it drains
-- Gives { 'created' | 'duplicate' | 'conflict' | 'busy' | 'queue_full' | 'tenant_full', job id, status, created_at,
--         graph of the job that on_busy ended or '', seconds until there may be room }
local ref, graph, queue, on_busy = ARGV[2], ARGV[3], ARGV[4], ARGV[8]
local tenant, id, now = tenant_of(ref), id_of(ref), now_ms()

-- The same submit again: its first reply was lost on the wire.
local before = read(ref)
if before then return { 'created', id, before.status, before.created_at, '', '0' } end

-- A known key is answered as it was then, whatever has become of the job: what was erased since is not to run once more.
local idem, known = ARGV[9] ~= '' and KEY.idem .. tenant .. ':' .. ARGV[9]
if idem then
  known = call('HMGET', idem, 'request', ARGV[10])
  if known[1] and known[1] ~= ARGV[11] then return { 'conflict', '', '', '0', '', '0' } end
  if known[2] then return { 'duplicate', known[2], 'queued', '0', '', '0' } end
end

local full, seconds = no_room(ref, queue, now, tonumber(ARGV[15]), tonumber(ARGV[16]))
if full then return { full, '', '', '0', '', seconds } end

local due, at = now, int(now)
if ARGV[6] ~= '' then due = now + tonumber(ARGV[6]) elseif ARGV[7] ~= '' then due = tonumber(ARGV[7]) end

local job = {
  v = int(VERSION), graph = graph, queue = queue, status = 'queued', priority = ARGV[5], created_at = at,
  rank = int(now - tonumber(ARGV[5]) * HEAD_START_MS), attempt = '0', tries = '0', round = '1',
}
for i = 17, #ARGV, 2 do job[ARGV[i]] = ARGV[i + 1] end

local holder
if job.thread and on_busy ~= 'queue' then
  holder = holder_of((thread_keys(ref, job)))
  if holder and on_busy == 'reject' then return { 'busy', id_of(holder), '', '0', '', '0' } end
end

-- The first write is one that a full Redis refuses, before anything is half-written.
call('SET', KEY.input .. ref, ARGV[13])
if due > now then job.run_at = int(due) end
write(ref, job)
call('ZADD', index_key(ref, job, 'queued'), at, id)
call('SADD', waiting_key(ref, queue), id)
add_for_good(KEY.graphs .. tenant, graph)
add_for_good(KEY.queues, queue)
if job.thread then call('ZADD', KEY.index_thread .. tenant .. ':' .. job.thread, at, id) end
if idem then
  call('HSET', idem, 'request', ARGV[11], ARGV[10], id)
  if not known[1] then call('PEXPIRE', idem, ARGV[12]) end
end

if due > now then
  call('ZADD', KEY.due, int(due), ref)
  push_wake(queue, graph)
else
  enter(ref, job)
end
local ended = ''
if holder then
  local ahead = read(holder)
  if ahead and ahead.status == 'running' then
    ask_to_cancel(holder, ahead)
  elseif ahead then
    cancel_waiting(holder, ahead, ARGV[14])
    ended = ahead.graph
  end
end
return { 'created', id, 'queued', at, ended, '0' }
