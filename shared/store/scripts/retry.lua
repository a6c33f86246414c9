-- retry: start another round of a job that failed or was cancelled. It joins its thread at the end of the line.
-- ARGV  1 offset, 2 ref
-- Keys  the record, result, expiry, lane or line
-- Gives { 'queued' | 'refused' | 'missing', status }
local ref = ARGV[2]
local job = read(ref)
if not job then return { 'missing', '' } end
if job.status ~= 'failed' and job.status ~= 'cancelled' then return { 'refused', job.status } end
local round = int(tonumber(job.round) + 1)
call('HSET', KEY.job .. ref, 'round', round, 'tries', '0', 'lost', '0')
call('HDEL', KEY.job .. ref, 'started_at', 'finished_at', 'error', 'interrupts', 'cancel', 'usage')
call('DEL', KEY.result .. ref)
call('ZREM', KEY.expiry, ref)
job.round, job.tries, job.lost = round, '0', '0'
set_status(ref, job, 'queued')
add_event(ref, job, now_ms(), 'queued')
enter(ref, job)
return { 'queued', 'queued' }
