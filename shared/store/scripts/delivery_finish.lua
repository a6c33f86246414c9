-- delivery_finish: record one try of a delivery and what comes next, if this sender still holds it.
-- ARGV  1 offset, 2 worker, 3 dref, 4 attempt, 5 'delivered', 'retry' or 'failed', 6 the attempt as JSON, 7 delay in ms,
--       8 the body as sent, 9 retention in ms of what comes to rest, 10 how its host was: 'ok', 'busy' or 'silent',
--       11 how its address was: 'well', 'ill', 'gone' or 'none', 12 how many may be sent to one host at once
-- Keys  the delivery, its attempts and index; its host and its address
-- Gives { '1', or '0' where the lease is gone; ms from creation to the first success, or -1; why the address is now disabled or '' }
local worker, dref, attempt, outcome, now = ARGV[2], ARGV[3], ARGV[4], ARGV[5], now_ms()
local name = KEY.delivery .. dref
local delivery = to_table(call('HGETALL', name))
if delivery.done == worker .. ' ' .. attempt then return { '1', '-1', '' } end -- its reply was lost
if delivery.worker ~= worker or delivery.attempt ~= attempt or not call('ZSCORE', KEY.deliveries_leases, dref) then return { '0', '-1', '' } end
make_room()

local host, was_full = KEY.host .. delivery.host, stop_sending(dref, delivery.host)
call('RPUSH', KEY.delivery_attempts .. dref, ARGV[6])
call('LTRIM', KEY.delivery_attempts .. dref, -ATTEMPTS_KEPT, -1)
call('HSET', name, 'done', worker .. ' ' .. attempt)
call('HDEL', name, 'detail')
if ARGV[8] ~= '' then
  call('HSETNX', name, 'body', ARGV[8])
  call('DEL', KEY.delivery_record .. dref, KEY.delivery_output .. dref)
end

local first_success = '-1'
if outcome == 'retry' then
  local due = int(now + tonumber(ARGV[7]))
  call('HINCRBY', name, 'step', 1)
  call('HSET', name, 'next_at', due, 'changed_at', int(now))
  index_delivery(dref, delivery.target, delivery.status, 'pending', now)
  call('ZADD', KEY.host_line .. delivery.host, due, dref)
else
  settle(dref, delivery, outcome, now, ARGV[9])
  if outcome == 'delivered' and call('HSETNX', name, 'delivered', '1') == 1 then first_success = int(now - tonumber(delivery.created_at)) end
end

-- The host
local silent, pause, paused_until, reduced = unpack(call('HMGET', host, 'silent', 'pause', 'paused_until', 'limit'))
local usual = tonumber(ARGV[12])
if ARGV[10] == 'ok' then
  call('HDEL', host, 'silent', 'pause', 'paused_until')
  if reduced then
    local limit = tonumber(reduced) * 2
    if limit < usual then call('HSET', host, 'limit', int(limit)) else call('HDEL', host, 'limit') end
  end
else
  if ARGV[10] == 'busy' then
    call('HDEL', host, 'silent', 'pause', 'paused_until') -- it answers
  else
    silent = call('HINCRBY', host, 'silent', 1)
    if silent >= BREAK_AFTER and now >= tonumber(paused_until or 0) then -- later ones were under way when the pause began
      local ms = pause and math.min(tonumber(pause) * 2, MAX_PAUSE_MS) or MIN_PAUSE_MS
      call('HSET', host, 'pause', int(ms), 'paused_until', int(now + ms))
    end
  end
  call('HSET', host, 'limit', int(math.max(1, math.floor(tonumber(reduced or usual) / 2))))
  call('PEXPIRE', host, HOST_KEPT_MS)
end
line_up(delivery.host)
if was_full then wake_sender() end

-- The address
local address, address_name = address_of(tenant_of(dref), delivery.target, delivery.address)
local why = ''
if ARGV[11] == 'well' then
  clear_failures(address, address_name, delivery.target)
elseif ARGV[11] ~= 'none' and delivery.type ~= 'webhook.ping' then
  why = note_failure(address, address_name, delivery.target, delivery.url, now) or ''
  -- An endpoint that is gone is told nothing more; a URL that a job brought along is that job's affair.
  local there = call('HMGET', address, 'url', 'disabled_at')
  if ARGV[11] == 'gone' and delivery.target ~= 'job' and there[1] and not there[2] then why = 'gone' end
  if why ~= '' then disable(address, address_name, delivery.target, why, now) end
end
return { '1', first_success, why }
