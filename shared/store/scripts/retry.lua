-- retry: start another round of a job that failed or was cancelled, from its last checkpoint or from the start. It joins its thread at
-- the end of the line; from its last checkpoint only while no other job has gone on in the thread, or is about to.
-- ARGV  1 offset, 2 ref, 3 'checkpoint' or 'start', 4 id of the call, the same where it is sent again
-- Keys  the record, result, expiry, lane or line; from the start also the checkpoints, or the thread's head
-- Gives { 'queued' | 'refused' | 'moved_on' | 'missing', status }
local ref, from = ARGV[2], ARGV[3]
local job = read(ref)
if not job then return { 'missing', '' } end
if job.call == ARGV[4] then return { 'queued', job.status } end -- its reply was lost
if job.status ~= 'failed' and job.status ~= 'cancelled' then return { 'refused', job.status } end
local holder, head, before
if job.thread then
  holder = holder_of((thread_keys(ref, job)))
  head, before = head_keys(ref, job)
  local moved_on = job.stepped and (holder or call('HGET', head, 'job') ~= ref)
  if moved_on and from ~= 'start' then return { 'moved_on', job.status } end
end
new_round(ref, job, ARGV[4])
if from == 'start' then
  call('HSET', KEY.job .. ref, 'fresh', job.round) -- checkpoints of rounds before this one do not count
  call('HDEL', KEY.job .. ref, 'stepped', 'resumed', 'asked')
  call('UNLINK', KEY.checkpoints .. ref, KEY.resume .. ref)
  if job.stepped and not holder and call('HGET', head, 'job') == ref then -- the thread goes back to where the job found it
    call('DEL', head)
    if call('EXISTS', before) == 1 then call('RENAME', before, head) else call('HSET', head, 'job', '') end
  end
end
set_status(ref, job, 'queued')
add_event(ref, job, now_ms(), 'queued')
enter(ref, job)
return { 'queued', 'queued' }
