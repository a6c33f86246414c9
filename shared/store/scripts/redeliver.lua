-- redeliver: send a delivery again now, with a fresh schedule.
-- ARGV  1 offset, 2 dref
-- Keys  the delivery, its index, its host and address, deliveries-expiry, deliveries-wake
-- Gives 'queued', 'sending' (a try is under way), 'disabled' (its address is) or 'missing'
local dref = ARGV[2]
local name = KEY.delivery .. dref
local delivery = to_table(call('HGETALL', name))
if not delivery.status then return 'missing' end
if call('ZSCORE', KEY.deliveries_leases, dref) then return 'sending' end
local address = address_of(tenant_of(dref), delivery.target, delivery.address)
if call('HEXISTS', address, 'disabled_at') == 1 and delivery.type ~= 'webhook.ping' then return 'disabled' end
local now = now_ms()
call('HSET', name, 'status', 'pending', 'changed_at', int(now), 'next_at', int(now), 'step', '0')
call('HDEL', name, 'detail')
index_delivery(dref, delivery.target, delivery.status, 'pending', now)
call('ZREM', KEY.deliveries_expiry, dref)
enter_line(dref, delivery.host, now)
wake_sender()
return 'queued'
