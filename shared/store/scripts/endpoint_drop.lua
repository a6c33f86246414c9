-- endpoint_drop: delete an endpoint. What still waits for it fails when it is claimed.
-- ARGV  1 offset, 2 tenant, 3 endpoint id
-- Keys  the endpoint, the tenant's endpoints, disabled
-- Gives 1, or 0 where there is none
local name = ARGV[2] .. ':' .. ARGV[3]
call('HDEL', KEY.endpoints .. ARGV[2], ARGV[3])
call('ZREM', KEY.disabled, name)
return call('DEL', KEY.endpoint .. name)
