-- append: add events to a job's stream, if this attempt still holds it.
-- ARGV  1 offset, 2 worker, 3 ref, 4 attempt, then the events as JSON bytes
-- Keys  the fence, the events
-- Gives 1, or -1 where the lease is gone
local worker, ref, attempt = ARGV[2], ARGV[3], ARGV[4]
make_room()
if not holds(ref, worker, attempt) then return -1 end
call_with('RPUSH', KEY.events .. ref, ARGV, 5, #ARGV)
notify(ref, 'event')
return 1
