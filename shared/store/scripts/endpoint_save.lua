-- endpoint_save: create an endpoint, or change one. A new secret leaves the old one valid for a while.
-- ARGV  1 offset, 2 tenant, 3 endpoint id, 4 how many a tenant may have, or '' where it must be there already,
--       5 how long an old secret stays valid in ms, then field, value, … (events among them: '*' or names separated by commas)
-- Keys  the endpoint, the tenant's endpoints
-- Gives 'saved', 'missing' or 'too_many'
local endpoint, all, now = KEY.endpoint .. ARGV[2] .. ':' .. ARGV[3], KEY.endpoints .. ARGV[2], now_ms()
local known = call('EXISTS', endpoint) == 1
if not known then
  if ARGV[4] == '' then return 'missing' end
  if call('HLEN', all) >= tonumber(ARGV[4]) then return 'too_many' end
elseif ARGV[4] ~= '' then
  return 'saved' -- its reply was lost
end
local fields = {}
for i = 6, #ARGV, 2 do fields[ARGV[i]] = ARGV[i + 1] end
local secret = call('HGET', endpoint, 'secret')
if fields.secret and fields.secret ~= secret then
  fields.secret_changed_at = int(now)
  if secret then fields.old_secret, fields.old_until = secret, int(now + tonumber(ARGV[5])) end
end
if not known then fields.created_at = int(now) end
if fields.url and fields.url ~= call('HGET', endpoint, 'url') then call('HDEL', endpoint, 'failing_since', 'failed_at') end
for field, value in pairs(fields) do call('HSET', endpoint, field, value) end
if fields.events then call('HSET', all, ARGV[3], fields.events) end
return 'saved'
