-- ping: send a message to an endpoint, for trying it. It goes out also while the endpoint is disabled.
-- ARGV  1 offset, 2 tenant, 3 endpoint id, 4 delivery id, 5 body
-- Keys  the endpoint, the delivery, its host
-- Gives 1, or 0 where there is no such endpoint
local dref = ARGV[2] .. ':' .. ARGV[4]
local url, host = unpack(call('HMGET', KEY.endpoint .. ARGV[2] .. ':' .. ARGV[3], 'url', 'host'))
if not url then return 0 end
if call('EXISTS', KEY.delivery .. dref) == 0 then -- else its reply was lost
  add_delivery(dref, ARGV[3], 'webhook.ping', url, host, now_ms(), { 'body', ARGV[5] })
end
return 1
