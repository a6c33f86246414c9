-- delivery_release: hand back a delivery whose try was broken off: it is due again at once, and no try is counted.
-- ARGV  1 offset, 2 worker, 3 dref, 4 attempt
-- Keys  the delivery, its host, deliveries-leases
-- Gives 1, or 0 where the lease is gone
local worker, dref, attempt = ARGV[2], ARGV[3], ARGV[4]
make_room()
local holder, held_attempt, host = unpack(call('HMGET', KEY.delivery .. dref, 'worker', 'attempt', 'host'))
if holder ~= worker or held_attempt ~= attempt or not call('ZSCORE', KEY.deliveries_leases, dref) then return 0 end
stop_sending(dref, host)
enter_line(dref, host, now_ms())
wake_sender()
return 1
