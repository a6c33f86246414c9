-- tenant_limits: set what one tenant may do, or leave it to the service's defaults. Each change has a number, by which the gateways see
-- that there was one.
-- ARGV  1 offset, 2 tenant, 3 "<max_running> <max_waiting> <requests_per_minute>", each '-' for the default; '' where all are
-- Keys  tenant-limits, tenant-limits-changes, the lanes that were held back
-- Gives 1
if ARGV[3] == '' then
  call('HDEL', KEY.tenant_limits, ARGV[2])
else
  call('HSET', KEY.tenant_limits, ARGV[2], ARGV[3])
end
call('INCR', KEY.tenant_limits_changes)
wake_held_back(ARGV[2])
return 1
