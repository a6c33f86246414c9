-- How much a tenant has waiting, and how fast that drains. What is refused for want of room is told when to come again.

local DRAIN_WINDOW_MS = 10000  -- claims are counted by windows: the one that runs, and the one before
local NEVER_DRAINED_SECONDS = 60
local LONGEST_SECONDS = 300

-- "<window> <claimed in it> <claimed in the one before>"
local function drained(tenant, queue)
  local window, current, previous = string.match(call('GET', KEY.drained .. tenant .. ':' .. queue) or '', '^(%d+) (%d+) (%d+)$')
  return tonumber(window), tonumber(current), tonumber(previous)
end

local function note_drained(tenant, queue, now, count)
  local window, current, previous = drained(tenant, queue)
  local this = math.floor(now / DRAIN_WINDOW_MS)
  if window ~= this then
    previous = window == this - 1 and current or 0
    current = 0
  end
  call('SET', KEY.drained .. tenant .. ':' .. queue, int(this) .. ' ' .. int(current + count) .. ' ' .. int(previous), 'PX', 3 * DRAIN_WINDOW_MS)
end

-- Seconds until this many more have been claimed, at the pace of the last ten to twenty.
local function seconds_to_drain(tenant, queue, now, count)
  local window, current, previous = drained(tenant, queue)
  local this = math.floor(now / DRAIN_WINDOW_MS)
  local claimed, ms = 0, now - this * DRAIN_WINDOW_MS
  if window == this then
    claimed = current + previous
    if previous > 0 then ms = ms + DRAIN_WINDOW_MS end
  elseif window == this - 1 then
    claimed, ms = current, ms + DRAIN_WINDOW_MS
  end
  if claimed == 0 then return NEVER_DRAINED_SECONDS end
  return math.min(math.max(math.ceil(count * ms / claimed / 1000), 1), LONGEST_SECONDS)
end

-- 'queue_full' or 'tenant_full', and seconds until a tenth is free, where the limit is reached; else nil. A limit of 0 is none; a tenant's own goes
-- before that of all.
local function no_room(ref, queue, now, of_queue, of_tenant)
  local tenant = tenant_of(ref)
  local function judge(name, limit, waiting)
    if limit == 0 or waiting < limit then return nil end
    return name, int(seconds_to_drain(tenant, queue, now, waiting - limit + math.ceil(limit / 10)))
  end
  local _, own = limits_of(tenant)
  of_tenant = own or of_tenant
  local full, seconds = judge('queue_full', of_queue, of_queue > 0 and call('SCARD', waiting_key(ref, queue)) or 0)
  if full or of_tenant == 0 then return full, seconds end
  return judge('tenant_full', of_tenant, count_of(tenant, 'queued'))
end
