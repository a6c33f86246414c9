-- delivery_claim: lease webhook deliveries that are due to this sender, those of lost senders first.
-- ARGV  1 offset, 2 worker, 3 lease in ms, 4 limit
-- Keys  deliveries-due, deliveries-leases, and the deliveries taken
-- Gives { ms until the next is due or -1, { { dref, delivery as flat list, record as flat list, output or '' }, … } }
local worker, lease_ms, limit, now = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), now_ms()
make_room()
for _, dref in ipairs(call('ZRANGEBYSCORE', KEY.deliveries_leases, '-inf', int(now), 'LIMIT', 0, 100)) do
  call('ZREM', KEY.deliveries_leases, dref)
  call('ZADD', KEY.deliveries_due, int(now), dref)
end
local taken = {}
for _, dref in ipairs(call('ZRANGEBYSCORE', KEY.deliveries_due, '-inf', int(now), 'LIMIT', 0, limit)) do
  call('ZREM', KEY.deliveries_due, dref)
  if call('EXISTS', KEY.delivery .. dref) == 1 then
    call('ZADD', KEY.deliveries_leases, int(now + lease_ms), dref)
    call('HINCRBY', KEY.delivery .. dref, 'attempt', 1)
    call('HSET', KEY.delivery .. dref, 'worker', worker)
    taken[#taken + 1] = {
      dref, call('HGETALL', KEY.delivery .. dref), call('HGETALL', KEY.delivery_record .. dref),
      call('GET', KEY.delivery_output .. dref) or '',
    }
  end
end
local next_due = call('ZRANGE', KEY.deliveries_due, 0, 0, 'WITHSCORES')[2]
local next_lease = call('ZRANGE', KEY.deliveries_leases, 0, 0, 'WITHSCORES')[2]
local wait = -1
for _, at in ipairs({ next_due or false, next_lease or false }) do
  if at then
    local ms = math.max(0, tonumber(at) - now)
    if wait < 0 or ms < wait then wait = ms end
  end
end
if #taken == limit and next_due then
  call('RPUSH', KEY.deliveries_wake, '1')
elseif #taken == 0 then
  call('DEL', KEY.deliveries_wake)
end
return { int(wait), taken }
