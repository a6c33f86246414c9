-- read: a job's record and its output, of one moment: a status never stands beside another round's output.
-- ARGV  1 offset, 2 ref, 3 the most bytes of output to read
-- Keys  the record, the result
-- Gives {the record as field, value, …, empty where there is no such job; the output's size in bytes; the output, or ''
--       where it is larger}
local ref, most = ARGV[2], tonumber(ARGV[3])
local size = call('STRLEN', KEY.result .. ref)
return { call('HGETALL', KEY.job .. ref), size, size <= most and call('GET', KEY.result .. ref) or '' }
