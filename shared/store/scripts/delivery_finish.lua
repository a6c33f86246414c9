-- delivery_finish: record one try of a delivery and what comes next, if this sender still holds it.
-- ARGV  1 offset, 2 worker, 3 dref, 4 attempt, 5 'delivered', 'retry' or 'failed', 6 the attempt as JSON, 7 delay in ms,
--       8 the body as sent, 9 retention in ms after the last try
-- Keys  the delivery, its attempts, deliveries-due, -leases, -expiry
-- Gives 1, or 0 where the lease is gone
local worker, dref, attempt, outcome = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
make_room()
local held = call('HMGET', KEY.delivery .. dref, 'worker', 'attempt')
if held[1] ~= worker or held[2] ~= attempt or not call('ZSCORE', KEY.deliveries_leases, dref) then return 0 end
local now = now_ms()
call('ZREM', KEY.deliveries_leases, dref)
call('RPUSH', KEY.delivery_attempts .. dref, ARGV[6])
call('HSETNX', KEY.delivery .. dref, 'body', ARGV[8])
call('DEL', KEY.delivery_record .. dref, KEY.delivery_output .. dref)
if outcome == 'retry' then
  local due = int(now + tonumber(ARGV[7]))
  call('HINCRBY', KEY.delivery .. dref, 'step', 1)
  call('HSET', KEY.delivery .. dref, 'next_at', due)
  call('ZADD', KEY.deliveries_due, due, dref)
else
  call('HSET', KEY.delivery .. dref, 'status', outcome)
  call('HDEL', KEY.delivery .. dref, 'next_at')
  call('ZADD', KEY.deliveries_expiry, int(now + tonumber(ARGV[9])), dref)
end
return 1
