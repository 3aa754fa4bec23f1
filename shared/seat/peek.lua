-- Looks without changing anything.
-- KEYS  as lib.lua
-- ARGV  session, or ''
-- Returns now, incarnation, epoch or '' when cold, is this the incarnation it was built under (1/0), pool version, state,
--         live, max, overdraft, queue length, session lives (1/0), ms by which the clock went back
local m = read_meta()
local inc = incarnation()
if not m then
  local now = now_ms()
  return { now, inc, '', 0, 0, '', 0, 0, 0, redis.call('ZCARD', QUEUE), 0, 0 }
end
local now, back = now_ms(m.ck)
local score = ARGV[1] ~= '' and tonumber(redis.call('ZSCORE', LEASES, ARGV[1])) or 0
return { now, inc, m.ep, m.inc == inc and 1 or 0, m.pv, m.st, count_live(now), m.max, m.od, redis.call('ZCARD', QUEUE),
  score > now and 1 or 0, back }
