-- cancel: end a job that waits, mark one that runs.
-- ARGV  1 offset, 2 ref, 3 retention in ms
-- Keys  the record; a waiting job's lane, due set or line; a running one's control list
-- Gives { 'cancelled' | 'cancelling' | 'ended' | 'missing', status, graph }
local ref = ARGV[2]
local job = read(ref)
if not job then return { 'missing', '', '' } end
if job.status == 'running' then
  make_room()
  ask_to_cancel(ref, job)
  return { 'cancelling', 'running', job.graph }
end
if job.status ~= 'queued' and job.status ~= 'interrupted' then return { 'ended', job.status, job.graph } end
make_room()
if job.status == 'interrupted' then -- that was the end of its round
  job.round = int(tonumber(job.round) + 1)
  call('HSET', KEY.job .. ref, 'round', job.round)
end
leave_lane(ref, job)
call('ZREM', KEY.due, ref)
final(ref, job, 'cancelled', {}, nil, ARGV[3])
return { 'cancelled', 'cancelled', job.graph }
