-- checkpoint: keep what a job's saver keeps, in one step, if this attempt still holds the job.
-- ARGV  1 offset, 2 worker, 3 ref, 4 attempt, 5 the write's number: one more than the last, on the record, 6 '1' where this is all that is
--       to be kept, 7 number of fields to set, then field, value, …, then fields to drop
-- Keys  the fence, the record, the job's checkpoints
-- Gives 1, 0 where the write before this one is not there (a fail-over lost it: nothing is written, all has to be sent), or -1 where the
-- lease is gone
local worker, ref, attempt, number, last = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), 7 + tonumber(ARGV[7]) * 2
make_room()
if not holds(ref, worker, attempt) then return -1 end
local before = tonumber(call('HGET', KEY.job .. ref, 'saved') or 0)
if ARGV[6] == '1' then
  call('UNLINK', KEY.checkpoints .. ref)
elseif number ~= before + 1 and number ~= before then -- the same again, where its reply was lost
  return 0
end
call_with('HSET', KEY.checkpoints .. ref, ARGV, 8, last)
call_with('HDEL', KEY.checkpoints .. ref, ARGV, last + 1, #ARGV)
call('HSET', KEY.job .. ref, 'saved', number)
return 1
