-- resume: start another round of an interrupted job, with the answer that it waits for. It has kept its thread.
-- ARGV  1 offset, 2 ref, 3 the answer's JSON, 4 id of the call, the same where it is sent again, 5 the round that it answers, or ''
-- Keys  the record, the answer, the lane
-- Gives { 'queued' | 'refused' | 'missing', status }
local ref = ARGV[2]
local job = read(ref)
if not job then return { 'missing', '' } end
if job.call == ARGV[4] then return { 'queued', job.status } end -- its reply was lost
if job.status ~= 'interrupted' or (ARGV[5] ~= '' and ARGV[5] ~= job.round) then return { 'refused', job.status } end
-- The first write is one that a full Redis refuses, before anything is half-written.
call('SET', KEY.resume .. ref, ARGV[3])
new_round(ref, job, ARGV[4])
call('HSET', KEY.job .. ref, 'resumed', job.round, 'asked', job.interrupts or '[]')
set_status(ref, job, 'queued')
add_event(ref, job, now_ms(), 'queued')
enter(ref, job)
return { 'queued', 'queued' }
