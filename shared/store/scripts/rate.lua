-- rate: hand out a part of the requests that somebody may still send in his window of a minute. A part that is not used is lost.
-- ARGV  1 offset, 2 who, 3 how many requests a window has, 4 how many wait for this answer
-- Keys  the window: "<begun in ms> <handed out>"
-- Gives { handed out now, how many are left after that, ms until the window ends }
local WINDOW_MS = 60000
local name, limit, now = KEY.rate .. ARGV[2], tonumber(ARGV[3]), now_ms()
make_room() -- a full Redis still answers questions
local begun, used = string.match(call('GET', name) or '', '^(%d+) (%d+)$')
begun, used = tonumber(begun), tonumber(used)
-- A clock that jumped back must not keep anybody out for as long.
if not begun or math.abs(now - begun) >= WINDOW_MS then begun, used = now, 0 end
local left = math.max(limit - used, 0)
-- A hundredth at a time, so that a busy process seldom asks, and an idle one keeps little from the others.
local given = math.min(left, math.max(math.floor(left / 100), tonumber(ARGV[4]), 1))
local ends_in = begun + WINDOW_MS - now
if given > 0 then call('SET', name, int(begun) .. ' ' .. int(used + given), 'PX', 2 * WINDOW_MS) end
return { given, left - given, ends_in }
