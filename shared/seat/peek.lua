-- Looks without changing anything.
-- KEYS  as lib.lua, and KEYS[11] building as stage.lua
-- ARGV  session, or ''
-- Returns incarnation, epoch or '' when cold, is this the incarnation it was built under (1/0), pool version, state,
--         live, max, overdraft, queue length, session lives (1/0), epoch of the rebuild that somebody is about or ''
local m = read_meta()
local inc = incarnation()
local building = redis.call('GET', KEYS[11]) or ''
if not m then
  return { inc, '', 0, 0, '', 0, 0, 0, redis.call('ZCARD', QUEUE), 0, building }
end
local now = now_ms(m.ck)
local score = ARGV[1] ~= '' and tonumber(redis.call('ZSCORE', LEASES, ARGV[1])) or 0
return { inc, m.ep, m.inc == inc and 1 or 0, m.pv, state_at(m, now), count_live(now), m.max, m.od, redis.call('ZCARD', QUEUE),
  score > now and 1 or 0, building }
