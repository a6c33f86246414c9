-- disown: hand back what stands under this worker's name and it does not know: it claimed it, but the reply was lost. No try is counted.
-- ARGV  1 offset, 2 worker, 3 the number of its last claim: that one and those before it, should they still be on their way, take
--       nothing, 4 retention in ms, then ref, attempt, … of what it knows
-- Keys  what the worker holds; record, events, lane of each that is handed back
-- Gives { { ref, graph, status }, … } of what was handed back
local FORGET_MS = 3600000
local worker, known, disowned = ARGV[2], {}, {}
for i = 5, #ARGV, 2 do known[ARGV[i] .. ' ' .. ARGV[i + 1]] = true end
make_room()
call('SET', KEY.claims .. worker, ARGV[3], 'PX', FORGET_MS)
for _, ref in ipairs(call('SMEMBERS', KEY.held .. worker)) do
  local job = read(ref)
  if job and holds(ref, worker, job.attempt) and not known[ref .. ' ' .. job.attempt] then
    if job.cancel then
      final(ref, job, 'cancelled', {}, nil, ARGV[4])
    else
      job.tries = int(tonumber(job.tries) - 1)
      call('HSET', KEY.job .. ref, 'tries', job.tries)
      requeue(ref, job, now_ms())
      enter_lane(ref, job)
    end
    disowned[#disowned + 1] = { ref, job.graph, job.status }
  end
end
return disowned
