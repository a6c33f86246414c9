-- delivery_renew: lengthen the leases of the deliveries that this sender sends.
-- ARGV  1 offset, 2 worker, 3 lease in ms, then dref, attempt, …
-- Keys  deliveries-leases, the deliveries
-- Gives for each 'held' or 'gone'
local worker, lease_end, answers = ARGV[2], int(now_ms() + tonumber(ARGV[3])), {}
make_room()
for i = 4, #ARGV, 2 do
  local holder, attempt = unpack(call('HMGET', KEY.delivery .. ARGV[i], 'worker', 'attempt'))
  local held = holder == worker and attempt == ARGV[i + 1] and call('ZSCORE', KEY.deliveries_leases, ARGV[i])
  if held then call('ZADD', KEY.deliveries_leases, lease_end, ARGV[i]) end
  answers[#answers + 1] = held and 'held' or 'gone'
end
return answers
