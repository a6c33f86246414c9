-- api_key: keep an API key, or revoke one. Each change has a number, by which the gateways see that there was one.
-- ARGV  1 offset, 2 key id, 3 its JSON, or '' to revoke it
-- Keys  api-keys
-- Gives 1, or 0 where there was none to revoke
if ARGV[3] == '' then
  if call('HDEL', KEY.api_keys, ARGV[2]) == 0 then return 0 end
else
  call('HSET', KEY.api_keys, ARGV[2], ARGV[3])
end
call('HINCRBY', KEY.api_keys, 'changes', 1)
return 1
