-- pin: move the head of a thread to a checkpoint that is stored, and count tasks whose writes are, if this attempt still holds the job.
-- ARGV  1 offset, 2 worker, 3 ref, 4 attempt, then namespace, checkpoint, task or '' for the checkpoint itself, …
-- Keys  the fence, the record, the thread's head, the head before
-- Gives 1, or -1 where the lease is gone

local worker, ref, attempt = ARGV[2], ARGV[3], ARGV[4]
make_room()
local thread, stepped = unpack(redis.pcall('HMGET', KEY.job .. ref, 'thread', 'stepped'))
if not thread or not holds(ref, worker, attempt) then return -1 end
local head, before = head_keys(ref, { thread = thread })
local found = call('HGETALL', head)
local pins, changed = to_table(found), {}

local function set(field, value) -- or drop it
  pins[field], changed[field] = value, value or false
end

-- When a graph takes a step, its tasks are done, and with them the namespaces '<space>|<node>:<task>' of their subgraphs.
local function leave_tasks(space)
  local prefix = space == '' and '' or space .. '|'
  for field in pairs(pins) do
    local child = string.match(field, '^[hw]:(.*)$')
    if child and child ~= space and string.sub(child, 1, #prefix) == prefix
        and string.find(string.match(string.sub(child, #prefix + 1), '^[^|]*'), ':', 1, true) then
      set(field, nil)
    end
  end
end

if pins.job ~= ref then
  call('DEL', before)
  call_with('HSET', before, found, 1, #found)
  set('job', ref)
end
if not stepped then call('HSET', KEY.job .. ref, 'stepped', '1') end
for i = 5, #ARGV, 3 do
  local space, checkpoint, task = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local known = pins['w:' .. space]
  local counted = known and string.match(known, '^%S+')
  if task == '' then
    set('h:' .. space, checkpoint)
    if known and counted ~= checkpoint then set('w:' .. space, nil) end
    leave_tasks(space)
  elseif counted == checkpoint then
    set('w:' .. space, known .. ' ' .. task)
  elseif not known or counted < checkpoint or pins['h:' .. space] == checkpoint then -- else it comes late
    set('w:' .. space, checkpoint .. ' ' .. task)
  end
end
local kept, dropped = {}, {}
for field, value in pairs(changed) do
  if value then
    kept[#kept + 1], kept[#kept + 2] = field, value
  else
    dropped[#dropped + 1] = field
  end
end
call_with('HSET', head, kept, 1, #kept)
call_with('HDEL', head, dropped, 1, #dropped)
return 1
