-- delivery_release: hand back a delivery whose try was broken off: to its old place in the line, and no try is counted.
-- ARGV  1 offset, 2 worker, 3 dref, 4 attempt
-- Keys  the delivery, its host, deliveries-leases
-- Gives 1, or 0 where the lease is gone
local worker, dref, attempt = ARGV[2], ARGV[3], ARGV[4]
make_room()
local holder, held_attempt, host, next_at = unpack(call('HMGET', KEY.delivery .. dref, 'worker', 'attempt', 'host', 'next_at'))
if holder ~= worker or held_attempt ~= attempt or not call('ZSCORE', KEY.deliveries_leases, dref) then return 0 end
stop_sending(dref, host)
enter_line(dref, host, next_at)
wake_sender()
return 1
