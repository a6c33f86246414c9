-- What operators have set for single tenants, and whom to wake when a limited tenant may run another job.

-- How many jobs of the tenant may run at once (0: any number), and how many may wait (nil: as many as of any tenant).
local function limits_of(tenant)
  local running, waiting = string.match(call('HGET', KEY.tenant_limits, tenant) or '', '^(%S+) (%S+) ')
  return tonumber(running) or 0, tonumber(waiting)
end

local function count_of(tenant, status)
  local count = 0
  for _, graph in ipairs(call('SMEMBERS', KEY.graphs .. tenant)) do
    count = count + call('ZCARD', KEY.index .. tenant .. ':' .. graph .. ':' .. status)
  end
  return count
end

-- A claim passes over what its tenant has no place for. It is nothing for others to be woken for, until a place is free.
local function hold_back(tenant, queue, graph) call('SADD', KEY.held_back .. tenant, queue .. ':' .. graph) end

local function wake_held_back(tenant)
  local held_back = KEY.held_back .. tenant
  local lanes = call('SMEMBERS', held_back)
  if #lanes == 0 then return end
  call('DEL', held_back)
  for _, lane in ipairs(lanes) do
    local queue, graph = string.match(lane, '^([^:]+):(.+)$')
    push_wake(queue, graph)
  end
end
