-- delivery_claim: lease webhook deliveries that are due to this sender, from the hosts that are being sent the fewest.
-- ARGV  1 offset, 2 worker, 3 lease in ms, 4 limit, 5 how many may be sent to one host at once, 6 '1' to put expired leases back,
--       7 retention in ms of those that come to rest here
-- Keys  hosts, deliveries-leases, the lines of hosts, and the deliveries taken
-- Gives { ms until the next is due or the next lease ends, or -1,
--         { { dref, delivery as flat list, record as flat list, output or '', { sealed secret, … } }, … } }
local BATCH = 100                    -- expired leases put back, and deliveries that come to rest, in one claim
local HOSTS = 200                    -- hosts looked at by one claim
local worker, lease_ms, limit, host_limit, ttl_ms = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[7]
local now = now_ms()
local recover = ARGV[6] == '1' and leases_are_true(now, lease_ms)
make_room()

if recover then
  for _, dref in ipairs(call('ZRANGEBYSCORE', KEY.deliveries_leases, '-inf', int(now), 'LIMIT', 0, BATCH)) do
    local host, next_at = unpack(call('HMGET', KEY.delivery .. dref, 'host', 'next_at'))
    if host then
      stop_sending(dref, host)
      enter_line(dref, host, next_at) -- to its old place: it has waited
    else
      call('ZREM', KEY.deliveries_leases, dref)
    end
  end
end

local taken, rested = {}, 0

-- Leases a delivery, unless there is nothing to be sent, or not there.
local function take(host, dref)
  local name, tenant = KEY.delivery .. dref, tenant_of(dref)
  call('ZREM', KEY.host_line .. host, dref)
  local fields = call('HMGET', name, 'status', 'target', 'url', 'type', 'secret', 'address', 'next_at')
  local delivery = { status = fields[1], target = fields[2] }
  if not delivery.status then return end -- deleted by hand
  local secrets = { fields[5] or nil }
  local address, address_name = address_of(tenant, delivery.target, fields[6])
  local url, new_host, disabled_at, secret, old_secret, old_until =
    unpack(call('HMGET', address, 'url', 'host', 'disabled_at', 'secret', 'old_secret', 'old_until'))
  if delivery.target ~= 'job' then
    if not url then
      rested = rested + 1
      return settle(dref, delivery, 'failed', now, ttl_ms, 'its endpoint was deleted')
    end
    if url ~= fields[3] then -- the endpoint has moved since
      call('HSET', name, 'url', url, 'host', new_host)
      if new_host ~= host then return enter_line(dref, new_host, fields[7]) end
    end
    secrets = { secret }
    if old_secret and tonumber(old_until) > now then secrets[2] = old_secret end
  end
  if disabled_at and fields[4] ~= 'webhook.ping' then
    keep_address(address_name, delivery.target, now)
    rested = rested + 1
    return settle(dref, delivery, 'held', now, ttl_ms, 'its address is disabled')
  end
  call('ZADD', KEY.deliveries_leases, int(now + lease_ms), dref)
  call('SADD', KEY.host_sending .. host, dref)
  call('HINCRBY', name, 'attempt', 1)
  call('HSET', name, 'worker', worker)
  taken[#taken + 1] = {
    dref, call('HGETALL', name), call('HGETALL', KEY.delivery_record .. dref), call('GET', KEY.delivery_output .. dref) or '', secrets,
  }
  return true
end

-- The hosts that may be sent more, with what is due in their lines.
local open = {}
for _, host in ipairs(limit > 0 and call('ZRANGEBYSCORE', KEY.hosts, '-inf', int(now), 'LIMIT', 0, HOSTS) or {}) do
  local silent, reduced = unpack(call('HMGET', KEY.host .. host, 'silent', 'limit'))
  local allowed = math.min(host_limit, tonumber(reduced or host_limit))
  if tonumber(silent or 0) >= BREAK_AFTER then allowed = 1 end
  local sending = call('SCARD', KEY.host_sending .. host)
  open[#open + 1] = {
    host = host, sending = sending, allowed = allowed, at = 1,
    due = sending < allowed and call('ZRANGEBYSCORE', KEY.host_line .. host, '-inf', int(now), 'LIMIT', 0, limit) or {},
  }
end

local function next_host()
  local best
  for _, entry in ipairs(open) do
    if entry.due[entry.at] and entry.sending < entry.allowed and (not best or entry.sending < best.sending) then best = entry end
  end
  return best
end

while #taken < limit and rested < BATCH do
  local entry = next_host()
  if not entry then break end
  if take(entry.host, entry.due[entry.at]) then entry.sending = entry.sending + 1 end
  entry.at = entry.at + 1
end
for _, entry in ipairs(open) do
  if entry.sending >= entry.allowed then
    call('HSET', KEY.host .. entry.host, 'full', '1')
    call('PEXPIRE', KEY.host .. entry.host, HOST_KEPT_MS)
  end
  line_up(entry.host)
end

local wait = -1
for _, queue in ipairs({ KEY.hosts, recover and KEY.deliveries_leases or nil }) do
  local at = call('ZRANGE', queue, 0, 0, 'WITHSCORES')[2]
  if at and at ~= 'inf' then
    local ms = math.max(0, tonumber(at) - now)
    if wait < 0 or ms < wait then wait = ms end
  end
end
if #taken == 0 and rested == 0 then
  call('DEL', KEY.deliveries_wake)
elseif wait == 0 then
  wake_sender()
end
return { int(wait), taken }
