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
cancel_waiting(ref, job, ARGV[3])
return { 'cancelled', 'cancelled', job.graph }
