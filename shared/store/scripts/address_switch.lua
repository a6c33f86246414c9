-- address_switch: let deliveries go to an address again, or hold them from now on.
-- ARGV  1 offset, 2 tenant, 3 endpoint id or 'job', 4 SHA-1 of the URL where it is 'job', 5 'on' or 'off'
-- Keys  the address, disabled, addresses-expiry
-- Gives 1, or 0 where there is no such address
local target, now = ARGV[3], now_ms()
local address, name = address_of(ARGV[2], target, ARGV[4])
local url, disabled_at = unpack(call('HMGET', address, 'url', 'disabled_at'))
if not url then return 0 end
if ARGV[5] == 'off' then
  if not disabled_at then disable(address, name, target, 'by_request', now) end
  return 1
end
if target == 'job' and not disabled_at then return 0 end
call('ZREM', KEY.disabled, name)
if target == 'job' then -- a URL is remembered for its failures only
  call('DEL', address)
  call('ZREM', KEY.addresses_expiry, name)
else
  call('HDEL', address, 'disabled_at', 'disabled_why', 'failing_since', 'failed_at')
end
return 1
