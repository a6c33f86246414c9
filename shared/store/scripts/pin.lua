-- pin: move the head of a thread to a checkpoint that is stored, and count tasks whose writes are, if this attempt still holds the job.
-- ARGV  1 offset, 2 worker, 3 ref, 4 attempt, then namespace, checkpoint, task or '' for the checkpoint itself, …
-- Keys  the fence, the record, the thread's head, the head before
-- Gives 1, or -1 where the lease is gone
local worker, ref, attempt = ARGV[2], ARGV[3], ARGV[4]
make_room()
local job = read(ref)
if not job or not holds(ref, worker, attempt) then return -1 end
local head, before = head_keys(ref, job)
if call('HGET', head, 'job') ~= ref then
  call('DEL', before)
  call('COPY', head, before)
  call('HSET', head, 'job', ref)
end
if not job.stepped then call('HSET', KEY.job .. ref, 'stepped', '1') end
for i = 5, #ARGV, 3 do
  local space, checkpoint, task = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if task == '' then
    call('HSET', head, 'h:' .. space, checkpoint)
  else
    local known = call('HGET', head, 'w:' .. space)
    local same = known and string.sub(known, 1, #checkpoint + 1) == checkpoint .. ' '
    call('HSET', head, 'w:' .. space, (same and known or checkpoint) .. ' ' .. task)
  end
end
return 1
