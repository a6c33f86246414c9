-- finish: end a job's round with its outcome, its last events and its webhook delivery, in one step.
-- ARGV  1 offset, 2 worker, 3 ref, 4 attempt, 5 status (succeeded, failed, cancelled, interrupted), 6 output JSON or '',
--       7 retention in ms, 8 number of fields, then field, value, … for the record (error, usage, interrupts), then events
-- Keys  the fence, record, events, result, lease set, index, thread, delivery
-- Gives 'done', 'already' (this attempt ended before: the reply was lost) or 'gone'
local worker, ref, attempt, status = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local job = read(ref)
if not job or not holds(ref, worker, attempt) then return ended_by(job, worker, attempt) and 'already' or 'gone' end
local fields, events, last = {}, {}, 8 + tonumber(ARGV[8]) * 2
for i = 9, last do fields[#fields + 1] = ARGV[i] end
for i = last + 1, #ARGV do events[#events + 1] = ARGV[i] end
if job.error then call('HDEL', KEY.job .. ref, 'error') end -- of an earlier try
if status == 'interrupted' and job.cancel then status = 'cancelled' end
if status ~= 'interrupted' then
  final(ref, job, status, fields, ARGV[6], ARGV[7], events)
  return 'done'
end
-- The round ends, the job does not: it keeps its thread and waits for a person.
local now = now_ms()
drop_lease(ref) -- a write that a full Redis allows
call('UNLINK', KEY.resume .. ref) -- it has been used
set_status(ref, job, 'interrupted', 'finished_at', int(now), unpack(fields))
add_event(ref, job, now, 'interrupted', events)
create_deliveries(ref, job, 'interrupted', now)
notify(ref, 'interrupted')
return 'done'
