-- renew: lengthen the leases of this worker's attempts, and learn which of them are gone or should be cancelled.
-- ARGV  1 offset, 2 worker, 3 lease in ms, then ref, attempt, …
-- Keys  leases, the fence and record of each
-- Gives for each 'held', 'cancel' (held, and a cancel is asked for) or 'gone'
local worker, lease_end, answers = ARGV[2], int(now_ms() + tonumber(ARGV[3])), {}
make_room()
for i = 4, #ARGV, 2 do
  local ref = ARGV[i]
  if not holds(ref, worker, ARGV[i + 1]) then
    answers[#answers + 1] = 'gone'
  else
    call('ZADD', KEY.leases, lease_end, ref)
    answers[#answers + 1] = redis.pcall('HEXISTS', KEY.job .. ref, 'cancel') == 1 and 'cancel' or 'held'
  end
end
return answers
