-- erase: forget an ended job at once.
-- ARGV  1 offset, 2 ref
-- Keys  all of the job's but its deliveries
-- Gives { 'erased' | 'running' | 'missing', status }
local ref = ARGV[2]
local job = read(ref)
if not job then return { 'missing', '' } end
if job.status == 'queued' or job.status == 'running' or job.status == 'interrupted' then return { 'running', job.status } end
make_room()
forget(ref, job)
return { 'erased', job.status }
