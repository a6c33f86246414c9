-- checkpoint: keep what a job's saver keeps, in one step, if this attempt still holds the job.
-- ARGV  1 offset, 2 worker, 3 ref, 4 attempt, 5 number of fields to set, then field, value, …, then fields to drop
-- Keys  the fence, the job's checkpoints
-- Gives 1, or -1 where the lease is gone
local worker, ref, attempt, last = ARGV[2], ARGV[3], ARGV[4], 5 + tonumber(ARGV[5]) * 2
make_room()
if not holds(ref, worker, attempt) then return -1 end
for i = 6, last, 2 do call('HSET', KEY.checkpoints .. ref, ARGV[i], ARGV[i + 1]) end
for i = last + 1, #ARGV do call('HDEL', KEY.checkpoints .. ref, ARGV[i]) end
return 1
