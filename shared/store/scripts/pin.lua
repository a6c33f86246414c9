-- pin: move the head of a thread to a checkpoint that is stored, and count tasks whose writes are, if this attempt still holds the job.
-- ARGV  1 offset, 2 worker, 3 ref, 4 attempt, then namespace, checkpoint, task or '' for the checkpoint itself, …
-- Keys  the fence, the record, the thread's head, the head before
-- Gives 1, or -1 where the lease is gone

-- When a graph takes a step, its tasks are done, and with them the namespaces '<space>|<node>:<task>' of their subgraphs.
local function leave_tasks(head, space)
  local prefix = space == '' and '' or space .. '|'
  for _, field in ipairs(call('HKEYS', head)) do
    local child = string.match(field, '^[hw]:(.*)$')
    if child and child ~= space and string.sub(child, 1, #prefix) == prefix
        and string.find(string.match(string.sub(child, #prefix + 1), '^[^|]*'), ':', 1, true) then
      call('HDEL', head, field)
    end
  end
end

local worker, ref, attempt = ARGV[2], ARGV[3], ARGV[4]
make_room()
local job = read(ref)
if not job or not holds(ref, worker, attempt) then return -1 end
local head, before = head_keys(ref, job)
if call('HGET', head, 'job') ~= ref then
  call('DEL', before)
  local found = call('HGETALL', head)
  if #found > 0 then call('HSET', before, unpack(found)) end
  call('HSET', head, 'job', ref)
end
if not job.stepped then call('HSET', KEY.job .. ref, 'stepped', '1') end
for i = 5, #ARGV, 3 do
  local space, checkpoint, task = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local known = call('HGET', head, 'w:' .. space)
  local counted = known and string.match(known, '^%S+')
  if task == '' then
    call('HSET', head, 'h:' .. space, checkpoint)
    if known and counted ~= checkpoint then call('HDEL', head, 'w:' .. space) end
    leave_tasks(head, space)
  elseif counted == checkpoint then
    call('HSET', head, 'w:' .. space, known .. ' ' .. task)
  elseif not known or counted < checkpoint or call('HGET', head, 'h:' .. space) == checkpoint then -- else it comes late
    call('HSET', head, 'w:' .. space, checkpoint .. ' ' .. task)
  end
end
return 1
