-- expire: forget jobs and deliveries whose retention is over. A job that has not ended is never in the expiry set.
-- ARGV  1 offset, 2 how many of each at most
-- Keys  expiry, deliveries-expiry, and all that belongs to what is forgotten
-- Gives { number of jobs, number of deliveries }
local now, limit = int(now_ms()), tonumber(ARGV[2])
make_room()
local jobs = call('ZRANGEBYSCORE', KEY.expiry, '-inf', now, 'LIMIT', 0, limit)
for _, ref in ipairs(jobs) do forget(ref, read(ref)) end
local deliveries = call('ZRANGEBYSCORE', KEY.deliveries_expiry, '-inf', now, 'LIMIT', 0, limit)
for _, dref in ipairs(deliveries) do
  local ref = call('HGET', KEY.delivery .. dref, 'job')
  if ref then call('LREM', KEY.deliveries .. ref, 0, id_of(dref)) end
  call('DEL', KEY.delivery .. dref, KEY.delivery_record .. dref, KEY.delivery_output .. dref, KEY.delivery_attempts .. dref)
  call('ZREM', KEY.deliveries_expiry, dref)
end
return { #jobs, #deliveries }
