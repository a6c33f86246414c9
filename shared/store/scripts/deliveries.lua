-- Webhook deliveries: what the scripts share that create, send and settle them.
--
-- A delivery goes to an *address*: an endpoint of the tenant, or the URL that the job named. It waits in the line of its *host*
-- (scheme://name:port); KEY.hosts has each host that has a line, by the time its next delivery may be claimed. A host says how it is:
--   full          as many are being sent to it as may be; what ends one of them lets the next one in
--   limit         fewer than usual may be sent at once, for it was busy or silent; doubled by each answer, until it is as usual
--   silent        tries in a row that brought no answer; from BREAK_AFTER on the breaker is open: the host is tried by one delivery
--                 at a time, after a pause that doubles
--   pause, paused_until   in ms
-- An address keeps its health where the endpoint is, or by the URL: failing_since, failed_at, disabled_at, disabled_why.

local THIN_BYTES = 262144            -- outputs beyond this are not copied into a delivery
local BREAK_AFTER = 5
local MIN_PAUSE_MS, MAX_PAUSE_MS = 1000, 60000
local HOST_KEPT_MS = 86400000        -- how a host is, is forgotten after a day without a try
local DISABLE_AFTER_MS = 432000000   -- five days of failures
local STREAK_MS = 172800000          -- failures further apart than two days are not of one streak: no wait of the schedule is as long
local ADDRESS_KEPT_MS = 2592000000   -- a URL's health is forgotten after thirty days in which nobody used it
local ATTEMPTS_KEPT = 100

local function wake_sender()
  if call('LLEN', KEY.deliveries_wake) < MAX_TOKENS then call('RPUSH', KEY.deliveries_wake, '1') end
end

-- Sets when the next delivery to this host may be claimed.
local function line_up(host)
  local first = call('ZRANGE', KEY.host_line .. host, 0, 0, 'WITHSCORES')[2]
  if not first then
    call('ZREM', KEY.hosts, host)
    return
  end
  local full, paused_until = unpack(call('HMGET', KEY.host .. host, 'full', 'paused_until'))
  call('ZADD', KEY.hosts, full and 'inf' or int(math.max(tonumber(first), tonumber(paused_until or 0))), host)
end

-- Puts a delivery into the line of its host; due at `at`, in ms.
local function enter_line(dref, host, at)
  call('ZADD', KEY.host_line .. host, int(tonumber(at)), dref)
  line_up(host)
end

-- Moves a delivery to where the index has those of its status, by the time of this change.
local function index_delivery(dref, target, before, status, now)
  local index = KEY.deliveries_index .. tenant_of(dref) .. ':' .. target .. ':'
  if before then call('ZREM', index .. before, id_of(dref)) end
  call('ZADD', index .. status, int(now), id_of(dref))
end

-- Creates a delivery that is due now. `target` is the endpoint's id, or 'job'; `fields` are name, value, …
local function add_delivery(dref, target, kind, url, host, now, fields)
  call('HSET', KEY.delivery .. dref, 'target', target, 'type', kind, 'url', url, 'host', host, 'status', 'pending',
    'created_at', int(now), 'changed_at', int(now), 'next_at', int(now), 'attempt', '0', 'step', '0', unpack(fields))
  index_delivery(dref, target, nil, 'pending', now)
  call('SADD', KEY.targets .. tenant_of(dref), target)
  enter_line(dref, host, now)
  wake_sender()
end

local function wants(events, kind) return not events or events == '*' or string.find(events, kind, 1, true) end

-- The webhook messages of a round's end, each with a copy of the record and the output: it outlives both.
local function create_deliveries(ref, job, status, now)
  local tenant, kind = tenant_of(ref), 'job.' .. status
  local endpoints = call('HGETALL', KEY.endpoints .. tenant)
  if #endpoints == 0 and not job.webhook_url then return end
  local id, size = id_of(ref) .. '_' .. job.round .. '_' .. status, nil

  local function create(delivery_id, target, url, host, fields)
    local dref = tenant .. ':' .. delivery_id
    fields[#fields + 1], fields[#fields + 2] = 'job', ref
    size = size or call('STRLEN', KEY.result .. ref)
    if size > THIN_BYTES then
      fields[#fields + 1], fields[#fields + 2] = 'output_too_large', '1'
    elseif size > 0 then
      call('COPY', KEY.result .. ref, KEY.delivery_output .. dref, 'REPLACE')
    end
    call('COPY', KEY.job .. ref, KEY.delivery_record .. dref, 'REPLACE')
    call('RPUSH', KEY.deliveries .. ref, delivery_id)
    add_delivery(dref, target, kind, url, host, now, fields)
  end

  if job.webhook_url and wants(job.webhook_events, kind) then
    local fields = { 'address', job.webhook_address or '-' }
    if job.webhook_secret then fields[3], fields[4] = 'secret', job.webhook_secret end
    create(id, 'job', job.webhook_url, job.webhook_host or '-', fields) -- '-' where a record lost it
  end
  for i = 1, #endpoints, 2 do
    if wants(endpoints[i + 1], kind) then
      local url, host = unpack(call('HMGET', KEY.endpoint .. tenant .. ':' .. endpoints[i], 'url', 'host'))
      if url then create(id .. '_' .. endpoints[i], endpoints[i], url, host, {}) end
    end
  end
end

-- Nobody sends this delivery any more. Gives whether its host was full.
local function stop_sending(dref, host)
  call('ZREM', KEY.deliveries_leases, dref)
  call('SREM', KEY.host_sending .. host, dref)
  call('HDEL', KEY.delivery .. dref, 'worker')
  return call('HDEL', KEY.host .. host, 'full') == 1
end

-- A delivery comes to rest, as delivered, failed or held. `detail` says why, where the attempts do not.
local function settle(dref, delivery, status, now, ttl_ms, detail)
  local name = KEY.delivery .. dref
  call('HSET', name, 'status', status, 'changed_at', int(now))
  if detail then call('HSET', name, 'detail', detail) end
  call('HDEL', name, 'next_at')
  index_delivery(dref, delivery.target, delivery.status, status, now)
  call('ZADD', KEY.deliveries_expiry, int(now + tonumber(ttl_ms)), dref)
end

-- Addresses -----------------------------------------------------------------------------------------------------------

-- Where the health of an address is kept, and the name that the sets know it by. `digest` is the SHA-1 of a URL that jobs name.
local function address_of(tenant, target, digest)
  if target ~= 'job' then return KEY.endpoint .. tenant .. ':' .. target, tenant .. ':' .. target end
  return KEY.address .. tenant .. ':' .. digest, tenant .. ':' .. digest
end

local function keep_address(name, target, now)
  if target == 'job' then call('ZADD', KEY.addresses_expiry, int(now + ADDRESS_KEPT_MS), name) end
end

local function disable(address, name, target, why, now)
  call('HSET', address, 'disabled_at', int(now), 'disabled_why', why)
  call('ZADD', KEY.disabled, int(now), name)
  keep_address(name, target, now)
end

-- Forgets that an address failed, and what is left of a URL with nothing else to be remembered.
local function clear_failures(address, name, target)
  if call('HDEL', address, 'failing_since', 'failed_at') == 0 or target ~= 'job' then return end
  if call('HEXISTS', address, 'disabled_at') == 0 then
    call('DEL', address)
    call('ZREM', KEY.addresses_expiry, name)
  end
end

-- Remembers a try that failed. Gives why the address is to be disabled, if it is.
local function note_failure(address, name, target, url, now)
  if target == 'job' then
    call('HSET', address, 'url', url)
    keep_address(name, target, now)
  elseif call('EXISTS', address) == 0 then -- deleted while it was tried
    return
  end
  local since, last, disabled_at = unpack(call('HMGET', address, 'failing_since', 'failed_at', 'disabled_at'))
  if not since or now - tonumber(last) > STREAK_MS then since = int(now) end
  call('HSET', address, 'failing_since', since, 'failed_at', int(now))
  return not disabled_at and now - tonumber(since) >= DISABLE_AFTER_MS and 'failing'
end
