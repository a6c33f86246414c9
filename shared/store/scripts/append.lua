-- append: add events to a job's stream, if this attempt still holds it.
-- ARGV  1 offset, 2 worker, 3 ref, 4 attempt, then the events as JSON bytes
-- Keys  the fence, the events
-- Gives the number of events there are now, or -1 where the lease is gone
local worker, ref, attempt = ARGV[2], ARGV[3], ARGV[4]
make_room()
if not holds(ref, worker, attempt) then return -1 end
local count = 0
for i = 5, #ARGV do count = call('RPUSH', KEY.events .. ref, ARGV[i]) end
notify(ref, 'event')
return count
