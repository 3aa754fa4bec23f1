-- Says what is to be carried to PostgreSQL of how the licence's seats were used. Safe to repeat.
-- KEYS  as lib.lua and demand.lua
-- ARGV  what was carried: hour, k|d|n, and so on
-- Returns one of
--   ok       for each hour that was not carried as it is: hour, most seats taken, holders denied, seats needed
--   rebuild
local m = guard()
if not m then return { 'rebuild' } end
local now = now_ms(m.ck)
local taken = count_live(now)
local u = hour_now(now, taken)
note_taken(u, taken)
for i = 1, #ARGV, 2 do
  if tonumber(ARGV[i]) == u.h then
    redis.call('HSET', DEMAND, 'c', ARGV[i + 1])
  elseif redis.call('HGET', DEMAND, ARGV[i]) == ARGV[i + 1] then
    redis.call('HDEL', DEMAND, ARGV[i])
  end
end
local answer = { 'ok' }
local function tell(hour, packed)
  local k, d, n = string.match(packed, '^(%d+)|(%d+)|(%d+)$')
  local at = #answer
  answer[at + 1], answer[at + 2], answer[at + 3], answer[at + 4] = hour, k, d, n
end
local all = redis.call('HGETALL', DEMAND)
for i = 1, #all, 2 do
  if tonumber(all[i]) then tell(all[i], all[i + 1]) end
end
local packed = pack_hour(u)
-- An hour in which nobody sat or asked has nothing to tell.
if redis.call('HGET', DEMAND, 'c') ~= packed and u.n > 0 then tell(tostring(u.h), packed) end
return answer
