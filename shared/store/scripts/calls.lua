-- The end of each script: runs its transition once, or as often as it is asked to in one call.
--
-- Once: ARGV is the transition's own. Many times: 'each', then for each of them how many arguments it has, and these. Each is a
-- transition of its own, with its answer or its error in its own place: an error in one leaves the others alone.
if ARGV[1] ~= 'each' then return transition(ARGV) end
local answers, at, last = {}, 2, #ARGV
while at <= last do
  local count, arguments = tonumber(ARGV[at]), {}
  for i = 1, count do arguments[i] = ARGV[at + i] end
  at = at + count + 1
  local done, answer = pcall(transition, arguments)
  if not done and type(answer) ~= 'table' then -- what a command fails with begins with its code
    local text = tostring(answer)
    answer = { err = string.match(text, '^%u+ ') and text or 'ERR ' .. text }
  end
  answers[#answers + 1] = answer
end
return answers
