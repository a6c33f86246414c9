-- beat: say that a worker lives, and see whether the clock of the leases has run without a break.
-- ARGV  1 offset, 2 worker, 3 lease in ms, 4 what it says of itself as JSON, 5 how long that counts in ms
-- Keys  the worker, workers, pulse
-- Gives 1
local worker, lease_ms, now = ARGV[2], tonumber(ARGV[3]), now_ms()
make_room()
call('SET', KEY.worker .. worker, ARGV[4], 'PX', ARGV[5])
call('ZADD', KEY.workers, int(now), worker)
local last, unbroken = unpack(call('HMGET', KEY.pulse, 'last', 'unbroken_since'))
if last and (now - last > lease_ms / 2 or tonumber(unbroken) > now) then unbroken = int(now) end
call('HSET', KEY.pulse, 'last', int(now), 'unbroken_since', unbroken or '0')
return 1
