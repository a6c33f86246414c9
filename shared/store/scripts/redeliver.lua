-- redeliver: send a delivery again now, with a fresh schedule.
-- ARGV  1 offset, 2 dref
-- Keys  the delivery, deliveries-due, -expiry, -wake
-- Gives 'queued', 'sending' (a try is under way) or 'missing'
local dref = ARGV[2]
if call('EXISTS', KEY.delivery .. dref) == 0 then return 'missing' end
if call('ZSCORE', KEY.deliveries_leases, dref) then return 'sending' end
local now = int(now_ms())
call('HSET', KEY.delivery .. dref, 'status', 'pending', 'next_at', now, 'step', '0')
call('ZREM', KEY.deliveries_expiry, dref)
call('ZADD', KEY.deliveries_due, now, dref)
call('RPUSH', KEY.deliveries_wake, '1')
return 'queued'
