-- expire: forget jobs, deliveries and the health of URLs whose retention is over. A job that has not ended is never in the expiry set.
-- ARGV  1 offset, 2 how many of each at most
-- Keys  expiry, deliveries-expiry, addresses-expiry, and all that belongs to what is forgotten
-- Gives { number of jobs, number of deliveries, number of addresses }
local now, limit = int(now_ms()), tonumber(ARGV[2])
make_room()
local jobs = call('ZRANGEBYSCORE', KEY.expiry, '-inf', now, 'LIMIT', 0, limit)
for _, ref in ipairs(jobs) do forget(ref, read(ref)) end
local deliveries = call('ZRANGEBYSCORE', KEY.deliveries_expiry, '-inf', now, 'LIMIT', 0, limit)
for _, dref in ipairs(deliveries) do
  local ref, target, status = unpack(call('HMGET', KEY.delivery .. dref, 'job', 'target', 'status'))
  local tenant = tenant_of(dref)
  if ref then call('LREM', KEY.deliveries .. ref, 0, id_of(dref)) end
  if status then
    local index = KEY.deliveries_index .. tenant .. ':' .. target .. ':'
    call('ZREM', index .. status, id_of(dref))
    if call('EXISTS', index .. 'pending', index .. 'delivered', index .. 'failed', index .. 'held') == 0 then
      call('SREM', KEY.targets .. tenant, target)
    end
  end
  call('DEL', KEY.delivery .. dref, KEY.delivery_record .. dref, KEY.delivery_output .. dref, KEY.delivery_attempts .. dref)
  call('ZREM', KEY.deliveries_expiry, dref)
end
local addresses = call('ZRANGEBYSCORE', KEY.addresses_expiry, '-inf', now, 'LIMIT', 0, limit)
for _, name in ipairs(addresses) do
  call('DEL', KEY.address .. name)
  call('ZREM', KEY.disabled, name)
  call('ZREM', KEY.addresses_expiry, name)
end
return { #jobs, #deliveries, #addresses }
